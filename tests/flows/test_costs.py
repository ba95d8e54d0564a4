"""What a run costs is known before, refused beyond the budget, and in the ledger after; holes are asked one by one."""

import shutil
from collections.abc import Callable
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
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import Quarantined
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
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.twelvedata import TwelveDataStandIn

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
    # a window that was fetched before it began covers nothing
    windows += [(moment(low + length), moment(low)) for low, length in covered]
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


class KilledError(BaseException):
    """Stands for whatever ends a process."""


def kill_after(pages: int) -> Callable[[str, str, int], None]:
    landed = 0

    def count(source: str, what: str, number: int) -> None:
        nonlocal landed
        landed += what == "pages"
        if landed == pages:
            raise KilledError

    return count


def test_a_window_that_moved_on_is_gone_on_with(database: str, vendor: BinanceStandIn) -> None:
    series = crypto(vendor, "BTCUSDT", schema="ohlcv-1h")
    with pytest.raises(KilledError):
        ingest(Selection(end=day(20)), kill_after(3))
    # a day later the series asks for more: what has landed is not bought again, and what landed is delivered
    (outcome,) = ingest(Selection(end=day(21))).values()
    assert outcome.errors == []
    assert len(read("BTCUSDT", "ohlcv-1h")) == 21 * 24
    bought = [asked.question for asked in vendor.log]
    assert len(bought) == len(set(bought))
    assert not Fetch.objects.filter(complete=False).exists()
    assert series.pk


