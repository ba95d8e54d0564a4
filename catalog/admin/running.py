"""Starts a run outside the request, which answers at once: at Prefect where one is configured, else as a process."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from urllib.error import HTTPError
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request
from urllib.request import urlopen

from django.conf import settings
from django.urls import reverse
from django.utils.html import format_html
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from catalog.errors import ConfigError
from catalog.errors import TransientError

if TYPE_CHECKING:
    from flows.plan import Selection

_API_SECONDS: Final = 5


def launch(selection: "Selection", sources: Sequence[str]) -> SafeString:
    """Start the selection, which is of these sources; returns what the user is told.

    Raises TransientError or ConfigError when Prefect does not take it.
    """
    if api := os.environ.get("PREFECT_API_URL", ""):
        parameters = {source: {"source": source, "series": list(selection.series) or None} for source in sources}
        return _submit(api.rstrip("/"), "historical", parameters)
    return _spawn(selection)


def launch_live(sources: Sequence[str]) -> SafeString:
    """Have sources streamed that are not; returns what the user is told.

    Raises TransientError or ConfigError when Prefect does not take it, or there is none.
    """
    if api := os.environ.get("PREFECT_API_URL", ""):
        told = _submit(api.rstrip("/"), "realtime", {source: {"source": source} for source in sources})
        return format_html("{} Where a stream runs already the new run is cancelled.", told)
    raise ConfigError(
        "realtime series run until they are told to end: by manage.py stream, or at Prefect, of which PREFECT_API_URL"
        " says nothing"
    )


def _submit(api: str, flow: str, asked: Mapping[str, Mapping[str, Any]]) -> SafeString:
    """Make a flow run of each source's deployment, with its parameters."""
    runs = []
    for source, parameters in asked.items():
        deployment = _ask(f"{api}/deployments/name/{flow}/{quote(source, safe='')}")
        run = _ask(f"{api}/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        interface = os.environ.get("PREFECT_UI_URL", api.removesuffix("/api")).rstrip("/")
        runs.append((f"{interface}/runs/flow-run/{run['id']}", run["name"]))
    links = format_html_join(", ", '<a class="underline" href="{}">{}</a>', runs)
    return format_html("Submitted to Prefect: {}.", links)


def _ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif login := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"PREFECT_API_URL {url!r} is no URL; accepted: e.g. http://127.0.0.1:4200/api")
    request = Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=_API_SECONDS) as answer:
            loaded: dict[str, Any] = json.load(answer)
            return loaded
    except HTTPError as error:
        with error:
            if error.code == 404:
                raise ConfigError("Prefect has no deployment for it; run manage.py sync_deployments") from error
            raise TransientError(f"Prefect answered {error.code} {error.reason}") from error
    except (URLError, TimeoutError, ValueError) as error:
        raise TransientError(f"Prefect does not answer: {getattr(error, 'reason', error)}") from error


def _spawn(selection: "Selection") -> SafeString:
    """Start `manage.py ingest` as a process that outlives this server."""
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "ingest", "--verbosity", "0"]
    for name in selection.series:
        command += ["--series", name]
    for name in selection.sources:
        command += ["--source", name]
    folder = Path(settings.LANDING_URL) / ".runs"
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.log"
    with report.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=settings.BASE_DIR,
            # a signal to the server is not for it
            start_new_session=True,
        )
    # somebody has to ask for its end, or it stays as a zombie
    threading.Thread(target=process.wait, daemon=True).start()
    return format_html(
        'Started in the background: see <a class="underline" href="{}">runs</a>. What it prints goes to {}.',
        reverse("admin:catalog_run_changelist"),
        report,
    )
