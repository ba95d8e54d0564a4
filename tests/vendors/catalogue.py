"""Finds the stand-ins by scanning, as the registry finds the vendors."""

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import tests.vendors
from tests.vendors.server import StandIn


@cache
def stand_ins() -> dict[str, type[StandIn]]:
    """Return every vendor's stand-in by the vendor's name."""
    found: dict[str, type[StandIn]] = {}
    for info in pkgutil.iter_modules(tests.vendors.__path__):
        module = importlib.import_module(f"tests.vendors.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, StandIn) and member.__module__ == module.__name__ and hasattr(member, "vendor"):
                found[member.vendor] = member
    return found


def live() -> Any:
    """Return the module of the live stand-ins that can be tried."""
    return importlib.import_module("tests.vendors.live.trial")


def catalog_of(running: Sequence[StandIn], heard: Sequence[Any] = ()) -> dict[str, Any]:
    """Return a catalog, as import_catalog reads it, that asks these for each of their schemas, and hears those."""
    sources: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    assets: dict[tuple[str, str], None] = {}
    for one in running:
        schemas = list(one.windows)
        base = one.options(schemas[0])
        # a stand-in that needs other options for another schema has a source for each
        for schema in schemas:
            name = f"try-{one.vendor}"
            if one.options(schema) != base:
                name = f"{name}-{schema}"
            if not any(source["name"] == name for source in sources):
                sources.append(
                    {
                        "name": name,
                        "vendor": one.vendor,
                        "env_prefix": f"TRY_{one.vendor.upper()}",
                        "options": one.options(schema),
                    }
                )
            start, end = one.windows[schema]
            assets |= {(one.asset_class, symbol): None for symbol in one.symbols[schema]}
            series.append(
                {
                    "series_id": f"try-{one.vendor}-{schema}",
                    "source": name,
                    "schema": schema,
                    "assets": [_asset(one.asset_class, symbol) for symbol in one.symbols[schema]],
                    "start": start.isoformat(),
                    "end": end.isoformat(),
                    "routes": [{"destination": "try-warehouse", "home": True}],
                }
            )
    past = {one.vendor: one for one in running}
    for one_heard in heard:
        name = f"try-{one_heard.vendor}-live"
        # what was not heard is fetched from the same market's history, where it runs too
        asked = past[one_heard.vendor].options("trades") if one_heard.vendor in past else {}
        sources.append(
            {
                "name": name,
                "vendor": one_heard.vendor,
                "env_prefix": f"TRY_{one_heard.vendor.upper()}",
                "options": asked | one_heard.options,
            }
        )
        for schema, symbols in one_heard.trial.schemas.items():
            assets |= {(one_heard.trial.asset_class, symbol): None for symbol in symbols}
            series.append(
                {
                    "series_id": f"{name}-{schema}",
                    "source": name,
                    "schema": schema,
                    "extractor_type": "realtime",
                    "assets": [_asset(one_heard.trial.asset_class, symbol) for symbol in symbols],
                    "routes": [{"destination": "try-warehouse", "home": True}],
                }
            )
    return {
        "version": 1,
        "sources": sources,
        "assets": [{"asset_class": asset_class, "symbol": symbol} for asset_class, symbol in sorted(assets)],
        "destinations": [{"name": "try-warehouse", "kind": "database"}],
        "series": series,
    }


def environment_of(running: Sequence[Any]) -> dict[str, str]:
    """Return the variables that hold the keys these accept."""
    return {f"TRY_{one.vendor.upper()}_{ending}": value for one in running for ending, value in one.keys.items()}


def _asset(asset_class: str, symbol: str) -> str:
    return f"{quote(asset_class, safe='')}:{quote(symbol, safe='')}"
