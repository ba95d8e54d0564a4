"""Resolves the vendor's symbols in raw rows to instruments, by the intervals frozen into the request."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import INSTRUMENT
from flows.extractors.base import SYMBOL
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import InstrumentFacts

_UNKNOWN: Final = -1
_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Interval:
    start: int
    end: int
    position: int


class Symbols:
    """Symbol and time → instrument, for the instruments of one request."""

    def __init__(self, instruments: Iterable[InstrumentFacts]) -> None:
        self.instruments = tuple(instruments)
        self.names = pa.array([str(instrument.name) for instrument in self.instruments], pa.string())
        self.intervals: dict[str, list[_Interval]] = {}
        for position, instrument in enumerate(self.instruments):
            for symbol in instrument.symbols:
                interval = _Interval(nanoseconds(symbol.start), nanoseconds(symbol.end), position)
                self.intervals.setdefault(symbol.symbol, []).append(interval)

    def resolve(self, table: pa.Table, time: str) -> pa.Table:
        """Return the table with column `instrument`; null where no interval holds symbol and time."""
        symbols = table[SYMBOL].combine_chunks()
        if isinstance(symbols, pa.ChunkedArray):
            symbols = symbols.chunk(0) if symbols.num_chunks else pa.array([], pa.string())
        if not pa.types.is_dictionary(symbols.type):
            symbols = pc.cast(symbols, pa.string()).dictionary_encode()
        found = [self.intervals.get(str(symbol), []) for symbol in symbols.dictionary.to_pylist()]
        always = [
            intervals[0].position if len(intervals) == 1 and _open(intervals[0]) else _UNKNOWN for intervals in found
        ]
        indices = symbols.indices.fill_null(0) if symbols.null_count else symbols.indices
        codes = np.asarray(indices.to_numpy(zero_copy_only=False))
        positions = np.asarray([*always, _UNKNOWN], np.int32)[codes if len(found) else np.full(len(codes), -1)]
        if symbols.null_count:
            positions[symbols.is_null().to_numpy(zero_copy_only=False)] = _UNKNOWN
        bounded = [code for code, intervals in enumerate(found) if intervals and always[code] == _UNKNOWN]
        if bounded:
            times = _in_nanoseconds(table[time])
            for code in bounded:
                for interval in found[code]:
                    inside = (codes == code) & (times >= interval.start) & (times < interval.end)
                    positions[inside] = interval.position
        unknown = positions == _UNKNOWN
        known = pa.array(positions, mask=unknown if unknown.any() else None)
        return table.append_column(INSTRUMENT, pa.DictionaryArray.from_arrays(known, self.names))

    def inside(self, table: pa.Table, column: str) -> pa.Table:
        """Keep the rows inside their instrument's window; rows without a time stay and are refused later."""
        windows = self.windows
        if not windows or not table.num_rows:
            return table
        instrument = table[INSTRUMENT].combine_chunks()
        instrument = instrument.chunk(0) if isinstance(instrument, pa.ChunkedArray) else instrument
        names = instrument.dictionary.to_pylist()
        lows = np.asarray([windows.get(name, (_LOWEST, _HIGHEST))[0] for name in names] + [_LOWEST])
        highs = np.asarray([windows.get(name, (_LOWEST, _HIGHEST))[1] for name in names] + [_HIGHEST])
        codes = np.asarray(pc.fill_null(instrument.indices, len(names)).to_numpy(zero_copy_only=False))
        try:
            times = table[column].cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
        except pa.ArrowInvalid:
            # some time is beyond nanoseconds: refine tells which
            return table
        missing = pc.is_null(times).to_numpy()
        values = times.fill_null(0).to_numpy()
        keep = missing | ((values >= lows[codes]) & (values < highs[codes]))
        return table if keep.all() else table.filter(pa.array(keep))

    @property
    def windows(self) -> dict[str, tuple[int, int]]:
        """The bounded windows asked, in nanoseconds, by instrument text; instruments asked in full are left out."""
        return {
            str(instrument.name): (nanoseconds(instrument.start), nanoseconds(instrument.end))
            for instrument in self.instruments
            if instrument.start > EARLIEST or instrument.end < LATEST
        }


def _in_nanoseconds(times: pa.ChunkedArray) -> np.ndarray:
    """Return raw times, whatever their unit, as nanoseconds; what has none or lies beyond is told by refine."""
    whole = pc.cast(pc.cast(times, pa.timestamp("ns", "UTC"), safe=False), pa.int64())
    return np.asarray(whole.fill_null(0).to_numpy())


def nanoseconds(moment: datetime) -> int:
    """Return the whole nanoseconds since 1970 of an aware time."""
    seconds = round((moment.replace(microsecond=0) - EARLIEST).total_seconds()) + _EARLIEST_SECONDS
    return seconds * 1_000_000_000 + moment.microsecond * 1000


_EARLIEST_SECONDS: Final = round(EARLIEST.timestamp())


def _open(interval: _Interval) -> bool:
    return interval.start <= nanoseconds(EARLIEST) and interval.end >= nanoseconds(LATEST)
