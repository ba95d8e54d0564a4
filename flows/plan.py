"""Turns the active rows of the catalog into jobs: plain frozen data, made with a handful of queries.

Rows are read as values, never as objects, so that a catalog of 100,000 series plans in about a second.
Series that name the same instrument and schema are one extraction with united routes and windows.
"""

import gc
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.keys import InstrumentName
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas import bars_end
from flows import registry
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import RouteFacts
from flows.job import Rule
from flows.job import SourceFacts
from flows.job import StoredChain
from flows.job import SymbolInterval
from transforms.chains import read_chains


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of the catalog: names of series and sources (empty: all), a window, and whether to fetch again."""

    series: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    again: bool = False
    extractor_type: str = "historical"
    #: whether a run may cost more than is left of a source's budget
    allow_cost: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty window and naive times; ConfigError lists every fault."""
        faults = [
            f"{name} {moment.isoformat()} has no zone; accepted: e.g. 2024-01-02T00:00Z"
            for name, moment in (("start", self.start), ("end", self.end))
            if moment and moment.tzinfo is None
        ]
        if not faults and self.start and self.end and self.start >= self.end:
            faults.append(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")
        if faults:
            raise ConfigError(*faults)

    def describe(self) -> dict[str, Any]:
        """Return the selection as JSON for the ledger."""
        return {
            "series": list(self.series),
            "sources": list(self.sources),
            "start": self.start.isoformat() if self.start else None,
            "end": self.end.isoformat() if self.end else None,
            "again": self.again,
            "allow_cost": self.allow_cost,
        }


@dataclass(slots=True)
class _Part:
    """What is gathered for one job."""

    windows: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)
    rules: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    routes: dict[int, tuple[int, bool, set[int]]] = field(default_factory=dict)
    chains: dict[str, set[int]] = field(default_factory=dict)


def groups(selection: Selection) -> dict[tuple[str, str], int]:
    """Return the active groups `(extractor_type, source)` with their number of series."""
    found: dict[tuple[str, str], int] = {}
    for extractor_type, source in _selected(selection).values_list("extractor_type", "source__name"):
        found[extractor_type, source] = found.get((extractor_type, source), 0) + 1
    return dict(sorted(found.items()))


def plan(selection: Selection) -> list[Job]:
    """Return one job for each source and schema of the selection, sorted by name.

    Instruments that the series name and the source has not are made. Raises ConfigError, listing every
    name that does not exist.
    """
    _check_names(selection)
    with _uncollected():
        return _plan(selection)


def _plan(selection: Selection) -> list[Job]:
    rows = _considered(selection).values_list("id", "source_id", "schema", "start", "end", "transforms", "series_id")
    series = list(rows)
    chosen = set(selection.series)
    assets = _assets(selection)
    routes = _routes(selection)
    sources = {source.pk: source for source in DataSource.objects.filter(pk__in={row[1] for row in series})}
    instruments = _instruments(series, assets)
    # most series of a catalog differ in their assets only: what they share is looked at once
    alike: dict[_Shared, list[int]] = {}
    for pk, source_id, schema, start, end, transforms, series_id in series:
        wanted = not chosen or series_id in chosen
        shared = (source_id, schema, start, end, transforms, tuple(routes.get(pk, ())), wanted)
        numbers = alike.setdefault(shared, [])
        numbers += [instruments[source_id, asset][0] for asset in assets.get(pk, ())]
    parts: dict[tuple[int, str], _Part] = {}
    for shared, numbers in alike.items():
        _add(shared, numbers, parts, sources, selection)
    facts = _facts(sources, instruments)
    destinations = {destination.pk: destination for destination in OutputDestination.objects.all()}
    jobs = [
        Job(
            source=source_facts(sources[source_id]),
            schema=schema,
            instruments=tuple(
                InstrumentFacts(number, facts[number][0], facts[number][1], window[0], window[1])
                for number, window in sorted(part.windows.items())
            ),
            routes=tuple(
                _route(destinations[pk], part, selection.extractor_type, *part.routes[pk]) for pk in sorted(part.routes)
            ),
            chains=tuple(StoredChain(text, frozenset(numbers)) for text, numbers in sorted(part.chains.items())),
            again=selection.again,
            extractor_type=selection.extractor_type,
        )
        for (source_id, schema), part in parts.items()
        if part.windows
    ]
    return sorted(jobs, key=lambda job: (job.source.name, job.schema))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the cycle collector: planning makes a million objects and no cycle; looking at them doubles its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_RouteRow = tuple[int, str, int | None, bool, bool]
_Shared = tuple[int, str, datetime | None, datetime | None, str, tuple[_RouteRow, ...], bool]


def _add(
    shared: _Shared,
    numbers: list[int],
    parts: dict[tuple[int, str], _Part],
    sources: dict[int, DataSource],
    selection: Selection,
) -> None:
    source_id, schema, start, end, transforms, routes, wanted = shared
    part = parts.setdefault((source_id, schema), _Part())
    window = _window(sources[source_id], SCHEMAS.get(schema), start, end, selection) if wanted else None
    if window:
        low, high = window
        for number in numbers:
            known = part.windows.get(number, window)
            part.windows[number] = window if known == window else (min(known[0], low), max(known[1], high))
    # routes and chains are those of every series: what landed earlier is delivered by them too
    for destination, condition, batch_rows, required, home in routes:
        part.rules.setdefault((destination, condition), set()).update(numbers)
        rows, needed, homes = part.routes.get(destination, (0, False, set()))
        part.routes[destination] = (max(rows, batch_rows or 0), needed or required, homes)
        if home:
            homes.update(numbers)
    for chain in read_chains(transforms):
        if chain.stored:
            part.chains.setdefault(chain.text, set()).update(numbers)


