"""Filters of list pages."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from typing import Final

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter

from catalog.forms.choices import Choices

_AGES: Final = {1: "the last hour", 24: "the last day", 7 * 24: "the last week", 30 * 24: "the last month"}


def by_age(path: str, title: str) -> type[DropdownFilter]:
    """Return a filter on how long ago something was; unlike a date hierarchy it reads no row to be shown."""

    class AgeFilter(DropdownFilter):
        parameter_name = f"{path}_within"

        def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
            return [(str(hours), text) for hours, text in _AGES.items()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            hours = self.value() or ""
            if not hours.isdecimal() or int(hours) not in _AGES:
                return queryset
            return queryset.filter(**{f"{path}__gte": timezone.now() - timedelta(hours=int(hours))})

    AgeFilter.title = title
    return AgeFilter


def by_registry(path: str, title: str, choices: Callable[[], Choices]) -> type[DropdownFilter]:
    """Return a filter on a field whose text comes from the registry; asks the database nothing to list them."""

    class RegistryFilter(DropdownFilter):
        parameter_name = path.split("__")[-1]

        def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
            return choices()

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{path: self.value()}) if self.value() else queryset

    RegistryFilter.title = title
    return RegistryFilter
