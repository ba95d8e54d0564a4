"""Compares series with the catalog. Rules are asked once for each combination of values, not for each series."""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

from catalog.conditions import check_condition
from catalog.errors import ConfigError
from catalog.exchange.changes import Changes
from catalog.exchange.changes import FieldChange
from catalog.exchange.changes import SeriesChange
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Fault
from catalog.exchange.entries import RouteEntry
from catalog.exchange.entries import SeriesEntry
from catalog.exchange.fields import amend
from catalog.exchange.fields import field_faults
from catalog.exchange.names import Names
from catalog.exchange.stored import Stored
from catalog.exchange.values import print_options
from catalog.exchange.values import print_transforms
from catalog.exchange.values import shown
from catalog.exchange.values import transforms_faults
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.models.fields import Faults
from catalog.models.series import NO_ROUTE
from catalog.models.series import check_series
from catalog.models.series import check_source
from catalog.schemas import SCHEMAS
from flows import registry

# texts with a greatest length; the other fields are checked by what reads them
_TEXTS: Final = ("extractor_type", "schema", "schedule", "timezone")
# more assets than this are told as a number and what is different
_LISTED: Final = 20


class SeriesComparison:
    """Compares the series of one file."""

    def __init__(self, stored: Stored, changes: Changes, names: Names) -> None:
        self.stored = stored
        self.changes = changes
        self.names = names
        self.told = {(fault.line, fault.where) for fault in changes.faults}
        self.source_names = {row.pk: row.name for row in stored.sources.values()}
        self.destination_names = {row.pk: row.name for row in stored.destinations.values()}
        self._rules: dict[tuple[Any, ...], Mapping[str, Sequence[str]]] = {}
        self._conditions: dict[tuple[str, str], Sequence[str]] = {}
        #: by source, extractor type and schema what the source cannot give
        self._given: dict[tuple[str, str, str], Mapping[str, Sequence[str]]] = {}
        self._sound_options: set[tuple[str, str]] = set()

    def compare(self, entries: Iterable[SeriesEntry]) -> None:
        """Note the faults of the series, and those that would be added or changed."""
        found = list(entries)
        if self.names.create_missing:
            # a symbol alone may name an asset that another line makes
            for entry in found:
                for reference in entry.assets:
                    if reference.name.asset_class:
                        self.names.asset(reference.name, reference.line)
        for entry in found:
            self._compare(entry)

    def _compare(self, entry: SeriesEntry) -> None:
        row = self.stored.series.get(entry.name) or TimeSeries(series_id=entry.name)
        added = row.pk is None
        fields = self._source(entry, row) + amend(row, self._values(entry, row))
        self._check(entry, row)
        before = self.stored.links.get(row.pk, {})
        after = self._assets(entry)
        had = set(before.values())
        linked = [name for name in after if name not in had]
        unlinked = [pk for pk, name in before.items() if name not in after]
        if linked or unlinked:
            removed = [before[pk] for pk in unlinked]
            fields.append(FieldChange("assets", _print(before.values(), removed), _print(after, linked)))
        routes, removed_routes = self._routes(entry, row, fields)
        if row.active and not entry.routes:
            self.changes.warnings.append(Fault(entry.line, "routes", f"series {shown(entry.name)} {NO_ROUTE}"))
        if fields or added:
            self.changes.rows.append(
                SeriesChange(
                    row,
                    entry.line,
                    added,
                    fields,
                    linked=linked,
                    unlinked=unlinked,
                    routes=routes,
                    removed_routes=removed_routes,
                )
            )
        else:
            self.changes.unchanged["series"] += 1

    def _source(self, entry: SeriesEntry, row: TimeSeries) -> list[FieldChange]:
        if entry.source is None:
            return []
        source = self.names.source(entry.source, entry.line_of("source"))
        if source is None:
            return []
        before = row.source_id
        row.source = source
        if before is not None and before == source.pk:
            return []
        return [FieldChange("source", self.source_names.get(before, ""), source.name)]

    def _values(self, entry: SeriesEntry, row: TimeSeries) -> Mapping[str, Any]:
        """Return the entry's values, the transforms in their one spelling."""
        if not entry.values.get("transforms"):
            return entry.values
        after = print_transforms(entry.values["transforms"], entry.values.get("schema", row.schema))
        # the same chains in another spelling are no change
        same = row.pk and print_transforms(row.transforms, row.schema) == after
        return {**entry.values, "transforms": row.transforms if same else after}

    def _check(self, entry: SeriesEntry, row: TimeSeries) -> None:
        """Note what `TimeSeries.clean()` would, without a query."""
        if entry.name:
            self._note(entry, "series_id", *field_faults(TimeSeries, "series_id", entry.name))
        for name, messages in self._rule_faults(row).items():
            self._note(entry, name, *messages)
        source = self.names.sources.get(entry.source or "")
        if source is None or source.vendor not in registry.extractors():
            return
        options = source.vendor, print_options(row.options)
        if options not in self._sound_options:
            try:
                row.read_options()
                self._sound_options.add(options)
            except ConfigError as error:
                self._note(entry, "options", *error.faults)
        given = source.name, row.extractor_type, row.schema
        if given not in self._given:
            faults = Faults()
            check_source(row, source, faults)
            self._given[given] = faults.by_field
        for name, messages in self._given[given].items():
            self._note(entry, name, *messages)

    def _rule_faults(self, row: TimeSeries) -> Mapping[str, Sequence[str]]:
        # an end is only ever compared with a start
        window = (row.start, row.end) if row.start and row.end else None
        key = (row.source_id, row.extractor_type, row.schema, row.schedule, row.timezone, row.transforms, window)
        if key not in self._rules:
            faults = Faults()
            check_series(row, faults)
            if "schema" in faults.by_field:
                # every chain is wrong for a schema that is none: tell what is wrong with it for bars
                faults.by_field["transforms"] = list(transforms_faults(row.transforms))
            # a text that is too long is not told again as an unknown name
            long = {name: found for name in _TEXTS if (found := [*field_faults(TimeSeries, name, getattr(row, name))])}
            self._rules[key] = faults.by_field | long
        return self._rules[key]

    def _assets(self, entry: SeriesEntry) -> Collection[AssetName]:
        found: dict[AssetName, int] = {}
        for reference in entry.assets:
            name = self.names.asset(reference.name, reference.line)
            if name in found:
                where = "" if found[name] == reference.line else f", first on line {found[name]}"
                self._fault(reference.line, "assets", f"asset {shown(str(name))} is named twice{where}")
            elif name:
                found[name] = reference.line
        return found.keys()

    def _routes(
        self, entry: SeriesEntry, row: TimeSeries, fields: list[FieldChange]
    ) -> tuple[Sequence[Route], Sequence[int]]:
        """Return the routes to be written and the ids of those to be removed; notes what differs in `fields`."""
        left = dict(self.stored.routes.get(row.pk, ()))
        before = ", ".join(sorted(_print_route(route, self.destination_names[pk]) for pk, route in left.items()))
        after, written = [], []
        wanted = self._wanted(entry)
        home = self._home(entry, wanted)
        for route, destination in wanted.values():
            kept = left.pop(destination.pk, None)
            route_row = kept or Route(series=row, destination=destination)
            changed = amend(route_row, {**route.values, "home": destination.name == home})
            self._check_route(route.line, route_row, destination, row.schema)
            if changed or not kept:
                written.append(route_row)
            after.append(_print_route(route_row, destination.name))
        removed = [route.pk for route in left.values()]
        if written or removed:
            fields.append(FieldChange("routes", before, ", ".join(sorted(after))))
        return written, removed

    def _wanted(self, entry: SeriesEntry) -> dict[str, tuple[RouteEntry, OutputDestination]]:
        wanted: dict[str, tuple[RouteEntry, OutputDestination]] = {}
        for route in entry.routes:
            destination = self.names.destination(route.destination, route.line)
            if destination is None:
                continue
            if destination.name in wanted:
                self._fault(route.line, "routes", f"destination {shown(destination.name)} is named twice")
            wanted.setdefault(destination.name, (route, destination))
        return wanted

    def _home(self, entry: SeriesEntry, wanted: Mapping[str, tuple[RouteEntry, OutputDestination]]) -> str | None:
        """Return the name of the home destination: the one that is said to be, or else the first readable one."""
        homes = [name for name, (route, _) in wanted.items() if route.home]
        if len(homes) > 1:
            self._fault(entry.line_of("routes"), "routes", f"{', '.join(homes)} are all home; accepted: one")
        if homes:
            return homes[0]
        free = (name for name, (route, row) in wanted.items() if route.home is None and row.readable)
        return next(free, None)

    def _check_route(self, line: int, route: Route, destination: OutputDestination, schema: str) -> None:
        """Note what `Route.clean()` would, which asks for rows that are saved."""
        kinds = registry.sinks()
        if route.home and destination.kind in kinds and not destination.readable:
            readable = ", ".join(name for name, kind in kinds.items() if kind.readable)
            self._fault(line, "home", f"kind {destination.kind!r} cannot be read back; accepted: {readable}")
        if route.condition and schema in SCHEMAS:
            for message in self._condition_faults(route.condition, schema):
                self._fault(line, "condition", message)

    def _condition_faults(self, condition: str, schema: str) -> Sequence[str]:
        key = condition, schema
        if key not in self._conditions:
            found = [*field_faults(Route, "condition", condition)]
            if not found:
                try:
                    check_condition(condition, schema)
                except ConfigError as error:
                    found += error.faults
            self._conditions[key] = found
        return self._conditions[key]

    def _note(self, entry: SeriesEntry, name: str, *messages: str) -> None:
        line = entry.line_of(name)
        if (line, name) not in self.told:
            for message in messages:
                self._fault(line, name, message)

    def _fault(self, line: int, where: str, message: str) -> None:
        self.changes.faults.append(Fault(line, where, message))


def _print(names: Collection[AssetName], different: Collection[AssetName]) -> str:
    if len(names) <= _LISTED:
        return "; ".join(sorted(map(str, names)))
    listed = sorted(map(str, different))[:_LISTED]
    return f"{len(names):,} assets" + (f", with {'; '.join(listed)}" if listed else "")


def _print_route(route: Route, destination: str) -> str:
    facts = [
        "home" if route.home else "",
        f"if {route.condition}" if route.condition else "",
        f"{route.batch_rows:,} rows a write" if route.batch_rows is not None else "",
        "" if route.required else "optional",
        "" if route.active else "inactive",
    ]
    told = ", ".join(filter(None, facts))
    return f"{destination} ({told})" if told else destination
