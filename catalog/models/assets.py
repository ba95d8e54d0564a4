"""`Asset` is what is traded, vendor-free; `Instrument` is an asset as one source knows it."""

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import unknown
from catalog.keys import InstrumentName
from catalog.models.fields import Faults
from catalog.models.fields import validate_symbol


class Asset(models.Model):
    """What is traded. `symbol` is a permanent slug, unique in its asset class."""

    symbol = models.CharField(max_length=100, db_index=True, validators=[validate_symbol])
    asset_class = models.CharField(max_length=30)
    name = models.CharField(max_length=200, blank=True)
    mic = models.CharField("MIC", max_length=4, blank=True, help_text="ISO 10383 code of the primary venue.")
    currency = models.CharField(max_length=10, blank=True, help_text="ISO 4217 code, or a coin.")
    calendar = models.CharField(max_length=50, blank=True, help_text="Trading calendar, e.g. XNYS.")
    figi = models.CharField("FIGI", max_length=12, blank=True)
    isin = models.CharField("ISIN", max_length=12, blank=True)

    class Meta:
        ordering = ("asset_class", "symbol")
        constraints = [models.UniqueConstraint(fields=("asset_class", "symbol"), name="asset_once_in_its_class")]

    def __str__(self) -> str:
        return f"{self.asset_class}:{self.symbol}"

    def clean(self) -> None:
        """Check the asset class."""
        faults = Faults()
        if self.asset_class not in ASSET_CLASSES:
            faults.add("asset_class", unknown("asset class", self.asset_class, ASSET_CLASSES))
        if self.pk:
            stored = Asset.objects.filter(pk=self.pk).values_list("asset_class", "symbol").first()
            used = self.instruments.filter(coverage__isnull=False).exists()
            if stored and used and stored != (self.asset_class, self.symbol):
                faults.add("symbol", f"{':'.join(stored)} is in keys of stored rows and cannot be renamed")
        faults.raise_if_any()


class Instrument(models.Model):
    """An asset as one source knows it; its id is in every stored row."""

    source = models.ForeignKey("catalog.DataSource", models.PROTECT, related_name="instruments")
    asset = models.ForeignKey(Asset, models.PROTECT, related_name="instruments")

    class Meta:
        ordering = ("source", "asset")
        constraints = [models.UniqueConstraint(fields=("source", "asset"), name="instrument_once_in_its_source")]

    def __str__(self) -> str:
        return str(self.key)

    @property
    def key(self) -> InstrumentName:
        """The first three parts of the instrument's keys."""
        return InstrumentName(self.source.name, self.asset.asset_class, self.asset.symbol)


class InstrumentSymbol(models.Model):
    """What a source calls an instrument in `[start, end)`; without any, it is the asset's own symbol."""

    instrument = models.ForeignKey(Instrument, models.CASCADE, related_name="symbols")
    symbol = models.CharField(max_length=200, validators=[validate_symbol])
    start = models.DateTimeField(null=True, blank=True, help_text="Inclusive; empty: since ever.")
    end = models.DateTimeField(null=True, blank=True, help_text="Exclusive; empty: still valid.")

    class Meta:
        ordering = ("instrument", "start")
        constraints = [
            models.CheckConstraint(
                condition=Q(start__isnull=True) | Q(end__isnull=True) | Q(start__lt=models.F("end")),
                name="symbol_interval_is_not_empty",
            )
        ]

    def __str__(self) -> str:
        return f"{self.symbol} [{self.start or '…'}, {self.end or '…'})"

    def clean(self) -> None:
        """Refuse an interval that overlaps another of the instrument, or of the symbol in its source."""
        if not self.instrument_id:
            return
        overlapping = Q()
        if self.start is not None:
            overlapping &= Q(end__isnull=True) | Q(end__gt=self.start)
        if self.end is not None:
            overlapping &= Q(start__isnull=True) | Q(start__lt=self.end)
        rivals = InstrumentSymbol.objects.filter(overlapping).exclude(pk=self.pk)
        same = (
            rivals.filter(instrument_id=self.instrument_id).first()
            or rivals.filter(instrument__source_id=self.instrument.source_id, symbol=self.symbol).first()
        )
        if same:
            raise ValidationError(f"{self} overlaps {same} of {same.instrument}")
