"""The main job in one process: twice is once, nothing is lost, one failing route harms no other."""

import os
import shutil
import subprocess
import sys
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError
from django.db import connection
from django.db import connections
from django.db.models import F

from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Quarantined
from catalog.models import Route
from catalog.models import Run
from flows.ingest import ingest
from flows.ingest import replay
from flows.plan import Selection
from flows.pruning import prune
from flows.query import read
from flows.work import Outcome
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = pytest.mark.django_db(transaction=True)

EVERYTHING = Selection()
AGAIN = Selection(again=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    return folder


def account_adds_up() -> None:
    """parsed = new + updated + unchanged + duplicate + superseded + filtered + quarantined + pending, everywhere."""
    total = sum(
        (F(name) for name in ("updated", "unchanged", "duplicate", "superseded", "filtered", "quarantined", "pending")),
        start=F("new"),
    )
    assert Delivery.objects.exclude(parsed=total).count() == 0


def closes(**arguments: Any) -> list[float]:
    return read("AAPL", **arguments)["close"].to_pylist()


def test_file_becomes_rows_and_a_second_run_reads_nothing_but_the_ledger(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    path = daily_csv(data / "AAPL.csv", days(5))
    first = ingest(EVERYTHING)["prices"]
    assert (first.fetches, first.tallies["db"].new, first.errors) == (1, 5, [])
    # a file that cannot be read any more: the second run must not try
    path.chmod(0)
    second = ingest(EVERYTHING)["prices"]
    assert (second.fetches, second.skipped, second.tallies) == (0, 1, {})
    assert closes() == [11, 12, 13, 14, 15]


def test_again_changes_nothing(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(5))
    ingest(EVERYTHING)
    before = read("AAPL", exact=True)
    tally = ingest(AGAIN)["prices"].tallies["db"]
    assert (tally.parsed, tally.unchanged, tally.new, tally.updated) == (5, 5, 0, 0)
    assert read("AAPL", exact=True).equals(before)
    account_adds_up()


def test_a_changed_file_is_fetched_and_its_revisions_win(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(3))
    ingest(EVERYTHING)
    daily_csv(data / "AAPL.csv", [("2024-01-01", 11), ("2024-01-02", 50), ("2024-01-04", 14)])
    tally = ingest(EVERYTHING)["prices"].tallies["db"]
    assert (tally.new, tally.updated, tally.unchanged) == (1, 1, 1)
    # the row the new file no longer has stays
    assert closes() == [11, 50, 13, 14]


def test_replaying_the_older_fetch_does_not_bring_old_values_back(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    path = daily_csv(data / "AAPL.csv", days(3))
    stat = path.stat()
    ingest(EVERYTHING)
    daily_csv(path, [("2024-01-01", 11), ("2024-01-02", 62), ("2024-01-03", 13)])
    # the same size and time of change: the same thing at the vendor, revised
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    ingest(AGAIN)
    assert closes() == [11, 62, 13]
    first = Fetch.objects.order_by("id")[0]
    outcome = replay(EVERYTHING, [first.pk])["prices"]
    assert outcome.tallies["db"].superseded == 1
    assert outcome.tallies["db"].unchanged == 2
    assert closes() == [11, 62, 13]
    account_adds_up()


def test_bad_rows_are_quarantined_once_however_often_they_come(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(3))
    with (data / "AAPL.csv").open("a") as file:
        file.write("2024-01-04,10,11,9,abc,100\n2024-01-05,10,8,9,10,-5\n")
    outcome = ingest(EVERYTHING)["prices"]
    assert outcome.tallies["db"].quarantined == 2
    replay(EVERYTHING)
    assert [row.row for row in Quarantined.objects.order_by("row")] == [3, 4]
    assert "close='abc'" in Quarantined.objects.order_by("row")[0].reason
    assert "volume='-5'" in Quarantined.objects.order_by("row")[1].reason
    account_adds_up()


def test_a_failing_route_harms_no_other_and_is_caught_up_later(database: str, data: Path, tmp_path: Path) -> None:
    files = destination("files", "file", path="out")
    series("aapl", ["AAPL"], destinations=[destination(), files])
    daily_csv(data / "AAPL.csv", days(5))
    settings.EXPORT_ROOT.mkdir(parents=True)
    (settings.EXPORT_ROOT / "out").write_text("a file where a folder should be")
    outcome = ingest(EVERYTHING)["prices"]
    assert outcome.tallies["db"].new == 5
    assert any("destination 'files'" in error for error in outcome.errors)
    failed = Delivery.objects.get(destination=files)
    assert (failed.status, failed.pending, failed.parsed) == ("failed", 5, 5)
    account_adds_up()
    (settings.EXPORT_ROOT / "out").unlink()
    (data / "AAPL.csv").unlink()
    later = ingest(EVERYTHING)["prices"]
    # nothing was asked of the vendor again: the rows came from the landing
    assert later.fetches == 0
    assert later.tallies["files"].new == 5
    account_adds_up()


def test_a_route_added_later_gets_what_had_landed(database: str, data: Path) -> None:
    made = series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(5))
    ingest(EVERYTHING)
    Route.objects.create(series=made, destination=destination("files", "file", path="out"))
    outcome = ingest(EVERYTHING)["prices"]
    assert (outcome.fetches, outcome.tallies["files"].new) == (0, 5)


def test_series_that_name_the_same_instrument_are_one_fetch_with_united_routes(database: str, data: Path) -> None:
    files = destination("files", "file", path="out")
    series("a", ["AAPL"])
    series("b", ["AAPL", "IBM"], destinations=[files])
    daily_csv(data / "AAPL.csv", days(2))
    daily_csv(data / "IBM.csv", days(3))
    outcome = ingest(EVERYTHING)["prices"]
    assert outcome.fetches == 2
    assert (outcome.tallies["db"].new, outcome.tallies["files"].new) == (2, 5)
    account_adds_up()


def test_conditions_choose_rows_and_the_rest_is_counted_as_filtered(database: str, data: Path) -> None:
    made = series("aapl", ["AAPL"])
    Route.objects.create(series=made, destination=destination("files", "file", path="out"), condition="close > 12")
    daily_csv(data / "AAPL.csv", days(5))
    tally = ingest(EVERYTHING)["prices"].tallies["files"]
    assert (tally.new, tally.filtered) == (3, 2)
    account_adds_up()


def test_rows_outside_the_series_window_are_filtered(database: str, data: Path) -> None:
    made = series("aapl", ["AAPL"])
    made.start, made.end = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC)
    made.save()
    daily_csv(data / "AAPL.csv", days(5))
    tally = ingest(EVERYTHING)["prices"].tallies["db"]
    assert (tally.new, tally.filtered) == (2, 3)
    # a longer window is what is missing, and only that counts as new
    made.end = None
    made.save()
    tally = ingest(EVERYTHING)["prices"].tallies["db"]
    assert tally.new == 2
    assert closes() == [12, 13, 14, 15]
    account_adds_up()


def test_a_damaged_landed_page_is_quarantined_whole_and_said(database: str, data: Path) -> None:
    files = destination("files", "file", path="out")
    made = series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(5))
    ingest(EVERYTHING)
    (page,) = Path(settings.LANDING_URL).rglob("*.page")
    page.write_bytes(page.read_bytes()[:-7])
    Route.objects.create(series=made, destination=files)
    outcome = ingest(EVERYTHING)["prices"]
    assert any("landed page" in error for error in outcome.errors)
    assert Fetch.objects.get().unparsable == 1
    assert Quarantined.objects.get().row == -1


