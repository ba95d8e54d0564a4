"""Pages of the ledger and the quarantine: read, filtered, never edited."""

import json
import os
from collections.abc import Sequence
from typing import Any
from typing import Final

from django.contrib import admin
from django.db.models import Count
from django.db.models import QuerySet
from django.db.models import Sum
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from catalog.admin import live
from catalog.admin.base import ReadOnlyAdmin
from catalog.admin.base import ReadOnlyInline
from catalog.admin.base import labelled
from catalog.admin.base import linked
from catalog.admin.filters import by_age
from catalog.admin.filters import by_registry
from catalog.forms import choices
from catalog.models import Coverage
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Indicator
from catalog.models import Quarantined
from catalog.models import Run
from catalog.models.ledger import rejected_by
from flows.job import EARLIEST
from flows.job import LATEST

#: what a parsed row can become; the sum is `parsed`
ACCOUNT: Final = (
    "new", "updated", "unchanged", "duplicate", "superseded", "filtered", "quarantined", "pending",
)  # fmt: skip
_COLOURS: Final = {
    "running": "info", "completed": "success", "failed": "danger", "pending": "warning", "delivered": "success",
}  # fmt: skip


class WindowMixin:
    """Columns of what was asked: open ends are said, not shown as the first and last instant there is."""

    @admin.display(description="start", ordering="start")
    def since(self, row: Fetch | Coverage | Gap) -> str:
        """Return the start, inclusive."""
        return "the beginning" if row.start <= EARLIEST else date_format(row.start, "DATETIME_FORMAT")

    @admin.display(description="end", ordering="end")
    def until(self, row: Fetch | Coverage | Gap) -> str:
        """Return the end, exclusive."""
        return "open" if row.end >= LATEST else date_format(row.end, "DATETIME_FORMAT")


class FetchMixin(WindowMixin):
    """Columns of a fetch."""

    @labelled(
        "state", "complete", {"complete": "success", "under way": "info", "failed": "danger", "incomplete": "warning"}
    )
    def progress(self, row: Fetch) -> str:
        """Return whether all of it has landed; a connection's has not while it lasts."""
        if row.complete:
            return "complete"
        if row.error:
            return "failed"
        return "under way" if row.run is not None and row.run.status == Run.Status.RUNNING else "incomplete"

    @admin.display(description="pages", ordering="pages")
    def landed_pages(self, row: Fetch) -> str:
        """Return the pages that have landed; those of a connection are counted when it ends."""
        return "" if row.live and not row.complete else f"{row.pages:,}"

    @admin.display(description="brought by", ordering="live")
    def heard(self, row: Fetch) -> str:
        """Return how it came."""
        return "connection" if row.live else "request"


class AccountMixin:
    """Columns of a delivery."""

    @labelled("status", "status", _COLOURS)
    def state(self, row: Run | Delivery) -> str:
        """Return how it stands."""
        return row.status

    @admin.display(description="account")
    def account(self, row: Delivery) -> str:
        """Return what became of the rows, without what there is none of."""
        return ", ".join(f"{getattr(row, name):,} {name}" for name in ACCOUNT if getattr(row, name))

    @admin.display(description="adds up", boolean=True)
    def adds_up(self, row: Delivery) -> bool:
        """Return whether every parsed row has an end: the account that nothing may break."""
        return bool(row.parsed == sum(getattr(row, name) for name in ACCOUNT))


