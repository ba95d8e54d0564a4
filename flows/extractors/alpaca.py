"""Alpaca's market data: https://docs.alpaca.markets/reference/stockbars (stocks v2, crypto v1beta3, news, actions).

Several symbols are asked at once; a page holds rows of some of them, keyed by symbol, and may hold none and still have
a next one. `end` is inclusive, to the nanosecond. Days, weeks and months are stamped with midnight in New York (stocks)
or Chicago (crypto). A symbol that nobody knows is left out without a word: those of which nothing came are asked again
in one call for their latest trade. News is cut by when it was updated, corporate actions by when they are processed.
A price of 0 in a quote means that nobody bids or offers. Sizes of stock quotes are as sent: round lots in the past.

Live (`flows.feeds.alpaca`) are trades, quotes and minute bars with their revisions; days are not, since none says that
it is final. A key has one connection to a feed: a source hears all of its series over one.
"""

import json
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

import pyarrow as pa
from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import UnknownSymbol
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseExtractor
from flows.extractors.base import Batch
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import zulu
from flows.extractors.sessions import NEW_YORK
from flows.extractors.sessions import last_moment
from flows.extractors.sessions import settled
from flows.extractors.websocket import StreamOptions
from flows.extractors.websocket import StreamUrl
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds import alpaca as streams
from flows.feeds.feed import Feed
from flows.formats.blocks import Rejects
from flows.formats.records import Place
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.records import column
from flows.formats.records import values
from flows.formats.times import Clock
from flows.formats.times import read_times
from flows.frames import Channel
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.options import Options
from flows.web import Answer
from flows.web import Call

_TIMEFRAMES: Final = {
    "ohlcv-1m": "1Min", "ohlcv-5m": "5Min", "ohlcv-15m": "15Min", "ohlcv-30m": "30Min", "ohlcv-1h": "1Hour",
    "ohlcv-4h": "4Hour", "ohlcv-1d": "1Day", "ohlcv-1w": "1Week", "ohlcv-1mo": "1Month",
}  # fmt: skip
_KINDS: Final = {**dict.fromkeys(_TIMEFRAMES, "bars"), "trades": "trades", "quotes": "quotes"}
_COLUMNS: Final[Mapping[str, Mapping[str, Place]]] = {
    "bars": {
        "ts_event": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "trade_count": "n",
        "vwap": "vw",
    },
    "trades": {
        "ts_event": "t", "venue": "x", "trade_id": "i", "price": "p", "size": "s", "side": "side", "conditions": "c",
    },
    "quotes": {
        "ts_event": "t", "bid_price": "bp", "bid_size": "bs", "bid_venue": "bx", "ask_price": "ap", "ask_size": "as",
        "ask_venue": "ax", "conditions": "c",
    },
    "news": {
        "ts_event": "created_at", "article_id": "id", "title": "headline", "summary": "summary", "publisher": "source",
        "author": "author", "url": "url", "symbols": "symbols",
    },
    "corporate_actions": {
        "ts_event": "when", "kind": "kind", "action_id": "id", "ratio_from": "from", "ratio_to": "to",
        "amount": "amount", "record_date": "record_date", "payable": "payable_date", "description": "words",
    },
}  # fmt: skip
#: by what the vendor cuts windows where that is no column of ours
_CUT_BY: Final = {"news": "updated_at", "corporate_actions": "process_date"}
#: the vendor's list → our kind, and where ratio and amount are; other lists keep the vendor's word
_ACTIONS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "forward_splits": ("split", "old_rate", "new_rate", ""),
    "reverse_splits": ("split", "old_rate", "new_rate", ""),
    "unit_splits": ("unit_split", "old_rate", "new_rate", ""),
    "cash_dividends": ("dividend", "", "", "rate"),
    "spin_offs": ("spin_off", "source_rate", "new_rate", ""),
    "cash_mergers": ("merger", "", "", "rate"),
    "stock_mergers": ("merger", "acquiree_rate", "acquirer_rate", ""),
    "stock_and_cash_mergers": ("merger", "acquiree_rate", "acquirer_rate", "cash_rate"),
    "redemptions": ("redemption", "", "", "rate"),
}
_PARTIES: Final = ("symbol", "old_symbol", "source_symbol", "acquiree_symbol", "acquirer_symbol", "new_symbol")
_ROWS_OF: Final = {"news": 50, "corporate_actions": 1000}
# one symbol of another form, or of the other market, would have the whole call refused
_PLAIN: Final = {"stocks": re.compile(r"[A-Z0-9.]+"), "crypto": re.compile(r"[A-Z0-9]+/[A-Z0-9]+")}


