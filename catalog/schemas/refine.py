"""Refines one batch: conform, check, put in key order, number the repeats. Pure.

Every input row comes out exactly once: accepted, rejected with every rule it breaks and the values that
break it, or counted as a duplicate (the same row twice in one batch).
"""

import json
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import SchemaMismatch
from catalog.schemas.base import FETCH_ID
from catalog.schemas.base import INSTRUMENT
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import ORDINAL
from catalog.schemas.base import ROW
from catalog.schemas.base import TEXT
from catalog.schemas.base import Check
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.conform import conform

#: A rejected row: its position in the page, the rules it breaks, a sentence with the values, what came in (JSON).
REJECTED: Final = pa.schema(
    [
        pa.field(ROW, pa.int64()),
        pa.field("rule", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("raw", pa.string()),
    ]
)
# vendors' clocks run ahead a little; a bar of a later day is no fact yet
_AHEAD: Final = timedelta(days=1)
_SHOWN: Final = 120
_WORDS: Final = pa.dictionary(INT32, TEXT)
#: rows hashed at once, so that what lies between two steps stays in the processor's cache
_CACHED: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Facts:
    """What refining needs to know beyond the rows.

    `positive` names the instruments whose prices cannot go to zero or below. `live` rows come as they happen: the same
    key again in one batch is a revision, not a contradiction. `numbered` rows carry a number of their own: the same
    key again is the same row, not a repeat.
    """

    fetch_id: int
    fetched_at: datetime
    positive: frozenset[str] = frozenset()
    live: bool = False
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Refined:
    """The outcome for one batch. `accepted` has the schema's Arrow schema and is sorted by key."""

    accepted: pa.Table
    rejected: pa.Table
    duplicates: int = 0
    rounded: int = 0
    superseded: int = 0


@dataclass(slots=True)
class _Block:
    """The hashes of the rows between two times, ends included; sorted when they are first searched."""

    low: int
    high: int
    hashes: np.ndarray
    ordered: bool = False

    def count(self, keys: np.ndarray) -> np.ndarray:
        """Return how many rows have each key."""
        if not self.ordered:
            self.hashes.sort()
            self.ordered = True
        at = np.searchsorted(self.hashes, keys)
        found = np.flatnonzero(self.hashes[np.minimum(at, len(self.hashes) - 1)] == keys)
        counts = np.zeros(len(keys), np.int64)
        counts[found] = np.searchsorted(self.hashes, keys[found], side="right") - at[found]
        return counts


@dataclass(slots=True)
class Ordinals:
    """Counts the repeats of a key over all batches of one fetch, in vendor order.

    Holds eight bytes a row (a 64-bit hash of the key), so that the count stays right however the vendor
    orders its rows; two keys that share a hash would only number a first row 1 instead of 0.
    """

    blocks: list[_Block] = field(default_factory=list)
    #: how many blocks are of the file before
    _before: int = 0

    def turn(self) -> None:
        """Begin the next file of a stream that never ends: only repeats in it and the file before are still known."""
        del self.blocks[: self._before]
        self._before = len(self.blocks)

    def compact(self) -> None:
        """Join the blocks of a file as they double: a stream brings a few rows at a time."""
        while len(self.blocks) - self._before > 1:
            early, late = self.blocks[-2:]
            if len(early.hashes) > 2 * len(late.hashes):
                return
            joined = np.concatenate([early.hashes, late.hashes])
            self.blocks[-2:] = [_Block(min(early.low, late.low), max(early.high, late.high), joined)]

    def number(self, hashes: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return for each row how many rows of this fetch had its key before. Keeps `hashes` and reorders them."""
        if not len(hashes):
            return np.zeros(0, np.int32)
        if _ascends(time):
            return self._number(hashes, time)
        order = np.argsort(time, kind="stable")
        ordinals = np.empty(len(hashes), np.int32)
        ordinals[order] = self._number(hashes[order], time[order])
        return ordinals

    def _number(self, hashes: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Number rows in the order of their times: a key holds the time, so its rows are near each other.

        Most keys come once, or in neighbouring rows. Only those that share their time with another key, or lie
        where an earlier block has rows, have to be looked for.
        """
        low, high = int(time[0]), int(time[-1])
        starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
        counts = np.diff(np.r_[starts, len(hashes)])
        times = time[starts]
        unsure = np.zeros(len(starts), bool)
        shared = times[1:] == times[:-1]
        unsure[1:] = shared
        unsure[:-1] |= shared
        met = []
        for block in self.blocks:
            if block.low <= high and low <= block.high:
                first, end = times.searchsorted(block.low), times.searchsorted(block.high, side="right")
                if first < end:
                    unsure[first:end] = True
                    met.append(block)
        before = np.zeros(len(starts), np.int64)
        sought = np.flatnonzero(unsure)
        if len(sought):
            before[sought] = _before(hashes[starts[sought]], counts[sought], met)
        # the last time is a block of its own: where the vendor keeps to the order, the next batch can meet only that
        last = int(np.searchsorted(time, high))
        if last:
            self.blocks.append(_Block(low, int(time[last - 1]), hashes[:last]))
        self.blocks.append(_Block(high, high, hashes[last:]))
        return (np.arange(len(hashes)) - np.repeat(starts - before, counts)).astype(np.int32)


def _before(keys: np.ndarray, counts: np.ndarray, earlier: list[_Block]) -> np.ndarray:
    """Return how many rows had a key before, for keys in vendor order that `counts` neighbouring rows have."""
    order = np.argsort(keys, kind="stable")
    ordered, sizes = keys[order], counts[order]
    passed = np.cumsum(sizes) - sizes
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    unique, base = ordered[firsts], passed[firsts]
    for block in earlier:
        base -= block.count(unique)
    before = np.empty(len(keys), np.int64)
    before[order] = passed - np.repeat(base, np.diff(np.r_[firsts, len(keys)]))
    return before


def refine(schema: Schema, table: pa.Table, facts: Facts, ordinals: Ordinals) -> Refined:
    """Refine the raw rows of one batch.

    `table` has a dictionary column `instrument`, an int64 column `row`, and any of the schema's columns
    in a type that can become the declared one. `ordinals` is the state of the fetch the batch belongs to.
    Raises SchemaMismatch, naming every column, when a required one is missing.
    """
    missing = [
        column.name
        for column in schema.columns
        if column.name not in table.column_names and not column.null and column.absent is None
    ]
    if missing:
        have = ", ".join(table.column_names)
        raise SchemaMismatch(f"schema {schema.name!r} needs {', '.join(missing)}; the data have: {have}")
    table = table.combine_chunks()
    conformed, faults, rounded = _conform(schema, table)
    faults += _check(schema, conformed, facts)
    bad = np.zeros(table.num_rows, bool)
    for mask, _, _ in faults:
        bad |= mask
    kept = np.flatnonzero(~bad) if faults else None
    if kept is not None:
        conformed = conformed.take(pa.array(kept))
    accepted, duplicates, conflict, superseded = _order(schema, conformed, facts, ordinals)
    if conflict is not None:
        mask = np.zeros(table.num_rows, bool)
        mask[kept[conflict] if kept is not None else conflict] = True
        bad |= mask
        faults.append((mask, "one row for each key", tuple(schema.key[1:]) + schema.values))
    return Refined(accepted, _rejected(table, faults, bad), duplicates, rounded, superseded)


_Fault = tuple[np.ndarray, str, tuple[str, ...]]


def _conform(schema: Schema, table: pa.Table) -> tuple[pa.Table, list[_Fault], int]:
    columns: dict[str, pa.Array] = {INSTRUMENT: _array(table[INSTRUMENT])}
    faults: list[_Fault] = []
    rounded = 0
    for column in schema.columns:
        if column.name not in table.column_names:
            columns[column.name] = _filler(column, table.num_rows)
            continue
        raw = _array(table[column.name])
        if _is_words(raw, column):
            columns[column.name] = raw
            continue
        result = conform(raw, column)
        array = result.array
        rounded += result.rounded
        if result.bad is not None:
            faults.append((result.bad, f"{column.name} is {result.rule}", (column.name,)))
        if not column.null and array.null_count:
            if column.absent is not None:
                array = pc.fill_null(array, column.absent)
            else:
                empty = pc.is_null(array).to_numpy(zero_copy_only=False)
                if result.bad is not None:
                    empty = empty & ~result.bad
                if empty.any():
                    faults.append((empty, f"{column.name} is required", (column.name,)))
        columns[column.name] = array
    if columns[INSTRUMENT].null_count:
        nameless = pc.is_null(columns[INSTRUMENT]).to_numpy(zero_copy_only=False)
        faults.append((nameless, "symbol is known", (INSTRUMENT,)))
    return pa.table(columns), faults, rounded


def _filler(column: Column, rows: int) -> pa.Array:
    """What a column holds that the data lack."""
    if column.type != TEXT:
        return pa.repeat(pa.scalar(column.absent, column.type), rows)
    if column.absent is None:
        return pa.nulls(rows, _WORDS)
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([column.absent], TEXT))


def _is_words(array: pa.Array, column: Column) -> bool:
    """Whether a column of texts came as a dictionary of sound words and may stay one.

    A few words instead of every row are then checked, hashed and moved; they are written out at the end.
    """
    if array.type != _WORDS or column.type != TEXT or array.dictionary.null_count:
        return False
    if array.null_count and not column.null:
        return False
    return conform(array.dictionary, column).bad is None


def _check(schema: Schema, table: pa.Table, facts: Facts) -> list[_Fault]:
    faults: list[_Fault] = []
    latest = pa.scalar(facts.fetched_at + _AHEAD, pa.timestamp("us", "UTC")).cast(table[schema.time].type)
    if not schema.announced and pc.greater(pc.max(table[schema.time]), latest).as_py():
        ahead = pc.fill_null(pc.greater(table[schema.time], latest), False)
        faults.append((_numpy(ahead), f"{schema.time} is not in the future", (schema.time,)))
    for check in schema.checks:
        if check.positive_only and not facts.positive:
            continue
        words = [name for name in check.columns if table[name].type == _WORDS]
        if words and len(check.columns) == 1 and _all_kept(check, _array(table[words[0]])):
            continue
        checked = table
        for name in words:
            checked = checked.set_column(checked.column_names.index(name), name, _written(_array(table[name])))
        keeps = check.keeps(checked)
        if pc.all(keeps).as_py():
            continue
        mask = _numpy(pc.fill_null(pc.invert(keeps), False))
        if check.positive_only:
            mask = mask & _is_positive(table, facts)
        if mask.any():
            faults.append((mask, check.rule, check.columns))
    return faults


def _all_kept(check: Check, array: pa.DictionaryArray) -> bool:
    """Whether each word keeps a rule about its column alone, those that no row has included."""
    words = array.dictionary
    if array.null_count:
        words = pa.concat_arrays([words, pa.nulls(1, TEXT)])
    return bool(pc.all(check.keeps(pa.table({check.columns[0]: words}))).as_py())


def _written(array: pa.DictionaryArray) -> pa.Array:
    """Write out a column of words. Those of one length, as letters are, lie evenly: that is quickly laid out."""
    rows = len(array)
    if array.null_count == rows:
        return pa.nulls(rows, TEXT)
    sizes = pc.min_max(pc.binary_length(array.dictionary)).as_py()
    width = sizes["max"]
    if array.null_count or sizes["min"] != width or width * rows >= 2**31:
        return array.cast(TEXT)
    letters = b""
    if width:
        words = np.frombuffer("".join(array.dictionary.to_pylist()).encode(), np.dtype((np.void, width)))
        letters = words.take(array.indices.to_numpy(zero_copy_only=False))
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(TEXT, rows, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])


