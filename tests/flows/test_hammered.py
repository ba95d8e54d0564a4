"""Django and the writer at one SQLite file, from several processes: no error, no lost row, a sound file.

Four seconds here; DATAFLOW_HAMMER_SECONDS=60 for the long version.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import connection

from catalog.models import Delivery
from catalog.models import Run
from flows.query import read
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import series

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[2]
SECONDS = float(os.environ.get("DATAFLOW_HAMMER_SECONDS", "4"))

WRITER = """
import sys, time
import django
django.setup()
from flows.ingest import ingest
from flows.plan import Selection
until = time.monotonic() + float(sys.argv[1])
rounds = 0
while time.monotonic() < until:
    (outcome,) = ingest(Selection(sources=(sys.argv[2],), again=True)).values()
    assert not outcome.errors, outcome.errors
    rounds += 1
print(rounds)
"""

EDITOR = """
import sys, time
import django
django.setup()
from django.db import transaction
from catalog.models import Asset, DataSource
until = time.monotonic() + float(sys.argv[1])
rounds = 0
while time.monotonic() < until:
    with transaction.atomic():
        asset = Asset.objects.create(symbol=f"E{sys.argv[2]}-{rounds}", asset_class="other")
        assert DataSource.objects.count() == 2
        asset.name = "edited"
        asset.save()
    list(Asset.objects.order_by("-id")[:20])
    rounds += 1
print(rounds)
"""


def test_django_and_the_writer_share_one_sqlite_file(database_url: str, tmp_path: Path, settings: object) -> None:
    rows = [(f"20{year:02d}-{month:02d}-{day:02d}", 10 + day) for year in range(5, 24)
            for month in range(1, 13) for day in range(1, 29)]  # fmt: skip
    for name in ("one", "two"):
        series(name, ["AAPL"], source=name, path=f"{name}/*.csv")
        daily_csv(tmp_path / f"data/{name}/AAPL.csv", rows)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings", "DATAFLOW_ENV_FILE": os.devnull, "SECRET_KEY": "hammer",
        "DATABASE_URL": database_url, "LANDING_URL": str(tmp_path / "landing"), "FILES_ROOT": str(tmp_path / "data"),
        "LOG_LEVEL": "ERROR",
    }  # fmt: skip
    commands = [(WRITER, "one"), (WRITER, "two"), (EDITOR, "a"), (EDITOR, "b")]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(SECONDS), argument],
            cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for script, argument in commands
    ]  # fmt: skip
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        # this process reads while they write
        Run.objects.count()
        time.sleep(0.01)
    for child, (_, argument) in zip(children, commands, strict=True):
        out, error = child.communicate(timeout=60)
        assert child.returncode == 0, f"{argument}: {error}"
        assert int(out) > 0
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA integrity_check")
        assert cursor.fetchall() == [("ok",)]
    for name in ("one", "two"):
        assert read(f"{name}:equity:AAPL")["close"].to_pylist() == [close for _, close in rows]
    assert not Delivery.objects.exclude(status="delivered").exists()
    assert set(Run.objects.values_list("status", flat=True)) == {"completed"}
