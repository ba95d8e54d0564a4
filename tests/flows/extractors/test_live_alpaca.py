"""Alpaca live: the same rows as its history, revised bars, corrections that are kept, and what its errors mean."""

from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import TransientError
from flows.frames import Channel
from tests.flows.extractors.both_halves import OURS
from tests.flows.extractors.both_halves import past
from tests.flows.extractors.both_halves import plain
from tests.flows.extractors.both_halves import present
from tests.vendors.alpaca import AlpacaStandIn
from tests.vendors.live.alpaca import AlpacaLiveStandIn
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import raw_table

START = datetime(2024, 1, 2, 15, tzinfo=UTC)
WINDOW = (START, START + timedelta(minutes=10))
TRADES = Channel("trades", "AAPL")


@pytest.mark.parametrize(("market", "symbol"), [("stocks", "AAPL"), ("crypto", "BTC/USD")])
@pytest.mark.parametrize("schema", ["trades", "quotes", "ohlcv-1m"])
def test_rows_are_those_of_history(schema: str, market: str, symbol: str, tmp_path: Path) -> None:
    with AlpacaStandIn() as history, AlpacaLiveStandIn() as vendor:
        before = past(history, tmp_path, {"market": market}, schema, symbol, WINDOW)
        records = vendor.rows(schema, symbol, *WINDOW)
        live = present(vendor, {"stream_url": vendor.url, "market": market}, schema, symbol, records)
    # of coins the stream has no venues and conditions, the stand-in's REST interface does
    lacks = (*OURS, "bid_venue", "ask_venue", "venue", "conditions") if market == "crypto" else OURS
    assert len(live) >= 10
    assert plain(live, lacks) == plain(before, lacks)


def test_an_empty_side_of_a_quote_is_null() -> None:
    quote = {"ts_event": START, "bid_price": Decimal(1), "bid_size": Decimal(2), "ask_price": None, "ask_size": None}
    with AlpacaLiveStandIn() as vendor:
        (row,) = present(vendor, {"stream_url": vendor.url}, "quotes", "AAPL", [quote])
    assert {name: row[name] for name in quote} == quote


def test_a_revised_bar_is_the_later_row_of_its_key() -> None:
    channel = Channel("ohlcv-1m", "AAPL")
    with AlpacaLiveStandIn() as vendor:
        (bar,) = vendor.rows("ohlcv-1m", "AAPL", START, START + timedelta(minutes=1))
        revised = {**bar, "volume": bar["volume"] + 7}
        with Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), [channel]) as listener:
            listener.wait_acknowledged([channel])
            vendor.publish("ohlcv-1m", "AAPL", bar)
            vendor.revise("ohlcv-1m", "AAPL", revised)
            vendor.fin()
            listener.wait_ended()
    table = raw_table(listener.batches(), "ohlcv-1m")
    assert table["symbol"].to_pylist() == ["AAPL", "AAPL"]
    assert [Decimal(volume) for volume in table["volume"].to_pylist()] == [bar["volume"], revised["volume"]]
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())


def test_corrections_and_cancellations_are_kept_in_quarantine() -> None:
    with (
        AlpacaLiveStandIn() as vendor,
        Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), [TRADES]) as listener,
    ):
        listener.wait_acknowledged([TRADES])
        vendor.publish("corrections", "AAPL", {"ts_event": START, "oi": 1, "op": 2.5, "ci": 3, "cp": 2.6})
        vendor.publish("cancelErrors", "AAPL", {"ts_event": START, "i": 1, "p": 2.5, "a": "C"})
        vendor.fin()
        listener.wait_ended()
    (found,) = listener.batches()
    assert (found.schema, found.table.num_rows) == ("trades", 0)
    kept = found.rejected.to_pylist()
    assert [row["reason"] for row in kept] == [
        "event has a schema: it corrects a trade, and trades do not change",
        "event has a schema: it cancels a trade, and trades do not change",
    ]
    assert '\\"oi\\": 1' in kept[0]["raw"]


