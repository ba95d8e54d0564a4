"""Refined tables as the columns of the database, and back. Pure.

In the database an instrument is its id, the time is cut into microseconds and, in schemas of ticks, the
nanoseconds below them; other times are int64 nanoseconds.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import numpy as np
import pgpq
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from catalog.marketdata.models import nanosecond_column
from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import Schema
from catalog.schemas.decimals import to_text

INSTRUMENT_ID: Final = "instrument_id"
MICROSECONDS: Final = pa.timestamp("us", "UTC")
# encoding in blocks keeps the encoder's buffer in the processor's cache
_ENCODE_ROWS: Final = 32_768


def to_columns(schema: Schema, table: pa.Table, ids: Mapping[str, int]) -> pa.Table:
    """Return a refined table as the database's columns."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if name == INSTRUMENT:
            columns[INSTRUMENT_ID] = _to_ids(column, ids)
        elif name == schema.time:
            nanoseconds = column.combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
            # floor, not truncation: before 1970 they differ
            microseconds = np.floor_divide(nanoseconds, 1000)
            columns[name] = pa.array(microseconds, pa.int64()).cast(MICROSECONDS)
            if schema.nanoseconds:
                below = (nanoseconds - microseconds * 1000).astype(np.int16)
                columns[nanosecond_column(schema)] = pa.array(below)
        elif column.type == NANOSECONDS:
            columns[name] = pc.cast(column, pa.int64())
        else:
            columns[name] = column
    return pa.table(columns)


def fields(schema: Schema, wanted: Sequence[str], *, exact: bool) -> dict[str, pa.DataType]:
    """Return the database's columns for those of a refined table, with the types to read them as."""
    found: dict[str, pa.DataType] = {}
    for name in wanted:
        if name == INSTRUMENT:
            found[INSTRUMENT_ID] = pa.int64()
        elif name == schema.time:
            found[name] = MICROSECONDS
            if schema.nanoseconds:
                found[nanosecond_column(schema)] = pa.int16()
        else:
            kind = schema.arrow.field(name).type
            kinds = {NANOSECONDS: pa.int64()} if exact else {NANOSECONDS: pa.int64(), DECIMAL: pa.float64()}
            found[name] = kinds.get(kind, kind)
    return found


def from_columns(schema: Schema, raw: pa.Table, wanted: Sequence[str], instruments: Mapping[int, str]) -> pa.Table:
    """Return the database's columns as a refined table."""
    columns: dict[str, Any] = {}
    for name in wanted:
        if name == INSTRUMENT:
            codes = raw[INSTRUMENT_ID].combine_chunks().dictionary_encode()
            names = pa.array([instruments[number] for number in codes.dictionary.to_pylist()], pa.string())
            columns[name] = pa.DictionaryArray.from_arrays(codes.indices, names)
        elif name == schema.time:
            nanoseconds = pc.multiply(pc.cast(raw[name], pa.int64()), 1000)
            if schema.nanoseconds:
                nanoseconds = pc.add(nanoseconds, pc.cast(raw[nanosecond_column(schema)], pa.int64()))
            columns[name] = pc.cast(nanoseconds, NANOSECONDS)
        elif schema.arrow.field(name).type == NANOSECONDS:
            columns[name] = pc.cast(raw[name], NANOSECONDS)
        else:
            columns[name] = raw[name]
    return pa.table(columns)


def encode(rows: pa.Table) -> Iterator[bytes]:
    """Yield rows as PostgreSQL's binary COPY takes them."""
    batches = rows.combine_chunks().to_batches(max_chunksize=_ENCODE_ROWS)
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    yield encoder.write_header()
    for batch in batches:
        yield encoder.write_batch(batch)
    yield encoder.finish()


def from_csv(content: bytearray, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Return what PostgreSQL's COPY wrote as CSV."""
    if not content:
        return pa.schema(types.items()).empty_table()
    return pa.csv.read_csv(
        pa.BufferReader(content),
        read_options=pa.csv.ReadOptions(column_names=list(types)),
        parse_options=pa.csv.ParseOptions(newlines_in_values=pa.string() in types.values()),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict(types), null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def to_tuples(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield rows as SQLite takes them: decimals and times as canonical text."""
    columns = []
    for column in rows.columns:
        if column.type == DECIMAL:
            column = to_text(column)
        elif pa.types.is_timestamp(column.type):
            # exactly the text Django writes: no fraction where there is none
            text = pc.strftime(pc.cast(column, pa.timestamp("us")), "%Y-%m-%d %H:%M:%S")
            whole = pc.ends_with(text, ".000000")
            column = pc.if_else(whole, pc.utf8_slice_codeunits(text, 0, 19), text)
        columns.append(column.to_pylist())
    return zip(*columns, strict=True)


def from_tuples(rows: Sequence[tuple[Any, ...]], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Return what SQLite answered, times and decimals as text."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays: dict[str, pa.Array] = {}
    for (name, kind), values in zip(types.items(), columns, strict=True):
        array = pa.array(values)
        if kind == MICROSECONDS:
            array = pc.cast(pc.cast(array, pa.string()), pa.timestamp("us"))
        arrays[name] = pc.cast(array, kind)
    return pa.table(arrays)


def _to_ids(column: pa.ChunkedArray, ids: Mapping[str, int]) -> pa.ChunkedArray:
    chunks = []
    for chunk in column.chunks:
        known = pa.array([ids[name] for name in chunk.dictionary.to_pylist()], pa.int64())
        chunks.append(known.take(chunk.indices))
    return pa.chunked_array(chunks, pa.int64())
