"""DBN as bytes: whole or cut, compressed or not, one kind of record or several."""

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.errors import ConfigError
from catalog.errors import Damaged

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
#: bytes of a block of mixed records
_BLOCK: Final = 8 << 20
#: the smallest record is its head: length, type, publisher, instrument, time
#: of four bytes: the head of a record, the least it may be
_WORDS: Final = 4


@dataclass(frozen=True, slots=True)
class Header:
    """What precedes the records. `schema` is empty where they are of several (a live session)."""

    version: int
    schema: str = ""
    ts_out: bool = False
    mappings: Mapping[str, Any] | None = None


class Whole:
    """The plain bytes of a stream that may be zstd; raises Damaged where its last frame is unfinished.

    Most decompressors just end there, as if the file were shorter; Arrow's says so.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._name = name
        self._source: Any = _Source(stream)
        if self._source.head == _ZSTD:
            self._source = pa.CompressedInputStream(pa.PythonFile(self._source, "r"), "zstd")

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end only."""
        try:
            content = bytes(self._source.read(size))
            while 0 < len(content) < size and (more := self._source.read(size - len(content))):
                content += more
        except OSError as error:
            if "Truncated" in str(error):
                raise Damaged(f"{self._name} is cut short: its last zstd frame is unfinished") from None
            if "ZSTD" in str(error):
                raise Damaged(f"{self._name} is no sound zstd file: {error}") from None
            raise
        return content


class _Source:
    """A stream whose first bytes were looked at. Arrow closes what it reads from: that is the caller's to do."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.head = b""
        while len(self.head) < len(_ZSTD) and (piece := stream.read(len(_ZSTD) - len(self.head))):
            self.head += piece

    def read(self, size: int) -> bytes:
        head, self.head = self.head[:size], self.head[size:]
        return head or self._stream.read(size)

    def close(self) -> None:
        """Leave the stream open."""


def library() -> Any:
    """Return the package that declares the layouts; ConfigError names the extra that installs it."""
    try:
        import databento_dbn
        import databento_dbn.v1
        import databento_dbn.v2
    except ImportError:
        raise ConfigError("DBN files need the extra 'databento': pip install 'dataflow[databento]'") from None
    return databento_dbn


def read_header(stream: Whole, name: str) -> Header:
    """Read what precedes the records."""
    head = stream.read(8)
    if head[:3] != b"DBN":
        raise Damaged(f"{name} is no DBN file: it does not begin with 'DBN' (a fragment needs option dbn_schema)")
    if len(head) < 8:
        raise Damaged(f"{name} is cut short inside its header")
    version, length = head[3], int.from_bytes(head[4:8], "little")
    if not 1 <= version <= 3:
        raise Damaged(f"{name} has DBN version {version}; accepted: 1, 2, 3")
    rest = stream.read(length)
    if len(rest) < length:
        raise Damaged(f"{name} is cut short inside its header")
    try:
        metadata = library().Metadata.decode(head + rest)
    except Exception as error:  # the decoder's own error class is not exported
        raise Damaged(f"{name} has a header that cannot be decoded: {error}") from error
    schema = str(metadata.schema) if metadata.schema is not None else ""
    return Header(version, schema, bool(metadata.ts_out), metadata.mappings)


def uniform(stream: Whole, size: int, rows: int, name: str) -> Iterator[bytes]:
    """Yield blocks of up to `rows` records of `size` bytes each."""
    while content := stream.read(size * rows):
        lengths = np.frombuffer(content, np.uint8)[::size]
        wrong = lengths != size // 4
        if wrong.any():
            raise Damaged(f"{name} holds a record of {int(lengths[wrong][0]) * 4} bytes, not {size}")
        if len(content) % size:
            raise Damaged(f"{name} is cut short: it ends inside a record")
        yield content


def mixed(stream: Whole, name: str) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield blocks of records of any kind, with the offsets they begin at."""
    rest = b""
    while content := stream.read(_BLOCK):
        content = rest + content
        starts, end = offsets(content, name)
        yield content, starts
        rest = content[end:]
    if rest:
        raise Damaged(f"{name} is cut short: it ends inside a record")


def offsets(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Return where the records begin, and where the last complete one ends.

    Each record says where the next one is, so this alone goes from one to the next (fifteen million a second).
    """
    starts: list[int] = []
    add = starts.append
    at, end = 0, len(content)
    while at < end:
        words = content[at]
        if words < _WORDS:
            raise Damaged(f"{name} holds a record of {words * 4} bytes, less than its head")
        add(at)
        at += words << 2
    if at > end:
        at = starts.pop()
    return np.array(starts, np.int64), at
