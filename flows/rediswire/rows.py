"""Rows as text and as Arrow IPC, whole columns at a time.

Every value is text, whatever its column: decimals are plain digits, times whole nanoseconds since 1970, floats
the shortest text that reads back the same. A null is left out. `instrument` is left out: the key names it.
"""

import io
import json
from collections.abc import Iterable
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any
from typing import Final
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from catalog.errors import Damaged
from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas.decimals import to_text
from flows.exports.facts import Owner

#: the fields of a stream's entry that holds many rows, and how many; no column has these names
PACK: Final = "arrow"
ROWS: Final = "rows"
_BLOCK_BYTES: Final = 1 << 20


class Lines:
    """Rows whose values are asked for as text; what was cut out of others can share theirs."""

    def __init__(self, rows: pa.Table) -> None:
        self._whole = rows
        self._start = 0
        self._count: int = rows.num_rows
        #: the texts of whole columns, for all that is cut out of these rows; None: they are made for each piece
        self._texts: dict[str, list[bytes | None]] | None = None

    def __len__(self) -> int:
        return self._count

    @cached_property
    def table(self) -> pa.Table:
        """The rows themselves."""
        whole = self._count == self._whole.num_rows
        return self._whole if whole else self._whole.slice(self._start, self._count)

    def shared(self) -> Self:
        """Return these rows so that a column becomes text once for all its pieces: where most of it is asked for."""
        self._texts = {}
        return self

    def prepare(self) -> None:
        """Make the texts that pieces share, before they are asked for."""
        if self._texts is not None:
            for name in self._whole.column_names:
                self.texts(name)

    def slice(self, start: int, count: int | None = None) -> "Lines":
        """Return a piece of the rows, as pyarrow's `slice` does."""
        piece = Lines(self._whole)
        piece._start = self._start + start
        piece._count = max(self._count - start if count is None else min(count, self._count - start), 0)
        piece._texts = self._texts
        return piece

    def lacks(self, name: str) -> bool:
        """Whether a column of these rows, or of those they were cut out of, has nulls."""
        return bool(self._whole[name].null_count)

    def texts(self, name: str) -> list[bytes | None]:
        """Return a column's values as text, in UTF-8."""
        if self._texts is None:
            return texts(self.table[name])
        if (found := self._texts.get(name)) is None:
            found = self._texts[name] = texts(self._whole[name])
        return found if self._count == len(found) else found[self._start : self._start + self._count]


def members(table: pa.Table) -> pa.Array:
    """Return each row as a JSON object, its columns in order; the same row gives the same bytes."""
    pieces = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = as_text(column)
        if pa.types.is_string(column.type):
            codes = cells.combine_chunks().dictionary_encode()
            quoted = [json.dumps(value, ensure_ascii=False) for value in codes.dictionary.to_pylist()]
            cells = pa.chunked_array([pa.array(quoted, pa.string()).take(codes.indices)])
            pieces.append(pc.binary_join_element_wise(f'"{name}":', cells, ""))
        else:
            pieces.append(pc.binary_join_element_wise(f'"{name}":"', cells, '"', ""))
    joined = pc.binary_join_element_wise(*pieces, ",", null_handling="skip")
    return _one(pc.binary_join_element_wise("{", joined, "}", ""), pa.string())


