"""Rows on the page of another row: routes of a series, symbols of an instrument, instruments of an asset."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from tests.catalog.admin.pages import save
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url


def inline(prefix: str, number: int, **values: Any) -> dict[str, Any]:
    return {f"{prefix}-{number}-{name}": value for name, value in values.items()}


def test_home_moves_from_one_route_to_another_in_one_step(boss: Client, shop: SimpleNamespace) -> None:
    other = OutputDestination.objects.create(name="a-second", kind="database")
    address = url("timeseries", "change", shop.series.pk)
    new = inline("routes", 1, destination=other.pk, home="on", active="on")
    both = save(boss, address, "timeseries_form", **{"routes-TOTAL_FORMS": "2"}, **new)
    assert both.status_code == 200
    assert "A series has one home" in text(both)
    moved = save(boss, address, "timeseries_form", **{"routes-TOTAL_FORMS": "2", "routes-0-home": None}, **new)
    assert moved.status_code == 302
    assert dict(Route.objects.values_list("destination__name", "home")) == {"db": False, "a-second": True}
    # and back, where the row that becomes home is saved before the one that stops being it
    back = {"routes-0-home": None, "routes-1-home": "on"}
    assert save(boss, address, "timeseries_form", **back).status_code == 302
    assert dict(Route.objects.values_list("destination__name", "home")) == {"db": True, "a-second": False}


def test_a_deleted_home_makes_room_for_another(boss: Client, shop: SimpleNamespace) -> None:
    other = OutputDestination.objects.create(name="other", kind="database")
    new = inline("routes", 1, destination=other.pk, home="on", active="on")
    changes = {"routes-TOTAL_FORMS": "2", "routes-0-DELETE": "on", **new}
    response = save(boss, url("timeseries", "change", shop.series.pk), "timeseries_form", **changes)
    assert response.status_code == 302
    assert list(Route.objects.values_list("destination__name", "home")) == [("other", True)]


def test_a_new_series_is_saved_with_its_routes_and_their_conditions_are_checked(
    boss: Client, shop: SimpleNamespace
) -> None:
    values = {
        "series_id": "new",
        "source": shop.source.pk,
        "schema": "ohlcv-1d",
        "assets": [shop.assets[0].pk],
        "routes-TOTAL_FORMS": "1",
        **inline("routes", 0, destination=shop.database.pk, home="on", active="on", condition="nonsense > 1"),
    }
    response = save(boss, url("timeseries", "add"), "timeseries_form", **values)
    assert response.status_code == 200
    assert "nonsense" in str(response.context["inline_admin_formsets"][0].formset.errors)
    values["routes-0-condition"] = "close > 1"
    assert save(boss, url("timeseries", "add"), "timeseries_form", **values).status_code == 302
    assert TimeSeries.objects.get(series_id="new").routes.get().condition == "close > 1"


@pytest.fixture
def instrument(shop: SimpleNamespace) -> Instrument:
    made = Instrument.objects.create(source=shop.source, asset=shop.assets[0])
    InstrumentSymbol.objects.create(instrument=made, symbol="OLD")
    return made


def symbols(client: Client, instrument: Instrument, **changes: Any) -> Any:
    return save(client, url("instrument", "change", instrument.pk), "instrument_form", **changes)


def test_a_symbol_is_followed_by_another_in_one_step(boss: Client, instrument: Instrument) -> None:
    changes = {
        "symbols-TOTAL_FORMS": "2",
        **inline("symbols", 0, end_0="2024-01-01", end_1="00:00"),
        **inline("symbols", 1, symbol="NEW", start_0="2024-01-01", start_1="00:00"),
    }
    assert symbols(boss, instrument, **changes).status_code == 302
    assert [str(symbol) for symbol in instrument.symbols.order_by("start")] == [
        "OLD […, 2024-01-01 00:00:00+00:00)",
        "NEW [2024-01-01 00:00:00+00:00, …)",
    ]


def test_overlapping_symbols_are_refused(boss: Client, shop: SimpleNamespace, instrument: Instrument) -> None:
    new = {"symbols-TOTAL_FORMS": "2", **inline("symbols", 1, symbol="NEW")}
    response = symbols(boss, instrument, **new)
    assert response.status_code == 200
    assert "OLD […, …) overlaps NEW […, …)" in text(response)
    other = Instrument.objects.create(source=shop.source, asset=shop.assets[1])
    taken = {"symbols-TOTAL_FORMS": "1", **inline("symbols", 0, symbol="OLD")}
    response = symbols(boss, other, **taken)
    assert "overlaps OLD […, …) of eod:equity:AAPL" in text(response)
    assert InstrumentSymbol.objects.count() == 1


def test_an_interval_that_ends_before_it_starts_is_refused(boss: Client, instrument: Instrument) -> None:
    changes = inline("symbols", 0, start_0="2024-01-02", start_1="00:00", end_0="2024-01-01", end_1="00:00")
    assert symbols(boss, instrument, **changes).status_code == 200
    assert InstrumentSymbol.objects.get().start is None


def test_a_time_nobody_touched_keeps_its_microseconds(boss: Client, shop: SimpleNamespace) -> None:
    TimeSeries.objects.update(start="2024-01-01T00:00:00.123456Z")
    assert save(boss, url("timeseries", "change", shop.series.pk), "timeseries_form", schedule="").status_code == 302
    assert TimeSeries.objects.get().start.microsecond == 123456


def test_an_asset_shows_its_instruments(boss: Client, shop: SimpleNamespace, instrument: Instrument) -> None:
    page = boss.get(url("asset", "change", shop.assets[0].pk))
    assert [form.instance for form in page.context["inline_admin_formsets"][0].formset.initial_forms] == [instrument]
