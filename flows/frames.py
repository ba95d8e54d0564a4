"""Live messages as bytes: what a connection brings, and how many of them lie in one file.

A file of frames is a sequence of blocks, each of which holds the frames that were received at one time:

    4 bytes   length of what follows the head            little-endian, like all numbers here
    4 bytes   CRC-32 of what follows this
    8 bytes   nanoseconds since 1970 at which they were received, by this machine's clock
    1 byte    1: contexts (below), 0: not
    4 bytes   how many frames
    4 bytes   for each frame: the length of its content
    contents  one after the other

so that a file whose writer was killed ends at its last whole block, and what comes after it is known to be torn.
"""

import struct
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from operator import attrgetter
from typing import IO
from typing import Any
from typing import Final

from catalog.errors import Damaged

#: media type of a landed page of frames
FRAMES: Final = "application/vnd.dataflow.frames"
#: rows are numbered by frame and place: row = frame * ROWS_A_FRAME + place
ROWS_A_FRAME: Final = 1_000_000_000
_HEAD: Final = struct.Struct("<IIqBI")
#: where what the checksum is of begins
_CHECKED: Final = 8
_LENGTH: Final = 4
#: what is read at once, and what a block holds at most, but for a single frame
_BLOCK: Final = 1 << 20
_content, _received, _context = attrgetter("content"), attrgetter("received"), attrgetter("context")
#: no block is longer: whoever reads a torn file must not trust its lengths
LONGEST: Final = (256 << 20) + _BLOCK


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
    `behind` says that it has not sent yet what has happened: that it is alive proves nothing of what came last.
    """

    received: int
    acknowledged: frozenset[Channel] = frozenset()
    refused: Mapping[Channel, str] = field(default_factory=dict)
    since: int | None = None
    lost: str = ""
    note: str = ""
    behind: bool = False


def encode(frames: Sequence[Frame]) -> bytes:
    """Return frames as they lie in a file."""
    return b"".join([_block(some) for some in _together(frames)])


def _together(frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """Yield the frames of each block: mostly all of them, for they came together."""
    received, contexts = list(map(_received, frames)), list(map(_context, frames))
    sizes = list(map(len, map(_content, frames)))
    if frames and received.count(received[0]) == len(frames) == contexts.count(contexts[0]) and sum(sizes) <= _BLOCK:
        yield frames
        return
    first = size = 0
    for at, one in enumerate(frames):
        other = (one.received, one.context) != (frames[first].received, frames[first].context)
        if at > first and (other or size + sizes[at] > _BLOCK):
            yield frames[first:at]
            first, size = at, 0
        size += sizes[at]
    if frames:
        yield frames[first:]


def _block(frames: Sequence[Frame]) -> bytes:
    contents = list(map(_content, frames))
    body = struct.pack(f"<{len(contents)}I", *map(len, contents)) + b"".join(contents)
    head = _HEAD.pack(len(body), 0, frames[0].received, frames[0].context, len(contents))[_CHECKED:]
    return struct.pack("<II", len(body), zlib.crc32(body, zlib.crc32(head))) + head + body


class Decoder:
    """Makes frames of a file's bytes, given in any pieces; contexts have the number of the frame that follows.

    `whole` counts the bytes of the blocks that were read.
    """

    def __init__(self, first: int = 0) -> None:
        self.number = first
        self.whole = 0
        self._rest = b""

    def feed(self, content: bytes) -> list[Frame]:
        """Return the frames of the blocks that end in a piece. Raises Damaged where one is not what was written."""
        content = self._rest + content if self._rest else content
        found: list[Frame] = []
        at = 0
        while (start := at + _HEAD.size) <= len(content):
            length, crc, received, context, count = _HEAD.unpack_from(content, at)
            if length > LONGEST or count * _LENGTH > length:
                raise Damaged(f"the block of frame {self.number} would have {count} frames in {length} bytes")
            end = start + length
            if end > len(content):
                break
            if zlib.crc32(memoryview(content)[at + _CHECKED : end]) != crc:
                raise Damaged(f"the block of frame {self.number} is not what was written")
            self._cut(content, start, count, received, context != 0, found)
            self.whole += end - at
            at = end
        self._rest = content[at:]
        return found

    def _cut(self, content: bytes, start: int, count: int, received: int, context: bool, found: list[Frame]) -> None:
        number, begin = self.number, start + count * _LENGTH
        # a loop of its own: all that is read again goes through it
        for size in struct.unpack_from(f"<{count}I", content, start):
            found.append(Frame(content[begin : begin + size], received, context, number))
            number += not context
            begin += size
        self.number = number

    def finish(self) -> None:
        """Raise Damaged where the file ends inside a block."""
        if self._rest:
            raise Damaged(f"the file ends inside the block of frame {self.number}")


def intact(stream: IO[bytes], first: int = 0) -> tuple[int, int]:
    """Return how many bytes and frames of a file are whole: what a killed writer left behind may be torn."""
    decoder = Decoder(first)
    with suppress(Damaged):
        while piece := stream.read(_BLOCK):
            decoder.feed(piece)
    return decoder.whole, decoder.number - first
