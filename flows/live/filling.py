"""Fills what was not heard: holes between what is expected and what is covered, from the same vendor's history.

Expected is from a series' start (or from when it was first heard) until now; covered is what was heard and what
complete fetches brought. So a hole is never "since the last row". Where the vendor keeps no such history a hole is
noted as a known gap.
"""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final

from catalog.errors import PermanentError
from catalog.schemas import bars_end
from catalog.schemas import schema as schema_called
from flows.extraction import extract_missing
from flows.job import EARLIEST
from flows.job import LATE
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.live.coverage import SKEW
from flows.live.coverage import instant
from flows.pipeline import catch_up
from flows.pipeline import deliver
from flows.work import FetchRef
from flows.work import LiveLedger
from flows.work import Outcome
from flows.work import Workshop

log = logging.getLogger(__name__)

#: seconds after which holes are looked for again: what a vendor publishes late, bars it was silent about
EVERY: Final = 60.0
#: seconds after which what was heard is in the ledger, whoever notes it (a predecessor that is still heard, too)
_NOTED: Final = 2.5
#: seconds after which it is known from when on a connection hears
_BEGUN: Final = SKEW.total_seconds() + 0.5
#: seconds after which it is looked whether other runs, or a destination that was new, have left something undelivered
_LEFT: Final = 300.0
#: seconds until a hole is asked again that history did not close: it refuses, or has not got it yet
_LONGEST: Final = 900.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


@dataclass(slots=True)
class _Asked:
    """When a hole was asked, how long it then waits if it is still there, and whether nothing at all was fetched."""

    end: datetime
    at: float
    pause: float
    failed: bool = False


class _Stopped(Exception):
    """The filler was told to end, and a fetch is done."""


