"""The only SQL of the project: upserts and reads of the stored rows, on Django's own connection.

PostgreSQL and TimescaleDB take binary COPY (pgpq), SQLite takes `executemany`; both through the same two
ways: straight in where the window is new, else a temporary stage and one upsert. A row is replaced only by
a fetch that is not older, and a null never replaces a value. No write deletes.
"""

import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final

import numpy as np
import pgpq
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from django.conf import settings
from django.db import connections
from django.db import transaction

from catalog.marketdata.models import MODELS
from catalog.marketdata.models import nanosecond_column
from catalog.schemas import DECIMAL
from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import Schema
from catalog.schemas.base import Counts

_MICROSECONDS: Final = pa.timestamp("us", "UTC")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# encoding in blocks keeps the encoder's buffer in the processor's cache
_ENCODE_ROWS: Final = 32_768
# above this many instruments one lock for the whole table is cheaper than one for each
_MAX_LOCKS: Final = 64


class Store:
    """The tables of one database alias."""

    def __init__(self, alias: str = "") -> None:
        self.alias = alias or settings.MARKET_ALIAS

    @property
    def connection(self) -> Any:
        """Django's connection of this thread."""
        return connections[self.alias]

    def atomic(self) -> AbstractContextManager[Any]:
        """A transaction; data and ledger rows written inside become durable together."""
        return transaction.atomic(using=self.alias)

    def write(self, schema: Schema, table: pa.Table, ids: Mapping[str, int], *, replace: bool = True) -> Counts:
        """Upsert the rows of a refined table (sorted, no key twice); `ids` maps instrument texts to ids.

        With `replace` false existing rows stay as they are, and those that differ count as superseded.
        """
        if not table.num_rows:
            return Counts()
        rows = to_columns(schema, table, ids)
        with self.atomic():
            span = _span(rows, schema)
            instruments = pc.unique(rows["instrument_id"]).to_pylist()
            if self.connection.vendor == "postgresql":
                self._lock(schema, instruments)
            if not self._occupied(schema, instruments, *span):
                self._insert(_table(schema), rows)
                return Counts(new=table.num_rows)
            return self._upsert(schema, rows, span, replace)

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
        fields = _database_fields(schema, wanted)
        ids = sorted(instruments)
        where, params = _window(schema, ids, start, end, self.connection.vendor)
        ordering = f" ORDER BY {', '.join(_key(schema))}" if order else ""
        names = ", ".join(_quoted(name) for name in fields)
        if self.connection.vendor == "postgresql":
            raw = self._copy_out(schema, names, fields, where, params, ordering, exact)
        else:
            with self.connection.cursor() as cursor:
                # as text: Django's converter would make a datetime of each time
                texts = names.replace(_quoted(schema.time), f"CAST({_quoted(schema.time)} AS text)", 1)
                cursor.execute(f"SELECT {texts} FROM {_table(schema)} WHERE {where}{ordering}", params)
                found = cursor.fetchall()
            raw = _from_text(schema, fields, found, exact)
        return _from_columns(schema, raw, wanted, instruments)

    def tail(self, schema: Schema, instrument: int, before: datetime, rows: int) -> datetime | None:
        """Return the time of the `rows`-th row before `before`, or of the first there is; None if there is none."""
        if rows <= 0:
            return before
        with self.connection.cursor() as cursor:
            time = _quoted(schema.time)
            cursor.execute(
                f"SELECT min({time}) FROM (SELECT {time} FROM {_table(schema)} WHERE instrument_id = %s"
                f" AND {time} < %s AND {time} >= %s ORDER BY {time} DESC LIMIT %s) AS tail",
                [instrument, self._moment(before), self._moment(datetime(1700, 1, 1, tzinfo=UTC)), rows],
            )
            (value,) = cursor.fetchone()
        return _parse_moment(value)

    def extents(
        self, schema: Schema, ids: Iterable[int], start: datetime, end: datetime
    ) -> dict[int, tuple[datetime, datetime, int]]:
        """Return first time, last time and number of rows of each instrument that has rows in `[start, end)`."""
        wanted = sorted(ids)
        if not wanted:
            return {}
        where, params = _window(schema, wanted, start, end, self.connection.vendor)
        time = _quoted(schema.time)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT instrument_id, min({time}), max({time}), count(*) FROM {_table(schema)}"
                f" WHERE {where} GROUP BY instrument_id",
                params,
            )
            found = cursor.fetchall()
        extents = {}
        for instrument, first, last, count in found:
            first_time, last_time = _parse_moment(first), _parse_moment(last)
            if first_time and last_time:
                extents[instrument] = (first_time, last_time, count)
        return extents

    def delete(self, schema: Schema, instrument: int, start: datetime, end: datetime) -> int:
        """Delete the rows of an instrument in `[start, end)`; returns how many. Only `manage.py delete` asks for it."""
        where, params = _window(schema, [instrument], start, end, self.connection.vendor)
        with self.atomic(), self.connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {_table(schema)} WHERE {where}", params)
            return int(cursor.rowcount)

    def _moment(self, moment: datetime) -> Any:
        return _moment(moment, self.connection.vendor)

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

    def _occupied(self, schema: Schema, instruments: Sequence[int], first: datetime, last: datetime) -> bool:
        where, params = _window(schema, instruments, first, last, self.connection.vendor)
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {_table(schema)} WHERE {where} LIMIT 1", params)
            return cursor.fetchone() is not None

    def _insert(self, target: str, rows: pa.Table) -> None:
        names = ", ".join(_quoted(name) for name in rows.column_names)
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "postgresql":
                with cursor.copy(f"COPY {target} ({names}) FROM STDIN WITH (FORMAT BINARY)") as copy:
                    for block in _encode(rows):
                        copy.write(block)
            else:
                marks = ", ".join(["?"] * rows.num_columns)
                # the sqlite3 cursor beneath Django's: `?` marks, no copying of the parameters
                cursor.cursor.connection.executemany(f"INSERT INTO {target} ({names}) VALUES ({marks})", _tuples(rows))

    def _upsert(self, schema: Schema, rows: pa.Table, span: tuple[datetime, datetime], replace: bool) -> Counts:
        table, stage = _table(schema), _quoted(f"stage_{schema.table_name}")
        self._stage(schema, table, stage, rows)
        vendor = self.connection.vendor
        key = _key(schema)
        join = " AND ".join(f"t.{name} = s.{name}" for name in key)
        # the bound on the time keeps the plan to the chunks concerned
        bound = f"t.{_quoted(schema.time)} >= %s AND t.{_quoted(schema.time)} < %s"
        window = [_moment(span[0], vendor), _moment(span[1], vendor)]
        values = [_quoted(name) for name in schema.values]
        names = ", ".join(_quoted(name) for name in rows.column_names)
        differs = " OR ".join(_distinct(f"coalesce(s.{name}, t.{name})", f"t.{name}", vendor) for name in values)
        with self.connection.cursor() as cursor:
            if not replace or not schema.revisable:
                superseded = 0
                if not replace and schema.revisable:
                    cursor.execute(
                        f"SELECT count(*) FROM {stage} s JOIN {table} t ON {join} AND {bound} WHERE {differs}", window
                    )
                    (superseded,) = cursor.fetchone()
                cursor.execute(
                    f"INSERT INTO {table} ({names}) SELECT {names} FROM {stage} s WHERE NOT EXISTS"
                    f" (SELECT 1 FROM {table} t WHERE {join} AND {bound}) ON CONFLICT DO NOTHING",
                    window,
                )
                new = cursor.rowcount
                return Counts(new=new, unchanged=rows.num_rows - new - superseded, superseded=superseded)
            cursor.execute(
                f"SELECT count(*), coalesce(sum(CASE WHEN t.{FETCH_ID} > s.{FETCH_ID} THEN 1 ELSE 0 END), 0)"
                f" FROM {stage} s JOIN {table} t ON {join} AND {bound}",
                window,
            )
            matched, superseded = (int(value) for value in cursor.fetchone())
            sets = ", ".join(f"{name} = coalesce(excluded.{name}, t.{name})" for name in values)
            changed = " OR ".join(
                _distinct(f"coalesce(excluded.{name}, t.{name})", f"t.{name}", vendor) for name in values
            )
            cursor.execute(
                f"INSERT INTO {table} AS t ({names}) SELECT {names} FROM {stage} WHERE true"
                f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}, {FETCH_ID} = excluded.{FETCH_ID}"
                f" WHERE t.{FETCH_ID} <= excluded.{FETCH_ID} AND ({changed})"
            )
            new = rows.num_rows - matched
            updated = cursor.rowcount - new
        return Counts(new, updated, matched - updated - superseded, superseded)

    def _stage(self, schema: Schema, table: str, stage: str, rows: pa.Table) -> None:
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "postgresql":
                cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table}) ON COMMIT DELETE ROWS")
                cursor.execute(f"TRUNCATE {stage}")
            else:
                cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {stage} AS SELECT * FROM {table} WHERE false")
                cursor.execute(f"DELETE FROM temp.{stage}")
        self._insert(stage, rows)
        if self.connection.vendor == "postgresql":
            with self.connection.cursor() as cursor:
                # autovacuum never sees a temporary table, and without statistics the join is planned for ten rows
                cursor.execute(f"ANALYZE {stage}")

    def _copy_out(
        self,
        schema: Schema,
        names: str,
        fields: Mapping[str, pa.DataType],
        where: str,
        params: list[Any],
        ordering: str,
        exact: bool,
    ) -> pa.Table:
        types = {
            name: _MICROSECONDS if name == schema.time else (kind if exact or kind != DECIMAL else pa.float64())
            for name, kind in fields.items()
        }
        with self.connection.cursor() as cursor, cursor.cursor.copy(
            f"COPY (SELECT {names} FROM {_table(schema)} WHERE {where}{ordering}) TO STDOUT WITH (FORMAT CSV)",
            params,
        ) as copy:
            content = b"".join(copy)
        if not content:
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        return pa.csv.read_csv(
            pa.BufferReader(content),
            read_options=pa.csv.ReadOptions(column_names=list(fields)),
            parse_options=pa.csv.ParseOptions(newlines_in_values=pa.string() in types.values()),
            convert_options=pa.csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )


