"""The checks and columns that several schemas share."""

from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas.base import DECIMAL
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Check
from catalog.schemas.base import Column

DAY: Final = timedelta(days=1)

#: Length of a bar in seconds; weeks and months are calendar periods and have none.
TIMEFRAMES: Final[dict[str, int | None]] = {
    "1s": 1,
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14400,
    "1d": 86400,
    "1w": None,
    "1mo": None,
}


#: seconds between two possible opens of a bar, where that is less than its length: sessions of stocks open at half past
GRIDS: Final[dict[str, int]] = {"1h": 1800, "4h": 1800}


def bars_end(moment: datetime, timeframe: str) -> datetime:
    """Return the end of the window `[…, end)` of open instants that holds just the bars finished by an aware time."""
    grid = GRIDS.get(timeframe)
    if grid is None:
        return bar_open(moment, timeframe)
    step, length = timedelta(seconds=grid), timedelta(seconds=TIMEFRAMES[timeframe] or 0)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + ((moment - length - epoch) // step + 1) * step


def bar_open(moment: datetime, timeframe: str) -> datetime:
    """Return the open instant of the bar that an aware time lies in; weeks begin on Monday (UTC)."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if timeframe == "1mo":
        return day.replace(day=1)
    if timeframe == "1w":
        return day - timedelta(days=day.weekday())
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    step = timedelta(seconds=TIMEFRAMES[timeframe] or 0)
    return epoch + (moment - epoch) // step * step


def positive(column: str) -> Check:
    """Above zero, for instruments whose prices cannot be zero or negative."""
    return Check(
        f"{column} > 0",
        "Prices of this asset class cannot be zero or negative.",
        (column,),
        lambda table: pc.greater(table[column], pa.scalar(0, DECIMAL)),
        positive_only=True,
    )


def not_negative(column: str) -> Check:
    """Zero or above."""
    return Check(
        f"{column} >= 0",
        "A quantity cannot be negative.",
        (column,),
        lambda table: pc.greater_equal(table[column], pa.scalar(0, table[column].type)),
    )


def at_least(high: str, low: str, doc: str) -> Check:
    """One column bounds another."""
    return Check(
        f"{high} >= {low}",
        doc,
        (high, low),
        lambda table: pc.greater_equal(table[high], table[low]),
    )


def one_of(column: str, accepted: tuple[str, ...]) -> Check:
    """One of some words, or null."""
    return Check(
        f"{column} in {', '.join(accepted)}",
        "Only these values have a meaning.",
        (column,),
        lambda table: pc.if_else(
            pc.is_null(table[column]), True, pc.is_in(table[column], value_set=pa.array(accepted))
        ),
    )


def on_grid(timeframe: str) -> Check:
    """A bar carries its open instant: a whole number of bars, or of half hours, since 1970 (UTC)."""

    def keeps(table: pa.Table) -> pa.ChunkedArray:
        time = table["ts_event"]
        if timeframe == "1mo":
            floor = pc.floor_temporal(time, unit="month")
        elif timeframe == "1w":
            floor = pc.floor_temporal(time, unit="week", week_starts_monday=True)
        else:
            step = (GRIDS.get(timeframe) or TIMEFRAMES[timeframe] or 0) * 1_000_000_000
            nanoseconds = pc.cast(time, pa.int64())
            whole = pc.multiply(pc.divide(nanoseconds, step), step)
            return pc.equal(nanoseconds, whole)
        return pc.equal(time, floor)

    return Check(
        f"ts_event on the {timeframe} grid",
        "A bar is labelled by its open instant (hours may open at half past); 1d by the session date at 00:00Z,"
        " 1w by its Monday, 1mo by its first.",
        ("ts_event",),
        keeps,
    )


VENUE: Final = Column(
    "venue",
    TEXT,
    "Venue or publisher the record came from; empty where the source carries one consolidated view.",
    absent="",
)
SEQUENCE: Final = Column("sequence", INT64, "Sequence number given by the venue; 0 where there is none.", absent=0)
TS_RECV: Final = Column("ts_recv", NANOSECONDS, "When the vendor's capture received the record.", null=True)
SIDE: Final = Column("side", TEXT, "Side of the aggressor: B buy, A sell, N none given.", null=True)


def event(doc: str) -> Column:
    """The time most schemas are ordered by."""
    return Column("ts_event", NANOSECONDS, doc)
