"""The tables of the catalog: sources, destinations, assets, instruments, series and routes."""

import csv
import io
import json
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Final

from django.db.models import QuerySet

from catalog.errors import ConfigError
from catalog.exchange import Document
from catalog.exchange import Fault
from catalog.exchange import read_series_csv
from catalog.exchange import write_series_csv
from catalog.exchange.entries import AssetEntry
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import AssetReference
from catalog.exchange.entries import Entry
from catalog.exchange.entries import InstrumentEntry
from catalog.exchange.entries import RouteEntry
from catalog.exchange.entries import SeriesEntry
from catalog.exchange.entries import SymbolEntry
from catalog.exchange.series_csv import COLUMNS
from catalog.exchange.series_csv import MAX_CELL
from catalog.exchange.series_csv import REQUIRED
from catalog.exchange.values import print_duration
from catalog.exchange.values import print_moment
from catalog.exchange.values import print_options
from catalog.exchange.values import read_duration
from catalog.exchange.values import read_flag
from catalog.exchange.values import read_moment
from catalog.exchange.values import read_options
from catalog.exchange.values import shown
from catalog.exchange.values import unknown_name
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.resources.base import CatalogResource
from catalog.resources.base import Reader
from catalog.resources.base import named
from catalog.resources.base import read_cells
from catalog.resources.files import Columns
from catalog.resources.files import FileRow

_MAX_COUNT: Final = 2**31 - 1


class DataSourceResource(CatalogResource):
    """Sources by name."""

    model = DataSource
    readers: Final[dict[str, Reader]] = {
        "name": str,
        "vendor": str,
        "options": read_options,
        "env_prefix": str,
        "settled_after": read_duration,
        "keep_landed": read_duration,
        "active": read_flag,
    }
    columns = Columns(tuple(readers))
    required = ("name", "vendor")

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        return Document(sources=list(_entries(self, rows, faults)))

    def cells(self, queryset: QuerySet[DataSource]) -> Iterator[Sequence[str]]:
        for name, vendor, options, prefix, *ages, active in sorted(queryset.values_list(*self.readers), key=_first):
            texts = [print_duration(age) if age else "" for age in ages]
            yield name, vendor, print_options(options), prefix, *texts, _flag(active)


class OutputDestinationResource(CatalogResource):
    """Destinations by name."""

    model = OutputDestination
    readers: Final[dict[str, Reader]] = {
        "name": str,
        "kind": str,
        "options": read_options,
        "env_prefix": str,
        "active": read_flag,
    }
    columns = Columns(tuple(readers))
    required = ("name", "kind")

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        return Document(destinations=list(_entries(self, rows, faults)))

    def cells(self, queryset: QuerySet[OutputDestination]) -> Iterator[Sequence[str]]:
        for name, kind, options, prefix, active in sorted(queryset.values_list(*self.readers), key=_first):
            yield name, kind, print_options(options), prefix, _flag(active)


class AssetResource(CatalogResource):
    """Assets by class and symbol."""

    model = Asset
    names: Final = ("asset_class", "symbol", "name", "mic", "currency", "calendar", "figi", "isin")
    columns = Columns(names, flags=())
    required = ("asset_class", "symbol")

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        assets = []
        for row in rows:
            if named(row, self.required, faults):
                values = read_cells(row, dict.fromkeys(self.names, str), Asset, faults)
                name = AssetName(row.cells["asset_class"], row.cells["symbol"])
                assets.append(AssetEntry(row.line, str(name), values, asset=name))
        return Document(assets=assets)

    def cells(self, queryset: QuerySet[Asset]) -> Iterator[Sequence[str]]:
        yield from sorted(queryset.values_list(*self.names))


