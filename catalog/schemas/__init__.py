"""The page of declarations: every kind of record there is.

To add one, add a `Schema` here and run `manage.py makemigrations`; nothing else names it.
"""

from datetime import timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.schemas.base import DECIMAL
from catalog.schemas.base import FETCH_ID
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INSTRUMENT
from catalog.schemas.base import INT16
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import ORDINAL
from catalog.schemas.base import ROW
from catalog.schemas.base import TEXT
from catalog.schemas.base import Check
from catalog.schemas.base import Column
from catalog.schemas.base import Schema

__all__ = [
    "DECIMAL",
    "FETCH_ID",
    "INSTRUMENT",
    "NANOSECONDS",
    "ORDINAL",
    "ROW",
    "SCHEMAS",
    "TIMEFRAMES",
    "Check",
    "Column",
    "Schema",
    "schema",
]

_DAY: Final = timedelta(days=1)

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

# A chunk takes about ten entries of the server's lock table in each statement that touches it, and a
# chunk should fit in memory: wide for slow data, narrow for fast.
_BAR_CHUNKS: Final = {
    "1s": 7 * _DAY,
    "1m": 30 * _DAY,
    "5m": 90 * _DAY,
    "15m": 180 * _DAY,
    "30m": 365 * _DAY,
    "1h": 365 * _DAY,
    "4h": 1460 * _DAY,
    "1d": 3650 * _DAY,
    "1w": 18250 * _DAY,
    "1mo": 18250 * _DAY,
}


def _positive(column: str) -> Check:
    return Check(
        f"{column} > 0",
        "Prices of this asset class cannot be zero or negative.",
        (column,),
        lambda table: pc.greater(table[column], pa.scalar(0, DECIMAL)),
        positive_only=True,
    )


def _not_negative(column: str) -> Check:
    return Check(
        f"{column} >= 0",
        "A quantity cannot be negative.",
        (column,),
        lambda table: pc.greater_equal(table[column], pa.scalar(0, table[column].type)),
    )


def _at_least(high: str, low: str, doc: str) -> Check:
    return Check(
        f"{high} >= {low}",
        doc,
        (high, low),
        lambda table: pc.greater_equal(table[high], table[low]),
    )


def _one_of(column: str, accepted: tuple[str, ...]) -> Check:
    return Check(
        f"{column} in {', '.join(accepted)}",
        "Only these values have a meaning.",
        (column,),
        lambda table: pc.if_else(
            pc.is_null(table[column]), True, pc.is_in(table[column], value_set=pa.array(accepted))
        ),
    )


def _on_grid(timeframe: str) -> Check:
    """A bar carries its open instant, so its time is a whole number of bars since 1970 (UTC)."""

    def keeps(table: pa.Table) -> pa.ChunkedArray:
        time = table["ts_event"]
        if timeframe == "1mo":
            floor = pc.floor_temporal(time, unit="month")
        elif timeframe == "1w":
            floor = pc.floor_temporal(time, unit="week", week_starts_monday=True)
        else:
            step = (TIMEFRAMES[timeframe] or 0) * 1_000_000_000
            nanoseconds = pc.cast(time, pa.int64())
            whole = pc.multiply(pc.divide(nanoseconds, step), step)
            return pc.equal(nanoseconds, whole)
        return pc.equal(time, floor)

    return Check(
        f"ts_event on the {timeframe} grid",
        "A bar is labelled by its open instant; 1d by the session date at 00:00Z, 1w by its Monday, 1mo by its first.",
        ("ts_event",),
        keeps,
    )


_VENUE: Final = Column(
    "venue",
    TEXT,
    "Venue or publisher the record came from; empty where the source carries one consolidated view.",
    absent="",
)
_SEQUENCE: Final = Column("sequence", INT64, "Sequence number given by the venue; 0 where there is none.", absent=0)
_TS_RECV: Final = Column("ts_recv", NANOSECONDS, "When the vendor's capture received the record.", null=True)
_SIDE: Final = Column("side", TEXT, "Side of the aggressor: B buy, A sell, N none given.", null=True)


def _event(doc: str) -> Column:
    return Column("ts_event", NANOSECONDS, doc)


