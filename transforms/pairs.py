"""Transformers of two inputs, joined where both have the same time."""

from abc import abstractmethod
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import DECIMAL
from transforms.base import BaseTransformer
from transforms.columns import TIME
from transforms.columns import exact
from transforms.columns import floats
from transforms.columns import require
from transforms.columns import require_order
from transforms.columns import sole


class Pair(BaseTransformer):
    """Two instruments' closes (or the only columns of two tables) to `[ts_event, <name>]`.

    Rows are those whose times both inputs have; the order of the inputs matters.
    """

    inputs = 2

    @property
    def warmup(self) -> int:
        """Nothing: each row stands alone."""
        return 0

    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the time and the one value."""
        for schema in inputs:
            require(self.name, schema, [_value(schema)])
        left, right = (schema.field(_value(schema)).type for schema in inputs)
        return pa.schema([inputs[0].field(TIME), pa.field(self.name, self.kind(left, right))])

    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the joined values in time order."""
        for table in inputs:
            require_order(self.name, table, distinct=True)
        left, right = (table.select([TIME, _value(table.schema)]).rename_columns([TIME, "value"]) for table in inputs)
        joined = left.join(right, TIME, join_type="inner", right_suffix="_right").sort_by(TIME)
        values = self.combine(joined["value"], joined["value_right"])
        return pa.table([joined[TIME], values], schema=self.output(*(table.schema for table in inputs)))

    @abstractmethod
    def kind(self, left: pa.DataType, right: pa.DataType) -> pa.DataType:
        """Return the type of the value."""

    @abstractmethod
    def combine(self, left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Return the value of each joined row, in the type that `kind` tells."""


@dataclass(frozen=True, slots=True)
class Spread(Pair):
    """Close of the first minus close of the second: exact where both are."""

    name = "spread"

    def kind(self, left: pa.DataType, right: pa.DataType) -> pa.DataType:
        """Return decimal for decimals, float64 where one is a float."""
        return DECIMAL if exact(left) and exact(right) else pa.float64()

    def combine(self, left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Subtract."""
        kind = self.kind(left.type, right.type)
        # one digit more than two decimals of 38 can differ by
        wide = pa.decimal256(39, 18) if kind == DECIMAL else kind
        return pc.subtract(left.cast(wide), right.cast(wide)).cast(kind)


@dataclass(frozen=True, slots=True)
class Ratio(Pair):
    """Close of the first over close of the second, as float64; null where the second is zero."""

    name = "ratio"

    def kind(self, left: pa.DataType, right: pa.DataType) -> pa.DataType:
        """Return float64: few quotients are decimals."""
        return pa.float64()

    def combine(self, left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Divide."""
        divisor = pa.array(floats(right))
        quotient = pc.divide(pa.array(floats(left)), divisor)
        return pc.if_else(pc.is_finite(quotient), quotient, pa.scalar(None, pa.float64()))


def _value(schema: pa.Schema) -> str:
    return "close" if "close" in schema.names else sole(schema) or "close"
