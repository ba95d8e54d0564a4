from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schemas import DECIMAL
from catalog.schemas.decimals import to_floats
from catalog.schemas.decimals import to_text

attos = st.integers(1 - 10**38, 10**38 - 1)
# few digits after the point take the fast way, any number of them the other
few_digits = (st.integers(-(10**k), 10**k).map(lambda number, k=k: number * 10**k) for k in range(19))
numbers = st.one_of(attos, st.integers(-(10**20), 10**20), *few_digits)


def column(values: list[int | None]) -> pa.ChunkedArray:
    decimals = pa.array([None if value is None else Decimal(f"{value}e-18") for value in values], DECIMAL)
    # in two chunks, of which the second does not begin where its buffer does
    return pa.chunked_array([decimals.slice(0, len(values) // 2), decimals.slice(len(values) // 2)], DECIMAL)


@given(st.lists(st.none() | numbers))
def test_floats_are_the_nearest(values: list[int | None]) -> None:
    expected = [None if value is None else float(Decimal(f"{value}e-18")) for value in values]
    assert to_floats(column(values)).to_pylist() == expected


@given(st.lists(st.none() | numbers))
def test_text_is_plain_digits_and_exact(values: list[int | None]) -> None:
    found = to_text(column(values)).to_pylist()
    for text, value in zip(found, values, strict=True):
        if value is None:
            assert text is None
            continue
        assert Decimal(text) == Decimal(f"{value}e-18")
        assert not text.endswith(".")
        assert "E" not in text
        assert "." not in text or not text.endswith("0")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "0.000000000000000001"), (-(10**8), "-0.0000000001"), (10**20, "100"), (-(10**17), "-0.1")],
)
def test_text_has_no_exponent(value: int, text: str) -> None:
    assert to_text(column([value])).to_pylist() == [text]


def test_columns_without_rows() -> None:
    assert to_floats(column([])).type == pa.float64()
    assert to_text(pa.chunked_array([], DECIMAL)).type == pa.string()
