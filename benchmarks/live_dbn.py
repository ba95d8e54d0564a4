"""2 M live records of Databento from the socket to validated tables, against iterating the vendor's own client."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import Final

import numpy as np

from benchmarks.live_runs import PATIENCE
from benchmarks.live_runs import Counter
from benchmarks.live_runs import live_series
from benchmarks.live_runs import point
from benchmarks.live_runs import running
from benchmarks.live_runs import secrets
from benchmarks.live_servers import KEY
from benchmarks.live_servers import Server
from benchmarks.live_servers import serving
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import clear_folders
from benchmarks.machine import data_folder

ROWS: Final = 2_000_000
DATASET: Final = "GLBX.MDP3"
IDS: Final = {"ESH4": 17_077, "ESM4": 5_602, "NQH4": 750}
#: session → share of its records that are quotes (mbp-1); the rest are trades, in any order
_SESSIONS: Final = {"trades": 0.0, "trades and quotes": 0.5}
_DAY: Final = 86_400 * 10**9


def run() -> Iterator[Line]:
    secrets(API_KEY=KEY)
    live_series(
        "live-dbn", "databento", {"dataset": DATASET}, "future", tuple(IDS), {"database": {}}, ("trades", "mbp-1")
    )
    path = data_folder() / "session.dbn"
    for what, quotes in _SESSIONS.items():
        write_session(path, ROWS, quotes)
        with serving("gateway", path) as server:
            point("live-dbn", gateway=server.address)
            base, own = alternate(3, lambda: by_the_vendor(server), lambda: by_us(server))
        yield Line(f"{what}: socket → frames on disk → validated tables, against iterating databento.Live",
                   base / own, 5.0)  # fmt: skip
        yield Line(f"{what}: records a second", ROWS / own / 1e6, 1.0, unit="M")


def by_us(server: Server) -> float:
    """Return the seconds from the first byte sent to the last validated row, at a destination that keeps none."""
    counter = Counter(ROWS)
    with running("live-dbn", lambda route, ids: counter):
        begun = server.begun()
        if not counter.full.wait(PATIENCE):
            raise AssertionError(f"{counter.rows} rows of {ROWS}")
    clear_folders()
    if counter.rows != ROWS:
        raise AssertionError(f"{counter.rows} rows of {ROWS}")
    return (counter.ended - begun) / 1e9


def by_the_vendor(server: Server) -> float:
    """Return the seconds from the first byte sent to the last record of the vendor's iterator."""
    import databento

    host, port = server.address.split(":")
    client = databento.Live(key=KEY, gateway=host, port=int(port))
    for schema in ("trades", "mbp-1"):
        client.subscribe(DATASET, schema, list(IDS))
    kinds = (databento.TradeMsg, databento.MBP1Msg)
    rows = 0
    for record in client:
        rows += isinstance(record, kinds)
        if rows == ROWS:
            break
    ended = time.monotonic_ns()
    client.terminate()
    return (ended - server.begun()) / 1e9


def write_session(path: Path, rows: int, quotes: float) -> None:
    """Write what a session sends: a header, acknowledgements, the symbols, and records of the last minute."""
    import databento_dbn as dbn

    now = time.time_ns()
    metadata = dbn.Metadata(
        dataset=DATASET, start=now, stype_in=None, stype_out=dbn.SType.INSTRUMENT_ID, schema=None, ts_out=False
    )
    symbol = dbn.SType.RAW_SYMBOL
    with path.open("wb") as file:
        file.write(metadata.encode())
        for number, schema in enumerate(("mbp-1", "trades")):
            words = f"Subscription request {number} for {schema} data succeeded"
            file.write(bytes(dbn.SystemMsg(now, words, dbn.SystemCode.SUBSCRIPTION_ACK)))
        for name, number in IDS.items():
            file.write(bytes(dbn.SymbolMappingMsg(1, number, now, symbol, name, symbol, name, now, now + _DAY)))
        for records in _in_turn(_records(dbn.TradeMsg, 0, rows, now), _records(dbn.MBP1Msg, 1, rows, now), quotes):
            file.write(records)


def _records(kind: Any, number: int, rows: int, now: int) -> np.ndarray:
    random = np.random.default_rng(number)
    records = np.zeros(rows, dtype=np.dtype(kind._dtypes))
    records["length"], records["rtype"] = records.dtype.itemsize // 4, number
    records["publisher_id"] = 1
    records["instrument_id"] = random.choice(list(IDS.values()), rows)
    records["ts_event"] = now - 60 * 10**9 + np.sort(random.integers(0, 50 * 10**9, rows))
    records["ts_recv"] = records["ts_event"] + np.uint64(20_000)
    records["price"] = (5_000 * 4 + random.integers(-400, 400, rows)) * (10**9 // 4)
    records["size"] = random.integers(1, 50, rows)
    records["action"] = b"T" if kind.__name__ == "TradeMsg" else b"A"
    records["side"] = np.where(random.random(rows) < 0.5, b"A", b"B")
    records["sequence"] = np.arange(rows)
    for level in (name for name in records.dtype.names if name.startswith("bid_px")):
        records[level] = records["price"]
        records[level.replace("bid", "ask")] = records["price"] + 10**9 // 4
    return records


def _in_turn(trades: np.ndarray, quotes: np.ndarray, share: float) -> Iterator[bytes]:
    """Yield as many records as there are trades, of which a share are quotes, in any order."""
    if not share:
        yield trades.tobytes()
        return
    chosen = np.random.default_rng(2).random(len(trades)) < share
    for one, is_quote in enumerate(chosen.tolist()):
        yield (quotes if is_quote else trades)[one].tobytes()
