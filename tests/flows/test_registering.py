"""Symbols that nobody named, in a file or an answer: filtered, kept in quarantine, or made assets of the series."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import InstrumentSymbol
from catalog.models import Quarantined
from catalog.models import TimeSeries
from flows.ingest import ingest
from flows.ledger import CatalogLedger
from flows.plan import Selection
from flows.query import read
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = (("AAPL", 2), ("MSFT", 2), ("BRK/B", 2), ("MSFT", 3), ("AAPL", 3))


def file(folder: Path, rows: tuple[tuple[str, int], ...] = ROWS) -> None:
    (folder / "data").mkdir(exist_ok=True)
    lines = ["Symbol,Date,Open,High,Low,Close,Volume"]
    lines += [f"{symbol},2024-01-{day:02},10,11,9,10,5" for symbol, day in rows]
    (folder / "data/all.csv").write_text("\n".join(lines) + "\n")


def prices(unknown: str = "register", **options: object) -> TimeSeries:
    return series(
        "all", ["AAPL"], symbol_column="Symbol", unknown_symbols=unknown,
        destinations=[destination(), destination("files", "file", path="out")], **options,
    )  # fmt: skip


def test_registered_symbols_are_stored_at_once_and_stay(database: str, tmp_path: Path) -> None:
    made = prices()
    file(tmp_path)
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    assert {name: tally.new for name, tally in outcome.tallies.items()} == {"db": 5, "files": 5}
    assert sorted(made.assets.values_list("asset_class", "symbol")) == [
        ("equity", "AAPL"), ("equity", "BRK/B"), ("equity", "MSFT"),
    ]  # fmt: skip
    assert len(read("MSFT", "ohlcv-1d")) == 2
    assert Coverage.objects.count() == 3
    # twice is once: the file is covered for the new ones too
    (again,) = ingest(Selection()).values()
    assert (again.fetches, again.errors) == (0, [])
    assert Fetch.objects.count() == 1


def test_other_series_of_the_source_and_schema_get_them_and_no_others(tmp_path: Path) -> None:
    first = prices()
    second = series("too", ["AAPL"], destinations=[destination()])
    other = series("weeks", ["AAPL"], schema="ohlcv-1w")
    file(tmp_path)
    ingest(Selection(series=("all",)))
    assert [one.assets.count() for one in (first, second, other)] == [3, 3, 1]


@pytest.mark.parametrize(("unknown", "quarantined"), [("quarantine", 3), ("filter", 0)])
def test_or_they_are_refused_or_filtered(tmp_path: Path, unknown: str, quarantined: int) -> None:
    made = prices(unknown)
    file(tmp_path)
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    assert Quarantined.objects.count() == quarantined
    assert outcome.tallies["db"].filtered == 3 - quarantined
    assert list(made.assets.values_list("symbol", flat=True)) == ["AAPL"]


def test_what_cannot_be_an_asset_is_refused_with_its_row(tmp_path: Path) -> None:
    prices()
    file(tmp_path, (("AAPL", 2), ("x" * 300, 2), ("MSFT", 2)))
    (outcome,) = ingest(Selection()).values()
    assert (outcome.errors, outcome.tallies["db"].new) == ([], 2)
    assert "symbol is known" in Quarantined.objects.get().rule


def test_an_asset_that_the_vendor_calls_otherwise_is_another(tmp_path: Path) -> None:
    made = prices()
    msft = Asset.objects.create(asset_class="equity", symbol="MSFT")
    instrument = made.source.instruments.create(asset=msft)
    InstrumentSymbol.objects.create(instrument=instrument, symbol="MSFT.O")
    file(tmp_path)
    ingest(Selection())
    assert Quarantined.objects.count() == 2
    assert not made.assets.filter(symbol="MSFT").exists()


def test_mixed_classes_need_to_be_told(tmp_path: Path) -> None:
    made = prices()
    made.assets.add(Asset.objects.create(asset_class="etf", symbol="SPY"))
    file(tmp_path)
    (outcome,) = ingest(Selection()).values()
    assert "option 'unknown_asset_class' must say" in outcome.errors[0]
    assert not Fetch.objects.get().complete
    options = made.source.options | {"unknown_asset_class": "etf"}
    DataSource.objects.update(options=options)
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    assert Asset.objects.filter(asset_class="etf").count() == 3
    DataSource.objects.update(options=options | {"unknown_asset_class": "gold"})
    with pytest.raises(ConfigError, match="accepted: bond"):
        DataSource.objects.get().read_options()


def test_killed_before_the_fetch_was_complete_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prices()
    file(tmp_path)
    landed = CatalogLedger.landed

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CatalogLedger, "landed", die)
    with pytest.raises(KeyboardInterrupt):
        ingest(Selection())
    monkeypatch.setattr(CatalogLedger, "landed", landed)
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    assert made.assets.count() == 3
    assert len(read("BRK/B", "ohlcv-1d")) == 1
    assert not Delivery.objects.exclude(status="delivered").exists()
    assert not Quarantined.objects.exists()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(1, 28)), min_size=1, unique=True, max_size=30))
def test_every_row_is_stored_whatever_the_symbols(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    for model in (Delivery, Coverage, Fetch, TimeSeries):
        model.objects.all().delete()
    DataSource.objects.filter(instruments=None).delete()
    made = series("h", ["A"], symbol_column="Symbol", unknown_symbols="register", destinations=[destination()])
    DataSource.objects.update(options=made.source.options)
    file(tmp_path, tuple(rows))
    (outcome,) = ingest(Selection(again=True)).values()
    tally = outcome.tallies["db"]
    assert outcome.errors == []
    assert tally.new + tally.unchanged + tally.updated == len(rows)
