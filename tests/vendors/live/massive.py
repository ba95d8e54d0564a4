"""Massive's streams, formerly Polygon's (massive.com/docs/websocket): stocks, crypto, forex.

Every frame is an array. Ticks are stamped in whole milliseconds, where REST has nanoseconds, and those of stocks only
with the time of the consolidated tape; bars have no count of trades. Pairs are written BTC-USD and EUR/USD here,
X:BTCUSD and C:EURUSD in REST: rows are published under REST's names. Who has too many connections is told so only after
everything was acknowledged, as measured by others.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from typing import ClassVar

from tests.vendors import market
from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Content
from tests.vendors.live.connections import Opened
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.words import Happening
from tests.vendors.live.words import nanoseconds
from tests.vendors.live.words import number
from tests.vendors.live.words import only
from tests.vendors.live.words import stamp
from tests.vendors.live.words import ticks
from tests.vendors.massive import WAY
from tests.vendors.massive import instant
from tests.vendors.server import Row

#: market → event → our schema
EVENTS = {
    "stocks": {"AM": "ohlcv-1m", "A": "ohlcv-1s", "T": "trades", "Q": "quotes"},
    "crypto": {"XA": "ohlcv-1m", "XAS": "ohlcv-1s", "XT": "trades", "XQ": "quotes"},
    "forex": {"CA": "ohlcv-1m", "CAS": "ohlcv-1s", "C": "quotes"},
}
_SEPARATORS = {"crypto": ("X:", "-"), "forex": ("C:", "/")}
_STOCKS = ("AAPL", "MSFT")
_COINS = ("X:BTCUSD", "X:ETHUSD")
_PAIRS = ("C:EURUSD",)
_SECONDS = {"ohlcv-1s": 1, "ohlcv-1m": 60}
_PRICES = (("o", "open"), ("c", "close"), ("h", "high"), ("l", "low"), ("v", "volume"))


def pair(symbol: str) -> str:
    """Return REST's name of a pair as streams write it: X:BTCUSD is BTC-USD, C:EURUSD is EUR/USD."""
    for prefix, separator in _SEPARATORS.values():
        if symbol.startswith(prefix):
            return f"{symbol[2:-3]}{separator}{symbol[-3:]}"
    return symbol


