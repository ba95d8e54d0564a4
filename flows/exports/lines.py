"""The formats of text with one row a line, CSV and JSON lines, and the sidecar that each of their files has.

They alter no value. Decimals are plain digits (in JSON numbers, to be read as decimals), times are ISO 8601 in
UTC with nine digits after the second or none, null is an empty cell (the empty text is `""`) or `null`. A text
such as `=cmd` stays what it is: the files are for programs, and a spreadsheet is to be told that cells are text.

The sidecar `<name>.meta.json` holds the file's facts, its size and its time of change. It is written after the
file: where those two differ, a writer died between the two or somebody edited the file, and it is not believed.
"""

import gzip
import json
import re
from abc import abstractmethod
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from catalog.errors import Damaged
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from catalog.schemas.decimals import to_text
from flows.exports.facts import Facts
from flows.exports.facts import Owner
from flows.exports.facts import Summary
from flows.exports.formats import ALL_TIME
from flows.exports.formats import Format
from flows.exports.formats import check
from flows.exports.formats import compare
from flows.exports.formats import even
from flows.exports.formats import inside
from flows.exports.partitions import replaced

_PARSE_BYTES: Final = 4 << 20
_GZIP_LEVEL: Final = 6
# quotes, separators and ends of lines; the empty text would else be null
_CSV_QUOTED: Final = re.compile(r'[",\r\n]|\A\Z')


class Lines(Format):
    """Text; a subclass says what stands around and between the values."""

    null: str
    #: stands around a time
    quote: str

    def __init__(self, compressed: bool = False) -> None:
        self.compressed = compressed
        if compressed:
            self.suffix = f"{self.suffix}.gz"

    @abstractmethod
    def header(self, names: Sequence[str]) -> bytes:
        """Return what stands above the rows."""

    @abstractmethod
    def between(self, names: Sequence[str]) -> list[str]:
        """Return what stands before each value of a row, and after the last one."""

    @abstractmethod
    def text(self, value: str) -> str:
        """Return a text as it stands in the file."""

    @abstractmethod
    def batches(self, stream: Any, types: pa.Schema) -> Any:
        """Return a reader of record batches with these columns."""

    def blocks(
        self, path: Path, owner: Owner, window: tuple[int, int] = ALL_TIME, columns: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        types = pa.schema([field for field in owner.columns if not columns or field.name in columns])
        last = ALL_TIME[0]
        try:
            with (
                pa.input_stream(str(path), compression="gzip" if self.compressed else None) as stream,
                self.batches(stream, types) as batches,
            ):
                for batch in batches:
                    table = pa.Table.from_batches([batch])
                    times = owner.times(table)
                    if len(times) and (times[0] < last or (times[1:] < times[:-1]).any()):
                        raise Damaged(f"{path} is not sorted by {owner.schema.time}")
                    last = times[-1] if len(times) else last
                    yield inside(table, owner, window, columns)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error

    def facts(self, path: Path, owner: Owner) -> Facts:
        if facts := self._sidecar(path):
            return check(facts, path, owner)
        summary = Summary(owner)
        for block in self.blocks(path, owner):
            summary.add(block)
        return summary.facts()

    def verify(self, path: Path, owner: Owner) -> None:
        # without a sidecar to be believed there is nothing to compare with
        if facts := self._sidecar(path):
            compare(path, path.stat().st_size, facts.sha256)

    def described(self, path: Path) -> bool:
        return self._sidecar(path) is not None

    def write(self, path: Path, owner: Owner, tables: Iterable[pa.Table]) -> None:
        summary = Summary(owner)
        names = owner.columns.names
        with replaced(path) as file, self._compressor(file) as target:
            target.write(self.header(names))
            for block in even(tables):
                target.write(self._lines(block))
                summary.add(block)
        self._describe(path, summary.facts(file.sha256.hexdigest()))

    def remove(self, path: Path) -> None:
        path.unlink()
        _beside(path).unlink(missing_ok=True)

    def _describe(self, path: Path, facts: Facts) -> None:
        state = path.stat()
        with replaced(_beside(path)) as file:
            file.write(facts.to_json(bytes=state.st_size, modified_ns=state.st_mtime_ns))

    def _sidecar(self, path: Path) -> Facts | None:
        """Return the facts beside a file; None where they are missing or of another state of it."""
        state = path.stat()
        try:
            content = _beside(path).read_bytes()
            facts, said = Facts.from_json(content), json.loads(content)
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None
        believed = (said.get("bytes"), said.get("modified_ns")) == (state.st_size, state.st_mtime_ns)
        return facts if believed else None

    def _compressor(self, file: Any) -> AbstractContextManager[Any]:
        # without name and time the same rows make the same bytes
        return gzip.GzipFile("", "wb", _GZIP_LEVEL, file, 0) if self.compressed else nullcontext(file)

    def _lines(self, block: pa.Table) -> memoryview:
        *before, after = self.between(block.column_names)
        pieces: list[Any] = []
        for text, column in zip(before, block.columns, strict=True):
            pieces += [text, pc.fill_null(self._cells(column), self.null)]
        lines = pc.binary_join_element_wise(*pieces, after, "")
        # the texts of an array lie one after the other, which is the file's content
        return _content(lines.combine_chunks())

    def _cells(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if column.type == DECIMAL:
            return to_text(column)
        if column.type == NANOSECONDS:
            text = pc.cast(pc.cast(column, pa.timestamp("ns")), pa.string())
            whole = pc.ends_with(text, ".000000000")
            text = pc.binary_replace_slice(text, 10, 11, "T")
            text = pc.if_else(whole, pc.utf8_slice_codeunits(text, 0, 19), text)
            return pc.binary_join_element_wise(self.quote, text, f"Z{self.quote}", "")
        if pa.types.is_string(column.type):
            codes = column.combine_chunks().dictionary_encode()
            texts = pa.array([self.text(value) for value in codes.dictionary.to_pylist()], pa.string())
            return pa.chunked_array([texts.take(codes.indices)])
        return pc.cast(column, pa.string())


class Csv(Lines):
    """Comma-separated, UTF-8, names in the first line; only cells that need quotes have them."""

    suffix = ".csv"
    null = ""
    quote = ""

    def header(self, names: Sequence[str]) -> bytes:
        return (",".join(names) + "\n").encode()

    def between(self, names: Sequence[str]) -> list[str]:
        return ["", *[","] * (len(names) - 1), "\n"]

    def text(self, value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if _CSV_QUOTED.search(value) else value

    def batches(self, stream: Any, types: pa.Schema) -> Any:
        return pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=_PARSE_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=types,
                include_columns=types.names,
                include_missing_columns=True,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


class JsonLines(Lines):
    """One object a line, UTF-8; numbers have all their digits."""

    suffix = ".jsonl"
    null = "null"
    quote = '"'

    def header(self, names: Sequence[str]) -> bytes:
        return b""

    def between(self, names: Sequence[str]) -> list[str]:
        first, *others = (json.dumps(name) for name in names)
        return [f"{{{first}:", *(f",{name}:" for name in others), "}\n"]

    def text(self, value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    def batches(self, stream: Any, types: pa.Schema) -> Any:
        return pa.json.open_json(
            stream,
            read_options=pa.json.ReadOptions(block_size=_PARSE_BYTES),
            parse_options=pa.json.ParseOptions(explicit_schema=types, unexpected_field_behavior="ignore"),
        )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.meta.json")


def _content(array: pa.Array) -> memoryview:
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    return memoryview(array.buffers()[2])[offsets[0] : offsets[-1]]
