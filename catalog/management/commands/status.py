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
from catalog.models.ledger import rejected_by
from flows.alive import Alive
from flows.alive import alive

#: columns of sources with realtime series
_LIVE: Final = (
    "live", "since", "messages_a_second", "lag_seconds", "frames_behind", "reconnects", "refused", "heard_until",
    "known_gaps", "live_error",
)  # fmt: skip
#: refused symbols that are named
_REFUSED: Final = 5


class Command(BaseCommand):
    help = (
        "Show for each source: the last run, rows rejected and pending, series whose schedule passed without a run;"
        " of live ones the connection and since when, messages, lag, reconnects, refusals, until when it was heard."
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
        columns = ("source", "last_run", "status", "rejected", "pending", "failed", "late", "error")
        if options["format"] == "json":
            show(self.stdout, rows, (*columns, *_LIVE), "json")
            return
        show(self.stdout, rows, columns, "table")
        if live:
            self.stdout.write("")
            show(self.stdout, [row for row in rows if row["source"] in live], ("source", *_LIVE), "table")

    def _row(self, source: DataSource, now: datetime) -> dict[str, Any]:
        run = Run.objects.filter(source=source).defer("live").order_by("-id").first()
        deliveries = Delivery.objects.filter(fetch__source=source)
        pending = deliveries.aggregate(Sum("pending"))["pending__sum"]
        started = run.started_at if run else None
        return {
            "source": source.name,
            "last_run": started.replace(microsecond=0) if started else None,
            "status": run.status if run else "never",
            "rejected": rejected_by(deliveries, "fetch__source").get(source.pk, 0),
            "pending": pending or 0,
            "failed": deliveries.filter(status=Delivery.Status.FAILED).count(),
            "late": self._late(source, started, now),
            "error": run.error.splitlines()[0] if run and run.error else "",
        }

    def _live(self, one: Alive | None) -> dict[str, Any]:
        if one is None:
            return dict.fromkeys(_LIVE)
        found = one.summary
        refused = [f"{row['schema']} of {row['symbol']}: {row['reason']}" for row in found.refused] if found else []
        # of a summary that is old only the time and the error still mean something
        now = found if found is not None and not found.stale else None
        return {
            "live": one.state,
            "since": (found.at if found.stale else found.since) if found else None,
            "messages_a_second": now.per_second if now else None,
            "lag_seconds": now.lag if now else None,
            "frames_behind": now.behind if now else None,
            "reconnects": found.reconnects if found else None,
            "refused": found.refusals if found else None,
            "heard_until": one.heard.replace(microsecond=0) if one.heard else None,
            "known_gaps": one.gaps,
            "live_error": "; ".join(filter(None, (one.error, *(f"refused: {line}" for line in refused[:_REFUSED])))),
        }

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
