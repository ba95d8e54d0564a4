"""Stored indicators while rows come: whatever is written, in whichever order, they end as those of all rows at once."""

import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.db import connection
from django.db import connections
from django.test.utils import CaptureQueriesContext

from catalog.models import Fetch
from catalog.models import Indicator
from catalog.models import IndicatorCursor
from catalog.models import Run
from catalog.models import TimeSeries
from catalog.schemas import INSTRUMENT
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from flows.delivery import Writer
from flows.derive import Follower
from flows.derive import store_indicators
from flows.hearing import CatalogLiveLedger
from flows.ingest import ingest
from flows.job import Request
from flows.plan import Selection
from flows.plan import plan
from flows.query import read
from flows.work import FetchRef
from flows.work import RefinedBatch
from flows.work import Workshop
from flows.workshops import landing
from flows.workshops import open_sink
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import destination
from tests.flows.catalogs import series
from transforms.registry import make

pytestmark = pytest.mark.django_db(transaction=True)

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CHAINS = "rsi(window=2) | store; obv | store; sma(window=3) | store; obv | ema(window=2) | store"


class Market:
    """One job of the catalog, and rows of it written as deliveries write them."""

    def __init__(
        self, schema: str, transforms: str, symbols: Iterable[str] = ("AAPL",), kind: str = "database"
    ) -> None:
        series("live", symbols, schema=schema, transforms=transforms, destinations=[destination("home", kind)])
        (self.job,) = plan(Selection())
        self.schema = schema_called(schema)
        self.ledger = CatalogLiveLedger(Run.objects.create())
        self.workshop = Workshop(None, landing(), self.ledger, open_sink)
        self.ids = {str(one.name): one.id for one in self.job.instruments}
        self.fetches: dict[int, int] = {}

    @property
    def number(self) -> int:
        return self.job.instruments[0].id

    @property
    def name(self) -> str:
        return str(self.job.instruments[0].name)

    def connected(self) -> FetchRef:
        """A live fetch: rows of it come for hours."""
        return self.ledger.begin(Request(self.job, self.job.instruments))

    def asked(self) -> FetchRef:
        """A complete fetch of the past."""
        return self.ledger.landed(self.ledger.open_fetch(Request(self.job, self.job.instruments)), 0, 0)

    def write(self, fetch: FetchRef, *rows: Mapping[str, Any], name: str = "") -> None:
        """Deliver rows of a fetch to the home."""
        columns: dict[str, Any] = {INSTRUMENT: pa.array([name or self.name] * len(rows)).dictionary_encode()}
        for field in list(self.schema.arrow)[1:]:
            values = [row.get(field.name, DEFAULTS.get(field.name)) for row in rows]
            columns[field.name] = pa.array(values, field.type)
        columns["fetch_id"] = pa.array([fetch.id] * len(rows), pa.int64())
        table = pa.table(columns).cast(self.schema.arrow).sort_by("ts_event")
        delivery = self.ledger.delivery(self.job, fetch, "home")
        assert delivery is not None
        (route,) = self.job.routes
        writer = Writer(delivery, route, self.workshop, self.ids, {})
        with open_sink(route, self.ids) as writer.sink:
            batch = RefinedBatch(
                delivery.cursor,
                self.schema,
                table,
                REJECTED.empty_table(),
                0,
                len(rows),
                end=delivery.cursor + len(rows),
            )
            writer.take(batch)
            writer.flush()

    def follower(self) -> Follower:
        return Follower(self.job, self.job.routes[0])

    def stored(self, chain: str, name: str = "") -> dict[datetime, float]:
        (label,) = make(chain).labels
        number = Indicator.objects.get(chain=label, input_schema=self.job.schema).pk
        rows = read(name or self.name, "indicators").to_pylist()
        return {row["ts_event"].to_pydatetime(): row["value"] for row in rows if row["indicator_id"] == number}

    def expected(self, chain: str, name: str = "", end: datetime | None = None) -> dict[datetime, float]:
        """The values of all rows at once."""
        rows = read(name or self.name, self.job.schema, exact=True, end=end)
        found = make(chain).transform(rows)
        return {
            moment.to_pydatetime(): value
            for moment, value in zip(found["ts_event"].to_pylist(), found.column(1).to_pylist(), strict=True)
            if value is not None
        }

    def agree(self, end: datetime | None = None) -> None:
        for chain in self.job.chains:
            for number in chain.instruments:
                name = next(text for text, known in self.ids.items() if known == number)
                assert self.stored(chain.chain, name) == pytest.approx(self.expected(chain.chain, name, end), rel=1e-9)


DEFAULTS = {"venue": "", "trade_id": "", "sequence": 0, "ordinal": 0, "volume": 100}


def bar(minute: int, close: int, **more: Any) -> dict[str, Any]:
    at = MONDAY + minute * MINUTE
    return {"ts_event": at, "open": close, "high": close + 1, "low": close - 1, "close": close} | more


