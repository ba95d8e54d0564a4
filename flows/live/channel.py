"""One schema of what a connection brings: its fetch, whom it is about, what was heard of them, what was refined."""

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import datetime

from flows.job import LATEST
from flows.job import LIVE
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import describe
from flows.landing import Landing
from flows.live.coverage import Heard
from flows.live.ring import Ring
from flows.pipeline import positive
from flows.refining import Strand
from flows.work import FetchRef


@dataclass(slots=True)
class StintChannel:
    """One schema of a stint."""

    job: Job
    fetch: FetchRef
    strand: Strand
    heard: Heard
    ring: Ring
    instruments: dict[int, InstrumentFacts]
    #: rows before an acknowledgement are left to the vendor's history (where repeats are told apart by counting)
    cut: bool
    starts: dict[int, datetime] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    #: whether what the strand knows of the instruments is out of date
    stale: bool = False
    #: the frame it begins with
    first: int = 0
    #: who was acknowledged once, and whether that is written down
    known: set[int] = field(default_factory=set)
    described: bool = False

    def about(self) -> None:
        """Let rows be about the instruments as they are now."""
        instruments = self.as_heard()
        self.strand.about(instruments, positive(instruments))
        self.numbers = {str(one.name): one.id for one in instruments}

    def as_heard(self) -> list[InstrumentFacts]:
        """Return the instruments with the windows of the rows that count: see `cut`."""
        if not self.cut:
            return list(self.instruments.values())
        return [
            replace(one, start=max(one.start, self.starts.get(one.id, LATEST))) for one in self.instruments.values()
        ]

    def describe(self, landing: Landing, schemas: Iterable[str]) -> None:
        """Write down what its frames are, for whoever refines them again; `schemas` are those of the stint."""
        # before it is read: what changes meanwhile is written next time
        self.described = True
        try:
            described = describe(Request(self.job, tuple(self.as_heard())))
            described[LIVE] = {"schemas": sorted(schemas), "primary": self.strand.primary}
            landing.begin(self.fetch.source, self.fetch.id, described)
            landing.amend(self.fetch.source, self.fetch.id, described)
        except BaseException:
            self.described = False
            raise
