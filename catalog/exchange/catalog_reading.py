"""Reads the catalog from one YAML file: sources, assets with their symbols, destinations, series with routes.

A row that the file does not name is kept. A row that it names becomes what it says: what an entry leaves
out has its default. Instruments are rows of their own, named below their asset by source.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final

from django.db.models import Model

from catalog.errors import ConfigError
from catalog.errors import unknown
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
from catalog.exchange.values import check_options
from catalog.exchange.values import read_duration
from catalog.exchange.values import read_moment
from catalog.exchange.values import shown
from catalog.exchange.values import text_fault
from catalog.exchange.yaml_nodes import Listing
from catalog.exchange.yaml_nodes import Node
from catalog.exchange.yaml_nodes import Scalar
from catalog.exchange.yaml_nodes import Section
from catalog.exchange.yaml_nodes import compose
from catalog.exchange.yaml_nodes import plain_value
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

VERSION: Final = 1
#: nodes take many times the room of their text
MAX_BYTES: Final = 64 << 20

_MAX_COUNT: Final = 2**31 - 1


def _text(node: Node) -> str:
    if not isinstance(node, Scalar):
        raise ConfigError("a list or mapping stands where text is accepted")
    if fault := text_fault(node.text):
        raise ConfigError(f"{shown(node.text)} {fault}")
    return node.text


def _flag(node: Node) -> bool:
    value = plain_value(node)
    if not isinstance(value, bool):
        raise ConfigError(f"{shown(value)} is neither true nor false; accepted: true, false")
    return value


def _count(node: Node) -> int:
    value = plain_value(node)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
        raise ConfigError(f"{shown(value)} is no number of rows; accepted: whole numbers up to {_MAX_COUNT:,}")
    return value


def _options(node: Node) -> dict[str, Any]:
    if not isinstance(node, Section):
        raise ConfigError("options are no mapping; accepted: name: value")
    options: dict[str, Any] = plain_value(node)
    check_options(options)
    return options


def _moment(node: Node) -> Any:
    return read_moment(_text(node))


@dataclass(frozen=True, slots=True)
class Shape:
    """What an entry may say: its keys with their readers, those it must have, and lists read by themselves."""

    thing: str
    model: type[Model]
    required: Sequence[str]
    keys: Mapping[str, Callable[[Node], Any]]
    lists: Sequence[str] = ()


SOURCE: Final = Shape(
    "source",
    DataSource,
    ("name", "vendor"),
    {
        "name": _text,
        "vendor": _text,
        "options": _options,
        "env_prefix": _text,
        "settled_after": lambda node: read_duration(_text(node)),
        "active": _flag,
    },
)
ASSET: Final = Shape(
    "asset",
    Asset,
    ("asset_class", "symbol"),
    {
        "asset_class": _text,
        "symbol": _text,
        "name": _text,
        "mic": _text,
        "currency": _text,
        "calendar": _text,
        "figi": _text,
        "isin": _text,
    },
    ("instruments",),
)
SYMBOL: Final = Shape("symbol", InstrumentSymbol, ("symbol",), {"symbol": _text, "start": _moment, "end": _moment})
DESTINATION: Final = Shape(
    "destination",
    OutputDestination,
    ("name", "kind"),
    {"name": _text, "kind": _text, "options": _options, "env_prefix": _text, "active": _flag},
)
SERIES: Final = Shape(
    "series",
    TimeSeries,
    ("series_id", "source", "schema", "assets"),
    {
        "series_id": _text,
        "source": _text,
        "extractor_type": _text,
        "schema": _text,
        "transforms": _text,
        "schedule": _text,
        "timezone": _text,
        "start": _moment,
        "end": _moment,
        "options": _options,
        "active": _flag,
    },
    ("assets", "routes"),
)
ROUTE: Final = Shape(
    "route",
    Route,
    ("destination",),
    {
        "destination": _text,
        "home": _flag,
        "condition": _text,
        "batch_rows": _count,
        "required": _flag,
        "active": _flag,
    },
)
SECTIONS: Final = ("sources", "assets", "destinations", "series")


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
    """What one entry says: the values that could be read, and the line of each key."""

    line: int
    values: dict[str, Any]
    lines: dict[str, int]
    lists: dict[str, Listing]


class _Reader:
    """Turns the nodes of one file into entries, noting faults."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def document(self, root: Section) -> Document:
        for name, (line, _) in root.items.items():
            if name not in ("version", *SECTIONS):
                self._note(line, "", unknown("section", name[:100], ("version", *SECTIONS)))
        line, version = root.items.get("version", (root.line, None))
        if version is None:
            self._note(line, "", f"'version' is required; accepted: version: {VERSION}")
        elif not isinstance(version, Scalar) or version.text != str(VERSION):
            # what follows may mean something else
            self._note(line, "", f"this version is unknown; accepted: version: {VERSION}")
            return Document(faults=self.faults)
        return Document(
            sources=self._entries(root, "sources", self._source),
            assets=self._entries(root, "assets", self._asset),
            destinations=self._entries(root, "destinations", self._destination),
            series=self._entries(root, "series", self._series),
            faults=self.faults,
        )

    def _entries[T](self, root: Section, name: str, read: Callable[[Node], T | None]) -> list[T]:
        line, node = root.items.get(name, (0, None))
        entries = (read(item) for item in self._list(line, name, node))
        return [entry for entry in entries if entry is not None]

    def _source(self, node: Node) -> Entry | None:
        found = self._fields(node, SOURCE)
        return Entry(found.line, found.values["name"], found.values, found.lines) if found else None

    def _destination(self, node: Node) -> Entry | None:
        found = self._fields(node, DESTINATION)
        return Entry(found.line, found.values["name"], found.values, found.lines) if found else None
