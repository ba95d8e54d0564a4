"""Massive, formerly Polygon: https://massive.com/docs/rest (aggregates v2, trades, quotes and reference v3, news v2).

Links to the next page lead to the vendor's own host and are asked on ours. Bars of a day begin at midnight in New York,
bars of a week on Sunday, which we call by its Monday; pairs of crypto and currencies trade on Sundays, so their weeks
are not ours. Ends of aggregates are inclusive and snapped outward. Trades and quotes have nanoseconds: when the
participant says it happened (ts_event), and when the consolidated tape had it (ts_recv), by which windows are cut.
A ticker that nobody knows is answered with no rows: where nothing came, the list of tickers is asked for it. A side of
a quote with price 0 and no size is empty.

Live (`flows.feeds.massive`) are bars of seconds and minutes, trades and quotes of one market. The stream has whole
milliseconds, and of a stock's quote only the time of the tape: with option `tick_times` both halves use that one, so
that they have the same rows; without it live ticks are refused, since history would have each of them again.
"""

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
from urllib.parse import quote

from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import units
from flows.extractors.http import zulu
from flows.extractors.sessions import DATED
from flows.extractors.sessions import NEW_YORK
from flows.extractors.sessions import last_moment
from flows.extractors.sessions import settled
from flows.extractors.websocket import StreamOptions
from flows.extractors.websocket import StreamUrl
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds import massive as streams
from flows.feeds.feed import Feed
from flows.formats.blocks import Rejects
from flows.formats.records import Place
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.frames import Channel
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.limits import Quota
from flows.options import Options
from flows.symbols import nanoseconds
from flows.web import Answer
from flows.web import Call
from flows.web import continued

_RANGES: Final = {
    "ohlcv-1s": "1/second", "ohlcv-1m": "1/minute", "ohlcv-5m": "5/minute", "ohlcv-15m": "15/minute",
    "ohlcv-30m": "30/minute", "ohlcv-1h": "1/hour", "ohlcv-4h": "4/hour", "ohlcv-1d": "1/day", "ohlcv-1w": "1/week",
    "ohlcv-1mo": "1/month",
}  # fmt: skip
_BAR: Final = {
    "ts_event": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "trade_count": "n",
    "vwap": "vw",
}  # fmt: skip
_COLUMNS: Final[Mapping[str, Mapping[str, Place]]] = {
    **dict.fromkeys(_RANGES, _BAR),
    "trades": {
        "ts_event": "participant_timestamp", "ts_recv": "sip_timestamp", "venue": "exchange", "trade_id": "id",
        "sequence": "sequence_number", "price": "price", "size": "size", "conditions": "conditions",
    },
    "quotes": {
        "ts_event": "participant_timestamp", "ts_recv": "sip_timestamp", "sequence": "sequence_number",
        "bid_price": "bid_price", "bid_size": "bid_size", "bid_venue": "bid_exchange", "ask_price": "ask_price",
        "ask_size": "ask_size", "ask_venue": "ask_exchange", "conditions": "conditions",
    },
    "news": {
        "ts_event": "published_utc", "article_id": "id", "title": "title", "summary": "description",
        "publisher": ("publisher", "name"), "author": "author", "url": "article_url", "symbols": "tickers",
    },
    "splits": {
        "ts_event": "execution_date", "kind": "kind", "action_id": "id", "ratio_from": "split_from",
        "ratio_to": "split_to",
    },
    "dividends": {
        "ts_event": "ex_dividend_date", "kind": "kind", "action_id": "id", "amount": "cash_amount",
        "currency": "currency", "frequency": "frequency", "declared": "declaration_date",
        "record_date": "record_date", "payable": "pay_date", "description": "dividend_type",
    },
}  # fmt: skip
#: consistent and special cash, gains of a long and a short term
_DIVIDENDS: Final = {"CD": "dividend", "SC": "dividend", "LT": "capital_gain", "ST": "capital_gain"}
_MARKETS: Final = {"stocks": "equity", "otc": "equity", "crypto": "crypto", "fx": "fx", "indices": "index"}
_DAY: Final = timedelta(days=1)
_TICK: Final = timedelta(microseconds=1)
#: by market; the quote currency of a pair has three letters
_FORMS: Final = {
    "stocks": re.compile(r"[A-Za-z0-9.]+"),
    "crypto": re.compile(r"X:[A-Z0-9]+[A-Z]{3}"),
    "forex": re.compile(r"C:[A-Z]{6}"),
}
#: from Sunday's midnight into Monday, also where the clock changes in between
_MONDAY: Final = 36 * 3_600_000


