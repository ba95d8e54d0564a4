"""Markets to test with: bars made from seeds or written by hand."""

from collections.abc import Iterable
from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa

from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS

MINUTE = 60 * 1_000_000_000
# 2024-01-01T00:00Z, a Monday
START = 1_704_067_200 * 1_000_000_000


def walk(seed: int, rows: int) -> pa.Table:
    """Return bars of a random walk: float64, one minute apart."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, rows)))
    opened = np.append(close[:1], close[:-1])
    return bars(
        open=opened,
        high=np.maximum(opened, close) * (1 + np.abs(random.normal(0, 0.003, rows))),
        low=np.minimum(opened, close) * (1 - np.abs(random.normal(0, 0.003, rows))),
        close=close,
        volume=np.exp(random.normal(10, 1, rows)),
    )


def bars(step: int = MINUTE, start: int = START, **columns: Iterable[float | None]) -> pa.Table:
    """Return rows `step` nanoseconds apart."""
    arrays = {name: pa.array(list(column), pa.float64()) for name, column in columns.items()}
    return pa.table({"ts_event": times(len(next(iter(arrays.values()))), step, start), **arrays})


def times(rows: int, step: int = MINUTE, start: int = START) -> pa.Array:
    """Return instants `step` nanoseconds apart."""
    return pa.array(np.arange(rows) * step + start).cast(NANOSECONDS)


def decimals(instants: Iterable[str | int], **columns: Iterable[str | int | None]) -> pa.Table:
    """Return rows of exact numbers written as text, at instants written as ISO text or nanoseconds."""
    moments = [
        np.datetime64(instant.rstrip("Z"), "ns").astype(int) if isinstance(instant, str) else instant
        for instant in instants
    ]
    arrays = {name: exact(column, pa.int64() if name == "trade_count" else DECIMAL) for name, column in columns.items()}
    return pa.table({"ts_event": pa.array(moments, pa.int64()).cast(NANOSECONDS), **arrays})


def exact(values: Iterable[str | int | None], kind: pa.DataType = DECIMAL) -> pa.Array:
    """Return exact numbers."""
    number = int if kind == pa.int64() else Decimal
    return pa.array([None if value is None else number(value) for value in values], kind)


def stamps(table: pa.Table) -> list[str]:
    """Return the times as text without fraction."""
    return [
        str(np.datetime64(value, "s")) + "Z" for value in table["ts_event"].cast(pa.int64()).to_numpy().astype("M8[ns]")
    ]


def texts(table: pa.Table) -> Mapping[str, list[str | None]]:
    """Return decimals as text without trailing zeros."""
    return {
        name: [None if value is None else f"{Decimal(value).normalize():f}" for value in table[name].to_pylist()]
        for name in table.column_names[1:]
    }
