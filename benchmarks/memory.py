"""Peak memory of an ingest of 10 M rows, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator

from benchmarks import catalogs
from benchmarks.machine import Line
from benchmarks.machine import data_folder

ROWS = 10_000_000
LIMIT = 600.0
SCRIPT = """
import sys
from pathlib import Path
import django
django.setup()
from flows.ingest import ingest
from flows.plan import Selection
(outcome,) = ingest(Selection(sources=(sys.argv[1],))).values()
assert not outcome.errors, outcome.errors
assert sum(tally.new for tally in outcome.tallies.values()) == int(sys.argv[2]), outcome
# of this process alone: getrusage's maximum includes that of the process it was forked from
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(peak.split()[1]) / 1024)
"""


def run() -> Iterator[Line]:
    symbols = ("AA", "BB", "CC", "DD", "EE")
    catalogs.write_trades(data_folder() / "many.dbn.zst", ROWS, symbols, days=20)
    catalogs.series("many-ticks", symbols, "trades", "database", {"path": "many.dbn.zst"})
    yield Line("10 M trades from DBN to TimescaleDB", peak("many-ticks"), LIMIT, at_least=False, unit="MB")
    catalogs.write_minutes(data_folder() / "many", symbols, ROWS)
    catalogs.series("many-bars", symbols, "ohlcv-1m", "file", {"path": "many/*.csv"})
    yield Line("10 M bars from CSV to Parquet", peak("many-bars"), LIMIT, at_least=False, unit="MB")


def peak(source: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, source, str(ROWS)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return float(done.stdout.split()[-1])
