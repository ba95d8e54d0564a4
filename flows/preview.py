"""A look before a run: what a job would ask the vendor, and the first rows it would give. Nothing is stored.

The first rows go the same way as in a run (pages → landing → parse → refine), over a landing in a temporary
folder, so what is shown is what would be delivered. Size and time are bounded: a vendor is asked for little,
and of a page only the first part is read.
"""

import re
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from typing import Final
from typing import NoReturn
from typing import TypeVar

import pyarrow as pa

from catalog.errors import TransientError
from catalog.schemas import FETCH_ID
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.job import Job
from flows.job import Request
from flows.job import describe
from flows.landing import LandedPage
from flows.landing import Landing
from flows.memory import MemoryLedger
from flows.pipeline import refine
from flows.work import FetchRef
from flows.work import RefinedBatch
from flows.work import Workshop

ROWS: Final = 10
SECONDS: Final = 20.0
#: of one page; enough for the first rows of any text, and for whole pages of an API
PAGE_BYTES: Final = 32 << 20
#: requests of a job, and pages of a request, that are looked into before giving up
_TRIES: Final = 3
#: how far back the first rows are asked: over a weekend for bars, a busy minute for ticks
_LOOK_BACK: Final = {"1w": 60, "1mo": 120, "1d": 14}
_INTRADAY_DAYS: Final = 4
_TICK_HOUR: Final = 15

_NO_FRACTION: Final = re.compile(r"\.0+(?=Z|$)|(?<=[1-9])0+(?=Z|$)")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A raw row beside what became of it: accepted, rejected, filtered or duplicate."""

    state: str
    raw: dict[str, str]
    refined: dict[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(slots=True)
class FirstRows:
    """The first rows of a job, and what was asked for them."""

    job: Job
    requests: int = 0
    pages: int = 0
    bytes: int = 0
    rows: list[ShownRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def raw_columns(self) -> list[str]:
        """Names of the raw columns, in the order they came."""
        return list(dict.fromkeys(name for row in self.rows for name in row.raw))

    @property
    def refined_columns(self) -> list[str]:
        """Names of the refined columns that hold anything in these rows."""
        return list(dict.fromkeys(name for row in self.rows for name, value in row.refined.items() if value))


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """One request a run would make, and the parts of it that are not covered yet: none where everything is."""

    request: Request
    missing: list[Request]


def asked(
    job: Job, extractor: BaseHistoricalExtractor, missing: Callable[[Request], list[Request]], most: int
) -> list[AskedRequest]:
    """Return the first `most` requests of a job with what the ledger lacks of each; asks no vendor."""
    return [
        AskedRequest(request, [request] if job.again else missing(request))
        for request in islice(extractor.requests(job), most)
    ]


def first_rows(
    job: Job, extractor: BaseHistoricalExtractor, *, rows: int = ROWS, seconds: float = SECONDS
) -> FirstRows:
    """Return the first rows of a job; asks the vendor, stores nothing.

    Raises what the vendor's border raises, and TransientError when there is no answer in time.
    """
    deadline = time.monotonic() + seconds
    small = sample(job, datetime.now(UTC)) if extractor.windowed else job
    found = FirstRows(small)

    def look() -> None:
        resolved = extractor.resolve(small)
        with tempfile.TemporaryDirectory(prefix="dataflow-first-rows-") as folder:
            landing = Landing(Path(folder))
            for number, request in enumerate(islice(extractor.requests(resolved), _TRIES), start=1):
                found.requests = number
                _look(_Look(request, number, extractor, landing, deadline), found, rows)
                if len(found.rows) >= rows:
                    break

    within(seconds, look)
    return found


def sample(job: Job, now: datetime) -> Job:
    """Return the job cut to its first instrument and a short window before now, inside its own.

    The window holds at least one trading day for bars; for ticks it is one minute at 15:00 UTC, when most
    markets are open, of the last weekday.
    """
    first = job.instruments[0]
    end = min(first.end, now)
    timeframe = schema_called(job.schema).timeframe
    if timeframe:
        start = end - timedelta(days=_LOOK_BACK.get(timeframe, _INTRADAY_DAYS))
    else:
        day = end - timedelta(days=1)
        while day.weekday() > 4:
            day -= timedelta(days=1)
        start = day.replace(hour=_TICK_HOUR, minute=0, second=0, microsecond=0)
        start, end = (start, start + timedelta(minutes=1)) if start < end else (end - timedelta(minutes=1), end)
    return replace(job, instruments=(replace(first, start=max(first.start, start), end=end),))


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Return what `work` returns; TransientError when it takes longer. It then ends by itself, unheard."""
    outcome: list[Result] = []
    failure: list[Exception] = []

    def attempt() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001  # raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=attempt, name="preview", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TransientError(f"no answer within {seconds:g} seconds")
    return outcome[0]


