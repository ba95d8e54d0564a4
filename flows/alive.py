"""Which sources are streamed now, by whatever process, how that goes, and until when they were heard."""

from collections.abc import Collection
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from typing import Self

from django.db.models import Count
from django.db.models import Max
from django.db.models import Q
from django.utils import timezone

from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Run
from catalog.models import TimeSeries
from flows.claims import held

#: a run writes its summary every ten seconds; one that is older tells of then, not of now
STALE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Summary:
    """A live run as it wrote of itself into the ledger, at `at`.

    `state` is connecting, connected, reconnecting or ended, `since` when. `error` is the connection's last one, also
    where it is over. `per_second` counts messages; `lag` is seconds from the newest event until it was received,
    `behind` the frames that the slowest destination lacks. `problems` are what else is wrong now.
    """

    at: datetime
    state: str = ""
    since: datetime | None = None
    error: str = ""
    error_at: datetime | None = None
    messages: int = 0
    per_second: float = 0.0
    rows: int = 0
    reconnects: int = 0
    lag: float | None = None
    behind: int = 0
    problems: tuple[str, ...] = ()
    #: schema, symbol, series, reason; `refusals` counts those that are not named, too
    refused: tuple[Mapping[str, str], ...] = ()
    refusals: int = 0
    #: series → rows, per_second, newest (ISO 8601)
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Return what a run has written; None where it has written nothing."""
        if not stored or "at" not in stored:
            return None
        known = {name: value for name, value in stored.items() if name in cls.__dataclass_fields__}
        for name in ("at", "since", "error_at"):
            if known.get(name):
                known[name] = datetime.fromisoformat(known[name])
        for name in ("problems", "refused"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)

    def written(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("at", "since", "error_at"):
            found[name] = found[name].isoformat(timespec="seconds") if found[name] else None
        return {**found, "problems": list(self.problems), "refused": [dict(one) for one in self.refused]}

    @property
    def stale(self) -> bool:
        """Whether it should have been written anew."""
        return self.state != "ended" and timezone.now() - self.at > STALE


@dataclass(frozen=True, slots=True)
class Alive:
    """A source with realtime series, `series` of them active.

    `held` says whether a process streams it, `heard` is the end of what it was heard for; None: never.
    """

    id: int
    source: str
    series: int
    held: bool
    heard: datetime | None
    gaps: int
    run: Run | None

    @property
    def summary(self) -> Summary | None:
        """What its run has written of itself; None where nothing runs, or it has not written yet."""
        running = self.held and self.run is not None and self.run.status == Run.Status.RUNNING
        return Summary.read(self.run.live) if running and self.run is not None else None

    @property
    def state(self) -> str:
        """How it stands: a process that runs is not a connection."""
        if not self.held:
            return "not running" if self.series else "switched off"
        found = self.summary
        if found is None:
            return "starting"
        return "not reporting" if found.stale else found.state

    @property
    def error(self) -> str:
        """What is wrong with it now; of one that does not run, what its last run ended with."""
        found = self.summary
        if found is None:
            return self.run.error if self.run is not None and not self.held else ""
        told = (found.error if found.state != "connected" else "", *found.problems)
        return "; ".join(dict.fromkeys(filter(None, told)))


def alive(sources: Collection[int] = ()) -> list[Alive]:
    """Return every active source (or of some) that has realtime series, active or not, by name."""
    rows = TimeSeries.objects.filter(source__active=True, extractor_type="realtime").order_by()
    if sources:
        rows = rows.filter(source__in=sources)
    counted = rows.values_list("source", "source__name").annotate(asked=Count("pk", filter=Q(active=True)))
    ids = [row[0] for row in counted]
    fetches = Fetch.objects.filter(live=True, source__in=ids).order_by()
    heard = dict(fetches.values_list("source").annotate(Max("end")))
    found = Gap.objects.filter(instrument__source__in=ids).order_by()
    gaps = dict(found.values_list("instrument__source").annotate(Count("pk")))
    runs = last_runs(ids)
    return [
        Alive(pk, name, count, held(f"live-{pk}"), heard.get(pk), gaps.get(pk, 0), runs.get(pk))
        for pk, name, count in sorted(counted, key=lambda row: row[1])
    ]


def last_runs(sources: Collection[int]) -> dict[int, Run]:
    """Return the newest live run of each source."""
    of_kind = Run.objects.filter(kind="realtime", source__in=sources).order_by()
    newest = [pk for _, pk in of_kind.values_list("source").annotate(Max("pk"))]
    return {run.source_id: run for run in Run.objects.filter(pk__in=newest) if run.source_id is not None}
