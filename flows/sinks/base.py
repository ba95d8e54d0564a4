"""What every destination shares. A kind's file declares its options, and writes `write` (and `read`)."""

from abc import ABC
from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import ClassVar
from typing import Self

import pyarrow as pa

from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.options import Options
from flows.options import read_options


@dataclass(frozen=True, slots=True)
class Target:
    """What a sink may use of the machine and of the catalog.

    `ids` maps the text of an instrument (`source:asset_class:symbol`) to its id. `export_root` is the
    folder below which files are written. Secrets are the variables of `environ` that begin with `env_prefix`.
    """

    name: str
    ids: Mapping[str, int] = field(default_factory=dict)
    export_root: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_prefix: str = ""


class Sink(ABC):
    """A destination, open for writing; used in a with-statement."""

    name: ClassVar[str]
    label: ClassVar[str]
    doc: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options
    credentials: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    #: whether what was written can be read back; only then can it be a series' home
    readable: ClassVar[bool] = False
    #: rows a write, where a route does not say
    batch_rows: ClassVar[int] = 250_000

    def __init__(self, options: Mapping[str, Any], target: Target) -> None:
        self.target = target
        self.options: Any = read_options(f"destination {target.name!r}", self.Options, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def shares_ledger(self) -> bool:
        """Whether the ledger's row is written in the same transaction; else the rows go first, the ledger after."""
        return False

    def unit(self) -> AbstractContextManager[Any]:
        """What is written inside is durable at its end, the ledger's row with it where the store is shared."""
        return nullcontext()

    @abstractmethod
    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        """Upsert a refined table by key; writing the same rows again changes nothing.

        With `replace` false existing rows stay; those that differ count as superseded.
        """


class ReadableSink(Sink):
    """A destination whose rows can be read back."""

    readable = True

    @abstractmethod
    def read(
        self,
        schema: Schema,
        instruments: Sequence[str],
        start: datetime,
        end: datetime,
        *,
        exact: bool = False,
        columns: Sequence[str] = (),
    ) -> pa.Table:
        """Return the rows of the instruments in `[start, end)`, sorted by key; float64 prices unless `exact`."""

    @abstractmethod
    def tail(self, schema: Schema, instrument: str, before: datetime, rows: int) -> datetime | None:
        """Return the time of the `rows`-th row before `before`, or of the first there is; None if there is none."""

    @abstractmethod
    def extents(
        self, schema: Schema, instruments: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, tuple[datetime, datetime, int]]:
        """Return first time, last time and rows of each instrument that has rows in `[start, end)`."""

    @abstractmethod
    def delete(self, schema: Schema, instrument: str, start: datetime, end: datetime) -> int:
        """Delete the rows of an instrument in `[start, end)`; returns how many."""
