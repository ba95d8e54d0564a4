"""Events of one schema as columns: where values are, which words mean what, what is empty, when it was received."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import NANOSECONDS
from catalog.schemas import ROW
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.feeds import templates
from flows.feeds.feed import Events
from flows.feeds.feed import place
from flows.feeds.feed import steps
from flows.formats.blocks import Rejects
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.records import values

#: of a symbol, in bytes; the catalog's are shorter
_LONGEST: Final = 512
_ZERO: Final = r"^0(\.0*)?$"
_RECEIVED: Final = "ts_recv"
_CONSTANTS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None}


class Layout:
    """How events of one schema become rows."""

    def __init__(self, name: str, events: Events, ahead: float, symbol: Callable[[str], str] | None) -> None:
        self.schema = schema_called(name)
        self.events = events
        self._clock = events.clock(self.schema)
        fields = {column: place(where) for column, where in events.fields.items() if column not in events.words}
        self._shape = Shape(fields, self._clock, events.constants)
        self._words = {column: _Words(table) for column, table in events.words.items()}
        own = templates.symbol_in(events.symbol_form) if events.symbol_form != "{symbol}" else None
        self._spellings = [read for read in (own, symbol) if read is not None]
        given = {*events.fields, *events.constants, *events.received}
        timed = _RECEIVED in [column.name for column in self.schema.columns] and _RECEIVED not in given
        self._received = (*events.received, *((_RECEIVED,) if timed else ()))
        dated = self._clock.timeframe in ("1d", "1w", "1mo")
        self._ahead = None if dated or self.schema.time in self._received else int(ahead * 1e9)

    def batch(self, records: Sequence[Any], rows: np.ndarray, received: np.ndarray) -> Batch:
        """Return events as rows, numbered by `rows`; `received` is when each came, in nanoseconds since 1970."""
        found, positions = self._read(records, self._symbols(records))
        table = found.table
        for column, words in self._words.items():
            if column in self.events.fields:
                said = words.read(values(records, place(self.events.fields[column])))
                table = table.append_column(column, said.take(pa.array(positions)))
        for side in self.events.empty:
            table = _emptied(table, side.zero, side.null)
        for column in self._received:
            table = table.append_column(column, pa.array(received[positions]).cast(NANOSECONDS))
        table = table.set_column(table.column_names.index(ROW), ROW, pa.array(rows[positions]))
        rejected = [_numbered(found.rejected, rows)] if found.rejected.num_rows else []
        table, more = self._plausible(table, received[positions])
        rejected += [more] if more.num_rows else []
        return Batch(self.schema.name, table, pa.concat_tables(rejected) if rejected else REJECTED.empty_table())

    def _read(self, records: Sequence[Any], symbols: Sequence[str | None]) -> tuple[Batch, np.ndarray]:
        """Return what could be read, and the position of each row among the records."""
        found = batch(self.schema, records, self._shape, symbols)
        positions = found.table[ROW].to_numpy()
        if found.rejected.num_rows and len(positions) and not (self._clock.unit or self._clock.form):
            # among times that cannot be read the others lost their nanoseconds
            good = positions.tolist()
            again = batch(self.schema, [records[at] for at in good], self._shape, [symbols[at] for at in good])
            positions = positions[again.table[ROW].to_numpy()]
            found = Batch(found.schema, again.table, found.rejected)
        return found, positions

    def _symbols(self, records: Sequence[Any]) -> list[str | None]:
        found = values(records, steps(self.events.symbol))
        if not set(map(type, found)) <= {str}:
            found = [value if isinstance(value, str) else None for value in found]
        for read in self._spellings:
            table = {text: read(text) for text in set(found) if text is not None}
            found = list(map(table.get, found))
        return found

    def _plausible(self, table: pa.Table, received: np.ndarray) -> tuple[pa.Table, pa.Table]:
        """Return the rows whose time and symbol can be meant, and the others as rejected ones."""
        faults: list[tuple[str, str, np.ndarray]] = []
        if self._ahead is not None and table.num_rows:
            times = table[self.schema.time].cast(pa.int64()).fill_null(0).to_numpy()
            late = times - received > self._ahead
            if late.any():
                faults.append((f"{self.schema.time} is not after its receipt", self.schema.time, late))
        symbols = table[SYMBOL].combine_chunks()
        symbols = symbols.chunk(0) if isinstance(symbols, pa.ChunkedArray) and symbols.num_chunks else symbols
        if table.num_rows and (pc.max(pc.binary_length(symbols.dictionary)).as_py() or 0) > _LONGEST:
            long = pc.fill_null(pc.greater(pc.binary_length(symbols.cast(pa.string())), _LONGEST), False)
            faults.append((f"symbol has at most {_LONGEST} bytes", SYMBOL, long.to_numpy(zero_copy_only=False)))
        if not faults:
            return table, REJECTED.empty_table()
        bad = np.logical_or.reduce([mask for _, _, mask in faults])
        rejects = Rejects()
        for position in np.flatnonzero(bad).tolist():
            (row,) = table.slice(position, 1).to_pylist()
            broken = [(rule, f"{column}={str(row[column])[:100]!r}") for rule, column, mask in faults if mask[position]]
            rule, shown = "; ".join(rule for rule, _ in broken), ", ".join(shown for _, shown in broken)
            rejects.add(row[ROW], rule, shown, str({name: str(value)[:1000] for name, value in row.items()}))
        return table.filter(pa.array(~bad)), rejects.table()


class _Words:
    """A vendor's values and ours, as a column of few words."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._ours = pa.array(list(dict.fromkeys(table.values())), pa.string())
        numbers = {word: number for number, word in enumerate(self._ours.to_pylist())}
        self._codes: dict[tuple[type, Any], int] = {}
        for text, word in table.items():
            value = _CONSTANTS.get(text, text)
            self._codes[type(value), value] = numbers[word]
            if text.lstrip("-").isdecimal():
                self._codes[int, int(text)] = numbers[word]

    def read(self, found: Sequence[Any]) -> pa.Array:
        """Return the words of values; null where a value has none."""
        kinds = set(map(type, found))
        if len(kinds) == 1 and (kind := kinds.pop()) in (bool, str, int):
            table = {value: code for (one, value), code in self._codes.items() if one is kind}
            codes = list(map(table.get, found))
        else:
            plain = (bool, str, int, type(None))
            codes = [self._codes.get((type(value), value)) if type(value) in plain else None for value in found]
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), self._ours)


def _emptied(table: pa.Table, zero: Sequence[str], null: Sequence[str]) -> pa.Table:
    """Return a table with nulls where a side of a quote is empty."""
    masks: list[pa.Array] = []
    for column in zero:
        values_there = table[column].cast(pa.string()) if column in table.column_names else None
        if values_there is None:
            masks.append(pa.repeat(bool(masks), table.num_rows))
            continue
        is_zero = pc.fill_null(pc.match_substring_regex(values_there, _ZERO), False)
        masks.append(pc.or_(is_zero, pc.is_null(values_there)) if masks else is_zero)
    empty = masks[0]
    for mask in masks[1:]:
        empty = pc.and_(empty, mask)
    if pc.any(empty).as_py():
        for column in null:
            if column in table.column_names:
                kept = pc.if_else(empty, pa.scalar(None, table[column].type), table[column])
                table = table.set_column(table.column_names.index(column), column, kept)
    return table


def _numbered(rejected: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return rejected rows with the numbers of their events."""
    return rejected.set_column(0, REJECTED.field(0), pa.array(rows[rejected[ROW].to_numpy()]))
