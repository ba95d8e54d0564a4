"""Writes what a comparison found: all of it, or nothing."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Final
from typing import TypeVar

from django.contrib.admin.models import ADDITION
from django.contrib.admin.models import CHANGE
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError
from django.db import connection
from django.db import transaction
from django.db.models import Model

from catalog.errors import ConfigError
from catalog.errors import TransientError
from catalog.exchange.changes import Change
from catalog.exchange.changes import Changes
from catalog.exchange.changes import InstrumentChange
from catalog.exchange.changes import SeriesChange
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
_MAX_MESSAGE: Final = 2000


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
    except DatabaseError as error:
        raise TransientError(f"somebody else is changing the catalog, nothing was imported; try again ({error})") from error
    return changes


def _write(changes: Changes) -> None:
    for model in (DataSource, OutputDestination, Asset, Instrument, TimeSeries):
        rows: list[Change] = list(changes.of(model))
        _create(model, [change.row for change in rows if change.added])
        _update(model, [change.row for change in rows if not change.added], {n for c in rows for n in c.field_names})
    _write_symbols([*changes.of(Instrument)])
    _write_links([*changes.of(TimeSeries)], changes)
    _write_routes([*changes.of(TimeSeries)])
