"""What an import would do, or did: rows added and changed, field by field."""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from django.db.models import Model

from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Fault
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import Route
from catalog.models import TimeSeries


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field with its old and new value, as texts."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before or 'none'} → {self.after or 'none'}"


@dataclass(frozen=True, slots=True)
class Change:
    """A row to be added or changed. `row` is as it will be."""

    row: Model
    line: int
    added: bool
    fields: Sequence[FieldChange]

    @property
    def kind(self) -> str:
        """What the row is, e.g. source."""
        return str(self.row._meta.verbose_name)

    def __str__(self) -> str:
        if self.added:
            lines = [f"{change.name}: {change.after}" for change in self.fields]
        else:
            lines = [str(change) for change in self.fields]
        head = f"{'+' if self.added else '~'} {self.kind} {self.row} (line {self.line})"
        return "\n    ".join([head, *lines])


@dataclass(frozen=True, slots=True)
class InstrumentChange(Change):
    """An instrument whose symbols are replaced; an empty list removes them."""

    row: Instrument
    symbols: Sequence[InstrumentSymbol]


@dataclass(frozen=True, slots=True)
class SeriesChange(Change):
    """A series with what has to be written of its assets and routes."""

    row: TimeSeries
    linked: Sequence[AssetName]
    #: ids of the links, not of the assets
    unlinked: Sequence[int]
    routes: Sequence[Route]
    removed_routes: Sequence[int]

    @property
    def only_relations(self) -> bool:
        """Whether the row itself stays as it is."""
        return all(change.name in ("assets", "routes") for change in self.fields)


@dataclass(slots=True)
class Changes:
    """The difference between a file and the catalog, and every fault of the file; with faults nothing is written."""

    faults: list[Fault] = field(default_factory=list)
    rows: list[Change] = field(default_factory=list)
    #: what is allowed, and hardly meant
    warnings: list[Fault] = field(default_factory=list)
    unchanged: Counter[str] = field(default_factory=Counter)
    #: ids of the assets that are there already
    asset_ids: dict[AssetName, int] = field(default_factory=dict)

    def of(self, model: type[Model]) -> Iterator[Any]:
        """Yield the changes of one model's rows."""
        return (change for change in self.rows if type(change.row) is model)

    def summary(self) -> list[str]:
        """Return one sentence for each kind of row."""
        added = Counter(change.kind for change in self.rows if change.added)
        changed = Counter(change.kind for change in self.rows if not change.added)
        return [
            f"{kind}: {added[kind]:,} added, {changed[kind]:,} changed, {self.unchanged[kind]:,} unchanged"
            for kind in dict.fromkeys([*(change.kind for change in self.rows), *self.unchanged])
        ]
