"""Pages of series."""

from collections.abc import Sequence
from typing import Any
from typing import Final

from django.contrib import admin
from django.db.models import Count
from django.db.models import Min
from django.http import HttpRequest
from django.http import HttpResponse
from django.urls import path
from django.urls import reverse
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from catalog.admin import live
from catalog.admin import plots
from catalog.admin.actions import activate
from catalog.admin.actions import add_route
from catalog.admin.actions import deactivate
from catalog.admin.actions import run_now
from catalog.admin.actions import set_schedule
from catalog.admin.base import CatalogAdmin
from catalog.admin.base import CatalogInline
from catalog.admin.exchange import ExchangeMixin
from catalog.admin.exchange import warn_of_no_route
from catalog.admin.filters import by_registry
from catalog.admin.operations import RunNow
from catalog.admin.operations import ShowFirstRows
from catalog.admin.operations import ShowPlan
from catalog.admin.options import OptionsMixin
from catalog.forms import choices
from catalog.forms.series import RouteFormSet
from catalog.forms.series import RouteInlineForm
from catalog.forms.series import TimeSeriesForm
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.resources import TimeSeriesResource
from flows import registry
from flows.options import Options

_PLOTS: Final = 4


class RouteInline(CatalogInline):
    """Where a series goes."""

    model = Route
    form = RouteInlineForm
    formset = RouteFormSet
    autocomplete_fields = ("destination",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).select_related("series", "destination")


@admin.register(TimeSeries)
class TimeSeriesAdmin(ExchangeMixin, OptionsMixin, CatalogAdmin):
    """What is collected."""

    form = TimeSeriesForm
    resource_classes = [TimeSeriesResource]
    list_display = ("series_id", "source", "schema", "extractor_type", "asset_names", "when", "goes_to", "active")
    list_editable = ("active",)
    list_select_related = ("source",)
    list_filter = (
        ("source", AutocompleteSelectFilter),
        by_registry("source__vendor", "vendor", choices.vendors),
        by_registry("schema", "schema", choices.schemas),
        by_registry("extractor_type", "extractor type", choices.extractor_types),
        by_registry("assets__asset_class", "asset class", choices.asset_classes),
        ("assets", AutocompleteSelectFilter),
        "active",
    )
    search_fields = ("series_id", "source__name", "assets__symbol")
    autocomplete_fields = ("source", "assets")
    ordering = ("series_id",)
    inlines = (RouteInline,)
    actions = (activate, deactivate, set_schedule, add_route, run_now)
    operations = (ShowFirstRows, ShowPlan, RunNow)
    change_form_outer_before_template = "catalog/live_panel.html"
    change_form_outer_after_template = "catalog/series_plots.html"
    fieldsets = (
        (None, {"fields": ("series_id", ("source", "extractor_type"), "schema", "assets", "transforms", "active")}),
        ("When", {"fields": (("schedule", "timezone"), "start", "end")}),
    )

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Say whether the user may start runs."""
        return request.user.has_perm("catalog.run_timeseries")

    def has_add_route_permission(self, request: HttpRequest) -> bool:
        """Say whether the user may give series routes."""
        # of several permissions Django's actions need only one
        may_add = request.user.has_perm("catalog.add_route")
        return bool(may_add and self.has_change_permission(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        warn_of_no_route(request, [form.instance.pk])

    def furnish(self, rows: Sequence[TimeSeries]) -> None:
        ids = [row.pk for row in rows]
        links = TimeSeries.assets.through.objects.filter(timeseries__in=ids).order_by()
        counted = {
            series: (count, first)
            for series, count, first in links.values_list("timeseries").annotate(Count("pk"), Min("asset"))
        }
        firsts = {first for _, first in counted.values()}
        names = {asset.pk: str(asset) for asset in Asset.objects.filter(pk__in=firsts).order_by()}
        routes: dict[int, list[str]] = {}
        found = Route.objects.filter(series__in=ids).order_by("-home", "destination__name")
        for series, destination, active in found.values_list("series_id", "destination__name", "active"):
            routes.setdefault(series, []).append(destination if active else f"({destination})")
        for row in rows:
            count, first = counted.get(row.pk, (0, 0))
            row.asset_text = names.get(first, "") + (f" +{count - 1}" if count > 1 else "")  # type: ignore[attr-defined]
            row.route_text = ", ".join(routes.get(row.pk, ()))  # type: ignore[attr-defined]  # both for columns below

    @admin.display(description="assets")
    def asset_names(self, row: TimeSeries) -> str:
        """Return the first asset and how many more there are."""
        return str(row.asset_text)  # type: ignore[attr-defined]

    @admin.display(description="goes to")
    def goes_to(self, row: TimeSeries) -> str:
        """Return the destinations, home first, inactive ones in brackets."""
        return str(row.route_text)  # type: ignore[attr-defined]

    @admin.display(description="schedule", ordering="schedule")
    def when(self, row: TimeSeries) -> str:
        """Return the cron expression with its zone; realtime series have none."""
        if row.extractor_type == "realtime":
            return "live"
        return f"{row.schedule} {row.timezone}" if row.schedule else ""

    def declared(self) -> dict[str, type[Options]]:
        return {name: vendor.SeriesOptions for name, vendor in registry.extractors().items()}

    def stored_owner(self, row: TimeSeries) -> str:
        return row.source.vendor

    def chosen(self, request: HttpRequest, row: TimeSeries | None) -> str:
        source = request.POST.get("source") or request.GET.get("source", "")
        if source.isdecimal():
            return DataSource.objects.filter(pk=source).values_list("vendor", flat=True).first() or ""
        return row.source.vendor if row else ""

    def plug_in(self, owner: str) -> Any:
        return registry.extractor(owner)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.plot_view)
        plot = path("<int:series>/plot/<int:instrument>.svg", view, name="catalog_timeseries_plot")
        return [plot, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        found = plots.plotted(object_id, _PLOTS) if self.has_view_permission(request) else []
        shown = [
            {
                "name": str(instrument),
                "url": reverse("admin:catalog_timeseries_plot", args=(object_id, instrument.pk)),
            }
            for instrument in found
        ]
        heard = live.of_series(object_id) if self.has_view_permission(request) else None
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "plots": shown, "live": heard}
        )

    def plot_view(self, request: HttpRequest, series: int, instrument: int) -> HttpResponse:
        """Return the latest rows of one instrument of a series as a picture."""
        return plots.picture(request, self, series, instrument)
