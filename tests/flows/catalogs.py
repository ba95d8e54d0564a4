"""Small catalogs for tests: rows of the real models, files of the real vendor."""

from collections.abc import Iterable
from pathlib import Path

from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries


def destination(name: str = "db", kind: str = "database", **options: object) -> OutputDestination:
    return OutputDestination.objects.get_or_create(name=name, kind=kind, options=options)[0]


def series(
    series_id: str,
    symbols: Iterable[str],
    *,
    source: str = "prices",
    schema: str = "ohlcv-1d",
    destinations: Iterable[OutputDestination] = (),
    asset_class: str = "equity",
    transforms: str = "",
    **options: object,
) -> TimeSeries:
    """A series of files in FILES_ROOT; the first destination is its home."""
    where = DataSource.objects.get_or_create(
        name=source, vendor="files", defaults={"options": {"path": "*.csv"} | options}
    )[0]
    made = TimeSeries.objects.create(series_id=series_id, source=where, schema=schema, transforms=transforms)
    for symbol in symbols:
        made.assets.add(Asset.objects.get_or_create(symbol=symbol, asset_class=asset_class)[0])
    for position, target in enumerate(destinations or [destination()]):
        Route.objects.create(series=made, destination=target, home=position == 0)
    return made


def daily_csv(path: Path, rows: Iterable[tuple[str, float]]) -> Path:
    """A file of daily bars around the given closes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["Date,Open,High,Low,Close,Volume"]
    lines += [f"{day},{close},{close + 1},{close - 1},{close},100" for day, close in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def days(count: int, close: float = 10, month: str = "2024-01") -> list[tuple[str, float]]:
    """Rows for the first days of a month."""
    return [(f"{month}-{number:02d}", close + number) for number in range(1, count + 1)]
