"""Twelve Data's REST interface (twelvedata.com/docs): time series, splits, dividends, lists."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import ClassVar
from zoneinfo import ZoneInfo

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {
    "1min": 60, "5min": 300, "15min": 900, "30min": 1800, "1h": 3600, "4h": 14_400, "1day": 86_400,
    "1week": 7 * 86_400, "1month": 0,
}  # fmt: skip
_NAMES = {
    "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "4h": "4h", "1d": "1day", "1w": "1week",
    "1mo": "1month",
}  # fmt: skip
_SHARES = ("AAPL", "MSFT")
_KNOWN = (*_SHARES, "EUR/USD", "BTC/USD")
_GROW_ONLY = "2330"
_KEY_WRONG = (
    "**apikey** parameter is incorrect or not specified. You can get your free API key instantly following this link:"
    " https://twelvedata.com/pricing."
)


def openings(interval: str, symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, timedelta]]:
    """Yield when bars open in `[start, end)` and how long they are; shares have none on Saturday and Sunday."""
    if interval == "1month":
        at = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while at < end:
            following = (at + timedelta(days=32)).replace(day=1)
            if at >= start:
                yield at, following - at
            at = following
        return
    step = timedelta(seconds=_SECONDS[interval])
    # weeks begin on Monday, and the epoch is a Thursday
    epoch = market.EPOCH - timedelta(days=3) if interval == "1week" else market.EPOCH
    at = epoch + -((epoch - start) // step) * step
    while at < end:
        if interval == "1week" or symbol not in _SHARES or at.weekday() < 5:
            yield at, step
        at += step


class TwelveDataStandIn(StandIn):
    vendor = "twelvedata"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "td-right"}
    forbidden = _GROW_ONLY
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "ohlcv-1m": ("AAPL", "EUR/USD", "BTC/USD"), "ohlcv-1h": _KNOWN, "ohlcv-1d": _KNOWN,
        "corporate_actions": _SHARES,
    }  # fmt: skip
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1m": (datetime(2024, 1, 2, 14, 30, tzinfo=UTC), datetime(2024, 1, 2, 18, 30, tzinfo=UTC)),
        "ohlcv-1h": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 12, tzinfo=UTC)),
        "ohlcv-1d": (datetime(2023, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)),
        "corporate_actions": (datetime(2020, 3, 10, tzinfo=UTC), datetime(2024, 3, 10, tzinfo=UTC)),
    }

    def __init__(self) -> None:
        super().__init__()
        #: errors have a status of their own, or come with 200
        self.says_with_status = True
        #: which rows stay of an answer that would be too long
        self.keeps_newest = True
        #: whether a bar at end_date is in the answer
        self.end_is_inclusive = True
        #: symbol → (code, message) in answers to several
        self.broken: dict[str, tuple[int, str]] = {}
        self.credits_left = 600

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/time_series", self.time_series),
            (r"/(splits|dividends)", self.actions),
            (r"/api_usage", lambda asked: Reply({"current_usage": 1, "plan_limit": 610, "plan_category": "grow"})),
            (r"/(stocks|forex_pairs|cryptocurrencies)", self.lists),
        )

    def options(self, schema: str) -> Row:
        return {"base_url": self.url, "page_rows": 100, "credits_per_minute": 60_000}

    def refuse(self, asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") != f"apikey {self.keys['API_KEY']}":
            return self._error(401, _KEY_WRONG)
        return None

    def missing(self, asked: Asked) -> Reply:
        return self._error(404, "Not Found")

    def throttled(self, seconds: float) -> Reply:
        said = (
            "You have run out of API credits for the current minute. 9 API credits were used, with the limit being 8."
        )
        return Reply({"code": 429, "message": said, "status": "error"}, 429, {"Retry-After": f"{seconds:g}"})

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "corporate_actions":
            # an ex-date is its midnight
            edges = (edge.date() + timedelta(days=edge.time() > time.min) for edge in (start, end))
            return self._actions(symbol, *edges)
        interval = _NAMES[schema.removeprefix("ohlcv-")]
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume if symbol in _SHARES else None,
            }
            for bar in self._bars(interval, symbol, start, end)
        ]  # fmt: skip

    def time_series(self, asked: Asked) -> Reply:
        if asked.params.get("interval") not in _SECONDS:
            return self._error(400, "Invalid **interval** provided.")
        symbols = asked.params["symbol"].split(",")
        found = {symbol: self._series(symbol, asked.params) for symbol in symbols}
        self.credits_left -= len(symbols)
        headers = {"api-credits-used": str(len(symbols)), "api-credits-left": str(self.credits_left)}
        if len(symbols) > 1:
            return Reply(found, headers=headers)
        (alone,) = found.values()
        status = alone.get("code", 200) if self.says_with_status else 200
        return Reply(alone, status, headers)

    def actions(self, asked: Asked) -> Reply:
        symbol, (kind,) = asked.params["symbol"], asked.parts
        if symbol not in _SHARES:
            return self._error(404, self._unknown(symbol))
        start = date.fromisoformat(asked.params["start_date"])
        end = date.fromisoformat(asked.params.get("end_date", "2262-01-01"))
        rows = [row for row in self._actions(symbol, start, end + timedelta(days=1)) if kind.startswith(row["kind"])]
        meta = {"symbol": symbol, "currency": "USD", "exchange": "NASDAQ", "exchange_timezone": "America/New_York"}
        values: list[Row]
        if kind == "splits":
            values = [
                {
                    "date": f"{row['ts_event']:%Y-%m-%d}", "description": row["description"], "ratio": 0.25,
                    "from_factor": int(row["ratio_to"]), "to_factor": int(row["ratio_from"]),
                }
                for row in rows
            ]  # fmt: skip
        else:
            # adjusted for splits unless that is not wanted
            factor = 1 if asked.params.get("adjust") == "false" else 4
            values = [
                {"ex_date": f"{row['ts_event']:%Y-%m-%d}", "amount": float(row["amount"] / factor)} for row in rows
            ]
        return Reply({"meta": meta, kind: values[::-1]})

    def lists(self, asked: Asked) -> Reply:
        (kind,) = asked.parts
        rows: list[Row] = []
        if kind == "stocks":
            rows = [
                {
                    "symbol": symbol, "name": f"{symbol} Inc", "currency": "USD", "exchange": "NASDAQ",
                    "mic_code": "XNGS", "country": "United States", "type": "Common Stock", "figi_code": "BBG000B9Y5X2",
                }
                for symbol in _SHARES
            ]  # fmt: skip
        else:
            pair = "EUR/USD" if kind == "forex_pairs" else "BTC/USD"
            rows = [{"symbol": pair, "currency_base": pair[:3], "currency_quote": pair[4:]}]
        return Reply({"data": rows, "status": "ok"})

    def _series(self, symbol: str, params: Mapping[str, str]) -> Row:
        if symbol in self.broken:
            code, message = self.broken[symbol]
            return {"code": code, "message": message, "status": "error"}
        if symbol == _GROW_ONLY:
            said = "This symbol is available exclusively with grow or pro or ultra or enterprise plans"
            return {"code": 403, "message": said, "status": "error"}
        if symbol not in _KNOWN:
            return {"code": 404, "message": self._unknown(symbol), "status": "error"}
        interval = params["interval"]
        daily = _SECONDS[interval] in (0, 86_400, 7 * 86_400)
        zone = ZoneInfo("America/New_York" if symbol in _SHARES and not daily else "UTC")
        if params.get("timezone") == "UTC" and not daily:
            zone = ZoneInfo("UTC")
        start = datetime.fromisoformat(params["start_date"]).replace(tzinfo=zone).astimezone(UTC)
        end = datetime.fromisoformat(params["end_date"]).replace(tzinfo=zone).astimezone(UTC)
        bars = list(self._bars(interval, symbol, start, end + timedelta(microseconds=self.end_is_inclusive)))
        size = int(params.get("outputsize", "30"))
        bars = bars[-size:] if self.keeps_newest else bars[:size]
        if not bars:
            said = "No data is available on the specified dates. Try setting different start/end dates."
            return {"code": 400, "message": said, "status": "error"}
        values: list[Row] = []
        for bar in bars:
            local = bar.time.astimezone(zone)
            values.append(
                {
                    "datetime": f"{local:%Y-%m-%d}" if daily else f"{local:%Y-%m-%d %H:%M:%S}", "open": str(bar.open),
                    "high": str(bar.high), "low": str(bar.low), "close": str(bar.close),
                    **({"volume": str(bar.volume)} if symbol in _SHARES else {}),
                }
            )  # fmt: skip
        meta = {"symbol": symbol, "interval": interval, "exchange_timezone": "America/New_York"}
        return {"meta": meta, "values": values if params.get("order") == "asc" else values[::-1], "status": "ok"}

    def _bars(self, interval: str, symbol: str, start: datetime, end: datetime) -> Iterator[market.Bar]:
        for at, step in openings(interval, symbol, start, end):
            yield market.bar(symbol, at, step)

    def _actions(self, symbol: str, start: date, end: date) -> list[Row]:
        """Return a split each June and four dividends a year, in order."""
        rows: list[Row] = []
        for year in range(max(start.year, 2000), min(end.year, 2030) + 1):
            for month in (3, 6, 9, 12):
                day = datetime(year, month, 10, tzinfo=UTC)
                amount = Decimal(year - 1900 + month) / 100
                rows.append({"ts_event": day, "kind": "dividend", "amount": amount, "currency": "USD"})
                if month == 6:
                    many = Decimal(4 if symbol == "AAPL" else 2)
                    rows.append(
                        {
                            "ts_event": day + timedelta(days=5), "kind": "split", "ratio_from": Decimal(1),
                            "ratio_to": many, "description": f"{many}-for-1 split",
                        }
                    )  # fmt: skip
        return [row for row in rows if start <= row["ts_event"].date() < end]

    def _unknown(self, symbol: str) -> str:
        return "**symbol** or **figi** parameter is missing or invalid. Please provide a valid symbol: " + symbol

    def _error(self, code: int, message: str) -> Reply:
        body: dict[str, Any] = {"code": code, "message": message, "status": "error"}
        return Reply(body, code if self.says_with_status else 200)
