"""Order books: quotes at one or ten levels, consolidated quotes, single orders, trading status, auctions.

Windows of a vendor that repeats older events when a day begins (resting orders, the last status) are windows of the
time it received them: those schemas are ordered by `ts_recv`, as are quotes sampled at the end of an interval.
"""

from datetime import timedelta
from typing import Final

from catalog.schemas.base import DECIMAL
from catalog.schemas.base import INT16
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Check
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.rules import DAY
from catalog.schemas.rules import SEQUENCE
from catalog.schemas.rules import TS_RECV
from catalog.schemas.rules import VENUE
from catalog.schemas.rules import event
from catalog.schemas.rules import not_negative
from catalog.schemas.rules import one_of
from catalog.schemas.rules import positive

_ACTIONS: Final = ("A", "C", "M", "R", "T", "F", "N")
_SIDES: Final = ("A", "B", "N")
_RECEIVED: Final = Column("ts_recv", NANOSECONDS, "When the vendor's capture received the record.")
_HAPPENED: Final = Column("ts_event", NANOSECONDS, "When the venue says it happened; null where it did not.", null=True)
_FLAGS: Final = Column(
    "flags", INT16, "Bits: 128 last of its event, 32 from a snapshot, 8 ts_recv unsure, 4 book unsure.", null=True
)
_DELTA: Final = Column("ts_in_delta", INT32, "Nanoseconds from the venue's sending to ts_recv.", null=True)
_ACTION: Final = Column(
    "action", TEXT, "A add, C cancel, M modify, R clear, T trade, F fill, N none; null in a snapshot.", null=True
)
_EVENT: Final = (
    _ACTION,
    Column("side", TEXT, "Side of the order, or of a trade's aggressor: B buy, A sell, N none.", null=True),
    Column("depth", INT16, "Level the event changed, 0 the best.", null=True),
    Column("price", DECIMAL, "Price of the order or trade; null in a snapshot.", null=True),
    Column("size", DECIMAL, "Quantity of the order or trade; null in a snapshot.", null=True),
    _FLAGS,
    _DELTA,
)
_EVENT_CHECKS: Final = (not_negative("size"), one_of("action", _ACTIONS), one_of("side", _SIDES))


def _level(suffix: str = "", last: str = "count") -> tuple[Column, ...]:
    """One level of both sides; `last` is what follows price and size: the count of orders, or the venue."""
    which = f"level {suffix[1:]}" if suffix else "the best level"
    lasts = {
        "count": (INT64, f"Orders at {which}"),
        "venue": (TEXT, f"Venue of {which}"),
    }
    kind, doc = lasts[last]
    columns: list[Column] = []
    for side in ("bid", "ask"):
        columns += (
            Column(f"{side}_price{suffix}", DECIMAL, f"Price of the {side} at {which}; null: empty.", null=True),
            Column(f"{side}_size{suffix}", DECIMAL, f"Quantity of the {side} at {which}.", null=True),
            Column(f"{side}_{last}{suffix}", kind, f"{doc}, {side} side.", null=True),
        )
    return tuple(columns)


def _sizes(*suffixes: str) -> tuple[Check, ...]:
    return tuple(not_negative(f"{side}_size{suffix}") for suffix in suffixes for side in ("bid", "ask"))


