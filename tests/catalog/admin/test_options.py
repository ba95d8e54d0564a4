"""Options are edited in fields of their own, made from the class that declares them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from catalog.admin.options import option_class
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import TimeSeries
from tests.catalog.admin.pages import errors
from tests.catalog.admin.pages import fields
from tests.catalog.admin.pages import save
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url

FORM = "datasource_form"

pytestmark = pytest.mark.usefixtures("acme")


def source(**options: Any) -> DataSource:
    return DataSource.objects.create(name="live", vendor="acme", options={"dataset": "X", **options})


def change(client: Client, row: DataSource, /, **changes: Any) -> Any:
    named = {f"options__acme__{name}": value for name, value in changes.items()}
    return save(client, url("datasource", "change", row.pk), FORM, **named)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adjustment": "splits", "depth": 5, "scale": "0.01", "ratio": 0.5, "extended_hours": False, "paper": False},
        # what equals its default was said on purpose
        {"adjustment": "none", "depth": 10, "extended_hours": True, "delimiter": ",", "venues": []},
        {"delimiter": "\t", "dataset": ' "quoted" \n'},
        {"delimiter": "", "column": "0"},
        {"column": 0, "columns": {"close": 4, "time": "Date"}, "venues": ["XNAS", "é\u2028<b>"]},
        {"dataset": "<script>alert('x')</script>", "delimiter": '""', "scale": 0.25, "paper": None},
    ],
    ids=["required", "each-type", "defaults-said", "controls", "empty-text", "numbers-and-texts", "hostile"],
)
def test_saving_an_untouched_form_changes_no_option(options: dict[str, Any], boss: Client) -> None:
    row = source(**options)
    response = change(boss, row)
    assert response.status_code == 302, errors(response)
    stored = DataSource.objects.get(pk=row.pk)
    assert json.dumps(stored.options, sort_keys=True) == json.dumps(row.options, sort_keys=True)


def test_a_source_cannot_have_the_platforms_own_variables_sent_to_its_address(boss: Client) -> None:
    row = source()
    response = save(boss, url("datasource", "change", row.pk), FORM, env_prefix="SECRET")
    assert "no vendor's" in errors(response)["env_prefix"][0]
    assert save(boss, url("datasource", "change", row.pk), FORM, env_prefix="SECRETARY").status_code == 302


@pytest.mark.parametrize(
    ("name", "entered", "stored"),
    [
        ("dataset", "Y", "Y"),
        ("dataset", '"\\t"', "\t"),
        ("delimiter", " ", " "),
        ("delimiter", '""', ""),
        ("adjustment", "all", "all"),
        ("depth", "7", 7),
        ("scale", "0.000000000000000001", "0.000000000000000001"),
        ("ratio", "1e-3", 0.001),
        ("paper", "yes", True),
        ("paper", "no", False),
        ("venues", '["XNAS", "XNYS"]', ["XNAS", "XNYS"]),
        ("columns", '{"close": 4, "time": "Date"}', {"close": 4, "time": "Date"}),
        ("column", "4", 4),
        ("column", '"4"', "4"),
        ("column", "Date", "Date"),
    ],
)
def test_what_is_entered_is_stored_in_the_declared_type(name: str, entered: str, stored: object, boss: Client) -> None:
    row = source()
    assert change(boss, row, **{name: entered}).status_code == 302
    found = DataSource.objects.get(pk=row.pk).options
    assert found == {"dataset": "X", name: stored}
    assert type(found[name]) is type(stored)
    assert change(boss, row).status_code == 302
    assert DataSource.objects.get(pk=row.pk).options == found


def test_a_switch_that_is_turned_off_is_stored_and_back_at_its_default_it_is_not(boss: Client) -> None:
    row = source()
    change(boss, row, extended_hours=None)
    assert DataSource.objects.get(pk=row.pk).options == {"dataset": "X", "extended_hours": False}
    change(boss, row, extended_hours="on")
    assert DataSource.objects.get(pk=row.pk).options == {"dataset": "X"}


def test_every_fault_stands_at_its_field(boss: Client) -> None:
    row = source()
    wrong = {"dataset": "", "depth": "99", "scale": "much", "venues": "[1", "columns": '{"a": [1]}', "ratio": "x"}
    response = change(boss, row, **wrong)
    assert response.status_code == 200
    found = errors(response)
    assert set(found) == {f"options__acme__{name}" for name in wrong}
    assert found["options__acme__dataset"] == ["This option is required."]
    assert "less than or equal to 50" in found["options__acme__depth"][0]
    assert found["options__acme__venues"][0].startswith("not JSON")
    assert DataSource.objects.get(pk=row.pk).options == {"dataset": "X"}


def test_an_option_that_changes_what_numbers_mean_is_refused_at_its_field(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import registry

    monkeypatch.setattr(registry.extractor("acme"), "value_options", ("adjustment",), raising=False)
    row = source()
    Fetch.objects.create(
        source=row, schema="trades", request_hash="x", start="2024-01-01T00:00Z", end="2024-01-02T00:00Z"
    )
    response = change(boss, row, adjustment="all")
    assert list(errors(response)) == ["options__acme__adjustment"]
    assert "make another source" in errors(response)["options__acme__adjustment"][0]


def test_fields_of_other_vendors_are_not_judged(boss: Client, shop: SimpleNamespace) -> None:
    response = save(
        boss, url("datasource", "change", shop.source.pk), FORM, options__acme__depth="nonsense", name="eod2"
    )
    assert response.status_code == 302
    assert DataSource.objects.get(pk=shop.source.pk).options == {"path": "*.csv"}


def test_another_vendor_starts_from_its_own_options(boss: Client, shop: SimpleNamespace) -> None:
    address = url("datasource", "change", shop.source.pk)
    without = save(boss, address, FORM, vendor="acme")
    assert errors(without) == {"options__acme__dataset": ["This option is required."]}
    # without JavaScript the group of the new vendor is shown by the page that says what is missing
    page = text(without)
    assert f"option-group {option_class('acme')}" in page.replace("  ", " ")
    assert f"{option_class('acme')} option-group-hidden" not in page
    assert f"{option_class('files')} option-group-hidden" in page
    assert save(boss, address, FORM, vendor="acme", options__acme__dataset="X").status_code == 302
    stored = DataSource.objects.get(pk=shop.source.pk)
    assert (stored.vendor, stored.options) == ("acme", {"dataset": "X"})


def test_a_missing_sdk_is_shown_with_what_installs_it(boss: Client, db: None) -> None:
    page = text(boss.get(url("datasource", "add")))
    assert "Acme Markets (needs acme_sdk_that_nobody_has: pip install &#x27;dataflow[acme]&#x27;)" in page
    assert "&lt;prefix&gt;_API_KEY" in page
    assert "Sells &amp; &lt;script&gt;" in page
    assert "of theirs&lt;/b&gt;" in page


def test_options_that_are_no_longer_declared_are_shown_and_can_be_dropped(boss: Client) -> None:
    row = source(old={"a": 1})
    address = url("datasource", "change", row.pk)
    kept = save(boss, address, FORM)
    assert "not declared" in errors(kept)["options__acme__"][0]
    assert save(boss, address, FORM, options__acme__="").status_code == 302
    assert DataSource.objects.get(pk=row.pk).options == {"dataset": "X"}


def test_a_vendor_that_is_gone_can_be_replaced(boss: Client) -> None:
    row = DataSource.objects.create(name="old", vendor="gone", options={"a": 1})
    address = url("datasource", "change", row.pk)
    assert "gone (unknown)" in text(boss.get(address))
    assert "vendor" in errors(save(boss, address, FORM))
    assert save(boss, address, FORM, vendor="files", options__files__path="*.csv").status_code == 302


def test_series_have_the_options_their_sources_vendor_declares(boss: Client, shop: SimpleNamespace) -> None:
    row = source()
    series = TimeSeries.objects.create(series_id="quotes", source=row, schema="tbbo", options={"side": "bid"})
    series.assets.set(shop.assets[:1])
    address = url("timeseries", "change", series.pk)
    assert fields(boss, address, "timeseries_form")["options__acme__side"] == ["bid"]
    response = save(boss, address, "timeseries_form", options__acme__side="", options__acme__roll="front")
    assert errors(response) == {"options__acme__side": ["This option is required."]}
    assert save(boss, address, "timeseries_form", options__acme__side="ask").status_code == 302
    assert TimeSeries.objects.get(pk=series.pk).options == {"side": "ask"}
    # files declare none for a series
    assert save(boss, address, "timeseries_form", source=str(shop.source.pk)).status_code == 302
    assert TimeSeries.objects.get(pk=series.pk).options == {}


def test_the_page_of_a_series_tells_the_script_whose_options_to_show(boss: Client, shop: SimpleNamespace) -> None:
    page = text(boss.get(url("timeseries", "change", shop.series.pk)))
    assert f'data-option-owners="{{&quot;{shop.source.pk}&quot;: &quot;files&quot;' in page
    assert "catalog/options.js" in page


def test_who_may_only_look_sees_the_options_as_they_are_stored(viewer: Client) -> None:
    row = source(delimiter="<script>")
    page = text(viewer.get(url("datasource", "change", row.pk)))
    assert "dataset" in page
    assert "options__acme__" not in page
    assert "<script>&quot;" not in page


@pytest.mark.parametrize(("model", "name"), [("datasource", "databento"), ("outputdestination", "database")])
def test_no_group_of_options_is_taken_for_a_tab(model: str, name: str, boss: Client) -> None:
    fieldsets = boss.get(url(model, "add")).context["adminform"].fieldsets
    classes = [" ".join(options.get("classes", ())) for _, options in fieldsets]
    assert any(option_class(name) in one for one in classes)
    assert not [one for one in classes if "tab" in one]


def test_every_fault_of_an_option_is_said_with_its_place_value_and_what_is_accepted(boss: Client) -> None:
    page = boss.get(url("datasource", "add"))
    (group,) = [one for _, one in page.context["adminform"].fieldsets if option_class("flux") in one.get("classes", ())]
    names = [name.removeprefix("options__flux__") for name in group["fields"]]
    # what must be said comes first, what may be tuned last
    assert set(names[:3]) == {"url", "subscribe", "events"}
    assert names.index("answers") < names.index("silence")
    answers = [{"when": {"a": 1}, "means": "perhaps"}, {"when": {}, "means": "refused", "reasons": "x"}]
    sent = {"url": "wss://x.example", "subscribe": '{"a": "{list}"}', "answers": json.dumps(answers)}
    values = {f"options__flux__{name}": value for name, value in sent.items()}
    said = errors(save(boss, url("datasource", "add"), FORM, name="f", vendor="flux", **values))
    found = said["options__flux__answers"]
    assert len(found) == 3, found
    assert any(one.startswith("0.means: 'perhaps' is wrong: Input should be 'greeting', 'auth") for one in found)
    assert any(one.startswith("1.when: {} is wrong: ") and "at least 1 item" in one for one in found)
    assert any(one.startswith("1.reasons: there is no such thing; accepted: when, means, names") for one in found)
    assert said["options__flux__events"] == ["This option is required."]


def test_an_address_is_labelled_as_one(boss: Client) -> None:
    assert "URL" in str(boss.get(url("datasource", "add")).context["adminform"].form["options__flux__url"].label)
