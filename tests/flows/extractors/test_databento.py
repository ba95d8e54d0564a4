"""Databento's history: what is paid is paid once, what is cut never lands, symbols mean what they do on their day."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import databento
import numpy as np
import pytest
import zstandard

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import NotEntitled
from catalog.errors import OtherQuestion
from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import SCHEMAS
from catalog.schemas import schema as schema_called
from flows.databento_api.actions import unpacked
from flows.extractors.databento import DatabentoExtractor
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import describe
from flows.landing import Landing
from flows.landing import Page
from flows.quotes import Quote
from tests.vendors.databento import LATER
from tests.vendors.databento import LISTED
from tests.vendors.databento import ROLL
from tests.vendors.databento import BatchJob
from tests.vendors.databento import DatabentoStandIn
from tests.vendors.databento import instrument_id
from tests.vendors.databento import records
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked

FUTURES = {"dataset": "GLBX.MDP3", "days_per_page": 0}
BATCH = {"delivery": "batch", "days_per_page": 0}
BUYING = ("timeseries.get_range", "batch.submit_job")


def at(day: int, hour: int = 0, minute: int = 0, month: int = 1) -> datetime:
    return datetime(2024, month, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def stand_in() -> Iterator[DatabentoStandIn]:
    with DatabentoStandIn() as server:
        yield server


@pytest.fixture
def client(stand_in: DatabentoStandIn) -> databento.Historical:
    """The vendor's own client: it cannot be told a plain-HTTP address, so its private ones are set."""
    made = databento.Historical(stand_in.keys["API_KEY"])
    for group in ("timeseries", "metadata", "symbology", "batch"):
        getattr(made, group)._base_url = f"{stand_in.url}/v0/{group}"
    return made


def extractor(bench: Bench, schema: str = "ohlcv-1m") -> DatabentoExtractor:
    made = bench.extractor(schema)
    assert isinstance(made, DatabentoExtractor)
    return made


def asked(stand_in: DatabentoStandIn, *methods: str) -> list[Asked]:
    return [one for one in stand_in.log if one.path.removeprefix("/v0/") in methods]


def bought(stand_in: DatabentoStandIn) -> list[Asked]:
    return asked(stand_in, *BUYING)


def landed_bytes(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".page" in path.name or ".partial" in path.name]


def money(bench: Bench) -> Decimal:
    return sum((cost for _, cost in bench.ledger.spending.values()), Decimal(0))


# -- the stand-in is the vendor, for the vendor's own client ----------------------------------------------------------


def test_the_vendors_client_takes_the_stand_in_for_the_vendor(
    stand_in: DatabentoStandIn, client: databento.Historical, tmp_path: Path
) -> None:
    window: dict[str, Any] = {"start": at(2, 22).isoformat(), "end": at(3, 2).isoformat()}
    request = {"dataset": "XNAS.ITCH", "symbols": ["AAPL", "MSFT"], "schema": "ohlcv-1m", **window}
    truth = stand_in.truth("ohlcv-1m", "AAPL", at(2, 22), at(3, 2))
    assert client.metadata.list_datasets() == ["GLBX.MDP3", "XNAS.ITCH"]
    assert client.metadata.get_record_count(**request) == 2 * len(truth) == 480
    assert client.metadata.get_billable_size(**request) == 480 * 56
    assert client.metadata.get_cost(**request) == pytest.approx(480 * 56 / 2**20)
    store = client.timeseries.get_range(**request)
    rows = store.to_ndarray()
    assert len(rows) == 480
    stamps = np.array([int(row["ts_event"].timestamp()) * 10**9 for row in truth], "u8")
    symbols = {
        (int(part["symbol"]), str(part["start_date"])): name for name, parts in store.mappings.items() for part in parts
    }
    mine = [
        record
        for record in rows
        if symbols[int(record["instrument_id"]), str(np.datetime64(int(record["ts_event"]), "ns"))[:10]] == "AAPL"
    ]
    assert [int(record["ts_event"]) for record in mine] == stamps.tolist()
    assert [int(record["close"]) for record in mine] == [int(row["close"] * 10**9) for row in truth]
    days = {"start_date": "2024-01-02", "end_date": "2024-01-04"}
    said = client.symbology.resolve("XNAS.ITCH", ["AAPL", "NOPE"], "raw_symbol", "instrument_id", **days)
    assert [part["d0"] for part in said["result"]["AAPL"]] == ["2024-01-02", "2024-01-03"]
    assert said["not_found"] == ["NOPE"]
    with pytest.raises(databento.BentoClientError, match="None of the symbols could be resolved"):
        client.metadata.get_cost(**{**request, "symbols": ["NOPE"]})
    # batch: a single file, resumable and checked; and all of them
    stand_in.host = stand_in.url
    job = client.batch.submit_job(**request)
    assert client.batch.get_job_details(job["id"])["state"] == "processing"
    assert client.batch.get_job_details(job["id"])["state"] == "done"
    names = [file["filename"] for file in client.batch.list_files(job["id"]) if "dbn" in file["filename"]]
    assert names == ["xnas-itch-20240102.ohlcv-1m.dbn.zst", "xnas-itch-20240103.ohlcv-1m.dbn.zst"]
    (path,) = client.batch.download(job["id"], tmp_path / "one", names[0])
    assert len(databento.DBNStore.from_bytes(path.read_bytes()).to_ndarray()) == 240
    assert len(client.batch.download(job["id"], tmp_path / "all")) == 4


