"""DBN, Databento's binary encoding, versions 1 to 3: numpy to Arrow, never a record at a time.

Layouts, sentinels and symbology: https://databento.com/docs/standards-and-conventions/databento-binary-encoding and the
package `databento_dbn` (extra `databento`), which decodes the header and declares the records' layouts.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import IO
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import SchemaMismatch
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS

_BLOCK_ROWS: Final = 250_000
_UNDEF_PRICE: Final = 2**63 - 1
_UNDEF_TIME: Final = 2**64 - 1
_NANO: Final = 1_000_000_000
#: our schema -> the DBN schemas whose records it can be made of, with the record's class
RECORDS: Final[dict[str, dict[str, str]]] = {
    "ohlcv-1s": {"ohlcv-1s": "OHLCVMsg"},
    "ohlcv-1m": {"ohlcv-1m": "OHLCVMsg"},
    "ohlcv-1h": {"ohlcv-1h": "OHLCVMsg"},
    "ohlcv-1d": {"ohlcv-1d": "OHLCVMsg"},
    "trades": {"trades": "TradeMsg", "mbo": "MBOMsg"},
    "tbbo": {"tbbo": "MBP1Msg"},
    "statistics": {"statistics": "StatMsg"},
}


@dataclass(frozen=True, slots=True)
class Records:
    """A block of decoded rows: the schema's columns, a dictionary column of symbols, positions in the file."""

    table: pa.Table
    symbols: pa.DictionaryArray
    rows: pa.Array


def read(
    stream: IO[bytes], schema: str, symbols: Mapping[str, str], name: str, fragment: tuple[str, int] | None = None
) -> Iterator[Records]:
    """Yield the rows of a DBN stream as a table of `schema`.

    `symbols` maps instrument ids to symbols where the file has no mapping. `fragment` is (DBN schema, version) of a
    file without metadata. Raises Damaged when the file is cut, SchemaMismatch when it holds something else.
    """
    dbn = _library()
    if fragment:
        held, version = fragment
        mappings: Mapping[str, Any] = {}
    else:
        version, metadata = _header(dbn, stream, name)
        held = str(metadata.schema) if metadata.schema is not None else ""
        mappings = metadata.mappings
    if schema not in RECORDS or held not in RECORDS[schema]:
        have = held or "records of several schemas"
        accepted = ", ".join(RECORDS.get(schema, {})) or "none"
        raise SchemaMismatch(f"{name} holds {have}; schema {schema!r} can be made of: {accepted}")
    dtype = _dtype(dbn, RECORDS[schema][held], version)
    naming = _Names(mappings, symbols)
    row = 0
    for records in _records(stream, dtype, name):
        positions = np.arange(row, row + len(records))
        row += len(records)
        if held == "mbo":
            trades = records["action"] == b"T"
            records, positions = records[trades], positions[trades]
        if len(records):
            table = pa.table(_columns(schema, records))
            yield Records(table, naming.of(records), pa.array(positions, pa.int64()))


def _library() -> Any:
    try:
        import databento_dbn
        import databento_dbn.v1
        import databento_dbn.v2
    except ImportError:
        raise ConfigError("DBN files need the extra 'databento': pip install 'dataflow[databento]'") from None
    return databento_dbn


def _header(dbn: Any, stream: IO[bytes], name: str) -> tuple[int, Any]:
    head = _exactly(stream, 8)
    if head[:3] != b"DBN":
        raise Damaged(f"{name} is no DBN file: it does not begin with 'DBN' (a fragment needs option dbn_schema)")
    if len(head) < 8:
        raise Damaged(f"{name} is cut short inside its header")
    version, length = head[3], int.from_bytes(head[4:8], "little")
    if not 1 <= version <= 3:
        raise Damaged(f"{name} has DBN version {version}; accepted: 1, 2, 3")
    rest = _exactly(stream, length)
    if len(rest) < length:
        raise Damaged(f"{name} is cut short inside its header")
    try:
        return version, dbn.Metadata.decode(head + rest)
    except Exception as error:  # the decoder's own error class is not exported
        raise Damaged(f"{name} has a header that cannot be decoded: {error}") from error


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = b""
    while len(content) < size and (piece := stream.read(size - len(content))):
        content += piece
    return content


def _records(stream: IO[bytes], dtype: np.dtype[Any], name: str) -> Iterator[np.ndarray]:
    size = dtype.itemsize * _BLOCK_ROWS
    while content := _exactly(stream, size):
        if len(content) % dtype.itemsize:
            raise Damaged(f"{name} is cut short: it ends inside a record")
        records = np.frombuffer(content, dtype)
        wrong = records["length"].astype(np.int64) * 4 != dtype.itemsize
        if wrong.any():
            raise Damaged(
                f"{name} holds a record of {int(records['length'][wrong][0]) * 4} bytes, not {dtype.itemsize}"
            )
        yield records


@cache
def _dtype(dbn: Any, record: str, version: int) -> Any:
    # version 3 is the package's own; 1 and 2 differ in some records
    module = {1: dbn.v1, 2: dbn.v2}.get(version, dbn)
    return np.dtype(getattr(module, record)._dtypes)