def tick(seconds: float, price: int, size: int = 1) -> dict[str, Any]:
    return {
        "ts_event": MONDAY + timedelta(seconds=seconds),
        "sequence": round(seconds * 1000),
        "price": price,
        "size": size,
    }


def ticks(first: int, last: int) -> list[dict[str, Any]]:
    """Four trades a minute."""
    return [tick(15 * quarter, 100 + quarter * 7919 % 23) for quarter in range(4 * first, 4 * last)]


def bars(first: int, last: int) -> list[dict[str, Any]]:
    """Bars of a market that moves up and down."""
    return [bar(minute, 100 + minute * 7919 % 23) for minute in range(first, last)]


def test_values_follow_bars_that_come_are_revised_and_come_late(database: str) -> None:
    market = Market("ohlcv-1m", CHAINS)
    live = market.connected()
    follower = market.follower()
    market.write(live, *bars(0, 30))
    follower.follow()
    market.agree()
    # the connection is lost for a while
    for minute in range(40, 45):
        market.write(live, bars(minute, minute + 1)[0])
        follower.follow()
        market.agree()
    market.write(live, bar(43, 150))
    follower.follow()
    market.agree()
    # a fetch of the past has a higher number, and nobody says more of it to who follows
    market.write(market.asked(), *bars(30, 40))
    follower.follow()
    market.agree()
    # what was written with the number of the fill is still revised by the older fetch
    market.write(live, bar(44, 90), *bars(45, 46))
    follower.follow()
    market.agree()
    assert Fetch.objects.get(pk=live.id).complete is False
    assert follower.follow().tallies == {}


@pytest.mark.parametrize("live_again", [True, False], ids=["live", "batch"])
def test_what_a_crash_left_due_is_computed_by_the_next_run(database: str, live_again: bool) -> None:
    market = Market("ohlcv-1m", CHAINS)
    live = market.connected()
    market.write(live, *bars(0, 30))
    market.follower().follow()
    market.write(live, bar(20, 150))
    market.write(live, *bars(30, 31))
    if live_again:
        market.follower().follow()
    else:
        store_indicators(market.job)
    market.agree()


def test_nothing_due_costs_a_look_and_a_new_bar_the_same_however_old_the_fetch_is(database: str) -> None:
    market = Market("ohlcv-1m", CHAINS)
    live = market.connected()
    follower = market.follower()
    market.write(live, *bars(0, 600))
    follower.follow()
    queries = []
    for minute in (600, 601, 602):
        market.write(live, *bars(minute, minute + 1))
        with CaptureQueriesContext(connection) as context:
            outcome = follower.follow()
        queries.append(len(context))
        assert outcome.tallies["home (indicators)"].new == 4
    assert len(set(queries)) == 1
    with CaptureQueriesContext(connection) as context:
        follower.follow()
    assert len(context) == 2


def test_two_who_follow_the_same_bars_do_not_trust_what_they_keep(database: str) -> None:
    market = Market("ohlcv-1m", CHAINS)
    live = market.connected()
    one, other = market.follower(), market.follower()
    market.write(live, *bars(0, 30))
    one.follow()
    market.write(live, bar(28, 150))
    other.follow()
    market.write(live, *bars(30, 31))
    one.follow()
    market.agree()


