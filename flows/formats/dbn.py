"""DBN, Databento's binary encoding, versions 1 to 3: numpy to Arrow, never a record at a time.

Layouts, sentinels and symbology: https://databento.com/docs/standards-and-conventions/databento-binary-encoding and the
package `databento_dbn` (extra `databento`), which decodes the header and declares the records' layouts.
"""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import IO
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import Damaged
from catalog.errors import SchemaMismatch
from catalog.schemas import Schema
from flows.formats.dbn_columns import columns
from flows.formats.dbn_stream import Header
from flows.formats.dbn_stream import Whole
from flows.formats.dbn_stream import library
from flows.formats.dbn_stream import mixed
from flows.formats.dbn_stream import offsets
from flows.formats.dbn_stream import read_header
from flows.formats.dbn_stream import uniform
from flows.formats.dbn_symbols import Names
from flows.formats.dbn_symbols import layers

_BLOCK_ROWS: Final = 1 << 17
#: DBN schema -> the class of its records, and the type they say they are
_KINDS: Final[dict[str, tuple[str, int]]] = {
    "trades": ("TradeMsg", 0),
    "mbp-1": ("MBP1Msg", 1),
    "tbbo": ("MBP1Msg", 1),
    "mbp-10": ("MBP10Msg", 10),
    "status": ("StatusMsg", 18),
    "definition": ("InstrumentDefMsg", 19),
    "imbalance": ("ImbalanceMsg", 20),
    "statistics": ("StatMsg", 24),
    "ohlcv-1s": ("OHLCVMsg", 32),
    "ohlcv-1m": ("OHLCVMsg", 33),
    "ohlcv-1h": ("OHLCVMsg", 34),
    "ohlcv-1d": ("OHLCVMsg", 35),
    "ohlcv-eod": ("OHLCVMsg", 36),
    "mbo": ("MBOMsg", 160),
    "cmbp-1": ("CMBP1Msg", 177),
    "cbbo-1s": ("CBBOMsg", 192),
    "cbbo-1m": ("CBBOMsg", 193),
    "tcbbo": ("CMBP1Msg", 194),
    "bbo-1s": ("BBOMsg", 195),
    "bbo-1m": ("BBOMsg", 196),
}
_MAPPING: Final = ("SymbolMappingMsg", 22)
#: our schema -> the DBN schemas whose records it can be made of, with the record's class
RECORDS: Final[dict[str, dict[str, str]]] = {name: {name: record} for name, (record, _) in _KINDS.items()}
RECORDS["trades"]["mbo"] = "MBOMsg"
#: (our schema, DBN schema) of which only the trades count
_TRADES_ONLY: Final = {("trades", "mbo"), ("tbbo", "mbp-1")}


@dataclass(frozen=True, slots=True)
class Records:
    """A block of decoded rows: the schema's columns, a dictionary column of symbols, positions in the file."""

    table: pa.Table
    symbols: pa.DictionaryArray
    rows: pa.Array


def read(
    stream: IO[bytes], schema: str, symbols: Mapping[str, str], name: str, fragment: tuple[str, int] | None = None
) -> Iterator[Records]:
    """Yield the rows of a DBN stream, plain or zstd, as a table of `schema`.

    Of a stream of several schemas (a recorded live session) only the records of the one asked are decoded.
    `symbols` maps instrument ids to symbols where the file has no mapping. `fragment` is (DBN schema, version) of a
    file without metadata. Raises Damaged when the file is cut, SchemaMismatch when it holds something else.
    """
    library()
    whole = Whole(stream, name)
    header = Header(fragment[1], fragment[0]) if fragment else read_header(whole, name)
    held = header.schema
    if schema not in RECORDS or (held and held not in RECORDS[schema]):
        have = held or "records of several schemas"
        accepted = ", ".join(RECORDS.get(schema, {})) or "none"
        raise SchemaMismatch(f"{name} holds {have}; schema {schema!r} can be made of: {accepted}")
    yield from _ahead(_blocks(whole, header, schema, symbols, name))


def _blocks(whole: Whole, header: Header, schema: str, symbols: Mapping[str, str], name: str) -> Iterator[Records]:
    held = header.schema
    if not held:
        decoder = Decoder(header, (schema,), symbols, name)
        for content, starts in mixed(whole, name):
            yield from decoder.decode(content, starts).values()
        return
    dtype = _dtype(RECORDS[schema][held], header)
    naming, *beyond = layers(header.mappings or {}, symbols)
    row = 0
    for content in uniform(whole, dtype.itemsize, _BLOCK_ROWS, name):
        records = np.frombuffer(content, dtype)
        positions = np.arange(row, row + len(records))
        row += len(records)
        if decoded := _decode(schema, held, records, positions, naming):
            yield decoded
        for more in beyond:
            chosen = more.named(records)
            if decoded := _decode(schema, held, records[chosen], positions[chosen], more):
                yield decoded


