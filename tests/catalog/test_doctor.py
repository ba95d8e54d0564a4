import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from catalog.management.commands import doctor
from catalog.models import DataSource
from flows.extractors.base import BaseExtractor

SECRET = "d0-n0t-sh0w-th1s"


class Paid(BaseExtractor):
    name = "paid"
    label = "Paid"
    credentials = ("API_KEY",)


class NeedsSdk(Paid):
    name = "needs-sdk"
    requires = "an_sdk_nobody_has"
    credentials = ()


@pytest.fixture
def _vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.registry.extractors", lambda: {"paid": Paid, "needs-sdk": NeedsSdk})


def findings() -> tuple[dict[str, list[dict[str, str]]], int]:
    """What the command found, by subject, and its exit code."""
    output, code = StringIO(), 0
    try:
        call_command("doctor", "--format", "json", stdout=output)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert SECRET not in output.getvalue()
    by_subject: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(output.getvalue()):
        by_subject.setdefault(finding["subject"], []).append(finding)
    return by_subject, code


def test_healthy_installation_has_no_failure(database: str) -> None:
    found, code = findings()
    failed = [finding for group in found.values() for finding in group if finding["state"] == "failed"]
    assert (failed, code) == ([], 0)
    servers = {"sqlite": ["SQLite"], "timescale": ["PostgreSQL", "TimescaleDB"]}[database]
    shown = [finding["found"].split()[0] for finding in found["database default"]]
    assert shown == [*servers, "migrated"]


def test_edition_of_timescaledb_is_shown(market_database: str) -> None:
    found, _ = findings()
    assert found[f"database {market_database}"][1]["found"].endswith(("edition apache", "edition timescale"))


@pytest.mark.usefixtures("_vendors")
@pytest.mark.django_db
def test_secret_is_reported_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    DataSource.objects.create(name="mine", vendor="paid", env_prefix="MINE")
    DataSource.objects.create(name="unused", vendor="paid", env_prefix="UNUSED", active=False)
    found, code = findings()
    assert [f["found"] for f in found["source mine"]] == ["MINE_API_KEY is missing"]
    assert code == 1

    monkeypatch.setenv("MINE_API_KEY", SECRET)
    found, code = findings()
    assert [f["found"] for f in found["source mine"]] == ["MINE_API_KEY is set"]
    assert "source unused" not in found
    assert code == 0


@pytest.mark.usefixtures("_vendors")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("vendor", "found"),
    [
        pytest.param("needs-sdk", "no package an_sdk_nobody_has", id="sdk"),
        pytest.param("gone", "vendor 'gone'", id="vendor"),
    ],
)
def test_source_that_cannot_work_is_a_failure(vendor: str, found: str) -> None:
    DataSource.objects.create(name="broken", vendor=vendor)
    by_subject, code = findings()
    assert by_subject["source broken"][0]["found"] == found
    assert code == 1


@pytest.mark.django_db
def test_pending_migration_is_a_failure() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'marketdata'")
    found, code = findings()
    assert found["database default"][-1]["advice"] == "manage.py migrate --database default"
    assert code == 1


def test_market_database_is_looked_at_too(market_database: str) -> None:
    found, _ = findings()
    assert found["database default"][0]["found"].startswith("SQLite")
    assert found[f"database {market_database}"][0]["found"].startswith("PostgreSQL")


@pytest.mark.django_db
def test_redis(settings: Settings, redis_url: str) -> None:
    settings.REDIS_URL = redis_url
    found, code = findings()
    assert found["redis"][0]["found"].startswith("Redis ")
    assert code == 0

    settings.REDIS_URL = f"redis://:{SECRET}@127.0.0.1:1/0"
    found, code = findings()
    assert found["redis"][0]["state"] == "failed"
    assert code == 1


@pytest.mark.django_db
def test_directory_that_is_a_file_and_missing_one(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings.EXPORT_ROOT = tmp_path / "file"
    settings.FILES_ROOT = [tmp_path / "nothing-here"]
    found, code = findings()
    assert found["exports"][0]["state"] == "failed"
    assert found["files"][0]["state"] == "warning"
    assert code == 1


@pytest.mark.django_db
def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FULL_DISK", 2**62)
    found, code = findings()
    assert found["landing"][0]["state"] == "failed"
    assert code == 1


def test_wrong_clock(market_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MAX_SKEW", timedelta(0))
    found, code = findings()
    assert found[f"clock of database {market_database}"][0]["state"] == "failed"
    assert code == 1


@pytest.mark.django_db
def test_secret_key_of_the_example_is_a_failure(settings: Settings) -> None:
    example = (settings.BASE_DIR / "deploy/production.env.example").read_text()
    settings.SECRET_KEY = example.partition("\nSECRET_KEY=")[2].partition("\n")[0]
    found, code = findings()
    assert found["secret SECRET_KEY"][0]["state"] == "failed"
    assert code == 1


@pytest.mark.django_db
def test_table_shows_every_finding() -> None:
    output = StringIO()
    call_command("doctor", stdout=output)
    assert all(word in output.getvalue() for word in ("python", "package prefect", "database default", "landing"))
