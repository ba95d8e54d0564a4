"""The live stand-ins of Binance and Twelve Data speak as the vendors document; a plain client is answered."""

import json
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus

from tests.vendors.binance import BinanceStandIn
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.talk import LONG
from tests.vendors.live.talk import MINUTE
from tests.vendors.live.talk import START
from tests.vendors.live.talk import client
from tests.vendors.live.talk import said
from tests.vendors.live.talk import tell
from tests.vendors.live.twelvedata import TwelveDataLiveStandIn

TRADES = {("trades", "BTCUSDT")}


def trades(stand_in: Any, count: int, symbol: str = "BTCUSDT") -> list[Any]:
    return stand_in.rows("trades", symbol, START, START + timedelta(seconds=7 * count))[:count]


# -- Binance ------------------------------------------------------------------------------------------------------


def test_binance_streams_by_url_are_what_the_documents_show() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/stream?streams=btcusdt@aggTrade/btcusdt@trade") as socket:
        binance.wait_subscribed(TRADES)
        (trade,) = trades(binance, 1)
        assert binance.publish("trades", "BTCUSDT", trade) == 1
        first, second = said(socket), said(socket)
    assert first["stream"] == "btcusdt@aggTrade"
    assert list(first["data"]) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
    assert first["data"]["T"] == int(trade["ts_event"].timestamp() * 1000)
    assert Decimal(first["data"]["p"]) == trade["price"]
    assert list(second["data"]) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]


def test_binance_answers_control_messages() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws") as socket:
        tell(socket, method="SUBSCRIBE", params=["btcusdt@aggTrade", "nobody@trade"], id=1)
        assert said(socket) == {"result": None, "id": 1}
        # what there is not is acknowledged
        assert binance.subscribed == {*TRADES, ("", "nobody@trade")}
        tell(socket, method="LIST_SUBSCRIPTIONS", id=2)
        assert said(socket) == {"result": ["btcusdt@aggTrade", "nobody@trade"], "id": 2}
        tell(socket, method="UNSUBSCRIBE", params=["btcusdt@aggTrade"], id="three")
        assert said(socket) == {"result": None, "id": "three"}
        binance.wait_unsubscribed(TRADES)
        binance.wait_said(lambda message: message["method"] == "UNSUBSCRIBE")
        assert binance.publish("trades", "BTCUSDT", trades(binance, 2)) == 0
        tell(socket, method="SUBSCRIEB", params=[], id=4)
        assert said(socket)["error"]["code"] == 2
        socket.send("{")
        assert said(socket)["error"]["code"] == 3
        tell(socket, method="SUBSCRIBE", params=["@@@###"], id=5)
        assert said(socket) == {"error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": 5}
        with pytest.raises(ConnectionClosed):
            socket.recv(LONG)
        assert [heard.message["id"] for heard in binance.log if isinstance(heard.message, dict)] == [
            1,
            2,
            "three",
            4,
            5,
        ]


def test_binance_limits_streams_and_messages() -> None:
    with BinanceLiveStandIn() as binance:
        with client(binance, "/ws") as socket:
            names = [f"x{number}@trade" for number in range(1025)]
            # longer than is answered
            tell(socket, method="SUBSCRIBE", params=names, id=0)
            for first in range(0, 1025, 205):
                tell(socket, method="SUBSCRIBE", params=names[first : first + 205], id=first + 1)
            assert [said(socket)["id"] for _ in range(4)] == [1, 206, 411, 616]
            with pytest.raises(ConnectionClosed, match="Too many streams"):
                socket.recv(LONG)
        binance.messages_per_second = 5
        with client(binance, "/ws") as socket:
            for number in range(6):
                tell(socket, method="LIST_SUBSCRIPTIONS", id=number)
            with pytest.raises(ConnectionClosed, match="Too many requests"):
                [socket.recv(LONG) for _ in range(6)]


def test_binance_tells_open_bars_before_the_closed_one() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws/btcusdt@kline_1m?timeUnit=MICROSECOND") as socket:
        binance.wait_subscribed({("ohlcv-1m", "BTCUSDT")})
        binance.previews = 2
        bars = binance.rows("ohlcv-1m", "BTCUSDT", START, START + MINUTE)
        binance.publish("ohlcv-1m", "BTCUSDT", bars)
        kept = [said(socket)["k"] for _ in range(3)]
    assert [bar["x"] for bar in kept] == [False, False, True]
    assert (kept[2]["t"], kept[2]["T"]) == (1_704_207_600_000_000, 1_704_207_659_999_999)
    # an open bar is not what is true
    assert binance.truth("ohlcv-1m", "BTCUSDT") == bars