def test_a_full_disk_stops_the_fetch_and_a_later_run_goes_on(
    database: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(5))
    full = shutil.disk_usage("/")._replace(free=1 << 20)
    with monkeypatch.context() as patch:
        patch.setattr("flows.landing.shutil.disk_usage", lambda path: full)
        outcome = ingest(EVERYTHING)["prices"]
    assert "free some space and run again" in outcome.errors[0]
    assert Run.objects.get().status == "failed"
    assert Fetch.objects.get().complete is False
    outcome = ingest(EVERYTHING)["prices"]
    assert (outcome.errors, outcome.tallies["db"].new) == ([], 5)
    assert Fetch.objects.count() == 1


def test_one_source_that_fails_does_not_stop_another(database: str, data: Path) -> None:
    series("a", ["AAPL"], source="broken", path="../*.csv")
    series("b", ["IBM"], source="fine")
    daily_csv(data / "IBM.csv", days(2))
    outcomes = ingest(EVERYTHING)
    assert outcomes["broken"].errors
    assert outcomes["fine"].tallies["db"].new == 2
    assert {run.source.name: run.status for run in Run.objects.all()} == {"broken": "failed", "fine": "completed"}


def test_stored_indicators_follow_their_bars(database: str, data: Path) -> None:
    series("aapl", ["AAPL"], transforms="sma(window=3) | store")
    path = daily_csv(data / "AAPL.csv", days(6))
    ingest(EVERYTHING)
    values = read("prices:equity:AAPL", "indicators")
    assert values["value"].to_pylist() == [12, 13, 14, 15]
    daily_csv(path, [*days(4), ("2024-01-05", 18), *days(7)[5:]])
    outcome = ingest(EVERYTHING)["prices"]
    tally = outcome.tallies["db (indicators)"]
    assert (tally.new, tally.updated) == (1, 2)
    values = read("prices:equity:AAPL", "indicators")
    assert values["value"].to_pylist() == [12, 13, 15, 16, 17]
    # nothing changed, nothing is computed
    assert ingest(EVERYTHING)["prices"].tallies == {}


