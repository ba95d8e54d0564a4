"""What a reader yields: a block of raw rows under the file's own column names."""

import json
from dataclasses import dataclass
from dataclasses import field
from typing import Final

import pyarrow as pa

from catalog.schemas.refine import REJECTED

_NONE: Final = REJECTED.empty_table()


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Rows as the file has them. `rows` are their positions in the page; `member` names a packed file."""

    table: pa.Table
    rows: pa.Array
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)
    member: str = ""


@dataclass(slots=True)
class Rejects:
    """Collects what could not be read as a row."""

    rows: list[int] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    raws: list[str] = field(default_factory=list)

    def add(self, row: int, rule: str, detail: str, raw: str) -> None:
        """Note one row with its position, the rule it breaks, what is wrong and what came in."""
        self.rows.append(row)
        self.rules.append(rule)
        self.reasons.append(f"{rule}: {detail}")
        self.raws.append(json.dumps(raw[:10_000], ensure_ascii=False))

    def table(self) -> pa.Table:
        """Return them as the table that quarantine keeps."""
        if not self.rows:
            return _NONE
        columns = [pa.array(self.rows, pa.int64())]
        columns += [pa.array(values, pa.string()) for values in (self.rules, self.reasons, self.raws)]
        return pa.table(columns, schema=REJECTED)
