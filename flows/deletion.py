"""Deletes stored rows: asked for by a person, written to the ledger, never part of a pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from catalog.errors import ConfigError
from catalog.keys import Key
from catalog.models import Indicator
from catalog.models import IndicatorCursor
from catalog.models import Instrument
from catalog.models import OutputDestination
from catalog.schemas import SCHEMAS
from catalog.schemas import schema as schema_called
from flows import registry
from flows.claims import claim
from flows.job import EARLIEST
from flows.ledger import recorded
from flows.sinks.base import ReadableSink
from flows.workshops import target


def rows_in(key: str, start: datetime, end: datetime) -> dict[str, int]:
    """Return the rows of a key in `[start, end)` by readable destination; ConfigError when the key is unknown."""
    instrument, schema = _find(key)
    found: dict[str, int] = {}
    for destination in _destinations():
        with _open(destination, instrument) as sink:
            extents = sink.extents(schema_called(schema), [str(instrument.key)], start, end)
        for _, _, count in extents.values():
            found[destination.name] = count
    return found


def delete(key: str, start: datetime, end: datetime) -> dict[str, int]:
    """Delete the rows of a key in `[start, end)` everywhere, and the stored indicators that came from them.

    What is left of an indicator is computed again by the next run. Returns rows deleted by destination.
    """
    instrument, schema = _find(key)
    source = instrument.source
    selector = {"key": key, "start": start.isoformat(), "end": end.isoformat()}
    deleted = {}
    with claim(f"source-{source.pk}"), recorded(source.pk, selector, kind="delete") as run:
        for destination in _destinations():
            with _open(destination, instrument) as sink, sink.unit():
                deleted[destination.name] = sink.delete(schema_called(schema), str(instrument.key), start, end)
                if Indicator.objects.filter(input_schema=schema, cursors__instrument=instrument).exists():
                    sink.delete(SCHEMAS["indicators"], str(instrument.key), start, end)
        IndicatorCursor.objects.filter(instrument=instrument, indicator__input_schema=schema).update(
            due=EARLIEST, fetch_id=0
        )
        run.selector = selector | {"deleted": deleted}
        run.save(update_fields=("selector",))
    return deleted


def _find(key: str) -> tuple[Instrument, str]:
    parsed = Key.parse(key)
    schema_called(parsed.schema)
    name = parsed.instrument
    instrument = (
        Instrument.objects.select_related("source", "asset")
        .filter(source__name=name.source, asset__asset_class=name.asset_class, asset__symbol=name.symbol)
        .first()
    )
    if instrument is None:
        raise ConfigError(f"key {key!r} names no instrument of the catalog; `manage.py series` lists the keys")
    return instrument, parsed.schema


def _destinations() -> Iterator[OutputDestination]:
    readable = [name for name, kind in registry.sinks().items() if kind.readable]
    yield from OutputDestination.objects.filter(kind__in=readable).order_by("name")


@contextmanager
def _open(destination: OutputDestination, instrument: Instrument) -> Iterator[ReadableSink]:
    kind = registry.sink(destination.kind)
    with kind(destination.options, target(destination.name, {str(instrument.key): instrument.pk})) as sink:
        yield sink
