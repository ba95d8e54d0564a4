"""The transforms of a series: chains separated by ';', those that end in `| store` stored."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from typing import Final

from catalog.errors import ConfigError
from catalog.schemas import SCHEMAS
from transforms import spec

if TYPE_CHECKING:
    from transforms.base import BaseTransformer

STORE: Final = "store"


@dataclass(frozen=True, slots=True)
class SeriesChain:
    """One chain of a series: its canonical text, and whether its values are stored."""

    text: str
    stored: bool = False

    def __str__(self) -> str:
        return f"{self.text} | {STORE}" if self.stored else self.text


def parse_chains(text: str, schema: str) -> tuple[SeriesChain, ...]:
    """Read and check the transforms of a series of `schema`; ConfigError lists every fault of every chain."""
    # the transforms' library takes a second to import; reading a chain that was checked does not need it
    from transforms.registry import make

    chains, faults = _read(text)
    labels: dict[str, str] = {}
    for chain in chains:
        try:
            made = make(chain.text)
            if not schema.startswith("ohlcv-"):
                _check_without_bars(chain.text, made, schema)
        except ConfigError as error:
            faults.extend(error.faults)
            continue
        if made.inputs != 1:
            faults.append(f"transform {chain.text!r} takes {made.inputs} series; accepted here: those that take one")
        elif chain.stored and not made.labels:
            faults.append(f"transform {chain.text!r} gives no indicator, so '{STORE}' cannot follow it")
        for label in made.labels:
            if labels.setdefault(label, chain.text) != chain.text:
                faults.append(f"transforms {labels[label]!r} and {chain.text!r} both give {label}")
    if faults:
        raise ConfigError(*faults)
    return chains


@lru_cache(maxsize=4096)  # many series of a catalog share one text
def read_chains(text: str) -> tuple[SeriesChain, ...]:
    """Read transforms that were checked before; ConfigError when the text cannot be read at all."""
    chains, faults = _read(text)
    if faults:
        raise ConfigError(*faults)
    return chains


def print_chains(chains: tuple[SeriesChain, ...]) -> str:
    """Return the canonical text of a series' transforms."""
    return "; ".join(str(chain) for chain in chains)


def _check_without_bars(chain: str, made: "BaseTransformer", schema: str) -> None:
    """Raise ConfigError unless a chain makes bars of its own from the rows of a schema that has none."""
    declared = SCHEMAS.get(schema)
    if declared is None or not {"price", "size"} <= set(declared.arrow.names) or not made.warmup_timeframe:
        raise ConfigError(
            f"transform {chain!r}: schema {schema!r} has no bars; accepted: schemas ohlcv-*,"
            " and schemas of trades where the chain begins with resample, which makes bars"
        )
    made.output(declared.arrow)


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


def _read(text: str) -> tuple[tuple[SeriesChain, ...], list[str]]:
    chains: list[SeriesChain] = []
    faults: list[str] = []
    for part in _parts(text):
        try:
            specs = spec.parse(part)
        except ConfigError as error:
            faults.extend(error.faults)
            continue
        stored = len(specs) > 1 and specs[-1] == spec.TransformSpec(STORE)
        chain = SeriesChain(spec.text(specs[:-1] if stored else specs), stored)
        if any(other.text == chain.text for other in chains):
            faults.append(f"transform {chain.text!r} is given twice")
        chains.append(chain)
    return tuple(chains), faults
