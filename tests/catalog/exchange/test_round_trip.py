"""Export → import → export is byte-identical, for any catalog that is valid."""

from collections.abc import Callable
from datetime import UTC
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.asset_classes import ASSET_CLASSES
from catalog.exchange import Document
from catalog.exchange import apply
from catalog.exchange import compare
from catalog.exchange import read_catalog
from catalog.exchange import read_series_csv
from catalog.exchange import write_catalog
from catalog.exchange import write_series_csv
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from catalog.models.fields import validate_symbol

pytestmark = pytest.mark.django_db


def is_symbol(text: str) -> bool:
    try:
        validate_symbol(text)
    except ValidationError:
        return False
    return True


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z")
SYMBOLS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=8),
    st.text("=+-@%;:,\"'/\\. A", min_size=1, max_size=4),
    st.sampled_from(["=cmd|' /C calc'!A0", "🚀", "BTC/USD", "NO", "null", "1e5", "12:30", "..", "\u2028x", "\ufeffx"]),
).filter(is_symbol)
TEXTS = st.text(CHARACTERS, max_size=8) | st.sampled_from(["NO", "~", "- a", "a: b", "# x", " x ", "\r", '"', "'"])
# all that a year of four digits can say, and both databases store
MOMENTS = st.datetimes(timezones=st.just(UTC))
INTERVALS = st.lists(MOMENTS, min_size=1, max_size=4, unique=True).map(sorted)
FILES = st.fixed_dictionaries(
    {"path": st.text(CHARACTERS, min_size=1, max_size=8)},
    optional={"columns": st.dictionaries(st.text(CHARACTERS, max_size=5), TEXTS | st.integers(0, 99), max_size=3)},
)
SOURCES = st.one_of(
    st.fixed_dictionaries({"vendor": st.just("files"), "options": FILES, "active": st.booleans()}),
    st.fixed_dictionaries({"vendor": st.just("paper"), "env_prefix": st.sampled_from(["", "KEY_2"])}),
)
SERIES = st.fixed_dictionaries(
    {
        "extractor_type": st.sampled_from(["historical", "realtime"]),
        "schema": st.sampled_from(["ohlcv-1d", "ohlcv-1m"]),
        "transforms": st.sampled_from(
            ["", "rsi( window = 14 ) | store;", "sma(window=20); ema(window=5) | sma(window=3)"]
        ),
        "schedule": st.sampled_from(["", "0 22 * * 1-5", "*/5 * * * *", "0 22\r* * *", "0 0 1,15 * *"]),
        "timezone": st.sampled_from(["UTC", "America/New_York"]),
        "start": st.none() | MOMENTS.filter(lambda moment: moment.year < 5000),
        "end": st.none() | MOMENTS.filter(lambda moment: moment.year >= 5000),
        "active": st.booleans(),
    }
)
ROUTES = st.fixed_dictionaries(
    {
        "condition": st.sampled_from(["", "ts_event >= '2024-01-02T00:00Z'", "source == 'é'"]),
        "batch_rows": st.none() | st.integers(0, 2**31 - 1),
        "required": st.booleans(),
        "active": st.booleans(),
    }
)


