"""Writes the catalog as one YAML file: rows sorted by name, what has its default left out."""

from collections.abc import Iterator
from collections.abc import Mapping
from datetime import datetime
from datetime import timedelta
from typing import Any

from catalog.exchange.entries import AssetName
from catalog.exchange.intervals import sort_key
from catalog.exchange.shapes import ASSET
from catalog.exchange.shapes import DESTINATION
from catalog.exchange.shapes import ROUTE
from catalog.exchange.shapes import SERIES
from catalog.exchange.shapes import SOURCE
from catalog.exchange.shapes import SYMBOL
from catalog.exchange.shapes import VERSION
from catalog.exchange.shapes import Shape
from catalog.exchange.shapes import default
from catalog.exchange.stored import Interval
from catalog.exchange.values import print_duration
from catalog.exchange.values import print_moment
from catalog.exchange.values import print_transforms
from catalog.exchange.yaml_text import Bare
from catalog.exchange.yaml_text import print_yaml
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries


def write_catalog() -> str:
    """Return the whole catalog as canonical YAML, LF line ends."""
    sections = {"sources": _sources(), "assets": _assets(), "destinations": _destinations(), "series": _series()}
    blocks = [[f"version: {VERSION}"]]
    blocks += [list(print_yaml({name: rows})) for name, entries in sections.items() if (rows := list(entries))]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _sources() -> Iterator[dict[str, Any]]:
    rows = DataSource.objects.order_by().values(*SOURCE.keys)
    return (_entry(SOURCE, row) for row in sorted(rows, key=lambda row: row["name"]))


def _destinations() -> Iterator[dict[str, Any]]:
    rows = OutputDestination.objects.order_by().values(*DESTINATION.keys)
    return (_entry(DESTINATION, row) for row in sorted(rows, key=lambda row: row["name"]))


def _assets() -> Iterator[dict[str, Any]]:
    symbols: dict[int, dict[str, list[Interval]]] = {}
    for asset, source, symbol, start, end in InstrumentSymbol.objects.order_by().values_list(
        "instrument__asset_id", "instrument__source__name", "symbol", "start", "end"
    ):
        symbols.setdefault(asset, {}).setdefault(source, []).append(Interval(symbol, start, end))
    rows = Asset.objects.order_by().values("pk", *ASSET.keys)
    for row in sorted(rows, key=lambda row: (row["asset_class"], row["symbol"])):
        entry = _entry(ASSET, row)
        if row["pk"] in symbols:
            entry["instruments"] = {
                source: [_entry(SYMBOL, interval._asdict()) for interval in sorted(intervals, key=sort_key)]
                for source, intervals in sorted(symbols[row["pk"]].items())
            }
        yield entry


def _series() -> Iterator[dict[str, Any]]:
    assets: dict[int, list[str]] = {}
    for series, asset_class, symbol in TimeSeries.assets.through.objects.order_by().values_list(
        "timeseries_id", "asset__asset_class", "asset__symbol"
    ):
        assets.setdefault(series, []).append(str(AssetName(asset_class, symbol)))
    routes = _routes()
    names = {**dict.fromkeys(SERIES.keys), "source": "source__name"}
    rows = TimeSeries.objects.order_by().values_list("pk", *(column or name for name, column in names.items()))
    for pk, *values in sorted(rows, key=lambda row: row[1]):
        row = dict(zip(names, values, strict=True))
        row["transforms"] = print_transforms(row["transforms"], row["schema"])
        entry = _entry(SERIES, row)
        entry["assets"] = sorted(assets.get(pk, ()))
        if pk in routes:
            entry["routes"] = routes[pk]
        yield entry


def _routes() -> dict[int, list[dict[str, Any]]]:
    """Return the routes of each series, home first; home is the first readable one, unless it is said."""
    destinations = {pk: (row.name, row.readable) for pk, row in OutputDestination.objects.in_bulk().items()}
    rows = list(Route.objects.order_by().values("series_id", "destination_id", *ROUTE.keys))
    homes = {row["series_id"] for row in rows if row["home"]}
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (not row["home"], destinations[row["destination_id"]][0])):
        name, readable = destinations[row["destination_id"]]
        entry = _entry(ROUTE, {**row, "destination": name, "home": False})
        if row["home"] and not readable:
            entry["home"] = True
        elif readable and row["series_id"] not in homes:
            entry["home"] = False
        found.setdefault(row["series_id"], []).append(entry)
    return found


def _entry(shape: Shape, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be said of a row: its name, what it needs, and what differs from the defaults."""
    needed = {*shape.identity, *shape.required}
    return {name: _value(row[name]) for name in shape.keys if name in needed or row[name] != default(shape.model, name)}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return Bare(print_moment(value))
    return print_duration(value) if isinstance(value, timedelta) else value
