"""Reads everything stored, wherever it is: `read("AAPL", schema="ohlcv-1d").to_pandas()`.

An instrument is named by its key (`source:asset_class:symbol:schema`), by its first three parts, or by a
symbol alone where only one source has it. Rows come from the home route of the series that collects them.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from django.db.models import QuerySet

from catalog.errors import ConfigError
from catalog.keys import InstrumentName
from catalog.keys import Key
from catalog.models import Instrument
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows import registry
from flows.job import EARLIEST
from flows.job import LATEST
from flows.sinks.base import ReadableSink
from flows.workshops import target
from transforms.base import BaseTransformer

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Home:
    """Where the rows of one instrument and schema are read."""

    instrument: Instrument
    schema: Schema
    destination: str
    kind: str
    options: tuple[tuple[str, object], ...]

    @property
    def name(self) -> str:
        """The text of the instrument."""
        return str(self.instrument.key)


def read(
    names: str | Iterable[str],
    schema: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    indicators: Sequence[str] = (),
    exact: bool = False,
    columns: Sequence[str] = (),
    venue: str | None = None,
) -> pa.Table:
    """Return the stored rows of instruments in `[start, end)`, sorted by instrument and key.

    Prices are float64, or decimal128(38,18) with `exact`; times are ns UTC. Each indicator is a chain such
    as `"sma(window=20)"` and adds its columns, computed from as many earlier bars as its warm-up needs; null
    inside it. `venue` keeps one venue's rows. Raises ConfigError naming every name that is unknown or
    ambiguous.
    """
    _check_window(start, end)
    homes = find([names] if isinstance(names, str) else list(names), schema)
    schemas = {home.schema.name for home in homes}
    if len(schemas) > 1:
        raise ConfigError(f"the keys name several schemas ({', '.join(sorted(schemas))}); read one at a time")
    chains = _make(indicators)
    low, high = start or EARLIEST, end or LATEST
    parts = []
    for destination in _by_destination(homes):
        with open_home(destination) as sink:
            if chains:
                parts += [_with_indicators(sink, home, low, high, chains, exact, venue) for home in destination]
            else:
                table = sink.read(
                    destination[0].schema,
                    [home.name for home in destination],
                    low,
                    high,
                    exact=exact,
                    columns=columns if not (venue and columns) else (*columns, "venue"),
                )
                parts.append(_of_venue(table, venue))
    return parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="default").unify_dictionaries()


def find(names: Sequence[str], schema: str | None = None) -> list[Home]:
    """Return where each name's rows are read; ConfigError lists every unknown or ambiguous name."""
    if not names:
        raise ConfigError("no instrument is named; accepted: a key such as files:equity:AAPL:ohlcv-1d, or a symbol")
    homes: list[Home] = []
    faults: list[str] = []
    for name in names:
        try:
            homes.append(_find(name, schema))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return homes


def open_home(homes: Sequence[Home]) -> ReadableSink:
    """Return the sink that all these homes share, ready for a with-statement."""
    ids = {home.name: home.instrument.pk for home in homes}
    first = homes[0]
    made: ReadableSink = registry.sink(first.kind)(dict(first.options), target(first.destination, ids))
    return made


def _find(name: str, schema: str | None) -> Home:
    parts = name.split(":")
    asked = schema
    instruments = Instrument.objects.select_related("source", "asset")
    if len(parts) == 4:
        key = Key.parse(name)
        if schema and schema != key.schema:
            raise ConfigError(f"key {name!r} is of schema {key.schema!r}, but {schema!r} is asked")
        asked = key.schema
        instruments = _named(instruments, key.instrument)
    elif len(parts) == 3:
        instruments = _named(instruments, InstrumentName.parse(name))
    else:
        instruments = instruments.filter(asset__symbol=name)
    known = {(instrument.source_id, instrument.asset_id): instrument for instrument in instruments}
    # by plain numbers, one step after another: joined into one query, a large catalog makes it slow
    assets: dict[int, list[int]] = {}
    through = TimeSeries.assets.through.objects.filter(asset__in={asset for _, asset in known})
    for series, asset in through.values_list("timeseries_id", "asset_id"):
        assets.setdefault(series, []).append(asset)
    routes = Route.objects.filter(series__in=assets, active=True, destination__kind__in=_readable_kinds())
    if asked and asked != "indicators":
        schema_called(asked)
        routes = routes.filter(series__schema=asked)
    candidates: dict[Key, Home] = {}
    for route in routes.select_related("destination", "series").order_by("-home", "pk"):
        for asset in assets[route.series_id]:
            instrument = known.get((route.series.source_id, asset))
            if instrument is None:
                continue
            found = asked or route.series.schema
            destination = route.destination
            options = tuple(destination.options.items())
            home = Home(instrument, schema_called(found), destination.name, destination.kind, options)
            candidates.setdefault(Key(instrument.key, found), home)
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        what = f" with schema {asked!r}" if asked else ""
        raise ConfigError(f"{name!r}{what} names no series with a readable route; see `manage.py series`")
    listed = ", ".join(str(key) for key in sorted(candidates)[:_SHOWN])
    raise ConfigError(f"{name!r} is ambiguous; accepted: {listed}")