def _considered(selection: Selection) -> QuerySet[TimeSeries]:
    """All active series of the sources the selection touches, chosen or not."""
    rows = TimeSeries.objects.filter(active=True, source__active=True, extractor_type=selection.extractor_type)
    if selection.series or selection.sources:
        rows = rows.filter(source__in=_selected(selection).values("source"))
    return rows.order_by()


def _selected(selection: Selection) -> QuerySet[TimeSeries]:
    rows = TimeSeries.objects.filter(active=True, source__active=True, extractor_type=selection.extractor_type)
    if selection.series:
        rows = rows.filter(series_id__in=selection.series)
    if selection.sources:
        rows = rows.filter(source__name__in=selection.sources)
    return rows.order_by()


def _check_names(selection: Selection) -> None:
    faults = []
    for thing, names, known in (
        ("series", selection.series, TimeSeries.objects.values_list("series_id", flat=True)),
        ("source", selection.sources, DataSource.objects.values_list("name", flat=True)),
    ):
        if names:
            field_name = "series_id__in" if thing == "series" else "name__in"
            have = set(known.filter(**{field_name: names}))
            faults += [unknown(thing, name, known[:20]) for name in names if name not in have]
    if faults:
        raise ConfigError(*faults)


def _assets(selection: Selection) -> dict[int, list[int]]:
    through = TimeSeries.assets.through.objects
    rows = through.values_list("timeseries_id", "asset_id")
    if selection.series or selection.sources:
        rows = rows.filter(timeseries__in=_considered(selection).values("pk"))
    found: dict[int, list[int]] = {}
    for series, asset in rows:
        found.setdefault(series, []).append(asset)
    return found


def _routes(selection: Selection) -> dict[int, list[_RouteRow]]:
    rows = Route.objects.filter(active=True, destination__active=True).order_by()
    if selection.series or selection.sources:
        rows = rows.filter(series__in=_considered(selection).values("pk"))
    found: dict[int, list[_RouteRow]] = {}
    for series, *route in rows.values_list(
        "series_id", "destination_id", "condition", "batch_rows", "required", "home"
    ):
        found.setdefault(series, []).append(tuple(route))  # type: ignore[arg-type]
    return found


def _instruments(
    series: Iterable[tuple[Any, ...]], assets: dict[int, list[int]]
) -> dict[tuple[int, int], tuple[int, str, str]]:
    """Return (source, asset) → (instrument id, asset class, symbol), making the instruments that lack."""
    pairs = {(row[1], asset) for row in series for asset in assets.get(row[0], ())}
    sources = {source for source, _ in pairs}

    def load() -> dict[tuple[int, int], tuple[int, str, str]]:
        rows = Instrument.objects.filter(source__in=sources).order_by()
        return {
            (source, asset): (pk, asset_class, symbol)
            for pk, source, asset, asset_class, symbol in rows.values_list(
                "id", "source_id", "asset_id", "asset__asset_class", "asset__symbol"
            )
        }

    known = load()
    lacking = sorted(pairs - known.keys())
    if lacking:
        Instrument.objects.bulk_create(
            (Instrument(source_id=source, asset_id=asset) for source, asset in lacking),
            batch_size=500,
            # another plan may be making the same ones
            ignore_conflicts=True,
        )
        known = load()
    return known


def _facts(
    sources: dict[int, DataSource], instruments: dict[tuple[int, int], tuple[int, str, str]]
) -> dict[int, tuple[InstrumentName, tuple[SymbolInterval, ...]]]:
    intervals: dict[int, list[SymbolInterval]] = {}
    symbols = InstrumentSymbol.objects.filter(instrument__source__in=sources).order_by("instrument", "start")
    for number, symbol, start, end in symbols.values_list("instrument_id", "symbol", "start", "end"):
        intervals.setdefault(number, []).append(SymbolInterval(symbol, start or EARLIEST, end or LATEST))
    return {
        number: (
            InstrumentName(sources[source].name, asset_class, symbol),
            tuple(intervals[number]) if number in intervals else (SymbolInterval(symbol),),
        )
        for (source, _), (number, asset_class, symbol) in instruments.items()
    }


def _window(
    source: DataSource, schema: Schema | None, start: datetime | None, end: datetime | None, selection: Selection
) -> tuple[datetime, datetime] | None:
    """Return the series' window cut to the selection's; None where nothing is left.

    What is asked of a vendor ends now, and for bars before the open of the first one that is not finished. What is live
    has no end.
    """
    latest = LATEST
    if selection.extractor_type == "historical" and registry.extractor(source.vendor, "historical").windowed:
        now = timezone.now().replace(microsecond=0)
        timeframe = schema.timeframe if schema else ""
        latest = LATEST if schema and schema.announced else bars_end(now, timeframe) if timeframe else now
    low = max(start or EARLIEST, selection.start or EARLIEST)
    high = min(end or latest, selection.end or latest, latest)
    return (low, high) if low < high else None


def source_facts(source: DataSource) -> SourceFacts:
    """Return a source as jobs carry it."""
    return SourceFacts(source.pk, source.name, source.vendor, source.options, source.secrets_prefix)


def _route(
    destination: OutputDestination,
    part: _Part,
    extractor_type: str,
    batch_rows: int,
    required: bool,
    home: Collection[int],
) -> RouteFacts:
    rules = tuple(
        Rule(frozenset(numbers), condition)
        for (pk, condition), numbers in sorted(part.rules.items())
        if pk == destination.pk
    )
    return RouteFacts(
        destination.pk,
        destination.name,
        destination.kind,
        destination.options,
        rules,
        destination.env_prefix or destination.name.upper().replace("-", "_"),
        batch_rows,
        required,
        frozenset(home),
        extractor_type,
    )
