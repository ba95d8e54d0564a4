"""Delivers what stints bring to one destination, in order: from the ring while it keeps up, else from what has landed.

What earlier runs have left comes first: some destinations keep rows in the order in which they come. A destination
that fails is tried again for ever, from its cursor; what it does not have yet lies in the spool. No other destination
notices.
"""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import ExitStack
from contextlib import closing
from dataclasses import dataclass
from dataclasses import field
from typing import Final

from flows.delivery import Writer
from flows.job import Job
from flows.live.stint import Stint
from flows.pipeline import deliver
from flows.refining import Refiner
from flows.refining import counts_repeats
from flows.refining import split
from flows.refining import strand
from flows.work import DeliveryRef
from flows.work import FetchRef
from flows.work import LiveLedger
from flows.work import Outcome
from flows.work import RefinedBatch
from flows.work import Workshop

log = logging.getLogger(__name__)

#: rows are written together that come within this time, or when there are so many
GROUP_SECONDS: Final = 0.1
GROUP_ROWS: Final = 20_000
#: what a destination keeps that does not share the ledger is noted so often: a crash delivers it once more
_NOTE_SECONDS: Final = 1.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_WAIT: Final = 0.25
#: how often the windows are asked again that other fetches have brought
_CONFIRMED_SECONDS: Final = 30.0


@dataclass(slots=True)
class Lag:
    """How far a route is: frames delivered, rows written, and what is wrong now."""

    cursor: int = 0
    rows: int = 0
    error: str = ""


