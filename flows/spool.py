"""Where live frames lie: appended to a file, synced at short intervals, and sealed as landed pages.

    <root>/<source>/live/<stint>/stint.json     which fetches the frames belong to, one a schema
                                 00000.frames   being written, or not sealed yet
                                 lock           held by the process that writes

A stint is what one connection brought. A file that is full or an hour old is sealed: compressed into a page of each
fetch of the stint (one file on disk, linked from each folder), so that a live fetch is replayed, pruned and accounted
for like any other. What a killed process leaves behind is sealed by the next one, up to its last whole frame.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO
from typing import Final

from catalog.errors import Damaged
from catalog.errors import TransientError
from catalog.keys import encode
from flows.frames import FRAMES
from flows.frames import Frame
from flows.frames import encode as encoded
from flows.frames import intact
from flows.groups import BLOCK
from flows.groups import GROUP_BYTES
from flows.groups import GROUP_FRAMES
from flows.groups import Group
from flows.groups import grouped
from flows.landing import LandedPage
from flows.landing import Landing
from flows.landing import Page

log = logging.getLogger(__name__)

#: a file is sealed at this size or age
SEGMENT_BYTES: Final = 64 << 20
SEGMENT_SECONDS: Final = 3600.0
#: bytes of what was written that stay in memory until it is followed, beside the last write; what a frame adds to them
_FRESH_BYTES: Final = 64 << 20
_OVERHEAD: Final = 200
_STINT: Final = "stint.json"
_LOCK: Final = "lock"


@dataclass(slots=True)
class _Segment:
    """A file of frames: how much of it is written and by which frame it begins. `pages` once it is sealed."""

    part: int
    first: int
    path: Path
    bytes: int = 0
    frames: int = 0
    closed: bool = False
    page: LandedPage | None = None


@dataclass(frozen=True, slots=True)
class StintNote:
    """What is written of a stint for whoever finds it: source and fetches, by schema, with the part each begins at."""

    source: str
    id: int
    fetches: Mapping[str, int]
    since: Mapping[str, int] = field(default_factory=dict)


class Spool:
    """The frames of one stint. One thread writes; any number read behind it."""

    def __init__(self, landing: Landing, stint: StintNote) -> None:
        self.landing = landing
        self.stint = stint
        self.folder = landing.root / encode(stint.source) / "live" / f"{stint.id:010d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.changed = threading.Condition()
        self.segments: list[_Segment] = []
        self.ended = False
        self.written = 0
        #: something that was taken could not be written
        self.dropped = False
        self._buffer = bytearray()
        self._taken: list[Frame] = []
        #: what was written and not followed yet, by numbers that count up, so that it need not be read again
        self._fresh: deque[tuple[int, int, Group]] = deque()
        self._fresh_bytes = 0
        self._writes = 0
        #: bytes of the context at the file's head
        self._head = 0
        self._file: IO[bytes] | None = None
        self._opened = 0.0
        self._sealing = threading.Lock()
        self._lock = (self.folder / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._note()

    def join(self, schema: str, fetch: int, context: Sequence[Frame] = ()) -> None:
        """Let one more fetch have what comes from now on: in a file of its own."""
        self.roll(context)
        part = self.segments[-1].part + 1 if self.segments else 0
        self.stint = StintNote(
            self.stint.source, self.stint.id, {**self.stint.fetches, schema: fetch}, {**self.stint.since, schema: part}
        )
        self._note()

    def _note(self) -> None:
        content = json.dumps({"fetches": dict(self.stint.fetches), "since": dict(self.stint.since)})
        temporary = self.folder / f"{_STINT}.partial"
        with temporary.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.folder / _STINT)
        self._sync_folder()

    def _sync_folder(self) -> None:
        # a file that is durable under no name is lost all the same
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # -- writing --------------------------------------------------------------------------------------------------

    def append(self, frames: Sequence[Frame]) -> None:
        """Take frames; they are readable after `flush`, durable after `sync`."""
        self._buffer += encoded(frames)
        # a context is written to many files, and has a number in each
        self._taken += [replace(frame) if frame.context else frame for frame in frames]

    @property
    def dirty(self) -> bool:
        """Whether something that was taken is not readable yet, or never will be."""
        return bool(self._buffer) or self.dropped

    def flush(self) -> None:
        """Write what was taken. Raises TransientError where the disk is full: what was taken is dropped."""
        if not self._buffer:
            return
        try:
            if self._file is None:
                self._open()
            self._write(bytes(self._buffer), self._taken)
        except BaseException:
            self.dropped = True
            raise
        finally:
            self._buffer.clear()
            self._taken = []

    def _write(self, content: bytes, frames: Sequence[Frame]) -> None:
        segment = self.segments[-1]
        assert self._file is not None
        try:
            at = 0
            while at < len(content):
                # a disk that fills up takes a part
                at += self._file.write(memoryview(content)[at:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), segment.bytes)
                self._file.seek(segment.bytes)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TransientError(f"spool {self.folder}: disk full; free some space") from error
            raise
        number = self.written
        for frame in frames:
            frame.number = number
            number += not frame.context
        size = len(content) + _OVERHEAD * len(frames)
        with self.changed:
            self._fresh.append((self._writes, size, Group(segment.part, self.written, number, frames)))
            self._fresh_bytes += size
            self._writes += 1
            while self._fresh_bytes > _FRESH_BYTES and len(self._fresh) > 1:
                self._forget()
            segment.bytes += len(content)
            segment.frames += number - self.written
            self.written = number
            self.changed.notify_all()

    def sync(self) -> None:
        """Make what was written durable; may run in another thread than `flush`."""
        file = self._file
        if file is not None:
            try:
                os.fsync(file.fileno())
            except (ValueError, OSError):
                # closed meanwhile: it was synced then
                if not file.closed:
                    raise

    @property
    def full(self) -> bool:
        """Whether the file should be sealed."""
        if self._file is None:
            return False
        # a context of any size leaves room for frames
        size = self.segments[-1].bytes - self._head
        return size >= SEGMENT_BYTES or time.monotonic() - self._opened >= SEGMENT_SECONDS

    def roll(self, context: Sequence[Frame] = ()) -> None:
        """Close the file; the next one begins with the context."""
        try:
            self.flush()
            if self._file is not None:
                os.fsync(self._file.fileno())
        except BaseException:
            self.dropped = True
            raise
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
                with self.changed:
                    self.segments[-1].closed = True
                    self.changed.notify_all()
        self.append(context)
        self._head = len(self._buffer)

    def _open(self) -> None:
        self.landing.check_room()
        part = self.segments[-1].part + 1 if self.segments else 0
        path = self.folder / f"{part:05d}.frames"
        # unbuffered: what `write` has taken another process could read
        self._file = path.open("wb", buffering=0)
        self._opened = time.monotonic()
        with self.changed:
            self.segments.append(_Segment(part, self.written, path))
        self._sync_folder()

    def end(self) -> None:
        """Write no more: whoever reads comes to an end, whatever the disk says."""
        try:
            self.roll()
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    # -- sealing --------------------------------------------------------------------------------------------------

    def seal(self) -> tuple[int, int]:
        """Make pages of the files that are closed; returns pages and bytes of the whole stint so far."""
        with self._sealing:
            for segment in self.segments:
                if segment.closed and segment.page is None and segment.frames:
                    segment.page = _seal(
                        self.landing, self.stint, segment.part, segment.path, segment.first, segment.frames
                    )
                    # whoever finds it gone looks for the page
                    segment.path.unlink()
            done = [segment for segment in self.segments if segment.page is not None]
            return len(done), sum(segment.bytes for segment in done)

    def parts(self, schema: str) -> list[_Segment]:
        """Return the sealed files that a schema's fetch has."""
        return [
            segment
            for segment in self.segments
            if segment.page is not None
            and schema in self.stint.fetches
            and segment.part >= self.stint.since.get(schema, 0)
        ]

    def release(self) -> None:
        """Forget the stint: all of it is sealed, and its fetches are known to be complete."""
        shutil.rmtree(self.folder)
        self._lock.close()

    def abandon(self) -> None:
        """Leave the stint as it is, for the next process."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

    # -- reading --------------------------------------------------------------------------------------------------

    def follow(self) -> Iterator[Group | None]:
        """Yield all frames as they come, None where there are none now; ends with the stint.

        For one reader: what was written is taken from memory, and read from the disk where too much has come
        meanwhile. Then contexts may come twice.
        """
        position = part = write = 0
        while True:
            with self.changed:
                while self._fresh and self._fresh[0][0] < write:
                    # read from the disk since
                    self._forget()
                behind = write < self._writes and self._fresh[0][0] > write
                found = [] if behind else self._together()
                ended = self.ended
            if found:
                write += len(found)
                frames = [frame for group in found for frame in group.frames if frame.number >= position]
                first, part, position = max(found[0].first, position), found[-1].part, found[-1].end
                if frames:
                    yield Group(part, first, position, frames)
            elif behind:
                groups = self.read(position, part)
                while True:
                    with self.changed:
                        # all of that is read when there is no more
                        upto = self._writes
                    if (group := next(groups, None)) is None:
                        break
                    part, position = group.part, group.end
                    yield group
                write = upto
            elif ended:
                return
            else:
                yield None

    def _together(self) -> list[Group]:
        """Take the oldest writes out of memory that are of one file, as many as make a group."""
        found: list[Group] = []
        size = frames = 0
        while self._fresh:
            _, added, group = self._fresh[0]
            size, frames = size + added, frames + len(group.frames)
            if found and (group.part != found[0].part or size > GROUP_BYTES or frames > GROUP_FRAMES):
                break
            found.append(group)
            self._forget()
        return found

    def _forget(self) -> None:
        self._fresh_bytes -= self._fresh.popleft()[1]

    def read(self, start: int, part: int = 0) -> Iterator[Group | None]:
        """Yield the frames from `start` on as they come, and all contexts of `part` on; None where there are none now.

        Ends with the stint.
        """
        at = part
        while True:
            with self.changed:
                segment = next((one for one in self.segments if one.part >= at and _has_some(one)), None)
                ended = self.ended
            if segment is None:
                if ended:
                    return
                yield None
                continue
            with _opened(segment) as stream:
                yield from grouped(segment.part, segment.first, start, self._blocks(segment, stream))
            at = segment.part + 1

    def holding(self, number: int) -> int:
        """Return the part in which a frame lies, or will."""
        with self.changed:
            parts = [segment.part for segment in self.segments if segment.first <= number]
        return parts[-1] if parts else 0

    def before(self, part: int) -> int:
        """Return the last part before another one that holds frames; 0 where there is none."""
        with self.changed:
            return max((one.part for one in self.segments if one.part < part and one.frames), default=0)

    def _blocks(self, segment: _Segment, stream: IO[bytes]) -> Iterator[bytes | None]:
        at = 0
        while True:
            with self.changed:
                size, closed = segment.bytes, segment.closed
            if at < size:
                block = stream.read(min(size - at, BLOCK))
                if not block:
                    raise Damaged(f"part {segment.part} ends after {at} of {size} bytes")
                at += len(block)
                yield block
            elif closed:
                return
            else:
                yield None


def _has_some(segment: _Segment) -> bool:
    return segment.frames > 0 or not segment.closed


@contextmanager
def _opened(segment: _Segment) -> Iterator[IO[bytes]]:
    try:
        stream = segment.path.open("rb")
    except FileNotFoundError:
        # sealed since
        page = segment.page
        if page is None:
            raise
        with page.open() as sealed:
            yield sealed
        return
    with stream:
        yield stream


def _seal(landing: Landing, stint: StintNote, part: int, path: Path, first: int, frames: int) -> LandedPage | None:
    """Make a page of each fetch that has this file; making them again changes nothing."""
    owners = [fetch for schema, fetch in stint.fetches.items() if stint.since.get(schema, 0) <= part]
    with path.open("rb") as stream:
        content = iter(partial(stream.read, BLOCK), b"")
        facts = {"first": first, "frames": frames}
        manifest = landing.write(stint.source, owners[0], part, Page(FRAMES, content, facts=facts))
    for fetch in owners[1:]:
        landing.share(stint.source, manifest, fetch)
    folder = landing.folder(stint.source, owners[0])
    return LandedPage(manifest, folder / f"{part:05d}.page", landing.request(stint.source, owners[0]))


def left_behind(landing: Landing, source: str) -> Iterator[tuple[StintNote, dict[int, int]]]:
    """Seal what dead processes left of a source's stints; yields each with its pages and bytes, by fetch.

    The caller makes the fetches complete; then the stint is forgotten. Stints of living processes are left alone.
    """
    for folder in sorted((landing.root / encode(source) / "live").glob("[0-9]*")):
        with (folder / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            stint = _read_stint(folder, source)
            if stint is not None:
                yield stint, _seal_all(landing, stint, folder)
            shutil.rmtree(folder)


def held(landing: Landing, source: str) -> set[int]:
    """Return the fetches of stints that are not sealed yet, whoever writes them."""
    folders = sorted((landing.root / encode(source) / "live").glob("[0-9]*"))
    notes = [_read_stint(folder, source) for folder in folders]
    return {fetch for note in notes if note is not None for fetch in note.fetches.values()}


def _read_stint(folder: Path, source: str) -> StintNote | None:
    try:
        said = json.loads((folder / _STINT).read_text())
    except FileNotFoundError:
        # killed before anything was written
        return None
    return StintNote(source, int(folder.name), said["fetches"], said["since"])


def _seal_all(landing: Landing, stint: StintNote, folder: Path) -> dict[int, int]:
    """Seal each file up to its last whole frame; returns the pages of each fetch."""
    for path in sorted(folder.glob("*.frames")):
        part = int(path.stem)
        before = [page for fetch in stint.fetches.values() for page in landing.pages(stint.source, fetch)]
        first = max(
            (
                page.manifest.facts["first"] + page.manifest.facts["frames"]
                for page in before
                if page.manifest.part < part
            ),
            default=0,
        )
        with path.open("rb+") as stream:
            size, frames = intact(stream, first)
            torn = path.stat().st_size - size
            if torn:
                log.warning("%s: the last %s bytes are no whole frame; they were never acknowledged", path, torn)
                stream.truncate(size)
        if frames:
            _seal(landing, stint, part, path, first, frames)
        path.unlink()
    return {fetch: len(landing.pages(stint.source, fetch)) for fetch in stint.fetches.values()}
