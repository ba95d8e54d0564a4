"""Actions on many rows of a list: each is one update, and the log says what changed in every row."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Final

from django import forms
from django.contrib import admin
from django.contrib import messages
from django.contrib.admin import helpers
from django.db import transaction
from django.db.models import Model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.http import HttpResponse
from django.template.response import TemplateResponse

from catalog.admin.history import CHANGE
from catalog.admin.history import changed
from catalog.admin.history import log
from catalog.admin.history import shown
from catalog.admin.operations import start
from catalog.forms.bulk import AddRoute
from catalog.forms.bulk import SetMarket
from catalog.forms.bulk import SetSchedule
from catalog.models import Asset
from catalog.models import Route
from catalog.models import TimeSeries

#: series named one by one on a command line; more are run by source or by schedule
_MOST_RUN: Final = 200
_AT_ONCE: Final = 500


@admin.action(permissions=["change"], description="Activate")
def activate(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> None:
    """Make rows active."""
    _tell(model_admin, request, update(request, queryset, {"active": True}), "activated")


@admin.action(permissions=["change"], description="Deactivate")
def deactivate(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> None:
    """Make rows inactive."""
    _tell(model_admin, request, update(request, queryset, {"active": False}), "deactivated")


@admin.action(permissions=["change"], description="Set schedule…")
def set_schedule(model_admin: Any, request: HttpRequest, queryset: QuerySet[TimeSeries]) -> HttpResponse | None:
    """Give series a schedule."""

    def apply(form: forms.Form) -> None:
        count = update(request, queryset, form.cleaned_data)
        _tell(model_admin, request, count, f"scheduled {form.cleaned_data['schedule'] or 'on demand only'}")

    return ask(model_admin, request, queryset, SetSchedule, "set_schedule", "Set schedule", apply)


@admin.action(permissions=["change"], description="Set market…")
def set_market(model_admin: Any, request: HttpRequest, queryset: QuerySet[Asset]) -> HttpResponse | None:
    """Give assets a venue, currency or calendar."""

    def apply(form: forms.Form) -> None:
        _tell(model_admin, request, update(request, queryset, form.cleaned_data), "changed")

    return ask(model_admin, request, queryset, SetMarket, "set_market", "Set market", apply)


@admin.action(permissions=["add_route"], description="Add route…")
def add_route(model_admin: Any, request: HttpRequest, queryset: QuerySet[TimeSeries]) -> HttpResponse | None:
    """Give series a route to a destination."""

    def apply(form: forms.Form) -> None:
        assert isinstance(form, AddRoute)
        with transaction.atomic():
            routes = form.routes()
            Route.objects.bulk_create(routes, batch_size=_AT_ONCE)
            added = ((route.series, CHANGE, [{"added": {"name": "route", "object": str(route)}}]) for route in routes)
            log(request, added)
        _tell(model_admin, request, len(routes), f"now go to {form.cleaned_data['destination']}")

    return ask(model_admin, request, queryset, AddRoute, "add_route", "Add route", apply)


@admin.action(permissions=["run"], description="Run now")
def run_now(model_admin: Any, request: HttpRequest, queryset: QuerySet[TimeSeries]) -> None:
    """Start one run of the chosen series in the background."""
    active = queryset.filter(active=True, source__active=True)
    series = list(active.order_by("series_id").values_list("series_id", flat=True)[: _MOST_RUN + 1])
    if len(series) > _MOST_RUN:
        messages.error(request, f"Not started: more than {_MOST_RUN} series are chosen; run their source instead.")
        return
    if not series:
        messages.error(request, "Not started: none of the chosen series is active, with an active source.")
        return
    faults = start(request, series)
    for fault in faults:
        messages.error(request, f"Not started: {fault}")
    if not faults:
        log(request, ((row, CHANGE, "Started a run.") for row in active))


def update(request: HttpRequest, queryset: QuerySet[Any], values: Mapping[str, Any]) -> int:
    """Set fields of many rows in one statement, logging each row that differs; returns how many."""
    with transaction.atomic():
        entries: list[tuple[Model, int, Any]] = []
        for row in queryset:
            changes = [
                f"{name}: {shown(getattr(row, name))} → {shown(value)}"
                for name, value in values.items()
                if getattr(row, name) != value
            ]
            if changes:
                entries.append((row, CHANGE, changed(changes)))
        for first in range(0, len(entries), _AT_ONCE):
            ids = [row.pk for row, _, _ in entries[first : first + _AT_ONCE]]
            queryset.model._base_manager.filter(pk__in=ids).update(**values)
        log(request, entries)
    return len(entries)


def ask(
    model_admin: Any,
    request: HttpRequest,
    queryset: QuerySet[Any],
    form_class: Callable[..., forms.Form],
    action: str,
    title: str,
    apply: Callable[[forms.Form], None],
) -> HttpResponse | None:
    """Show the form of an action; apply it when it comes back valid."""
    posted = request.POST if "apply" in request.POST else None
    form = form_class(posted, rows=queryset)
    if posted is not None and form.is_valid():
        apply(form)
        return None
    across = request.POST.get("select_across") == "1"
    context = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "form": form,
        "media": model_admin.media + form.media,
        "action": action,
        "count": queryset.count(),
        "select_across": "1" if across else "0",
        "selected": request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)[: 1 if across else None],
        "checkbox": helpers.ACTION_CHECKBOX_NAME,
    }
    return TemplateResponse(request, "catalog/action_form.html", context)


def _tell(model_admin: Any, request: HttpRequest, count: int, what: str) -> None:
    noun = model_admin.opts.verbose_name if count == 1 else model_admin.opts.verbose_name_plural
    messages.success(request, f"{count:,} {noun} {what}.")
