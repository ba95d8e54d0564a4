"""A ledger in memory, for a bare shell and for tests: `run(job, Workshop(…, MemoryLedger(), …))`."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from decimal import Decimal

import pyarrow as pa

from catalog.errors import TransientError
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import RouteFacts
from flows.job import SymbolInterval
from flows.work import DeliveryRef
from flows.work import FetchRef
from flows.work import Tally


@dataclass(slots=True)
class MemoryDelivery:
    """A delivery and its account."""

    ref: DeliveryRef
    tally: Tally = field(default_factory=Tally)
    status: str = "pending"
    error: str = ""
    pending: int = 0


class MemoryLedger:
    """Keeps fetches, deliveries and quarantine in lists; gone with the process."""

    def __init__(self) -> None:
        self.fetches: list[FetchRef] = []
        self.requests: dict[int, Request] = {}
        self.made: list[MemoryDelivery] = []
        self.quarantined: dict[tuple[int, int, int], tuple[str, str, str]] = {}
        self.pages: dict[tuple[int, int], str] = {}
        self.errors: dict[int, str] = {}
        self.abandoned: set[int] = set()
        self.spending: dict[int, tuple[int, Decimal]] = {}

    def missing(self, request: Request) -> list[Request]:
        covered = {
            (self.requests[fetch.id].identity, instrument.id, instrument.start, instrument.end)
            for fetch in self._complete()
            for instrument in self.requests[fetch.id].instruments
        }
        left = tuple(
            instrument
            for instrument in request.instruments
            if (request.identity, instrument.id, instrument.start, instrument.end) not in covered
        )
        return [replace(request, instruments=left)] if left else []

    def unfinished(self, job: Job) -> list[tuple[FetchRef, Request]]:
        return [
            (fetch, replace(self.requests[fetch.id], job=job))
            for fetch in self.fetches
            if not fetch.complete
            and fetch.id not in self.abandoned
            and not self.requests[fetch.id].identity
            and fetch.schema == job.schema
        ]

    def abandon(self, fetch: FetchRef, reason: str) -> None:
        self.abandoned.add(fetch.id)
        self.errors[fetch.id] = reason

    def open_fetch(self, request: Request) -> FetchRef:
        for fetch in self.fetches:
            asked = self.requests[fetch.id]
            if (
                not fetch.complete
                and fetch.id not in self.abandoned
                and (asked.identity, asked.instruments) == (request.identity, request.instruments)
            ):
                return fetch
        fetch = FetchRef(len(self.fetches) + 1, request.job.source.name, request.job.schema, datetime.now(UTC))
        self.fetches.append(fetch)
        self.requests[fetch.id] = request
        return fetch

    def landed(self, fetch: FetchRef, pages: int, size: int, without: Collection[str] = ()) -> FetchRef:
        asked = self.requests[fetch.id]
        kept = tuple(one for one in asked.instruments if not {each.symbol for each in one.symbols} <= set(without))
        self.requests[fetch.id] = replace(asked, instruments=kept)
        done = replace(fetch, complete=True, parts=pages)
        self.fetches[fetch.id - 1] = done
        return done

    def register(self, request: Request, fetch: FetchRef, symbols: Sequence[str]) -> tuple[InstrumentFacts, ...]:
        first = 1 + max(instrument.id for asked in self.requests.values() for instrument in asked.job.instruments)
        example = request.job.instruments[0].name
        made = tuple(
            InstrumentFacts(
                first + number,
                replace(example, symbol=symbol),
                (SymbolInterval(symbol),),
                request.start,
                request.end,
            )
            for number, symbol in enumerate(symbols)
        )
        job = replace(request.job, instruments=(*request.job.instruments, *made))
        self.requests[fetch.id] = replace(request, job=job, instruments=(*request.instruments, *made))
        return made

    def spent(self, fetch: FetchRef, requests: int, cost: Decimal) -> None:
        before = self.spending.get(fetch.id, (0, Decimal(0)))
        self.spending[fetch.id] = (before[0] + requests, before[1] + cost)

    def failed(self, fetch: FetchRef, error: str) -> None:
        self.errors[fetch.id] = error

    def deliveries(self, job: Job, fetch: FetchRef | None = None) -> list[DeliveryRef]:
        for complete in [fetch] if fetch else list(self._complete()):
            for route in job.routes:
                if not any((d.ref.fetch.id, d.ref.destination) == (complete.id, route.destination) for d in self.made):
                    ref = DeliveryRef(len(self.made) + 1, complete, route.destination, complete.schema)
                    self.made.append(MemoryDelivery(ref))
        return [
            made.ref
            for made in self.made
            if made.status != "delivered" and (fetch is None or made.ref.fetch.id == fetch.id)
        ]

    def quarantine(self, fetch: FetchRef, part: int, rejected: pa.Table) -> None:
        for row in rejected.to_pylist():
            self.quarantined[fetch.id, part, row["row"]] = (row["rule"], row["reason"], row["raw"])

    def unparsable(self, fetch: FetchRef, part: int, reason: str) -> None:
        self.pages[fetch.id, part] = reason

    def changing(self, route: RouteFacts, schema: str, fetch: FetchRef, since: Mapping[int, datetime]) -> None:
        # nothing is derived here
        return None

    def advance(self, delivery: DeliveryRef, cursor: int, tally: Tally) -> None:
        made = self.made[delivery.id - 1]
        if made.ref.cursor != delivery.cursor:
            raise TransientError(f"delivery {delivery.id} was moved by another run")
        made.ref = replace(made.ref, cursor=cursor)
        made.tally += tally

    def finish(self, delivery: DeliveryRef, error: str = "", pending: int = 0) -> None:
        made = self.made[delivery.id - 1]
        made.status, made.error, made.pending = ("failed" if error else "delivered"), error, pending

    def confirmed(self, fetch: FetchRef) -> dict[int, list[tuple[datetime, datetime]]]:
        windows: dict[int, list[tuple[datetime, datetime]]] = {}
        for later in self._complete():
            if later.id > fetch.id and self.requests[later.id].identity == self.requests[fetch.id].identity:
                for instrument in self.requests[later.id].instruments:
                    windows.setdefault(instrument.id, []).append((instrument.start, instrument.end))
        return windows

    def cursors(self, fetch: FetchRef) -> list[int]:
        return sorted({d.ref.cursor for d in self.made if d.ref.fetch.id == fetch.id and d.status != "delivered"})

    def _complete(self) -> Iterator[FetchRef]:
        return (fetch for fetch in self.fetches if fetch.complete)
