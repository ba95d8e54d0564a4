"""Twelve Data: https://twelvedata.com/docs (api.twelvedata.com).

Errors come with status 200 or with their own; "no data on the specified dates" is one of them and means none. Several
symbols asked at once are answered each with its own status. An answer of full length has left rows out: before it
(the vendor keeps the newest) or after it, so both are asked, by moving start_date and end_date, until no answer is
full; bars that would be asked twice are not. Intraday times are asked in UTC, days and longer are dates of the
exchange. Splits name the new shares first: from_factor 4, to_factor 1 is one old share becoming four.

Live (`flows.feeds.twelvedata`) are last prices, of which there is no history.
"""

import json
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import TIMEFRAMES
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.websocket import StreamOptions
from flows.extractors.websocket import StreamUrl
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds import twelvedata as streams
from flows.feeds.feed import Feed
from flows.formats.blocks import Rejects
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.frames import Channel
from flows.job import LATEST
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.options import Options
from flows.web import Answer
from flows.web import Call

_INTERVALS: Final = {
    "ohlcv-1m": "1min", "ohlcv-5m": "5min", "ohlcv-15m": "15min", "ohlcv-30m": "30min", "ohlcv-1h": "1h",
    "ohlcv-4h": "4h", "ohlcv-1d": "1day", "ohlcv-1w": "1week", "ohlcv-1mo": "1month",
}  # fmt: skip
_BAR: Final = {name: name for name in ("open", "high", "low", "close", "volume")} | {"ts_event": "datetime"}
_SPLIT: Final = {
    "ts_event": "date", "ratio_from": "to_factor", "ratio_to": "from_factor", "description": "description",
}  # fmt: skip
_DIVIDEND: Final = {"ts_event": "ex_date", "amount": "amount"}
_ACTIONS: Final = {
    "splits": (_SPLIT, {"kind": "split"}),
    "dividends": (_DIVIDEND, {"kind": "dividend"}),
}
#: credits of a call of splits or of dividends, for each symbol
_DEAR: Final = 20
_LISTS: Final = (("stocks", "equity"), ("forex_pairs", "fx"), ("cryptocurrencies", "crypto"))
_NO_ROWS: Final = "No data is available on the specified dates"
#: what an error of one symbol means for its rows, where the others' are good
_RULES: Final[dict[type[DataflowError], str]] = {UnknownSymbol: "symbol is known", NotEntitled: "symbol is in the plan"}


class _NoRowsError(PermanentError):
    """The vendor refuses a window that has no rows."""


class TwelveDataOptions(HttpOptions, StreamOptions):
    """Options of a source of vendor `twelvedata`."""

    base_url: str = Field("https://api.twelvedata.com", description="Where the vendor answers.")
    delay_minutes: int = Field(
        15, ge=0, le=100_000, description="Minutes by which prices may come later; 0 where yours are in real time."
    )
    credits_per_minute: float = Field(8, gt=0, description="Your plan's credits; a symbol of bars takes one.")
    adjustment: Literal["splits", "dividends", "all", "none"] = Field(
        "splits", description="What prices are adjusted for; dividends stay as paid."
    )
    page_rows: int = Field(5000, ge=2, le=5000, description="Rows of a symbol in one answer.")
    stream_url: StreamUrl = Field("wss://ws.twelvedata.com/v1/quotes/price", description="Where the vendor streams.")


class _TwelveData(BaseExtractor):
    """What both halves declare."""

    name = "twelvedata"
    label = "Twelve Data"
    doc = "Equities, FX and crypto: bars from 1 minute to 1 month; splits and dividends of shares with plan Grow."
    credentials = ("API_KEY",)
    Options: ClassVar[type[Options]] = TwelveDataOptions
    value_options = ("adjustment",)


