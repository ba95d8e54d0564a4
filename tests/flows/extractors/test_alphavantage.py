"""Alpha Vantage's traps: words of refusal inside good answers, the key in every address, months, labels, figures."""

import logging
from collections.abc import Iterator
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import AuthFailed
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import UnknownSymbol
from flows.job import LATEST
from tests.vendors import market
from tests.vendors.alphavantage import BURST
from tests.vendors.alphavantage import DAY
from tests.vendors.alphavantage import KEY
from tests.vendors.alphavantage import AlphaVantageStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def stand_in() -> Iterator[AlphaVantageStandIn]:
    with AlphaVantageStandIn() as server:
        yield server


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def asked(stand_in: AlphaVantageStandIn, name: str) -> list[str]:
    return [question.params[name] for question in stand_in.log]


def failure(bench: Bench, schema: str, symbol: str = "IBM") -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        ask(bench, schema, symbol)
    return caught.value


def ask(bench: Bench, schema: str, symbol: str) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, [symbol], *bench.stand_in.windows[schema])):
        list(extractor.pages(request))


@pytest.mark.parametrize(
    ("name", "words", "meant", "pause"),
    [
        ("Information", BURST, RateLimited, 2),
        ("Information", DAY, RateLimited, 3600),
        (
            "Note",
            "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per"
            " day. Please visit https://www.alphavantage.co/premium/ if you would like to target a higher API call"
            " frequency.",
            RateLimited,
            60,
        ),
        (
            "Information",
            "Thank you for using Alpha Vantage! The outputsize=full parameter value is a premium feature for the"
            " TIME_SERIES_DAILY endpoint. You may subscribe to any of the premium plans at"
            " https://www.alphavantage.co/premium/ to instantly unlock all premium features",
            NotEntitled,
            None,
        ),
        ("Information", "The **demo** API key is for demo purposes only. Please claim your own.", AuthFailed, None),
        ("Error Message", "the parameter apikey is invalid or missing. Please claim your free key.", AuthFailed, None),
        ("Error Message", "Invalid API call. Please retry or visit the documentation.", UnknownSymbol, None),
        ("Error Message", "This API function (NOPE) does not exist.", PermanentError, None),
    ],
)
def test_words_in_a_good_answer_are_the_error_they_mean(
    stand_in: AlphaVantageStandIn, tmp_path: Path, name: str, words: str, meant: type[DataflowError], pause: int | None
) -> None:
    stand_in.words = [(name, words)]
    error = failure(Bench(stand_in, tmp_path), "ohlcv-1d")
    assert type(error) is meant
    assert words[-40:] in str(error)
    assert KEY not in str(error)
    assert getattr(error, "retry_after", None) == pause
    assert len(stand_in.log) == 1


def test_the_key_is_in_every_address_and_nowhere_else(
    stand_in: AlphaVantageStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "httpx")
    bench = Bench(stand_in, tmp_path, {"attempts": 1})
    job = bench.job("ohlcv-1d", ["IBM", "TSCO.LON"], *stand_in.windows["ohlcv-1d"])
    said = [*bench.run(job).errors]
    for kind in ("reset", "html", "broken", "truncated"):
        stand_in.fail(kind)
        said.append(str(failure(bench, "ohlcv-1d")))
    stand_in.words = [("Information", DAY)]
    said.append(str(failure(bench, "ohlcv-1d")))
    said += [*bench.ledger.errors.values(), caplog.text, *(repr(record.args) for record in caplog.records)]
    landed = [path for path in tmp_path.rglob("*") if path.is_file()]
    said += [path.read_bytes().decode("latin-1") for path in landed]
    assert len(landed) > 4
    assert set(asked(stand_in, "apikey")) == {KEY}
    assert "apikey=***" in caplog.text, "the HTTP client's own lines are meant to be seen"
    assert "as *** and our standard" in "".join(said)
    assert not [text for text in said if KEY in text]


def test_a_days_requests_are_counted(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"requests_per_day": 2, "attempts": 1})
    job = bench.job("fundamentals", ["IBM"], *stand_in.windows["fundamentals"])
    (error,) = bench.run(job).errors
    assert "used up" in error
    assert asked(stand_in, "function") == ["INCOME_STATEMENT", "BALANCE_SHEET"]


