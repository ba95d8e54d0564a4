"""The fields of DBN records as the columns of our schemas: numpy to Arrow, a column at a time.

Undefined values become null: the largest value of a field's type (prices, times, quantities, numbers of a
definition), no text, the letter of a status that the venue does not give.
"""

from collections.abc import Callable
from collections.abc import Mapping
from functools import cache
from functools import partial
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from catalog.schemas import SCHEMAS
from catalog.schemas.base import TEXT

_NANO: Final = 1_000_000_000
_DAY: Final = 86_400 * _NANO
#: rows worked on at once, so that what lies between two steps stays in the processor's cache
_CACHED: Final = 1 << 14

Values = np.ndarray[Any, Any]
Reader = Callable[[Values], pa.Array]
#: our column -> the record's field and how it is read
Layout = Mapping[str, tuple[str, Reader]]
_Places = dict[str, tuple[str, Reader]]


def columns(schema: str, records: Values) -> dict[str, pa.Array]:
    """Return the columns of `schema`; those whose field a record of an older version lacks are left out."""
    names = records.dtype.names or ()
    return {name: read(records[field]) for name, (field, read) in LAYOUTS[schema].items() if field in names}


def times(values: Values, *, none: int | None = None) -> pa.Array:
    """Nanoseconds since 1970; undefined, and what lies beyond 2262, is null, and so is `none`."""
    signed = values.view(np.int64)
    empty = signed < 0 if none is None else (signed < 0) | (signed == none)
    return pa.array(signed, pa.int64(), mask=empty if empty.any() else None).cast(NANOSECONDS)


def days(values: Values) -> pa.Array:
    """Days since 1970 as times at 00:00Z."""
    stamps = pa.array(values.astype(np.int64) * _DAY, pa.int64(), mask=values == np.iinfo(values.dtype).max)
    return stamps.cast(NANOSECONDS)


def prices(values: Values) -> pa.Array:
    """Int64 in units of a billionth as decimals."""
    return _decimals(values, 1)


def quantities(values: Values) -> pa.Array:
    """Whole quantities as decimals."""
    return _decimals(values, _NANO)


def integers(values: Values, kind: pa.DataType, *, undefined: bool = False) -> pa.Array:
    """Whole numbers as `kind`; with `undefined` the largest of the field's type is null.

    What does not fit stays as it is, for refining to reject with its value.
    """
    empty = values == np.iinfo(values.dtype).max if undefined else None
    mask = empty if empty is not None and empty.any() else None
    array = pa.array(values, mask=mask)
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:
        return array


def letters(values: Values, *, none: bytes = b"\x00") -> pa.Array:
    """Single letters, as a dictionary; null where the byte is among `none`."""
    codes = np.ascontiguousarray(values).view(np.uint8)
    empty = np.logical_or.reduce([codes == code for code in none])
    return _words(pa.array(codes, mask=empty if empty.any() else None), chr)


def texts(values: Values) -> pa.Array:
    """Fixed-width texts; null where empty or one space."""
    codes = pa.array(values, pa.binary()).dictionary_encode()
    words = [word.decode("utf-8", "backslashreplace") for word in codes.dictionary.to_pylist()]
    known = pa.array([None if word in ("", " ") else word for word in words], TEXT)
    return known.take(codes.indices)


def named(values: Values, name: Callable[[int], str | None]) -> pa.Array:
    """Numbers by their names, as a dictionary."""
    return _words(pa.array(values), name)


def _words(numbers: pa.Array, name: Callable[[int], str | None]) -> pa.Array:
    codes = numbers.dictionary_encode()
    words = pa.array([name(number) for number in codes.dictionary.to_pylist()], TEXT)
    if words.null_count:
        # in a dictionary a null would be a word
        return words.take(codes.indices)
    return pa.DictionaryArray.from_arrays(codes.indices, words)