class MassiveOptions(HttpOptions, StreamOptions):
    """Options of a source of vendor `massive`."""

    base_url: str = Field("https://api.massive.com", description="https://api.polygon.io answers too.")
    adjusted: bool = Field(False, description="Bars adjusted for splits: every split then changes what came before it.")
    delay_minutes: int = Field(
        15, ge=0, le=10_000, description="Minutes left to settle; plans differ in how late they are."
    )
    page_rows: int = Field(
        50_000, ge=1, le=50_000, description="Rows a page; news, splits and dividends have at most 1,000."
    )
    tick_times: Literal["exact", "stream"] = Field(
        "exact",
        description="When trades and quotes happened: as the participant says, to the nanosecond, which no stream does;"
        " or as streams say it, in whole milliseconds, of stocks by the consolidated tape.",
    )
    stream_url: StreamUrl = Field(
        "wss://socket.massive.com",
        description="wss://delayed.massive.com is late: it needs option stream_delay_minutes 15.",
    )
    stream_market: Literal["stocks", "crypto", "forex"] = Field("stocks", description="What is heard live.")


class _Massive(BaseExtractor):
    """What both halves declare."""

    name = "massive"
    label = "Massive (Polygon)"
    doc = "US stocks, options, indices, currencies, crypto: bars, trades, quotes, news, splits, dividends. Needs a key."
    credentials = ("API_KEY",)
    Options: ClassVar[type[Options]] = MassiveOptions
    value_options = ("adjusted", "tick_times")


