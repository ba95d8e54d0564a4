"""Binance live: the same rows as its history, what is refused before it is asked, its limits."""

import json
import time
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.frames import Channel
from flows.frames import Frame
from tests.flows.extractors.both_halves import past
from tests.flows.extractors.both_halves import plain
from tests.flows.extractors.both_halves import present
from tests.vendors.binance import BinanceStandIn
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import raw_table
from tests.vendors.server import Row

START = datetime(2024, 1, 2, tzinfo=UTC)
BTC = "BTCUSDT"
LEVELS = {
    f"{side}_{what}_{level:02}": Decimal(level + 1) + (Decimal(100) if what == "price" else Decimal("0.5"))
    for level in range(3)
    for side in ("bid", "ask")
    for what in ("price", "size")
}


def options(vendor: BinanceLiveStandIn, **more: Any) -> Row:
    return {"stream_url": vendor.url, "market": vendor.market, **more}


@pytest.mark.parametrize("market", ["spot", "usdt-futures"])
def test_trades_are_those_of_history(market: str, tmp_path: Path) -> None:
    window = (START, START + timedelta(minutes=20))
    with BinanceStandIn() as history, BinanceLiveStandIn(market) as vendor:
        before = past(history, tmp_path, {"market": market}, "trades", BTC, window)
        live = present(vendor, options(vendor), "trades", BTC, vendor.rows("trades", BTC, *window))
    assert len(live) > 100
    assert plain(live) == plain(before)
    assert all(row["ts_recv"] is not None for row in live)


@pytest.mark.parametrize(("market", "path"), [("spot", "/stream"), ("usdt-futures", "/public/stream")])
def test_single_trades(market: str, path: str) -> None:
    with BinanceLiveStandIn(market) as vendor:
        records = vendor.rows("trades", BTC, START, START + timedelta(minutes=1))
        records = [{**record, "trade_id": str(int(record["trade_id"]) * 2)} for record in records]
        live = present(vendor, options(vendor, trades="single", stream_part="public"), "trades", BTC, records)
        assert vendor.log[0].message["params"] == ["btcusdt@trade"]
        assert vendor.opened[0].path == path
    assert [{name: row[name] for name in records[0]} for row in live] == records


@pytest.mark.parametrize(
    ("kind", "rows"), [({}, 1), ({"X": "MARKET"}, 1), ({"X": "NA"}, 0), ({"X": "ADL"}, 0), ({"X": "INSURANCE_FUND"}, 0)]
)
def test_a_single_trade_of_futures_is_one_that_the_market_made(kind: Row, rows: int) -> None:
    extractor = live_half("binance", {"market": "usdt-futures", "trades": "single", "stream_part": "public"}, {})
    data = {"e": "trade", "E": 1, "T": 1_700_000_000_000, "s": BTC, "t": 7, "p": "1.5", "q": "2", "m": True, **kind}
    said = {"stream": "btcusdt@trade", "data": data}
    # alone, and among what is not as declared, which is read another way
    for others in ([], [b'{"result":null,"id":1}']):
        frames = [Frame(one, 2**61, number=at) for at, one in enumerate([json.dumps(said).encode(), *others])]
        batches = list(extractor.parse(frames, {}))
        assert sum(batch.table.num_rows for batch in batches) == rows
        assert sum(batch.rejected.num_rows for batch in batches) == 0


@pytest.mark.parametrize("schema", ["ohlcv-1m", "ohlcv-1h", "ohlcv-1d"])
def test_bars_are_those_of_history_and_only_closed_ones(schema: str, tmp_path: Path) -> None:
    days = {"ohlcv-1m": timedelta(hours=1), "ohlcv-1h": timedelta(days=2), "ohlcv-1d": timedelta(days=60)}
    window = (START, START + days[schema])
    with BinanceStandIn() as history, BinanceLiveStandIn() as vendor:
        before = past(history, tmp_path, {}, schema, BTC, window)
        vendor.previews = 2
        live = present(vendor, options(vendor), schema, BTC, vendor.rows(schema, BTC, *window))
    assert len(live) > 40
    assert plain(live) == plain(before)


def test_a_bar_that_is_still_open_is_no_row() -> None:
    with BinanceLiveStandIn() as vendor:
        channel = Channel("ohlcv-1m", BTC)
        bars = vendor.rows("ohlcv-1m", BTC, START, START + timedelta(minutes=2))
        with Listener(live_half("binance", options(vendor), {}), [channel]) as listener:
            listener.wait_acknowledged([channel])
            vendor.provisional("ohlcv-1m", BTC, bars)
            listener.wait_for(lambda: len(listener.frames) == 3)
        assert listener.batches() == []


def test_books_of_spot_are_stamped_when_they_come() -> None:
    with BinanceLiveStandIn() as vendor:
        rows = present(vendor, options(vendor), "mbp-10", BTC, [{"sequence": 160, **LEVELS}])
    (row,) = rows
    assert (row["sequence"], row["ts_event"]) == (160, row["ts_recv"])
    assert abs(row["ts_event"].timestamp() - time.time()) < 600
    assert {name: row[name] for name in LEVELS} == LEVELS
    assert row["bid_price_03"] is None


