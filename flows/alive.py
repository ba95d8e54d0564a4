"""Which sources are streamed now, by whatever process, and until when they were heard."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count
from django.db.models import Max

from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import TimeSeries
from flows.claims import held


@dataclass(frozen=True, slots=True)
class Alive:
    """A source with active realtime series. `heard` is the end of what it was heard for; None: never."""

    id: int
    source: str
    series: int
    streaming: bool
    heard: datetime | None
    gaps: int


def alive() -> list[Alive]:
    """Return every active source that has active realtime series, by name."""
    rows = TimeSeries.objects.filter(active=True, source__active=True, extractor_type="realtime").order_by()
    counted = rows.values_list("source", "source__name").annotate(Count("pk"))
    ids = [row[0] for row in counted]
    fetches = Fetch.objects.filter(live=True, source__in=ids).order_by()
    heard = dict(fetches.values_list("source").annotate(Max("end")))
    found = Gap.objects.filter(instrument__source__in=ids).order_by()
    gaps = dict(found.values_list("instrument__source").annotate(Count("pk")))
    return [
        Alive(pk, name, count, held(f"live-{pk}"), heard.get(pk), gaps.get(pk, 0))
        for pk, name, count in sorted(counted, key=lambda row: row[1])
    ]
