from collections.abc import Iterable
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from django.db import connection
from django.db import transaction
from django.test.utils import CaptureQueriesContext

from catalog.marketdata.models import MODELS
from catalog.marketdata.store import Store
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.job import EARLIEST
from flows.job import LATEST
from tests.flows.sinks.rows import AAPL
from tests.flows.sinks.rows import DAYS
from tests.flows.sinks.rows import IDS
from tests.flows.sinks.rows import MINUTES
from tests.flows.sinks.rows import NS
from tests.flows.sinks.rows import START
from tests.flows.sinks.rows import TRADES
from tests.flows.sinks.rows import at
from tests.flows.sinks.rows import minutes
from tests.flows.sinks.rows import table

NUMBER = IDS[AAPL]
NAMES = {NUMBER: AAPL}
DAY = timedelta(days=1)


def values(sql: str, *params: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def locks() -> int:
    return int(values("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")[0][0])


def daily_ticks(numbers: Iterable[int]) -> pa.Table:
    return table(TRADES, [{"ts_event": at(START + number * DAY), "sequence": number} for number in numbers])


def test_what_is_written_is_seen_by_the_orm_and_rolled_back_with_it(database: str) -> None:
    model = MODELS["ohlcv-1m"]
    with transaction.atomic():
        Store().write(MINUTES, minutes(["1.000000000000000001"], volume=Decimal("1e-10"), vwap=0), IDS)
        row = model.objects.get()
        assert row.instrument_id == NUMBER
        assert row.ts_event == START
        assert (row.close, row.volume, row.vwap) == (Decimal("1.000000000000000001"), Decimal("1e-10"), 0)
        transaction.set_rollback(True)
    assert not model.objects.exists()


def test_the_orm_writes_what_the_store_writes(database: str) -> None:
    """Same texts in SQLite: the store then finds nothing to change."""
    model = MODELS["ohlcv-1m"]
    for offset in (timedelta(0), timedelta(microseconds=1), timedelta(days=-30_000, microseconds=10)):
        prices = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal("1E-10"))
        model.objects.create(instrument_id=NUMBER, ts_event=START + offset, venue="", vwap=0, fetch_id=1, **prices)
        row = {name: Decimal("1E-10") for name in prices} | {"ts_event": at(START + offset), "vwap": 0}
        assert Store().write(MINUTES, table(MINUTES, [row]), IDS) == Counts(unchanged=1)


def test_rows_of_a_new_time_go_straight_in_and_the_others_through_a_stage(database: str) -> None:
    store = Store()
    store.write(TRADES, table(TRADES, [{"ts_event": number * NS} for number in range(5)]), IDS)
    overlapping = table(TRADES, [{"ts_event": number * NS} for number in range(4, 9)])
    with CaptureQueriesContext(connection) as queries:
        assert store.write(TRADES, overlapping, IDS) == Counts(new=4, unchanged=1)
    staged = values("SELECT count(*) FROM stage_trades")
    if connection.vendor == "sqlite":
        # on PostgreSQL the stage is emptied by the commit, which the test never does
        assert staged == [(1,)]
    assert any("NOT EXISTS" in query["sql"] for query in queries)
    with CaptureQueriesContext(connection) as queries:
        assert store.write(TRADES, table(TRADES, [{"ts_event": 10 * NS}]), IDS) == Counts(new=1)
    assert not any("stage" in query["sql"] for query in queries)


def test_reading_works_where_queries_are_recorded(database: str) -> None:
    """With DEBUG Django wraps its cursors, and the wrapper's `copy` takes no parameters."""
    Store().write(MINUTES, minutes([1]), IDS)
    with CaptureQueriesContext(connection):
        assert Store().read(MINUTES, NAMES, EARLIEST, LATEST).num_rows == 1


