"""Live trades into TimescaleDB: socket, spool, refine, commits, against stage and upsert of the prepared rows alone."""

import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final

from benchmarks import catalogs
from benchmarks.live_dbn import DATASET
from benchmarks.live_dbn import IDS
from benchmarks.live_dbn import write_session
from benchmarks.live_runs import delivered
from benchmarks.live_runs import live_series
from benchmarks.live_runs import running
from benchmarks.live_runs import secrets
from benchmarks.live_runs import wait
from benchmarks.live_servers import KEY
from benchmarks.live_servers import Server
from benchmarks.live_servers import serving
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import clear_folders
from benchmarks.machine import data_folder
from benchmarks.machine import seconds
from benchmarks.ticks import execute
from benchmarks.ticks import prepare

ROWS: Final = 1_000_000
TABLE: Final = "marketdata_trades"
#: rows of a commit, as a live route makes them while it is behind
COMMIT: Final = 100_000


def run() -> Iterator[Line]:
    path = data_folder() / "session.dbn"
    write_session(path, ROWS, 0.0)
    secrets(API_KEY=KEY)
    with serving("gateway", path) as server:
        options = {"dataset": DATASET, "gateway": server.address}
        live_series("live-store", "databento", options, "future", tuple(IDS), {"database": {}})
        early = acknowledged_early(server)
        commits = encoded()
        base, own = alternate(3, lambda: by_hand(commits), lambda: by_us(server))
    yield Line("live trades → TimescaleDB and ledger, against stage and upsert of the prepared rows",
               base / own, 0.6, note=f"{ROWS / own / 1000:,.0f} k rows/s")  # fmt: skip
    yield Line("looks at which the ledger knew of rows that were not stored yet", early, 0, at_least=False, unit=" ")


def by_us(server: Server) -> float:
    """Return the seconds from the first byte sent to the commit of the last row."""
    empty()
    with running("live-store") as live:
        begun = server.begun()
        ended = wait(lambda: delivered(live, "live-store-database") >= ROWS)
    return (ended - begun) / 1e9


def acknowledged_early(server: Server) -> int:
    """Run once and look again and again, in one statement, what the ledger says is stored and what is."""
    from django.db import connection

    empty()
    early = looks = 0
    with running("live-store") as live, connection.cursor() as cursor:
        server.begun()
        while delivered(live, "live-store-database") < ROWS:
            cursor.execute(f"SELECT coalesce(sum(new), 0), (SELECT count(*) FROM {TABLE}) FROM catalog_delivery")
            said, stored = cursor.fetchone()
            early += said > stored
            looks += 0 < stored < ROWS
            time.sleep(0.05)
    if not looks:
        raise AssertionError("nobody looked while rows were written")
    return early


def encoded() -> list[bytes]:
    """Return the stored rows as PostgreSQL's binary COPY takes them, a commit each, in the order they came."""
    from catalog.marketdata.columns import encode

    rows = prepare()
    return [b"".join(encode(rows.slice(start, COMMIT))) for start in range(0, rows.num_rows, COMMIT)]


def by_hand(commits: Sequence[bytes]) -> float:
    """Return the seconds that the statements take, on a table like ours."""
    import psycopg

    from benchmarks.ticks import uri

    execute(f"DROP TABLE IF EXISTS base_trades; CREATE TABLE base_trades (LIKE {TABLE} INCLUDING ALL)")
    execute("SELECT create_hypertable('base_trades', 'ts_event', chunk_time_interval => interval '1 day', "
            "create_default_indexes => false)")  # fmt: skip
    with psycopg.connect(uri()) as connection:
        connection.execute("CREATE TEMP TABLE stage (LIKE base_trades) ON COMMIT DELETE ROWS")
        connection.commit()

        def write() -> None:
            for content in commits:
                with connection.cursor() as cursor:
                    with cursor.copy("COPY stage FROM STDIN WITH (FORMAT BINARY)") as copy:
                        copy.write(content)
                    cursor.execute("INSERT INTO base_trades SELECT * FROM stage ON CONFLICT DO NOTHING")
                connection.commit()

        return seconds(write)


def empty() -> None:
    execute(f"TRUNCATE {TABLE}")
    catalogs.clear_ledger()
    clear_folders()
