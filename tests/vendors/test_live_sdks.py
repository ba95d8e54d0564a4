"""The live stand-ins of Alpaca and Massive are taken for the vendor by their SDKs."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.vendors.alpaca import nanoseconds as of_text
from tests.vendors.live.alpaca import ERRORS
from tests.vendors.live.alpaca import AlpacaLiveStandIn
from tests.vendors.live.massive import MassiveLiveStandIn
from tests.vendors.live.talk import LONG
from tests.vendors.live.talk import MINUTE
from tests.vendors.live.talk import START
from tests.vendors.live.talk import client
from tests.vendors.live.talk import said
from tests.vendors.live.talk import tell
from tests.vendors.live.words import nanoseconds

RIGHT = ("AKTESTKEY", "alpaca-test-secret")
# alpaca-py still uses the old client of websockets
old_client = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# -- Alpaca -------------------------------------------------------------------------------------------------------


@contextmanager
def running(stream: Any, alpaca: AlpacaLiveStandIn, symbol: str) -> Iterator[None]:
    """Run a stream of the SDK; it looks whether it was stopped whenever something comes."""
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        yield
    finally:
        stream.stop()
        alpaca.publish("trades", symbol, alpaca.rows("trades", symbol, START, START + MINUTE)[-1])
        thread.join(LONG)
    assert not thread.is_alive()


class Heard:
    """Messages that a handler of the SDK was given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.changed = threading.Condition()

    async def __call__(self, message: Any) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, LONG), self.messages
        return self.messages


def handler(heard: Heard) -> Any:
    """Return what the SDK takes: a function, not an object that can be called."""

    async def hear(message: Any) -> None:
        await heard(message)

    return hear


@old_client
def test_alpacas_sdk_takes_the_stand_in_for_the_stock_stream() -> None:
    from alpaca.data.live import StockDataStream

    heard = Heard()
    with AlpacaLiveStandIn() as alpaca:
        stream = StockDataStream(*RIGHT, url_override=f"{alpaca.url}/v2/iex")
        hear = handler(heard)
        for subscribe in (stream.subscribe_trades, stream.subscribe_quotes, stream.subscribe_bars,
                          stream.subscribe_updated_bars, stream.subscribe_daily_bars):  # fmt: skip
            subscribe(hear, "AAPL")
        stream.subscribe_trading_statuses(hear, "*")
        with running(stream, alpaca, "AAPL"):
            bars = {(f"ohlcv-{name}", "AAPL") for name in ("1m", "1d")}
            alpaca.wait_subscribed({("trades", "AAPL"), ("quotes", "AAPL"), ("statuses", "*"), *bars})
            trades = alpaca.rows("trades", "AAPL", START, START + MINUTE)
            assert alpaca.publish("trades", "AAPL", trades) == 1
            (quote, *_) = alpaca.rows("quotes", "AAPL", START, START + MINUTE)
            alpaca.publish("quotes", "AAPL", quote)
            (bar,) = alpaca.rows("ohlcv-1m", "AAPL", START, START + MINUTE)
            alpaca.publish("ohlcv-1m", "AAPL", bar)
            alpaca.revise("ohlcv-1m", "AAPL", {**bar, "trade_count": 999})
            (day,) = alpaca.rows("ohlcv-1d", "AAPL", START.replace(hour=0), START)
            alpaca.publish("ohlcv-1d", "AAPL", day)
            halt = {"ts_event": START, "sc": "H", "sm": "Trading Halt", "rc": "T12", "rm": "Information", "z": "C"}
            alpaca.publish("statuses", "AAPL", halt)
            count = len(trades)
            found = heard.wait(count + 5)
        assert [(trade.id, trade.price, trade.exchange) for trade in found[:count]] == [
            (int(row["trade_id"]), float(row["price"]), row["venue"]) for row in trades
        ]
        assert found[count].bid_price == float(quote["bid_price"])
        assert [message.trade_count for message in found[count + 1 : count + 3]] == [bar["trade_count"], 999]
        assert found[count + 3].timestamp == datetime(2024, 1, 2, 5, tzinfo=UTC)
        assert found[count + 4].status_code == "H"
        # the revised bar is what is true
        assert [row["trade_count"] for row in alpaca.truth("ohlcv-1m", "AAPL")] == [999]


