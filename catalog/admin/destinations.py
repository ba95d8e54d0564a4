"""Pages of destinations and routes."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from catalog.admin.actions import activate
from catalog.admin.actions import deactivate
from catalog.admin.base import CatalogAdmin
from catalog.admin.base import linked
from catalog.admin.exchange import ExchangeMixin
from catalog.admin.filters import by_registry
from catalog.admin.options import OptionsMixin
from catalog.admin.options import describe
from catalog.forms import choices
from catalog.forms.series import RouteForm
from catalog.forms.sources import OutputDestinationForm
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.resources import OutputDestinationResource
from catalog.resources import RouteResource
from flows import registry
from flows.options import Options


@admin.register(OutputDestination)
class OutputDestinationAdmin(ExchangeMixin, OptionsMixin, CatalogAdmin):
    """Where tables go."""

    form = OutputDestinationForm
    resource_classes = [OutputDestinationResource]
    list_display = ("name", "kind_label", "can_be_read", "all_routes", "env_prefix", "active")
    list_editable = ("active",)
    list_filter = (by_registry("kind", "kind", choices.kinds), "active")
    search_fields = ("name", "kind")
    ordering = ("name",)
    actions = (activate, deactivate)
    fieldsets = ((None, {"fields": ("name", "kind", "env_prefix", "active")}),)

    def furnish(self, rows: Sequence[OutputDestination]) -> None:
        found = Route.objects.filter(destination__in=[row.pk for row in rows]).order_by()
        counts = dict(found.values_list("destination").annotate(Count("pk")))
        for row in rows:
            row.route_count = counts.get(row.pk, 0)  # type: ignore[attr-defined]  # for the column below

    @admin.display(description="kind", ordering="kind")
    def kind_label(self, row: OutputDestination) -> str:
        """Return the kind's name, and what it lacks."""
        return dict(choices.kinds()).get(row.kind, f"{row.kind} (unknown)")

    @admin.display(description="readable", boolean=True)
    def can_be_read(self, row: OutputDestination) -> bool:
        """Return whether it can be the home of a series."""
        return row.readable

    @admin.display(description="routes")
    def all_routes(self, row: OutputDestination) -> SafeString:
        """Return the number of routes, with a link to them."""
        return linked("route", f"{row.route_count:,}", destination__id__exact=row.pk)  # type: ignore[attr-defined]

    def declared(self) -> dict[str, type[Options]]:
        return {name: kind.Options for name, kind in registry.sinks().items()}

    def stored_owner(self, row: OutputDestination) -> str:
        return row.kind

    def chosen(self, request: HttpRequest, row: OutputDestination | None) -> str:
        return request.POST.get("kind") or (row.kind if row else request.GET.get("kind", ""))

    def plug_in(self, owner: str) -> Any:
        return registry.sink(owner)

    def about(self, owner: str) -> str:
        return describe(registry.sink(owner))


@admin.register(Route)
class RouteAdmin(ExchangeMixin, CatalogAdmin):
    """What goes where."""

    form = RouteForm
    resource_classes = [RouteResource]
    list_display = ("series", "destination", "condition", "batch_rows", "required", "home", "active")
    list_editable = ("active",)
    list_select_related = ("series", "destination")
    list_filter = (("destination", AutocompleteSelectFilter), "home", "required", "active")
    search_fields = ("series__series_id", "destination__name", "condition")
    autocomplete_fields = ("series", "destination")
    ordering = ("series__series_id", "-home")
    actions = (activate, deactivate)
