"""What an exchange file says, line by line, before the catalog is asked: plain frozen data."""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import Self
from urllib.parse import unquote

from catalog.errors import ConfigError
from catalog.exchange.values import shown
from catalog.keys import encode

_HALF_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something wrong in a file: its physical line (from 1), which value, and what is accepted."""

    line: int
    where: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.where}: {self.message}" if self.where else f"line {self.line}: {self.message}"


class AssetName(NamedTuple):
    """`asset_class:symbol`, as in keys; without a class where a file gives the symbol alone."""

    asset_class: str
    symbol: str

    def __str__(self) -> str:
        symbol = encode(self.symbol)
        return f"{encode(self.asset_class)}:{symbol}" if self.asset_class else symbol

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `asset_class:symbol` or a bare symbol, each part percent-encoded where needed."""
        asset_class, colon, symbol = text.rpartition(":")
        accepted = "accepted: asset_class:symbol or a symbol, with ':', ';' and '%' in them as %3A, %3B and %25"
        if ":" in asset_class or not symbol or bool(colon) != bool(asset_class):
            raise ConfigError(f"{shown(text)} names no asset; {accepted}")
        if "%" not in text:
            return cls(asset_class, symbol)
        if _HALF_ESCAPE.search(text):
            raise ConfigError(f"{shown(text)} has a '%' that begins no escape; {accepted}")
        try:
            return cls(unquote(asset_class, errors="strict"), unquote(symbol, errors="strict"))
        except UnicodeDecodeError:
            raise ConfigError(f"{shown(text)} is not percent-encoded UTF-8; {accepted}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a file. `values` holds fields by name; a field that is not in it keeps what it has."""

    line: int
    name: str
    values: Mapping[str, Any]
    #: lines of single values, where they have their own
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, name: str) -> int:
        """Return the line where a value stands."""
        return self.lines.get(name, self.line)


@dataclass(frozen=True, slots=True)
class SymbolEntry:
    """What a source calls an instrument in `[start, end)`."""

    line: int
    symbol: str
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class InstrumentEntry:
    """All the symbols that a source has for an asset."""

    line: int
    source: str
    symbols: Sequence[SymbolEntry]


@dataclass(frozen=True, slots=True)
class AssetEntry(Entry):
    """An asset, and the instruments that the file names."""

    asset: AssetName = field(kw_only=True)
    instruments: Sequence[InstrumentEntry] = ()


@dataclass(frozen=True, slots=True)
class AssetReference:
    """An asset that a series names."""

    line: int
    name: AssetName


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A route of a series. Where `home` is None, the first readable one becomes home unless another says it is."""

    line: int
    destination: str
    home: bool | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeriesEntry(Entry):
    """A series with its source (None where it could not be read), assets and routes."""

    source: str | None = None
    assets: Sequence[AssetReference] = ()
    routes: Sequence[RouteEntry] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: its entries, and the faults that need no catalog to be seen."""

    sources: Sequence[Entry] = ()
    assets: Sequence[AssetEntry] = ()
    destinations: Sequence[Entry] = ()
    series: Sequence[SeriesEntry] = ()
    faults: Sequence[Fault] = ()
    #: what the file calls values, where that is not the name of the field
    columns: Mapping[str, str] = field(default_factory=dict)
