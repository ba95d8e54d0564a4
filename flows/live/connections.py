"""Keeps one source connected: connects again for ever, renews in time, watches for silence, hands on what comes."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import timedelta
from operator import attrgetter
from typing import Final
from typing import Protocol

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import TransientError
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import LiveRequest
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.live.coverage import SKEW
from flows.live.stint import Stint

log = logging.getLogger(__name__)

#: a connection that lived this long was a success: pauses begin anew
_STEADY_SECONDS: Final = 60.0
#: how long a new connection may take to be acknowledged before the old one is kept
_RENEWAL_SECONDS: Final = 60.0
_RENEWAL_AGAIN: Final = 300.0
_GOODBYE_SECONDS: Final = 1.0
#: frames kept in memory before the first acknowledgement: attempts that bring only greetings leave nothing
_EARLY: Final = 100
_EARLY_BYTES: Final = 4 << 20
_content: Final = attrgetter("content")


@dataclass(slots=True)
class Status:
    """What a run looks like from outside."""

    connected: bool = False
    connections: int = 0
    acknowledged: int = 0
    frames: int = 0
    bytes: int = 0
    error: str = ""
    notes: list[str] = field(default_factory=list)
    refused: dict[Channel, str] = field(default_factory=dict)

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(self.connections - 1, 0)


@dataclass(slots=True, eq=False)
class Link:
    """One connection, its stint once something was acknowledged, and what it is subscribed to."""

    request: LiveRequest
    wanted: dict[Channel, int]
    stint: Stint | None = None
    early: list[Frame] = field(default_factory=list)
    early_bytes: int = 0
    answered: set[Channel] = field(default_factory=set)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    heard: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None
    watch: asyncio.Task[None] | None = None


class Owner(Protocol):
    """Who a connection is for."""

    @property
    def transit(self) -> timedelta:
        """The time after which what happened has been sent of everything that is subscribed."""

    def wanted(self) -> dict[Channel, int]:
        """Return what is to be subscribed now, with the instrument of each."""

    async def heard_until(self, wanted: dict[Channel, int]) -> dict[Channel, int]:
        """Return where the coverage of channels ended, in nanoseconds since 1970."""

    async def begin(self, link: Link) -> None:
        """Give a connection its stint: something was acknowledged."""

    async def end(self, stint: Stint) -> None:
        """Take back the stint of a connection that is over."""

    def acknowledged(self, at: int) -> None:
        """Take note that channels were acknowledged: what lies before may be missing."""

    async def pause(self, seconds: float) -> None:
        """Wait, or until the run is told to end."""


class Connections:
    """The connections of one source: one, or two while it is renewed. All of it runs on the loop."""

    def __init__(self, extractor: BaseRealtimeExtractor, owner: Owner) -> None:
        self.extractor = extractor
        self.owner = owner
        self.name = extractor.source.name
        self.status = Status()
        self.links: set[Link] = set()
        self.current: Link | None = None
        self._worked = False
        self._flushing = False

    async def keep(self) -> None:
        """Connect for ever. Raises AuthFailed, NotEntitled or ConfigError where nothing ever worked."""
        attempt = 0
        patience = self.extractor.patience
        while True:
            link = await self._connect()
            error = await self._until_over(link)
            link = self.current or link
            attempt = 0 if time.monotonic() - link.begun > _STEADY_SECONDS else attempt + 1
            if isinstance(error, (AuthFailed, NotEntitled, ConfigError)) and not self._worked:
                # nothing ever worked: whoever started this should see why
                raise error
            asked = error.retry_after if isinstance(error, TransientError) else None
            pause = min(patience.first * 2.0 ** min(attempt, 20), patience.longest)
            if isinstance(error, (AuthFailed, NotEntitled, ConfigError)):
                pause = patience.longest
            # a random half is left out, so that clients of a vendor that was away do not come back all at once
            pause = max(pause * (1 - random.random() / 2), asked or 0.0) if attempt or error else 0.0
            log.info("%s: connecting again in %.1f s", self.name, pause)
            await self.owner.pause(pause)

    async def _connect(self) -> Link:
        wanted = self.owner.wanted()
        since = {}
        if self.extractor.replays:
            try:
                since = await self.owner.heard_until(wanted)
            except Exception as error:  # noqa: BLE001  # the ledger is away: history has it as well
                log.warning("%s: nothing is asked again: %s", self.name, error)
        link = Link(LiveRequest(frozenset(wanted), since=since), wanted)
        link.task = asyncio.create_task(self._read(link))
        link.watch = asyncio.create_task(self._silent(link))
        self.current = link
        self.links.add(link)
        return link

    async def _until_over(self, link: Link) -> Exception | None:
        """Watch a connection, and those that replace it in time; returns what the last one ended with."""
        while True:
            assert link.task is not None
            assert link.watch is not None
            renewal = self.extractor.rotation.total_seconds() if self.extractor.rotation else None
            left = None if renewal is None else max(renewal - (time.monotonic() - link.begun), 0.0)
            ends = [link.task, link.watch]
            done, _ = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return await self._over(link)
            log.info("%s: the connection is renewed", self.name)
            link = await self._renewed(link)

    async def _silent(self, link: Link) -> None:
        """Return when nothing was heard of a connection for too long."""
        while (left := link.heard + self.extractor.silence - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._note(f"silent for {self.extractor.silence:g} s")
        log.warning("%s: nothing heard for %g s; connecting again", self.name, self.extractor.silence)

    async def _over(self, link: Link) -> Exception | None:
        error: Exception | None = None
        if link.task is not None and link.task.done() and not link.task.cancelled():
            found = link.task.exception()
            error = found if isinstance(found, Exception) else None
        await self.close(link)
        if error is not None:
            self.status.error = f"{type(error).__name__}: {error}"
            level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
            log.log(level, "%s: %s", self.name, self.status.error)
        return error

    async def _renewed(self, old: Link) -> Link:
        """Connect anew, and leave the old connection when the new one has heard everything for a while."""
        new = await self._connect()
        assert new.task is not None
        ready = asyncio.create_task(new.ready.wait())
        await asyncio.wait([new.task, ready], timeout=_RENEWAL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not new.ready.is_set():
            log.warning("%s: the renewal failed; the old connection is kept", self.name)
            await self._over(new)
            # the vendor's limit comes nearer: it is tried again soon
            assert self.extractor.rotation is not None
            old.begun = time.monotonic() - max(self.extractor.rotation.total_seconds() - _RENEWAL_AGAIN, 0.0)
            self.current = old
            return old
        # the new one's windows begin a little later than its acknowledgement
        await self.owner.pause((SKEW + self.owner.transit).total_seconds())
        await self.close(old)
        return new

    async def close(self, link: Link) -> None:
        """End a connection."""
        tasks = [task for task in (link.task, link.watch) if task is not None]
        for task in tasks:
            task.cancel()
        # a vendor that does not answer our goodbye is not waited for
        await asyncio.wait(tasks, timeout=_GOODBYE_SECONDS)
        self.links.discard(link)
        stint, link.stint = link.stint, None
        if stint is not None:
            self.status.connected = any(one.stint for one in self.links)
            await self.owner.end(stint)

    async def _read(self, link: Link) -> None:
        frames = self.extractor.frames(link.request)
        self.status.connections += 1
        try:
            async for item in frames:
                link.heard = time.monotonic()
                if not isinstance(item, Told):
                    self._take(link, [item] if isinstance(item, Frame) else item)
                    if link.stint is None and (len(link.early) > _EARLY or link.early_bytes > _EARLY_BYTES):
                        # it sends before it acknowledges (what it replays): that must not pile up here
                        await self.owner.begin(link)
                else:
                    await self._told(link, item)
        finally:
            await frames.aclose()

    def _take(self, link: Link, frames: Sequence[Frame]) -> None:
        size = sum(map(len, map(_content, frames)))
        self.status.frames += len(frames)
        self.status.bytes += size
        if link.stint is None:
            link.early += frames
            link.early_bytes += size
            return
        link.stint.take(frames)
        self._look_torn(link)
        if not self._flushing:
            self.flush_soon()

    def _look_torn(self, link: Link) -> None:
        if link.stint is not None and link.stint.torn:
            raise TransientError(f"{self.name}: messages were lost; another connection begins anew")

    def flush_soon(self) -> None:
        """Write what came when the loop is next here."""
        self._flushing = True
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what came since the loop was last here: one write for what one read of the socket brought."""
        self._flushing = False
        for link in list(self.links):
            if link.stint is None:
                continue
            try:
                link.stint.spool.flush()
            except (OSError, TransientError) as error:
                self.give_up(link, error)

    def give_up(self, link: Link, error: Exception) -> None:
        """End a connection of which something could not be written: that was not heard, and is filled later."""
        log.error("%s: %s", self.name, error)
        self.status.error = str(error)
        if link.task is not None:
            link.task.cancel()

    def _note(self, words: str) -> None:
        self.status.notes = [*self.status.notes[-19:], words]

    async def _told(self, link: Link, told: Told) -> None:
        if told.note or told.lost:
            self._note(told.note or told.lost)
            log.warning("%s: %s", self.name, told.note or told.lost)
        for channel, reason in told.refused.items():
            self.status.refused[channel] = reason
            log.error("%s: %s of %s is refused: %s", self.name, channel.schema, channel.symbol, reason)
            if link.stint is not None and channel in link.wanted:
                link.stint.left(channel.schema, [link.wanted[channel]])
        link.answered |= told.acknowledged | told.refused.keys()
        if told.acknowledged:
            if link.stint is None:
                await self.owner.begin(link)
            self.status.connected = self._worked = True
            self.status.error = ""
        if link.stint is not None:
            ids: dict[str, list[int]] = {}
            for channel in told.acknowledged:
                self.status.refused.pop(channel, None)
                number = link.wanted.get(channel)
                if number is not None:
                    ids.setdefault(channel.schema, []).append(number)
            link.stint.told(told, ids)
            self._look_torn(link)
            if ids:
                self.owner.acknowledged(told.received)
        self.status.acknowledged = len(link.answered - self.status.refused.keys())
        if link.answered >= link.request.channels:
            link.ready.set()