def test_binance_books_and_quotes() -> None:
    levels = {"bid_price_00": Decimal(2), "bid_size_00": Decimal(1), "ask_price_00": None, "ask_size_00": None}
    with BinanceLiveStandIn() as binance:
        streams = "/stream?streams=btcusdt@bookTicker/btcusdt@depth10@100ms/btcusdt@depth@100ms"
        with client(binance, streams) as socket:
            binance.wait_subscribed({(schema, "BTCUSDT") for schema in ("quotes", "mbp-10", "depth")})
            binance.publish("quotes", "BTCUSDT", binance.rows("quotes", "BTCUSDT", START, START + MINUTE)[0])
            assert list(said(socket)["data"]) == ["u", "s", "b", "B", "a", "A"]
            binance.publish("mbp-10", "BTCUSDT", {"sequence": 7, **levels})
            assert said(socket)["data"] == {"lastUpdateId": 7, "bids": [["2.00000000", "1.00000000"]], "asks": []}
            change = {"ts_event": START, "first": 8, "last": 9, "bids": [], "asks": [(Decimal(3), Decimal(0))]}
            binance.publish("depth", "BTCUSDT", change)
            assert said(socket)["data"]["a"] == [["3.00000000", "0.00000000"]]
    with BinanceLiveStandIn("usdt-futures") as futures, client(futures, "/ws/btcusdt@bookTicker") as socket:
        futures.wait_subscribed({("quotes", "BTCUSDT")})
        quote = {**futures.rows("quotes", "BTCUSDT", START, START + MINUTE)[0], "ts_event": START}
        futures.publish("quotes", "BTCUSDT", quote)
        assert said(socket)["T"] == 1_704_207_600_000


def test_what_nobody_hears_still_happened_and_history_tells_it() -> None:
    with BinanceLiveStandIn() as binance:
        assert binance.publish("trades", "BTCUSDT", trades(binance, 3)) == 0
        true = binance.truth("trades", "BTCUSDT")
        assert binance.truth("trades", "BTCUSDT", START + MINUTE) == []
    history = BinanceStandIn()
    history.server.server_close()
    end = true[-1]["ts_event"] + timedelta(microseconds=1)
    told = history.truth("trades", "BTCUSDT", START, end)
    assert [{name: row[name] for name in told[0]} for row in true] == told


def test_a_record_that_the_vendor_could_not_say_is_refused() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws/btcusdt@trade"):
        binance.wait_subscribed(TRADES)
        (trade,) = trades(binance, 1)
        with pytest.raises(ValueError, match="no whole number of ms"):
            binance.publish("trades", "BTCUSDT", {**trade, "ts_event": START + timedelta(microseconds=1)})
        with pytest.raises(ValueError, match="the vendor says no venue"):
            binance.publish("trades", "BTCUSDT", {**trade, "venue": "X"})
        with pytest.raises(ValueError, match="lacks side"):
            binance.publish("trades", "BTCUSDT", {"ts_event": START, "trade_id": "1", "price": 1, "size": 1})


def test_binance_warns_before_it_goes() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/stream") as socket:
        binance.wait_open(1)
        binance.shutdown_notice()
        assert said(socket)["data"]["e"] == "serverShutdown"
        binance.rotate()
        with pytest.raises(ConnectionClosed):
            socket.recv(LONG)


# -- Twelve Data --------------------------------------------------------------------------------------------------


@pytest.mark.corpus
def test_twelve_datas_stream_is_what_the_documents_show(corpus: Path) -> None:
    recorded = corpus / "twelvedata/fixtures"
    event, status, heartbeat = (
        json.loads((recorded / f"websocket_{name}.json").read_text())
        for name in ("price_event", "subscribe_status", "heartbeat")
    )
    with TwelveDataLiveStandIn() as twelve, client(twelve, "/v1/quotes/price?apikey=td-right") as socket:
        tell(socket, action="subscribe", params={"symbols": "AAPL,NOBODY, EUR/USD"})
        answer = said(socket)
        assert list(answer) == list(status)
        assert set(answer["success"][0]) <= set(status["success"][0]) | {"currency"}
        assert [one["symbol"] for one in answer["success"]] == ["AAPL", "EUR/USD"]
        assert answer["fails"] == [{"symbol": "NOBODY"}]
        price = twelve.rows("trades", "AAPL", START, START + MINUTE)[0]
        twelve.publish("trades", "AAPL", price)
        answer = said(socket)
        assert list(answer) == list(event)
        assert (answer["timestamp"], answer["price"]) == (int(price["ts_event"].timestamp()), float(price["price"]))
        twelve.publish("quotes", "EUR/USD", twelve.rows("quotes", "EUR/USD", START, START + MINUTE)[0])
        assert {"bid", "ask"} <= set(said(socket))
        tell(socket, action="heartbeat")
        assert said(socket) == heartbeat
        tell(socket, action="unsubscribe", params={"symbols": "AAPL"})
        assert said(socket)["event"] == "unsubscribe-status"
        assert twelve.publish("trades", "AAPL", price) == 0
        tell(socket, action="reset")
        assert said(socket) == {"event": "reset-status", "status": "ok"}
        assert twelve.subscribed == set()
        tell(socket, action="subscribe", params={"symbols": "NOBODY"})
        assert said(socket)["status"] == "error"
        tell(socket, action="dance")
        assert said(socket)["messages"] == ["Cant parse message"]
        with pytest.raises(ValueError, match="no whole number of s"):
            twelve.publish("trades", "EUR/USD", {"ts_event": START + timedelta(milliseconds=1), "price": 1})


def test_twelve_data_wants_a_key_and_has_three_connections() -> None:
    with TwelveDataLiveStandIn() as twelve:
        with pytest.raises(InvalidStatus, match="401"), client(twelve, "/v1/quotes/price?apikey=wrong"):
            pass
        with ExitStack() as sockets:
            for number in range(1, 5):
                headers = {"X-TD-APIKEY": "td-right"}
                sockets.enter_context(client(twelve, "/v1/quotes/price", additional_headers=headers))
                twelve.wait_open(min(number, 3))
            twelve.wait_for(lambda: [one.number for one in twelve.clients] == [2, 3, 4])