def _decimals(values: Values, units: int) -> pa.Array:
    """Return integers times `units` billionths as decimal128(38, 18), exactly."""
    rows = len(values)
    empty = values == np.iinfo(values.dtype).max
    if values.dtype == np.uint64 and bool((values[~empty] >= 2**63).any()):
        # no market trades as much: refining rejects it with its value
        return pa.array(values, mask=empty)
    halves = np.empty((rows, 2), np.int64)
    for start in range(0, rows, _CACHED):
        part = slice(start, start + _CACHED)
        _multiply(values[part].astype(np.int64), units, halves[part])
    validity = pa.array(~empty).buffers()[1] if empty.any() else None
    return pa.Array.from_buffers(DECIMAL, rows, [validity, pa.py_buffer(halves)])


def _multiply(values: Values, units: int, halves: Values) -> None:
    """Write values × units × 10^9 as 128-bit numbers: the lower 64 bits, the upper 64 bits.

    The lower half is the product modulo 2^64. The upper half comes from 32-bit halves of the value: none of the
    products leaves 64 bits, and shifts of signed numbers round down, which is what two's complement needs.
    """
    if units == _NANO:
        # a quantity below 9.2 × 10^9 times 10^9 still fits, and is then a price
        if len(values) and not -_SMALL < values.min() <= values.max() < _SMALL:
            whole = [int(value) * _NANO * _NANO for value in values]
            halves[:, 0] = [_signed(number) for number in whole]
            halves[:, 1] = [number >> 64 for number in whole]
            return
        values = values * _NANO
    np.multiply(values, _NANO, out=halves[:, 0])
    upper = (values & 0xFFFFFFFF) * _NANO
    upper >>= 32
    upper += (values >> 32) * _NANO
    np.right_shift(upper, 32, out=halves[:, 1])


_SMALL: Final = (2**63 - 1) // _NANO


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


@cache
def publisher(number: int) -> str | None:
    """Return the venue of a publisher id; its digits where the package knows none, nothing for 0."""
    if number in (0, 2**16 - 1):
        return None
    try:
        from databento.common.publishers import Publisher

        return str(Publisher.from_int(number).venue.value)
    except (ImportError, ValueError):
        return str(number)


@cache
def _word(enumeration: str, number: int) -> str:
    import databento_dbn

    try:
        return str(getattr(databento_dbn, enumeration).from_int(number).name).lower()
    except Exception:  # the package's own error class is not exported  # noqa: BLE001
        return str(number)


def _statistic(number: int) -> str:
    return _word("StatType", number)


_int16 = partial(integers, kind=pa.int16())
_int32 = partial(integers, kind=pa.int32())
_int64 = partial(integers, kind=pa.int64())
_venues = partial(named, name=publisher)
_flag = partial(letters, none=b"\x00~")

_HEAD: Final[_Places] = {"ts_event": ("ts_event", times), "venue": ("publisher_id", _venues)}
_RECEIVED: Final[_Places] = {"ts_recv": ("ts_recv", times)}
_SEQUENCE: Final[_Places] = {"sequence": ("sequence", _int64)}
_TRADE: Final[_Places] = {
    "price": ("price", prices),
    "size": ("size", quantities),
    "side": ("side", letters),
}
_FLAGS: Final[_Places] = {"flags": ("flags", _int16)}
_ACTION: Final[_Places] = {"action": ("action", letters), "ts_in_delta": ("ts_in_delta", _int32)}
_EVENT: Final[_Places] = _ACTION | _TRADE | _FLAGS
_BOOK: Final[_Places] = _HEAD | _RECEIVED | _SEQUENCE | _EVENT | {"depth": ("depth", _int16)}


def _level(field: str = "00", suffix: str = "", last: str = "count") -> _Places:
    readers: _Places = {"count": ("ct", _int64), "venue": ("pb", _venues)}
    code, read = readers[last]
    layout: _Places = {}
    for side in ("bid", "ask"):
        layout[f"{side}_price{suffix}"] = (f"{side}_px_{field}", prices)
        layout[f"{side}_size{suffix}"] = (f"{side}_sz_{field}", quantities)
        layout[f"{side}_{last}{suffix}"] = (f"{side}_{code}_{field}", read)
    return layout


