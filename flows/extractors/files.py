"""Vendor `files`: price files on disk, as CSV, JSON lines, Parquet or DBN.

A file is a request, and its bytes are one page: what lands is the file as it is. A file counts as the same while its
path, size and time of change are the same.
"""

import fnmatch
import re
from collections.abc import Iterator
from collections.abc import Sequence
from datetime import date
from decimal import Context
from decimal import Decimal
from decimal import InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import IO
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pydantic import field_validator

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from catalog.schemas.base import DECIMAL
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.extractors.base import known_asset_class
from flows.extractors.base import known_zone
from flows.formats import containers
from flows.formats import dbn
from flows.formats import delimited
from flows.formats import jsonl
from flows.formats import parquet
from flows.formats.blocks import RawBlock
from flows.formats.blocks import Rejects
from flows.formats.times import Clock
from flows.formats.times import read_times
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.options import Options

_READ: Final = 1 << 20
_FORMATS: Final = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".dbn": "dbn",
    ".frag": "dbn",
}
#: names a column may have where the option `columns` does not say, in lower case
_SYNONYMS: Final = {
    "ts_event": ("ts_event", "timestamp", "datetime", "date", "time", "timestamp_utc"),
    "volume": ("volume", "vol"),
    "trade_count": ("trade_count", "trades", "count"),
    "size": ("size", "qty", "quantity"),
}
_EXACT: Final = Context(prec=76)
Column = str | int


class FilesOptions(Options):
    """Options of a source of vendor `files`."""

    path: str = Field(description="A file, a folder or a pattern (* and **) below FILES_ROOT, e.g. eod/*.csv.gz.")
    format: Literal["auto", "csv", "jsonl", "parquet", "dbn"] = Field("auto", description="auto: by the file's name.")
    columns: dict[str, Column] = Field({}, description="Our column → the file's column, by name or position from 0.")
    header: bool = Field(True, description="Whether a CSV file begins with the names of its columns.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Between two values of a CSV file.")
    quote: str = Field('"', max_length=1, description="Around values that hold a delimiter; empty: none.")
    skip_rows: int = Field(0, ge=0, le=1000, description="Lines before the header of a CSV file.")
    null_values: tuple[str, ...] = Field(("",), description="Texts that mean 'no value' in a CSV file.")
    time: Column | tuple[Column, ...] | None = Field(
        None, description="Column of the time, or several (date and time) that are joined by a space."
    )
    time_unit: Literal["", "s", "ms", "us", "ns"] = Field("", description="Unit of times that are numbers since 1970.")
    time_format: str = Field("", max_length=60, description="strptime format; empty: ISO 8601.")
    timezone: str = Field("UTC", description="Zone of times that carry none, and of the sessions of daily bars.")
    label: Literal["open", "close"] = Field(
        "open", description="Which instant of an intraday bar its time is. Daily and coarser bars are named by date."
    )
    earliest: date | None = Field(None, description="Earlier numbers since 1970 are refused; 1973-03-03 unless given.")
    price_scale: Decimal = Field(Decimal(1), gt=0, description="Prices are multiplied by this, e.g. 0.0001.")
    symbol: str = Field("", description="The symbol of every row, where neither a column nor the file's name has it.")
    symbol_column: Column | None = Field(None, description="Column of the symbol; empty: the file's name has it.")
    symbol_name: str = Field(
        "{symbol}", max_length=100, description="Where the symbol is in the file's name, e.g. eod-{symbol}-*."
    )
    symbol_case: Literal["as is", "upper", "lower"] = Field("as is", description="How symbols are written.")
    symbols: dict[str, str] = Field({}, description="The file's symbol (or DBN instrument id) → our vendor symbol.")
    unknown_symbols: Literal["filter", "quarantine", "register"] = Field(
        "filter",
        description="Rows of symbols no series asks for: counted as filtered, kept in quarantine, or stored:"
        " the symbols become assets of the source's series.",
    )
    unknown_asset_class: str = Field("", description="What registered symbols are; empty: as the series' other assets.")
    venue: str = Field("", max_length=50, description="Venue of every row, where the file does not say.")
    dbn_schema: str = Field("", description="DBN fragments (.frag): the schema of their records.")
    dbn_version: int = Field(3, ge=1, le=3, description="DBN fragments (.frag): their version.")

    @field_validator("unknown_asset_class")
    @classmethod
    def _class_exists(cls, value: str) -> str:
        return known_asset_class(value)

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        return known_zone(value)

    @field_validator("symbol_name")
    @classmethod
    def _names_the_symbol_once(cls, value: str) -> str:
        if value.count("{symbol}") != 1 or value.count("*") > 3:
            raise ValueError("accepted: {symbol} once, and at most three *")
        return value

    @field_validator("path")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        parts = Path(value).parts
        if not value or "\x00" in value or Path(value).is_absolute() or ".." in parts:
            raise ValueError("accepted: a relative path below FILES_ROOT, without '..'")
        if value.count("**") > 1 or len(value) > 500:
            raise ValueError("accepted: at most one ** and 500 characters")
        return value