@old_client
def test_alpacas_sdk_takes_the_stand_in_for_the_crypto_stream_and_comes_again() -> None:
    from alpaca.data.live import CryptoDataStream

    heard = Heard()
    with AlpacaLiveStandIn() as alpaca:
        stream = CryptoDataStream(*RIGHT, url_override=f"{alpaca.url}/v1beta3/crypto/us", raw_data=True)
        stream._reconnect_min_backoff = 0.01
        stream.subscribe_trades(handler(heard), "BTC/USD")
        with running(stream, alpaca, "BTC/USD"):
            for number, trade in enumerate(alpaca.rows("trades", "BTC/USD", START, START + MINUTE)[:2], 1):
                alpaca.wait_connections(number)
                alpaca.wait_subscribed({("trades", "BTC/USD")})
                alpaca.publish("trades", "BTC/USD", trade)
                found = heard.wait(number)
                assert found[-1]["t"].to_unix_nano() == nanoseconds(trade["ts_event"])
                assert found[-1]["tks"] == {"A": "S", "B": "B"}[trade["side"]]
                if number == 1:
                    alpaca.rst()


def test_alpaca_speaks_json_to_those_who_do_not_ask_for_more() -> None:
    with AlpacaLiveStandIn() as alpaca, client(alpaca, "/v2/sip") as socket:
        assert said(socket) == [{"T": "success", "msg": "connected"}]
        tell(socket, action="auth", key=RIGHT[0], secret=RIGHT[1])
        assert said(socket) == [{"T": "success", "msg": "authenticated"}]
        alpaca.terse = False
        tell(socket, action="subscribe", trades=["AAPL"], bars=["*"])
        everything = {
            "trades": ["AAPL"], "quotes": [], "bars": ["*"], "updatedBars": [], "dailyBars": [], "statuses": [],
            "lulds": [], "corrections": ["AAPL"], "cancelErrors": ["AAPL"],
        }  # fmt: skip
        assert said(socket) == [{"T": "subscription", **everything}]
        alpaca.terse = True
        tell(socket, action="unsubscribe", trades=["AAPL"])
        assert said(socket) == [{"T": "subscription", "bars": ["*"]}]
        bars = alpaca.rows("ohlcv-1m", "MSFT", START, START + 2 * MINUTE)
        alpaca.publish("ohlcv-1m", "MSFT", bars)
        frame = said(socket)
        assert [list(bar) for bar in frame] == [["T", "S", "o", "h", "l", "c", "v", "n", "vw", "t"]] * 2
        assert [of_text(bar["t"]) for bar in frame] == [nanoseconds(row["ts_event"]) for row in bars]


def test_alpaca_tells_of_corrections_with_trades() -> None:
    headers = {"APCA-API-KEY-ID": RIGHT[0], "APCA-API-SECRET-KEY": RIGHT[1]}
    with AlpacaLiveStandIn() as alpaca, client(alpaca, "/v2/sip", additional_headers=headers) as socket:
        assert [said(socket)[0]["msg"] for _ in range(2)] == ["connected", "authenticated"]
        tell(socket, action="subscribe", trades=["AAPL"])
        said(socket)
        alpaca.publish("corrections", "AAPL", {"ts_event": START, "oi": 1, "op": 2.5, "ci": 2, "cp": 2.4})
        alpaca.publish("cancelErrors", "AAPL", {"ts_event": START, "i": 2, "p": 2.4, "a": "C"})
        assert [said(socket)[0]["T"] for _ in range(2)] == ["c", "x"]
        alpaca.publish("quotes", "AAPL", alpaca.rows("quotes", "AAPL", START, START + MINUTE))
        alpaca.slow_consumer()
        assert said(socket) == [{"T": "error", "code": 407, "msg": "slow client"}]


