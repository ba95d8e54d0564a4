"""A small catalog over real files, and clients with every right, the right to look, and none."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Permission
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from pytest_django import Settings

import flows.extractors
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries
from flows import registry

BARS = """Date,Open,High,Low,Close,Volume
2024-01-02,10,11,9,10.5,100
2024-01-03,10.5,10,9,9.5,200
2024-01-04,10,11,9,10.25,300
"""


@pytest.fixture(autouse=True)
def static_root(settings: Settings, tmp_path: Path) -> None:
    """A static folder that exists: whitenoise warns about one that does not."""
    settings.STATIC_ROOT = str(tmp_path)


@pytest.fixture
def shop(db: None, settings: Settings) -> SimpleNamespace:
    """One source of files, three assets, one series with its home route."""
    folder = Path(settings.FILES_ROOT[0])
    folder.mkdir(parents=True, exist_ok=True)
    for symbol in ("AAPL", "MSFT"):
        (folder / f"{symbol}.csv").write_text(BARS)
    source = DataSource.objects.create(name="eod", vendor="files", options={"path": "*.csv"})
    assets = [
        Asset.objects.create(asset_class=asset_class, symbol=symbol)
        for asset_class, symbol in (("equity", "AAPL"), ("equity", "MSFT"), ("future", "=cmd|'/C calc'!A0"))
    ]
    database = OutputDestination.objects.create(name="db", kind="database")
    series = TimeSeries.objects.create(series_id="daily", source=source, schema="ohlcv-1d")
    series.assets.set(assets[:2])
    route = Route.objects.create(series=series, destination=database, home=True)
    return SimpleNamespace(source=source, assets=assets, database=database, series=series, route=route)


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The vendor `acme`, found by scanning like any other."""
    folders = [*flows.extractors.__path__, str(Path(__file__).parent / "vendors")]
    monkeypatch.setattr(flows.extractors, "__path__", folders)
    kept = (registry.historical, registry.realtime, registry.extractors)
    for found in kept:
        found.cache_clear()
    yield
    for found in kept:
        found.cache_clear()


@pytest.fixture
def boss(db: None) -> Client:
    """A superuser's client."""
    return signed_in(User.objects.create_superuser("boss", "boss@example.com", "boss"))


@pytest.fixture
def viewer(db: None) -> Client:
    """A client that may see every row and change none."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return signed_in(user)


@pytest.fixture
def nobody(db: None) -> Client:
    """A client of somebody with no permission at all."""
    return signed_in(User.objects.create_user("nobody", is_staff=True))


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def permit(client: Client, *codenames: str) -> None:
    """Give the client's user permissions."""
    user = User.objects.get(pk=client.session["_auth_user_id"])
    for codename in codenames:
        model = codename.rsplit("_", 1)[1]
        kind = ContentType.objects.get(app_label="catalog", model=model)
        user.user_permissions.add(Permission.objects.get(codename=codename, content_type=kind))