def _is_positive(table: pa.Table, facts: Facts) -> np.ndarray:
    instrument = _array(table[INSTRUMENT])
    flags = pa.array([name in facts.positive for name in instrument.dictionary.to_pylist()], pa.bool_())
    return _numpy(pc.fill_null(flags.take(instrument.indices), False))


def _order(
    schema: Schema, table: pa.Table, facts: Facts, ordinals: Ordinals
) -> tuple[pa.Table, int, np.ndarray | None, int]:
    """Sort by key; find duplicates, conflicts and revisions, or number the repeats. Returns positions of conflicts."""
    instrument = _array(table[INSTRUMENT])
    time = _array(table[schema.time]).cast(pa.int64()).to_numpy(zero_copy_only=False)
    codes = instrument.indices.to_numpy(zero_copy_only=False)
    conflict = None
    duplicates = superseded = 0
    if schema.repeats and facts.numbered:
        table = table.append_column(pa.field(ORDINAL, INT32), pa.array(np.zeros(table.num_rows, np.int32)))
    if schema.repeats and not facts.numbered:
        hashes = _hash(schema, table, instrument, time)
        table = table.append_column(pa.field(ORDINAL, INT32), pa.array(ordinals.number(hashes, time), INT32))
        order = None if _ascending(codes, time) else _by_instrument(codes, time, len(instrument.dictionary))
    elif _ascending(codes, time, strictly=True):
        # most vendors send bars in order: then no key comes twice, and nothing has to move
        order = None
    else:
        identity = [_codes(table[name]) for name in reversed(schema.identity)]
        order = np.lexsort((*identity, time, codes))
        drop = np.zeros(len(order), bool)
        if len(order) > 1:
            same = np.ones(len(order) - 1, bool)
            for keys in (codes, time, *identity):
                ordered = keys[order]
                same &= ordered[1:] == ordered[:-1]
            if same.any() and facts.live:
                drop, duplicates, superseded = _revisions(schema, table, order, same)
            elif same.any():
                drop, duplicates, conflict = _duplicates(schema, table, order, same)
        order = order[~drop]
    if order is not None:
        table = table.take(pa.array(order))
    columns = {
        name: _written(_array(column)) if name != INSTRUMENT and column.type == _WORDS else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    columns[FETCH_ID] = pa.array(np.full(table.num_rows, facts.fetch_id, np.int64))
    return pa.table(columns).select(schema.arrow.names).cast(schema.arrow), duplicates, conflict, superseded


def _ascends(time: np.ndarray) -> bool:
    return bool(np.all(time[1:] >= time[:-1]))


def _by_instrument(codes: np.ndarray, time: np.ndarray, instruments: int) -> np.ndarray:
    """Return the order of instrument and time."""
    if instruments <= 2**16 and _ascends(time):
        # vendors mostly send by time: what is left is to part the instruments, and 16 bits are sorted without comparing
        return np.argsort(codes.astype(np.uint16), kind="stable")
    return np.lexsort((time, codes))


def _ascending(codes: np.ndarray, time: np.ndarray, *, strictly: bool = False) -> bool:
    """Whether the rows are in the order of instrument and time already (with `strictly`: no two share both)."""
    later = time[1:] > time[:-1] if strictly else time[1:] >= time[:-1]
    return bool(np.all((codes[1:] > codes[:-1]) | ((codes[1:] == codes[:-1]) & later)))


def _duplicates(
    schema: Schema, table: pa.Table, order: np.ndarray, same: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Tell equal rows (keep the first) from rows that contradict each other (keep none)."""
    starts = np.flatnonzero(np.r_[True, ~same])
    sizes = np.diff(np.r_[starts, len(order)])
    groups = np.repeat(np.arange(len(starts)), sizes)
    involved = np.flatnonzero(np.repeat(sizes > 1, sizes))
    rows = table.select(list(schema.values)).take(pa.array(order[involved])).to_pylist()
    first: dict[int, dict[str, Any]] = {}
    contradicting: set[int] = set()
    for position, row in zip(involved.tolist(), rows, strict=True):
        group = int(groups[position])
        if first.setdefault(group, row) != row:
            contradicting.add(group)
    drop = np.zeros(len(order), bool)
    drop[1:] = same
    conflicts = np.isin(groups, np.fromiter(contradicting, np.int64, len(contradicting)))
    duplicates = int((drop & ~conflicts).sum())
    return drop | conflicts, duplicates, order[conflicts] if conflicts.any() else None


def _revisions(schema: Schema, table: pa.Table, order: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Keep one row of each key: the last one where rows are revisable, else the first.

    The sort was stable, so rows of one key stand in the order in which they came. Returns which to drop, how many of
    those equal the one that is kept, and how many differ.
    """
    starts = np.flatnonzero(np.r_[True, ~same])
    sizes = np.diff(np.r_[starts, len(order)])
    kept = starts + sizes - 1 if schema.revisable else starts
    drop = np.ones(len(order), bool)
    drop[kept] = False
    dropped = np.flatnonzero(drop)
    winners = np.repeat(kept, sizes)[dropped]
    values = [name for name in schema.values if name != "ts_recv"]
    lost = table.select(values).take(pa.array(order[dropped])).to_pylist()
    won = table.select(values).take(pa.array(order[winners])).to_pylist()
    equal = sum(one == other for one, other in zip(lost, won, strict=True))
    return drop, equal, len(dropped) - equal


def _hash(schema: Schema, table: pa.Table, instrument: pa.DictionaryArray, time: np.ndarray) -> np.ndarray:
    """Hash the key without its ordinal; the same key gives the same hash in every batch and process."""
    total = _mix(time)
    parts: list[np.ndarray | np.uint64] = [_hash_text(instrument)]
    for name in schema.identity:
        array = _array(table[name])
        if pa.types.is_string(array.type):
            array = array.dictionary_encode()
        is_text = pa.types.is_dictionary(array.type)
        parts.append(_hash_text(array) if is_text else _mix(array.cast(INT64).to_numpy(zero_copy_only=False)))
    # each part is mixed already, so that a sum with odd factors is as good as another mix
    for part in parts:
        total *= np.uint64(31)
        total += part
    return total


def _hash_text(array: pa.DictionaryArray) -> np.ndarray | np.uint64:
    """Return the hash of each row's word; a single one where there is one word only."""
    words = np.asarray(array.dictionary.to_pylist(), dtype=object)
    hashed = np.asarray(pd.util.hash_array(words, categorize=False) if len(words) else np.zeros(0, np.uint64))
    return (
        np.uint64(hashed[0]) if len(hashed) == 1 else np.asarray(hashed[array.indices.to_numpy(zero_copy_only=False)])
    )


def _mix(values: np.ndarray) -> np.ndarray:
    # the finaliser of splitmix64 (Steele, Lea, Flood 2014)
    whole = values.view(np.uint64)
    mixed = np.empty(len(whole), np.uint64)
    for start in range(0, len(whole), _CACHED):
        part, given = mixed[start : start + _CACHED], whole[start : start + _CACHED]
        np.right_shift(given, np.uint64(30), out=part)
        part ^= given
        part *= np.uint64(0xBF58476D1CE4E5B9)
        part ^= part >> np.uint64(27)
        part *= np.uint64(0x94D049BB133111EB)
        part ^= part >> np.uint64(31)
    return mixed


def _rejected(table: pa.Table, faults: list[_Fault], bad: np.ndarray) -> pa.Table:
    positions = np.flatnonzero(bad)
    if not len(positions):
        return REJECTED.empty_table()
    raw = table.take(pa.array(positions)).to_pylist()
    rules: list[str] = []
    reasons: list[str] = []
    for position, values in zip(positions.tolist(), raw, strict=True):
        broken = [(rule, columns) for mask, rule, columns in faults if mask[position]]
        rules.append("; ".join(rule for rule, _ in broken))
        reasons.append("; ".join(_sentence(rule, columns, values) for rule, columns in broken))
    return pa.table(
        [
            pa.array([values.pop(ROW) for values in raw], pa.int64()),
            pa.array(rules, pa.string()),
            pa.array(reasons, pa.string()),
            pa.array([json.dumps(values, default=str, ensure_ascii=False) for values in raw], pa.string()),
        ],
        schema=REJECTED,
    )


def _sentence(rule: str, columns: tuple[str, ...], values: dict[str, Any]) -> str:
    shown = ", ".join(f"{name}={str(values.get(name))[:_SHOWN]!r}" for name in columns if name in values)
    return f"{rule}: {shown}" if shown else rule


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    array = _array(column)
    if array.type == _WORDS:
        # the words of a dictionary may come twice
        array = _written(array)
    if pa.types.is_string(array.type):
        return np.asarray(array.dictionary_encode().indices.to_numpy(zero_copy_only=False))
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        # to combine one chunk would copy it
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _numpy(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False))
