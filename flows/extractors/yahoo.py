"""Yahoo Finance, the chart interface that its own pages use: https://query2.finance.yahoo.com/v8/finance/chart/.

There is no contract: its terms allow personal use, and it may refuse any client. Prices are adjusted for splits, not
for dividends, as of the day they are asked, and so are the amounts of dividends; prices of London are in pence (GBp).
Days carry the open of their session and become its date in the exchange's zone. A row for the running quote, off the
grid, may come last, and a day that begins at `period2`: both lie outside the window. The first week or month may be
a part of one, so asking begins a whole one earlier. Minutes are kept for 30 days, up to 30m for 60, hours for 730:
what is older is not asked and stays uncovered. Where nothing traded Yahoo lists the time with nulls: such a row has no
price to store; it goes to quarantine, or with option `empty_bars` is counted as filtered: thin minutes are mostly
empty.
"""

import json
import logging
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from importlib import import_module
from typing import Any
from typing import Final
from typing import Literal
from urllib.parse import quote

from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.records import dig
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call
from flows.web import Web

log = logging.getLogger(__name__)

_INTERVALS: Final = {
    "ohlcv-1m": "1m", "ohlcv-5m": "5m", "ohlcv-15m": "15m", "ohlcv-30m": "30m", "ohlcv-1h": "60m",
    "ohlcv-1d": "1d", "ohlcv-1w": "1wk", "ohlcv-1mo": "1mo",
}  # fmt: skip
#: days that Yahoo keeps
_KEPT: Final = {"ohlcv-1m": 30, "ohlcv-5m": 60, "ohlcv-15m": 60, "ohlcv-30m": 60, "ohlcv-1h": 730}
_KINDS: Final = {"splits": "split", "dividends": "dividend", "capitalGains": "capital_gain"}
_PRICES: Final = ("open", "high", "low", "close")
_EVENT: Final = {
    "ts_event": "date", "kind": "kind", "ratio_from": "denominator", "ratio_to": "numerator", "amount": "amount",
    "currency": "currency",
}  # fmt: skip
_CLASSES: Final = {
    "EQUITY": "equity", "ETF": "etf", "MUTUALFUND": "fund", "INDEX": "index", "CURRENCY": "fx",
    "CRYPTOCURRENCY": "crypto", "FUTURE": "future", "OPTION": "option",
}  # fmt: skip
#: before any row; negative numbers are good times here (IBM begins in 1962)
_EARLIEST: Final = date(1900, 1, 1)
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class YahooOptions(HttpOptions):
    """Options of a source of vendor `yahoo`."""

    base_url: str = Field("https://query2.finance.yahoo.com", description="Where the vendor answers.")
    since: date = Field(_EARLIEST, description="Nothing before this day is asked, where a series has no start.")
    delay_minutes: int = Field(20, ge=0, le=100_000, description="Minutes by which the exchange's prices come later.")
    extended_hours: bool = Field(False, description="Intraday bars before and after the regular session too.")
    empty_bars: Literal["quarantine", "filter"] = Field(
        "quarantine", description="Rows without any price: kept in quarantine, or counted as filtered: nothing traded."
    )
    user_agent: str = Field(
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        min_length=1,
        description="Clients that do not name themselves are refused.",
    )
    session: Literal["plain", "yfinance"] = Field(
        "plain", description="Ask as we are, or with the cookie and crumb that yfinance gets (extra `yahoo`)."
    )