# -- streams ----------------------------------------------------------------------------------------------------------


def test_nothing_is_bought_before_its_bytes_are_drawn(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench)
    (request,) = vendor.requests(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4)))
    (page,) = vendor.pages(request)
    assert bought(stand_in) == []
    assert page.compressed
    assert page.cost == Decimal(str(1440 * 56 / 2**20))
    content = b"".join(page.content)
    assert len(bought(stand_in)) == 1
    assert content.startswith(zstandard.FRAME_HEADER)


def test_a_whole_stream_with_other_records_than_announced_never_lands(
    stand_in: DatabentoStandIn, tmp_path: Path
) -> None:
    stand_in.lost = 3
    bench = Bench(stand_in, tmp_path, {"days_per_page": 0})
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4)))
    (error,) = outcome.errors
    assert "1,437 records" in error
    assert "1,440" in error
    assert landed_bytes(tmp_path) == []
    assert len(bought(stand_in)) == 1, "asking again costs again"
    assert money(bench) > 0, "it is spent all the same"


def test_a_stream_that_ends_too_early_without_an_error_is_asked_again(
    stand_in: DatabentoStandIn, tmp_path: Path
) -> None:
    # as long as it says it is: only the frame tells
    stand_in.halved = 2
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4)))
    assert outcome.errors == []
    assert len(bench.slept) == 2
    assert len(bought(stand_in)) == 3
    assert matches(bench.stored("ohlcv-1m", "AAPL"), stand_in.truth("ohlcv-1m", "AAPL", at(3), at(4)))


def test_a_stream_that_never_ends_well_leaves_nothing(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    stand_in.halved = 99
    bench = Bench(stand_in, tmp_path, {"attempts": 2})
    (error,) = bench.run(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4))).errors
    assert "cut short" in error
    assert landed_bytes(tmp_path) == []
    assert not any(fetch.complete for fetch in bench.ledger.fetches)


