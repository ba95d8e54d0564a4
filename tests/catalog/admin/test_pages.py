"""Every page opens for who may see it, and for nobody else."""

from types import SimpleNamespace

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import Model
from django.test import Client

from catalog.models import Coverage
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Indicator
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import Quarantined
from catalog.models import Run
from tests.catalog.admin.pages import fields
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url

CATALOG = ("datasource", "asset", "instrument", "timeseries", "outputdestination", "route")
LEDGER = ("run", "fetch", "delivery", "quarantined", "gap", "indicator")


@pytest.fixture
def rows(shop: SimpleNamespace) -> dict[str, Model]:
    """One row of each page, with values that would break out of HTML."""
    hostile = "<script>alert(1)</script>"
    asset = shop.assets[0]
    asset.name = hostile
    asset.save()
    instrument = Instrument.objects.create(source=shop.source, asset=asset)
    InstrumentSymbol.objects.create(instrument=instrument, symbol=hostile)
    run = Run.objects.create(source=shop.source, error=hostile, selector={"series": [hostile]})
    fetch = Fetch.objects.create(
        run=run,
        source=shop.source,
        schema="ohlcv-1d",
        request_hash="x",
        start="2024-01-01T00:00Z",
        end="2024-02-01T00:00Z",
    )
    Coverage.objects.create(fetch=fetch, instrument=instrument, start=fetch.start, end=fetch.end)
    delivery = Delivery.objects.create(fetch=fetch, destination=shop.database, schema="ohlcv-1d", error=hostile)
    quarantined = Quarantined.objects.create(
        fetch=fetch, part=0, row=1, rule="high >= low", reason=hostile, raw='{"high": "<script>alert(1)</script>"}'
    )
    gap = Gap.objects.create(instrument=instrument, schema="trades", start=fetch.start, end=fetch.end, reason=hostile)
    indicator = Indicator.objects.create(chain="sma(window=20)", input_schema="ohlcv-1d")
    found = [shop.source, asset, instrument, shop.series, shop.database, shop.route]
    found += [run, fetch, delivery, quarantined, gap, indicator]
    return {row._meta.model_name: row for row in found}


@pytest.mark.parametrize("model", [*CATALOG, *LEDGER])
def test_list_and_row_open_for_a_superuser_and_a_viewer_and_for_nobody_else(
    model: str, rows: dict[str, Model], boss: Client, viewer: Client, nobody: Client
) -> None:
    fetch = Fetch.objects.get()
    fetch.refresh_from_db()
    for page in (url(model), url(model, "change", rows[model].pk)):
        for client in (boss, viewer):
            response = client.get(page)
            assert response.status_code == 200
            assert "<script>alert(1)" not in text(response)
        assert nobody.get(page).status_code == 403


@pytest.mark.parametrize("model", CATALOG)
def test_a_new_row_is_for_those_who_may_add(
    model: str, rows: dict[str, Model], boss: Client, viewer: Client, nobody: Client
) -> None:
    page = url(model, "add")
    assert boss.get(page).status_code == 200
    assert viewer.get(page).status_code == 403
    assert nobody.get(page).status_code == 403


@pytest.mark.parametrize("model", CATALOG)
def test_a_viewer_cannot_change_delete_or_act(model: str, rows: dict[str, Model], viewer: Client) -> None:
    row = rows[model]
    assert viewer.post(url(model, "change", row.pk), {"name": "x"}).status_code == 403
    assert viewer.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    viewer.post(url(model), {"action": "deactivate", "_selected_action": [row.pk], "index": 0})
    stored = type(row)._default_manager.get(pk=row.pk)
    assert getattr(stored, "active", True)
    assert viewer.get(url(model, "import")).status_code == 403
    assert viewer.get(url(model, "export")).status_code == 200
    assert not LogEntry.objects.exists()


def test_history_users_groups_and_the_list_of_changes_open(rows: dict[str, Model], boss: Client) -> None:
    pages = [url(model, "history", rows[model].pk) for model in CATALOG]
    pages += ["/admin/auth/user/", "/admin/auth/user/1/change/", "/admin/auth/group/", "/admin/admin/logentry/"]
    assert {boss.get(page).status_code for page in pages} == {200}


def test_overview_shows_to_each_what_they_may_see(
    rows: dict[str, Model], boss: Client, viewer: Client, nobody: Client
) -> None:
    for client in (boss, viewer):
        page = text(client.get("/admin/"))
        assert "Last runs" in page
        assert "Series by source" in page
    page = text(nobody.get("/admin/"))
    assert "Last runs" not in page
    assert "eod" not in page


def test_times_are_shown_with_their_zone(rows: dict[str, Model], boss: Client) -> None:
    assert "2024-01-01 00:00:00 UTC" in text(boss.get(url("fetch")))
    assert "2024-01-01 00:00:00 UTC" in text(boss.get(url("fetch", "change", rows["fetch"].pk)))
    assert "UTC. Inclusive" in text(boss.get(url("timeseries", "change", rows["timeseries"].pk)))


def test_login_leads_to_the_overview(client: Client, boss: Client) -> None:
    response = client.post("/admin/login/", {"username": "boss", "password": "boss"})
    assert response.headers["Location"] == "/admin/"


def test_every_column_that_people_may_set_is_on_its_page(rows: dict[str, Model], boss: Client) -> None:
    for name in CATALOG:
        model = type(rows[name])
        shown = fields(boss, url(name, "change", rows[name].pk), f"{name}_form")
        text_page = text(boss.get(url(name, "change", rows[name].pk)))
        for field in model._meta.concrete_fields:
            if field.editable and not field.primary_key and field.name != "options":
                assert f"id_{field.name}" in text_page or field.name in shown, f"{name}.{field.name}"


def test_stored_rows_are_no_pages_of_the_admin() -> None:
    assert not [model for model in admin.site._registry if model._meta.app_label == "marketdata"]
