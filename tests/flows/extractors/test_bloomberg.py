"""Vendor `bloomberg` over the stand-in SDK: what is asked, what lands, what is kept, and what every error means."""

import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from decimal import Decimal
from itertools import count
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.keys import InstrumentName
from flows.blp import asks
from flows.blp import faults
from flows.blp.progress import rest
from flows.blp.session import Connection
from flows.blp.session import opened
from flows.extractors.base import Context
from flows.extractors.base import Patience
from flows.extractors.bloomberg import BloombergExtractor
from flows.job import EARLIEST
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import RouteFacts
from flows.job import Rule
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import Landing
from flows.landing import Page
from flows.memory import MemoryLedger
from flows.pipeline import run
from flows.work import Outcome
from flows.work import Workshop
from tests.flows.shelf import Shelf
from tests.vendors import blpapi_standin as standin
from tests.vendors.blpapi_standin import Desk
from tests.vendors.blpapi_standin import Market
from tests.vendors.blpapi_standin import Trouble

# limits are kept by source: every bench is another one
_SOURCES = count(1)
DAYS = [date(2024, 1, 1) + timedelta(days=number) for number in range(31)]


def at(day: int, hour: int = 0, minute: int = 0, month: int = 1) -> datetime:
    return datetime(2024, month, day, hour, minute, tzinfo=UTC)


def day(number: int, **values: Any) -> dict[str, Any]:
    low = 100.0 + number
    prices = {"PX_OPEN": low + 1, "PX_HIGH": low + 3.5, "PX_LOW": low, "PX_LAST": low + 2.25, "PX_VOLUME": 1000.0}
    row = {"date": DAYS[number], **prices} | values
    return {name: value for name, value in row.items() if value is not None}


class Impatient(BloombergExtractor):
    """Does not try again by itself: each attempt of a test is one run."""

    @property
    def patience(self) -> Patience:
        return Patience(attempts=1)


