"""Series as CSV: one line each, for people with spreadsheets.

`assets` are `asset_class:symbol` (or a symbol that only one class has), `output_destinations` names, both
separated by ';'. The first destination that can be read back is home; a '*' after a name makes that one
home, a '*' alone says that none is. A column that the file has not keeps what a series has, an empty cell is
the default. Conditions and batch sizes of routes are not in the file: routes keep theirs.

Symbols may begin with '=', '+', '-' or '@'. They are written as they are (percent-encoded, behind their
asset class) and never with a quote in front: a file that is exported and imported again must not change.
"""

import csv
import io
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Final

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.exchange.collector import collector_paused
from catalog.exchange.content import decode
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import AssetReference
from catalog.exchange.entries import Document
from catalog.exchange.entries import Fault
from catalog.exchange.entries import RouteEntry
from catalog.exchange.entries import SeriesEntry
from catalog.exchange.values import print_moment
from catalog.exchange.values import print_options
from catalog.exchange.values import print_transforms
from catalog.exchange.values import read_flag
from catalog.exchange.values import read_moment
from catalog.exchange.values import read_options
from catalog.exchange.values import shown
from catalog.exchange.values import text_fault
from catalog.exchange.values import unknown_name
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

REQUIRED: Final = ("series_id", "data_source", "extractor_type", "schema", "assets", "output_destinations")
#: column → how its cell is read
OPTIONAL: Final[dict[str, Callable[[str], Any]]] = {
    "transforms": str,
    "schedule": str,
    "timezone": lambda cell: cell or "UTC",
    "start": lambda cell: read_moment(cell) if cell else None,
    "end": lambda cell: read_moment(cell) if cell else None,
    "options": lambda cell: read_options(cell) if cell else {},
    "active": lambda cell: read_flag(cell) if cell else True,
}
COLUMNS: Final = (*REQUIRED, *OPTIONAL)

# the columns that hold what other names stand for in the catalog
_COLUMNS_OF: Final = {"source": "data_source"} | dict.fromkeys(("destination", "home", "routes"), "output_destinations")

#: a series of all symbols of a market fills a cell far beyond the 128 KiB that Python accepts by itself
MAX_CELL: Final = 16 << 20

_SEPARATOR: Final = ";"
_HOME: Final = "*"
_QUOTED: Final = frozenset(',"\r\n')


@collector_paused()
def read_series_csv(content: bytes | str) -> Document:
    """Read a CSV of series; the document carries every fault that can be seen without the catalog."""
    text = decode(content)
    if isinstance(text, Fault):
        return Document(faults=(text,))
    faults: list[Fault] = []
    rows = read_rows(text, faults)
    line, header = next(rows, (1, []))
    if not _check_header(line, header, faults):
        return Document(faults=faults)
    doubtful = bool(text_fault(text))
    series = []
    for line, row in rows:
        if len(row) != len(header):
            faults.append(Fault(line, "", f"the row has {len(row)} cells; accepted: {len(header)}, as in the header"))
            continue
        cells = dict(zip(header, row, strict=True))
        if doubtful:
            wrong = [(column, fault) for column, cell in cells.items() if (fault := text_fault(cell))]
            faults += [Fault(line, column, f"{shown(cells[column])} {fault}") for column, fault in wrong]
            # what is left of the row would be told as unknown names
            if wrong:
                continue
        series.append(_entry(line, cells, faults))
    return Document(series=series, faults=faults, columns=_COLUMNS_OF)


def write_series_csv(sources: Collection[str] = ()) -> str:
    """Return the series (of these sources; empty: all) as canonical CSV: sorted, every column, LF line ends."""
    rows = TimeSeries.objects.order_by()
    if sources:
        known = set(DataSource.objects.values_list("name", flat=True))
        if lacking := [name for name in sources if name not in known]:
            raise ConfigError(*(unknown_name("source", name, known) for name in lacking))
        rows = rows.filter(source__name__in=sources)
    assets: dict[int, list[str]] = {}
    links = TimeSeries.assets.through.objects.filter(timeseries__in=rows.values("pk")) if sources else None
    for series, asset_class, symbol in (
        (TimeSeries.assets.through.objects.all() if links is None else links)
        .order_by()
        .values_list("timeseries_id", "asset__asset_class", "asset__symbol")
    ):
        assets.setdefault(series, []).append(str(AssetName(asset_class, symbol)))
    destinations = _destinations(sources)
    lines = [",".join(COLUMNS)]
    for pk, *values in sorted(
        rows.values_list("id", "series_id", "source__name", "extractor_type", "schema", *OPTIONAL),
        key=lambda row: row[1],
    ):
        series_id, source, extractor_type, schema, transforms, schedule, zone, start, end, options, active = values
        cells = (
            series_id,
            source,
            extractor_type,
            schema,
            _SEPARATOR.join(sorted(assets.get(pk, ()))),
            destinations.get(pk, ""),
            print_transforms(transforms, schema),
            schedule,
            "" if zone == "UTC" else zone,
            print_moment(start),
            print_moment(end),
            print_options(options),
            "" if active else "false",
        )
        lines.append(",".join(map(print_cell, cells)))
    return "\n".join(lines) + "\n"


