"""Parquet: row group by row group, with the file's own types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from catalog.errors import Damaged
from flows.formats.blocks import RawBlock

_BLOCK_ROWS: Final = 250_000


def read(path: Path) -> Iterator[RawBlock]:
    """Yield the rows of a file; raises Damaged when a row group cannot be read."""
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BLOCK_ROWS, use_threads=True):
                table = pa.Table.from_batches([batch])
                yield RawBlock(table, pa.array(np.arange(row, row + table.num_rows), pa.int64()))
                row += table.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise Damaged(f"{path.name}: {str(error).splitlines()[0]}") from error