def test_one_message_subscribes_to_all_and_each_schema_has_its_list() -> None:
    channels = [TRADES, Channel("trades", "MSFT"), Channel("quotes", "MSFT"), Channel("ohlcv-1m", "AAPL")]
    with AlpacaLiveStandIn() as vendor:
        with Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), channels) as listener:
            listener.wait_acknowledged(channels)
            # the others stay
            listener.change(removed=[TRADES])
            vendor.wait_unsubscribed([("trades", "AAPL")])
        said = [one.message for one in vendor.log[1:]]
    assert said == [
        {
            "action": "subscribe", "trades": ["AAPL", "MSFT"], "quotes": ["MSFT"], "bars": ["AAPL"],
            "updatedBars": ["AAPL"],
        },
        {"action": "unsubscribe", "trades": ["AAPL"]},
    ]  # fmt: skip


def test_symbols_above_the_limit_are_refused_and_the_others_heard() -> None:
    channels = [Channel("trades", f"S{number}") for number in range(20)]
    with AlpacaLiveStandIn() as vendor:
        vendor.most = 13
        with Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), channels) as listener:
            listener.wait_for(lambda: len(listener.acknowledged) + len(listener.refused) == 20)
    assert len(listener.acknowledged) == 13
    assert set(listener.refused.values()) == {"symbol limit exceeded"}


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (402, AuthFailed, "auth failed"),
        (404, TransientError, "auth timeout"),
        (406, TransientError, "connection limit exceeded"),
        (408, NotEntitled, "v2 not enabled"),
        (409, NotEntitled, "insufficient subscription"),
        (500, TransientError, "internal error"),
    ],
)
def test_what_errors_mean(code: int, kind: type[Exception], words: str) -> None:
    with AlpacaLiveStandIn() as vendor:
        vendor.fail("error", "auth", code=code)
        with Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), [TRADES]) as listener:
            error = listener.wait_ended()
    assert type(error) is kind
    assert words in str(error)


def test_a_slow_reader_is_told_what_it_lost() -> None:
    with (
        AlpacaLiveStandIn() as vendor,
        Listener(live_half("alpaca", {"stream_url": vendor.url}, vendor.keys), [TRADES]) as listener,
    ):
        listener.wait_acknowledged([TRADES])
        vendor.slow_consumer()
        listener.wait_ended()
    assert [told.lost for told in listener.told if told.lost] == ["slow client"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/v2/sip"),
        ({"feed": "iex"}, "/v2/iex"),
        ({"stream_delay_minutes": 15}, "/v2/delayed_sip"),
        ({"market": "crypto"}, "/v1beta3/crypto/us"),
    ],
)
def test_each_feed_has_its_address(options: dict[str, object], path: str) -> None:
    symbol = "BTC/USD" if "market" in options else "AAPL"
    with AlpacaLiveStandIn() as vendor:
        extractor = live_half("alpaca", {"stream_url": vendor.url, **options}, vendor.keys)
        with Listener(extractor, [Channel("trades", symbol)]) as listener:
            listener.wait_acknowledged([Channel("trades", symbol)])
        assert vendor.opened[0].path == path
    delay = timedelta(minutes=int(str(options.get("stream_delay_minutes", 0))))
    assert extractor.transit_of("trades") == delay + timedelta(seconds=5)
    # a bar is revised half a minute after its end
    assert extractor.transit_of("ohlcv-1m") == delay + timedelta(seconds=35)
    # what the stream has not is no reason to wait longer
    assert extractor.transit_of("news") == delay + timedelta(seconds=5)


def test_what_cannot_be_had_is_refused_before_it_is_asked() -> None:
    pair, days = Channel("trades", "BTC/USD"), Channel("ohlcv-1d", "AAPL")
    with AlpacaLiveStandIn() as vendor:
        options = {"stream_url": vendor.url}
        with Listener(live_half("alpaca", options, vendor.keys), [TRADES, pair, days]) as listener:
            listener.wait_acknowledged([TRADES])
    assert "is no symbol of the source's market, stocks" in listener.refused[pair]
    assert "the stream has no ohlcv-1d" in listener.refused[days]
