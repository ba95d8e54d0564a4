"""Finds the sources, destinations and assets that a file names, and makes those that may be made."""

from collections.abc import Sequence
from typing import TypeVar

from django.core.exceptions import ValidationError

from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import unknown
from catalog.exchange.changes import Change
from catalog.exchange.changes import Changes
from catalog.exchange.changes import FieldChange
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Fault
from catalog.exchange.fields import field_faults
from catalog.exchange.stored import Stored
from catalog.exchange.values import shown
from catalog.exchange.values import unknown_name
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from flows import registry

_Row = TypeVar("_Row", DataSource, OutputDestination)


class Names:
    """The names there will be after the import. What cannot be found is noted as a fault of the line."""

    def __init__(self, stored: Stored, changes: Changes, *, create_missing: bool) -> None:
        self.sources = dict(stored.sources)
        self.destinations = dict(stored.destinations)
        self.changes = changes
        self.create_missing = create_missing
        self.classes: dict[str, set[str]] = {}
        for name in stored.asset_ids:
            self.add_asset(name)
        # a name that is wrong in every line is looked up once
        self._refused: dict[object, Sequence[str]] = {}

    def add_asset(self, name: AssetName) -> None:
        """Note an asset that is there, or will be."""
        self.classes.setdefault(name.symbol, set()).add(name.asset_class)

    def source(self, name: str, line: int) -> DataSource | None:
        """Return the source of that name; makes it where a vendor has the same name."""
        if name in self.sources:
            return self.sources[name]
        row = DataSource(name=name, vendor=name)
        if self._refuses("source", name, line, row, name in registry.extractors(), self.sources):
            return None
        self.changes.rows.append(Change(row, line, True, [FieldChange("vendor", "", name)]))
        return self.sources.setdefault(name, row)

    def destination(self, name: str, line: int) -> OutputDestination | None:
        """Return the destination of that name; makes it where a kind has the same name."""
        if name in self.destinations:
            return self.destinations[name]
        row = OutputDestination(name=name, kind=name)
        if self._refuses("destination", name, line, row, name in registry.sinks(), self.destinations):
            return None
        self.changes.rows.append(Change(row, line, True, [FieldChange("kind", "", name)]))
        return self.destinations.setdefault(name, row)

    def asset(self, name: AssetName, line: int) -> AssetName | None:
        """Return the asset's full name; makes it where its class is given."""
        classes = self.classes.get(name.symbol, set())
        if not name.asset_class and len(classes) == 1:
            return AssetName(next(iter(classes)), name.symbol)
        if name.asset_class in classes:
            return name
        if name not in self._refused:
            self._refused[name] = self._asset_faults(name, classes)
        if self._note(name, line, "assets"):
            return None
        row = Asset(asset_class=name.asset_class, symbol=name.symbol)
        self.changes.rows.append(Change(row, line, True, []))
        self.add_asset(name)
        return name

    def _asset_faults(self, name: AssetName, classes: set[str]) -> Sequence[str]:
        if name.asset_class in ASSET_CLASSES and self.create_missing:
            return list(field_faults(Asset, "symbol", name.symbol))
        if name.asset_class and name.asset_class not in ASSET_CLASSES:
            return [unknown("asset class", name.asset_class[:100], ASSET_CLASSES)]
        text = shown(str(name))
        have = ", ".join(sorted(str(AssetName(asset_class, name.symbol)) for asset_class in classes))
        if name.asset_class:
            return [f"asset {text} is unknown; have: {have or 'none of that symbol'}; missing ones are made on request"]
        if have:
            return [f"{text} is the symbol of several assets; accepted: {have}"]
        return [f"asset {text} is unknown; accepted: asset_class:symbol, or the symbol of an asset that exists"]

    def _refuses(self, thing: str, name: str, line: int, row: _Row, makeable: bool, have: dict[str, _Row]) -> bool:
        if (thing, name) not in self._refused:
            if not self.create_missing or not makeable:
                advice = f"; one can be made where it has the name of a {_PLUGIN[thing]}" if self.create_missing else ""
                self._refused[thing, name] = [unknown_name(thing, name, have, advice)]
            else:
                self._refused[thing, name] = [
                    f"{thing} {shown(name)} cannot be made: {fault}" for fault in _faults(row)
                ]
        return self._note((thing, name), line, thing)

    def _note(self, key: object, line: int, where: str) -> bool:
        self.changes.faults += [Fault(line, where, message) for message in self._refused[key]]
        return bool(self._refused[key])


_PLUGIN = {"source": "vendor", "destination": "kind"}


def _faults(row: DataSource | OutputDestination) -> Sequence[str]:
    try:
        row.clean_fields()
        row.clean()
    except ValidationError as error:
        return error.messages
    return []
