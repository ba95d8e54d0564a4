"""The ledger: what ran, what was fetched, what was delivered, what was refused. Written by flows only."""

from typing import Any

from django.db import models


class Run(models.Model):
    """One pass over a group, however it was started."""

    class Status(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"

    kind = models.CharField(max_length=30, default="historical")
    source = models.ForeignKey("catalog.DataSource", models.PROTECT, related_name="runs", null=True)
    selector = models.JSONField(default=dict)
    flow_run = models.CharField(max_length=64, blank=True, help_text="Prefect's id of the flow run, if there is one.")
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.RUNNING)
    error = models.TextField(blank=True)
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)
    live = models.JSONField(null=True, help_text="What a live run wrote of itself: connection, rates, refusals.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"run {self.pk}"


class Fetch(models.Model):
    """One request and all its pages. Ids grow with `fetched_at`, which decides between two versions of a row."""

    run = models.ForeignKey(Run, models.PROTECT, related_name="fetches", null=True)
    source = models.ForeignKey("catalog.DataSource", models.PROTECT, related_name="fetches")
    schema = models.CharField(max_length=50)
    request_hash = models.CharField(max_length=64, help_text="Of identity, instruments and window.")
    identity = models.CharField(max_length=1000, blank=True)
    start = models.DateTimeField()
    end = models.DateTimeField()
    fetched_at = models.DateTimeField(auto_now_add=True)
    complete = models.BooleanField(default=False)
    pages = models.PositiveIntegerField(default=0)
    unparsable = models.PositiveIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    requests = models.PositiveIntegerField(default=0, help_text="Requests that the vendor was sent.")
    cost = models.DecimalField(
        max_digits=14, decimal_places=6, default=0, help_text="What it cost, in the money of the source's budget."
    )
    error = models.TextField(blank=True)
    live = models.BooleanField(
        default=False, help_text="Brought by a connection: what it covers grows and counts before it is complete."
    )
    pruned = models.BooleanField(default=False, help_text="The landed pages were deleted: it cannot be refined again.")

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "fetches"
        indexes = [
            models.Index(fields=("source", "schema", "request_hash"), name="fetch_by_request"),
            models.Index(fields=("source", "schema", "complete"), name="fetch_by_schema"),
        ]

    def __str__(self) -> str:
        return f"fetch {self.pk}"


class Coverage(models.Model):
    """An instrument of a fetch with the window `[start, end)` asked; counts once the fetch is complete."""

    fetch = models.ForeignKey(Fetch, models.CASCADE, related_name="coverage")
    instrument = models.ForeignKey("catalog.Instrument", models.PROTECT, related_name="coverage")
    start = models.DateTimeField()
    end = models.DateTimeField()
    refused = models.BooleanField(default=False, help_text="The vendor refused it and gave others: it does not count.")

    class Meta:
        ordering = ("fetch", "instrument")
        verbose_name_plural = "coverage"
        constraints = [models.UniqueConstraint(fields=("fetch", "instrument", "start"), name="coverage_once")]
        indexes = [models.Index(fields=("instrument", "fetch"), name="coverage_by_instrument")]

    def __str__(self) -> str:
        return f"{self.instrument} [{self.start:%Y-%m-%dT%H:%MZ}, {self.end:%Y-%m-%dT%H:%MZ})"


class Gap(models.Model):
    """A window `[start, end)` that was not heard live and that nothing can fill: the vendor keeps no such history."""

    instrument = models.ForeignKey("catalog.Instrument", models.CASCADE, related_name="gaps")
    schema = models.CharField(max_length=50)
    start = models.DateTimeField()
    end = models.DateTimeField()
    reason = models.TextField(blank=True)
    noted_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        verbose_name = "known gap"
        constraints = [models.UniqueConstraint(fields=("instrument", "schema", "start"), name="gap_once")]

    def __str__(self) -> str:
        return f"{self.instrument} {self.schema} [{self.start:%Y-%m-%dT%H:%M:%SZ}, {self.end:%Y-%m-%dT%H:%M:%SZ})"


class Delivery(models.Model):
    """A fetch going to a destination. `cursor` counts refined batches, or the frames of what is live; counts are rows.

    parsed = new + updated + unchanged + duplicate + superseded + filtered + quarantined + pending
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed"

    fetch = models.ForeignKey(Fetch, models.CASCADE, related_name="deliveries")
    destination = models.ForeignKey("catalog.OutputDestination", models.PROTECT, related_name="deliveries")
    #: differs from the fetch's schema for what was derived from it (indicators)
    schema = models.CharField(max_length=50)
    required = models.BooleanField(default=True)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.PENDING)
    cursor = models.PositiveBigIntegerField(default=0)
    parsed = models.PositiveBigIntegerField(default=0)
    new = models.PositiveBigIntegerField(default=0)
    updated = models.PositiveBigIntegerField(default=0)
    unchanged = models.PositiveBigIntegerField(default=0)
    duplicate = models.PositiveBigIntegerField(default=0)
    superseded = models.PositiveBigIntegerField(default=0)
    filtered = models.PositiveBigIntegerField(default=0)
    quarantined = models.PositiveBigIntegerField(default=0)
    pending = models.PositiveBigIntegerField(default=0)
    rounded = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "deliveries"
        constraints = [models.UniqueConstraint(fields=("fetch", "destination", "schema"), name="delivery_once")]

    def __str__(self) -> str:
        return f"delivery {self.pk}"


class Quarantined(models.Model):
    """A refused row (or, where `row` is -1, an unparsable page) with the rule, the reason and what came in."""

    fetch = models.ForeignKey(Fetch, models.CASCADE, related_name="quarantined")
    part = models.PositiveIntegerField()
    row = models.BigIntegerField()
    rule = models.CharField(max_length=500)
    reason = models.TextField()
    raw = models.TextField()

    class Meta:
        ordering = ("-id",)
        verbose_name = "quarantined row"
        constraints = [models.UniqueConstraint(fields=("fetch", "part", "row"), name="quarantined_once")]

    def __str__(self) -> str:
        return f"fetch {self.fetch_id}, page {self.part}, row {self.row}"


def rejected_by(deliveries: "models.QuerySet[Delivery]", name: str) -> dict[Any, int]:
    """Return the rows rejected in some deliveries, by something of theirs such as `fetch__run`.

    A row is rejected once, however many destinations it was on its way to: the one that is furthest counts.
    """
    found: dict[Any, int] = {}
    rejected = deliveries.filter(quarantined__gt=0).order_by()
    for value, _, rows in rejected.values_list(name, "fetch").annotate(rows=models.Max("quarantined")):
        found[value] = found.get(value, 0) + rows
    return found
