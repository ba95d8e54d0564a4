"""Choosing the column that an indicator of one input reads."""

from dataclasses import dataclass

import pyarrow as pa

from transforms.base import BaseTransformer
from transforms.columns import TIME
from transforms.columns import require


@dataclass(frozen=True, slots=True)
class Select(BaseTransformer):
    """The time and one column: `select(column='volume') | sma(window=20)`."""

    name = "select"

    column: str

    @property
    def warmup(self) -> int:
        """Nothing: each row stands alone."""
        return 0

    def reads(self, schema: pa.Schema) -> tuple[str, ...]:
        """Name of the column."""
        return (self.column,)

    def output(self, *inputs: pa.Schema) -> pa.Schema:
        """Return the two columns; ConfigError where there is no such column of numbers."""
        (schema,) = inputs
        require(self.name, schema, [self.column])
        return pa.schema([schema.field(TIME), schema.field(self.column)])

    def compute(self, *inputs: pa.Table) -> pa.Table:
        """Return the two columns."""
        return inputs[0].select([TIME, self.column])
