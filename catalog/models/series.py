"""`TimeSeries`: this schema of these assets from this source, on this schedule."""

import zoneinfo
from functools import cache
from typing import Any
from typing import Final

from cronsim import CronSim
from cronsim import CronSimError
from django.db import models
from django.utils import timezone as clock

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.models.destinations import Route
from catalog.models.fields import Faults
from catalog.models.fields import name_validator
from catalog.models.sources import DataSource
from catalog.schemas import SCHEMAS
from flows import registry
from flows.job import EARLIEST
from flows.options import read_options
from transforms.chains import parse_chains

#: what is said of a series whose rows go nowhere
NO_ROUTE: Final = "has no route: what is collected of it goes nowhere"
EXTRACTOR_TYPES: Final = ("historical", "realtime")


class TimeSeries(models.Model):
    """One line of the catalog; grouped by (extractor type, source) when it runs."""

    series_id = models.CharField(max_length=100, unique=True, validators=[name_validator])
    source = models.ForeignKey("catalog.DataSource", models.PROTECT, related_name="series")
    extractor_type = models.CharField(max_length=20, default="historical")
    schema = models.CharField(max_length=50)
    assets = models.ManyToManyField("catalog.Asset", related_name="series")
    transforms = models.TextField(
        blank=True,
        help_text="Chains separated by ';', e.g. sma(window=20); rsi(window=14) | store. Computed at read, or stored.",
    )
    schedule = models.CharField(max_length=100, blank=True, help_text="Cron expression; empty: only on demand.")
    timezone = models.CharField(max_length=64, default="UTC", help_text="Zone of the schedule.")
    start = models.DateTimeField(null=True, blank=True, help_text="Inclusive; empty: all there is.")
    end = models.DateTimeField(null=True, blank=True, help_text="Exclusive; empty: up to now, again and again.")
    options = models.JSONField(default=dict, blank=True, help_text="The vendor's options for a series.")
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("series_id",)
        verbose_name = "series"
        verbose_name_plural = "series"
        permissions = [
            ("preview_timeseries", "Can fetch first rows of a series"),
            ("run_timeseries", "Can start a run of a series"),
        ]
        indexes = [models.Index(fields=("active", "extractor_type", "source"), name="series_groups")]

    def __str__(self) -> str:
        return self.series_id

    def read_options(self) -> Any:
        """Return the options as the vendor's class; ConfigError lists every fault."""
        extractor = registry.extractor(self.source.vendor)
        return read_options(f"series {self.series_id!r}", extractor.SeriesOptions, self.options)

    def clean(self) -> None:
        """Check every name against what exists, the schedule, the window and the transforms."""
        faults = Faults()
        check_series(self, faults)
        if self.source_id:
            try:
                self.read_options()
            except ConfigError as error:
                faults.add("options", *error.faults)
            check_source(self, self.source, faults)
        faults.raise_if_any()


def without_route(rows: "models.QuerySet[TimeSeries]") -> "models.QuerySet[TimeSeries]":
    """Return those of some series whose rows go nowhere: no active route leads to an active destination."""
    leading = Route.objects.filter(active=True, destination__active=True)
    return rows.exclude(pk__in=leading.values("series"))


@cache
def _zones() -> set[str]:
    # twelve milliseconds a call: the library walks its folders
    return zoneinfo.available_timezones()


def check_source(series: TimeSeries, source: DataSource, faults: Faults) -> None:
    """Note what a source cannot give: nothing of the series' type, or not its schema."""
    if source.vendor not in registry.extractors() or series.extractor_type not in EXTRACTOR_TYPES:
        return
    try:
        schemas = registry.extractor(source.vendor, series.extractor_type).offered(source.options)
    except ConfigError as error:
        faults.add("extractor_type", *error.faults)
        return
    # empty: every schema
    if schemas and series.schema not in schemas:
        lacks, has = {
            "realtime": ("streams no", "it streams"), "historical": ("has no history of", "it has that of"),
        }[series.extractor_type]  # fmt: skip
        have = ", ".join(sorted(schemas))
        faults.add("schema", f"source {source.name!r} ({source.vendor}) {lacks} {series.schema!r}; {has}: {have}")


def check_series(series: TimeSeries, faults: Faults) -> None:
    """Note every fault that can be seen without asking the database."""
    if series.extractor_type not in EXTRACTOR_TYPES:
        faults.add("extractor_type", unknown("extractor type", series.extractor_type, EXTRACTOR_TYPES))
    if series.schema not in SCHEMAS:
        faults.add("schema", unknown("schema", series.schema, SCHEMAS))
    if series.timezone not in _zones():
        faults.add("timezone", f"time zone {series.timezone!r} is unknown; accepted: names like America/New_York")
    if series.schedule and series.extractor_type == "realtime":
        faults.add("schedule", f"schedule {series.schedule!r}: a realtime series streams all the time; leave it empty")
    elif series.schedule:
        try:
            CronSim(series.schedule, clock.now())
        except CronSimError as error:
            faults.add(
                "schedule", f"schedule {series.schedule!r}: {error}; accepted: five cron fields, e.g. 0 22 * * 1-5"
            )
    if series.start and series.end and series.start >= series.end:
        faults.add("end", f"end {series.end.isoformat()} is not after start {series.start.isoformat()}")
    try:
        parse_chains(series.transforms, series.schema)
    except ConfigError as error:
        faults.add("transforms", *error.faults)


class Indicator(models.Model):
    """A stored indicator: its id is in the rows of schema `indicators`."""

    chain = models.CharField(max_length=500, help_text="Canonical text of the chain, e.g. sma(window=20).")
    input_schema = models.CharField(max_length=50)
    version = models.PositiveIntegerField(default=1)

    class Meta:
        ordering = ("chain",)
        constraints = [models.UniqueConstraint(fields=("chain", "input_schema", "version"), name="indicator_once")]

    def __str__(self) -> str:
        return f"{self.chain} of {self.input_schema}"


class IndicatorCursor(models.Model):
    """From when on the values of a stored indicator of an instrument are due: rows have changed since, or come."""

    indicator = models.ForeignKey(Indicator, models.CASCADE, related_name="cursors")
    instrument = models.ForeignKey("catalog.Instrument", models.CASCADE, related_name="indicator_cursors")
    destination = models.ForeignKey("catalog.OutputDestination", models.CASCADE, related_name="indicator_cursors")
    due = models.DateTimeField(null=True, default=EARLIEST, help_text="Empty: nothing is due.")
    fetch_id = models.BigIntegerField(default=0, help_text="Rows of older fetches have not changed.")
    computed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=("indicator", "instrument", "destination"), name="indicator_cursor_once")
        ]

    def __str__(self) -> str:
        return f"{self.indicator} due from {self.due}"
