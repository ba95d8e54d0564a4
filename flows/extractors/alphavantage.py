"""Alpha Vantage, equities, currencies and crypto: https://www.alphavantage.co/documentation/.

Errors and throttling are answers of status 200 with "Error Message", "Note" or "Information", and some of them repeat
the key, which is part of every address. Series are objects by time, newest first, in the zone that their "Meta Data"
name. Bars of equities are as traded unless `adjusted`; what the `_ADJUSTED` functions add to a day is not stored.
Intraday of equities comes by month of New York; that of currencies and crypto has no such parameter: one answer holds
the latest weeks, and a window that begins before it is refused, not taken for empty. Figures of companies come whole,
and restated: annual and quarterly ones of a day are told apart by their concept, and "None" or "-" is no figure, so no
row. Free keys have 25 requests a day, 100 rows a series (`rows: compact`) and no intraday.
"""

import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import LATEST
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call

_INTERVALS: Final = {
    "ohlcv-1m": "1min", "ohlcv-5m": "5min", "ohlcv-15m": "15min", "ohlcv-30m": "30min", "ohlcv-1h": "60min",
}  # fmt: skip
_PERIODS: Final = {"ohlcv-1d": "DAILY", "ohlcv-1w": "WEEKLY", "ohlcv-1mo": "MONTHLY"}
_PREFIXES: Final = {"equity": "TIME_SERIES_", "fx": "FX_", "crypto": "DIGITAL_CURRENCY_"}
_ACTIONS: Final = {
    "SPLITS": {"ts_event": "effective_date", "ratio_to": "split_factor"},
    "DIVIDENDS": {
        "ts_event": "ex_dividend_date", "amount": "amount", "declared": "declaration_date",
        "record_date": "record_date", "payable": "payment_date",
    },
}  # fmt: skip
_FIGURE: Final = {
    name: name
    for name in ("ts_event", "concept", "unit", "filed", "value", "value_text", "fiscal_period")
}  # fmt: skip
#: members of a report that say what the others are
_ABOUT: Final = {"fiscalDateEnding", "reportedDate", "reportedCurrency", "Symbol", "symbol"}
#: members that are words, dates or numbers by name only; any other is a number or refused
_WORDS: Final = {
    "AssetType", "Name", "Description", "CIK", "Exchange", "Currency", "Country", "Sector", "Industry", "Address",
    "OfficialSite", "FiscalYearEnd", "LatestQuarter", "DividendDate", "ExDividendDate", "LastSplitFactor",
    "LastSplitDate", "reportTime",
}  # fmt: skip
_CLASSES: Final = {"Equity": "equity", "ETF": "etf", "Mutual Fund": "fund", "Index": "index"}
#: how the vendor writes that there is no value
_NOTHING: Final = ("None", "-")
_NEW_YORK: Final = "America/New_York"
#: rows of a compact answer
_COMPACT: Final = 100


class AlphaVantageOptions(HttpOptions):
    """Options of a source of vendor `alphavantage`."""

    base_url: str = Field("https://www.alphavantage.co", description="Where the vendor answers.")
    delay_minutes: int = Field(
        1440,
        ge=0,
        le=100_000,
        description="Minutes by which prices may come later: the end of the previous day without a realtime"
        " entitlement; 0 with one.",
    )
    market: Literal["equity", "fx", "crypto"] = Field(
        "equity", description="Which functions are asked; fx and crypto symbols are pairs, e.g. EUR/USD."
    )
    currency: str = Field("USD", description="Second half of a pair whose symbol names only the first.")
    daily: Literal["DAILY", "DAILY_ADJUSTED"] = Field(
        "DAILY", description="Function for days of equities; your plan may have one only. Both are as traded."
    )
    adjusted: bool = Field(False, description="Intraday of equities adjusted for splits and dividends.")
    extended_hours: bool = Field(True, description="Intraday of equities from 04:00 to 20:00 New York.")
    label: Literal["open", "close"] = Field(
        "open", description="Which end of an intraday bar its time names; answers of 2020 named the close."
    )
    rows: Literal["full", "compact"] = Field("full", description="Whole series (paid plans), or the latest 100 rows.")
    recent_days: int = Field(14, ge=1, le=365, description="Days back that intraday of fx and crypto is asked.")
    statements: tuple[Literal["INCOME_STATEMENT", "BALANCE_SHEET", "CASH_FLOW", "EARNINGS", "OVERVIEW"], ...] = Field(
        ("INCOME_STATEMENT", "BALANCE_SHEET", "CASH_FLOW", "EARNINGS", "OVERVIEW"),
        description="Functions that fundamentals ask, a request each.",
    )
    figures_days: int = Field(7, ge=1, le=366, description="Fundamentals are asked once in so many days.")
    requests_per_day: int = Field(25, ge=0, description="Your plan's limit; 0: none.")


