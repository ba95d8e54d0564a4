"""Stores the indicators that series ask for, following their bars fetch by fetch.

A cursor for each (indicator, instrument, destination) names the last fetch whose rows it has seen. What is
newer makes the values be computed again from the first changed bar on, so a revised bar is followed by
every value that depends on it; unchanged values are not written.
"""

from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from django.db.models import Max
from django.db.models import Min

from catalog.models import Coverage
from catalog.models import Indicator
from catalog.models import IndicatorCursor
from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas import schema as schema_called
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import RouteFacts
from flows.job import StoredChain
from flows.query import refuse_several_venues
from flows.query import warm_start
from flows.sinks.base import ReadableSink
from flows.work import Outcome
from flows.work import Tally
from flows.workshops import open_sink
from transforms.base import BaseTransformer

_INDICATORS: Final = SCHEMAS["indicators"]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Pending:
    """One instrument whose bars moved on: values are due from `since`, seen `through` this fetch."""

    instrument: InstrumentFacts
    cursors: list[IndicatorCursor]
    seen: int
    through: int
    since: datetime


def store_indicators(job: Job) -> Outcome:
    """Bring the stored indicators of a job up to its stored bars, at each route's home."""
    outcome = Outcome()
    if not job.chains:
        return outcome
    from transforms.registry import make

    for route in job.routes:
        if not route.home:
            continue
        opened = open_sink(route, {str(instrument.name): instrument.id for instrument in job.instruments})
        if not isinstance(opened, ReadableSink):
            continue
        with opened as sink:
            for chain in job.chains:
                transformer = make(chain.chain)
                indicators = [
                    Indicator.objects.get_or_create(chain=label, input_schema=job.schema, version=1)[0]
                    for label in transformer.labels
                ]
                for pending in _pending(job, route, chain, indicators):
                    tally = _store(sink, job, transformer, indicators, pending)
                    name = f"{route.destination} (indicators)"
                    outcome.tallies[name] = outcome.tallies.get(name, Tally()) + tally
    return outcome


def _pending(job: Job, route: RouteFacts, chain: StoredChain, indicators: list[Indicator]) -> list[_Pending]:
    concerned = chain.instruments & route.home
    instruments = {instrument.id: instrument for instrument in job.instruments if instrument.id in concerned}
    complete = Coverage.objects.filter(
        fetch__source_id=job.source.id, fetch__schema=job.schema, fetch__complete=True
    ).order_by()
    newest = dict(complete.values_list("instrument_id").annotate(Max("fetch_id")))
    known = {
        (cursor.indicator_id, cursor.instrument_id): cursor
        for cursor in IndicatorCursor.objects.filter(
            indicator__in=indicators, destination_id=route.destination_id, instrument__source_id=job.source.id
        )
    }
    pending = []
    for number, instrument in sorted(instruments.items()):
        if number not in newest:
            continue
        cursors = [
            known.get((indicator.pk, number))
            or IndicatorCursor(indicator=indicator, instrument_id=number, destination_id=route.destination_id)
            for indicator in indicators
        ]
        seen = min(cursor.fetch_id for cursor in cursors)
        if seen >= newest[number]:
            continue
        since = EARLIEST
        if seen:
            first = complete.filter(instrument=number, fetch_id__gt=seen).aggregate(Min("start"))["start__min"]
            since = max(first, EARLIEST)
        pending.append(_Pending(instrument, cursors, seen, newest[number], since))
    return pending


def _store(
    sink: ReadableSink, job: Job, transformer: BaseTransformer, indicators: list[Indicator], pending: _Pending
) -> Tally:
    schema, name = schema_called(job.schema), str(pending.instrument.name)
    start = warm_start(sink, schema, name, pending.since, transformer)
    # resampling sums volumes and so needs decimals; indicators are float64 anyway
    bars = sink.read(schema, [name], start, LATEST, exact=bool(transformer.warmup_timeframe))
    refuse_several_venues(bars, name)
    changed = bars.filter(pc.greater(bars[FETCH_ID], pending.seen))
    written = Tally()
    with sink.unit():
        if changed.num_rows:
            first = pc.min(pc.cast(changed[schema.time], pa.int64())).as_py()
            since = max(pending.since, _EPOCH + timedelta(microseconds=first // 1000))
            rows = _rows(transformer.transform(bars), indicators, name, since, pending.through)
            counts = sink.write(_INDICATORS, rows)
            written = Tally(rows.num_rows, counts.new, counts.updated, counts.unchanged, 0, counts.superseded)
        if sink.shares_ledger:
            _move(pending)
    if not sink.shares_ledger:
        _move(pending)
    return written


def _move(pending: _Pending) -> None:
    for cursor in pending.cursors:
        cursor.fetch_id = pending.through
        cursor.save()


def _rows(values: pa.Table, indicators: list[Indicator], name: str, since: datetime, fetch_id: int) -> pa.Table:
    """Return the values from `since` on as rows of schema `indicators`; those inside a warm-up have none."""
    inside = values.filter(pc.greater_equal(values.column(0), pa.scalar(since, pa.timestamp("us", "UTC"))))
    parts = []
    for position, indicator in enumerate(indicators, start=1):
        column = inside.column(position)
        kept = pc.is_valid(column)
        times = inside.column(0).filter(kept)
        parts.append(
            pa.table(
                {
                    INSTRUMENT: pa.repeat(name, len(times)).dictionary_encode(),
                    "ts_event": times,
                    "indicator_id": pa.repeat(pa.scalar(indicator.pk, INT32), len(times)),
                    "value": column.filter(kept).cast(FLOAT64),
                    FETCH_ID: pa.repeat(pa.scalar(fetch_id, INT64), len(times)),
                }
            ).cast(_INDICATORS.arrow)
        )
    joined = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return joined.sort_by([("ts_event", "ascending"), ("indicator_id", "ascending")])