class InstrumentResource(CatalogResource):
    """Instruments by source and asset; a file says all the symbols that a source has for an asset."""

    model = Instrument
    columns = Columns(("data_source", "asset", "symbols"), json=("symbols",), flags=())
    required = ("data_source", "asset", "symbols")

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        known = {(row.asset_class, row.symbol) for row in Asset.objects.only("asset_class", "symbol").order_by()}
        entries: dict[AssetName, tuple[int, list[InstrumentEntry]]] = {}
        lines: dict[tuple[str, AssetName], int] = {}
        for row in rows:
            if not named(row, ("data_source", "asset"), faults):
                continue
            try:
                asset = AssetName.parse(row.cells["asset"])
                symbols = [_symbol(row.line, item) for item in _list(row.cells["symbols"])]
            except ConfigError as error:
                faults += [Fault(row.line, "", message) for message in error.faults]
                continue
            source = row.cells["data_source"]
            first = lines.setdefault((source, asset), row.line)
            if first != row.line:
                faults.append(Fault(row.line, "", f"{source} and {asset} are given twice, first on line {first}"))
            elif tuple(asset) not in known:
                faults.append(Fault(row.line, "asset", f"asset {shown(str(asset))} is unknown; import it first"))
            else:
                _, instruments = entries.setdefault(asset, (row.line, []))
                instruments.append(InstrumentEntry(row.line, source, symbols))
        return Document(
            assets=[
                AssetEntry(line, str(asset), {}, asset=asset, instruments=instruments)
                for asset, (line, instruments) in entries.items()
            ]
        )

    def cells(self, queryset: QuerySet[Instrument]) -> Iterator[Sequence[str]]:
        rows = queryset.order_by().values_list("pk", "source__name", "asset__asset_class", "asset__symbol")
        symbols: dict[int, list[dict[str, str]]] = {}
        for number, symbol, start, end in InstrumentSymbol.objects.order_by("start", "symbol").values_list(
            "instrument_id", "symbol", "start", "end"
        ):
            entry = {"symbol": symbol, "start": print_moment(start), "end": print_moment(end)}
            symbols.setdefault(number, []).append({name: value for name, value in entry.items() if value})
        for number, source, asset_class, symbol in sorted(rows, key=lambda row: row[1:]):
            found = symbols.get(number)
            yield source, str(AssetName(asset_class, symbol)), json.dumps(found, ensure_ascii=False) if found else ""


class TimeSeriesResource(CatalogResource):
    """Series by id, with the columns of `import_timeseries_csv`."""

    model = TimeSeries
    columns = Columns(COLUMNS, lists=("assets", "output_destinations"))
    required = REQUIRED

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        # written again with a header of its own, so that one reader judges every series
        text = io.StringIO(newline="")
        names = [name for name in COLUMNS if any(name in row.cells for row in rows)]
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(names)
        lines: dict[int, int] = {}
        line = 2
        for row in rows:
            lines[line] = row.line
            cells = [row.cells.get(name, "") for name in names]
            writer.writerow(cells)
            line += 1 + sum(cell.count("\n") + cell.replace("\r\n", "").count("\r") for cell in cells)
        read = read_series_csv(text.getvalue())
        faults += [Fault(lines.get(fault.line, 1), fault.where, fault.message) for fault in read.faults]
        return Document(series=[_moved(entry, lines) for entry in read.series])

    def cells(self, queryset: QuerySet[TimeSeries]) -> Iterator[Sequence[str]]:
        wanted = set(queryset.order_by().values_list("series_id", flat=True))
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        for row in csv.DictReader(io.StringIO(write_series_csv(), newline="")):
            if row["series_id"] in wanted:
                yield [row[name] for name in COLUMNS]


