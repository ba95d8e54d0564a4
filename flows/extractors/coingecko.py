"""CoinGecko: https://docs.coingecko.com/reference (hosts api.coingecko.com and pro-api.coingecko.com).

The length of a range decides how far its points lie apart, so windows are cut, or begun earlier (where a plan does not
reach back so far: ended later), to get the distance the option asks for; what comes outside the window is dropped and
counted, and an answer with another distance is refused. The last point of an answer that reaches the present is "now":
off the grid, and another one a minute later. Where it is sent it lands, but windows end at the last point that no cache
can change any more: like everything outside its window it is counted as filtered, never delivered, and the settled
point of that time comes with the next window. Bars are named by their close.
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from itertools import pairwise
from statistics import median
from typing import Any
from typing import Final
from typing import Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pydantic import model_validator

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import UnknownSymbol
from catalog.schemas import ROW
from catalog.schemas import TIMEFRAMES
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import units
from flows.formats.blocks import Rejects
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call

_HOSTS: Final = {
    "public": "https://api.coingecko.com/api/v3",
    "demo": "https://api.coingecko.com/api/v3",
    "pro": "https://pro-api.coingecko.com/api/v3",
}
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_STEPS: Final = {"5m": timedelta(minutes=5), "hourly": timedelta(hours=1), "daily": _DAY}
#: ranges shorter than this have points that lie closer together, longer than that further apart
_RANGES: Final = {"hourly": (timedelta(days=2), timedelta(days=90)), "daily": (timedelta(days=91), None)}
#: how long a cache may still answer what was before: 30 s, 30 min, until 00:40 UTC; 15 min for bars
_SETTLED: Final = {"5m": timedelta(minutes=1), "hourly": timedelta(minutes=31), "daily": timedelta(minutes=41)}
_BARS_SETTLED: Final = timedelta(minutes=16)
#: days back from now, in which bars (and points) of these lengths are given
_BACK: Final = {"5m": 1, "ohlcv-30m": 1, "ohlcv-4h": 30}
#: interval of ohlc/range, and what one call may span
_INTERVALS: Final = {"ohlcv-1h": ("hourly", timedelta(days=31)), "ohlcv-1d": ("daily", timedelta(days=180))}
#: before this there are no bars of hours and days; the vendor's first day
_FIRST_BARS: Final = datetime(2018, 2, 9, tzinfo=UTC)
#: days back that plans without charge may ask
_PUBLIC: Final = 365
_ARRAYS: Final = {"price": "prices", "market_cap": "market_caps", "volume_24h": "total_volumes"}
_BAR: Final = {"ts_event": 0, "open": 1, "high": 2, "low": 3, "close": 4}


class CoinGeckoOptions(HttpOptions):
    """Options of a source of vendor `coingecko`."""

    plan: Literal["public", "demo", "pro"] = Field(
        "demo", description="public: no key, few calls; demo: free key; pro: every paid plan."
    )
    base_url: str = Field("", description="Where the vendor answers; empty: the host of the plan.")
    vs_currency: str = Field("usd", description="Currency of prices and values, as in /simple/supported_vs_currencies.")
    granularity: Literal["5m", "hourly", "daily"] = Field(
        "hourly", description="Distance of market_cap points; 5m: only of the last day; demo: only of the last year."
    )
    since: date = Field(date(2013, 4, 28), description="Nothing before this day is asked.")

    @model_validator(mode="before")
    @classmethod
    def _has_a_host(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("base_url"):
            return {**values, "base_url": _HOSTS.get(values.get("plan", "demo"), _HOSTS["demo"])}
        return values


class CoinGeckoExtractor(HttpExtractor):
    """Market values and bars of CoinGecko, a mean over many venues."""

    name = "coingecko"
    label = "CoinGecko"
    doc = (
        "Crypto: price, market value and 24-hour volume of thousands of coins; bars without volume, of 30 minutes for"
        " the last day, of 4 hours for the last 30 days; with plan pro of hours and days since 2018."
    )
    credentials = ("API_KEY",)
    schemas = ("market_cap", "ohlcv-30m", "ohlcv-1h", "ohlcv-4h", "ohlcv-1d")
    Options = CoinGeckoOptions
    value_options = ("vs_currency", "granularity")
    quotas = (Quota("requests", 30, 60),)
    refusals = (
        (r'"error_code": ?(10005|10006|10012)\b', NotEntitled),
        (r'"error_code": ?(10002|10010|10011)\b', AuthFailed),
        (r'"error_code": ?429\b', RateLimited),
        ("(?i)(coin|coin_id) not found", UnknownSymbol),
        ("(?i)invalid vs_currency", ConfigError),
    )

    def headers(self) -> Mapping[str, str]:
        plan = self.options.plan
        return {} if plan == "public" else {f"x-cg-{plan}-api-key": self.secret("API_KEY")}

    def span(self, schema: Schema) -> timedelta | None:
        if schema.name in _INTERVALS:
            return _INTERVALS[schema.name][1]
        return _RANGES.get(self._kind(schema), (None, None))[1]

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job; nothing is asked that a cache may still change, and what is out of reach is asked in one piece."""
        schema = schema_called(job.schema)
        step, now = self._step(schema), datetime.now(UTC)
        settled = _floor(now - _SETTLED.get(self._kind(schema), _BARS_SETTLED), step)
        first = datetime.combine(self.options.since, datetime.min.time(), UTC)
        oldest = max(first, _FIRST_BARS) if schema.name in _INTERVALS else first
        back = _BACK.get(self._kind(schema), _PUBLIC if schema.name == "market_cap" and self._limited else None)
        if back:
            oldest = max(first, _reach(now, back, step))
        near = tuple(replace(one, start=max(one.start, oldest), end=min(one.end, settled)) for one in job.instruments)
        for request in super().requests(replace(job, instruments=near)):
            yield Request(job, request.instruments)
        for one in job.instruments if back else ():
            far = replace(one, start=max(one.start, first), end=min(one.end, oldest))
            if far.start < far.end:
                yield Request(job, (far,))

    def calls(self, request: Request) -> Iterator[Call]:
        schema = schema_called(request.job.schema)
        kind, step = self._kind(schema), self._step(schema)
        for _, symbol, start, end in asked(request):
            path = f"coins/{quote(symbol, safe='')}/"
            params = {"vs_currency": self.options.vs_currency}
            facts = {
                "symbol": symbol, "currency": self.options.vs_currency, "kind": kind, "seconds": step // _SECOND,
                "start": units(start), "end": units(end),
            }  # fmt: skip
            if kind in _BACK:
                path += "market_chart" if kind == "5m" else "ohlc"
                params |= {"days": str(_BACK[kind]), "precision": "full"}
            elif kind in _RANGES:
                path += "market_chart/range"
                shortest, reach = _RANGES[kind][0], _reach(datetime.now(UTC), _PUBLIC, step)
                if self._limited and end - shortest < reach:
                    # what is begun earlier would be refused: it ends later, at most half a year ago
                    low, high = start, max(end, start + shortest)
                else:
                    low, high = min(start, end - shortest), end
                # a point may lie inside the last second
                params |= {"from": _seconds(low), "precision": "full", "to": str(units(high, _SECOND))}
            else:
                path += "ohlc/range"
                # bars are named by their close: those that open in [start, end) close in [start + step, end + step)
                params |= {"from": _seconds(start + step), "to": str((units(end + step) - 1) // 1000)}
                params["interval"] = _INTERVALS[kind][0]
            yield Call(path, params, facts)

    def judge(self, call: Call, answer: Answer) -> None:
        """Refuse errors inside an answer, points at another distance than asked, and what does not reach back."""
        said = self.json_of(answer)
        if isinstance(said, dict) and ("error" in said or "status" in said):
            raise self.refuse(answer.content[:300].decode("utf-8", "replace"), answer.headers)
        if "kind" not in call.facts:
            return
        try:
            times = _times(said)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            shown = self.shown(answer)
            raise SchemaMismatch(f"{self.web.name}: no list of points or bars: {shown!r}") from error
        wanted = call.facts["seconds"] * 1000
        if len(times) > 3:
            distance = median(late - early for early, late in pairwise(times))
            if not wanted / 2 < distance < wanted * 2:
                raise PermanentError(
                    f"{self.web.name}: {call.facts['symbol']}: asked for {call.facts['kind']}, one every"
                    f" {wanted // 1000} s, but they come one every {distance / 1000:g} s: the plan gives no others here"
                )
        back = _BACK.get(call.facts["kind"], 0) * 86_400_000
        first = times[0] - (0 if isinstance(said, dict) else wanted) if times else 0
        # an answer of the full length was cut by the vendor, a shorter one is all there is
        if back and first >= call.facts["start"] + wanted and times[-1] - first >= back - 2 * wanted:
            raise PermanentError(
                f"{self.web.name}: {call.facts['symbol']}: {call.facts['kind']} is given for {back // 86_400_000} days"
                f" back from now only, and this asks for more: set the series' start or the option since"
            )

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        said = Answer(page.read()).json()
        if schema.name == "market_cap":
            yield _points(schema, said, facts)
            return
        clock = Clock("ms", label="close", timeframe=schema.timeframe)
        if schema.timeframe == "1d":
            # the close of a day is the date of the next one: the millisecond before it is still inside
            said = [[_before(bar[0]), *bar[1:]] if isinstance(bar, list) and bar else bar for bar in said]
        yield batch(schema, said, Shape(_BAR, clock), facts["symbol"])

    def discover(self, text: str) -> Iterator[Listing]:
        wanted = text.lower()
        for coin in self.ask(Call("coins/list")).json():
            if any(wanted in coin[name].lower() for name in ("id", "symbol", "name")):
                yield Listing(coin["id"], "crypto", f"{coin['name']} ({coin['symbol'].upper()})")

    def check(self) -> list[str]:
        self.ask(Call("ping"))
        return [f"{self.options.base_url} answers to plan {self.options.plan}"]

    @property
    def _limited(self) -> bool:
        return bool(self.options.plan != "pro")

    def _kind(self, schema: Schema) -> str:
        return str(self.options.granularity) if schema.name == "market_cap" else schema.name

    def _step(self, schema: Schema) -> timedelta:
        if schema.name == "market_cap":
            return _STEPS[self.options.granularity]
        return timedelta(seconds=TIMEFRAMES[schema.timeframe] or 0)


def _points(schema: Schema, said: Any, facts: Mapping[str, Any]) -> Batch:
    """Join the three arrays by time; a time that one of them does not have is null there."""
    points: dict[tuple[Any, int], dict[str, Any]] = {}
    for column, array in _ARRAYS.items():
        seen = Counter[Any]()
        for pair in said[array]:
            time, value = pair
            # the same time twice in one array stays two rows, of which refine says what is wrong
            points.setdefault((time, seen[time]), {"time": time})[column] = value
            seen[time] += 1
    columns = {"ts_event": "time", **{column: column for column in _ARRAYS}}
    shape = Shape(columns, Clock("ms"), {"currency": facts["currency"]})
    made = batch(schema, list(points.values()), shape, facts["symbol"])
    rejects = Rejects()
    for row, point in enumerate(points.values()):
        time = point["time"]
        inside = isinstance(time, int) and facts["start"] <= time < facts["end"]
        if facts["kind"] == "daily" and inside and time % 86_400_000:
            # "now" of an old answer; one that is newer than the window is filtered with all that is outside
            rejects.add(row, "point lies on the daily grid", f"{time} ms", str(point))
    if not rejects.rows:
        return made
    kept = pc.invert(pc.is_in(made.table[ROW], value_set=pa.array(rejects.rows, pa.int64())))
    return replace(made, table=made.table.filter(kept), rejected=pa.concat_tables([made.rejected, rejects.table()]))


def _times(said: Any) -> list[int]:
    """Return the times of an answer in ms, in order."""
    found = said["prices"] if isinstance(said, dict) else said
    return sorted(int(float(entry[0])) for entry in found)


def _before(time: Any) -> Any:
    return time - 1 if isinstance(time, int) else time


def _reach(now: datetime, days: int, step: timedelta) -> datetime:
    """Return how far back is asked where so many days are given: a step is spared, for the answer comes later."""
    return _floor(now - days * _DAY, step) + 2 * step


def _floor(moment: datetime, step: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // step * step


def _seconds(moment: datetime) -> str:
    return str(units(moment) // 1000)
