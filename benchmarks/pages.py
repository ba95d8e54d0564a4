"""1,000 pages of 1,000 JSON bars into raw rows, against orjson and building the Arrow table by hand.

By hand means floats, which lose digits; ours keeps every number as it was sent, names symbols and reads times.
"""

import json
import random
from collections.abc import Iterator

import orjson
import pyarrow as pa

from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import seconds

PAGES = 1_000
ROWS = 1_000
_FIELDS = {
    "ts_event": "t",
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "trade_count": "n",
    "vwap": "vw",
}


def run() -> Iterator[Line]:
    page = content()
    by_hand(page)
    ours(page)
    base, own = alternate(
        3,
        lambda: seconds(lambda: [by_hand(page) for _ in range(PAGES)]),
        lambda: seconds(lambda: [ours(page) for _ in range(PAGES)]),
    )
    yield Line(
        "pages of 1,000 JSON bars parsed, against orjson and a table of floats by hand",
        base / own,
        0.5,
        note=f"{PAGES * ROWS / own / 1000:,.0f} k rows/s",
    )


def content() -> bytes:
    chance = random.Random(7)
    bars = [
        {
            "t": 1_700_000_000_000 + 60_000 * number,
            **{name: round(100 + chance.random() * 5, 4) for name in ("o", "h", "l", "c", "vw")},
            "v": round(chance.random() * 1e5, 2),
            "n": chance.randrange(1, 5000),
        }
        for number in range(ROWS)
    ]
    return json.dumps({"results": bars, "status": "OK"}).encode()


def by_hand(page: bytes) -> pa.Table:
    rows = orjson.loads(page)["results"]
    columns = {name: pa.array([row[field] for row in rows]) for name, field in _FIELDS.items()}
    columns["ts_event"] = columns["ts_event"].cast(pa.timestamp("ms", "UTC"))
    return pa.table(columns)


def ours(page: bytes) -> pa.Table:
    from catalog.schemas import schema
    from flows.formats.records import Shape
    from flows.formats.records import batch
    from flows.formats.times import Clock
    from flows.web import read_json

    bars = schema("ohlcv-1m")
    return batch(bars, read_json(page)["results"], Shape(_FIELDS, Clock("ms", timeframe="1m")), "AAPL").table
