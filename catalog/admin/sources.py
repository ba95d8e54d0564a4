"""Pages of sources."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from catalog.admin.actions import activate
from catalog.admin.actions import deactivate
from catalog.admin.base import CatalogAdmin
from catalog.admin.exchange import ExchangeMixin
from catalog.admin.filters import by_registry
from catalog.admin.operations import CheckSource
from catalog.admin.operations import RunNow
from catalog.admin.operations import ShowFirstRows
from catalog.admin.operations import ShowPlan
from catalog.admin.options import OptionsMixin
from catalog.forms import choices
from catalog.forms.sources import DataSourceForm
from catalog.models import DataSource
from catalog.models import TimeSeries
from catalog.resources import DataSourceResource
from flows import registry
from flows.registry import Options


@admin.register(DataSource)
class DataSourceAdmin(ExchangeMixin, OptionsMixin, CatalogAdmin):
    """Vendor accounts."""

    form = DataSourceForm
    resource_classes = [DataSourceResource]
    list_display = ("name", "vendor_label", "series_count", "settled_after", "env_prefix", "active")
    list_editable = ("active",)
    list_filter = (by_registry("vendor", "vendor", choices.vendors), "active")
    search_fields = ("name", "vendor")
    ordering = ("name",)
    actions = (activate, deactivate)
    operations = (CheckSource, ShowFirstRows, ShowPlan, RunNow)
    fieldsets = ((None, {"fields": ("name", "vendor", "env_prefix", "settled_after", "active")}),)

    def furnish(self, rows: Sequence[DataSource]) -> None:
        counts = _counts("source", rows)
        for row in rows:
            row.series_count = counts.get(row.pk, 0)  # type: ignore[attr-defined]  # for the column

    @display(description="vendor", ordering="vendor")
    def vendor_label(self, row: DataSource) -> str:
        """Return the vendor's name, and what it lacks."""
        return dict(choices.vendors()).get(row.vendor, f"{row.vendor} (unknown)")

    @admin.display(description="series")
    def series_count(self, row: DataSource) -> SafeString:
        """Return the number of series, with a link to them."""
        url = f"{reverse('admin:catalog_timeseries_changelist')}?source__id__exact={row.pk}"
        return format_html('<a class="text-link" href="{}">{}</a>', url, row.series_count)  # type: ignore[attr-defined]

    def declared(self) -> dict[str, type[Options]]:
        return {name: vendor.Options for name, vendor in registry.extractors().items()}

    def chosen(self, request: HttpRequest, row: Any) -> str:
        return request.POST.get("vendor") or (row.vendor if row else request.GET.get("vendor", ""))

    def about(self, owner: str) -> SafeString:
        vendor = registry.extractor(owner)
        secrets = [f"<prefix>_{ending}" for ending in vendor.credentials]
        said = [vendor.doc]
        if secrets:
            said.append(f"Secrets are read from the environment: {', '.join(secrets)}.")
        if advice := choices.install_advice(vendor):
            said.append(f"On this machine it {advice}.")
        return format_html("{}", " ".join(filter(None, said)))


def _counts(field: str, rows: Sequence[Any]) -> dict[int, int]:
    """Return how many series belong to each row, in one query."""
    series = TimeSeries.objects.filter(**{f"{field}__in": [row.pk for row in rows]}).order_by()
    return dict(series.values_list(field).annotate(Count("pk")))