def read_rows(text: str, faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line where it begins; quoted cells may span several."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                faults.append(Fault(line, "", 'a cell opens a quote that is never closed; accepted: "…"'))
                return
            if "limit" in str(error):
                faults.append(Fault(line, "", f"a cell has over {MAX_CELL:,} characters; what follows was not read"))
                return
            faults.append(Fault(line, "", 'text follows the quote that closes a cell; accepted: "…" with "" inside'))
            continue
        if row:
            yield line, row


def _check_header(line: int, header: Sequence[str], faults: list[Fault]) -> bool:
    """Note what is wrong with the columns; false where the rows cannot be read by them."""
    if not header:
        faults.append(Fault(line, "", f"the file has no header; accepted: {', '.join(COLUMNS)}"))
        return False
    faults += [Fault(line, "", unknown("column", name[:100], COLUMNS)) for name in header if name not in COLUMNS]
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    faults += [Fault(line, "", f"column {shown(name)} is given {header.count(name)} times") for name in twice]
    lacking = [name for name in REQUIRED if name not in header]
    faults += [Fault(line, "", f"column {name!r} is required") for name in lacking]
    return not twice and not lacking


def _entry(line: int, cells: dict[str, str], faults: list[Fault]) -> SeriesEntry:
    values: dict[str, Any] = {"extractor_type": cells["extractor_type"], "schema": cells["schema"]}
    for column, read in OPTIONAL.items():
        if column in cells:
            try:
                values[column] = read(cells[column])
            except ConfigError as error:
                faults += [Fault(line, column, message) for message in error.faults]
    if not cells["series_id"]:
        faults.append(Fault(line, "series_id", "it is empty; accepted: a name"))
    return SeriesEntry(
        line,
        cells["series_id"],
        values,
        source=cells["data_source"],
        assets=_read_assets(line, cells["assets"], faults),
        routes=_read_routes(line, cells["output_destinations"]),
    )


def _split(cell: str) -> list[str]:
    return [part for part in map(str.strip, cell.split(_SEPARATOR)) if part]


def _read_assets(line: int, cell: str, faults: list[Fault]) -> Sequence[AssetReference]:
    names = []
    for part in _split(cell):
        try:
            names.append(AssetReference(line, AssetName.parse(part)))
        except ConfigError as error:
            faults += [Fault(line, "assets", message) for message in error.faults]
    if not cell.strip(" ;"):
        faults.append(Fault(line, "assets", "there are none; accepted: asset_class:symbol, separated by ';'"))
    return names


def _read_routes(line: int, cell: str) -> Sequence[RouteEntry]:
    parts = _split(cell)
    homeless = _HOME in parts
    routes = []
    for part in parts:
        name = part.removesuffix(_HOME).rstrip()
        home = True if name != part else False if homeless else None
        if name:
            routes.append(RouteEntry(line, name, home))
    return routes


def _destinations(sources: Collection[str]) -> dict[int, str]:
    """Return the cell of each series: home first, the others by name."""
    rows = Route.objects.order_by()
    if sources:
        rows = rows.filter(series__source__name__in=sources)
    readable = {pk: (row.name, row.readable) for pk, row in OutputDestination.objects.in_bulk().items()}
    routes: dict[int, list[tuple[bool, str, bool]]] = {}
    for series, destination, home in rows.values_list("series_id", "destination_id", "home"):
        name, can_be_read = readable[destination]
        routes.setdefault(series, []).append((not home, name, can_be_read))
    return {series: _print_routes(sorted(found)) for series, found in routes.items()}


def _print_routes(routes: Sequence[tuple[bool, str, bool]]) -> str:
    names = [name for _, name, _ in routes]
    away, first, can_be_read = routes[0]
    if not away and not can_be_read:
        names[0] = first + _HOME
    elif away and any(can_be_read for _, _, can_be_read in routes):
        names.append(_HOME)
    return _SEPARATOR.join(names)


def print_cell(text: str) -> str:
    """Return a text as a cell, in quotes where it needs them."""
    # Python's writer leaves a lone carriage return bare, which ends the line for every reader
    return text if _QUOTED.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
