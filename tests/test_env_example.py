import ast
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def read_by_settings() -> set[str]:
    """Names in calls of `env(...)` and `env.bool(...)` and the like."""
    tree = ast.parse((REPOSITORY / "dataflow_site/settings.py").read_text())
    return {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).split(".")[0] == "env"
        and isinstance(call.args[0], ast.Constant)
    }


def written_in(path: str) -> set[str]:
    """Names set in a file, commented or not."""
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", (REPOSITORY / path).read_text(), re.MULTILINE))


def test_env_example_names_every_variable_of_the_settings_and_no_other() -> None:
    assert written_in(".env.example") == read_by_settings()


def test_production_example_names_only_variables_that_something_reads() -> None:
    of_others = {"POSTGRES_PASSWORD", "PREFECT_API_URL"}
    assert written_in("deploy/production.env.example") <= read_by_settings() | of_others


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=REPOSITORY,
        env=environment | variables,
        text=True,
        capture_output=True,
        check=False,
    )


def test_production_example_passes_the_deployment_check() -> None:
    example = str(REPOSITORY / "deploy/production.env.example")
    done = manage("check", "--deploy", "--fail-level", "WARNING", DATAFLOW_ENV_FILE=example)
    assert done.returncode == 0, done.stderr


def test_settings_refuse_to_start_in_production_without_a_secret_key() -> None:
    done = manage("check", DATAFLOW_ENV_FILE=os.devnull)
    assert done.returncode != 0
    assert "SECRET_KEY is not set" in done.stderr


def test_value_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(secrets.token_urlsafe(50))
    done = manage("check", DATAFLOW_ENV_FILE=os.devnull, SECRET_KEY_FILE=str(tmp_path / "key"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "engine", "name"),
    [
        pytest.param("sqlite:///var/x.sqlite3", "django.db.backends.sqlite3", "var/x.sqlite3", id="sqlite"),
        pytest.param("postgres://u:p@h:1/n", "django.db.backends.postgresql", "n", id="postgres"),
        pytest.param("timescale://u:p@h:1/n", "dataflow_site.timescale", "n", id="timescale"),
    ],
)
def test_scheme_of_the_url_chooses_the_backend(url: str, engine: str, name: str) -> None:
    from dataflow_site.settings import BASE_DIR
    from dataflow_site.settings import database

    entry = database(url)
    assert entry["ENGINE"] == engine
    assert entry["NAME"] in (name, str(BASE_DIR / name))
