"""What the pipeline works with: references into a ledger, refined batches, the account, and what running takes."""

import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import pyarrow as pa

from catalog.errors import ConfigError
from catalog.schemas import Schema
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import BaseRealtimeExtractor
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import RouteFacts
from flows.landing import Landing
from flows.sinks.base import Sink


@dataclass(frozen=True, slots=True)
class FetchRef:
    """A fetch in the ledger."""

    id: int
    source: str
    schema: str
    fetched_at: datetime
    complete: bool = False
    parts: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRef:
    """A delivery in the ledger: a fetch going to a destination. `cursor` counts refined batches done."""

    id: int
    fetch: FetchRef
    destination: str
    schema: str
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """The account of some batches on one route, in rows."""

    parsed: int = 0
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    superseded: int = 0
    filtered: int = 0
    quarantined: int = 0
    rounded: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, name) + getattr(other, name) for name in Tally.__slots__))

    @property
    def settled(self) -> int:
        """Rows with an end; what `parsed` exceeds it by is pending."""
        return (
            self.new + self.updated + self.unchanged + self.duplicate
            + self.superseded + self.filtered + self.quarantined
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RefinedBatch:
    """One step of a fetch's refined stream.

    `number` is where the step begins and `end` where the cursor is after it: steps are counted by batch where pages
    were asked for (`end` is then the next number), and by frame where they were sent. A step that has several batches
    ends with the last of them.
    """

    number: int
    schema: Schema
    accepted: pa.Table
    rejected: pa.Table
    part: int
    parsed: int = 0
    duplicates: int = 0
    filtered: int = 0
    rounded: int = 0
    #: why the rest of the page cannot be parsed; empty where it can
    unparsable: str = ""
    superseded: int = 0
    end: int = -1

    @property
    def cursor(self) -> int:
        """The cursor of a delivery that has this batch and all before it."""
        return self.number + 1 if self.end < 0 else self.end


class Ledger(Protocol):
    """What the pipeline needs of a ledger; the catalog's tables, or memory in a bare shell."""

    def missing(self, request: Request) -> list[Request]:
        """Return the parts of a request that no complete fetch covers; none if all is covered."""

    def unfinished(self, job: Job) -> list[tuple[FetchRef, Request]]:
        """Return the fetches by window, with their requests, that were begun and lie inside what the job asks."""

    def abandon(self, fetch: FetchRef, reason: str) -> None:
        """Never go on with a fetch."""

    def open_fetch(self, request: Request) -> FetchRef:
        """Return the unfinished fetch of the same request, or begin one."""

    def landed(self, fetch: FetchRef, pages: int, size: int, without: Collection[str] = ()) -> FetchRef:
        """Mark a fetch complete: every page the vendor announced has landed.

        Instruments of which it refused every symbol (`without`) are not covered by it.
        """

    def register(self, request: Request, fetch: FetchRef, symbols: Sequence[str]) -> tuple[InstrumentFacts, ...]:
        """Make instruments of symbols that nobody named, for the window of the request, and cover them by the fetch.

        They join every series of the source and schema. Symbols that cannot be instruments are left out.
        """

    def spent(self, fetch: FetchRef, requests: int, cost: Decimal) -> None:
        """Add to what a fetch has cost."""

    def failed(self, fetch: FetchRef, error: str) -> None:
        """Note why a fetch stays incomplete."""

    def deliveries(self, job: Job, fetch: FetchRef | None = None) -> list[DeliveryRef]:
        """Return the unfinished deliveries of the job's routes, for one fetch or for all, made where missing."""

    def quarantine(self, fetch: FetchRef, part: int, rejected: pa.Table) -> None:
        """Keep rejected rows; keeping them again changes nothing."""

    def unparsable(self, fetch: FetchRef, part: int, reason: str) -> None:
        """Keep a page that cannot be parsed."""

    def changing(self, route: RouteFacts, schema: str, fetch: FetchRef, since: Mapping[int, datetime]) -> None:
        """Note from when on rows of instruments, by id, change at a home: what is derived from them is due.

        In the transaction that writes them where there is one; else before and after.
        """

    def advance(self, delivery: DeliveryRef, cursor: int, tally: Tally) -> None:
        """Move the cursor and add to the account, in the transaction of the rows where there is one."""

    def finish(self, delivery: DeliveryRef, error: str = "", pending: int = 0) -> None:
        """Mark a delivery delivered, or failed with the reason and the rows that wait in the landing."""

    def confirmed(self, fetch: FetchRef) -> dict[int, list[tuple[datetime, datetime]]]:
        """Return, by instrument id, the windows that later complete fetches of the same thing cover."""

    def cursors(self, fetch: FetchRef) -> list[int]:
        """Return where the deliveries of a fetch stand that are not delivered."""


class LiveLedger(Ledger, Protocol):
    """What running live connections needs besides."""

    def begin(self, request: Request) -> FetchRef:
        """Begin the fetch of one schema of a connection; it is complete when the connection has ended."""

    def join(self, fetch: FetchRef, instruments: Sequence[InstrumentFacts]) -> None:
        """Note that a live fetch is about these instruments too; nothing of them is covered yet."""

    def heard(self, fetch: FetchRef, windows: Mapping[tuple[datetime, datetime], Collection[int]]) -> None:
        """Cover windows `[start, end)` of instruments, by id; a window that began at the same time is extended."""

    def interrupted(self, fetches: Collection[int]) -> list[FetchRef]:
        """Return those of some live fetches that are not complete."""

    def orphans(self, source: int, held: Collection[int]) -> list[FetchRef]:
        """Return the live fetches of runs that have ended which are not complete, but for those that are `held`."""

    def heard_elsewhere(self, source: int) -> bool:
        """Whether another run still hears a source: one that has handed it over and waits for its successor."""

    def first_heard(self, job: Job) -> dict[int, datetime]:
        """Return when each instrument of a job was first heard live, by id; those never heard are left out."""

    def last_heard(self, job: Job) -> dict[int, datetime]:
        """Return up to when each instrument of a job was heard live, by id."""

    def note_gaps(self, holes: Sequence[Request], reason: str) -> int:
        """Note holes that nothing can fill; they are missing no more. Returns how many are new."""

    def delivery(self, job: Job, fetch: FetchRef, destination: str) -> DeliveryRef | None:
        """Return how a fetch, complete or not, stands at a destination; made where missing.

        None where it is delivered, or its pages were deleted.
        """

    def behind(self, job: Job, destination: str) -> list[DeliveryRef]:
        """Return what a destination does not have of the job's live fetches that are complete, oldest first."""

    def troubled(self, delivery: DeliveryRef, error: str) -> None:
        """Note what keeps a delivery waiting; the next step that succeeds takes it back."""

    def mend(self) -> None:
        """Drop what a lost connection to the ledger's store has left; the next call connects again."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What running a job takes: the vendor, the landing, the ledger and a way to open a route's sink.

    `history` and `live` are the vendor's halves; it may have only one. What either has landed is delivered alike.
    """

    history: BaseHistoricalExtractor | None
    landing: Landing
    ledger: Ledger
    open_sink: Callable[[RouteFacts, Mapping[str, int]], Sink]
    progress: Callable[[str, int], None] = lambda what, count: None
    #: checksums of pages this process landed itself: they need no reading to be known
    fresh: set[str] = field(default_factory=set)
    sleep: Callable[[float], None] = time.sleep
    #: what may still be spent, asked before each page; None: no limit
    left: Callable[[], Decimal | None] = lambda: None
    #: by schema and id: instruments that were registered while jobs ran, which their plan could not know
    registered: dict[str, dict[int, InstrumentFacts]] = field(default_factory=dict)
    live: BaseRealtimeExtractor | None = None

    @property
    def extractor(self) -> BaseHistoricalExtractor:
        """The vendor's past. Raises ConfigError where it has none."""
        if self.history is None:
            vendor = f"vendor {self.live.name!r}" if self.live else "the vendor"
            raise ConfigError(f"{vendor} has no historical data")
        return self.history

    def fills(self, schema: str) -> bool:
        """Whether what was not heard of a schema can be asked of the vendor's past."""
        return self.history is not None and self.history.fills(schema)

    def amended(self, job: Job) -> Job:
        """Return the job with the instruments that were registered since it was planned, on all its routes."""
        known = {instrument.id for instrument in job.instruments}
        new = {pk: facts for pk, facts in self.registered.get(job.schema, {}).items() if pk not in known}
        if not new:
            return job
        routes = tuple(
            replace(
                route,
                rules=tuple(replace(rule, instruments=rule.instruments | new.keys()) for rule in route.rules),
                home=route.home | new.keys() if route.home else route.home,
            )
            for route in job.routes
        )
        return replace(job, instruments=(*job.instruments, *new.values()), routes=routes)


@dataclass(slots=True)
class Outcome:
    """What a job did: fetches made, rows by destination, errors by what failed."""

    fetches: int = 0
    skipped: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    #: whether some of the errors may not come again
    transient: bool = False

    def add(self, other: "Outcome") -> None:
        """Add another outcome to this one."""
        self.fetches += other.fetches
        self.skipped += other.skipped
        for name, tally in other.tallies.items():
            self.tallies[name] = self.tallies.get(name, Tally()) + tally
        self.errors += other.errors
        self.transient |= other.transient
