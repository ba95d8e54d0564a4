"""What one connection brings, from its first acknowledgement to its end: frames on disk, fetches, batches, windows."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from catalog.errors import TransientError
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseRealtimeExtractor
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.job import Job
from flows.job import Request
from flows.landing import Landing
from flows.live.channel import StintChannel
from flows.live.coverage import SKEW
from flows.live.coverage import Heard
from flows.live.refinery import Refinery
from flows.live.ring import Ring
from flows.refining import counts_repeats
from flows.refining import strand
from flows.spool import Spool
from flows.spool import StintNote
from flows.work import LiveLedger

log = logging.getLogger(__name__)

_SKEW: Final = SKEW // timedelta(microseconds=1) * 1000


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
        #: messages were lost, and what follows could not be told from them: it is for another connection
        self.torn = False
        #: the clock was set back: what is said of times is wrong
        self.adrift = False
        self._lost = lost
        self._alive = 0
        self._persisting = threading.Lock()
        names = sorted(jobs)
        channels = {name: self._channel(jobs[name], primary=name == names[0]) for name in names}
        fetches = {name: channel.fetch.id for name, channel in channels.items()}
        for channel in channels.values():
            channel.describe(landing, channels)
        self.spool = Spool(landing, StintNote(extractor.source.name, min(fetches.values()), fetches))
        self.refinery = Refinery(extractor, self.spool, ledger, channels, lost)

    @property
    def useless(self) -> bool:
        """Whether nothing more can come of the connection: refining has failed, or times are not what they were."""
        return self.refinery.failed or self.adrift

    @property
    def channels(self) -> Mapping[str, StintChannel]:
        """Its schemas by name."""
        return self.refinery.channels

    def _channel(self, job: Job, *, primary: bool) -> StintChannel:
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
        channel = StintChannel(
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
        channel.about()
        return channel

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
            self.refinery.behind(told.received)
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
        if since is None:
            since = self.refinery.lag
        self.torn = any(channel.cut for channel in self.channels.values())
        for channel in self.channels.values():
            known = channel.heard.starts()
            channel.heard.ended(since)
            if not self.torn:
                channel.heard.acknowledged(known, at)

    def prepare(self, jobs: Mapping[str, Job]) -> dict[str, StintChannel]:
        """Note jobs in the ledger that are new or have changed; returns the new schemas. Waits for the ledger."""
        new = {}
        for name, job in jobs.items():
            known = self.channels.get(name)
            if known is None:
                new[name] = self._channel(job, primary=False)
            elif added := [one for one in job.instruments if one.id not in known.instruments]:
                self.ledger.join(known.fetch, added)
        for channel in new.values():
            channel.describe(self.landing, [*self.channels, *new])
        return new

    def join(self, jobs: Mapping[str, Job], new: Mapping[str, StintChannel]) -> None:
        """Take up what was prepared. In the thread that appends: what comes from now on is about it."""
        for name, job in jobs.items():
            if (known := self.channels.get(name)) is not None and known.job != job:
                changed = {one.id: one for one in job.instruments if known.instruments.get(one.id) != one}
                if changed:
                    known.instruments = known.instruments | changed
                    known.about()
                    known.described = False
                # last: whoever sees it may rely on what it is about
                known.job = job
        new = {name: channel for name, channel in new.items() if name not in self.channels}
        if not new:
            return
        self.refinery.add(new)
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
        until = self.refinery.known(self._alive)
        windows = {}
        for name, channel in self.channels.items():
            if until and not self.adrift:
                channel.heard.until(self.refinery.proven(name, until))
            windows[name] = channel.heard.take()
        try:
            self.spool.sync()
            for name in list(windows):
                channel = self.channels[name]
                if not channel.described:
                    channel.describe(self.landing, self.channels)
                if windows[name]:
                    self.ledger.heard(channel.fetch, windows[name])
                del windows[name]
        except BaseException:
            for name, some in windows.items():
                self.channels[name].heard.again(some)
            raise

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
        if not self.refinery.thread.is_alive():
            for channel in self.channels.values():
                channel.ring.clear()