class YahooExtractor(HttpExtractor):
    """Bars, splits, dividends and capital gains of Yahoo Finance."""

    name = "yahoo"
    label = "Yahoo Finance"
    doc = "Bars adjusted for splits, and corporate actions, of most of the world's listings; for personal use, no key."
    extra = "yahoo"
    schemas = (*_INTERVALS, "corporate_actions")
    Options = YahooOptions
    value_options = ("extended_hours",)
    # nothing is documented; clients report refusals above about this
    quotas = (Quota("requests", 60, 60),)
    refusals = (
        ('"code": ?"Not Found"', UnknownSymbol),
        ("Too Many Requests", RateLimited),
        ("Invalid Crumb|Invalid Cookie|Unauthorized", AuthFailed),
    )

    def headers(self) -> Mapping[str, str]:
        cookie = {"cookie": self._visit[0]} if self._visit else {}
        return {"user-agent": self.options.user_agent, **cookie}

    def secret_params(self) -> Mapping[str, str]:
        return {"crumb": self._visit[1]} if self._visit else {}

    @cached_property
    def web(self) -> Web:
        web: Web = super().web
        web.hide(*self._visit)
        return web

    def span(self, schema: Schema) -> timedelta | None:
        return timedelta(days=7) if schema.timeframe == "1m" else None

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job; what Yahoo keeps no longer is not asked, and no fetch covers it."""
        if kept := _KEPT.get(job.schema):
            today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            oldest = today - (kept - 1) * _DAY
            if older := sum(one.start < oldest for one in job.instruments):
                words = "source %r: Yahoo keeps %s for %s days: %s instruments are asked from %s on"
                log.info(words, self.source.name, job.schema, kept, older, oldest.date())
            some = [replace(one, start=max(one.start, oldest)) for one in job.instruments if one.end > oldest]
            job = replace(job, instruments=tuple(some))
        yield from super().requests(job)

    def calls(self, request: Request) -> Iterator[Call]:
        schema = schema_called(request.job.schema)
        for _, symbol, start, end in asked(request):
            low, high = _around(schema, start, end)
            params = {
                "period1": str(low), "period2": str(high), "interval": _INTERVALS.get(schema.name, "1d"),
                "events": "div,splits,capitalGains", "includePrePost": str(self.options.extended_hours).lower(),
            }  # fmt: skip
            yield self._chart(symbol, params)

    def judge(self, call: Call, answer: Answer) -> None:
        if answer.content[:200].lstrip().startswith(b"Too Many Requests"):
            raise self.refuse("Too Many Requests", answer.headers)
        super().judge(call, answer)
        if "symbol" not in call.facts:
            return
        said = self.json_of(answer)
        symbol = call.facts["symbol"]
        if error := dig(said, ("chart", "error")):
            raise self.refuse(f"{symbol}: {json.dumps(error)}", answer.headers)
        result = dig(said, ("chart", "result", 0))
        about = dig(result, ("meta",))
        if not isinstance(about, dict) or not about.get("exchangeTimezoneName"):
            raise SchemaMismatch(f"{self.web.name}: {symbol}: the answer has no chart with a time zone")
        if str(about.get("symbol", symbol)).upper() != symbol.upper():
            raise UnknownSymbol(f"{self.web.name}: {symbol}: Yahoo answers with {about['symbol']} instead")
        wanted = call.params["interval"].replace("60m", "1h")
        if about.get("dataGranularity", wanted).replace("60m", "1h") != wanted:
            raise SchemaMismatch(f"{self.web.name}: {symbol}: asked {wanted}, answered {about['dataGranularity']}")
        number = len(result.get("timestamp") or ())
        for name, values in (dig(result, ("indicators", "quote", 0)) or {}).items():
            if len(values or ()) != number:
                raise TransientError(f"{self.web.name}: {symbol}: {number} times with {len(values or ())} of {name}")

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        schema = schema_called(page.request["schema"])
        result = Answer(page.read()).json()["chart"]["result"][0]
        about, symbol = result["meta"], page.manifest.facts["symbol"]
        clock = Clock("s", zone=about["exchangeTimezoneName"], earliest=_EARLIEST)
        if schema.name == "corporate_actions":
            events = [
                {"currency": about.get("currency") if name != "splits" else None, **event, "kind": kind}
                for name, kind in _KINDS.items()
                for event in (result.get("events") or {}).get(name, {}).values()
            ]
            yield batch(schema, events, Shape(_EVENT, replace(clock, timeframe="1d")), symbol)
            return
        found = result["indicators"]["quote"][0]
        names = (*_PRICES, "volume")
        times = result.get("timestamp") or []
        nothing = [None] * len(times)
        rows = [list(row) for row in zip(times, *(found.get(name, nothing) for name in names), strict=True)]
        traded = [row for row in rows if any(price is not None for price in row[1:5])]
        empty = len(rows) - len(traded) if self.options.empty_bars == "filter" else 0
        columns = {name: place for place, name in enumerate(("ts_event", *names))}
        shape = Shape(columns, replace(clock, timeframe=schema.timeframe))
        yield replace(batch(schema, traded if empty else rows, shape, symbol), left_out=empty)

    def discover(self, text: str) -> Iterator[Listing]:
        params = {"q": text, "quotesCount": "50", "newsCount": "0"}
        for row in self.ask(Call("v1/finance/search", params)).json().get("quotes", ()):
            if symbol := row.get("symbol"):
                kind = _CLASSES.get(row.get("quoteType", ""), "other")
                yield Listing(symbol, kind, row.get("longname") or row.get("shortname") or "")

    def check(self) -> list[str]:
        self.ask(self._chart("AAPL", {"range": "1d", "interval": "1d"}))
        return [f"{self.options.base_url} answers"]

    def _chart(self, symbol: str, params: Mapping[str, str]) -> Call:
        return Call(f"v8/finance/chart/{quote(symbol, safe='')}", params, {"symbol": symbol})

    @cached_property
    def _visit(self) -> tuple[str, ...]:
        """Cookie and crumb of a visit that yfinance makes, or nothing."""
        if self.options.session == "plain":
            return ()
        try:
            data = import_module("yfinance.data")
            limited: type[Exception] = import_module("yfinance.exceptions").YFRateLimitError
        except ImportError as error:
            advice = "pip install 'dataflow[yahoo]'"
            raise ConfigError(f"source {self.source.name!r}: session yfinance needs yfinance: {advice}") from error
        visitor = data.YfData()
        try:
            crumb, _ = visitor._get_cookie_and_crumb(int(self.options.timeout))
        except limited as error:
            raise RateLimited(f"source {self.source.name!r}: yfinance: {error}", retry_after=60) from error
        except Exception as error:  # whatever its HTTP client raises
            raise TransientError(f"source {self.source.name!r}: yfinance: {type(error).__name__}: {error}") from error
        if not crumb:
            raise AuthFailed(f"source {self.source.name!r}: yfinance got no crumb from Yahoo")
        cookies = visitor._session.cookies.get_dict()
        return "; ".join(f"{name}={value}" for name, value in sorted(cookies.items())), crumb


def _around(schema: Schema, start: datetime, end: datetime) -> tuple[int, int]:
    """Return period1 and period2 in seconds: for days and longer wide enough for the dates of every zone."""
    if schema.timeframe in ("", "1d"):
        low, high = start - _DAY, end + _DAY
    elif schema.timeframe in ("1w", "1mo"):
        low, high = bar_open(bar_open(start, schema.timeframe) - _DAY, schema.timeframe), end + _DAY
    else:
        low, high = start, end
    return (low - _EPOCH) // timedelta(seconds=1), -((_EPOCH - high) // timedelta(seconds=1))
