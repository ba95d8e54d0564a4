"""Refines the frames of a stint as they are written, in a thread of its own, into the rings of its channels.

Beside that it looks at what came: how much of each instrument, what jumped, and how far behind it all is.
"""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import INSTRUMENT
from catalog.schemas import TIMEFRAMES
from catalog.schemas.refine import Ordinals
from flows.extractors.base import BaseRealtimeExtractor
from flows.frames import Frame
from flows.groups import Group
from flows.live.channel import StintChannel
from flows.live.coverage import SKEW
from flows.refining import Refiner
from flows.spool import Spool
from flows.work import FetchRef
from flows.work import LiveLedger
from flows.work import RefinedBatch

log = logging.getLogger(__name__)

_PAUSE: Final = 1.0
#: signs of life for so long (ns) without a row: nothing waits at the vendor
_QUIET: Final = 5_000_000_000
#: how old frames may grow while refining waits for the routes: what is not refined is not known to be heard, and
#: would be bought
_PATIENT: Final = 10.0
#: seconds of frames that are refined together, where they are not so many anyway
_TOGETHER: Final = 0.003
#: seconds for the routes to do what they have, before more is refined
_ROUTES: Final = 0.02
#: seconds for which they are not waited for again, where they have taken longer
_ALONE: Final = 1.0
_MANY: Final = 1_000
_MUCH: Final = 1 << 17
_SHORT: Final = 1 << 16


@dataclass(slots=True)
class Seen:
    """What came of one instrument: rows, the newest event time and when it was received (nanoseconds since 1970)."""

    rows: int = 0
    newest: int = 0
    received: int = 0
    gaps: int = 0

    def add(self, other: "Seen") -> None:
        """Count another stint's in."""
        self.rows += other.rows
        self.gaps += other.gaps
        if other.newest > self.newest:
            self.newest, self.received = other.newest, other.received


