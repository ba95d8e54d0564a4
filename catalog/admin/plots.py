"""The latest rows of a series as a picture: an SVG made here, without a library in the browser."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

import pyarrow as pa
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http import HttpResponse
from django.utils.html import escape

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.models import Instrument
from catalog.models import TimeSeries
from catalog.schemas import SCHEMAS

if TYPE_CHECKING:
    from flows.query import Home

_ROWS: Final = 250
_WIDTH: Final = 900
_HEIGHT: Final = 220
_LEFT: Final = 70
_TOP: Final = 28
_BOTTOM: Final = 26
#: columns worth a line, the first that a schema has
_PLOTTED: Final = ("close", "price", "value")
#: readable on white and on black, since a picture does not know the page's theme
_GREY: Final = "#8b93a1"
_LINE: Final = "#a855f7"


def plotted(object_id: str, most: int) -> list[Instrument]:
    """Return the first instruments of a series whose rows can be drawn and read back."""
    if not object_id.isdecimal():
        return []
    series = TimeSeries.objects.filter(pk=object_id).select_related("source").first()
    if series is None or not _column(series.schema):
        return []
    routes = series.routes.filter(active=True).select_related("destination")
    if not any(route.destination.readable for route in routes):
        return []
    found = Instrument.objects.filter(source=series.source, asset__series=series)
    return list(found.select_related("source", "asset").order_by("asset__symbol")[:most])


def picture(request: HttpRequest, admin: Any, series_id: int, instrument_id: int) -> HttpResponse:
    """Return the picture, or one that says why there is none."""
    series = TimeSeries.objects.filter(pk=series_id).select_related("source").first()
    instrument = Instrument.objects.filter(pk=instrument_id).select_related("source", "asset").first()
    if not admin.has_view_or_change_permission(request, series):
        raise PermissionDenied
    name = f"{instrument.key}:{series.schema}" if series and instrument else ""
    try:
        times, values, column = _latest(name)
        content = draw(f"{name}, last {len(values)} × {column}", times, values) if values else say("no rows stored yet")
    except ConfigError:
        content = say("no rows can be read: the series has no readable route")
    except DataflowError as error:
        content = say(str(error)[:120])
    answer = HttpResponse(content, content_type="image/svg+xml")
    # opened by itself it is a document: it may load and run nothing
    answer["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    answer["Cache-Control"] = "private, max-age=60"
    return answer


def draw(title: str, times: Sequence[str], values: Sequence[float]) -> str:
    """Return a line chart; `times` are the labels of the values."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _TOP - _BOTTOM

    def across(position: int) -> float:
        return _LEFT + (width * position / (len(values) - 1) if len(values) > 1 else width / 2)

    def down(value: float) -> float:
        return _TOP + height * (1 - (value - low) / spread)

    points = " ".join(f"{across(position):.1f},{down(value):.1f}" for position, value in enumerate(values))
    parts = [_text(_LEFT, 16, title, weight="600")]
    for value in (low, (low + high) / 2, high) if high > low else (low,):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{down(value):.1f}" y2="{down(value):.1f}"'
            f' stroke="{_GREY}" stroke-opacity=".35"/>'
        )
        parts.append(_text(_LEFT - 8, down(value) + 4, f"{value:.6g}", anchor="end"))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.6"/>')
    if len(values) == 1:
        parts.append(f'<circle cx="{across(0):.1f}" cy="{down(values[0]):.1f}" r="3" fill="{_LINE}"/>')
    parts.append(_text(_LEFT, _HEIGHT - 6, times[0]))
    parts.append(_text(_WIDTH - 10, _HEIGHT - 6, f"{times[-1]} (UTC)", anchor="end"))
    return _svg(parts)


def say(message: str) -> str:
    """Return a picture of one sentence."""
    return _svg([_text(_LEFT, _HEIGHT / 2, message)])


def _latest(name: str) -> tuple[list[str], list[float], str]:
    """Return times, values and the column's name of the last rows at the series' home."""
    from flows.job import LATEST
    from flows.query import find
    from flows.query import open_home

    home: Home = find([name])[0]
    column = _column(home.schema.name)
    with open_home([home]) as sink:
        start = sink.tail(home.schema, home.name, LATEST, _ROWS)
        if start is None:
            return [], [], column
        table = sink.read(home.schema, [home.name], start, LATEST, columns=(home.schema.time, column))
    table = table.slice(max(0, table.num_rows - _ROWS))
    pairs = [
        (str(time)[:16], float(value))
        for time, value in zip(
            table[home.schema.time].cast(pa.timestamp("us", "UTC"), safe=False).to_pylist(),
            table[column].to_pylist(),
            strict=True,
        )
        if value is not None
    ]
    return [time for time, _ in pairs], [value for _, value in pairs], column


def _column(schema: str) -> str:
    names = [column.name for column in SCHEMAS[schema].columns] if schema in SCHEMAS else []
    return next((name for name in _PLOTTED if name in names), "")


def _svg(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_GREY}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
