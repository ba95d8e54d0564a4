"""Compressed and packed files: are they whole, and how are they read as a stream.

A cut gzip or zstd file decodes without a word until its end, so each is read to its end before its content is
trusted: gzip's and zip's checksums, zstd's last frame, Parquet's footer.
"""

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from typing import Final

import zstandard

from catalog.errors import Damaged

_BLOCK: Final = 1 << 20
#: first bytes of what is certainly no text
_MAGIC: Final = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"DBN": "DBN",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
#: endings of names and the container each stands for
SUFFIXES: Final = {".gz": "gzip", ".zip": "zip", ".zst": "zstd"}


def container(name: str) -> str:
    """Return the container a file name stands for: gzip, zip, zstd or none (empty)."""
    return SUFFIXES.get(Path(name).suffix.lower(), "")


def verify(path: Path, kind: str, form: str) -> None:
    """Raise Damaged, naming the file, when it is empty, cut short or not what its name says."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise Damaged(f"{path.name} is empty")
    if kind == "gzip":
        _verify_gzip(path)
    elif kind == "zip":
        _verify_zip(path)
    elif kind == "zstd":
        _verify_zstd(path)
    elif form in ("csv", "jsonl"):
        refuse_binary(head, path.name, form)
    elif form == "parquet":
        _verify_parquet(path)


def refuse_binary(head: bytes, name: str, form: str) -> None:
    """Raise Damaged when the first bytes are those of something that is certainly no text."""
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise Damaged(f"{name} is {what}, not {form} text in UTF-8")


def _verify_gzip(path: Path) -> None:
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass
    except EOFError:
        raise Damaged(f"{path.name} is cut short: its gzip stream ends before the end marker") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path.name} is no sound gzip file: {error}") from None


def _verify_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if not members(archive):
                raise Damaged(f"{path.name} holds no file")
            if (bad := archive.testzip()) is not None:
                raise Damaged(f"{path.name}: member {bad} has a wrong checksum")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Damaged(f"{path.name} is no sound zip archive: {error}") from None
    except RuntimeError as error:
        # what the library raises for encrypted members
        raise Damaged(f"{path.name} cannot be read: {error}") from None


def _verify_zstd(path: Path) -> None:
    frame = zstandard.ZstdDecompressor().decompressobj()
    finished = False
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                while block:
                    if finished:
                        frame, finished = zstandard.ZstdDecompressor().decompressobj(), False
                    frame.decompress(block)
                    finished, block = frame.eof, frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise Damaged(f"{path.name} is no sound zstd file: {error}") from None
    if not finished:
        raise Damaged(f"{path.name} is cut short: its last zstd frame is unfinished")


def _verify_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        pyarrow.parquet.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise Damaged(f"{path.name} is no sound Parquet file: {str(error).splitlines()[0]}") from None


def members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the archive's files in the order of their names, folders and hidden files left out."""
    found = [info for info in archive.infolist() if not info.is_dir() and not Path(info.filename).name.startswith(".")]
    return sorted(found, key=lambda info: info.filename)


@contextmanager
def opened(raw: IO[bytes], kind: str) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Open the streams inside a container: (name of the member, empty where there is one only; decoded bytes)."""
    if kind == "zip":
        with zipfile.ZipFile(raw) as archive:
            yield _unpacked(archive)
    elif kind == "gzip":
        with gzip.open(raw) as file:
            yield iter([("", file)])  # type: ignore[list-item]  # a reader of bytes in all but name
    elif kind == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False) as reader:
            yield iter([("", reader)])
    else:
        yield iter([("", raw)])


def _unpacked(archive: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    inside = members(archive)
    for info in inside:
        with archive.open(info) as file:
            head = file.peek(16)[:16]  # type: ignore[attr-defined]  # ZipExtFile has it
            refuse_binary(head, info.filename, "csv")
            yield info.filename if len(inside) > 1 else "", file
