"""`OutputDestination` is somewhere tables go; `Route` sends the rows of a series there."""

from typing import Any

from django.db import models
from django.db.models import Q

from catalog.conditions import check_condition
from catalog.errors import ConfigError
from catalog.models.fields import Faults
from catalog.models.fields import env_prefix_validator
from catalog.models.fields import name_validator
from flows import registry
from flows.options import read_options


class OutputDestination(models.Model):
    """A destination: a kind and its options; secrets live in the environment."""

    name = models.CharField(max_length=100, unique=True, validators=[name_validator])
    kind = models.CharField(max_length=50, help_text="Which sink writes there.")
    options = models.JSONField(default=dict, blank=True, help_text="The kind's options.")
    env_prefix = models.CharField("environment prefix", max_length=64, blank=True, validators=[env_prefix_validator])
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "destination"

    def __str__(self) -> str:
        return self.name

    @property
    def readable(self) -> bool:
        """Whether rows can be read back, as a home route needs."""
        return self.kind in registry.sinks() and registry.sink(self.kind).readable

    def read_options(self) -> Any:
        """Return the options as the kind's class; ConfigError lists every fault."""
        return read_options(f"destination {self.name!r}", registry.sink(self.kind).Options, self.options)

    def clean(self) -> None:
        """Check kind and options."""
        faults = Faults()
        try:
            self.read_options()
        except ConfigError as error:
            faults.add("options" if self.kind in registry.sinks() else "kind", *error.faults)
        faults.raise_if_any()


class Route(models.Model):
    """Sends the rows of a series that meet a condition to one destination."""

    series = models.ForeignKey("catalog.TimeSeries", models.CASCADE, related_name="routes")
    destination = models.ForeignKey(OutputDestination, models.PROTECT, related_name="routes")
    condition = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Which rows, e.g. close > 100 or asset_class == 'crypto'. Empty: all.",
    )
    batch_rows = models.PositiveIntegerField(null=True, blank=True, help_text="Rows a write; empty: the kind's own.")
    required = models.BooleanField(default=True, help_text="Landed pages are kept until every required route has them.")
    home = models.BooleanField(default=False, help_text="Reads, completeness and gap-fill refer to this route.")
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("series", "-home", "destination")
        constraints = [
            models.UniqueConstraint(fields=("series", "destination"), name="route_once_to_a_destination"),
            models.UniqueConstraint(fields=("series",), condition=Q(home=True), name="series_has_one_home"),
        ]

    def __str__(self) -> str:
        return f"{self.series} → {self.destination}"

    def clean(self) -> None:
        """Check that a home can be read, and the condition against the schema's columns."""
        faults = Faults()
        if self.home and self.destination_id and not self.destination.readable:
            readable = [name for name, kind in registry.sinks().items() if kind.readable]
            faults.add("home", f"kind {self.destination.kind!r} cannot be read back; accepted: {', '.join(readable)}")
        if self.condition and self.series_id:
            try:
                check_condition(self.condition, self.series.schema)
            except ConfigError as error:
                faults.add("condition", *error.faults)
        faults.raise_if_any()
