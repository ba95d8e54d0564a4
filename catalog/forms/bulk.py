"""Forms of the actions that change many rows at once."""

from typing import Any

from cronsim import CronSim
from cronsim import CronSimError
from django import forms
from django.db.models import QuerySet
from django.utils import timezone as clock
from unfold.widgets import UnfoldAdminIntegerFieldWidget
from unfold.widgets import UnfoldAdminSelect2Widget
from unfold.widgets import UnfoldAdminTextInputWidget
from unfold.widgets import UnfoldBooleanSwitchWidget

from catalog.conditions import check_condition
from catalog.errors import ConfigError
from catalog.forms import choices
from catalog.models import Asset
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries


class SetSchedule(forms.Form):
    """When many series run."""

    schedule = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget(), help_text="Cron expression; empty: only on demand."
    )
    timezone = forms.ChoiceField(widget=UnfoldAdminSelect2Widget(), initial="UTC", help_text="Zone of the schedule.")

    def __init__(self, *args: Any, rows: QuerySet[TimeSeries], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows = rows
        self.fields["timezone"].choices = choices.timezones()  # type: ignore[attr-defined]  # a ChoiceField

    def clean_schedule(self) -> str:
        schedule: str = self.cleaned_data["schedule"]
        if schedule:
            try:
                CronSim(schedule, clock.now())
            except CronSimError as error:
                raise forms.ValidationError(f"{schedule!r}: {error}; accepted: e.g. 0 22 * * 1-5") from error
            if live := self.rows.filter(extractor_type="realtime").count():
                raise forms.ValidationError(f"{live:,} of the series are realtime: they stream all the time.")
        return schedule


class SetMarket(forms.Form):
    """Where many assets trade; what is left empty stays as it is."""

    mic = forms.CharField(label="MIC", required=False, max_length=4, widget=UnfoldAdminTextInputWidget())
    currency = forms.CharField(required=False, max_length=10, widget=UnfoldAdminTextInputWidget())
    calendar = forms.CharField(required=False, max_length=50, widget=UnfoldAdminTextInputWidget())

    def __init__(self, *args: Any, rows: QuerySet[Asset], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def clean(self) -> dict[str, Any]:
        cleaned = {name: value for name, value in self.cleaned_data.items() if value}
        if not cleaned and not self.errors:
            raise forms.ValidationError("Nothing is set.")
        return cleaned


class AddRoute(forms.Form):
    """A route from each of many series to one destination; series that have one keep theirs."""

    destination = forms.ModelChoiceField(OutputDestination.objects.none(), widget=UnfoldAdminSelect2Widget())
    condition = forms.CharField(
        required=False,
        max_length=1000,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Which rows, e.g. close > 100. Empty: all.",
    )
    batch_rows = forms.IntegerField(
        required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget(), help_text="Empty: the kind's own."
    )
    required = forms.BooleanField(required=False, initial=True, widget=UnfoldBooleanSwitchWidget())
    home = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget(), help_text="Only for series that have no home yet."
    )
    active = forms.BooleanField(required=False, initial=True, widget=UnfoldBooleanSwitchWidget())

    def __init__(self, *args: Any, rows: QuerySet[TimeSeries], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows = rows
        self.fields["destination"].queryset = OutputDestination.objects.all()  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        condition = cleaned.get("condition")
        for schema in self.rows.order_by().values_list("schema", flat=True).distinct() if condition else ():
            try:
                check_condition(str(condition), schema)
            except ConfigError as error:
                self.add_error("condition", [f"{schema}: {fault}" for fault in error.faults])
        destination = cleaned.get("destination")
        if cleaned.get("home") and destination and not destination.readable:
            self.add_error("home", f"kind {destination.kind!r} cannot be read back, so it can be no home")
        return cleaned

    def routes(self) -> list[Route]:
        """Return the routes to make, for the series that have none to this destination; none is stored yet."""
        destination: OutputDestination = self.cleaned_data["destination"]
        have = set(Route.objects.filter(destination=destination).order_by().values_list("series_id", flat=True))
        homes = set(Route.objects.filter(home=True).order_by().values_list("series_id", flat=True))
        return [
            Route(
                series=series,
                destination=destination,
                condition=self.cleaned_data["condition"],
                batch_rows=self.cleaned_data["batch_rows"],
                required=self.cleaned_data["required"],
                home=self.cleaned_data["home"] and series.pk not in homes,
                active=self.cleaned_data["active"],
            )
            for series in self.rows
            if series.pk not in have
        ]