class RouteResource(CatalogResource):
    """Routes by series and destination; routes that a file does not name stay."""

    model = Route
    readers: Final[dict[str, Reader]] = {
        "condition": str,
        "batch_rows": lambda cell: _count(cell),
        "required": read_flag,
        "active": read_flag,
    }
    columns = Columns(("series", "destination", "home", *readers), json=(), flags=("home", "required", "active"))
    required = ("series", "destination")

    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        by_series: dict[str, list[FileRow]] = {}
        for row in rows:
            if named(row, self.required, faults):
                by_series.setdefault(row.cells["series"], []).append(row)
        known = dict(TimeSeries.objects.order_by().values_list("series_id", "pk"))
        stored, assets = _routes_of(known, by_series)
        series = []
        for name, named_rows in by_series.items():
            if name not in known:
                message = unknown_name("series", name, known)
                faults += [Fault(row.line, "series", message) for row in named_rows]
                continue
            line = named_rows[0].line
            routes = {destination: RouteEntry(line, destination, home) for destination, home in stored[name].items()}
            told: dict[str, int] = {}
            for row in named_rows:
                destination = row.cells["destination"]
                if destination in told:
                    message = f"{name} to {destination} is given twice, first on line {told[destination]}"
                    faults.append(Fault(row.line, "destination", message))
                told.setdefault(destination, row.line)
                home = stored[name].get(destination, False)
                if row.cells.get("home"):
                    try:
                        home = read_flag(row.cells["home"])
                    except ConfigError as error:
                        faults.append(Fault(row.line, "home", str(error)))
                values = read_cells(row, self.readers, Route, faults)
                routes[destination] = RouteEntry(row.line, destination, home, values)
            references = [AssetReference(line, asset) for asset in assets[name]]
            series.append(SeriesEntry(line, name, {}, assets=references, routes=list(routes.values())))
        return Document(series=series)

    def cells(self, queryset: QuerySet[Route]) -> Iterator[Sequence[str]]:
        rows = queryset.order_by().values_list(
            "series__series_id", "destination__name", "home", "condition", "batch_rows", "required", "active"
        )
        for series, destination, home, condition, batch_rows, required, active in sorted(rows, key=lambda row: row[:2]):
            count = "" if batch_rows is None else str(batch_rows)
            yield series, destination, _flag(home, False), condition, count, _flag(required), _flag(active)


def _entries(
    resource: DataSourceResource | OutputDestinationResource, rows: Sequence[FileRow], faults: list[Fault]
) -> Iterator[Entry]:
    for row in rows:
        if named(row, resource.required, faults):
            yield Entry(row.line, row.cells["name"], read_cells(row, resource.readers, resource.model, faults))


def _routes_of(
    known: dict[str, int], wanted: dict[str, Any]
) -> tuple[dict[str, dict[str, bool]], dict[str, list[AssetName]]]:
    """Return destination → home, and the assets, of the series: what an import of routes leaves as it is."""
    stored: dict[str, dict[str, bool]] = {name: {} for name in wanted}
    assets: dict[str, list[AssetName]] = {name: [] for name in wanted}
    names = {pk: name for name, pk in known.items() if name in wanted}
    routes = Route.objects.order_by().values_list("series_id", "destination__name", "home")
    for series, destination, home in routes:
        if series in names:
            stored[names[series]][destination] = home
    links = TimeSeries.assets.through.objects.order_by()
    for series, asset_class, symbol in links.values_list("timeseries_id", "asset__asset_class", "asset__symbol"):
        if series in names:
            assets[names[series]].append(AssetName(asset_class, symbol))
    return stored, assets


def _moved(entry: SeriesEntry, lines: dict[int, int]) -> SeriesEntry:
    line = lines[entry.line]
    return SeriesEntry(
        line,
        entry.name,
        entry.values,
        source=entry.source,
        assets=[AssetReference(line, reference.name) for reference in entry.assets],
        routes=[RouteEntry(line, route.destination, route.home, route.values) for route in entry.routes],
    )


def _list(cell: str) -> list[Any]:
    accepted = 'accepted: e.g. [{"symbol": "ESM4", "start": "2024-01-01T00:00:00Z"}]'
    if not cell:
        return []
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"symbols {shown(cell)} are no JSON ({error}); {accepted}") from None
    if not isinstance(found, list):
        raise ConfigError(f"symbols {shown(cell)} are no list; {accepted}")
    return found


def _symbol(line: int, item: Any) -> SymbolEntry:
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("symbol"), str)
        or item.keys() - {"symbol", "start", "end"}
    ):
        raise ConfigError(f"{shown(item)} is no symbol; accepted: symbol, and start and end where it is not for ever")
    start, end = (read_moment(str(item[name])) if item.get(name) else None for name in ("start", "end"))
    if start and end and start >= end:
        raise ConfigError(f"symbol {shown(item['symbol'])}: end {print_moment(end)} is not after start")
    return SymbolEntry(line, item["symbol"], start, end)


def _count(cell: str) -> int:
    if not (cell.isascii() and cell.isdecimal()) or int(cell) > _MAX_COUNT:
        raise ConfigError(f"{shown(cell)} is no number of rows; accepted: whole numbers up to {_MAX_COUNT:,}")
    return int(cell)


def _flag(value: bool, default: bool = True) -> str:
    return "" if value == default else "true" if value else "false"


def _first(row: Sequence[Any]) -> Any:
    return row[0]
