"""Massive live: the same rows as its history where both tell the same times, its markets, its words."""

from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from catalog.errors import TransientError
from flows.frames import Channel
from tests.flows.extractors.both_halves import OURS
from tests.flows.extractors.both_halves import past
from tests.flows.extractors.both_halves import plain
from tests.flows.extractors.both_halves import present
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.massive import MassiveLiveStandIn
from tests.vendors.massive import MassiveStandIn
from tests.vendors.server import Row

START = datetime(2024, 1, 2, 15, tzinfo=UTC)
WINDOW = (START, START + timedelta(minutes=10))
BARS = Channel("ohlcv-1m", "AAPL")
STREAM: Row = {"tick_times": "stream"}


def options(vendor: MassiveLiveStandIn, market: str = "stocks", **more: object) -> Row:
    return {"stream_url": vendor.url, "stream_market": market, **more}


@pytest.mark.parametrize(
    ("schema", "market", "symbol"),
    [("trades", "stocks", "AAPL"), ("quotes", "stocks", "AAPL"), ("trades", "crypto", "X:BTCUSD")],
)
def test_ticks_are_those_of_history_with_the_times_of_the_stream(
    schema: str, market: str, symbol: str, tmp_path: Path
) -> None:
    with MassiveStandIn() as history, MassiveLiveStandIn() as vendor:
        before = past(history, tmp_path, STREAM, schema, symbol, WINDOW)
        live = present(vendor, options(vendor, market, **STREAM), schema, symbol, vendor.rows(schema, symbol, *WINDOW))
    assert len(live) > 50
    assert plain(live) == plain(before)
    assert {row["ts_event"].nanosecond for row in live} == {0}


@pytest.mark.parametrize(("market", "symbol"), [("stocks", "AAPL"), ("crypto", "X:BTCUSD")])
@pytest.mark.parametrize("schema", ["ohlcv-1s", "ohlcv-1m"])
def test_bars_are_those_of_history_but_for_the_count(schema: str, market: str, symbol: str, tmp_path: Path) -> None:
    lacks = (*OURS, "trade_count")
    with MassiveStandIn() as history, MassiveLiveStandIn() as vendor:
        before = past(history, tmp_path, {}, schema, symbol, WINDOW)
        live = present(vendor, options(vendor, market), schema, symbol, vendor.rows(schema, symbol, *WINDOW))
    assert len(live) >= 10
    assert plain(live, lacks) == plain(before, lacks)
    assert {row["trade_count"] for row in live} == {None}


def test_bars_of_currencies_are_made_of_quotes() -> None:
    with MassiveLiveStandIn() as vendor:
        records = vendor.rows("ohlcv-1m", "C:EURUSD", *WINDOW)
        rows = present(vendor, options(vendor, "forex"), "ohlcv-1m", "C:EURUSD", records)
        assert vendor.log[1].message == {"action": "subscribe", "params": "CA.EUR/USD"}
    assert [{name: row[name] for name in records[0]} for row in rows] == records
    assert {row["vwap"] for row in rows} == {None}


def test_quotes_of_currencies_have_no_sizes() -> None:
    with MassiveLiveStandIn() as vendor:
        records = vendor.rows("quotes", "C:EURUSD", *WINDOW)
        rows = present(vendor, options(vendor, "forex", **STREAM), "quotes", "C:EURUSD", records)
        assert vendor.log[1].message == {"action": "subscribe", "params": "C.EUR/USD"}
    names = ("bid_price", "ask_price", "bid_venue", "ask_venue")
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in records]
    assert {row["bid_size"] for row in rows} == {None}