class TwelveDataExtractor(_TwelveData, HttpExtractor):
    """Bars of shares, currencies and coins; splits and dividends."""

    schemas = (*_INTERVALS, "corporate_actions")
    #: by default; option credits_per_minute says it
    quotas = (Quota("credits", 8, 60),)
    refusals = (
        (_NO_ROWS, _NoRowsError),
        ("available (exclusively|starting) with", NotEntitled),
        ('code"?:? ?401', AuthFailed),
        ('code"?:? ?403', NotEntitled),
        ('code"?:? ?429', RateLimited),
        ('code"?:? ?5[0-9][0-9]', TransientError),
        (r'code"?:? ?404|\*\*symbol\*\*|symbol may be delisted', UnknownSymbol),
    )
    at_once = 8

    def limits(self) -> Sequence[Quota]:
        return (Quota("credits", self.options.credits_per_minute, 60),)

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"apikey {self.secret('API_KEY')}"}

    def observe(self, headers: Mapping[str, str]) -> None:
        if (left := headers.get("api-credits-left", "")).isdigit():
            self.limiter.correct("credits", int(left))

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job; splits and dividends are asked symbol by symbol, so that a wrong one costs no other."""
        for request in super().requests(job):
            if job.schema == "corporate_actions":
                yield from (Request(job, (one,)) for one in request.instruments)
            else:
                yield request

    def calls(self, request: Request) -> Iterator[Call]:
        windows: dict[tuple[datetime, datetime], list[str]] = {}
        for _, symbol, start, end in asked(request):
            windows.setdefault((start, end), []).append(symbol)
        for (start, end), symbols in windows.items():
            if request.job.schema != "corporate_actions":
                yield self._bars(request.job.schema, start, end, symbols, [])
                continue
            for symbol in symbols:
                for kind in _ACTIONS:
                    params = {"symbol": symbol, "start_date": f"{start:%Y-%m-%d}"}
                    if end < LATEST:
                        params["end_date"] = f"{end:%Y-%m-%d}"
                    if kind == "dividends":
                        # as paid: adjusted amounts change with every split
                        params["adjust"] = "false"
                    yield Call(kind, params, {"symbols": [symbol], "kind": kind}, {"credits": _DEAR})

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        if call.facts["kind"] != "bars":
            return None
        schema = schema_called(request.job.schema)
        step = timedelta(seconds=TIMEFRAMES[schema.timeframe] or 86_400)
        start, end = (datetime.fromisoformat(call.facts[name]) for name in ("start", "end"))
        todo = {(low, high): list(symbols) for low, high, symbols in call.facts["todo"]}
        for symbol, said in self._parts(call.facts, self.json_of(answer)).items():
            rows = said.get("values", [])
            if len(rows) >= self.options.page_rows:
                times = sorted(datetime.fromisoformat(row["datetime"]).replace(tzinfo=start.tzinfo) for row in rows)
                for low, high in ((start, times[0]), (times[-1] + step, end)):
                    if low < high:
                        todo.setdefault((low.isoformat(), high.isoformat()), []).append(symbol)
        if not todo:
            return None
        (low, high), symbols = next(iter(todo.items()))
        left = [[*window, waiting] for window, waiting in todo.items() if window != (low, high)]
        return self._bars(schema.name, datetime.fromisoformat(low), datetime.fromisoformat(high), symbols, left)

    def ask(self, call: Call) -> Answer:
        try:
            return super().ask(call)
        except _NoRowsError:
            # a refusal's body is not kept: these are its words
            said = {"code": 400, "message": _NO_ROWS, "status": "error"}
            return Answer(json.dumps(said).encode(), {"content-type": "application/json"})

    def judge(self, call: Call, answer: Answer) -> None:
        """Refuse errors that concern everybody asked; one symbol's among several becomes a rejected row."""
        said = self.json_of(answer)
        if not isinstance(said, dict):
            raise SchemaMismatch(f"{self.web.name}: {call.path} answers no object: {answer.content[:120]!r}")
        if said.get("status") == "error":
            raise self._meant(said, answer.headers)
        if "kind" not in call.facts:
            return
        wanted = "values" if call.facts["kind"] == "bars" else call.facts["kind"]
        for symbol, part in self._parts(call.facts, said).items():
            if not isinstance(part, dict):
                raise TransientError(f"{self.web.name}: the answer has nothing for {symbol!r}")
            if part.get("status") == "error":
                error = self._meant(part, answer.headers)
                if isinstance(error, AuthFailed | TransientError):
                    raise error
            elif not isinstance(part.get(wanted), list):
                raise TransientError(f"{self.web.name}: the answer for {symbol!r} has no {wanted}")

    def refused(self, call: Call, answer: Answer) -> Sequence[str]:
        parts = self._parts(call.facts, self.json_of(answer))
        return [symbol for symbol, said in parts.items() if _is_refusal(said)]

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        first = 0
        for symbol, said in self._parts(facts, Answer(page.read()).json()).items():
            if _is_refusal(said):
                yield self._rejected(page.request["schema"], symbol, said, first)
                first += 1
                continue
            if said.get("status") == "error":
                continue
            if facts["kind"] == "bars":
                shape = Shape(_BAR, Clock(timeframe=schema.timeframe))
                rows = said["values"]
            else:
                columns, constants = _ACTIONS[facts["kind"]]
                rows = said[facts["kind"]]
                if facts["kind"] == "dividends" and (currency := said.get("meta", {}).get("currency")):
                    constants = {**constants, "currency": currency}
                shape = Shape(columns, Clock(), constants)
            yield batch(schema, rows, shape, symbol, first)
            first += len(rows)

    def discover(self, text: str) -> Iterator[Listing]:
        wanted = text.upper()
        for path, asset_class in _LISTS:
            for row in self.ask(Call(path, costs={"credits": 1})).json()["data"]:
                pair = f"{row.get('currency_base', '')}/{row.get('currency_quote', '')}"
                name = row.get("name", "" if pair == "/" else pair)
                if wanted in row["symbol"].upper() or wanted in name.upper():
                    currency = row.get("currency", row.get("currency_quote", ""))
                    yield Listing(
                        row["symbol"], asset_class, name, currency, row.get("mic_code", ""),
                        row.get("figi_code", ""), row.get("isin", ""),
                    )  # fmt: skip

    def check(self) -> list[str]:
        usage = self.ask(Call("api_usage", costs={"credits": 1})).json()
        return [f"{usage.get('current_usage')} of {usage.get('plan_limit')} credits of this minute are used"]

    def _bars(self, schema: str, start: datetime, end: datetime, symbols: list[str], todo: list[list[Any]]) -> Call:
        params = {
            "symbol": ",".join(symbols), "interval": _INTERVALS[schema], "start_date": f"{start:%Y-%m-%dT%H:%M:%S}",
            "end_date": f"{end - timedelta(microseconds=1):%Y-%m-%dT%H:%M:%S}", "order": "asc",
            "outputsize": str(self.options.page_rows), "adjust": self.options.adjustment,
        }  # fmt: skip
        if (TIMEFRAMES[schema_called(schema).timeframe] or 86_400) < 86_400:
            params["timezone"] = "UTC"
        window = {"start": start.isoformat(), "end": end.isoformat()}
        facts = {"kind": "bars", "symbols": symbols, **window, "todo": todo}
        return Call("time_series", params, facts, {"credits": len(symbols)})

    def _parts(self, facts: Mapping[str, Any], said: Any) -> dict[str, Any]:
        """Return the answer for each symbol: one alone is not keyed by its name, and a refusal is everybody's."""
        symbols = facts["symbols"]
        alone = len(symbols) == 1 or said.get("status") == "error"
        return {symbol: said if alone else said.get(symbol) for symbol in symbols}

    def _meant(self, said: Mapping[str, Any], headers: Mapping[str, str]) -> DataflowError:
        return self.refuse(f"code {said.get('code')}: {said.get('message')}", headers)

    def _rejected(self, schema: str, symbol: str, said: Mapping[str, Any], row: int) -> Batch:
        words = f"code {said.get('code')}: {said.get('message')}"
        found = next((kind for pattern, kind in self.refusals if re.search(pattern, words)), PermanentError)
        rejects = Rejects()
        rejects.add(row, _RULES.get(found, "vendor answers for the symbol"), f"{symbol!r}: {words}", json.dumps(said))
        none = batch(schema_called(schema), [], Shape(_BAR, Clock()), symbol)
        return replace(none, rejected=rejects.table())


class TwelveDataLive(_TwelveData, WebSocketExtractor):
    """Last prices as Twelve Data streams them."""

    schemas = ("statistics",)
    grain = timedelta(seconds=1)

    def feed(self) -> Feed:
        return streams.feed(self.options.stream_url)

    def objection(self, channel: Channel) -> str:
        if "," in channel.symbol:
            return f"{channel.symbol!r} holds a comma, which stands between symbols"
        if ":" in channel.symbol:
            # it can be asked, as AAPL:NASDAQ, but all that comes is of AAPL
            return f"{channel.symbol!r} names an exchange, and the stream names none with its symbols: leave it out"
        return super().objection(channel)


def _is_refusal(said: Mapping[str, Any]) -> bool:
    """Whether a symbol's part of an answer refuses it; that a window has no rows is no refusal."""
    return said.get("status") == "error" and _NO_ROWS not in str(said.get("message"))
