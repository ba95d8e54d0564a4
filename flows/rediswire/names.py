"""Names in Redis: of what is kept for a key, and of a stream's entries."""

from dataclasses import dataclass
from typing import Final
from typing import Self

import numpy as np

from catalog.schemas import Schema

#: what names begin with, where a destination does not say
PREFIX: Final = "dataflow:"
#: rows of one time that a stream can hold are one fewer
COUNTERS: Final = 1_000_000
_NS_PER_MS: Final = 1_000_000
_NS_PER_US: Final = 1_000


@dataclass(frozen=True, slots=True)
class Names:
    """The Redis keys of one (instrument, schema).

    The three suffixes make five parts of four, so none can be taken for the stream of another key.
    """

    stream: str
    last: str
    range: str
    channel: str

    @classmethod
    def of(cls, key: str, prefix: str = PREFIX) -> Self:
        """Return the names for `source:asset_class:symbol:schema`."""
        name = prefix + key
        return cls(name, f"{name}:last", f"{name}:range", name)


def key_text(instrument: str, schema: Schema) -> str:
    """Return the key of an instrument's text and a schema (schema names need no encoding)."""
    return f"{instrument}:{schema.name}"


def entry_id(time: int, counter: int) -> str:
    """Return the id of the `counter`-th row (from 1) of a time, given in nanoseconds since 1970, from 0 up."""
    milliseconds, rest = divmod(time, _NS_PER_MS)
    return f"{milliseconds}-{rest * COUNTERS + counter}"


def entry_ids(times: np.ndarray, counters: np.ndarray) -> list[bytes]:
    """Return the ids of rows of many times: see `entry_id`."""
    milliseconds, rest = np.divmod(times, _NS_PER_MS)
    sequences = rest * COUNTERS + counters
    return list(map(b"%d-%d".__mod__, zip(milliseconds.tolist(), sequences.tolist(), strict=True)))


def parse_id(text: str) -> tuple[int, int]:
    """Return time (ns since 1970) and counter of an entry's id."""
    milliseconds, _, sequence = text.partition("-")
    rest, counter = divmod(int(sequence), COUNTERS)
    return int(milliseconds) * _NS_PER_MS + rest, counter


def score(time: int) -> int:
    """Return the score of a time: whole microseconds since 1970, which a double holds exactly until 2255."""
    return time // _NS_PER_US
