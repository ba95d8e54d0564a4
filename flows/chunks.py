"""Cuts rows by the chunks of a hypertable that a statement may touch."""

from typing import Final

import numpy as np
import pyarrow as pa

from catalog.schemas import Schema

#: chunks of a hypertable one batch may touch: each takes about ten of the server's 6,400 lock entries
MAX_CHUNKS: Final = 100


def by_chunks(schema: Schema, table: pa.Table) -> list[pa.Table]:
    """Return the table, or where its times are too far apart, pieces of it that touch few enough chunks."""
    if not table.num_rows:
        return [table]
    width = int(schema.chunk.total_seconds()) * 1_000_000_000
    chunks = np.floor_divide(table[schema.time].cast(pa.int64()).to_numpy(), width)
    if np.ptp(chunks) < MAX_CHUNKS or len(distinct := np.unique(chunks)) <= MAX_CHUNKS:
        return [table]
    return [
        table.filter(pa.array(np.isin(chunks, distinct[first : first + MAX_CHUNKS])))
        for first in range(0, len(distinct), MAX_CHUNKS)
    ]