def test_days_without_a_session_are_complete_and_cost_nothing(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # Friday to Monday: a window of Saturday alone resolves no symbol, which the vendor words like an unknown one
    outcome = bench.run(bench.job("trades", ["AAPL"], at(5, 23, 50), at(8, 0, 10)))
    assert outcome.errors == []
    assert [fetch.parts for fetch in bench.ledger.fetches] == [1, 0, 0, 1]
    assert all(fetch.complete for fetch in bench.ledger.fetches)
    assert len(bought(stand_in)) == 2
    assert bench.ledger.quarantined == {}
    assert matches(bench.stored("trades", "AAPL"), stand_in.truth("trades", "AAPL", at(5, 23, 50), at(8, 0, 10)))


def test_a_record_belongs_to_the_day_it_was_received_on(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("trades", ["AAPL"], at(3), at(3, 0, 1)))
    assert outcome.errors == []
    first = bench.stored("trades", "AAPL")[0]
    assert first["ts_event"] < at(3) <= first["ts_recv"]
    assert outcome.tallies["shelf"].filtered == 0


def test_windows_are_of_ts_recv_where_a_schema_has_it(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    vendor = extractor(Bench(stand_in, tmp_path))
    columns = {name: vendor.window_column(schema_called(name)) for name in vendor.schemas}
    by_event = {name for name, column in columns.items() if column == "ts_event"}
    assert by_event == {"ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "ohlcv-eod", "corporate_actions"}
    assert set(columns.values()) == {"ts_event", "ts_recv"}
    assert set(vendor.schemas) <= set(SCHEMAS)


def test_ids_that_change_hands_overnight_stay_with_their_symbols(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"days_per_page": 0})
    job = bench.job("ohlcv-1h", ["AAPL", "MSFT"], at(2), at(9))
    assert bench.run(job).errors == []
    assert len(bought(stand_in)) == 1
    for symbol in ("AAPL", "MSFT"):
        assert matches(bench.stored("ohlcv-1h", symbol), stand_in.truth("ohlcv-1h", symbol, at(2), at(9)))


# -- symbols ----------------------------------------------------------------------------------------------------------


def test_an_unknown_symbol_among_others_is_quarantined_by_name(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1m", ["NOSUCH", "AAPL"], at(3), at(3, 2)))
    assert outcome.errors == []
    assert matches(bench.stored("ohlcv-1m", "AAPL"), stand_in.truth("ohlcv-1m", "AAPL", at(3), at(3, 2)))
    ((rule, reason, _),) = bench.ledger.quarantined.values()
    assert rule == "symbol is known"
    assert "'NOSUCH'" in reason


def test_a_symbol_that_is_only_absent_from_a_window_is_not_unknown(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "continuous"})
    start, end = at(3), at(3, 2)
    outcome = bench.run(bench.job("ohlcv-1m", ["NQ.c.0", "ES.c.0"], start, end))
    assert outcome.errors == []
    assert bench.ledger.quarantined == {}
    assert len(bench.stored("ohlcv-1m", "ES.c.0")) == 120


def test_unknown_symbols_alone_are_an_error_that_names_them(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    (error,) = bench.run(bench.job("ohlcv-1m", ["NOSUCH", "NEITHER"], at(3), at(4))).errors
    assert "dataset XNAS.ITCH has no raw_symbol symbol" in error
    assert {"NOSUCH", "NEITHER"} <= set(error.replace(",", "").split())
    assert bought(stand_in) == []


def test_a_continuous_symbol_rolls(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "continuous"})
    assert bench.run(bench.job("ohlcv-1h", ["ES.c.0"], at(2), at(9))).errors == []
    roll = datetime.combine(ROLL, datetime.min.time(), UTC)
    truth = stand_in.truth("ohlcv-1h", "ESH4", at(2), roll) + stand_in.truth("ohlcv-1h", "ESM4", roll, at(9))
    assert matches(bench.stored("ohlcv-1h", "ES.c.0"), truth)


@pytest.mark.parametrize("names", [("ES.c.0", "ES.v.0"), ("ES.v.0", "ES.c.0")])
def test_continuous_symbols_of_one_instrument_all_get_its_records(
    stand_in: DatabentoStandIn, tmp_path: Path, names: tuple[str, str]
) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "continuous", "days_per_page": 0})
    outcome = bench.run(bench.job("ohlcv-1h", names, at(2), at(9)))
    assert outcome.errors == []
    for name, day in (("ES.c.0", ROLL), ("ES.v.0", LATER)):
        roll = datetime.combine(day, datetime.min.time(), UTC)
        truth = stand_in.truth("ohlcv-1h", "ESH4", at(2), roll) + stand_in.truth("ohlcv-1h", "ESM4", roll, at(9))
        assert matches(bench.stored("ohlcv-1h", name), truth), name
    assert len(bought(stand_in)) == 1


def test_symbols_get_the_intervals_in_which_they_mean_something(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "continuous"})
    vendor = extractor(bench)
    job = bench.job("ohlcv-1h", ["ES.c.0", "NQ.c.0", "NO.c.0"], at(2), at(1, month=3))
    always, some, never = (one.symbols for one in vendor.resolve(job).instruments)
    # open ends stay open, so that the same request is made tomorrow; weekends are no gaps
    assert [(part.start, part.end) for part in always] == [(EARLIEST, LATEST)]
    assert [(part.start.date(), part.end.date()) for part in some] == [LISTED]
    # nobody knows it: it is named when it is asked
    assert [(part.start, part.end) for part in never] == [(EARLIEST, LATEST)]
    with pytest.raises(UnknownSymbol, match=r"NO\.c\.0"):
        vendor.resolve(bench.job("ohlcv-1h", ["NO.c.0"], at(2), at(9)))