def _book(name: str, doc: str, suffixes: tuple[str, ...]) -> Schema:
    """Every change of the best levels of a venue's book, with the levels after it."""
    return Schema(
        name=name,
        doc=doc,
        columns=(
            event("When the venue says the book changed, or when a snapshot was taken."),
            VENUE,
            TS_RECV,
            SEQUENCE,
            *_EVENT,
            *(column for suffix in suffixes for column in _level(suffix)),
        ),
        identity=("venue", "sequence"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=DAY,
        checks=(*_EVENT_CHECKS, *_sizes(*suffixes)),
    )


def _sampled(name: str, doc: str, chunk: timedelta, last: str) -> Schema:
    """The best bid and offer at the end of each interval: one row for each interval and venue."""
    return Schema(
        name=name,
        doc=doc,
        time="ts_recv",
        columns=(
            Column("ts_recv", NANOSECONDS, "End of the interval."),
            VENUE,
            Column("ts_event", NANOSECONDS, "When the last trade happened; null before the first.", null=True),
            *((SEQUENCE,) if last == "count" else ()),
            Column("price", DECIMAL, "Price of the last trade.", null=True),
            Column("size", DECIMAL, "Quantity of the last trade.", null=True),
            Column("side", TEXT, "Side of the last trade's aggressor: B buy, A sell, N none given.", null=True),
            _FLAGS,
            *_level(last=last),
        ),
        identity=("venue",),
        nanoseconds=True,
        revisable=False,
        chunk=chunk,
        checks=(not_negative("size"), one_of("side", _SIDES), *_sizes("")),
    )


def _consolidated(name: str, doc: str, price: Column, checks: tuple[Check, ...]) -> Schema:
    """The best bid and offer over all venues: every change, or at every trade."""
    return Schema(
        name=name,
        doc=doc,
        columns=(
            event("When the venue says it happened."),
            VENUE,
            TS_RECV,
            *(price if column.name == "price" else column for column in _EVENT if column.name != "depth"),
            *_level(last="venue"),
        ),
        identity=("venue",),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=DAY,
        checks=(*checks, *_EVENT_CHECKS, *_sizes("")),
    )


_MBO: Final = Schema(
    name="mbo",
    doc="Every order: added, changed, cancelled, filled. A day begins with the orders that rest.",
    time="ts_recv",
    columns=(
        _RECEIVED,
        VENUE,
        event("When the venue says it happened; of a resting order: long before ts_recv."),
        SEQUENCE,
        Column("order_id", INT64, "The venue's number of the order; 0 where the record is of none."),
        Column("action", TEXT, "A add, C cancel, M modify, R clear the book, T trade, F fill, N none."),
        Column("side", TEXT, "Side of the order, or of a trade's aggressor: B buy, A sell, N none.", null=True),
        Column("price", DECIMAL, "Price of the order; null where it has none.", null=True),
        Column("size", DECIMAL, "Quantity of the order.", null=True),
        _FLAGS,
        Column("channel_id", INT32, "Channel of the venue's feed.", null=True),
        _DELTA,
    ),
    identity=("venue", "sequence"),
    repeats=True,
    nanoseconds=True,
    revisable=False,
    chunk=DAY,
    checks=_EVENT_CHECKS,
)

_STATUS: Final = Schema(
    name="status",
    doc="Whether an instrument trades: halts, pauses, sessions. A day begins with the status that holds.",
    time="ts_recv",
    columns=(
        _RECEIVED,
        VENUE,
        event("When the venue says it changed."),
        Column("action", TEXT, "What it became, e.g. pre_open, trading, halt, close."),
        Column("reason", TEXT, "Why, e.g. scheduled, news_pending, luld_pause.", null=True),
        Column("trading_event", TEXT, "What else it means, e.g. no_cancel.", null=True),
        Column("is_trading", TEXT, "Y or N; null where the venue does not say.", null=True),
        Column("is_quoting", TEXT, "Y or N; null where the venue does not say.", null=True),
        Column("is_short_sell_restricted", TEXT, "Y or N; null where the venue does not say.", null=True),
    ),
    identity=("venue",),
    repeats=True,
    nanoseconds=True,
    revisable=False,
    chunk=30 * DAY,
    checks=tuple(one_of(name, ("Y", "N")) for name in ("is_trading", "is_quoting", "is_short_sell_restricted")),
)

_IMBALANCE: Final = Schema(
    name="imbalance",
    doc="What an auction would do now: reference and clearing prices, paired and unpaired quantity.",
    columns=(
        event("When the venue published it."),
        VENUE,
        TS_RECV,
        Column("auction_time", NANOSECONDS, "When the auction is planned.", null=True),
        Column("auction_type", TEXT, "Which auction, by the venue's letter, e.g. O opening, C closing.", null=True),
        Column("side", TEXT, "Side of the imbalance: B buy, A sell, N none.", null=True),
        Column("ref_price", DECIMAL, "Price the imbalance is computed at.", null=True),
        Column("cont_book_clr_price", DECIMAL, "Clearing price with the continuous book.", null=True),
        Column("auct_interest_clr_price", DECIMAL, "Clearing price of auction orders alone.", null=True),
        Column("ssr_filling_price", DECIMAL, "Price at which short sales under restriction fill.", null=True),
        Column("ind_match_price", DECIMAL, "Price at which most would match.", null=True),
        Column("upper_collar", DECIMAL, "Highest price the auction may have.", null=True),
        Column("lower_collar", DECIMAL, "Lowest price the auction may have.", null=True),
        Column("paired_qty", DECIMAL, "Quantity that would match at ref_price.", null=True),
        Column("total_imbalance_qty", DECIMAL, "Quantity that would not match at ref_price.", null=True),
        Column("market_imbalance_qty", DECIMAL, "Market orders' part of it.", null=True),
        Column("unpaired_qty", DECIMAL, "Orders eligible for the auction that would not match.", null=True),
        Column("unpaired_side", TEXT, "Side of unpaired_qty: B buy, A sell, N none.", null=True),
        Column("significant_imbalance", TEXT, "The venue's letter for how large it is.", null=True),
        Column("auction_status", INT16, "The venue's number.", null=True),
        Column("freeze_status", INT16, "The venue's number.", null=True),
        Column("num_extensions", INT16, "How often the auction was put off.", null=True),
    ),
    identity=("venue",),
    repeats=True,
    nanoseconds=True,
    revisable=False,
    chunk=7 * DAY,
    checks=(
        one_of("side", _SIDES),
        one_of("unpaired_side", _SIDES),
        *map(not_negative, ("paired_qty", "total_imbalance_qty", "market_imbalance_qty", "unpaired_qty")),
    ),
)

_PRICE: Final = next(column for column in _EVENT if column.name == "price")

DECLARED: Final = (
    _book("mbp-1", "Every change of the best bid or offer, and every trade.", ("",)),
    _book(
        "mbp-10", "Every change within the ten best levels, and every trade.", tuple(f"_{at:02d}" for at in range(10))
    ),
    _sampled("bbo-1s", "Best bid and offer at the end of each second.", 7 * DAY, "count"),
    _sampled("bbo-1m", "Best bid and offer at the end of each minute.", 30 * DAY, "count"),
    _consolidated("cmbp-1", "Every change of the best bid or offer over all venues, and every trade.", _PRICE, ()),
    _sampled("cbbo-1s", "Best bid and offer over all venues at the end of each second.", 7 * DAY, "venue"),
    _sampled("cbbo-1m", "Best bid and offer over all venues at the end of each minute.", 30 * DAY, "venue"),
    _consolidated(
        "tcbbo",
        "Every trade with the best bid and offer over all venues immediately before it.",
        Column("price", DECIMAL, "Price of the trade."),
        (positive("price"),),
    ),
    _MBO,
    _STATUS,
    _IMBALANCE,
)