@st.composite
def catalogs(draw: st.DrawFn) -> Callable[[], None]:
    """A function that stores a catalog. What it stores is drawn before, so that it can be shown and shrunk."""
    sources = draw(st.dictionaries(NAMES, SOURCES, max_size=3))
    facts = st.fixed_dictionaries(
        {}, optional={"name": TEXTS, "mic": st.sampled_from(["NO", "XNYS", "1E5"]), "currency": st.just("USD")}
    )
    assets = draw(st.dictionaries(st.tuples(st.sampled_from([*ASSET_CLASSES]), SYMBOLS), facts, max_size=4))
    destinations = draw(st.dictionaries(NAMES, st.sampled_from(["database", "bin"]), max_size=3))
    intervals = {(source, asset): draw(INTERVALS) for source in sources for asset in assets if draw(st.booleans())}
    ages = {name: draw(st.timedeltas(timedelta(0), timedelta(days=99999))) for name in sources}
    series = []
    if sources and assets:
        for name in draw(st.lists(NAMES, unique=True, max_size=4)):
            reached = draw(st.lists(st.sampled_from(sorted(destinations)), unique=True)) if destinations else []
            routes = [(destination, draw(ROUTES)) for destination in reached]
            home = draw(st.none() | st.sampled_from(reached)) if reached else None
            named = draw(st.lists(st.sampled_from(sorted(assets)), unique=True, min_size=1))
            series.append(
                ({"series_id": name, **draw(SERIES)}, draw(st.sampled_from(sorted(sources))), named, routes, home)
            )

    def store() -> None:
        source_rows = {
            name: DataSource.objects.create(
                name=name,
                vendor=vendor,
                options=options if vendor == "files" else {},
                active=active,
                settled_after=ages[name],
            )
            for name, (vendor, options, active) in sources.items()
        }
        asset_rows = {
            (asset_class, symbol): Asset.objects.create(asset_class=asset_class, symbol=symbol, **more)
            for (asset_class, symbol), more in assets.items()
        }
        destination_rows = {
            name: OutputDestination.objects.create(name=name, kind=kind) for name, kind in destinations.items()
        }
        for (source, asset), moments in intervals.items():
            instrument = Instrument.objects.create(source=source_rows[source], asset=asset_rows[asset])
            # a symbol is never given to two assets at once
            for number, (start, end) in enumerate(zip([None, *moments], [*moments, None], strict=True)):
                InstrumentSymbol.objects.create(
                    instrument=instrument, symbol=f"{asset[0]} {asset[1]} {number}", start=start, end=end
                )
        for values, source, named, routes, home in series:
            row = TimeSeries.objects.create(source=source_rows[source], **values)
            row.assets.set([asset_rows[asset] for asset in named])
            for destination, route in routes:
                readable = destination_rows[destination].readable
                Route.objects.create(
                    series=row,
                    destination=destination_rows[destination],
                    home=destination == home and readable,
                    **route,
                )

    return store


def clear() -> None:
    for model in (Route, TimeSeries, InstrumentSymbol, Instrument, Asset, OutputDestination, DataSource):
        model.objects.all().delete()


def round_trip(write: Callable[[], str], read: Callable[[bytes], Document], spoil: Callable[[], object]) -> None:
    exported = write()
    changes = compare(read(exported.encode()))
    assert (changes.faults, changes.rows) == ([], [])
    spoil()
    changes = apply(read(exported.encode()))
    assert write() == exported
    assert compare(read(exported.encode())).rows == []


def spoil_series() -> None:
    Route.objects.filter(pk__in=[route.pk for route in Route.objects.all()[::2]]).delete()
    Route.objects.update(home=False)
    TimeSeries.objects.update(active=False, schedule="1 1 1 1 1", start=None, options={}, timezone="Asia/Tokyo")
    for series in TimeSeries.objects.all()[::2]:
        series.assets.clear()


@pytest.mark.parametrize("target", ["empty", "changed"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(store=catalogs())
def test_catalog_comes_back_byte_for_byte(target: str, store: Callable[[], None]) -> None:
    with transaction.atomic():
        store()
        round_trip(write_catalog, read_catalog, clear if target == "empty" else spoil_series)
        transaction.set_rollback(True)


@pytest.mark.parametrize("target", ["empty", "changed"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(store=catalogs())
def test_series_come_back_byte_for_byte(target: str, store: Callable[[], None]) -> None:
    with transaction.atomic():
        store()
        spoil = TimeSeries.objects.all().delete if target == "empty" else spoil_series
        round_trip(write_series_csv, read_series_csv, spoil)
        transaction.set_rollback(True)
