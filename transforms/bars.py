"""Coarser bars from finer ones or from trades, in exact decimals."""

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Context
from decimal import Decimal
from typing import Any
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from catalog.schemas import TIMEFRAMES
from transforms.base import BaseTransformer
from transforms.columns import TIME
from transforms.columns import exact
from transforms.columns import require
from transforms.columns import require_order

_PRICES: Final = ("open", "high", "low", "close")
_TRADE: Final = ("price", "size")
_BAR: Final = pa.schema(
    [(TIME, NANOSECONDS)]
    + [(name, DECIMAL) for name in (*_PRICES, "volume")]
    + [("trade_count", pa.int64()), ("vwap", DECIMAL)]
)
_UNITS: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month"}
# sums have 76 digits: Arrow's decimal128 sum wraps around without a word
_SUM: Final = pa.decimal256(76, 18)
_FACTOR: Final = pa.decimal256(37, 18)
_EVERY: Final = pc.ScalarAggregateOptions(skip_nulls=False, min_count=1)
_EXACT: Final = Context(prec=100)
_DAY: Final = timedelta(days=1)
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Resample(BaseTransformer):
    """Bars of `timeframe` from finer bars, or from trades (`ts_event`, `price`, `size`).

    A bar is labelled by its open instant; 1d and coarser by the session's date at 00:00Z (1w: its Monday,
    1mo: the first). A session begins at the time `rolls` in `zone` and has the date of its end, so that
    CME's trading day is `zone='America/Chicago', rolls='17:00'`; bars that are labelled by date already
    need neither. A bucket without input makes no bar. Whether the first and last buckets are complete is
    for the caller to know: only whole buckets of input give whole bars.

    Prices, volumes and counts are exact. `vwap` is the quotient of exact sums, rounded half-even once to 18
    digits; null where the volume is zero or an input has none. Rows without a price count as no rows; a
    null volume or count makes that of the bar null.
    """

    name = "resample"

    timeframe: str
    zone: str = "UTC"
    rolls: str = "00:00"

    def __post_init__(self) -> None:
        """Refuse what cannot be cut into; ConfigError lists every fault."""
        faults = [] if self.timeframe in TIMEFRAMES else [unknown("resample: timeframe", self.timeframe, TIMEFRAMES)]
        if not _CLOCK.fullmatch(self.rolls):
            faults.append(f"resample: rolls={self.rolls!r} is not a time of day; have: 00:00 to 23:59")
        if not _known_zone(self.zone):
            faults.append(f"resample: zone={self.zone!r} is unknown; have: IANA names such as America/New_York")
        if not faults and self._intraday and (self.zone, self.rolls) != ("UTC", "00:00"):
            faults.append(f"resample: zone and rolls say which date a bar has; a bar of {self.timeframe} has none")
        if faults:
            raise ConfigError(*faults)

    @property
    def warmup_timeframe(self) -> str:
        """The timeframe of the bars made."""
        return self.timeframe

    @property
    def warmup(self) -> int:
        """One bar made: the input may begin in the midst of the first."""
        return 1

    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the columns of bars; ConfigError where the input has neither prices nor trades."""
        (schema,) = inputs
        wanted = _TRADE if "price" in schema.names else _PRICES
        require(self.name, schema, wanted)
        inexact = [
            f"resample: column {name!r} is {schema.field(name).type}; exact bars need decimal or integer"
            for name in (*wanted, "volume", "vwap")
            if name in schema.names and not exact(schema.field(name).type)
        ]
        if inexact:
            raise ConfigError(*inexact)
        return _BAR

    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the bars in time order."""
        require_order(self.name, inputs[0], distinct=False)
        rows = _rows(inputs[0])
        labels = self.bars_of(rows[TIME])
        starts, runs = _runs(labels)
        sums = (
            rows.select(["high", "low", "volume", "trade_count"])
            .append_column("volume_sum", rows["volume"].cast(_SUM))
            .append_column("turnover", _turnover(rows))
            .append_column("run", pa.array(runs))
            .group_by("run", use_threads=False)
            .aggregate(
                [
                    ("high", "max"),
                    ("low", "min"),
                    ("volume_sum", "sum", _EVERY),
                    ("trade_count", "sum", _EVERY),
                    ("turnover", "sum", _EVERY),
                ]
            )
        )
        ends = np.append(starts[1:], rows.num_rows)[: starts.size] - 1
        return pa.table(
            [
                labels.take(pa.array(starts)),
                rows["open"].take(pa.array(starts)),
                sums["high_max"],
                sums["low_min"],
                rows["close"].take(pa.array(ends)),
                sums["volume_sum_sum"].cast(DECIMAL),
                sums["trade_count_sum"],
                _quotients(sums["turnover_sum"], sums["volume_sum_sum"]),
            ],
            schema=_BAR,
        )

    def bars_of(self, times: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the label of the bar that a row at each instant goes into; later ones never have an earlier label."""
        count = int(self.timeframe.rstrip("smhdwo"))
        unit = _UNITS[self.timeframe.lstrip("0123456789")]
        if self._intraday:
            return pc.floor_temporal(times, count, unit)
        return pc.assume_timezone(pc.floor_temporal(self._dates(times), count, unit), "UTC")

    def opens_of(self, labels: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the first instant whose row goes into each bar, by the bars' labels."""
        return labels if self._intraday else self._begin(pc.local_timestamp(labels))

    @property
    def _intraday(self) -> bool:
        return self.timeframe[-1] in "smh"

    @property
    def _ahead(self) -> pa.Scalar:
        """How much earlier than its date a session begins."""
        hours, minutes = map(int, self.rolls.split(":"))
        return pa.scalar(timedelta(hours=-hours, minutes=-minutes) % _DAY, pa.duration("ns"))

    def _dates(self, times: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the date of the session that each instant lies in."""
        local = pc.local_timestamp(times.cast(pa.timestamp("ns", self.zone)))
        dates = pc.floor_temporal(pc.add(local, self._ahead), 1, "day")
        if self.zone == "UTC":
            return dates
        # a session that began before the clocks went back goes on when they show an earlier time again
        following = pc.add(dates, pa.scalar(_DAY, pa.duration("ns")))
        return pc.if_else(pc.greater_equal(times, self._begin(following)), following, dates)

    def _begin(self, dates: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the instant at which the session of each date begins: the first one with its time of day, or after."""
        local = pc.subtract(dates, self._ahead)
        begin = pc.assume_timezone(local, self.zone, ambiguous="earliest", nonexistent="latest")
        return begin.cast(NANOSECONDS)


def _known_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _rows(table: pa.Table) -> pa.Table:
    """Return the input in the columns of bars, rows without a price left out."""
    sources = dict(zip(_BAR.names, _BAR.names, strict=True))
    if "price" in table.column_names:
        sources |= dict.fromkeys((*_PRICES, "vwap"), "price") | {"volume": "size"}
        table = table.append_column("trades", pa.array(np.ones(table.num_rows, np.int64)))
        sources["trade_count"] = "trades"
    columns = [
        table[sources[field.name]].cast(field.type)
        if sources[field.name] in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in _BAR
    ]
    rows = pa.table(columns, schema=_BAR)
    priced = pc.is_valid(rows["open"])
    for name in _PRICES[1:]:
        priced = pc.and_(priced, pc.is_valid(rows[name]))
    return rows.filter(priced).combine_chunks()


def _runs(labels: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return the first row of each bar, and for each row the number of its bar."""
    instants: Any = labels.cast(pa.int64()).to_numpy()
    first = np.append(True, np.diff(instants) != 0)[: instants.size]
    return np.flatnonzero(first), np.cumsum(first)


def _turnover(rows: pa.Table) -> pa.ChunkedArray:
    """Return price times quantity with all 36 digits; zero where nothing was traded."""
    turnover = pc.multiply(_factor(rows["vwap"]), _factor(rows["volume"]))
    nothing = pc.equal(rows["volume"], pa.scalar(Decimal(0), DECIMAL))
    return pc.if_else(nothing, pa.scalar(Decimal(0), turnover.type), turnover)


def _factor(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the numbers with one digit less, so that a product has at most 76; null where that loses one."""
    fits = pc.less(pc.abs(column), pa.scalar(Decimal(10**19), DECIMAL))
    return pc.if_else(fits, column, pa.scalar(None, DECIMAL)).cast(_FACTOR)


def _quotients(turnovers: pa.ChunkedArray, volumes: pa.ChunkedArray) -> pa.Array:
    """Return turnover / volume, rounded half-even to 18 digits; null where there is no volume."""
    pairs = zip(turnovers.to_pylist(), volumes.to_pylist(), strict=True)
    return pa.array([_quotient(turnover, volume) for turnover, volume in pairs], DECIMAL)


def _quotient(turnover: Decimal | None, volume: Decimal | None) -> Decimal | None:
    if turnover is None or volume is None or volume <= 0:
        return None
    # as integers of 36 and 18 digits, so that their quotient is one of 18 digits, rounded once
    dividend, divisor = int(_EXACT.scaleb(turnover, 36)), int(_EXACT.scaleb(volume, 18))
    quotient, rest = divmod(dividend, divisor)
    if 2 * rest > divisor or (2 * rest == divisor and quotient % 2):
        quotient += 1
    return _EXACT.scaleb(Decimal(quotient), -18)
