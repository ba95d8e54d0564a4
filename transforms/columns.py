"""Columns of Arrow tables as transforms need them: which there are, their numbers, their order."""

from collections.abc import Iterable
from typing import Final
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.schemas import NANOSECONDS

TIME: Final = "ts_event"

Floats: TypeAlias = npt.NDArray[np.float64]


def require(owner: str, schema: pa.Schema, names: Iterable[str]) -> None:
    """Raise ConfigError listing every column that is missing, or is not a number (the time: an instant)."""
    faults = []
    if TIME not in schema.names or schema.field(TIME).type != NANOSECONDS:
        faults.append(f"{owner}: needs the column {TIME} of type {NANOSECONDS}")
    for name in names:
        if name not in schema.names:
            faults.append(f"{owner}: column {name!r} is missing; have: {', '.join(schema.names)}")
        elif not numeric(schema.field(name).type):
            faults.append(f"{owner}: column {name!r} is {schema.field(name).type}; needs decimal, float or integer")
    if faults:
        raise ConfigError(*faults)


def numeric(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers."""
    return exact(kind) or pa.types.is_floating(kind)


def exact(kind: pa.DataType) -> bool:
    """Whether values of this type are exact numbers."""
    return bool(pa.types.is_decimal(kind) or pa.types.is_integer(kind))


def sole(schema: pa.Schema) -> str | None:
    """Return the only column besides the time, or None where there are several."""
    others = [name for name in schema.names if name != TIME]
    return others[0] if len(others) == 1 else None


def floats(column: pa.ChunkedArray) -> Floats:
    """Return the numbers as float64, nulls as NaN."""
    if pa.types.is_decimal(column.type):
        # arrow's direct cast is one bit off for 1 % of prices (3.614886 becomes 3.6148860000000003)
        column = column.cast(pa.string())
    values: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def require_order(owner: str, table: pa.Table, *, distinct: bool) -> None:
    """Raise SchemaMismatch unless the times are without null and in order, `distinct`: none twice."""
    if table[TIME].null_count:
        raise SchemaMismatch(f"{owner}: {table[TIME].null_count} rows have no {TIME}")
    times = table[TIME].cast(pa.int64()).to_numpy()
    steps = np.diff(times)
    wrong = np.flatnonzero(steps <= 0 if distinct else steps < 0)
    if wrong.size:
        row = int(wrong[0]) + 1
        raise SchemaMismatch(
            f"{owner}: row {row} at {table[TIME][row]} does not come after row {row - 1} at {table[TIME][row - 1]}; "
            "give the rows of one instrument (and one venue) in time order"
        )
