"""Kraken's public REST interface, spot (docs.kraken.com/api, Market Data).

Written from the documentation: no answer of the vendor was recorded. Windows of bars are relative to now, because the
vendor keeps the newest ones only.
"""

import json
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from itertools import count
from itertools import islice
from itertools import takewhile
from typing import ClassVar

import pyarrow as pa

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

#: altname → (the name that answers use, name with a slash)
_PAIRS = {"XBTUSD": ("XXBTZUSD", "XBT/USD"), "ETHUSD": ("XETHZUSD", "ETH/USD"), "EURUSD": ("ZEURZUSD", "EUR/USD")}
_KNOWN = ("XBTUSD", "ETHUSD")
_MINUTES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}
_KEPT = 720
_BILLION = 1_000_000_000
_TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


class KrakenStandIn(StandIn):
    vendor = "kraken"
    asset_class = "crypto"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "trades": _KNOWN, "ohlcv-1m": _KNOWN, "ohlcv-1h": _KNOWN, "ohlcv-1d": _KNOWN,
    }  # fmt: skip
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        # both ends are whole multiples of 70 s: two trades say that they happened then
        "trades": (datetime(2024, 1, 2, 23, 30, tzinfo=UTC), datetime(2024, 1, 3, 0, 20, 10, tzinfo=UTC)),
        "ohlcv-1m": (_HOUR - timedelta(hours=4), _HOUR - timedelta(hours=1)),
        "ohlcv-1h": (_HOUR - timedelta(days=8), _HOUR - timedelta(hours=2)),
        "ohlcv-1d": (_TODAY - timedelta(days=400), _TODAY - timedelta(days=1)),
    }
    #: documented as exclusive
    since_is_inclusive = False

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/0/public/OHLC", self.ohlc),
            (r"/0/public/Trades", self.trades),
            (r"/0/public/AssetPairs", self.asset_pairs),
            (r"/0/public/Time", self.time),
        )

    def options(self, schema: str) -> Row:
        return {"base_url": self.url, "page_rows": 97, "requests_per_minute": 100_000}

    def now(self) -> datetime:
        return datetime.now(UTC)

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "trades":
            around = market.trades(symbol, start - timedelta(seconds=1), end + timedelta(seconds=1))
            rows = [
                {
                    "ts_event": pa.scalar(_said(trade.id), pa.timestamp("ns", "UTC")).as_py(), "price": trade.price,
                    "size": trade.size, "trade_id": str(trade.id), "side": "A" if trade.buyer_is_maker else "B",
                    "conditions": _order(trade.id),
                }
                for trade in around
            ]  # fmt: skip
            return [row for row in rows if start <= row["ts_event"] < end]
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades, "vwap": bar.vwap,
            }
            for bar in market.bars(symbol, _MINUTES[schema.removeprefix("ohlcv-")] * 60, start, end)
        ]  # fmt: skip

    def throttled(self, seconds: float) -> Reply:
        # the header is ours: without it nobody of the source asks for a minute, which tests do not wait
        return Reply(
            {"error": ["EGeneral:Too many requests"], "result": {}}, headers={"Retry-After": f"{seconds:g}"}
        )  # fmt: skip

    def missing(self, asked: Asked) -> Reply:
        return Reply({"error": ["EGeneral:Unknown method"]}, 404)

    def ohlc(self, asked: Asked) -> Reply:
        if (symbol := asked.params.get("pair", "")) not in _PAIRS:
            return _refused("EQuery:Unknown asset pair")
        minutes = int(asked.params.get("interval", "1"))
        if minutes not in _MINUTES.values():
            return _refused("EGeneral:Invalid arguments")
        step, now = timedelta(minutes=minutes), self.now()
        rows: list[list[object]] = [
            [
                int(bar.time.timestamp()), str(bar.open), str(bar.high), str(bar.low), str(bar.close), str(bar.vwap),
                str(bar.volume), bar.trades,
            ]
            for bar in market.bars(symbol, minutes * 60, now - _KEPT * step, now)
        ]  # fmt: skip
        # the last one has just begun
        rows[-1][2:] = [rows[-1][1], rows[-1][1], rows[-1][1], "0.0", "0.00000000", 0]
        since = int(asked.params.get("since", "0"))
        newer = [row for row in rows[:-1] if int(str(row[0])) > since]
        return Reply({"error": [], "result": {_PAIRS[symbol][0]: [*newer, rows[-1]], "last": rows[-2][0]}})

    def trades(self, asked: Asked) -> Reply:
        if (symbol := asked.params.get("pair", "")) not in _PAIRS:
            return _refused("EQuery:Unknown asset pair")
        since = int(asked.params.get("since", "0")) - self.since_is_inclusive
        numbers = list(islice(self._numbers(since), int(asked.params.get("count", "1000"))))
        rows = []
        for trade in (market.trade(symbol, number) for number in numbers):
            side = "s" if trade.buyer_is_maker else "b"
            # a float would not keep the digits
            said = f"{_said(trade.id) // _BILLION}.{_said(trade.id) % _BILLION:09}".rstrip("0").rstrip(".")
            rows.append(f'["{trade.price}","{trade.size}",{said},"{side}","{_order(trade.id)}","",{trade.id}]')
        last = _happened(numbers[-1]) if numbers else since
        return Reply(
            f'{{"error":[],"result":{{"{_PAIRS[symbol][0]}":[{",".join(rows)}],"last":"{last}"}}}}'.encode()
        )  # fmt: skip

    def asset_pairs(self, asked: Asked) -> Reply:
        return Reply(
            {
                "error": [],
                "result": {
                    name: {"altname": altname, "wsname": wsname, "aclass_base": "currency", "status": "online"}
                    for altname, (name, wsname) in _PAIRS.items()
                },
            }
        )

    def time(self, asked: Asked) -> Reply:
        now = self.now()
        said = {"unixtime": int(now.timestamp()), "rfc1123": now.strftime("%a, %d %b %y %H:%M:%S +0000")}
        return Reply({"error": [], "result": said})

    def _numbers(self, since: int) -> Iterator[int]:
        """Yield the trades after a time, up to now."""
        now = int(self.now().timestamp()) * _BILLION
        first = since // _BILLION // market.TICK - 1
        numbers = takewhile(lambda number: _happened(number) < now, count(first))
        return (number for number in numbers if _happened(number) > since)


def _happened(number: int) -> int:
    """Return when a trade happened, in nanoseconds: pages are asked by this, and no two trades have it in common."""
    shift = {0: -20, 1: 20}.get(number % 10, 0)
    return _said(number) + shift


def _said(number: int) -> int:
    """Return what a trade's row says of its time: that of old ones is rounded, so that two have the same."""
    at = number - 1 if number % 10 == 1 else number
    return at * market.TICK * _BILLION + (123_456_789 if number % 10 in (3, 4, 5) else 0)


def _order(number: int) -> str:
    return "m" if number % 3 else "l"


def _refused(words: str) -> Reply:
    return Reply(json.dumps({"error": [words], "result": {}}).encode())