def wrong(alpaca: AlpacaLiveStandIn, socket: ClientConnection, code: int) -> None:
    """Do what brings an error."""
    auth = {"action": "auth", "key": RIGHT[0], "secret": RIGHT[1]}
    if code == 402:
        auth["secret"] = "wrong"
    if code == 409:
        alpaca.feeds = {"iex"}
    if code == 400:
        socket.send("{")
    elif code == 401:
        tell(socket, action="subscribe", trades=["AAPL"])
    elif code != 404:
        tell(socket, **auth)
    if code == 403:
        tell(socket, **auth)
    if code == 405:
        alpaca.most = 1
        tell(socket, action="subscribe", trades=["AAPL", "MSFT"])
    if code == 410:
        tell(socket, action="subscribe", lulds=["BTC/USD"])


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 405, 409, 410])
def test_alpacas_errors(code: int) -> None:
    with AlpacaLiveStandIn() as alpaca:
        alpaca.auth_seconds = 0.0 if code == 404 else LONG
        with client(alpaca, "/v1beta3/crypto/us" if code == 410 else "/v2/sip") as socket:
            said(socket)
            wrong(alpaca, socket, code)
            answer = said(socket)
            if answer[0]["T"] == "success":
                answer = said(socket)
            assert answer == [{"T": "error", "code": code, "msg": ERRORS[code][0]}]
            if ERRORS[code][1]:
                with pytest.raises(ConnectionClosed):
                    socket.recv(LONG)


def test_alpaca_has_one_connection_a_key() -> None:
    with AlpacaLiveStandIn() as alpaca:
        auth = {"action": "auth", "key": RIGHT[0], "secret": RIGHT[1]}

        def enter(socket: ClientConnection) -> Any:
            said(socket)
            tell(socket, **auth)
            return said(socket)[0].get("code")

        with (
            client(alpaca, "/v2/sip") as first,
            client(alpaca, "/v2/sip") as second,
            client(alpaca, "/v2/iex") as third,
        ):
            assert [enter(socket) for socket in (first, second, third)] == [None, 406, None]
            alpaca.silence()
            with client(alpaca, "/v2/sip") as fourth:
                assert enter(fourth) is None
            alpaca.wait_open(0)
            alpaca.silent_count = True
            with client(alpaca, "/v2/sip") as fifth:
                assert enter(fifth) == 406


# -- Massive ------------------------------------------------------------------------------------------------------


