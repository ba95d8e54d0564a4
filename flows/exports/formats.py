"""How rows lie in a file: what the formats share, and Parquet.

A file holds the rows of one instrument and schema, sorted by key. It is written and read in blocks, so that
memory does not grow with it, and it says what is in it (`Facts`).
"""

import hashlib
from abc import ABC
from abc import abstractmethod
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import Damaged
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from flows.exports.facts import Facts
from flows.exports.facts import Owner
from flows.exports.facts import Summary
from flows.exports.partitions import replaced

#: rows of a block, and of a row group: a month of one symbol's minutes is two of them
BLOCK_ROWS: Final = 32_768
#: a window that holds every time
ALL_TIME: Final = (-(2**63), 2**63 - 1)
_METADATA: Final = b"dataflow"
_READ_BYTES: Final = 1 << 20


class Format(ABC):
    """Writes and reads the files of one format."""

    suffix: str

    @abstractmethod
    def blocks(
        self, path: Path, owner: Owner, window: tuple[int, int] = ALL_TIME, columns: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        """Yield the rows in `[start, end)` in order, some ten thousand at a time.

        `columns` limits the columns; the time must be one of them. Raises Damaged where the file is cut or
        another one's.
        """

    @abstractmethod
    def facts(self, path: Path, owner: Owner) -> Facts:
        """Return what a file holds, without reading its rows where possible."""

    @abstractmethod
    def verify(self, path: Path, owner: Owner) -> None:
        """Raise Damaged where the file is not, byte for byte, what was written."""

    @abstractmethod
    def described(self, path: Path) -> bool:
        """Whether the facts of a file are there and of its present state."""

    @abstractmethod
    def write(self, path: Path, owner: Owner, tables: Iterable[pa.Table]) -> None:
        """Write sorted rows, at least one, in place of the file; whole or not at all."""

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


class Parquet(Format):
    """Compressed with zstd; decimals exact, times in nanoseconds, facts in the footer under `dataflow`."""

    suffix = ".parquet"

    def __init__(self, level: int) -> None:
        self.level = level

    def blocks(
        self, path: Path, owner: Owner, window: tuple[int, int] = ALL_TIME, columns: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        with _opened(path, owner) as file:
            names = file.schema_arrow.names
            time = names.index(owner.schema.time)
            wanted = [name for name in names if name in columns] if columns else None
            for number in range(file.num_row_groups):
                spread = file.metadata.row_group(number).column(time).statistics
                if spread.min_raw < window[1] and spread.max_raw >= window[0]:
                    yield inside(file.read_row_group(number, columns=wanted), owner, window, columns)

    def facts(self, path: Path, owner: Owner) -> Facts:
        with _opened(path, owner) as file:
            return _read_facts(file)

    def verify(self, path: Path, owner: Owner) -> None:
        with _opened(path, owner) as file:
            # after the footer stand its length, in four bytes, and four letters
            footer = file.metadata.serialized_size + 8
            compare(path, path.stat().st_size - footer, _read_facts(file).sha256)

    def described(self, path: Path) -> bool:
        # they are a part of it
        return True

    def write(self, path: Path, owner: Owner, tables: Iterable[pa.Table]) -> None:
        summary = Summary(owner)
        encodings = _encodings(owner)
        with (
            replaced(path) as file,
            pq.ParquetWriter(
                file,
                owner.columns,
                compression="zstd",
                compression_level=self.level,
                use_dictionary=[name for name in owner.columns.names if name not in encodings],
                column_encoding=encodings,
                # others cost time and choose nothing: what is read is chosen by time
                write_statistics=[owner.schema.time],
            ) as writer,
        ):
            for block in even(tables):
                writer.write_table(block, row_group_size=BLOCK_ROWS)
                summary.add(block)
            # all but the footer is written
            facts = summary.facts(file.sha256.hexdigest())
            writer.add_key_value_metadata({_METADATA: facts.to_json()})


def even(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `BLOCK_ROWS`, the last one of what is left."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows < BLOCK_ROWS:
            continue
        joined = pa.concat_tables(waiting)
        whole = rows - rows % BLOCK_ROWS
        for start in range(0, whole, BLOCK_ROWS):
            yield joined.slice(start, BLOCK_ROWS).combine_chunks()
        waiting, rows = [joined.slice(whole)], rows - whole
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def inside(table: pa.Table, owner: Owner, window: tuple[int, int], columns: Sequence[str]) -> pa.Table:
    """Return the rows of a sorted block in `[start, end)`, with columns the file is too old to have."""
    types = pa.schema([field for field in owner.columns if not columns or field.name in columns])
    for field in types:
        if field.name not in table.column_names:
            absent = owner.schema.column(field.name).absent
            table = table.append_column(field, pa.repeat(pa.scalar(absent, field.type), table.num_rows))
    if window != ALL_TIME:
        start, stop = np.searchsorted(owner.times(table), window)
        table = table.slice(start, stop - start)
    return table if table.schema.equals(types) else table.select(types.names).cast(types)


def compare(path: Path, size: int, sha256: str) -> None:
    """Raise Damaged where the first bytes of a file have another digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (content := file.read(min(size, _READ_BYTES))):
            digest.update(content)
            size -= len(content)
    if digest.hexdigest() != sha256:
        raise Damaged(f"{path} is not what was written (sha256 differs); move it away")


def check(facts: Facts, path: Path, owner: Owner) -> Facts:
    """Return facts that are the owner's; raises Damaged where the file is another one's."""
    if (facts.instrument, facts.schema) != (owner.instrument, owner.schema.name):
        raise Damaged(
            f"{path} holds {facts.schema} of {facts.instrument},"
            f" not {owner.schema.name} of {owner.instrument}; move it away"
        )
    return facts


def _encodings(owner: Owner) -> dict[str, str]:
    """Return the columns that a dictionary makes slower or larger, with the encoding that suits them."""
    encodings = {}
    for field in owner.columns:
        if field.type == DECIMAL:
            # read in two thirds of the time, no larger after zstd
            encodings[field.name] = "PLAIN"
        elif field.type == NANOSECONDS or (field.name in owner.schema.identity and pa.types.is_integer(field.type)):
            encodings[field.name] = "DELTA_BINARY_PACKED"
    return encodings


@contextmanager
def _opened(path: Path, owner: Owner) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            check(_read_facts(file), path, owner)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error


def _read_facts(file: pq.ParquetFile) -> Facts:
    try:
        return Facts.from_json(file.metadata.metadata[_METADATA])
    except (KeyError, TypeError, ValueError) as error:
        raise pa.ArrowInvalid("its footer does not say what it holds") from error