def test_books_and_quotes_of_futures_have_times_of_their_own() -> None:
    with BinanceLiveStandIn("usdt-futures") as vendor:
        public = options(vendor, stream_part="public")
        (book,) = present(vendor, public, "mbp-10", BTC, [{"ts_event": START, "sequence": 7, **LEVELS}])
        sides = {"bid_price": Decimal(3), "bid_size": Decimal(2), "ask_price": None, "ask_size": None}
        (quote,) = present(vendor, public, "quotes", BTC, [{"ts_event": START, "sequence": 8, **sides}])
        assert vendor.opened[-1].path == "/public/stream"
    assert (book["ts_event"], book["sequence"]) == (START, 7)
    assert {name: book[name] for name in LEVELS} == LEVELS
    assert {name: quote[name] for name in ("ts_event", "sequence", *sides)} == {
        "ts_event": START,
        "sequence": 8,
        **sides,
    }


def test_what_cannot_be_had_is_refused_before_it_is_asked() -> None:
    with BinanceLiveStandIn() as vendor:
        good = Channel("trades", BTC)
        quotes, wrong, other = Channel("quotes", BTC), Channel("trades", "BTC/USDT"), Channel("news", BTC)
        extractor = live_half("binance", options(vendor), {})
        with Listener(extractor, [good, quotes, wrong, other]) as listener:
            listener.wait_acknowledged([good])
        assert "gives no time with the quotes of spot" in listener.refused[quotes]
        assert "'BTC/USDT' is no symbol of Binance" in listener.refused[wrong]
        assert "the stream has no news; it has ohlcv-1s" in listener.refused[other]
        assert [said.message["params"] for said in vendor.log] == [["btcusdt@aggTrade"]]
    with BinanceLiveStandIn("usdt-futures") as vendor:
        extractor = live_half("binance", options(vendor), {})
        with Listener(extractor, [good, quotes]) as listener:
            listener.wait_acknowledged([good])
        assert "option stream_part 'public'" in listener.refused[quotes]
        assert vendor.opened[0].path == "/market/stream"


def test_many_channels_are_asked_within_the_limits() -> None:
    with BinanceLiveStandIn() as vendor:
        vendor.messages_per_second = 5
        channels = [Channel("trades", f"COIN{number}") for number in range(1030)]
        with Listener(live_half("binance", options(vendor), {}), channels) as listener:
            listener.wait_for(lambda: len(listener.acknowledged) == 1024)
        assert len(listener.refused) == 6
        assert set(listener.refused.values()) == {"a connection has at most 1,024 channels"}
        assert listener.error is None
        assert [len(said.message["params"]) for said in vendor.log] == [100] * 10 + [24]


@pytest.mark.parametrize("schema", ["trades", "mbp-10", "ohlcv-15m"])
def test_no_message_is_longer_than_the_vendor_hears(schema: str) -> None:
    with BinanceLiveStandIn() as vendor:
        # as long as names of coins get
        channels = [Channel(schema, f"1000000COIN{number:03}USDT") for number in range(240)]
        with Listener(live_half("binance", options(vendor, answer_seconds=60), {}), channels) as listener:
            listener.wait_acknowledged(channels)
    assert max(len(json.dumps(said.message, separators=(",", ":"))) for said in vendor.log) <= 4096


def test_subscriptions_change_while_the_connection_lives() -> None:
    with BinanceLiveStandIn() as vendor:
        first, second = Channel("trades", BTC), Channel("trades", "ETHUSDT")
        with Listener(live_half("binance", options(vendor), {}), [first]) as listener:
            listener.wait_acknowledged([first])
            listener.change(added=[second], removed=[first])
            listener.wait_acknowledged([second])
            vendor.wait_unsubscribed([("trades", BTC)])
            window = (START, START + timedelta(minutes=1))
            vendor.publish("trades", BTC, vendor.rows("trades", BTC, *window))
            assert vendor.publish("trades", "ETHUSDT", vendor.rows("trades", "ETHUSDT", *window)) == 1
            vendor.fin()
            listener.wait_ended()
        assert vendor.connections == 1
        assert set(raw_table(listener.batches(), "trades")["symbol"].to_pylist()) == {"ETHUSDT"}


def test_a_server_that_will_go_is_left() -> None:
    with BinanceLiveStandIn() as vendor:
        channel = Channel("trades", BTC)
        with Listener(live_half("binance", options(vendor), {}), [channel]) as listener:
            listener.wait_acknowledged([channel])
            vendor.shutdown_notice()
            assert listener.wait_ended() is None
        assert listener.told[-1].note == "serverShutdown"
        assert listener.batches() == []


def test_what_the_run_is_told() -> None:
    extractor = live_half("binance", {}, {})
    assert extractor.rotation == timedelta(hours=23)
    assert extractor.consecutive == {"trades": "trade_id"}
    assert extractor.every_bar
    assert "trades" in extractor.numbered
    assert extractor.transit_of("trades") == timedelta(seconds=5)
    # single trades of futures share their numbers with what is no trade
    for market, trades, counted in (
        ("spot", "single", {"trades": "trade_id"}),
        ("usdt-futures", "aggregated", {"trades": "trade_id"}),
        ("usdt-futures", "single", {}),
    ):
        assert live_half("binance", {"market": market, "trades": trades}, {}).consecutive == counted
