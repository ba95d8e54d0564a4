"""What a file of rows says about itself."""

import json
from dataclasses import asdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.schemas import INSTRUMENT
from catalog.schemas import Schema

_CREATOR: Final = f"DataFlow, pyarrow {pa.__version__}"


@dataclass(frozen=True)
class Owner:
    """The instrument (as the text of a key) and schema that a file's rows are of."""

    instrument: str
    schema: Schema

    @cached_property
    def columns(self) -> pa.Schema:
        """The columns of the file: the schema's without `instrument`, which the folder names."""
        arrow = self.schema.arrow
        return arrow.remove(arrow.get_field_index(INSTRUMENT))

    def times(self, table: pa.Table) -> np.ndarray:
        """Return the rows' times in nanoseconds since 1970."""
        return np.asarray(table[self.schema.time].cast(pa.int64()).to_numpy())


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file holds: whose rows, the columns with their types, first and last time (ns), how many rows.

    `sha256` is of the bytes of the file, of a Parquet file of those before the footer, where it stands itself.
    """

    instrument: str
    schema: str
    columns: dict[str, str]
    first: int
    last: int
    rows: int
    sha256: str
    created_by: str = _CREATOR

    def to_json(self, **more: int) -> bytes:
        """Return the facts as JSON, the times as text."""
        times = {"first": f"{np.datetime64(self.first, 'ns')}Z", "last": f"{np.datetime64(self.last, 'ns')}Z"}
        return json.dumps(asdict(self) | times | more, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Facts":
        """Return the facts that `to_json` wrote; KeyError, TypeError or ValueError where it did not."""
        loaded = json.loads(content)
        values: dict[str, Any] = {name: loaded[name] for name in cls.__slots__}
        for name in ("first", "last"):
            values[name] = int(np.datetime64(values[name].removesuffix("Z"), "ns").astype(np.int64))
        return cls(**values)


class Summary:
    """Gathers the facts of rows as they pass in order, block after block."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.first = self.last = self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Add the next rows."""
        if not table.num_rows:
            return
        times = self.owner.times(table)
        self.first = self.first if self.rows else int(times[0])
        self.last = int(times[-1])
        self.rows += table.num_rows

    def facts(self, sha256: str = "") -> Facts:
        """Return the facts of all rows so far."""
        types = {field.name: str(field.type) for field in self.owner.columns}
        name = self.owner.schema.name
        return Facts(self.owner.instrument, name, types, self.first, self.last, self.rows, sha256)
