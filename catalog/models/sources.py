"""`DataSource`: one vendor account and one meaning of its numbers."""

from datetime import timedelta
from typing import Any

from django.db import models

from catalog.errors import ConfigError
from catalog.models.fields import Faults
from catalog.models.fields import env_prefix_validator
from catalog.models.fields import name_validator
from catalog.models.fields import source_prefix_fault
from flows import registry
from flows.options import read_options


class DataSource(models.Model):
    """A vendor account with options; secrets are named by a prefix and live in the environment."""

    name = models.CharField(
        max_length=100,
        unique=True,
        validators=[name_validator],
        help_text="First part of every key, e.g. databento or files-eod. Cannot change once rows are stored.",
    )
    vendor = models.CharField(max_length=50, help_text="Which extractor speaks to this source.")
    options = models.JSONField(default=dict, blank=True, help_text="The vendor's options.")
    env_prefix = models.CharField(
        "environment prefix",
        max_length=64,
        blank=True,
        validators=[env_prefix_validator],
        help_text="Secrets are read from PREFIX_NAME. Empty: the vendor's name in capitals.",
    )
    settled_after = models.DurationField(
        default=timedelta(0),
        blank=True,
        help_text="Age after which this source's data no longer change; younger windows are fetched again.",
    )
    keep_landed = models.DurationField(
        null=True,
        blank=True,
        help_text="Age after which `manage.py prune` may delete landed pages that every required route has."
        " Empty: they are kept.",
    )
    monthly_budget = models.DecimalField(
        max_digits=12,
        decimal_places=2,
        null=True,
        blank=True,
        help_text="Money a calendar month (UTC) may cost; a run that would exceed it is refused. Empty: no limit.",
    )
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "source"
        permissions = [
            ("check_datasource", "Can ask the vendor whether a source works"),
            ("preview_datasource", "Can fetch first rows of a source"),
            ("run_datasource", "Can start a run of a source"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def secrets_prefix(self) -> str:
        """The prefix of this source's environment variables."""
        return self.env_prefix or self.vendor.upper().replace("-", "_")

    def read_options(self) -> Any:
        """Return the options as the vendor's class; ConfigError lists every fault."""
        extractor = registry.extractor(self.vendor)
        return read_options(f"source {self.name!r}", extractor.Options, self.options)

    def clean(self) -> None:
        """Check vendor and options; refuse a change of meaning once rows are stored."""
        faults = Faults()
        try:
            self.read_options()
        except ConfigError as error:
            faults.add("options" if self.vendor in registry.extractors() else "vendor", *error.faults)
        if fault := source_prefix_fault(self.env_prefix):
            faults.add("env_prefix", fault)
        if self.pk and not faults.by_field:
            self._keep_meaning(faults)
        faults.raise_if_any()

    def _keep_meaning(self, faults: Faults) -> None:
        stored = DataSource.objects.filter(pk=self.pk).first()
        if stored is None or not self.fetches.exists():
            return
        advice = "rows are stored under it; make another source"
        if stored.name != self.name:
            faults.add("name", f"{stored.name!r} cannot be renamed: {advice}")
        if stored.vendor != self.vendor:
            faults.add("vendor", f"{stored.vendor!r} cannot be changed: {advice}")
            return
        for option in registry.extractor(self.vendor).value_options:
            before, after = stored.options.get(option), self.options.get(option)
            if before != after:
                faults.add("options", f"option {option!r} ({before!r} → {after!r}) changes what numbers mean: {advice}")
