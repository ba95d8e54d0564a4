"""Puts a job together with this machine: settings, landing, ledger and sinks."""

import json
import os
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from flows import registry
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Context
from flows.job import RouteFacts
from flows.job import SourceFacts
from flows.landing import Landing
from flows.sinks.base import Sink
from flows.sinks.base import Target
from flows.work import Ledger
from flows.work import Workshop


def context() -> Context:
    """Return what extractors may use of this machine."""
    return Context(tuple(Path(root) for root in settings.FILES_ROOT), dict(os.environ), settings.REDIS_URL)


def landing() -> Landing:
    """Return the landing of this installation."""
    return Landing(Path(settings.LANDING_URL))


def target(name: str, ids: Mapping[str, int], env_prefix: str = "") -> Target:
    """Return what sinks may use of this machine."""
    return Target(name, ids, Path(settings.EXPORT_ROOT), dict(os.environ), env_prefix)


def open_sink(route: RouteFacts, ids: Mapping[str, int]) -> Sink:
    """Return the sink of a route, ready for a with-statement; `ids` maps instrument texts to ids."""
    made: Sink = registry.sink(route.kind)(route.options, target(route.destination, ids, route.env_prefix))
    return made


@lru_cache(maxsize=64)
def _extractor(source: str, roots: tuple[str, ...]) -> BaseHistoricalExtractor:
    """Return the extractor of a source: one for all tasks of a process, for it may hold a session and its limits."""
    facts = SourceFacts(**json.loads(source))
    made: BaseHistoricalExtractor = registry.extractor(facts.vendor, "historical")(facts, context())
    return made


def extractor_of(source: SourceFacts) -> BaseHistoricalExtractor:
    """Return the extractor of a source's past. Raises ConfigError where its vendor has none."""
    return _extractor(json.dumps(asdict(source), sort_keys=True), tuple(map(str, settings.FILES_ROOT)))


def live_extractor_of(source: SourceFacts) -> BaseRealtimeExtractor:
    """Return the extractor of a source's present. Raises ConfigError where its vendor has none."""
    made: BaseRealtimeExtractor = registry.extractor(source.vendor, "realtime")(source, context())
    return made


def workshop(source: SourceFacts, ledger: Ledger, progress: Callable[[str, int], None] | None = None) -> Workshop:
    """Return all that running the source's jobs takes."""
    history = extractor_of(source) if source.vendor in registry.historical() else None
    live = live_extractor_of(source) if source.vendor in registry.realtime() else None
    made = Workshop(history, landing(), ledger, open_sink, live=live)
    return made if progress is None else replace(made, progress=progress)