class MassiveLiveStandIn(LiveStandIn):
    """`/stocks`, `/crypto` and `/forex`."""

    vendor = "massive"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "massive-test-key"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "trades": (*_STOCKS, *_COINS),
        **dict.fromkeys(("quotes", "ohlcv-1s", "ohlcv-1m"), (*_STOCKS, *_COINS, *_PAIRS)),
    }

    def __init__(self, compression: str | None = None) -> None:
        super().__init__(compression)
        #: what the plan has
        self.markets = {"stocks", "crypto", "forex"}
        #: events the plan does not have
        self.forbidden: set[str] = set()
        #: connections of the key to one market
        self.most_connections = 1
        #: seconds a client has to say its key
        self.auth_seconds = 10.0
        #: seconds that answers to a subscription are under way
        self.latency = 0.0

    def rows(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return records of the market that the REST stand-in answers with too; of pairs it has two venues."""
        stock = symbol in _STOCKS
        if schema == "trades":
            return [
                {
                    "ts_event": stamp(instant(trade.time)), "trade_id": str(trade.id), "price": trade.price,
                    "size": trade.size, "venue": "11", "conditions": "12,37",
                    **({"ts_recv": stamp(instant(trade.time) + WAY), "sequence": trade.id} if stock else {}),
                }
                for trade in market.trades(symbol, start, end)
            ]  # fmt: skip
        if schema == "quotes":
            more = {"bid_venue": "19", "ask_venue": "15" if stock else "19"}
            return [
                {
                    "ts_event": stamp(instant(quote.time)), "bid_price": quote.bid, "ask_price": quote.ask, **more,
                    **({} if symbol in _PAIRS else {"bid_size": quote.bid_size, "ask_size": quote.ask_size}),
                    **({"ts_recv": stamp(instant(quote.time) + WAY), "sequence": quote.id} if stock else {}),
                }
                for quote in market.quotes(symbol, start, end)
            ]  # fmt: skip
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, **({} if symbol in _PAIRS else {"vwap": bar.vwap}),
            }
            for bar in market.bars(symbol, _SECONDS[schema], start, end)
        ]  # fmt: skip

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        tape = ("ts_recv", "sequence") if not symbol.startswith(("X:", "C:")) else ()
        if schema == "trades":
            return only(record, ("ts_event", "trade_id", "price", "size", "venue"), (*tape, "conditions"))
        if schema == "quotes":
            sizes = () if symbol.startswith("C:") else ("bid_size", "ask_size")
            venues = ("bid_venue", "ask_venue")
            if not tape and record.get("bid_venue") != record.get("ask_venue"):
                raise ValueError(f"both sides of a pair have one venue: {record}")
            return only(record, ("ts_event", "bid_price", "ask_price", *sizes, *venues), (*tape, "conditions"))
        average = () if symbol.startswith("C:") else ("vwap",)
        return only(record, ("ts_event", "open", "high", "low", "close", "volume"), average)

    # -- connections ----------------------------------------------------------------------------------------------

    def admit(self, opened: Opened) -> tuple[int, str] | None:
        return None if opened.path.removeprefix("/") in EVENTS else (404, "Not Found")

    def meet(self, client: Client) -> None:
        client.notes["market"] = client.opened.path.removeprefix("/")

    def greet(self, client: Client) -> None:
        self.status(client, "connected", "Connected Successfully")
        client.socket.loop.call_later(self.auth_seconds, self._too_late, client)

    def hear(self, client: Client, message: Any) -> None:
        action, params = (message.get("action"), message.get("params")) if isinstance(message, dict) else (None, None)
        if not isinstance(params, str):
            self.status(client, "error", "invalid message")
        elif action == "auth":
            self._authenticate(client, params)
        elif not client.authenticated:
            self.status(client, "auth_required", "please authenticate first")
        elif action == "subscribe":
            if not self.trips("subscribe", client):
                self._subscribe(client, params.split(","))
        elif action == "unsubscribe":
            for name in params.split(","):
                self.unsubscribe(client, [name.strip()])
                self.status(client, "success", f"unsubscribed to: {name.strip()}")
        else:
            self.status(client, "error", f"unknown action: {action}")

    def status(self, client: Client, status: str, words: str) -> None:
        """Say something of the connection."""
        self.send(client, {"ev": "status", "status": status, "message": words})

    def _authenticate(self, client: Client, key: str) -> None:
        if self.trips("auth", client):
            return
        if key != self.keys["API_KEY"]:
            self.do_auth_failure(client)
        elif client.notes["market"] not in self.markets:
            self.status(client, "auth_failed", "Your plan doesn't include websocket access.")
            self.close(client, 1008, "")
        else:
            client.authenticated = True
            self.status(client, "auth_success", "authenticated")

    def _subscribe(self, client: Client, names: list[str]) -> None:
        for name in map(str.strip, names):
            event, _, symbol = name.partition(".")
            if event not in EVENTS[client.notes["market"]] or not symbol:
                said = ("error", f"unknown channel: {name}")
            elif event in self.forbidden:
                # one for each channel, which it does not name
                said = ("error", "not authorized")
            else:
                schema = EVENTS[client.notes["market"]][event]
                # what nobody knows is acknowledged like the rest
                self.subscribe(client, {name: (schema, self._ours(client.notes["market"], symbol))})
                said = ("success", f"subscribed to: {name}")
            if self.latency:
                client.socket.loop.call_later(self.latency, self.status, client, *said)
            else:
                self.status(client, *said)
        others = [
            one for one in self.clients if one.authenticated and one.heard and one.opened.path == client.opened.path
        ]
        if len(others) > self.most_connections:
            self.do_throttle(client)

    def _ours(self, place: str, symbol: str) -> str:
        if place == "stocks" or symbol == "*":
            return symbol
        return _SEPARATORS[place][0] + re.sub("[-/]", "", symbol)

    def _too_late(self, client: Client) -> None:
        if client.heard and not client.authenticated:
            self.status(client, "auth_timeout", "No authentication request received.")
            self.close(client, 1008, "")

    # -- data -----------------------------------------------------------------------------------------------------

    def encode(self, client: Client, channel: str, happening: Happening) -> list[Any]:
        event, _, symbol = channel.partition(".")
        if happening.kind == "provisional" or (symbol != "*" and f"{event}.*" in client.channels):
            return []
        record = happening.record
        named = {"sym" if client.notes["market"] == "stocks" else "pair": pair(happening.symbol)}
        if event == "C":
            prices = {"a": number(record["ask_price"]), "b": number(record["bid_price"])}
            return [
                {
                    "ev": "C",
                    "p": pair(happening.symbol),
                    "x": int(record["bid_venue"]),
                    **prices,
                    "t": self._time(record),
                }
            ]
        if happening.schema in _SECONDS:
            said = self._bar(record, _SECONDS[happening.schema])
        else:
            said = self._trade(record) if happening.schema == "trades" else self._quote(record)
        return [{"ev": event, **named, **said}]

    def _trade(self, record: Row) -> Row:
        said: Row = {"x": int(record["venue"]), "i": record["trade_id"], "p": number(record["price"])}
        said |= {"s": number(record["size"]), **self._conditions(record), "t": self._time(record)}
        return {**said, "z": 3, "q": record["sequence"]} if "sequence" in record else {**said, "r": said["t"] + 1}

    def _quote(self, record: Row) -> Row:
        said: Row = {}
        for side in ("bid", "ask"):
            said[f"{side[0]}p"] = number(record[f"{side}_price"] or 0)
            said[f"{side[0]}s"] = number(record[f"{side}_size"] or 0)
        if "sequence" not in record:
            return {**said, "x": int(record["bid_venue"]), "t": self._time(record), "r": self._time(record) + 1}
        venues = {f"{side[0]}x": int(record[f"{side}_venue"]) for side in ("bid", "ask")}
        return {**venues, **said, **self._conditions(record), "t": self._time(record), "z": 3, "q": record["sequence"]}

    def _bar(self, record: Row, seconds: int) -> Row:
        opens = ticks(record["ts_event"], "ms")
        said = {field: number(record[column]) for field, column in _PRICES}
        average = {"vw": number(record["vwap"]), "z": 10} if "vwap" in record else {}
        return {**said, **average, "s": opens, "e": opens + seconds * 1000}

    def _conditions(self, record: Row) -> Row:
        codes = record.get("conditions")
        return {"c": [int(code) for code in codes.split(",")]} if codes else {}

    def _time(self, record: Row) -> int:
        """Return the time of a tick: of the tape where there is one, cut to milliseconds as the vendor does."""
        return nanoseconds(record.get("ts_recv", record["ts_event"])) // 1_000_000

    def pack(self, client: Client, messages: Sequence[Any]) -> Iterable[Content]:
        return super().pack(client, [list(messages)])

    def do_auth_failure(self, client: Client) -> None:
        self.status(client, "auth_failed", "authentication failed")
        self.close(client, 1008, "")

    def do_slow_consumer(self, client: Client) -> None:
        self.status(client, "slow_consumer", "You are not reading messages fast enough.")
        self.close(client, 1008, "")

    def do_throttle(self, client: Client, seconds: float = 0) -> None:
        self.status(client, "max_connections", "Maximum number of websocket connections exceeded.")
        self.close(client, 1008, "")

    def do_force_disconnect(self, client: Client) -> None:
        self.status(client, "force_disconnect", "You have been disconnected.")
        self.close(client, 1008, "")

    def force_disconnect(self) -> None:
        """Send all connections away."""
        self.strike("force_disconnect")
