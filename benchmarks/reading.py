"""A symbol-month of minute bars: `read` against the same SQL through ADBC, and against DuckDB on its directory."""

import os
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from pathlib import Path

from benchmarks import catalogs
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import data_folder
from benchmarks.machine import seconds
from benchmarks.ticks import uri

ROWS = 2_000_000
SYMBOLS = ("KKK", "LLL", "MMM", "NNN")
START, END = datetime(2020, 3, 1, tzinfo=UTC), datetime(2020, 4, 1, tzinfo=UTC)
COLUMNS = "open, high, low, close, volume, trade_count, vwap"


def run() -> Iterator[Line]:
    import adbc_driver_postgresql.dbapi as adbc_driver
    import duckdb

    from catalog.models import Instrument
    from flows.ingest import ingest
    from flows.plan import Selection
    from flows.query import read

    catalogs.write_minutes(data_folder() / "reading", SYMBOLS, ROWS)
    for kind in ("database", "file"):
        name = f"reading-{kind}"
        catalogs.series(name, SYMBOLS, "ohlcv-1m", kind, {"path": "reading/*.csv"})
        (outcome,) = ingest(Selection(sources=(name,))).values()
        if outcome.errors:
            raise AssertionError(outcome.errors)
    number = Instrument.objects.get(source__name="reading-database", asset__symbol="LLL").pk
    floats = ", ".join(f"{column}::float8" if column != "trade_count" else column for column in COLUMNS.split(", "))
    sql = (
        f"SELECT instrument_id, ts_event, venue, {floats}, fetch_id FROM marketdata_ohlcv_1m"
        f" WHERE instrument_id = {number} AND ts_event >= '{START.isoformat()}' AND ts_event < '{END.isoformat()}'"
        " ORDER BY instrument_id, ts_event, venue"
    )
    with adbc_driver.connect(uri()) as connection, connection.cursor() as cursor:

        def by_adbc() -> float:
            def fetch() -> None:
                cursor.execute(sql)
                check(cursor.fetch_arrow_table().num_rows)

            return seconds(fetch)

        def ours() -> float:
            return seconds(lambda: check(read("reading-database:future:LLL", start=START, end=END).num_rows))

        by_adbc(), ours()
        base_time, our_time = alternate(15, by_adbc, ours)
    yield Line("read a symbol-month from TimescaleDB, time against ADBC", our_time / base_time, 1.5, at_least=False,
               note=f"{our_time * 1000:.1f} ms")  # fmt: skip
    folder = next(Path(os.environ["EXPORT_ROOT"]).rglob("LLL/ohlcv-1m"))
    with duckdb.connect() as duck:
        doubles = ", ".join(
            f"{column}::DOUBLE" if column != "trade_count" else column for column in COLUMNS.split(", ")
        )
        query = (
            f"SELECT ts_event, venue, {doubles}, fetch_id FROM read_parquet('{folder}/*.parquet')"
            f" WHERE ts_event >= '{START.isoformat()}'::TIMESTAMPTZ_NS"
            f" AND ts_event < '{END.isoformat()}'::TIMESTAMPTZ_NS"
            " ORDER BY ts_event"
        )

        def by_duckdb() -> float:
            return seconds(lambda: check(duck.sql(query).to_arrow_table().num_rows))

        def ours_from_files() -> float:
            return seconds(lambda: check(read("reading-file:future:LLL", start=START, end=END).num_rows))

        by_duckdb(), ours_from_files()
        base_time, our_time = alternate(15, by_duckdb, ours_from_files)
    yield Line("read a symbol-month from Parquet, time against DuckDB on its directory", our_time / base_time, 1.5,
               at_least=False, note=f"{our_time * 1000:.1f} ms")  # fmt: skip


def check(rows: int) -> None:
    if rows != 31 * 24 * 60:
        raise AssertionError(f"{rows} rows")