def test_indicators_at_read_equal_the_stored_ones_and_reach_back_for_their_warm_up(database: str, data: Path) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(10))
    ingest(EVERYTHING)
    table = read("AAPL", start=datetime(2024, 1, 5, tzinfo=UTC), indicators=["sma(window=3)"])
    assert table.num_rows == 6
    assert table.column(table.num_columns - 1).to_pylist() == [14, 15, 16, 17, 18, 19]


def test_a_run_of_one_series_does_not_drop_what_waits_for_another(database: str, data: Path) -> None:
    series("a", ["AAPL"])
    series("b", ["IBM"])
    daily_csv(data / "AAPL.csv", days(2))
    daily_csv(data / "IBM.csv", days(3))
    ingest(EVERYTHING)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM marketdata_ohlcv_1d")
    zeros = {"cursor": 0, "parsed": 0, "new": 0}
    Delivery.objects.update(status=Delivery.Status.PENDING, **zeros)
    ingest(Selection(series=("a",)))
    assert read("IBM").num_rows == 3
    account_adds_up()
    assert not Delivery.objects.exclude(filtered=0).exists()


def test_pages_are_pruned_when_old_and_delivered_and_only_then(database: str, data: Path) -> None:
    made = series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(4))
    ingest(EVERYTHING)
    assert list(prune()) == []
    DataSource.objects.update(keep_landed=timedelta(0))
    Delivery.objects.update(status=Delivery.Status.FAILED)
    assert list(prune()) == []
    Delivery.objects.update(status=Delivery.Status.DELIVERED)
    assert [pruned.fetch for pruned in prune(dry_run=True)] == [Fetch.objects.get().pk]
    assert len(list(Path(settings.LANDING_URL).rglob("*.page"))) == 1
    assert len(list(prune())) == 1
    assert not list(Path(settings.LANDING_URL).rglob("*.page"))
    # still covered, and a new route is not promised what is gone
    Route.objects.create(series=made, destination=destination("files", "file", path="out"))
    assert ingest(EVERYTHING)["prices"] == Outcome(skipped=1)
    assert replay(EVERYTHING)["prices"].tallies == {}


TWO = """
import sys
import django
django.setup()
from flows.ingest import ingest
from flows.plan import Selection
(outcome,) = ingest(Selection()).values()
print(outcome.fetches, outcome.skipped, sum(tally.new for tally in outcome.tallies.values()), outcome.errors)
"""


def test_two_ingests_of_one_window_at_once_are_one(
    database: str, data: Path, database_url: str, tmp_path: Path
) -> None:
    series("aapl", ["AAPL"])
    rows = [(f"{year}-{month:02d}-{day:02d}", 10) for year in range(1990, 2020) for month in range(1, 13)
            for day in range(1, 29)]  # fmt: skip
    daily_csv(data / "AAPL.csv", rows)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings", "DATAFLOW_ENV_FILE": os.devnull, "SECRET_KEY": "two",
        "DATABASE_URL": database_url, "LANDING_URL": settings.LANDING_URL, "FILES_ROOT": str(data),
    }  # fmt: skip
    children = [
        subprocess.Popen([sys.executable, "-c", TWO], cwd=Path(__file__).parents[2], env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    printed = []
    for child in children:
        out, error = child.communicate(timeout=60)
        assert child.returncode == 0, error
        printed.append(out.strip())
    assert sorted(printed) == ["0 1 0 []", "0 1 0 []", f"1 0 {len(rows)} []"]
    assert Fetch.objects.count() == 1
    assert read("AAPL").num_rows == len(rows)


@pytest.mark.django_db(transaction=True, databases=["default", "timescale"])
def test_rows_in_a_database_of_their_own_are_durable_before_the_ledger_says_so(
    market_database: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series("aapl", ["AAPL"], transforms="sma(window=2) | store")
    daily_csv(data / "AAPL.csv", days(4))
    market = connections[market_database]
    market.ensure_connection()

    def lost() -> None:
        market.connection.rollback()
        raise OperationalError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(market, "_commit", lost)
        outcome = ingest(EVERYTHING)["prices"]
    assert "the connection is lost" in outcome.errors[0]
    failed = Delivery.objects.get()
    assert (failed.status, failed.cursor, failed.pending) == ("failed", 0, 4)
    assert ingest(EVERYTHING)["prices"].tallies["db"].new == 4
    assert closes() == [11, 12, 13, 14]
    assert read("prices:equity:AAPL", "indicators").num_rows == 3
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM marketdata_ohlcv_1d")
        assert cursor.fetchone() == (0,)
