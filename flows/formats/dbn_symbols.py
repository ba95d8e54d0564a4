"""DBN's symbology: which symbol an instrument id was, on the day or at the place in the stream of a record.

An id means one instrument in one dataset on one day. A file of history says in its header which symbol had which
id from day to day, by the date at which the vendor indexes a record: that of `ts_recv` where a record has it. A live
session says it in records between the others, each valid from its place on.

Several continuous symbols (ES.c.0, ES.v.0) may stand for one instrument at a time: its records are of each of them.
"""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import date
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

_DAY: Final = 86_400 * 1_000_000_000
_UNDEF_TIME: Final = np.uint64(2**64 - 1)
#: endings of the symbols that stand for many instruments
_MANY: Final = (".FUT", ".OPT", ".SPOT")


#: by instrument id: first day, day after the last, symbol
Intervals = dict[int, list[tuple[int, int, str]]]


class Names:
    """Instrument id and when → symbol. `first_only`: the first symbol that a session gives an id is the only one."""

    def __init__(self, intervals: Intervals, given: Mapping[str, str]) -> None:
        self.given = given
        self.intervals = intervals
        self.first_only = False
        #: places in the stream where an id got a symbol, and by id: the count of such places before, and the symbol
        self.places: list[int] = []
        self.changes: dict[int, tuple[list[int], list[str]]] = {}

    def learn(self, messages: np.ndarray, positions: np.ndarray) -> None:
        """Note a session's messages about symbols; `positions` are their places in the stream."""
        for message, position in zip(messages, positions.tolist(), strict=True):
            epochs, symbols = self.changes.setdefault(int(message["instrument_id"]), ([], []))
            symbol = _symbol(message)
            if not symbols or (symbols[-1] != symbol and not self.first_only):
                self.places.append(position)
                epochs.append(len(self.places))
                symbols.append(symbol)

    def of(self, records: np.ndarray, positions: np.ndarray) -> pa.DictionaryArray:
        """Return each record's symbol; its id as text where nothing says which symbol it was."""
        ids = records["instrument_id"]
        when = np.searchsorted(self.places, positions, side="right") if self.places else _days(records)
        low, high = int(when.min()), int(when.max())
        if low == high:
            codes = pa.array(ids).dictionary_encode()
            words = [self._name(number, low) for number in codes.dictionary.to_pylist()]
        else:
            codes = pa.array(ids.astype(np.int64) << 32 | when).dictionary_encode()
            words = [self._name(pair >> 32, pair & 0xFFFFFFFF) for pair in codes.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(codes.indices, pa.array(words, pa.string()))

    def named(self, records: np.ndarray) -> np.ndarray:
        """Return which records have a symbol by the header's intervals."""
        ids, when = records["instrument_id"], _days(records)
        chosen = np.zeros(len(records), bool)
        for number in np.intersect1d(ids, list(self.intervals)).tolist():
            for first, last, _ in self.intervals[number]:
                chosen |= (ids == number) & (when >= first) & (when < last)
        return chosen

    def _name(self, number: int, when: int) -> str:
        text = str(number)
        if text in self.given:
            return self.given[text]
        if self.places:
            epochs, symbols = self.changes.get(number, ([], []))
            at = bisect_right(epochs, when)
            return symbols[at - 1] if at else text
        return next((symbol for first, last, symbol in self.intervals.get(number, ()) if first <= when < last), text)


def layers(mappings: Mapping[str, Any], given: Mapping[str, str]) -> list[Names]:
    """Return the symbols that a header gives: the first has one of each id and day, others have what goes beyond."""
    found: list[Intervals] = [{}]
    for symbol, intervals in mappings.items():
        for interval in intervals:
            text = interval["symbol"]
            if not text.isdigit():
                continue
            first, last = (_number(interval[name]) for name in ("start_date", "end_date"))
            for layer in found:
                known = layer.setdefault(int(text), [])
                if all(last <= begun or ended <= first for begun, ended, _ in known):
                    break
            else:
                known = []
                found.append({int(text): known})
            known.append((first, last, symbol))
    return [Names(layer, given if at == 0 else {}) for at, layer in enumerate(found)]


def _days(records: np.ndarray) -> np.ndarray:
    stamp = records["ts_event"]
    if "ts_recv" in (records.dtype.names or ()):
        received = records["ts_recv"]
        unknown = received == _UNDEF_TIME
        stamp = np.where(unknown, stamp, received) if unknown.any() else received
    low, high = int(stamp.min()) // _DAY, int(stamp.max()) // _DAY
    # dividing a million 64-bit numbers takes longer than finding out that it is not needed
    return np.array([low]) if low == high else (stamp // np.uint64(_DAY)).astype(np.int64)


def _number(day: date | str) -> int:
    return int(np.datetime64(day, "D").astype(np.int64))


def _symbol(message: np.void) -> str:
    """Return the symbol that history would give: what was asked, or what it stands for where that is many."""
    asked, given = (message[f"stype_{way}_symbol"].decode("utf-8", "backslashreplace") for way in ("in", "out"))
    many = asked.endswith(_MANY) or asked == "ALL_SYMBOLS"
    return str(given if many and given and not given.isdigit() else asked)
