"""Bars of every timeframe."""

from typing import Final

from catalog.schemas.base import DECIMAL
from catalog.schemas.base import INT64
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.rules import DAY
from catalog.schemas.rules import TIMEFRAMES
from catalog.schemas.rules import VENUE
from catalog.schemas.rules import at_least
from catalog.schemas.rules import event
from catalog.schemas.rules import not_negative
from catalog.schemas.rules import on_grid
from catalog.schemas.rules import positive

# A chunk takes about ten entries of the server's lock table in each statement that touches it, and a
# chunk should fit in memory: wide for slow data, narrow for fast.
_BAR_CHUNKS: Final = {
    "1s": 7 * DAY,
    "1m": 30 * DAY,
    "5m": 90 * DAY,
    "15m": 180 * DAY,
    "30m": 365 * DAY,
    "1h": 365 * DAY,
    "4h": 1460 * DAY,
    "1d": 3650 * DAY,
    "1w": 18250 * DAY,
    "1mo": 18250 * DAY,
}


def _ohlcv(timeframe: str, name: str = "", doc: str = "") -> Schema:
    return Schema(
        name=f"ohlcv-{name or timeframe}",
        doc=doc or f"Bars of {timeframe}.",
        timeframe=timeframe,
        columns=(
            event("Open instant of the bar; 1d and coarser: the session date (Monday, first) at 00:00Z."),
            VENUE,
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
            on_grid(timeframe),
            at_least("high", "open", "The high bounds the open."),
            at_least("high", "low", "The high bounds the low."),
            at_least("high", "close", "The high bounds the close."),
            at_least("open", "low", "The low bounds the open."),
            at_least("close", "low", "The low bounds the close."),
            positive("low"),
            not_negative("volume"),
            not_negative("trade_count"),
        ),
    )


DECLARED: Final = (
    *(_ohlcv(timeframe) for timeframe in TIMEFRAMES),
    _ohlcv("1d", "eod", "Bars of 1d as the venue itself closes its session, where 1d is cut at midnight UTC."),
)