def test_what_was_begun_outside_of_what_is_asked_now_is_left(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", schema="ohlcv-1h")
    with pytest.raises(KilledError):
        ingest(Selection(end=day(20)), kill_after(2))
    ingest(Selection(start=day(5), end=day(6)))
    assert len(read("BTCUSDT", "ohlcv-1h")) == 24
    assert Fetch.objects.filter(complete=False).count() == 1


def test_a_corrected_symbol_is_another_question(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BITCOIN")
    (error,) = ingest(Selection())["coins"].errors
    assert "Invalid symbol" in error
    instrument = Instrument.objects.get()
    InstrumentSymbol.objects.create(instrument=instrument, symbol="BTCUSDT")
    assert ingest(Selection())["coins"].errors == []
    assert len(read("BITCOIN", "ohlcv-1d")) == 30
    assert not Quarantined.objects.exists()


def test_options_that_change_on_the_way_begin_the_fetch_anew(database: str, vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", schema="ohlcv-1h")
    with pytest.raises(KilledError):
        ingest(Selection(), kill_after(3))
    source = DataSource.objects.get()
    source.options |= {"page_rows": 50}
    source.save()
    assert ingest(Selection())["coins"].errors == []
    assert len(read("BTCUSDT", "ohlcv-1h")) == 30 * 24
    assert list(Fetch.objects.order_by("id").values_list("complete", flat=True)) == [False, True]


def test_again_means_all_of_it_and_only_once(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", schema="ohlcv-1h")
    with pytest.raises(KilledError):
        ingest(Selection(), kill_after(3))
    vendor.log.clear()
    assert ingest(Selection(again=True))["coins"].errors == []
    assert len(vendor.log) == 8
    assert len(read("BTCUSDT", "ohlcv-1h")) == 30 * 24


def test_one_symbol_in_trouble_does_not_stop_the_others(vendor: BinanceStandIn) -> None:
    crypto(vendor, "AAAUSDT", "BTCUSDT", "ETHUSDT")
    DataSource.objects.update(options=DataSource.objects.get().options | {"attempts": 2})
    klines = vendor.klines

    def broken(asked: Asked) -> Reply:
        return Reply({"msg": "oops"}, 500) if asked.params["symbol"] == "AAAUSDT" else klines(asked)

    vendor.klines = broken  # type: ignore[method-assign]
    outcome = ingest(Selection())["coins"]
    assert len(outcome.errors) == 1
    assert outcome.transient
    assert len(read("BTCUSDT", "ohlcv-1d")) == len(read("ETHUSDT", "ohlcv-1d")) == 30


def test_a_vendor_that_is_away_is_not_asked_for_every_symbol(vendor: BinanceStandIn) -> None:
    crypto(vendor, *(f"A{number}USDT" for number in range(10)))
    DataSource.objects.update(options=DataSource.objects.get().options | {"attempts": 1})
    vendor.fail("unavailable", times=100)
    assert len(ingest(Selection())["coins"].errors) == 3
    assert Fetch.objects.count() == 3


def test_the_budget_holds_while_a_run_goes_on(vendor: BinanceStandIn) -> None:
    crypto(vendor, "BTCUSDT", schema="ohlcv-1h")
    # one call is quoted, eight follow
    DataSource.objects.update(monthly_budget="1.00")
    (error,) = ingest(Selection())["coins"].errors
    assert "the month's budget is spent" in error
    assert spent(DataSource.objects.get().pk) == 1
    DataSource.objects.update(monthly_budget="10")
    assert ingest(Selection())["coins"].errors == []
    bought = [asked.question for asked in vendor.log]
    assert len(bought) == len(set(bought))


def test_a_full_disk_buys_nothing(vendor: BinanceStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    crypto(vendor, "BTCUSDT")
    usage = shutil.disk_usage
    monkeypatch.setattr("flows.landing.shutil.disk_usage", lambda path: usage(path)._replace(free=0))
    (error,) = ingest(Selection())["coins"].errors
    assert "free some space" in error
    assert vendor.log == []


@pytest.mark.parametrize(
    ("schema", "settled", "fetched", "covered"),
    [
        # a day that was over for less than the time is asked again, by its date
        ("ohlcv-1d", 30, "2024-01-20T10:33", "2024-01-19"),
        ("ohlcv-1d", 0, "2024-01-20T10:33", "2024-01-20"),
        ("ohlcv-1h", 2, "2024-01-20T10:33", "2024-01-20T08:00"),
        ("ohlcv-1w", 24, "2024-01-20T10:33", "2024-01-15"),
        # of events that are announced, today's may still come
        ("corporate_actions", 0, "2024-01-20T10:33", "2024-01-20"),
        ("trades", 1, "2024-01-20T10:33", "2024-01-20T09:33"),
    ],
)
def test_what_may_still_change_is_not_covered(schema: str, settled: int, fetched: str, covered: str) -> None:
    from catalog.schemas import schema as schema_called
    from flows.ledger import _settled

    moment = datetime.fromisoformat(fetched).replace(tzinfo=UTC) - timedelta(hours=settled)
    end = _settled(schema_called(schema), moment)
    if schema == "ohlcv-1h":
        # hours may open at half past: 07:30 closed at 08:30
        assert end == datetime(2024, 1, 20, 8, 0, tzinfo=UTC)
    assert end == datetime.fromisoformat(covered).replace(tzinfo=UTC)


def test_a_window_ends_now_even_where_both_ends_lie_ahead() -> None:
    from flows.plan import _window

    source = DataSource(name="x", vendor="binance")
    later = datetime.now(UTC) + timedelta(days=9)
    window = _window(source, None, None, later, Selection(end=later))
    assert window
    assert window[1] <= datetime.now(UTC)


def test_what_was_refused_is_kept_in_quarantine_and_asked_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with TwelveDataStandIn() as vendor:
        monkeypatch.setenv("TD_API_KEY", vendor.keys["API_KEY"])
        source = DataSource.objects.create(
            name="td", vendor="twelvedata", env_prefix="TD", options=vendor.options("ohlcv-1d") | {"first_pause": 0}
        )
        start, end = vendor.windows["ohlcv-1d"]
        series = TimeSeries.objects.create(series_id="td", source=source, schema="ohlcv-1d", start=start, end=end)
        known = vendor.symbols["ohlcv-1d"][0]
        for symbol in (known, "NOSUCH"):
            series.assets.add(Asset.objects.create(symbol=symbol, asset_class="equity"))
        Route.objects.create(series=series, destination=destination(), home=True)
        assert ingest(Selection())["td"].errors == []
        assert "symbol is known" in Quarantined.objects.get().rule
        assert list(Coverage.objects.order_by("id").values_list("refused", flat=True)) == [False, True]
        vendor.log.clear()
        ingest(Selection())
        assert [asked.params["symbol"] for asked in vendor.log if "symbol" in asked.params] == ["NOSUCH"]
        assert not Delivery.objects.exclude(status="delivered").exists()
