"""Pages of assets and instruments."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from catalog.admin.actions import set_market
from catalog.admin.base import CatalogAdmin
from catalog.admin.base import CatalogInline
from catalog.admin.base import linked
from catalog.admin.exchange import ExchangeMixin
from catalog.admin.filters import by_registry
from catalog.forms import choices
from catalog.forms.instruments import SymbolForm
from catalog.forms.instruments import SymbolFormSet
from catalog.forms.sources import AssetForm
from catalog.models import Asset
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import TimeSeries
from catalog.resources import AssetResource
from catalog.resources import InstrumentResource


class InstrumentInline(CatalogInline):
    """What sources know an asset."""

    model = Instrument
    autocomplete_fields = ("source",)
    per_page = 20
    tab = False

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).select_related("source", "asset")


@admin.register(Asset)
class AssetAdmin(ExchangeMixin, CatalogAdmin):
    """What is traded."""

    form = AssetForm
    resource_classes = [AssetResource]
    list_display = ("symbol", "asset_class", "name", "all_series", "mic", "currency", "calendar", "figi", "isin")
    list_filter = (by_registry("asset_class", "asset class", choices.asset_classes),)
    search_fields = ("symbol", "name", "isin", "figi")
    ordering = ("asset_class", "symbol")
    inlines = (InstrumentInline,)
    actions = (set_market,)
    fieldsets = (
        (None, {"fields": (("asset_class", "symbol"), "name")}),
        ("Market", {"fields": (("mic", "currency", "calendar"), ("figi", "isin"))}),
    )

    def furnish(self, rows: Sequence[Asset]) -> None:
        links = TimeSeries.assets.through.objects.filter(asset__in=[row.pk for row in rows]).order_by()
        counts = dict(links.values_list("asset").annotate(Count("pk")))
        for row in rows:
            row.series_count = counts.get(row.pk, 0)  # type: ignore[attr-defined]  # for the column below

    @admin.display(description="series")
    def all_series(self, row: Asset) -> SafeString:
        """Return the number of series, with a link to them."""
        return linked("timeseries", f"{row.series_count:,}", assets__id__exact=row.pk)  # type: ignore[attr-defined]


class SymbolInline(CatalogInline):
    """What a source calls an instrument, and when."""

    model = InstrumentSymbol
    form = SymbolForm
    formset = SymbolFormSet
    show_change_link = False


@admin.register(Instrument)
class InstrumentAdmin(ExchangeMixin, CatalogAdmin):
    """Assets as sources know them."""

    resource_classes = [InstrumentResource]
    list_display = ("id", "asset", "source", "symbols")
    list_display_links = ("id", "asset")
    list_select_related = ("source", "asset")
    list_filter = (
        ("source", AutocompleteSelectFilter),
        by_registry("asset__asset_class", "asset class", choices.asset_classes),
    )
    search_fields = ("asset__symbol", "source__name", "symbols__symbol")
    autocomplete_fields = ("source", "asset")
    ordering = ("id",)
    inlines = (SymbolInline,)

    def furnish(self, rows: Sequence[Instrument]) -> None:
        found: dict[int, list[str]] = {}
        symbols = InstrumentSymbol.objects.filter(instrument__in=[row.pk for row in rows]).order_by("start")
        for instrument, symbol, start, end in symbols.values_list("instrument_id", "symbol", "start", "end"):
            found.setdefault(instrument, []).append(f"{symbol} {_range(start, end)}".strip())
        for row in rows:
            row.symbol_texts = found.get(row.pk, [])  # type: ignore[attr-defined]  # for the column below

    @admin.display(description="symbols")
    def symbols(self, row: Instrument) -> str:
        """Return the vendor's symbols; without any it is the asset's own."""
        texts: list[str] = row.symbol_texts  # type: ignore[attr-defined]
        more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        return ", ".join(texts[:_SHOWN]) + more if texts else f"{row.asset.symbol} (the asset's own)"


_SHOWN = 3


def _range(start: datetime | None, end: datetime | None) -> str:
    if start is None and end is None:
        return ""
    return f"[{start.date() if start else '…'}, {end.date() if end else '…'})"
