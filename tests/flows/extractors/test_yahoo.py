"""Yahoo's traps: nulls, the running quote, dates of sessions, how far back it goes, refusals, the cookie dance."""

import json
import logging
import sys
from collections.abc import Callable
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from flows.job import LATEST
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.yahoo import YahooStandIn

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
PRICES = ("open", "high", "low", "close")


@pytest.fixture
def stand_in() -> Iterator[YahooStandIn]:
    with YahooStandIn() as server:
        yield server


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def failure(bench: Bench, schema: str, symbol: str = "AAPL") -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        ask(bench, schema, symbol)
    return caught.value


def ask(bench: Bench, schema: str, symbol: str) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, [symbol], *bench.stand_in.windows[schema])):
        list(extractor.pages(request))


def with_nulls(result: Row) -> None:
    """Nothing traded in the second bar; the close of the third is not there."""
    (values,) = result["indicators"]["quote"]
    for name in (*PRICES, "volume"):
        values[name][1] = None
    values["close"][2] = None


@pytest.mark.parametrize(("empty_bars", "kept"), [("quarantine", 2), ("filter", 1)])
def test_nulls_are_rows_with_a_reason_or_no_rows(
    stand_in: YahooStandIn, tmp_path: Path, empty_bars: str, kept: int
) -> None:
    stand_in.change = with_nulls
    bench = Bench(stand_in, tmp_path, {"empty_bars": empty_bars})
    weekday = TODAY - timedelta(days=10 + max(0, (TODAY - timedelta(days=10)).weekday() - 4))
    start, end = weekday, weekday + timedelta(hours=1)
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], start, end))
    assert outcome.errors == []
    truth = stand_in.truth("ohlcv-1m", "AAPL", start, end)
    assert matches(bench.stored("ohlcv-1m", "AAPL"), [truth[0], *truth[3:]])
    reasons = [reason for _, reason, _ in bench.ledger.quarantined.values()]
    assert len(reasons) == kept
    assert "close is required" in reasons[-1]
    assert "open is required" not in reasons[-1]
    assert all(f"{name} is required" in reasons[0] for name in PRICES) == (kept == 2)
    assert outcome.tallies["shelf"].parsed == 60 + 1, "one bar opens at period2"


def test_the_running_quote_is_no_bar(stand_in: YahooStandIn, tmp_path: Path) -> None:
    start, end = TODAY - timedelta(days=14), TODAY
    now = datetime.now(UTC)

    def add_quote(result: Row) -> None:
        result["timestamp"].append(int(now.timestamp()))
        for values in result["indicators"]["quote"][0].values():
            values.append(1.0)

    stand_in.change = add_quote
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1d", ["EURUSD=X"], start, end))
    assert outcome.errors == []
    assert matches(bench.stored("ohlcv-1d", "EURUSD=X"), stand_in.truth("ohlcv-1d", "EURUSD=X", start, end))
    assert bench.ledger.quarantined == {}
    assert outcome.tallies["shelf"].filtered >= 1


def test_hours_may_begin_at_half_past(stand_in: YahooStandIn, tmp_path: Path) -> None:
    def half_past(result: Row) -> None:
        result["timestamp"] = [stamp + 1800 for stamp in result["timestamp"]]

    stand_in.change = half_past
    bench = Bench(stand_in, tmp_path)
    weekday = TODAY - timedelta(days=90 + max(0, (TODAY - timedelta(days=90)).weekday() - 4))
    assert bench.run(bench.job("ohlcv-1h", ["AAPL"], weekday, weekday + timedelta(hours=3))).errors == []
    assert bench.ledger.quarantined == {}
    assert {row["ts_event"].minute for row in bench.stored("ohlcv-1h", "AAPL")} == {30}


def test_what_yahoo_no_longer_keeps_is_not_asked(
    stand_in: YahooStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], at("2020-01-01"), TODAY - timedelta(days=40)))
    assert (outcome.fetches, stand_in.log) == (0, [])
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], at("2020-01-01"), TODAY))
    assert outcome.errors == []
    windows = [(request.start, request.end) for request in bench.ledger.requests.values()]
    assert windows[0][0] == TODAY - timedelta(days=29)
    assert windows[-1][1] == TODAY
    assert [end for _, end in windows[:-1]] == [start for start, _ in windows[1:]]
    assert all(end - start <= timedelta(days=7) for start, end in windows)
    # the same cuts tomorrow: what is covered is not asked again
    assert all((start - at("1970-01-01")).days % 7 == 0 for start, _ in windows[1:])
    assert "Yahoo keeps ohlcv-1m for 30 days" in caplog.text