@pytest.mark.parametrize("database", ["timescale"], indirect=True)
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=tuple(SCHEMAS))
def test_every_table_is_a_hypertable_with_the_declared_chunk_and_its_key_alone(database: str, schema: Schema) -> None:
    name = MODELS[schema.name]._meta.db_table
    assert values(
        "SELECT column_name, time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = %s", name
    ) == [(schema.time, schema.chunk)]
    assert values("SELECT indexname FROM pg_indexes WHERE tablename = %s", name) == [(f"{name}_pkey",)]
    Store().write(schema, table(schema, [{schema.time: 0}, {schema.time: int(schema.chunk.total_seconds()) * NS}]), IDS)
    chunks = values(
        "SELECT range_end - range_start FROM timescaledb_information.chunks WHERE hypertable_name = %s", name
    )
    assert chunks == [(schema.chunk,)] * 2


def test_sixty_years_of_days_go_in_at_once(database: str) -> None:
    first = datetime(1960, 1, 1, tzinfo=UTC)
    times = pa.array([at(first + number * DAY) for number in range(21_900)], pa.int64()).cast(NANOSECONDS)
    one = table(DAYS, [{"ts_event": 0}])
    written = one.take(pa.array([0] * len(times))).set_column(1, one.schema.field(1), times)
    store = Store()
    assert store.write(DAYS, written, IDS) == Counts(new=21_900)
    assert store.write(DAYS, written, IDS) == Counts(unchanged=21_900)
    assert store.read(DAYS, NAMES, EARLIEST, LATEST)["ts_event"].combine_chunks().equals(times)


@pytest.mark.parametrize("database", ["timescale"], indirect=True)
def test_no_statement_locks_all_chunks_of_years_of_ticks(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.marketdata.store._MAX_CHUNKS", 10)
    store = Store()
    ids = IDS | {"vendor:equity:OLD": 99}
    for part in range(4):
        store.write(TRADES, daily_ticks(range(15 * part, 15 * part + 15)), IDS)
    old = table(TRADES, [{INSTRUMENT: "vendor:equity:OLD", "ts_event": at(START)}])
    store.write(TRADES, old, ids)
    last = START + 59 * DAY
    assert store.tail(TRADES, NUMBER, LATEST, 3) == START + 57 * DAY
    assert store.tail(TRADES, NUMBER, LATEST, 1000) == START
    assert store.tail(TRADES, 99, LATEST, 1) == START
    assert store.extents(TRADES, [NUMBER, 99], EARLIEST, LATEST) == {NUMBER: (START, last, 60), 99: (START, START, 1)}
    found = store.read(TRADES, NAMES | {99: "vendor:equity:OLD"}, EARLIEST, LATEST)
    assert found["sequence"].to_pylist() == [*range(60), 0]
    assert found[INSTRUMENT].to_pylist() == [AAPL] * 60 + ["vendor:equity:OLD"]
    assert store.delete(TRADES, NUMBER, START + DAY, START + 3 * DAY) == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["timescale"], indirect=True)
def test_deleting_and_revising_lock_only_the_chunks_concerned(database: str) -> None:
    store = Store()
    store.write(TRADES, daily_ticks(range(60)), IDS)
    with transaction.atomic():
        assert store.delete(TRADES, NUMBER, START, START + DAY) == 1
        assert locks() < 60
    bars = table(MINUTES, [{"ts_event": at(START + 30 * number * DAY)} for number in range(60)])
    store.write(MINUTES, bars, IDS)
    with transaction.atomic():
        assert store.write(MINUTES, minutes([7], fetch=2), IDS) == Counts(updated=1)
        assert locks() < 60


def test_reading_in_no_order_gives_the_same_rows(database: str) -> None:
    store = Store()
    store.write(MINUTES, minutes([1, 2, 3]), IDS)
    ordered = store.read(MINUTES, NAMES, EARLIEST, LATEST)
    assert store.read(MINUTES, NAMES, EARLIEST, LATEST, order=False).sort_by("ts_event").equals(ordered)