class FilesExtractor(BaseHistoricalExtractor):
    """Price files below the folders of FILES_ROOT."""

    name = "files"
    label = "Files"
    doc = "CSV (also .gz, .zip), JSON lines, Parquet and DBN files on disk."
    windowed = False
    Options = FilesOptions
    value_options = (
        "columns", "time", "time_unit", "time_format", "timezone", "label", "price_scale", "symbol", "symbol_column",
        "symbol_name", "symbols", "venue",
    )  # fmt: skip

    def check(self) -> list[str]:
        """Say which files match and what the first one holds."""
        found = self._files()
        lines = [f"{len(found)} files match {self.options.path!r}"]
        if found:
            root, path = found[0]
            containers.verify(path, containers.container(path.name), self._format(path.name))
            lines.append(f"first: {path.relative_to(root)}, {path.stat().st_size:,} bytes, {self._format(path.name)}")
        return lines

    def requests(self, job: Job) -> Iterator[Request]:
        """Yield one request for each file that may hold rows of the job's instruments."""
        for root, path in self._files():
            wanted = job.instruments
            symbol = self._symbol_of_file(path.name)
            if symbol is not None:
                wanted = tuple(one for one in wanted if any(symbol == known.symbol for known in one.symbols))
            if wanted:
                stat = path.stat()
                identity = f"{path.relative_to(root).as_posix()}|{stat.st_size}|{stat.st_mtime_ns}"
                yield Request(job, wanted, identity, str(path))

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield the file as it is, once it has proved to be whole."""
        if landed:
            return
        path = Path(request.locator)
        form, kind = self._format(path.name), containers.container(path.name)
        before = path.stat()
        containers.verify(path, kind, form)

        def content() -> Iterator[bytes]:
            with path.open("rb") as file:
                while block := file.read(_READ):
                    yield block
            after = path.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise TransientError(f"{path.name} changed while it was read; run again when it is finished")

        packed = bool(kind) or form == "parquet"
        yield Page(f"application/x-{form}", content(), path.name, compressed=packed, facts={"format": form})

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the rows of the file in its own order."""
        schema = schema_called(page.request["schema"])
        form, name = page.manifest.facts["format"], page.manifest.name
        if form == "parquet":
            yield from (self._shape(schema, block, name) for block in parquet.read(page.path))
            return
        with page.open() as raw, containers.opened(raw, containers.container(name)) as streams:
            row = 0
            for member, stream in streams:
                for batch in self._read(schema, form, stream, member or name, row):
                    row += batch.table.num_rows + batch.rejected.num_rows
                    yield batch

    def _read(self, schema: Schema, form: str, stream: IO[bytes], name: str, row: int) -> Iterator[Batch]:
        if form == "dbn":
            fragment = (self.options.dbn_schema, self.options.dbn_version) if self.options.dbn_schema else None
            for records in dbn.read(stream, schema.name, self.options.symbols, name, fragment):
                table = records.table.append_column(SYMBOL, records.symbols).append_column(ROW, records.rows)
                yield Batch(schema.name, table)
        elif form == "jsonl":
            yield from (self._shape(schema, block, name) for block in jsonl.read(stream, row))
        else:
            options = self.options
            dialect = delimited.Dialect(
                "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else options.delimiter,
                options.quote, options.header, options.null_values, options.skip_rows,
            )  # fmt: skip
            yield from (self._shape(schema, block, name) for block in delimited.read(stream, dialect, row))

    def _shape(self, schema: Schema, block: RawBlock, name: str) -> Batch:
        """Give a block the schema's column names, aware times, scaled prices and symbols."""
        options = self.options
        table = block.table.combine_chunks()
        if not table.num_rows:
            return Batch(schema.name, _no_rows(schema), block.rejected)
        places = _places(schema, table.column_names, options, name)
        clock = Clock(
            options.time_unit, options.time_format, options.timezone, options.label, options.earliest, schema.timeframe
        )
        stamps = _joined(table, _time_columns(places, table.column_names, options))
        times = read_times(stamps, clock)
        columns: dict[str, pa.Array] = {schema.time: times.values}
        for column, place in places.items():
            if column == schema.time:
                continue
            array = _array(table[place])
            declared = schema.column(column)
            if pa.types.is_timestamp(declared.type):
                array = read_times(array, Clock(options.time_unit, options.time_format, options.timezone)).values
            elif options.price_scale != 1 and column in _PRICES:
                array = _scaled(array, options.price_scale)
            columns[column] = array
        if options.venue and "venue" not in columns:
            columns["venue"] = pa.repeat(options.venue, table.num_rows)
        columns[SYMBOL] = self._symbols(table, name)
        columns[ROW] = block.rows
        shaped = pa.table(columns)
        rejected = block.rejected
        if times.faults:
            shaped, refused = _refuse(shaped, table, stamps, times.faults)
            rejected = pa.concat_tables([rejected, refused])
        return Batch(schema.name, shaped, rejected)

    def _symbols(self, table: pa.Table, name: str) -> pa.Array:
        options = self.options
        if options.symbol_column is None:
            return pa.repeat(self._symbol_of_file(name) or "", table.num_rows).dictionary_encode()
        place = _find(table.column_names, options.symbol_column)
        if place is None:
            have = ", ".join(table.column_names)
            raise SchemaMismatch(f"{name} has no column {options.symbol_column!r} for the symbol; it has: {have}")
        codes = _array(table[place])
        codes = codes if pa.types.is_dictionary(codes.type) else codes.cast(pa.string()).dictionary_encode()
        words = pa.array([self._written(word) for word in codes.dictionary.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(codes.indices, words)

    def _written(self, symbol: str) -> str:
        options = self.options
        cased = {"as is": symbol, "upper": symbol.upper(), "lower": symbol.lower()}[options.symbol_case]
        return str(options.symbols.get(symbol, options.symbols.get(cased, cased)))

    def _symbol_of_file(self, name: str) -> str | None:
        """Return the one symbol a file holds; None where its rows tell."""
        options = self.options
        if options.symbol_column is not None or self._format(name) == "dbn":
            return None
        if options.symbol:
            return str(options.symbol)
        if containers.container(name) == "zip" and options.symbol_name == "{symbol}" and "/" in name:
            name = Path(name).name
        found = _template(options.symbol_name).fullmatch(_stem(name))
        return self._written(found["symbol"]) if found else ""

    def _format(self, name: str) -> str:
        if self.options.format != "auto":
            return str(self.options.format)
        suffixes = [suffix.lower() for suffix in Path(name).suffixes]
        for suffix in reversed(suffixes):
            if suffix in _FORMATS:
                return _FORMATS[suffix]
        if suffixes and suffixes[-1] in (".zip", ".gz"):
            return "csv"
        raise ConfigError(f"file {name!r} has no known ending; have: {', '.join(_FORMATS)} (or set option 'format')")

    def _files(self) -> list[tuple[Path, Path]]:
        """Return (root, file) of every file that matches, sorted; none outside its root, whatever links point to."""
        pattern = self.options.path
        found: dict[Path, Path] = {}
        outside = []
        for root in self.context.files_roots:
            if not root.is_dir():
                continue
            target = root / pattern
            matches = sorted(target.rglob("*")) if target.is_dir() else sorted(root.glob(pattern))
            for path in matches:
                if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
                    if path.resolve().is_relative_to(root.resolve()):
                        found.setdefault(path, root)
                    else:
                        outside.append(path.name)
        if outside:
            raise ConfigError(f"{', '.join(outside)}: the file lies outside FILES_ROOT (a link leads there)")
        if not found:
            roots = ", ".join(str(root) for root in self.context.files_roots) or "none"
            raise ConfigError(f"no file matches {pattern!r} below FILES_ROOT ({roots})")
        return [(root, path) for path, root in sorted(found.items())]


_PRICES: Final = frozenset({"open", "high", "low", "close", "vwap", "price", "bid_price", "ask_price"})


def _places(schema: Schema, names: list[str], options: FilesOptions, file: str) -> dict[str, str]:
    """Return our column → the file's column; SchemaMismatch lists every named column that is not there."""
    places: dict[str, str] = {}
    faults = []
    for column in schema.columns:
        asked = options.columns.get(column.name)
        if asked is not None:
            place = _find(names, asked)
            if place is None:
                faults.append(f"{file} has no column {asked!r} for {column.name!r}")
            else:
                places[column.name] = place
            continue
        if column.name == schema.time and options.time is not None:
            continue
        for synonym in _SYNONYMS.get(column.name, (column.name,)):
            place = next((name for name in names if name.strip().lower() == synonym), None)
            if place is not None:
                places[column.name] = place
                break
    for column_name in options.columns.keys() - {column.name for column in schema.columns}:
        accepted = ", ".join(column.name for column in schema.columns)
        faults.append(f"option columns: {column_name!r} is no column of {schema.name}; have: {accepted}")
    if faults:
        raise SchemaMismatch("; ".join([*faults, f"the file has: {', '.join(names)}"]))
    return places


def _find(names: list[str], asked: Column) -> str | None:
    if isinstance(asked, int):
        return names[asked] if 0 <= asked < len(names) else None
    if asked in names:
        return asked
    return next((name for name in names if name.strip().lower() == asked.strip().lower()), None)


def _time_columns(places: dict[str, str], names: list[str], options: FilesOptions) -> list[str]:
    asked = options.time if isinstance(options.time, tuple) else (options.time,) if options.time is not None else ()
    found = [_find(names, column) for column in asked] if asked else [places.get("ts_event")]
    if None in found:
        what = f"{options.time!r}" if asked else "time (option 'time' names it)"
        raise SchemaMismatch(f"the file has no column {what}; it has: {', '.join(names)}")
    return [name for name in found if name is not None]


def _joined(table: pa.Table, names: list[str]) -> pa.Array:
    arrays = [_array(table[name]) for name in names]
    return arrays[0] if len(arrays) == 1 else pc.binary_join_element_wise(*(a.cast(pa.string()) for a in arrays), " ")


def _scaled(array: pa.Array, scale: Decimal) -> pa.Array:
    """Multiply exactly; a value that is no number stays as it is, for refine to refuse it with what came in."""
    digits = scale.as_tuple()
    exponent = int(digits.exponent)
    try:
        factor = pa.scalar(scale, pa.decimal256(len(digits.digits) + max(exponent, 0) + 18, max(-exponent, 0)))
        exact = pc.cast(array.cast(pa.string()), pa.decimal128(28, 8)) if array.null_count < len(array) else array
        return pc.cast(pc.multiply(pc.cast(exact, pa.decimal256(28, 8)), factor), DECIMAL)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        codes = array.cast(pa.string()).dictionary_encode()
        words = [_times(word, scale) for word in codes.dictionary.to_pylist()]
        return pa.array(words, pa.string()).take(codes.indices)


def _times(text: str, scale: Decimal) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return f"{_EXACT.multiply(number, scale):f}" if number.is_finite() and abs(number.adjusted()) < 40 else text


def _refuse(
    shaped: pa.Table, raw: pa.Table, stamps: pa.Array, faults: dict[str, np.ndarray]
) -> tuple[pa.Table, pa.Table]:
    """Take out the rows whose time is at fault, with the rule and what came in."""
    bad = np.zeros(shaped.num_rows, bool)
    for mask in faults.values():
        bad |= mask
    rejects = Rejects()
    positions = np.flatnonzero(bad)
    came = raw.take(pa.array(positions)).to_pylist()
    rows = shaped[ROW].to_pylist() if len(positions) else []
    for position, values in zip(positions.tolist(), came, strict=True):
        broken = "; ".join(rule for rule, mask in faults.items() if mask[position])
        rejects.add(rows[position], broken, repr(stamps[position].as_py()), str(values))
    return shaped.filter(pa.array(~bad)), rejects.table()


def _no_rows(schema: Schema) -> pa.Table:
    fields = [pa.field(column.name, column.type) for column in schema.columns]
    fields += [pa.field(SYMBOL, pa.dictionary(pa.int32(), pa.string())), pa.field(ROW, pa.int64())]
    return pa.schema(fields).empty_table()


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _stem(name: str) -> str:
    """Return the file's name without its endings: aapl of aapl.csv.gz, BRK.B of BRK.B.csv."""
    stem = Path(name).name
    for endings in (containers.SUFFIXES, _FORMATS):
        for ending in endings:
            if stem.lower().endswith(ending):
                stem = stem[: -len(ending)]
                break
    return stem


@lru_cache(maxsize=64)
def _template(template: str) -> re.Pattern[str]:
    """Return the pattern of a symbol template; each * stops at the text that follows it, so matching stays linear."""
    before, after = template.split("{symbol}")
    sides = [fnmatch.translate(side).removeprefix("(?s:").removesuffix(r")\Z") for side in (before, after)]
    return re.compile(f"{sides[0]}(?P<symbol>.+?){sides[1]}", re.DOTALL)
