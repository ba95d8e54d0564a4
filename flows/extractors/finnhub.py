"""Finnhub: https://finnhub.io/docs/api (stock-candles, company-news, stock-splits, stock-dividends, rate-limit).

An answer that is cut says nothing of it: candles keep the last of the window (a month at most within the day, 120
rows for some crypto), news the newest articles. So each chain goes back in time, from the oldest row that came, until
the vendor says that there is nothing older. Stock candles of a day and longer are adjusted for splits, shorter ones
are not. An unknown symbol is answered like an empty window; the vendor's search tells the two apart.
"""

import time
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any
from typing import Final
from typing import Literal
from zoneinfo import available_timezones

from pydantic import Field
from pydantic import field_validator

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import cut
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call
from flows.web import Web

_RESOLUTIONS: Final = {
    "ohlcv-1m": "1", "ohlcv-5m": "5", "ohlcv-15m": "15", "ohlcv-30m": "30", "ohlcv-1h": "60",
    "ohlcv-1d": "D", "ohlcv-1w": "W", "ohlcv-1mo": "M",
}  # fmt: skip
_CANDLE: Final = {"ts_event": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
_ARTICLE: Final = {
    "ts_event": "datetime", "article_id": "id", "title": "headline", "summary": "summary", "publisher": "source",
    "url": "url", "symbols": "related",
}  # fmt: skip
_SPLIT: Final = {"ts_event": "date", "ratio_from": "fromFactor", "ratio_to": "toFactor"}
_DIVIDEND: Final = {
    "ts_event": "date", "amount": "amount", "currency": "currency", "frequency": "frequency",
    "declared": "declarationDate", "record_date": "recordDate", "payable": "payDate",
}  # fmt: skip
#: the vendor's codes; 2 would be read as twice a year
_FREQUENCIES: Final = {
    "0": "annually", "1": "monthly", "2": "quarterly", "3": "semi-annually", "4": "other", "5": "bimonthly",
    "6": "trimesterly", "7": "weekly",
}  # fmt: skip
_CLASSES: Final = {"stock": "equity", "forex": "fx", "crypto": "crypto"}
_ETFS: Final = ("ETP", "ETF")
_MONTH: Final = timedelta(days=30)
#: beside the plan's limit a minute there is one a second for everybody
_SECOND: Final[Mapping[str, float]] = {"second": 1.0}


class FinnhubOptions(HttpOptions):
    """Options of a source of vendor `finnhub`."""

    base_url: str = Field("https://finnhub.io/api/v1", description="Where the vendor answers.")
    delay_minutes: int = Field(
        15, ge=0, le=100_000, description="Minutes by which prices may come later; 0 where yours are in real time."
    )
    market: Literal["stock", "forex", "crypto"] = Field("stock", description="Whose candles; news are of stocks.")
    exchange: str = Field("US", description="Exchange whose symbols are listed, e.g. US, L; OANDA; BINANCE.")
    zone: str = Field(
        "UTC", description="Zone whose date a candle of a day and longer bears, if not stamped 00:00 UTC."
    )

    @field_validator("zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("accepted: a zone of the IANA database, e.g. America/New_York")
        return value


class _ResetWeb(Web):
    def limited(self, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> RateLimited:
        """Read X-Ratelimit-Reset, in seconds since 1970, as the Retry-After that the vendor does not send."""
        reset = headers.get("x-ratelimit-reset", "")
        if reset.isascii() and reset.isdigit() and "retry-after" not in headers:
            headers = {**headers, "retry-after": str(max(0, int(reset) - int(time.time())))}
        return super().limited(message, headers)


class FinnhubExtractor(HttpExtractor):
    """Candles, news, splits and dividends of Finnhub."""

    name = "finnhub"
    label = "Finnhub"
    doc = "Stocks, forex and crypto: bars; company news, splits and dividends. Most of it needs a paid plan."
    credentials = ("API_KEY",)
    schemas = (*_RESOLUTIONS, "news", "corporate_actions")
    Options = FinnhubOptions
    value_options = ("market", "zone")
    quotas = (Quota("requests", 60, 60), Quota("second", 30, 1))
    refusals = (
        ("(?i)invalid api key|please use an api key", AuthFailed),
        ("(?i)don't have access to this resource", NotEntitled),
        ("(?i)api limit reached", RateLimited),
    )

    def headers(self) -> Mapping[str, str]:
        return {"X-Finnhub-Token": self.secret("API_KEY")}

    def observe(self, headers: Mapping[str, str]) -> None:
        if (left := headers.get("x-ratelimit-remaining", "")).isdigit():
            self.limiter.correct("requests", int(left))

    @cached_property
    def web(self) -> Web:
        """The way to the vendor, which says in its own header until when to wait."""
        web = super().web
        return _ResetWeb(
            web.name,
            web.base_url,
            web.limiter,
            web.bounds,
            headers=self.headers(),
            secrets=web.secrets,
            refusals=self.refusals,
        )

    def calls(self, request: Request) -> Iterator[Call]:
        schema = request.job.schema
        for _, symbol, start, end in asked(request):
            if schema in _RESOLUTIONS:
                within_the_day = schema_called(schema).timeframe not in ("1d", "1w", "1mo")
                for low, high in cut(start, end, _MONTH if within_the_day else None):
                    # both ends are meant, in whole seconds
                    first, last = -(-_micro(low) // 10**6), (_micro(high) - 1) // 10**6
                    if first > last:
                        continue
                    # the instant that a date is stamped with lies, in zones east of UTC, on the day before
                    more = 0 if within_the_day else 86_400
                    window = {"from": str(first - more), "to": str(last + more)}
                    params = {"symbol": symbol, "resolution": _RESOLUTIONS[schema], **window}
                    yield _call(f"{self.options.market}/candle", params, kind="candle")
                continue
            kinds = (
                {"company-news": "news"} if schema == "news" else {"stock/split": "split", "stock/dividend": "dividend"}
            )
            last_day = (end - timedelta(microseconds=1)).date()
            for path, kind in kinds.items():
                yield _call(
                    path, {"symbol": symbol, "from": start.date().isoformat(), "to": last_day.isoformat()}, kind=kind
                )

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        said, kind = self.json_of(answer), call.facts["kind"]
        if kind == "candle":
            if said["s"] == "no_data":
                unsure = call.facts["first"] and self.options.market == "stock"
                return _call("search", {"q": call.params["symbol"]}, kind="lookup") if unsure else None
            oldest = min(said["t"])
            more = oldest > int(call.params["from"])
            return _back(call, str(oldest - 1)) if more else None
        if kind == "news" and said:
            # the oldest day may be cut: it is asked again, and once it is alone the day before it
            oldest = datetime.fromtimestamp(min(article["datetime"] for article in said), UTC).date()
            day = min(oldest, date.fromisoformat(call.params["to"]))
            if day.isoformat() == call.params["to"]:
                day -= timedelta(days=1)
            return _back(call, day.isoformat()) if day.isoformat() >= call.params["from"] else None
        return None

    def judge(self, call: Call, answer: Answer) -> None:
        super().judge(call, answer)
        said = self.json_of(answer)
        if isinstance(said, dict) and said.get("error"):
            raise self.refuse(str(said["error"]), answer.headers)
        if call.facts.get("kind") == "candle" and said.get("s") != "no_data":
            lengths = {len(said.get(name) or ()) for name in ("t", "o", "h", "l", "c", "v")}
            if said.get("s") != "ok" or len(lengths) > 1:
                raise TransientError(f"{self.web.name}: status {said.get('s')!r}, columns of {sorted(lengths)} rows")
        if call.facts.get("kind") == "lookup":
            symbol = call.params["q"]
            if not any(found.get("symbol") == symbol for found in said.get("result") or ()):
                raise UnknownSymbol(f"{self.web.name}: no candles, and the vendor's search does not find {symbol!r}")

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        said, kind, symbol = Answer(page.read()).json(), facts["kind"], facts["symbol"]
        if kind == "candle" and said["s"] == "ok":
            rows = [
                dict(zip("tohlcv", row, strict=True)) for row in zip(*(said[name] for name in "tohlcv"), strict=True)
            ]
            clock = Clock("s", zone=self.options.zone, timeframe=schema.timeframe, earliest=date(1900, 1, 1))
            yield batch(schema, rows, Shape(_CANDLE, clock), symbol)
        elif kind == "news":
            yield batch(schema, [_filled(row) for row in said], Shape(_ARTICLE, Clock("s")), symbol)
        elif kind in ("split", "dividend"):
            columns = _SPLIT if kind == "split" else _DIVIDEND
            yield batch(schema, [_filled(row) for row in said], Shape(columns, Clock(), {"kind": kind}), symbol)

    def discover(self, text: str) -> Iterator[Listing]:
        call = Call(f"{self.options.market}/symbol", {"exchange": self.options.exchange}, costs=_SECOND)
        for row in self.json_of(self.ask(call)):
            if text.upper() in f"{row['symbol']} {row.get('description', '')}".upper():
                kind = "etf" if row.get("type") in _ETFS else _CLASSES[self.options.market]
                figi, mic = row.get("figi") or "", row.get("mic") or ""
                yield Listing(row["symbol"], kind, row.get("description", ""), row.get("currency", ""), mic, figi)

    def check(self) -> list[str]:
        self.ask(Call("search", {"q": "AAPL"}, costs=_SECOND))
        return [f"{self.options.base_url} answers, and knows the key"]


def _call(path: str, params: dict[str, str], kind: str) -> Call:
    facts = {"symbol": params.get("symbol") or params["q"], "kind": kind, "first": True}
    return Call(path, params, facts, _SECOND)


def _back(call: Call, to: str) -> Call:
    return replace(call, params={**call.params, "to": to}, facts={**call.facts, "first": False})


def _filled(row: Any) -> Any:
    """Return a record without the fields that the vendor leaves empty, its code of frequency in words."""
    if not isinstance(row, dict):
        return row
    fields = {name: value for name, value in row.items() if value != ""}
    code = str(fields.get("freq", ""))
    return {**fields, "frequency": _FREQUENCIES.get(code, code or None)}


def _micro(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