class Bench:
    """A desk, a landing, a ledger in memory, and runs of jobs over them."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        self.folder, self.desk = folder, desk
        self.ledger, self.shelf = MemoryLedger(), Shelf()
        self.id = next(_SOURCES)
        self.environ: dict[str, str] = {}
        self.landing = Landing(folder / "landing")

    def source(self, **options: Any) -> SourceFacts:
        return SourceFacts(self.id, f"bbg{self.id}", "bloomberg", options, "BBG")

    def extractor(self, **options: Any) -> BloombergExtractor:
        return Impatient(self.source(**options), Context(environ=self.environ))

    def job(
        self,
        schema: str,
        wanted: tuple[str, ...],
        start: datetime,
        end: datetime,
        *,
        again: bool = False,
        **options: Any,
    ) -> Job:
        instruments = tuple(
            InstrumentFacts(
                number, InstrumentName(f"bbg{self.id}", "equity", symbol), (SymbolInterval(symbol),), start, end
            )
            for number, symbol in enumerate(wanted, start=1)
        )
        route = RouteFacts(1, "shelf", "shelf", {}, (Rule(frozenset(range(1, len(wanted) + 1))),))
        return Job(self.source(**options), schema, instruments, (route,), again=again)

    def run(
        self,
        schema: str = "ohlcv-1d",
        wanted: tuple[str, ...] = ("SPY US Equity",),
        start: datetime = datetime(2024, 1, 1, tzinfo=UTC),
        end: datetime = datetime(2024, 1, 31, tzinfo=UTC),
        **options: Any,
    ) -> Outcome:
        return self.run_job(self.job(schema, wanted, start, end, **options), **options)

    def run_job(self, job: Job, **options: Any) -> Outcome:
        kit = Workshop(
            self.extractor(**options),
            self.landing,
            self.ledger,
            lambda route, ids: self.shelf,
            sleep=lambda seconds: None,
        )
        outcome = run(job, kit)
        for made in self.ledger.made:
            assert made.tally.parsed == made.tally.settled
        return outcome

    def rows(self) -> list[dict[str, Any]]:
        return [row for table in self.shelf.tables for row in table.to_pylist()]

    def kept(self) -> list[tuple[str, str]]:
        return [(rule, reason) for _, (rule, reason, _) in sorted(self.ledger.quarantined.items())]

    def pages(self, fetch: int = 1) -> list[Any]:
        return self.landing.pages(f"bbg{self.id}", fetch)


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
def bench(tmp_path: Path, market: Market) -> Iterator[Bench]:
    with standin.installed(Desk(market)) as desk:
        yield Bench(tmp_path, desk)
    assert all(session.stopped for session in desk.sessions)


# What is asked


def test_daily_bars_name_both_dates_inclusively_and_ask_nothing_of_the_terminals_settings(
    bench: Bench, market: Market
) -> None:
    market.days["SPY US Equity"] = [day(number) for number in range(10)]
    outcome = bench.run(start=at(2), end=at(5))
    assert outcome.errors == []
    assert bench.desk.asked == [
        (
            "HistoricalDataRequest",
            {
                "securities": ["SPY US Equity"],
                "fields": ["PX_OPEN", "PX_HIGH", "PX_LOW", "PX_LAST", "PX_VOLUME"],
                "startDate": "20240102",
                "endDate": "20240104",
                "periodicitySelection": "DAILY",
                "periodicityAdjustment": "ACTUAL",
                "nonTradingDayFillOption": "ACTIVE_DAYS_ONLY",
                "nonTradingDayFillMethod": "NIL_VALUE",
                "adjustmentSplit": False,
                "adjustmentNormal": False,
                "adjustmentAbnormal": False,
                "adjustmentFollowDPDF": False,
            },
        )
    ]
    rows = bench.rows()
    assert [row["ts_event"].to_pydatetime() for row in rows] == [at(2), at(3), at(4)]
    assert rows[0]["instrument"] == f"bbg{bench.id}:equity:SPY US Equity".replace(" ", "%20")
    values = [rows[0][name] for name in ("open", "high", "low", "close", "volume", "trade_count", "vwap", "venue")]
    assert values == [*map(Decimal, ("102", "104.5", "101", "103.25", "1000")), None, None, ""]


def test_options_change_what_is_asked(bench: Bench, market: Market) -> None:
    market.days["ESA Index"] = [day(1, PX_SETTLE=102.5)]
    bench.run(
        wanted=("ESA Index",), currency="EUR", adjust_splits=True, overrides={"TRADE_SUB": "1"},
        bar_fields={"open": "PX_OPEN", "high": "PX_HIGH", "low": "PX_LOW", "close": "PX_SETTLE"},
    )  # fmt: skip
    ((_, asked),) = bench.desk.asked
    assert (asked["currency"], asked["adjustmentSplit"], asked["adjustmentNormal"]) == ("EUR", True, False)
    assert asked["overrides"] == [{"fieldId": "TRADE_SUB", "value": "1"}]
    assert asked["fields"] == ["PX_OPEN", "PX_HIGH", "PX_LOW", "PX_SETTLE"]
    assert [(row["close"], row["volume"]) for row in bench.rows()] == [(Decimal("102.5"), None)]


@pytest.mark.parametrize(
    ("schema", "start", "end", "dates"),
    [
        ("ohlcv-1d", at(2), at(3), ("20240102", "20240102")),
        # a date is asked when its 00:00Z lies in the window
        ("ohlcv-1d", at(2, 0, 1), at(4, 0, 1), ("20240103", "20240104")),
        ("ohlcv-1d", at(2, 1), at(2, 23), None),
        # Monday to Sunday: weeks whose Monday lies in the window, whole
        ("ohlcv-1w", at(1), at(15), ("20240101", "20240114")),
        ("ohlcv-1w", at(2), at(15, 0, 1), ("20240108", "20240121")),
        ("ohlcv-1w", at(2), at(8), None),
        ("ohlcv-1mo", at(1), at(1, month=3), ("20240101", "20240229")),
        ("ohlcv-1mo", at(2), at(2, month=2), ("20240201", "20240229")),
        ("ohlcv-1mo", at(2), at(1, month=2), None),
    ],
)
def test_windows_become_dates(
    bench: Bench, schema: str, start: datetime, end: datetime, dates: tuple[str, str] | None
) -> None:
    extractor = bench.extractor()
    (request,) = extractor.requests(bench.job(schema, ("X",), start, end))
    found = list(asks.asks(schema, request.instruments, extractor._wishes(), at(1, month=6)))
    assert [(ask.rest["startDate"], ask.rest["endDate"]) for ask in found] == ([dates] if dates else [])


@given(
    start=st.timedeltas(timedelta(0), timedelta(days=11_000)).map(lambda length: at(1) - length),
    length=st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    schema=st.sampled_from(["ohlcv-1d", "ohlcv-1w", "ohlcv-1mo"]),
    cut=st.floats(0, 1),
)
def test_cutting_a_window_asks_every_period_exactly_once(
    start: datetime, length: timedelta, schema: str, cut: float
) -> None:
    def labels(low: datetime, high: datetime) -> list[date]:
        dates = asks._dates(schema, low, high)
        if dates is None:
            return []
        span = [dates[0] + timedelta(days=number) for number in range((dates[1] - dates[0]).days + 1)]
        return sorted({asks.label(schema, one) for one in span})

    end, middle = start + length, start + length * cut
    midnights = [start.date() + timedelta(days=number) for number in range(length.days + 2)]
    expected = [
        one for one in midnights
        if start <= datetime.combine(one, time(), UTC) < end and asks.label(schema, one) == one
    ]  # fmt: skip
    assert labels(start, end) == expected
    assert labels(start, middle) + labels(middle, end) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("ohlcv-1d", at(15, month=5)),
        ("ohlcv-1w", at(13, month=5)),
        ("ohlcv-1mo", at(1, month=5)),
        ("ohlcv-5m", at(15, 13, 35, month=5)),
        ("ohlcv-4h", at(15, 12, month=5)),
        ("trades", at(15, 13, 37, month=5).replace(second=11)),
    ],
)
def test_open_periods_are_not_asked(schema: str, expected: datetime) -> None:
    now = datetime(2024, 5, 15, 13, 37, 11, tzinfo=UTC)
    assert asks.finished(schema, now) == expected


def test_securities_with_one_window_share_requests_of_limited_size(bench: Bench, market: Market) -> None:
    names = tuple(f"S{number} Equity" for number in range(7))
    market.days = {name: [day(3)] for name in names}
    bench.run(wanted=names, securities_per_request=3)
    assert bench.desk.securities == [names[:3], names[3:6], names[6:]]
    assert len(bench.rows()) == 7
    # one request each, however many messages
    assert [spent[0] for spent in bench.ledger.spending.values()] == [1, 1, 1]


def test_different_windows_are_asked_apart(bench: Bench) -> None:
    job = bench.job("ohlcv-1d", ("A", "B", "C"), at(1), at(10))
    longer = replace(job.instruments[1], end=at(20))
    job = replace(job, instruments=(job.instruments[0], longer, job.instruments[2]))
    requests = list(bench.extractor().requests(job))
    assert [[one.id for one in request.instruments] for request in requests] == [[1, 3], [2]]


def test_each_symbol_of_an_instrument_is_asked_for_its_own_time(bench: Bench, market: Market) -> None:
    market.days = {"FB US Equity": [day(n) for n in range(31)], "META US Equity": [day(n) for n in range(31)]}
    job = bench.job("ohlcv-1d", ("META",), at(5), at(15))
    symbols = (SymbolInterval("FB US Equity", EARLIEST, at(10)), SymbolInterval("META US Equity", at(10)))
    bench.run_job(replace(job, instruments=(replace(job.instruments[0], symbols=symbols),)))
    asked = [(a["securities"], a["startDate"], a["endDate"]) for _, a in bench.desk.asked]
    assert asked == [(["FB US Equity"], "20240105", "20240109"), (["META US Equity"], "20240110", "20240114")]
    assert [row["ts_event"].day for row in bench.rows()] == list(range(5, 15))
    assert bench.kept() == []


def test_windows_open_at_the_start_begin_where_bloomberg_does(bench: Bench) -> None:
    (daily,) = bench.extractor().requests(bench.job("ohlcv-1d", ("X",), EARLIEST, at(2)))
    assert daily.start == datetime(1900, 1, 1, tzinfo=UTC)
    now = datetime.now(UTC)
    minutes = list(bench.extractor(intraday_days=100).requests(bench.job("ohlcv-1m", ("X",), EARLIEST, now)))
    assert timedelta(days=100) <= now - minutes[0].start < timedelta(days=101)
    assert all(one.end == other.start for one, other in pairwise(minutes))
    assert now - timedelta(minutes=2) < minutes[-1].end <= now


def test_weeks_and_months_are_labelled_by_their_first_day(bench: Bench, market: Market) -> None:
    # CALENDAR stamps: Fridays, last days of the month
    market.days["X"] = [day(4), day(11)]
    bench.run("ohlcv-1w", ("X",), at(1), at(15))
    assert [row["ts_event"].to_pydatetime() for row in bench.rows()] == [at(1), at(8)]
    bench.shelf.tables.clear()
    market.days["X"] = [day(30)]
    bench.run("ohlcv-1mo", ("X",), at(1), at(1, month=2))
    assert [row["ts_event"].to_pydatetime() for row in bench.rows()] == [at(1)]
    assert [a["periodicityAdjustment"] for _, a in bench.desk.asked] == ["CALENDAR", "CALENDAR"]


# Intraday


TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
THEN = TODAY - timedelta(days=3)


def bar(minute: int, **values: Any) -> dict[str, Any]:
    moment = THEN.replace(tzinfo=None) + timedelta(minutes=minute)
    prices = {"open": 65.85, "high": 65.9, "low": 65.8, "close": 65.86, "volume": 500, "numEvents": 20, "value": 3.5}
    return {"time": moment, **prices} | values


def tick(second: float, **values: Any) -> dict[str, Any]:
    moment = THEN.replace(tzinfo=None) + timedelta(seconds=second)
    return {"time": moment, "type": "TRADE", "value": 65.85, "size": 4} | values


def test_minutes_of_one_security_in_utc(bench: Bench, market: Market) -> None:
    market.bars = {"A": [bar(n) for n in range(10)], "B": [bar(5)]}
    outcome = bench.run("ohlcv-1m", ("A", "B"), THEN + timedelta(minutes=2), THEN + timedelta(minutes=8))
    assert outcome.errors == []
    operation, asked = bench.desk.asked[0]
    assert operation == "IntradayBarRequest"
    assert (asked["security"], asked["interval"], asked["eventType"]) == ("A", 1, "TRADE")
    assert asked["startDateTime"] == THEN + timedelta(minutes=2)
    assert asked["endDateTime"] == THEN + timedelta(minutes=8)
    assert bench.desk.securities == [("A",), ("B",)]
    rows = bench.rows()
    minutes = [(row["ts_event"].to_pydatetime() - THEN).total_seconds() / 60 for row in rows]
    assert minutes == [2, 3, 4, 5, 6, 7, 5]
    assert (rows[0]["close"], rows[0]["volume"], rows[0]["trade_count"]) == (Decimal("65.86"), Decimal(500), 20)


@pytest.mark.parametrize(("schema", "minutes"), asks.MINUTES.items())
def test_every_timeframe_is_asked_on_its_grid(bench: Bench, schema: str, minutes: int) -> None:
    extractor = bench.extractor(bar_events="BID")
    start = THEN + timedelta(hours=5, minutes=7)
    for request in extractor.requests(bench.job(schema, ("X",), start, TODAY)):
        (ask,) = asks.asks(schema, request.instruments, extractor._wishes(), TODAY)
        begin = datetime.fromisoformat(ask.rest["startDateTime"])
        assert (ask.rest["interval"], ask.rest["eventType"]) == (minutes, "BID")
        assert begin.timestamp() % (60 * minutes) == 0
        assert timedelta(0) <= start - begin < timedelta(minutes=minutes)


def test_long_windows_are_cut_on_a_fixed_grid(bench: Bench) -> None:
    extractor = bench.extractor(tick_days=2)
    first = [r.start for r in extractor.requests(bench.job("trades", ("X",), TODAY - timedelta(days=9), TODAY))]
    later = [r.start for r in extractor.requests(bench.job("trades", ("X",), TODAY - timedelta(days=8), TODAY))]
    assert set(first[2:]) <= set(later)
    assert all((one - datetime(1970, 1, 1, tzinfo=UTC)).days % 2 == 0 for one in first[1:])


def test_trades_keep_repeats_and_the_end_of_the_window_belongs_to_the_next(bench: Bench, market: Market) -> None:
    market.ticks["CL1 Comdty"] = [
        tick(0), tick(1, conditionCodes="A,B", exchangeCode="N"), tick(1), tick(1), tick(2.5, value=-37.63), tick(60),
    ]  # fmt: skip
    outcome = bench.run("trades", ("CL1 Comdty",), THEN, THEN + timedelta(seconds=60))
    assert outcome.errors == []
    rows = bench.rows()
    ticks = [((row["ts_event"].to_pydatetime() - THEN).total_seconds(), row["venue"], row["ordinal"]) for row in rows]
    assert ticks == [(0, "", 0), (1, "N", 0), (1, "", 0), (1, "", 1)]
    assert [row["conditions"] for row in rows] == [None, "A,B", None, None]
    assert outcome.tallies["shelf"].filtered == 1
    # an equity's price is not negative; the row is kept with its reason
    assert bench.kept() == [("price > 0", "price > 0: price='-37.63'")]


def test_times_with_an_offset_are_converted(bench: Bench, market: Market) -> None:
    page = {
        "tickData": {
            "eidData": [],
            "tickData": [{"time": "2024-01-02T10:00:00-05:00", "type": "TRADE", "value": 1, "size": 1}],
        }
    }
    (row,) = parsed(bench, "trades", page, request="IntradayTickRequest", securities=["X"], repeated=0)
    assert row["ts_event"] == at(2, 15)


# What is not as it should be


def parsed(bench: Bench, schema: str, body: Any, **facts: Any) -> list[dict[str, Any]]:
    """Land a page and parse it."""
    bench.landing.begin("loose", 1, {"schema": schema})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    bench.landing.write("loose", 1, 0, Page("application/json", [content], facts=facts))
    (page,) = bench.landing.pages("loose", 1)
    (batch,) = bench.extractor().parse(page, {})
    return batch.table.to_pylist()


def test_a_day_without_a_price_is_kept_with_its_reason(bench: Bench, market: Market) -> None:
    market.days["X"] = [
        day(1), day(2, PX_OPEN=None), day(3, PX_HIGH=float("nan")), day(4, PX_VOLUME=None), day(5, PX_LOW=500.0),
    ]  # fmt: skip
    outcome = bench.run(wanted=("X",))
    assert outcome.errors == []
    assert [(row["ts_event"].day, row["volume"]) for row in bench.rows()] == [(2, Decimal(1000)), (5, None)]
    assert [rule for rule, _ in bench.kept()] == [
        "open is required", "high is not a finite number", "high >= low; open >= low; close >= low",
    ]  # fmt: skip


def test_prices_are_not_touched_by_binary_fractions(bench: Bench, market: Market) -> None:
    market.days["X"] = [day(1, PX_LOW=1e-07, PX_OPEN=0.1 + 0.2, PX_LAST=205.42, PX_HIGH=419515.0, PX_VOLUME=1e16)]
    bench.run(wanted=("X",))
    (row,) = bench.rows()
    values = [row[name] for name in ("open", "high", "low", "close", "volume")]
    assert values == [Decimal(text) for text in ("0.30000000000000004", "419515", "1e-7", "205.42", "1e16")]


def test_an_unknown_security_does_not_hold_up_the_others(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)], "C": [day(1)]}
    outcome = bench.run(wanted=("A", "B", "C"))
    assert outcome.errors == []
    assert len(bench.rows()) == 2
    assert bench.kept() == [
        (
            "security is known",
            "security is known: B: Bloomberg says Unknown/Invalid security [nid:1] (BAD_SEC/INVALID_SECURITY, code 15)",
        )
    ]
    tally = outcome.tallies["shelf"]
    assert (tally.parsed, tally.new, tally.quarantined) == (3, 2, 1)


def test_an_unknown_security_does_not_count_as_covered(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)], "C": [day(1)]}
    bench.run(wanted=("A", "B", "C"))
    # it becomes known, or the subscription covers it: it is asked again, the others are not
    market.days["B"] = [day(1)]
    asked = len(bench.desk.asked)
    assert bench.run(wanted=("A", "B", "C")).errors == []
    assert bench.desk.securities[asked:] == [("B",)]
    assert len(bench.rows()) == 3


def test_a_request_without_any_known_security_fails_and_is_asked_again(bench: Bench, market: Market) -> None:
    outcome = bench.run(wanted=("B", "D"))
    assert len(outcome.errors) == 1
    assert all(f"{name}: Bloomberg says Unknown/Invalid security" in outcome.errors[0] for name in "BD")
    assert bench.pages() == []
    market.days = {"B": [day(1)], "D": [day(1)]}
    assert bench.run(wanted=("B", "D")).errors == []
    assert len(bench.rows()) == 2


def test_with_one_security_a_request_an_unknown_one_fails_alone(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)], "C": [day(1)]}
    outcome = bench.run(wanted=("A", "B", "C"), securities_per_request=1)
    assert [error.partition(":")[0] for error in outcome.errors] == ["B"]
    assert [fetch.complete for fetch in bench.ledger.fetches] == [True, False, True]
    assert len(bench.rows()) == 2


def test_fields_that_a_security_has_not_are_reported_and_the_rows_come(bench: Bench, market: Market) -> None:
    market.days = {"DOESCRUD Index": [day(1, PX_VOLUME=None)]}
    market.exceptions = {"DOESCRUD Index": ["PX_VOLUME"]}
    outcome = bench.run(wanted=("DOESCRUD Index",))
    assert outcome.errors == []
    assert [row["volume"] for row in bench.rows()] == [None]
    ((rule, reason),) = bench.kept()
    assert rule == "every field has values"
    assert "DOESCRUD Index, PX_VOLUME: Bloomberg says Field not applicable to security (BAD_FLD/" in reason


def test_an_answer_without_rows_is_complete(bench: Bench, market: Market) -> None:
    market.days = {"X": []}
    market.bars = {"X": []}
    assert bench.run(wanted=("X",)).errors == []
    assert bench.run("ohlcv-1h", ("X",), THEN, THEN + timedelta(hours=4)).errors == []
    assert [fetch.complete for fetch in bench.ledger.fetches] == [True, True]
    assert bench.rows() == []
    assert bench.run(wanted=("X",)).skipped == 1


def test_an_answer_that_leaves_a_security_out_is_not_complete(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)], "B": [day(1)]}
    full = bench.desk.answer
    bench.desk.answer = lambda operation, asked: full(operation, asked | {"securities": asked["securities"][:1]})
    outcome = bench.run(wanted=("A", "B"))
    assert "answer says nothing of B" in outcome.errors[0]
    assert not bench.ledger.fetches[0].complete
    bench.desk.answer = full
    assert bench.run(wanted=("A", "B")).errors == []
    # A has landed and is not asked twice
    assert bench.desk.securities == [("A", "B"), ("B",)]
    assert len(bench.rows()) == 2


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"null", b'{"securityData": 5}', b'{"securityData": {"fieldData": [3]}}']
)
def test_a_page_that_is_no_message_is_damaged(bench: Bench, content: bytes) -> None:
    with pytest.raises(Damaged, match="page 0"):
        parsed(bench, "ohlcv-1d", content, request="HistoricalDataRequest", columns={"open": "PX_OPEN"})


def test_rows_without_a_time_are_kept(bench: Bench, market: Market) -> None:
    broken = {"tickData": {"tickData": [{"type": "TRADE", "value": 1, "size": 1}, {"time": "now", "type": "BID"}]}}
    assert parsed(bench, "trades", broken, request="IntradayTickRequest", securities=["X"], repeated=0) == []


# Errors of the vendor


def reason(category: str, subcategory: str = "", **more: Any) -> dict[str, Any]:
    return {
        "source": "t",
        "code": 1,
        "category": category,
        "message": "words of theirs",
        "subcategory": subcategory,
    } | more


def refuse(
    bench: Bench, body: Any, *, after: int = 0, kind: int = standin.RESPONSE, name: str = "HistoricalDataResponse"
) -> None:
    bench.desk.troubles = deque([Trouble(after, kind, name, body)])


def pages_of(bench: Bench, schema: str = "ohlcv-1d", wanted: tuple[str, ...] = ("A",), **options: Any) -> list[Any]:
    extractor = bench.extractor(**options)
    (request, *_) = extractor.requests(bench.job(schema, wanted, at(1), at(31)))
    return list(extractor.pages(request))


MEANINGS: list[tuple[str, str, type[DataflowError]]] = [
    ("BAD_ARGS", "INVALID_END_DATE", ConfigError),
    ("BAD_SEC", "INVALID_SECURITY", UnknownSymbol),
    ("BAD_FLD", "INVALID_FIELD", PermanentError),
    ("NO_AUTH", "NOT_ENTITLED", NotEntitled),
    ("LIMIT", "DAILY_CAPACITY_REACHED", RateLimited),
    ("TIMEOUT", "", TransientError),
    ("UNCLASSIFIED", "", TransientError),
]


@pytest.mark.parametrize(("category", "subcategory", "meaning"), MEANINGS)
def test_what_a_refused_request_means(
    bench: Bench, category: str, subcategory: str, meaning: type[DataflowError]
) -> None:
    refuse(bench, {"responseError": reason(category, subcategory)})
    with pytest.raises(meaning, match="words of theirs") as caught:
        pages_of(bench)
    assert type(caught.value) is meaning
    assert category in str(caught.value)


@pytest.mark.parametrize(("category", "subcategory", "meaning"), MEANINGS)
def test_what_a_request_failure_means(
    bench: Bench, category: str, subcategory: str, meaning: type[DataflowError]
) -> None:
    said = {"source": "t", "errorCode": 7, "category": category, "description": "theirs", "subcategory": subcategory}
    refuse(bench, {"reason": said}, kind=standin.REQUEST_STATUS, name="RequestFailure")
    with pytest.raises(meaning, match=r"RequestFailure: Bloomberg says theirs .*code 7"):
        pages_of(bench)


@pytest.mark.parametrize(
    ("subcategory", "seconds"), [("DAILY_CAPACITY_REACHED", 3600), ("MONTHLY_CAPACITY_REACHED", 86400), ("", 60)]
)
def test_how_long_a_limit_lasts(subcategory: str, seconds: float) -> None:
    error = faults.of_answer(reason("LIMIT", subcategory), "X")
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_a_limit_stops_everybody_of_the_source(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)]}
    refuse(bench, {"responseError": reason("LIMIT", "DAILY_CAPACITY_REACHED")})
    with pytest.raises(RateLimited, match="words of theirs"):
        pages_of(bench)
    # the next extractor of the source does not even connect
    with pytest.raises(RateLimited, match="the limit is used up"):
        pages_of(bench)
    assert len(bench.desk.sessions) == 1
    # another source is not concerned
    bench.id = next(_SOURCES)
    assert len(pages_of(bench)) == 1


def test_a_limit_in_the_midst_keeps_what_has_come_and_ends_the_job(bench: Bench, market: Market) -> None:
    names = ("A", "B", "C")
    market.days = {name: [day(1)] for name in names}
    market.errors = {"B": reason("LIMIT", "DAILY_CAPACITY_REACHED")}
    outcome = bench.run(wanted=names, securities_per_request=3)
    assert "words of theirs (LIMIT/DAILY_CAPACITY_REACHED, code 1)" in outcome.errors[0]
    assert [page.manifest.facts["securities"] for page in bench.pages()] == [["A"]]


@pytest.mark.parametrize("category", ["NO_AUTH", "NO_APP_AUTH"])
def test_securities_without_entitlement(bench: Bench, market: Market, category: str) -> None:
    market.days = {"A": [day(1)], "B": [day(1)]}
    market.errors = {"B": reason(category)}
    assert bench.run(wanted=("A", "B")).errors == []
    assert "words of theirs" in bench.kept()[0][1]
    with pytest.raises(NotEntitled):
        pages_of(bench, wanted=("B",))


def test_passing_trouble_of_one_security_is_asked_again_alone(bench: Bench, market: Market) -> None:
    market.days = {name: [day(1)] for name in "ABC"}
    market.errors = {"B": reason("TIMEOUT")}
    assert "words of theirs" in bench.run(wanted=("A", "B", "C")).errors[0]
    assert bench.rows() == []
    market.errors = {}
    assert bench.run(wanted=("A", "B", "C")).errors == []
    assert bench.desk.securities == [("A", "B", "C"), ("B",)]
    assert len(bench.rows()) == 3


def test_passing_trouble_in_a_message_of_several_securities_loses_none_of_them(bench: Bench, market: Market) -> None:
    market.figures = {name: {"SALES": 1.0} for name in "ABC"}
    market.errors = {"B": reason("TIMEOUT")}
    end = datetime.now(UTC) + timedelta(days=1)
    assert "words of theirs" in bench.run("fundamentals", tuple("ABC"), at(1), end, fields=("SALES",)).errors[0]
    market.errors = {}
    assert bench.run("fundamentals", tuple("ABC"), at(1), end, fields=("SALES",)).errors == []
    assert bench.desk.securities == [("A", "B", "C"), ("A", "B")]
    assert sorted(row["instrument"][-1] for row in bench.rows()) == ["A", "B", "C"]


def test_strange_trouble_of_one_security_is_kept_beside_the_others(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)], "B": [day(1)]}
    market.errors = {"B": reason("WHATEVER")}
    assert bench.run(wanted=("A", "B")).errors == []
    assert [rule for rule, _ in bench.kept()] == ["security is known"]


def test_rows_before_a_refusal_have_landed(bench: Bench, market: Market) -> None:
    market.days = {name: [day(1)] for name in "ABCD"}
    refuse(bench, {"responseError": reason("TIMEOUT")}, after=2)
    assert "words of theirs" in bench.run(wanted=("A", "B", "C", "D")).errors[0]
    assert [page.manifest.facts["securities"] for page in bench.pages()] == [["A"], ["B"]]
    # B landed last, and nobody said that it was all of it
    assert bench.run(wanted=("A", "B", "C", "D")).errors == []
    assert bench.desk.securities[1] == ("B", "C", "D")
    assert sorted({(row["instrument"], row["close"]) for row in bench.rows()}) == sorted(
        (f"bbg{bench.id}:equity:{name}", Decimal("103.25")) for name in "ABCD"
    )


def test_silence_is_a_passing_failure_and_the_request_is_cancelled(bench: Bench) -> None:
    bench.desk.troubles = deque([Trouble(0, standin.TIMEOUT)])
    with pytest.raises(TransientError, match="HistoricalDataRequest of A: Bloomberg said nothing for 60 s"):
        pages_of(bench)
    assert bench.desk.sessions[0].cancelled == [1]


def test_a_session_that_ends_while_waiting(bench: Bench) -> None:
    refuse(
        bench, {"reason": reason("IO_ERROR", description="gone")}, kind=standin.SESSION_STATUS, name="SessionTerminated"
    )
    with pytest.raises(TransientError, match="SessionTerminated"):
        pages_of(bench)


def test_events_that_are_no_answer_are_passed_over(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)]}
    bench.desk.noise = [
        (standin.ADMIN, "SlowConsumerWarning", {}),
        (standin.SESSION_STATUS, "SessionConnectionDown", {"server": "h:1"}),
        (standin.SERVICE_STATUS, "ServiceUp", {}),
        (standin.UNKNOWN, "Strange", {}),
        # somebody else's answer
        (standin.RESPONSE, "HistoricalDataResponse", {"securityData": {"security": "Z", "fieldData": []}}),
    ]
    (page,) = pages_of(bench)
    assert (page.facts["securities"], page.facts["last"]) == (["A"], True)


def test_chatter_is_not_an_answer_either(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)]}
    bench.desk.noise = [(standin.ADMIN, "Chatter", {})] * 200_000
    with pytest.raises(TransientError, match=r"said nothing for 0\.001 s"):
        pages_of(bench, timeout=0.001)
    assert bench.desk.sessions[0].queue


def test_the_answer_to_a_request_that_was_left_is_not_taken_for_the_next(bench: Bench, market: Market) -> None:
    market.days = {name: [day(1)] for name in "ABC"}
    elements = {"fields": ["PX_LAST"], "startDate": "20240101", "endDate": "20240131"}
    with opened(Connection()) as session:
        first = session.ask("HistoricalDataRequest", elements | {"securities": ["A", "B"]})
        assert next(first).body["securityData"]["security"] == "A"
        first.close()
        second = session.ask("HistoricalDataRequest", elements | {"securities": ["C"]})
        assert [(answer.body["securityData"]["security"], answer.last) for answer in second] == [("C", True)]


def test_elements_that_the_service_has_not_are_a_fault_of_ours(bench: Bench) -> None:
    with opened(Connection()) as session, pytest.raises(ConfigError, match="has no element 'colour'"):
        list(session.ask("ReferenceDataRequest", {"colour": "red"}))


# A fetch that was stopped


def stopped_after(bench: Bench, job: Job, pages: int, **options: Any) -> None:
    """Run a job whose process dies after some pages."""

    class Killed(BaseException):
        pass

    seen = 0

    def progress(what: str, number: int) -> None:
        nonlocal seen
        seen += number if what == "pages" else 0
        if seen == pages:
            raise Killed

    kit = Workshop(bench.extractor(**options), bench.landing, bench.ledger, lambda route, ids: bench.shelf, progress)
    with pytest.raises(Killed):
        run(job, kit)


@pytest.mark.parametrize("pages", [1, 2, 3, 4])
def test_a_stopped_daily_fetch_does_not_buy_twice(bench: Bench, market: Market, pages: int) -> None:
    names = tuple("ABCDE")
    market.days = {name: [day(1), day(2)] for name in names}
    job = bench.job("ohlcv-1d", names, at(1), at(31))
    stopped_after(bench, job, pages)
    assert bench.run_job(job).errors == []
    # of the one that landed last nobody knows whether it was whole
    assert bench.desk.securities == [names, names[pages - 1 :]]
    assert len({(row["instrument"], row["ts_event"]) for row in bench.rows()}) == 10


@pytest.mark.parametrize("pages", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "seconds", [(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3)]
)
def test_a_stopped_tick_fetch_goes_on_from_its_last_instant_without_repeats(
    bench: Bench, market: Market, pages: int, seconds: tuple[int, ...]
) -> None:
    market.ticks = {"X": [tick(second, size=number) for number, second in enumerate(seconds)]}
    job = bench.job("trades", ("X",), THEN, THEN + timedelta(hours=1))
    stopped_after(bench, job, pages)
    market.per_message = 2
    assert bench.run_job(job).errors == []
    again = THEN + timedelta(seconds=seconds[3 * pages - 1])
    assert [asked["startDateTime"] for _, asked in bench.desk.asked] == [THEN, again]
    assert sorted(row["size"] for row in bench.rows()) == list(range(13))
    ordinals: dict[datetime, list[int]] = {}
    for row in bench.rows():
        ordinals.setdefault(row["ts_event"], []).append(row["ordinal"])
    assert all(found == list(range(len(found))) for found in ordinals.values())


def test_a_tick_fetch_stopped_twice_within_one_instant(bench: Bench, market: Market) -> None:
    market.ticks = {"X": [tick(1, size=number) for number in range(12)]}
    job = bench.job("trades", ("X",), THEN, THEN + timedelta(hours=1))
    stopped_after(bench, job, 1)
    stopped_after(bench, job, 2)
    assert bench.run_job(job).errors == []
    assert sorted(row["size"] for row in bench.rows()) == list(range(12))


def test_what_has_landed_whole_needs_no_session(bench: Bench, market: Market) -> None:
    market.bars = {"X": [bar(n) for n in range(5)]}
    job = bench.job("ohlcv-1m", ("X",), THEN, THEN + timedelta(hours=1))
    stopped_after(bench, job, 2)
    assert bench.run_job(job).errors == []
    assert len(bench.desk.sessions) == 1
    assert len(bench.rows()) == 5


def test_what_has_landed_of_one_security_says_nothing_of_another() -> None:
    one = asks.Ask(asks.TICKS, ("A",), {"startDateTime": "2024-01-01T00:00:00+00:00"})
    facts = {"request": one.operation, "ask": one.rest, "securities": ["A"], "last": True, "until": ["", 0]}
    assert rest(one, [facts]) is None
    assert rest(replace(one, securities=("B",)), [facts]) is not None
    assert rest(replace(one, rest={"startDateTime": "2024-01-02T00:00:00+00:00"}), [facts]) is not None


def test_pages_say_what_they_answer_and_are_as_received(bench: Bench, market: Market) -> None:
    market.days = {"A": [day(1)]}
    bench.run(wanted=("A",))
    (page,) = bench.pages()
    facts = page.manifest.facts
    assert (facts["request"], facts["securities"], facts["last"]) == ("HistoricalDataRequest", ["A"], True)
    said = market("HistoricalDataRequest", bench.desk.asked[0][1])[0][2]
    assert json.loads(page.read()) == json.loads(json.dumps(said, default=lambda moment: moment.isoformat()))


# Figures


def test_figures_of_today(bench: Bench, market: Market) -> None:
    market.figures = {
        "A": {"SALES": 123.5, "NAME": "Alpha", "SETTLE_DT": date(2024, 1, 5), "LISTED": True, "SHARES": 10**12,
              "FUT_CHAIN": [{"Security Description": "C H4"}, {"Security Description": "C K4"}]},
        "B": {"SALES": -1},
    }  # fmt: skip
    market.exceptions = {"B": ["NAME"]}
    fields = ("SALES", "NAME", "SETTLE_DT", "LISTED", "SHARES", "FUT_CHAIN")
    now = datetime.now(UTC)
    outcome = bench.run("fundamentals", ("A", "B", "C"), at(1), now + timedelta(days=1), fields=fields)
    assert outcome.errors == []
    ((operation, asked),) = bench.desk.asked
    assert (operation, asked["fields"]) == ("ReferenceDataRequest", list(fields))
    rows = bench.rows()
    assert {row["ts_event"].date() for row in rows} <= {now.date(), datetime.now(UTC).date()}
    found = {(row["instrument"][-1], row["concept"]): (row["value"], row["value_text"]) for row in rows}
    assert found == {
        ("A", "SALES"): (Decimal("123.5"), None),
        ("A", "NAME"): (None, "Alpha"),
        ("A", "SETTLE_DT"): (None, "2024-01-05"),
        ("A", "LISTED"): (None, "true"),
        ("A", "SHARES"): (Decimal(10**12), None),
        ("A", "FUT_CHAIN/1/Security Description"): (None, "C H4"),
        ("A", "FUT_CHAIN/2/Security Description"): (None, "C K4"),
        ("B", "SALES"): (Decimal(-1), None),
    }
    assert sorted(rule for rule, _ in bench.kept()) == ["every field has values", "security is known"]


def test_figures_are_asked_once_a_day_and_only_for_today(bench: Bench, market: Market) -> None:
    market.figures = {"A": {"SALES": 1.0}}
    extractor = bench.extractor(fields=("SALES",))
    assert list(extractor.requests(bench.job("fundamentals", ("A",), at(1), at(31), fields=("SALES",)))) == []
    end = datetime.now(UTC) + timedelta(days=1)
    assert bench.run("fundamentals", ("A",), at(1), end, fields=("SALES",)).fetches == 1
    assert bench.run("fundamentals", ("A",), at(1), end, fields=("SALES",)).skipped == 1
    job = bench.job("fundamentals", ("A",), at(1), at(2), fields=("SALES",))
    with pytest.raises(PermanentError, match="figures of 2024-01-01 can only be asked on that day"):
        list(extractor.pages(Request(job, job.instruments)))


def test_figures_need_fields(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="option 'fields'"):
        list(bench.extractor().requests(bench.job("fundamentals", ("A",), at(1), at(2))))


# Sessions


def test_check_says_what_works(bench: Bench) -> None:
    assert bench.extractor(servers=("one:8194", "two:8195")).check() == [
        "session with one:8194, two:8195 started", "//blp/refdata is open",
    ]  # fmt: skip
    options = bench.desk.sessions[0].options
    assert options.servers == {0: ("one", 8194), 1: ("two", 8195)}
    assert options.values == {"attempts": 3, "restart": True, "timeout": 60_000}
    assert (options.identity, options.tls) == (None, None)


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        ({"authentication": "application"}, {"application": "corp:app"}),
        ({"authentication": "user"}, {"user": ("logon",)}),
        ({"authentication": "user+application"}, {"user": ("logon",), "application": "corp:app"}),
        ({"authentication": "directory", "directory_property": "mail"}, {"user": ("directory", "mail")}),
        (
            {"authentication": "manual", "user_id": "u1", "ip_address": "10.0.0.1"},
            {"user": ("manual", "u1", "10.0.0.1"), "application": "corp:app"},
        ),
    ],
)
def test_every_way_to_authenticate(bench: Bench, options: dict[str, Any], identity: Any) -> None:
    bench.environ = {
        "BBG_APPLICATION": "corp:app", "BBG_TLS_CREDENTIALS": "client.pk12", "BBG_TLS_PASSWORD": "pw",
        "BBG_TLS_TRUSTED": "trust.pk7",
    }  # fmt: skip
    bench.extractor(**options).check()
    made = bench.desk.sessions[0].options
    assert made.identity == identity
    assert made.tls == ("client.pk12", "pw", "trust.pk7")


@pytest.mark.parametrize(
    ("environ", "missing"),
    [({}, "BBG_APPLICATION"), ({"BBG_APPLICATION": "a", "BBG_TLS_CREDENTIALS": "f"}, "BBG_TLS_PASSWORD")],
)
def test_missing_secrets_are_named(bench: Bench, environ: dict[str, str], missing: str) -> None:
    bench.environ = environ
    with pytest.raises(AuthFailed, match=missing):
        bench.extractor(authentication="application").check()


def test_secrets_are_in_no_message(bench: Bench) -> None:
    bench.environ = {
        "BBG_APPLICATION": "corp:secret", "BBG_TLS_CREDENTIALS": "f", "BBG_TLS_PASSWORD": "wrong",
        "BBG_TLS_TRUSTED": "t",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        bench.extractor(authentication="application").check()
    assert "wrong" not in str(caught.value)
    assert caught.value.__cause__ is None
    bench.environ.pop("BBG_TLS_CREDENTIALS")
    said = {"reason": reason("NO_AUTH", description="no entry for corp:secret", message=None)}
    bench.desk.startup = [(standin.SESSION_STATUS, "SessionStartupFailure", said)]
    with pytest.raises(AuthFailed, match=r"no entry for \*\*\*") as refused:
        bench.extractor(authentication="application").check()
    assert "corp:secret" not in repr(refused.value)


@pytest.mark.parametrize(
    ("kind", "name", "category", "meaning"),
    [
        (standin.SESSION_STATUS, "SessionStartupFailure", "IO_ERROR", TransientError),
        (standin.SESSION_STATUS, "SessionStartupFailure", "NO_AUTH", AuthFailed),
        (standin.SESSION_STATUS, "SessionTerminated", "NO_AUTH", AuthFailed),
        (12, "TokenGenerationFailure", "NO_AUTH", AuthFailed),
        (11, "AuthorizationFailure", "UNCLASSIFIED", AuthFailed),
        (standin.SESSION_STATUS, "SessionConnectionDown", "", TransientError),
    ],
)
def test_sessions_that_do_not_start(
    bench: Bench, kind: int, name: str, category: str, meaning: type[DataflowError]
) -> None:
    bench.desk.startup = [(kind, name, {"reason": reason(category, description="why", message=None)})]
    with pytest.raises(meaning, match="localhost:8194") as caught:
        bench.extractor().check()
    assert type(caught.value) is meaning


@pytest.mark.parametrize(("category", "meaning"), [("NO_AUTH", NotEntitled), ("IO_ERROR", TransientError)])
def test_services_that_do_not_open(bench: Bench, category: str, meaning: type[DataflowError]) -> None:
    bench.desk.service = [(standin.SERVICE_STATUS, "ServiceOpenFailure", {"reason": reason(category)})]
    with pytest.raises(meaning, match="//blp/refdata: ServiceOpenFailure"):
        bench.extractor().check()


def test_without_the_sdk_the_error_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blpapi", None)
    with pytest.raises(ConfigError, match=r"pip install --index-url https://blpapi\.bloomberg\.com/"):
        BloombergExtractor(SourceFacts(1, "b", "bloomberg", {}), Context()).check()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"servers": ["localhost"]}, "host:port"),
        ({"servers": ["localhost:99999"]}, "host:port"),
        ({"servers": []}, "servers"),
        ({"authentication": "manual", "user_id": "u"}, "ip_address"),
        ({"authentication": "directory"}, "directory_property"),
        ({"bar_fields": {"open": "PX_OPEN"}}, "no field for high, low, close"),
        ({"bar_fields": {"colour": "X"}}, "bar_fields"),
        ({"securities_per_request": 101}, "securities_per_request"),
    ],
)
def test_wrong_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        BloombergExtractor(SourceFacts(1, "b", "bloomberg", options), Context())


def test_options_that_change_values_are_declared() -> None:
    assert set(BloombergExtractor.value_options) < set(BloombergExtractor.Options.model_fields)
    assert {"currency", "adjust_splits", "bar_events", "bar_fields"} <= set(BloombergExtractor.value_options)


def test_quotes_count_requests(bench: Bench) -> None:
    extractor = bench.extractor(securities_per_request=2)
    quoted = [
        extractor.quote(r).requests for r in extractor.requests(bench.job("ohlcv-1d", tuple("ABC"), at(1), at(9)))
    ]
    assert quoted == [1, 1]


def test_every_error_keeps_the_vendors_words() -> None:
    assert faults.words({}) == "no words"
    assert faults.words(reason("X", "Y")) == "words of theirs (X/Y, code 1)"
