"""Pauses the garbage collector while a large file becomes objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the collector away, also as a decorator.

    It would walk the millions of objects of a large file again and again, which takes as long as making
    them, and none of them is garbage before the end. What has no cycles is freed as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
