"""The only SQL of the project: upserts and reads of the stored rows, on Django's own connection.

PostgreSQL and TimescaleDB take binary COPY (pgpq), SQLite takes `executemany`; both in the same two ways:
rows outside the times that are stored of their instrument go straight in, the others through a temporary
stage and one upsert. A row is replaced only by a fetch that is not older, and a null never replaces a value.
No write deletes.
"""

import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from itertools import pairwise
from typing import Any
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db import InterfaceError
from django.db import OperationalError
from django.db import connections
from django.db import transaction
from django.db.models import TextField

from catalog.errors import TransientError
from catalog.marketdata import columns as database
from catalog.marketdata.columns import INSTRUMENT_ID
from catalog.marketdata.columns import MICROSECONDS
from catalog.marketdata.models import MODELS
from catalog.schemas import FETCH_ID
from catalog.schemas import Schema
from catalog.schemas.base import Counts

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# before the first time that nanoseconds can name
_BEGINNING: Final = datetime(1677, 1, 1, tzinfo=UTC)
# above this many instruments one lock for the whole table is cheaper than one for each
_MAX_LOCKS: Final = 64
# a statement locks each chunk and its index; the server has 6,400 entries by default, for everybody
_MAX_CHUNKS: Final = 200

_FETCH_ROWS: Final = 1000

_Window = tuple[datetime, datetime]