class Filler:
    """Fills the holes of one source, in a thread of its own."""

    def __init__(
        self,
        name: str,
        workshop: Workshop,
        ledger: LiveLedger,
        in_thread: Callable[[], AbstractContextManager[None]],
        underway: Callable[[], set[int]],
        persist: Callable[[], None],
        transit_of: Callable[[str], timedelta],
        begun: Callable[[str], Mapping[int, datetime]],
    ) -> None:
        self.name = name
        #: notes what was heard until now: what is known shall not be asked
        self.persist = persist
        #: the time after which what happened has been heard of a schema
        self.transit_of = transit_of
        #: by instrument of a schema: from when on it is heard now, where all that was heard before is noted
        self.begun = begun
        #: fetches that are being delivered as they come
        self.underway = underway
        self._stopping = threading.Event()
        self.workshop = replace(workshop, sleep=self._sleep)
        self.ledger = ledger
        self.in_thread = in_thread
        self.jobs: dict[str, Job] = {}
        self.filled = 0
        self.gaps = 0
        self.error = ""
        self.thread: threading.Thread | None = None
        self._caught_up = False
        self._looked = 0.0
        self._until = 0
        self._due = 0.0
        self._changed = threading.Condition()
        #: by schema: holes that were asked and may still be there, by instrument and start
        self._asked: dict[str, dict[tuple[int, datetime], _Asked]] = {}

    def start(self, jobs: dict[str, Job]) -> None:
        """Deliver what earlier runs have landed, then look for holes now and then."""
        self.jobs = jobs
        self.thread = threading.Thread(target=self._run, name=f"fill {self.name}", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End after the fetch that is under way."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def soon(self, at: int) -> None:
        """Look for holes before a time (nanoseconds since 1970), as soon as what is heard from then on is known."""
        with self._changed:
            self._until = max(self._until, at)
            # what comes meanwhile is looked for afterwards: it never puts off what came before
            self._due = self._due or time.monotonic() + _BEGUN
            self._changed.notify_all()

    def again(self) -> None:
        """Deliver once more what has landed and nobody delivers."""
        self._caught_up = False

    def known_after(self, schema: str) -> float:
        """Return the seconds after which it is known whether what happened at a moment was heard."""
        return (SKEW + self.transit_of(schema)).total_seconds() + _NOTED

    def _soonest(self) -> float:
        return min(map(self.known_after, self.jobs), default=_NOTED)

    def _sleep(self, seconds: float) -> None:
        # whoever ends does not sit out a pause between two attempts
        self._stopping.wait(seconds)

    def _run(self) -> None:
        backoff = _FIRST_PAUSE
        with self.in_thread():
            while not self._stopping.is_set():
                with self._changed:
                    due = self._due - time.monotonic() if self._due else EVERY
                    if self._caught_up and due > 0:
                        self._changed.wait(min(due, EVERY))
                        if self._stopping.is_set():
                            return
                        if self._due and self._due > time.monotonic():
                            continue
                    jobs, now = dict(self.jobs), time.time_ns()
                    pauses = {schema: self.known_after(schema) for schema in jobs}
                    # not for ever, where the clock was set back
                    self._until = min(self._until, now + int(max(pauses.values(), default=0) * 1e9))
                    untils = {schema: min(self._until, now - int(pause * 1e9)) for schema, pause in pauses.items()}
                    waiting = self._until > min(untils.values(), default=self._until)
                    self._due = time.monotonic() + self._soonest() if waiting else 0.0
                self.error = ""
                try:
                    if not self._caught_up or time.monotonic() - self._looked > _LEFT:
                        self._caught_up, self._looked = True, time.monotonic()
                        if not self._catch_up(jobs):
                            self._caught_up = False
                    self._fill(jobs, untils)
                except _Stopped:
                    return
                except Exception as error:  # noqa: BLE001  # vendor, ledger or disk: looked for again later
                    self.error = f"{type(error).__name__}: {error}"
                    log.warning("%s: filling: %s", self.name, self.error)
                    self.ledger.mend()
                    self._caught_up = False
                if not self._caught_up:
                    backoff = min(2 * backoff, _LONGEST_PAUSE)
                    self._stopping.wait(backoff)
                else:
                    backoff = _FIRST_PAUSE

    def _catch_up(self, jobs: Mapping[str, Job]) -> bool:
        """Deliver what landed earlier; returns whether all of it was."""
        done = True
        for job in jobs.values():
            try:
                outcome = catch_up(job, self.workshop, self.underway())
            except Exception as error:  # noqa: BLE001  # one fetch that cannot be delivered stops neither others nor filling
                outcome = Outcome(errors=[f"{type(error).__name__}: {error}"], transient=True)
                self.ledger.mend()
            self._note(outcome)
            done &= not outcome.transient
            if self._stopping.is_set():
                return False
        return done

    def _fill(self, jobs: Mapping[str, Job], untils: Mapping[str, int]) -> None:
        self.persist()
        for job in jobs.values():
            fillable = self.workshop.fills(job.schema)
            wanted = self._expected(job, untils[job.schema], SKEW if fillable else timedelta(0))
            if not wanted:
                continue
            holes = self.ledger.missing(Request(replace(job, filling=True), tuple(wanted)))
            if not fillable:
                if holes:
                    self.gaps += self.ledger.note_gaps(holes, "the vendor has no history of this")
                continue
            # the vendor is asked for holes only, and for those that stay less and less often
            for hole in self._due_holes(job.schema, holes):
                outcome = Outcome()
                filling = replace(job, instruments=hole, filling=True)
                asked = self._asked[job.schema]
                try:
                    extract_missing(filling, self.workshop, outcome, lambda fetch, job=job: self._deliver(fetch, job))  # type: ignore[misc]
                except Exception as error:
                    outcome.transient = not isinstance(error, PermanentError)
                    raise
                finally:
                    self.filled += outcome.fetches
                    for one in hole:
                        if outcome.transient:
                            # whoever was away is asked as soon as it may be back
                            del asked[one.id, one.start]
                        else:
                            asked[one.id, one.start].failed = not outcome.fetches
                self._note(outcome)
                if self._stopping.is_set():
                    return

    def _due_holes(self, schema: str, holes: list[Request]) -> Iterator[tuple[InstrumentFacts, ...]]:
        """Yield the holes that may be asked now; one that is still there after it was asked waits twice as long."""
        now = time.monotonic()
        before = self._asked.get(schema, {})
        ends = {(number, one.end): one for (number, _), one in before.items()}
        kept = self._asked[schema] = {}
        for hole in holes:
            due = []
            for one in hole.instruments:
                known = before.get((one.id, one.start)) or ends.get((one.id, one.end))
                pause = EVERY
                if known is not None:
                    young = now - known.at <= LATE.total_seconds() and not known.failed and one.end != known.end
                    if not young and now < known.at + known.pause:
                        kept[one.id, one.start] = known
                        continue
                    # what is young only grew; another was asked in vain
                    pause = known.pause if young else min(2 * known.pause, _LONGEST)
                kept[one.id, one.start] = _Asked(one.end, now, pause)
                due.append(one)
            if due:
                yield tuple(due)

    def _deliver(self, fetch: FetchRef, job: Job) -> None:
        self._note(deliver(fetch, job, self.ledger.deliveries(job, fetch), self.workshop))
        if self._stopping.is_set():
            raise _Stopped

    def _note(self, outcome: Outcome) -> None:
        # what a destination did not take is delivered with the rest that landed earlier
        self._caught_up &= not outcome.transient
        for error in outcome.errors:
            self.error = error
            log.warning("%s: filling: %s", self.name, error)

    def _expected(self, job: Job, until: int, skew: timedelta) -> list[InstrumentFacts]:
        """Return the instruments with the window that should be covered by now; `skew` is that of the windows heard."""
        schema = schema_called(job.schema)
        now = datetime.now(UTC)
        late = now - max(LATE, timedelta(seconds=self.known_after(job.schema)))
        end = min(max(late, instant(until) + skew), now) if until else late
        over = bars_end(now, schema.timeframe) if schema.timeframe else now
        if schema.timeframe:
            end = bars_end(end, schema.timeframe)
        heard, begun = self.ledger.first_heard(job), self.begun(job.schema)
        found = []
        for one in job.instruments:
            start = one.start if one.start > EARLIEST else heard.get(one.id)
            # what lies before a connection is known as soon as that has begun
            known = min(begun.get(one.id, end), over)
            last = min(max(end, known), one.end)
            if start is not None and start < last:
                found.append(replace(one, start=start, end=last))
        return found
