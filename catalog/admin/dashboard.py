"""The first page: what ran, what failed, what was refused, what there is. Each part needs the right to see it."""

from datetime import timedelta
from typing import Any
from typing import Final

from django.db.models import Count
from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html

from catalog.admin.base import linked
from catalog.admin.live import coloured
from catalog.admin.live import overview
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Run
from catalog.models import TimeSeries
from catalog.models.ledger import rejected_by

_RUNS: Final = 10
_SOURCES: Final = 15
_DAYS: Final = 7


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the first page."""
    user: Any = request.user
    cards: list[dict[str, Any]] = []
    if user.has_perm("catalog.view_timeseries"):
        cards.append(_series_card())
        context["groups"] = _groups()
        context["live"] = overview()
    if user.has_perm("catalog.view_run"):
        cards += _run_cards()
        context["runs"] = _last_runs()
    if user.has_perm("catalog.view_quarantined"):
        cards.append(_rejected_card())
    return {**context, "cards": cards}


def _series_card() -> dict[str, Any]:
    counted = TimeSeries.objects.aggregate(total=Count("pk"), active=Count("pk", filter=Q(active=True)))
    url = reverse("admin:catalog_timeseries_changelist", query={"active__exact": 1})
    return {"title": "Active series", "value": f"{counted['active']:,}", "note": f"of {counted['total']:,}", "url": url}


def _run_cards() -> list[dict[str, Any]]:
    since = timezone.now() - timedelta(days=_DAYS)
    counted = Run.objects.aggregate(
        running=Count("pk", filter=Q(status=Run.Status.RUNNING)),
        failed=Count("pk", filter=Q(status=Run.Status.FAILED, started_at__gte=since)),
    )
    runs = reverse("admin:catalog_run_changelist", query={"status__exact": Run.Status.RUNNING.value})
    failed = reverse("admin:catalog_run_changelist", query={"status__exact": Run.Status.FAILED.value})
    return [
        {"title": "Running now", "value": f"{counted['running']:,}", "note": "runs", "url": runs},
        {"title": "Failed", "value": f"{counted['failed']:,}", "note": f"runs in {_DAYS} days", "url": failed},
    ]


def _rejected_card() -> dict[str, Any]:
    since = timezone.now() - timedelta(days=_DAYS)
    rejected = sum(rejected_by(Delivery.objects.filter(fetch__fetched_at__gte=since), "fetch__source").values())
    url = reverse("admin:catalog_quarantined_changelist")
    return {"title": "Rejected rows", "value": f"{rejected:,}", "note": f"in {_DAYS} days", "url": url}


def _last_runs() -> dict[str, Any]:
    rows = []
    for run in Run.objects.select_related("source").defer("live").order_by("-id")[:_RUNS]:
        url = reverse("admin:catalog_run_change", args=(run.pk,))
        rows.append(
            [
                format_html('<a class="text-link" href="{}">{}</a>', url, f"{run.kind} {run.pk}"),
                run.source.name if run.source else "–",
                coloured(run.status),
                date_format(run.started_at, "DATETIME_FORMAT"),
            ]
        )
    return {"headers": ["Run", "Source", "Status", "Started"], "rows": rows}


def _groups() -> dict[str, Any]:
    # counted by id first: the names of a few sources are cheaper than a join of all series
    counted = list(
        TimeSeries.objects.order_by()
        .values_list("source", "extractor_type")
        .annotate(total=Count("pk"), active_total=Count("pk", filter=Q(active=True)))
        .order_by("-total")[:_SOURCES]
    )
    names = dict(DataSource.objects.filter(pk__in={row[0] for row in counted}).values_list("pk", "name"))
    rows = [
        [linked("timeseries", names[source], source__id__exact=source), kind, f"{active:,}", f"{count:,}"]
        for source, kind, count, active in counted
    ]
    return {"headers": ["Source", "Type", "Active", "Series"], "rows": rows}