class AlpacaOptions(HttpOptions, StreamOptions):
    """Options of a source of vendor `alpaca`."""

    base_url: str = Field("https://data.alpaca.markets", description="Sandbox: https://data.sandbox.alpaca.markets.")
    market: Literal["stocks", "crypto"] = Field("stocks", description="Crypto symbols are pairs such as BTC/USD.")
    feed: Literal["sip", "iex", "otc", "boats"] = Field("sip", description="All US exchanges, or only one of them.")
    adjustment: Literal["raw", "split", "dividend", "all"] = Field("raw", description="What bars are adjusted for.")
    asof: str = Field(
        "", pattern=r"^(|-|\d{4}-\d\d-\d\d)$",
        description="Day whose symbols are meant; empty: today; -: symbols as they were at the time.",
    )  # fmt: skip
    delay_minutes: int = Field(
        15, ge=0, le=10_000, description="Minutes that are left to settle; free plans are refused the last 15 of sip."
    )
    page_rows: int = Field(10_000, ge=1, le=10_000, description="Rows a page; news 50 and corporate actions 1,000.")
    since: date = Field(date(2016, 1, 1), description="Nothing before this day is asked.")
    stream_url: StreamUrl = Field(
        "wss://stream.data.alpaca.markets", description="Sandbox: wss://stream.data.sandbox.alpaca.markets."
    )
    stream_delay_minutes: Literal[0, 15] = Field(0, description="15: stream sip late, for plans that have no other.")


class _Alpaca(BaseExtractor):
    """What both halves declare."""

    name = "alpaca"
    label = "Alpaca"
    doc = "US stocks and crypto: bars, trades, quotes, news, corporate actions. Needs a key, free for delayed data."
    credentials = ("API_KEY_ID", "API_SECRET_KEY")
    Options: ClassVar[type[Options]] = AlpacaOptions
    value_options = ("market", "feed", "adjustment", "asof")


