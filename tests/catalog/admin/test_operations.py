"""The buttons of a source and of a series: check, first rows, plan, run."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings as current
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Instrument
from catalog.models import Run
from catalog.models import TimeSeries
from tests.catalog.admin.conftest import permit
from tests.catalog.admin.conftest import signed_in
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url


def told(response: object) -> str:
    """Return the messages of the page that a response leads to."""
    return " ".join(str(message) for message in response.context["messages"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["check", "first-rows", "plan", "run"])
def test_operations_are_posted_with_a_token_and_a_permission(
    name: str, shop: SimpleNamespace, boss: Client, viewer: Client, nobody: Client
) -> None:
    address = url("datasource", name, shop.source.pk)
    assert boss.get(address).status_code == 405
    assert nobody.post(address).status_code == 403
    if name != "plan":
        assert viewer.post(address).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="boss"))
    assert strict.post(address).status_code == 403
    assert not LogEntry.objects.exists()
    page = text(viewer.get(url("datasource", "change", shop.source.pk)))
    assert (f'action="{address}"' in page) == (name == "plan")


def test_an_operation_needs_its_own_permission_and_no_other(shop: SimpleNamespace, viewer: Client) -> None:
    permit(viewer, "check_datasource")
    assert viewer.post(url("datasource", "check", shop.source.pk)).status_code == 200
    assert viewer.post(url("datasource", "first-rows", shop.source.pk)).status_code == 403
    assert viewer.post(url("timeseries", "first-rows", shop.series.pk)).status_code == 403


def test_an_operation_on_a_row_that_is_gone_leads_away(shop: SimpleNamespace, boss: Client) -> None:
    for number in (0, "x"):
        assert boss.post(url("datasource", "check", number)).status_code == 302


def test_check_says_what_the_vendor_says(shop: SimpleNamespace, boss: Client) -> None:
    page = text(boss.post(url("datasource", "check", shop.source.pk)))
    assert "bg-green-100" in page
    assert LogEntry.objects.get().get_change_message() == "Checked: works."


def test_check_never_shows_a_secret(acme: None, db: None, boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DataSource.objects.create(name="live", vendor="acme", options={"dataset": "X"}, env_prefix="ACME")
    monkeypatch.setenv("ACME_API_KEY", "topsecret")
    page = text(boss.post(url("datasource", "check", source.pk)))
    assert "the key ••• is accepted" in page
    assert "topsecret" not in page
    assert "ACME_API_KEY" in page


def test_check_shows_faults_of_options_and_unexpected_errors_without_their_text(
    acme: None, db: None, boss: Client, caplog: pytest.LogCaptureFixture
) -> None:
    source = DataSource.objects.create(name="live", vendor="acme", options={"depth": 0})
    page = text(boss.post(url("datasource", "check", source.pk)))
    assert "option &#x27;dataset&#x27; is required" in page
    source.options = {"dataset": "X"}
    source.save()
    # the key is not in the environment: the extractor fails with a KeyError
    page = text(boss.post(url("datasource", "check", source.pk)))
    assert "KeyError: unexpected" in page
    assert "ACME_API_KEY" in caplog.text


def test_first_rows_shows_raw_beside_refined_and_stores_nothing(shop: SimpleNamespace, boss: Client) -> None:
    response = boss.post(url("timeseries", "first-rows", shop.series.pk))
    page = text(response)
    assert [row["state"] for row in response.context["table"]][:3] == ["accepted", "rejected", "accepted"]
    assert "high &gt;= open" in page
    assert "10.25" in page
    assert not Fetch.objects.exists()
    assert not Run.objects.exists()
    assert not Instrument.objects.exists()
    assert not Path(current.LANDING_URL).exists()


def test_first_rows_are_shown_before_anything_is_active(shop: SimpleNamespace, boss: Client) -> None:
    TimeSeries.objects.update(active=False)
    DataSource.objects.update(active=False)
    response = boss.post(url("datasource", "first-rows", shop.source.pk))
    assert len(response.context["table"]) == 6
    assert not TimeSeries.objects.get().active
    assert not DataSource.objects.get().active


def test_first_rows_of_a_vendor_without_its_sdk_say_what_to_install(
    acme: None, shop: SimpleNamespace, boss: Client
) -> None:
    source = DataSource.objects.create(name="live", vendor="acme", options={"dataset": "X"})
    series = TimeSeries.objects.create(series_id="quotes", source=source, schema="tbbo", options={"side": "bid"})
    series.assets.set(shop.assets[:1])
    page = text(boss.post(url("timeseries", "first-rows", series.pk)))
    assert "needs acme_sdk_that_nobody_has: pip install &#x27;dataflow[acme]&#x27;" in page


def test_first_rows_need_a_historical_series(shop: SimpleNamespace, boss: Client) -> None:
    TimeSeries.objects.update(extractor_type="realtime")
    assert "first rows are of historical series" in text(boss.post(url("timeseries", "first-rows", shop.series.pk)))
    assert "has no historical series" in text(boss.post(url("datasource", "first-rows", shop.source.pk)))


def test_plan_shows_what_is_asked_and_what_is_covered(shop: SimpleNamespace, boss: Client) -> None:
    from flows.ingest import ingest
    from flows.plan import Selection

    address = url("timeseries", "plan", shop.series.pk)
    page = text(boss.post(address))
    assert "AAPL.csv" in page
    assert "to fetch" in page
    assert "db (database), home" in page
    assert not Instrument.objects.exists()
    ingest(Selection())
    (Path(current.FILES_ROOT[0]) / "MSFT.csv").write_text("Date,Open,High,Low,Close,Volume\n2024-02-01,1,1,1,1,1\n")
    response = boss.post(address)
    requests = response.context["jobs"][0]["requests"]
    assert [asked.request.instruments[0].name.symbol for asked in requests] == ["AAPL", "MSFT"]
    assert [len(asked.missing) for asked in requests] == [0, 1]
    assert "to fetch" in text(response)
    assert not LogEntry.objects.exists()


def test_plan_of_what_is_inactive_says_so(shop: SimpleNamespace, boss: Client) -> None:
    TimeSeries.objects.update(active=False)
    page = text(boss.post(url("timeseries", "plan", shop.series.pk)))
    assert "series &#x27;daily&#x27; is not active" in page
    assert "AAPL.csv" in page


def test_run_now_refuses_what_is_inactive(shop: SimpleNamespace, boss: Client) -> None:
    TimeSeries.objects.update(active=False)
    response = boss.post(url("timeseries", "run", shop.series.pk), follow=True)
    assert told(response) == "Not started: series 'daily' is not active"
    assert not (Path(current.LANDING_URL) / ".runs").exists()


@pytest.mark.django_db(transaction=True)
def test_run_now_starts_a_process_and_answers_at_once(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    shop = request.getfixturevalue("shop")
    client = signed_in(User.objects.create_superuser("boss"))
    for name, value in {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings",
        "DATABASE_URL": database_url,
        "LANDING_URL": settings.LANDING_URL,
        "FILES_ROOT": str(settings.FILES_ROOT[0]),
        "PREFECT_API_URL": "",
    }.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    response = client.post(url("timeseries", "run", shop.series.pk), follow=True)
    assert time.monotonic() - began < 5
    assert "Started in the background" in told(response)
    while not Run.objects.filter(finished_at__isnull=False).exists() and time.monotonic() - began < 60:
        time.sleep(0.2)
    reports = list((Path(settings.LANDING_URL) / ".runs").glob("*.log"))
    assert [run.status for run in Run.objects.all()] == ["completed"], [report.read_text() for report in reports]
    assert Fetch.objects.filter(complete=True).count() == 2
    assert len(reports) == 1


class Prefect(BaseHTTPRequestHandler):
    """The two calls of Prefect's API that submit a run of a deployment."""

    asked: list[tuple[str, object]] = []
    deployments: dict[str, str] = {}

    def do_GET(self) -> None:
        if found := self.deployments.get(self.path):
            self._answer(200, {"id": found})
        else:
            self._answer(404, {"detail": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        self._answer(201, {"id": "r-1", "name": "brave-<b>"})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Prefect]]:
    Prefect.asked = []
    Prefect.deployments = {"/api/deployments/name/historical/eod": "d-1"}
    with ThreadingHTTPServer(("127.0.0.1", 0), Prefect) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        monkeypatch.delenv("PREFECT_UI_URL", raising=False)
        yield Prefect
        server.shutdown()
        thread.join()


