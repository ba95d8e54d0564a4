"""Recorded answers of Alpha Vantage, served as they were sent, against a reading with nothing of ours.

Rows of a schema: mock_time_series (minutes of MSFT), mock_fundamental_data (an income statement),
mock_company_overview, symbol_search (instruments) and mock_time_series_extended, whose function the vendor has
withdrawn: its lines go through as the answers by month that replaced it. The others are of nothing we ask:
mock_crypto_currencies has one price a row and no bar, mock_foreign_exchange and global_quote are the quote of a moment
without bid and offer, mock_sector is no instrument's, mock_technical_indicator is computed by the vendor.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.vendors.alphavantage import AlphaVantageStandIn
from tests.vendors.harness import Bench
from tests.vendors.server import Asked
from tests.vendors.server import Reply

pytestmark = pytest.mark.corpus

NEW_YORK = ZoneInfo("America/New_York")
NAMES = ("open", "high", "low", "close", "volume")
BARS = ("ts_event", *NAMES)


class Recorded(AlphaVantageStandIn):
    """Answers with recorded bytes, by function; by month for intraday where there are several."""

    bodies: dict[str, bytes]

    def query(self, asked: Asked) -> Reply:
        function = asked.params["function"]
        return Reply(self.bodies.get(f"{function} {asked.params.get('month')}") or self.bodies[function])


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with Recorded() as server:
        yield server


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def folder(corpus: Path) -> Path:
    return corpus / "alphavantage"


def test_every_recording_is_accounted_for(corpus: Path) -> None:
    assert {path.name for path in folder(corpus).iterdir()} == {
        "mock_time_series.json", "mock_fundamental_data.json", "mock_company_overview.json", "symbol_search.json",
        "mock_time_series_extended.csv", "mock_crypto_currencies.json", "mock_foreign_exchange.json",
        "global_quote.json", "mock_sector.json", "mock_technical_indicator.json",
    }  # fmt: skip


def test_minutes(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    body = (folder(corpus) / "mock_time_series.json").read_bytes()
    recorded.bodies = {"TIME_SERIES_INTRADAY": body}
    expected = sorted(
        (instant(time), *(Decimal(row[f"{number}. {name}"]) for number, name in enumerate(NAMES, start=1)))
        for time, row in json.loads(body)["Time Series (1min)"].items()
    )
    bench = Bench(recorded, tmp_path)
    assert bench.run(bench.job("ohlcv-1m", ["MSFT"], day("2017-12-18"), day("2017-12-19"))).errors == []
    stored = [tuple(row[name] for name in BARS) for row in bench.stored("ohlcv-1m", "MSFT")]
    assert bench.ledger.quarantined == {}
    assert stored == expected
    assert len(stored) == 100


def test_extended_minutes_are_named_by_their_close(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    with (folder(corpus) / "mock_time_series_extended.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 11_190
    # what says so: no bar of 04:00, where sessions begin, one of 20:00, and the opening auction in that of 09:31
    clocks = {line["time"][11:16] for line in lines}
    assert (min(clocks), max(clocks)) == ("04:01", "20:00")
    volumes: dict[str, int] = defaultdict(int)
    for line in lines:
        volumes[line["time"][11:16]] += int(line["volume"])
    assert volumes["09:31"] > 10 * volumes["09:30"]
    recorded.bodies = {
        f"TIME_SERIES_INTRADAY {month}": json.dumps(
            {
                "Meta Data": {"6. Time Zone": "US/Eastern"},
                "Time Series (1min)": {
                    line["time"]: {f"{number}. {name}": line[name] for number, name in enumerate(NAMES, start=1)}
                    for line in lines
                    if line["time"].startswith(month)
                },
            }
        ).encode()
        for month in ("2020-11", "2020-12")
    }
    bench = Bench(recorded, tmp_path, {"label": "close"})
    start, end = instant("2020-11-23T00:00"), instant("2020-12-19T00:00")
    assert bench.run(bench.job("ohlcv-1m", ["IBM"], start, end)).errors == []
    expected = sorted(
        (instant(line["time"]) - timedelta(minutes=1), *(Decimal(line[name]) for name in NAMES)) for line in lines
    )
    stored = [tuple(row[name] for name in BARS) for row in bench.stored("ohlcv-1m", "IBM")]
    assert bench.ledger.quarantined == {}
    assert stored == expected
    assert all(4 <= row[0].astimezone(NEW_YORK).hour < 20 for row in stored)


def test_an_income_statement(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    body = (folder(corpus) / "mock_fundamental_data.json").read_bytes()
    recorded.bodies = {"INCOME_STATEMENT": body}
    said = json.loads(body)
    expected = {
        (day(report["fiscalDateEnding"]), f"income_statement:{group}:{name}"): Decimal(value)
        for group in ("annual", "quarterly")
        for report in said[f"{group}Reports"]
        for name, value in report.items()
        if name not in ("fiscalDateEnding", "reportedCurrency") and value != "None"
    }
    bench = Bench(recorded, tmp_path, {"statements": ["INCOME_STATEMENT"]})
    assert bench.run(bench.job("fundamentals", ["IBM"], day("2010-01-01"), day("2021-01-01"))).errors == []
    rows = bench.stored("fundamentals", "IBM")
    assert bench.ledger.quarantined == {}
    assert {(row["ts_event"], row["concept"]): row["value"] for row in rows} == expected
    assert {row["unit"] for row in rows} == {"USD"}
    # years and quarters that end on one day do not meet
    assert len(rows) == len(expected)
    both = {time for time, concept in expected if ":annual:" in concept}
    assert both & {time for time, concept in expected if ":quarterly:" in concept}


def test_an_overview(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    body = (folder(corpus) / "mock_company_overview.json").read_bytes()
    recorded.bodies = {"OVERVIEW": body}
    words = {
        "AssetType", "Name", "Description", "Exchange", "Currency", "Country", "Sector", "Industry", "Address",
        "FiscalYearEnd", "LatestQuarter", "DividendDate", "ExDividendDate", "LastSplitFactor", "LastSplitDate",
    }  # fmt: skip
    said = {name: value for name, value in json.loads(body).items() if name != "Symbol"}
    expected: dict[str, Any] = {
        f"overview:{name}": value if name in words else Decimal(value) for name, value in said.items()
    }
    bench = Bench(recorded, tmp_path, {"statements": ["OVERVIEW"]})
    assert bench.run(bench.job("fundamentals", ["IBM"], day("2010-01-01"), day("2021-01-01"))).errors == []
    rows = bench.stored("fundamentals", "IBM")
    assert bench.ledger.quarantined == {}
    assert {row["concept"]: row["value_text"] or row["value"] for row in rows} == expected
    # the figures are of the day they were asked
    assert {row["ts_event"] for row in rows} <= {
        datetime.combine(datetime.now(UTC).date() - timedelta(days=days), datetime.min.time(), UTC) for days in (0, 1)
    }


def test_search(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    body = (folder(corpus) / "symbol_search.json").read_bytes()
    recorded.bodies = {"SYMBOL_SEARCH": body}
    found = list(Bench(recorded, tmp_path).extractor("ohlcv-1d").discover("BA"))
    expected = [(row["1. symbol"], row["2. name"], row["8. currency"]) for row in json.loads(body)["bestMatches"]]
    assert [(one.symbol, one.name, one.currency) for one in found] == expected
    assert expected


@pytest.mark.parametrize(
    "name",
    ["mock_foreign_exchange", "global_quote", "mock_sector", "mock_technical_indicator", "mock_crypto_currencies"],
)
def test_answers_to_other_questions_give_no_bars(corpus: Path, recorded: Recorded, tmp_path: Path, name: str) -> None:
    recorded.bodies = {"TIME_SERIES_DAILY": (folder(corpus) / f"{name}.json").read_bytes()}
    bench = Bench(recorded, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1d", ["MSFT"], day("2017-01-01"), day("2019-01-01")))
    assert bench.rows == {}
    refused = bench.ledger.quarantined or outcome.errors
    assert refused, "what is no bar is said to be none"
