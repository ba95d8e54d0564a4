"""Pages of sources."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest
from django.http import HttpResponse
from django.utils.safestring import SafeString

from catalog.admin import live
from catalog.admin.actions import activate
from catalog.admin.actions import deactivate
from catalog.admin.base import CatalogAdmin
from catalog.admin.base import linked
from catalog.admin.exchange import ExchangeMixin
from catalog.admin.filters import by_registry
from catalog.admin.operations import CheckSource
from catalog.admin.operations import Discover
from catalog.admin.operations import RunNow
from catalog.admin.operations import ShowFirstRows
from catalog.admin.operations import ShowPlan
from catalog.admin.options import OptionsMixin
from catalog.admin.options import describe
from catalog.forms import choices
from catalog.forms.sources import DataSourceForm
from catalog.models import DataSource
from catalog.models import TimeSeries
from catalog.resources import DataSourceResource
from flows import registry
from flows.options import Options


@admin.register(DataSource)
class DataSourceAdmin(ExchangeMixin, OptionsMixin, CatalogAdmin):
    """Vendor accounts."""

    form = DataSourceForm
    resource_classes = [DataSourceResource]
    list_display = ("name", "vendor_label", "all_series", "settled_after", "env_prefix", "active")
    list_editable = ("active",)
    list_filter = (by_registry("vendor", "vendor", choices.vendors), "active")
    search_fields = ("name", "vendor")
    ordering = ("name",)
    actions = (activate, deactivate)
    operations = (CheckSource, Discover, ShowFirstRows, ShowPlan, RunNow)
    change_form_outer_before_template = "catalog/live_panel.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "name",
                    "vendor",
                    "env_prefix",
                    ("settled_after", "keep_landed"),
                    ("monthly_budget", "active"),
                )
            },
        ),
    )

    def furnish(self, rows: Sequence[DataSource]) -> None:
        found = TimeSeries.objects.filter(source__in=[row.pk for row in rows]).order_by()
        counts = dict(found.values_list("source").annotate(Count("pk")))
        for row in rows:
            row.series_count = counts.get(row.pk, 0)  # type: ignore[attr-defined]  # for the column below

    @admin.display(description="vendor", ordering="vendor")
    def vendor_label(self, row: DataSource) -> str:
        """Return the vendor's name, and what it lacks."""
        return dict(choices.vendors()).get(row.vendor, f"{row.vendor} (unknown)")

    @admin.display(description="series")
    def all_series(self, row: DataSource) -> SafeString:
        """Return the number of series, with a link to them."""
        return linked("timeseries", f"{row.series_count:,}", source__id__exact=row.pk)  # type: ignore[attr-defined]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        shown = self.has_view_permission(request) and object_id.isdecimal()
        context = {**(extra_context or {}), "live": live.of_source(int(object_id)) if shown else None}
        return super().change_view(request, object_id, form_url, context)

    def declared(self) -> dict[str, type[Options]]:
        return {name: vendor.Options for name, vendor in registry.extractors().items()}

    def stored_owner(self, row: DataSource) -> str:
        return row.vendor

    def chosen(self, request: HttpRequest, row: DataSource | None) -> str:
        return request.POST.get("vendor") or (row.vendor if row else request.GET.get("vendor", ""))

    def plug_in(self, owner: str) -> Any:
        return registry.extractor(owner)

    def about(self, owner: str) -> str:
        return describe(registry.extractor(owner))
