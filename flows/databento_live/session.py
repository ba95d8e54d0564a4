"""The life of one connection: blocks of whole records as they come, and what the gateway tells beside them.

Frames are, in this order:

- what was said in text, a context: the gateway's greeting and consent, and the subscriptions (more of them later)
- the header of DBN, a context
- blocks of whole records; a record that maps a symbol anew is cut out of its block, and is a context
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Final

import numpy as np

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import DataflowError
from catalog.errors import TransientError
from flows.databento_live import gateway
from flows.databento_live import messages
from flows.databento_live.asked import Asked
from flows.databento_live.gateway import Terms
from flows.databento_live.messages import Message
from flows.formats.dbn import sizes
from flows.formats.dbn_stream import Header
from flows.formats.dbn_stream import Whole
from flows.formats.dbn_stream import offsets
from flows.formats.dbn_stream import read_header
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told

Changes = asyncio.Queue[tuple[frozenset[Channel], frozenset[Channel]]]
#: no header of a session is longer: symbols come in records
_LONGEST_HEADER: Final = 1 << 20
#: nanoseconds by which the gateway's clock may be behind ours
_SKEW: Final = 2_000_000_000
#: types of which a gateway may skip records for a slow reader: mbp-1, mbp-10, and sampled or consolidated quotes
_SKIPPABLE: Final = np.isin(np.arange(256), (1, 10, 177, 192, 193, 195, 196))
#: records so near the end of a block that one of them mostly is such
_NEAR: Final = 64
_ABOUT_SESSION: Final = np.isin(np.arange(256), np.arange(messages.ERROR, messages.SYSTEM + 1))
_TS_RECV: Final = 32


class Session:
    """One connection. `not_replayed` outlives it: the schemas whose replay the gateway has refused."""

    def __init__(self, terms: Terms, not_replayed: set[str]) -> None:
        self.terms = terms
        self.asked = Asked(terms.stype, not_replayed)
        self.header = Header(3)
        self._sizes: Mapping[int, int] = {}
        #: instrument → what its last mapping said
        self._mapped: dict[int, tuple[str, str]] = {}
        #: when the last record was captured that was of a type of which records can be skipped
        self._reached: int | None = None
        self._rest = b""
        self._fault: DataflowError | None = None

    async def frames(
        self, channels: Collection[Channel], since: Mapping[Channel, int], changes: Changes
    ) -> AsyncGenerator[Frame | Told, None]:
        """Yield what comes until the gateway closes.

        Raises AuthFailed, NotEntitled, ConfigError or TransientError with the gateway's words.
        """
        until = await self._midnight() if self.terms.stype == "continuous" else None
        reader, writer = await gateway.connect(self.terms)
        try:
            for item in await self._begin(reader, writer, channels, since):
                yield item
            coming = asyncio.ensure_future(reader.read(gateway.READ))
            changed = asyncio.ensure_future(changes.get())
            try:
                while True:
                    left = None if until is None else max(until - time.time_ns(), 0) / 1e9
                    await asyncio.wait((coming, changed), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    if until is not None and time.time_ns() >= until:
                        # what has come is not taken: it was not heard today, and history has it
                        return
                    if changed.done():
                        # what is removed goes on coming: the gateway cannot be told
                        added, _ = changed.result()
                        changed = asyncio.ensure_future(changes.get())
                        if lines := self.asked.add(added, {}):
                            yield Frame(lines, time.time_ns(), context=True)
                            writer.write(lines)
                        for told in self.asked.take(time.time_ns()):
                            yield told
                    if coming.done():
                        received, content = time.time_ns(), coming.result()
                        if not content:
                            break
                        for item in self._received(content, received):
                            yield item
                        if self._fault:
                            raise self._fault
                        coming = asyncio.ensure_future(reader.read(gateway.READ))
            finally:
                coming.cancel()
                changed.cancel()
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        if reader.broken:
            raise TransientError(f"{self.terms.where}: the connection broke off: {reader.broken}")
        if self._rest:
            raise TransientError(f"{self.terms.where} closed the connection inside a record")

    async def _midnight(self) -> int:
        """Return when continuous symbols may begin to stand for others; waits where they have just begun to."""
        now = time.time_ns()
        begun = now - now % gateway.DAY
        # the gateway's day begins by its own clock: symbols of yesterday would be taken for those of today
        await asyncio.sleep(max(begun + _SKEW - now, 0) / 1e9)
        return begun + gateway.DAY

    async def _begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        channels: Collection[Channel],
        since: Mapping[Channel, int],
    ) -> list[Frame | Told]:
        """Authenticate, subscribe, start, and return what precedes the records."""
        consent = await gateway.authenticate(self.terms, reader, writer)
        lines = self.asked.add(channels, since, time.time_ns())
        refused = list(self.asked.take(time.time_ns()))
        if not lines:
            words = sorted({reason for told in refused for reason in told.refused.values()})
            raise ConfigError(*(words or [f"{self.terms.name}: nothing is to be subscribed"]))
        said = Frame(consent + lines, time.time_ns(), context=True)
        writer.write(lines + gateway.START)
        head = await gateway.answer(self.terms, reader, 8)
        length = int.from_bytes(head[4:], "little")
        if head[:3] != b"DBN" or length > _LONGEST_HEADER:
            raise TransientError(f"{self.terms.where} sends {head!r} where the header of DBN was due")
        content = head + await gateway.answer(self.terms, reader, length)
        try:
            self.header = read_header(Whole(BytesIO(content), "the header"), self.terms.where)
        except Damaged as error:
            raise TransientError(str(error)) from None
        self._sizes = sizes(self.header)
        return [*refused, said, Frame(content, time.time_ns(), context=True)]

    def _received(self, content: bytes, received: int) -> Iterator[Frame | Told]:
        """Yield the whole records that have come as frames, then what they tell; sets `_fault` where it ends so."""
        content = self._rest + content
        try:
            starts, end = offsets(content, self.terms.where)
        except Damaged as error:
            # where the next record begins is not known: what came lands all the same
            self._rest = b""
            self._fault = TransientError(str(error))
            yield Frame(content, received)
            return
        self._rest = content[end:]
        if not end:
            return
        types = np.frombuffer(content, np.uint8)[starts + 1]
        said = self._said(content, starts, types)
        at = 0
        for first, last in self._new_mappings(content, said):
            if first > at:
                yield _frame(content, starts, at, first, received)
            yield Frame(content[first:last], received, context=True)
            at = last
        if end > at:
            yield _frame(content, starts, at, end, received)
        quotes = starts[_SKIPPABLE[types]] if said else _last_quote(starts, types)
        for start, message in said:
            yield from self._told(message, content, quotes[quotes < start], received)
        if len(quotes):
            self._reached = _captured(content, quotes)
        yield from self.asked.take(received)

    def _said(self, content: bytes, starts: np.ndarray, types: np.ndarray) -> list[tuple[int, Message]]:
        """Return the records of a block that are about the session, with their offsets; damaged ones are none."""
        chosen = _ABOUT_SESSION[types]
        if not chosen.any():
            return []
        places = [
            start
            for start, kind in zip(starts[chosen].tolist(), types[chosen].tolist(), strict=True)
            if content[start] * 4 == self._sizes[kind]
        ]
        records = b"".join(content[start : start + content[start] * 4] for start in places)
        return list(zip(places, messages.read(records, self.header), strict=True))

    def _new_mappings(self, content: bytes, said: Sequence[tuple[int, Message]]) -> list[tuple[int, int]]:
        """Return where mappings lie that say what none before them has; neighbours are one stretch."""
        found: list[tuple[int, int]] = []
        for start, message in said:
            meaning = message.asked, message.given
            if message.type != messages.MAPPING or self._mapped.get(message.instrument) == meaning:
                continue
            self._mapped[message.instrument] = meaning
            end = start + content[start] * 4
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def _told(self, message: Message, content: bytes, quotes: np.ndarray, received: int) -> Iterator[Told]:
        """Yield what a message tells at once; `quotes` are the records before it that could have been skipped."""
        self.asked.hear(message)
        if message.type == messages.SYSTEM:
            if message.code == messages.HEARTBEAT:
                yield Told(received)
            elif message.code not in (messages.ACKNOWLEDGED, messages.REPLAYED, messages.END_OF_INTERVAL):
                yield Told(received, note=message.words, behind=message.code == messages.SLOW_READER)
        elif message.type == messages.ERROR and message.code == messages.SKIPPED:
            # what was not sent was captured from then on
            reached = _captured(content, quotes) if len(quotes) else self._reached
            yield Told(received, lost=message.words, since=reached)
        elif message.type == messages.ERROR and message.code != messages.UNKNOWN_SYMBOL:
            fault = messages.fault(message, self.terms.where)
            if self.asked.replay_refused(message):
                fault = TransientError(f"{self.terms.where}: {message.words}")
            self._fault = self._fault or fault
            if fault is None:
                yield Told(received, note=message.words)


def _last_quote(starts: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return the offset of the last record that could have been skipped, or of more; none where there is none."""
    end = starts[-_NEAR:][_SKIPPABLE[types[-_NEAR:]]]
    return np.asarray(end if len(end) else starts[_SKIPPABLE[types]])


def _frame(content: bytes, starts: np.ndarray, first: int, last: int, received: int) -> Frame:
    """Return a piece of what was received, with where its records begin."""
    begins, ends = np.searchsorted(starts, (first, last))
    return Frame(content[first:last], received, known=starts[begins:ends] - first)


def _captured(content: bytes, quotes: np.ndarray) -> int:
    """Return `ts_recv` of the last of some records, which is at the same place in all that can be skipped."""
    start = int(quotes[-1]) + _TS_RECV
    return int.from_bytes(content[start : start + 8], "little")
