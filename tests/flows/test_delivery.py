"""Tables that wait are written together where no statement would meet a key twice."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from catalog.schemas import schema
from flows.delivery import _together

TRADES = schema("trades")
key = st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.integers(0, 3))
tables = st.lists(st.sets(key, min_size=1, max_size=6).map(sorted), min_size=2, max_size=5)


def table(rows: list[tuple[str, int, int]]) -> pa.Table:
    given_values: dict[str, Any] = {
        "instrument": pa.array([name for name, _, _ in rows]).dictionary_encode(),
        "ts_event": pa.array([at for _, at, _ in rows], pa.int64()).cast(TRADES.arrow.field("ts_event").type),
        "trade_id": [str(number) for _, _, number in rows],
        "venue": [""] * len(rows),
        "sequence": [0] * len(rows),
        "ordinal": [0] * len(rows),
    }
    columns = [given_values.get(field.name, [None] * len(rows)) for field in TRADES.arrow]
    return pa.table(
        [one if isinstance(one, pa.Array) else pa.array(one, field.type)
         for one, field in zip(columns, TRADES.arrow, strict=True)], names=TRADES.arrow.names,
    )  # fmt: skip


@given(tables)
def test_tables_are_joined_if_no_key_is_in_two_of_them(found: list[list[tuple[str, int, int]]]) -> None:
    written = [one for _, one in _together([(TRADES, table(rows)) for rows in found])]
    everything = [row for rows in found for row in rows]
    apart = len(set(everything)) == len(everything)
    assert len(written) == (1 if apart else len(found))
    rows = [
        (row["instrument"], row["ts_event"].value, int(row["trade_id"])) for one in written for row in one.to_pylist()
    ]
    assert rows == everything