class AlphaVantageExtractor(HttpExtractor):
    """Bars, figures, splits and dividends of Alpha Vantage."""

    name = "alphavantage"
    label = "Alpha Vantage"
    doc = (
        "Bars of equities, currencies and crypto, company figures, splits and dividends. Free keys: 25 requests a day."
    )
    credentials = ("API_KEY",)
    schemas = (*_INTERVALS, *_PERIODS, "fundamentals", "corporate_actions")
    Options = AlphaVantageOptions
    value_options = ("market", "currency", "adjusted", "extended_hours", "label")
    quotas = (Quota("requests", 1, 1),)
    # a free key's limit is said in the same words that sell what lifts it: limits before entitlements
    refusals = (
        (r"(?i)apikey is invalid|invalid api key|demo\W* API key", AuthFailed),
        (r"(?i)rate limit|call frequency|call volume|requests? per (day|minute|second)|sparingly", RateLimited),
        (r"(?i)premium", NotEntitled),
        (r"(?i)invalid API call|no data", UnknownSymbol),
    )

    def secret_params(self) -> Mapping[str, str]:
        return {"apikey": self.secret("API_KEY")}

    def limits(self) -> Sequence[Quota]:
        a_day = self.options.requests_per_day
        return (*self.quotas, *([Quota("day", a_day, 86_400)] if a_day else ()))

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut equities' intraday by month of New York; figures are one whole, asked anew after some days."""
        now = datetime.now(UTC)
        if job.schema == "fundamentals":
            days = now.toordinal() // self.options.figures_days * self.options.figures_days
            for request in super().requests(job):
                # no delay cuts them
                whole = tuple(replace(one, end=LATEST) for one in request.instruments)
                yield replace(request, instruments=whole, identity=f"as of {datetime.fromordinal(days).date()}")
            return
        for request in super().requests(job):
            (one,) = request.instruments
            if job.schema not in _INTERVALS:
                yield request
            elif self.options.market == "equity":
                for low, high in _months(one.start, one.end):
                    yield replace(request, instruments=(replace(one, start=low, end=high),))
            else:
                today = now.replace(hour=0, minute=0, second=0, microsecond=0)
                start = max(one.start, today - timedelta(days=self.options.recent_days))
                if start < one.end:
                    yield replace(request, instruments=(replace(one, start=start),))

    def calls(self, request: Request) -> Iterator[Call]:
        schema, options = request.job.schema, self.options
        for _, symbol, start, _ in asked(request):
            params, about = self._pair(symbol), {"symbol": symbol}
            functions: Sequence[str]
            if schema == "fundamentals":
                functions = options.statements
            elif schema == "corporate_actions":
                functions = tuple(_ACTIONS)
            elif schema in _INTERVALS:
                functions = ("CRYPTO_INTRADAY" if options.market == "crypto" else f"{self._prefix}INTRADAY",)
                params |= {"interval": _INTERVALS[schema], "outputsize": options.rows}
                if options.market == "equity":
                    params["month"] = f"{start.astimezone(ZoneInfo(_NEW_YORK)):%Y-%m}"
                    params["adjusted"] = str(options.adjusted).lower()
                    params["extended_hours"] = str(options.extended_hours).lower()
            else:
                is_day = options.market == "equity" and schema == "ohlcv-1d"
                functions = (f"{self._prefix}{options.daily if is_day else _PERIODS[schema]}",)
                if schema == "ohlcv-1d":
                    params["outputsize"] = options.rows
            for function in functions:
                facts = {**about, "function": function, "from": start.isoformat(), "series": schema.startswith("ohlcv")}
                yield Call("query", {"function": function, **params}, facts, {"day": 1})

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield the pages; a symbol of which every function has nothing is unknown, one of which some have is not.

        Funds have no OVERVIEW. Empty answers land too: an unknown symbol is not asked for the same figures again.
        """
        answered = ["empty" not in page.manifest.facts for page in landed]
        for page in super().pages(request, landed):
            answered.append("empty" not in page.facts)
            yield page
        if answered and not any(answered):
            symbols = ", ".join(symbol for _, symbol, _, _ in asked(request))
            raise UnknownSymbol(f"{self.web.name}: {symbols}: {', '.join(self.options.statements)} have nothing")

    def page(self, call: Call, answer: Answer) -> Page:
        made = super().page(call, answer)
        return made if self.json_of(answer) else replace(made, facts={**made.facts, "empty": True})

    def judge(self, call: Call, answer: Answer) -> None:
        super().judge(call, answer)
        said = self.json_of(answer)
        if not isinstance(said, dict):
            raise SchemaMismatch(f"{self.web.name}: the answer is no object but {type(said).__name__}")
        for name in ("Error Message", "Note", "Information"):
            if name in said:
                words = str(said[name])
                raise self.refuse(words, {"retry-after": _pause(words), **answer.headers})
        if not said and call.params["function"] not in self.options.statements:
            raise UnknownSymbol(f"{self.web.name}: {call.facts.get('symbol')}: {call.params['function']} has nothing")
        if call.facts.get("series"):
            self._judge_series(call, said)

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        symbol, function = facts["symbol"], facts["function"]
        said = Answer(page.read()).json()
        if schema.name == "fundamentals":
            records = list(_figures(said, function, facts["received"][:10]))
            yield batch(schema, records, Shape(_FIGURE, Clock(timeframe="1d")), symbol)
        elif schema.name == "corporate_actions":
            kind = {"SPLITS": {"kind": "split", "ratio_from": "1"}, "DIVIDENDS": {"kind": "dividend"}}[function]
            events = [_without_nothing(event) for event in said["data"]]
            yield batch(schema, events, Shape(_ACTIONS[function], Clock(timeframe="1d"), kind), symbol)
        else:
            yield self._bars(schema, said, symbol)

    def discover(self, text: str) -> Iterator[Listing]:
        params = {"function": "SYMBOL_SEARCH", "keywords": text}
        for row in self.ask(Call("query", params, costs={"day": 1})).json().get("bestMatches", ()):
            listed = _plain(row)
            kind = _CLASSES.get(listed["type"], "other")
            yield Listing(listed["symbol"], kind, listed["name"], currency=listed["currency"])

    def check(self) -> list[str]:
        self.ask(Call("query", {"function": "SYMBOL_SEARCH", "keywords": "IBM"}, costs={"day": 1}))
        return [f"{self.options.base_url} answers and takes the key (one request of your day)"]

    @property
    def _prefix(self) -> str:
        return _PREFIXES[self.options.market]

    def _pair(self, symbol: str) -> dict[str, str]:
        first, _, second = symbol.partition("/")
        second = second or self.options.currency
        if self.options.market == "fx":
            return {"from_symbol": first, "to_symbol": second}
        return {"symbol": first, "market": second} if self.options.market == "crypto" else {"symbol": symbol}

    def _judge_series(self, call: Call, said: Mapping[str, Any]) -> None:
        """Refuse a series that does not say what it is, or that begins after the window and may be cut."""
        times, zone = _series(said), _zone(said)
        if "month" in call.params and zone != _NEW_YORK:
            raise SchemaMismatch(f"{self.web.name}: {call.facts['symbol']}: months of {zone} are not those asked for")
        recent = "interval" in call.params and "month" not in call.params
        if not times or not (recent or (call.params.get("outputsize") == "compact" and len(times) >= _COMPACT)):
            return
        # a date is one of our labels, whatever the zone; where nothing traded at first this refuses too much, once
        oldest = min(times)
        first = datetime.fromisoformat(oldest).replace(tzinfo=UTC if len(oldest) == 10 else ZoneInfo(zone))
        if first > datetime.fromisoformat(call.facts["from"]):
            raise PermanentError(
                f"{self.web.name}: {call.facts['symbol']}: the answer begins at {first.isoformat()}, after"
                f" {call.facts['from']}: the vendor sends no more than that; let the series begin later, or change"
                " option rows or recent_days"
            )

    def _bars(self, schema: Schema, said: Mapping[str, Any], symbol: str) -> Batch:
        rows = [{"time": time, **(_plain(row) if isinstance(row, dict) else {})} for time, row in _series(said).items()]
        # crypto named each price twice once, in the market's currency and in dollars
        market = next((value for name, value in said["Meta Data"].items() if name.endswith(". Market Code")), "")
        twice = bool(rows) and "open" not in rows[0]
        columns = {name: f"{name} ({market})" if twice else name for name in ("open", "high", "low", "close")}
        label = self.options.label if schema.name in _INTERVALS else "open"
        clock = Clock(zone=_zone(said), timeframe=schema.timeframe, label=label)
        shape = Shape({"ts_event": "time", **columns, "volume": "volume"}, clock)
        return batch(schema, rows, shape, symbol)


def _months(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield `[start, end)` cut at the midnights of New York that begin a month."""
    while start < end:
        local = start.astimezone(ZoneInfo(_NEW_YORK))
        first = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
        following = (first.replace(tzinfo=None) + timedelta(days=32)).replace(day=1, tzinfo=ZoneInfo(_NEW_YORK))
        high = min(following.astimezone(UTC), end)
        yield start, high
        start = high


