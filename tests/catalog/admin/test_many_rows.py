"""Lists ask the same few questions however many rows there are."""

import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

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
from tests.catalog.admin.pages import url

#: queries of a list page: session, user, count and page, what the rows show of other tables, filters
MOST_QUERIES = 12
PAGES = [
    "/admin/",
    *(
        f"/admin/catalog/{model}/"
        for model in (
            "datasource", "asset", "instrument", "timeseries", "outputdestination", "route",
            "run", "fetch", "delivery", "quarantined",
        )  # fmt: skip
    ),
    "/admin/catalog/timeseries/?q=SYM1",
    "/admin/catalog/timeseries/?asset_class=equity&vendor=files&active__exact=1",
    "/admin/catalog/instrument/?q=V1",
    "/admin/catalog/route/?q=series",
    "/admin/autocomplete/?app_label=catalog&model_name=timeseries&field_name=assets&term=SYM",
    "/admin/autocomplete/?app_label=catalog&model_name=route&field_name=series&term=",
]


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


def queries(client: Client, page: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(page).status_code == 200
    return len(captured)


@pytest.mark.parametrize("page", PAGES)
def test_a_list_asks_as_many_questions_for_three_hundred_rows_as_for_three(page: str, boss: Client) -> None:
    fill(3)
    boss.get(page)  # content types are asked once
    few = queries(boss, page)
    fill(300)
    assert queries(boss, page) == few <= MOST_QUERIES


def test_a_page_of_a_row_asks_few_questions(boss: Client) -> None:
    fill(3)
    for model, row in (("timeseries", TimeSeries), ("asset", Asset), ("fetch", Fetch), ("run", Run)):
        page = url(model, "change", row.objects.first().pk)
        boss.get(page)
        few = queries(boss, page)
        fill(100)
        assert queries(boss, page) == few


def test_an_action_on_many_rows_is_a_handful_of_statements(boss: Client) -> None:
    fill(1500)
    first = TimeSeries.objects.values_list("pk", flat=True)[0]
    posted = {"action": "deactivate", "_selected_action": [first], "select_across": "1", "index": "0"}
    with CaptureQueriesContext(connection) as captured:
        boss.post(url("timeseries"), posted)
    assert not TimeSeries.objects.filter(active=True).exists()
    assert len(captured) < 40


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_lists_of_a_hundred_thousand_series(boss: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how long each page takes; half a second is the aim on an idle machine."""
    fill(100_000)
    times = {}
    for page in PAGES:
        boss.get(page)
        began = time.perf_counter()
        assert queries(boss, page) <= MOST_QUERIES
        times[page] = time.perf_counter() - began
    with capsys.disabled():
        for page, seconds in times.items():
            print(f"\n{seconds * 1000:6.0f} ms  {page}", end="")