class Refinery:
    """What becomes of a stint's frames. `lost` is called where numbers that count up by one jump."""

    def __init__(
        self,
        extractor: BaseRealtimeExtractor,
        spool: Spool,
        ledger: LiveLedger,
        channels: Mapping[str, StintChannel],
        lost: Callable[[], None],
    ) -> None:
        self.extractor = extractor
        self.spool = spool
        self.ledger = ledger
        #: never changed in place: other threads go through them
        self.channels = dict(channels)
        self.seen: dict[tuple[str, int], Seen] = {}
        self.faults = 0
        self.failed = False
        self.stopping = threading.Event()
        #: frames that are refined
        self.refined = 0
        self._until = 0
        #: of the newest rows: when they were received, when they happened, and whether that is too long ago
        self._newest = (0, 0, False)
        self._lost = lost
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._refiner = Refiner(extractor, [channel.strand for channel in self.channels.values()])
        self.thread = threading.Thread(target=self._pump, name=f"refine {extractor.source.name}", daemon=True)
        self._in_thread: Callable[[], AbstractContextManager[None]] = nullcontext

    def start(self, in_thread: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Begin; `in_thread` surrounds what the thread does."""
        self._in_thread = in_thread
        self.thread.start()

    def add(self, channels: Mapping[str, StintChannel]) -> None:
        """Refine more schemas from now on."""
        self.channels = {**self.channels, **channels}
        self._refiner.strands = {name: channel.strand for name, channel in self.channels.items()}

    # -- what is known by now -------------------------------------------------------------------------------------

    def known(self, alive: int) -> int:
        """Return up to when (ns since 1970) all that was received is looked at; `alive` is the last sign of life."""
        with self._lock:
            # what is taken but not refined yet may still show a jump, or not be written at all
            behind = self.spool.dirty or self.refined < self.spool.written
            return self._until if behind else max(alive, self._until)

    def behind(self, at: int) -> None:
        """Note that the vendor has more than it has sent."""
        with self._lock:
            self._newest = (at, self._newest[1] or at, True)

    @property
    def lag(self) -> int | None:
        """When the newest rows happened (ns since 1970), where that is too long before they came."""
        _, happened, late = self._newest
        return happened if late else None

    def proven(self, name: str, until: int) -> int:
        """Return up to when a sign of life proves anything: a stream that lags is heard no further than what it brings.

        What waits at the vendor is lost with the connection. Where neither old rows nor warnings have come for a while,
        nothing waits.
        """
        received, happened, late = self._newest
        transit = _nanoseconds(self.extractor.transit_of(name))
        return min(until, happened + transit) if late and until - received <= max(transit, _QUIET) else until

    # -- its thread -----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        with self._in_thread():
            self._refine()

    def _refine(self) -> None:
        try:
            for group in self._groups():
                if group is None:
                    at = self.refined
                    with self.spool.changed:
                        self.spool.changed.wait_for(lambda: self.spool.written > at or self.spool.ended, 0.5)  # noqa: B023
                elif not self._step(group):
                    return
                if self.stopping.is_set():
                    return
        except Exception:
            # frames stay landed: the next run delivers them
            log.exception("%s: refining stopped", self.extractor.source.name)
            self.failed = True
        finally:
            for channel in self.channels.values():
                channel.ring.close()
                channel.strand.ordinals = Ordinals()

    def _groups(self) -> Iterator[Group | None]:
        """Yield what is written, a few milliseconds of it at a time: a group costs more than its frames."""
        begun = alone = time.monotonic()
        for group in self.spool.follow():
            yield group
            if group is not None and len(group.frames) < _MANY and sum(map(_size, group.frames)) < _MUCH:
                # the routes go first: two threads that compute at once take three times as long
                if begun >= alone and not self._settled(begun + _ROUTES):
                    # one is slow or away: the others do not wait for it
                    alone = begun + _ALONE
                now = time.monotonic()
                # who is behind needs the time that few rows at once would take; else half of it is everybody's
                until = begun + _ROUTES if now < alone else max(begun + _TOGETHER, 2 * now - begun)
                self.stopping.wait(max(until - now, 0.0))
            begun = time.monotonic()

    def _settled(self, until: float) -> bool:
        """Wait for the routes, up to some time; says whether all have done what there is."""
        rings = [channel.ring for channel in self.channels.values()]
        return all(ring.settle(max(until - time.monotonic(), 0.0)) for ring in rings)

    def _step(self, group: Group) -> bool:
        rings = [channel.ring for channel in self.channels.values()]
        received = group.latest
        while all(ring.busy for ring in rings) and time.time_ns() - received < _PATIENT * 1e9:
            if self.stopping.wait(0.02):
                return False
        for channel in self.channels.values():
            if channel.stale:
                channel.stale = False
                channel.about()
        batches: dict[str, list[RefinedBatch]] = {}
        for batch in self._refiner.refine(group):
            batches.setdefault(batch.schema.name, []).append(batch)
        for name, found in batches.items():
            channel = self.channels[name]
            for batch in found:
                self._look(name, channel, batch, received)
            if not self._quarantine(channel.fetch, found):
                return False
        self._note_lag(batches, received)
        with self._lock:
            self._until = max(self._until, received)
            self.refined = group.end
        for name, found in batches.items():
            self.channels[name].ring.add(group.first, group.end, found)
        return True

    def _note_lag(self, batches: Mapping[str, Sequence[RefinedBatch]], received: int) -> None:
        """Note how far behind what happened the newest rows are."""
        happened = {
            name: max((_happened(batch, received) for batch in found if batch.accepted.num_rows), default=0)
            for name, found in batches.items()
        }
        if newest := max(happened.values(), default=0):
            # clocks differ
            late = all(
                received - at > _nanoseconds(self.extractor.transit_of(name) + SKEW)
                for name, at in happened.items()
                if at
            )
            with self._lock:
                if received > self._newest[0]:
                    self._newest = (received, newest, late)

    def _quarantine(self, fetch: FetchRef, batches: Sequence[RefinedBatch]) -> bool:
        for batch in batches:
            self.faults += batch.rejected.num_rows
            while batch.rejected.num_rows:
                try:
                    self.ledger.quarantine(fetch, batch.part, batch.rejected)
                    break
                except Exception as error:  # noqa: BLE001  # the ledger's store is away: frames go on landing meanwhile
                    log.warning("%s: quarantine: %s", fetch.source, error)
                    self.ledger.mend()
                    if self.stopping.wait(_PAUSE):
                        return False
        return True

    def _look(self, name: str, channel: StintChannel, batch: RefinedBatch, received: int) -> None:
        """Note what came of each instrument, bars that are heard, and jumps in what counts up by one."""
        table = batch.accepted
        if not table.num_rows:
            return
        instrument = table[INSTRUMENT].combine_chunks()
        instrument = instrument.chunk(0) if isinstance(instrument, pa.ChunkedArray) else instrument
        codes = np.asarray(instrument.indices)
        times = np.asarray(table[batch.schema.time].cast(pa.int64()))
        names = instrument.dictionary.to_pylist()
        # short numbers are sorted in one pass
        order = np.argsort(codes.astype(np.uint16) if len(names) <= _SHORT else codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        column = self.extractor.consecutive.get(name)
        numbers = _whole(table[column]) if column else None
        for code, text in enumerate(names):
            rows = order[bounds[code] : bounds[code + 1]]
            number = channel.numbers.get(text)
            if not len(rows) or number is None:
                continue
            seen = self.seen.setdefault((name, number), Seen())
            seen.rows += len(rows)
            seen.newest = max(seen.newest, int(times[rows].max()))
            seen.received = received
            if channel.heard.every_bar:
                channel.heard.bars(number, times[rows].tolist())
            if numbers is not None:
                self._count(name, channel, text, number, numbers[rows], times[rows])

    def _count(
        self,
        name: str,
        channel: StintChannel,
        text: str,
        number: int,
        numbers: np.ndarray,
        times: np.ndarray,
    ) -> None:
        order = np.argsort(numbers, kind="stable")
        order = order[numbers[order] > 0]
        if not len(order):
            return
        numbers, times = numbers[order], times[order]
        last, at = self._last.get((name, text), (int(numbers[0]) - 1, int(times[0])))
        steps = np.diff(np.r_[last, numbers])
        for jump in np.flatnonzero(steps > 1).tolist():
            before = int(times[jump - 1]) if jump else at
            if channel.heard.broken(number, before, int(times[jump])):
                self.seen[name, number].gaps += 1
                self._lost()
        if int(numbers[-1]) > last:
            self._last[name, text] = (int(numbers[-1]), int(times[-1]))


def _happened(batch: RefinedBatch, received: int) -> int:
    """Return when the newest rows of a batch happened (ns since 1970): a bar when it closed; dates say nothing."""
    timeframe = batch.schema.timeframe
    seconds = TIMEFRAMES[timeframe] if timeframe else 0
    if seconds is None:
        return received
    newest: int = pc.max(batch.accepted[batch.schema.time].cast(pa.int64())).as_py()
    return newest + seconds * 1_000_000_000


def _nanoseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1) * 1000


def _size(frame: Frame) -> int:
    return len(frame.content)


def _whole(column: pa.ChunkedArray) -> np.ndarray:
    """Return numbers that may be written as text; what is none is left out of the count as 0."""
    try:
        return np.asarray(pc.fill_null(column.cast(pa.int64()), 0))
    except pa.ArrowInvalid:
        return np.zeros(len(column), np.int64)