def _pause(words: str) -> str:
    """Return the seconds to wait for: a second's limit passes at once, a day's not while somebody waits."""
    if "sparingly" in words or "per second" in words:
        return "2"
    return "3600" if "per day" in words and "per minute" not in words else "60"


def _series(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the member beside the description: times and their rows."""
    series = [value for name, value in said.items() if name != "Meta Data"]
    if len(series) != 1 or not isinstance(series[0], dict) or not isinstance(said.get("Meta Data"), dict):
        raise SchemaMismatch(f"wanted are Meta Data and one series; the answer has {', '.join(said)}")
    return series[0]


def _zone(said: Mapping[str, Any]) -> str:
    """Return the zone that the description names; US/Eastern is an old name that not every machine has."""
    zone = next((str(value) for name, value in said["Meta Data"].items() if name.endswith("Time Zone")), "")
    try:
        return _NEW_YORK if zone == "US/Eastern" else ZoneInfo(zone).key
    except (KeyError, ValueError):
        raise SchemaMismatch(f"time zone {zone!r} is unknown") from None


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the numbers before its names: "1. open" is open, "1a. open (CNY)" is open (CNY)."""
    return {re.sub(r"^\d+[a-z]?\. ", "", name): value for name, value in row.items()}


def _without_nothing(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {name: None if value in _NOTHING else value for name, value in record.items()}


def _figures(said: Mapping[str, Any], function: str, received: str) -> Iterator[Any]:
    """Yield a record for each figure; OVERVIEW is of the day it came, a report of the day its period ended."""
    groups = (
        {"": [said]}
        if function == "OVERVIEW"
        else {
            name.removesuffix("Reports").removesuffix("Earnings"): value
            for name, value in said.items()
            if isinstance(value, list)
        }
    )
    for group, reports in groups.items():
        prefix = ":".join(part for part in (function.lower(), group) if part)
        for report in reports:
            if not isinstance(report, dict):
                yield report
                continue
            about = _without_nothing(report)
            for name in [name for name, value in about.items() if name not in _ABOUT and value is not None]:
                unit = about.get("reportedCurrency")
                yield {
                    "ts_event": about.get("fiscalDateEnding") if group else received,
                    "concept": f"{prefix}:{name}",
                    "unit": "shares" if "Shares" in name and "Outstanding" in name else unit,
                    "filed": about.get("reportedDate"),
                    "value_text" if name in _WORDS else "value": about[name],
                    "fiscal_period": "FY" if group == "annual" else None,
                }