@pytest.mark.parametrize(("schema", "days"), [("ohlcv-5m", 60), ("ohlcv-1h", 730)])
def test_every_interval_has_its_reach(stand_in: YahooStandIn, tmp_path: Path, schema: str, days: int) -> None:
    bench = Bench(stand_in, tmp_path)
    (request,) = bench.extractor(schema).requests(bench.job(schema, ["AAPL"], at("2020-01-01"), TODAY))
    assert request.start == TODAY - timedelta(days=days - 1)


def test_asks_in_seconds_around_the_dates_of_every_zone(stand_in: YahooStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"extended_hours": True})
    extractor: Any = bench.extractor("ohlcv-1d")
    windows = {}
    for schema in ("ohlcv-1d", "ohlcv-1w", "ohlcv-1mo", "corporate_actions"):
        end = LATEST if schema == "corporate_actions" else at("2024-03-18")
        (request,) = extractor.requests(bench.job(schema, ["^GSPC"], at("2024-03-13"), end))
        (call,) = extractor.calls(request)
        windows[schema] = [datetime.fromtimestamp(int(call.params[name]), UTC) for name in ("period1", "period2")]
        assert call.params["events"] == "div,splits,capitalGains"
        assert call.params["includePrePost"] == "true"
        assert call.path == "v8/finance/chart/%5EGSPC"
    assert windows == {
        "ohlcv-1d": [at("2024-03-12"), at("2024-03-19")],
        "ohlcv-1w": [at("2024-03-04"), at("2024-03-19")],
        "ohlcv-1mo": [at("2024-02-01"), at("2024-03-19")],
        "corporate_actions": [at("2024-03-12"), LATEST + timedelta(days=1)],
    }


def test_days_before_1970_are_good_times(stand_in: YahooStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = at("1962-01-02"), at("1962-02-01")
    assert bench.run(bench.job("ohlcv-1d", ["AAPL"], start, end)).errors == []
    assert int(stand_in.log[0].params["period1"]) < 0
    assert matches(bench.stored("ohlcv-1d", "AAPL"), stand_in.truth("ohlcv-1d", "AAPL", start, end))


def test_a_chart_without_times_is_an_empty_one(stand_in: YahooStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    saturday = TODAY - timedelta(days=9 + (TODAY - timedelta(days=7)).weekday())
    assert saturday.weekday() == 5
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], saturday, saturday + timedelta(days=1)))
    assert (outcome.errors, outcome.fetches, bench.rows) == ([], 1, {})


def shortened(result: Row) -> None:
    result["indicators"]["quote"][0]["close"].pop()