def _ohlcv(timeframe: str) -> Schema:
    return Schema(
        name=f"ohlcv-{timeframe}",
        doc=f"Bars of {timeframe}.",
        timeframe=timeframe,
        columns=(
            _event("Open instant of the bar; 1d and coarser: the session date (Monday, first) at 00:00Z."),
            _VENUE,
            Column("open", DECIMAL, "First price."),
            Column("high", DECIMAL, "Highest price."),
            Column("low", DECIMAL, "Lowest price."),
            Column("close", DECIMAL, "Last price."),
            Column("volume", DECIMAL, "Quantity traded; null where the market publishes none.", null=True),
            Column("trade_count", INT64, "Number of trades.", null=True),
            Column("vwap", DECIMAL, "Volume-weighted average price.", null=True),
        ),
        identity=("venue",),
        chunk=_BAR_CHUNKS[timeframe],
        checks=(
            _on_grid(timeframe),
            _at_least("high", "open", "The high bounds the open."),
            _at_least("high", "low", "The high bounds the low."),
            _at_least("high", "close", "The high bounds the close."),
            _at_least("open", "low", "The low bounds the open."),
            _at_least("close", "low", "The low bounds the close."),
            _positive("low"),
            _not_negative("volume"),
            _not_negative("trade_count"),
        ),
    )


_TRADE: Final = (
    Column("price", DECIMAL, "Price of the trade."),
    Column("size", DECIMAL, "Quantity of the trade."),
    _SIDE,
)

_DECLARED: Final = (
    *(_ohlcv(timeframe) for timeframe in TIMEFRAMES),
    Schema(
        name="trades",
        doc="Every trade.",
        columns=(
            _event("When the venue says the trade happened."),
            _VENUE,
            _TS_RECV,
            Column("trade_id", TEXT, "Identifier given by the venue; empty where there is none.", absent=""),
            _SEQUENCE,
            *_TRADE,
            Column("conditions", TEXT, "The vendor's condition codes, separated by commas.", null=True),
        ),
        identity=("venue", "trade_id", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=_DAY,
        checks=(_positive("price"), _not_negative("size"), _one_of("side", ("A", "B", "N"))),
    ),
    Schema(
        name="tbbo",
        doc="Every trade with the best bid and offer immediately before it.",
        columns=(
            _event("When the venue says the trade happened."),
            _VENUE,
            _TS_RECV,
            _SEQUENCE,
            *_TRADE,
            Column("bid_price", DECIMAL, "Best bid; null where the book side was empty.", null=True),
            Column("bid_size", DECIMAL, "Quantity at the best bid.", null=True),
            Column("bid_count", INT64, "Orders at the best bid.", null=True),
            Column("ask_price", DECIMAL, "Best offer; null where the book side was empty.", null=True),
            Column("ask_size", DECIMAL, "Quantity at the best offer.", null=True),
            Column("ask_count", INT64, "Orders at the best offer.", null=True),
        ),
        identity=("venue", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=_DAY,
        checks=(
            _positive("price"),
            _not_negative("size"),
            _one_of("side", ("A", "B", "N")),
            _not_negative("bid_size"),
            _not_negative("ask_size"),
        ),
    ),
    Schema(
        name="statistics",
        doc="Figures a venue publishes about an instrument: settlement, open interest, limits…",
        columns=(
            _event("When the venue published the figure."),
            _VENUE,
            _TS_RECV,
            Column("ts_ref", NANOSECONDS, "The instant or day the figure refers to.", null=True),
            Column("statistic", TEXT, "Name of the figure, e.g. settlement_price, open_interest."),
            _SEQUENCE,
            Column("price", DECIMAL, "The figure where it is a price.", null=True),
            Column("quantity", DECIMAL, "The figure where it is a quantity.", null=True),
            Column("value_text", TEXT, "The figure where it is neither.", null=True),
            Column("channel_id", INT32, "Channel of the venue's feed.", null=True),
            Column("update_action", INT16, "1 added, 2 deleted.", null=True),
            Column("stat_flags", INT16, "The venue's flags, e.g. final or preliminary.", null=True),
        ),
        identity=("venue", "statistic", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=30 * _DAY,
    ),
    Schema(
        name="indicators",
        doc="Stored values of indicators, one row for each bar and indicator.",
        columns=(
            _event("Time of the bar the value belongs to."),
            Column("indicator_id", INT32, "Row of the catalog's indicator list."),
            Column("value", FLOAT64, "The value; bars inside the warm-up have no row."),
        ),
        identity=("indicator_id",),
        chunk=365 * _DAY,
    ),
)

SCHEMAS: Final[dict[str, Schema]] = {declared.name: declared for declared in _DECLARED}


def schema(name: str) -> Schema:
    """Return the schema called `name`; ConfigError names the accepted ones."""
    try:
        return SCHEMAS[name]
    except KeyError:
        raise ConfigError(unknown("schema", name, SCHEMAS)) from None
