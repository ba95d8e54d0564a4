"""Recorded answers of Binance's REST interface against a reading of the same JSON or CSV with nothing of ours.

Of the recordings these have rows of a schema we ask for: klines, trades, aggregated and historical trades, and depth,
of spot and futures. The others are prices, averages and open interest, which no series asks; the websocket frames are
of the live half.
"""

import csv
import json
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.vendors.binance import BinanceStandIn
from tests.vendors.harness import Bench
from tests.vendors.landed import read
from tests.vendors.server import Row

pytestmark = pytest.mark.corpus

EVER = (datetime(2010, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
TAKEN = datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def at(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def parsed(tmp_path: Path, schema: str, content: bytes, **facts: Any) -> list[Row]:
    # nothing is asked: the stand-in only lends its name
    bench = Bench(BinanceStandIn(), tmp_path)
    rows, rejected = read(bench, schema, ["X"], EVER, content, {"symbol": "X", "received": TAKEN.isoformat(), **facts})
    bench.stand_in.server.server_close()
    assert rejected == []
    return rows


def fixture(corpus: Path, name: str) -> bytes:
    return (corpus / "binance/nautilus-fixtures" / name).read_bytes()


def bars(rows: list[Row]) -> list[tuple[Any, ...]]:
    names = ("ts_event", "open", "high", "low", "close", "volume", "trade_count")
    return [tuple(row[name] for name in names) for row in rows]


def expected_bars(lines: list[list[Any]]) -> list[tuple[Any, ...]]:
    return sorted((at(int(line[0])), *(Decimal(text) for text in line[1:6]), int(line[8])) for line in lines)


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("http_spot_market_klines.json", "ohlcv-1m"),
        # the documentation's own sample is a week, from a Monday
        ("http_futures_market_klines.json", "ohlcv-1w"),
        ("spot__http_json__klines_response.json", "ohlcv-1w"),
    ],
)
def test_klines(corpus: Path, tmp_path: Path, name: str, schema: str) -> None:
    content = fixture(corpus, name)
    assert bars(parsed(tmp_path, schema, content)) == expected_bars(json.loads(content))


@pytest.mark.parametrize("day", ["27", "28"])
def test_klines_of_the_public_files(corpus: Path, tmp_path: Path, day: str) -> None:
    path = corpus / f"binance/nautilus/ADABTC-1m-2021-11-{day}.csv"
    lines: list[list[Any]] = [[int(line[0]), *line[1:6], int(line[6]), line[7], int(line[8]), *line[9:]]
                              for line in csv.reader(path.read_text().splitlines())]  # fmt: skip
    found = bars(parsed(tmp_path, "ohlcv-1m", json.dumps(lines).encode()))
    assert found == expected_bars(lines)
    assert len(found) >= 10


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("http_spot_market_agg_trades.json", "aggregated"),
        ("http_futures_market_agg_trades.json", "aggregated"),
        ("http_spot_market_historical_trades.json", "single"),
        ("http_spot_market_trades.json", "single"),
        ("http_futures_market_historical_trades.json", "single"),
        ("http_futures_market_trades.json", "single"),
        ("spot__http_json__trades_response.json", "single"),
    ],
)
def test_trades(corpus: Path, tmp_path: Path, name: str, kind: str) -> None:
    content = fixture(corpus, name)
    number, time, price, size, maker = (
        ("a", "T", "p", "q", "m") if kind == "aggregated" else ("id", "time", "price", "qty", "isBuyerMaker")
    )
    expected = [
        (at(row[time]), str(row[number]), Decimal(row[price]), Decimal(row[size]), "A" if row[maker] else "B")
        for row in json.loads(content)
    ]
    rows = parsed(tmp_path, "trades", content, kind=kind)
    found = [(row["ts_event"], row["trade_id"], row["price"], row["size"], row["side"]) for row in rows]
    assert sorted(found) == sorted(expected)


def books(corpus: Path) -> dict[str, bytes]:
    found = {
        name: fixture(corpus, name)
        for name in (
            "http_spot_market_depth.json", "http_futures_market_depth.json", "spot__http_json__depth_response.json",
        )
    }  # fmt: skip
    for path in sorted((corpus / "binance/cryptofeed").glob("*.http.0.0")):
        for line in path.read_text().splitlines():
            if line.strip():
                address, _, answer = line.partition(" -> ")
                found[address] = answer.partition(": ")[2].encode()
    return found


def test_depth(corpus: Path, tmp_path: Path) -> None:
    recorded = books(corpus)
    assert len(recorded) == 11
    for number, (name, content) in enumerate(recorded.items()):
        said = json.loads(content)
        (row,) = parsed(tmp_path / str(number), "mbp-10", content)
        assert row["ts_event"] == (at(said["T"]) if "T" in said else TAKEN), name
        assert row["sequence"] == said["lastUpdateId"]
        for level in range(10):
            for side in ("bid", "ask"):
                price, size = said[f"{side}s"][level] if level < len(said[f"{side}s"]) else (None, None)
                assert row[f"{side}_price_{level:02}"] == (price and Decimal(price)), (name, side, level)
                assert row[f"{side}_size_{level:02}"] == (size and Decimal(size)), (name, side, level)