class MassiveExtractor(_Massive, HttpExtractor):
    """Bars, trades, quotes, news, splits and dividends of Massive."""

    schemas = (*_RANGES, "trades", "quotes", "news", "corporate_actions")
    quotas = (Quota("requests", 5, 60),)
    refusals = (
        ("(?i)unknown api key|api key was not provided", AuthFailed),
        ("NOT_AUTHORIZED|not entitled", NotEntitled),
        ("(?i)exceeded the maximum requests", RateLimited),
        ("(?i)ticker not found", UnknownSymbol),
    )

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.secret('API_KEY')}"}

    def window_column(self, schema: Schema) -> str:
        return "ts_recv" if schema.nanoseconds else schema.time

    def requests(self, job: Job) -> Iterator[Request]:
        yield from super().requests(settled(job, timedelta(minutes=self.options.delay_minutes), NEW_YORK))

    def calls(self, request: Request) -> Iterator[Call]:
        schema = schema_called(request.job.schema)
        rows = self.options.page_rows
        for _, symbol, start, end in asked(request):
            facts = {"symbol": symbol, "kind": schema.name, "rows": 0}
            ticker = quote(symbol, safe="")
            if schema.timeframe:
                params = {"adjusted": str(self.options.adjusted).lower(), "sort": "asc", "limit": str(rows)}
                window = self._range(schema, symbol, start, end)
                yield Call(f"v2/aggs/ticker/{ticker}/range/{_RANGES[schema.name]}/{window}", params, facts)
            elif schema.nanoseconds:
                params = _between("timestamp", str(nanoseconds(start)), str(nanoseconds(end)), rows)
                yield Call(f"v3/{schema.name}/{ticker}", params, facts)
            elif schema.name == "news":
                params = _between("published_utc", zulu(start), zulu(end), min(rows, 1000))
                yield Call("v2/reference/news", {"ticker": symbol, **params}, facts)
            else:
                first, after = start.date().isoformat(), (end - _TICK).date() + _DAY
                for kind, day in (("splits", "execution_date"), ("dividends", "ex_dividend_date")):
                    params = _between(day, first, after.isoformat(), min(rows, 1000))
                    yield Call(f"v3/reference/{kind}", {"ticker": symbol, **params}, {**facts, "kind": kind})

    def judge(self, call: Call, answer: Answer) -> None:
        super().judge(call, answer)
        said = self.json_of(answer)
        if not isinstance(said, dict) or said.get("status", "OK") not in ("OK", "DELAYED"):
            words = str(said)[:300]
            raise self.refuse(words, answer.headers)
        have = len(said.get("results") or ())
        if "/aggs/" in call.path and said.get("resultsCount", have) != have:
            counted = said["resultsCount"]
            raise TransientError(f"{self.web.name}: the answer has {have} of the {counted} rows it speaks of")

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        said = self.json_of(answer)
        results = said.get("results") or ()
        facts = {**call.facts, "rows": call.facts["rows"] + len(results)}
        if link := said.get("next_url"):
            after = replace(continued(call, link, self.options.base_url), facts=facts)
            if after.key == call.key:
                raise PermanentError(f"{self.web.name}: the next page is the same page again ({link})")
            return after
        symbol, kind = call.facts["symbol"], call.facts["kind"]
        if facts["rows"] or kind in ("news", "splits", "dividends") or symbol.startswith("O:"):
            # options have a list of their own, with millions of expired ones
            return None
        if kind != "tickers":
            listed = {"ticker": symbol, "active": "true"}
            return Call("v3/reference/tickers", listed, {**facts, "kind": "tickers", "last": False})
        if call.facts["last"]:
            return None
        return replace(call, params={**call.params, "active": "false"}, facts={**call.facts, "last": True})

    def refused(self, call: Call, answer: Answer) -> Sequence[str]:
        return [call.facts["symbol"]] if _is_unknown(call.facts, self.json_of(answer)) else []

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        symbol, kind = facts["symbol"], facts["kind"]
        said = Answer(page.read()).json()
        results = said.get("results") or []
        if kind == "tickers":
            rejects = Rejects()
            if _is_unknown(facts, said):
                rejects.add(0, "symbol is known", f"Massive lists no ticker {symbol!r}", symbol)
            yield replace(batch(schema, [], Shape({}, Clock()), symbol), rejected=rejects.table())
            return
        clock = Clock("ms", zone=NEW_YORK, timeframe=schema.timeframe)
        columns = dict(_COLUMNS[kind])
        if schema.nanoseconds:
            clock = Clock("ns")
            if symbol.startswith(("X:", "C:")):
                # pairs are on no tape: they are asked by the one time they have
                del columns["ts_recv"]
        elif not schema.timeframe:
            clock = Clock()
        records = [_read(record, kind) if isinstance(record, dict) else record for record in results]
        if schema.nanoseconds and self.options.tick_times == "stream":
            records = [_as_streamed(record) if isinstance(record, dict) else record for record in records]
        yield batch(schema, records, Shape(columns, clock), symbol)

    def discover(self, text: str) -> Iterator[Listing]:
        call: Call | None = Call("v3/reference/tickers", {"search": text, "active": "true", "limit": "1000"})
        while call:
            said = self.ask(call).json()
            for row in said.get("results") or ():
                kind = (
                    "etf" if row.get("type") in ("ETF", "ETV", "ETN", "ETS") else _MARKETS.get(row["market"], "other")
                )
                currency = row.get("currency_symbol") or row.get("currency_name", "")
                yield Listing(
                    row["ticker"], kind, row.get("name", ""), currency=currency.upper(),
                    mic=row.get("primary_exchange", ""), figi=row.get("composite_figi", ""),
                )  # fmt: skip
            link = said.get("next_url")
            call = continued(call, link, self.options.base_url) if link else None

    def check(self) -> list[str]:
        market = self.ask(Call("v1/marketstatus/now")).json()["market"]
        return [f"{self.options.base_url} answers and accepts the key; the market is {market}"]

    def _range(self, schema: Schema, symbol: str, start: datetime, end: datetime) -> str:
        if schema.timeframe not in DATED:
            return f"{units(start)}/{units(end) - 1}"
        if schema.timeframe == "1w" and symbol.startswith(("X:", "C:")):
            raise PermanentError(f"weeks of {symbol!r} begin on Sunday at this vendor: ask for days")
        sunday = _DAY if schema.timeframe == "1w" else timedelta(0)
        first = bar_open(start, schema.timeframe) - sunday
        return f"{first.date()}/{(last_moment(end, schema.timeframe) - sunday).date()}"


