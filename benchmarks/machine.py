"""The machine a run is measured on, a database and folders of its own, and rounds in alternation."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

PACKAGES = ("django", "pyarrow", "pgpq", "psycopg", "adbc-driver-postgresql", "duckdb", "databento", "prefect")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure, its target and whether it is met."""

    what: str
    figure: float
    target: float
    at_least: bool = True
    unit: str = "×"
    note: str = ""

    @property
    def met(self) -> bool:
        return self.figure >= self.target if self.at_least else self.figure <= self.target

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "ok  " if self.met else "MISS"
        return f"{verdict} {self.figure:8.2f} {self.unit} (target {sign} {self.target:g})  {self.what}  {self.note}"


def describe() -> str:
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load}\n{versions}"


@contextmanager
def prepare() -> Iterator[Path]:
    """Point the settings at a database and folders of this run's own, migrate, and remove all of it at the end."""
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="dataflow-bench-"))
    server = os.environ["DATAFLOW_TEST_TIMESCALE_URL"]
    name = f"dataflow_bench_{os.getpid()}"
    admin = urlsplit(server)._replace(scheme="postgresql").geturl()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings",
        "DATAFLOW_ENV_FILE": os.devnull,
        "SECRET_KEY": "bench",
        "LOG_LEVEL": "ERROR",
        "DATABASE_URL": urlsplit(server)._replace(path=f"/{name}").geturl(),
        "LANDING_URL": str(folder / "landing"),
        "EXPORT_ROOT": str(folder / "files"),
        "FILES_ROOT": str(folder / "data"),
    }
    (folder / "data").mkdir()
    import django
    from django.core.management import call_command

    django.setup()
    try:
        call_command("migrate", verbosity=0)
        yield folder
    finally:
        from django.db import connections

        connections.close_all()
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        shutil.rmtree(folder)


def alternate(rounds: int, *steps: Callable[[], float]) -> list[float]:
    """Run the steps in turn, `rounds` times; returns each step's median."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for taken, step in zip(times, steps, strict=True):
            taken.append(step())
    return [median(taken) for taken in times]


def seconds(step: Callable[[], object]) -> float:
    """Return how long a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def data_folder() -> Path:
    return Path(os.environ["FILES_ROOT"])


def clear_folders() -> None:
    """Forget what landed and what was written to files."""
    for name in ("LANDING_URL", "EXPORT_ROOT"):
        shutil.rmtree(os.environ[name], ignore_errors=True)
