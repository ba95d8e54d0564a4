"""What every destination keeps: a kind is under this contract by being in the registry.

`OPTIONS` lists the options to run a kind with, where its defaults are not all there is to test.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest
from django.db import connections
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows import registry
from flows.job import EARLIEST
from flows.job import LATEST
from flows.sinks.base import ReadableSink
from flows.sinks.base import Target
from tests.flows.sinks.rows import AAPL
from tests.flows.sinks.rows import DAYS
from tests.flows.sinks.rows import IBM
from tests.flows.sinks.rows import IDS
from tests.flows.sinks.rows import MINUTES
from tests.flows.sinks.rows import NS
from tests.flows.sinks.rows import START
from tests.flows.sinks.rows import STATISTICS
from tests.flows.sinks.rows import TRADES
from tests.flows.sinks.rows import Model
from tests.flows.sinks.rows import at
from tests.flows.sinks.rows import minutes
from tests.flows.sinks.rows import rows_of
from tests.flows.sinks.rows import table

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "file": [{"format": "parquet"}, {"format": "csv"}, {"format": "csv", "gzip": True}, {"format": "jsonl"}],
}
DATABASES = {"database": ["sqlite", "timescale"]}

LARGEST = Decimal("99999999999999999999.999999999999999999")
SMALLEST = Decimal("0.000000000000000001")
ODD_TEXTS = [
    "",
    " ",
    '"',
    '""',
    ",",
    "a\nb\r\n",
    "=cmd|' /C calc'!A0",
    "NULL",
    "null",
    "\\N",
    "\\",
    "é",
    "😀",
    "\u2028",
]
# the first and the last there are, and those around the epoch
ODD_TIMES = [at(EARLIEST), -(10**18) - 1, -1001, -1000, -999, -1, 0, 1, 999, 10**18 + 123_456_789, at(LATEST) - 1]
# by a whole instrument's name apart: nothing is cleaned between the examples of one test
numbers = count(1000)


@dataclass
class Opened:
    """A kind with its options, on this test's database and in this test's folder."""

    kind: str
    options: dict[str, Any]
    root: Path

    def __call__(self, ids: Mapping[str, int] = IDS) -> ReadableSink:
        made: ReadableSink = registry.sink(self.kind)(self.options, Target("contract", ids, self.root))
        return made


def cases() -> Iterator[Any]:
    """Every kind with its options and its databases."""
    for kind in sorted(registry.sinks()):
        for options in OPTIONS.get(kind, [{}]):
            for database in DATABASES.get(kind, ["sqlite"]):
                words = [kind, *(name if value is True else value for name, value in options.items())]
                words += [database] if kind in DATABASES else []
                yield pytest.param((kind, options), database, id="-".join(words))


@pytest.mark.parametrize(("case", "database"), tuple(cases()), indirect=["database"])
class SinkContract:
    """The tests; a subclass in a test module runs them."""

    @pytest.fixture
    def opened(self, case: tuple[str, dict[str, Any]], database: str, db: None, tmp_path: Path) -> Opened:
        return Opened(*case, tmp_path / "exports")

    def test_second_write_of_same_rows_changes_nothing(self, opened: Opened) -> None:
        for schema, written in ((MINUTES, minutes(["1.5", "2", "3"])), (TRADES, table(TRADES, [{"ts_event": 5}]))):
            with opened() as sink:
                assert sink.write(schema, written) == Counts(new=written.num_rows)
                before = everything(sink, schema)
                assert sink.write(schema, written) == Counts(unchanged=written.num_rows)
                assert everything(sink, schema).equals(before)

    def test_writing_no_rows_does_nothing(self, opened: Opened) -> None:
        with opened() as sink:
            assert sink.write(MINUTES, MINUTES.arrow.empty_table()) == Counts()
            assert everything(sink, MINUTES).num_rows == 0

    @pytest.mark.parametrize("schema", tuple(SCHEMAS.values()), ids=tuple(SCHEMAS))
    def test_every_schema_comes_back_as_it_was_written(self, opened: Opened, schema: Schema) -> None:
        rows = [{schema.time: -86_400 * NS * 4}, {schema.time: 86_400 * NS * 31}]
        written = table(schema, [row | {INSTRUMENT: name} for row in rows for name in (AAPL, IBM)])
        with opened() as sink:
            assert sink.write(schema, written) == Counts(new=4)
            found = everything(sink, schema, AAPL, IBM)
        assert found.cast(schema.arrow).schema == schema.arrow
        assert sorted(rows_of(found)) == sorted(rows_of(written))

    def test_numbers_come_back_to_the_last_digit(self, opened: Opened) -> None:
        values = [
            LARGEST, LARGEST.copy_negate(), SMALLEST, -SMALLEST, Decimal(0), Decimal("-37.63"), Decimal("0.1"),
            Decimal("1e-7"), Decimal("1e-10"), Decimal("100"), Decimal("1000000"), Decimal("1234567890.123456789"),
        ]  # fmt: skip
        written = minutes(values, trade_count=2**62, vwap=LARGEST)
        with opened() as sink:
            sink.write(MINUTES, written)
            found = everything(sink, MINUTES)
            floats = sink.read(MINUTES, [AAPL], EARLIEST, LATEST)
        assert found["close"].to_pylist() == values
        assert set(found["vwap"].to_pylist()) == {LARGEST}
        assert set(found["trade_count"].to_pylist()) == {2**62}
        assert floats["close"].to_pylist() == [float(value) for value in values]

    def test_times_come_back_to_the_nanosecond(self, opened: Opened) -> None:
        written = table(TRADES, [{"ts_event": time, "ts_recv": time} for time in ODD_TIMES])
        with opened() as sink:
            assert sink.write(TRADES, written) == Counts(new=len(ODD_TIMES))
            found = everything(sink, TRADES)
            assert sink.write(TRADES, written) == Counts(unchanged=len(ODD_TIMES))
        assert found["ts_event"].cast(pa.int64()).to_pylist() == ODD_TIMES
        assert found["ts_recv"].cast(pa.int64()).to_pylist() == ODD_TIMES

    def test_texts_and_nulls_come_back(self, opened: Opened) -> None:
        texts = [*ODD_TEXTS, None]
        written = table(
            STATISTICS,
            [{"ts_event": number, "statistic": "s", "value_text": text} for number, text in enumerate(texts)],
        )
        with opened() as sink:
            sink.write(STATISTICS, written)
            found = everything(sink, STATISTICS)
            assert sink.write(STATISTICS, written) == Counts(unchanged=len(texts))
        assert found["value_text"].to_pylist() == texts
        assert found["price"].null_count == found["ts_ref"].null_count == len(texts)

    def test_odd_texts_are_keys_too(self, opened: Opened) -> None:
        texts = sorted(ODD_TEXTS, key=str.encode)
        written = table(TRADES, [{"ts_event": 1, "trade_id": text, "venue": text} for text in texts])
        with opened() as sink:
            assert sink.write(TRADES, written) == Counts(new=len(texts))
            assert sink.write(TRADES, written) == Counts(unchanged=len(texts))
            assert everything(sink, TRADES)["trade_id"].to_pylist() == texts

    def test_reading_gives_the_columns_asked_for_and_the_key(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2]))
            found = sink.read(MINUTES, [AAPL], EARLIEST, LATEST, columns=["close", "fetch_id"])
            whole = sink.read(MINUTES, [AAPL], EARLIEST, LATEST)
        assert found.column_names == [INSTRUMENT, "ts_event", "venue", "close", "fetch_id"]
        assert whole.column_names == MINUTES.arrow.names
        assert whole.select(found.column_names).equals(found)

    @pytest.mark.parametrize("exact", [True, False])
    def test_reading_nothing_gives_the_same_types(self, opened: Opened, exact: bool) -> None:
        with opened() as sink:
            sink.write(TRADES, table(TRADES, [{"ts_event": 1}]))
            found = sink.read(TRADES, [AAPL, IBM], EARLIEST, LATEST, exact=exact)
            nothing = sink.read(TRADES, [IBM], EARLIEST, LATEST, exact=exact)
        assert nothing.num_rows == 0
        assert nothing.schema == found.schema
        expected = [kind if exact or kind != DECIMAL else pa.float64() for kind in TRADES.arrow.types]
        assert found.schema.types == expected
        assert found[INSTRUMENT].combine_chunks().dictionary.to_pylist() == [AAPL]

    def test_later_fetch_revises_and_an_older_one_does_not(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2, 3], fetch=2))
            assert sink.write(MINUTES, minutes([1, 9, 3, 4], fetch=3)) == Counts(1, 1, 2, 0)
            found = everything(sink, MINUTES)
            assert found["close"].to_pylist() == [1, 9, 3, 4]
            # a row that says the same keeps the fetch that brought it
            assert found["fetch_id"].to_pylist() == [2, 3, 2, 3]
            assert sink.write(MINUTES, minutes([5, 5, 3], fetch=1)) == Counts(superseded=3)
            assert sink.write(MINUTES, minutes([6, 6], fetch=2)) == Counts(updated=1, superseded=1)
            assert everything(sink, MINUTES)["close"].to_pylist() == [6, 9, 3, 4]

    def test_null_does_not_replace_a_value(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2], volume=5))
            assert sink.write(MINUTES, minutes([1, 3], fetch=2, vwap=4)) == Counts(updated=2)
            found = everything(sink, MINUTES)
            assert sink.write(MINUTES, minutes([1, 3], fetch=3)) == Counts(unchanged=2)
        assert found["volume"].to_pylist() == [5, 5]
        assert found["vwap"].to_pylist() == [4, 4]
        assert found["close"].to_pylist() == [1, 3]

    def test_without_replace_stored_rows_stay(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2], fetch=1))
            assert sink.write(MINUTES, minutes([1, 9, 3], fetch=2), replace=False) == Counts(1, 0, 1, 1)
            assert everything(sink, MINUTES)["close"].to_pylist() == [1, 2, 3]

    @pytest.mark.parametrize("replace", [True, False])
    def test_ticks_never_change(self, opened: Opened, replace: bool) -> None:
        with opened() as sink:
            sink.write(TRADES, table(TRADES, [{"ts_event": 5, "price": 1}]))
            later = table(TRADES, [{"ts_event": 5, "price": 2, "fetch_id": 2}, {"ts_event": 6, "fetch_id": 2}])
            assert sink.write(TRADES, later, replace=replace) == Counts(new=1, unchanged=1)
            assert everything(sink, TRADES)["price"].to_pylist() == [1, 1]

    def test_ticks_that_repeat_are_all_kept_and_sorted_by_key(self, opened: Opened) -> None:
        rows = [
            {"ts_event": 7, "trade_id": "b", "ordinal": 1}, {"ts_event": 7, "trade_id": "b"},
            {"ts_event": 7, "trade_id": "a"}, {"ts_event": 7, "sequence": 2}, {"ts_event": 7, "sequence": 1},
            {"ts_event": 7, "venue": "X"}, {"ts_event": 6, "venue": "Z"},
        ]  # fmt: skip
        written = table(TRADES, rows)
        with opened() as sink:
            assert sink.write(TRADES, written) == Counts(new=7)
            assert sink.write(TRADES, written) == Counts(unchanged=7)
            found = everything(sink, TRADES)
        model = Model(TRADES)
        model.write(written, replace=True)
        assert rows_of(found) == model.rows(IDS)

    def test_instruments_and_years_of_one_batch_are_kept_apart(self, opened: Opened) -> None:
        days = [datetime(year, month, 1, tzinfo=UTC) for year in range(1962, 2022) for month in (1, 6, 12)]
        rows = [
            {INSTRUMENT: name, "ts_event": at(day), "close": number}
            for number, day in enumerate(days)
            for name in (AAPL, IBM)
        ]
        with opened() as sink:
            assert sink.write(DAYS, table(DAYS, rows)) == Counts(new=len(rows))
            found = everything(sink, DAYS, AAPL, IBM)
            assert everything(sink, DAYS, IBM)["close"].to_pylist() == list(range(len(days)))
        # by the number of the instrument
        assert found[INSTRUMENT].to_pylist() == [IBM] * len(days) + [AAPL] * len(days)
        assert found["ts_event"].to_pylist() == days * 2

    def test_many_instruments_in_one_batch(self, opened: Opened) -> None:
        ids = {f"vendor:equity:S{number}": number for number in range(1, 71)}
        written = table(DAYS, [{INSTRUMENT: name, "ts_event": 0, "close": number} for name, number in ids.items()])
        with opened(ids) as sink:
            assert sink.write(DAYS, written) == Counts(new=70)
            assert sink.write(DAYS, written) == Counts(unchanged=70)
            assert sink.read(DAYS, list(ids), EARLIEST, LATEST)["close"].to_pylist() == list(range(1, 71))

    def test_rows_between_and_around_the_stored_ones_are_new(self, opened: Opened) -> None:
        with opened() as sink:
            for start, closes, expected in [
                (10, [1, 2, 3], Counts(new=3)), (20, [4], Counts(new=1)), (0, [5], Counts(new=1)),
                (11, [9, 3, 6], Counts(1, 1, 1, 0)), (30, [7], Counts(new=1)), (19, [8, 4, 8], Counts(2, 0, 1, 0)),
            ]:  # fmt: skip
                written = minutes(closes, fetch=2, start=START + timedelta(minutes=start))
                assert sink.write(MINUTES, written) == expected
            assert everything(sink, MINUTES)["close"].to_pylist() == [5, 1, 9, 3, 6, 8, 4, 8, 7]

    def test_window_holds_its_start_and_not_its_end(self, opened: Opened) -> None:
        start, microsecond = START, timedelta(microseconds=1)
        with opened() as sink:
            sink.write(TRADES, table(TRADES, [{"ts_event": at(start) + offset} for offset in (-1, 0, 999, 1000)]))
            for low, high, expected in [
                (start, start + microsecond, [0, 999]), (start - microsecond, start, [-1]),
                (start + microsecond, LATEST, [1000]), (EARLIEST, start, [-1]), (start, start, []),
            ]:  # fmt: skip
                found = sink.read(TRADES, [AAPL], low, high)["ts_event"].cast(pa.int64()).to_pylist()
                assert [time - at(start) for time in found] == expected
                assert sink.extents(TRADES, [AAPL], low, high).get(AAPL, (0, 0, 0))[2] == len(expected)

    def test_extents_are_first_last_and_rows(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2, 3, 4, 5]))
            sink.write(MINUTES, table(MINUTES, [{INSTRUMENT: IBM, "ts_event": at(START)}]))
            last = START + timedelta(minutes=4)
            assert sink.extents(MINUTES, [AAPL, IBM], EARLIEST, LATEST) == {
                AAPL: (START, last, 5),
                IBM: (START, START, 1),
            }
            part = sink.extents(MINUTES, [IBM, AAPL], START + timedelta(minutes=1), last)
            assert part == {AAPL: (START + timedelta(minutes=1), START + timedelta(minutes=3), 3)}
            assert sink.extents(MINUTES, [], EARLIEST, LATEST) == {}
            assert sink.extents(DAYS, [AAPL], EARLIEST, LATEST) == {}

    def test_tail_counts_rows_backwards(self, opened: Opened) -> None:
        with opened() as sink:
            # two months, and two venues at each minute
            for venue in ("X", "Y"):
                sink.write(MINUTES, minutes([1, 2, 3, 4], venue=venue))
            end = START + timedelta(minutes=4)
            tails = [sink.tail(MINUTES, AAPL, end, rows) for rows in (1, 2, 3, 5, 8, 100)]
            assert tails == [START + timedelta(minutes=minute) for minute in (3, 3, 2, 1, 0, 0)]
            assert sink.tail(MINUTES, AAPL, START + timedelta(minutes=1), 1) == START
            assert sink.tail(MINUTES, AAPL, START, 5) is None
            assert sink.tail(MINUTES, AAPL, end, 0) == end
            assert sink.tail(MINUTES, IBM, end, 1) is None

    def test_delete_takes_a_window_of_one_instrument(self, opened: Opened) -> None:
        with opened() as sink:
            sink.write(MINUTES, minutes([1, 2, 3, 4, 5]))
            sink.write(MINUTES, table(MINUTES, [{INSTRUMENT: IBM, "ts_event": at(START)}]))
            assert sink.delete(MINUTES, AAPL, START + timedelta(minutes=1), START + timedelta(minutes=3)) == 2
            assert everything(sink, MINUTES)["close"].to_pylist() == [1, 4, 5]
            assert sink.delete(MINUTES, AAPL, START + timedelta(minutes=1), START + timedelta(minutes=3)) == 0
            assert sink.delete(MINUTES, AAPL, EARLIEST, LATEST) == 3
            assert everything(sink, MINUTES).num_rows == 0
            assert sink.delete(MINUTES, AAPL, EARLIEST, LATEST) == 0
            assert everything(sink, MINUTES, IBM).num_rows == 1
            # what is gone can be written again
            assert sink.write(MINUTES, minutes([1])) == Counts(new=1)

    @pytest.mark.parametrize("schema", [MINUTES, STATISTICS], ids=lambda schema: schema.name)
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_writes_do_what_a_dict_does(self, opened: Opened, schema: Schema, data: st.DataObject) -> None:
        names = [f"vendor:equity:H{next(numbers)}" for _ in range(2)]
        ids = {names[0]: next(numbers) * 10 + 9, names[1]: next(numbers)}
        model = Model(schema)
        with opened(ids) as sink:
            for rows, replace in data.draw(st.lists(st.tuples(batches(schema, names), st.booleans()), max_size=5)):
                written = table(schema, rows)
                assert sink.write(schema, written, replace=replace) == model.write(written, replace)
            assert rows_of(everything(sink, schema, *names)) == model.rows(ids)

    @pytest.mark.django_db(transaction=True)
    def test_two_writers_of_one_window_do_not_harm_each_other(self, opened: Opened) -> None:
        barrier = Barrier(2)

        def write(fetch: int) -> Counts:
            counts = Counts()
            try:
                for number in range(3):
                    barrier.wait(30)
                    with opened() as sink, sink.unit():
                        later = fetch + 2 * number
                        counts += sink.write(MINUTES, minutes([later] * 500, fetch=later))
            finally:
                connections.close_all()
            return counts

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(write, (1, 2))
        with opened() as sink:
            found = everything(sink, MINUTES)
        assert found["close"].to_pylist() == [6] * 500
        assert found["fetch_id"].to_pylist() == [6] * 500
        assert first.new + second.new == 500
        assert sum(getattr(first + second, name) for name in Counts.__slots__) == 3000


def everything(sink: ReadableSink, schema: Schema, *instruments: str) -> pa.Table:
    """Every row of instruments, exact."""
    return sink.read(schema, instruments or (AAPL,), EARLIEST, LATEST, exact=True)


@st.composite
def batches(draw: st.DrawFn, schema: Schema, names: list[str]) -> list[dict[str, Any]]:
    """Rows of one fetch around the end of a month, few enough keys that batches meet."""
    identity = {"venue": st.sampled_from(["", "X"])}
    values: dict[str, st.SearchStrategy[Any]] = {}
    if schema is MINUTES:
        attos = st.integers(1 - 10**38, 10**38 - 1)
        decimals = attos.map(lambda number: Decimal(f"{number}e-18")) | st.integers(0, 2).map(Decimal)
        values = {"close": decimals, "volume": st.none() | decimals, "trade_count": st.none() | st.integers(0, 2)}
    else:
        identity |= {"statistic": st.sampled_from(["high", "=low"]), "sequence": st.integers(0, 1)}
        values = {"value_text": st.none() | st.sampled_from(ODD_TEXTS)}
    keys = st.tuples(st.sampled_from(names), st.integers(-3, 3), *identity.values())
    fetch = draw(st.integers(1, 3))
    rows = []
    for name, step, *parts in sorted(draw(st.sets(keys, max_size=6))):
        row = {INSTRUMENT: name, "ts_event": at(START) + 60 * NS * step, "fetch_id": fetch}
        rows.append(row | dict(zip(identity, parts, strict=True)) | {k: draw(v) for k, v in values.items()})
    return rows
