"""A destination in memory, for a look at the refined rows."""

from typing import Any

import pyarrow as pa

from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.sinks.base import Sink
from flows.sinks.base import Target


class Shelf(Sink):
    """Keeps what is written, for a look at the refined rows."""

    name = "shelf"
    label = "Shelf"

    def __init__(self) -> None:
        super().__init__({}, Target("shelf"))
        self.tables: list[pa.Table] = []

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        self.tables.append(table)
        return Counts(new=table.num_rows)

    def rows(self) -> list[dict[str, Any]]:
        return pa.concat_tables(self.tables).to_pylist() if self.tables else []
