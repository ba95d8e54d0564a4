"""The change history says who changed what, from which value to which."""

from types import SimpleNamespace

from django.contrib.admin.models import LogEntry
from django.test import Client

from catalog.admin.history import difference
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Route
from catalog.models import TimeSeries
from tests.catalog.admin.pages import save
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url


def last() -> LogEntry:
    return LogEntry.objects.order_by("-pk")[0]


def test_a_saved_form_tells_old_and_new_values(boss: Client, shop: SimpleNamespace) -> None:
    address = url("timeseries", "change", shop.series.pk)
    assets = [str(shop.assets[0].pk), str(shop.assets[2].pk)]
    save(boss, address, "timeseries_form", schedule="0 22 * * 1-5", assets=assets)
    entry = last()
    assert entry.user.username == "boss"
    assert entry.get_change_message() == (
        "Changed schedule: '' → '0 22 * * 1-5' and assets: − equity:MSFT, + future:=cmd|'/C calc'!A0."
    )
    page = text(boss.get(url("timeseries", "history", shop.series.pk)))
    assert "boss" in page
    assert "schedule: &#x27;&#x27; → &#x27;0 22 * * 1-5&#x27;" in page


def test_options_are_told_one_by_one(boss: Client, shop: SimpleNamespace) -> None:
    address = url("datasource", "change", shop.source.pk)
    save(boss, address, "datasource_form", options__files__path="<b>/*.csv", active=None)
    assert last().get_change_message() == "Changed options.path: '*.csv' → '<b>/*.csv' and active: True → False."
    assert "<b>/*" not in text(boss.get(url("datasource", "history", shop.source.pk)))


def test_inline_rows_are_told_with_their_values(boss: Client, shop: SimpleNamespace) -> None:
    address = url("timeseries", "change", shop.series.pk)
    save(boss, address, "timeseries_form", **{"routes-0-condition": "close > 100"})
    assert last().get_change_message() == "Changed condition: '' → 'close > 100' for route “daily → db”."
    save(boss, address, "timeseries_form", **{"routes-0-DELETE": "on"})
    assert last().get_change_message() == "Deleted route “daily → db”."
    assert not Route.objects.exists()


def test_nothing_changed_says_so(boss: Client, shop: SimpleNamespace) -> None:
    save(boss, url("timeseries", "change", shop.series.pk), "timeseries_form")
    assert last().get_change_message() == "No fields changed."


def test_a_new_row_and_a_deleted_row_are_kept(boss: Client, shop: SimpleNamespace) -> None:
    save(boss, url("asset", "add"), "asset_form", asset_class="etf", symbol="SPY")
    assert last().get_change_message() == "Added."
    row = Asset.objects.get(symbol="SPY")
    boss.post(url("asset", "delete", row.pk), {"post": "yes"})
    entry = last()
    assert entry.is_deletion()
    assert "symbol: 'SPY'" in entry.get_change_message()


def test_a_switch_in_a_list_is_told_like_a_form(boss: Client, shop: SimpleNamespace) -> None:
    save(boss, url("timeseries"), "changelist-form", **{"form-0-active": None, "_save": "Save"})
    assert not TimeSeries.objects.get().active
    assert last().get_change_message() == "Changed active: True → False."


def test_a_list_with_a_row_that_is_wrong_says_so_instead_of_failing(boss: Client, shop: SimpleNamespace) -> None:
    TimeSeries.objects.update(schedule="nonsense")
    response = save(boss, url("timeseries"), "changelist-form", **{"form-0-active": None, "_save": "Save"})
    assert response.status_code == 200
    assert "schedule: schedule &#x27;nonsense&#x27;" in text(response)
    assert TimeSeries.objects.get().active


def test_many_rows_changed_by_an_action_are_told_one_by_one(boss: Client, shop: SimpleNamespace) -> None:
    other = DataSource.objects.create(name="second", vendor="files", options={"path": "x"}, active=False)
    rows = [shop.source.pk, other.pk]
    boss.post(url("datasource"), {"action": "deactivate", "_selected_action": rows, "index": 0})
    assert not DataSource.objects.filter(active=True).exists()
    # the one that was inactive already has not changed
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.user.username) == (str(shop.source.pk), "boss")
    assert entry.get_change_message() == "Changed active: True → False."


def test_values_that_hold_anything_are_told_in_one_line() -> None:
    before = {"a": "x" * 1000, "b": None, "c": frozenset({"1", "2"})}
    after = {"a": "", "b": {"k": 1}, "c": frozenset({"2", "3"}), "d": True}
    told = difference(before, after)
    assert [line.split(":")[0] for line in told] == ["a", "b", "c", "d"]
    assert len(told[0]) < 300
    assert told[1:] == ["b: nothing → {'k': 1}", "c: − 1, + 3", "d: nothing → True"]