class FetchInline(FetchMixin, ReadOnlyInline):
    """Fetches of a run."""

    model = Fetch
    fields = (
        "id", "source", "schema", "since", "until", "fetched_at", "heard", "progress", "landed_pages", "bytes", "error",
    )  # fmt: skip
    ordering = ("id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Fetch]:
        found: QuerySet[Fetch] = super().get_queryset(request).select_related("source", "run")
        return found


@admin.register(Run)
class RunAdmin(AccountMixin, ReadOnlyAdmin):
    """What ran."""

    list_display = (
        "id", "kind", "source", "state", "started_at", "duration", "fetches", "cost", "rows", "rejected", "error_start",
    )  # fmt: skip
    list_select_related = ("source",)
    list_filter = ("status", "kind", ("source", AutocompleteSelectFilter), by_age("started_at", "started within"))
    search_fields = ("source__name", "error", "flow_run")
    ordering = ("-id",)
    inlines = (FetchInline,)
    fields = (
        "kind", "source", "state", "started_at", "finished_at", "duration", "selector", "in_prefect", "error",
        "live_run",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        # a live run's summary names its series: too much for a list
        found: QuerySet[Run] = super().get_queryset(request).select_related("source").defer("live")
        return found

    def get_fields(self, request: HttpRequest, obj: Run | None = None) -> Sequence[Any]:
        return [name for name in self.fields if name != "live_run" or (obj is not None and obj.kind == "realtime")]

    @admin.display(description="flow run")
    def in_prefect(self, row: Run) -> SafeString | str:
        """Return Prefect's id of the flow run, with a link to it where Prefect's address is known."""
        interface = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
        if not row.flow_run or not interface.startswith(("http://", "https://")):
            return row.flow_run
        url = f"{interface.rstrip('/')}/runs/flow-run/{row.flow_run}"
        return format_html('<a class="text-link" href="{}">{}</a>', url, row.flow_run)

    @admin.display(description="live")
    def live_run(self, row: Run) -> SafeString | str:
        """Return what a live run wrote of itself."""
        return live.of_run(row)

    def furnish(self, rows: Sequence[Run]) -> None:
        ids = [row.pk for row in rows]
        fetches = {
            run: (count, cost)
            for run, count, cost in Fetch.objects.filter(run__in=ids)
            .order_by()
            .values_list("run")
            .annotate(Count("pk"), Sum("cost"))
        }
        deliveries = Delivery.objects.filter(fetch__run__in=ids).order_by()
        sums = dict(deliveries.values_list("fetch__run").annotate(Sum("parsed")))
        rejected = rejected_by(deliveries, "fetch__run")
        for row in rows:
            row.fetch_count, row.spent = fetches.get(row.pk, (0, 0))  # type: ignore[attr-defined]  # for the columns below
            row.row_sums = (sums.get(row.pk, 0), rejected.get(row.pk, 0))  # type: ignore[attr-defined]

    @admin.display(description="took")
    def duration(self, row: Run) -> str:
        """Return how long it ran."""
        return str(row.finished_at - row.started_at).split(".")[0] if row.finished_at else ""

    @admin.display(description="fetches")
    def fetches(self, row: Run) -> SafeString:
        """Return the number of fetches, with a link to them."""
        return linked("fetch", f"{row.fetch_count:,}", run__id__exact=row.pk)  # type: ignore[attr-defined]

    @admin.display(description="cost")
    def cost(self, row: Run) -> str:
        """Return what the run's fetches cost, in the money of the source's budget."""
        return f"{row.spent:,.2f}" if row.spent else ""  # type: ignore[attr-defined]

    @admin.display(description="rows delivered")
    def rows(self, row: Run) -> str:
        """Return the rows parsed, summed over destinations."""
        return f"{row.row_sums[0]:,}"  # type: ignore[attr-defined]

    @admin.display(description="rejected rows")
    def rejected(self, row: Run) -> SafeString | str:
        """Return the rows rejected, with a link to them."""
        count = row.row_sums[1]  # type: ignore[attr-defined]
        return linked("quarantined", f"{count:,}", fetch__run__id__exact=row.pk) if count else "0"

    @admin.display(description="error")
    def error_start(self, row: Run) -> str:
        """Return the first line of what went wrong."""
        return row.error.split("\n")[0][:120]


class DeliveryInline(AccountMixin, ReadOnlyInline):
    """The account of a fetch, for each destination."""

    model = Delivery
    fields = ("destination", "schema", "state", "parsed", "account", "adds_up", "rounded", "error", "finished_at")
    ordering = ("id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        found: QuerySet[Delivery] = super().get_queryset(request).select_related("destination", "fetch")
        return found


class CoverageInline(WindowMixin, ReadOnlyInline):
    """What a fetch asked, for each instrument."""

    model = Coverage
    fields = ("instrument", "since", "until")
    ordering = ("id",)
    show_change_link = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Coverage]:
        found: QuerySet[Coverage] = super().get_queryset(request)
        return found.select_related("instrument__source", "instrument__asset", "fetch")


@admin.register(Fetch)
class FetchAdmin(FetchMixin, ReadOnlyAdmin):
    """What was asked."""

    list_display = (
        "id", "source", "schema", "since", "until", "fetched_at", "heard", "progress", "landed_pages", "bytes",
        "unparsable", "run",
    )  # fmt: skip
    list_select_related = ("source", "run")
    list_filter = (
        ("source", AutocompleteSelectFilter),
        by_registry("schema", "schema", choices.schemas),
        "live",
        "complete",
        ("run", AutocompleteSelectFilter),
        by_age("fetched_at", "fetched within"),
    )
    search_fields = ("=id", "source__name", "identity", "error")
    ordering = ("-id",)
    inlines = (DeliveryInline, CoverageInline)
    fields = (
        ("source", "schema", "run"),
        ("since", "until", "fetched_at"),
        ("heard", "progress"),
        ("landed_pages", "bytes"),
        ("requests", "cost"),
        ("unparsable", "rejected", "landed"),
        "identity",
        "request_hash",
        "error",
    )

    @admin.display(description="landed pages", ordering="pruned")
    def landed(self, row: Fetch) -> str:
        """Return whether the fetch can be refined again."""
        return "deleted" if row.pruned else "kept"

    @admin.display(description="quarantine")
    def rejected(self, row: Fetch) -> SafeString:
        """Return the rejected rows that were kept, with a link to them."""
        return linked("quarantined", f"{row.quarantined.count():,}", fetch__id__exact=row.pk)


@admin.register(Delivery)
class DeliveryAdmin(AccountMixin, ReadOnlyAdmin):
    """What was delivered."""

    list_display = ("id", "fetch", "destination", "schema", "state", "parsed", "account", "adds_up", "finished_at")
    list_select_related = ("fetch", "destination")
    list_filter = (
        "status",
        ("destination", AutocompleteSelectFilter),
        by_registry("schema", "schema", choices.schemas),
        ("fetch__source", AutocompleteSelectFilter),
    )
    search_fields = ("=fetch__id", "destination__name", "error")
    ordering = ("-id",)
    fields = (
        ("fetch", "destination", "schema"),
        ("state", "required", "cursor"),
        ("parsed", "adds_up", "rounded"),
        ACCOUNT[:3],
        ACCOUNT[3:6],
        ACCOUNT[6:],
        "error",
        "finished_at",
    )


@admin.register(Quarantined)
class QuarantinedAdmin(ReadOnlyAdmin):
    """What was refused, and why."""

    list_display = ("id", "fetched", "source", "schema", "rule", "reason_start", "fetch", "part", "row")
    list_display_links = ("id", "rule")
    list_select_related = ("fetch__source",)
    list_filter = (
        ("fetch__source", AutocompleteSelectFilter),
        by_registry("fetch__schema", "schema", choices.schemas),
        ("fetch", AutocompleteSelectFilter),
    )
    search_fields = ("rule", "reason", "raw")
    ordering = ("-id",)
    fields = (("source", "schema", "fetch", "fetched"), ("part", "row"), "rule", "reason", "pretty")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup == "fetch__run__id__exact" or bool(super().lookup_allowed(lookup, value, request))

    @admin.display(description="fetched at", ordering="fetch__fetched_at")
    def fetched(self, row: Quarantined) -> str:
        """Return when it was asked, or when its connection began."""
        return date_format(row.fetch.fetched_at, "DATETIME_FORMAT")

    @admin.display(description="source", ordering="fetch__source__name")
    def source(self, row: Quarantined) -> str:
        """Return the source it came from."""
        return row.fetch.source.name

    @admin.display(description="schema", ordering="fetch__schema")
    def schema(self, row: Quarantined) -> str:
        """Return the schema it should have been."""
        return row.fetch.schema

    @admin.display(description="reason")
    def reason_start(self, row: Quarantined) -> str:
        """Return the beginning of the reason."""
        return row.reason[:160]

    @admin.display(description="what came in")
    def pretty(self, row: Quarantined) -> SafeString:
        """Return the raw row; JSON one value a line."""
        try:
            text = json.dumps(json.loads(row.raw), indent=2, ensure_ascii=False)
        except ValueError:
            text = row.raw
        return format_html('<pre class="raw-text">{}</pre>', text)


@admin.register(Gap)
class GapAdmin(WindowMixin, ReadOnlyAdmin):
    """What was not heard live and cannot be had: it is not asked for again."""

    list_display = ("id", "instrument", "schema", "since", "until", "lasted", "reason", "noted_at")
    list_display_links = ("id", "instrument")
    list_select_related = ("instrument__source", "instrument__asset")
    list_filter = (
        ("instrument__source", AutocompleteSelectFilter),
        by_registry("schema", "schema", choices.schemas),
        by_age("start", "begun within"),
    )
    search_fields = ("instrument__asset__symbol", "reason")
    ordering = ("-id",)
    fields = ("instrument", "schema", ("since", "until", "lasted"), "reason", "noted_at")

    @admin.display(description="lasted")
    def lasted(self, row: Gap) -> str:
        """Return how long it is."""
        return str(row.end - row.start)


@admin.register(Indicator)
class IndicatorAdmin(ReadOnlyAdmin):
    """Indicators that are stored, with the id their rows carry."""

    list_display = ("id", "chain", "input_schema", "version")
    list_filter = (by_registry("input_schema", "input schema", choices.schemas),)
    search_fields = ("chain",)
    ordering = ("chain",)
