"""Trades, quotes and what else a venue publishes event by event."""

from typing import Final

from catalog.schemas.base import DECIMAL
from catalog.schemas.base import INT16
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.rules import DAY
from catalog.schemas.rules import SEQUENCE
from catalog.schemas.rules import SIDE
from catalog.schemas.rules import TS_RECV
from catalog.schemas.rules import VENUE
from catalog.schemas.rules import event
from catalog.schemas.rules import not_negative
from catalog.schemas.rules import one_of
from catalog.schemas.rules import positive

_TRADE: Final = (
    Column("price", DECIMAL, "Price of the trade."),
    Column("size", DECIMAL, "Quantity of the trade."),
    SIDE,
)

_QUOTE: Final = (
    Column("bid_price", DECIMAL, "Best bid; null where the book side was empty.", null=True),
    Column("bid_size", DECIMAL, "Quantity at the best bid.", null=True),
    Column("ask_price", DECIMAL, "Best offer; null where the book side was empty.", null=True),
    Column("ask_size", DECIMAL, "Quantity at the best offer.", null=True),
)

DECLARED: Final = (
    Schema(
        name="trades",
        doc="Every trade.",
        columns=(
            event("When the venue says the trade happened."),
            VENUE,
            TS_RECV,
            Column("trade_id", TEXT, "Identifier given by the venue; empty where there is none.", absent=""),
            SEQUENCE,
            *_TRADE,
            Column("conditions", TEXT, "The vendor's condition codes, separated by commas.", null=True),
        ),
        identity=("venue", "trade_id", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=DAY,
        checks=(positive("price"), not_negative("size"), one_of("side", ("A", "B", "N"))),
    ),
    Schema(
        name="tbbo",
        doc="Every trade with the best bid and offer immediately before it.",
        columns=(
            event("When the venue says the trade happened."),
            VENUE,
            TS_RECV,
            SEQUENCE,
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
        chunk=DAY,
        checks=(
            positive("price"),
            not_negative("size"),
            one_of("side", ("A", "B", "N")),
            not_negative("bid_size"),
            not_negative("ask_size"),
        ),
    ),
    Schema(
        name="quotes",
        doc="Every change of the best bid or offer.",
        columns=(
            event("When the venue says the quote was made."),
            VENUE,
            TS_RECV,
            SEQUENCE,
            *_QUOTE,
            Column("bid_venue", TEXT, "Venue of the best bid, where the record joins several.", null=True),
            Column("ask_venue", TEXT, "Venue of the best offer, where the record joins several.", null=True),
            Column("conditions", TEXT, "The vendor's condition codes, separated by commas.", null=True),
        ),
        identity=("venue", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=DAY,
        checks=(
            positive("bid_price"),
            positive("ask_price"),
            not_negative("bid_size"),
            not_negative("ask_size"),
        ),
    ),
    Schema(
        name="statistics",
        doc="Figures a venue publishes about an instrument: settlement, open interest, limits…",
        columns=(
            event("When the venue published the figure."),
            VENUE,
            TS_RECV,
            Column("ts_ref", NANOSECONDS, "The instant or day the figure refers to.", null=True),
            Column("statistic", TEXT, "Name of the figure, e.g. settlement_price, open_interest."),
            SEQUENCE,
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
        chunk=30 * DAY,
    ),
)