def test_rows_written_while_values_are_computed_are_not_overlooked(database: str) -> None:
    market = Market("ohlcv-1m", CHAINS)
    live = market.connected()
    follower = market.follower()
    market.write(live, *bars(0, 30))
    begun: list[threading.Thread] = []

    def write() -> None:
        try:
            market.write(live, bar(10, 150))
        finally:
            connections.close_all()

    def meanwhile(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        answer = execute(sql, params, many, context)
        if not begun and "marketdata_ohlcv_1m" in sql:
            begun.append(threading.Thread(target=write))
            begun[0].start()
            begun[0].join(0.2)
        return answer

    with connection.execute_wrapper(meanwhile):
        follower.follow()
    begun[0].join(30)
    follower.follow()
    market.agree()
    assert 150 in read(market.name, "ohlcv-1m")["close"].to_pylist()


def test_bars_of_trades_give_values_when_their_time_is_over(database: str) -> None:
    chain = "resample(timeframe='1m') | sma(window=2)"
    market = Market("trades", f"{chain} | store; resample(timeframe='1m') | obv | store")
    live = market.connected()
    follower = market.follower()
    market.write(live, *(tick(second, 10 + second) for second in (1, 20, 59, 61, 119, 125)))
    follower.follow()
    assert market.stored(chain) == {}
    for end in (119, 120, 150, 180):
        heard = MONDAY + timedelta(seconds=end)
        market.ledger.heard(live, {(MONDAY, heard): [market.number]})
        follower.follow()
        market.agree(end=heard.replace(second=0))
    assert market.stored(chain) == {MONDAY + MINUTE: 99.0, MONDAY + 2 * MINUTE: 132.0}
    # late, for bars that were finished
    market.write(live, tick(59.5, 1000), tick(200, 7))
    follower.follow()
    market.agree(end=MONDAY + 3 * MINUTE)
    # told by who delivers, who knows better what is there
    follower.follow({market.number: MONDAY + 4 * MINUTE})
    market.agree()
    assert max(market.stored(chain)) == MONDAY + 3 * MINUTE
    # and the next one begins where this one ended
    market.write(live, tick(240, 9))
    market.follower().follow({market.number: MONDAY + 5 * MINUTE})
    market.agree()


def test_a_week_that_is_not_over_has_no_value_and_one_that_is_has_the_right_one(database: str, tmp_path: Path) -> None:
    chain = "resample(timeframe='1w') | sma(window=1)"
    made = series("aapl", ["AAPL"])
    daily_csv(tmp_path / "data/AAPL.csv", days(10))
    ingest(Selection())
    TimeSeries.objects.filter(pk=made.pk).update(transforms=f"{chain} | store")
    Fetch.objects.update(fetched_at=datetime(2024, 1, 11, 12, tzinfo=UTC))
    (job,) = plan(Selection())
    store_indicators(job)
    values = read("prices:equity:AAPL", "indicators")
    assert [str(moment)[:10] for moment in values["ts_event"].to_pylist()] == ["2024-01-01"]
    assert values["value"].to_pylist() == [17]
    daily_csv(tmp_path / "data/AAPL.csv", days(16))
    ingest(Selection())
    assert read("prices:equity:AAPL", "indicators")["value"].to_pylist() == [17, 24, 26]


def test_rows_that_cannot_be_used_are_an_error_once_and_the_others_go_on(database: str) -> None:
    market = Market("ohlcv-1m", "sma(window=2) | store", ["AAPL", "IBM"])
    live = market.connected()
    follower = market.follower()
    bad, good = sorted(market.ids)
    market.write(live, *bars(0, 5), name=good)
    market.write(live, bar(0, 10, venue="A"), bar(0, 10, venue="B"), name=bad)
    outcome = follower.follow()
    assert outcome.errors == [f"indicators of {bad}: {bad} has bars of several venues; choose one of: A, B"]
    assert outcome.tallies["home (indicators)"].new == 4
    assert follower.follow().errors == []
    assert market.follower().follow().errors == outcome.errors


def test_a_chain_that_is_added_later_is_computed_from_the_first_bar(database: str) -> None:
    market = Market("ohlcv-1m", "sma(window=3) | store")
    live = market.connected()
    market.write(live, *bars(0, 30))
    market.follower().follow()
    TimeSeries.objects.update(transforms="sma(window=3) | store; obv | store")
    (market.job,) = plan(Selection())
    outcome = market.follower().follow()
    assert outcome.tallies["home (indicators)"].new == 30
    market.agree()


def test_what_another_job_stores_of_the_same_bars_stays_due(database: str) -> None:
    market = Market("ohlcv-1m", "sma(window=3) | store; obv | store", ["AAPL", "IBM"])
    # the chains come by name: obv, sma
    obv, sma = market.job.chains
    some = replace(market.job, chains=(replace(obv, instruments=frozenset([market.number])), sma))
    live = market.connected()
    for name in market.ids:
        market.write(live, *bars(0, 10), name=name)
    store_indicators(market.job)
    for name in market.ids:
        market.write(live, *bars(10, 12), name=name)
    store_indicators(some)
    assert [cursor.indicator.chain for cursor in IndicatorCursor.objects.exclude(due=None)] == ["on_balance_volume"]
    store_indicators(market.job)
    market.agree()


def test_values_computed_later_win_whatever_fetch_their_bars_are_of(database: str) -> None:
    market = Market("ohlcv-1m", "sma(window=2) | store")
    live, past = market.connected(), market.asked()
    market.write(past, *bars(0, 5))
    market.follower().follow()
    market.write(live, *bars(5, 7))
    market.follower().follow()
    market.write(live, bar(5, 150))
    market.follower().follow()
    market.agree()
    assert set(read(market.name, "indicators")["fetch_id"].to_pylist()) == {past.id}
    assert live.id < past.id


@pytest.mark.parametrize("schema", ["ohlcv-1m", "trades"])
def test_a_home_of_files_is_followed_like_a_database(schema: str) -> None:
    transforms = (
        CHAINS if schema == "ohlcv-1m" else "; ".join(f"resample(timeframe='1m') | {one}" for one in CHAINS.split("; "))
    )
    market = Market(schema, transforms, kind="file")
    live = market.connected()
    follower = market.follower()
    rows = bars if schema == "ohlcv-1m" else ticks
    for first, last in ((0, 20), (30, 31), (31, 35), (20, 30)):
        market.write(live, *rows(first, last))
        follower.follow({market.number: MONDAY + timedelta(hours=1)})
        market.agree()
    follower = market.follower()
    market.write(live, *rows(35, 36))
    follower.follow({market.number: MONDAY + timedelta(hours=1)})
    market.agree()
