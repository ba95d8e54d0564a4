"""Databases, Redis, directories and recorded files for the tests.

A test on Django's database runs on SQLite. One that takes the fixture `database` runs twice, with SQLite and with
TimescaleDB as `default`: everything is then there, ledger, transactions and threads included.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote
from urllib.parse import urlsplit

import pytest
import redis
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from pytest_django import Settings

from tests.redis_server import Server
from tests.redis_server import running_redis

TIMESCALE = "DATAFLOW_TEST_TIMESCALE_URL"
REDIS = "DATAFLOW_TEST_REDIS_URL"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(params=["sqlite", "timescale"])
def database(request: pytest.FixtureRequest) -> str:
    """Name of the database behind `default`; implies the mark `django_db`."""
    if request.param == "timescale":
        require(TIMESCALE)
    return request.param


@pytest.fixture
def database_url(db: None) -> str:
    """URL of the database behind `default`, for child processes and other clients (with transaction=True)."""
    entry = connections["default"].settings_dict
    if connections["default"].vendor == "sqlite":
        return f"sqlite:///{entry['NAME']}"
    account = f"{quote(entry['USER'], safe='')}:{quote(entry['PASSWORD'], safe='')}"
    return f"timescale://{account}@{entry['HOST']}:{entry['PORT'] or 5432}/{entry['NAME']}"


@pytest.fixture
def market_database(settings: Settings) -> str:
    """Alias of a second database, TimescaleDB, which holds the stored rows; the catalog stays in SQLite."""
    require(TIMESCALE)
    settings.MARKET_ALIAS = "timescale"
    return settings.MARKET_ALIAS


@pytest.fixture
def redis_url() -> str:
    """URL of an empty Redis database, of which this process is the only user."""
    url = require(REDIS)
    with redis.Redis.from_url(url) as client:
        number = os.getpid() % int(client.config_get("databases")["databases"])
    url = urlsplit(url)._replace(path=f"/{number}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def server(redis_url: str) -> Iterator[Server]:
    """A Redis of this test alone, which it may stop and start."""
    with running_redis() as made:
        yield made


@pytest.fixture(autouse=True)
def directories(settings: Settings, tmp_path: Path) -> None:
    """Landing, exports and readable files below `tmp_path`: no test writes into the checkout."""
    settings.LANDING_URL = str(tmp_path / "landing")
    settings.EXPORT_ROOT = tmp_path / "files"
    settings.FILES_ROOT = [tmp_path / "data"]


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Directory of the recorded files, for tests marked `corpus`."""
    path = Path(os.environ.get("DATAFLOW_CORPUS", REPOSITORY.parent / "shared/corpus"))
    if not path.is_dir():
        pytest.skip(f"no recorded files at {path}: set DATAFLOW_CORPUS")
    return path


def require(variable: str) -> str:
    if not answers(variable):
        pytest.fail(f"{variable} names no server that answers: run `make services`", pytrace=False)
    return os.environ[variable]


@cache
def answers(variable: str) -> bool:
    if not os.environ.get(variable):
        return False
    url = urlsplit(os.environ[variable])
    try:
        port = url.port or (6379 if variable == REDIS else 5432)
        with socket.create_connection((url.hostname or "localhost", port), timeout=5):
            return True
    except OSError:
        return False


def on_timescale(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("database") == "timescale"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs TimescaleDB, so that pytest-django makes its test database only when a test wants it."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        uses_timescale = on_timescale(item) or "market_database" in fixtures
        if uses_timescale or "redis_url" in fixtures:
            item.add_marker("services")
        if "database" in fixtures or uses_timescale:
            mark = item.get_closest_marker("django_db")
            arguments = dict(mark.kwargs) if mark else {}
            if uses_timescale and answers(TIMESCALE):
                arguments["databases"] = ["default", "timescale"]
            item.add_marker(pytest.mark.django_db(**arguments), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Put TimescaleDB behind `default` for one test, before any fixture of it looks."""
    if on_timescale(item) and answers(TIMESCALE):
        with swapped("default", "timescale"):
            return (yield)
    return (yield)


@contextmanager
def swapped(one: str, other: str) -> Iterator[None]:
    swap(one, other)
    try:
        yield
    finally:
        swap(one, other)


def swap(one: str, other: str) -> None:
    """Exchange two databases: their settings, for threads still to come, and this thread's connections."""
    entries = connections.settings
    first, second = connections[one], connections[other]
    entries[one], entries[other] = entries[other], entries[one]
    connections[one], connections[other] = second, first
    first.alias, second.alias = other, one
    # ids of content types differ between databases
    ContentType.objects.clear_cache()
