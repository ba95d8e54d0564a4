"""Actions that change many rows at once, with a form where they need one."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from catalog.models import Asset
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from tests.catalog.admin.conftest import permit
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url


@pytest.fixture
def many(shop: SimpleNamespace) -> list[TimeSeries]:
    """The series of the shop and two more, without routes."""
    made = [
        TimeSeries.objects.create(series_id=name, source=shop.source, schema=schema)
        for name, schema in (("minutes", "ohlcv-1m"), ("trades", "trades"))
    ]
    for series in made:
        series.assets.set(shop.assets[:1])
    return [shop.series, *made]


def act(client: Client, action: str, rows: Any, model: str = "timeseries", /, **answers: Any) -> Any:
    posted = {"action": action, "_selected_action": [row.pk for row in rows], "index": "0", "select_across": "0"}
    if answers:
        del posted["index"]
        posted |= {"apply": "1", **answers}
    return client.post(url(model), posted)


def test_a_schedule_is_set_for_many_series(boss: Client, many: list[TimeSeries]) -> None:
    page = act(boss, "set_schedule", many)
    assert "This changes 3 series." in text(page)
    response = act(boss, "set_schedule", many, schedule="0 22 * * 1-5", timezone="America/New_York")
    assert response.status_code == 302
    assert set(TimeSeries.objects.values_list("schedule", "timezone")) == {("0 22 * * 1-5", "America/New_York")}
    assert LogEntry.objects.count() == 3


@pytest.mark.parametrize(("schedule", "zone"), [("every day", "UTC"), ("0 22 * * *", "Mars/Olympus")])
def test_a_wrong_schedule_changes_nothing(schedule: str, zone: str, boss: Client, many: list[TimeSeries]) -> None:
    response = act(boss, "set_schedule", many, schedule=schedule, timezone=zone)
    assert response.status_code == 200
    assert response.context["form"].errors
    assert set(TimeSeries.objects.values_list("schedule", flat=True)) == {""}


def test_a_route_is_added_where_there_is_none(boss: Client, shop: SimpleNamespace, many: list[TimeSeries]) -> None:
    response = act(boss, "add_route", many, destination=shop.database.pk, required="on", home="on", active="on")
    assert response.status_code == 302
    assert Route.objects.count() == 3
    assert Route.objects.filter(home=True, required=True, active=True).count() == 3
    assert sorted(LogEntry.objects.values_list("object_repr", flat=True)) == ["minutes", "trades"]
    assert LogEntry.objects.first().get_change_message().startswith("Added route “")


def test_a_home_that_is_there_stays(boss: Client, many: list[TimeSeries]) -> None:
    other = OutputDestination.objects.create(name="other", kind="database")
    act(boss, "add_route", many, destination=other.pk, home="on", active="on")
    assert set(other.routes.filter(home=True).values_list("series__series_id", flat=True)) == {"minutes", "trades"}


def test_a_condition_is_checked_against_every_schema(
    boss: Client, shop: SimpleNamespace, many: list[TimeSeries]
) -> None:
    response = act(boss, "add_route", many, destination=shop.database.pk, condition="close > 1")
    assert response.status_code == 200
    faults = response.context["form"].errors["condition"]
    assert len(faults) == 1
    assert faults[0].startswith("trades: ")
    assert Route.objects.count() == 1


def test_all_rows_of_a_filtered_list_are_chosen_across_pages(boss: Client, many: list[TimeSeries]) -> None:
    address = f"{url('timeseries')}?schema=trades"
    posted = {"action": "deactivate", "_selected_action": [many[2].pk], "select_across": "1", "index": "0"}
    boss.post(address, posted)
    assert list(TimeSeries.objects.filter(active=False).values_list("series_id", flat=True)) == ["trades"]


def test_a_market_is_set_and_what_is_left_empty_stays(boss: Client, shop: SimpleNamespace) -> None:
    Asset.objects.update(currency="EUR")
    assert act(boss, "set_market", shop.assets, "asset", mic="XNAS", currency="", calendar="XNYS").status_code == 302
    assert set(Asset.objects.values_list("mic", "currency", "calendar")) == {("XNAS", "EUR", "XNYS")}
    assert act(boss, "set_market", shop.assets, "asset", mic="").status_code == 200


def test_actions_need_the_right_to_change(viewer: Client, shop: SimpleNamespace, many: list[TimeSeries]) -> None:
    for action in ("activate", "deactivate", "set_schedule", "add_route", "run_now"):
        act(viewer, action, many, schedule="* * * * *", timezone="UTC", destination=shop.database.pk)
    assert set(TimeSeries.objects.values_list("schedule", "active")) == {("", True)}
    assert Route.objects.count() == 1
    assert not LogEntry.objects.exists()


def test_adding_routes_needs_the_right_to_add_them(
    viewer: Client, shop: SimpleNamespace, many: list[TimeSeries]
) -> None:
    permit(viewer, "change_timeseries")
    act(viewer, "add_route", many, destination=shop.database.pk, active="on")
    assert Route.objects.count() == 1
    permit(viewer, "add_route")
    act(viewer, "add_route", many, destination=shop.database.pk, active="on")
    assert Route.objects.count() == 3
