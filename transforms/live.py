"""Bars and indicators of rows that still come: what they are once more rows are there, or other ones, and no other.

`LiveBars` keeps finished bars only. Rows are asked for again: those of a bar when it is finished, or when something
in it has changed; earlier ones as far back as a warm-up reaches. The arithmetic is that of the transformers.
Times are nanoseconds since 1970.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Final
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import FETCH_ID
from catalog.schemas import NANOSECONDS
from transforms.bars import Resample
from transforms.base import ANCHORED
from transforms.base import BaseTransformer
from transforms.base import Chain
from transforms.columns import TIME
from transforms.columns import Floats
from transforms.values import IndicatorValues
from transforms.values import Resume

#: the first and the last time whose labels can still be named
FIRST: Final = np.datetime64("1678-01-01", "ns").astype(int).item()
LAST: Final = np.datetime64("2262-01-01", "ns").astype(int).item()
#: rows that are made into bars at once
SLICE: Final = 250_000
#: known values looked at for one to go on from
_KNOWN: Final = 32
#: bars kept beyond those needed, so that a bar revised late is found among them
_SLACK: Final = 100
#: bars looked through for one that counts, where others lack a column
_SPARSE: Final = 8

#: the known values of a chain of one value: time and value in [start, end), in order of time
Known = Callable[[int, int], pa.Table]


class Rows(Protocol):
    """The rows of one instrument, wherever they are stored."""

    def read(self, start: int, end: int) -> pa.Table:
        """Return the rows in `[start, end)` in the order of their key."""

    def before(self, moment: int, rows: int) -> int | None:
        """Return the time of the `rows`-th row before a time, or of the first there is; None if there is none."""

    def extent(self, start: int, end: int) -> tuple[int, int, int] | None:
        """Return the first time, the last time and the number of rows in `[start, end)`; None if there are none."""


def divide(chain: BaseTransformer) -> tuple[tuple[Resample, ...], BaseTransformer]:
    """Return the resamplings that a chain begins with, and the steps that follow them."""
    steps = chain.steps if isinstance(chain, Chain) else (chain,)
    made = [step for step in steps if isinstance(step, Resample)]
    # nothing else gives what resampling needs, so there is none further on
    rest = steps[len(made) :]
    return tuple(made), rest[0] if len(rest) == 1 else Chain(rest)


def depth(chain: BaseTransformer) -> int | None:
    """Return how many bars before a change must be known; None: all.

    That is the warm-up. A chain whose last step alone needs the first bar goes on from its known values, where one
    can tell how.
    """
    if chain.warmup is not ANCHORED:
        return chain.warmup
    *before, last = chain.steps if isinstance(chain, Chain) else (chain,)
    warmups = [step.warmup for step in before]
    known = [warmup for warmup in warmups if warmup is not ANCHORED]
    if len(known) < len(warmups) or _resume(last) is None:
        return None
    return sum(known) + _KNOWN + _smoothing(last)


class LiveBars:
    """The newest finished bars of one instrument, without a hole.

    Without resamplings (`steps`) the rows are the bars, and each is finished.
    """

    def __init__(self, steps: Sequence[Resample] = ()) -> None:
        self.steps = tuple(steps)
        #: the bars with labels in [_begins, _ends)
        self.bars: pa.Table | None = None
        self._begins = self._ends = 0
        #: whether no row lies before them
        self._whole = False
        #: bars before the changed ones that were needed
        self._used = 0

    def label(self, moment: int) -> int:
        """Return the label of the bar that a row at this time goes into."""
        at = _instants(min(max(moment, FIRST), LAST))
        for step in self.steps:
            at = step.bars_of(at)
        return int(at.cast(pa.int64())[0].as_py()) if self.steps else moment

    def opens(self, label: int) -> int:
        """Return the first time whose row goes into a bar."""
        at = _instants(label)
        for step in reversed(self.steps):
            at = step.opens_of(at)
        return int(at.cast(pa.int64())[0].as_py())

    def update(self, rows: Rows, due: int, heard: int, fetch: int = 0) -> int | None:
        """Make the bars anew that rows from `due` on can have changed.

        Bars are finished whose rows all lie before `heard`: everything before it was heard. Returns the label from
        which on bars may be others now, None where there is none. Rows of fetches before `fetch` are known to be the
        same (of bars that are stored; made ones do not tell).
        """
        first, last = self.label(due), self.label(heard)
        if first >= last:
            return None
        if self.bars is None or not self._begins <= first <= self._ends:
            self.bars, self._begins, self._whole = None, first, False
        kept = [] if self.bars is None else [self.bars.slice(0, self._place(first))]
        self.bars = pa.concat_tables([*kept, *self._made(rows, self.opens(first), self.opens(last))])
        self._ends = last
        new = self.bars.slice(self._place(first))
        if FETCH_ID in new.column_names:
            new = new.filter(pc.greater_equal(new[FETCH_ID], fetch))
        return _times(new)[0].item() if new.num_rows else None

    def values(self, chain: BaseTransformer, rows: Rows, first: int, known: Known) -> pa.Table:
        """Return a chain's values of the bars from label `first` on: the same as if all earlier bars had been read.

        `known` values are those of the bars before `first`.
        """
        needed = depth(chain)
        begin = self._back(chain, rows, first, needed)
        if needed is not None and chain.warmup is ANCHORED and not (self._whole and begin == 0):
            found = self._resumed(chain, begin, first, known)
            if found is not None:
                return found
            begin = self._back(chain, rows, first, None)
        return self._computed(chain, begin).slice(self._place(first) - begin)

    def trim(self) -> None:
        """Drop the bars that the next update will not need."""
        if self.bars is not None and self.bars.num_rows > self._used + 2 * _SLACK:
            kept = np.arange(self.bars.num_rows - self._used - _SLACK, self.bars.num_rows)
            # copied: a slice would keep all of it in memory
            self.bars = self.bars.take(pa.array(kept)).combine_chunks()
            self._begins, self._whole = _times(self.bars)[0].item(), False
        self._used = 0

    def _computed(self, chain: BaseTransformer, begin: int) -> pa.Table:
        assert self.bars is not None
        return chain.transform(self.bars.slice(begin))

    def _resumed(self, chain: BaseTransformer, begin: int, first: int, known: Known) -> pa.Table | None:
        """Return the values from a known one on; None where there is none that can be gone on from."""
        table = self._computed(chain, begin)
        at = self._place(first) - begin
        new = table.slice(at)
        if new.column(1).null_count == new.num_rows:
            return new
        found, before = _floats(table), known(_times(table)[0].item(), first)
        _, mine, theirs = np.intersect1d(_times(table)[:at], _times(before), assume_unique=True, return_indices=True)
        both = np.isfinite(found[mine])
        resume = _resume(chain)
        if resume is None or not both.any():
            return None
        with np.errstate(all="ignore"):
            resumed = resume(found[at:], found[mine[both][-1]], _floats(before)[theirs[both][-1]])
        if not np.array_equal(np.isfinite(resumed), np.isfinite(found[at:])):
            return None
        return new.set_column(1, new.schema.field(1), pa.array(resumed, mask=np.isnan(resumed)))

    def _back(self, chain: BaseTransformer, rows: Rows, first: int, needed: int | None) -> int:
        """Return the place from which on bars must be known for those from `first` on; reads earlier ones for it."""
        assert self.bars is not None
        while True:
            at = self._place(first)
            begin = self._start(chain, at, needed)
            if begin is None and not (needed is not None and at >= _SPARSE * (needed + 1)) and not self._whole:
                self._extend(rows, max(at, needed or SLICE))
                continue
            self._used = max(self._used, at - (begin or 0) if needed is not None else self.bars.num_rows)
            return begin or 0

    def _start(self, chain: BaseTransformer, at: int, needed: int | None) -> int | None:
        """Return the place from which on `needed` bars before `at` count; None if there are less."""
        assert self.bars is not None
        if needed is None or not needed:
            return at if needed == 0 else None
        counted = np.ones(at, bool)
        for name in chain.reads(self.bars.schema):
            counted &= np.asarray(pc.is_valid(self.bars[name].slice(0, at)))
        places = np.flatnonzero(counted)
        return int(places[-needed]) if places.size >= needed else None

    def _extend(self, rows: Rows, bars: int) -> None:
        """Put earlier bars in front, made of at least so many rows, where there are."""
        assert self.bars is not None
        start = self.opens(self._begins)
        first = rows.before(start, min(4 * bars, SLICE) if self.steps else bars)
        if first is None:
            self._whole = True
            return
        self._begins = self.label(first)
        self.bars = pa.concat_tables([self._make(rows.read(self.opens(self._begins), start)), self.bars])

    def _made(self, rows: Rows, start: int, end: int) -> Iterator[pa.Table]:
        """Yield the bars of the rows in `[start, end)`, which begin and end with bars."""
        extent = rows.extent(start, end) if self.steps else None
        if extent is not None:
            first, last, count = extent
            start = self.opens(self.label(first))
            middle = self.opens(self.label((first + last) // 2))
            if count > SLICE and middle > start:
                yield from self._made(rows, start, middle)
                yield from self._made(rows, middle, end)
                return
        yield self._make(rows.read(start, end))

    def _make(self, rows: pa.Table) -> pa.Table:
        for step in self.steps:
            rows = step.transform(rows)
        return rows

    def _place(self, label: int) -> int:
        """Return the place of the first bar that is not before a label."""
        assert self.bars is not None
        return int(np.searchsorted(_times(self.bars), label))


def _resume(chain: BaseTransformer) -> Resume | None:
    """Return how the last step goes on from a known value; None where it cannot."""
    last = chain.steps[-1] if isinstance(chain, Chain) else chain
    if isinstance(last, IndicatorValues) and len(last.columns) == 1:
        return last.columns[0].indicator.resume
    return None


def _smoothing(step: BaseTransformer) -> int:
    """Return how many values of what accumulates may be needed for one that is smoothed."""
    return sum(value for spec in step.specs for value in spec.parameters.values() if isinstance(value, int))


def _instants(moment: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([moment], pa.int64()).cast(NANOSECONDS)])


def _times(table: pa.Table) -> Any:
    return table[TIME].cast(pa.int64()).to_numpy()


def _floats(table: pa.Table) -> Floats:
    values: Floats = table.column(1).to_numpy(zero_copy_only=False)
    return values
