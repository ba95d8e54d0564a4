"""What one connection brings, from its first acknowledgement to its end: frames on disk, fetches, batches, windows."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import TransientError
from catalog.schemas import INSTRUMENT
from catalog.schemas import TIMEFRAMES
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import Ordinals
from flows.extractors.base import BaseRealtimeExtractor
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.groups import Group
from flows.job import LATEST
from flows.job import LIVE
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import describe
from flows.landing import Landing
from flows.live.coverage import SKEW
from flows.live.coverage import Heard
from flows.live.ring import Ring
from flows.pipeline import positive
from flows.refining import Refiner
from flows.refining import Strand
from flows.refining import counts_repeats
from flows.refining import strand
from flows.spool import Spool
from flows.spool import StintNote
from flows.work import FetchRef
from flows.work import LiveLedger
from flows.work import RefinedBatch

log = logging.getLogger(__name__)

_PAUSE: Final = 1.0
_SKEW: Final = SKEW // timedelta(microseconds=1) * 1000
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


@dataclass(slots=True)
class _Channel:
    """One schema of a stint."""

    job: Job
    fetch: FetchRef
    strand: Strand
    heard: Heard
    ring: Ring
    instruments: dict[int, InstrumentFacts]
    #: rows before an acknowledgement are left to the vendor's history (where repeats are told apart by counting)
    cut: bool
    starts: dict[int, datetime] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    #: whether what the strand knows of the instruments is out of date
    stale: bool = False
    #: the frame it begins with
    first: int = 0
    #: who was acknowledged once, and whether that is written down
    known: set[int] = field(default_factory=set)
    described: bool = False


class Stint:
    """One connection's frames and what becomes of them.

    The connection's thread appends; a thread of its own refines; routes take from the rings or read from the spool.
    """

    def __init__(
        self,
        extractor: BaseRealtimeExtractor,
        landing: Landing,
        ledger: LiveLedger,
        jobs: Mapping[str, Job],
        fills: Callable[[str], bool],
        lost: Callable[[], None],
        replayed: Mapping[str, Mapping[int, datetime]] = MappingProxyType({}),
    ) -> None:
        self.replayed = replayed
        self.extractor = extractor
        self.landing = landing
        self.ledger = ledger
        self.fills = fills
        self.context: list[Frame] = []
        self.seen: dict[tuple[str, int], Seen] = {}
        self.faults = 0
        self.failed = False
        #: messages were lost, and what follows could not be told from them: it is for another connection
        self.torn = False
        #: the clock was set back: what is said of times is wrong
        self.adrift = False
        self.stopping = threading.Event()
        self._lost = lost
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._alive = 0
        self._refined_until = 0
        self._refined = 0
        #: of the newest rows: when they were received, when they happened, and whether that is too long ago
        self._newest = (0, 0, False)
        self._lock = threading.Lock()
        self._persisting = threading.Lock()
        names = sorted(jobs)
        self.channels = {name: self._channel(jobs[name], primary=name == names[0]) for name in names}
        fetches = {name: channel.fetch.id for name, channel in self.channels.items()}
        for channel in self.channels.values():
            self._describe(channel, self.channels)
        self.spool = Spool(landing, StintNote(extractor.source.name, min(fetches.values()), fetches))
        self._refiner = Refiner(extractor, [channel.strand for channel in self.channels.values()])
        self.thread = threading.Thread(target=self._pump, name=f"refine {extractor.source.name}", daemon=True)
        self._in_thread: Callable[[], AbstractContextManager[None]] = nullcontext

    def _channel(self, job: Job, *, primary: bool) -> _Channel:
        schema = schema_called(job.schema)
        fetch = self.ledger.begin(Request(job, job.instruments))
        for destination in {route.destination for route in job.routes}:
            # whoever finds it knows where it was to go, also where this process is killed before it went anywhere
            self.ledger.delivery(job, fetch, destination)
        fillable = self.fills(job.schema)
        cut = counts_repeats(self.extractor, schema) and fillable
        # what nothing can fill shall not look like a gap only because clocks may differ
        skew = SKEW if fillable else timedelta(0)
        instruments = {one.id: one for one in job.instruments}
        channel = _Channel(
            job,
            fetch,
            strand(fetch, self.extractor, [], frozenset(), primary=primary),
            Heard(
                schema,
                self.extractor.transit_of(job.schema),
                every_bar=self.extractor.every_bar and fillable,
                skew=skew,
                grain=self.extractor.grain,
            ),
            Ring(),
            instruments,
            cut,
            # what is sent again comes before its acknowledgement
            dict(self.replayed.get(job.schema, {})),
        )
        self._about(channel)
        return channel

    def _about(self, channel: _Channel) -> None:
        instruments = _as_heard(channel)
        channel.strand.about(instruments, positive(instruments))
        channel.numbers = {str(one.name): one.id for one in instruments}

    def _describe(self, channel: _Channel, schemas: Iterable[str]) -> None:
        described = describe(Request(channel.job, tuple(_as_heard(channel))))
        described[LIVE] = {"schemas": sorted(schemas), "primary": channel.strand.primary}
        channel.described = True
        self.landing.begin(channel.fetch.source, channel.fetch.id, described)
        self.landing.amend(channel.fetch.source, channel.fetch.id, described)

    def start(self, in_thread: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Begin to refine; `in_thread` surrounds what the thread does."""
        self._in_thread = in_thread
        self.thread.start()

    # -- the connection's side ------------------------------------------------------------------------------------

    def take(self, frames: Sequence[Frame]) -> None:
        """Take frames of the connection that came together."""
        self._lives(frames[-1].received)
        if self.torn:
            # not heard: history has it
            return
        self.context += [frame for frame in frames if frame.context]
        self.spool.append(frames)

    def told(self, told: Told, ids: Mapping[str, Sequence[int]]) -> None:
        """Take what the vendor said of subscriptions; `ids` are the acknowledged instruments of each schema."""
        self._lives(told.received)
        if told.behind:
            with self._lock:
                self._newest = (told.received, self._newest[1] or told.received, True)
        if told.lost:
            self.interrupted(told.received, told.since)
            self._lost()
        for name, numbers in ids.items():
            channel = self.channels[name]
            replayed = told.since is not None and not told.lost
            since = told.since if replayed and told.since is not None else told.received
            # of whom it was not asked to send again, what came before was cut off
            again = {number for number in numbers if replayed and (not channel.cut or number in channel.starts)}
            channel.heard.acknowledged(again, since, replayed=True)
            channel.heard.acknowledged(set(numbers) - again, told.received)
            if channel.cut:
                starts = channel.heard.starts()
                with self._lock:
                    for number in numbers:
                        # once only: what it gave since then it gives again when it is refined from the landing
                        if not replayed and number not in channel.known:
                            channel.starts[number] = starts[number]
                        channel.starts.setdefault(number, starts[number])
                    channel.known.update(numbers)
                    channel.described = False
                    # once for all that is acknowledged before the next frames are refined
                    channel.stale = True

    def _lives(self, at: int) -> None:
        """Note a sign of life; after too long a pause (this machine slept) nothing says what was lost in between."""
        before, self._alive = self._alive, max(self._alive, at)
        now = time.time_ns()
        if before - now > _SKEW and not self.adrift:
            # what was covered may lie ahead of the time that it is
            self.adrift = True
            for channel in self.channels.values():
                channel.heard.ended(now)
        elif before and at - before > self.extractor.silence * 1e9:
            self.interrupted(at, None)
            self._lost()

    def interrupted(self, at: int, since: int | None) -> None:
        """Note that messages were lost (from `since` on): what was subscribed is heard anew from `at` on.

        Not on this connection where repeats are told apart by counting: what follows would be counted as what was lost.
        """
        _, happened, late = self._newest
        if since is None and late:
            since = happened
        self.torn = any(channel.cut for channel in self.channels.values())
        for channel in self.channels.values():
            known = channel.heard.starts()
            channel.heard.ended(since)
            if not self.torn:
                channel.heard.acknowledged(known, at)

    def prepare(self, jobs: Mapping[str, Job]) -> dict[str, _Channel]:
        """Note jobs in the ledger that are new or have changed; returns the new schemas. Waits for the ledger."""
        new = {}
        for name, job in jobs.items():
            known = self.channels.get(name)
            if known is None:
                new[name] = self._channel(job, primary=False)
            elif added := [one for one in job.instruments if one.id not in known.instruments]:
                self.ledger.join(known.fetch, added)
        for channel in new.values():
            self._describe(channel, [*self.channels, *new])
        return new

    def join(self, jobs: Mapping[str, Job], new: Mapping[str, _Channel]) -> None:
        """Take up what was prepared. In the thread that appends: what comes from now on is about it."""
        for name, job in jobs.items():
            if (known := self.channels.get(name)) is not None and known.job != job:
                changed = {one.id: one for one in job.instruments if known.instruments.get(one.id) != one}
                if changed:
                    known.instruments = known.instruments | changed
                    self._about(known)
                    known.described = False
                # last: whoever sees it may rely on what it is about
                known.job = job
        new = {name: channel for name, channel in new.items() if name not in self.channels}
        if not new:
            return
        # others go through them meanwhile: they are never changed in place
        self.channels = {**self.channels, **new}
        self._refiner.strands = {name: channel.strand for name, channel in self.channels.items()}
        for channel in self.channels.values():
            # refined again, rows of the new schemas are nobody's no more
            channel.described = False
        for name, channel in new.items():
            self.spool.join(name, channel.fetch.id, self.context)
            channel.first = self.spool.written

    def lacks(self, jobs: Mapping[str, Job]) -> bool:
        """Whether jobs are not those that were taken up."""
        return any(name not in self.channels or self.channels[name].job != job for name, job in jobs.items())

    def counts_again(self, channels: Mapping[Channel, int]) -> bool:
        """Whether some of these were left before and repeats are told apart by counting: then they need a new stint."""
        known = ((self.channels.get(channel.schema), number) for channel, number in channels.items())
        return any(one is not None and one.cut and number in one.known for one, number in known)

    def left(self, name: str, numbers: Iterable[int]) -> None:
        """Note instruments that are no longer subscribed."""
        if name in self.channels:
            self.channels[name].heard.left(numbers)

    def end(self) -> None:
        """Note that the connection has ended: nothing more comes."""
        self.spool.end()

    # -- durable at short intervals -------------------------------------------------------------------------------

    def persist(self) -> None:
        """Make frames durable, then cover what they prove was heard. Waits for disk and ledger; any thread."""
        with self._persisting:
            self._persist()

    def _persist(self) -> None:
        alive = self._alive
        with self._lock:
            # what is taken but not refined yet may still show a jump, or not be written at all
            behind = self.spool.dirty or self._refined < self.spool.written
            until = self._refined_until if behind else max(alive, self._refined_until)
        windows = {}
        for name, channel in self.channels.items():
            if until and not self.adrift:
                channel.heard.until(self._proven(name, until))
            windows[name] = channel.heard.take()
        try:
            self.spool.sync()
            for name in list(windows):
                channel = self.channels[name]
                if not channel.described:
                    self._describe(channel, self.channels)
                if windows[name]:
                    self.ledger.heard(channel.fetch, windows[name])
                del windows[name]
        except BaseException:
            for name, some in windows.items():
                self.channels[name].heard.again(some)
            raise

    def _proven(self, name: str, until: int) -> int:
        """Return up to when a sign of life proves anything: a stream that lags is heard no further than what it brings.

        What waits at the vendor is lost with the connection. Where neither old rows nor warnings have come for a while,
        nothing waits.
        """
        received, happened, late = self._newest
        transit = _nanoseconds(self.extractor.transit_of(name))
        return min(until, happened + transit) if late and until - received <= max(transit, _QUIET) else until

    def close(self) -> None:
        """Seal the frames and complete the fetches; the connection has ended. Waits for disk and ledger."""
        if not self.spool.ended:
            raise TransientError(f"{self.extractor.source.name}: the last frames are still being written")
        self.persist()
        self.spool.seal()
        for name, channel in self.channels.items():
            parts = self.spool.parts(name)
            self.ledger.landed(channel.fetch, len(parts), sum(part.bytes for part in parts))
        self.spool.release()

    def lighten(self) -> None:
        """Keep nothing in memory that lies landed: the connection has ended, and a newer one brings what is new."""
        if not self.thread.is_alive():
            for channel in self.channels.values():
                channel.ring.clear()

    # -- refining -------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        with self._in_thread():
            self._refine()

    def _refine(self) -> None:
        try:
            for group in self._groups():
                if group is None:
                    at = self._refined
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
                self._about(channel)
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
            self._refined_until = max(self._refined_until, received)
            self._refined = group.end
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

    def _look(self, name: str, channel: _Channel, batch: RefinedBatch, received: int) -> None:
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
                self._count(name, channel, text, number, seen, numbers[rows], times[rows])

    def _count(
        self, name: str, channel: _Channel, text: str, number: int, seen: Seen, numbers: np.ndarray, times: np.ndarray
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
                seen.gaps += 1
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


def _as_heard(channel: _Channel) -> list[InstrumentFacts]:
    """Return the instruments with the windows of the rows that count: see `cut`."""
    if not channel.cut:
        return list(channel.instruments.values())
    return [
        replace(one, start=max(one.start, channel.starts.get(one.id, LATEST)))
        for one in channel.instruments.values()
    ]  # fmt: skip
