"""2 M bars from CSV to validated Parquet, against `pyarrow.csv` and `pyarrow.parquet` alone."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

from benchmarks import catalogs
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import clear_folders
from benchmarks.machine import data_folder
from benchmarks.machine import seconds

ROWS = 2_000_000
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")


def run() -> Iterator[Line]:
    from flows.ingest import ingest
    from flows.plan import Selection

    folder = data_folder() / "bars"
    catalogs.write_minutes(folder, SYMBOLS, ROWS)
    catalogs.join_files(folder, data_folder() / "bars.csv")
    catalogs.series("bars", SYMBOLS, "ohlcv-1m", "file", {"path": "bars.csv", "symbol_column": "symbol"})
    selection = Selection(sources=("bars",))

    def ours() -> float:
        catalogs.clear_ledger()
        clear_folders()
        outcomes = {}
        taken = seconds(lambda: outcomes.update(ingest(selection)))
        if outcomes["bars"].errors or outcomes["bars"].tallies["bars-file"].new != ROWS:
            raise AssertionError(outcomes)
        return taken

    def base() -> float:
        return seconds(lambda: copy(data_folder() / "bars.csv"))

    plain_time, base_time, our_time = alternate(3, lambda: seconds(plain), base, ours)
    speed = ROWS / our_time / 1000
    yield Line("CSV → landing → validated → Parquet, against pyarrow.csv + pyarrow.parquet of the same exact types",
               base_time / our_time, 0.5, note=f"{speed:,.0f} k rows/s")  # fmt: skip
    yield Line("the same against floats, which lose digits (no target)", plain_time / our_time, 0)


def plain() -> None:
    path = data_folder() / "bars.csv"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(path), path.with_suffix(".parquet"), compression="zstd")


def copy(path: Path) -> None:
    """Read and write the columns in the types that our rows have: decimals are what costs."""
    from catalog.schemas import DECIMAL

    names = ("open", "high", "low", "close", "volume")
    types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, DECIMAL))
    table = pyarrow.csv.read_csv(path, convert_options=types)
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"), compression="zstd")
