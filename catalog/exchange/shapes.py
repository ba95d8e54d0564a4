"""What the entries of a catalog file may say: their keys, and how each value is read."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from typing import Final

from django.db.models import Field
from django.db.models import Model

from catalog.errors import ConfigError
from catalog.exchange.values import check_options
from catalog.exchange.values import read_duration
from catalog.exchange.values import read_moment
from catalog.exchange.values import shown
from catalog.exchange.values import text_fault
from catalog.exchange.yaml_nodes import Node
from catalog.exchange.yaml_nodes import Scalar
from catalog.exchange.yaml_nodes import Section
from catalog.exchange.yaml_nodes import plain_value
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

VERSION: Final = 1
SECTIONS: Final = ("sources", "assets", "destinations", "series")

_MAX_COUNT: Final = 2**31 - 1


def read_text(node: Node) -> str:
    """Return a text; plain words that YAML takes for numbers or truth are text here (the MIC is NO, not false)."""
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


def _moment(node: Node) -> datetime:
    return read_moment(read_text(node))


@cache
def default(model: type[Model], name: str) -> Any:
    """Return what a field has where an entry leaves it out."""
    field = model._meta.get_field(name)
    assert isinstance(field, Field)
    return field.get_default()


@dataclass(frozen=True, slots=True)
class Shape:
    """What an entry may say: keys with their readers, those that name it, others it needs, and its lists."""

    thing: str
    model: type[Model]
    identity: Sequence[str]
    keys: Mapping[str, Callable[[Node], Any]]
    required: Sequence[str] = ()
    lists: Sequence[str] = ()


SOURCE: Final = Shape(
    "source",
    DataSource,
    ("name",),
    {
        "name": read_text,
        "vendor": read_text,
        "options": _options,
        "env_prefix": read_text,
        "settled_after": lambda node: read_duration(read_text(node)),
        "active": _flag,
    },
    required=("vendor",),
)
ASSET: Final = Shape(
    "asset",
    Asset,
    ("asset_class", "symbol"),
    {
        "asset_class": read_text,
        "symbol": read_text,
        "name": read_text,
        "mic": read_text,
        "currency": read_text,
        "calendar": read_text,
        "figi": read_text,
        "isin": read_text,
    },
    lists=("instruments",),
)
SYMBOL: Final = Shape("symbol", InstrumentSymbol, ("symbol",), {"symbol": read_text, "start": _moment, "end": _moment})
DESTINATION: Final = Shape(
    "destination",
    OutputDestination,
    ("name",),
    {"name": read_text, "kind": read_text, "options": _options, "env_prefix": read_text, "active": _flag},
    required=("kind",),
)
SERIES: Final = Shape(
    "series",
    TimeSeries,
    ("series_id",),
    {
        "series_id": read_text,
        "source": read_text,
        "extractor_type": read_text,
        "schema": read_text,
        "transforms": read_text,
        "schedule": read_text,
        "timezone": read_text,
        "start": _moment,
        "end": _moment,
        "options": _options,
        "active": _flag,
    },
    required=("source", "schema"),
    lists=("assets", "routes"),
)
ROUTE: Final = Shape(
    "route",
    Route,
    ("destination",),
    {
        "destination": read_text,
        "home": _flag,
        "condition": read_text,
        "batch_rows": _count,
        "required": _flag,
        "active": _flag,
    },
)
