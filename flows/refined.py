"""Refined batches as Arrow IPC beside the landing: what one task hands to the next is a path, never a table."""

import json
import shutil
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from flows.work import RefinedBatch

_FOLDER: Final = "refined"
# lz4 halves what is written at a cost below the disk's
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")
_COUNTS: Final = ("number", "part", "parsed", "duplicates", "filtered", "rounded", "unparsable")


def write(fetch: Path, batches: Iterable[RefinedBatch]) -> int:
    """Write a fetch's refined batches below its folder, all or none; returns the rows parsed."""
    folder, partial = fetch / _FOLDER, fetch / f"{_FOLDER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    parsed = 0
    for batch in batches:
        parsed += batch.parsed
        facts = {name: getattr(batch, name) for name in _COUNTS} | {"schema": batch.schema.name}
        (partial / f"{batch.number:06d}.json").write_text(json.dumps(facts))
        _write(partial / f"{batch.number:06d}.accepted", batch.accepted)
        if batch.rejected.num_rows:
            _write(partial / f"{batch.number:06d}.rejected", batch.rejected)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return parsed


def read(fetch: Path) -> Iterator[RefinedBatch]:
    """Yield the refined batches below a fetch's folder, in order."""
    for path in sorted((fetch / _FOLDER).glob("*.json")):
        facts = json.loads(path.read_text())
        rejected = path.with_suffix(".rejected")
        yield RefinedBatch(
            schema=schema_called(facts.pop("schema")),
            accepted=_read(path.with_suffix(".accepted")),
            rejected=_read(rejected) if rejected.exists() else REJECTED.empty_table(),
            **facts,
        )


def remove(fetch: Path) -> None:
    """Delete a fetch's refined batches; its landed pages stay."""
    shutil.rmtree(fetch / _FOLDER, ignore_errors=True)


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table.unify_dictionaries())


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()
