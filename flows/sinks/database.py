"""Kind `database`: the stored rows of this project (SQLite, PostgreSQL or TimescaleDB, by DATABASE_URL)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any

import pyarrow as pa

from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.sinks.base import ReadableSink

if TYPE_CHECKING:
    from catalog.marketdata.store import Store


class DatabaseSink(ReadableSink):
    """Writes and reads through the store, on Django's own connection."""

    name = "database"
    label = "Database"
    doc = "One table for each schema in the database of the stored rows."

    @property
    def store(self) -> "Store":
        """The store; imported here because declarations must load without Django."""
        from catalog.marketdata.store import Store

        return Store()

    @property
    def shares_ledger(self) -> bool:
        return self.store.holds_catalog

    def unit(self) -> AbstractContextManager[Any]:
        return self.store.atomic()

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        return self.store.write(schema, table, self.target.ids, replace=replace)

    def read(
        self,
        schema: Schema,
        instruments: Sequence[str],
        start: datetime,
        end: datetime,
        *,
        exact: bool = False,
        columns: Sequence[str] = (),
    ) -> pa.Table:
        names = {self.target.ids[instrument]: instrument for instrument in instruments}
        return self.store.read(schema, names, start, end, exact=exact, columns=columns)

    def tail(self, schema: Schema, instrument: str, before: datetime, rows: int) -> datetime | None:
        return self.store.tail(schema, self.target.ids[instrument], before, rows)

    def extents(
        self, schema: Schema, instruments: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, tuple[datetime, datetime, int]]:
        names = {self.target.ids[instrument]: instrument for instrument in instruments}
        found = self.store.extents(schema, names, start, end)
        return {names[number]: extent for number, extent in found.items()}

    def delete(self, schema: Schema, instrument: str, start: datetime, end: datetime) -> int:
        return self.store.delete(schema, self.target.ids[instrument], start, end)