def to_columns(schema: Schema, table: pa.Table, ids: Mapping[str, int]) -> pa.Table:
    """Return a refined table as the database's columns: ids for instruments, times cut in µs and ns."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if name == INSTRUMENT:
            columns["instrument_id"] = _to_ids(column, ids)
        elif name == schema.time:
            nanoseconds = column.combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
            # floor, not truncation: before 1970 they differ
            microseconds = np.floor_divide(nanoseconds, 1000)
            columns[name] = pa.array(microseconds, pa.int64()).cast(_MICROSECONDS)
            if schema.nanoseconds:
                below = (nanoseconds - microseconds * 1000).astype(np.int16)
                columns[nanosecond_column(schema)] = pa.array(below)
        elif column.type == NANOSECONDS:
            columns[name] = pc.cast(column, pa.int64())
        else:
            columns[name] = column
    return pa.table(columns)


def _to_ids(column: pa.ChunkedArray, ids: Mapping[str, int]) -> pa.ChunkedArray:
    chunks = []
    for chunk in column.chunks:
        known = pa.array([ids[name] for name in chunk.dictionary.to_pylist()], pa.int64())
        chunks.append(known.take(chunk.indices))
    return pa.chunked_array(chunks, pa.int64())


def _from_columns(schema: Schema, raw: pa.Table, wanted: Sequence[str], instruments: Mapping[int, str]) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in wanted:
        if name == INSTRUMENT:
            codes = raw["instrument_id"].combine_chunks().dictionary_encode()
            names = pa.array([instruments[number] for number in codes.dictionary.to_pylist()], pa.string())
            columns[name] = pa.DictionaryArray.from_arrays(codes.indices, names)
        elif name == schema.time:
            nanoseconds = pc.multiply(pc.cast(raw[name], pa.int64()), 1000)
            if schema.nanoseconds:
                nanoseconds = pc.add(nanoseconds, pc.cast(raw[nanosecond_column(schema)], pa.int64()))
            columns[name] = pc.cast(nanoseconds, NANOSECONDS)
        elif name in schema.arrow.names and schema.arrow.field(name).type == NANOSECONDS:
            columns[name] = pc.cast(raw[name], NANOSECONDS)
        else:
            columns[name] = raw[name]
    return pa.table(columns)


def _from_text(schema: Schema, fields: Mapping[str, pa.DataType], rows: list[Any], exact: bool) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in fields]
    arrays: dict[str, pa.Array] = {}
    for (name, kind), values in zip(fields.items(), columns, strict=True):
        if name == schema.time:
            arrays[name] = pc.cast(pa.array(values, pa.string()), pa.timestamp("us")).cast(_MICROSECONDS)
        elif kind == DECIMAL:
            text = pa.array(values, pa.string())
            arrays[name] = pc.cast(text, DECIMAL if exact else pa.float64())
        else:
            arrays[name] = pa.array(values, kind)
    return pa.table(arrays)


def _database_fields(schema: Schema, wanted: Sequence[str]) -> dict[str, pa.DataType]:
    fields: dict[str, pa.DataType] = {}
    for name in wanted:
        if name == INSTRUMENT:
            fields["instrument_id"] = pa.int64()
        elif name == schema.time:
            fields[name] = _MICROSECONDS
            if schema.nanoseconds:
                fields[nanosecond_column(schema)] = pa.int16()
        else:
            kind = schema.arrow.field(name).type
            fields[name] = pa.int64() if kind == NANOSECONDS else kind
    return fields


def _tuples(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield rows as SQLite takes them: decimals and times as canonical text."""
    columns = []
    for name in rows.column_names:
        column = rows[name]
        if column.type == DECIMAL:
            text = pc.cast(column, pa.string())
            column = pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")
        elif pa.types.is_timestamp(column.type):
            # exactly the text Django writes: no fraction where there is none
            text = pc.strftime(pc.cast(column, pa.timestamp("us")), "%Y-%m-%d %H:%M:%S")
            whole = pc.ends_with(text, ".000000")
            column = pc.if_else(whole, pc.utf8_slice_codeunits(text, 0, 19), text)
        columns.append(column.to_pylist())
    return zip(*columns, strict=True)


