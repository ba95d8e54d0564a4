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


@dataclass(frozen=True, slots=True)
class Facts:
    """What refining needs to know beyond the rows.

    `positive` names the instruments whose prices cannot go to zero or below.
    """

    fetch_id: int
    fetched_at: datetime
    positive: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refined:
    """The outcome for one batch. `accepted` has the schema's Arrow schema and is sorted by key."""

    accepted: pa.Table
    rejected: pa.Table
    duplicates: int = 0
    rounded: int = 0


@dataclass(slots=True)
class Ordinals:
    """Counts the repeats of a key over all batches of one fetch, in vendor order.

    Holds eight bytes a row (a 64-bit hash of the key), so that the count stays right however the vendor
    orders its rows; two keys that share a hash would only number a first row 1 instead of 0.
    """

    #: for each batch: first and last time, its hashes, and those that came more than once with their counts
    blocks: list[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def number(self, hashes: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return for each row how many rows of this fetch had its key before."""
        if not len(hashes):
            return np.zeros(0, np.int32)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        counts = np.diff(np.r_[starts, len(ordered)])
        unique = ordered[starts]
        before = np.zeros(len(unique), np.int64)
        low, high = int(time.min()), int(time.max())
        for block_low, block_high, block_hashes, repeated, times in self.blocks:
            if block_low <= high and low <= block_high:
                before += _found(block_hashes, unique)
                if len(repeated):
                    at = np.minimum(np.searchsorted(repeated, unique), len(repeated) - 1)
                    before += np.where(repeated[at] == unique, times[at] - 1, 0)
        ordinals = np.empty(len(hashes), np.int32)
        ordinals[order] = np.arange(len(ordered)) - np.repeat(starts - before, counts)
        several = counts > 1
        self.blocks.append((low, high, unique, unique[several], counts[several]))
        return ordinals


def _found(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return 1 for each wanted hash that is among the ordered ones, else 0."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.asarray(ordered[at] == wanted).astype(np.int64)


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
    accepted, duplicates, conflict = _order(schema, conformed, facts, ordinals)
    if conflict is not None:
        mask = np.zeros(table.num_rows, bool)
        mask[kept[conflict] if kept is not None else conflict] = True
        bad |= mask
        faults.append((mask, "one row for each key", tuple(schema.key[1:]) + schema.values))
    return Refined(accepted, _rejected(table, faults, bad), duplicates, rounded)


_Fault = tuple[np.ndarray, str, tuple[str, ...]]


def _conform(schema: Schema, table: pa.Table) -> tuple[pa.Table, list[_Fault], int]:
    columns: dict[str, pa.Array] = {INSTRUMENT: _array(table[INSTRUMENT])}
    faults: list[_Fault] = []
    rounded = 0
    for column in schema.columns:
        if column.name not in table.column_names:
            filler = pa.scalar(column.absent, column.type)
            columns[column.name] = pa.repeat(filler, table.num_rows)
            continue
        result = conform(_array(table[column.name]), column)
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


def _check(schema: Schema, table: pa.Table, facts: Facts) -> list[_Fault]:
    faults: list[_Fault] = []
    latest = pa.scalar(facts.fetched_at + _AHEAD, pa.timestamp("us", "UTC")).cast(table[schema.time].type)
    ahead = pc.fill_null(pc.greater(table[schema.time], latest), False)
    if not schema.announced and pc.any(ahead).as_py():
        faults.append((_numpy(ahead), f"{schema.time} is not in the future", (schema.time,)))
    for check in schema.checks:
        broken = pc.fill_null(pc.invert(check.keeps(table)), False)
        if not pc.any(broken).as_py():
            continue
        mask = _numpy(broken)
        if check.positive_only:
            mask = mask & _is_positive(table, facts)
        if mask.any():
            faults.append((mask, check.rule, check.columns))
    return faults


def _is_positive(table: pa.Table, facts: Facts) -> np.ndarray:
    instrument = _array(table[INSTRUMENT])
    flags = pa.array([name in facts.positive for name in instrument.dictionary.to_pylist()], pa.bool_())
    return _numpy(pc.fill_null(flags.take(instrument.indices), False))


def _order(
    schema: Schema, table: pa.Table, facts: Facts, ordinals: Ordinals
) -> tuple[pa.Table, int, np.ndarray | None]:
    """Sort by key; find duplicates and conflicts, or number the repeats. Returns positions of conflicts."""
    instrument = _array(table[INSTRUMENT])
    time = _array(table[schema.time]).cast(pa.int64()).to_numpy(zero_copy_only=False)
    codes = instrument.indices.to_numpy(zero_copy_only=False)
    conflict = None
    duplicates = 0
    if schema.repeats:
        hashes = _hash(schema, table, instrument, time)
        table = table.append_column(pa.field(ORDINAL, INT32), pa.array(ordinals.number(hashes, time), INT32))
        order = None if _ascending(codes, time) else np.lexsort((time, codes))
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
            if same.any():
                drop, duplicates, conflict = _duplicates(schema, table, order, same)
        order = order[~drop]
    if order is not None:
        table = table.take(pa.array(order))
    arrays = [*table.columns, pa.chunked_array([pa.repeat(pa.scalar(facts.fetch_id, INT64), table.num_rows)])]
    accepted = pa.table(dict(zip([*table.column_names, FETCH_ID], arrays, strict=True)))
    return accepted.select(schema.arrow.names).cast(schema.arrow), duplicates, conflict


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


def _hash(schema: Schema, table: pa.Table, instrument: pa.DictionaryArray, time: np.ndarray) -> np.ndarray:
    """Hash the key without its ordinal; the same key gives the same hash in every batch and process."""
    total = _hash_text(instrument) ^ _mix(time.view(np.uint64))
    for name in schema.identity:
        array = _array(table[name])
        part = (
            _hash_text(array.dictionary_encode())
            if pa.types.is_string(array.type)
            else _mix(array.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64))
        )
        total = _mix(total * np.uint64(31) + part)
    return np.asarray(total)


def _hash_text(array: pa.DictionaryArray) -> np.ndarray:
    words = np.asarray(array.dictionary.to_pylist(), dtype=object)
    hashed = pd.util.hash_array(words, categorize=False) if len(words) else np.zeros(0, np.uint64)
    return np.asarray(np.asarray(hashed)[array.indices.to_numpy(zero_copy_only=False)])


def _mix(values: np.ndarray) -> np.ndarray:
    # the finaliser of splitmix64 (Steele, Lea, Flood 2014)
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


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
    if pa.types.is_string(array.type):
        return np.asarray(array.dictionary_encode().indices.to_numpy(zero_copy_only=False))
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _numpy(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False))
