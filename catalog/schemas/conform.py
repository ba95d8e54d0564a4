"""Converts a vendor's column to the type its schema declares, value by value where it must.

The whole column is cast at once; only when that fails are the distinct values looked at one by one, so
that one bad value costs its own row and nothing else. Nothing is repaired: a value either has an exact
meaning in the declared type or it is a fault. The one exception is declared and counted: digits beyond
the eighteenth after the point are rounded half-even.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN
from decimal import Context
from decimal import Decimal
from decimal import InvalidOperation
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import SchemaMismatch
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Column

_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_STEP: Final = Decimal("1e-18")
_DIGITS: Final = 20
_LIMIT: Final = Decimal(10) ** _DIGITS


@dataclass(frozen=True, slots=True)
class Conformed:
    """A converted column: `bad` marks the faulty rows (None: there are none), `rule` says why."""

    array: pa.Array
    bad: np.ndarray | None = None
    rule: str = ""
    rounded: int = 0


def conform(array: pa.Array, column: Column) -> Conformed:
    """Convert `array` to `column.type`; faulty values become null and are marked.

    Raises SchemaMismatch when the whole column has a kind that can never become the declared type.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type != column.type:
        convert = _converter(array, column)
        result = convert(array, column.type)
    else:
        result = Conformed(array)
    if column.type == TEXT:
        result = _check_text(result, column.longest)
    elif pa.types.is_floating(column.type):
        result = _check_finite(result)
    return result


def _converter(array: pa.Array, column: Column) -> Callable[[pa.Array, pa.DataType], Conformed]:
    kind, target = array.type, column.type
    if pa.types.is_timestamp(target):
        if pa.types.is_timestamp(kind) and kind.tz:
            return _to_nanoseconds
        raise SchemaMismatch(
            f"column {column.name!r} has times of type {kind}; accepted: aware times (say their unit, format and zone)"
        )
    if pa.types.is_null(kind):
        return lambda values, _: Conformed(pa.nulls(len(values), target))
    if target == TEXT:
        return _to_text
    if pa.types.is_floating(target):
        return _to_float
    if pa.types.is_floating(kind):
        return _floats_by_text
    if (
        pa.types.is_integer(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    ):
        return _to_number
    raise SchemaMismatch(f"column {column.name!r} has type {kind}, which cannot become {target}")


def _to_number(array: pa.Array, target: pa.DataType) -> Conformed:
    if _overflows(array):
        return _one_by_one(array, target)
    try:
        return Conformed(pc.cast(array, target))
    except pa.ArrowInvalid:
        return _one_by_one(array, target)


def _overflows(array: pa.Array) -> bool:
    """Whether some text may be a number so large that Arrow makes another one of it without a word (1e30)."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)) or not len(array):
        return False
    longest = pc.max(pc.binary_length(array)).as_py() or 0
    if longest > _DIGITS and pc.any(pc.match_substring_regex(array, f"[0-9]{{{_DIGITS + 1}}}")).as_py():
        return True
    # all texts lie in one buffer, which is looked through at once
    letters = array.buffers()[2]
    return letters is not None and any(sign in letters.to_pybytes() for sign in (b"e", b"E"))


def _floats_by_text(array: pa.Array, target: pa.DataType) -> Conformed:
    # a float's meaning is its shortest text: casting it straight to decimal turns 1e-10 into 0
    return _to_number(pc.cast(array, pa.string()), target)


def _one_by_one(array: pa.Array, target: pa.DataType) -> Conformed:
    codes = array.dictionary_encode()
    parsed: list[Decimal | int | None] = []
    bad_codes: list[bool] = []
    rounded_codes: list[bool] = []
    reasons: set[str] = set()
    for value in codes.dictionary.to_pylist():
        number, reason, was_rounded = _parse_number(value, target)
        parsed.append(number)
        bad_codes.append(bool(reason))
        rounded_codes.append(was_rounded)
        if reason:
            reasons.add(reason)
    values = pa.array(parsed, target)
    indices = codes.indices
    bad = _take(bad_codes, indices)
    rounded = int(_take(rounded_codes, indices).sum())
    return Conformed(values.take(indices), bad if bad.any() else None, " or ".join(sorted(reasons)), rounded)


def _take(flags: list[bool], indices: pa.Array) -> np.ndarray:
    taken = pa.array(flags, pa.bool_()).take(indices)
    return np.asarray(pc.fill_null(taken, False).to_numpy(zero_copy_only=False))


def _parse_number(value: object, target: pa.DataType) -> tuple[Decimal | int | None, str, bool]:
    """Return the number, the fault if it is none, and whether digits were rounded away."""
    if value is None:
        return None, "", False
    text = str(value)
    # Decimal() accepts underscores, spaces and non-ASCII digits; a feed that sends those sends rubbish
    if not text.isascii() or "_" in text or text != text.strip():
        return None, "not a number", False
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None, "not a number", False
    if not number.is_finite():
        return None, "not a finite number", False
    if abs(number) >= _LIMIT:
        return None, "beyond 20 digits before the point", False
    if pa.types.is_integer(target):
        if number != number.to_integral_value():
            return None, "not a whole number", False
        bound = 2 ** (target.bit_width - 1)
        if not -bound <= number < bound:
            return None, f"beyond {target}", False
        return int(number), "", False
    exact = number.quantize(_STEP, context=_EXACT)
    if abs(exact) >= _LIMIT:
        return None, "beyond 20 digits before the point", False
    return exact, "", exact != number


def _to_nanoseconds(array: pa.Array, target: pa.DataType) -> Conformed:
    try:
        return Conformed(pc.cast(array, target))
    except pa.ArrowInvalid:
        low = pa.scalar(-(2**63) + 1, pa.int64()).cast(NANOSECONDS)
        high = pa.scalar(2**63 - 1, pa.int64()).cast(NANOSECONDS)
        inside = pc.and_(
            pc.greater(array, low.cast(array.type, safe=False)), pc.less(array, high.cast(array.type, safe=False))
        )
        kept = pc.if_else(inside, array, pa.scalar(None, array.type))
        bad = pc.and_(pc.is_valid(array), pc.invert(pc.fill_null(inside, True)))
        return Conformed(pc.cast(kept, target), bad.to_numpy(zero_copy_only=False), "outside 1677 to 2262")


def _to_text(array: pa.Array, target: pa.DataType) -> Conformed:
    return Conformed(pc.cast(array, target))


def _check_text(result: Conformed, longest: int) -> Conformed:
    array = result.array
    bad = pc.or_(pc.match_substring(array, "\x00"), pc.greater(pc.binary_length(array), longest))
    if not pc.any(bad).as_py():
        return result
    marks = pc.fill_null(bad, False)
    kept = pc.if_else(marks, pa.scalar(None, TEXT), array)
    return Conformed(kept, marks.to_numpy(zero_copy_only=False), f"holds NUL or is longer than {longest} bytes")


def _to_float(array: pa.Array, target: pa.DataType) -> Conformed:
    try:
        return Conformed(pc.cast(array, target, safe=False))
    except pa.ArrowInvalid:
        parsed = []
        for value in array.to_pylist():
            try:
                parsed.append(None if value is None else float(value))
            except ValueError:
                parsed.append(float("nan"))
        return Conformed(pa.array(parsed, target))


def _check_finite(result: Conformed) -> Conformed:
    bad = pc.fill_null(pc.invert(pc.is_finite(result.array)), False)
    if not pc.any(bad).as_py():
        return result
    kept = pc.if_else(bad, pa.scalar(None, result.array.type), result.array)
    return Conformed(kept, bad.to_numpy(zero_copy_only=False), "not a finite number")
