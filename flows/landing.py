"""Where raw pages lie: spool, replay source and raw capture in one.

    <root>/<source>/<fetch id>/request.json      what was asked, enough to parse the pages alone years later
                               00000.page        the vendor's bytes, zstd-compressed unless they already are
                               00000.json        its manifest; a page without a manifest does not exist

A page is written under another name, synced and renamed, then its manifest likewise: whatever is killed
or fills the disk leaves whole pages or none.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from typing import BinaryIO
from typing import Final

import zstandard

from catalog.errors import Damaged
from catalog.errors import TransientError
from catalog.keys import encode

_BLOCK: Final = 1 << 20
# stop while there is still room for the database, its journal and the operating system
_RESERVE_BYTES: Final = 64 << 20
# seconds: a disk does not get emptier by asking a vendor again
_WAIT_FOR_ROOM: Final = 3600.0
# level 1 keeps up with the disk; a page is written once and seldom read
_ZSTD_LEVEL: Final = 1


@dataclass(frozen=True, slots=True)
class Page:
    """Raw bytes on their way from the vendor. `facts` is what parsing needs and the bytes do not say.

    `requests` and `cost` are what it took to get them, in the vendor's requests and the source's money.
    """

    media_type: str
    content: Iterable[bytes]
    name: str = ""
    compressed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    cost: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a landed page is. `sha256` and `bytes` are of the vendor's bytes, before our compression."""

    fetch: int
    part: int
    media_type: str
    name: str
    encoding: str
    bytes: int
    sha256: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LandedPage:
    """A page on disk: its manifest, its file and the request it answers."""

    manifest: Manifest
    path: Path
    request: dict[str, Any] = field(repr=False)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the vendor's bytes for reading from the start."""
        with self.path.open("rb") as raw:
            if self.manifest.encoding == "zstd":
                with zstandard.ZstdDecompressor().stream_reader(raw, read_size=_BLOCK, closefd=False) as reader:
                    yield reader
            else:
                yield raw

    def read(self) -> bytes:
        """Return the vendor's bytes; for pages known to be small."""
        with self.open() as content:
            return content.read()

    def verify(self) -> None:
        """Raise Damaged when the stored bytes are no longer the ones that landed."""
        digest = hashlib.sha256()
        count = 0
        try:
            with self.open() as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
                    count += len(block)
        except zstandard.ZstdError as error:
            raise Damaged(f"landed page {self.path.name}: {error}") from error
        if count != self.manifest.bytes or digest.hexdigest() != self.manifest.sha256:
            raise Damaged(
                f"landed page {self.path.name} of fetch {self.manifest.fetch} has {count} bytes that are not the"
                f" {self.manifest.bytes} that landed (sha256 differs)"
            )


class Landing:
    """Landed fetches under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, source: str, fetch: int) -> Path:
        """Return the folder of a fetch."""
        return self.root / encode(source) / f"{fetch:010d}"

    def begin(self, source: str, fetch: int, request: dict[str, Any]) -> None:
        """Write down what a fetch asks, before the first page."""
        folder = self.folder(source, fetch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "request.json").exists():
            with _room(folder, 0):
                _write(folder / "request.json", json.dumps(request, ensure_ascii=False).encode())

    def check_room(self) -> None:
        """Raise TransientError when the disk is full: what is bought now could not land."""
        self.root.mkdir(parents=True, exist_ok=True)
        with _room(self.root, 0):
            return

    def amend(self, source: str, fetch: int, request: dict[str, Any]) -> None:
        """Write down anew what a fetch asks: symbols that nobody named have become instruments."""
        folder = self.folder(source, fetch)
        with _room(folder, 0):
            _write(folder / "request.json", json.dumps(request, ensure_ascii=False).encode())

    def request(self, source: str, fetch: int) -> dict[str, Any]:
        """Return what a fetch asked."""
        loaded: dict[str, Any] = json.loads((self.folder(source, fetch) / "request.json").read_bytes())
        return loaded

    def write(self, source: str, fetch: int, part: int, page: Page) -> Manifest:
        """Land one page; it exists when this returns, and not before.

        Raises TransientError when the disk is full: nothing of the page stays.
        """
        folder = self.folder(source, fetch)
        target = folder / f"{part:05d}.page"
        digest = hashlib.sha256()
        count = 0
        encoding = "identity" if page.compressed else "zstd"
        temporary = target.with_suffix(".partial")
        with _room(folder, 0):
            try:
                with temporary.open("wb") as raw:
                    writer: Any = raw
                    if encoding == "zstd":
                        writer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(raw, closefd=False)
                    for block in page.content:
                        digest.update(block)
                        count += len(block)
                        writer.write(block)
                    if encoding == "zstd":
                        writer.close()
                    raw.flush()
                    os.fsync(raw.fileno())
                temporary.rename(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            manifest = Manifest(
                fetch, part, page.media_type, page.name, encoding, count, digest.hexdigest(), page.facts
            )
            _write(target.with_suffix(".json"), json.dumps(asdict(manifest), ensure_ascii=False).encode())
        return manifest

    def share(self, source: str, manifest: Manifest, fetch: int) -> Manifest:
        """Let another fetch of the source have a landed page as well: one file, linked; again changes nothing."""
        name = f"{manifest.part:05d}.page"
        folder = self.folder(source, fetch)
        shared = replace(manifest, fetch=fetch)
        with _room(folder, 0):
            (folder / name).unlink(missing_ok=True)
            (folder / name).hardlink_to(self.folder(source, manifest.fetch) / name)
            _write(folder / f"{manifest.part:05d}.json", json.dumps(asdict(shared), ensure_ascii=False).encode())
        return shared

    def pages(self, source: str, fetch: int) -> list[LandedPage]:
        """Return the pages of a fetch in order."""
        folder = self.folder(source, fetch)
        if not (folder / "request.json").exists():
            # killed before it was written: there are none
            return []
        request = self.request(source, fetch)
        return [
            LandedPage(Manifest(**json.loads(path.read_bytes())), path.with_suffix(".page"), request)
            for path in sorted(folder.glob("[0-9]*.json"))
        ]

    def remove(self, source: str, fetch: int) -> None:
        """Delete the pages of a fetch. The caller has made sure that every required route has them."""
        shutil.rmtree(self.folder(source, fetch), ignore_errors=False)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(path.suffix + ".partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _room(folder: Path, size: int) -> Iterator[None]:
    """Translate a full disk to an error that stops extraction and says how to go on."""
    free = shutil.disk_usage(folder).free
    advice = "free some space and run again: what has landed is kept and not fetched again"
    if free < _RESERVE_BYTES + size:
        raise TransientError(
            f"landing {folder} has {free >> 20} MiB free, {_RESERVE_BYTES >> 20} are kept; {advice}",
            retry_after=_WAIT_FOR_ROOM,
        )
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(f"landing {folder}: disk full; {advice}", retry_after=_WAIT_FOR_ROOM) from error
        raise