@dataclass(frozen=True, slots=True)
class _Look:
    request: Request
    number: int
    extractor: BaseHistoricalExtractor
    landing: Landing
    deadline: float


def _look(look: _Look, found: FirstRows, rows: int) -> None:
    """Land the first pages of a request and refine their first rows one by one."""
    source = look.request.job.source.name
    look.landing.begin(source, look.number, describe(look.request))
    limit = _Limit(PAGE_BYTES, look.deadline)
    parts = 0
    for page in islice(look.extractor.pages(look.request), _TRIES):
        manifest = look.landing.write(source, look.number, parts, replace(page, content=limit.cut(page.content)))
        parts += 1
        found.bytes += manifest.bytes
        if limit.reached:
            break
    found.pages += parts
    fetch = FetchRef(look.number, source, look.request.job.schema, datetime.now(UTC), True, parts)
    one_by_one = _OneByOne(look.extractor, rows - len(found.rows))
    workshop = Workshop(one_by_one, look.landing, MemoryLedger(), _no_sink)  # type: ignore[arg-type]  # parse and options
    seen: dict[tuple[Any, ...], dict[str, str]] = {}
    for batch in refine(fetch, workshop):
        if batch.unparsable:
            cut = f" (only the first {PAGE_BYTES >> 20} MiB of it were read)" if limit.reached else ""
            found.notes.append(f"page {batch.part} cannot be parsed{cut}: {batch.unparsable}")
        else:
            found.rows += _shown(batch, one_by_one.raw, seen)


class _OneByOne:
    """An extractor whose batches hold one row each, so that a refined row is beside the raw row it came from."""

    def __init__(self, extractor: BaseHistoricalExtractor, rows: int) -> None:
        self.options = extractor.options
        self.window_column = extractor.window_column
        self.extractor = extractor
        self.left = rows
        #: the row of the batch given last; empty where the vendor's bytes were no row at all
        self.raw: dict[str, str] = {}

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the first rows of a page, one by one."""
        if self.left <= 0:
            return
        for batch in self.extractor.parse(page, state):
            rejected = batch.rejected.slice(0, self.left)
            if rejected.num_rows:
                self.left -= rejected.num_rows
                self.raw.clear()
                yield Batch(batch.schema, batch.table.slice(0, 0), rejected)
            for offset in range(min(self.left, batch.table.num_rows)):
                one = batch.table.slice(offset, 1)
                self.left -= 1
                self.raw.clear()
                self.raw |= {name: _text(value) for name, value in _values(one).items() if name != ROW}
                yield Batch(batch.schema, one)
            if self.left <= 0:
                return


def _shown(batch: RefinedBatch, raw: dict[str, str], seen: dict[tuple[Any, ...], dict[str, str]]) -> Iterator[ShownRow]:
    for row in batch.rejected.to_pylist():
        yield ShownRow("rejected", dict(raw) or {"raw": _text(row["raw"])}, {}, _text(row["reason"]))
    if batch.accepted.num_rows:
        yield _accepted(batch.schema, batch.accepted, dict(raw), seen)
    elif batch.filtered:
        yield ShownRow("filtered", dict(raw), {}, "outside the window or of an instrument that is not asked")


def _accepted(
    schema: Schema, table: pa.Table, raw: dict[str, str], seen: dict[tuple[Any, ...], dict[str, str]]
) -> ShownRow:
    refined = {name: _text(value) for name, value in _values(table).items() if name != FETCH_ID}
    key = tuple(refined[name] for name in schema.key)
    before = seen.setdefault(key, refined)
    if before is refined:
        return ShownRow("accepted", raw, refined)
    if before == refined:
        return ShownRow("duplicate", raw, refined, "the same row came before")
    return ShownRow("rejected", raw, {}, "one row for each key: another row of this key came before")


class _Limit:
    """Cuts what is read of a vendor's pages, in bytes and in time."""

    def __init__(self, size: int, deadline: float) -> None:
        self.left = size
        self.deadline = deadline
        self.reached = False

    def cut(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content until the limit is reached."""
        for block in content:
            if time.monotonic() > self.deadline:
                raise TransientError("the page did not arrive in time")
            if len(block) > self.left:
                self.reached = True
                yield block[: self.left]
                return
            self.left -= len(block)
            yield block


def _values(table: pa.Table) -> dict[str, Any]:
    """Return the one row of a table; nanoseconds stay exact."""
    return {
        name: _instant(table[name].cast(pa.string())[0].as_py())
        if pa.types.is_timestamp(table[name].type)
        else table[name][0].as_py()
        for name in table.column_names
    }


def _instant(text: str | None) -> str | None:
    """Return a time without the digits that say nothing."""
    return text and _NO_FRACTION.sub("", text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value.normalize():f}" if isinstance(value, Decimal) and value.is_finite() else str(value)


def _no_sink(route: Any, job: Any) -> NoReturn:
    raise AssertionError("a preview delivers nothing")
