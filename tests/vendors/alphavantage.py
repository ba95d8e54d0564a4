"""Alpha Vantage's one address (alphavantage.co/documentation): functions, words of refusal, times in named zones."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
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

NEW_YORK = ZoneInfo("America/New_York")
KEY = "AV0DEMO1KEY2"
_KNOWN = ("IBM", "TSCO.LON")
_SECONDS = {"1min": 60, "5min": 300, "15min": 900, "30min": 1800, "60min": 3600}
_PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans at"
    " https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints"
)
BURST = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly (1 request"
    " per second). You may subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to lift the"
    " free key rate limit (25 requests per day), raise the per-second burst limit, and instantly unlock all premium"
    " endpoints"
)
DAY = (
    f"We have detected your API key as {KEY} and our standard API rate limit is 25 requests per day. Please subscribe"
    " to any of the premium plans at https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
)
_NAMES = ("1. open", "2. high", "3. low", "4. close")
#: function → its reports, by group and day; "None" and "-" are the vendor's words for no figure
_REPORTS = {
    "INCOME_STATEMENT": {
        "annualReports": [("2023-12-31", {"totalRevenue": "61860000000", "nonRecurring": "None"})],
        "quarterlyReports": [("2023-12-31", {"totalRevenue": "17381000000"}), ("2023-09-30", {"totalRevenue": "-"})],
    },
    "BALANCE_SHEET": {
        "annualReports": [("2023-12-31", {"totalAssets": "135241000000", "commonStockSharesOutstanding": "914000000"})],
        "quarterlyReports": [],
    },
    "CASH_FLOW": {"annualReports": [("2023-12-31", {"netIncome": "7502000000"})], "quarterlyReports": []},
}


def _second(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class AlphaVantageStandIn(StandIn):
    vendor = "alphavantage"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": KEY}
    forbidden = "VOD.LON"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        ("ohlcv-1d", "ohlcv-5m", "ohlcv-1h", "ohlcv-1w", "ohlcv-1mo", "corporate_actions", "fundamentals"), _KNOWN
    )
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1d": (_second("2023-06-01"), _second("2024-01-03")),
        # both ends lie in New York's sessions, and a month begins between them
        "ohlcv-5m": (_second("2024-01-31T15:00"), _second("2024-02-02T15:00")),
        "ohlcv-1h": (_second("2024-03-07T15:00"), _second("2024-03-12T15:00")),
        "ohlcv-1w": (_second("2023-01-02"), _second("2023-06-05")),
        "ohlcv-1mo": (_second("2022-01-01"), _second("2023-06-01")),
        "corporate_actions": (_second("2010-02-01"), _second("2015-02-01")),
        "fundamentals": (_second("2023-01-01"), _second("2024-01-01")),
    }

    def __init__(self) -> None:
        super().__init__()
        #: what the next answers say instead, e.g. ("Note", words)
        self.words: list[tuple[str, str]] = []
        #: functions of companies that have nothing of anybody
        self.nothing: set[str] = set()

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return ((r"/query", self.query),)

    def options(self, schema: str) -> Row:
        return {"base_url": self.url, "requests_per_minute": 60_000, "requests_per_day": 0}

    def refuse(self, asked: Asked) -> Reply | None:
        if asked.params.get("apikey") == KEY:
            return None
        words = "the parameter apikey is invalid or missing. Please claim your free API key on"
        return Reply({"Error Message": f"{words} (https://www.alphavantage.co/support/#api-key)."})

    def throttled(self, seconds: float) -> Reply:
        return Reply({"Information": BURST}, headers={"Retry-After": f"{seconds:g}"})

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "fundamentals":
            return _figures()
        if schema == "corporate_actions":
            return [row for row in _actions() if start <= row["ts_event"] < end]
        names = ("open", "high", "low", "close", "volume")
        return [
            {"ts_event": bar.time, **{name: getattr(bar, name) for name in names}}
            for bar in self.bars(schema.removeprefix("ohlcv-"), symbol)
            if start <= bar.time < end
        ]

    def bars(self, timeframe: str, symbol: str) -> Iterator[market.Bar]:
        """Yield the bars of all years that there are, by their open: those of equities in sessions of New York."""
        low, high = (_second("2022-01-01"), _second("2024-06-01"))
        if timeframe in ("5m", "1h"):
            low = _second("2024-01-01")
            for bar in market.bars(symbol, {"5m": 300, "1h": 3600}[timeframe], low, high, weekdays=True):
                if 4 <= bar.time.astimezone(NEW_YORK).hour < 20:
                    yield bar
        elif timeframe == "1d":
            yield from market.bars(symbol, 86_400, low, high, weekdays=True)
        elif timeframe == "1w":
            for week in range((high - low).days // 7):
                yield market.bar(symbol, _second("2022-01-03") + timedelta(weeks=week), timedelta(days=7))
        else:
            for month in range(24):
                at = datetime(2022 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
                yield market.bar(symbol, at, timedelta(days=28))

    def query(self, asked: Asked) -> Reply:
        function, symbol = asked.params.get("function", ""), asked.params.get("symbol", "")
        if self.words:
            return Reply(dict([self.words.pop(0)]))
        if function == "SYMBOL_SEARCH":
            return self.search(asked)
        if function.startswith(("FX_", "CRYPTO_", "DIGITAL_")):
            return self.pair(asked)
        if symbol == self.forbidden:
            return Reply({"Information": _PREMIUM})
        if function in ("SPLITS", "DIVIDENDS"):
            known = _EVENTS[function] if symbol in _KNOWN else []
            return Reply({"symbol": symbol, "data": known})
        if function in (*_REPORTS, "EARNINGS", "OVERVIEW"):
            known = symbol in _KNOWN and function not in self.nothing
            return Reply(_company(function, symbol) if known else {})
        if symbol not in _KNOWN or not function.startswith("TIME_SERIES_"):
            words = "Invalid API call. Please retry or visit the documentation"
            return Reply({"Error Message": f"{words} (https://www.alphavantage.co/documentation/) for {function}."})
        return self.series(asked, function.removeprefix("TIME_SERIES_"), symbol)

    def series(self, asked: Asked, kind: str, symbol: str) -> Reply:
        rows: dict[str, Row] = {}
        size = asked.params.get("outputsize", "compact")
        interval = asked.params.get("interval", "")
        if kind == "INTRADAY":
            for bar in self.bars({"5min": "5m", "60min": "1h"}[interval], symbol):
                local = bar.time.astimezone(NEW_YORK)
                if f"{local:%Y-%m}" == asked.params["month"]:
                    rows[f"{local:%Y-%m-%d %H:%M:%S}"] = _row(bar)
        else:
            timeframe = {"D": "1d", "W": "1w", "M": "1mo"}[kind[0]]
            for bar in self.bars(timeframe, symbol):
                # weeks and months carry their last session
                last = {"1d": 0, "1w": 4, "1mo": 27}[timeframe]
                label = f"{bar.time + timedelta(days=last):%Y-%m-%d}"
                rows[label] = _row(bar, adjusted=kind.endswith("ADJUSTED"))
        found = list(reversed(rows.items()))
        meta = {
            "1. Information": f"{kind} Prices", "2. Symbol": symbol, "3. Last Refreshed": "2024-05-31",
            **({"4. Interval": interval} if interval else {}), "5. Output Size": size, "6. Time Zone": "US/Eastern",
        }  # fmt: skip
        short = size == "compact" and kind[0] in "ID" and "month" not in asked.params
        return Reply({"Meta Data": meta, f"Time Series ({interval or kind})": dict(found[:100] if short else found)})

    def pair(self, asked: Asked) -> Reply:
        function, params = asked.params["function"], asked.params
        name = params.get("symbol") or params["from_symbol"]
        other = params.get("market") or params["to_symbol"]
        is_crypto = "symbol" in params
        rows: dict[str, Row] = {}
        if function.endswith("INTRADAY"):
            today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            step = _SECONDS[params["interval"]]
            for bar in market.bars(f"{name}/{other}", step, today - timedelta(days=20), today):
                rows[f"{bar.time:%Y-%m-%d %H:%M:%S}"] = _row(bar)
        else:
            for bar in market.bars(f"{name}/{other}", 86_400, _second("2023-01-01"), _second("2024-01-01")):
                rows[f"{bar.time:%Y-%m-%d}"] = _row(bar)
        if not is_crypto:
            rows = {time: {key: row[key] for key in _NAMES} for time, row in rows.items()}
        meta = {"1. Information": function, "4. Market Code": other, "7. Time Zone": "UTC"}
        return Reply({"Meta Data": meta, "Time Series FX ()": dict(reversed(rows.items()))})

    def search(self, asked: Asked) -> Reply:
        found = [symbol for symbol in _KNOWN if asked.params["keywords"].upper() in symbol]
        return Reply(
            {
                "bestMatches": [
                    {
                        "1. symbol": symbol, "2. name": f"{symbol} Inc", "3. type": "Equity", "4. region": "Here",
                        "5. marketOpen": "09:30", "6. marketClose": "16:00", "7. timezone": "UTC-04",
                        "8. currency": "USD", "9. matchScore": "1.0000",
                    }
                    for symbol in found
                ]
            }
        )  # fmt: skip


def _row(bar: market.Bar, *, adjusted: bool = False) -> Row:
    values = asdict(bar)
    row = {name: str(values[name[3:]]) for name in _NAMES}
    if adjusted:
        return {**row, "5. adjusted close": "1.0", "6. volume": str(bar.volume), "7. dividend amount": "0.0000"}
    return {**row, "5. volume": str(bar.volume)}


_EVENTS: Mapping[str, list[Row]] = {
    "SPLITS": [
        {"effective_date": "2015-02-02", "split_factor": "3.0000"},
        {"effective_date": "2012-06-11", "split_factor": "0.1250"},
    ],
    "DIVIDENDS": [
        {
            "ex_dividend_date": "2014-08-06", "declaration_date": "2014-07-29", "record_date": "2014-08-08",
            "payment_date": "2014-09-10", "amount": "1.1",
        },
        {
            "ex_dividend_date": "2010-02-08", "declaration_date": "None", "record_date": "None",
            "payment_date": "None", "amount": "0.55",
        },
    ],
}  # fmt: skip


def _actions() -> list[Row]:
    one = {"kind": "split", "ratio_from": Decimal(1)}
    return [
        {
            "ts_event": _second("2010-02-08"), "kind": "dividend", "amount": Decimal("0.55"), "declared": None,
            "record_date": None, "payable": None,
        },
        {"ts_event": _second("2012-06-11"), **one, "ratio_to": Decimal("0.125")},
        {
            "ts_event": _second("2014-08-06"), "kind": "dividend", "amount": Decimal("1.1"),
            "declared": _second("2014-07-29"), "record_date": _second("2014-08-08"),
            "payable": _second("2014-09-10"),
        },
        {"ts_event": _second("2015-02-02"), **one, "ratio_to": Decimal(3)},
    ]  # fmt: skip


def _company(function: str, symbol: str) -> Row:
    if function == "OVERVIEW":
        return {"Symbol": symbol, "Name": f"{symbol} Inc", "PERatio": "14.1327", "PEGRatio": "None", "Beta": "-"}
    if function == "EARNINGS":
        quarter = {
            "fiscalDateEnding": "2023-12-31", "reportedDate": "2024-01-24", "reportedEPS": "3.87",
            "estimatedEPS": "None", "reportTime": "post-market",
        }  # fmt: skip
        annual = [{"fiscalDateEnding": "2023-12-31", "reportedEPS": "9.61"}]
        return {"symbol": symbol, "annualEarnings": annual, "quarterlyEarnings": [quarter]}
    return {
        "symbol": symbol,
        **{
            group: [{"fiscalDateEnding": day, "reportedCurrency": "USD", **values} for day, values in reports]
            for group, reports in _REPORTS[function].items()
        },
    }


def _figures() -> list[Row]:
    ended, year = _second("2023-12-31"), {"fiscal_period": "FY"}
    today = datetime.combine(datetime.now(UTC).date(), datetime.min.time(), UTC)
    filed = {"filed": _second("2024-01-24"), "unit": ""}
    rows: list[Row] = [
        {
            "concept": "balance_sheet:annual:commonStockSharesOutstanding",
            "unit": "shares",
            "value": 914_000_000,
            **year,
        },
        {"concept": "balance_sheet:annual:totalAssets", "unit": "USD", "value": 135_241_000_000, **year},
        {"concept": "cash_flow:annual:netIncome", "unit": "USD", "value": 7_502_000_000, **year},
        {"concept": "earnings:annual:reportedEPS", "unit": "", "value": Decimal("9.61"), **year},
        {"concept": "earnings:quarterly:reportTime", "value": None, "value_text": "post-market", **filed},
        {"concept": "earnings:quarterly:reportedEPS", "value": Decimal("3.87"), **filed},
        {"concept": "income_statement:annual:totalRevenue", "unit": "USD", "value": 61_860_000_000, **year},
        {"concept": "income_statement:quarterly:totalRevenue", "value": 17_381_000_000, "fiscal_period": None},
    ]
    return [
        *({"ts_event": ended, **row} for row in rows),
        {"ts_event": today, "concept": "overview:Name", "value": None},
        {"ts_event": today, "concept": "overview:PERatio", "value": Decimal("14.1327"), "value_text": None},
    ]
