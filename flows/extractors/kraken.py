"""Kraken, spot: https://docs.kraken.com/api/docs/rest-api/get-ohlc-data and …/get-recent-trades.

Bars are kept for the newest 720 only, the last of them unfinished; trades from the first one on. Weeks begin on
Thursday, so they are no `ohlcv-1w`. Pages of trades are asked by `last`, the time of a trade in nanoseconds: `since` is
exclusive, and what a row says of its time may be rounded. Answers call a pair by another name than it was asked by
(XBTUSD: XXBTZUSD). Every refusal has status 200; a text in `error` that begins with W is a warning.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final

from pydantic import Field

from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import units
from flows.extractors.sessions import settled
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call

#: minutes of a bar, as the vendor is asked for them
_INTERVALS: Final = {
    "ohlcv-1m": 1, "ohlcv-5m": 5, "ohlcv-15m": 15, "ohlcv-30m": 30, "ohlcv-1h": 60, "ohlcv-4h": 240, "ohlcv-1d": 1440,
}  # fmt: skip
_BAR: Final = {"ts_event": 0, "open": 1, "high": 2, "low": 3, "close": 4, "vwap": 5, "volume": 6, "trade_count": 7}
_TRADE: Final = {"price": 0, "size": 1, "ts_event": 2, "side": 3, "conditions": 4, "trade_id": 5}
_SIDES: Final = {"b": "B", "s": "A"}
_KEPT: Final = 720
#: caches answer what was for some seconds, also after a bar's close
_SETTLED: Final = timedelta(minutes=1)
#: more than a trade's time is rounded by: windows are asked for so much longer, and refine cuts them
_ROUNDED: Final = timedelta(milliseconds=1)
_SECOND: Final = timedelta(seconds=1)
_FIAT: Final = frozenset(("AED", "AUD", "CAD", "CHF", "EUR", "GBP", "JPY", "USD"))


class KrakenOptions(HttpOptions):
    """Options of a source of vendor `kraken`."""

    base_url: str = Field("https://api.kraken.com", description="A proxy goes here; the vendor has one host.")
    page_rows: int = Field(1000, ge=1, le=1000, description="Trades a page.")
    since: date = Field(date(2013, 9, 10), description="Nothing before this day is asked.")


class KrakenExtractor(HttpExtractor):
    """Bars and trades of Kraken's spot market."""

    name = "kraken"
    label = "Kraken"
    doc = "Crypto and currencies, spot: every trade since 2013; bars, the newest 720 of each length. No key."
    schemas = (*_INTERVALS, "trades")
    Options = KrakenOptions
    quotas = (Quota("requests", 5, 5),)
    refusals = (
        ("EQuery:Unknown asset pair", UnknownSymbol),
        ("EAPI:Rate limit|EGeneral:Too many requests|EGeneral:Temporary lockout|EService:Throttled", RateLimited),
        ("EService:|EGeneral:Internal error", TransientError),
    )

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job; of bars, what is not kept any more is asked in one piece, which is refused: the rest comes."""
        minutes = _INTERVALS.get(job.schema)
        for one in settled(job, _SETTLED, "UTC").instruments:
            parts = [one]
            if minutes:
                # two bars to spare: the answer comes later than this is said
                kept = _kept(minutes) + 2 * timedelta(minutes=minutes)
                parts = [replace(one, start=max(one.start, kept)), replace(one, end=min(one.end, kept))]
            for part in parts:
                for request in super().requests(replace(job, instruments=(part,))):
                    yield Request(job, request.instruments)

    def calls(self, request: Request) -> Iterator[Call]:
        minutes = _INTERVALS.get(request.job.schema)
        for _, symbol, start, end in asked(request):
            if minutes:
                since = units(start - timedelta(minutes=minutes), _SECOND)
                params = {"pair": symbol, "interval": str(minutes), "since": str(since)}
                yield Call("0/public/OHLC", params, {"symbol": symbol, "start": start.isoformat(), "minutes": minutes})
            else:
                params = {"pair": symbol, "since": _nanoseconds(start - _ROUNDED), "count": str(self.options.page_rows)}
                yield Call("0/public/Trades", params, {"symbol": symbol, "end": _nanoseconds(end + _ROUNDED)})

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        said = self.json_of(answer)["result"]
        rows, last = _rows(said), str(said["last"])
        # a page may be short before the end: only an empty one is the end
        if "end" not in call.facts or not rows or int(last) >= int(call.facts["end"]):
            return None
        return replace(call, params={**call.params, "since": last}, facts={**call.facts, "after": rows[-1][6]})

    def judge(self, call: Call, answer: Answer) -> None:
        """Refuse errors inside an answer, bars that do not reach back, and pages that overlap."""
        said = self.json_of(answer)
        try:
            if errors := [text for text in said["error"] if not text.startswith("W")]:
                raise self.refuse("; ".join(errors), answer.headers)
            rows = _rows(said["result"]) if "symbol" in call.facts else []
            again = "after" in call.facts and call.facts["after"] in [row[6] for row in rows]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            shown = self.shown(answer)
            raise SchemaMismatch(f"{self.web.name}: not an answer as documented: {shown!r}") from error
        if again:
            raise PermanentError(f"{self.web.name}: {call.facts['symbol']}: trade {call.facts['after']} comes twice")
        if "minutes" in call.facts and datetime.fromisoformat(call.facts["start"]) < _kept(call.facts["minutes"]):
            raise PermanentError(
                f"{self.web.name}: {call.facts['symbol']}: only the newest {_KEPT} bars of {call.facts['minutes']} min"
                f" are kept, since {_kept(call.facts['minutes']):%Y-%m-%dT%H:%MZ}, and {call.facts['start']} is asked:"
                " set the series' start or the option since, or collect trades, which are kept from the first one on"
            )

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        schema = schema_called(page.request["schema"])
        rows = _rows(Answer(page.read()).json()["result"])
        columns = _BAR if schema.timeframe else _TRADE
        rows = rows if schema.timeframe else [_trade(row) for row in rows]
        yield batch(schema, rows, Shape(columns, Clock("s", timeframe=schema.timeframe)), page.manifest.facts["symbol"])

    def discover(self, text: str) -> Iterator[Listing]:
        for pair in self.ask(Call("0/public/AssetPairs")).json()["result"].values():
            name = pair.get("wsname", pair["altname"])
            if text.upper() in pair["altname"] or text.upper() in name:
                base, _, quote = name.partition("/")
                yield Listing(pair["altname"], "fx" if {base, quote} <= _FIAT else "crypto", name, currency=quote)

    def check(self) -> list[str]:
        said = self.ask(Call("0/public/Time")).json()["result"]
        return [f"{self.options.base_url} answers; its clock says {said['rfc1123']}"]


def _kept(minutes: int) -> datetime:
    """Return when the oldest bar opens that is kept now."""
    now, step = datetime.now(UTC), timedelta(minutes=minutes)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + ((now - epoch) // step - _KEPT + 1) * step


def _nanoseconds(moment: datetime) -> str:
    return str(units(moment, timedelta(microseconds=1)) * 1000)


def _rows(result: dict[str, Any]) -> list[Any]:
    """Return the rows of the one pair in an answer, whatever it is called there."""
    (rows,) = [found for name, found in result.items() if name != "last"]
    if not isinstance(rows, list):
        raise TypeError(f"rows are {type(rows).__name__}")
    return rows


def _trade(row: Any) -> Any:
    """Return a trade with our side, and its order type and remarks as one; what is no trade stays for refine."""
    if not isinstance(row, list) or len(row) < 6:
        return row
    return [*row[:3], _SIDES.get(str(row[3]), row[3]), [word for word in row[4:6] if word], *row[6:]]
