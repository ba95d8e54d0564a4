"""The ledger and the quarantine are read, never written, by anybody."""

import json
import re
from io import StringIO
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db.models import Model
from django.test import Client
from django.utils.formats import date_format

from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import OutputDestination
from catalog.models import Quarantined
from catalog.models import Run
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url

MODELS = (Run, Fetch, Delivery, Quarantined)


@pytest.fixture
def ledger(shop: SimpleNamespace) -> dict[type[Model], Model]:
    run = Run.objects.create(source=shop.source, status=Run.Status.FAILED, error="boom")
    fetch = Fetch.objects.create(
        run=run,
        source=shop.source,
        schema="ohlcv-1d",
        request_hash="x",
        start="2024-01-01T00:00Z",
        end="2024-02-01T00:00Z",
    )
    counts = {"parsed": 5, "new": 3, "filtered": 1, "quarantined": 1}
    delivery = Delivery.objects.create(fetch=fetch, destination=shop.database, schema="ohlcv-1d", **counts)
    refused = Quarantined.objects.create(
        fetch=fetch, part=0, row=7, rule="high >= low", reason="high >= low: high='1'", raw='{"high": 1, "low": 2}'
    )
    return {Run: run, Fetch: fetch, Delivery: delivery, Quarantined: refused}


@pytest.mark.parametrize("model", MODELS)
def test_not_even_a_superuser_writes(model: type[Model], ledger: dict[type[Model], Model], boss: Client) -> None:
    name, row = model._meta.model_name, ledger[model]
    before = model._default_manager.values().get()
    assert boss.post(url(name, "add"), {"schema": "x"}).status_code == 403
    assert boss.get(url(name, "add")).status_code == 403
    assert boss.post(url(name, "change", row.pk), {"schema": "x"}).status_code == 403
    assert boss.post(url(name, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert boss.post(url(name), {"action": "delete_selected", "_selected_action": [row.pk]}).status_code == 403
    assert model._default_manager.values().get() == before


@pytest.mark.parametrize("model", MODELS)
def test_nothing_to_write_with_is_shown(model: type[Model], ledger: dict[type[Model], Model], boss: Client) -> None:
    page = text(boss.get(url(model._meta.model_name, "change", ledger[model].pk)))
    assert 'name="_save"' not in page
    assert "deletelink" not in page


def test_a_fetch_shows_the_account_of_its_deliveries(ledger: dict[type[Model], Model], boss: Client) -> None:
    page = boss.get(url("fetch", "change", ledger[Fetch].pk))
    inline = page.context["inline_admin_formsets"][0]
    assert [form.instance.parsed for form in inline.formset.forms] == [5]
    assert "check_small" in text(page) or "bg-green" in text(page)


def test_an_account_that_does_not_add_up_is_marked(ledger: dict[type[Model], Model], boss: Client) -> None:
    from catalog.admin.ledger import DeliveryAdmin

    delivery = ledger[Delivery]
    assert isinstance(delivery, Delivery)
    assert DeliveryAdmin.adds_up(None, delivery)  # type: ignore[arg-type]
    delivery.new = 2
    assert not DeliveryAdmin.adds_up(None, delivery)  # type: ignore[arg-type]


def test_a_refused_row_shows_rule_reason_and_what_came_in(ledger: dict[type[Model], Model], boss: Client) -> None:
    page = text(boss.get(url("quarantined", "change", ledger[Quarantined].pk)))
    assert "high &gt;= low" in page
    assert "  &quot;high&quot;: 1,\n  &quot;low&quot;: 2" in page


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("/admin/catalog/run/?status__exact=failed", 1),
        ("/admin/catalog/run/?status__exact=completed", 0),
        ("/admin/catalog/run/?started_at_within=24", 1),
        ("/admin/catalog/run/?started_at_within=nonsense", 1),
        ("/admin/catalog/fetch/?schema=ohlcv-1d", 1),
        ("/admin/catalog/fetch/?schema=trades", 0),
        ("/admin/catalog/delivery/?status__exact=pending", 1),
        ("/admin/catalog/quarantined/?q=high", 1),
        ("/admin/catalog/quarantined/?schema=trades", 0),
        ("/admin/catalog/quarantined/?fetch__run__id__exact=0", 0),
    ],
)
def test_lists_are_filtered_and_searched(page: str, found: int, ledger: dict[type[Model], Model], boss: Client) -> None:
    response = boss.get(page)
    assert response.status_code == 200
    assert len(response.context["cl"].result_list) == found


def test_the_log_of_changes_cannot_be_changed(boss: Client, db: None) -> None:
    assert boss.get("/admin/admin/logentry/add/").status_code == 403
    assert User.objects.count() == 1


def test_a_fetch_is_complete_under_way_failed_or_incomplete(ledger: dict[type[Model], Model], boss: Client) -> None:
    def state() -> str:
        found = re.findall(r">\s*(under way|incomplete|failed|complete)\s*<", text(boss.get(url("fetch"))))
        return str(found[-1])

    assert state() == "incomplete"
    Run.objects.update(status=Run.Status.RUNNING)
    Fetch.objects.update(live=True)
    assert state() == "under way"
    page = text(boss.get(url("fetch", "change", ledger[Fetch].pk)))
    assert "under way" in page
    Fetch.objects.update(error="refused")
    assert state() == "failed"
    Fetch.objects.update(complete=True)
    assert state() == "complete"


def test_a_row_that_two_destinations_lack_is_rejected_once(
    ledger: dict[type[Model], Model], shop: SimpleNamespace, boss: Client
) -> None:
    other = OutputDestination.objects.create(name="other", kind="database")
    # it is further: the first one still waits
    Delivery.objects.create(fetch=ledger[Fetch], destination=other, schema="ohlcv-1d", parsed=9, quarantined=3)
    cards = {card["title"]: card["value"] for card in boss.get("/admin/").context["cards"]}
    assert cards["Rejected rows"] == "3"
    (run,) = boss.get(url("run")).context["cl"].result_list
    assert run.row_sums[1] == 3
    call_command("status", "--format", "json", stdout=(out := StringIO()))
    assert json.loads(out.getvalue())["rejected"] == 3


def test_the_quarantine_says_when_its_rows_were_fetched(ledger: dict[type[Model], Model], boss: Client) -> None:
    fetched = date_format(Fetch.objects.get().fetched_at, "DATETIME_FORMAT")
    assert fetched in text(boss.get(url("quarantined")))
    assert fetched in text(boss.get(url("quarantined", "change", ledger[Quarantined].pk)))


def test_a_run_links_to_its_flow_run(
    ledger: dict[type[Model], Model], boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run.objects.update(flow_run="0f-1")
    monkeypatch.setenv("PREFECT_UI_URL", "")
    for api, shown in (("http://prefect:4200/api", True), ("", False)):
        monkeypatch.setenv("PREFECT_API_URL", api)
        page = text(boss.get(url("run", "change", ledger[Run].pk)))
        assert "0f-1" in page
        assert ('href="http://prefect:4200/runs/flow-run/0f-1"' in page) == shown


def test_pages_name_an_icon(boss: Client) -> None:
    assert 'href="/static/catalog/favicon' in text(boss.get("/admin/"))
