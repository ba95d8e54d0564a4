"""The commands people type: what they print, what they exit with."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.core.management import CommandError
from django.core.management import call_command
from django.core.management import get_commands
from django.core.management import load_command_class

from catalog.models import Fetch
from catalog.models import Quarantined
from catalog.models import Run
from flows.query import read
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import series

pytestmark = pytest.mark.django_db(transaction=True)

REPOSITORY = Path(__file__).parents[3]


def run(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def stored(data: Path) -> Path:
    series("aapl", ["AAPL"], transforms="sma(window=2) | store")
    path = daily_csv(data / "AAPL.csv", days(4))
    with path.open("a") as file:
        file.write("2024-01-05,10,8,9,10,-5\n")
    run("ingest")
    return path


def test_ingest_prints_the_account(stored: Path) -> None:
    printed = run("ingest", "--again")
    assert "prices: 1 fetched, 0 already covered" in printed
    assert "→ db: 5 rows = 0 new + 0 updated + 4 unchanged" in printed
    assert "+ 1 quarantined" in printed


def test_ingest_fails_when_anything_failed(data: Path) -> None:
    series("broken", ["AAPL"], path="../../etc/*.csv")
    with pytest.raises(CommandError, match="prices"):
        run("ingest")


def test_ingest_refuses_unknown_names_and_naive_times_all_at_once(data: Path) -> None:
    series("aapl", ["AAPL"])
    with pytest.raises(CommandError, match="series 'nope' is unknown; have: aapl"):
        run("ingest", "--series", "nope")
    with pytest.raises(CommandError) as caught:
        run("ingest", "--start", "2024-01-02T10:00", "--end", "soon")
    assert "--start '2024-01-02T10:00' has no zone" in str(caught.value)
    assert "--end 'soon' is no ISO 8601 time" in str(caught.value)


def test_plan_shows_what_is_missing_and_changes_nothing(data: Path) -> None:
    series("aapl", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(4))
    (before,) = [json.loads(line) for line in run("plan", "--format", "json").splitlines()]
    assert (before["missing"], before["covered"], before["instruments"]) == (1, 0, 1)
    assert not Fetch.objects.exists()
    run("ingest")
    (after,) = [json.loads(line) for line in run("plan", "--format", "json").splitlines()]
    assert (after["missing"], after["covered"], after["waiting"]) == (0, 1, 0)


def test_query_prints_a_table_csv_json_and_parquet(stored: Path, tmp_path: Path) -> None:
    assert "4 rows" in run("query", "AAPL")
    lines = run("query", "prices:equity:AAPL:ohlcv-1d", "--format", "csv", "--start", "2024-01-03").splitlines()
    assert lines[1].startswith('"prices:equity:AAPL","2024-01-03T00:00:00')
    assert len(lines) == 3
    (row, *_) = [json.loads(line) for line in run("query", "AAPL", "--format", "json").splitlines()]
    assert row["close"] == "11"
    written = ("--format", "parquet", "--output", str(tmp_path / "out.parquet"))
    run("query", "AAPL", *written, "--indicators", "sma(window=2)")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["sma_indicator(window=2)"].to_pylist() == [None, 11.5, 12.5, 13.5]
    with pytest.raises(CommandError, match="names no series"):
        run("query", "NOPE")


def test_series_lists_what_is_there(stored: Path) -> None:
    (row,) = [json.loads(line) for line in run("series", "--format", "json").splitlines()]
    assert row["key"] == "prices:equity:AAPL:ohlcv-1d"
    assert (row["rows"], row["first"]) == (4, "2024-01-01T00:00:00Z")
    with pytest.raises(CommandError, match="series 'x' is unknown"):
        run("series", "x")


def test_status_shows_rejected_failed_and_late(stored: Path) -> None:
    from catalog.models import TimeSeries

    TimeSeries.objects.update(schedule="* * * * *", timezone="Europe/Berlin")
    Run.objects.update(started_at="2024-01-01T00:00Z")
    (row,) = [json.loads(line) for line in run("status", "--format", "json").splitlines()]
    assert (row["source"], row["status"], row["rejected"], row["late"]) == ("prices", "completed", 1, 1)


def test_quarantine_lists_rows_with_reason_and_counts_them_by_rule(stored: Path) -> None:
    (row,) = [json.loads(line) for line in run("quarantine", "--format", "json").splitlines()]
    assert row["row"] == 4
    assert "high >= open: high='8'" in row["reason"]
    (summary,) = [json.loads(line) for line in run("quarantine", "--summary", "--format", "json").splitlines()]
    assert summary["rows"] == 1


def test_refine_from_landing_needs_no_vendor(stored: Path) -> None:
    stored.unlink()
    printed = run("refine", "--from-landing")
    assert "5 rows, 0 new, 0 updated, 1 quarantined" in printed
    assert Fetch.objects.count() == 1
    assert Quarantined.objects.count() == 1


def test_delete_asks_and_is_written_to_the_ledger(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("delete", "prices:equity:AAPL:ohlcv-1d", "--start", "2024-01-02", "--end", "2024-01-04")
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    with pytest.raises(CommandError, match="nothing was deleted"):
        run(*arguments)
    assert read("AAPL").num_rows == 4
    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    assert "deleted 2 rows" in run(*arguments)
    assert read("AAPL")["close"].to_pylist() == [11, 14]
    record = Run.objects.get(kind="delete")
    assert record.selector["deleted"] == {"db": 2}
    # the stored indicator follows what is left
    run("ingest")
    assert read("prices:equity:AAPL", "indicators")["value"].to_pylist() == [12.5]
    with pytest.raises(CommandError, match="required"):
        run("delete", "prices:equity:AAPL:ohlcv-1d")


def test_every_command_is_in_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    ours = [name for name, app in get_commands().items() if app == "catalog"]
    assert ours
    for name in ours:
        assert re.search(rf"`[^`]*\b{name}\b", readme), f"README.md does not mention {name}"
        assert load_command_class("catalog", name).help


def test_a_table_shows_every_digit_that_is_stored(data: Path) -> None:
    series("coin", ["BTC"], asset_class="crypto")
    closes = ("60145.69", "60145.7", "0.0000000012", "1234567890123456789.123456789012345678")
    lines = [f"2024-01-0{day},{close},{close},{close},{close},0" for day, close in enumerate(closes, 1)]
    (data / "BTC.csv").write_text("\n".join(["Date,Open,High,Low,Close,Volume", *lines]) + "\n")
    run("ingest")
    printed = run("query", "BTC")
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if "│" in line]
    for close in closes:
        found = next(cell for row in rows for cell in row if cell.replace(",", "").rstrip("0") == close)
        # points are below each other
        assert len(found.partition(".")[2]) == 18
    for form in ("csv", "json"):
        printed = run("query", "BTC", "--format", form)
        assert "0.0000000012" in printed
        assert "E-" not in printed
