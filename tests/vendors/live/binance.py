"""Binance's streams, spot (of .com and .us) and USDT futures (binance-spot-api-docs, web-socket-streams).

What the documents do not say, as measured by others: an acknowledgement checks how a stream's name is written and not
whether there is such a stream, and after a name that is wrongly written the connection is closed.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from typing import ClassVar

from tests.vendors import market
from tests.vendors.live.connections import Content
from tests.vendors.live.server import Client
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.server import Opened
from tests.vendors.live.words import Happening
from tests.vendors.live.words import only
from tests.vendors.live.words import text
from tests.vendors.live.words import ticks
from tests.vendors.server import Row

SECONDS = {
    "1s": 1, "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14400, "6h": 21600,
    "8h": 28800, "12h": 43200, "1d": 86400, "3d": 259_200, "1w": 604_800,
}  # fmt: skip
_KNOWN = ("BTCUSDT", "ETHUSDT")
_NAME = re.compile(r"!?\w+(@[\w:+]+)+")
_DEPTH = re.compile(r"depth(5|10|20)?(@100ms|@1000ms|@250ms|@500ms)?")
_BAR = ("ts_event", "open", "high", "low", "close", "volume", "trade_count")
_QUOTE = ("sequence", "bid_price", "bid_size", "ask_price", "ask_size")
_LEVELS = tuple(
    f"{side}_{what}_{level:02}" for level in range(10) for side in ("bid", "ask") for what in ("price", "size")
)
#: longer messages to subscribe are left without an answer
_LONGEST = 4096
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
#: from the trade to the event, in units of the connection
_LATER = 3


class BinanceLiveStandIn(LiveStandIn):
    """Streams by URL (`/stream?streams=`, `/ws/…`) and by message.

    Beside our schemas it takes `depth`, the changes of a book: rows of `ts_event`, `first`, `last` and lists `bids`,
    `asks` of (price, size).
    """

    vendor = "binance"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        **{f"ohlcv-{'1mo' if name == '1M' else name}": _KNOWN for name in (*SECONDS, "1M")},
        "trades": _KNOWN, "quotes": _KNOWN, "mbp-10": _KNOWN, "depth": _KNOWN,
    }  # fmt: skip
    steps = ("handshake", "connect", "subscribe", "data")
    pings = (20, 60)

    def __init__(self, market: str = "spot", compression: str | None = None) -> None:
        super().__init__(compression)
        self.market = market
        #: most streams of a connection
        self.most = 1024
        #: more control messages in a second end the connection; 0: as many as you like
        self.messages_per_second = 0
        #: whether a wrongly written name ends the connection
        self.strict = True
        #: bars that are still open before each final one
        self.previews = 0

    def rows(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return records of the market that the REST stand-in answers with too."""
        if schema == "trades":
            return [
                {
                    "ts_event": trade.time, "trade_id": str(trade.id), "price": trade.price, "size": trade.size,
                    "side": "A" if trade.buyer_is_maker else "B",
                }
                for trade in market.trades(symbol, start, end)
            ]  # fmt: skip
        if schema == "quotes":
            return [
                {
                    "sequence": quote.id, "bid_price": quote.bid, "bid_size": quote.bid_size, "ask_price": quote.ask,
                    "ask_size": quote.ask_size,
                }
                for quote in market.quotes(symbol, start, end)
            ]  # fmt: skip
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades,
            }
            for bar in market.bars(symbol, SECONDS[schema.removeprefix("ohlcv-")], start, end)
        ]  # fmt: skip

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        if schema == "trades":
            return only(record, ("ts_event", "trade_id", "price", "size", "side"))
        if schema == "quotes":
            return only(record, _QUOTE if self.market == "spot" else ("ts_event", *_QUOTE))
        if schema == "mbp-10":
            return only(record, ("sequence",) if self.market == "spot" else ("ts_event", "sequence"), _LEVELS)
        if schema == "depth":
            return only(record, ("ts_event", "first", "last", "bids", "asks"))
        return only(record, _BAR)

    # -- connections ----------------------------------------------------------------------------------------------

    def decode(self, client: Client, content: Content) -> Any:
        client.notes["bytes"] = len(content.encode() if isinstance(content, str) else content)
        return super().decode(client, content)

    def admit(self, opened: Opened) -> tuple[int, str] | None:
        return None if re.fullmatch(r"(/\w+)?/(stream|ws)(/.*)?", opened.path) else (404, "Not Found")

    def meet(self, client: Client) -> None:
        opened = client.opened
        client.notes["combined"] = "/ws" not in opened.path
        client.notes["unit"] = "us" if opened.params.get("timeUnit", "").upper() == "MICROSECOND" else "ms"
        client.notes["asked"] = []

    def greet(self, client: Client) -> None:
        opened = client.opened
        asked = opened.params.get("streams", "") if client.notes["combined"] else opened.path.partition("/ws")[2]
        names = [name for name in asked.split("/") if name]
        if names and not self.trips("subscribe", client):
            self._subscribe(client, names, None)

    def hear(self, client: Client, message: Any) -> None:
        times = client.notes["asked"]
        times.append(client.socket.loop.time())
        if self.messages_per_second and sum(times[-1] - time < 1 for time in times) > self.messages_per_second:
            self.close(client, 1008, "Too many requests")
        elif not isinstance(message, dict):
            self._refuse(client, 3, "Invalid JSON: expected value at line 1 column 1", None)
        elif message.get("method") not in _METHODS:
            said = f"unknown variant `{message['method']}`" if "method" in message else "missing field `method`"
            self._refuse(client, 2, f"Invalid request: {said}", message.get("id"))
        else:
            self._obey(client, message["method"], message.get("params", []), message.get("id"))

    def _obey(self, client: Client, method: str, params: Any, number: Any) -> None:
        if method == "LIST_SUBSCRIPTIONS":
            self._answer(client, {"result": list(client.channels), "id": number})
        elif method == "GET_PROPERTY":
            self._answer(client, {"result": client.notes["combined"], "id": number})
        elif method == "SET_PROPERTY":
            client.notes["combined"] = bool(params[1])
            self._answer(client, {"result": None, "id": number})
        elif not (isinstance(params, list) and all(isinstance(name, str) for name in params)):
            self._refuse(client, 2, "Invalid request: params must be an array of strings", number)
        elif method == "UNSUBSCRIBE":
            self.unsubscribe(client, params)
            self._answer(client, {"result": None, "id": number})
        elif client.notes["bytes"] > _LONGEST:
            return
        elif not self.trips("subscribe", client) and self._subscribe(client, params, number):
            self._answer(client, {"result": None, "id": number})

    def _subscribe(self, client: Client, names: list[str], number: Any) -> bool:
        if not all(_NAME.fullmatch(name) for name in names):
            self._refuse(client, 2, "Invalid request: invalid stream", number)
            if self.strict:
                self.close(client, 1008, "Invalid request")
            return False
        if len({*client.channels, *names}) > self.most:
            self.close(client, 1008, "Too many streams")
            return False
        # what there is not is acknowledged like the rest, and stays silent
        self.subscribe(client, {name: self._wanted(name) for name in names})
        return True

    def _wanted(self, name: str) -> tuple[str, str]:
        symbol, _, stream = name.partition("@")
        if stream in ("aggTrade", "trade"):
            schema = "trades"
        elif stream == "bookTicker":
            schema = "quotes"
        elif stream.startswith("kline_") and (stream[6:] in SECONDS or stream == "kline_1M"):
            schema = f"ohlcv-{'1mo' if stream == 'kline_1M' else stream[6:]}"
        elif found := _DEPTH.fullmatch(stream):
            schema = "mbp-10" if found.group(1) else "depth"
        else:
            return "", name
        known = symbol == symbol.lower() and symbol.upper() in self.symbols[schema]
        return (schema, symbol.upper()) if known else ("", name)

    def _answer(self, client: Client, said: Row) -> None:
        self.send(client, said)

    def _refuse(self, client: Client, code: int, words: str, number: Any) -> None:
        self._answer(client, {"error": {"code": code, "msg": words}, **({} if number is None else {"id": number})})

    # -- data -----------------------------------------------------------------------------------------------------

    def encode(self, client: Client, channel: str, happening: Happening) -> list[Any]:
        stream, unit = channel.partition("@")[2], client.notes["unit"]
        says = {"trades": self._trade, "quotes": self._quote, "mbp-10": self._book, "depth": self._changes}
        if happening.schema in says:
            said = [says[happening.schema](stream, happening.symbol, happening.record, unit)]
            if stream == "trade" and self.market != "spot":
                said = list(self._among_others(said[0]))
        else:
            said = list(self._klines(stream.removeprefix("kline_"), happening, unit))
        return [{"stream": channel, "data": one} for one in said] if client.notes["combined"] else said

    def _trade(self, stream: str, symbol: str, record: Row, unit: str) -> Row:
        time, number = ticks(record["ts_event"], unit), int(record["trade_id"])
        head = {"e": stream, "E": time + _LATER, "s": symbol, "a" if stream == "aggTrade" else "t": number}
        values = {"p": text(record["price"]), "q": text(record["size"])}
        fills = {"f": number * 2, "l": number * 2 + 1} if stream == "aggTrade" else {}
        ignored = {"M": True} if self.market == "spot" else {}
        return {**head, **values, **fills, "T": time, "m": record["side"] == "A", **ignored}

    def _among_others(self, trade: Row) -> Iterable[Row]:
        """Yield a single trade of futures, and events after it that are none, with the number that comes next."""
        yield {**trade, "X": "MARKET"}
        yield {**trade, "t": trade["t"] + 1, "p": "0", "q": "0", "X": "NA"}
        yield {**trade, "t": trade["t"] + 1, "X": "INSURANCE_FUND"}

    def _quote(self, stream: str, symbol: str, record: Row, unit: str) -> Row:
        sides = {
            name: text(record[column] or 0)
            for name, column in (("b", "bid_price"), ("B", "bid_size"), ("a", "ask_price"), ("A", "ask_size"))
        }
        if self.market == "spot":
            return {"u": record["sequence"], "s": symbol, **sides}
        time = ticks(record["ts_event"], unit)
        head = {"e": "bookTicker", "u": record["sequence"], "s": symbol}
        return {**head, **sides, "T": time, "E": time + _LATER}

    def _book(self, stream: str, symbol: str, record: Row, unit: str) -> Row:
        found = _DEPTH.fullmatch(stream)
        assert found
        sides = {}
        for side in ("bid", "ask"):
            levels = range(min(10, int(found.group(1))))
            prices = [
                (record.get(f"{side}_price_{level:02}"), record.get(f"{side}_size_{level:02}")) for level in levels
            ]
            sides[side] = [[text(price), text(size)] for price, size in prices if price is not None]
        if self.market == "spot":
            return {"lastUpdateId": record["sequence"], "bids": sides["bid"], "asks": sides["ask"]}
        time, number = ticks(record["ts_event"], unit), record["sequence"]
        head = {
            "e": "depthUpdate",
            "E": time + _LATER,
            "T": time,
            "s": symbol,
            "U": number,
            "u": number,
            "pu": number - 1,
        }
        return {**head, "b": sides["bid"], "a": sides["ask"]}

    def _changes(self, stream: str, symbol: str, record: Row, unit: str) -> Row:
        time = ticks(record["ts_event"], unit)
        future = {} if self.market == "spot" else {"T": time, "pu": record["first"] - 1}
        sides = {side[0]: [[text(price), text(size)] for price, size in record[side]] for side in ("bids", "asks")}
        head = {"e": "depthUpdate", "E": time + _LATER, "s": symbol, "U": record["first"], "u": record["last"]}
        return {**head, **future, **sides}

    def _klines(self, interval: str, happening: Happening, unit: str) -> Iterable[Row]:
        record = happening.record
        if happening.kind == "final":
            for part in range(self.previews):
                share = Decimal(part + 1) / (self.previews + 1)
                early = {
                    **record,
                    "volume": (record["volume"] * share).quantize(Decimal("1e-8")),
                    "close": record["open"],
                }
                yield self._kline(interval, happening.symbol, early, unit, closed=False)
        yield self._kline(interval, happening.symbol, record, unit, closed=happening.kind != "provisional")

    def _kline(self, interval: str, symbol: str, record: Row, unit: str, *, closed: bool) -> Row:
        opens = ticks(record["ts_event"], unit)
        second = 1_000_000 if unit == "us" else 1000
        # of months only the first day is told here
        closes = opens + SECONDS.get(interval, 28 * 86400) * second - 1
        traded = bool(record["trade_count"])
        bar = {
            name: text(record[column])
            for name, column in zip("ochlv", ("open", "close", "high", "low", "volume"), strict=True)
        }
        quote = text((record["volume"] * record["close"]).quantize(Decimal("1e-8")))
        return {
            "e": "kline", "E": closes + 1 + _LATER if closed else opens + second, "s": symbol,
            "k": {
                "t": opens, "T": closes, "s": symbol, "i": interval, "f": 100 if traded else -1,
                "L": 99 + record["trade_count"] if traded else -1, **bar, "n": record["trade_count"], "x": closed,
                "q": quote, "V": text(0), "Q": text(0), "B": "0",
            },
        }  # fmt: skip

    def do_shutdown_notice(self, client: Client) -> None:
        said = {"e": "serverShutdown", "E": 1_700_000_000_000}
        self.send(client, {"stream": "!serverShutdown", "data": said} if client.notes["combined"] else said)