def test_run_now_submits_to_prefect_where_there_is_one(
    prefect: type[Prefect], shop: SimpleNamespace, boss: Client
) -> None:
    response = boss.post(url("timeseries", "run", shop.series.pk), follow=True)
    assert prefect.asked == [
        ("/api/deployments/d-1/create_flow_run", {"parameters": {"source": "eod", "series": ["daily"]}})
    ]
    assert "/runs/flow-run/r-1" in told(response)
    assert "brave-<b>" not in text(response)


def test_run_now_says_what_prefect_lacks(prefect: type[Prefect], shop: SimpleNamespace, boss: Client) -> None:
    DataSource.objects.update(name="other")
    response = boss.post(url("datasource", "run", shop.source.pk), follow=True)
    assert "run manage.py sync_deployments" in told(response)
    assert not LogEntry.objects.exists()


def test_run_now_says_when_prefect_does_not_answer(
    shop: SimpleNamespace, boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    response = boss.post(url("timeseries", "run", shop.series.pk), follow=True)
    assert "Prefect does not answer" in told(response)
    monkeypatch.setenv("PREFECT_API_URL", "file:///etc")
    response = boss.post(url("timeseries", "run", shop.series.pk), follow=True)
    assert "is no URL" in told(response)


def test_chosen_series_are_run_together(prefect: type[Prefect], shop: SimpleNamespace, boss: Client) -> None:
    second = TimeSeries.objects.create(series_id="second", source=shop.source, schema="ohlcv-1m", active=False)
    posted = {"action": "run_now", "_selected_action": [shop.series.pk, second.pk], "index": "0"}
    boss.post(url("timeseries"), posted)
    assert [body for _, body in prefect.asked] == [{"parameters": {"source": "eod", "series": ["daily"]}}]


def test_latest_rows_are_drawn(shop: SimpleNamespace, boss: Client, nobody: Client) -> None:
    from flows.ingest import ingest
    from flows.plan import Selection

    page = boss.get(url("timeseries", "change", shop.series.pk))
    assert page.context["plots"] == []
    ingest(Selection())
    page = boss.get(url("timeseries", "change", shop.series.pk))
    assert [plot["name"] for plot in page.context["plots"]] == ["eod:equity:AAPL", "eod:equity:MSFT"]
    address = page.context["plots"][0]["url"]
    picture = boss.get(address)
    assert picture.headers["Content-Type"] == "image/svg+xml"
    assert "last 2 × close" in text(picture)
    assert "default-src" in picture.headers["Content-Security-Policy"]
    assert nobody.get(address).status_code == 403
    assert boss.get(f"/admin/catalog/timeseries/{shop.series.pk}/plot/0.svg").status_code == 200
