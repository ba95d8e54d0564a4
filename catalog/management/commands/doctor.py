"""`manage.py doctor`: what this installation is made of, and what keeps it from working. Shows no secret."""

import json
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand
from django.core.management.base import CommandParser
from django.db import Error as DatabaseError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"
STYLES: Final = {OK: "green", WARNING: "yellow", FAILED: "bold red"}

GIB: Final = 2**30
LOW_DISK: Final = 10 * GIB
FULL_DISK: Final = 1 * GIB
# a live bar is stamped to the second
MAX_SKEW: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    found: str
    state: str = OK
    advice: str = ""


class Command(BaseCommand):
    help = "Show versions, databases, secrets, clock, disk and permissions; exit with 1 if anything is wrong."
    # it has to work where they fail
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--format", choices=("table", "json"), default="table")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = [finding for check in CHECKS for finding in check()]
        if options["format"] == "json":
            self.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            self.show(findings)
        if any(finding.state == FAILED for finding in findings):
            sys.exit(1)

    def show(self, findings: list[Finding]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("", "found", "", "what to do", box=box.SIMPLE)
        for finding in findings:
            state = Text(finding.state, STYLES[finding.state])
            table.add_row(finding.subject, Text(finding.found, overflow="fold"), state, Text(finding.advice))
        # where the output is no terminal, wide enough for a path
        console = Console(width=None if self.stdout.isatty() else 160)
        with console.capture() as capture:
            console.print(table)
        self.stdout.write(capture.get())


def check_python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def check_packages() -> Iterator[Finding]:
    """Compare what is installed with what pyproject.toml asks for."""
    from packaging.requirements import Requirement

    project = tomllib.loads((settings.BASE_DIR / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        subject = f"package {requirement.name}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(subject, "not installed", FAILED, "make install")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield Finding(subject, version, OK if fits else FAILED, "" if fits else f"needs {requirement.specifier}")


def check_environment() -> Iterator[Finding]:
    path = settings.ENV_FILE
    if not path.is_file():
        yield Finding("environment", f"variables only, no {path}")
    elif path.stat().st_mode & 0o004:
        yield Finding("environment", str(path), WARNING, "everyone on this machine can read it: chmod o-r")
    else:
        yield Finding("environment", str(path))
    if settings.DEBUG:
        yield Finding("DEBUG", "on", WARNING, "for development only")


def check_secret_key() -> Iterator[Finding]:
    example = settings.BASE_DIR / "deploy/production.env.example"
    if settings.DEBUG:
        yield Finding("secret SECRET_KEY", "for development")
    elif example.is_file() and f"SECRET_KEY={settings.SECRET_KEY}\n" in example.read_text():
        yield Finding("secret SECRET_KEY", "that of the example", FAILED, "everyone knows it: make another")
    else:
        yield Finding("secret SECRET_KEY", "set")


def check_credentials() -> Iterator[Finding]:
    """Say of each active source whether its vendor's SDK and the variables it declares are there."""
    from catalog.models import DataSource
    from flows.registry import extractors

    try:
        if DataSource._meta.db_table not in connections["default"].introspection.table_names():
            return
        sources = list(DataSource.objects.filter(active=True).order_by("name"))
    except DatabaseError:
        # the database has its own line
        return
    for source in sources:
        subject = f"source {source.name}"
        extractor = extractors().get(source.vendor)
        if extractor is None:
            have = ", ".join(sorted(extractors()))
            yield Finding(subject, f"vendor {source.vendor!r}", FAILED, f"unknown; have: {have}")
            continue
        if extractor.requires and find_spec(extractor.requires) is None:
            yield Finding(subject, f"no package {extractor.requires}", FAILED, f"vendor {source.vendor} needs it")
        names = [f"{source.secrets_prefix}_{ending}" for ending in extractor.secret_endings(source.options)]
        missing = [name for name in names if not os.environ.get(name)]
        for name in names:
            if name in missing:
                yield Finding(subject, f"{name} is missing", FAILED, "set it in the environment or the file above")
            else:
                yield Finding(subject, f"{name} is set")
        if not names:
            yield Finding(subject, "needs no secret")


def check_databases() -> Iterator[Finding]:
    for alias in used_databases():
        connection = connections[alias]
        subject = f"database {alias}"
        try:
            connection.ensure_connection()
        except DatabaseError as error:
            yield Finding(subject, first_line(error), FAILED, "see DATABASE_URL and MARKET_DATABASE_URL")
            continue
        if connection.vendor == "sqlite":
            version = value(connection, "SELECT sqlite_version()")
            yield Finding(subject, f"SQLite {version}, journal {value(connection, 'PRAGMA journal_mode')}")
        else:
            yield from check_server(connection, subject)
        yield check_migrations(connection, subject)


def check_server(connection: BaseDatabaseWrapper, subject: str) -> Iterator[Finding]:
    yield Finding(subject, f"PostgreSQL {value(connection, 'SHOW server_version')}")
    extension = value(connection, "SELECT max(extversion) FROM pg_extension WHERE extname = 'timescaledb'")
    if extension:
        # the apache edition lacks compression and continuous aggregates
        edition = value(connection, "SELECT current_setting('timescaledb.license', true)")
        yield Finding(subject, f"TimescaleDB {extension}, edition {edition}")
    elif connection.settings_dict["ENGINE"] == "dataflow_site.timescale":
        yield Finding(subject, "no extension timescaledb", FAILED, "CREATE EXTENSION timescaledb, or use postgres://")
    before = datetime.now(UTC)
    server = value(connection, "SELECT clock_timestamp()")
    skew = server - (before + (datetime.now(UTC) - before) / 2)
    state = OK if abs(skew) < MAX_SKEW else FAILED
    advice = "" if state == OK else "run NTP on both machines"
    yield Finding(f"clock of {subject}", f"{skew.total_seconds():+.3f} s from this machine", state, advice)


def check_migrations(connection: BaseDatabaseWrapper, subject: str) -> Finding:
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    pending = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if pending:
        command = f"manage.py migrate --database {connection.alias}"
        return Finding(subject, f"{pending} migrations pending", FAILED, command)
    return Finding(subject, "migrated")


def check_redis() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        yield Finding("redis", "not used")
        return
    import redis

    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5) as client:
            yield Finding("redis", f"Redis {client.info('server')['redis_version']}")
    except (redis.RedisError, ValueError) as error:
        yield Finding("redis", first_line(error), FAILED, "see REDIS_URL")


def check_directories() -> Iterator[Finding]:
    written = {"exports": Path(settings.EXPORT_ROOT)}
    if "://" in settings.LANDING_URL:
        yield Finding("landing", urlsplit(settings.LANDING_URL)._replace(netloc="…", query="").geturl())
    else:
        written = {"landing": Path(settings.LANDING_URL)} | written
    for subject, path in written.items():
        yield check_writable(subject, path)
    for path in settings.FILES_ROOT:
        if not path.is_dir():
            yield Finding("files", f"{path} does not exist", WARNING, "sources of vendor files find nothing")
        elif not os.access(path, os.R_OK | os.X_OK):
            yield Finding("files", f"{path} cannot be read", FAILED, f"as user {os.geteuid()}")
        else:
            yield Finding("files", f"{path} is readable")


def check_writable(subject: str, path: Path) -> Finding:
    # it is made when it is first needed, in what exists now
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(subject, f"{existing}: {error.strerror}", FAILED, f"user {os.geteuid()} must be able to write")
    free = shutil.disk_usage(existing).free
    state = FAILED if free < FULL_DISK else WARNING if free < LOW_DISK else OK
    advice = "" if state == OK else "collecting stops when the disk is full"
    return Finding(subject, f"{path} is writable, {free / GIB:.1f} GiB free", state, advice)


def used_databases() -> list[str]:
    return list(dict.fromkeys(["default", settings.MARKET_ALIAS]))


def value(connection: BaseDatabaseWrapper, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


CHECKS: Final[list[Callable[[], Iterator[Finding]]]] = [
    check_python,
    check_packages,
    check_environment,
    check_secret_key,
    check_databases,
    check_redis,
    check_directories,
    check_credentials,
]