def _encode(rows: pa.Table) -> Iterator[bytes]:
    batches = rows.combine_chunks().to_batches(max_chunksize=_ENCODE_ROWS)
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    yield encoder.write_header()
    for batch in batches:
        yield encoder.write_batch(batch)
    yield encoder.finish()


def _span(rows: pa.Table, schema: Schema) -> tuple[datetime, datetime]:
    """First and last time, the end exclusive."""
    bounds = pc.min_max(pc.cast(rows[schema.time], pa.int64())).as_py()
    first = _EPOCH + timedelta(microseconds=bounds["min"])
    return first, _EPOCH + timedelta(microseconds=bounds["max"] + 1)


def _window(
    schema: Schema, ids: Sequence[int], start: datetime, end: datetime, vendor: str
) -> tuple[str, list[Any]]:
    time = _quoted(schema.time)
    bounds = [_moment(start, vendor), _moment(end, vendor)]
    if vendor == "postgresql":
        instruments = "instrument_id = %s" if len(ids) == 1 else "instrument_id = ANY(%s)"
        return f"{instruments} AND {time} >= %s AND {time} < %s", [ids[0] if len(ids) == 1 else list(ids), *bounds]
    # numbers are ours, and SQLite takes at most 32,766 parameters
    listed = ", ".join(str(int(number)) for number in ids)
    return f"instrument_id IN ({listed}) AND {time} >= %s AND {time} < %s", bounds


def _moment(moment: datetime, vendor: str) -> Any:
    if vendor == "postgresql":
        return moment
    return str(moment.astimezone(UTC).replace(tzinfo=None))


def _parse_moment(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def _distinct(left: str, right: str, vendor: str) -> str:
    return f"{left} IS NOT {right}" if vendor == "sqlite" else f"{left} IS DISTINCT FROM {right}"


def _key(schema: Schema) -> list[str]:
    names = MODELS[schema.name]._meta.pk.field_names  # type: ignore[union-attr]
    return [_quoted(name) for name in names]


def _table(schema: Schema) -> str:
    return _quoted(MODELS[schema.name]._meta.db_table)


def _quoted(name: str) -> str:
    # names come from the declarations only
    return f'"{name}"'


