"""What the catalog holds of the rows a file names, read with a handful of queries however many they are."""

from collections.abc import Collection
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import TypeVar

from django.db.models import Model
from django.db.models import QuerySet

from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Document
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

_Row = TypeVar("_Row", bound=Model)

# names in one query; Django gives SQLite at most 999 parameters
_CHUNK: Final = 900
# from here on it is faster to read the whole table once
_MANY: Final = 9000


class Interval(NamedTuple):
    """A symbol of an instrument in `[start, end)`."""

    symbol: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows by name, and what belongs to them by id."""

    #: all of them: few, and messages list their names
    sources: dict[str, DataSource]
    destinations: dict[str, OutputDestination]
    asset_ids: dict[AssetName, int]
    #: those that have an entry of their own
    assets: dict[AssetName, Asset]
    series: dict[str, TimeSeries]
    #: series → link → asset
    links: dict[int, dict[int, AssetName]]
    #: series → destination → route
    routes: dict[int, dict[int, Route]]
    #: (source, asset) → instrument, for the sources whose instruments the file names
    instruments: dict[tuple[str, AssetName], int]
    intervals: dict[tuple[str, AssetName], list[Interval]]


def read_stored(document: Document, *, lock: bool = False) -> Stored:
    """Read the rows that the entries of a document name; with `lock` nobody else can change them meanwhile."""

    def locked(rows: QuerySet[_Row]) -> QuerySet[_Row]:
        # nothing in SQLite, where the whole database is locked
        return rows.select_for_update() if lock else rows

    sources = {row.name: row for row in locked(DataSource.objects.order_by())}
    destinations = {row.name: row for row in locked(OutputDestination.objects.order_by())}
    asset_ids = _asset_ids(document)
    entered = {asset_ids[entry.asset] for entry in document.assets if entry.asset in asset_ids}
    assets = {
        AssetName(row.asset_class, row.symbol): row for row in _in(locked(Asset.objects.order_by()), "pk", entered)
    }
    ids = {entry.name for entry in document.series}
    series = {row.series_id: row for row in _in(locked(TimeSeries.objects.order_by()), "series_id", ids)}
    numbers = {row.pk for row in series.values()}
    links: dict[int, dict[int, AssetName]] = {}
    through = TimeSeries.assets.through.objects.order_by().values_list(
        "timeseries_id", "pk", "asset__asset_class", "asset__symbol"
    )
    for part in _parts(through, "timeseries_id", numbers):
        for number, link, asset_class, symbol in part:
            if number in numbers:
                links.setdefault(number, {})[link] = AssetName(asset_class, symbol)
    routes: dict[int, dict[int, Route]] = {}
    for route in _in(locked(Route.objects.order_by()), "series_id", numbers):
        routes.setdefault(route.series_id, {})[route.destination_id] = route
    named = {instrument.source for entry in document.assets for instrument in entry.instruments}
    return Stored(
        sources, destinations, asset_ids, assets, series, links, routes, _instruments(named), _intervals(named)
    )


def _asset_ids(document: Document) -> dict[AssetName, int]:
    """Return the ids of the assets that entries or series name; for a bare symbol those of every class."""
    symbols = {entry.asset.symbol for entry in document.assets}
    symbols |= {reference.name.symbol for entry in document.series for reference in entry.assets}
    rows = Asset.objects.order_by().values_list("pk", "asset_class", "symbol")
    return {
        AssetName(asset_class, symbol): pk
        for part in _parts(rows, "symbol", symbols)
        for pk, asset_class, symbol in part
        if symbol in symbols
    }


def _instruments(sources: Collection[str]) -> dict[tuple[str, AssetName], int]:
    rows = Instrument.objects.filter(source__name__in=sources).order_by()
    return {
        (source, AssetName(asset_class, symbol)): pk
        for pk, source, asset_class, symbol in rows.values_list(
            "pk", "source__name", "asset__asset_class", "asset__symbol"
        )
    }


def _intervals(sources: Collection[str]) -> dict[tuple[str, AssetName], list[Interval]]:
    rows = InstrumentSymbol.objects.filter(instrument__source__name__in=sources).order_by()
    found: dict[tuple[str, AssetName], list[Interval]] = {}
    for source, asset_class, asset, symbol, start, end in rows.values_list(
        "instrument__source__name",
        "instrument__asset__asset_class",
        "instrument__asset__symbol",
        "symbol",
        "start",
        "end",
    ):
        found.setdefault((source, AssetName(asset_class, asset)), []).append(Interval(symbol, start, end))
    return found


def _in(rows: QuerySet[_Row], name: str, wanted: Collection[Any]) -> Iterator[_Row]:
    """Yield the rows whose field is among many values."""
    for part in _parts(rows, name, wanted):
        yield from (row for row in part if getattr(row, name) in wanted)


def _parts(rows: QuerySet[Any, Any], name: str, wanted: Collection[Any]) -> Iterator[QuerySet[Any, Any]]:
    """Yield queries that together find every row whose field is among many values, and maybe others."""
    if len(wanted) > _MANY:
        yield rows
        return
    left = iter(wanted)
    while chunk := list(islice(left, _CHUNK)):
        yield rows.filter(**{f"{name}__in": chunk})
