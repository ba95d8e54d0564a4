"""Exact decimals as text and as floats, a column at a time.

Arrow's own casts are not enough: to text it switches to exponents below 1e-6 (`1E-10`), and to float64 it is
slow and sometimes one bit off.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# a value v is stored as the integer v × 10^18; with at most nine digits after the point it divides by 10^9
_BILLION: Final = 1_000_000_000
_SHIFT: Final = 9
# 10^9 = 2^9 × 5^9, and 5^9 is odd, so that multiplying by its inverse divides exactly modulo 2^64
_INVERSE: Final = np.uint64(pow(5**_SHIFT, -1, 2**64))
_WORD: Final = 2.0**64
#: from so many values on it takes less time to look for repeats than to write each
_MANY: Final = 256


def to_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimals as plain digits: no exponent, no zeros at the end, `0` for zero."""
    return pa.chunked_array([_text(chunk) for chunk in column.chunks], pa.string())


def to_floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimal128(38, 18) as the nearest float64."""
    return pa.chunked_array([_floats(chunk) for chunk in column.chunks if len(chunk)], pa.float64())


def _text(array: pa.Array) -> pa.Array:
    if len(array) < _MANY:
        return _plain(array)
    # prices and sizes repeat: each is written once
    codes = array.dictionary_encode()
    return _plain(codes.dictionary).take(codes.indices)


def _plain(array: pa.Array) -> pa.Array:
    text = pc.cast(array, pa.string())
    exponents = pc.fill_null(pc.match_substring(text, "E"), False)
    if exponents.true_count:
        codes = array.filter(exponents).dictionary_encode()
        plain = pa.array([f"{value:f}" for value in codes.dictionary.to_pylist()], pa.string())
        text = pc.replace_with_mask(text, exponents, plain.take(codes.indices))
    return pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")


def _floats(array: pa.Array) -> pa.Array:
    words = np.frombuffer(array.buffers()[1], np.int64, 2 * len(array), 16 * array.offset)
    low, high = words[::2].view(np.uint64), words[1::2]
    billionths = low >> np.uint64(_SHIFT)
    billionths |= (high << (64 - _SHIFT)).view(np.uint64)
    billionths *= _INVERSE
    whole = billionths.view(np.int64)
    numerators = whole.astype(np.float64)
    # one division of two exact numbers rounds once, so it gives the nearest float
    exact = numerators.astype(np.int64) == whole
    exact &= (low & np.uint64(2**_SHIFT - 1)) == 0
    # a quotient that left 64 bits differs in the high word
    exact &= np.abs(numerators * _BILLION - high * _WORD) < 2 * _WORD
    floats = numerators / _BILLION
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if not exact.all():
        odd = np.flatnonzero(~exact)
        text = pc.cast(array.take(pa.array(odd)), pa.string())
        floats[odd] = pc.cast(text, pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(floats, mask=missing)
