"""Filters of list pages."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter

from catalog.forms.choices import Choices


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
