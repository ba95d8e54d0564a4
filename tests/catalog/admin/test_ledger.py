"""The ledger and the quarantine are read, never written, by anybody."""

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client

from catalog.models import Delivery
from catalog.models import Fetch
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