def test_ids_are_asked_as_ids(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"stype_in": "instrument_id", "days_per_page": 0})
    assert bench.run(bench.job("ohlcv-1h", ["101"], at(2), at(4))).errors == []
    truth = [
        stand_in.truth("ohlcv-1h", next(symbol for symbol in ("AAPL", "MSFT") if _number(symbol, day) == 101), *window)
        for day, *window in ((at(2), at(2), at(3)), (at(3), at(3), at(4)))
    ]
    assert truth[0][0]["open"] != truth[1][0]["open"]
    assert matches(bench.stored("ohlcv-1h", "101"), truth[0] + truth[1])
    assert asked(stand_in, "symbology.resolve")[0].form["stype_out"] == "raw_symbol"


def _number(symbol: str, day: datetime) -> int:
    return instrument_id("XNAS.ITCH", symbol, day.date())


@pytest.mark.parametrize("unknown", ["quarantine", "filter"])
def test_a_parents_records_go_to_the_series_that_name_the_child(
    stand_in: DatabentoStandIn, tmp_path: Path, unknown: str
) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "parent", "unknown_symbols": unknown})
    outcome = bench.run(bench.job("ohlcv-1h", ["ES.FUT", "ESH4"], at(2), at(4)))
    assert outcome.errors == []
    assert [one.form["symbols"] for one in bought(stand_in)] == ["ES.FUT"]
    assert matches(bench.stored("ohlcv-1h", "ESH4"), stand_in.truth("ohlcv-1h", "ESH4", at(2), at(4)))
    assert bench.stored("ohlcv-1h", "ES.FUT") == []
    tally = outcome.tallies["shelf"]
    # ESM4 is nobody's
    assert (tally.quarantined, tally.filtered) == ((48, 0) if unknown == "quarantine" else (0, 48))


def test_children_without_a_parent_are_told_where_their_records_are(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {**FUTURES, "stype_in": "parent"})
    (error,) = bench.run(bench.job("ohlcv-1h", ["ESH4"], at(2), at(4))).errors
    assert "'parent'" in error
    # wanted later than its parent landed
    job = bench.job("ohlcv-1h", ["ES.FUT", "ESH4"], at(2), at(4))
    assert bench.run(replace(job, instruments=job.instruments[:1])).errors == []
    (error,) = bench.run(job).errors
    assert "--again" in error
    assert bench.run(replace(job, again=True)).errors == []
    assert len(bench.stored("ohlcv-1h", "ESH4")) == 48


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "options", "expected"),
    [
        ("trades", {}, lambda ends: ends),
        ("ohlcv-1h", {}, lambda ends: ends.replace(minute=0, second=0)),
        ("trades", BATCH, lambda ends: ends.replace(hour=0, minute=0, second=0)),
    ],
)
def test_requests_end_where_history_does(
    stand_in: DatabentoStandIn, tmp_path: Path, schema: str, options: dict[str, Any], expected: Any
) -> None:
    bench = Bench(stand_in, tmp_path, options)
    vendor = extractor(bench, schema)
    ends = datetime.now(UTC).replace(hour=10, minute=20, second=30, microsecond=0) - timedelta(days=1)
    while ends.weekday() > 4:
        ends -= timedelta(days=1)
    stand_in.ends = ends
    job = bench.job(schema, ["AAPL"], ends - timedelta(days=3), datetime.now(UTC))
    requests = list(vendor.requests(vendor.resolve(job)))
    assert requests[-1].end == expected(ends)
    assert requests[0].start == job.start
    assert all(one.end == two.start for one, two in pairwise(requests))
    # what is not cut is refused in the vendor's words, and nothing is bought
    hour = timedelta(hours=1)
    (uncut,) = vendor.requests(bench.job(schema, ["AAPL"], ends - hour, ends + hour))
    with pytest.raises(PermanentError, match="is after the available range"):
        list(vendor.pages(uncut))
    assert bought(stand_in) == []


def test_planning_asks_nobody(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench, "trades")
    assert len(list(vendor.requests(bench.job("trades", ["AAPL"], at(1), datetime.now(UTC))))) > 365
    vendor.resolve(bench.job("trades", ["AAPL"], at(1), at(9)))
    assert stand_in.log == []


