"""Makes and parses the key that names one (instrument, schema) everywhere.

`source:asset_class:symbol:schema`, each part percent-encoded, for example
`databento:future:ESM4:ohlcv-1m`. The first three parts alone name an instrument. The same text is
the Redis key, the folder of a file destination, the argument of a command and the word in a log.
"""

import re
from dataclasses import dataclass
from typing import Final
from typing import Self
from urllib.parse import quote
from urllib.parse import unquote

from catalog.errors import ConfigError

# '.' alone or doubled would climb out of a folder; quote() leaves dots, so those two are spelled out
_DOTS: Final = {".": "%2E", "..": "%2E%2E"}
_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9_.~-]|%[0-9A-F]{2})+")


def encode(part: str) -> str:
    """Return `part` with everything but unreserved characters percent-encoded (UTF-8)."""
    return _DOTS.get(part) or quote(part, safe="")


@dataclass(frozen=True, slots=True, order=True)
class InstrumentName:
    """The first three parts of a key: an asset as one source knows it."""

    source: str
    asset_class: str
    symbol: str

    def __str__(self) -> str:
        return ":".join(encode(part) for part in (self.source, self.asset_class, self.symbol))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `source:asset_class:symbol`; raises ConfigError when it is not that."""
        return cls(*_split(text, ("source", "asset_class", "symbol")))

    def folders(self) -> tuple[str, str, str]:
        """Return the three parts, each safe as a folder name."""
        return encode(self.source), encode(self.asset_class), encode(self.symbol)


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A full key: an instrument and the schema of its records."""

    instrument: InstrumentName
    schema: str

    def __str__(self) -> str:
        return f"{self.instrument}:{encode(self.schema)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `source:asset_class:symbol:schema`; raises ConfigError when it is not that."""
        source, asset_class, symbol, schema = _split(text, ("source", "asset_class", "symbol", "schema"))
        return cls(InstrumentName(source, asset_class, symbol), schema)


def _split(text: str, names: tuple[str, ...]) -> list[str]:
    parts = text.split(":")
    shape = ":".join(names)
    if len(parts) != len(names):
        raise ConfigError(f"key {text!r} has {len(parts)} parts; accepted: {shape}")
    decoded = [_decode(part) for part in parts]
    wrong = [
        f"key {text!r}: {name} {part!r} is not percent-encoded text; accepted: {shape}"
        for name, part, plain in zip(names, parts, decoded, strict=True)
        if plain is None
    ]
    if wrong:
        raise ConfigError(*wrong)
    return [plain for plain in decoded if plain is not None]


def _decode(part: str) -> str | None:
    """Return the text a part encodes; None where it encodes none."""
    if not _ENCODED.fullmatch(part):
        return None
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        return None
