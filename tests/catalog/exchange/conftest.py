"""A small catalog to import into; vendors with and without options, and a kind that cannot be read back."""

import types
from typing import Any

import pytest

from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.schemas.base import Counts
from flows import registry
from flows.extractors.base import BaseExtractor
from flows.options import Options
from flows.sinks.base import Sink


class PaperExtractor(BaseExtractor):
    name = "paper"
    label = "Paper"


class NotesOptions(Options):
    path: str
    extra: dict[str, Any] = {}


class NotesExtractor(BaseExtractor):
    name = "notes"
    label = "Notes"
    Options = NotesOptions


class BinSink(Sink):
    name = "bin"
    label = "Bin"

    def write(self, schema, table, *, replace=True):
        return Counts()


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendors are `paper` and `notes`, which needs a path; the kinds are `database` and `bin`."""
    extractors = types.MappingProxyType({"paper": PaperExtractor, "notes": NotesExtractor})
    sinks = types.MappingProxyType({"database": registry.sink("database"), "bin": BinSink})
    for halves in ("extractors", "historical", "realtime"):
        monkeypatch.setattr(registry, halves, lambda: extractors)
    monkeypatch.setattr(registry, "sinks", lambda: sinks)


@pytest.fixture
def catalog(db: None) -> None:
    """Sources eod and feed; destinations db (readable), more (readable) and trash (not); five assets."""
    DataSource.objects.create(name="eod", vendor="notes", options={"path": "*.csv"})
    DataSource.objects.create(name="feed", vendor="paper")
    for name, kind in (("db", "database"), ("more", "database"), ("trash", "bin")):
        OutputDestination.objects.create(name=name, kind=kind)
    for name in ("equity:AAPL", "equity:MSFT", "equity:SPY", "etf:SPY", "crypto:BTC/USD"):
        asset_class, symbol = name.split(":")
        Asset.objects.create(asset_class=asset_class, symbol=symbol)
