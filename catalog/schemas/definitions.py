"""What venues say an instrument is, as Databento normalises it (record `InstrumentDefMsg`)."""

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
from catalog.schemas.rules import VENUE
from catalog.schemas.rules import event

_TEXTS: Final = {
    "raw_symbol": "Symbol the venue gives it.",
    "security_update_action": "A added, M modified, D deleted.",
    "instrument_class": "K stock, F future, C call, P put, S, T, M spread of futures, options, both, B bond, X FX.",
    "security_type": "Type, e.g. FUT, OOF, OPT.",
    "cfi": "ISO 10962 classification.",
    "secsubtype": "Strategy of a spread, or the venue's sub-type.",
    "user_defined_instrument": "Y where members of the venue made it.",
    "exchange": "MIC of the venue.",
    "asset": "Product it belongs to, e.g. ES.",
    "group": "Group of products it trades in.",
    "underlying": "Symbol of the first underlying.",
    "currency": "Currency of its prices.",
    "settl_currency": "Currency of settlement, where it differs.",
    "strike_price_currency": "Currency of the strike price.",
    "unit_of_measure": "Unit of what a contract is of, e.g. BBL, IPNT.",
    "match_algorithm": "Letter of the matching algorithm, e.g. F first in first out, K pro rata.",
    "leg_raw_symbol": "The leg: symbol the venue gives it.",
    "leg_instrument_class": "The leg: class.",
    "leg_side": "The leg: B bought or A sold with the spread, N neither.",
}
_TIMES: Final = {
    "activation": "When it begins to trade.",
    "expiration": "When it expires or last trades.",
    "decay_start_date": "First day on which its quantity shrinks, at 00:00Z.",
}
#: in units of a billionth in the record
_DECIMALS: Final = {
    "min_price_increment": "Smallest step of its price.",
    "min_price_increment_amount": "Value of the smallest step, in the currency.",
    "display_factor": "Factor from the venue's price to the usual one.",
    "price_ratio": "Ratio of prices for spreads between products.",
    "strike_price": "Strike of an option.",
    "high_limit_price": "Highest price allowed today.",
    "low_limit_price": "Lowest price allowed today.",
    "max_price_variation": "Largest distance from the reference price that orders may have.",
    "unit_of_measure_qty": "Units in a contract.",
    "leg_price": "The leg: its price when the spread was made.",
    "leg_delta": "The leg: its delta, for hedged spreads.",
}
_LONGS: Final = {
    "vendor_instrument_id": "The vendor's number of the instrument, valid on this day.",
    "raw_instrument_id": "The venue's number.",
    "underlying_id": "The vendor's number of the first underlying; 0: none.",
    "leg_instrument_id": "The leg: the vendor's number; 0: no leg.",
    "leg_underlying_id": "The leg: the vendor's number of its underlying.",
    "market_segment_id": "The venue's number of the market segment.",
    "max_trade_vol": "Largest quantity of an order.",
    "min_trade_vol": "Smallest quantity of an order.",
}
_INTEGERS: Final = {
    "inst_attrib_value": "Bits: what may be done with it, as the venue defines them.",
    "market_depth": "Levels of the book published.",
    "market_depth_implied": "Levels of the implied book published.",
    "min_lot_size": "Smallest quantity.",
    "min_lot_size_block": "Smallest quantity of a block trade.",
    "min_lot_size_round_lot": "Quantity of a round lot.",
    "contract_multiplier": "Deliverables in a contract.",
    "original_contract_size": "Size before it began to shrink.",
    "decay_quantity": "What it shrinks by each day.",
    "appl_id": "The venue's number of the feed's application.",
    "channel_id": "Channel of the venue's feed.",
    "maturity_year": "Year of maturity.",
    "leg_count": "Legs of a spread; 0: it is none.",
    "leg_ratio_price_numerator": "The leg: numerator of its price ratio.",
    "leg_ratio_price_denominator": "The leg: denominator of its price ratio.",
    "leg_ratio_qty_numerator": "The leg: numerator of its quantity ratio.",
    "leg_ratio_qty_denominator": "The leg: denominator of its quantity ratio.",
}
_SMALL: Final = {
    "maturity_month": "Month of maturity.",
    "maturity_day": "Day of maturity.",
    "maturity_week": "Week of maturity.",
    "underlying_product": "The venue's number of the product's kind.",
    "contract_multiplier_unit": "Whether the multiplier is hours or days.",
    "flow_schedule_type": "Schedule on which electricity is delivered.",
    "tick_rule": "The venue's number of the rule for price steps.",
    "main_fraction": "Denominator of prices shown as fractions.",
    "sub_fraction": "Denominator of the fractions' fractions.",
    "price_display_format": "The venue's number for how prices are shown.",
}


def _columns() -> list[Column]:
    kinds = (
        (_TEXTS, TEXT),
        (_TIMES, NANOSECONDS),
        (_DECIMALS, DECIMAL),
        (_LONGS, INT64),
        (_INTEGERS, INT32),
        (_SMALL, INT16),
    )
    return [Column(name, kind, doc, null=True) for docs, kind in kinds for name, doc in docs.items()]


DECLARED: Final = (
    Schema(
        name="definition",
        doc="What an instrument is: prices, limits, expiry, legs. Venues repeat it when a day or week begins.",
        time="ts_recv",
        columns=(
            Column("ts_recv", NANOSECONDS, "When the vendor's capture received the record."),
            VENUE,
            event("When the venue says it was defined; where it is repeated: long before ts_recv."),
            Column(
                "leg_index", INT32, "Which leg of a spread the row describes, from 0; 0 where it is none.", absent=0
            ),
            *_columns(),
        ),
        identity=("venue", "leg_index"),
        repeats=True,
        nanoseconds=True,
        revisable=False,
        chunk=30 * DAY,
    ),
)
