"""Import with preview and export in the admin: every fault at its row, all or nothing, and nothing lost on the way."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from catalog.exchange import write_series_csv
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.resources.files import guarded
from catalog.resources.files import unguarded
from tests.catalog.admin.conftest import permit
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url

CSV, YAML = "0", "1"
MODELS = ("datasource", "asset", "instrument", "timeseries", "outputdestination", "route")
HOSTILE = ("=cmd|'/C calc'!A0", "'quoted'", "@x", "a;b:c%d", 'say "hi", twice', "é🚀", "'=x", "NO", "007", "1e5")


def upload(client: Client, model: str, content: str | bytes, format: str = CSV, **answers: Any) -> Any:
    """Upload a file and return the preview."""
    raw = content if isinstance(content, bytes) else content.encode()
    file = SimpleUploadedFile("rows.csv", raw)
    return client.post(url(model, "import"), {"import_file": file, "format": format, "resource": "0", **answers})


def confirm(client: Client, model: str, preview: Any) -> Any:
    """Confirm a preview that has no fault."""
    assert "confirm_form" in preview.context, faults(preview)
    return client.post(url(model, "process_import"), preview.context["confirm_form"].initial)


def faults(preview: Any) -> dict[int, dict[str, list[str]]]:
    """Return line → column → what is wrong; those of the file as such at line 0."""
    result = preview.context["result"]
    found = {row.number: dict(row.error_dict) for row in result.invalid_rows}
    base = [str(problem.error) for problem in result.base_errors]
    return found | ({0: {"": base}} if base else {})


def export(client: Client, model: str, format: str = CSV, query: str = "") -> bytes:
    response = client.post(url(model, "export") + query, {"format": format, "resource": "0"})
    assert response.status_code == 200
    content: bytes = response.content
    return content


@pytest.fixture
def full(shop: SimpleNamespace) -> SimpleNamespace:
    """A catalog in which every column holds something that is easily lost."""
    shop.source.options = {"path": "*.csv"}
    shop.source.settled_after = timedelta(days=2, hours=12)
    shop.source.save()
    for symbol in HOSTILE:
        Asset.objects.create(asset_class="other", symbol=symbol, name=symbol, currency="+1", mic="NO")
    for number, asset in enumerate(Asset.objects.all()):
        instrument = Instrument.objects.create(source=shop.source, asset=asset)
        InstrumentSymbol.objects.create(
            instrument=instrument, symbol=f"{asset.symbol} {number}", end="2024-01-01T00:00Z"
        )
        InstrumentSymbol.objects.create(instrument=instrument, symbol=f"={number}", start="2024-01-01T00:00Z")
    shop.series.assets.set(Asset.objects.all())
    shop.series.start = "2020-01-01T00:00Z"
    shop.series.transforms = "sma(window=20); rsi(window=14) | store"
    shop.series.schedule = "0 22 * * 1-5"
    shop.series.timezone = "America/New_York"
    shop.series.active = False
    shop.series.save()
    other = OutputDestination.objects.create(name="other", kind="database", active=False)
    Route.objects.create(
        series=shop.series, destination=other, condition="close > 100", batch_rows=7, required=False, active=False
    )
    return shop


@pytest.mark.parametrize("format", [CSV, YAML], ids=["csv", "yaml"])
@pytest.mark.parametrize("model", MODELS)
def test_what_was_exported_is_imported_without_a_change(
    model: str, format: str, full: SimpleNamespace, boss: Client
) -> None:
    first = export(boss, model, format)
    preview = upload(boss, model, first, format)
    assert not faults(preview)
    totals = preview.context["result"].totals
    assert (totals["new"], totals["update"]) == (0, 0)
    assert totals["skip"] > 0
    assert confirm(boss, model, preview).status_code == 302
    assert export(boss, model, format) == first
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("format", [CSV, YAML], ids=["csv", "yaml"])
def test_an_empty_catalog_becomes_the_one_that_was_exported(format: str, full: SimpleNamespace, boss: Client) -> None:
    order = ("datasource", "outputdestination", "asset", "instrument", "timeseries", "route")
    before = {model: export(boss, model, format) for model in order}
    for row in (Route, TimeSeries, InstrumentSymbol, Instrument, Asset, OutputDestination, DataSource):
        row.objects.all().delete()
    for model in order:
        preview = upload(boss, model, before[model], format)
        assert not faults(preview), model
        assert confirm(boss, model, preview).status_code == 302
    assert {model: export(boss, model, format) for model in order} == before


def test_series_are_exported_as_by_the_command(full: SimpleNamespace, boss: Client) -> None:
    assert export(boss, "timeseries").decode() == write_series_csv()


def test_only_the_rows_of_a_filtered_list_are_exported(shop: SimpleNamespace, boss: Client) -> None:
    assert export(boss, "asset", query="?asset_class=future").count(b"\n") == 2
    assert export(boss, "asset", query="?q=nothing").count(b"\n") == 1


def test_yaml_shows_lists_options_and_truth_as_such(full: SimpleNamespace, boss: Client) -> None:
    rows = yaml.safe_load(export(boss, "timeseries", YAML))
    assert rows[0]["active"] is False
    assert rows[0]["output_destinations"] == ["db", "other"]
    assert "equity:AAPL" in rows[0]["assets"]
    assert yaml.safe_load(export(boss, "datasource", YAML))[0]["options"] == {"path": "*.csv"}


def test_no_cell_of_a_csv_is_run_by_a_spreadsheet(full: SimpleNamespace, boss: Client) -> None:
    import csv

    for model in MODELS:
        for row in csv.reader(export(boss, model).decode().splitlines()):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@"))], model


@pytest.mark.parametrize("value", [*HOSTILE, "", "'", "''", "'a", "=", "-5", "+", "\t", "a=b", " =x"])
def test_guarding_a_cell_can_be_undone(value: str) -> None:
    assert unguarded(guarded(value)) == value


def test_a_good_file_is_shown_first_and_stored_when_it_is_confirmed(shop: SimpleNamespace, boss: Client) -> None:
    content = "asset_class,symbol,name\nequity,AAPL,Apple\netf,SPY,<b>SPDR</b>\n"
    preview = upload(boss, "asset", content)
    page = text(preview)
    assert "name: none → Apple" in page
    assert "&lt;b&gt;SPDR" in page
    assert not Asset.objects.filter(symbol="SPY").exists()
    assert confirm(boss, "asset", preview).status_code == 302
    assert Asset.objects.get(symbol="SPY").name == "<b>SPDR</b>"
    told = dict(LogEntry.objects.values_list("object_repr", "change_message"))
    assert told["equity:AAPL"] == "Imported. name: none → Apple"
    assert set(LogEntry.objects.values_list("user__username", flat=True)) == {"boss"}


def test_every_fault_of_a_file_is_shown_at_its_line_and_nothing_is_stored(shop: SimpleNamespace, boss: Client) -> None:
    content = (
        "series_id,data_source,extractor_type,schema,assets,output_destinations,schedule\n"
        "good,eod,historical,ohlcv-1d,equity:AAPL,db,\n"
        "=cmd,nope,historic,ohlcv-7d,equity:NOPE,db;nowhere,every day\n"
        "short,eod\n"
        "good,eod,historical,ohlcv-1d,equity:AAPL,db,\n"
    )
    preview = upload(boss, "timeseries", content)
    found = faults(preview)
    assert set(found[3]) >= {"source", "extractor_type", "schema", "assets", "destination", "schedule"}
    assert "given twice, first on line 2" in str(found[5])
    assert found[0][""] == ["line 4: the row has 2 cells; accepted: 7, as in the header"]
    page = text(preview)
    assert "ohlcv-7d" in page
    assert "Confirm import" not in page
    assert TimeSeries.objects.count() == 1


@pytest.mark.parametrize(
    ("model", "content", "said"),
    [
        ("asset", "symbol\nX\n", "column 'asset_class' is required"),
        ("asset", "asset_class,symbol,color\nequity,X,red\n", "column 'color' is unknown"),
        ("asset", "asset_class,symbol,symbol\nequity,X,Y\n", "given 2 times"),
        ("asset", "asset_class,symbol\nplanet,X\n", "asset class 'planet' is unknown"),
        ("asset", "asset_class,symbol\nequity,\n", "it is empty"),
        ("asset", "asset_class,symbol\nequity,a\0b\n", "NUL"),
        ("asset", b"asset_class,symbol\nequity,\xff\n", "not UTF-8"),
        ("asset", 'asset_class,symbol\nequity,"X\n', "never closed"),
        ("datasource", "name,vendor,options\nx,nobody,\n", "vendor 'nobody' is unknown"),
        ("datasource", 'name,vendor,options\nx,files,"{""speed"": 1}"\n', "option 'speed' is unknown"),
        ("datasource", "name,vendor,options\nx,files,[1]\n", "no JSON object"),
        ("datasource", "name,vendor,settled_after\nx,files,soon\n", "no length of time"),
        ("outputdestination", "name,kind\nx,nowhere\n", "destination kind 'nowhere' is unknown"),
        ("outputdestination", "name,kind,active\nx,database,perhaps\n", "neither true nor false"),
        ("instrument", "data_source,asset,symbols\nnope,equity:AAPL,\n", "source 'nope' is unknown"),
        ("instrument", "data_source,asset,symbols\neod,equity:NOPE,\n", "is unknown; import it first"),
        ("instrument", "data_source,asset,symbols\neod,equity:AAPL,[1]\n", "is no symbol"),
        ("instrument", "data_source,asset,symbols\neod,equity:AAPL,nonsense\n", "are no JSON"),
        (
            "instrument",
            'data_source,asset,symbols\neod,equity:AAPL,"[{""symbol"": ""A""}, {""symbol"": ""B""}]"\n',
            "overlap",
        ),
        ("route", "series,destination\nnope,db\n", "series 'nope' is unknown"),
        ("route", "series,destination\ndaily,nope\n", "destination 'nope' is unknown"),
        ("route", "series,destination,condition\ndaily,db,nonsense > 1\n", "nonsense"),
        ("route", "series,destination,batch_rows\ndaily,db,-1\n", "no number of rows"),
        ("route", "series,destination,home\ndaily,db,perhaps\n", "neither true nor false"),
        ("timeseries", "series_id\nx\n", "column 'data_source' is required"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    model: str, content: str | bytes, said: str, shop: SimpleNamespace, boss: Client
) -> None:
    preview = upload(boss, model, content)
    assert preview.status_code == 200
    assert said in str(faults(preview))
    assert "Traceback" not in text(preview)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\n", "no list of rows"),
        ("- [1]\n", "this is no row"),
        ("- {asset_class: equity, symbol: X, color: red}\n", "column 'color' is unknown"),
        ("- &a {asset_class: equity}\n- *a\n", "alias"),
        ("- !!python/object:os.system {}\n", "tag"),
        ("- {asset_class: equity", "no YAML"),
    ],
)
def test_bad_yaml_is_told_in_a_sentence(content: str, said: str, shop: SimpleNamespace, boss: Client) -> None:
    preview = upload(boss, "asset", content, YAML)
    assert said in str(faults(preview))


def test_a_column_that_the_file_has_not_keeps_what_there_is(full: SimpleNamespace, boss: Client) -> None:
    content = "name,vendor,active\neod,files,false\n"
    assert confirm(boss, "datasource", upload(boss, "datasource", content)).status_code == 302
    stored = DataSource.objects.get()
    assert not stored.active
    assert stored.settled_after.days == 2


def test_routes_that_the_file_does_not_name_stay(full: SimpleNamespace, boss: Client) -> None:
    content = "series,destination,condition\ndaily,db,close > 5\n"
    assert confirm(boss, "route", upload(boss, "route", content)).status_code == 302
    assert dict(Route.objects.values_list("destination__name", "condition")) == {
        "db": "close > 5",
        "other": "close > 100",
    }
    assert full.series.assets.count() == Asset.objects.count()
    assert Route.objects.get(destination__name="db").home


def test_what_series_name_can_be_made(shop: SimpleNamespace, boss: Client) -> None:
    content = (
        "series_id,data_source,extractor_type,schema,assets,output_destinations\n"
        "gold,eod,historical,ohlcv-1d,commodity:XAU,database\n"
    )
    assert "is unknown" in str(faults(upload(boss, "timeseries", content)))
    preview = upload(boss, "timeseries", content, create_missing="on")
    assert confirm(boss, "timeseries", preview).status_code == 302
    assert TimeSeries.objects.get(series_id="gold").assets.get().symbol == "XAU"


def test_a_catalog_that_changed_since_the_preview_is_not_half_imported(shop: SimpleNamespace, boss: Client) -> None:
    content = (
        "series_id,data_source,extractor_type,schema,assets,output_destinations\n"
        "new,eod,historical,ohlcv-1d,equity:MSFT,db\n"
        "other,eod,historical,ohlcv-1d,equity:AAPL,db\n"
    )
    preview = upload(boss, "timeseries", content)
    shop.series.assets.clear()
    Asset.objects.filter(symbol="AAPL").delete()
    response = confirm(boss, "timeseries", preview)
    assert response.status_code == 200
    assert "asset &#x27;equity:AAPL&#x27; is unknown" in text(response)
    assert "The catalog changed since the preview" in text(response)
    assert TimeSeries.objects.count() == 1


def test_a_preview_cannot_be_made_to_read_another_file(shop: SimpleNamespace, boss: Client, viewer: Client) -> None:
    preview = upload(boss, "asset", "asset_class,symbol\nequity,X\n")
    sent = preview.context["confirm_form"].initial
    forged = boss.post(url("asset", "process_import"), {**sent, "import_file_name": "passwd"})
    assert "not yours" in text(forged)
    other = boss.post(url("datasource", "process_import"), sent)
    assert "not yours" in text(other)
    permit(viewer, "add_asset", "change_asset")
    assert "not yours" in text(viewer.post(url("asset", "process_import"), sent))
    assert not Asset.objects.filter(symbol="X").exists()


def test_import_needs_the_rights_to_add_and_to_change(shop: SimpleNamespace, viewer: Client) -> None:
    permit(viewer, "add_asset")
    assert upload(viewer, "asset", "asset_class,symbol\nequity,X\n").status_code == 403
    assert viewer.post(url("asset", "process_import"), {}).status_code == 403
    permit(viewer, "change_asset")
    assert upload(viewer, "asset", "asset_class,symbol\nequity,X\n").status_code == 200