def from_members(owner: Owner, texts: Sequence[bytes], place: str) -> pa.Table:
    """Return the rows of JSON objects, in their order; Damaged where one is not such a row."""
    if not texts:
        return owner.columns.empty_table()
    names = pa.schema([pa.field(name, pa.string()) for name in owner.columns.names])
    lines = b"\n".join(texts) + b"\n"
    try:
        table = pa.json.read_json(
            io.BytesIO(lines),
            # a row is never cut in two
            read_options=pa.json.ReadOptions(use_threads=False, block_size=max(len(lines), _BLOCK_BYTES)),
            parse_options=pa.json.ParseOptions(explicit_schema=names, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException as error:
        raise Damaged(f"{place} holds what is not a row: {error}") from error
    if table.num_rows != len(texts):
        raise Damaged(f"{place} holds what is not a row: {len(texts)} members are {table.num_rows} rows")
    return _typed(owner, table, place)


def from_fields(owner: Owner, rows: Iterable[Sequence[bytes]], place: str) -> pa.Table:
    """Return the rows of lists of names and values in turn; Damaged where one is not such a row."""
    loaded = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    try:
        columns = [
            pa.array([row.get(name.encode()) for row in loaded], pa.binary()).cast(pa.string())
            for name in owner.columns.names
        ]
    except pa.ArrowException as error:
        raise Damaged(f"{place} holds what is not a row: {error}") from error
    return _typed(owner, pa.table(columns, names=owner.columns.names), place)


def pack(table: pa.Table) -> bytes:
    """Return rows as an Arrow IPC stream, not compressed: every implementation of Arrow reads it."""
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(content.getvalue())


def unpack(owner: Owner, content: bytes, place: str) -> pa.Table:
    """Return the rows of an Arrow IPC stream; Damaged where it is none or has other columns."""
    try:
        with pa.ipc.open_stream(content) as reader:
            return _complete(owner, reader.read_all().select(owner.columns.names).cast(owner.columns), place)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise Damaged(f"{place} holds a pack that cannot be read: {error}") from error


def from_entries(owner: Owner, entries: Sequence[Any], place: str) -> pa.Table:
    """Return the rows of a stream's entries, `(id, [name, value, …])`, in their order."""
    tables = [owner.columns.empty_table()]
    plain: list[Sequence[bytes]] = []
    for _, content in entries:
        if content[::2].count(PACK.encode()):
            if plain:
                tables.append(from_fields(owner, plain, place))
                plain = []
            packed = content[2 * content[::2].index(PACK.encode()) + 1]
            tables.append(unpack(owner, packed, place))
        else:
            plain.append(content)
    if plain:
        tables.append(from_fields(owner, plain, place))
    return pa.concat_tables(tables).combine_chunks()


def with_instrument(owner: Owner, table: pa.Table) -> pa.Table:
    """Return the rows as a refined table has them: the column `instrument` first."""
    codes = pa.array([0] * table.num_rows, pa.int32())
    instrument = pa.DictionaryArray.from_arrays(codes, pa.array([owner.instrument], pa.string()))
    return table.add_column(0, owner.schema.arrow.field(INSTRUMENT), instrument)


def dicts(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as plain values: Decimal, int, float, str, times as int nanoseconds; nulls are left out."""
    columns = []
    for column in table.columns:
        columns.append((column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist())
    return [
        {name: value for name, value in zip(table.column_names, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column's values as text."""
    if column.type == DECIMAL:
        return to_text(column)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return pc.cast(column, pa.string())


def texts(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return a column's values as text, in UTF-8."""
    # a view costs a third of a cast
    return list(chain.from_iterable(chunk.view(pa.binary()).to_pylist() for chunk in as_text(column).chunks))


def _typed(owner: Owner, table: pa.Table, place: str) -> pa.Table:
    """Turn columns of text into those of the schema."""
    arrays = []
    try:
        for field in owner.columns:
            column = table[field.name]
            if pa.types.is_timestamp(field.type):
                column = column.cast(pa.int64())
            arrays.append(column.cast(field.type))
    except pa.ArrowException as error:
        raise Damaged(f"{place} holds what is not a row of {owner.schema.name}: {error}") from error
    return _complete(owner, pa.table(arrays, schema=owner.columns), place)


def _complete(owner: Owner, table: pa.Table, place: str) -> pa.Table:
    for field in owner.columns:
        if not field.nullable and table[field.name].null_count:
            raise Damaged(f"{place} holds what is not a row of {owner.schema.name}: {field.name} is missing")
    return table


def _one(column: Any, kind: pa.DataType) -> pa.Array:
    """Return a column in one piece."""
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    return column
