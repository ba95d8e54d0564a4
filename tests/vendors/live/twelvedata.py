"""Twelve Data's stream of prices (twelvedata.com/docs#websocket): one event a price, stamped with a whole second.

There are no sizes, no numbers and no bars. Symbols that fail are named in the acknowledgement of those that do not.
How a wrong key is refused is not documented: here by HTTP 401.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from typing import ClassVar

from tests.vendors import market
from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Opened
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.words import Happening
from tests.vendors.live.words import number
from tests.vendors.live.words import only
from tests.vendors.live.words import ticks
from tests.vendors.server import Row

_ABOUT = {
    "AAPL": {"currency": "USD", "exchange": "NASDAQ", "mic_code": "XNGS", "type": "Common Stock"},
    "MSFT": {"currency": "USD", "exchange": "NASDAQ", "mic_code": "XNGS", "type": "Common Stock"},
    "EUR/USD": {"currency_base": "Euro", "currency_quote": "US Dollar", "type": "Physical Currency"},
    "BTC/USD": {
        "currency_base": "Bitcoin", "currency_quote": "US Dollar", "exchange": "Coinbase Pro",
        "type": "Digital Currency",
    },
}  # fmt: skip
_ACTIONS = ("subscribe", "unsubscribe", "reset", "heartbeat")


class TwelveDataLiveStandIn(LiveStandIn):
    """`/v1/quotes/price?apikey=`, or with the key in the header `X-TD-APIKEY`.

    A subscription to a symbol is to its `trades` (prices) and its `quotes` (prices with bid and ask).
    """

    vendor = "twelvedata"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "td-right"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {"trades": tuple(_ABOUT), "quotes": tuple(_ABOUT)}
    steps = ("handshake", "connect", "subscribe", "data")

    def __init__(self, compression: str | None = None) -> None:
        super().__init__(compression)
        #: how the list of failures is written where there is none: [] or null
        self.no_fails: list[Row] | None = []
        #: most symbols of a connection; the others fail
        self.most = 1500
        #: connections of the key: another one ends the oldest
        self.most_connections = 3

    def rows(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return records of the market."""
        if schema == "trades":
            return [{"ts_event": trade.time, "price": trade.price} for trade in market.trades(symbol, start, end)]
        return [
            {"ts_event": quote.time, "price": quote.bid, "bid_price": quote.bid, "ask_price": quote.ask}
            for quote in market.quotes(symbol, start, end)
        ]

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        if schema == "trades":
            row = only(record, ("ts_event", "price"), ("day_volume",))
        else:
            row = only(record, ("ts_event", "price", "bid_price", "ask_price"))
        ticks(record["ts_event"], "s")
        return row

    # -- connections ----------------------------------------------------------------------------------------------

    def admit(self, opened: Opened) -> tuple[int, str] | None:
        if opened.path != "/v1/quotes/price":
            return 404, "Not Found"
        key = opened.headers.get("x-td-apikey") or opened.params.get("apikey")
        return None if key == self.keys["API_KEY"] else (401, "**apikey** parameter is incorrect or not specified.")

    def greet(self, client: Client) -> None:
        hearing = [one for one in self.clients if one.heard]
        for one in hearing[: max(0, len(hearing) - self.most_connections)]:
            self.close(one, 1000, "")

    def hear(self, client: Client, message: Any) -> None:
        action = message.get("action") if isinstance(message, dict) else None
        if action not in _ACTIONS:
            said = {"event": "subscribe-status", "status": "error", "messages": ["Cant parse message"]}
            self.send(client, said)
        elif action == "heartbeat":
            self.send(client, {"event": "heartbeat", "status": "ok"})
        elif action == "reset":
            self.unsubscribe(client, list(client.channels))
            self.send(client, {"event": "reset-status", "status": "ok"})
        elif action == "unsubscribe":
            names = self._names(message)
            self.unsubscribe(client, [f"{schema} {name}" for name in names for schema in self.symbols])
            self._acknowledge(client, "unsubscribe-status", names, [])
        elif not self.trips("subscribe", client):
            self._subscribe(client, self._names(message))

    def _subscribe(self, client: Client, names: list[str]) -> None:
        has = {symbol for _, symbol in client.channels.values()}
        good: list[str] = []
        for name in names:
            if name in _ABOUT and len(has | {name}) <= self.most:
                has.add(name)
                good.append(name)
        self.subscribe(client, {f"{schema} {name}": (schema, name) for name in good for schema in self.symbols})
        self._acknowledge(client, "subscribe-status", good, [name for name in names if name not in good])

    def _acknowledge(self, client: Client, event: str, good: list[str], bad: list[str]) -> None:
        fails = [{"symbol": name} for name in bad] or self.no_fails
        success = [{"symbol": name, **_ABOUT.get(name, {})} for name in good] or None
        status = "ok" if good else "error"
        self.send(client, {"event": event, "status": status, "success": success, "fails": fails})

    def _names(self, message: Row) -> list[str]:
        params = message.get("params") or {}
        symbols = params.get("symbols", "") if isinstance(params, dict) else params
        if isinstance(symbols, list):
            symbols = ",".join(one["symbol"] for one in symbols)
        return [name.strip() for name in symbols.split(",") if name.strip()]

    # -- data -----------------------------------------------------------------------------------------------------

    def encode(self, client: Client, channel: str, happening: Happening) -> list[Any]:
        record = happening.record
        said = {"event": "price", "symbol": happening.symbol, **_ABOUT.get(happening.symbol, {})}
        said |= {"timestamp": ticks(record["ts_event"], "s"), "price": number(record["price"])}
        more = {"bid": "bid_price", "ask": "ask_price", "day_volume": "day_volume"}
        return [{**said, **{name: number(record[column]) for name, column in more.items() if column in record}}]