def _named(instruments: QuerySet[Instrument], name: InstrumentName) -> QuerySet[Instrument]:
    return instruments.filter(source__name=name.source, asset__asset_class=name.asset_class, asset__symbol=name.symbol)


def _readable_kinds() -> list[str]:
    return [name for name, kind in registry.sinks().items() if kind.readable]


def _by_destination(homes: Sequence[Home]) -> list[list[Home]]:
    grouped: dict[str, list[Home]] = {}
    for home in homes:
        grouped.setdefault(home.destination, []).append(home)
    return list(grouped.values())


def _make(indicators: Sequence[str]) -> list[BaseTransformer]:
    if not indicators:
        return []
    from transforms.registry import make

    made: list[BaseTransformer] = []
    faults: list[str] = []
    for text in indicators:
        try:
            transformer = make(text)
        except ConfigError as error:
            faults += error.faults
            continue
        if not transformer.labels:
            faults.append(f"indicator {text!r} gives a table of its own, not columns beside the bars")
        elif transformer.inputs != 1:
            faults.append(f"indicator {text!r} takes {transformer.inputs} series; accepted here: those that take one")
        elif transformer.warmup_timeframe:
            # its value at a bar's time would know the rest of the coarser bar
            faults.append(
                f"indicator {text!r} gives values on bars of {transformer.warmup_timeframe}, not beside these;"
                " store it with the series and read the schema 'indicators'"
            )
        made.append(transformer)
    if faults:
        raise ConfigError(*faults)
    return made


def _with_indicators(
    sink: ReadableSink,
    home: Home,
    start: datetime,
    end: datetime,
    chains: Sequence[BaseTransformer],
    exact: bool,
    venue: str | None,
) -> pa.Table:
    needed: datetime = start
    for chain in chains:
        needed = min(needed, warm_start(sink, home.schema, home.name, start, chain))
    table = _of_venue(sink.read(home.schema, [home.name], needed, end, exact=exact), venue)
    refuse_several_venues(table, home.name)
    inside = pc.greater_equal(table[home.schema.time], pa.scalar(start, pa.timestamp("us", "UTC")))
    for chain in chains:
        values = chain.transform(table)
        for label in values.column_names[1:]:
            table = table.append_column(label, values[label])
    return table.filter(inside)


def warm_start(sink: ReadableSink, schema: Schema, name: str, start: datetime, chain: BaseTransformer) -> datetime:
    """Return where bars must be read from so that the chain's values are right from `start` on."""
    if chain.warmup is None or chain.warmup_timeframe:
        # anchored, or counted in bars coarser than the stored ones: from the first bar
        return EARLIEST
    return sink.tail(schema, name, start, chain.warmup) or start


def refuse_several_venues(table: pa.Table, name: str) -> None:
    """Raise ConfigError where bars of several venues share a time: an indicator of their mixture means nothing."""
    if "venue" in table.column_names:
        venues = pc.unique(table["venue"]).to_pylist()
        if len(venues) > 1:
            raise ConfigError(f"{name} has bars of several venues; choose one of: {', '.join(sorted(venues))}")


def _of_venue(table: pa.Table, venue: str | None) -> pa.Table:
    return table if venue is None else table.filter(pc.equal(table["venue"], venue))


def _check_window(start: datetime | None, end: datetime | None) -> None:
    faults = [
        f"{name} {moment.isoformat()} has no zone; accepted: aware times"
        for name, moment in (("start", start), ("end", end))
        if moment and moment.tzinfo is None
    ]
    if not faults and start and end and start >= end:
        faults.append(f"end {end.isoformat()} is not after start {start.isoformat()}")
    if faults:
        raise ConfigError(*faults)
