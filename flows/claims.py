"""One run at a time for a source: a second one waits, asks the ledger again and finds the work done.

Upserts make two runs at once harmless; the claim saves what the second would fetch (and pay for) again.
"""

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import connection


@contextmanager
def claim(name: str) -> Iterator[None]:
    """Hold the claim called `name`; released at the end, or by the death of the process."""
    if connection.vendor == "postgresql":
        number = zlib.crc32(name.encode()) | 1 << 40
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [number])
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
        return
    folder = Path(settings.LANDING_URL)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