def set_meta(name: str, value: Any) -> Callable[[Row], None]:
    return lambda result: result["meta"].update({name: value})


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        (shortened, TransientError),
        (set_meta("exchangeTimezoneName", None), SchemaMismatch),
        (set_meta("dataGranularity", "1wk"), SchemaMismatch),
        (set_meta("symbol", "MSFT"), UnknownSymbol),
    ],
    ids=["values missing", "no zone", "other interval", "other symbol"],
)
def test_an_answer_that_contradicts_itself_does_not_land(
    stand_in: YahooStandIn, tmp_path: Path, change: Callable[[Row], None], meant: type[DataflowError]
) -> None:
    stand_in.change = change
    assert type(failure(Bench(stand_in, tmp_path), "ohlcv-1d")) is meant


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (200, {"chart": {"result": None, "error": {"code": "Not Found", "description": "gone"}}}, UnknownSymbol),
        (200, {"chart": {"result": None, "error": {"code": "Bad Request", "description": "no"}}}, PermanentError),
        (200, {"chart": {"result": None, "error": None}}, SchemaMismatch),
        (200, {"finance": {}}, SchemaMismatch),
        (200, b"Too Many Requests\r\n", RateLimited),
        (429, b"Edge: Too Many Requests", RateLimited),
        (401, {"finance": {"error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}, AuthFailed),
        (404, b"<html>not found</html>", PermanentError),
        (400, {"chart": {"error": {"code": "Bad Request", "description": "Data doesn't exist"}}}, PermanentError),
    ],
)
def test_refusals(tmp_path: Path, status: int, body: Any, meant: type[DataflowError]) -> None:
    class Refusing(YahooStandIn):
        def chart(self, asked: Asked) -> Reply:
            return Reply(body, status)

    with Refusing() as server:
        error = failure(Bench(server, tmp_path), "ohlcv-1d")
    assert type(error) is meant


def test_names_itself_or_is_refused(stand_in: YahooStandIn, tmp_path: Path) -> None:
    assert isinstance(failure(Bench(stand_in, tmp_path, {"user_agent": "python"}), "ohlcv-1d"), RateLimited)
    bench = Bench(stand_in, tmp_path)
    assert bench.extractor("ohlcv-1d").check() == [f"{stand_in.url} answers"]
    assert stand_in.log[-1].headers["user-agent"].startswith("Mozilla/5.0")


def test_an_adjustment_of_prices_is_not_stored_as_a_price(stand_in: YahooStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("ohlcv-1d", ["AAPL"], at("2023-01-02"), at("2023-01-05")))
    # the stand-in's adjusted closes are all 1.5
    assert all(row["close"] > 2 for row in bench.stored("ohlcv-1d", "AAPL"))


def test_the_session_of_yfinance_needs_its_extra(
    stand_in: YahooStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", None)
    bench = Bench(stand_in, tmp_path, {"session": "yfinance"})
    error = failure(bench, "ohlcv-1d")
    assert isinstance(error, ConfigError)
    assert "dataflow[yahoo]" in str(error)
    assert stand_in.log == []


YFINANCE = """
import urllib.request

class Cookies:
    def get_dict(self):
        return {"A3": "secret-cookie", "A1": "x"}

class YfData:
    def __init__(self):
        self._session = type("Session", (), {"cookies": Cookies()})()

    def _get_cookie_and_crumb(self, timeout=30):
        request = urllib.request.Request(ADDRESS + "/v1/test/getcrumb", headers={"User-Agent": "Mozilla/5.0"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read().decode(), "basic"
"""


@pytest.fixture
def yfinance(stand_in: YahooStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of that name whose visit goes to the stand-in, as the real one goes to Yahoo."""
    package = tmp_path / "packages/yfinance"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "exceptions.py").write_text("class YFRateLimitError(Exception): pass\n")
    (package / "data.py").write_text(f"ADDRESS = {json.dumps(stand_in.url)}\n{YFINANCE}")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "yfinance"]:
        monkeypatch.delitem(sys.modules, name)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "yfinance"]:
        del sys.modules[name]


def test_the_session_of_yfinance_brings_cookie_and_crumb(
    stand_in: YahooStandIn, tmp_path: Path, yfinance: Path
) -> None:
    stand_in.crumb = "b2.Crumb/1"
    assert isinstance(failure(Bench(stand_in, tmp_path / "plain"), "ohlcv-1d"), AuthFailed)
    bench = Bench(stand_in, tmp_path / "landing", {"session": "yfinance"})
    start, end = at("2023-01-02"), at("2023-02-01")
    assert bench.run(bench.job("ohlcv-1d", ["AAPL"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1d", "AAPL"), stand_in.truth("ohlcv-1d", "AAPL", start, end))
    landed = b"".join(path.read_bytes() for path in (tmp_path / "landing").rglob("*.json"))
    assert b"Crumb" not in landed
    assert b"secret-cookie" not in landed
    # a refusal that repeats them does not pass them on
    stand_in.crumb = "another"
    stand_in.words = "Invalid Crumb b2.Crumb/1"
    error = failure(bench, "ohlcv-1d")
    assert isinstance(error, AuthFailed)
    assert "Invalid Crumb ***" in str(error)


@pytest.mark.parametrize(
    ("visit", "meant"),
    [
        ("raise __import__('yfinance.exceptions').exceptions.YFRateLimitError('slow down')", RateLimited),
        ("raise OSError('no route')", TransientError),
        ("return None, 'csrf'", AuthFailed),
    ],
)
def test_a_visit_that_fails_is_one_of_our_errors(
    stand_in: YahooStandIn, tmp_path: Path, yfinance: Path, visit: str, meant: type[DataflowError]
) -> None:
    lines = f"class YfData:\n    def _get_cookie_and_crumb(self, timeout=30):\n        {visit}\n"
    (yfinance / "data.py").write_text(lines)
    assert type(failure(Bench(stand_in, tmp_path, {"session": "yfinance"}), "ohlcv-1d")) is meant
