"""What is asked of //blp/refdata: windows and symbols of instruments, cut into Bloomberg's requests. Pure.

Windows are `[start, end)` in UTC. A HistoricalDataRequest names dates, both inclusive: the date of a daily bar is its
label at 00:00Z, so a date is asked when that instant lies in the window. Weeks and months are asked whole, and only
once they are over: their stamp is the last day of the calendar period (periodicityAdjustment CALENDAR), their label
is its first. Intraday requests name instants in UTC.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final

from catalog.errors import PermanentError
from flows.job import InstrumentFacts

HISTORICAL: Final = "HistoricalDataRequest"
BARS: Final = "IntradayBarRequest"
TICKS: Final = "IntradayTickRequest"
REFERENCE: Final = "ReferenceDataRequest"

#: schema → periodicitySelection, and how the date of a period is stamped
PERIODS: Final = {
    "ohlcv-1d": ("DAILY", "ACTUAL"),
    "ohlcv-1w": ("WEEKLY", "CALENDAR"),
    "ohlcv-1mo": ("MONTHLY", "CALENDAR"),
}
#: schema → interval in minutes
MINUTES: Final = {
    "ohlcv-1m": 1,
    "ohlcv-5m": 5,
    "ohlcv-15m": 15,
    "ohlcv-30m": 30,
    "ohlcv-1h": 60,
    "ohlcv-4h": 240,
}
SCHEMAS: Final = (*MINUTES, *PERIODS, "trades", "fundamentals")
#: nothing older is served
FIRST_DATE: Final = datetime(1900, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options of a source say about its requests; see their descriptions."""

    bar_fields: Mapping[str, str]
    fields: Sequence[str] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    currency: str = ""
    event_type: str = "TRADE"
    adjust: Mapping[str, bool] = field(default_factory=dict)
    securities: int = 100
    bar_days: int = 60
    tick_days: int = 1
    intraday_days: int = 210


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the operation, the securities, and all other elements as JSON has them (times in ISO form)."""

    operation: str
    securities: tuple[str, ...]
    rest: dict[str, Any]

    @property
    def elements(self) -> dict[str, Any]:
        """The request as blpapi takes it: one security or a list of them, times as aware datetimes."""
        named: dict[str, Any] = (
            {"security": self.securities[0]}
            if self.operation in (BARS, TICKS)
            else {"securities": list(self.securities)}
        )
        times = {
            name: datetime.fromisoformat(self.rest[name])
            for name in ("startDateTime", "endDateTime")
            if name in self.rest
        }
        return named | self.rest | times


def windows(
    schema: str, instruments: Sequence[InstrumentFacts], wishes: Wishes, now: datetime
) -> Iterator[tuple[InstrumentFacts, ...]]:
    """Yield the instruments of each fetch, with windows cut to what Bloomberg has and what is over at `now`.

    Bars and figures: up to `wishes.securities` instruments with the same window; intraday: one instrument and a
    limited number of days, cut on a fixed grid, so that a fetch that was stopped is found again.
    """
    ready = finished(schema, now)
    if schema in PERIODS or schema == "fundamentals":
        same: dict[tuple[datetime, datetime], list[InstrumentFacts]] = {}
        for instrument in instruments:
            start, end = max(instrument.start, FIRST_DATE), min(instrument.end, ready)
            if schema == "fundamentals":
                # only today's figures can be asked, and they are the whole day's
                today = ready - _DAY
                start, end = (today, ready) if start <= today < instrument.end else (ready, ready)
            if start < end:
                same.setdefault((start, end), []).append(replace(instrument, start=start, end=end))
        for group in same.values():
            for first in range(0, len(group), wishes.securities):
                yield tuple(group[first : first + wishes.securities])
        return
    days = wishes.tick_days if schema == "trades" else wishes.bar_days
    oldest = _midnight(now) - wishes.intraday_days * _DAY
    for instrument in instruments:
        start, end = max(instrument.start, oldest), min(instrument.end, ready)
        while start < end:
            grid = _EPOCH + ((start - _EPOCH) // (days * _DAY) + 1) * days * _DAY
            yield (replace(instrument, start=start, end=min(grid, end)),)
            start = grid


def finished(schema: str, now: datetime) -> datetime:
    """Return the instant before which every record of the schema is over at `now` (an open bar is no fact yet).

    Figures of companies are those of today: the end of the day.
    """
    midnight = _midnight(now)
    if schema == "fundamentals":
        return midnight + _DAY
    if schema in PERIODS:
        return _utc(label(schema, midnight.date()))
    if schema in MINUTES:
        step = timedelta(minutes=MINUTES[schema])
        return _EPOCH + (now - _EPOCH) // step * step
    return now


def asks(schema: str, instruments: Sequence[InstrumentFacts], wishes: Wishes, now: datetime) -> Iterator[Ask]:
    """Yield the requests for some instruments' windows, each symbol for the time it is valid.

    Figures are those of today: PermanentError where the window holds another day's.
    """
    spans: dict[tuple[datetime, datetime], list[str]] = {}
    for instrument in instruments:
        for symbol in instrument.symbols:
            start, end = max(instrument.start, symbol.start), min(instrument.end, symbol.end)
            if start < end:
                spans.setdefault((start, end), []).append(symbol.symbol)
    for (start, end), symbols in spans.items():
        rest = _rest(schema, start, end, wishes, now)
        if rest is None:
            continue
        operation, elements = rest
        size = 1 if operation in (BARS, TICKS) else wishes.securities
        several = tuple(dict.fromkeys(symbols))
        for first in range(0, len(several), size):
            yield Ask(operation, several[first : first + size], elements)


def _rest(
    schema: str, start: datetime, end: datetime, wishes: Wishes, now: datetime
) -> tuple[str, dict[str, Any]] | None:
    overrides = [{"fieldId": name, "value": value} for name, value in wishes.overrides.items()]
    if schema == "fundamentals":
        days = _dates("ohlcv-1d", start, end)
        if days is None:
            return None
        if not days[0] <= _midnight(now).date() <= days[1]:
            raise PermanentError(f"figures of {days[0]} can only be asked on that day (UTC)")
        return REFERENCE, {"fields": list(wishes.fields)} | ({"overrides": overrides} if overrides else {})
    adjust = {name: wishes.adjust.get(name, False) for name in _ADJUSTMENTS} | {"adjustmentFollowDPDF": False}
    if schema in PERIODS:
        dates = _dates(schema, start, end)
        if dates is None:
            return None
        selection, stamp = PERIODS[schema]
        return HISTORICAL, {
            "fields": list(dict.fromkeys(wishes.bar_fields.values())),
            "startDate": f"{dates[0]:%Y%m%d}",
            "endDate": f"{dates[1]:%Y%m%d}",
            "periodicitySelection": selection,
            "periodicityAdjustment": stamp,
            "nonTradingDayFillOption": "ACTIVE_DAYS_ONLY",
            "nonTradingDayFillMethod": "NIL_VALUE",
            **({"currency": wishes.currency} if wishes.currency else {}),
            **({"overrides": overrides} if overrides else {}),
            **adjust,
        }
    if schema in MINUTES:
        # bars are counted from the start that is asked: it has to lie on the grid
        step = timedelta(minutes=MINUTES[schema])
        floor = _EPOCH + (start - _EPOCH) // step * step
        span = {"startDateTime": floor.isoformat(), "endDateTime": end.isoformat()}
        return BARS, {"eventType": wishes.event_type, "interval": MINUTES[schema], **span, **adjust}
    span = {"startDateTime": start.isoformat(), "endDateTime": end.isoformat()}
    return TICKS, {"eventTypes": ["TRADE"], **span, "includeConditionCodes": True, "includeExchangeCodes": True}


_ADJUSTMENTS: Final = ("adjustmentSplit", "adjustmentNormal", "adjustmentAbnormal")


def _dates(schema: str, start: datetime, end: datetime) -> tuple[date, date] | None:
    """Return the first and last date to ask, both inclusive; None where no label lies in the window."""
    first = label(schema, _ceiling(start))
    if first < _ceiling(start):
        first = _next(schema, first)
    last = label(schema, _ceiling(end) - _DAY)
    return (first, _next(schema, last) - _DAY) if first <= last else None


def label(schema: str, day: date) -> date:
    """Return the label of the period a date lies in: the day itself, its Monday, or the first of its month."""
    if schema == "ohlcv-1w":
        return day - day.weekday() * _DAY
    return day.replace(day=1) if schema == "ohlcv-1mo" else day


def _next(schema: str, first: date) -> date:
    if schema == "ohlcv-1mo":
        return (first + 31 * _DAY).replace(day=1)
    return first + (7 * _DAY if schema == "ohlcv-1w" else _DAY)


def _ceiling(moment: datetime) -> date:
    """Return the first date whose 00:00Z is not before an instant."""
    moment = moment.astimezone(UTC)
    return moment.date() if moment == _midnight(moment) else moment.date() + _DAY


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _utc(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
