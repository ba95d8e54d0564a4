"""Decides what some rows of one key change in Redis, given what is there. Pure: rows in, rows out.

Each structure has the same rule for one row key: the later fetch wins, a null replaces nothing, ticks never
change. A stream can only grow at its end: what is older than its last entry is not added to it.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import PermanentError
from catalog.schemas.base import Counts
from flows.exports.facts import Owner
from flows.exports.merging import by_key
from flows.exports.merging import merged
from flows.rediswire import rows as wire
from flows.rediswire.names import COUNTERS
from flows.rediswire.names import entry_id


@dataclass(frozen=True, slots=True)
class Appended:
    """Rows for the end of a stream with their ids, in order; `keep` is how many last entries may not be cut off."""

    counts: Counts
    rows: pa.Table
    ids: list[str]
    keep: int


@dataclass(frozen=True, slots=True)
class Ranged:
    """Rows of a sorted set: those to put in, and the members to take out first."""

    counts: Counts
    rows: pa.Table
    members: pa.Array
    outdated: list[str]


@dataclass(frozen=True, slots=True)
class Latest:
    """The row for the hash of the newest row; none where the stored one stays."""

    counts: Counts
    rows: pa.Table


def append(
    owner: Owner, rows: pa.Table, position: tuple[int, int] | None, stored: pa.Table, *, replace: bool
) -> Appended:
    """Decide which rows (sorted by time) a stream takes after `position`, the time and counter of its last id.

    `stored` is what the stream holds of the time of its last id; where older rows are to be told apart as stored
    already or too late, of their times too. A revised row of the last time is added as another entry of it.
    """
    last, counter = position or (-1, 0)
    times = owner.times(rows)
    fresh = rows.filter(pa.array((times > last) & (times >= 0)))
    # no entry can have a time before 1970
    late = rows.filter(pa.array((times < last) | (times < 0)))
    level = rows.filter(pa.array((times == last) & (times >= 0)))
    counts = Counts(new=fresh.num_rows)
    if late.num_rows:
        found = _counts(owner, stored, late, replace=replace)
        counts += Counts(unchanged=found.unchanged, superseded=late.num_rows - found.unchanged)
    pieces = [fresh]
    if level.num_rows:
        boundary = stored.filter(pa.array(owner.times(stored) == last))
        blocks = list(merged(owner, [latest(owner, boundary)], by_key(owner, level), replace))
        changed = pa.concat_tables([block.table for block in blocks])
        changed = changed.filter(pc.invert(pc.is_in(wire.members(changed), value_set=wire.members(boundary))))
        # in the order they came, as they would stand had all come at once
        order = pc.drop_null(pc.index_in(_key_texts(owner, level), value_set=_key_texts(owner, changed)))
        pieces.insert(0, changed.take(order))
        counts += sum((block.counts for block in blocks), Counts())
    appended = pa.concat_tables(pieces)
    counters = _counters(owner.times(appended), last, counter)
    ids = [entry_id(time, number) for time, number in zip(owner.times(appended).tolist(), counters, strict=True)]
    return Appended(counts, appended, ids, counters[-1] if counters else 0)


def arrange(owner: Owner, rows: pa.Table, stored: list[bytes], place: str, *, replace: bool) -> Ranged:
    """Decide what a sorted set takes in and gives away; `stored` are its members over the rows' times."""
    before = pa.array(stored, pa.binary()).cast(pa.string())
    blocks = list(merged(owner, [by_key(owner, wire.from_members(owner, stored, place))], by_key(owner, rows), replace))
    table = pa.concat_tables([block.table for block in blocks])
    after = wire.members(table)
    is_new = pc.invert(pc.is_in(after, value_set=before))
    outdated = before.filter(pc.invert(pc.is_in(before, value_set=after)))
    counts = sum((block.counts for block in blocks), Counts())
    return Ranged(counts, table.filter(is_new), after.filter(is_new), outdated.to_pylist())


def newest(owner: Owner, rows: pa.Table, stored: pa.Table, *, replace: bool) -> Latest:
    """Decide whether the row with the greatest key takes the place of `stored`, no row or one."""
    candidate = by_key(owner, rows).slice(rows.num_rows - 1)
    blocks = list(merged(owner, [stored], candidate, replace))
    table = pa.concat_tables([block.table for block in blocks])
    winner = table.slice(table.num_rows - 1)
    if stored.num_rows and winner.equals(stored):
        same = sum((block.counts for block in blocks), Counts()).unchanged
        return Latest(Counts(unchanged=same, superseded=rows.num_rows - same), winner.slice(1))
    own = Counts(updated=1) if table.num_rows == 1 and stored.num_rows else Counts(new=1)
    return Latest(own + Counts(superseded=rows.num_rows - 1), winner)


def latest(owner: Owner, rows: pa.Table) -> pa.Table:
    """Return the last row of each key, sorted by key."""
    if not rows.num_rows:
        return rows
    codes = _key_texts(owner, rows).dictionary_encode().indices.to_numpy()
    _, backwards = np.unique(codes[::-1], return_index=True)
    return by_key(owner, rows.take(pa.array(np.sort(len(codes) - 1 - backwards))))


def _counts(owner: Owner, stored: pa.Table, rows: pa.Table, *, replace: bool) -> Counts:
    blocks = merged(owner, [latest(owner, stored)], by_key(owner, rows), replace)
    return sum((block.counts for block in blocks), Counts())


def _key_texts(owner: Owner, table: pa.Table) -> pa.Array:
    return wire.members(table.select([name for name in owner.schema.key if name in table.column_names]))


def _counters(times: np.ndarray, last: int, counter: int) -> list[int]:
    """Number the rows of each time from 1; of the time `last`, from where `counter` stopped."""
    starts = np.flatnonzero(np.r_[True, times[1:] != times[:-1]])[: len(times)]
    lengths = np.diff(np.r_[starts, len(times)])
    numbers = np.arange(len(times)) - np.repeat(starts, lengths) + 1
    numbers[times == last] += counter
    if len(numbers) and numbers.max() >= COUNTERS:
        raise PermanentError(f"more than {COUNTERS - 1} rows of one time: a stream cannot number them")
    return [int(number) for number in numbers]
