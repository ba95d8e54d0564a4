"""The four commands: what they print, and what they refuse."""

import io
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.core.management import call_command

from catalog.models import Asset
from catalog.models import TimeSeries

SERIES = "series_id,data_source,extractor_type,schema,assets,output_destinations\none,feed,realtime,trades,{},db\n"

pytestmark = pytest.mark.usefixtures("catalog")


def run(*arguments: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "series.csv"
    path.write_text(SERIES.format("AAPL"))
    return path


def test_dry_run_prints_the_difference_and_writes_nothing(file: Path) -> None:
    assert run("import_timeseries_csv", file, "--dry-run") == (
        "+ series one (line 2)\n"
        "    source: feed\n"
        "    extractor_type: realtime\n"
        "    schema: trades\n"
        "    assets: equity:AAPL\n"
        "    routes: db (home)\n"
        "series: 1 added, 0 changed, 0 unchanged\n"
        "dry run: nothing was written\n"
    )
    assert not TimeSeries.objects.exists()


def test_import_prints_a_summary_and_logs_its_user(file: Path) -> None:
    User.objects.create_user("ann")
    assert run("import_timeseries_csv", file, user="ann") == "series: 1 added, 0 changed, 0 unchanged\n"
    assert LogEntry.objects.get().user.get_username() == "ann"
    assert run("import_timeseries_csv", file) == "series: 0 added, 0 changed, 1 unchanged\n"
    file.write_text(SERIES.format("MSFT"))
    assert run("import_timeseries_csv", file, verbosity=2).startswith(
        "~ series one (line 2)\n    assets: equity:AAPL →"
    )
    with pytest.raises(CommandError, match="user 'bob' is unknown"):
        run("import_timeseries_csv", file, user="bob")


@pytest.mark.parametrize("dry_run", [False, True])
def test_faults_are_one_report(file: Path, dry_run: bool) -> None:
    file.write_text(SERIES.format("GOOG").replace("feed", "fed"))
    with pytest.raises(CommandError) as caught:
        run("import_timeseries_csv", file, dry_run=dry_run)
    assert str(caught.value) == (
        f"{file}: 2 faults, nothing was imported\n"
        "  line 2, assets: asset 'GOOG' is unknown; accepted: asset_class:symbol, or the symbol of an asset that"
        " exists\n"
        "  line 2, data_source: source 'fed' is unknown; have: eod, feed"
    )


def test_missing_assets_are_made_on_request(file: Path) -> None:
    file.write_text(SERIES.format("equity:GOOG"))
    with pytest.raises(CommandError, match="missing ones are made on request"):
        run("import_timeseries_csv", file)
    assert "asset: 1 added" in run("import_timeseries_csv", file, "--create-missing")
    assert Asset.objects.filter(symbol="GOOG").exists()


def test_exported_files_import_without_a_change(file: Path, tmp_path: Path) -> None:
    run("import_timeseries_csv", file)
    for name, command in (("series.csv", "timeseries_csv"), ("catalog.yaml", "catalog")):
        path = tmp_path / name
        assert run(f"export_{command}", path) == ""
        assert path.read_bytes() == run(f"export_{command}").encode() == run(f"export_{command}", "-").encode()
        assert "+" not in run(f"import_{command}", path, "--dry-run")
        assert "~" not in run(f"import_{command}", path, "--dry-run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog.yaml", "series.csv"]


def test_export_of_one_source(file: Path) -> None:
    run("import_timeseries_csv", file)
    assert run("export_timeseries_csv", source=["feed"]).count("\n") == 2
    assert run("export_timeseries_csv", source=["eod"]).count("\n") == 1
    with pytest.raises(CommandError, match="source 'fed' is unknown; have: eod, feed"):
        run("export_timeseries_csv", source=["fed"])


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nothing\.csv cannot be read: No such file or directory"):
        run("import_timeseries_csv", tmp_path / "nothing.csv")
    with pytest.raises(CommandError, match="cannot be read: Is a directory"):
        run("import_catalog", tmp_path)
    with pytest.raises(CommandError, match=r"c\.yaml cannot be written: No such file or directory"):
        run("export_catalog", tmp_path / "nowhere" / "c.yaml")


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SERIES.format("AAPL").encode())))
    assert run("import_timeseries_csv", "-").startswith("series: 1 added")


@pytest.mark.parametrize("name", ["import_timeseries_csv", "export_timeseries_csv", "import_catalog", "export_catalog"])
def test_help_says_what_a_file_means(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(name, "--help")
    said = " ".join(capsys.readouterr().out.split())
    expected = {
        "import_timeseries_csv": "output_destinations",
        "export_timeseries_csv": "Symbols may begin with '=', '+', '-' or '@'",
        "import_catalog": "one YAML file",
        "export_catalog": "gives the same bytes",
    }
    assert expected[name] in said
