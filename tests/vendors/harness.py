"""Runs one vendor against its stand-in through the real pipeline, with a ledger and a destination in memory."""

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog.keys import InstrumentName
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from catalog.schemas.base import Counts
from flows import registry
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Context
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import RouteFacts
from flows.job import Rule
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import Landing
from flows.memory import MemoryLedger
from flows.pipeline import run
from flows.sinks.base import Sink
from flows.sinks.base import Target
from flows.work import Outcome
from flows.work import Workshop
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_COUNTER = iter(range(1, 1_000_000))


class Shelf(Sink):
    """A destination in memory that upserts by key."""

    name = "shelf"
    label = "Shelf"

    def __init__(self, rows: dict[tuple[Any, ...], Row]) -> None:
        super().__init__({}, Target("shelf"))
        self.rows = rows

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        new = 0
        for row in table.to_pylist():
            key = tuple(row[name] for name in schema.key)
            new += key not in self.rows
            self.rows[key] = row
        return Counts(new=new, unchanged=table.num_rows - new)


@dataclass
class Bench:
    """A source of a stand-in with all that running it takes; `rows` is what was delivered, by key."""

    stand_in: StandIn
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] | None = None
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    slept: list[float] = field(default_factory=list)
    number: int = field(default_factory=lambda: next(_COUNTER))

    def extractor(self, schema: str) -> BaseHistoricalExtractor:
        """Return the vendor's extractor, pointed at the stand-in."""
        keys = self.stand_in.keys if self.keys is None else self.keys
        environ = {f"VENDOR_{ending}": value for ending, value in keys.items()}
        options = {**self.stand_in.options(schema), "first_pause": 0.01, **self.options}
        name = self.stand_in.vendor
        facts = SourceFacts(self.number, f"{name}-{self.number}", name, options, "VENDOR")
        vendor = registry.extractor(name)
        made: BaseHistoricalExtractor = vendor(facts, Context((), environ))
        return made

    def job(self, schema: str, symbols: list[str], start: datetime, end: datetime) -> Job:
        """Return a job for some of the vendor's symbols."""
        source = self.extractor(schema).source
        instruments = tuple(
            InstrumentFacts(
                number,
                InstrumentName(source.name, self.stand_in.asset_class, symbol),
                (SymbolInterval(symbol),),
                start,
                end,
            )
            for number, symbol in enumerate(symbols, start=1)
        )
        everything = Rule(frozenset(instrument.id for instrument in instruments))
        return Job(source, schema, instruments, (RouteFacts(1, "shelf", "shelf", {}, (everything,)),))

    def run(self, job: Job, progress: Callable[[str, int], None] = lambda what, count: None) -> Outcome:
        """Run a job; pauses are noted, not slept."""
        kit = Workshop(
            self.extractor(job.schema),
            Landing(self.folder),
            self.ledger,
            lambda route, ids: Shelf(self.rows),
            progress,
            sleep=self.slept.append,
        )
        return run(job, kit)

    def stored(self, schema: str, symbol: str) -> list[Row]:
        """Return the delivered rows of a symbol, in order of key."""
        declared = schema_called(schema)
        mine = [row for row in self.rows.values() if row["instrument"].endswith(f":{_encoded(symbol)}")]
        return sorted(mine, key=lambda row: tuple(row[name] for name in declared.key))


def _encoded(symbol: str) -> str:
    return str(InstrumentName("s", "equity", symbol)).split(":")[2]


def matches(stored: list[Row], truth: list[Row]) -> bool:
    """Whether the delivered rows are the right ones: as many, in order, equal in every column that the truth names."""
    if len(stored) != len(truth):
        return False
    return all({name: row.get(name) for name in right} == right for row, right in zip(stored, truth, strict=True))