def _ahead(blocks: Iterator[Records]) -> Iterator[Records]:
    """Yield the blocks; while one is used, a thread decodes the next (most of that needs no lock of Python's)."""
    with ThreadPoolExecutor(1, "dbn") as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def count(stream: IO[bytes], name: str, fragment: tuple[str, int] | None = None) -> int:
    """Return how many records a DBN stream, plain or zstd, holds; Damaged when it is cut."""
    library()
    whole = Whole(stream, name)
    header = Header(fragment[1], fragment[0]) if fragment else read_header(whole, name)
    if header.schema not in _KINDS:
        return sum(len(starts) for _, starts in mixed(whole, name))
    size = _dtype(_KINDS[header.schema][0], header).itemsize
    return sum(len(content) // size for content in uniform(whole, size, _BLOCK_ROWS, name))


class Decoder:
    """Decodes blocks of mixed records, as a live session sends them; remembers the symbols it is told.

    `wanted` are schemas; records of others are left out. `tbbo` beside `mbp-1` cannot be told apart from its trades.
    """

    def __init__(
        self, header: Header, wanted: Collection[str], symbols: Mapping[str, str] | None = None, name: str = "stream"
    ) -> None:
        self.header = header
        self.wanted = tuple(wanted)
        self.name = name
        self.names = Names({}, symbols or {})
        self.position = 0

    def decode(self, content: bytes, starts: np.ndarray | None = None) -> dict[str, Records]:
        """Return the rows of each wanted schema that a block of complete records holds.

        `starts` are the records' offsets, where the caller knows them. Raises Damaged when the block ends inside a
        record, or a record has another length than its version says.
        """
        if starts is None:
            starts, end = offsets(content, self.name)
            if end != len(content):
                raise Damaged(f"{self.name} is cut short: it ends inside a record")
        types = np.frombuffer(content, np.uint8)[starts + 1] if len(starts) else np.empty(0, np.uint8)
        positions = np.arange(self.position, self.position + len(starts))
        self.position += len(starts)
        if (told := types == _MAPPING[1]).any():
            self.names.learn(self._gather(content, starts[told], _MAPPING[0]), positions[told])
        found = {}
        for schema in self.wanted:
            record, kind = _KINDS[schema]
            if (chosen := types == kind).any():
                records = self._gather(content, starts[chosen], record)
                held = "mbp-1" if schema == "tbbo" else schema
                if decoded := _decode(schema, held, records, positions[chosen], self.names):
                    found[schema] = decoded
        return found

    def _gather(self, content: bytes, starts: np.ndarray, record: str) -> np.ndarray:
        """Return the records at `starts` side by side."""
        dtype = _dtype(record, self.header)
        everything = np.frombuffer(content, np.uint8)
        lengths = everything[starts]
        wrong = lengths != dtype.itemsize // 4
        if wrong.any():
            have = int(lengths[wrong][0]) * 4
            raise Damaged(f"{self.name} holds a {record} of {have} bytes, not {dtype.itemsize}")
        windows = np.lib.stride_tricks.sliding_window_view(everything, dtype.itemsize)
        return np.asarray(windows[starts].view(dtype)[:, 0])


def _decode(schema: str, held: str, records: np.ndarray, positions: np.ndarray, names: Names) -> Records | None:
    if (schema, held) in _TRADES_ONLY:
        trades = records["action"] == b"T"
        records, positions = records[trades], positions[trades]
    if not len(records):
        return None
    table = pa.table(columns(schema, records))
    symbols = names.of(records, positions)
    if schema == "definition":
        # a definition says itself what nothing else may say
        known = pc.cast(symbols, pa.string())
        ids = pa.array(records["instrument_id"]).cast(pa.string())
        own = pc.coalesce(table["raw_symbol"].combine_chunks(), ids)
        symbols = pc.if_else(pc.equal(known, ids), own, known).dictionary_encode()
    return Records(table, symbols, pa.array(positions, pa.int64()))


def sizes(header: Header) -> dict[int, int]:
    """Return the length in bytes of each type of record, those about a session included."""
    kinds = (*_KINDS.values(), _MAPPING, ("ErrorMsg", 21), ("SystemMsg", 23))
    return {kind: _dtype(record, header).itemsize for record, kind in kinds}


def indexed_by(schema: Schema) -> str:
    """Return the column by which the vendor files a record: `ts_recv` where the schema has it, when it was received."""
    return "ts_recv" if any(column.name == "ts_recv" for column in schema.columns) else schema.time


def _dtype(record: str, header: Header) -> Any:
    return _layout(record, header.version, header.ts_out)


@cache
def _layout(record: str, version: int, ts_out: bool) -> Any:
    # version 3 is the package's own; 1 and 2 differ in some records
    package = library()
    module = {1: package.v1, 2: package.v2}.get(version, package)
    fields = list(getattr(module, record)._dtypes)
    return np.dtype([*fields, ("ts_out", "u8")] if ts_out else fields)