def test_intraday_of_equities_is_asked_by_month_of_new_york(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"adjusted": True, "extended_hours": False})
    # 01:00Z on 1 February is still January in New York; the clock changes in March
    job = bench.job("ohlcv-5m", ["IBM"], at("2023-12-31T23:00"), at("2024-03-10T12:00"))
    requests = list(bench.extractor("ohlcv-5m").requests(job))
    cuts = [at(text) for text in ("2023-12-31T23:00", "2024-01-01T05:00", "2024-02-01T05:00", "2024-03-01T05:00")]
    assert [(request.start, request.end) for request in requests] == list(
        zip(cuts, [*cuts[1:], at("2024-03-10T12:00")], strict=True)
    )
    assert bench.run(job).errors == []
    assert asked(stand_in, "month") == ["2023-12", "2024-01", "2024-02", "2024-03"]
    assert set(asked(stand_in, "adjusted")) == {"true"}
    assert set(asked(stand_in, "extended_hours")) == {"false"}
    assert set(asked(stand_in, "outputsize")) == {"full"}


def test_bars_named_by_their_close_move_to_their_open(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    start, end = at("2024-01-31T15:00"), at("2024-01-31T16:00")
    rows = []
    for label in ("open", "close"):
        bench = Bench(stand_in, tmp_path / label, {"label": label})
        assert bench.run(bench.job("ohlcv-5m", ["IBM"], start, end)).errors == []
        rows.append({row["ts_event"]: row["open"] for row in bench.stored("ohlcv-5m", "IBM")})
    named_open, named_close = rows
    assert list(named_close) == list(named_open)
    later = [named_open[time] for time in list(named_open)[1:]]
    assert [named_close[time] for time in list(named_open)[:-1]] == later


@pytest.mark.parametrize(
    ("options", "symbol", "function", "params"),
    [
        ({"market": "fx"}, "EUR/CHF", "FX_DAILY", {"from_symbol": "EUR", "to_symbol": "CHF"}),
        ({"market": "fx"}, "EUR", "FX_DAILY", {"from_symbol": "EUR", "to_symbol": "USD"}),
        ({"market": "crypto"}, "BTC/EUR", "DIGITAL_CURRENCY_DAILY", {"symbol": "BTC", "market": "EUR"}),
        ({"market": "equity", "daily": "DAILY_ADJUSTED"}, "IBM", "TIME_SERIES_DAILY_ADJUSTED", {"symbol": "IBM"}),
    ],
)
def test_each_market_has_its_functions(
    stand_in: AlphaVantageStandIn,
    tmp_path: Path,
    options: dict[str, Any],
    symbol: str,
    function: str,
    params: dict[str, str],
) -> None:
    bench = Bench(stand_in, tmp_path, options)
    start, end = at("2023-05-01"), at("2023-06-01")
    outcome = bench.run(bench.job("ohlcv-1d", [symbol], start, end))
    assert outcome.errors == []
    assert asked(stand_in, "function") == [function]
    assert params.items() <= stand_in.log[0].params.items()
    is_equity = options["market"] == "equity"
    name = symbol if is_equity else f"{params.get('from_symbol', params.get('symbol'))}/{list(params.values())[1]}"
    truth = [
        {
            "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
            # nobody publishes the volume of currencies
            "volume": None if options["market"] == "fx" else bar.volume,
        }
        for bar in market.bars(name, 86_400, start, end, weekdays=is_equity)
    ]  # fmt: skip
    assert matches(bench.stored("ohlcv-1d", symbol), truth)


@pytest.mark.parametrize(("kind", "function"), [("fx", "FX_INTRADAY"), ("crypto", "CRYPTO_INTRADAY")])
def test_intraday_of_pairs_is_the_latest_weeks_only(
    stand_in: AlphaVantageStandIn, tmp_path: Path, kind: str, function: str
) -> None:
    bench = Bench(stand_in, tmp_path, {"market": kind, "delay_minutes": 0})
    # the year before is neither asked nor taken for empty
    assert bench.run(bench.job("ohlcv-1h", ["EUR/USD"], at("2023-01-01"), at("2024-01-01"))).fetches == 0
    outcome = bench.run(bench.job("ohlcv-1h", ["EUR/USD"], at("2023-01-01"), TODAY))
    assert (outcome.fetches, outcome.errors) == (1, [])
    assert (asked(stand_in, "function"), asked(stand_in, "interval")) == ([function], ["60min"])
    (covered,) = bench.ledger.requests.values()
    assert covered.start == TODAY - timedelta(days=14)
    stored = bench.stored("ohlcv-1h", "EUR/USD")
    assert [row["ts_event"] for row in stored] == [TODAY - timedelta(hours=hours) for hours in range(14 * 24, 0, -1)]


def test_a_window_longer_than_what_is_sent_is_refused(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    # the stand-in sends 20 days
    bench = Bench(stand_in, tmp_path, {"market": "fx", "recent_days": 60})
    (error,) = bench.run(bench.job("ohlcv-1h", ["EUR/USD"], at("2023-01-01"), TODAY)).errors
    assert f"begins at {(TODAY - timedelta(days=20)).date()}" in error
    assert "recent_days" in error
    assert bench.rows == {}


def test_a_compact_answer_covers_only_what_it_reaches(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    # 100 weekdays before June: one day less is not known to be whole
    oldest = at("2024-01-15")
    for number, first in enumerate((at("2023-06-01"), oldest - timedelta(days=1))):
        refused = Bench(stand_in, tmp_path / str(number), {"rows": "compact"})
        (error,) = refused.run(refused.job("ohlcv-1d", ["IBM"], first, at("2024-05-01"))).errors
        assert "option rows" in error
        assert refused.rows == {}
    bench = Bench(stand_in, tmp_path, {"rows": "compact"})
    assert bench.run(bench.job("ohlcv-1d", ["IBM"], oldest, at("2024-02-01"))).errors == []
    start, end = at("2024-01-15"), at("2024-05-01")
    assert bench.run(bench.job("ohlcv-1d", ["IBM"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1d", "IBM"), stand_in.truth("ohlcv-1d", "IBM", start, end))
    assert set(asked(stand_in, "outputsize")) == {"compact"}


class Answers(AlphaVantageStandIn):
    """Gives the same answer to everything."""

    body: Any = None

    def query(self, asked: Asked) -> Reply:
        return Reply(self.body)


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as server:
        yield server


def test_prices_named_twice_are_those_of_the_market(answers: Answers, tmp_path: Path) -> None:
    answers.body = {
        "Meta Data": {"4. Market Code": "CNY", "7. Time Zone": "UTC"},
        "Time Series (Digital Currency Daily)": {
            "2024-01-02": {
                "1a. open (CNY)": "70", "1b. open (USD)": "10", "2a. high (CNY)": "77", "2b. high (USD)": "11",
                "3a. low (CNY)": "63", "3b. low (USD)": "9", "4a. close (CNY)": "71", "4b. close (USD)": "10.1",
                "5. volume": "2.5", "6. market cap (USD)": "25",
            }
        },
    }  # fmt: skip
    bench = Bench(answers, tmp_path, {"market": "crypto", "currency": "CNY"})
    assert bench.run(bench.job("ohlcv-1d", ["BTC"], at("2024-01-01"), at("2024-01-05"))).errors == []
    (row,) = bench.stored("ohlcv-1d", "BTC")
    assert [row[name] for name in ("open", "high", "low", "close")] == [70, 77, 63, 71]
    assert row["volume"] == Decimal("2.5")


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        ("ohlcv-1d", {"Meta Data": {"5. Time Zone": "Mars/Olympus"}, "Time Series (Daily)": {}}),
        ("ohlcv-1d", {"Meta Data": {"5. Information": "no zone"}, "Time Series (Daily)": {}}),
        ("ohlcv-1d", {"Meta Data": {"5. Time Zone": "UTC"}}),
        ("ohlcv-1d", {"Global Quote": {"05. price": "112.1300"}}),
        ("ohlcv-1d", ["2024-01-02"]),
        # a month of Tokyo is not the month that was asked for
        ("ohlcv-5m", {"Meta Data": {"6. Time Zone": "Asia/Tokyo"}, "Time Series (5min)": {}}),
    ],
)
def test_an_answer_of_another_kind_is_refused(answers: Answers, tmp_path: Path, schema: str, body: Any) -> None:
    answers.body = body
    assert isinstance(failure(Bench(answers, tmp_path), schema), SchemaMismatch)


def test_a_company_nobody_knows_is_an_empty_object(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    error = failure(Bench(stand_in, tmp_path), "fundamentals", "NOSUCH")
    assert isinstance(error, UnknownSymbol)
    assert "NOSUCH" in str(error)
    # every function said so
    assert len(stand_in.log) == 5
    bench = Bench(stand_in, tmp_path)
    job = bench.job("fundamentals", ["NOSUCH", "IBM"], *stand_in.windows["fundamentals"])
    for asked_again in (10, 0):
        stand_in.log.clear()
        (refusal,) = bench.run(job).errors
        assert "NOSUCH" in refusal
        # an unknown symbol takes no more of the day's requests
        assert len(stand_in.log) == asked_again
    assert bench.stored("fundamentals", "IBM")


@pytest.mark.parametrize("nothing", ["OVERVIEW", "INCOME_STATEMENT"])
def test_an_empty_object_from_one_function_leaves_the_others(
    stand_in: AlphaVantageStandIn, tmp_path: Path, nothing: str
) -> None:
    stand_in.nothing = {nothing}
    bench = Bench(stand_in, tmp_path)
    window = stand_in.windows["fundamentals"]
    outcome = bench.run(bench.job("fundamentals", ["IBM"], *window))
    assert (outcome.errors, bench.ledger.quarantined) == ([], {})
    truth = stand_in.truth("fundamentals", "IBM", *window)
    left = [row for row in truth if not row["concept"].startswith(nothing.lower())]
    assert 0 < len(left) < len(truth)
    assert matches(bench.stored("fundamentals", "IBM"), left)
    assert len(stand_in.log) == 5
    assert bench.run(bench.job("fundamentals", ["IBM"], *window)).fetches == 0


def test_prices_are_asked_when_the_day_is_over(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    for options, last in (({}, TODAY - timedelta(days=1)), ({"delay_minutes": 0}, TODAY)):
        bench = Bench(stand_in, tmp_path, options)
        extractor = bench.extractor("ohlcv-1d")
        (request,) = extractor.requests(bench.job("ohlcv-1d", ["IBM"], at("2024-01-01"), TODAY))
        assert request.end == last
        # figures have no such end
        (figures,) = extractor.requests(bench.job("fundamentals", ["IBM"], at("2024-01-01"), TODAY))
        assert figures.end == LATEST


def test_figures_are_asked_anew_after_some_days_and_whole(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"figures_days": 7, "statements": ["OVERVIEW"]})
    job = bench.job("fundamentals", ["IBM"], at("2020-01-01"), at("2024-01-01"))
    (request,) = bench.extractor("fundamentals").requests(job)
    days = date.fromisoformat(request.identity.removeprefix("as of ")).toordinal()
    assert days % 7 == 0
    assert 0 <= datetime.now(UTC).date().toordinal() - days < 7
    assert (request.start, request.end) == (at("2020-01-01"), LATEST)
    assert bench.run(job).errors == []
    assert asked(stand_in, "function") == ["OVERVIEW"]


def test_a_figure_that_is_no_number_is_kept_with_the_reason(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    stand_in.words = [("PERatio", "n/a")]
    bench = Bench(stand_in, tmp_path, {"statements": ["OVERVIEW"]})
    outcome = bench.run(bench.job("fundamentals", ["IBM"], at("2020-01-01"), at("2024-01-01")))
    assert outcome.errors == []
    ((_, reason, _),) = bench.ledger.quarantined.values()
    assert "value" in reason
    assert "n/a" in reason


def test_what_words_mean_none_is_no_row(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("fundamentals", ["IBM"], *stand_in.windows["fundamentals"]))
    concepts = {row["concept"] for row in bench.stored("fundamentals", "IBM")}
    assert "overview:PERatio" in concepts
    assert not concepts & {"overview:PEGRatio", "overview:Beta", "income_statement:annual:nonRecurring"}


def test_check_and_search(stand_in: AlphaVantageStandIn, tmp_path: Path) -> None:
    extractor = Bench(stand_in, tmp_path).extractor("ohlcv-1d")
    assert "answers" in extractor.check()[0]
    (found,) = extractor.discover("tsco")
    assert (found.symbol, found.asset_class, found.currency) == ("TSCO.LON", "equity", "USD")
