"""Many rows of everything, made in bulk: `fill(100_000)` takes a minute and shows how the pages bear it."""

from typing import Any

from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Quarantined
from catalog.models import Route
from catalog.models import Run
from catalog.models import TimeSeries


def fill(count: int) -> None:
    """Make `count` more of everything."""
    have = TimeSeries.objects.count()
    numbers = range(have, have + count)
    source = DataSource.objects.get_or_create(name="many", vendor="files", options={"path": "*"})[0]
    places = [OutputDestination.objects.get_or_create(name=name, kind="database")[0] for name in ("one", "two")]
    at = {"batch_size": 1000}
    assets = Asset.objects.bulk_create((Asset(asset_class="equity", symbol=f"SYM{n}") for n in numbers), **at)
    series = TimeSeries.objects.bulk_create(
        (TimeSeries(series_id=f"series-{n}", source=source, schema="ohlcv-1d") for n in numbers), **at
    )
    through = TimeSeries.assets.through
    through.objects.bulk_create(
        (through(timeseries=one, asset=asset) for one, asset in zip(series, assets, strict=True)), **at
    )
    Route.objects.bulk_create((Route(series=one, destination=place) for one in series for place in places), **at)
    instruments = Instrument.objects.bulk_create((Instrument(source=source, asset=asset) for asset in assets), **at)
    InstrumentSymbol.objects.bulk_create(
        (InstrumentSymbol(instrument=one, symbol=f"V{n}") for n, one in zip(numbers, instruments, strict=True)), **at
    )
    runs = Run.objects.bulk_create((Run(source=source) for _ in numbers), **at)
    window: dict[str, Any] = {"start": "2024-01-01T00:00Z", "end": "2024-02-01T00:00Z"}
    fetches = Fetch.objects.bulk_create(
        (Fetch(run=run, source=source, schema="ohlcv-1d", request_hash="x", **window) for run in runs), **at
    )
    Coverage.objects.bulk_create(
        (Coverage(fetch=fetch, instrument=one, **window) for fetch, one in zip(fetches, instruments, strict=True)), **at
    )
    Delivery.objects.bulk_create(
        (Delivery(fetch=fetch, destination=places[0], schema="ohlcv-1d") for fetch in fetches), **at
    )
    Quarantined.objects.bulk_create(
        (Quarantined(fetch=fetch, part=0, row=0, rule="r", reason="r", raw="{}") for fetch in fetches), **at
    )