@dataclass(slots=True)
class Lane:
    """One schema going to one destination, in a thread of its own."""

    schema: str
    destination: str
    workshop: Workshop
    ledger: LiveLedger
    in_thread: Callable[[], AbstractContextManager[None]]
    #: what the catalog wants of the schema now
    job: Callable[[], Job | None]
    #: what earlier runs have left, oldest first
    left: list[DeliveryRef] = field(default_factory=list)
    stints: list[Stint] = field(default_factory=list)
    lag: Lag = field(default_factory=Lag)
    stopping: threading.Event = field(default_factory=threading.Event)
    #: nothing more will be added: it ends when all is delivered
    draining: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self.thread = threading.Thread(
            target=self._run, name=f"{self.schema} to {self.destination}", daemon=True
        )  # fmt: skip
        self.thread.start()

    def add(self, stint: Stint) -> None:
        """Deliver a stint after those that were added before."""
        with self.changed:
            self.stints.append(stint)
            self.changed.notify_all()

    def drain(self) -> None:
        """End when all is delivered that was added."""
        self.draining.set()
        with self.changed:
            self.changed.notify_all()

    def stop(self) -> None:
        """End at once: what is not delivered stays landed."""
        self.stopping.set()
        with self.changed:
            self.changed.notify_all()

    def _run(self) -> None:
        with self.in_thread():
            self._catch_up()
            while not self.stopping.is_set():
                with self.changed:
                    self.changed.wait_for(
                        lambda: self.stints or self.stopping.is_set() or self.draining.is_set(), _WAIT
                    )
                    if not self.stints:
                        if self.draining.is_set():
                            return
                        continue
                    stint = self.stints[0]
                if self._whole(stint):
                    with self.changed:
                        self.stints.pop(0)

    def _catch_up(self) -> None:
        """Deliver what earlier runs have left; what fails for good is left to whoever looks at it."""
        pause = _FIRST_PAUSE
        while self.left and not self.stopping.is_set():
            outcome = Outcome()
            try:
                outcome = self._old(self.left[0].fetch)
            except Exception as error:  # noqa: BLE001  # whatever a destination or the ledger raises: it is tried again
                outcome.errors.append(f"{type(error).__name__}: {error}")
                outcome.transient = True
                self.ledger.mend()
            self.lag.error = "; ".join(outcome.errors)
            if outcome.errors:
                log.warning("%s to %s: %s", self.schema, self.destination, self.lag.error)
            if outcome.transient:
                self.stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self.left.pop(0)
                pause = _FIRST_PAUSE

    def _old(self, fetch: FetchRef) -> Outcome:
        job = self.job()
        delivery = None if job is None else self.ledger.delivery(job, fetch, self.destination)
        if job is None or delivery is None:
            return Outcome()
        return deliver(fetch, job, [delivery], self.workshop)

    def _whole(self, stint: Stint) -> bool:
        """Deliver a stint to its end, through any trouble; false where it was told to stop."""
        pause = _FIRST_PAUSE
        while not self.stopping.is_set():
            before = self.lag.rows
            delivery: DeliveryRef | None = None
            try:
                channel = stint.channels.get(self.schema)
                if channel is None:
                    return True
                delivery = self.ledger.delivery(channel.job, channel.fetch, self.destination)
                if delivery is None:
                    return True
                if self._deliver(stint, delivery):
                    return True
            except Exception as error:  # noqa: BLE001  # whatever a destination raises: it is tried again
                self.lag.error = f"{type(error).__name__}: {error}"
                log.warning("%s to %s: %s", self.schema, self.destination, self.lag.error)
                self.ledger.mend()
                self._tell(delivery)
                pause = _FIRST_PAUSE if self.lag.rows > before else min(2 * pause, _LONGEST_PAUSE)
                self.stopping.wait(pause)
        return False

    def _tell(self, delivery: DeliveryRef | None) -> None:
        if delivery is None:
            return
        try:
            self.ledger.troubled(delivery, self.lag.error)
        except Exception as error:  # noqa: BLE001  # the ledger may be what is away
            log.warning("%s to %s: not noted: %s", self.schema, self.destination, error)
            self.ledger.mend()

    def _deliver(self, stint: Stint, delivery: DeliveryRef) -> bool:
        """Deliver from the cursor on until the stint ends; false where it was told to stop before."""
        with ExitStack() as stack:
            writer: Writer | None = None
            job: Job | None = None
            refreshed = noted = 0.0
            reached = delivery.cursor
            # closed at once where a write fails, so that nobody waits for what this route is not doing any more
            steps = stack.enter_context(closing(self._steps(stint, delivery.cursor)))
            for batches, reached in steps:  # noqa: B007
                now = time.monotonic()
                channel = stint.channels[self.schema]
                if writer is None or job is not channel.job:
                    # the catalog was edited: conditions and instruments are those of now
                    if writer is not None:
                        self._flush(writer, settle=True)
                        delivery = writer.delivery
                    job = channel.job
                    route = next((one for one in job.routes if one.destination == self.destination), None)
                    if route is None:
                        return False
                    writer = Writer(delivery, route, self.workshop, dict(channel.numbers), {})
                    writer.open(stack)
                    refreshed = 0.0
                if now - refreshed > _CONFIRMED_SECONDS:
                    writer.confirmed = self.workshop.ledger.confirmed(channel.fetch)
                    refreshed = now
                for batch in batches:
                    writer.take(batch)
                    if batch.cursor == batch.number and batch.accepted.num_rows:
                        # a piece of rows that lie too far apart for one statement
                        self._flush(writer, settle=True)
                due = writer.waiting_since is not None and now - writer.waiting_since >= GROUP_SECONDS
                if not writer.sink.shares_ledger or due or writer.rows >= GROUP_ROWS or not batches:
                    settle = writer.sink.shares_ledger or now - noted >= _NOTE_SECONDS or not batches
                    self._flush(writer, settle=settle)
                    noted = now if settle else noted
            if not self._ended(stint, reached):
                if writer is not None:
                    self._flush(writer, settle=True)
                # where refining failed the rest lies landed, for the next run
                return stint.refinery.failed
            if writer is None:
                self.ledger.finish(delivery)
            else:
                self._flush(writer, settle=True)
                writer.finish()
        return True

    def _ended(self, stint: Stint, position: int) -> bool:
        return stint.spool.ended and position >= stint.spool.written and not stint.refinery.failed

    def _flush(self, writer: Writer, *, settle: bool) -> None:
        rows = writer.rows
        writer.flush(settle=settle)
        self.lag.rows += rows
        self.lag.cursor = writer.cursor
        self.lag.error = ""

    def _steps(self, stint: Stint, position: int) -> Generator[tuple[list[RefinedBatch], int]]:
        """Yield what comes from a frame on, and where that ends; nothing at times, so that what waits is written."""
        ring = stint.channels[self.schema].ring
        position = max(position, stint.channels[self.schema].first)
        while not self.stopping.is_set():
            steps, kept = ring.take(position, GROUP_SECONDS)
            if kept is not None:
                yield from self._landed(stint, position, kept)
                if self.stopping.is_set():
                    return
                position = kept
                continue
            with ring.work():
                waiting: list[RefinedBatch] = []
                for at, step in enumerate(steps, 1):
                    # what came together is written together: a write costs more than its rows
                    waiting += step.batches
                    position = step.end
                    if at == len(steps) or sum(batch.accepted.num_rows for batch in waiting) >= GROUP_ROWS:
                        yield waiting, position
                        waiting = []
            if not steps:
                yield [], position
                if ring.closed and position >= ring.end:
                    return

    def _landed(self, stint: Stint, start: int, stop: int) -> Iterator[tuple[list[RefinedBatch], int]]:
        """Yield what the frames `[start, stop)` give, refined once more: the ring has not kept it."""
        channel = stint.channels[self.schema]
        own = strand(
            channel.fetch, stint.extractor, channel.strand.symbols.instruments, channel.strand.facts.positive,
            primary=channel.strand.primary,
        )  # fmt: skip
        refiner = Refiner(stint.extractor, [own], stint.channels)
        part = stint.spool.holding(start)
        first = start
        if counts_repeats(stint.extractor, own.schema):
            part, first = stint.spool.before(part), 0
        for group in stint.spool.read(first, part):
            if self.stopping.is_set():
                return
            if group is None:
                continue
            for piece in split(group, (start, stop)):
                if piece.first >= stop or self.stopping.is_set():
                    return
                batches = list(refiner.refine(piece))
                if piece.end > start:
                    yield batches, piece.end
                if piece.end >= stop:
                    # what follows may not have come yet
                    return


def lanes(jobs: Iterable[Job]) -> set[tuple[str, str]]:
    """Return each schema and destination of some jobs."""
    return {(job.schema, route.destination) for job in jobs for route in job.routes}