class AlpacaExtractor(_Alpaca, HttpExtractor):
    """Bars, trades, quotes, news and corporate actions of Alpaca."""

    schemas = (*_KINDS, "news", "corporate_actions")
    quotas = (Quota("requests", 200, 60),)
    at_once = 100
    refusals = (
        ("subscription does not permit|not (authorized|entitled) to", NotEntitled),
        (r'"message": ?"(forbidden|unauthorized|request is not authorized)', AuthFailed),
        ("(?i)invalid symbol", UnknownSymbol),
    )

    def headers(self) -> Mapping[str, str]:
        return {"APCA-API-KEY-ID": self.secret("API_KEY_ID"), "APCA-API-SECRET-KEY": self.secret("API_SECRET_KEY")}

    def observe(self, headers: Mapping[str, str]) -> None:
        if (left := headers.get("x-ratelimit-remaining", "")).isdigit():
            self.limiter.correct("requests", int(left))

    def window_column(self, schema: Schema) -> str:
        return _CUT_BY.get(schema.name, schema.time)

    def requests(self, job: Job) -> Iterator[Request]:
        job = settled(job, timedelta(minutes=self.options.delay_minutes), self._zone)
        plain = _PLAIN[self.options.market]
        together: list[InstrumentFacts] = []
        for one in job.instruments:
            if all(plain.fullmatch(name.symbol) for name in one.symbols):
                together.append(one)
            else:
                yield from super().requests(replace(job, instruments=(one,)))
        yield from super().requests(replace(job, instruments=tuple(together)))

    def calls(self, request: Request) -> Iterator[Call]:
        schema = schema_called(request.job.schema)
        windows: dict[tuple[datetime, datetime], list[str]] = {}
        for _, symbol, start, end in asked(request):
            windows.setdefault((start, end), []).append(symbol)
        for (start, end), symbols in windows.items():
            last = last_moment(end, schema.timeframe)
            rows = min(self.options.page_rows, _ROWS_OF.get(schema.name, self.options.page_rows))
            params = {"symbols": ",".join(symbols), "limit": str(rows), "sort": "asc"}
            if schema.name == "corporate_actions":
                window = {"start": start.date().isoformat(), "end": last.date().isoformat()}
            else:
                # the last nanosecond of that microsecond
                window = {"start": zulu(start), "end": f"{last:%Y-%m-%dT%H:%M:%S.%f}999Z"}
            if schema.name in _KINDS and self.options.market == "stocks":
                params["feed"] = self.options.feed
                params.update({"asof": self.options.asof} if self.options.asof else {})
            if schema.timeframe:
                params["timeframe"] = _TIMEFRAMES[schema.name]
                params.update({"adjustment": self.options.adjustment} if self.options.market == "stocks" else {})
            yield Call(self._path(schema.name), {**params, **window}, {"symbols": symbols, "silent": symbols})

    def judge(self, call: Call, answer: Answer) -> None:
        super().judge(call, answer)
        said = self.json_of(answer)
        kind = call.path.removesuffix("/latest").rpartition("/")[2].replace("-", "_")
        if call.facts and (not isinstance(said, dict) or kind not in said):
            raise self.refuse(f"an answer without {kind}: {str(said)[:200]}", answer.headers)

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        said = self.json_of(answer)
        kind = _KINDS.get(request.job.schema)
        if "latest" in call.path:
            return None
        rows = (said.get(kind) if kind else None) or {}
        facts = {**call.facts, "silent": [name for name in call.facts["silent"] if not rows.get(name)]}
        if token := said.get("next_page_token"):
            if token == call.params.get("page_token"):
                raise PermanentError(f"{self.web.name}: the next page is the same page again ({token})")
            return replace(call, params={**call.params, "page_token": token}, facts=facts)
        if not kind or not facts["silent"]:
            return None
        # not even free plans are refused the latest trade of 15 minutes ago
        feed = {"sip": "delayed_sip"}.get(self.options.feed, self.options.feed)
        params = {"symbols": ",".join(facts["silent"])}
        params.update({"feed": feed} if self.options.market == "stocks" else {})
        return Call(self._path("latest"), params, {**facts, "kind": "latest"})

    def refused(self, call: Call, answer: Answer) -> Sequence[str]:
        return list(_unknown(call.facts, self.json_of(answer)).values())

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        said = Answer(page.read()).json()
        if facts.get("kind") == "latest":
            rejects = Rejects()
            for row, symbol in _unknown(facts, said).items():
                rejects.add(row, "symbol is known", f"Alpaca has no trade of {symbol!r}, ever", symbol)
            yield Batch(schema.name, _NO_ROWS, rejects.table())
        elif schema.name in _CUT_BY:
            read = _articles if schema.name == "news" else _actions
            pairs = list(read(said.get(schema.name) or {}, facts["symbols"]))
            records, symbols = [record for record, _ in pairs], [symbol for _, symbol in pairs]
            found = batch(schema, records, Shape(_COLUMNS[schema.name], Clock()), symbols)
            rows = found.table[ROW].to_pylist()
            times = column(values([records[row] for row in rows], _CUT_BY[schema.name]))
            cut_by = read_times(times, Clock()).values
            yield replace(found, table=found.table.append_column(_CUT_BY[schema.name], cut_by))
        else:
            first = 0
            for symbol, records in (said.get(_KINDS[schema.name]) or {}).items():
                yield from self._keyed(schema, symbol, records or [], first)
                first += len(records or [])

    def check(self) -> list[str]:
        self.ask(Call("v2/stocks/meta/exchanges"))
        return [f"{self.options.base_url} answers and accepts the key"]

    @property
    def _zone(self) -> str:
        return NEW_YORK if self.options.market == "stocks" else "America/Chicago"

    def _path(self, name: str) -> str:
        if name in _ROWS_OF:
            return "v1beta1/news" if name == "news" else "v1/corporate-actions"
        kind = _KINDS.get(name)
        if self.options.market == "crypto":
            return f"v1beta3/crypto/us/{kind or 'latest/trades'}"
        return f"v2/stocks/{kind or 'trades/latest'}"

    def _keyed(self, schema: Schema, symbol: str, records: Sequence[Any], first: int) -> Iterator[Batch]:
        kind = _KINDS[schema.name]
        shape = Shape(_COLUMNS[kind], Clock(zone=self._zone, timeframe=schema.timeframe))
        if kind != "bars":
            records = [_tick(record) if isinstance(record, dict) else record for record in records]
        if _all_exact(records):
            yield batch(schema, records, shape, symbol, first)
        else:
            # among times that cannot be read the others would lose their nanoseconds: each alone
            for position, record in enumerate(records, first):
                yield batch(schema, [record], shape, symbol, position)


