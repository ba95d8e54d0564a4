"""EDGAR's own traps, over the socket: runs one after the other, late filings, clocks, tickers, refusals."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Route
from catalog.models import TimeSeries
from flows.extractors.edgar import EdgarOptions
from flows.ingest import ingest
from flows.plan import Selection
from flows.query import read
from tests.flows.catalogs import destination
from tests.vendors.edgar import TOO_FAST
from tests.vendors.edgar import UNDECLARED
from tests.vendors.edgar import EdgarStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply

DAY = timedelta(days=1)
APPLE, TESLA = "0000320193", "1318605"
START, MIDDLE, END = (datetime(year, 1, 2, tzinfo=UTC) for year in (2021, 2022, 2023))


@pytest.fixture
def stand_in() -> Iterator[EdgarStandIn]:
    with EdgarStandIn() as server:
        yield server


def answered(stand_in: EdgarStandIn, reply: Reply) -> None:
    """Let every request be answered by this."""
    stand_in.refuse = lambda asked: reply  # type: ignore[method-assign]


def fetch(bench: Bench, schema: str, symbol: str) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, [symbol], START, END)):
        list(extractor.pages(request))


@pytest.mark.parametrize("schema", ["filings", "fundamentals"])
def test_windows_in_a_row_make_the_whole(stand_in: EdgarStandIn, schema: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # each time no more is known than what is filed by then
    stand_in.now = MIDDLE.date()
    assert bench.run(bench.job(schema, [APPLE], START, MIDDLE)).errors == []
    first = bench.stored(schema, APPLE)
    stand_in.now = END.date()
    assert bench.run(bench.job(schema, [APPLE], MIDDLE, END)).errors == []
    assert matches(bench.stored(schema, APPLE), stand_in.truth(schema, APPLE, START, END))
    assert 0 < len(first) < len(bench.rows)


def test_restatements_lie_beside_what_they_restate(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("fundamentals", [APPLE], START, MIDDLE))
    before = {key: row["value"] for key, row in bench.rows.items()}
    bench.run(bench.job("fundamentals", [APPLE], MIDDLE, END))
    periods: dict[Any, list[Any]] = {}
    for row in bench.stored("fundamentals", APPLE):
        periods.setdefault((row["concept"], row["period_start"], row["ts_event"]), []).append(row)
    restated = [rows for rows in periods.values() if len({row["value"] for row in rows}) > 1]
    assert restated
    assert all(len({row["filing"] for row in rows}) == len(rows) for rows in restated)
    # some of the second window are of periods before its beginning, and what stood there stands
    assert any(row["ts_event"] < MIDDLE <= row["filed"] for rows in periods.values() for row in rows)
    assert all(bench.rows[key]["value"] == value for key, value in before.items())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("schema", ["filings", "fundamentals"])
def test_what_appears_between_two_runs_is_not_lost(stand_in: EdgarStandIn, schema: str, database: str) -> None:
    """Through the real ledger: something filed today after the first run, and a letter that bears an old date."""
    source = DataSource.objects.create(name="sec", vendor="edgar", options=stand_in.options(schema))
    made = TimeSeries.objects.create(series_id="sec", source=source, schema=schema, start=START)
    made.assets.add(Asset.objects.create(symbol=APPLE, asset_class="equity"))
    Route.objects.create(series=made, destination=destination(), home=True)
    # the newest report is of today, which is not over in New York
    stand_in.now = datetime.now(ZoneInfo("America/New_York")).date()
    stand_in.began = stand_in.now - 7 * 251 * DAY
    newest, *older = stand_in.filings(APPLE)
    letter = older[12]
    days = 180 if schema == "filings" else 3
    assert newest["form"] == "10-K"
    if schema == "filings":
        stand_in.withheld = {newest["accessionNumber"], letter["accessionNumber"]}
    else:
        stand_in.withheld = {newest["accessionNumber"]}
    assert ingest(Selection())["sec"].errors == []
    stored = set(read(APPLE, schema)["filing"].to_pylist())
    assert stored
    assert stored.isdisjoint(stand_in.withheld)
    appeared, stand_in.withheld = stand_in.withheld, set()
    assert ingest(Selection())["sec"].errors == []
    assert appeared < set(read(APPLE, schema)["filing"].to_pylist())
    wanted = stand_in.truth(schema, APPLE, START, datetime.now(UTC))
    assert read(APPLE, schema).num_rows == len(wanted)
    # what is final is asked once, what is open in each run
    fetches = [(fetch.identity != "", fetch.end - fetch.start) for fetch in Fetch.objects.order_by("id")]
    assert [is_open for is_open, _ in fetches] == [False, True, True]
    assert all(length < timedelta(days=days + 2) for is_open, length in fetches if is_open)


def test_the_day_in_new_york_is_asked_anew_in_every_run(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    extractor = bench.extractor("filings")
    now = datetime.now(UTC)
    final, open_part = extractor.requests(bench.job("filings", [APPLE], START, now))
    assert (final.identity, final.start, final.end) == ("", START, open_part.start)
    assert now - 182 * DAY < final.end < now - 180 * DAY
    assert final.end == datetime.combine(final.end, datetime.min.time(), UTC)
    assert open_part.end == now
    _, later = extractor.requests(bench.job("filings", [APPLE], START, now))
    assert later.identity != open_part.identity


def test_only_overflow_that_touches_the_window_is_asked(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    def paths(start: datetime, end: datetime) -> list[str]:
        stand_in.log.clear()
        bench = Bench(stand_in, tmp_path / f"{start:%Y%m%d}{end:%Y%m%d}")
        bench.run(bench.job("filings", [APPLE], start, end))
        assert matches(bench.stored("filings", APPLE), stand_in.truth("filings", APPLE, start, end))
        return [asked.path.rpartition("submissions")[2] for asked in stand_in.log]

    pages = stand_in.pages(APPLE)
    first, last = (datetime.fromisoformat(pages[2][at]["filingDate"]).replace(tzinfo=UTC) for at in (-1, 0))
    assert paths(first, last + DAY) == [f"/CIK{APPLE}.json", "-002.json"]
    # the start is in the window, the end is not
    assert paths(last, last + DAY) == [f"/CIK{APPLE}.json", "-002.json"]
    assert paths(last + DAY, last + 7 * DAY) == [f"/CIK{APPLE}.json"]
    assert paths(first - 7 * DAY, first) == [f"/CIK{APPLE}.json", "-003.json"]
    assert paths(datetime(2023, 12, 4, tzinfo=UTC), datetime(2023, 12, 6, tzinfo=UTC)) == [f"/CIK{APPLE}.json"]


@pytest.mark.parametrize(("symbol", "clock"), [(APPLE, "New York"), (TESLA, "UTC")])
def test_a_filers_clock_is_told_by_opening_hours(
    stand_in: EdgarStandIn, symbol: str, clock: str, tmp_path: Path
) -> None:
    shown = {}
    for option in ("evidence", clock, {"New York": "UTC", "UTC": "New York"}[clock]):
        bench = Bench(stand_in, tmp_path / option, {"accepted": option})
        bench.run(bench.job("filings", [symbol], START, MIDDLE))
        shown[option] = [row["ts_event"] for row in bench.stored("filings", symbol)]
    assert shown["evidence"] == shown[clock]
    assert {abs(one - other) for one, other in zip(shown["UTC"], shown["New York"], strict=True)} == {
        timedelta(hours=4),
        timedelta(hours=5),
    }


def test_tickers_are_looked_up_on_the_other_host(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    with EdgarStandIn() as www:
        bench = Bench(stand_in, tmp_path, {"www_url": www.url})
        outcome = bench.run(bench.job("filings", ["TSLA-W", "aapl", "320193"], START, MIDDLE))
        assert outcome.errors == []
        # one list for all tickers of a source, and nothing of it in the landing
        assert [asked.path for asked in www.log] == ["/files/company_tickers.json"]
        assert not any("company_tickers" in asked.path for asked in stand_in.log)
        with pytest.raises(UnknownSymbol, match="no ticker 'NOSUCH'"):
            fetch(bench, "filings", "NOSUCH")
    for symbol, cik in (("TSLA-W", TESLA), ("aapl", APPLE), ("320193", APPLE)):
        assert matches(bench.stored("filings", symbol), stand_in.truth("filings", cik, START, MIDDLE))


def test_a_company_is_listed_once_with_all_its_tickers(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    extractor = Bench(stand_in, tmp_path).extractor("filings")
    (tesla,) = extractor.discover("tsla-w")
    assert (tesla.symbol, tesla.name) == ("0001318605", "Tesla, Inc. (TSLA, TSLA-W)")
    assert len(list(extractor.discover(""))) == 2
    assert extractor.check() == [f"{stand_in.url} lists 3 tickers", f"{stand_in.url} answers"]


def test_a_company_that_is_not_there_is_unknown(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    with pytest.raises(UnknownSymbol, match=r"404.*NoSuchKey"):
        fetch(Bench(stand_in, tmp_path), "fundamentals", "1")


@pytest.mark.parametrize("status", [403, 200])
def test_who_does_not_say_whom_to_write_to_is_told_the_option(
    stand_in: EdgarStandIn, status: int, tmp_path: Path
) -> None:
    answered(stand_in, Reply(UNDECLARED, status, kind="text/html"))
    with pytest.raises(AuthFailed, match=r"Undeclared Automated Tool.*user_agent.*data@example\.com"):
        fetch(Bench(stand_in, tmp_path), "filings", APPLE)
    with pytest.raises(AuthFailed, match="user_agent"):
        Bench(stand_in, tmp_path).extractor("filings").check()


def test_any_other_403_is_about_the_user_agent_too(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    answered(stand_in, Reply({"message": "Forbidden"}, 403))
    with pytest.raises(AuthFailed, match="user_agent"):
        fetch(Bench(stand_in, tmp_path), "filings", APPLE)


@pytest.mark.parametrize("status", [403, 200])
def test_too_many_requests_stop_the_source_though_the_status_does_not_say(
    stand_in: EdgarStandIn, status: int, tmp_path: Path
) -> None:
    answered(stand_in, Reply(TOO_FAST, status, {"Retry-After": "0"}, kind="text/html"))
    with pytest.raises(RateLimited):
        fetch(Bench(stand_in, tmp_path), "filings", APPLE)


def test_says_who_asks_and_keeps_an_even_pace(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    began = datetime.now(UTC)
    bench.run(bench.job("filings", [APPLE, TESLA], START, END))
    took = (datetime.now(UTC) - began).total_seconds()
    assert {asked.headers["user-agent"] for asked in stand_in.log} == {"Example Research data@example.com"}
    assert len(stand_in.log) > 4
    assert took >= (len(stand_in.log) - 1) / 10


@pytest.mark.parametrize("agent", [None, "", "Example", "data@example.com", "Example data@example", "Ex data@é.com"])
def test_the_user_agent_is_required_and_checked(stand_in: EdgarStandIn, agent: str | None, tmp_path: Path) -> None:
    options = stand_in.options("filings")
    del options["user_agent"]
    stand_in.options = lambda schema: options  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="user_agent"):
        Bench(stand_in, tmp_path, {} if agent is None else {"user_agent": agent}).extractor("filings")


def test_the_other_host_is_a_plain_address_too() -> None:
    with pytest.raises(ValueError, match="www_url"):
        EdgarOptions(user_agent="Example data@example.com", www_url="https://me:secret@www.sec.gov")


@pytest.mark.parametrize("cut", ["column", "page"])
def test_columns_that_are_not_whole_are_asked_again(stand_in: EdgarStandIn, cut: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    real = stand_in.overflow
    broken = 1

    def overflow(asked: Asked) -> Reply:
        nonlocal broken
        reply = real(asked)
        if broken:
            broken -= 1
            for name in ["form"] if cut == "column" else reply.body:
                reply.body[name].pop()
        return reply

    stand_in.overflow = overflow  # type: ignore[method-assign]
    outcome = bench.run(bench.job("filings", [APPLE], START, MIDDLE))
    assert (outcome.errors, len(bench.slept)) == ([], 1)
    assert matches(bench.stored("filings", APPLE), stand_in.truth("filings", APPLE, START, MIDDLE))
    broken = 100
    with pytest.raises(TransientError, match="not whole"):
        fetch(bench, "filings", APPLE)


def test_a_fact_told_twice_is_one_and_one_that_contradicts_is_kept_apart(
    stand_in: EdgarStandIn, tmp_path: Path
) -> None:
    about = {"accn": "0000320193-22-000001", "fy": 2022, "fp": "Q1", "form": "10-Q", "filed": "2022-02-01"}
    whole = {"end": "2021-12-31", "val": 5, **about}
    torn = {"end": "2021-09-30", "val": 6, **about}
    figures = [whole, {**whole, "frame": "CY2021Q4I"}, torn, {**torn, "val": 7}]
    answered(stand_in, Reply({"cik": 320193, "facts": {"us-gaap": {"Assets": {"units": {"USD": figures}}}}}))
    bench = Bench(stand_in, tmp_path)
    tally = bench.run(bench.job("fundamentals", [APPLE], START, END)).tallies["shelf"]
    assert (tally.parsed, tally.new, tally.duplicate, tally.quarantined) == (4, 1, 1, 2)
    (row,) = bench.stored("fundamentals", APPLE)
    assert row["value"] == 5
    assert {rule for rule, _, _ in bench.ledger.quarantined.values()} == {"one row for each key"}


def test_values_come_as_they_are_written(stand_in: EdgarStandIn, tmp_path: Path) -> None:
    body = b"""{"facts": {"dei": {
        "A": {"units": {"USD": [{"val": 0.123456789012345678, "start": "2021-01-01", "end": "2021-12-31", "accn": "a",
            "fy": null, "fp": null, "form": "10-K", "filed": "2022-02-01"}]}},
        "B": {"units": {"USD": [{"val": 98765432109876543210, "end": "2021-12-31", "accn": "a",
            "fy": 2021, "fp": "FY", "form": "10-K", "filed": "2022-02-01"}]}}}}}"""
    answered(stand_in, Reply(body))
    bench = Bench(stand_in, tmp_path)
    assert bench.run(bench.job("fundamentals", [APPLE], START, END)).errors == []
    flow, stock = bench.stored("fundamentals", APPLE)
    assert (flow["value"], stock["value"]) == (Decimal("0.123456789012345678"), Decimal("98765432109876543210"))
    assert (flow["period_start"], stock["period_start"]) == ("2021-01-01", "")
    assert (flow["fiscal_year"], stock["fiscal_year"]) == (None, 2021)
