"""Compares a file with the catalog: every fault of every entry, or what would be added and changed."""

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from django.db.models import Model

from catalog.exchange.changes import Change
from catalog.exchange.changes import Changes
from catalog.exchange.changes import FieldChange
from catalog.exchange.changes import InstrumentChange
from catalog.exchange.collector import collector_paused
from catalog.exchange.entries import AssetEntry
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Document
from catalog.exchange.entries import Entry
from catalog.exchange.entries import Fault
from catalog.exchange.entries import InstrumentEntry
from catalog.exchange.fields import amend
from catalog.exchange.fields import entry_faults
from catalog.exchange.fields import field_faults
from catalog.exchange.intervals import Claim
from catalog.exchange.intervals import overlaps
from catalog.exchange.intervals import print_intervals
from catalog.exchange.intervals import sort_key
from catalog.exchange.names import Names
from catalog.exchange.series_differences import SeriesComparison
from catalog.exchange.stored import Interval
from catalog.exchange.stored import Stored
from catalog.exchange.stored import read_stored
from catalog.exchange.values import shown
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination

_Entry = TypeVar("_Entry", bound=Entry)


@collector_paused()
def compare(document: Document, *, create_missing: bool = False, lock: bool = False) -> Changes:
    """Return every fault of a file, those it was read with included, and what it would add and change.

    With `create_missing`, assets that series name with their class are added, and sources and destinations
    that have the name of a vendor or kind. Rows that the file does not name are never touched.
    """
    stored = read_stored(document, lock=lock)
    changes = Changes([*document.faults], asset_ids=stored.asset_ids)
    names = Names(stored, changes, create_missing=create_missing)
    comparison = _Comparison(document, stored, changes, names)
    comparison.sources()
    comparison.destinations()
    comparison.assets()
    comparison.instruments()
    SeriesComparison(stored, changes, names).compare(once("series_id", document.series, changes))
    named = (replace(fault, where=document.columns.get(fault.where, fault.where)) for fault in changes.faults)
    changes.faults = sorted(dict.fromkeys(named))
    return changes


def once(key: str, entries: Sequence[_Entry], changes: Changes) -> Iterator[_Entry]:
    """Yield the entries, noting those whose name an earlier one has."""
    lines: dict[str, int] = {}
    for entry in entries:
        if entry.name and entry.name in lines:
            message = f"{shown(entry.name)} is given twice, first on line {lines[entry.name]}"
            changes.faults.append(Fault(entry.line_of(key), key, message))
            continue
        lines[entry.name] = entry.line
        yield entry


class _Comparison:
    """Compares the rows that series refer to: all but the series themselves."""

    def __init__(self, document: Document, stored: Stored, changes: Changes, names: Names) -> None:
        self.document = document
        self.stored = stored
        self.changes = changes
        self.names = names
        # a value that could not be read is told once, not again for the default that stands in for it
        self.told = {(fault.line, fault.where) for fault in document.faults}
        self.rows: dict[AssetName, Asset] = {}

    def sources(self) -> None:
        for entry in once("name", self.document.sources, self.changes):
            row = self.stored.sources.get(entry.name) or DataSource(name=entry.name)
            self._compare(entry, row)
            self.names.sources[entry.name] = row

    def destinations(self) -> None:
        for entry in once("name", self.document.destinations, self.changes):
            row = self.stored.destinations.get(entry.name) or OutputDestination(name=entry.name)
            self._compare(entry, row)
            self.names.destinations[entry.name] = row

    def assets(self) -> None:
        for entry in once("symbol", self.document.assets, self.changes):
            row = self.stored.assets.get(entry.asset) or Asset(
                asset_class=entry.asset.asset_class, symbol=entry.asset.symbol
            )
            # a stored one is asked with queries whether it was renamed, which no import does
            self._compare(entry, row, clean=row.pk is None)
            self.names.add_asset(entry.asset)
            self.rows[entry.asset] = row

    def instruments(self) -> None:
        claimed: dict[tuple[str, AssetName], list[Claim]] = {}
        for entry in self.document.assets:
            for instrument in entry.instruments:
                if source := self.names.source(instrument.source, instrument.line):
                    claimed[source.name, entry.asset] = self._instrument(entry, instrument, source)
        claims: dict[str, list[Claim]] = {}
        for (name, _), added in claimed.items():
            claims.setdefault(name, []).extend(added)
        for (name, asset), stored in self.stored.intervals.items():
            if name in claims and (name, asset) not in claimed:
                claims[name] += [Claim(asset, interval) for interval in stored]
        for name, rivals in claims.items():
            self.changes.faults += overlaps(name, rivals)

    def _instrument(self, entry: AssetEntry, instrument: InstrumentEntry, source: DataSource) -> list[Claim]:
        """Compare one instrument; returns the intervals it will have."""
        for symbol in instrument.symbols:
            for message in field_faults(InstrumentSymbol, "symbol", symbol.symbol):
                self.changes.faults.append(Fault(symbol.line, "symbol", message))
        key = instrument.source, entry.asset
        row = Instrument(pk=self.stored.instruments.get(key), source=source, asset=self.rows[entry.asset])
        before = sorted(self.stored.intervals.get(key, ()), key=sort_key)
        claims = [
            Claim(entry.asset, Interval(symbol.symbol, symbol.start, symbol.end), symbol.line)
            for symbol in instrument.symbols
        ]
        after = sorted((claim.interval for claim in claims), key=sort_key)
        # one without symbols goes by the symbol of its asset
        if before == after and row.pk is not None:
            self.changes.unchanged["instrument"] += 1
        else:
            symbols = [InstrumentSymbol(instrument=row, **interval._asdict()) for interval in after]
            fields = (
                [FieldChange("symbols", print_intervals(before), print_intervals(after))] if before != after else []
            )
            change = InstrumentChange(row, instrument.line, row.pk is None, fields, symbols=symbols)
            self.changes.rows.append(change)
        return claims

    def _compare(self, entry: Entry, row: Model, *, clean: bool = True) -> None:
        """Amend a row to what its entry says, and check it."""
        added = row.pk is None
        fields = amend(row, entry.values)
        self.changes.faults += [
            fault for fault in entry_faults(entry, row, clean=clean) if (fault.line, fault.where) not in self.told
        ]
        if added or fields:
            self.changes.rows.append(Change(row, entry.line, added, fields))
        else:
            self.changes.unchanged[str(row._meta.verbose_name)] += 1
