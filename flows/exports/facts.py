"""What a file of rows says about itself, its digest included."""

import hashlib
import json
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import INSTRUMENT
from catalog.schemas import Schema

_CREATOR: Final = f"DataFlow, pyarrow {pa.__version__}"


@dataclass(frozen=True, slots=True)
class Owner:
    """The instrument (as the text of a key) and schema that a file's rows are of."""

    instrument: str
    schema: Schema

    @property
    def columns(self) -> pa.Schema:
        """The columns of the file: the schema's without `instrument`, which the folder names."""
        arrow = self.schema.arrow
        return arrow.remove(arrow.get_field_index(INSTRUMENT))

    def times(self, table: pa.Table) -> np.ndarray:
        """Return the rows' times in nanoseconds since 1970."""
        return np.asarray(table[self.schema.time].cast(pa.int64()).to_numpy())


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file holds: whose rows, the columns with their types, first and last time (ns), rows, digest."""

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
    """Gathers the facts of rows as they pass in order, block after block.

    The digest is of the rows and of nothing else, so the same rows have the same one in every format: SHA-256
    over one line `<name> <type> <values> <presence>` for each column. `values` is the SHA-256 of the column's
    values one after the other (little-endian as in Arrow, UTF-8 for text, zero or nothing for null), `presence`
    that of a byte 1 or 0 for each row, or for text of the length as int32, -1 for null.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.digests = {field.name: (hashlib.sha256(), hashlib.sha256()) for field in owner.columns}
        self.first = self.last = self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Add the next rows."""
        if not table.num_rows:
            return
        times = self.owner.times(table)
        self.first = self.first if self.rows else int(times[0])
        self.last = int(times[-1])
        self.rows += table.num_rows
        for name, (values, presence) in self.digests.items():
            for chunk in table[name].chunks:
                _digest(chunk, values, presence)

    def facts(self) -> Facts:
        """Return the facts of all rows so far."""
        types = {field.name: str(field.type) for field in self.owner.columns}
        lines = [
            f"{name} {types[name]} {values.hexdigest()} {presence.hexdigest()}\n"
            for name, (values, presence) in self.digests.items()
        ]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return Facts(
            self.owner.instrument, self.owner.schema.name, types, self.first, self.last, self.rows, digest
        )  # fmt: skip


def _digest(array: pa.Array, values: Any, presence: Any) -> None:
    if pa.types.is_string(array.type):
        presence.update(pc.fill_null(pc.binary_length(array), -1).to_numpy(zero_copy_only=False))
        content = text_bytes(array.fill_null(""))
    else:
        presence.update(array.is_valid().to_numpy(zero_copy_only=False))
        if array.null_count:
            array = array.fill_null(pa.scalar(0, pa.int64()).cast(array.type))
        width = array.type.bit_width // 8
        content = memoryview(array.buffers()[1])[array.offset * width : (array.offset + len(array)) * width]
    values.update(content)


def text_bytes(array: pa.Array) -> memoryview:
    """Return the texts of an array without nulls, one after the other."""
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    return memoryview(array.buffers()[2] or b"")[offsets[0] : offsets[-1]]
