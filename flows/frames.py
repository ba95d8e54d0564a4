"""Live messages as bytes: what a connection brings, and how many of them lie in one file.

A file of frames is a sequence of

    4 bytes   length of the content                      little-endian, like all numbers here
    4 bytes   CRC-32 of the 9 bytes that follow and the content
    8 bytes   nanoseconds since 1970 at which it was received, by this machine's clock
    1 byte    1: context (below), 0: not
    content

so that a file whose writer was killed ends at its last whole frame, and what comes after it is known to be torn.
"""

import struct
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import IO
from typing import Any
from typing import Final

from catalog.errors import Damaged

#: media type of a landed page of frames
FRAMES: Final = "application/vnd.dataflow.frames"
#: rows are numbered by frame and place: row = frame * ROWS_A_FRAME + place
ROWS_A_FRAME: Final = 1_000_000_000
_HEAD: Final = struct.Struct("<IIqB")
_CHECKED: Final = struct.Struct("<qB")
_BLOCK: Final = 1 << 20
#: no frame is longer: whoever reads a torn file must not trust its lengths
LONGEST: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Channel:
    """One thing a vendor is subscribed to: a schema of a symbol as the vendor writes it."""

    schema: str
    symbol: str


# not frozen: that would take as long as all else that is done to keep a message
@dataclass(slots=True)
class Frame:
    """A live message exactly as it came. `number` is its place among those of its connection, given when it lands.

    A `context` frame gives no rows: later frames cannot be read without it (a header, a map of symbols), so it is
    written again at the head of each file.
    """

    content: bytes
    received: int
    context: bool = False
    number: int = -1
    #: what its connection has found out of the content already, for `parse`; it is not kept with it
    known: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Told:
    """What the vendor said of the connection itself; without anything else: that it is alive.

    `since` is given with an acknowledgement where the vendor replays: nanoseconds since 1970 from which on it sends.
    `lost` says that the vendor dropped messages: what came before it still counts, what lies between does not.
    """

    received: int
    acknowledged: frozenset[Channel] = frozenset()
    refused: Mapping[Channel, str] = field(default_factory=dict)
    since: int | None = None
    lost: str = ""
    note: str = ""


def encode(frames: Iterable[Frame]) -> bytes:
    """Return frames as they lie in a file."""
    parts: list[bytes] = []
    crc32, pack = zlib.crc32, _HEAD.pack
    received, context, begun = 0, False, crc32(_CHECKED.pack(0, False))
    for frame in frames:
        content = frame.content
        if frame.received != received or frame.context != context:
            # what came together has this in common
            received, context = frame.received, frame.context
            begun = crc32(_CHECKED.pack(received, context))
        parts += (pack(len(content), crc32(content, begun), received, context), content)
    return b"".join(parts)


class Decoder:
    """Makes frames of a file's bytes, given in any pieces; contexts have the number of the frame that follows."""

    def __init__(self, first: int = 0) -> None:
        self.number = first
        self._rest = b""

    def feed(self, block: bytes) -> list[Frame]:
        """Return the frames that end in a block. Raises Damaged where one is not what was written."""
        content = self._rest + block if self._rest else block
        found = []
        at, size = 0, len(content)
        head, unpack, crc32 = _HEAD.size, _HEAD.unpack_from, zlib.crc32
        number = self.number
        try:
            # a loop of its own: all that is live goes through it
            while (start := at + head) <= size:
                length, crc, received, context = unpack(content, at)
                if length > LONGEST:
                    raise Damaged(f"frame {number} would have {length} bytes")
                end = start + length
                if end > size:
                    break
                body = content[start:end]
                if crc32(body, crc32(content[at + 8 : start])) != crc:
                    raise Damaged(f"frame {number} is not what was written")
                found.append(Frame(body, received, context != 0, number))
                number += not context
                at = end
        finally:
            self.number = number
        self._rest = content[at:]
        return found

    def finish(self) -> None:
        """Raise Damaged where the file ends inside a frame."""
        if self._rest:
            raise Damaged(f"the file ends inside frame {self.number}")


def intact(stream: IO[bytes], first: int = 0) -> tuple[int, int]:
    """Return how many bytes and frames of a file are whole: what a killed writer left behind may be torn."""
    decoder = Decoder(first)
    size = frames = 0
    try:
        while block := stream.read(_BLOCK):
            for frame in decoder.feed(block):
                size += _HEAD.size + len(frame.content)
                frames += not frame.context
    except Damaged:
        # those that `feed` had found in this block are found again below
        stream.seek(size)
        for frame in _one_by_one(stream, first + frames):
            size += _HEAD.size + len(frame.content)
            frames += not frame.context
    return size, frames


def _one_by_one(stream: IO[bytes], first: int) -> Iterator[Frame]:
    decoder = Decoder(first)
    try:
        while head := stream.read(_HEAD.size):
            # an empty one is whole already
            yield from decoder.feed(head)
            length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else 0
            yield from decoder.feed(stream.read(length))
    except Damaged:
        return
