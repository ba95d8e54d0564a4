"""One catalog asks every vendor there is, in one orchestrator run, into TimescaleDB; all rows are the right ones."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.core.management.base import CommandError
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.settings import temporary_settings
from prefect.testing.utilities import prefect_test_harness

from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Quarantined
from catalog.models import TimeSeries
from catalog.schemas import schema as schema_called
from flows import registry
from flows.orchestrator import orchestrator
from flows.query import read
from flows.stream import Streams
from tests.flows.live.kit import eventually
from tests.vendors import market
from tests.vendors.blpapi_standin import Desk
from tests.vendors.blpapi_standin import Market
from tests.vendors.blpapi_standin import installed
from tests.vendors.catalogue import catalog_of
from tests.vendors.catalogue import environment_of
from tests.vendors.catalogue import live
from tests.vendors.catalogue import stand_ins
from tests.vendors.harness import matches
from tests.vendors.server import StandIn

WINDOW = (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
SPY = "SPY US Equity"


@pytest.fixture
def running() -> Iterator[list[StandIn]]:
    with ExitStack() as stack:
        yield [stack.enter_context(stand_in()) for _, stand_in in sorted(stand_ins().items())]


def with_bloomberg(catalog: dict[str, Any]) -> dict[str, Any]:
    catalog["sources"].append({"name": "try-bloomberg", "vendor": "bloomberg"})
    catalog["assets"].append({"asset_class": "etf", "symbol": SPY})
    catalog["series"].append(
        {
            "series_id": "try-bloomberg-ohlcv-1d",
            "source": "try-bloomberg",
            "schema": "ohlcv-1d",
            "assets": ["etf:SPY%20US%20Equity"],
            "start": WINDOW[0].isoformat(),
            "end": WINDOW[1].isoformat(),
            "routes": [{"destination": "try-warehouse", "home": True}],
        }
    )
    return catalog


def terminal() -> Desk:
    bars = market.bars(SPY, 86_400, *WINDOW, weekdays=True)
    days = [
        {
            "date": bar.time.date(), "PX_OPEN": float(bar.open), "PX_HIGH": float(bar.high), "PX_LOW": float(bar.low),
            "PX_LAST": float(bar.close), "PX_VOLUME": float(bar.volume),
        }
        for bar in bars
    ]  # fmt: skip
    return Desk(Market(days={SPY: days}))


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["timescale"], indirect=True)
# Prefect's own server and clients, in other threads
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_run_asks_every_vendor(
    database: str, running: list[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(running).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "catalog.yaml"
    file.write_text(yaml.safe_dump(with_bloomberg(catalog_of(running))))
    call_command("import_catalog", str(file), stdout=StringIO())
    vendors = set(TimeSeries.objects.values_list("source__vendor", flat=True))
    assert vendors == set(registry.historical()) - {"files"}
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quick), installed(terminal()):
        ended = orchestrator()
    assert set(ended.values()) == {"completed"}
    assert not Fetch.objects.filter(complete=False).exists()
    assert not Delivery.objects.exclude(status="delivered").exists()
    assert list(Quarantined.objects.values_list("fetch__source__name", "reason")) == []
    for one in running:
        for schema, (start, end) in one.windows.items():
            for symbol in one.symbols[schema]:
                key = f"{source_of(one, schema)}:{one.asset_class}:{encoded(symbol)}:{schema}"
                # some vendors cut windows by another time than the rows are ordered by
                found = read(key, exact=True)
                rows = sorted(found.to_pylist(), key=lambda row: tuple(row[name] for name in schema_called(schema).key))
                assert matches(rows, one.truth(schema, symbol, start, end)), key
    closes = read("try-bloomberg:etf:SPY%20US%20Equity:ohlcv-1d", exact=True)["close"].to_pylist()
    assert closes == [bar.close for bar in market.bars(SPY, 86_400, *WINDOW, weekdays=True)]
    assert closes[0] == closes[0].quantize(Decimal("0.0001"))


def source_of(one: StandIn, schema: str) -> str:
    return TimeSeries.objects.get(series_id=f"try-{one.vendor}-{schema}").source.name


def encoded(symbol: str) -> str:
    from catalog.keys import encode

    return encode(symbol)


def test_runvendors_prints_a_catalog_and_the_keys() -> None:
    out, err = StringIO(), StringIO()
    call_command("runvendors", "binance", "rest", "--once", stdout=out, stderr=err)
    catalog = yaml.safe_load(out.getvalue())
    assert {source["name"] for source in catalog["sources"]} == {"try-binance", "try-binance-live", "try-rest"}
    assert "export TRY_REST_TOKEN=" in err.getvalue()
    with pytest.raises(CommandError, match="vendor 'nope' is unknown; have: alpaca"):
        call_command("runvendors", "nope", "--once", stdout=out, stderr=err)


@pytest.mark.django_db(transaction=True)
def test_every_live_feed_that_runvendors_starts_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        market = stack.enter_context(live().Market(sorted(live().TRIALS)))
        past = [stack.enter_context(stand_ins()[name]()) for name in sorted(live().TRIALS) if name in stand_ins()]
        for name, value in environment_of([*past, *market.running]).items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "catalog.yaml"
        file.write_text(yaml.safe_dump(catalog_of(past, market.running)))
        call_command("import_catalog", str(file), stdout=StringIO())
        vendors = TimeSeries.objects.filter(extractor_type="realtime").values_list("source__vendor", flat=True)
        assert set(vendors) == set(registry.realtime()) - {"bloomberg"}
        streams = Streams()
        streams.follow()
        try:
            for schema in ("trades", "quotes", "statistics"):
                wanted = TimeSeries.objects.filter(extractor_type="realtime", schema=schema)
                for series in wanted.select_related("source").prefetch_related("assets"):
                    for asset in series.assets.all():
                        key = f"{series.source.name}:{asset.asset_class}:{asset.symbol}:{schema}"
                        eventually(partial(stored, key), 60)
            assert not [stream.error for stream in streams.running.values() if stream.error]
        finally:
            streams.stop()
            eventually(lambda: streams.ended)
    assert list(Quarantined.objects.values_list("fetch__source__name", "reason")) == []


def stored(key: str) -> bool:
    return bool(read(key).num_rows > 2)
