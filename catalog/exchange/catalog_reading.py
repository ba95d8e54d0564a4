"""Reads the catalog from one YAML file: sources, assets with their symbols, destinations, series with routes.

A row that the file does not name is kept. A row that it names becomes what it says: what an entry leaves
out has its default. Instruments are rows of their own, named below their asset by source.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Final
from typing import TypeVar

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.exchange.collector import collector_paused
from catalog.exchange.content import decode
from catalog.exchange.entries import AssetEntry
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import AssetReference
from catalog.exchange.entries import Document
from catalog.exchange.entries import Entry
from catalog.exchange.entries import Fault
from catalog.exchange.entries import InstrumentEntry
from catalog.exchange.entries import RouteEntry
from catalog.exchange.entries import SeriesEntry
from catalog.exchange.entries import SymbolEntry
from catalog.exchange.shapes import ASSET
from catalog.exchange.shapes import DESTINATION
from catalog.exchange.shapes import ROUTE
from catalog.exchange.shapes import SECTIONS
from catalog.exchange.shapes import SERIES
from catalog.exchange.shapes import SOURCE
from catalog.exchange.shapes import SYMBOL
from catalog.exchange.shapes import VERSION
from catalog.exchange.shapes import Shape
from catalog.exchange.shapes import default
from catalog.exchange.shapes import read_text
from catalog.exchange.values import print_moment
from catalog.exchange.yaml_nodes import Listing
from catalog.exchange.yaml_nodes import Node
from catalog.exchange.yaml_nodes import Scalar
from catalog.exchange.yaml_nodes import Section
from catalog.exchange.yaml_nodes import compose

#: nodes take many times the room of their text
MAX_BYTES: Final = 64 << 20

_T = TypeVar("_T")


@collector_paused()
def read_catalog(content: bytes | str) -> Document:
    """Read a catalog file; the document carries every fault that can be seen without the catalog."""
    text = decode(content, MAX_BYTES)
    if isinstance(text, Fault):
        return Document(faults=(text,))
    faults: list[Fault] = []
    root = compose(text, faults)
    if isinstance(root, Section):
        return _Reader(faults).document(root)
    if not faults:
        faults.append(Fault(1, "", f"this is no catalog; accepted: version: {VERSION}, then {', '.join(SECTIONS)}"))
    return Document(faults=faults)


@dataclass(frozen=True, slots=True)
class _Fields:
    """What one entry says: a value for every key that has no fault, and the lines of the keys it gives."""

    line: int
    values: dict[str, Any]
    lines: dict[str, int]


class _Reader:
    """Turns the nodes of one file into entries, noting faults."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def document(self, root: Section) -> Document:
        for name, (line, _) in root.items.items():
            if name not in ("version", *SECTIONS):
                self._note(line, "", unknown("section", name[:100], ("version", *SECTIONS)))
        line, version = root.items.get("version", (root.line, None))
        if not isinstance(version, Scalar) or version.text != str(VERSION):
            # under another version everything that follows may mean something else
            self._note(line, "version", f"the version is missing or unknown; accepted: version: {VERSION}")
            return Document(faults=self.faults)
        return Document(
            sources=self._entries(root, "sources", self._source),
            assets=self._entries(root, "assets", self._asset),
            destinations=self._entries(root, "destinations", self._destination),
            series=self._entries(root, "series", self._series),
            faults=self.faults,
        )

    def _source(self, node: Node) -> Entry | None:
        found = self._fields(node, SOURCE)
        return Entry(found.line, found.values["name"], found.values, found.lines) if found else None

    def _asset(self, node: Node) -> AssetEntry | None:
        found = self._fields(node, ASSET)
        if not found:
            return None
        assert isinstance(node, Section)
        name = AssetName(found.values["asset_class"], found.values["symbol"])
        return AssetEntry(
            found.line, str(name), found.values, found.lines, asset=name, instruments=self._instruments(node)
        )

    def _instruments(self, asset: Section) -> list[InstrumentEntry]:
        line, node = asset.items.get("instruments", (asset.line, None))
        if isinstance(node, Section):
            return [
                InstrumentEntry(line, source, self._entries(node, source, self._symbol))
                for source, (line, _) in node.items.items()
            ]
        if node is not None and not _is_null(node):
            self._note(line, "instruments", "they are no mapping; accepted: names of sources, each with its symbols")
        return []

    def _symbol(self, node: Node) -> SymbolEntry | None:
        found = self._fields(node, SYMBOL)
        if not found:
            return None
        entry = SymbolEntry(found.line, found.values["symbol"], found.values.get("start"), found.values.get("end"))
        if entry.start and entry.end and entry.start >= entry.end:
            start, end = print_moment(entry.start), print_moment(entry.end)
            self._note(found.lines["end"], "end", f"end {end} is not after start {start}")
            return None
        return entry

    def _destination(self, node: Node) -> Entry | None:
        found = self._fields(node, DESTINATION)
        return Entry(found.line, found.values["name"], found.values, found.lines) if found else None

    def _series(self, node: Node) -> SeriesEntry | None:
        found = self._fields(node, SERIES)
        if not found:
            return None
        assert isinstance(node, Section)
        assets = self._entries(node, "assets", self._reference)
        if "assets" not in node.items or (not assets and _is_empty(node.items["assets"][1])):
            self._note(
                found.lines.get("assets", found.line),
                "assets",
                "there are none; accepted: a list of asset_class:symbol",
            )
        return SeriesEntry(
            found.line,
            found.values.pop("series_id"),
            found.values,
            found.lines,
            source=found.values.pop("source", None),
            assets=assets,
            routes=self._entries(node, "routes", self._route),
        )

    def _reference(self, node: Node) -> AssetReference | None:
        try:
            return AssetReference(node.line, AssetName.parse(read_text(node)))
        except ConfigError as error:
            self._note(node.line, "assets", *error.faults)
        return None

    def _route(self, node: Node) -> RouteEntry | None:
        found = self._fields(node, ROUTE)
        if not found:
            return None
        home = found.values.pop("home", None)
        return RouteEntry(
            found.line, found.values.pop("destination"), home if "home" in found.lines else None, found.values
        )

    def _entries(self, section: Section, name: str, read: Callable[[Node], _T | None]) -> list[_T]:
        """Return what `read` makes of each item of a list; nothing where the key is not there or empty."""
        line, node = section.items.get(name, (section.line, None))
        if isinstance(node, Listing):
            return [entry for entry in map(read, node.items) if entry is not None]
        if node is not None and not _is_null(node):
            self._note(line, name, "it is no list; accepted: lines that begin with '- '")
        return []

    def _fields(self, node: Node, shape: Shape) -> _Fields | None:
        """Read the keys of an entry, with defaults for what it leaves out; None where it has no name."""
        accepted = (*shape.keys, *shape.lists)
        if not isinstance(node, Section):
            self._note(node.line, "", f"this is no {shape.thing}; accepted: a mapping of {', '.join(accepted)}")
            return None
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, (line, item) in node.items.items():
            if name not in accepted:
                self._note(line, "", unknown(f"key of a {shape.thing}", name[:100], accepted))
            elif not _is_null(item):
                lines[name] = line
                if name in shape.keys:
                    try:
                        values[name] = shape.keys[name](item)
                    except ConfigError as error:
                        self._note(line, name, *error.faults)
        for name in (*shape.identity, *shape.required):
            if name not in lines or values.get(name) == "":
                self._note(lines.get(name, node.line), name, f"it is missing; every {shape.thing} needs it")
                values.pop(name, None)
        if any(name not in values for name in shape.identity):
            return None
        for name in shape.keys:
            if name not in lines and name not in shape.required:
                values[name] = default(shape.model, name)
        return _Fields(node.line, values, lines)

    def _note(self, line: int, where: str, *messages: str) -> None:
        self.faults += [Fault(line, where, message) for message in messages]


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _is_empty(node: Node) -> bool:
    return _is_null(node) or (isinstance(node, Listing) and not node.items)
