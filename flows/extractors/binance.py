"""Binance, spot and USDT-margined futures: https://developers.binance.com/docs/binance-spot-api-docs/rest-api.

Klines are named by their open instant and numbers are texts; a kline that is not closed yet is left out because no
window reaches into it. Limits are counted in weights; 429 asks to wait and 418 is a ban, both say for how long.

Live (`flows.feeds.binance`) are klines, trades and books; quotes of futures alone, since those of spot have no time,
and two connections would make two rows of each. Books of spot have none either: like those over REST they are stamped
when they are received, so the same book has a row for each connection that brought it. Connections end after 24 hours.
"""

import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from datetime import timedelta
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

from pydantic import Field
from pydantic import model_validator

from catalog.errors import AuthFailed
from catalog.errors import UnknownSymbol
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import units
from flows.extractors.websocket import StreamOptions
from flows.extractors.websocket import StreamUrl
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds import binance as streams
from flows.feeds.binance import INTERVALS
from flows.feeds.feed import Feed
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.frames import Channel
from flows.job import LATEST
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.limits import Quota
from flows.options import Options
from flows.web import Answer
from flows.web import Call

_KLINE: Final = {"ts_event": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 5, "trade_count": 8}
_AGGREGATED: Final = {"ts_event": "T", "trade_id": "a", "price": "p", "size": "q", "side": "side"}
_SINGLE: Final = {"ts_event": "time", "trade_id": "id", "price": "price", "size": "qty", "side": "side"}
_LEVELS: Final = {
    f"{side}_{what}_{level:02}": (f"{side}s", level, place)
    for level in range(10)
    for side in ("bid", "ask")
    for place, what in enumerate(("price", "size"))
}
#: weight a minute, and of a call; of futures klines the dearest
_WEIGHTS: Final = {"spot": 6000, "usdt-futures": 2400}
_COSTS: Final = {
    "spot": {"depth": 5, "aggTrades": 4, "klines": 2},
    "usdt-futures": {"depth": 2, "aggTrades": 20, "klines": 10},
}
#: startTime and endTime may not lie further apart
_HOUR: Final = timedelta(hours=1)


class BinanceOptions(HttpOptions, StreamOptions):
    """Options of a source of vendor `binance`."""

    base_url: str = Field(
        "https://api.binance.com",
        description="Futures: https://fapi.binance.com; test network: https://testnet.binance.vision; data only:"
        " https://data-api.binance.vision.",
    )
    market: Literal["spot", "usdt-futures"] = Field("spot", description="Which of the two markets.")
    trades: Literal["aggregated", "single"] = Field(
        "aggregated", description="Fills of one order joined (aggTrades), or every fill (needs a key)."
    )
    page_rows: int = Field(1000, ge=1, le=1500, description="Rows a page; 1,000 spot, 1,500 futures klines.")
    since: date = Field(date(2017, 7, 14), description="Nothing before this day is asked.")
    stream_url: StreamUrl = Field(
        "",
        description="Where it streams; empty: wss://stream.binance.com:9443, of futures wss://fstream.binance.com. Test"
        " networks: wss://stream.testnet.binance.vision and wss://fstream.binancefuture.com; data only:"
        " wss://data-stream.binance.vision; US: wss://stream.binance.us:9443.",
    )
    stream_part: Literal["market", "public"] = Field(
        "market",
        description="Futures stream at two addresses, and a source hears one: bars and aggregated trades from market;"
        " quotes, books and single trades from public.",
    )

    @model_validator(mode="after")
    def _rows_fit_the_market(self) -> "BinanceOptions":
        if self.market == "spot" and self.page_rows > 1000:
            raise ValueError("option page_rows: spot gives at most 1,000 rows a page")
        return self


class _Binance(BaseExtractor):
    """What both halves declare."""

    name = "binance"
    label = "Binance"
    doc = "Crypto, spot and USDT futures: bars, trades, snapshots of the order book. Only single trades need a key."
    credentials = ("API_KEY",)
    Options: ClassVar[type[Options]] = BinanceOptions
    value_options = ("market", "trades")