def heard_by_the_sdk(massive: MassiveLiveStandIn, place: str, said: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Return what the SDK makes of the first record of each subscription, by its event."""
    from massive import WebSocketClient

    heard: dict[str, Any] = {}

    async def run() -> None:
        async def hear(messages: list[Any]) -> None:
            heard.update({message.event_type: message for message in messages})

        feed = massive.url.removeprefix("ws://")
        key = massive.keys["API_KEY"]
        sdk = WebSocketClient(key, feed=feed, market=place, secure=False, subscriptions=list(said), proxy=None)
        task = asyncio.create_task(sdk.connect(hear, proxy=None))
        await asyncio.to_thread(massive.wait_subscribed, set(said.values()))
        for schema, symbol in said.values():
            assert massive.publish(schema, symbol, massive.rows(schema, symbol, START, START + MINUTE)[0]) == 1
        massive.fin()
        await task

    asyncio.run(run())
    return heard


def test_massives_sdk_takes_the_stand_in_for_stocks() -> None:
    said = {"AM.AAPL": ("ohlcv-1m", "AAPL"), "A.MSFT": ("ohlcv-1s", "MSFT"), "T.MSFT": ("trades", "MSFT"),
            "Q.AAPL": ("quotes", "AAPL")}  # fmt: skip
    with MassiveLiveStandIn() as massive:
        heard = heard_by_the_sdk(massive, "stocks", said)
        (bar,) = massive.truth("ohlcv-1m", "AAPL")
        assert (heard["AM"].open, heard["AM"].vwap) == (float(bar["open"]), float(bar["vwap"]))
        assert heard["AM"].end_timestamp - heard["AM"].start_timestamp == 60_000
        assert heard["A"].end_timestamp - heard["A"].start_timestamp == 1_000
        (trade,) = massive.truth("trades", "MSFT")
        assert (heard["T"].symbol, heard["T"].id, heard["T"].conditions) == ("MSFT", trade["trade_id"], [12, 37])
        assert heard["T"].timestamp == nanoseconds(trade["ts_recv"]) // 1_000_000
        (quote,) = massive.truth("quotes", "AAPL")
        assert heard["Q"].bid_price == float(quote["bid_price"])
        assert heard["Q"].sequence_number == quote["sequence"]


def test_massives_sdk_takes_the_stand_in_for_crypto_and_forex() -> None:
    coins = {f"{event}.BTC-USD": (schema, "X:BTCUSD") for event, schema in
             (("XA", "ohlcv-1m"), ("XAS", "ohlcv-1s"), ("XT", "trades"), ("XQ", "quotes"))}  # fmt: skip
    with MassiveLiveStandIn() as massive:
        heard = heard_by_the_sdk(massive, "crypto", coins)
        assert {event: message.pair for event, message in heard.items()} == dict.fromkeys(
            ("XA", "XAS", "XT", "XQ"), "BTC-USD"
        )
        (trade,) = massive.truth("trades", "X:BTCUSD")
        assert (heard["XT"].price, heard["XT"].size) == (float(trade["price"]), float(trade["size"]))
        assert heard["XQ"].exchange_id == 19
    pairs = {"C.EUR/USD": ("quotes", "C:EURUSD"), "CA.EUR/USD": ("ohlcv-1m", "C:EURUSD")}
    with MassiveLiveStandIn() as massive:
        heard = heard_by_the_sdk(massive, "forex", pairs)
        (quote,) = massive.truth("quotes", "C:EURUSD")
        assert (heard["C"].pair, heard["C"].ask_price) == ("EUR/USD", float(quote["ask_price"]))
        assert heard["CA"].pair == "EUR/USD"


def test_massives_sdk_is_refused_with_a_wrong_key() -> None:
    from massive import WebSocketClient
    from massive.exceptions import AuthError

    with MassiveLiveStandIn() as massive:
        feed = massive.url.removeprefix("ws://")
        sdk = WebSocketClient("wrong", feed=feed, secure=False, subscriptions=["T.AAPL"])
        with pytest.raises(AuthError, match="authentication failed"):
            asyncio.run(sdk.connect(Heard(), proxy=None))


def test_massive_tells_of_its_limits() -> None:
    with MassiveLiveStandIn() as massive:
        massive.forbidden = {"Q"}

        def enter(socket: ClientConnection, params: str, count: int) -> list[str]:
            tell(socket, action="auth", params="massive-test-key")
            tell(socket, action="subscribe", params=params)
            return [said(socket)[0]["status"] for _ in range(2 + count)]

        with client(massive, "/stocks") as first:
            assert enter(first, "T.AAPL,Q.AAPL,ZZ.AAPL", 3) == [
                "connected",
                "auth_success",
                "success",
                "error",
                "error",
            ]
            with client(massive, "/stocks") as second:
                # only after all was acknowledged
                assert enter(second, "T.AAPL", 2)[2:] == ["success", "max_connections"]
                with pytest.raises(ConnectionClosed):
                    second.recv(LONG)
            massive.wait_open(1)
            massive.force_disconnect()
            assert said(first)[0]["status"] == "force_disconnect"
        massive.auth_seconds = 0.0
        with client(massive, "/crypto") as third:
            assert [said(third)[0]["status"] for _ in range(2)] == ["connected", "auth_timeout"]
