"""Writes one delivery: collects refined batches until a write is worth it, then writes and moves the cursor."""

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import conditions
from catalog.schemas import INSTRUMENT
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.job import RouteFacts
from flows.sinks.base import Sink
from flows.symbols import nanoseconds
from flows.work import DeliveryRef
from flows.work import RefinedBatch
from flows.work import Tally
from flows.work import Workshop


class Writer:
    """Collects the batches of one delivery until a write is worth it, then writes and moves the cursor."""

    def __init__(
        self,
        delivery: DeliveryRef,
        route: RouteFacts,
        workshop: Workshop,
        ids: dict[str, int],
        confirmed: dict[int, list[tuple[datetime, datetime]]],
    ) -> None:
        self.delivery = delivery
        self.route = route
        self.sink: Sink
        self.workshop = workshop
        self.ids = ids
        self.confirmed = confirmed
        self.batch_rows = route.batch_rows
        self.waiting: list[tuple[Schema, pa.Table]] = []
        self.rows = 0
        self.cursor = delivery.cursor
        self.tally = Tally()
        self.total = Tally()

    def open(self, stack: ExitStack) -> None:
        """Open the route's sink."""
        self.sink = stack.enter_context(self.workshop.open_sink(self.route, self.ids))
        self.batch_rows = self.route.batch_rows or self.sink.batch_rows

    def finish(self) -> None:
        """Write the rest and mark the delivery delivered."""
        self.flush()
        self.workshop.ledger.finish(self.delivery)

    def take(self, batch: RefinedBatch) -> None:
        """Accept the next batch; batches before the cursor were written by an earlier run."""
        if batch.number < self.delivery.cursor:
            return
        selected = self._select(batch.schema, batch.accepted)
        if self.rows and self.rows + selected.num_rows > self.batch_rows:
            self.flush()
        self.tally += Tally(
            parsed=batch.parsed,
            duplicate=batch.duplicates,
            filtered=batch.filtered + batch.accepted.num_rows - selected.num_rows,
            quarantined=batch.rejected.num_rows,
            rounded=batch.rounded,
        )
        if selected.num_rows:
            self.waiting.append((batch.schema, selected))
            self.rows += selected.num_rows
        self.cursor = batch.number + 1
        if self.rows >= self.batch_rows:
            self.flush()

    def flush(self) -> None:
        """Write what waits; rows and cursor become durable together, or the rows first."""
        if self.cursor == self.delivery.cursor and not self.waiting:
            return
        with self.sink.unit():
            written = Counts()
            for schema, table in _together(self.waiting):
                for piece, replaced in self._by_precedence(schema, table):
                    written += self.sink.write(schema, piece, replace=replaced)
            tally = self.tally + Tally(
                new=written.new,
                updated=written.updated,
                unchanged=written.unchanged,
                superseded=written.superseded,
            )
            if tally.settled != tally.parsed:
                raise AssertionError(f"{self.route.destination}: {tally} does not add up")
            if self.sink.shares_ledger:
                self.workshop.ledger.advance(self.delivery, self.cursor, tally)
        if not self.sink.shares_ledger:
            self.workshop.ledger.advance(self.delivery, self.cursor, tally)
        self.total += tally
        self.delivery = replace(self.delivery, cursor=self.cursor)
        self.tally = Tally()
        self.waiting = []
        self.rows = 0

    def _select(self, schema: Schema, table: pa.Table) -> pa.Table:
        """Keep the rows that some rule of the route lets through."""
        if not table.num_rows:
            return table
        everything = frozenset(self.ids.values())
        if any(not rule.condition and rule.instruments >= everything for rule in self.route.rules):
            return table
        keep = pa.array(np.zeros(table.num_rows, bool))
        instrument = table[INSTRUMENT].combine_chunks()
        instrument = instrument.chunk(0) if isinstance(instrument, pa.ChunkedArray) else instrument
        names = instrument.dictionary.to_pylist()
        for rule in self.route.rules:
            member = pa.array([self.ids.get(name) in rule.instruments for name in names], pa.bool_())
            mask = member.take(instrument.indices)
            if rule.condition:
                mask = pc.and_(mask, conditions.select(rule.condition, schema, table))
            keep = pc.or_(keep, mask)
        return table.filter(keep)

    def _by_precedence(self, schema: Schema, table: pa.Table) -> Iterator[tuple[pa.Table, bool]]:
        """Split off the rows a later complete fetch has confirmed: a replay does not replace them."""
        if not self.confirmed:
            yield table, True
            return
        instrument = table[INSTRUMENT].combine_chunks()
        instrument = instrument.chunk(0) if isinstance(instrument, pa.ChunkedArray) else instrument
        ids = pa.array([self.ids[name] for name in instrument.dictionary.to_pylist()], pa.int64())
        numbers = ids.take(instrument.indices).to_numpy()
        times = table[schema.time].cast(pa.int64()).to_numpy()
        late = np.zeros(table.num_rows, bool)
        for number, windows in self.confirmed.items():
            for start, end in windows:
                late |= (numbers == number) & (times >= nanoseconds(start)) & (times < nanoseconds(end))
        for mask, replaced in ((~late, True), (late, False)):
            if mask.any():
                yield table.filter(pa.array(mask)), replaced


def _together(waiting: Iterable[tuple[Schema, pa.Table]]) -> Iterator[tuple[Schema, pa.Table]]:
    """Join tables of one schema that have no key in common in two of them; else keep the vendor's order."""
    joined: dict[str, tuple[Schema, list[pa.Table]]] = {}
    for schema, table in waiting:
        joined.setdefault(schema.name, (schema, []))[1].append(table)
    for schema, tables in joined.values():
        if len(tables) == 1:
            yield schema, tables[0]
            continue
        spans = sorted(_span(schema, table) for table in tables)
        if all(before[1] < after[0] for before, after in pairwise(spans)):
            yield schema, pa.concat_tables(tables).unify_dictionaries()
        else:
            for table in tables:
                yield schema, table


def _span(schema: Schema, table: pa.Table) -> tuple[int, int]:
    bounds = pc.min_max(table[schema.time].cast(pa.int64())).as_py()
    return bounds["min"], bounds["max"]