class BinanceExtractor(_Binance, HttpExtractor):
    """Klines, trades and order books of Binance."""

    schemas = (*INTERVALS, "trades", "mbp-10")
    snapshots = frozenset({"mbp-10"})
    refusals = (('"code": ?-1121', UnknownSymbol), ('"code": ?-(2008|2014|2015)', AuthFailed))

    def headers(self) -> Mapping[str, str]:
        if self.options.trades == "single":
            return {"X-MBX-APIKEY": self.secret("API_KEY")}
        return {}

    def limits(self) -> Sequence[Quota]:
        return (Quota("weight", _WEIGHTS[self.options.market], 60),)

    def observe(self, headers: Mapping[str, str]) -> None:
        if (used := headers.get("x-mbx-used-weight-1m", "")).isdigit():
            self.limiter.correct("weight", _WEIGHTS[self.options.market] - int(used))

    def requests(self, job: Job) -> Iterator[Request]:
        if job.schema in self.snapshots:
            # a snapshot is of the moment it is taken, which lies after the window that was planned
            for one in job.instruments:
                yield Request(job, (replace(one, end=LATEST),))
        else:
            yield from super().requests(job)

    def calls(self, request: Request) -> Iterator[Call]:
        for _, symbol, start, end in asked(request):
            about = {"symbol": symbol}
            if request.job.schema in self.snapshots:
                yield Call(self._path("depth"), {**about, "limit": "10"}, about, self._cost("depth"))
                continue
            window = {"startTime": str(units(start)), "limit": str(self.options.page_rows)}
            if request.job.schema == "trades":
                last = min(end, start + _HOUR)
                window["endTime"] = str(units(last) - 1)
                facts = {**about, "end": units(end), "kind": self._kind}
                yield Call(self._path("aggTrades"), {**about, **window}, facts, self._cost("aggTrades"))
            else:
                window["endTime"] = str(units(end) - 1)
                interval = {"interval": INTERVALS[request.job.schema]}
                yield Call(self._path("klines"), {**about, **interval, **window}, about, self._cost("klines"))

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        rows = self.json_of(answer)
        if request.job.schema == "trades":
            return self._next_trades(call, rows)
        if request.job.schema in self.snapshots or not rows:
            return None
        # the next bar opens when the last one closed: 6 is the last millisecond of a bar
        start = int(rows[-1][6]) + 1
        more = start <= int(call.params["endTime"])
        return replace(call, params={**call.params, "startTime": str(start)}) if more else None

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        said = Answer(page.read()).json()
        clock = Clock("ms", timeframe=schema.timeframe)
        if schema.name == "mbp-10":
            record = {**said, "received": facts["received"], "time": said.get("T", facts["received"])}
            unit = Clock("ms") if "T" in said else Clock()
            shape = Shape({"ts_event": "time", "sequence": "lastUpdateId", **_LEVELS}, unit)
            yield batch(schema, [record], shape, facts["symbol"])
        elif schema.name == "trades":
            if facts["kind"] == "seek":
                return
            maker = "m" if facts["kind"] == "aggregated" else "isBuyerMaker"
            rows = [{**row, "side": _side(row.get(maker))} if isinstance(row, dict) else row for row in said]
            columns = _AGGREGATED if facts["kind"] == "aggregated" else _SINGLE
            yield batch(schema, rows, Shape(columns, clock), facts["symbol"])
        else:
            yield batch(schema, said, Shape(_KLINE, clock), facts["symbol"])

    def discover(self, text: str) -> Iterator[Listing]:
        for row in self.ask(Call(self._path("exchangeInfo"), costs={"weight": 20})).json()["symbols"]:
            if row.get("status") == "TRADING" and text.upper() in row["symbol"]:
                pair = f"{row['baseAsset']}/{row['quoteAsset']}"
                yield Listing(row["symbol"], "crypto", pair, currency=row["quoteAsset"])

    def check(self) -> list[str]:
        self.ask(Call(self._path("ping"), costs={"weight": 1}))
        return [f"{self.options.base_url} answers"]

    @property
    def _kind(self) -> str:
        # single trades are asked by number: the aggregated ones tell where a time is
        return "seek" if self.options.trades == "single" else "aggregated"

    def _next_trades(self, call: Call, rows: list[Any]) -> Call | None:
        kind, end = call.facts["kind"], call.facts["end"]
        params = {"symbol": call.params["symbol"], "limit": call.params["limit"]}
        if kind == "seek" and rows:
            facts = {**call.facts, "kind": "single"}
            params["fromId"] = str(rows[0]["f"])
            return Call(self._path("historicalTrades"), params, facts, {"weight": 25})
        if rows:
            last = rows[-1]
            number, time = (last["id"], last["time"]) if kind == "single" else (last["a"], last["T"])
            params["fromId"] = str(number + 1)
            return Call(call.path, params, call.facts, call.costs) if time < end else None
        if "startTime" in call.params and (start := int(call.params["endTime"]) + 1) < end:
            # nothing traded in this hour
            last = min(end, start + _HOUR // timedelta(milliseconds=1)) - 1
            return replace(call, params={**params, "startTime": str(start), "endTime": str(last)})
        return None

    def _cost(self, name: str) -> dict[str, float]:
        return {"weight": _COSTS[self.options.market][name]}

    def _path(self, name: str) -> str:
        return f"api/v3/{name}" if self.options.market == "spot" else f"fapi/v1/{name}"


class BinanceLive(_Binance, WebSocketExtractor):
    """Klines that are closed, trades and order books as Binance streams them."""

    schemas = (*INTERVALS, "trades", "mbp-10", "quotes")
    rotation = timedelta(hours=23)
    grain = timedelta(milliseconds=1)
    numbered = frozenset({"trades", "mbp-10", "quotes"})
    #: an interval in which nothing trades may end without a word, and has a bar all the same
    every_bar = True

    def __init__(self, source: SourceFacts, context: Context) -> None:
        super().__init__(source, context)
        # numbers of single trades of futures are also taken by events that are no trades of the market
        if self.options.market == "spot" or self.options.trades == "aggregated":
            self.consecutive = {"trades": "trade_id"}

    def feed(self) -> Feed:
        options = self.options
        own = "wss://stream.binance.com:9443" if options.market == "spot" else "wss://fstream.binance.com"
        return streams.feed(options.stream_url or own, options.market, options.trades, options.stream_part)

    def objection(self, channel: Channel) -> str:
        if self.options.market == "spot" and channel.schema == "quotes":
            return "Binance gives no time with the quotes of spot: without one they cannot be told apart"
        if channel.schema in self.schemas and channel.schema not in self._feed.events:
            part = streams.part_of(channel.schema, self.options.trades)
            return f"futures stream {channel.schema} elsewhere: it needs a source with option stream_part {part!r}"
        if not re.fullmatch(r"\w+", channel.symbol):
            # one wrong name ends the whole connection
            return f"{channel.symbol!r} is no symbol of Binance; accepted: letters and digits, as BTCUSDT"
        return super().objection(channel)


def _side(buyer_is_maker: Any) -> str | None:
    """Return the side of the aggressor: where the buyer was waiting, a seller came."""
    return {True: "A", False: "B"}.get(buyer_is_maker)