class Store:
    """The tables of one database alias."""

    def __init__(self, alias: str = "") -> None:
        self.alias = alias or settings.MARKET_ALIAS

    @property
    def connection(self) -> Any:
        """Django's connection of this thread."""
        return connections[self.alias]

    @property
    def holds_catalog(self) -> bool:
        """Whether the catalog and the ledger are in the same database, and so in the same transactions."""
        return self.alias == DEFAULT_DB_ALIAS

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """A transaction; data and ledger rows written inside become durable together.

        Raises TransientError for what may not come again: a lost connection, a deadlock, a full disk.
        """
        try:
            with transaction.atomic(using=self.alias):
                yield
        except (OperationalError, InterfaceError) as error:
            raise TransientError(f"database {self.alias!r}: {error}") from error

    def write(self, schema: Schema, table: pa.Table, ids: Mapping[str, int], *, replace: bool = True) -> Counts:
        """Upsert the rows of a refined table (sorted, no key twice); `ids` maps instrument texts to ids.

        With `replace` false existing rows stay as they are, and those that differ count as superseded.
        """
        if not table.num_rows:
            return Counts()
        rows = database.to_columns(schema, table, ids)
        instruments = pc.unique(rows[INSTRUMENT_ID]).to_pylist()
        with self.atomic():
            if self._is_postgresql:
                self._lock(schema, instruments)
            known = self._among_stored(schema, rows, instruments)
            new = rows.filter(pc.invert(known))
            self._insert(_table(schema), new)
            return Counts(new=new.num_rows) + self._upsert(schema, rows.filter(known), replace)

    def read(
        self,
        schema: Schema,
        instruments: Mapping[int, str],
        start: datetime,
        end: datetime,
        *,
        exact: bool = False,
        columns: Sequence[str] = (),
        order: bool = True,
    ) -> pa.Table:
        """Return the rows of the instruments in `[start, end)`, sorted by key.

        Prices are float64, or decimals with `exact`. `columns` limits the columns returned beyond the key.
        """
        wanted = [name for name in schema.arrow.names if not columns or name in columns or name in schema.key]
        types = database.fields(schema, wanted, exact=exact)
        ordering = f" ORDER BY {', '.join(self._ordering(schema))}" if order else ""
        parts = []
        for window in self._windows(schema, (start, end)):
            where, params = self._where(schema, sorted(instruments), window)
            parts.append(self._fetch(schema, types, f"{where}{ordering}", params))
        raw = pa.concat_tables(parts)
        if order and len(parts) > 1 and len(instruments) > 1:
            # stable: inside an instrument the parts are in order of time
            raw = raw.take(pc.sort_indices(raw, [(INSTRUMENT_ID, "ascending")]))
        return database.from_columns(schema, raw, wanted, instruments)

    def tail(self, schema: Schema, instrument: int, before: datetime, rows: int) -> datetime | None:
        """Return the time of the `rows`-th row before `before`, or of the first there is; None if there is none."""
        if rows <= 0:
            return before
        time = _quoted(schema.time)
        found = None
        for window in reversed(self._windows(schema, (_BEGINNING, before))):
            where, params = self._where(schema, [instrument], window)
            with self.connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT count(*), min({time}) FROM (SELECT {time} FROM {_table(schema)} WHERE {where}"
                    f" ORDER BY {time} DESC LIMIT %s) AS tail",
                    [*params, rows],
                )
                count, first = cursor.fetchone()
            rows -= count
            found = _time(first) if count else found
            if not rows:
                break
        return found

    def extents(
        self, schema: Schema, ids: Iterable[int], start: datetime, end: datetime
    ) -> dict[int, tuple[datetime, datetime, int]]:
        """Return first time, last time and number of rows of each instrument that has rows in `[start, end)`."""
        wanted = sorted(ids)
        time = _quoted(schema.time)
        extents: dict[int, tuple[datetime, datetime, int]] = {}
        for window in self._windows(schema, (start, end)) if wanted else ():
            where, params = self._where(schema, wanted, window)
            with self.connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT instrument_id, min({time}), max({time}), count(*) FROM {_table(schema)}"
                    f" WHERE {where} GROUP BY instrument_id",
                    params,
                )
                for instrument, first, last, rows in cursor.fetchall():
                    earliest, _, before = extents.get(instrument, (_time(first), None, 0))
                    extents[instrument] = (earliest, _time(last), before + rows)
        return extents

    def delete(self, schema: Schema, instrument: int, start: datetime, end: datetime) -> int:
        """Delete the rows of an instrument in `[start, end)`; returns how many. Only `manage.py delete` asks for it."""
        where, params = self._where(schema, [instrument], (start, end))
        deleted = 0
        with self.atomic(), self.connection.cursor() as cursor:
            if self._is_postgresql:
                self._lock(schema, [instrument])
            # chunk by chunk: a DELETE of the whole would lock every chunk there is
            for table, _ in self._chunks(schema, (start, end)):
                cursor.execute(f"DELETE FROM {table} WHERE {where}", params)
                deleted += cursor.rowcount
        return deleted

    @property
    def _is_postgresql(self) -> bool:
        return bool(self.connection.vendor == "postgresql")

    def _lock(self, schema: Schema, instruments: Sequence[int]) -> None:
        """Let two writers of one instrument wait for each other; others pass."""
        table = zlib.crc32(schema.table_name.encode())
        with self.connection.cursor() as cursor:
            if len(instruments) > _MAX_LOCKS:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [table])
                return
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [table])
            locks = sorted((table << 31) ^ instrument for instrument in instruments)
            cursor.execute("SELECT pg_advisory_xact_lock(id) FROM unnest(%s::bigint[]) AS id", [locks])

    def _among_stored(self, schema: Schema, rows: pa.Table, instruments: Sequence[int]) -> pa.Array:
        """Mark the rows between the first and the last time that are stored of their instrument in the rows' span."""
        time = _quoted(schema.time)
        found = f"FROM {_table(schema)} WHERE instrument_id = column1 AND {time} >= %s AND {time} < %s"
        listed = ", ".join(f"({int(number)})" for number in instruments)
        with self.connection.cursor() as cursor:
            # two steps down the key's index for each instrument
            cursor.execute(
                f"SELECT column1, (SELECT min({time}) {found}), (SELECT max({time}) {found})"
                f" FROM (VALUES {listed}) AS wanted",
                [self._moment(bound) for bound in _span(schema, rows)] * 2,
            )
            stored = [row for row in cursor.fetchall() if row[1] is not None]
        at = pc.index_in(rows[INSTRUMENT_ID], pa.array([number for number, _, _ in stored], pa.int64()))
        first, last = (
            pa.array([_time(row[place]) for row in stored], MICROSECONDS).take(at.combine_chunks()) for place in (1, 2)
        )
        times = rows[schema.time]
        between = pc.and_(pc.greater_equal(times, first), pc.less_equal(times, last))
        return pc.fill_null(between, False)

    def _insert(self, target: str, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        names = _listed(rows.column_names)
        # the drivers' own cursors beneath Django's: COPY with parameters, `?` marks
        with self.connection.cursor() as cursor:
            if self._is_postgresql:
                with cursor.cursor.copy(f"COPY {target} ({names}) FROM STDIN WITH (FORMAT BINARY)") as copy:
                    for block in database.encode(rows):
                        copy.write(block)
            else:
                marks = ", ".join(["?"] * rows.num_columns)
                insert = f"INSERT INTO {target} ({names}) VALUES ({marks})"
                cursor.cursor.connection.executemany(insert, database.to_tuples(rows))

    def _upsert(self, schema: Schema, rows: pa.Table, replace: bool) -> Counts:
        if not rows.num_rows:
            return Counts()
        stage = self._stage(schema, rows)
        table = _table(schema)
        names = _listed(rows.column_names)
        # the bounds keep the plan to the chunks and instruments concerned
        bounds, params = self._where(schema, pc.unique(rows[INSTRUMENT_ID]).to_pylist(), _span(schema, rows), "t.")
        same = " AND ".join(f"t.{name} = s.{name}" for name in _key(schema)) + f" AND {bounds}"
        insert_missing = (
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {stage} s"
            f" WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE {same})"
        )
        with self.connection.cursor() as cursor:
            if not schema.revisable:
                cursor.execute(insert_missing, params)
                return Counts(new=cursor.rowcount, unchanged=rows.num_rows - cursor.rowcount)
            cases = (f"t.{FETCH_ID} > s.{FETCH_ID}", self._differs(schema, "s"), self._revises(schema, "s"))
            tallies = ", ".join(f"coalesce(sum(CASE WHEN {case} THEN 1 ELSE 0 END), 0)" for case in cases)
            # SQLite would go through the table and look for each row in the stage, which has no index; CROSS says no
            join = "JOIN" if self._is_postgresql else "CROSS JOIN"
            cursor.execute(f"SELECT count(*), {tallies} FROM {stage} s {join} {table} t ON {same}", params)
            matched, older, differing, revised = (int(count) for count in cursor.fetchone())
            new = rows.num_rows - matched
            updated, superseded = (revised, older) if replace else (0, differing)
            if updated:
                # no UPDATE: it would lock every chunk there is
                sets = ", ".join(f"{name} = coalesce(excluded.{name}, t.{name})" for name in _values(schema))
                cursor.execute(
                    f"INSERT INTO {table} AS t ({names}) SELECT {names} FROM {stage} WHERE true"
                    f" ON CONFLICT ({', '.join(_key(schema))}) DO UPDATE SET {sets}, {FETCH_ID} = excluded.{FETCH_ID}"
                    f" WHERE {self._revises(schema, 'excluded')}"
                )
            elif new:
                cursor.execute(insert_missing, params)
        return Counts(new, updated, matched - updated - superseded, superseded)

    def _stage(self, schema: Schema, rows: pa.Table) -> str:
        """Put rows into a temporary table with the columns of the schema's; returns its name."""
        table, stage = _table(schema), _quoted(f"stage_{schema.table_name}")
        with self.connection.cursor() as cursor:
            if self._is_postgresql:
                cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table}) ON COMMIT DELETE ROWS")
                cursor.execute(f"TRUNCATE {stage}")
            else:
                cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {stage} AS SELECT * FROM {table} WHERE false")
                cursor.execute(f"DELETE FROM temp.{stage}")
            self._insert(stage, rows)
            if self._is_postgresql:
                # autovacuum never sees a temporary table, and without statistics the join is planned for ten rows
                cursor.execute(f"ANALYZE {stage} ({INSTRUMENT_ID}, {_quoted(schema.time)})")
        return stage

    def _fetch(self, schema: Schema, types: Mapping[str, pa.DataType], where: str, params: list[Any]) -> pa.Table:
        """Return the database's columns of the rows a condition selects, with these types."""
        with self.connection.cursor() as cursor:
            if not self._is_postgresql:
                # as text: Django's converter would make a datetime of each time
                names = _listed(types).replace(_quoted(schema.time), f"CAST({_quoted(schema.time)} AS text)", 1)
                cursor.execute(f"SELECT {names} FROM {_table(schema)} WHERE {where}", params)
                parts = [database.from_tuples([], types)]
                # few at a time: Python's garbage collector looks again and again at what is not yet converted
                while rows := cursor.fetchmany(_FETCH_ROWS):
                    parts.append(database.from_tuples(rows, types))
                return pa.concat_tables(parts)
            query = f"SELECT {_listed(types)} FROM {_table(schema)} WHERE {where}"
            content = bytearray()
            with cursor.cursor.copy(f"COPY ({query}) TO STDOUT WITH (FORMAT CSV)", params) as copy:
                # one message for each row: joined at once, since touching new memory is what costs
                for line in copy:
                    content += line
        return database.from_csv(content, types)

    def _windows(self, schema: Schema, window: _Window) -> list[_Window]:
        """Cut a range of time into parts that touch some hundred chunks each; in order."""
        start, end = window
        if end - start <= _MAX_CHUNKS * schema.chunk:
            return [window]
        starts = [chunk_start for _, chunk_start in self._chunks(schema, window)]
        return list(pairwise([start, *starts[_MAX_CHUNKS::_MAX_CHUNKS], end]))

    def _chunks(self, schema: Schema, window: _Window) -> list[tuple[str, datetime]]:
        """Return the tables that hold the rows of a range of time and where each begins; in order."""
        table = MODELS[schema.name]._meta.db_table
        if not self.connection.settings_dict["ENGINE"].endswith("timescale"):
            return [(_quoted(table), window[0])]
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT format('%%I.%%I', chunk_schema, chunk_name), range_start FROM timescaledb_information.chunks"
                " WHERE hypertable_schema = current_schema() AND hypertable_name = %s AND range_end > %s"
                " AND range_start < %s ORDER BY range_start",
                [table, *window],
            )
            chunks: list[tuple[str, datetime]] = cursor.fetchall()
        return chunks

    def _where(self, schema: Schema, ids: Sequence[int], window: _Window, alias: str = "") -> tuple[str, list[Any]]:
        time = f"{alias}{_quoted(schema.time)}"
        # the numbers are ours; SQLite takes at most 32,766 parameters
        listed = ", ".join(str(int(number)) for number in ids) or "NULL"
        where = f"{alias}instrument_id IN ({listed}) AND {time} >= %s AND {time} < %s"
        return where, [self._moment(bound) for bound in window]

    def _ordering(self, schema: Schema) -> list[str]:
        # by bytes, whatever the language of the database
        collation = ' COLLATE "C"' if self._is_postgresql else ""
        return [
            f"{_quoted(field.name)}{collation if isinstance(field, TextField) else ''}"
            for field in MODELS[schema.name]._meta.pk_fields
        ]

    def _moment(self, moment: datetime) -> Any:
        return moment if self._is_postgresql else str(moment.astimezone(UTC).replace(tzinfo=None))

    def _differs(self, schema: Schema, new: str) -> str:
        """Return the condition that a new row brings something to the stored row `t`; a null brings nothing."""
        distinct = "IS DISTINCT FROM" if self._is_postgresql else "IS NOT"
        return " OR ".join(f"coalesce({new}.{name}, t.{name}) {distinct} t.{name}" for name in _values(schema))

    def _revises(self, schema: Schema, new: str) -> str:
        """Return the condition that a new row takes the place of the stored row `t`."""
        return f"t.{FETCH_ID} <= {new}.{FETCH_ID} AND ({self._differs(schema, new)})"


def _span(schema: Schema, rows: pa.Table) -> _Window:
    """Return the first and the last time, the end exclusive."""
    bounds = pc.min_max(pc.cast(rows[schema.time], pa.int64())).as_py()
    first = _EPOCH + timedelta(microseconds=bounds["min"])
    return first, _EPOCH + timedelta(microseconds=bounds["max"] + 1)


def _time(value: datetime | str) -> datetime:
    """Return a time as the database answered it; SQLite has text."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value).replace(tzinfo=UTC)


def _key(schema: Schema) -> list[str]:
    return [_quoted(field.name) for field in MODELS[schema.name]._meta.pk_fields]


def _values(schema: Schema) -> list[str]:
    return [_quoted(name) for name in schema.values]


def _table(schema: Schema) -> str:
    return _quoted(MODELS[schema.name]._meta.db_table)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in names)


def _quoted(name: str) -> str:
    # names come from the declarations only
    return f'"{name}"'
