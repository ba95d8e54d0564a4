"""Rows that come bit by bit, and what somebody keeps who follows them live."""

from collections.abc import Iterable
from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import NANOSECONDS
from transforms.live import LAST
from transforms.live import LiveBars
from transforms.live import divide
from transforms.registry import make


def moments(table: pa.Table) -> np.ndarray:
    """Return the times in nanoseconds."""
    return table["ts_event"].cast(pa.int64()).to_numpy()


class Home:
    """Rows in memory, asked for as a store is asked. Counts what it was asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.asked = 0
        self.largest = 0

    def read(self, start: int, end: int) -> pa.Table:
        found = self._between(start, end)
        self.asked += found.num_rows
        self.largest = max(self.largest, found.num_rows)
        return found

    def before(self, moment: int, rows: int) -> int | None:
        place = int(np.searchsorted(moments(self.table), moment))
        return int(moments(self.table)[max(place - rows, 0)]) if place else None

    def extent(self, start: int, end: int) -> tuple[int, int, int] | None:
        found = moments(self._between(start, end))
        return (int(found[0]), int(found[-1]), found.size) if found.size else None

    def _between(self, start: int, end: int) -> pa.Table:
        first, last = np.searchsorted(moments(self.table), [start, end])
        return self.table.slice(first, max(last - first, 0))


class Follower:
    """Live bars with what a store keeps beside them: values, and the time from which on rows have changed."""

    def __init__(self, chains: Iterable[str], home: Home) -> None:
        divided = [(name, *divide(make(name))) for name in chains]
        self.home = home
        self.live = LiveBars(divided[0][1])
        self.chains = {name: rest for name, _, rest in divided}
        self.bars: dict[int, Mapping[str, object]] = {}
        #: by chain, a dictionary for each of its values
        self.values = {name: [{} for _ in chain.labels] for name, chain in self.chains.items()}
        self.due: int | None = None

    def write(self, table: pa.Table, earliest: int) -> None:
        """Take the rows there are now; those before `earliest` are as they were."""
        self.home.table = table
        self.due = earliest if self.due is None else min(self.due, earliest)

    def forget(self) -> None:
        """End and begin again: only what is stored is still there."""
        self.live = LiveBars(self.live.steps)

    def follow(self, heard: int = LAST) -> None:
        """Bring bars and values up to the rows."""
        if self.due is None:
            return
        first = self.live.update(self.home, self.due, heard)
        if first is not None:
            new = self.live.bars.slice(np.searchsorted(moments(self.live.bars), first))
            self.bars |= dict(zip(moments(new).tolist(), new.to_pylist(), strict=True))
            for name, chain in self.chains.items():
                self._store(name, self.live.values(chain, self.home, first, partial(self.known, name)))
        self.due = self.live.opens(self.live.label(heard)) if self.live.steps else None
        self.live.trim()

    def known(self, name: str, start: int, end: int) -> pa.Table:
        """Return stored values in `[start, end)`."""
        (stored,) = self.values[name]
        inside = sorted(at for at in stored if start <= at < end)
        values = pa.array([stored[at] for at in inside], pa.float64())
        return pa.table({"ts_event": pa.array(inside, pa.int64()).cast(NANOSECONDS), "value": values})

    def _store(self, name: str, found: pa.Table) -> None:
        for position, stored in enumerate(self.values[name], start=1):
            kept = found.filter(pc.is_valid(found.column(position)))
            stored |= dict(zip(moments(kept).tolist(), kept.column(position).to_pylist(), strict=True))