_BAR: Final[_Places] = {name: (name, prices) for name in ("open", "high", "low", "close")}
_TRADES: Final[_Places] = _HEAD | _RECEIVED | _SEQUENCE | _TRADE
_SAMPLED: Final[_Places] = _HEAD | _RECEIVED | _TRADE | _FLAGS
_MBP10: Final[_Places] = {name: place for at in range(10) for name, place in _level(f"{at:02d}", f"_{at:02d}").items()}


def _definition() -> _Places:
    """Read each column by its declared type: they have the names of the record's fields."""
    readers: dict[pa.DataType, Reader] = {
        DECIMAL: prices,
        NANOSECONDS: lambda values: days(values) if values.dtype == np.uint16 else times(values),
        TEXT: lambda values: letters(values, none=b"\x00 ") if values.dtype.itemsize == 1 else texts(values),
    }
    layout: _Places = {}
    for column in SCHEMAS["definition"].columns:
        reader = readers.get(column.type) or partial(integers, kind=column.type, undefined=True)
        layout[column.name] = (column.name, reader)
    return layout | _HEAD | {"vendor_instrument_id": ("instrument_id", _int64)}


_IMBALANCE_PRICES: Final = (
    "ref_price",
    "cont_book_clr_price",
    "auct_interest_clr_price",
    "ssr_filling_price",
    "ind_match_price",
    "upper_collar",
    "lower_collar",
)
_IMBALANCE_SIZES: Final = ("paired_qty", "total_imbalance_qty", "market_imbalance_qty", "unpaired_qty")

LAYOUTS: Final[Mapping[str, Layout]] = {
    **{f"ohlcv-{name}": _HEAD | _BAR | {"volume": ("volume", quantities)} for name in ("1s", "1m", "1h", "1d", "eod")},
    "trades": _TRADES,
    "tbbo": _TRADES | _level(),
    "mbp-1": _BOOK | _level(),
    "mbp-10": _BOOK | _MBP10,
    "bbo-1s": _SAMPLED | _SEQUENCE | _level(),
    "bbo-1m": _SAMPLED | _SEQUENCE | _level(),
    "cmbp-1": _HEAD | _RECEIVED | _EVENT | _level(last="venue"),
    "tcbbo": _HEAD | _RECEIVED | _EVENT | _level(last="venue"),
    "cbbo-1s": _SAMPLED | _level(last="venue"),
    "cbbo-1m": _SAMPLED | _level(last="venue"),
    "mbo": _HEAD
    | _RECEIVED
    | _SEQUENCE
    | _EVENT
    | {"order_id": ("order_id", _int64), "channel_id": ("channel_id", _int32)},
    "statistics": _HEAD
    | _RECEIVED
    | _SEQUENCE
    | {
        "ts_ref": ("ts_ref", times),
        "statistic": ("stat_type", partial(named, name=_statistic)),
        "price": ("price", prices),
        "quantity": ("quantity", quantities),
        "channel_id": ("channel_id", _int32),
        "update_action": ("update_action", _int16),
        "stat_flags": ("stat_flags", _int16),
    },
    "status": _HEAD
    | _RECEIVED
    | {
        "action": ("action", partial(named, name=partial(_word, "StatusAction"))),
        "reason": ("reason", partial(named, name=partial(_word, "StatusReason"))),
        "trading_event": ("trading_event", partial(named, name=partial(_word, "TradingEvent"))),
        **{name: (name, _flag) for name in ("is_trading", "is_quoting", "is_short_sell_restricted")},
    },
    "imbalance": _HEAD
    | _RECEIVED
    # 0 is no time of an auction
    | {"auction_time": ("auction_time", partial(times, none=0))}
    | {name: (name, prices) for name in _IMBALANCE_PRICES}
    | {name: (name, quantities) for name in _IMBALANCE_SIZES}
    | {name: (name, _flag) for name in ("auction_type", "significant_imbalance")}
    | {name: (name, letters) for name in ("side", "unpaired_side")}
    | {name: (name, _int16) for name in ("auction_status", "freeze_status", "num_extensions")},
    "definition": _definition(),
}