class MassiveLive(_Massive, WebSocketExtractor):
    """Bars of seconds and minutes, trades and quotes of one market, as Massive streams them."""

    schemas = ("ohlcv-1s", "ohlcv-1m", "trades", "quotes")
    grain = timedelta(milliseconds=1)

    def __init__(self, source: SourceFacts, context: Context) -> None:
        super().__init__(source, context)
        if self.options.stream_market == "stocks":
            self.numbered = frozenset({"trades", "quotes"})

    def feed(self) -> Feed:
        return streams.feed(self.options.stream_url, self.options.stream_market)

    def objection(self, channel: Channel) -> str:
        market = self.options.stream_market
        if not _FORMS[market].fullmatch(channel.symbol):
            return f"{channel.symbol!r} is no symbol of {market}, the market that option stream_market names"
        if channel.schema in ("trades", "quotes") and self.options.tick_times == "exact":
            return "streams lack the exact times of the source's ticks: it needs option tick_times 'stream'"
        return super().objection(channel)

    def spoken(self, symbol: str) -> str:
        prefix, sign = streams.PAIRS.get(self.options.stream_market, ("", ""))
        return f"{symbol.removeprefix(prefix)[:-3]}{sign}{symbol[-3:]}" if sign else symbol

    def written(self, symbol: str) -> str:
        prefix, sign = streams.PAIRS.get(self.options.stream_market, ("", ""))
        return prefix + symbol.replace(sign, "") if sign else symbol


def _is_unknown(facts: Mapping[str, Any], said: Any) -> bool:
    """Whether an answer proves that nobody knows the ticker: the last of the lists does not have it either."""
    return facts["kind"] == "tickers" and bool(facts["last"]) and not said.get("results")


def _between(column: str, start: str, end: str, rows: int) -> dict[str, str]:
    return {f"{column}.gte": start, f"{column}.lt": end, "order": "asc", "sort": column, "limit": str(rows)}


def _read(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a record as the columns expect it: weeks by a day that is ours, empty sides null, actions with a kind."""
    if kind == "ohlcv-1w" and isinstance(record.get("t"), int):
        return {**record, "t": record["t"] + _MONDAY}
    if kind == "quotes":
        empty = [
            side for side in ("bid", "ask")
            if str(record.get(f"{side}_price")) in ("0", "0.0") and str(record.get(f"{side}_size", 0)) in ("0", "0.0")
        ]  # fmt: skip
        return {**record, **{f"{side}_{what}": None for side in empty for what in ("price", "size")}}
    if kind == "splits":
        return {**record, "kind": "split"}
    if kind == "dividends":
        word = record.get("dividend_type")
        return {**record, "kind": _DIVIDENDS.get(word, word) if isinstance(word, str) else None}
    return record


def _as_streamed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a trade or quote with the time that the stream gives it."""
    time = record.get("sip_timestamp", record.get("participant_timestamp"))
    return {**record, "participant_timestamp": time // 1_000_000 * 1_000_000} if isinstance(time, int) else record
