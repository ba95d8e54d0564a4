"""Planning 100,000 series with routes and transforms, on SQLite and on the server."""

from collections.abc import Iterator

from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import seconds

SERIES = 100_000


def run() -> Iterator[Line]:
    from flows.plan import Selection
    from flows.plan import plan

    fill()
    plan(Selection())
    (taken,) = alternate(3, lambda: seconds(lambda: plan(Selection())))
    yield Line(f"plan {SERIES:,} series with routes and transforms", taken, 1.0, at_least=False, unit="s")
    empty()


def fill() -> None:
    from django.db import transaction

    from catalog.models import Asset
    from catalog.models import DataSource
    from catalog.models import OutputDestination
    from catalog.models import Route
    from catalog.models import TimeSeries

    source = DataSource.objects.create(name="planned", vendor="files", options={"path": "*.csv"})
    destination = OutputDestination.objects.create(name="planned", kind="database")
    with transaction.atomic():
        assets = Asset.objects.bulk_create(
            (Asset(symbol=f"P{number}", asset_class="equity") for number in range(SERIES)), batch_size=2000
        )
        chains = "sma(window=20); rsi(window=14) | store"
        series = TimeSeries.objects.bulk_create(
            (
                TimeSeries(series_id=f"p{number}", source=source, schema="ohlcv-1d", transforms=chains)
                for number in range(SERIES)
            ),
            batch_size=2000,
        )
        through = TimeSeries.assets.through
        through.objects.bulk_create(
            (through(timeseries=one, asset=asset) for one, asset in zip(series, assets, strict=True)), batch_size=2000
        )
        Route.objects.bulk_create(
            (Route(series=one, destination=destination, home=True) for one in series), batch_size=2000
        )


def empty() -> None:
    from catalog.models import TimeSeries

    TimeSeries.objects.filter(source__name="planned").update(active=False)
