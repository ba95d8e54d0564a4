"""Plan: rows become jobs; names are checked; the number of queries does not grow with the catalog."""

from datetime import UTC
from datetime import datetime

import pytest
from pytest_django import DjangoAssertNumQueries

from catalog.errors import ConfigError
from catalog.models import Asset
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import Route
from catalog.models import TimeSeries
from flows.job import EARLIEST
from flows.job import LATEST
from flows.plan import Selection
from flows.plan import groups
from flows.plan import plan
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = pytest.mark.django_db


def test_a_job_is_made_for_each_source_and_schema() -> None:
    series("a", ["AAPL"])
    series("b", ["IBM", "MSFT"])
    series("c", ["AAPL"], schema="ohlcv-1h")
    series("d", ["EURUSD"], source="fx", asset_class="fx")
    jobs = plan(Selection())
    assert [(job.source.name, job.schema, len(job.instruments)) for job in jobs] == [
        ("fx", "ohlcv-1d", 1),
        ("prices", "ohlcv-1d", 3),
        ("prices", "ohlcv-1h", 1),
    ]
    assert groups(Selection()) == {("historical", "fx"): 1, ("historical", "prices"): 3}


def test_instruments_are_made_once_and_named_by_their_key() -> None:
    series("a", ["AAPL"])
    series("b", ["AAPL"])
    (job,) = plan(Selection())
    (instrument,) = job.instruments
    assert str(instrument.name) == "prices:equity:AAPL"
    assert [symbol.symbol for symbol in instrument.symbols] == ["AAPL"]
    assert plan(Selection())[0].instruments == job.instruments
    assert Instrument.objects.count() == 1


def test_symbol_intervals_are_frozen_into_the_job() -> None:
    series("a", ["META"])
    plan(Selection())
    renamed = datetime(2022, 6, 9, tzinfo=UTC)
    instrument = Instrument.objects.get()
    InstrumentSymbol.objects.create(instrument=instrument, symbol="META", start=renamed)
    InstrumentSymbol.objects.create(instrument=instrument, symbol="FB", end=renamed)
    (job,) = plan(Selection())
    intervals = {symbol.symbol: (symbol.start, symbol.end) for symbol in job.instruments[0].symbols}
    assert intervals == {"FB": (EARLIEST, renamed), "META": (renamed, LATEST)}


def test_windows_of_series_that_share_an_instrument_are_united() -> None:
    first, second = series("a", ["AAPL"]), series("b", ["AAPL", "IBM"])
    moments = [datetime(2020 + number, 1, 1, tzinfo=UTC) for number in range(4)]
    TimeSeries.objects.filter(pk=first.pk).update(start=moments[0], end=moments[1])
    TimeSeries.objects.filter(pk=second.pk).update(start=moments[2], end=moments[3])
    (job,) = plan(Selection())
    windows = {instrument.name.symbol: (instrument.start, instrument.end) for instrument in job.instruments}
    assert windows == {"AAPL": (moments[0], moments[3]), "IBM": (moments[2], moments[3])}


def test_routes_to_one_destination_are_one_with_a_rule_for_each_condition() -> None:
    db = destination()
    series("a", ["AAPL"], destinations=[db])
    second = series("b", ["IBM"], destinations=[db])
    Route.objects.filter(series=second).update(condition="close > 5", batch_rows=10)
    (job,) = plan(Selection())
    (route,) = job.routes
    ids = {instrument.name.symbol: instrument.id for instrument in job.instruments}
    assert {rule.condition: rule.instruments for rule in route.rules} == {"": {ids["AAPL"]}, "close > 5": {ids["IBM"]}}
    assert route.home == set(ids.values())
    assert route.batch_rows == 10


def test_selection_narrows_by_series_source_and_window() -> None:
    series("a", ["AAPL"])
    series("b", ["IBM"])
    series("c", ["EURUSD"], source="fx", asset_class="fx")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    (job,) = plan(Selection(series=("b",), start=start))
    assert [(i.name.symbol, i.start, i.end) for i in job.instruments] == [("IBM", start, LATEST)]
    assert [job.source.name for job in plan(Selection(sources=("fx",)))] == ["fx"]
    TimeSeries.objects.filter(series_id="b").update(end=start)
    assert plan(Selection(series=("b",), start=start)) == []


def test_every_unknown_name_is_said() -> None:
    series("a", ["AAPL"])
    with pytest.raises(ConfigError) as caught:
        plan(Selection(series=("a", "x"), sources=("y",)))
    assert caught.value.faults == ("series 'x' is unknown; have: a", "source 'y' is unknown; have: prices")


def test_naive_and_empty_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no zone"):
        Selection(start=datetime(2024, 1, 1))  # noqa: DTZ001  # that is the fault
    with pytest.raises(ConfigError, match="is not after start"):
        Selection(start=datetime(2024, 1, 2, tzinfo=UTC), end=datetime(2024, 1, 2, tzinfo=UTC))


def test_queries_do_not_grow_with_the_catalog(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    first = series("a", ["AAPL"], transforms="sma(window=5) | store")
    assets = Asset.objects.bulk_create(Asset(symbol=f"S{number}", asset_class="equity") for number in range(300))
    made = TimeSeries.objects.bulk_create(
        TimeSeries(series_id=f"s{number}", source=first.source, schema="ohlcv-1d") for number in range(300)
    )
    through = TimeSeries.assets.through
    through.objects.bulk_create(through(timeseries=one, asset=asset) for one, asset in zip(made, assets, strict=True))
    plan(Selection())
    with django_assert_max_num_queries(7):
        (job,) = plan(Selection())
    assert len(job.instruments) == 301
    assert [chain.chain for chain in job.chains] == ["sma(window=5)"]
