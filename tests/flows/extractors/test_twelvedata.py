"""Twelve Data's own traps, over the socket: which rows a full answer keeps, errors of one symbol, credits, ratios."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from flows.work import Outcome
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.twelvedata import TwelveDataStandIn

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2024, 1, 2, tzinfo=UTC)
SOLD_OUT = "You have run out of API credits for the current minute."


@pytest.fixture
def stand_in() -> Iterator[TwelveDataStandIn]:
    with TwelveDataStandIn() as server:
        yield server


def run(bench: Bench, schema: str, symbols: list[str], start: datetime, end: datetime) -> Outcome:
    return bench.run(bench.job(schema, symbols, start, end))


def fetch(bench: Bench, schema: str, symbols: list[str]) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, symbols, START, START + DAY)):
        list(extractor.pages(request))


def expect(bench: Bench, schema: str, symbols: list[str], start: datetime, end: datetime) -> None:
    for symbol in symbols:
        truth = bench.stand_in.truth(schema, symbol, start, end)
        assert truth
        assert matches(bench.stored(schema, symbol), truth), symbol


@pytest.mark.parametrize("end_is_inclusive", [True, False])
@pytest.mark.parametrize("keeps_newest", [True, False])
@pytest.mark.parametrize(
    ("schema", "days"), [("ohlcv-30m", 12), ("ohlcv-1d", 60), ("ohlcv-1w", 300), ("ohlcv-1mo", 800)]
)
def test_a_full_answer_is_completed_whichever_rows_it_kept(
    stand_in: TwelveDataStandIn, tmp_path: Path, schema: str, days: int, keeps_newest: bool, end_is_inclusive: bool
) -> None:
    stand_in.keeps_newest, stand_in.end_is_inclusive = keeps_newest, end_is_inclusive
    # a Monday and first of a month
    start = datetime(2024, 1, 1, tzinfo=UTC)
    end = start + timedelta(days=days)
    bench = Bench(stand_in, tmp_path, {"page_rows": 90 if schema == "ohlcv-30m" else 7})
    symbols = ["AAPL", "BTC/USD"]
    outcome = run(bench, schema, symbols, start, end)
    assert outcome.errors == []
    expect(bench, schema, symbols, start, end)
    tally = outcome.tallies["shelf"]
    assert (tally.new, tally.parsed) == (len(bench.rows), len(bench.rows)), "a bar was bought twice"


def test_coins_that_trade_always_cost_no_call_too_many(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"page_rows": 48})
    assert run(bench, "ohlcv-1h", ["BTC/USD", "EUR/USD"], START, START + 10 * DAY).errors == []
    assert [asked.params["symbol"] for asked in stand_in.log] == ["BTC/USD,EUR/USD"] * 5
    expect(bench, "ohlcv-1h", ["BTC/USD", "EUR/USD"], START, START + 10 * DAY)
    windows = [(asked.params["start_date"], asked.params["end_date"]) for asked in stand_in.log]
    assert all(early != late for early, late in pairwise(sorted(windows)))


def test_intraday_is_asked_in_utc_and_days_are_the_exchanges(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # the stand-in speaks New York's time unless asked not to
    run(bench, "ohlcv-15m", ["AAPL"], START, START + DAY)
    expect(bench, "ohlcv-15m", ["AAPL"], START, START + DAY)
    bench.rows.clear()
    run(bench, "ohlcv-1d", ["AAPL"], START, START + 3 * DAY)
    expect(bench, "ohlcv-1d", ["AAPL"], START, START + 3 * DAY)
    intraday, daily = stand_in.log
    assert intraday.params["timezone"] == "UTC"
    assert "timezone" not in daily.params


def test_one_symbols_error_is_a_row_and_the_others_come(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    stand_in.broken["MSFT"] = (400, "Something of the vendor's own")
    symbols = ["AAPL", "NOSUCH", stand_in.forbidden, "MSFT", "EUR/USD"]
    outcome = run(bench, "ohlcv-1h", symbols, START, START + DAY)
    assert outcome.errors == []
    expect(bench, "ohlcv-1h", ["AAPL", "EUR/USD"], START, START + DAY)
    rules = {rule: reason for rule, reason, _ in bench.ledger.quarantined.values()}
    assert set(rules) == {"symbol is known", "symbol is in the plan", "vendor answers for the symbol"}
    assert "'NOSUCH': code 404: **symbol**" in rules["symbol is known"]
    tally = outcome.tallies["shelf"]
    assert (tally.quarantined, tally.parsed) == (3, tally.settled)
    assert len(stand_in.log) == 1


def test_a_refused_symbol_is_not_covered_and_the_others_are(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    stand_in.broken = {
        "MSFT": (403, "This symbol is available starting with the Pro plan"),
        "BTC/USD": (404, "**symbol** or **figi** parameter is missing or invalid."),
        # says that there are none
        "EUR/USD": (400, "No data is available on the specified dates. Try setting different start/end dates."),
    }
    symbols = ["AAPL", "MSFT", "BTC/USD", "EUR/USD"]
    assert run(bench, "ohlcv-1h", symbols, START, START + DAY).errors == []
    assert (len(stand_in.log), len(bench.ledger.quarantined)) == (1, 2)
    # the plan is another one now, and the symbol is known
    stand_in.broken.clear()
    assert run(bench, "ohlcv-1h", symbols, START, START + DAY).errors == []
    assert [asked.params["symbol"] for asked in stand_in.log[1:]] == ["MSFT,BTC/USD"]
    expect(bench, "ohlcv-1h", ["AAPL", "MSFT", "BTC/USD"], START, START + DAY)
    assert run(bench, "ohlcv-1h", symbols, START, START + DAY).fetches == 0
    assert len(stand_in.log) == 2


def test_prices_that_come_later_are_not_asked_yet(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for options, late in (({}, 15), ({"delay_minutes": 0}, 0)):
        bench = Bench(stand_in, tmp_path, options)
        job = bench.job("ohlcv-1m", ["AAPL"], now - DAY, now + timedelta(minutes=5))
        (request,) = bench.extractor("ohlcv-1m").requests(job)
        ends = now - timedelta(minutes=late) if late else now + timedelta(minutes=5)
        assert timedelta(minutes=-2) < request.end - ends < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("code", "error"), [(429, RateLimited), (401, AuthFailed), (500, TransientError), (503, TransientError)]
)
def test_an_error_of_one_symbol_that_concerns_all_is_no_row(
    stand_in: TwelveDataStandIn, tmp_path: Path, code: int, error: type[Exception]
) -> None:
    stand_in.broken["EUR/USD"] = (code, SOLD_OUT)
    with pytest.raises(error, match=f"code {code}"):
        fetch(Bench(stand_in, tmp_path), "ohlcv-1h", ["AAPL", "EUR/USD"])


def test_a_symbol_the_answer_forgets_is_asked_again(tmp_path: Path) -> None:
    class Forgetful(TwelveDataStandIn):
        def time_series(self, asked: Asked) -> Reply:
            reply = super().time_series(asked)
            if len(self.log) < 2:
                del reply.body["EUR/USD"]
            return reply

    with Forgetful() as forgetful:
        bench = Bench(forgetful, tmp_path)
        assert run(bench, "ohlcv-1h", ["AAPL", "EUR/USD"], START, START + DAY).errors == []
        expect(bench, "ohlcv-1h", ["AAPL", "EUR/USD"], START, START + DAY)
    assert len(bench.slept) == 1


@pytest.mark.parametrize("says_with_status", [True, False])
@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (429, SOLD_OUT, RateLimited),
        (401, "**apikey** parameter is incorrect or not specified.", AuthFailed),
        (403, "/time_series is available exclusively with grow plans", NotEntitled),
        (404, "This symbol is available starting with the Pro plan", NotEntitled),
        (404, "**symbol** or **figi** parameter is missing or invalid.", UnknownSymbol),
        (400, "**symbol** not found: AAPL. Please specify it correctly", UnknownSymbol),
        (400, "**AAPL** not found: symbol may be delisted", UnknownSymbol),
        (400, "Invalid **interval** provided", PermanentError),
        (500, "Internal error", TransientError),
    ],
)
def test_errors_mean_the_same_with_status_200_and_their_own(
    stand_in: TwelveDataStandIn,
    tmp_path: Path,
    code: int,
    message: str,
    error: type[Exception],
    says_with_status: bool,
) -> None:
    stand_in.says_with_status = says_with_status
    stand_in.broken["AAPL"] = (code, message)
    with pytest.raises(error) as caught:
        fetch(Bench(stand_in, tmp_path), "ohlcv-1h", ["AAPL"])
    assert type(caught.value) is error
    assert message[:20] in str(caught.value)


@pytest.mark.parametrize("says_with_status", [True, False])
@pytest.mark.parametrize("symbols", [["AAPL"], ["AAPL", "MSFT"]])
def test_no_rows_are_no_error(
    stand_in: TwelveDataStandIn, tmp_path: Path, symbols: list[str], says_with_status: bool
) -> None:
    stand_in.says_with_status = says_with_status
    bench = Bench(stand_in, tmp_path)
    saturday = datetime(2024, 1, 6, tzinfo=UTC)
    outcome = run(bench, "ohlcv-1d", symbols, saturday, saturday + 2 * DAY)
    assert (outcome.errors, bench.rows, bench.ledger.quarantined) == ([], {}, {})
    assert all(fetched.complete for fetched in bench.ledger.fetches)


def test_credits_are_taken_and_what_the_vendor_says_is_believed(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"credits_per_minute": 30})
    stand_in.credits_left = 20
    extractor = bench.extractor("ohlcv-1h")
    (request,) = extractor.requests(bench.job("ohlcv-1h", ["AAPL", "MSFT", "EUR/USD"], START, START + DAY))
    (call,) = extractor.calls(request)
    assert call.costs == {"credits": 3}
    (quota,) = extractor.limiter.quotas
    assert (quota.name, quota.amount, quota.seconds) == ("credits", 30, 60)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        raise InterruptedError

    extractor.limiter.sleep = sleep
    list(extractor.pages(request))
    # 17 are left by the vendor's word, 27 by ours
    with pytest.raises(InterruptedError):
        extractor.limiter.take({"credits": 20})
    assert 5 < waits[0] <= 6


def test_eight_credits_a_minute_unless_the_plan_has_more(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.options = {"requests_per_minute": 5}
    assert type(bench.extractor("ohlcv-1h")).Options.model_fields["credits_per_minute"].default == 8
    names = [quota.name for quota in bench.extractor("ohlcv-1h").limiter.quotas]
    assert sorted(names) == ["credits", "requests"]


def test_splits_name_new_shares_first_and_dividends_are_as_paid(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    # the wrong one costs the others nothing
    outcome = run(bench, "corporate_actions", ["NOSUCH", "AAPL"], start, end)
    assert len(outcome.errors) == 1
    expect(bench, "corporate_actions", ["AAPL"], start, end)
    rows = bench.stored("corporate_actions", "AAPL")
    (split,) = [row for row in rows if row["kind"] == "split"]
    assert (split["ratio_from"], split["ratio_to"]) == (1, 4)
    assert next(row["amount"] for row in rows if row["kind"] == "dividend") == Decimal("1.23")
    assert [row["currency"] for row in rows if row["kind"] == "dividend"] == ["USD"] * 4


def test_the_key_is_in_a_header_and_nowhere_else(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    run(bench, "ohlcv-1h", ["AAPL"], START, START + DAY)
    (asked,) = stand_in.log
    assert asked.headers["authorization"] == "apikey td-right"
    assert "td-right" not in asked.question
    assert not any(b"td-right" in path.read_bytes() for path in tmp_path.rglob("*.json"))


def test_lists_shares_currencies_and_coins(stand_in: TwelveDataStandIn, tmp_path: Path) -> None:
    extractor = Bench(stand_in, tmp_path).extractor("ohlcv-1h")
    found = {listing.symbol: listing for listing in extractor.discover("")}
    assert {symbol: listing.asset_class for symbol, listing in found.items()} == {
        "AAPL": "equity", "MSFT": "equity", "EUR/USD": "fx", "BTC/USD": "crypto",
    }  # fmt: skip
    assert (found["AAPL"].mic, found["AAPL"].currency, found["EUR/USD"].currency) == ("XNGS", "USD", "USD")
    assert [listing.symbol for listing in extractor.discover("eur")] == ["EUR/USD"]
    assert extractor.check() == ["1 of 610 credits of this minute are used"]
