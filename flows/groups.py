"""Frames in groups: what is parsed and refined together, from any file of them. Pure."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final

from flows.frames import Decoder
from flows.frames import Frame
from flows.landing import LandedPage

#: what one group of frames holds at most: what parsing and writing it takes is a small multiple of that
GROUP_BYTES: Final = 4 << 20
GROUP_FRAMES: Final = 20_000
_received: Final = attrgetter("received")
#: what is read at once
BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """Some frames in a row of one file: numbers `[first, end)`, and the contexts among them."""

    part: int
    first: int
    end: int
    frames: Sequence[Frame]

    @property
    def latest(self) -> int:
        """When the last of them was received (ns since 1970); 0 where there is none."""
        return max(map(_received, self.frames), default=0)


def grouped(part: int, first: int, start: int, blocks: Iterable[bytes | None]) -> Iterator[Group | None]:
    """Yield the frames of one file in groups: those before `start` are left out, contexts never are.

    Raises Damaged where the file is not what was written.
    """
    decoder = Decoder(first)
    found: list[Frame] = []
    size = 0
    for block in blocks:
        for frame in decoder.feed(block or b""):
            if frame.context or frame.number >= start:
                found.append(frame)
                size += len(frame.content)
            if size >= GROUP_BYTES or len(found) >= GROUP_FRAMES:
                yield _group(part, found, start)
                found, size = [], 0
        if block is None:
            # nothing more for now: what there is shall not wait
            yield _group(part, found, start) if found else None
            found, size = [], 0
    decoder.finish()
    if found:
        yield _group(part, found, start)


def frame_pages(pages: Sequence[LandedPage], start: int, *, warm: bool) -> Iterator[tuple[LandedPage, int]]:
    """Yield the landed pages that hold frames from `start` on, each with the first frame to read.

    With `warm`, reading begins one page earlier: for rows that are told apart by what came before them.
    """
    facts = [page.manifest.facts for page in pages]
    needed = [at for at, one in enumerate(facts) if one["first"] + one["frames"] > start]
    if needed and warm:
        for page in pages[max(needed[0] - 1, 0) :]:
            yield page, 0
        return
    for at in needed:
        yield pages[at], start


def landed_groups(page: LandedPage, start: int) -> Iterator[Group]:
    """Yield the frames of a landed page from `start` on, and its contexts. Raises Damaged."""
    with page.open() as stream:
        blocks = iter(partial(stream.read, BLOCK), b"")
        for group in grouped(page.manifest.part, page.manifest.facts["first"], start, blocks):
            if group is not None:
                yield group


def _group(part: int, frames: list[Frame], start: int) -> Group:
    numbers = [frame.number for frame in frames if not frame.context]
    first = numbers[0] if numbers else max(start, frames[-1].number)
    return Group(part, first, numbers[-1] + 1 if numbers else first, frames)
