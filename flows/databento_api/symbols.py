"""A dataset: which windows it has, on which days its symbols mean something.

Free to ask. A day without a session resolves no symbol, which the vendor words like an unknown symbol: symbols count
as unknown only when the dataset never had them.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from functools import partial
from typing import Any
from typing import Final

from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import schema as schema_called
from flows.databento_api.client import Client
from flows.job import Job
from flows.job import SymbolInterval
from flows.web import Call

#: symbols that a call may have
AT_ONCE: Final = 2000
#: no venue closes for longer: days without a session that are no gap
_CLOSED: Final = timedelta(days=7)
_DAY: Final = timedelta(days=1)
_INSTANT: Final = timedelta(microseconds=1)

Days = tuple[date, date]
Window = tuple[datetime, datetime]


class Dataset:
    """One dataset, asked by symbols of one type; what it has is asked once."""

    def __init__(self, client: Client, name: str, stype: str) -> None:
        self.client = client
        self.name = name
        self.stype = stype
        #: symbol → whether the dataset ever had it
        self._known: dict[str, bool] = {}

    # -- windows --------------------------------------------------------------------------------------------------

    @cached_property
    def windows(self) -> dict[str, Window]:
        """The window `[start, end)` of each schema by its name; that of the dataset is under the empty name."""
        call = Call("v0/metadata.get_dataset_range", {"dataset": self.name})
        return self.client.patiently(partial(self.client.said, call, _windows))

    def available(self, schema: Schema) -> Window:
        """Return the window that the dataset has of a schema; a bar that is not closed lies outside."""
        low, high = self.windows.get(schema.name, self.windows[""])
        return low, bar_open(high, schema.timeframe) if schema.timeframe else high

    def inside(self, job: Job, since: datetime, *, to_midnight: bool) -> Job:
        """Return a job inside what the dataset has; asked only where that can change (open, or the last week).

        `since` is where open starts begin to be asked; `to_midnight` ends it with the last whole day.
        """
        if job.start >= since and job.end <= datetime.now(UTC) - _CLOSED:
            return job
        low, high = self.available(schema_called(job.schema))
        if to_midnight:
            high = _midnight(high.date())
        clipped = (replace(one, start=max(one.start, low), end=min(one.end, high)) for one in job.instruments)
        return replace(job, instruments=tuple(one for one in clipped if one.start < one.end))

    # -- symbols --------------------------------------------------------------------------------------------------

    def days(self, symbols: Sequence[str], first: date, last: date) -> tuple[dict[str, list[Days]], list[str]]:
        """Return symbol → days `[first, last)`, and the symbols without any; a parent's children are symbols too."""
        form = {
            "dataset": self.name, "symbols": ",".join(symbols), "stype_in": self.stype,
            "stype_out": "raw_symbol" if self.stype == "instrument_id" else "instrument_id",
            "start_date": first.isoformat(), "end_date": last.isoformat(),
        }  # fmt: skip
        try:
            return self.client.said(Call("v0/symbology.resolve", form=form), _days)
        except UnknownSymbol:
            return {}, list(symbols)

    def never(self, symbols: Sequence[str]) -> list[str]:
        """Return those of the symbols that the dataset never had; the others are only absent from a window."""
        if questions := [symbol for symbol in symbols if symbol not in self._known]:
            _, missing = self.days(questions, *whole_days(*self.windows[""]))
            self._known.update({symbol: symbol not in missing for symbol in questions})
        return [symbol for symbol in symbols if not self._known[symbol]]

    def unknown(self, symbols: Sequence[str]) -> UnknownSymbol:
        """Return the error that names the symbols, as far as there is room."""
        shown = ", ".join(symbols[:20]) + (f" and {len(symbols) - 20} more" if len(symbols) > 20 else "")
        return UnknownSymbol(f"{self.client.web.name}: dataset {self.name} has no {self.stype} symbol {shown}")

    def listed(self) -> list[str]:
        """Return the venue's symbols of the last day that has any."""
        raw = Dataset(self.client, self.name, "raw_symbol")
        day = (self.windows[""][1] - _INSTANT).date()
        for back in range(_CLOSED.days):
            found, _ = raw.days(["ALL_SYMBOLS"], day - back * _DAY, day - (back - 1) * _DAY)
            if found:
                return sorted(found)
        return []

    def valid(self, job: Job) -> Job:
        """Return a job with the intervals in which its symbols mean something; open ends stay open.

        Symbols that nobody knows stay, and are named when they are asked; raises UnknownSymbol where there are no
        others.
        """
        first, last = whole_days(job.start, job.end)
        names = list(dict.fromkeys(symbol.symbol for one in job.instruments for symbol in one.symbols))
        days: dict[str, list[Days]] = {}
        for at in range(0, len(names), AT_ONCE):
            found, _ = self.client.patiently(partial(self.days, names[at : at + AT_ONCE], first, last))
            days |= found
        if not days:
            raise self.unknown(names)
        instruments = []
        for one in job.instruments:
            parts = (_parts(symbol, days.get(symbol.symbol, []), first, last) for symbol in one.symbols)
            instruments.append(replace(one, symbols=tuple(part for several in parts for part in several)))
        return replace(job, instruments=tuple(instruments))


def whole_days(start: datetime, end: datetime) -> Days:
    """Return the UTC days `[first, last)` that hold a window."""
    return start.date(), (end + _DAY - _INSTANT).date()


def _windows(said: Any) -> dict[str, Window]:
    each = {"": said, **(said.get("schema") or {})}
    return {name: (_aware(bounds["start"]), _aware(bounds["end"])) for name, bounds in each.items()}


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def _days(said: Any) -> tuple[dict[str, list[Days]], list[str]]:
    found = {
        symbol: [(date.fromisoformat(part["d0"]), date.fromisoformat(part["d1"])) for part in parts]
        for symbol, parts in said["result"].items()
        if parts
    }
    return found, list(said["not_found"])


def _parts(symbol: SymbolInterval, days: Sequence[Days], first: date, last: date) -> Iterator[SymbolInterval]:
    """Yield the parts of a symbol's interval in which it has days of those asked; all of it where it has none.

    Days without a session are no gap, and what touches the ends of what was asked goes on there.
    """
    joined: list[Days] = []
    for start, end in sorted(days):
        if joined and start - joined[-1][1] <= _CLOSED:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    if not joined:
        yield symbol
    for start, end in joined:
        low = symbol.start if start - first <= _CLOSED else max(symbol.start, _midnight(start))
        high = symbol.end if last - end <= _CLOSED else min(symbol.end, _midnight(end))
        if low < high:
            yield SymbolInterval(symbol.symbol, low, high)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)