def test_ticks_are_refused_where_history_has_other_times() -> None:
    ticks = Channel("trades", "AAPL")
    with MassiveLiveStandIn() as vendor:
        extractor = live_half("massive", options(vendor), vendor.keys)
        with Listener(extractor, [ticks, BARS]) as listener:
            listener.wait_acknowledged([BARS])
    assert listener.refused == {
        ticks: "streams lack the exact times of the source's ticks: it needs option tick_times 'stream'"
    }
    assert extractor.numbered == {"trades", "quotes"}
    assert live_half("massive", {"stream_market": "crypto"}, {}).numbered == frozenset()


def test_symbols_of_other_markets_are_refused() -> None:
    pair = Channel("ohlcv-1m", "X:BTCUSD")
    with (
        MassiveLiveStandIn() as vendor,
        Listener(live_half("massive", options(vendor), vendor.keys), [BARS, pair]) as listener,
    ):
        listener.wait_acknowledged([BARS])
    assert "no symbol of stocks, the market that option stream_market names" in listener.refused[pair]


@pytest.mark.parametrize("latency", [0, 0.05])
def test_what_the_plan_lacks_costs_no_other_channel(latency: float) -> None:
    names = [f"S{number}" for number in range(5)]
    bars, quotes = [Channel("ohlcv-1m", one) for one in names], [Channel("quotes", one) for one in names]
    with MassiveLiveStandIn() as vendor:
        vendor.forbidden = {"Q"}
        vendor.latency = latency
        extractor = live_half("massive", options(vendor, **STREAM), vendor.keys)
        with Listener(extractor, [*bars, *quotes]) as listener:
            listener.wait_for(lambda: len(listener.acknowledged) + len(listener.refused) == 10)
        asked = [one.message["params"] for one in vendor.log[1:]]
    assert listener.acknowledged.keys() == set(bars)
    assert listener.refused == dict.fromkeys(quotes, "not authorized")
    assert len(asked) == 1


def test_an_end_of_subscription_is_no_beginning_of_one() -> None:
    other = Channel("ohlcv-1m", "MSFT")
    patient = {"answer_seconds": 500}
    with (
        MassiveLiveStandIn() as vendor,
        Listener(live_half("massive", options(vendor, **patient), vendor.keys), [BARS]) as listener,
    ):
        listener.wait_acknowledged([BARS])
        listener.change(removed=[BARS])
        listener.change(added=[other])
        listener.wait_acknowledged([other])
        vendor.wait_unsubscribed([("ohlcv-1m", "AAPL")])
    assert [sorted(one.symbol for one in told.acknowledged) for told in listener.told if told.acknowledged] == [
        ["AAPL"],
        ["MSFT"],
    ]


def test_a_wrong_key_is_told_apart_and_not_shown() -> None:
    with MassiveLiveStandIn() as vendor:
        extractor = live_half("massive", options(vendor), {"API_KEY": "w0rng-key"})
        with Listener(extractor, [BARS]) as listener:
            error = listener.wait_ended()
    assert isinstance(error, AuthFailed)
    assert "authentication failed" in str(error)
    assert "w0rng" not in str(error)


@pytest.mark.parametrize("fault", ["throttle", "force_disconnect"])
def test_who_is_sent_away_may_come_again(fault: str) -> None:
    words = {"throttle": "Maximum number of websocket connections", "force_disconnect": "You have been disconnected"}
    with (
        MassiveLiveStandIn() as vendor,
        Listener(live_half("massive", options(vendor), vendor.keys), [BARS]) as listener,
    ):
        listener.wait_acknowledged([BARS])
        getattr(vendor, fault)()
        error = listener.wait_ended()
    assert isinstance(error, TransientError)
    assert words[fault] in str(error)


def test_a_slow_reader_is_told_what_it_lost() -> None:
    with (
        MassiveLiveStandIn() as vendor,
        Listener(live_half("massive", options(vendor), vendor.keys), [BARS]) as listener,
    ):
        listener.wait_acknowledged([BARS])
        vendor.slow_consumer()
        listener.wait_ended()
    assert [told.lost for told in listener.told if told.lost] == ["You are not reading messages fast enough."]
