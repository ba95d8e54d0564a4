"""Writes one delivery: collects refined batches until a write is worth it, then writes and moves the cursor."""

import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final

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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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
        #: of the sink's rows that the ledger does not have yet
        self.written = Counts()
        #: when the first of what waits was taken, by a monotonic clock
        self.waiting_since: float | None = None

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
            superseded=batch.superseded,
        )
        if selected.num_rows:
            self.waiting.append((batch.schema, selected))
            self.rows += selected.num_rows
        self.cursor = batch.cursor
        if self.waiting_since is None:
            self.waiting_since = time.monotonic()
        if self.rows >= self.batch_rows:
            self.flush()

    def flush(self, *, settle: bool = True) -> None:
        """Write what waits; rows and cursor become durable together, or the rows first.

        Without `settle` the ledger is told later, where it is not told in the rows' own transaction: a crash in
        between delivers them once more.
        """
        if self.cursor == self.delivery.cursor and not self.waiting:
            return
        shared = self.sink.shares_ledger
        with self.sink.unit():
            self._announce()
            written = self.written
            for schema, table in _together(self.waiting):
                for piece, replaced in self._by_precedence(schema, table):
                    written += self.sink.write(schema, piece, replace=replaced)
            if shared:
                self._advance(written)
        if not shared:
            # whoever looked since the first time has not seen these rows
            self._announce()
        self.waiting = []
        self.rows = 0
        self.waiting_since = None
        self.written = written
        if shared or settle:
            if not shared:
                self._advance(written)
            self.total += self._tally(written)
            self.delivery = replace(self.delivery, cursor=self.cursor)
            self.tally = Tally()
            self.written = Counts()

    def _announce(self) -> None:
        """Tell the ledger from when on rows of a home change."""
        if not self.route.home:
            return
        for schema, table in self.waiting:
            times = table.select([INSTRUMENT]).append_column("at", table[schema.time].cast(pa.int64()))
            earliest = times.group_by(INSTRUMENT).aggregate([("at", "min")])
            since = {
                self.ids[name]: _EPOCH + timedelta(microseconds=at // 1000)
                for name, at in zip(earliest[INSTRUMENT].to_pylist(), earliest["at_min"].to_pylist(), strict=True)
            }
            self.workshop.ledger.changing(self.route, schema.name, self.delivery.fetch, since)

    def _tally(self, written: Counts) -> Tally:
        return self.tally + Tally(
            new=written.new, updated=written.updated, unchanged=written.unchanged, superseded=written.superseded
        )

    def _advance(self, written: Counts) -> None:
        tally = self._tally(written)
        if tally.settled != tally.parsed:
            raise AssertionError(f"{self.route.destination}: {tally} does not add up")
        self.workshop.ledger.advance(self.delivery, self.cursor, tally)

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
                kind = self.route.extractor_type
                mask = pc.and_(mask, conditions.select(rule.condition, schema, table, extractor_type=kind))
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
        whole = pa.concat_tables(tables).unify_dictionaries()
        if _distinct(schema, tables, whole):
            yield schema, whole
        else:
            for table in tables:
                yield schema, table


def _distinct(schema: Schema, tables: Sequence[pa.Table], whole: pa.Table) -> bool:
    """Whether no key is in two of some tables. Only rows are looked at whose time is in two of them."""
    times = np.asarray(whole[schema.time].cast(pa.int64()).to_numpy())
    owners = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    order = np.argsort(times, kind="stable")
    times, owners = times[order], owners[order]
    starts = np.flatnonzero(np.r_[True, times[1:] != times[:-1]])
    several = np.minimum.reduceat(owners, starts) != np.maximum.reduceat(owners, starts)
    if not several.any():
        return True
    shared = np.repeat(several, np.diff(np.r_[starts, len(times)]))
    key = list(schema.key)
    keys = whole.select(key).take(pa.array(order[shared]))
    return bool(keys.group_by(key, use_threads=False).aggregate([]).num_rows == keys.num_rows)
