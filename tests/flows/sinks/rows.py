"""Refined rows for the tests of destinations, and what a destination is to do with them, in a dict."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import ORDINAL
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas.base import Counts

MINUTES, DAYS, TRADES, STATISTICS = (
    SCHEMAS[name] for name in ("ohlcv-1m", "ohlcv-1d", "trades", "statistics")
)  # fmt: skip
AAPL, IBM = "vendor:equity:AAPL", "vendor:equity:IBM"
IDS = {AAPL: 7, IBM: 3}
START = datetime(2024, 1, 31, 23, 58, tzinfo=UTC)
NS = 1_000_000_000

Row = dict[str, Any]


def at(moment: datetime) -> int:
    """Nanoseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def table(schema: Schema, rows: Iterable[Row]) -> pa.Table:
    """A refined table: what a row does not say is 1, the column's absent value or null; times are nanoseconds."""
    rows = list(rows)
    arrays = []
    for kind in schema.arrow:
        default: Any = 1
        if kind.name in {column.name for column in schema.columns}:
            column = schema.column(kind.name)
            default = column.absent if column.absent is not None else None if column.null else 1
        elif kind.name == ORDINAL:
            default = 0
        values = [row.get(kind.name, default) for row in rows]
        if kind.name == INSTRUMENT:
            arrays.append(pa.array([row.get(INSTRUMENT, AAPL) for row in rows], pa.string()).dictionary_encode())
        elif kind.type == NANOSECONDS:
            arrays.append(pa.array(values, pa.int64()).cast(NANOSECONDS))
        elif kind.type == DECIMAL:
            arrays.append(pa.array([None if value is None else Decimal(value) for value in values], DECIMAL))
        elif kind.type == pa.string():
            arrays.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
        else:
            arrays.append(pa.array(values, kind.type))
    codes = arrays[0].indices.to_numpy()
    made = pa.table(arrays, names=schema.arrow.names)
    times = made[schema.time].cast(pa.int64()).to_numpy()
    return made.take(pa.array(np.lexsort((times, codes)))).cast(schema.arrow)


def minutes(closes: Sequence[Any], fetch: int = 1, start: datetime = START, **more: Any) -> pa.Table:
    """Bars of consecutive minutes."""
    return table(
        MINUTES,
        [
            {"ts_event": at(start) + 60 * NS * number, "close": close, "fetch_id": fetch} | more
            for number, close in enumerate(closes)
        ],
    )


def rows_of(found: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of a table as plain values, times in nanoseconds."""
    columns = []
    for column in found.columns:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        columns.append(column.to_pylist())
    return list(zip(*columns, strict=True))


@dataclass
class Model:
    """What a destination is to do, in a dict."""

    schema: Schema
    stored: dict[tuple[Any, ...], Row] = field(default_factory=dict)

    def write(self, written: pa.Table, replace: bool) -> Counts:
        counts = Counts()
        for values in rows_of(written):
            row = dict(zip(self.schema.arrow.names, values, strict=True))
            key = tuple(row[name] for name in self.schema.key)
            old = self.stored.get(key)
            if old is None:
                self.stored[key] = row
                counts += Counts(new=1)
                continue
            brought = {name: row[name] for name in self.schema.values if row[name] is not None}
            differs = any(old[name] != value for name, value in brought.items())
            if not self.schema.revisable:
                counts += Counts(unchanged=1)
            elif not replace:
                counts += Counts(superseded=1) if differs else Counts(unchanged=1)
            elif old["fetch_id"] > row["fetch_id"]:
                counts += Counts(superseded=1)
            elif differs:
                self.stored[key] = old | brought | {"fetch_id": row["fetch_id"]}
                counts += Counts(updated=1)
            else:
                counts += Counts(unchanged=1)
        return counts

    def rows(self, instruments: Mapping[str, int]) -> list[tuple[Any, ...]]:
        """The rows in the order a destination reads them: by the number of the instrument, then by key."""
        ordered = sorted(self.stored.items(), key=lambda item: (instruments[item[0][0]], item[0][1:]))
        return [tuple(row.values()) for _, row in ordered]
