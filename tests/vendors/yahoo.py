"""Yahoo's chart interface, as its answers were recorded (v8/finance/chart) and its refusals are quoted by clients."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar
from zoneinfo import ZoneInfo

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

#: symbol → zone, hour and minute of the open, currency; Sydney opens on the day before (UTC), London at midnight
PLACES: Mapping[str, tuple[str, int, int, str]] = {
    "AAPL": ("America/New_York", 9, 30, "USD"),
    "BHP.AX": ("Australia/Sydney", 10, 0, "AUD"),
    "EURUSD=X": ("Europe/London", 0, 0, "USD"),
    "^GSPC": ("America/New_York", 9, 30, "USD"),
}
_SECONDS = {"1m": 60, "5m": 300, "15m": 900, "30m": 1800, "60m": 3600}
_KEPT = {"1m": 30, "5m": 60, "15m": 60, "30m": 60, "60m": 730}
_NAMES = ("open", "high", "low", "close", "volume")
_TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _second(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class YahooStandIn(StandIn):
    vendor = "yahoo"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        **dict.fromkeys(("ohlcv-1d", "ohlcv-1w", "ohlcv-1mo"), tuple(PLACES)),
        **dict.fromkeys(("ohlcv-1m", "ohlcv-1h", "corporate_actions"), ("AAPL", "^GSPC")),
    }
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1d": (_second("2023-01-02"), _second("2023-11-01")),
        # kept for so long only
        "ohlcv-1m": (_TODAY - timedelta(days=20), _TODAY - timedelta(days=9)),
        "ohlcv-1h": (_TODAY - timedelta(days=100), _TODAY - timedelta(days=80)),
        "ohlcv-1w": (_second("2023-01-02"), _second("2023-06-05")),
        "ohlcv-1mo": (_second("1969-01-01"), _second("1975-03-01")),
        "corporate_actions": (_second("2020-08-31"), _second("2021-12-15")),
    }

    def __init__(self) -> None:
        super().__init__()
        #: changes the result of a chart before it is sent
        self.change: Callable[[Row], None] = lambda result: None
        #: the crumb that is asked for, with this cookie
        self.crumb = ""
        #: what is said to another one
        self.words = "Invalid Crumb"

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/v8/finance/chart/([^/]+)", self.chart),
            (r"/v1/finance/search", self.search),
            (r"/v1/test/getcrumb", lambda asked: Reply(b"b2.Crumb/1", kind="text/plain")),
        )

    def refuse(self, asked: Asked) -> Reply | None:
        if "Mozilla" not in asked.headers.get("user-agent", ""):
            return self.throttled(1)
        if self.crumb and asked.path.startswith("/v8"):
            cookie = asked.headers.get("cookie", "")
            if asked.params.get("crumb") != self.crumb or "A3=secret-cookie" not in cookie:
                error = {"code": "Unauthorized", "description": self.words}
                return Reply({"finance": {"result": None, "error": error}}, 401)
        return None

    def throttled(self, seconds: float) -> Reply:
        return Reply(b"Too Many Requests\r\n", 429, {"Retry-After": f"{seconds:g}"}, kind="text/html")

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "corporate_actions":
            return [row for row in _actions() if start <= row["ts_event"] < end]
        timeframe = schema.removeprefix("ohlcv-")
        return [
            {"ts_event": bar.time, **{name: getattr(bar, name) for name in _NAMES}}
            for bar in bars(timeframe, symbol, start, end)
            if start <= bar.time < end
        ]

    def chart(self, asked: Asked) -> Reply:
        (symbol,), params = asked.parts, asked.params
        if symbol not in PLACES:
            return _error(404, "Not Found", "No data found, symbol may be delisted")
        interval = params["interval"]
        low, high = (
            market.EPOCH + timedelta(seconds=int(params.get(name, default)))
            for name, default in (("period1", 1672531200), ("period2", 1672790400))
        )
        if interval in _KEPT:
            ends = (
                f"{interval} data not available for startTime={low.timestamp():.0f} and endTime={high.timestamp():.0f}."
            )
            if datetime.now(UTC) - low > timedelta(days=_KEPT[interval]):
                words = f"{ends} The requested range must be within the last {_KEPT[interval]} days."
                return _error(422, "Unprocessable Entity", words)
            if interval == "1m" and high - low > timedelta(days=7):
                words = f"{ends} Only 7 days worth of 1m granularity data are allowed to be fetched per request."
                return _error(422, "Unprocessable Entity", words)
        rows = list(_stamped(interval, symbol, low, min(high, datetime.now(UTC))))
        zone, _, _, currency = PLACES[symbol]
        result: Row = {
            "meta": {
                "currency": currency, "symbol": symbol, "exchangeTimezoneName": zone, "priceHint": 2,
                "dataGranularity": interval.replace("60m", "1h"), "range": "",
            },
            "indicators": {"quote": [{}]},
        }  # fmt: skip
        if rows:
            result["timestamp"] = [int(stamp.timestamp()) for stamp, _ in rows]
            result["indicators"]["quote"][0] = {name: [float(getattr(bar, name)) for _, bar in rows] for name in _NAMES}
            result["indicators"]["adjclose"] = [{"adjclose": [1.5 for _ in rows]}]
        if events := _events(low, high):
            result["events"] = events
        self.change(result)
        return Reply({"chart": {"result": [result], "error": None}})

    def search(self, asked: Asked) -> Reply:
        found = [symbol for symbol in PLACES if asked.params["q"].upper() in symbol]
        return Reply(
            {
                "quotes": [{"symbol": one, "quoteType": "EQUITY", "longname": f"{one} Inc."} for one in found]
                + [{"index": "private companies have no symbol"}]
            }
        )


def _error(status: int, code: str, words: str) -> Reply:
    return Reply({"chart": {"result": None, "error": {"code": code, "description": words}}}, status)


def bars(timeframe: str, symbol: str, start: datetime, end: datetime) -> Iterator[market.Bar]:
    """Yield the bars of a symbol by the label that is right for them, a little beyond both ends."""
    low = start - timedelta(days=40)
    if timeframe == "1w":
        at = low.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=low.weekday())
        while at < end:
            yield market.bar(symbol, at, timedelta(days=7))
            at += timedelta(days=7)
    elif timeframe == "1mo":
        at = low.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while at < end:
            yield market.bar(symbol, at, timedelta(days=28))
            at = (at + timedelta(days=32)).replace(day=1)
    elif timeframe == "1d":
        yield from market.bars(symbol, 86_400, low, end, weekdays=True)
    else:
        yield from market.bars(symbol, {"1m": 60, "5m": 300, "1h": 3600}[timeframe], start, end, weekdays=True)


def _stamped(interval: str, symbol: str, low: datetime, high: datetime) -> Iterator[tuple[datetime, market.Bar]]:
    """Yield bars with the stamps that Yahoo gives them; one that opens at `high` comes too."""
    zone, hour, minute, _ = PLACES[symbol]
    timeframe = {"60m": "1h", "1wk": "1w"}.get(interval, interval)
    if interval in _SECONDS:
        for bar in bars(timeframe, symbol, low, high + timedelta(seconds=1)):
            yield bar.time, bar
        return
    is_day = interval == "1d"
    previous: tuple[datetime, market.Bar] | None = None
    for bar in bars(timeframe, symbol, low, high + timedelta(days=2)):
        clock = {"hour": hour, "minute": minute} if is_day else {}
        stamp = bar.time.replace(tzinfo=ZoneInfo(zone), **clock)
        if stamp <= high and stamp >= low:
            if not is_day and previous and previous[0] < low < stamp:
                # of the week or month that period1 lies in only a part
                part = market.Bar(bar.time, *[Decimal(1)] * 5, trades=0, vwap=Decimal(1))
                yield previous[0], part
            yield stamp, bar
        previous = stamp, bar


def _events(low: datetime, high: datetime) -> Row:
    everything: Mapping[str, Sequence[Row]] = {
        "dividends": [{"amount": 0.205, "date": 1604673000}, {"amount": 0.22, "date": 1636122600}],
        "splits": [{"date": 1598880600, "numerator": 4, "denominator": 1, "splitRatio": "4:1"}],
        "capitalGains": [{"amount": 1.25, "date": 1639492200}, {"amount": 3.5, "date": 1639578600}],
    }
    found = {
        name: {
            str(event["date"]): event
            for event in events
            if low <= market.EPOCH + timedelta(seconds=event["date"]) <= high
        }
        for name, events in everything.items()
    }
    return {name: events for name, events in found.items() if events}


def _actions() -> list[Row]:
    dollars = {"currency": "USD", "ratio_from": None}
    return [
        {
            "ts_event": _second("2020-08-31"), "kind": "split", "ratio_from": Decimal(1), "ratio_to": Decimal(4),
            "amount": None, "currency": None,
        },
        {"ts_event": _second("2020-11-06"), "kind": "dividend", "amount": Decimal("0.205"), **dollars},
        {"ts_event": _second("2021-11-05"), "kind": "dividend", "amount": Decimal("0.22"), **dollars},
        {"ts_event": _second("2021-12-14"), "kind": "capital_gain", "amount": Decimal("1.25"), **dollars},
        {"ts_event": _second("2021-12-15"), "kind": "capital_gain", "amount": Decimal("3.5"), **dollars},
    ]  # fmt: skip
