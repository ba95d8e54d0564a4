"""The transforms of a series: chains separated by ';', those that end in `| store` stored."""

from dataclasses import dataclass
from typing import Final

from catalog.errors import ConfigError
from transforms import spec

STORE: Final = "store"


@dataclass(frozen=True, slots=True)
class SeriesChain:
    """One chain of a series: its canonical text, and whether its values are stored."""

    text: str
    stored: bool = False

    def __str__(self) -> str:
        return f"{self.text} | {STORE}" if self.stored else self.text


def parse_chains(text: str, schema: str) -> tuple[SeriesChain, ...]:
    """Read the transforms of a series of `schema`; ConfigError lists every fault of every chain."""
    chains: list[SeriesChain] = []
    faults: list[str] = []
    for part in _parts(text):
        try:
            chain = _parse(part, schema)
        except ConfigError as error:
            faults.extend(error.faults)
            continue
        if any(other.text == chain.text for other in chains):
            faults.append(f"transform {chain.text!r} is given twice")
        chains.append(chain)
    if faults:
        raise ConfigError(*faults)
    return tuple(chains)


def print_chains(chains: tuple[SeriesChain, ...]) -> str:
    """Return the canonical text of a series' transforms."""
    return "; ".join(str(chain) for chain in chains)


def _parts(text: str) -> list[str]:
    parts, current, quote = [], "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in ";\n":
            parts.append(current)
            current = ""
            continue
        current += character
    return [part.strip() for part in [*parts, current] if part.strip()]


def _parse(part: str, schema: str) -> SeriesChain:
    from transforms.registry import make

    specs = spec.parse(part)
    stored = len(specs) > 1 and specs[-1] == spec.TransformSpec(STORE)
    if stored:
        specs = specs[:-1]
    text = spec.text(specs)
    if not schema.startswith("ohlcv-"):
        raise ConfigError(f"transform {text!r}: series of schema {schema!r} have no bars; accepted: schemas ohlcv-*")
    make(text)
    return SeriesChain(text, stored)
