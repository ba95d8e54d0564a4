"""Alpaca's streams (docs.alpaca.markets/docs/streaming-market-data): stocks v2 and crypto v1beta3.

JSON, or MessagePack for who asks for it with the header `Content-Type: application/msgpack`. Every frame is an array.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from typing import Any
from typing import ClassVar
from zoneinfo import ZoneInfo

import msgpack

from tests.vendors import market
from tests.vendors.alpaca import instant
from tests.vendors.alpaca import rfc3339
from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Content
from tests.vendors.live.connections import Opened
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.words import Happening
from tests.vendors.live.words import nanoseconds
from tests.vendors.live.words import number
from tests.vendors.live.words import only
from tests.vendors.live.words import stamp
from tests.vendors.server import Row

#: channel → our schema, or of events without one the channel itself; and the letter of its messages
CHANNELS = {
    "trades": ("trades", "t"), "quotes": ("quotes", "q"), "bars": ("ohlcv-1m", "b"), "updatedBars": ("ohlcv-1m", "u"),
    "dailyBars": ("ohlcv-1d", "d"), "statuses": ("statuses", "s"), "lulds": ("lulds", "l"),
    "corrections": ("corrections", "c"), "cancelErrors": ("cancelErrors", "x"),
}  # fmt: skip
_COINS_HAVE = ("trades", "quotes", "bars", "updatedBars", "dailyBars")
#: what comes with the channel of trades, and cannot be asked alone
_WITH_TRADES = ("corrections", "cancelErrors")
#: what each channel tells of a bar
_TELLS = {"bars": ("final",), "updatedBars": ("revised",), "dailyBars": ("provisional", "final")}
#: code → (words, whether the connection ends)
ERRORS = {
    400: ("invalid syntax", False), 401: ("not authenticated", False), 402: ("auth failed", True),
    403: ("already authenticated", False), 404: ("auth timeout", True), 405: ("symbol limit exceeded", False),
    406: ("connection limit exceeded", True), 407: ("slow client", True), 408: ("v2 not enabled", True),
    409: ("insufficient subscription", True), 410: ("invalid subscribe action for this feed", False),
    500: ("internal error", True),
}  # fmt: skip
_STOCKS = ("AAPL", "MSFT")
_COINS = ("BTC/USD", "ETH/USD")
_NEW_YORK = ZoneInfo("America/New_York")
_BAR = ("ts_event", "open", "high", "low", "close", "volume", "trade_count", "vwap")


class AlpacaLiveStandIn(LiveStandIn):
    """`/v2/<feed>` and `/v1beta3/crypto/us`.

    Beside our schemas it takes the channels `statuses`, `lulds`, `corrections` and `cancelErrors`: rows of `ts_event`
    and the vendor's own fields (`sc`, `oi`, …).
    """

    vendor = "alpaca"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY_ID": "AKTESTKEY", "API_SECRET_KEY": "alpaca-test-secret"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        ("trades", "quotes", "ohlcv-1m", "ohlcv-1d"), (*_STOCKS, *_COINS)
    )

    def __init__(self, compression: str | None = None) -> None:
        super().__init__(compression)
        #: feeds that the key may see
        self.feeds = {"sip", "iex", "delayed_sip", "otc", "boats", "test", "us"}
        #: most symbols of a channel; free plans have 30
        self.most: int | None = None
        #: connections of the key to one address
        self.most_connections = 1
        #: whether a connection that went silent keeps its place
        self.silent_count = False
        #: seconds a client has to say its key
        self.auth_seconds = 10.0
        #: whether channels without symbols are left out of acknowledgements, as measured; documents show them
        self.terse = True

    def rows(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return records of the market that the REST stand-in answers with too."""
        coin = "/" in symbol
        if schema == "trades":
            sides, plain = ({"side": "B"}, {"side": "A"}), {"venue": "D", "conditions": "@,T,I"}
            return [
                {
                    "ts_event": stamp(instant(trade.time)), "trade_id": str(trade.id), "price": trade.price,
                    "size": trade.size, **(sides[trade.buyer_is_maker] if coin else plain),
                }
                for trade in market.trades(symbol, start, end)
            ]  # fmt: skip
        if schema == "quotes":
            return [
                {
                    "ts_event": stamp(instant(quote.time)), "bid_price": quote.bid, "bid_size": quote.bid_size,
                    "ask_price": quote.ask, "ask_size": quote.ask_size,
                    **({} if coin else {"bid_venue": "Q", "ask_venue": "K", "conditions": "R"}),
                }
                for quote in market.quotes(symbol, start, end)
            ]  # fmt: skip
        seconds = {"ohlcv-1m": 60, "ohlcv-1d": 86400}[schema]
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades, "vwap": bar.vwap,
            }
            for bar in market.bars(symbol, seconds, start, end, weekdays=seconds == 86400 and not coin)
        ]  # fmt: skip

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        coin = "/" in symbol
        if schema == "trades":
            needed = ("ts_event", "trade_id", "price", "size")
            return only(record, needed, ("side",) if coin else ("venue", "conditions"))
        if schema == "quotes":
            needed = ("ts_event", "bid_price", "bid_size", "ask_price", "ask_size")
            return only(record, needed, () if coin else ("bid_venue", "ask_venue", "conditions"))
        if schema in CHANNELS:
            return only(record, ("ts_event",), tuple(record))
        return only(record, _BAR)

    # -- connections ----------------------------------------------------------------------------------------------

    def admit(self, opened: Opened) -> tuple[int, str] | None:
        known = {
            "/v1beta3/crypto/us",
            *(f"/v2/{feed}" for feed in ("sip", "iex", "delayed_sip", "otc", "boats", "test")),
        }
        return None if opened.path in known else (404, "404 page not found")

    def meet(self, client: Client) -> None:
        client.notes["packed"] = client.opened.headers.get("content-type") == "application/msgpack"

    def greet(self, client: Client) -> None:
        headers = client.opened.headers
        self.send(client, {"T": "success", "msg": "connected"})
        if "apca-api-key-id" in headers:
            self._authenticate(client, headers["apca-api-key-id"], headers.get("apca-api-secret-key"))
        else:
            client.socket.loop.call_later(self.auth_seconds, self._too_late, client)

    def decode(self, client: Client, content: Content) -> Any:
        if isinstance(content, bytes):
            try:
                return msgpack.unpackb(content)
            except msgpack.UnpackException as error:
                raise ValueError("no MessagePack") from error
        return super().decode(client, content)

    def hear(self, client: Client, message: Any) -> None:
        action = message.get("action") if isinstance(message, dict) else None
        if action == "auth":
            self._authenticate(client, message.get("key"), message.get("secret"))
        elif action not in ("subscribe", "unsubscribe"):
            self.do_error(client, 400)
        elif not client.authenticated:
            self.do_error(client, 401)
        elif action == "unsubscribe":
            gone = self._named(client, message)
            self.unsubscribe(client, gone)
            self._acknowledge(client)
        elif not self.trips("subscribe", client):
            self._subscribe(client, message)

    def _authenticate(self, client: Client, key: Any, secret: Any) -> None:
        if self.trips("auth", client):
            return
        path = client.opened.path
        others = [one for one in self.clients if one.authenticated and one.opened.path == path and one is not client]
        if client.authenticated:
            self.do_error(client, 403)
        elif (key, secret) != tuple(self.keys.values()):
            self.do_error(client, 402)
        elif path.rpartition("/")[2] not in self.feeds:
            self.do_error(client, 409)
        elif sum(one.heard or (one.silent and self.silent_count) for one in others) >= self.most_connections:
            self.do_error(client, 406)
        else:
            client.authenticated = True
            self.send(client, {"T": "success", "msg": "authenticated"})

    def _subscribe(self, client: Client, message: Row) -> None:
        wanted = self._named(client, message)
        has = _COINS_HAVE if "crypto" in client.opened.path else CHANNELS
        if unknown := [name for name in wanted if name.partition(":")[0] not in has]:
            self.do_error(client, 410 if unknown[0].partition(":")[0] in CHANNELS else 400)
            return
        counts = [name.partition(":")[0] for name in {*client.channels, *wanted}]
        if self.most is not None and any(counts.count(name) > self.most for name in ("trades", "quotes", "bars")):
            self.do_error(client, 405)
            return
        # symbols that nobody knows are acknowledged like the rest
        self.subscribe(client, wanted)
        self._acknowledge(client)

    def _named(self, client: Client, message: Row) -> dict[str, tuple[str, str]]:
        """Return the channels that a message names, as `trades:AAPL`, with what they are in our words."""
        found = {}
        for name, symbols in message.items():
            if name != "action":
                for symbol in symbols or ():
                    found[f"{name}:{symbol}"] = (CHANNELS.get(name, ("", ""))[0], symbol)
                    if name == "trades" and "crypto" not in client.opened.path:
                        found.update({f"{other}:{symbol}": (other, symbol) for other in _WITH_TRADES})
        return found

    def _acknowledge(self, client: Client) -> None:
        names = _COINS_HAVE if "crypto" in client.opened.path else tuple(CHANNELS)
        lists: dict[str, list[str]] = {name: [] for name in names}
        for channel in client.channels:
            name, _, symbol = channel.partition(":")
            lists[name].append(symbol)
        said = {name: symbols for name, symbols in lists.items() if symbols or not self.terse}
        self.send(client, {"T": "subscription", **said})

    def _too_late(self, client: Client) -> None:
        if client.heard and not client.authenticated:
            self.do_error(client, 404)

    # -- data -----------------------------------------------------------------------------------------------------

    def encode(self, client: Client, channel: str, happening: Happening) -> list[Any]:
        name, _, symbol = channel.partition(":")
        if happening.kind not in _TELLS.get(name, ("final",)) or (symbol != "*" and f"{name}:*" in client.channels):
            return []
        record = happening.record
        head = {"T": CHANNELS[name][1], "S": happening.symbol}
        if name == "trades":
            return [{**head, **self._trade(record)}]
        if name == "quotes":
            return [{**head, **self._quote(record)}]
        if "open" not in record:
            own = {field: value for field, value in record.items() if field != "ts_event"}
            return [{**head, **own, "t": nanoseconds(record["ts_event"])}]
        columns = zip(("o", "h", "l", "c", "v", "n", "vw"), _BAR[1:], strict=True)
        opens = record["ts_event"]
        if name == "dailyBars" and "/" not in happening.symbol:
            opens = stamp(nanoseconds(opens)).replace(tzinfo=_NEW_YORK).astimezone(UTC)
        return [{**head, **{field: number(record[column]) for field, column in columns}, "t": nanoseconds(opens)}]

    def _trade(self, record: Row) -> Row:
        said: Row = {"i": int(record["trade_id"]), "p": number(record["price"]), "s": number(record["size"])}
        if record.get("side"):
            said["tks"] = {"A": "S", "B": "B"}[record["side"]]
        if "venue" in record:
            said |= {"x": record["venue"], "z": "C"}
        if "conditions" in record:
            said["c"] = record["conditions"].split(",")
        return {**said, "t": nanoseconds(record["ts_event"])}

    def _quote(self, record: Row) -> Row:
        said: Row = {}
        for side in ("bid", "ask"):
            if f"{side}_venue" in record:
                said[f"{side[0]}x"] = record[f"{side}_venue"]
            # where nobody bids it says 0
            said[f"{side[0]}p"] = number(record[f"{side}_price"] or 0)
            said[f"{side[0]}s"] = number(record[f"{side}_size"] or 0)
        if "conditions" in record:
            said |= {"c": record["conditions"].split(","), "z": "C"}
        return {**said, "t": nanoseconds(record["ts_event"])}

    def pack(self, client: Client, messages: Sequence[Any]) -> Iterable[Content]:
        if client.notes["packed"]:
            timed = [
                {**one, "t": msgpack.Timestamp.from_unix_nano(one["t"])} if "t" in one else one for one in messages
            ]
            return [msgpack.packb(timed)]
        timed = [{**one, "t": rfc3339(one["t"])} if "t" in one else one for one in messages]
        (frame,) = super().pack(client, [timed])
        return [frame]

    def do_error(self, client: Client, code: int) -> None:
        """Say one of the vendor's errors; some of them end the connection."""
        words, ends = ERRORS[code]
        self.send(client, {"T": "error", "code": code, "msg": words})
        if ends:
            self.close(client, 1000, "")

    def do_auth_failure(self, client: Client) -> None:
        self.do_error(client, 402)

    def do_slow_consumer(self, client: Client) -> None:
        self.do_error(client, 407)

    def do_throttle(self, client: Client, seconds: float = 0) -> None:
        self.do_error(client, 406)
