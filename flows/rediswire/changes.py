"""Decides what some rows of one key change in Redis, given what is there. Pure: rows in, rows out.

Each structure has the same rule for one row key: the later fetch wins, a null replaces nothing, ticks never
change. A stream can only grow at its end: what is older than its last entry is not added to it.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import PermanentError
from catalog.schemas import INSTRUMENT
from catalog.schemas.base import Counts
from flows.exports.facts import Owner
from flows.exports.merging import by_key
from flows.exports.merging import merged
from flows.rediswire import rows as wire
from flows.rediswire.names import COUNTERS


@dataclass(frozen=True, slots=True)
class Appended:
    """Rows for the end of a stream, in order; their times and counters make the ids."""

    counts: Counts
    rows: wire.Lines
    times: np.ndarray
    counters: np.ndarray

    @property
    def keep(self) -> int:
        """How many last entries may not be cut off: those of one time."""
        return int(self.counters[-1]) if len(self.counters) else 0


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
    rows: wire.Lines


def append(
    owner: Owner,
    rows: wire.Lines,
    times: np.ndarray,
    position: tuple[int, int] | None,
    entries: Sequence[Any],
    place: str,
    *,
    replace: bool,
) -> Appended:
    """Decide which rows (sorted by `times`) a stream takes after `position`, the time and counter of its last id.

    `entries` are what the stream holds of the time of its last id; where older rows are to be told apart as stored
    already or too late, of their times too. A revised row of the last time is added as another entry of it.
    """
    last, counter = position or (-1, 0)
    if times[0] >= max(last, 0) and _are_new(owner, rows.slice(0, int((times == last).sum())), entries, last, place):
        return Appended(Counts(new=len(rows)), rows, times, _counters(times, last, counter))
    table = rows.table
    stored = wire.from_entries(owner, entries, place)
    fresh = table.filter(pa.array((times > last) & (times >= 0)))
    # no entry can have a time before 1970
    late = table.filter(pa.array((times < last) | (times < 0)))
    level = table.filter(pa.array((times == last) & (times >= 0)))
    counts = Counts(new=fresh.num_rows)
    if late.num_rows:
        found = _counts(owner, stored, late, replace=replace)
        counts += Counts(unchanged=found.unchanged, superseded=late.num_rows - found.unchanged)
    pieces = [fresh]
    if level.num_rows:
        # what was revised and is as it was before is another entry again: the last one of a key counts
        boundary = latest(owner, stored.filter(pa.array(owner.times(stored) == last)))
        blocks = list(merged(owner, [boundary], by_key(owner, level), replace))
        changed = pa.concat_tables([block.table for block in blocks])
        changed = changed.filter(pc.invert(pc.is_in(wire.members(changed), value_set=wire.members(boundary))))
        # in the order they came, as they would stand had all come at once
        order = pc.drop_null(pc.index_in(_key_texts(owner, level), value_set=_key_texts(owner, changed)))
        pieces.insert(0, changed.take(order))
        counts += sum((block.counts for block in blocks), Counts())
    appended = pa.concat_tables(pieces)
    times = owner.times(appended)
    return Appended(counts, wire.Lines(appended), times, _counters(times, last, counter))


def _are_new(owner: Owner, rows: wire.Lines, entries: Sequence[Any], time: int, place: str) -> bool:
    """Whether entries have none of the keys of some rows of one time, as far as can be told without a table of them.

    That is what is mostly so where rows come as they happen.
    """
    if not len(rows):
        return True
    names = _key_names(owner)
    known: set[tuple[bytes | None, ...]] = set()
    for _, content in entries:
        entry = dict(zip(content[::2], content[1::2], strict=True))
        if packed := entry.get(wire.PACK.encode()):
            stored = wire.unpack(owner, packed, place)
            level = stored.filter(pa.array(owner.times(stored) == time))
            known.update(zip(*(wire.texts(level[name]) for name in names), strict=True))
            continue
        key = tuple(entry.get(name.encode(), b"") for name in names)
        if key[names.index(owner.schema.time)] != b"%d" % time:
            # no row at all
            return False
        known.add(key)
    return known.isdisjoint(zip(*map(rows.texts, names), strict=True))


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


def newest(
    owner: Owner, rows: wire.Lines, times: np.ndarray, hashed: Sequence[bytes], place: str, *, replace: bool
) -> Latest:
    """Decide whether the row with the greatest key, of rows sorted by `times`, takes the place of the hashed one."""
    tied = rows.slice(int(times.searchsorted(times[-1])))
    keys = _sortable(owner, zip(*map(tied.texts, _key_names(owner)), strict=True))
    greatest = max(range(len(keys)), key=keys.__getitem__)
    candidate = tied.slice(greatest, 1)
    if not hashed or _is_before(owner, hashed, keys[greatest]):
        return Latest(Counts(new=1, superseded=len(rows) - 1), candidate)
    stored = wire.from_fields(owner, [hashed], place)
    blocks = list(merged(owner, [stored], candidate.table, replace))
    table = pa.concat_tables([block.table for block in blocks])
    winner = table.slice(table.num_rows - 1)
    if winner.equals(stored):
        same = sum((block.counts for block in blocks), Counts()).unchanged
        return Latest(Counts(unchanged=same, superseded=len(rows) - same), wire.Lines(winner.slice(1)))
    own = Counts(updated=1) if table.num_rows == 1 else Counts(new=1)
    return Latest(own + Counts(superseded=len(rows) - 1), wire.Lines(winner))


def _is_before(owner: Owner, hashed: Sequence[bytes], key: tuple[int | bytes, ...]) -> bool:
    """Whether a hash holds a row with a smaller key, as far as can be told without making a table of it."""
    row = dict(zip(hashed[::2], hashed[1::2], strict=True))
    if not all(field.nullable or field.name.encode() in row for field in owner.columns):
        return False
    try:
        (known,) = _sortable(owner, [[row[name.encode()] for name in _key_names(owner)]])
    except ValueError:
        return False
    return known < key


def _key_names(owner: Owner) -> list[str]:
    return [name for name in owner.schema.key if name != INSTRUMENT]


def _sortable(owner: Owner, texts: Iterable[Sequence[bytes | None]]) -> list[tuple[int | bytes, ...]]:
    """Return keys, given as text, so that they sort as rows do; ValueError where one is no key."""
    whole = [not pa.types.is_string(owner.columns.field(name).type) for name in _key_names(owner)]
    return [
        tuple(int(text or b"") if number else text or b"" for text, number in zip(key, whole, strict=True))
        for key in texts
    ]  # fmt: skip


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
    return wire.members(table.select(_key_names(owner)))


def _counters(times: np.ndarray, last: int, counter: int) -> np.ndarray:
    """Number the rows of each time from 1; of the time `last`, from where `counter` stopped."""
    starts = np.flatnonzero(np.r_[True, times[1:] != times[:-1]])[: len(times)]
    lengths = np.diff(np.r_[starts, len(times)])
    numbers = np.arange(len(times)) - np.repeat(starts, lengths) + 1
    numbers[times == last] += counter
    if len(numbers) and numbers.max() >= COUNTERS:
        raise PermanentError(f"more than {COUNTERS - 1} rows of one time: a stream cannot number them")
    return numbers
