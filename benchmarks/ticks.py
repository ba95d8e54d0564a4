"""2 M trades from DBN to a keyed hypertable: all of our path against `adbc_ingest` of the prepared table alone."""

from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa

from benchmarks import catalogs
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import clear_folders
from benchmarks.machine import data_folder
from benchmarks.machine import seconds

ROWS = 2_000_000
SYMBOLS = ("ESH4", "NQH4", "CLG4", "GCG4", "ZNH4")
TABLE = "marketdata_trades"


def run() -> Iterator[Line]:
    from flows.ingest import ingest
    from flows.plan import Selection

    catalogs.write_trades(data_folder() / "ticks.dbn.zst", ROWS, SYMBOLS, days=10)
    catalogs.series("ticks", SYMBOLS, "trades", "database", {"path": "ticks.dbn.zst"})
    selection, again = Selection(sources=("ticks",)), Selection(sources=("ticks",), again=True)

    def ours() -> float:
        empty()
        taken = seconds(lambda: stored(ingest(selection)))
        return taken

    ours()
    prepared = prepare()

    def base() -> float:
        execute(f"DROP TABLE IF EXISTS base_trades; CREATE TABLE base_trades (LIKE {TABLE} INCLUDING ALL)")
        execute("SELECT create_hypertable('base_trades', 'ts_event', chunk_time_interval => interval '1 day', "
                "create_default_indexes => false)")  # fmt: skip
        return seconds(lambda: adbc(prepared))

    base_time, our_time = alternate(3, base, ours)
    speed = ROWS / our_time / 1000
    yield Line("DBN → landing → validated → hypertable and ledger, against adbc_ingest of the prepared table",
               base_time / our_time, 1.0, note=f"{speed:,.0f} k rows/s")  # fmt: skip
    before = digest()
    again_time = seconds(lambda: ingest(again))
    yield Line("the same again, against the first time", again_time / our_time, 1.6, at_least=False)
    yield Line("rows changed by it", float(before != digest()), 0, at_least=False, unit=" ")
    idle = seconds(lambda: ingest(selection))
    yield Line("without --again: only the ledger is read", idle, 0.5, at_least=False, unit="s")


def stored(outcomes: dict[str, object]) -> None:
    (outcome,) = outcomes.values()
    if outcome.errors or outcome.tallies["ticks-database"].new != ROWS:  # type: ignore[attr-defined]
        raise AssertionError(outcome)


def empty() -> None:
    execute(f"TRUNCATE {TABLE}")
    catalogs.clear_ledger()
    clear_folders()


def prepare() -> pa.Table:
    """The rows as the database has them, in the order our path writes them."""
    import adbc_driver_postgresql.dbapi as adbc_driver

    with adbc_driver.connect(uri()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {TABLE} ORDER BY fetch_id, (ts_event), instrument_id")
        table = cursor.fetch_arrow_table()
    from catalog.marketdata.models import MODELS
    from catalog.schemas import DECIMAL

    decimals = {
        field.name for field in MODELS["trades"]._meta.fields if field.__class__.__name__ == "ExactDecimalField"
    }
    columns = {
        name: table[name].cast(DECIMAL) if name in decimals else table[name].cast(timestamp(table[name].type))
        for name in table.column_names
    }
    return pa.table(columns)


def timestamp(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) else kind


def adbc(table: pa.Table) -> None:
    import adbc_driver_postgresql.dbapi as adbc_driver

    with adbc_driver.connect(uri()) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("base_trades", table, mode="append")
        connection.commit()


def uri() -> str:
    from django.db import connection

    entry = connection.settings_dict
    return f"postgresql://{entry['USER']}:{entry['PASSWORD']}@{entry['HOST']}:{entry['PORT']}/{entry['NAME']}"


def execute(sql: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)


def digest() -> tuple[int, str, datetime]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*), sum(price * size * (sequence % 97 + 1)), max(xmin::text::bigint) FROM {TABLE}"
        )
        return cursor.fetchone()