class AlpacaLive(_Alpaca, WebSocketExtractor):
    """Trades, quotes and minute bars as Alpaca streams them."""

    schemas = ("trades", "quotes", "ohlcv-1m")
    numbered = frozenset({"trades"})

    def feed(self) -> Feed:
        return streams.feed(f"{self.options.stream_url}/{self._way}", _COLUMNS)

    def objection(self, channel: Channel) -> str:
        if not _PLAIN[self.options.market].fullmatch(channel.symbol):
            return f"{channel.symbol!r} is no symbol of the source's market, {self.options.market}"
        return super().objection(channel)

    @property
    def _way(self) -> str:
        options = self.options
        if options.market == "crypto":
            return "v1beta3/crypto/us"
        if options.feed == "boats":
            return "v1beta1/boats"
        return "v2/delayed_sip" if options.stream_delay_minutes and options.feed == "sip" else f"v2/{options.feed}"


_NO_ROWS: Final = pa.table({"symbol": pa.array([], pa.string()), ROW: pa.array([], pa.int64())})


def _unknown(facts: Mapping[str, Any], said: Any) -> dict[int, str]:
    """Return the symbols of which not even a latest trade is known, by their place in the call that asked for it."""
    if facts.get("kind") != "latest":
        return {}
    trades = said.get("trades") or {}
    return {place: symbol for place, symbol in enumerate(facts["silent"]) if not trades.get(symbol)}


def _tick(record: dict[str, Any]) -> dict[str, Any]:
    """Return a trade with the aggressor's side where there is one, a quote with nulls where a side is empty."""
    if "p" in record:
        return {**record, "side": {"B": "B", "S": "A"}.get(record.get("tks", ""))}
    empty = [side for side in "ab" if str(record.get(f"{side}p")) in ("0", "0.0")]
    return {**record, **{f"{side}{what}": None for side in empty for what in "ps"}}


def _all_exact(records: Sequence[Any]) -> bool:
    try:
        times = pa.array([record["t"] for record in records], pa.string())
        times.cast(pa.timestamp("ns", "UTC"))
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, TypeError):
        return False
    return True


def _articles(said: Any, asked_for: Sequence[str]) -> Iterator[tuple[Any, str | None]]:
    """Yield each article for each of its symbols that was asked; for its own first where none was."""
    for article in said:
        named = article.get("symbols") or [] if isinstance(article, dict) else []
        for symbol in [symbol for symbol in asked_for if symbol in named] or named[:1] or [None]:
            yield article, symbol


def _actions(said: Any, asked_for: Sequence[str]) -> Iterator[tuple[Any, str | None]]:
    """Yield each action for each of its parties that was asked; `when` is the first of its dates that counts."""
    for name, actions in said.items():
        kind, old, new, amount = _ACTIONS.get(name, (name.removesuffix("s"), "", "", ""))
        for action in actions:
            if not isinstance(action, dict):
                yield action, None
                continue
            when = action.get("ex_date") or action.get("effective_date") or action.get("process_date")
            places = {"from": old, "to": new, "amount": amount}
            found = {column: action.get(place) for column, place in places.items() if place}
            about = {"when": when, "kind": kind, "words": f"{name}: {json.dumps(action, ensure_ascii=False)}"}
            parties = [action[party] for party in _PARTIES if action.get(party)]
            for symbol in [symbol for symbol in asked_for if symbol in parties] or parties[:1] or [None]:
                yield {**action, **found, **about}, symbol
