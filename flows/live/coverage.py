"""What a connection has heard: windows `[start, end)` of event time, by instrument, from acknowledgements and silence.

A vendor sends what happens after it has acknowledged a subscription; so the window begins a second after that (clocks
differ), and ends where everything must have come (`transit` before the last sign of life). Rows outside of it are
stored like any other; they only do not prove that nothing is missing beside them.
"""

import threading
from collections.abc import Collection
from collections.abc import Iterable
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final

from catalog.schemas import TIMEFRAMES
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import bars_end
from flows.job import EARLIEST
from flows.job import LATEST

#: how much clocks may differ: what happened this soon after an acknowledgement may not have been sent
SKEW: Final = timedelta(seconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Windows = dict[tuple[datetime, datetime], set[int]]


class Heard:
    """The windows of one schema of a stint. Any thread may call it."""

    def __init__(
        self,
        schema: Schema,
        transit: timedelta,
        *,
        every_bar: bool,
        skew: timedelta = SKEW,
        grain: timedelta = timedelta(0),
    ) -> None:
        self.schema = schema
        self.grain = grain
        self.skew = skew
        self.transit = transit
        self.every_bar = every_bar and bool(schema.timeframe)
        self._lock = threading.Lock()
        #: the window each instrument is in
        self._open: dict[int, tuple[datetime, datetime]] = {}
        #: windows that grew since they were last taken
        self._grown: dict[tuple[int, datetime], datetime] = {}

    def acknowledged(self, instruments: Iterable[int], at: int, *, replayed: bool = False) -> None:
        """Begin the windows of instruments, unless one is open; `replayed`: what was before comes as well."""
        moment = instant(at)
        start = moment if replayed else moment + self.skew
        if self.schema.timeframe:
            start = bars_end(start, self.schema.timeframe)
        elif self.grain and start > (whole := _floor(start, self.grain)):
            start = whole + self.grain
        with self._lock:
            for number in instruments:
                self._open.setdefault(number, (start, start))

    def until(self, at: int) -> None:
        """Extend every window: there was a sign of life at `at`, and everything before it has been read."""
        if self.every_bar:
            return
        end = self._whole(instant(at) - self.transit)
        with self._lock:
            for number, (start, known) in self._open.items():
                if end > known:
                    self._open[number] = (start, end)
                    self._grown[number, start] = end

    def bars(self, number: int, opens: Collection[int]) -> None:
        """Note bars that came, by their open instants, where silence does not mean that there were none."""
        if not self.every_bar:
            return
        with self._lock:
            for at in sorted(opens):
                label = instant(at)
                end = _next(self.schema.timeframe, label)
                start, known = self._open.get(number, (EARLIEST, EARLIEST))
                if label == known and start < known:
                    self._open[number] = (start, end)
                elif label >= known:
                    self._open[number] = (label, end)
                else:
                    continue
                self._grown[number, self._open[number][0]] = end

    def broken(self, number: int, before: int, after: int) -> bool:
        """Note that what lies between two event times was not sent; says whether a window was cut."""
        with self._lock:
            if number not in self._open:
                return False
            start, end = self._open[number]
            last, following = instant(before), instant(after) + timedelta(microseconds=1)
            if following <= start:
                return False
            if end > last:
                # what was said before of the time in between was too much
                self._grown[number, start] = max(last, start)
            self._open[number] = (following, following)
            return True

    def ended(self, since: int | None = None) -> None:
        """End every window, where it is given at the time (ns) since which messages are missing."""
        last = LATEST if since is None else self._whole(instant(since))
        with self._lock:
            for number, (start, end) in self._open.items():
                if end > last:
                    self._grown[number, start] = max(last, start)
            self._open.clear()

    def _whole(self, moment: datetime) -> datetime:
        """Return a time, or where rows stand for an interval the end of the last one that was over."""
        if self.schema.timeframe:
            return bars_end(moment, self.schema.timeframe)
        return _floor(moment, self.grain) if self.grain else moment

    def left(self, instruments: Iterable[int]) -> None:
        """End the windows of instruments that are no longer subscribed."""
        with self._lock:
            for number in instruments:
                self._open.pop(number, None)

    def take(self) -> Windows:
        """Return the windows that grew, or were said to be shorter (maybe empty), since they were last taken."""
        with self._lock:
            grown, self._grown = self._grown, {}
        windows: Windows = {}
        for (number, start), end in grown.items():
            windows.setdefault((start, end), set()).add(number)
        return windows

    def again(self, windows: Windows) -> None:
        """Take windows back that could not be written."""
        with self._lock:
            for (start, end), numbers in windows.items():
                for number in numbers:
                    self._grown.setdefault((number, start), end)

    def starts(self) -> dict[int, datetime]:
        """Return where the window of each instrument begins that has one."""
        with self._lock:
            return {number: start for number, (start, _) in self._open.items()}


def instant(nanoseconds: int) -> datetime:
    """Return a time, down to the microsecond before it."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _floor(moment: datetime, grain: timedelta) -> datetime:
    return _EPOCH + (moment - _EPOCH) // grain * grain


def _next(timeframe: str, label: datetime) -> datetime:
    """Return the open instant of the bar after one, where bars follow each other without end."""
    if seconds := TIMEFRAMES[timeframe]:
        return label + timedelta(seconds=seconds)
    return bar_open(label + timedelta(days=7 if timeframe == "1w" else 32), timeframe)
