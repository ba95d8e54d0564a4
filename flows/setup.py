"""Imported first by every Prefect module: makes Django ready in whatever process Prefect starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dataflow_site.settings")
# the first start of an ephemeral server migrates its database: 16 s here, with 20 s allowed by default
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# a temporary server would try to report to its makers before it ends
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import django  # the settings must be named first
from django.apps import apps

if not apps.ready:
    django.setup()


@contextmanager
def database_connections() -> Iterator[None]:
    """Close this thread's connections at the end: a task runner's threads would otherwise keep them open.

    A connection inside a transaction belongs to somebody further out (a test) and is left alone.
    """
    from django.db import connections

    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()
