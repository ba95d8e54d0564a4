"""Trades of one connection at a steady rate, for as long as one likes, into TimescaleDB and Redis at once.

    python -m benchmarks.soak [--seconds 3600] [--rate 20000]

At the end the table has every trade once, by counts and by the sums of their numbers; what Redis took was new to it
each time; every account adds up; and after the warming up memory has not grown. Ends with 1 where that is not so.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.live_runs import delivered
from benchmarks.live_runs import live_series
from benchmarks.live_runs import running
from benchmarks.live_runs import secrets
from benchmarks.live_servers import serving
from benchmarks.live_trades import Trades
from benchmarks.machine import Line
from benchmarks.machine import clear_folders
from benchmarks.machine import describe
from benchmarks.machine import prepare

NAME: Final = "soak"
_DATABASE: Final = 12
#: memory is looked at from here on: modules are imported, buffers have their size
_WARM: Final = 0.25
_WARM_SECONDS: Final = 120.0
#: megabytes it may grow by then, what waits in memory where the machine is busy: frames (64 MiB) and refined rows (32);
#: a run that is over before all that is bounded is full has only that bound
_GROWTH: Final = 96.0
_BOUND: Final = 256.0
_LONG: Final = 300.0
_PATIENCE: Final = 120.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def run(seconds: float, rate: int) -> Iterator[Line | str]:
    """Yield how far it is, and at the end what it came to."""
    import redis

    trades = Trades()
    total = int(seconds * rate)
    url = urlsplit(os.environ["DATAFLOW_TEST_REDIS_URL"])._replace(path=f"/{_DATABASE}").geturl()
    secrets(URL=url)
    with redis.Redis.from_url(url) as client, serving("streams", total, rate) as server:
        client.flushdb()
        options = {"stream_url": server.address}
        live_series(NAME, "binance", options, "crypto", trades.symbols, {"database": {}, "redis": {}})
        places = [f"{NAME}-database", f"{NAME}-redis"]
        samples: list[tuple[float, float]] = []
        with running(NAME) as live:
            begun = server.begun() / 1e9
            told = begun
            while True:
                now = time.monotonic()
                samples.append((now - begun, _megabytes()))
                done = [delivered(live, place) for place in places]
                if min(done) >= total:
                    break
                if now - told >= 10 or now - begun < 1:
                    told = now
                    behind = [max(int(min((now - begun) * rate, total)) - one, 0) for one in done]
                    yield (
                        f"{now - begun:6.0f} s  {samples[-1][1]:6.1f} MB  behind: TimescaleDB {behind[0]:,}, "
                        f"Redis {behind[1]:,} trades"
                    )
                if now - begun > seconds + _PATIENCE:
                    break
                time.sleep(0.25)
            late = time.monotonic() - begun - seconds
        reconnects = live.status.reconnects
        yield from _result(trades, total, samples, seconds)
        lasts = {symbol: client.hget(f"dataflow:{NAME}:crypto:{symbol}:trades:last", "trade_id")
                 for symbol in trades.symbols}  # fmt: skip
        wrong = {symbol: lasts[symbol] for symbol, count in trades.counts(total).items()
                 if lasts[symbol] != b"%d" % count}  # fmt: skip
        yield Line("instruments whose newest trade in Redis is not the last one", len(wrong), 0, at_least=False,
                   unit=" ", note=f"{wrong or ''}")  # fmt: skip
        yield Line("reconnects", reconnects, 0, at_least=False, unit=" ")
        yield f"the last trade was delivered {late:.1f} s after it was due"
        client.flushdb()
    clear_folders()


def _result(trades: Trades, total: int, samples: list[tuple[float, float]], seconds: float) -> Iterator[Line | str]:
    from django.db import connection

    from catalog.models import Delivery
    from catalog.models import Instrument
    from catalog.models import Quarantined

    with connection.cursor() as cursor:
        cursor.execute("SELECT instrument_id, count(*), sum(trade_id::bigint) FROM marketdata_trades GROUP BY 1")
        stored = {number: (rows, int(checksum)) for number, rows, checksum in cursor.fetchall()}
    names = {one.pk: one.asset.symbol for one in Instrument.objects.select_related("asset")}
    found = {names[number]: counted for number, counted in stored.items()}
    wanted = {symbol: (count, count * (count + 1) // 2) for symbol, count in trades.counts(total).items()}
    lost = sum(max(count - found.get(symbol, (0, 0))[0], 0) for symbol, (count, _) in wanted.items())
    extra = sum(max(found.get(symbol, (0, 0))[0] - count, 0) for symbol, (count, _) in wanted.items())
    yield Line(f"{total:,} trades: lost in TimescaleDB", lost, 0, at_least=False, unit=" ")
    yield Line("doubled in TimescaleDB", extra, 0, at_least=False, unit=" ")
    yield Line("instruments whose numbers do not add up", sum(found.get(one) != pair for one, pair in wanted.items()),
               0, at_least=False, unit=" ")  # fmt: skip
    for delivery in Delivery.objects.order_by("pk"):
        account = {name: getattr(delivery, name) for name in (
            "parsed", "new", "updated", "unchanged", "duplicate", "superseded", "filtered", "quarantined"
        )}  # fmt: skip
        said = ", ".join(f"{name} {count:,}" for name, count in account.items() if count)
        yield f"to {delivery.destination.name}: {said}"
        yield Line("of the account: not new", account["parsed"] - account["new"], 0, at_least=False, unit=" ")
    yield Line("quarantined", Quarantined.objects.count(), 0, at_least=False, unit=" ")
    warm = min(seconds * _WARM, _WARM_SECONDS)
    base = max(size for at, size in samples if at <= warm)
    later = [size for at, size in samples if at > warm]
    most = _GROWTH if seconds >= _LONG else _BOUND
    yield Line("memory's growth after warming up", max(later) - base, most, at_least=False, unit="MB",
               note=f"{base:.0f} MB at {warm:.0f} s, at most {max(later):.0f}, at the end {later[-1]:.0f}")  # fmt: skip


def _megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=int, default=20_000)
    chosen = parser.parse_args()
    print(describe(), flush=True)
    missed = 0
    with prepare():
        for line in run(chosen.seconds, chosen.rate):
            print(line, flush=True)
            missed += isinstance(line, Line) and not line.met
        gc.collect()
    print(f"{missed} targets missed" if missed else "all targets met")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
