"""Kill it anywhere, run it again: no row missing, none twice, nothing extracted again that had landed.

A child process runs the ingest and kills itself (SIGKILL) at the n-th thing it makes durable or asks the
database; then it is run again to the end. Every n up to the last one is tried.
"""

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from django.conf import settings
from django.db import connection
from django.db import connections
from django.db.models import F

from catalog.models import Coverage
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import IndicatorCursor
from catalog.models import Quarantined
from catalog.models import Run
from flows import pipeline
from flows.ingest import ingest
from flows.plan import Selection
from flows.query import read
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

_TABLES = ("marketdata_ohlcv_1d", "marketdata_indicators")


class Countdown:
    """Counts events of one process; at the last one allowed, dies as a machine without power does."""

    def __init__(self, allowed: int | None) -> None:
        self.allowed = allowed
        self.count = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.allowed:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return function(*args, **kwargs)

        return counted

    def executing(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith("SELECT"):
            self.step()
        return execute(sql, params, many, context)


def ingest_in_child(allowed: int | None) -> int:
    """Run an ingest in a child that dies at event `allowed`; returns the events it saw, or -1 if it was killed."""
    connections.close_all()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            countdown = Countdown(allowed)
            os.fsync = countdown.before(os.fsync)
            Path.rename = countdown.before(Path.rename)  # type: ignore[method-assign]
            os.replace = countdown.before(os.replace)
            connection.ensure_connection()
            connection._commit = countdown.before(connection._commit)
            with connection.execute_wrapper(countdown.executing):
                outcome = ingest(Selection())["prices"]
            assert not outcome.errors, outcome.errors
            os.write(writing, str(countdown.count).encode())
            status = 0
        except BaseException:  # noqa: BLE001  # whatever it is, the parent sees the exit code
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        seen = pipe.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return -1
    assert status == 0
    return int(seen)


def clear() -> None:
    """Forget what was stored, keep the catalog."""
    with connection.cursor() as cursor:
        for table in _TABLES:
            cursor.execute(f"DELETE FROM {table}")
    for model in (Quarantined, Delivery, IndicatorCursor, Coverage, Fetch, Run):
        model.objects.all().delete()
    for root in (settings.LANDING_URL, settings.EXPORT_ROOT):
        shutil.rmtree(root, ignore_errors=True)


def state() -> tuple[Any, ...]:
    """What a reader sees, but for fetch ids."""
    columns = ["ts_event", "open", "high", "low", "close", "volume"]
    # the file destination holds the same rows
    files = sorted(Path(settings.EXPORT_ROOT).rglob("*.parquet"))
    in_files = pa.concat_tables(pyarrow.parquet.read_table(path, columns=columns) for path in files).to_pylist()
    bars = read(["AAPL", "IBM"], "ohlcv-1d", exact=True).select(["instrument", *columns]).to_pylist()
    values = read("prices:equity:AAPL", "indicators").select(["ts_event", "value"]).to_pylist()
    rejected = sorted(Quarantined.objects.values_list("row", "rule"))
    return bars, values, rejected, in_files


def test_killed_at_every_step_and_run_again_ends_like_an_undisturbed_run(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_ROWS", 4)
    series("a", ["AAPL", "IBM"], destinations=[destination(), destination("files", "file", path="out")],
           transforms="sma(window=2) | store")  # fmt: skip
    daily_csv(tmp_path / "data/AAPL.csv", days(9))
    daily_csv(tmp_path / "data/IBM.csv", days(3))
    with (tmp_path / "data/IBM.csv").open("a") as file:
        file.write("2024-01-04,10,8,9,10,5\n")
    steps = ingest_in_child(None)
    expected = state()
    assert len(expected[0]) == 12
    assert steps > 40
    killed = 0
    # every step on SQLite; a prime stride on TimescaleDB, whose connections cost more
    for step in range(1, steps + 1, 1 if database == "sqlite" else 5):
        clear()
        killed += ingest_in_child(step) == -1
        # a page has landed once its manifest is there
        manifests = Path(settings.LANDING_URL).rglob("0*.json")
        landed = {path.with_suffix(".page"): path.with_suffix(".page").stat().st_mtime_ns for path in manifests}
        assert ingest_in_child(None) > 0
        assert state() == expected, f"killed at step {step} of {steps}"
        for path, changed in landed.items():
            assert path.stat().st_mtime_ns == changed, f"{path} was extracted again after a kill at step {step}"
        parsed = sum((F(name) for name in ("updated", "unchanged", "duplicate", "superseded", "filtered",
                                           "quarantined", "pending")), start=F("new"))  # fmt: skip
        assert not Delivery.objects.exclude(parsed=parsed).exists()
        assert not Fetch.objects.filter(complete=False).exists()
    assert killed >= steps // 5 - 1
