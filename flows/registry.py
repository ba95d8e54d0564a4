"""Finds vendors and destination kinds by scanning; a plug-in's name is its file's name.

Nothing is registered by hand: a module in `flows.extractors` or `flows.sinks` that defines a subclass of
the base is found. Modules must import without their vendor's SDK (each SDK is imported where it is used).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from catalog.errors import ConfigError
from catalog.errors import unknown


@cache
def historical() -> Mapping[str, Any]:
    """Return the extractor class of every vendor that has a past, by name."""
    from flows.extractors.base import BaseHistoricalExtractor

    return _scan("flows.extractors", BaseHistoricalExtractor)


@cache
def realtime() -> Mapping[str, Any]:
    """Return the extractor class of every vendor that is live, by name."""
    from flows.extractors.base import BaseRealtimeExtractor

    return _scan("flows.extractors", BaseRealtimeExtractor)


@cache
def extractors() -> Mapping[str, Any]:
    """Return every vendor by name: the class of its past, or of its present where it has no past.

    Both halves of a vendor have the same name, label, credentials and options.
    """
    return MappingProxyType({**realtime(), **historical()})


@cache
def sinks() -> Mapping[str, Any]:
    """Return every destination kind's sink class by name."""
    from flows.sinks.base import Sink

    return _scan("flows.sinks", Sink)


def extractor(name: str, extractor_type: str = "") -> Any:
    """Return the extractor class of a vendor, of one type where that is given; ConfigError names the accepted ones."""
    if extractor_type:
        have = realtime() if extractor_type == "realtime" else historical()
        if name in extractors() and name not in have:
            raise ConfigError(
                f"vendor {name!r} has no {extractor_type} data; vendors that do: {', '.join(sorted(have))}"
            )
        return _pick("vendor", name, have)
    return _pick("vendor", name, extractors())


def sink(name: str) -> Any:
    """Return the sink class of a destination kind; ConfigError names the accepted ones."""
    return _pick("destination kind", name, sinks())


def _pick(thing: str, name: str, have: Mapping[str, Any]) -> Any:
    if name not in have:
        raise ConfigError(unknown(thing, name, have))
    return have[name]


def _scan(package: str, base: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for module_info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module_info.name == "base":
            continue
        module = importlib.import_module(f"{package}.{module_info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            # typed as a bare class by the standard library
            plugin: Any = member
            if issubclass(member, base) and member.__module__ == module.__name__ and not inspect.isabstract(member):
                if plugin.name in found:
                    raise ConfigError(f"{package}: the name {plugin.name!r} is given twice")
                found[plugin.name] = plugin
    return MappingProxyType(found)
