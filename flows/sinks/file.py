"""Kind `file`: Parquet, CSV or JSON lines in folders named by the key (see `flows.exports.partitions`)."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field
from pydantic import model_validator

from catalog.errors import ConfigError
from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from catalog.schemas.decimals import to_floats
from flows.exports.facts import Owner
from flows.exports.formats import ALL_TIME
from flows.exports.formats import Format
from flows.exports.formats import Parquet
from flows.exports.lines import Csv
from flows.exports.lines import JsonLines
from flows.exports.merging import by_key
from flows.exports.merging import merged
from flows.exports.partitions import cut
from flows.exports.partitions import existing
from flows.exports.partitions import folder
from flows.exports.partitions import locked
from flows.exports.partitions import moment
from flows.exports.partitions import nanoseconds
from flows.exports.partitions import sync
from flows.options import Options
from flows.sinks.base import ReadableSink
from flows.sinks.base import Target

_UNKNOWN: Final = 2**63


class FileOptions(Options):
    """How and where files are written."""

    format: Literal["parquet", "csv", "jsonl"] = Field("parquet", description="What the files are.")
    path: str = Field("", description="Folder below EXPORT_ROOT; empty is EXPORT_ROOT itself.")
    compression_level: int = Field(1, ge=1, le=19, description="Of zstd, for Parquet.")
    gzip: bool = Field(False, description="Compress CSV and JSON lines.")

    @model_validator(mode="after")
    def _gzip_is_for_text(self) -> Self:
        if self.gzip and self.format == "parquet":
            raise ValueError("gzip is for csv and jsonl; Parquet is compressed already")
        return self


class FileSink(ReadableSink):
    """Writes files that other programs read, and reads them."""

    name = "file"
    label = "Files"
    doc = "Parquet, CSV or JSON lines: a folder for each key, a file for each year, month or day."
    Options = FileOptions
    # each write of a partition writes its file anew, so fewer and larger ones are better
    batch_rows: ClassVar[int] = 500_000

    def __init__(self, options: Mapping[str, Any], target: Target) -> None:
        super().__init__(options, target)
        self.root = _root(self.options.path, target)
        self.format = _format(self.options)

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        counts = Counts()
        for instrument, rows in _by_instrument(table):
            counts += self._write(Owner(instrument, schema), rows, replace)
        return counts

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
        wanted = [name for name in schema.arrow.names if not columns or name in columns or name in schema.key]
        stored = [name for name in wanted if name != INSTRUMENT]
        window = (nanoseconds(start), nanoseconds(end))
        tables: list[pa.Table] = [Owner("", schema).columns.empty_table().select(stored)]
        names: list[str] = []
        rows: list[int] = []
        for instrument in sorted(instruments, key=lambda name: (self.target.ids.get(name, _UNKNOWN), name)):
            owner = Owner(instrument, schema)
            found = [block for block in self._blocks(owner, window, stored) if block.num_rows]
            if found:
                tables += found
                names.append(instrument)
                rows.append(sum(block.num_rows for block in found))
        joined = pa.concat_tables(tables)
        arrays: dict[str, Any] = {}
        for name in wanted:
            if name == INSTRUMENT:
                codes = np.repeat(np.arange(len(names), dtype=np.int32), rows)
                arrays[name] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string()))
            else:
                floats = joined[name].type == DECIMAL and not exact
                arrays[name] = to_floats(joined[name]) if floats else joined[name]
        return pa.table(arrays)

    def tail(self, schema: Schema, instrument: str, before: datetime, rows: int) -> datetime | None:
        if rows <= 0:
            return before
        owner = Owner(instrument, schema)
        window = (ALL_TIME[0], nanoseconds(before))
        found: int | None = None
        for path in reversed(self._files(owner, window)):
            times = np.zeros(0, np.int64)
            for block in self._read(path, owner, window, [schema.time]):
                times = np.concatenate([times, owner.times(block)])[-rows:]
            if len(times):
                found = int(times[0])
                rows -= len(times)
            if not rows:
                break
        return None if found is None else moment(found)

    def extents(
        self, schema: Schema, instruments: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, tuple[datetime, datetime, int]]:
        window = (nanoseconds(start), nanoseconds(end))
        found = {}
        for instrument in instruments:
            spans = list(self._spans(Owner(instrument, schema), window))
            if spans:
                first, last = moment(spans[0][0]), moment(spans[-1][1])
                found[instrument] = (first, last, sum(rows for _, _, rows in spans))
        return found

    def delete(self, schema: Schema, instrument: str, start: datetime, end: datetime) -> int:
        owner = Owner(instrument, schema)
        window = (nanoseconds(start), nanoseconds(end))
        deleted = 0
        if not self._files(owner, window):
            return 0
        place = folder(self.root, instrument, schema)
        with locked(place):
            for path in self._files(owner, window):
                deleted += self._cut_out(path, owner, window)
            sync(place)
        return deleted

    def _write(self, owner: Owner, rows: pa.Table, replace: bool) -> Counts:
        rows = by_key(owner, rows.select(owner.columns.names).cast(owner.columns))
        place = folder(self.root, owner.instrument, owner.schema)
        counts = Counts()
        with locked(place):
            for path, part in cut(owner.schema, place, self.format.suffix, owner.times(rows)):
                counts += self._upsert(path, owner, rows.slice(part.start, part.stop - part.start), replace)
            if counts.new or counts.updated:
                sync(place)
        return counts

    def _upsert(self, path: Path, owner: Owner, rows: pa.Table, replace: bool) -> Counts:
        if not path.exists():
            self.format.write(path, owner, [rows])
            return Counts(new=rows.num_rows)
        times = owner.times(rows)
        touched = self.format.blocks(path, owner, (int(times[0]), int(times[-1]) + 1))
        counts = Counts()
        for block in merged(owner, touched, rows, replace):
            counts += block.counts
        if counts.new or counts.updated or not self.format.described(path):
            self.format.verify(path, owner)
            blocks = merged(owner, self.format.blocks(path, owner), rows, replace)
            self.format.write(path, owner, (block.table for block in blocks))
        return counts

    def _cut_out(self, path: Path, owner: Owner, window: tuple[int, int]) -> int:
        """Delete the rows of a window from one file; returns how many."""
        kept = 0

        def outside() -> Iterator[pa.Table]:
            nonlocal kept
            for block in self.format.blocks(path, owner):
                start, stop = np.searchsorted(owner.times(block), window)
                kept += block.num_rows - int(stop - start)
                yield pa.concat_tables([block.slice(0, start), block.slice(stop)])

        facts = self.format.facts(path, owner)
        if facts.last < window[0] or window[1] <= facts.first:
            return 0
        if window[0] <= facts.first and facts.last < window[1]:
            self.format.remove(path)
            return facts.rows
        self.format.verify(path, owner)
        self.format.write(path, owner, outside())
        return facts.rows - kept

    def _files(self, owner: Owner, window: tuple[int, int]) -> list[Path]:
        return existing(owner.schema, folder(self.root, owner.instrument, owner.schema), self.format.suffix, *window)

    def _blocks(self, owner: Owner, window: tuple[int, int], columns: Sequence[str]) -> Iterator[pa.Table]:
        for path in self._files(owner, window):
            yield from self._read(path, owner, window, columns)

    def _read(self, path: Path, owner: Owner, window: tuple[int, int], columns: Sequence[str]) -> Iterator[pa.Table]:
        # between listing and opening a writer may have removed it
        with suppress(FileNotFoundError):
            yield from self.format.blocks(path, owner, window, columns)

    def _spans(self, owner: Owner, window: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
        for path in self._files(owner, window):
            with suppress(FileNotFoundError):
                facts = self.format.facts(path, owner)
                if window[0] <= facts.first and facts.last < window[1]:
                    yield facts.first, facts.last, facts.rows
                    continue
                inside = [owner.times(block) for block in self._read(path, owner, window, [owner.schema.time])]
                times = np.concatenate([np.zeros(0, np.int64), *inside])
                if len(times):
                    yield int(times[0]), int(times[-1]), len(times)


def _by_instrument(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each instrument, in the order they have, without the column `instrument`."""
    if not table.num_rows:
        return
    instrument = table.unify_dictionaries()[INSTRUMENT].combine_chunks()
    codes = instrument.indices.to_numpy()
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        table, codes = table.take(pa.array(order)), codes[order]
    rows = table.drop_columns([INSTRUMENT])
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        yield instrument.dictionary[codes[start]].as_py(), rows.slice(start, stop - start)


def _format(options: FileOptions) -> Format:
    if options.format == "parquet":
        return Parquet(options.compression_level)
    return (Csv if options.format == "csv" else JsonLines)(options.gzip)


def _root(path: str, target: Target) -> Path:
    """Return the folder of a destination; ConfigError where it leaves the root of exports."""
    if target.export_root is None:
        raise ConfigError(f"destination {target.name!r}: no EXPORT_ROOT is set, below which files are written")
    root = target.export_root.resolve()
    place = (root / path).resolve()
    if not place.is_relative_to(root):
        raise ConfigError(f"destination {target.name!r}: path {path!r} leaves {root}; accepted: a folder below it")
    return place
