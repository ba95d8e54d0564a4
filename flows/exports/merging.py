"""Merges new rows into stored ones by key, block by block.

The rules are those of the database: a row is replaced only by a fetch that is not older, a null never replaces
a value, rows of immutable schemas are never changed.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas.base import Counts
from flows.exports.facts import Owner


@dataclass(frozen=True, slots=True)
class Merged:
    """The rows of a block after the merge, and what happened to the new ones."""

    table: pa.Table
    counts: Counts


def by_key(owner: Owner, table: pa.Table) -> pa.Table:
    """Return the rows sorted by key."""
    if (np.diff(owner.times(table)) > 0).all():
        return table
    return table.take(pa.array(np.lexsort(_keys(owner, table)[::-1])))


def merged(owner: Owner, stored: Iterable[pa.Table], rows: pa.Table, replace: bool) -> Iterator[Merged]:
    """Yield stored blocks with the rows merged in; both are sorted by key, no key twice in either.

    A block ends where a time ends, so that the same key is never in two of them.
    """
    times = owner.times(rows)
    position = 0
    rest = rows.slice(0, 0)
    for block in stored:
        if not block.num_rows:
            continue
        block = pa.concat_tables([rest, block])
        block_times = owner.times(block)
        whole = int(np.searchsorted(block_times, block_times[-1]))
        upto = int(np.searchsorted(times, block_times[-1]))
        if whole or upto > position:
            yield _merge(owner, block.slice(0, whole), rows.slice(position, upto - position), replace)
        position, rest = upto, block.slice(whole)
    yield _merge(owner, rest, rows.slice(position), replace)


def _merge(owner: Owner, stored: pa.Table, rows: pa.Table, replace: bool) -> Merged:
    if not stored.num_rows or not rows.num_rows:
        return Merged(rows if rows.num_rows else stored, Counts(new=rows.num_rows))
    both = pa.concat_tables([stored, rows])
    keys = _keys(owner, both)
    # stable: of two rows with one key the stored one comes first
    order = np.lexsort(keys[::-1])
    repeated = _repeated(keys, order)
    before, after = order[:-1][repeated[1:]], order[repeated]
    counts, revised, revisions = _revise(owner, both.take(pa.array(before)), both.take(pa.array(after)), replace)
    counts += Counts(new=rows.num_rows - len(after))
    sources = np.arange(both.num_rows + len(revisions))
    sources[before[revised]] = both.num_rows + np.arange(len(revised))
    table = pa.concat_tables([both, revisions]) if len(revised) else both
    return Merged(table.take(pa.array(sources[order[~repeated]])), counts)


def _revise(owner: Owner, old: pa.Table, new: pa.Table, replace: bool) -> tuple[Counts, np.ndarray, pa.Table]:
    """Compare rows that have the same keys; returns counts, the positions to revise and the rows to put there."""
    nothing = np.zeros(0, np.int64)
    if not owner.schema.revisable:
        return Counts(unchanged=old.num_rows), nothing, old.slice(0, 0)
    differs = np.zeros(old.num_rows, bool)
    for name in owner.schema.values:
        # a null brings nothing
        appears = pc.and_(pc.is_null(old[name]), pc.is_valid(new[name]))
        differs |= pc.coalesce(pc.not_equal(old[name], new[name]), appears).to_numpy()
    if not replace:
        superseded = int(differs.sum())
        return Counts(unchanged=old.num_rows - superseded, superseded=superseded), nothing, old.slice(0, 0)
    older = pc.greater(old[FETCH_ID], new[FETCH_ID]).to_numpy()
    revised = np.flatnonzero(differs & ~older)
    superseded = int(older.sum())
    counts = Counts(updated=len(revised), unchanged=old.num_rows - len(revised) - superseded, superseded=superseded)
    if not len(revised):
        return counts, revised, old.slice(0, 0)
    old, new = old.take(pa.array(revised)), new.take(pa.array(revised))
    columns = [
        pc.coalesce(new[name], old[name]) if name in owner.schema.values else new[name] for name in old.column_names
    ]
    return counts, revised, pa.table(columns, schema=old.schema)


def _keys(owner: Owner, table: pa.Table) -> list[np.ndarray]:
    """Return the key's columns as numbers that sort as the key does, the time first."""
    others = [name for name in owner.schema.key if name not in (INSTRUMENT, owner.schema.time)]
    return [owner.times(table), *(_numbers(table[name]) for name in others)]


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_string(column.type):
        return np.asarray(column.to_numpy())
    codes = column.combine_chunks().dictionary_encode()
    ranks = np.empty(len(codes.dictionary), np.int64)
    ranks[pc.sort_indices(codes.dictionary).to_numpy()] = np.arange(len(ranks))
    return np.asarray(ranks[codes.indices.to_numpy()])


def _repeated(keys: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Return which rows, in this order, have the key of the row before."""
    same = np.ones(len(order), bool)
    same[:1] = False
    for key in keys:
        ordered = key[order]
        same[1:] &= ordered[1:] == ordered[:-1]
    return same
