"""Writes what a comparison found: all of it, or nothing."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final
from typing import TypeVar

from django.contrib.admin.models import ADDITION
from django.contrib.admin.models import CHANGE
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError
from django.db import OperationalError
from django.db import connection
from django.db import transaction
from django.db.models import Model

from catalog.errors import ConfigError
from catalog.errors import TransientError
from catalog.exchange.changes import Change
from catalog.exchange.changes import Changes
from catalog.exchange.changes import InstrumentChange
from catalog.exchange.changes import SeriesChange
from catalog.exchange.collector import collector_paused
from catalog.exchange.differences import compare
from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Document
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

_Row = TypeVar("_Row", bound=Model)

#: PostgreSQL's number of the lock that imports take, one after the other
LOCK: Final = 0x64617461666C6F77

# rows in one statement; SQLite cuts them further by its number of parameters
_CHUNK: Final = 1000
# ids in one condition; Django gives SQLite at most 999 parameters
_IDS: Final = 900
_MAX_MESSAGE: Final = 2000


@collector_paused()
def apply(document: Document, *, create_missing: bool = False, user: AbstractBaseUser | None = None) -> Changes:
    """Write what a file says, in one transaction, and return what was added and changed.

    The comparison is made inside the transaction: another import waits for the end of this one. Raises
    ConfigError with every fault; TransientError where somebody else changed the same rows meanwhile. With
    `user`, the change history says that they did it.
    """
    try:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            changes = compare(document, create_missing=create_missing, lock=True)
            if changes.faults:
                raise ConfigError(*map(str, changes.faults))
            _write(changes)
            if user:
                _log(changes.rows, user)
    except (IntegrityError, OperationalError) as error:
        message = f"somebody else is changing the catalog and nothing was imported ({error}); try again"
        raise TransientError(message) from error
    return changes


def _write(changes: Changes) -> None:
    for model in (DataSource, OutputDestination, Asset):
        _save(model, [change.row for change in changes.of(model)])
    instruments: list[InstrumentChange] = list(changes.of(Instrument))
    # nothing of an instrument changes but its symbols
    _save(Instrument, [change.row for change in instruments if change.added])
    _delete(InstrumentSymbol, "instrument_id", [change.row.pk for change in instruments if not change.added])
    _save(InstrumentSymbol, [symbol for change in instruments for symbol in change.symbols])
    series: list[SeriesChange] = list(changes.of(TimeSeries))
    _save(TimeSeries, [change.row for change in series if change.added or not change.only_relations])
    _write_assets(series, changes)
    _write_routes(series)


def _write_assets(series: Sequence[SeriesChange], changes: Changes) -> None:
    ids = changes.asset_ids
    ids |= {AssetName(change.row.asset_class, change.row.symbol): change.row.pk for change in changes.of(Asset)}
    through = TimeSeries.assets.through
    _delete(through, "pk", [number for change in series for number in change.unlinked])
    _save(through, [through(timeseries=c.row, asset_id=ids[name]) for c in series for name in c.linked])


def _write_routes(series: Sequence[SeriesChange]) -> None:
    routes = [route for change in series for route in change.routes]
    _delete(Route, "pk", [number for change in series for number in change.removed_routes])
    # a series has one home at every moment: the old one goes before the new one comes
    for chunk in _chunks([route.pk for route in routes if route.pk and not route.home]):
        Route.objects.filter(pk__in=chunk).update(home=False)
    _save(Route, routes)


def _save(model: type[_Row], rows: Sequence[_Row]) -> None:
    """Insert the rows that have no id yet, and write every field of the others."""
    manager = model._default_manager
    stored = [row for row in rows if row.pk is not None]
    manager.bulk_create([row for row in rows if row.pk is None], batch_size=_CHUNK)
    # an upsert: an UPDATE with a CASE for each row takes minutes where this takes seconds
    manager.bulk_create(
        stored,
        batch_size=_CHUNK,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=[field.name for field in model._meta.concrete_fields if not field.primary_key],
    )


def _delete(model: type[Model], name: str, values: Sequence[int]) -> None:
    for chunk in _chunks(values):
        model._default_manager.filter(**{f"{name}__in": chunk}).delete()


def _chunks(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[first : first + _IDS] for first in range(0, len(values), _IDS))


def _log(changes: Sequence[Change], user: AbstractBaseUser) -> None:
    """Write the admin's change history: who, which row, what is different."""
    types = {model: ContentType.objects.get_for_model(model).pk for model in {type(change.row) for change in changes}}
    LogEntry.objects.bulk_create(
        (
            LogEntry(
                user_id=user.pk,
                content_type_id=types[type(change.row)],
                object_id=str(change.row.pk),
                object_repr=str(change.row)[:200],
                action_flag=ADDITION if change.added else CHANGE,
                change_message=f"Imported. {'; '.join(map(str, change.fields))}"[:_MAX_MESSAGE],
            )
            for change in changes
        ),
        batch_size=_CHUNK,
    )
