"""The newest refined batches in memory, for the routes that keep up; the others read what has landed."""

import threading
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from flows.work import RefinedBatch

#: bytes of refined rows kept; what one group of frames gives may lie above it
RING_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """What one group of frames `[first, end)` gave a schema."""

    first: int
    end: int
    batches: tuple[RefinedBatch, ...]
    bytes: int


class Ring:
    """The newest steps of one schema of a stint. One thread adds, any number take."""

    def __init__(self, limit: int = RING_BYTES) -> None:
        self.changed = threading.Condition()
        self.limit = limit
        self.steps: deque[Step] = deque()
        self.size = 0
        self.end = 0
        self.closed = False
        self._taken = 0
        self._working = 0

    def add(self, first: int, end: int, batches: Sequence[RefinedBatch]) -> None:
        """Add the next step; the oldest go where they are too many."""
        if first == end and not any(batch.parsed for batch in batches):
            # contexts alone: a step without length would be taken again and again
            return
        size = sum(batch.accepted.nbytes + batch.rejected.nbytes for batch in batches)
        with self.changed:
            self.steps.append(Step(first, end, tuple(batches), size))
            self.size += size
            self.end = end
            while self.size > self.limit and len(self.steps) > 1:
                self.size -= self.steps.popleft().bytes
            self.changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether more would push out what nobody has taken yet: then even the fastest route is behind."""
        with self.changed:
            return bool(self.steps) and self.size > self.limit and self.steps[0].end > self._taken

    @contextmanager
    def work(self) -> Iterator[None]:
        """Surround what a route does with the steps it has taken."""
        with self.changed:
            self._working += 1
        try:
            yield
        finally:
            with self.changed:
                self._working -= 1
                self.changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until the routes have done what there is, but not long; says whether they have."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._working and self._taken >= self.end, timeout)

    def close(self) -> None:
        """Add no more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def clear(self) -> None:
        """Keep nothing: whoever is behind reads what has landed."""
        with self.changed:
            self.steps.clear()
            self.size = 0

    def take(self, at: int, timeout: float) -> tuple[list[Step], int | None]:
        """Return the steps from frame `at` on, waiting for one; or, where `at` was pushed out, the oldest that is kept.

        `([], None)`: nothing came in time, or nothing will (`closed` and `end` tell).
        """
        with self.changed:
            if at >= self.end and not self.closed:
                self.changed.wait_for(lambda: self.end > at or self.closed, timeout)
            steps = [step for step in self.steps if step.first >= at]
            if steps and steps[0].first == at:
                self._taken = max(self._taken, steps[-1].end)
                return steps, None
            if at >= self.end:
                return [], None
            # whoever stands inside a step, or behind all of them, reads up to its end
            kept = next((step for step in self.steps if step.end > at), None)
            return [], self.end if kept is None else kept.first if kept.first > at else kept.end
