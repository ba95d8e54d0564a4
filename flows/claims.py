"""One run at a time for a source: a second one waits, asks the ledger again and finds the work done.

Upserts make two runs at once harmless; the claim saves what the second would fetch (and pay for) again.
"""

import fcntl
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import IO

from django.conf import settings
from django.db import DatabaseError
from django.db import InterfaceError
from django.db import connection
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


@contextmanager
def claim(name: str) -> Iterator[None]:
    """Hold the claim called `name`; released at the end, or by the death of the process."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_number(name)])
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_number(name)])
        return
    with _file(name) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Claim:
    """A claim that is asked for, not waited for, and may be given back before its holder ends. Any thread may call it.

    It has a database connection of its own: those of threads are closed when they are old.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._connection: BaseDatabaseWrapper | None = None

    def take(self) -> bool:
        """Say whether it is held by us, having taken it where nobody held it, or where it was lost."""
        with self._lock:
            return self._at_database() if connection.vendor == "postgresql" else self._at_file()

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            if self._connection is not None:
                # its session's end frees it too, but a moment after we have gone
                with suppress(DatabaseError, InterfaceError), self._connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [_number(self.name)])
                self._connection.close()
            self._file = self._connection = None

    def _at_file(self) -> bool:
        if self._file is None:
            file = _file(self.name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                self._file = file
        return self._file is not None

    def _at_database(self) -> bool:
        if self._connection is not None:
            try:
                with self._connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except (DatabaseError, InterfaceError):
                self._connection.close()
                self._connection = None
            else:
                return True
        own = connections[connection.alias].copy()
        own.inc_thread_sharing()
        try:
            with own.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [_number(self.name)])
                (taken,) = cursor.fetchone()
        except BaseException:
            own.close()
            raise
        if taken:
            self._connection = own
        else:
            own.close()
        return bool(taken)


def held(name: str) -> bool:
    """Say whether anybody holds a claim."""
    if connection.vendor == "postgresql":
        number = _number(name)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
                " AND classid = %s AND objid = %s AND objsubid = 1)",
                [number >> 32, number & 0xFFFF_FFFF],
            )
            return bool(cursor.fetchone()[0])
    try:
        with _path(name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) | 1 << 40


def _path(name: str) -> Path:
    return Path(settings.LANDING_URL) / f".{name}.lock"


def _file(name: str) -> IO[str]:
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")
