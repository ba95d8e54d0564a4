"""What a record is: `Column`, `Check` and `Schema`. Pure: no Django, no Prefect, no I/O.

A `Schema` is declared once (see `catalog.schemas`); the Arrow schema, the Django model, the hypertable,
the row key, the checks, the admin's choices and the documentation are all read from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from datetime import timedelta
from typing import Final

import pyarrow as pa

DECIMAL: Final = pa.decimal128(38, 18)
INT64: Final = pa.int64()
INT32: Final = pa.int32()
INT16: Final = pa.int16()
FLOAT64: Final = pa.float64()
TEXT: Final = pa.string()
# aware UTC, nanoseconds since 1970: covers 1677-09-21 to 2262-04-11
NANOSECONDS: Final = pa.timestamp("ns", "UTC")

INSTRUMENT: Final = "instrument"
ORDINAL: Final = "ordinal"
FETCH_ID: Final = "fetch_id"
#: position of a row in its page, carried while a batch is refined so that a reject can name its line
ROW: Final = "row"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type is also exactly its database type.

    `absent` is what an identity column holds where the vendor has no such thing (a key column may not
    be null); it is part of the declaration, so filling it in is not a repair. `longest` limits a text, in
    bytes: identifiers are short (PostgreSQL's index entries end at about 2,700 bytes).
    """

    name: str
    type: pa.DataType
    doc: str
    null: bool = False
    absent: str | int | None = None
    longest: int = 512


@dataclass(frozen=True, slots=True)
class Check:
    """A rule that each row of a schema keeps.

    `keeps` receives the conformed table and answers with a boolean array; null counts as kept (a rule
    about a missing value has nothing to say). `positive_only` limits the rule to instruments of asset
    classes whose prices cannot go below zero.
    """

    rule: str
    doc: str
    columns: tuple[str, ...]
    keeps: Callable[[pa.Table], pa.ChunkedArray]
    positive_only: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """A kind of record: columns, key, checks and the width of a hypertable chunk.

    The row key is `(instrument, time, *identity, ordinal)`. `ordinal` exists where `repeats` is true: it
    counts, in vendor order within one fetch, the repeats of the rest of the key (2.5 % of real CME trades
    repeat time and sequence). `nanoseconds` keeps the part of the time below a microsecond in the key.
    `revisable` rows are replaced by later fetches; others are immutable once stored. `announced` rows may
    lie in the future (a dividend to come).
    """

    name: str
    doc: str
    columns: tuple[Column, ...]
    chunk: timedelta
    time: str = "ts_event"
    identity: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    repeats: bool = False
    nanoseconds: bool = False
    revisable: bool = True
    announced: bool = False
    timeframe: str = ""
    #: the schema of a refined table: instrument, columns, ordinal where rows repeat, fetch id
    arrow: pa.Schema = field(init=False, compare=False, repr=False)
    #: names of the key's columns in a refined table, instrument first
    key: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # asked for with every few rows
        object.__setattr__(self, "arrow", self._arrow())
        ordinal = (ORDINAL,) if self.repeats else ()
        object.__setattr__(self, "key", (INSTRUMENT, self.time, *self.identity, *ordinal))

    def _arrow(self) -> pa.Schema:
        fields = [pa.field(INSTRUMENT, pa.dictionary(pa.int32(), pa.string()), nullable=False)]
        fields += [pa.field(column.name, column.type, nullable=column.null) for column in self.columns]
        if self.repeats:
            fields.append(pa.field(ORDINAL, INT32, nullable=False))
        fields.append(pa.field(FETCH_ID, INT64, nullable=False))
        return pa.schema(fields)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the columns outside the key, `fetch_id` not among them."""
        return tuple(column.name for column in self.columns if column.name not in self.key)

    def column(self, name: str) -> Column:
        """Return the column called `name`; KeyError where there is none."""
        return next(column for column in self.columns if column.name == name)

    @property
    def table_name(self) -> str:
        """The name of the database table."""
        return self.name.replace("-", "_")

    @property
    def model_name(self) -> str:
        """The name of the Django model."""
        return "".join(part.capitalize() for part in self.table_name.split("_"))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a write did, in rows; the sum is the number of rows given."""

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.new + other.new,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.superseded + other.superseded,
        )
