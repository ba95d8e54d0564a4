"""Refine: every row comes out once, values are exact, repeats are numbered, nothing is repaired."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import SchemaMismatch
from catalog.schemas import DECIMAL
from catalog.schemas import SCHEMAS
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import Refined
from catalog.schemas.refine import refine

BARS = SCHEMAS["ohlcv-1d"]
TRADES = SCHEMAS["trades"]
NAME = "files:equity:AAPL"
FACTS = Facts(7, datetime(2024, 6, 1, tzinfo=UTC), frozenset({NAME}))


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


def bars(rows: list[dict[str, object]], **types: pa.DataType) -> pa.Table:
    """A raw table of bars; prices default to a valid bar of 10."""
    columns = {"open": "10", "high": "11", "low": "9", "close": "10", "volume": "5"}
    table = {
        "instrument": pa.array([NAME] * len(rows)).dictionary_encode(),
        "row": pa.array(range(len(rows)), pa.int64()),
        "ts_event": pa.array(
            [row.get("ts_event", day(2)) for row in rows], types.get("ts_event", pa.timestamp("us", "UTC"))
        ),
    }
    for name, value in columns.items():
        table[name] = pa.array([row.get(name, value) for row in rows], types.get(name))
    return pa.table(table)


def refined(table: pa.Table, schema: str = "ohlcv-1d", facts: Facts = FACTS) -> Refined:
    return refine(SCHEMAS[schema], table, facts, Ordinals())


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        pytest.param({"open": "abc"}, "open is not a number", id="text"),
        pytest.param({"open": "NaN"}, "open is not a finite number", id="nan"),
        pytest.param({"open": "-inf"}, "open is not a finite number", id="inf"),
        pytest.param({"open": "1e308"}, "open is beyond 20 digits before the point", id="1e308"),
        pytest.param({"open": "1_0"}, "open is not a number", id="underscore"),
        pytest.param({"open": "١٠"}, "open is not a number", id="arabic digits"),
        pytest.param({"open": " 10"}, "open is not a number", id="space"),
        pytest.param({"open": None}, "open is required", id="null"),
        pytest.param({"ts_event": None}, "ts_event is required", id="no time"),
        pytest.param({"high": "9.5"}, "high >= open; high >= close", id="high below open"),
        pytest.param({"low": "12", "high": "11"}, "high >= low; open >= low; close >= low", id="high below low"),
        pytest.param({"volume": "-1"}, "volume >= 0", id="negative volume"),
        pytest.param({"low": "0"}, "low > 0", id="zero price"),
        pytest.param({"ts_event": datetime(2024, 6, 3, tzinfo=UTC)}, "ts_event is not in the future", id="future"),
        pytest.param({"ts_event": datetime(2024, 1, 2, 5, tzinfo=UTC)}, "ts_event on the 1d grid", id="off the grid"),
    ],
)
def test_bad_row_is_rejected_with_its_rule_and_value(row: dict[str, object], rule: str) -> None:
    result = refined(bars([{"ts_event": day(3)}, row]))
    assert result.accepted.num_rows == 1
    (reject,) = result.rejected.to_pylist()
    assert reject["rule"] == rule
    assert reject["row"] == 1
    for name, value in row.items():
        if name in reject["reason"] and value is not None:
            assert str(value) in reject["reason"]


def test_negative_prices_are_fine_where_the_asset_class_allows_them() -> None:
    crude = bars([{"open": "-37.63", "high": "1", "low": "-40", "close": "-37.63"}])
    assert refined(crude, facts=Facts(1, FACTS.fetched_at)).accepted.num_rows == 1
    assert refined(crude).accepted.num_rows == 0


def test_one_bad_value_costs_its_own_row_only() -> None:
    result = refined(
        bars([{"ts_event": day(number), "close": "x" if number == 5 else "10.25"} for number in range(2, 9)])
    )
    assert result.accepted["close"].to_pylist() == [Decimal("10.25")] * 6
    assert result.rejected["row"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        pytest.param(pa.string(), "1e-10", "1e-10", id="exponent"),
        pytest.param(pa.string(), "0.123456789012345678", "0.123456789012345678", id="18 digits"),
        pytest.param(pa.float64(), 1e-10, "1e-10", id="small float"),
        pytest.param(pa.float64(), 0.1, "0.1", id="float means its shortest text"),
        pytest.param(pa.int64(), 2**62, str(2**62), id="large int"),
        pytest.param(pa.decimal128(19, 9), Decimal("1.000000001"), "1.000000001", id="fixed point"),
    ],
)
def test_numbers_keep_their_exact_value(kind: pa.DataType, value: object, expected: str) -> None:
    row = dict.fromkeys(("open", "high", "low", "close"), value)
    result = refined(bars([row], **dict.fromkeys(row, kind)))
    assert result.accepted["close"].to_pylist() == [Decimal(expected)]
    assert result.rounded == 0


def test_digits_beyond_the_eighteenth_are_rounded_half_even_and_counted() -> None:
    result = refined(
        bars([{"volume": "0.0000000000000000025"}, {"volume": "0.0000000000000000015", "ts_event": day(3)}])
    )
    assert result.accepted["volume"].to_pylist() == [Decimal("2E-18"), Decimal("2E-18")]
    assert result.rounded == 2


def test_missing_required_columns_are_all_named() -> None:
    with pytest.raises(SchemaMismatch, match=r"needs high, close; the data have: .*open.*"):
        refined(bars([{}]).drop_columns(["high", "close"]))


def test_naive_times_are_refused_by_the_whole() -> None:
    with pytest.raises(SchemaMismatch, match="aware times"):
        refined(bars([{}], ts_event=pa.timestamp("us")))


def test_same_row_twice_is_counted_once() -> None:
    result = refined(bars([{}, {}, {"ts_event": day(3)}]))
    assert (result.accepted.num_rows, result.duplicates, result.rejected.num_rows) == (2, 1, 0)


def test_rows_that_contradict_each_other_are_both_rejected() -> None:
    result = refined(bars([{"close": "10"}, {"close": "10.5"}, {"ts_event": day(3)}]))
    assert result.accepted["ts_event"].to_pylist() == [day(3)]
    assert result.rejected["row"].to_pylist() == [0, 1]
    assert set(result.rejected["rule"].to_pylist()) == {"one row for each key"}


def test_unsorted_rows_come_out_sorted_by_key() -> None:
    result = refined(bars([{"ts_event": day(number)} for number in (9, 3, 5)]))
    assert result.accepted["ts_event"].to_pylist() == [day(3), day(5), day(9)]


def test_nul_in_text_is_rejected() -> None:
    table = bars([{}, {"ts_event": day(3)}]).append_column("venue", pa.array(["a\x00b", "XNAS"]))
    result = refined(table)
    assert result.accepted["venue"].to_pylist() == ["XNAS"]
    assert "holds NUL" in result.rejected["rule"][0].as_py()


def trades(times: list[int], sequences: list[int], prices: list[int]) -> pa.Table:
    return pa.table(
        {
            "instrument": pa.array([NAME] * len(times)).dictionary_encode(),
            "row": pa.array(range(len(times)), pa.int64()),
            "ts_event": pa.array(times, pa.int64()).cast(pa.timestamp("ns", "UTC")),
            "sequence": pa.array(sequences, pa.int64()),
            "price": pa.array([Decimal(price) for price in prices], DECIMAL),
            "size": pa.array([Decimal(1)] * len(times), DECIMAL),
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_repeats_are_numbered_in_vendor_order_however_the_batches_are_cut(
    keys: list[tuple[int, int]], cuts: list[int]
) -> None:
    expected: dict[tuple[int, int], list[int]] = {}
    for position, key in enumerate(keys):
        expected.setdefault(key, []).append(position + 1)
    ordinals = Ordinals()
    found: dict[tuple[int, int], dict[int, int]] = {}
    edges = sorted({0, len(keys), *(cut for cut in cuts if cut < len(keys))})
    for low, high in pairwise(edges):
        part = trades([k[0] for k in keys[low:high]], [k[1] for k in keys[low:high]], list(range(low + 1, high + 1)))
        accepted = refine(TRADES, part, FACTS, ordinals).accepted.to_pylist()
        assert accepted == sorted(accepted, key=lambda row: row["ts_event"].value)
        for row in accepted:
            nanoseconds = row["ts_event"].value
            found.setdefault((nanoseconds, row["sequence"]), {})[row["ordinal"]] = int(row["price"])
    assert {key: [numbered[index] for index in range(len(numbered))] for key, numbered in found.items()} == expected


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=8),
    st.sampled_from(["by time", "by instrument", "newest first", "any"]),
    st.integers(1, 4),
)
def test_repeats_are_counted_whatever_the_order_of_rows_and_blocks(
    seed: int, blocks: list[tuple[int, int, int]], order: str, distinct: int
) -> None:
    random = np.random.default_rng(seed)
    ordinals, seen = Ordinals(), Counter[tuple[int, int, int]]()
    if order == "by time":
        blocks = sorted(blocks, key=lambda block: block[1])
    for size, first, width in blocks:
        time = random.integers(first, first + width, size)
        instrument, rest = random.integers(0, 3, size), random.integers(0, distinct, size)
        place = {
            "by time": np.argsort(time, kind="stable"),
            "by instrument": np.lexsort((time, instrument)),
            "newest first": np.argsort(-time, kind="stable"),
            "any": np.arange(size),
        }[order]
        keys = list(zip(time[place].tolist(), instrument[place].tolist(), rest[place].tolist(), strict=True))
        # one hash for one key, in no order
        hashes = np.array([(a * 1009 + b * 101 + c + 1) * 0x9E3779B97F4A7C15 % 2**64 for a, b, c in keys], np.uint64)
        expected = []
        for key in keys:
            expected.append(seen[key])
            seen[key] += 1
        assert ordinals.number(hashes, time[place]).tolist() == expected
    # eight bytes a row are all that is kept
    assert sum(block.hashes.nbytes for block in ordinals.blocks) == 8 * sum(size for size, _, _ in blocks)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "", "A", "B", "C", "N", "AB", "é", "a\x00b", "x" * 513]),
            st.sampled_from([None, "", "XNAS", "ARCX", "GLBX", "x" * 513]),
            st.integers(1, 5),
        ),
        max_size=12,
    ),
    st.lists(st.sampled_from(["A", "N", "unused", "\x00"]), max_size=3),
)
def test_texts_in_a_dictionary_are_refined_as_texts_are(
    rows: list[tuple[str | None, str | None, int]], more: list[str]
) -> None:
    def encoded(values: Sequence[str | None]) -> pa.Array:
        # a word may stand in a dictionary twice, or be of no row
        words, places = list(more), list[int | None]()
        for value in values:
            places.append(None if value is None else len(words))
            words += [] if value is None else [value]
        return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(words, pa.string()))

    moments = [row[2] for row in rows]
    sides, venues = [row[0] for row in rows], [row[1] for row in rows]
    for schema, plain in (
        (
            "trades",
            trades(moments, [1] * len(rows), [5] * len(rows)).append_column("side", pa.array(sides, pa.string())),
        ),
        ("ohlcv-1d", bars([{"ts_event": day(moment)} for moment in moments])),
    ):
        held = plain
        if schema == "trades":
            held = plain.set_column(plain.column_names.index("side"), "side", encoded(sides))
        one = refined(plain.append_column("venue", pa.array(venues, pa.string())), schema)
        other = refined(held.append_column("venue", encoded(venues)), schema)
        assert one.accepted.equals(other.accepted)
        assert one.rejected.equals(other.rejected)
        assert (one.duplicates, one.rounded) == (other.duplicates, other.rounded)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "ts_event": st.one_of(st.none(), st.integers(1, 28).map(day)),
                "close": st.one_of(
                    st.none(), st.sampled_from(["10", "10.0", "9.5", "x", "NaN", "1e400", "-1", "=cmd"])
                ),
                "volume": st.one_of(st.none(), st.sampled_from(["5", "-5", "1e-30", "💥"])),
            }
        ),
        max_size=30,
    )
)
def test_every_row_comes_out_exactly_once(rows: list[dict[str, object]]) -> None:
    result = refined(bars(rows, close=pa.string(), volume=pa.string()))
    assert result.accepted.num_rows + result.rejected.num_rows + result.duplicates == len(rows)
    assert result.accepted.schema == BARS.arrow
    keys = [tuple(row[name] for name in BARS.key) for row in result.accepted.to_pylist()]
    assert keys == sorted(set(keys))


def test_hashes_of_keys_are_the_same_in_every_process() -> None:
    ordinals = Ordinals()
    refine(TRADES, trades([1, 1], [2, 2], [3, 4]), FACTS, ordinals)
    (block,) = ordinals.blocks
    assert block.hashes.tolist() == [block.hashes[0]] * 2
    again = Ordinals()
    refine(TRADES, trades([1], [2], [9]), FACTS, again)
    assert again.blocks[0].hashes[0] == block.hashes[0]
    # what came as a dictionary, and beside another word, is the same key
    for venue in (pa.array(["", ""]), pa.array(["", "XNAS"]).dictionary_encode()):
        other = Ordinals()
        refine(TRADES, trades([1, 5], [2, 2], [9, 9]).append_column("venue", venue), FACTS, other)
        assert other.blocks[0].hashes[0] == block.hashes[0]


def event(schema: str, moment: datetime, **values: str) -> pa.Table:
    return pa.table(
        {
            "instrument": pa.array([NAME]).dictionary_encode(),
            "row": pa.array([0], pa.int64()),
            "ts_event": pa.array([moment], pa.timestamp("us", "UTC")),
            **{name: pa.array([value]) for name, value in values.items()},
        }
    )


def test_what_is_announced_may_lie_in_the_future() -> None:
    later = datetime(2024, 9, 1, tzinfo=UTC)
    dividend = refined(event("corporate_actions", later, kind="dividend", amount="0.25"), "corporate_actions")
    assert (dividend.accepted.num_rows, dividend.rejected.num_rows) == (1, 0)
    value = refined(event("market_cap", later, market_cap="1"), "market_cap")
    assert value.rejected["rule"].to_pylist() == ["ts_event is not in the future"]


def test_prose_is_longer_than_an_identifier() -> None:
    article = {"article_id": "1", "title": "t" * 5000}
    assert refined(event("news", day(1), **article), "news").accepted.num_rows == 1
    article["article_id"] = "1" * 5000
    assert refined(event("news", day(1), **article), "news").rejected["rule"].to_pylist() == [
        "article_id is holds NUL or is longer than 512 bytes"
    ]
