"""`manage.py status`: how the last runs went, what was rejected, what is late."""

from datetime import datetime
from typing import Any
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim
from django.core.management.base import BaseCommand
from django.core.management.base import CommandParser
from django.db.models import Sum
from django.utils import timezone

from catalog.management.tables import add_format
from catalog.management.tables import show
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Run
from catalog.models import TimeSeries
from flows.alive import Alive
from flows.alive import alive

#: columns of sources with realtime series
_LIVE: Final = ("live", "heard_until", "known_gaps")


class Command(BaseCommand):
    help = (
        "Show for each source: the last run, rows rejected and pending, series whose schedule passed without a run,"
        " whether it is streamed and until when it was heard."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        live = {one.source: one for one in alive()}
        rows = [
            self._row(source, now) | self._live(live.get(source.name))
            for source in DataSource.objects.filter(active=True).order_by("name")
        ]
        columns = ("source", "last_run", "status", "rejected", "pending", "failed", "late", *_LIVE, "error")
        show(self.stdout, rows, columns, options["format"])

    def _row(self, source: DataSource, now: datetime) -> dict[str, Any]:
        run = Run.objects.filter(source=source).order_by("-id").first()
        deliveries = Delivery.objects.filter(fetch__source=source)
        totals = deliveries.aggregate(Sum("quarantined"), Sum("pending"))
        started = run.started_at if run else None
        return {
            "source": source.name,
            "last_run": started,
            "status": run.status if run else "never",
            "rejected": totals["quarantined__sum"] or 0,
            "pending": totals["pending__sum"] or 0,
            "failed": deliveries.filter(status=Delivery.Status.FAILED).count(),
            "late": self._late(source, started, now),
            "error": run.error.splitlines()[0] if run and run.error else "",
        }

    def _live(self, found: Alive | None) -> dict[str, Any]:
        if found is None:
            return dict.fromkeys(_LIVE)
        heard = found.heard.replace(microsecond=0) if found.heard else None
        return dict(zip(_LIVE, ("streaming" if found.streaming else "not running", heard, found.gaps), strict=True))

    def _late(self, source: DataSource, started: datetime | None, now: datetime) -> int:
        """Count the series whose schedule came due after the last run began."""
        series = TimeSeries.objects.filter(source=source, active=True).exclude(schedule="")
        late = 0
        for schedule, zone in series.values_list("schedule", "timezone"):
            # backwards from now: the newest moment the series should have run
            due = next(CronSim(schedule, now.astimezone(ZoneInfo(zone)), reverse=True))
            if started is None or due > started:
                late += 1
        return late
