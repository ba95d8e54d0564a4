"""Binance's REST interface, spot and USDT futures (binance-spot-api-docs, rest-api)."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import ClassVar

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14400, "1d": 86400}
_KNOWN = ("BTCUSDT", "ETHUSDT")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _at(text: str) -> datetime:
    return market.EPOCH + timedelta(milliseconds=int(text))


class BinanceStandIn(StandIn):
    vendor = "binance"
    asset_class = "crypto"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "ohlcv-1m": _KNOWN, "ohlcv-1h": _KNOWN, "ohlcv-1d": _KNOWN, "trades": _KNOWN,
    }  # fmt: skip
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1m": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, 4, tzinfo=UTC)),
        "ohlcv-1h": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)),
        "ohlcv-1d": (datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
        "trades": (datetime(2024, 1, 2, 23, 30, tzinfo=UTC), datetime(2024, 1, 3, 0, 20, tzinfo=UTC)),
    }

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/(?:api/v3|fapi/v1)/klines", self.klines),
            (r"/(?:api/v3|fapi/v1)/aggTrades", self.agg_trades),
            (r"/(?:api/v3|fapi/v1)/historicalTrades", self.historical_trades),
            (r"/(?:api/v3|fapi/v1)/depth", self.depth),
            (r"/(?:api/v3|fapi/v1)/exchangeInfo", self.exchange_info),
            (r"/(?:api/v3|fapi/v1)/ping", lambda asked: Reply({})),
        )

    def options(self, schema: str) -> Row:
        return {"base_url": self.url, "page_rows": 100}

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "trades":
            return [
                {"ts_event": trade.time, "price": trade.price, "size": trade.size, "trade_id": str(trade.id)}
                for trade in market.trades(symbol, start, end)
            ]
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades,
            }
            for bar in market.bars(symbol, _SECONDS[schema.removeprefix("ohlcv-")], start, end)
        ]  # fmt: skip

    def throttled(self, seconds: float) -> Reply:
        body = {"code": -1003, "msg": "Too much request weight used; please use WebSocket Streams."}
        return Reply(body, 429, {"Retry-After": f"{seconds:g}"})

    def missing(self, asked: Asked) -> Reply:
        return Reply(b"<html><body><h2>404 Not found</h2></body></html>", 404, kind="text/html")

    def klines(self, asked: Asked) -> Reply:
        if (fault := self._unknown(asked)) is not None:
            return fault
        seconds = _SECONDS.get(asked.params.get("interval", ""))
        if seconds is None:
            return Reply({"code": -1120, "msg": "Invalid interval."}, 400)
        start, end, limit = self._window(asked)
        step = timedelta(seconds=seconds)
        rows: list[list[object]] = []
        for bar in market.bars(asked.params["symbol"], seconds, start, end + timedelta(milliseconds=1)):
            if len(rows) == limit:
                break
            rows.append(
                [
                    _ms(bar.time), str(bar.open), str(bar.high), str(bar.low), str(bar.close), str(bar.volume),
                    _ms(bar.time + step) - 1, str(bar.volume * bar.vwap), bar.trades, "0", "0", "0",
                ]
            )  # fmt: skip
        return Reply(rows, headers={"X-MBX-USED-WEIGHT-1M": "2"})

    def agg_trades(self, asked: Asked) -> Reply:
        if (fault := self._unknown(asked)) is not None:
            return fault
        symbol = asked.params["symbol"]
        if "fromId" in asked.params:
            first = int(asked.params["fromId"])
            found = [market.trade(symbol, number) for number in range(first, first + int(asked.params["limit"]))]
        else:
            start, end, limit = self._window(asked)
            found = list(market.trades(symbol, start, end + timedelta(milliseconds=1)))[:limit]
        return Reply(
            [
                {
                    "a": trade.id, "p": str(trade.price), "q": str(trade.size), "f": trade.id * 2,
                    "l": trade.id * 2 + 1, "T": _ms(trade.time), "m": trade.buyer_is_maker, "M": True,
                }
                for trade in found
            ]
        )  # fmt: skip

    def historical_trades(self, asked: Asked) -> Reply:
        if (fault := self._unknown(asked)) is not None:
            return fault
        first = int(asked.params["fromId"])
        found = [
            market.trade(asked.params["symbol"], number) for number in range(first, first + int(asked.params["limit"]))
        ]
        return Reply(
            [
                {
                    "id": trade.id, "price": str(trade.price), "qty": str(trade.size), "time": _ms(trade.time),
                    "isBuyerMaker": trade.buyer_is_maker, "isBestMatch": True,
                }
                for trade in found
            ]
        )  # fmt: skip

    def depth(self, asked: Asked) -> Reply:
        if (fault := self._unknown(asked)) is not None:
            return fault
        middle = market.price(asked.params["symbol"], datetime(2024, 1, 2, tzinfo=UTC))
        levels = range(1, int(asked.params.get("limit", "100")) + 1)
        return Reply(
            {
                "lastUpdateId": 1027024,
                "bids": [[str(middle - level), str(level)] for level in levels],
                "asks": [[str(middle + level), str(level)] for level in levels],
            }
        )

    def exchange_info(self, asked: Asked) -> Reply:
        return Reply(
            {
                "timezone": "UTC",
                "symbols": [
                    {
                        "symbol": symbol, "status": "TRADING", "baseAsset": symbol[:3], "quoteAsset": symbol[3:],
                        "contractType": "PERPETUAL",
                    }
                    for symbol in _KNOWN
                ],
            }
        )  # fmt: skip

    def _unknown(self, asked: Asked) -> Reply | None:
        known = asked.params.get("symbol") in _KNOWN
        return None if known else Reply({"code": -1121, "msg": "Invalid symbol."}, 400)

    def _window(self, asked: Asked) -> tuple[datetime, datetime, int]:
        return (
            _at(asked.params["startTime"]), _at(asked.params["endTime"]), min(int(asked.params.get("limit", 500)), 1000)
        )  # fmt: skip
