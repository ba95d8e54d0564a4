"""Delimited text (CSV): blocks of whole records, every value as text, odd records rejected one by one.

Values are read as text and converted later: that is faster than typed reading (pyarrow parses a decimal column
twice as fast from text it already has) and a bad value then costs its own row only.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from catalog.errors import Damaged
from flows.formats.blocks import RawBlock
from flows.formats.blocks import Rejects

BLOCK_BYTES: Final = 8 << 20
# one record this long is no record: an unbalanced quote swallowed the rest of the file
_MAX_RECORD: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the text is written."""

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    null_values: tuple[str, ...] = ("",)
    skip_rows: int = 0


def read(stream: IO[bytes], dialect: Dialect, first_row: int = 0, block_bytes: int = BLOCK_BYTES) -> Iterator[RawBlock]:
    """Yield the records of a stream. Columns are named by the header, or `0`, `1`… where there is none."""
    names: list[str] = []
    row = first_row
    for number, block in enumerate(_blocks(stream, dialect.quote, block_bytes)):
        content = block
        if number == 0:
            content = content.removeprefix(b"\xef\xbb\xbf")
            for _ in range(dialect.skip_rows):
                content = content.partition(b"\n")[2]
            names, content = _names(content, dialect)
        if not content.strip(b"\r\n"):
            continue
        parsed = _parse(content, names, dialect, row)
        row += parsed.table.num_rows + parsed.rejected.num_rows
        yield parsed


def _names(content: bytes, dialect: Dialect) -> tuple[list[str], bytes]:
    """Return the column names and what follows the header."""
    end = _first_record(content, dialect.quote)
    record = content[:end].decode("utf-8", "replace").rstrip("\r\n")
    reader = csv.reader(io.StringIO(record, newline=""), delimiter=dialect.delimiter, quotechar=dialect.quote or None)
    cells = next(reader, [])
    if not dialect.header:
        return [str(position) for position in range(len(cells))], content
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Damaged(f"the header names {', '.join(map(repr, twice))} more than once")
    return names, content[end:]


def _first_record(content: bytes, quote: str) -> int:
    at = -1
    while True:
        at = content.find(b"\n", at + 1)
        if at < 0:
            return len(content)
        if not quote or content.count(quote.encode(), 0, at) % 2 == 0:
            return at + 1


def _blocks(stream: IO[bytes], quote: str, size: int) -> Iterator[bytes]:
    """Cut a stream at ends of records: a newline counts where the quotes before it are balanced."""
    rest = b""
    while piece := stream.read(size):
        content = rest + piece
        end = _last_record(content, quote)
        if end:
            yield content[:end]
        rest = content[end:]
        if len(rest) > _MAX_RECORD + size:
            # the quote that opened it is a stray one: give it to the parser, line by line
            end = rest.rfind(b"\n") + 1 or len(rest)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _last_record(content: bytes, quote: str) -> int:
    mark = quote.encode()
    open_quotes = content.count(mark) % 2 if quote else 0
    end = len(content)
    while True:
        at = content.rfind(b"\n", 0, end)
        if at < 0:
            return 0
        if quote:
            open_quotes = (open_quotes + content.count(mark, at, end)) % 2
        if not open_quotes:
            return at + 1
        end = at


def _parse(content: bytes, names: list[str], dialect: Dialect, first_row: int) -> RawBlock:
    try:
        table = _table(content, names, dialect)
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return _one_by_one(content, names, dialect, first_row)
    return RawBlock(table, pa.array(np.arange(first_row, first_row + table.num_rows), pa.int64()))


def _table(content: bytes, names: list[str], dialect: Dialect) -> pa.Table:
    return pa.csv.read_csv(
        pa.BufferReader(content),
        read_options=pa.csv.ReadOptions(column_names=names, block_size=max(len(content), 1)),
        parse_options=pa.csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            newlines_in_values=bool(dialect.quote) and dialect.quote.encode() in content,
            ignore_empty_lines=True,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(dialect.null_values),
            strings_can_be_null=True,
        ),
    )


def _one_by_one(content: bytes, names: list[str], dialect: Dialect, first_row: int) -> RawBlock:
    """Read a block with at least one odd record: wrong number of values, bytes that are no UTF-8, a stray quote."""
    rejects = Rejects()
    columns: list[list[str | None]] = [[] for _ in names]
    rows: list[int] = []
    nulls = set(dialect.null_values)
    row = first_row
    for record in _records(content, dialect.quote):
        line = record.rstrip(b"\r\n")
        if not line:
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            rejects.add(row, "text is UTF-8", str(error), line.decode("utf-8", "backslashreplace"))
            row += 1
            continue
        try:
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=dialect.delimiter, quotechar=dialect.quote or None,
                quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE, strict=True,
            )  # fmt: skip
            (cells,) = reader
        except (csv.Error, ValueError) as error:
            rejects.add(row, "record can be read", str(error), text)
            row += 1
            continue
        if len(cells) != len(names):
            rejects.add(row, f"record has {len(names)} values", f"it has {len(cells)}", text)
        else:
            rows.append(row)
            for column, cell in zip(columns, cells, strict=True):
                column.append(None if cell in nulls else cell)
        row += 1
    table = pa.table([pa.array(column, pa.string()) for column in columns], names=names)
    return RawBlock(table, pa.array(rows, pa.int64()), rejects.table())


def _records(content: bytes, quote: str) -> Iterator[bytes]:
    """Yield records; one whose quotes never balance ends at its own line."""
    lines = content.splitlines(keepends=True) if not quote else content.split(b"\n")
    if not quote:
        yield from lines
        return
    mark = quote.encode()
    at = 0
    while at < len(lines):
        record = lines[at]
        step = at
        while record.count(mark) % 2 and step + 1 < len(lines) and len(record) < _MAX_RECORD:
            step += 1
            record += b"\n" + lines[step]
        if record.count(mark) % 2:
            record, step = lines[at], at
        yield record
        at = step + 1
