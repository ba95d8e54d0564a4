"""Export → import → export is byte-identical, for any catalog that is valid."""

from collections.abc import Callable
from datetime import UTC
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from hypothesis import HealthCheck
from hypothesis import Phase
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
    st.sampled_from(["=cmd|' /C calc'!A0", "🚀", "BTC/USD", "NO", "null", "1e5", "12:30", "..", "\u200bx", "\ufeffx"]),
).filter(is_symbol)
TEXTS = st.text(CHARACTERS, max_size=8) | st.sampled_from(["NO", "~", "- a", "a: b", "# x", " x ", "\r", '"', "'"])
MOMENTS = st.datetimes(timezones=st.just(UTC))
PLAIN = TEXTS | st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1e6, 1e6)
EXTRA = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
NOTES = st.fixed_dictionaries({"path": TEXTS}, optional={"extra": st.dictionaries(TEXTS, EXTRA, max_size=3)})
SOURCES = st.fixed_dictionaries(
    {"vendor": st.just("notes"), "options": NOTES, "settled_after": st.timedeltas(timedelta(0), timedelta(99999))}
) | st.fixed_dictionaries(
    {"vendor": st.just("paper"), "env_prefix": st.sampled_from(["", "KEY_2"]), "active": st.booleans()}
)
ASSETS = st.fixed_dictionaries(
    {}, optional={"name": TEXTS, "mic": st.sampled_from(["NO", "XNYS", "1E5"]), "currency": st.just("USD")}
)
SERIES = st.fixed_dictionaries(
    {
        "extractor_type": st.sampled_from(["historical", "realtime"]),
        "schema": st.sampled_from(["ohlcv-1d", "ohlcv-1m"]),
        "transforms": st.sampled_from(
            ["", "rsi( window = 14 ) | store;", "sma(window=9); ema(window=5) | sma(window=3)"]
        ),
        "schedule": st.sampled_from(["", "0 22 * * 1-5", "*/5 * * * *", "0 22\r* * *", "0 0 1,15 * *"]),
        "timezone": st.sampled_from(["UTC", "America/New_York"]),
        "start": st.none() | MOMENTS.filter(lambda moment: moment.year < 5000),
        "end": st.none() | MOMENTS.filter(lambda moment: moment.year >= 5000),
        "active": st.booleans(),
    }
).map(lambda row: row | {"schedule": ""} if row["extractor_type"] == "realtime" else row)
ROUTES = st.fixed_dictionaries(
    {
        "condition": st.sampled_from(["", "ts_event >= '2024-01-02T00:00Z'", "source == 'x'"]),
        "batch_rows": st.none() | st.integers(0, 2**31 - 1),
        "required": st.booleans(),
        "active": st.booleans(),
    }
)


@st.composite
def catalogs(draw: st.DrawFn) -> dict[str, Any]:
    """Values of rows, with the names of those they refer to."""
    sources = draw(st.dictionaries(NAMES, SOURCES, min_size=1, max_size=3))
    assets = draw(
        st.dictionaries(st.tuples(st.sampled_from([*ASSET_CLASSES]), SYMBOLS), ASSETS, min_size=1, max_size=4)
    )
    destinations = draw(st.dictionaries(NAMES, st.sampled_from(["database", "bin"]), min_size=1, max_size=3))
    pairs = st.tuples(st.sampled_from([*sources]), st.sampled_from([*assets]))
    moments = st.lists(MOMENTS, max_size=3, unique=True).map(sorted)
    return {
        "sources": sources,
        "assets": assets,
        "destinations": destinations,
        "instruments": draw(st.dictionaries(pairs, moments, max_size=3)),
        "series": [
            {
                "row": {"series_id": name, **draw(SERIES)},
                "source": draw(st.sampled_from([*sources])),
                "assets": draw(st.lists(st.sampled_from([*assets]), unique=True, min_size=1)),
                "routes": draw(st.dictionaries(st.sampled_from([*destinations]), ROUTES)),
                "home": draw(st.none() | st.sampled_from([*destinations])),
            }
            for name in draw(st.lists(NAMES, unique=True, max_size=3))
        ],
    }


def store(catalog: dict[str, Any]) -> None:
    sources = {name: DataSource.objects.create(name=name, **row) for name, row in catalog["sources"].items()}
    assets = {
        (asset_class, symbol): Asset.objects.create(asset_class=asset_class, symbol=symbol, **row)
        for (asset_class, symbol), row in catalog["assets"].items()
    }
    destinations = {
        name: OutputDestination.objects.create(name=name, kind=kind) for name, kind in catalog["destinations"].items()
    }
    for (source, asset), moments in catalog["instruments"].items():
        instrument = Instrument.objects.create(source=sources[source], asset=assets[asset])
        for number, (start, end) in enumerate(zip([None, *moments], [*moments, None], strict=True)):
            # a symbol is never given to two assets at once
            symbol = f"{asset[0]} {asset[1]} {number}"
            InstrumentSymbol.objects.create(instrument=instrument, symbol=symbol, start=start, end=end)
    for series in catalog["series"]:
        row = TimeSeries.objects.create(source=sources[series["source"]], **series["row"])
        row.assets.set([assets[asset] for asset in series["assets"]])
        for name, route in series["routes"].items():
            home = name == series["home"] and destinations[name].readable
            Route.objects.create(series=row, destination=destinations[name], home=home, **route)


def spoil() -> None:
    """Change what the file will say again."""
    Route.objects.filter(pk__in=[route.pk for route in Route.objects.all()[::2]]).delete()
    Route.objects.update(home=False)
    TimeSeries.objects.update(active=False, schedule="1 1 1 1 1", start=None, options={}, timezone="Asia/Tokyo")
    for series in TimeSeries.objects.all()[::2]:
        series.assets.clear()


def clear() -> None:
    for model in (Route, TimeSeries, InstrumentSymbol, Instrument, Asset, OutputDestination, DataSource):
        model.objects.all().delete()


def check_round_trip(
    write: Callable[[], str], read: Callable[[bytes], Document], *losses: Callable[[], object]
) -> None:
    exported = write()
    changes = compare(read(exported.encode()))
    assert (changes.faults, changes.rows) == ([], [])
    for lose in losses:
        lose()
        apply(read(exported.encode()))
        assert write() == exported


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    # each step of shrinking writes a catalog
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(catalog=catalogs())
def test_what_is_exported_comes_back_byte_for_byte(database: str, catalog: dict[str, Any]) -> None:
    with transaction.atomic():
        store(catalog)
        check_round_trip(write_series_csv, read_series_csv, spoil, TimeSeries.objects.all().delete)
        check_round_trip(write_catalog, read_catalog, spoil, clear)
        transaction.set_rollback(True)
