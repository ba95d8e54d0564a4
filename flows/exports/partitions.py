"""Where a file destination keeps its rows: one folder for each key, one file for each year, month or day.

<root>/<source>/<asset class>/<symbol>/<schema>/2024.parquet         bars of a day and coarser
                                                2024-01.parquet      other bars, indicators, statistics
                                                2024-01-02.parquet   ticks
                                                .lock                held by who writes in the folder
"""

import errno
import fcntl
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any
from typing import BinaryIO
from typing import Final

import numpy as np

from catalog.errors import ConfigError
from catalog.errors import TransientError
from catalog.keys import InstrumentName
from catalog.keys import encode
from catalog.schemas import Schema

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAME: Final = re.compile(r"\d{4}(-\d\d){0,2}")
_YEARLY: Final = frozenset({"1d", "1w", "1mo"})
_DAY_NANOSECONDS: Final = 86_400_000_000_000
# NumPy's codes of the periods
_YEAR, _MONTH, _DAY = "Y", "M", "D"
# the limit of every file system in use
_MAX_NAME: Final = 255


def folder(root: Path, instrument: str, schema: Schema) -> Path:
    """Return the folder of a key; ConfigError where a part of it is too long to be a name."""
    parts = (*InstrumentName.parse(instrument).folders(), encode(schema.name))
    for part in parts:
        if len(part) > _MAX_NAME:
            raise ConfigError(f"{instrument!r}: {part[:40]!r}… has {len(part)} bytes; a folder's name has {_MAX_NAME}")
    return root.joinpath(*parts)


def period(schema: Schema) -> str:
    """Return NumPy's code of the period that one file of the schema covers."""
    if schema.timeframe in _YEARLY:
        return _YEAR
    # ticks are what has a chunk for each day; figures that venues publish are far fewer
    return _DAY if schema.nanoseconds and schema.chunk <= timedelta(days=1) else _MONTH


def cut(schema: Schema, place: Path, suffix: str, times: np.ndarray) -> Iterator[tuple[Path, slice]]:
    """Yield the files that sorted times (int64 nanoseconds) belong in, and which of the times do."""
    periods = _periods(schema, times)
    starts = np.flatnonzero(np.r_[True, periods[1:] != periods[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(times)], strict=True):
        yield place / f"{periods[start]}{suffix}", slice(int(start), int(stop))


def existing(schema: Schema, place: Path, suffix: str, start: int, end: int) -> list[Path]:
    """Return the files of a folder whose periods overlap `[start, end)`, in order of time."""
    if start >= end or not place.is_dir():
        return []
    first, last = (str(period) for period in _periods(schema, np.asarray([start, end - 1], np.int64)))
    # as text, which sorts like the periods: a folder may have thousands of days
    names = (path.name.removesuffix(suffix) for path in place.iterdir() if path.name.endswith(suffix))
    chosen = (name for name in names if first <= name <= last and len(name) == len(first) and _NAME.fullmatch(name))
    return [place / f"{name}{suffix}" for name in sorted(chosen)]


def _periods(schema: Schema, times: np.ndarray) -> np.ndarray:
    # by whole days: NumPy overflows near the first nanosecond that 64 bits hold
    days = np.floor_divide(times, _DAY_NANOSECONDS)
    return np.asarray(days.view("M8[D]").astype(f"M8[{period(schema)}]"))


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Let one writer into a folder at a time, of whatever process or thread; makes the folder."""
    _make(place)
    with (place / ".lock").open("ab") as file:
        # released when the file closes, and so with the process however that ends
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Hashed(io.RawIOBase):
    """Passes what is written on to a file and digests it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        """Whether it can be written."""
        return True

    def write(self, content: Any) -> int:
        """Write bytes."""
        self.sha256.update(content)
        return self.file.write(content)


@contextmanager
def replaced(path: Path) -> Iterator[Hashed]:
    """Open a file that takes the place of `path` when it is whole and on disk; call under the folder's lock.

    The name is durable after `sync`. Raises TransientError when the disk is full; the old file is then still there.
    """
    # one name for each target: what a killed writer left is overwritten
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield Hashed(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(f"{path}: disk full; free some space and run again, nothing is lost") from error
        raise


def sync(place: Path) -> None:
    """Make the names in a folder durable."""
    directory = os.open(place, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def nanoseconds(moment: datetime) -> int:
    """Return an aware time as nanoseconds since 1970, within what 64 bits hold."""
    number = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return max(-(2**63), min(number, 2**63 - 1))


def moment(number: int) -> datetime:
    """Return nanoseconds since 1970 as an aware time, down to the microsecond below."""
    return _EPOCH + timedelta(microseconds=number // 1000)


def _make(place: Path) -> None:
    if place.is_dir():
        return
    if place.parent != place:
        _make(place.parent)
    place.mkdir(exist_ok=True)
    sync(place.parent)
