"""What a run costs is known before, refused beyond the budget, and in the ledger after; holes are asked one by one."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from hypothesis import given
from hypothesis import strategies as st

from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Route
from catalog.models import Run
from catalog.models import TimeSeries
from flows.costs import money
from flows.costs import spent
from flows.ingest import ingest
from flows.ledger import CatalogLedger
from flows.plan import Selection
from flows.plan import plan
from flows.query import read
from flows.workshops import workshop
from tests.flows.catalogs import destination
from tests.vendors.binance import BinanceStandIn

pytestmark = pytest.mark.django_db(transaction=True)

START = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


@pytest.fixture
def vendor() -> Iterator[BinanceStandIn]:
    with BinanceStandIn() as running:
        yield running


def crypto(vendor: BinanceStandIn, *symbols: str, schema: str = "ohlcv-1d", **fields: object) -> TimeSeries:
    options = {"base_url": vendor.url, "page_rows": 100, "price_per_request": "0.5", "first_pause": 0}
    source = DataSource.objects.get_or_create(name="coins", vendor="binance", defaults={"options": options})[0]
    made = TimeSeries.objects.create(
        series_id=f"coins-{schema}", source=source, schema=schema, start=day(0), end=day(30), **fields
    )
    for symbol in symbols:
        made.assets.add(Asset.objects.get_or_create(symbol=symbol, asset_class="crypto")[0])
    Route.objects.create(series=made, destination=destination(), home=True)
    return made


def test_what_was_spent_is_in_the_ledger(database: str, vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", "ETHUSDT")
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    assert [(fetch.requests, fetch.cost) for fetch in Fetch.objects.all()] == [(1, Decimal("0.5"))] * 2
    assert spent(DataSource.objects.get().pk) == 1
    assert len(read("BTCUSDT", "ohlcv-1d")) == 30
    # nothing is asked again, and nothing is spent
    ingest(Selection())
    assert spent(DataSource.objects.get().pk) == 1


def test_a_run_beyond_the_budget_is_refused_with_the_figures(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", "ETHUSDT")
    DataSource.objects.update(monthly_budget="1.20")
    assert ingest(Selection(end=day(10)))["coins"].errors == []
    (error,) = ingest(Selection())["coins"].errors
    assert error == (
        "source 'coins': this run would cost at least 1.00 in 2 requests; of the month's budget of 1.20 0.20 are left."
        " Ask for less, raise the budget, or run with --allow-cost"
    )
    assert len(vendor.log) == 2
    assert Run.objects.first().status == "failed"  # type: ignore[union-attr]
    with pytest.raises(CommandError, match="the month's budget"):
        call_command("ingest", stdout=StringIO(), verbosity=0)
    call_command("ingest", "--allow-cost", stdout=StringIO(), verbosity=0)
    assert len(read("BTCUSDT", "ohlcv-1d")) == 30
    assert Run.objects.first().selector["allow_cost"] is True  # type: ignore[union-attr]


def test_last_months_spending_is_no_longer_counted(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT")
    ingest(Selection())
    assert spent(DataSource.objects.get().pk) == Decimal("0.5")
    Fetch.objects.update(fetched_at=datetime.now(UTC) - timedelta(days=40))
    assert spent(DataSource.objects.get().pk) == 0


def test_the_plan_says_what_is_missing_and_what_it_costs(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", "ETHUSDT")
    ingest(Selection(start=day(10), end=day(20)))
    out = StringIO()
    call_command("plan", "--format", "json", stdout=out)
    assert '"missing": 4, "calls": "≥ 4"' in out.getvalue()
    assert '"cost": "≥ 2.00"' in out.getvalue()


def test_each_hole_is_asked_and_nothing_between_them(database: str, vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT")
    ingest(Selection(start=day(10), end=day(20)))
    vendor.log.clear()
    ingest(Selection())
    assert [(int(asked.params["startTime"]), int(asked.params["endTime"])) for asked in vendor.log] == [
        (_ms(day(0)), _ms(day(10)) - 1),
        (_ms(day(20)), _ms(day(30)) - 1),
    ]
    assert len(read("BTCUSDT", "ohlcv-1d")) == 30


def test_what_had_not_happened_when_it_was_asked_is_not_covered(vendor: BinanceStandIn) -> None:
    series = crypto(vendor, "BTCUSDT")
    ingest(Selection())
    # as if the fetch had been made on the 20th, of a window that reaches beyond it
    Fetch.objects.update(fetched_at=day(20))
    (job,) = plan(Selection())
    kit = workshop(job.source, CatalogLedger(Run()))
    (request,) = (part for whole in kit.extractor.requests(job) for part in kit.ledger.missing(whole))
    assert (request.start, request.end) == (day(20), day(30))
    assert series.pk


@pytest.mark.django_db
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=6))
def test_holes_and_coverage_are_the_window(covered: list[tuple[int, int]]) -> None:
    from flows.job import InstrumentFacts
    from flows.ledger import _holes
    from tests.flows.test_costs import day as moment

    asked = InstrumentFacts(1, None, (), moment(0), moment(30))  # type: ignore[arg-type]
    windows = [(moment(low), moment(low + length)) for low, length in covered]
    days = {number for low, length in covered for number in range(low, low + length)}
    holes = [number for hole in _holes(asked, windows) for number in range(_day(hole.start), _day(hole.end))]
    assert holes == sorted(set(range(30)) - days)


def test_a_failed_first_page_shows_and_stores_nothing(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT")
    out = StringIO()
    call_command("ingest", "--limit", stdout=out, verbosity=0)
    assert "accepted" in out.getvalue()
    assert len(vendor.log) == 1
    assert not Fetch.objects.exists()
    assert not Coverage.objects.exists()


def test_money_has_two_digits_and_no_more_than_it_needs() -> None:
    assert [money(Decimal(text)) for text in ("0", "1.5", "12.345", "0.000001", "1000")] == [
        "0.00", "1.50", "12.345", "0.000001", "1000.00",
    ]  # fmt: skip


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _day(moment: datetime) -> int:
    return (moment - START).days
