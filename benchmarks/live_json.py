"""Binance trades (JSON) from the socket to Redis streams, against cryptofeed with its Redis Stream backend.

Both hear the same messages from the same server on loopback and write an entry a trade to the same Redis. Of ours the
newest row of each key is written too, every message is on disk before it is read, and the ledger knows what is where.
cryptofeed is no dependency: DATAFLOW_BENCH_CRYPTOFEED names an interpreter that has it.

Then what a message takes to be readable, at a rate: from when the server had sent it (in whole milliseconds, so up to
one too many) and from when it was read from the socket. A consumer in a process of its own looks.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from typing import Final
from urllib.parse import urlsplit

import numpy as np
import redis

from benchmarks.live_runs import delivered
from benchmarks.live_runs import live_series
from benchmarks.live_runs import point
from benchmarks.live_runs import running
from benchmarks.live_runs import secrets
from benchmarks.live_runs import wait
from benchmarks.live_servers import Server
from benchmarks.live_servers import serving
from benchmarks.live_trades import Trades
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import clear_folders

MESSAGES: Final = 200_000
RATE: Final = 20_000
SECONDS: Final = 10
PACK: Final = 1_000
ENTRIES: Final = "live-json"
PACKS: Final = "live-packs"
_DATABASE: Final = 11
_FOLDER: Final = Path(__file__).parent


def run() -> Iterator[Line | str]:
    trades = Trades()
    url = urlsplit(os.environ["DATAFLOW_TEST_REDIS_URL"])._replace(path=f"/{_DATABASE}").geturl()
    secrets(URL=url)
    for name, pack in ((ENTRIES, 1), (PACKS, PACK)):
        kinds = {"redis": {"stream_length": MESSAGES, "pack": pack}}
        live_series(name, "binance", {}, "crypto", trades.symbols, kinds)
    with redis.Redis.from_url(url) as client:
        yield from throughput(trades, client)
        with serving("streams", RATE * SECONDS, RATE) as server:
            point(ENTRIES, stream_url=server.address)
            sent, received = delays(server, client, url)
        client.flushdb()
    for what, found in (("sent", sent), ("received", received)):
        p50, p99, most = (float(value) for value in (*np.percentile(found, (50, 99)), found.max()))
        yield Line(f"{what} → readable in Redis at {RATE:,} messages a second: p99 (to be below 10 ms on idle cores)",
                   p99, math.inf, at_least=False, unit="ms", note=f"p50 {p50:.1f}, max {most:.1f} ms")  # fmt: skip


def throughput(trades: Trades, client: redis.Redis) -> Iterator[Line | str]:
    interpreter = os.environ.get("DATAFLOW_BENCH_CRYPTOFEED", "")
    with serving("streams", MESSAGES, 0) as server:
        for name in (ENTRIES, PACKS):
            point(name, stream_url=server.address)
        steps = [lambda: by_us(ENTRIES, server, client), lambda: by_us(PACKS, server, client)]
        if interpreter:
            steps.append(lambda: by_cryptofeed(interpreter, server, client))
        own, packed, *base = alternate(3, *steps)
    if base:
        yield Line(f"{trades.what}: socket → disk → refined → Redis streams, against cryptofeed",
                   base[0] / own, 3.0, note=_speeds(own, base[0]))  # fmt: skip
        yield Line(f"the same with up to {PACK:,} trades an entry, against cryptofeed (no target)", base[0] / packed, 0,
                   note=_speeds(packed, base[0]))  # fmt: skip
        return
    yield "no ratio to cryptofeed: DATAFLOW_BENCH_CRYPTOFEED names no interpreter that has it"
    for seconds, what in ((own, "a trade"), (packed, f"up to {PACK:,} trades")):
        yield Line(f"{trades.what}: socket → disk → refined → Redis, {what} an entry (no target)",
                   MESSAGES / seconds / 1000, 0, unit="k/s")  # fmt: skip


def _speeds(*seconds: float) -> str:
    return " to ".join(f"{MESSAGES / one / 1000:,.1f}" for one in seconds) + " k/s"


def by_us(name: str, server: Server, client: redis.Redis) -> float:
    """Return the seconds from the first byte sent to the commit of the last trade in Redis."""
    client.flushdb()
    with running(name) as live:
        begun = server.begun()
        ended = wait(lambda: delivered(live, f"{name}-redis") >= MESSAGES)
        server.told()
    clear_folders()
    for symbol, count in Trades().counts(MESSAGES).items():
        stream = _stream(name, symbol)
        if client.hget(f"{stream}:last", "trade_id") != b"%d" % count:
            raise AssertionError(f"the newest trade of {stream} is not number {count}")
        if name == ENTRIES and client.xlen(stream) != count:
            raise AssertionError(f"{stream} has {client.xlen(stream)} trades, not {count}")
    return (ended - begun) / 1e9


def by_cryptofeed(interpreter: str, server: Server, client: redis.Redis) -> float:
    """Return the seconds from the first byte sent to the last trade in Redis."""
    client.flushdb()
    place = client.connection_pool.connection_kwargs
    address = f"{place['port']}/{place['db']}"
    command = [interpreter, str(_FOLDER / "live_cryptofeed.py"), server.address, place["host"], address]
    # it writes a log where it stands
    folder = os.environ["FILES_ROOT"]
    with subprocess.Popen([*command, *Trades().symbols], cwd=folder, stdin=subprocess.PIPE) as process:
        begun = server.begun()
        ended = wait(lambda: sum(client.xlen(key) for key in client.keys("trades-*")) >= MESSAGES, every=0.01)
        server.told()
        assert process.stdin
        process.stdin.close()
    return (ended - begun) / 1e9


def delays(server: Server, client: redis.Redis, url: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the milliseconds from when messages were sent, and received, to when they were readable.

    The first second is left out: connections are opened and modules imported in it.
    """
    client.flushdb()
    streams = [_stream(ENTRIES, symbol) for symbol in Trades().symbols]
    with watching(url, streams) as seen, running(ENTRIES) as live:
        server.begun()
        sent = int(server.told())
        wait(lambda: delivered(live, f"{ENTRIES}-redis") >= sent)
    clear_folders()
    found: list[np.ndarray] = []
    for at, stream in enumerate(streams):
        entries = client.xrange(stream)
        ids = np.array([_number(number) for number, _ in entries], object)
        # what was readable when something new was seen last
        readable = np.searchsorted(np.array([_number(last[at].encode()) for _, last in seen], object), ids)
        times = np.array([time for time, _ in seen])[readable]
        moments = [(int(row[b"ts_event"]), int(row[b"ts_recv"])) for _, row in entries]
        found.append(times[:, None] - np.array(moments))
        begun = min(moments)[0] + 10**9
        found[-1] = found[-1][np.array(moments)[:, 0] >= begun]
    joined = np.concatenate(found) / 1e6
    return joined[:, 0], joined[:, 1]


@contextmanager
def watching(url: str, streams: Sequence[str]) -> Iterator[list[Any]]:
    """Let a consumer look at streams; what it has seen is there after the block."""
    command = [sys.executable, "-m", "benchmarks.live_watch", url, *streams]
    seen: list[Any] = []
    with subprocess.Popen(
        command, cwd=_FOLDER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield seen
        seen += json.loads(process.communicate("")[0])


def _number(text: bytes) -> int:
    milliseconds, _, sequence = text.partition(b"-")
    return (int(milliseconds) << 64) + int(sequence)


def _stream(name: str, symbol: str) -> str:
    return f"dataflow:{name}:crypto:{symbol}:trades"
