"""Recorded charts of Yahoo, served as they were sent, against a reading of the same JSON with nothing of ours.

All 22 recordings of the chart interface are of schemas we have: 21 of days, one of them with a split and a dividend,
and one of a Saturday's minutes, which is empty and too old to be asked again: its page is parsed without asking.
"""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest

from flows.landing import Landing
from flows.landing import Page
from tests.vendors.harness import Bench
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.yahoo import YahooStandIn

pytestmark = pytest.mark.corpus

NAMES = ("open", "high", "low", "close", "volume")
WIDE = timedelta(days=30)


class Recorded(YahooStandIn):
    """Answers every chart with the same recorded bytes."""

    body = b""

    def chart(self, asked: Asked) -> Reply:
        return Reply(self.body)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with Recorded() as server:
        yield server


def bodies(corpus: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, address and body of each recording, the body in the very digits that were sent."""
    for path in sorted((corpus / "yahoo/chart-http").glob("*.json")):
        text = path.read_text()
        begin = text.index('"bodyJson": ') + len('"bodyJson": ')
        _, end = json.JSONDecoder().raw_decode(text, begin)
        yield path.name, json.loads(text)["request"]["url"], text[begin:end].encode()


def exact(body: bytes) -> Any:
    (result,) = json.loads(body, parse_float=Decimal)["chart"]["result"]
    return result


def session(stamp: int, zone: str) -> datetime:
    """Return the date of an instant where the exchange is, as our label of a day."""
    day = datetime.fromtimestamp(stamp, ZoneInfo(zone)).date()
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def test_days_are_read_digit_by_digit(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    rows = 0
    zones = set()
    for name, address, body in bodies(corpus):
        result = exact(body)
        about = result["meta"]
        if about["dataGranularity"] != "1d":
            continue
        zone, symbol = about["exchangeTimezoneName"], about["symbol"]
        assert symbol in address
        values = result["indicators"]["quote"][0]
        expected = [
            (session(stamp, zone), *(Decimal(values[field][at]) for field in NAMES))
            for at, stamp in enumerate(result["timestamp"])
        ]
        # room on both sides, so that no row is left out for its time
        recorded.body = body
        bench = Bench(recorded, tmp_path / name)
        job = bench.job("ohlcv-1d", [symbol], expected[0][0] - WIDE, expected[-1][0] + WIDE)
        outcome = bench.run(job)
        assert (outcome.errors, bench.ledger.quarantined) == ([], {}), name
        stored = [tuple(row[field] for field in ("ts_event", *NAMES)) for row in bench.stored("ohlcv-1d", symbol)]
        assert stored == expected, name
        rows += len(stored)
        zones.add(zone)
    assert rows == 49 + 3 * 3 + 17
    assert len(zones) == 8


def test_splits_and_dividends(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    kinds = []
    for name, _, body in bodies(corpus):
        result = exact(body)
        zone, symbol = result["meta"]["exchangeTimezoneName"], result["meta"]["symbol"]
        expected = []
        for event in result.get("events", {}).get("splits", {}).values():
            pair = (Decimal(event["denominator"]), Decimal(event["numerator"]))
            expected.append((session(event["date"], zone), "split", *pair, None, None))
        for event in result.get("events", {}).get("dividends", {}).values():
            paid = (Decimal(event["amount"]), result["meta"]["currency"])
            expected.append((session(event["date"], zone), "dividend", None, None, *paid))
        if result["meta"]["dataGranularity"] != "1d":
            assert expected == []
            continue
        recorded.body = body
        bench = Bench(recorded, tmp_path / name)
        start = session(result["timestamp"][0], zone) - WIDE
        assert bench.run(bench.job("corporate_actions", [symbol], start, start + 6 * WIDE)).errors == []
        columns = ("ts_event", "kind", "ratio_from", "ratio_to", "amount", "currency")
        stored = [tuple(row[field] for field in columns) for row in bench.stored("corporate_actions", symbol)]
        assert stored == sorted(expected), name
        kinds += [row[1] for row in stored]
    assert sorted(kinds) == ["dividend", "split"]


def test_a_saturdays_minutes_are_no_rows(corpus: Path, recorded: Recorded, tmp_path: Path) -> None:
    (found,) = [found for found in bodies(corpus) if "interval-1m" in found[0]]
    _, address, body = found
    assert "timestamp" not in exact(body)
    period1 = int(parse_qs(urlsplit(address).query)["period1"][0])
    assert datetime.fromtimestamp(period1, UTC).weekday() == 5
    landing = Landing(tmp_path)
    landing.begin("yahoo", 1, {"schema": "ohlcv-1m"})
    landing.write("yahoo", 1, 0, Page("application/json", [body], facts={"symbol": "AAPL"}))
    (page,) = landing.pages("yahoo", 1)
    (batch,) = Bench(recorded, tmp_path).extractor("ohlcv-1m").parse(page, {})
    assert (batch.table.num_rows, batch.rejected.num_rows) == (0, 0)