def test_an_open_start_is_the_datasets(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench)
    (one,) = vendor.resolve(bench.job("ohlcv-1d", ["AAPL"], EARLIEST, at(9))).instruments
    assert (one.start, one.end) == (datetime(2018, 5, 1, tzinfo=UTC), at(9))


def test_before_the_dataset_there_is_nothing(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"days_per_page": 0})
    start, begins, end = (datetime(2018, *day, tzinfo=UTC) for day in ((4, 2), (5, 1), (5, 3)))
    assert bench.run(bench.job("ohlcv-1h", ["AAPL"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1h", "AAPL"), stand_in.truth("ohlcv-1h", "AAPL", begins, end))
    assert bench.run(bench.job("ohlcv-1h", ["MSFT"], start, begins)).errors == []
    assert [fetch.parts for fetch in bench.ledger.fetches] == [1, 0]


# -- batch jobs -------------------------------------------------------------------------------------------------------


def test_a_batch_job_brings_what_a_stream_does(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, BATCH)
    job = bench.job("trades", ["AAPL", "MSFT"], at(2, 23, 50), at(4, 0, 10))
    outcome = bench.run(job)
    assert outcome.errors == []
    for symbol in ("AAPL", "MSFT"):
        assert matches(bench.stored("trades", symbol), stand_in.truth("trades", symbol, at(2, 23, 50), at(4, 0, 10))), (
            symbol
        )
    assert len(bought(stand_in)) == len(stand_in.jobs) == 1
    # terms, number, a file for each day; support files stay where they are
    assert [fetch.parts for fetch in bench.ledger.fetches] == [5]
    asked_before = len(stand_in.log)
    assert bench.run(job).errors == []
    assert len(stand_in.log) == asked_before


def test_a_killed_run_finds_its_batch_job_again(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, BATCH)
    job = bench.job("trades", ["AAPL"], at(2, 23, 50), at(4, 0, 10))

    class KilledError(BaseException):
        pass

    def kill(what: str, count: int) -> None:
        raise KilledError

    for _ in range(5):
        with pytest.raises(KilledError):
            bench.run(job, kill)
    assert bench.run(job).errors == []
    assert matches(bench.stored("trades", "AAPL"), stand_in.truth("trades", "AAPL", at(2, 23, 50), at(4, 0, 10)))
    assert len(stand_in.jobs) == 1
    downloads = [one.path for one in stand_in.log if "/download/" in one.path]
    assert len(downloads) == len(set(downloads)) == 3
    figure = asked(stand_in, "metadata.get_cost")
    assert len(figure) == 1
    assert money(bench) == Decimal(str(_cost(stand_in.jobs[0])))


def _cost(job: BatchJob) -> float:
    found = records(job.form)
    return found.dtype.itemsize * len(found) / 2**20


@pytest.mark.parametrize("fault", ["truncated", "html"])
def test_a_submission_whose_answer_is_lost_is_not_made_twice(
    stand_in: DatabentoStandIn, tmp_path: Path, fault: str
) -> None:
    bench = Bench(stand_in, tmp_path, BATCH)
    job = bench.job("trades", ["AAPL"], at(3), at(3, 0, 10))
    stand_in.fail(fault, times=1, path="submit_job")
    assert bench.run(job).errors == []
    # a page of a proxy: the vendor never heard of it; half an answer: it did
    assert len(stand_in.jobs) == 1
    assert len(bought(stand_in)) == (0 if fault == "truncated" else 1)
    assert matches(bench.stored("trades", "AAPL"), stand_in.truth("trades", "AAPL", at(3), at(3, 0, 10)))


def test_unknown_symbols_alone_make_no_job(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, BATCH)
    # a minute without a trade, and a symbol that does not exist
    start = at(3) + timedelta(seconds=12)
    job = bench.job("trades", ["AAPL", "NOSUCH"], start, start + timedelta(milliseconds=1))
    assert bench.run(job).errors == []
    assert [rule for rule, _, _ in bench.ledger.quarantined.values()] == ["symbol is known"]
    assert stand_in.jobs == []
    assert [fetch.parts for fetch in bench.ledger.fetches] == [1]


def test_another_job_that_was_submitted_meanwhile_is_not_taken(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path / "other", BATCH)
    assert bench.run(bench.job("trades", ["MSFT"], at(3), at(3, 0, 10))).errors == []
    stand_in.fail("html", times=1, path="submit_job")
    bench = Bench(stand_in, tmp_path / "mine", BATCH)
    assert bench.run(bench.job("trades", ["AAPL"], at(3), at(3, 0, 10))).errors == []
    assert [job.form["symbols"] for job in stand_in.jobs] == ["MSFT", "AAPL"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off(stand_in: DatabentoStandIn, tmp_path: Path, ranges: bool) -> None:
    # a proxy in between may send everything again
    stand_in.ranges = ranges
    bench = Bench(stand_in, tmp_path, BATCH)
    stand_in.fail("truncated", times=2, path="/batch/download/")
    job = bench.job("ohlcv-1s", ["AAPL"], at(3), at(3, 3))
    outcome = bench.run(job)
    assert outcome.errors == []
    assert matches(bench.stored("ohlcv-1s", "AAPL"), stand_in.truth("ohlcv-1s", "AAPL", at(3), at(3, 3)))
    (download,) = [one for one in stand_in.log if "/download/" in one.path]
    (content,) = [content for name, content in stand_in.jobs[0].files.items() if "dbn" in name]
    first = int(download.headers["range"].removeprefix("bytes=").rstrip("-"))
    # what came is counted in blocks
    assert 1 << 16 <= first < len(content)
    assert bench.slept == [], "the file was not begun again"


def test_a_wrong_checksum_never_lands(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    stand_in.spoiled = 1
    bench = Bench(stand_in, tmp_path, BATCH)
    job = bench.job("trades", ["AAPL"], at(3), at(3, 0, 10))
    assert bench.run(job).errors == []
    assert len(bench.slept) == 1
    assert len([one for one in stand_in.log if "/download/" in one.path]) == 2
    assert matches(bench.stored("trades", "AAPL"), stand_in.truth("trades", "AAPL", at(3), at(3, 0, 10)))
    # and where it stays wrong
    stand_in.spoiled = 99
    bench = Bench(stand_in, tmp_path / "other", {**BATCH, "attempts": 2})
    (error,) = bench.run(bench.job("trades", ["MSFT"], at(3), at(3, 0, 10))).errors
    assert "checksum" in error
    assert [path.name for path in sorted(landed_bytes(tmp_path / "other"))] == ["00000.page", "00001.page"]


def test_a_job_that_takes_long_is_left_and_found_again(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    stand_in.looks = 4
    bench = Bench(stand_in, tmp_path, {**BATCH, "wait_seconds": 0.02})
    job = bench.job("trades", ["AAPL"], at(3), at(3, 0, 10))
    (error,) = bench.run(job).errors
    assert "is processing" in error
    assert bench.slept == []
    assert bench.run(job).errors == []
    assert len(stand_in.jobs) == 1
    assert len(bench.stored("trades", "AAPL")) > 50


def test_files_that_are_gone_are_said_to_be(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    stand_in.expired = True
    bench = Bench(stand_in, tmp_path, BATCH)
    (error,) = bench.run(bench.job("trades", ["AAPL"], at(3), at(3, 0, 10))).errors
    assert "are gone; run with --again" in error


# -- what it says -----------------------------------------------------------------------------------------------------


def test_quotes_are_the_vendors_and_buy_nothing(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"price_per_request": "0.5"})
    vendor = extractor(bench)
    (request,) = vendor.requests(bench.job("ohlcv-1m", ["AAPL", "MSFT"], at(2, 22), at(3, 2)))
    # two pages: the option asks for a day each
    assert vendor.quote(request) == Quote(2, 480 * 56, Decimal("1") + 2 * Decimal(str(240 * 56 / 2**20)))
    assert bought(stand_in) == []
    (weekend,) = vendor.requests(bench.job("ohlcv-1m", ["AAPL"], at(6), at(7)))
    assert vendor.quote(weekend) == Quote(0, 0, Decimal(0))


def test_warnings_are_logged(stand_in: DatabentoStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stand_in.warning = json.dumps(["Warning: The streaming request is large.", "Another"])
    bench = Bench(stand_in, tmp_path)
    with caplog.at_level(logging.WARNING, "flows.extractors.databento"):
        assert bench.run(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4))).errors == []
    said = [record.getMessage() for record in caplog.records]
    assert any("The streaming request is large." in words for words in said)
    assert any(words.endswith("Another") for words in said)


def test_a_missing_licence_is_said_in_the_vendors_words(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"dataset": "OPRA.PILLAR"})
    vendor = extractor(bench)
    (request,) = vendor.requests(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4)))
    with pytest.raises(NotEntitled, match=r"A live data license is required to access OPRA\.PILLAR"):
        list(vendor.pages(request))


def test_an_error_without_a_case_keeps_its_words(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    (error,) = bench.run(bench.job("mbo", ["AAPL"], at(3), at(3, 1))).errors
    assert "HTTP 422: Invalid schema 'mbo'" in error


def test_check_names_datasets_and_their_range(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    lines = extractor(Bench(stand_in, tmp_path)).check()
    assert lines == ["2 datasets", f"XNAS.ITCH from 2018-05-01 to {stand_in.ends:%Y-%m-%d %H:%M}Z"]
    with pytest.raises(ConfigError, match=r"'XNAS\.TCH' is unknown; have: GLBX\.MDP3, XNAS\.ITCH"):
        extractor(Bench(stand_in, tmp_path, {"dataset": "XNAS.TCH"})).check()


def test_lists_the_symbols_of_the_last_session(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    # a Monday, 00:00Z: the day before and the one before that had none
    stand_in.ends = at(8)
    found = list(extractor(Bench(stand_in, tmp_path, FUTURES)).discover("es"))
    assert [(one.symbol, one.asset_class) for one in found] == [("ESH4", "future"), ("ESM4", "future")]
    assert bought(stand_in) == []


def test_pages_that_answer_another_question_are_refused(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench)
    (request,) = vendor.requests(bench.job("ohlcv-1m", ["AAPL"], at(3), at(4)))
    landing = Landing(tmp_path / "landing")
    landing.begin("s", 1, describe(request))
    landing.write("s", 1, 0, next(iter(vendor.pages(request))))
    assert list(vendor.pages(request, landing.pages("s", 1))) == []
    other = extractor(Bench(stand_in, tmp_path, {"dataset": "GLBX.MDP3"}))
    with pytest.raises(OtherQuestion, match="options have changed"):
        list(other.pages(request, landing.pages("s", 1)))


def test_corporate_actions_that_were_taken_back_are_rejected(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench, "corporate_actions")
    (request,) = vendor.requests(bench.job("corporate_actions", ["A"], at(1), at(9)))
    common = {"event": "FSPLT", "symbol": "A", "ratio_old": 1.0, "ratio_new": 4.0}
    rows = [
        {**common, "event_unique_id": "1", "event_date": "2024-01-03", "event_action": "U"},
        {**common, "event_unique_id": "2", "event_date": "2024-01-04", "event_action": "D"},
    ]
    content = zstandard.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    landing = Landing(tmp_path / "landing")
    landing.begin("s", 1, describe(request))
    landing.write("s", 1, 0, Page("application/jsonl", [content], compressed=True, facts={"kind": "actions"}))
    (page,) = landing.pages("s", 1)
    (made,) = vendor.parse(page, {})
    (kept,) = made.table.to_pylist()
    assert (kept["kind"], kept["action_id"], kept["ratio_to"], kept["symbol"]) == ("split", "1", "4.0", "A")
    (refused,) = made.rejected.to_pylist()
    assert (refused["rule"], refused["row"]) == ("event stands", 1)


def test_cut_corporate_actions_are_asked_again(stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    vendor = extractor(bench, "corporate_actions")
    start, end = stand_in.windows["corporate_actions"]
    (request,) = vendor.requests(bench.job("corporate_actions", ["AAPL"], start, end))
    stand_in.fail("html", path="corporate_actions")
    with pytest.raises(TransientError, match="no sound zstd"):
        list(vendor.pages(request))


def test_frames_that_follow_each_other_are_all_read() -> None:
    first, second = zstandard.compress(b"{}\n"), zstandard.compress(b"[]\n")
    assert unpacked(first + second) == b"{}\n[]\n"
    with pytest.raises(Damaged, match="cut short"):
        unpacked(first + second[:-2])
    with pytest.raises(Damaged, match="no sound zstd"):
        unpacked(first + b"rubbish")
