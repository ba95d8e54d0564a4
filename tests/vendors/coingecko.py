"""CoinGecko's REST interface v3, demo and pro (docs.coingecko.com/reference)."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import ClassVar

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_COINS = {"bitcoin": ("btc", "Bitcoin"), "matic-network": ("matic", "Polygon")}
_KNOWN = tuple(_COINS)
_DAY = timedelta(days=1)
_STEPS = {
    "market_cap": 3600, "ohlcv-30m": 1800, "ohlcv-1h": 3600, "ohlcv-4h": 14_400, "ohlcv-1d": 86_400,
}  # fmt: skip
_UNITS = Decimal(19_000_000)


def _ms(moment: datetime) -> int:
    return (moment - market.EPOCH) // timedelta(milliseconds=1)


def _from(text: str) -> datetime:
    return market.EPOCH + timedelta(seconds=int(text))


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def instants(seconds: int, start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield when points are taken in `[start, end)`: daily at midnight, others some seconds after, as recorded."""
    step = timedelta(seconds=seconds)
    number = (start - market.EPOCH) // step
    while (at := market.EPOCH + number * step) < end:
        late = (
            timedelta(0) if at.hour == at.minute == 0 or seconds == 86_400 else timedelta(milliseconds=number % 47_111)
        )
        if start <= at + late < end:
            yield at + late
        number += 1