def _columns(schema: str, records: np.ndarray) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {"ts_event": _time(records["ts_event"]), "venue": _venue(records["publisher_id"])}
    if schema.startswith("ohlcv-"):
        columns |= {name: _price(records[name]) for name in ("open", "high", "low", "close")}
        columns["volume"] = _quantity(records["volume"])
        return columns
    columns |= {"ts_recv": _time(records["ts_recv"]), "sequence": pa.array(records["sequence"].astype(np.int64))}
    columns["price"] = _price(records["price"])
    if schema == "statistics":
        undefined = 2**63 - 1 if records.dtype["quantity"] == np.int64 else 2**31 - 1
        quantity = records["quantity"].astype(np.int64)
        columns |= {
            "ts_ref": _time(records["ts_ref"]),
            "statistic": _statistic(records["stat_type"]),
            "quantity": _decimal(quantity, 10**18, quantity == undefined),
            "channel_id": pa.array(records["channel_id"].astype(np.int32)),
            "update_action": pa.array(records["update_action"].astype(np.int16)),
            "stat_flags": pa.array(records["stat_flags"].astype(np.int16)),
        }
        return columns
    columns |= {"size": _quantity(records["size"]), "side": _letters(records["side"])}
    if schema == "tbbo":
        for side in ("bid", "ask"):
            columns[f"{side}_price"] = _price(records[f"{side}_px_00"])
            columns[f"{side}_size"] = _quantity(records[f"{side}_sz_00"])
            columns[f"{side}_count"] = pa.array(records[f"{side}_ct_00"].astype(np.int64))
    return columns


def _time(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.int64), pa.int64(), mask=values == np.uint64(_UNDEF_TIME)).cast(NANOSECONDS)


def _price(values: np.ndarray) -> pa.Array:
    return _decimal(values, _NANO, values == _UNDEF_PRICE)


def _quantity(values: np.ndarray) -> pa.Array:
    undefined = values == np.iinfo(values.dtype).max
    return _decimal(values.astype(np.int64), 10**18, undefined)


def _decimal(values: np.ndarray, factor: int, null: np.ndarray) -> pa.Array:
    """Return int64 times `factor` as decimal128(38,18), exactly, by 128-bit arithmetic on 64-bit halves."""
    negative = values < 0
    magnitude = np.where(negative, -values, values).astype(np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    low, high = magnitude & mask, magnitude >> shift
    factor_low, factor_high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    # schoolbook multiplication in base 2**32
    first = low * factor_low
    second = high * factor_low + (first >> shift)
    third = low * factor_high + (second & mask)
    bottom = (first & mask) | (third << shift)
    top = high * factor_high + (second >> shift) + (third >> shift)
    # two's complement of the negative ones
    flipped = ~bottom + np.uint64(1)
    top = np.where(negative, ~top + (flipped == 0), top)
    bottom = np.where(negative, flipped, bottom)
    halves = np.empty((len(values), 2), np.uint64)
    halves[:, 0], halves[:, 1] = bottom, top
    validity = pa.array(~null).buffers()[1] if null.any() else None
    return pa.Array.from_buffers(DECIMAL, len(values), [validity, pa.py_buffer(halves)])


def _letters(values: np.ndarray) -> pa.Array:
    codes = values.view(np.uint8)
    letters = pa.array([chr(code) for code in range(128)])
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), letters)


def _venue(publishers: np.ndarray) -> pa.Array:
    unique, codes = np.unique(publishers, return_inverse=True)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array([_publisher(int(number)) for number in unique], pa.string())
    )


@cache
def _publisher(number: int) -> str:
    try:
        from databento.common.publishers import Publisher

        return str(Publisher.from_int(number).venue.value)
    except (ImportError, ValueError):
        return str(number)


def _statistic(types: np.ndarray) -> pa.Array:
    unique, codes = np.unique(types, return_inverse=True)
    names = [_statistic_name(int(number)) for number in unique]
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string()))


@cache
def _statistic_name(number: int) -> str:
    try:
        return str(_library().StatType(number).name).lower()
    except ValueError:
        return str(number)


def _day(day: date) -> int:
    return (day - date(1970, 1, 1)).days


class _Names:
    """Instrument id and day → symbol: an id means one instrument on one day only."""

    def __init__(self, mappings: Mapping[str, Any], given: Mapping[str, str]) -> None:
        self.given = given
        starts: list[tuple[int, int, int, str]] = []
        for symbol, intervals in mappings.items():
            for interval in intervals:
                text = interval["symbol"]
                if text.isdigit():
                    days = [
                        int(np.datetime64(interval[name], "D").astype(np.int64)) for name in ("start_date", "end_date")
                    ]
                    starts.append((int(text), days[0], days[1], symbol))
        starts.sort()
        self.ids = np.array([item[0] for item in starts], np.int64)
        self.first = np.array([item[1] for item in starts], np.int64)
        self.last = np.array([item[2] for item in starts], np.int64)
        self.names = [item[3] for item in starts]

    def of(self, records: np.ndarray) -> pa.DictionaryArray:
        """Return each record's symbol; its id as text where nothing says which symbol it was."""
        stamp = records["ts_event"]
        if "ts_recv" in (records.dtype.names or ()):
            stamp = np.where(stamp == np.uint64(_UNDEF_TIME), records["ts_recv"], stamp)
        days = (stamp // np.uint64(86_400 * _NANO)).astype(np.int64)
        pairs = records["instrument_id"].astype(np.int64) << 32 | days
        unique, codes = np.unique(pairs, return_inverse=True)
        words = pa.array([self._name(int(pair >> 32), int(pair & 0xFFFFFFFF)) for pair in unique], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), words)

    def _name(self, number: int, day: int) -> str:
        if str(number) in self.given:
            return self.given[str(number)]
        low, high = np.searchsorted(self.ids, [number, number + 1])
        for at in range(low, high):
            if self.first[at] <= day < self.last[at]:
                return self.names[at]
        return str(number)
