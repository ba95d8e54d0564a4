"""Kraken's own traps, over the socket: how far back, nanoseconds, pages at one instant, errors with status 200.

There are no recorded answers of Kraken here: what its stand-in says is taken from the documentation. That weeks begin
on Thursday, that `since` of trades is exclusive and that a row's time has fewer digits than `last` is what users of the
interface report.
"""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.kraken import KrakenStandIn
from tests.vendors.landed import read
from tests.vendors.server import Asked
from tests.vendors.server import Reply

START = datetime(2024, 1, 2, 23, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def stand_in() -> Iterator[KrakenStandIn]:
    with KrakenStandIn() as server:
        yield server


def fetch(bench: Bench, schema: str, start: datetime, end: datetime) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, ["XBTUSD"], start, end)):
        list(extractor.pages(request))


def test_times_are_exact_to_the_nanosecond(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    trades = (
        b'["56000.1","0.5",1616663618.1234,"b","m","",1],["56000.2","1",1616663618.123456789,"s","l","x",2],'
        b'["56000.3","2",1616663619,"b","l","",3]'
    )
    content = b'{"error":[],"result":{"XXBTZUSD":[' + trades + b'],"last":"1616663619000000000"}}'
    window = (datetime(2021, 3, 25, tzinfo=UTC), datetime(2021, 3, 26, tzinfo=UTC))
    bench = Bench(stand_in, tmp_path)
    rows, rejected = read(bench, "trades", ["XBTUSD"], window, content, {"symbol": "XBTUSD"})
    assert rejected == []
    times = [1616663618123400000, 1616663618123456789, 1616663619000000000]
    assert [row["ts_event"] for row in rows] == [pa.scalar(at, pa.timestamp("ns", "UTC")).as_py() for at in times]
    assert [(row["side"], row["conditions"], row["trade_id"]) for row in rows] == [
        ("B", "m", "1"), ("A", "l,x", "2"), ("B", "l", "3"),
    ]  # fmt: skip


def test_what_is_no_trade_is_a_rejected_row(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    rows = b'["56000.1","0.5",1616663618.1,"b","m","",1],"nothing",["1","1","soon","b","m","",2],["1","1"],'
    content = b'{"error":[],"result":{"X":[' + rows + b'["1","1",1616663618.2,"?","m","",3]],"last":"1"}}'
    window = (datetime(2021, 3, 25, tzinfo=UTC), datetime(2021, 3, 26, tzinfo=UTC))
    accepted, rejected = read(
        Bench(stand_in, tmp_path), "trades", ["XBTUSD"], window, content, {"symbol": "XBTUSD"}
    )  # fmt: skip
    assert [row["trade_id"] for row in accepted] == ["1"]
    assert len(rejected) == 4
    assert "side in A, B, N" in [rule for rule, _ in rejected]


@pytest.mark.parametrize("page_rows", [1, 10, 11, 1000])
def test_a_page_may_end_between_two_trades_of_one_instant(
    stand_in: KrakenStandIn, tmp_path: Path, page_rows: int
) -> None:
    bench = Bench(stand_in, tmp_path, {"page_rows": page_rows})
    end = START + 4 * MINUTE
    assert bench.run(bench.job("trades", ["XBTUSD"], START, end)).errors == []
    assert matches(bench.stored("trades", "XBTUSD"), stand_in.truth("trades", "XBTUSD", START, end))


def test_pages_that_overlap_are_refused(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    stand_in.since_is_inclusive = True
    with pytest.raises(PermanentError, match=r"XBTUSD: trade \d+ comes twice"):
        fetch(Bench(stand_in, tmp_path, {"page_rows": 10}), "trades", START, START + 4 * MINUTE)


def test_trades_up_to_now_end_with_an_empty_page(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    # a vendor where nothing has happened for a while
    stand_in.now = lambda: now - 10 * MINUTE  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path)
    assert bench.run(bench.job("trades", ["XBTUSD"], now - 20 * MINUTE, now)).errors == []
    stored = bench.stored("trades", "XBTUSD")
    assert stored[-1]["ts_event"] > now - 11 * MINUTE
    assert matches(stored, stand_in.truth("trades", "XBTUSD", now - 20 * MINUTE, now - 10 * MINUTE))


@pytest.mark.parametrize(("schema", "minutes"), [("ohlcv-1m", 1), ("ohlcv-4h", 240), ("ohlcv-1d", 1440)])
def test_bars_that_are_not_kept_are_an_error_and_the_rest_comes(
    stand_in: KrakenStandIn, tmp_path: Path, schema: str, minutes: int
) -> None:
    step, now = minutes * MINUTE, datetime.now(UTC)
    bench = Bench(stand_in, tmp_path)
    (error,) = bench.run(bench.job(schema, ["XBTUSD"], now - 800 * step, now)).errors
    assert f"XBTUSD: only the newest 720 bars of {minutes} min are kept, since 20" in error
    (complete,) = [fetch for fetch in bench.ledger.fetches if fetch.complete]
    covered = bench.ledger.requests[complete.id]
    assert now - 719 * step < covered.start < now - 715 * step
    stored = bench.stored(schema, "XBTUSD")
    assert matches(stored, stand_in.truth(schema, "XBTUSD", covered.start, covered.end))
    # the one that has begun is not among them
    assert stored[-1]["ts_event"] + step <= now
    # and what is missing stays an error
    assert len(bench.run(bench.job(schema, ["XBTUSD"], now - 800 * step, now)).errors) == 1


def test_a_bar_without_trades_stays_as_it_is_sent(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    content = b'{"error":[],"result":{"X":[[1704153600,"5","5","5","5","0.0","0.00000000",0]],"last":1704153600}}'
    window = (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    ((row,), rejected) = read(
        Bench(stand_in, tmp_path), "ohlcv-1h", ["XBTUSD"], window, content, {"symbol": "XBTUSD"}
    )  # fmt: skip
    assert (row["close"], row["volume"], row["vwap"], row["trade_count"], rejected) == (5, 0, 0, 0, [])


def test_weeks_from_thursday_are_not_offered(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    # our week is named by its Monday: the prices of another week would pass for it
    assert "ohlcv-1w" not in Bench(stand_in, tmp_path).extractor("ohlcv-1d").schemas


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": ["EQuery:Unknown asset pair"]}, UnknownSymbol),
        ({"error": ["EQuery:Unknown asset pair"], "result": {}}, UnknownSymbol),
        ({"error": ["EAPI:Rate limit exceeded"], "result": {}}, RateLimited),
        ({"error": ["EGeneral:Too many requests"], "result": {}}, RateLimited),
        ({"error": ["EService:Throttled: 1700000000"]}, RateLimited),
        ({"error": ["EService:Unavailable"]}, TransientError),
        ({"error": ["EGeneral:Invalid arguments"]}, PermanentError),
        ({"error": []}, SchemaMismatch),
        ({"error": [], "result": {"X": {}, "last": "1"}}, SchemaMismatch),
        ({"error": [], "result": {"X": [["1", "1", 1, "b", "m", "", 1]]}}, SchemaMismatch),
        ([], SchemaMismatch),
    ],
)
def test_an_error_inside_a_good_answer_is_seen(tmp_path: Path, body: object, error: type[Exception]) -> None:
    class Odd(KrakenStandIn):
        def trades(self, asked: Asked) -> Reply:
            return Reply(body)

    with Odd() as odd, pytest.raises(error) as raised:
        fetch(Bench(odd, tmp_path), "trades", START, START + MINUTE)
    assert type(raised.value) is error


def test_a_warning_is_no_error(tmp_path: Path) -> None:
    class Warning(KrakenStandIn):
        def trades(self, asked: Asked) -> Reply:
            return Reply(super().trades(asked).content.replace(b'"error":[]', b'"error":["WGeneral:Deprecated"]'))

    with Warning() as warning:
        fetch(Bench(warning, tmp_path), "trades", START, START + MINUTE)


def test_lists_pairs_by_either_name_and_tells_currencies_from_coins(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    extractor = Bench(stand_in, tmp_path).extractor("trades")
    assert [(one.symbol, one.name, one.currency) for one in extractor.discover("xbt/")] == [
        ("XBTUSD", "XBT/USD", "USD")
    ]  # fmt: skip
    assert {one.symbol: one.asset_class for one in extractor.discover("")} == {
        "XBTUSD": "crypto", "ETHUSD": "crypto", "EURUSD": "fx",
    }  # fmt: skip


def test_the_check_asks_the_time(stand_in: KrakenStandIn, tmp_path: Path) -> None:
    (sentence,) = Bench(stand_in, tmp_path).extractor("trades").check()
    assert "+0000" in sentence
    assert [asked.path for asked in stand_in.log] == ["/0/public/Time"]
