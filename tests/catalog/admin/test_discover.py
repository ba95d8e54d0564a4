"""A vendor's instruments into the catalog: by the command, and by the admin's page."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from io import StringIO

import pytest
from django.contrib.auth.models import Permission
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import TimeSeries
from flows.discovery import Added
from flows.discovery import add
from flows.discovery import listings
from flows.extractors.base import Listing
from flows.plan import source_facts
from flows.workshops import extractor_of
from tests.vendors.binance import BinanceStandIn
from tests.vendors.server import Asked
from tests.vendors.server import Reply

pytestmark = pytest.mark.django_db


@pytest.fixture
def vendor() -> Iterator[BinanceStandIn]:
    with BinanceStandIn() as running:
        yield running


@pytest.fixture
def source(vendor: BinanceStandIn) -> DataSource:
    return DataSource.objects.create(name="coins", vendor="binance", options={"base_url": vendor.url})


@pytest.fixture
def series(source: DataSource) -> TimeSeries:
    return TimeSeries.objects.create(series_id="coins-1d", source=source, schema="ohlcv-1d")


def command(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("discover", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_lists_and_adds_what_matches(source: DataSource, series: TimeSeries) -> None:
    out, err = command("coins", "btc")
    assert "BTCUSDT" in out
    assert "ETHUSDT" not in out
    assert (err, Asset.objects.count()) == ("", 0)
    _, err = command("coins", "--add", "--series", "coins-1d")
    assert err == "added 2 assets, 2 instruments, 2 to series coins-1d\n"
    assert sorted(series.assets.values_list("symbol", "asset_class", "currency")) == [
        ("BTCUSDT", "crypto", "USDT"), ("ETHUSDT", "crypto", "USDT"),
    ]  # fmt: skip
    # again changes nothing
    assert command("coins", "--add", "--series", "coins-1d")[1].startswith("added 0 assets, 0 instruments, 0 to")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nope"], "source 'nope' is unknown; have: coins"),
        (["coins", "--series", "coins-1d"], "--series needs --add"),
        (["coins", "--add", "--series", "x"], "series 'x' is unknown; have: coins-1d"),
        (["coins", "--asset-class", "gold"], "asset class 'gold' is unknown; have: bond"),
        (["coins", "--most", "0"], "--most 0 is too few"),
    ],
)
def test_faults_name_the_value_and_what_is_accepted(series: TimeSeries, arguments: list[str], fault: str) -> None:
    with pytest.raises(CommandError, match=fault):
        command(*arguments)


def test_symbols_that_end_are_intervals_and_what_exists_stays(source: DataSource) -> None:
    Asset.objects.create(asset_class="crypto", symbol="OLD", name="Kept")
    end = datetime(2024, 1, 1, tzinfo=UTC)
    found = [Listing("OLD", "crypto", "Changed", end=end), Listing("NEW", "crypto", "New")]
    assert add(source, found) == Added(1, 2)
    assert Asset.objects.get(symbol="OLD").name == "Kept"
    (interval,) = InstrumentSymbol.objects.all()
    assert (interval.symbol, interval.start, interval.end) == ("OLD", None, end)
    assert Instrument.objects.count() == 2


def test_one_bad_listing_and_nothing_is_added(source: DataSource) -> None:
    other = DataSource.objects.create(name="other", vendor="binance")
    series = TimeSeries.objects.create(series_id="o", source=other, schema="ohlcv-1d")
    with pytest.raises(ConfigError) as refused:
        add(source, [Listing("OK", "crypto"), Listing("", "crypto"), Listing("X", "gold")], series)
    assert len(refused.value.faults) == 3
    assert not Asset.objects.exists()


def test_a_list_that_is_not_as_documented_is_said(source: DataSource, vendor: BinanceStandIn) -> None:
    vendor.exchange_info = lambda asked: Reply({"symbols": [{"status": "TRADING"}]})  # type: ignore[method-assign]
    with pytest.raises(SchemaMismatch, match="not as documented"):
        listings(extractor_of(source_facts(source)))


def test_the_page_adds_what_is_chosen_and_what_the_vendor_lists(
    source: DataSource, series: TimeSeries, vendor: BinanceStandIn
) -> None:
    user = User.objects.create_user("u", password="p", is_staff=True)  # of a test
    client = Client()
    client.force_login(user)
    address = reverse("admin:catalog_datasource_discover", args=(source.pk,))
    assert client.get(address).status_code == 405
    assert client.post(address).status_code == 403
    user.user_permissions.add(
        *Permission.objects.filter(codename__in=("view_datasource", "preview_datasource", "view_timeseries"))
    )
    # the button alone asks nobody
    assert client.post(address).status_code == 200
    assert vendor.log == []
    page = client.post(address, {"text": "btc"}).content.decode()
    assert "BTCUSDT" in page
    assert "Add those chosen" not in page
    chosen = {"text": "", "chosen": ["crypto:BTCUSDT", "crypto:FORGED"], "series": str(series.pk)}
    assert client.post(address, chosen).status_code == 403
    user.user_permissions.add(*Permission.objects.filter(codename__in=("add_asset", "change_timeseries")))
    assert "1 assets and 1 instruments added, 1 to series coins-1d" in client.post(address, chosen).content.decode()
    assert list(series.assets.values_list("symbol", flat=True)) == ["BTCUSDT"]


def test_the_page_shows_the_vendors_words(source: DataSource, vendor: BinanceStandIn) -> None:
    def refuse(asked: Asked) -> Reply:
        return Reply({"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}, 401)

    vendor.refuse = refuse  # type: ignore[method-assign,assignment]
    user = User.objects.create_superuser("boss")
    client = Client()
    client.force_login(user)
    page = client.post(reverse("admin:catalog_datasource_discover", args=(source.pk,)), {"text": "x"})
    assert "Invalid API-key, IP, or permissions" in page.content.decode()
