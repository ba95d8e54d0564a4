"""Forms of series and of their routes."""

import json
from typing import TYPE_CHECKING
from typing import Any

from django.core.exceptions import ValidationError
from unfold.forms import PaginationInlineFormSet

from catalog.conditions import check_condition
from catalog.errors import ConfigError
from catalog.forms import choices
from catalog.forms.base import CatalogForm
from catalog.forms.options import OptionsForm
from catalog.models import DataSource
from catalog.models import Route
from catalog.models import TimeSeries

if TYPE_CHECKING:
    from django.forms.models import BaseInlineFormSet

    class FormSet(BaseInlineFormSet[Route, TimeSeries, Any]):
        """What unfold's untyped class is."""

        def _should_delete_form(self, form: Any) -> bool: ...
else:
    FormSet = PaginationInlineFormSet


class TimeSeriesForm(OptionsForm):
    """A series; its option fields are those the source's vendor declares for a series."""

    selects = {
        "schema": choices.schemas,
        "extractor_type": choices.extractor_types,
        "timezone": choices.timezones,
    }
    option_select = "source"
    instance: TimeSeries

    def select_attributes(self) -> dict[str, str]:
        # the options are those of the chosen source's vendor
        vendors = {str(pk): vendor for pk, vendor in DataSource.objects.order_by().values_list("pk", "vendor")}
        return {**super().select_attributes(), "data-option-owners": json.dumps(vendors)}

    def owner_of_instance(self) -> str:
        return self.instance.source.vendor

    def chosen_owner(self) -> str:
        source = self.cleaned_data.get("source")
        return source.vendor if source else ""


class RouteForm(CatalogForm):
    """A route on a page of its own."""


class RouteInlineForm(CatalogForm):
    """A route on the page of its series, which may be new."""

    instance: Route

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        condition = self.cleaned_data.get("condition")
        series = self.cleaned_data.get("series")
        # a stored series is checked by the model; of a new one only the form knows the schema
        if condition and series and not series.pk and series.schema:
            try:
                check_condition(condition, series.schema)
            except ConfigError as error:
                self.add_error("condition", list(error.faults))
        return cleaned

    def _get_validation_exclusions(self) -> set[str]:
        # "one home" is judged over all routes of the form, not against what is stored before it
        exclusions: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # not in Django's stubs
        return exclusions | {"home"}


class RouteFormSet(FormSet):
    """The routes of a series: at most one home, which may move from one route to another in one step."""

    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if not form.errors and not self._should_delete_form(form)]
        homes = [form for form in kept if form.cleaned_data.get("home")]
        for form in homes[1:]:
            form.add_error("home", "A series has one home; another route is marked too.")
        if len(homes) > 1:
            raise ValidationError("A series has one home route.")

    def save(self, commit: bool = True) -> Any:
        if commit and self.instance.pk:
            Route.objects.filter(series=self.instance, home=True).exclude(
                pk__in=[
                    form.instance.pk
                    for form in self.initial_forms
                    if form.instance.home and not self._should_delete_form(form)
                ]
            ).update(home=False)
        return super().save(commit=commit)