class CoinGeckoStandIn(StandIn):
    vendor = "coingecko"
    asset_class = "crypto"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "CG-right"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "market_cap": _KNOWN, "ohlcv-1h": _KNOWN, "ohlcv-1d": _KNOWN, "ohlcv-4h": _KNOWN,
    }  # fmt: skip
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "market_cap": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 4, 12, tzinfo=UTC)),
        "ohlcv-1h": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 2, 20, tzinfo=UTC)),
        "ohlcv-1d": (datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
        # told by days back from now
        "ohlcv-4h": (_today() - 12 * _DAY, _today() - 3 * _DAY),
    }

    def __init__(self) -> None:
        super().__init__()
        #: the vendor's clock, which tests may stop
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        #: (array, time) of points that are left out
        self.holes: set[tuple[str, datetime]] = set()
        #: coins are no older than this
        self.listed = datetime(2013, 4, 28, tzinfo=UTC)

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/api/v3/ping", lambda asked: Reply({"gecko_says": "(V3) To the Moon!"})),
            (r"/api/v3/coins/list", self.coins),
            (r"/api/v3/coins/([^/]+)/market_chart", self.chart),
            (r"/api/v3/coins/([^/]+)/market_chart/range", self.chart_range),
            (r"/api/v3/coins/([^/]+)/ohlc", self.ohlc),
            (r"/api/v3/coins/([^/]+)/ohlc/range", self.ohlc_range),
        )

    def options(self, schema: str) -> Row:
        return {"base_url": f"{self.url}/api/v3", "plan": "pro", "requests_per_minute": 6000}

    def refuse(self, asked: Asked) -> Reply | None:
        pro, demo = asked.headers.get("x-cg-pro-api-key"), asked.headers.get("x-cg-demo-api-key")
        if pro is None and demo is None:
            # the public interface; who has a key is told apart by the header
            return None
        if (pro or demo) != self.keys["API_KEY"]:
            return self._status(401, 10002, "API Key Missing or Invalid. Please make sure you're using the right key")
        return None

    def missing(self, asked: Asked) -> Reply:
        return Reply({"error": "Incorrect path. Please check https://www.coingecko.com/api/"}, 404)

    def throttled(self, seconds: float) -> Reply:
        body = {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit."}}
        return Reply(body, 429, {"Retry-After": f"{seconds:g}"})

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "market_cap":
            return list(self.points(symbol, _STEPS[schema], start, end))
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": None,
            }
            for bar in market.bars(symbol, _STEPS[schema], start, end)
        ]  # fmt: skip

    def points(self, symbol: str, seconds: int, start: datetime, end: datetime) -> Iterator[Row]:
        """Yield the points of market_cap in `[start, end)`."""
        for at in instants(seconds, max(start, self.listed), end):
            price = market.price(symbol, at)
            row = {"price": price, "market_cap": price * _UNITS, "volume_24h": price * 1000}
            yield {
                "ts_event": at, "currency": "usd",
                **{name: None if (name, at) in self.holes else value for name, value in row.items()},
            }  # fmt: skip

    def coins(self, asked: Asked) -> Reply:
        return Reply([{"id": id_, "symbol": symbol, "name": name} for id_, (symbol, name) in _COINS.items()])

    def chart(self, asked: Asked) -> Reply:
        if (fault := self._fault(asked)) is not None:
            return fault
        now, days = self.now(), int(asked.params["days"])
        return self._chart(asked.parts[0], now - days * _DAY, now)

    def chart_range(self, asked: Asked) -> Reply:
        if (fault := self._fault(asked)) is not None:
            return fault
        start, end = _from(asked.params["from"]), min(_from(asked.params["to"]), self.now())
        if "x-cg-pro-api-key" not in asked.headers and start < self.now() - 365 * _DAY:
            said = "Your request exceeds the allowed time range. Public API users are limited to the past 365 days."
            return self._status(401, 10012, said)
        return self._chart(asked.parts[0], start, end)

    def ohlc(self, asked: Asked) -> Reply:
        if (fault := self._fault(asked)) is not None:
            return fault
        if asked.params["days"] not in ("1", "7", "14", "30", "90", "180", "365", "max"):
            return Reply({"error": "Invalid days parameter"}, 422)
        days = int(asked.params["days"])
        seconds = 1800 if days <= 2 else 14_400 if days <= 30 else 4 * 86_400
        step, now = timedelta(seconds=seconds), self.now()
        # the last bar is not finished: it is named by the close it will have
        return self._bars(asked.parts[0], seconds, now - days * _DAY, now + step)

    def ohlc_range(self, asked: Asked) -> Reply:
        if (fault := self._fault(asked)) is not None:
            return fault
        if "x-cg-pro-api-key" not in asked.headers:
            said = (
                "This request is limited to PRO API subscribers. Please visit https://www.coingecko.com/en/api/pricing"
            )
            return self._status(401, 10005, said)
        start, end = _from(asked.params["from"]), _from(asked.params["to"])
        seconds, longest = {"hourly": (3600, 31), "daily": (86_400, 180)}[asked.params["interval"]]
        if end - start > longest * _DAY:
            return Reply({"error": f"Range is limited to {longest} days"}, 422)
        return self._bars(asked.parts[0], seconds, start, min(end, self.now() + timedelta(seconds=seconds)))

    def _chart(self, symbol: str, start: datetime, end: datetime) -> Reply:
        now, length = self.now(), end - start
        reaches_now = end > now - timedelta(minutes=5)
        if length <= _DAY and reaches_now:
            seconds = 300
        else:
            seconds = 3600 if length <= 90 * _DAY + timedelta(seconds=1) else 86_400
        rows = list(self.points(symbol, seconds, start, end + timedelta(milliseconds=1)))
        if reaches_now:
            at = now.replace(microsecond=now.microsecond // 1000 * 1000)
            rows.append({"ts_event": at, "price": market.price(symbol, at), "market_cap": 1, "volume_24h": 1})
        return Reply(
            {
                array: [
                    [_ms(row["ts_event"]), float(row[column])]
                    for row in rows
                    if (column, row["ts_event"]) not in self.holes
                ]
                for column, array in (
                    ("price", "prices"), ("market_cap", "market_caps"), ("volume_24h", "total_volumes"),
                )
            }
        )  # fmt: skip

    def _bars(self, symbol: str, seconds: int, start: datetime, end: datetime) -> Reply:
        """Answer the bars that close in `[start, end]`."""
        step = timedelta(seconds=seconds)
        bars = market.bars(symbol, seconds, max(start, self.listed) - step, end - step + timedelta(milliseconds=1))
        values: list[list[Any]] = [
            [_ms(bar.time + step), *(float(value) for value in (bar.open, bar.high, bar.low, bar.close))]
            for bar in bars
        ]
        return Reply(values)

    def _fault(self, asked: Asked) -> Reply | None:
        if asked.parts[0] not in _COINS:
            return Reply({"error": "coin not found"}, 404)
        if "vs_currency" not in asked.params:
            return Reply({"error": "Missing parameter vs_currency"}, 422)
        if asked.params["vs_currency"] != "usd":
            return Reply({"error": "invalid vs_currency"}, 422)
        return None

    def _status(self, status: int, code: int, message: str) -> Reply:
        return Reply({"status": {"timestamp": "2024-01-02", "error_code": code, "error_message": message}}, status)
