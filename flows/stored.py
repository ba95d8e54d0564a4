"""What is stored of each series: extents, rows, and the sessions of its calendar without any row."""

import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.keys import Key
from catalog.models import Instrument
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.schemas import schema as schema_called
from flows import registry
from flows.job import EARLIEST
from flows.job import LATEST
from flows.query import Home
from flows.query import open_home

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Stored:
    """One instrument of a series at its home. `gaps` is None where the asset names no calendar."""

    series: str
    key: Key
    destination: str
    first: datetime | None
    last: datetime | None
    rows: int
    gaps: tuple[date, ...] | None

    def describe(self, *, name_gaps: bool = False) -> dict[str, Any]:
        """Return the facts by column name; gaps as a number, or named."""
        gaps: object = None if self.gaps is None else len(self.gaps)
        if name_gaps and self.gaps:
            more = f" and {len(self.gaps) - _NAMED} more" if len(self.gaps) > _NAMED else ""
            gaps = ", ".join(day.isoformat() for day in self.gaps[:_NAMED]) + more
        return {
            "series": self.series,
            "key": str(self.key),
            "destination": self.destination,
            "first": self.first,
            "last": self.last,
            "rows": self.rows,
            "gaps": gaps,
        }


def inventory(series: Sequence[str] = ()) -> Iterator[Stored]:
    """Yield what is stored of the named series, or of all active ones; ConfigError names unknown ones."""
    wanted = TimeSeries.objects.filter(active=True)
    if series:
        wanted = TimeSeries.objects.filter(series_id__in=series)
        have = set(wanted.values_list("series_id", flat=True))
        lacking = [name for name in series if name not in have]
        if lacking:
            known = list(TimeSeries.objects.values_list("series_id", flat=True)[:_NAMED])
            raise ConfigError(*(unknown("series", name, known) for name in lacking))
    routes = (
        Route.objects.filter(series__in=wanted, active=True, home=True)
        .select_related("series__source", "destination")
        .order_by("series__series_id")
    )
    for route in routes:
        yield from _of_route(route)


def _of_route(route: Route) -> Iterator[Stored]:
    schema = schema_called(route.series.schema)
    if not registry.sink(route.destination.kind).readable:
        return
    instruments = Instrument.objects.filter(source=route.series.source, asset__series=route.series)
    homes = [
        Home(
            instrument,
            schema,
            route.destination.name,
            route.destination.kind,
            tuple(route.destination.options.items()),
        )
        for instrument in instruments.select_related("source", "asset").order_by("asset__symbol")
    ]
    if not homes:
        return
    with open_home(homes) as sink:
        extents = sink.extents(schema, [home.name for home in homes], EARLIEST, LATEST)
        for home in homes:
            first, last, rows = extents.get(home.name, (None, None, 0))
            gaps = None
            calendar = home.instrument.asset.calendar
            if calendar and first and last:
                times = sink.read(schema, [home.name], first, last + timedelta(seconds=1), columns=(schema.time,))
                gaps = missing_sessions(calendar, times[schema.time], intraday=schema.timeframe not in _DAILY)
            yield Stored(
                route.series.series_id, Key(home.instrument.key, schema.name), home.destination, first, last, rows, gaps
            )


_DAILY = ("1d",)


def missing_sessions(calendar: str, times: pa.ChunkedArray, *, intraday: bool) -> tuple[date, ...]:
    """Return the sessions between the first and last time that have no row.

    Daily bars carry the session's date; a time of day counts for the session whose trading day holds it.
    Raises ConfigError when no calendar has that name.
    """
    sessions = _sessions(calendar)
    bounds = pc.min_max(times.cast(pa.int64())).as_py()
    first = datetime.fromtimestamp(bounds["min"] / 1e9, UTC)
    last = datetime.fromtimestamp(bounds["max"] / 1e9, UTC)
    if intraday:
        positions = np.searchsorted(sessions.opens_nanos, times.cast(pa.int64()).to_numpy(), side="right") - 1
        days = {sessions.sessions[position].date() for position in np.unique(positions[positions >= 0])}
    else:
        days = set(pc.unique(pc.cast(times, pa.date32(), safe=False)).to_pylist())
    expected = sessions.sessions_in_range(str(first.date()), str(last.date()))
    return tuple(day.date() for day in expected if day.date() not in days)


@lru_cache(maxsize=32)
def _sessions(calendar: str) -> Any:
    import exchange_calendars

    try:
        # pandas 3.1 warns of what this library does inside
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # without a start it covers twenty years only
            return exchange_calendars.get_calendar(calendar, start="1960-01-01")
    except (exchange_calendars.errors.InvalidCalendarName, ValueError):
        names = exchange_calendars.get_calendar_names(include_aliases=False)
        raise ConfigError(unknown("calendar", calendar, names)) from None
