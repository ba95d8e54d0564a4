"""Settings of the process under which rows come through without pauses, for as long as a run lasts."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from typing import Final

#: container objects made and not yet given back, before the collector looks at them: one group of messages is some
#: ten thousand, which it would look at a dozen times, and at all that Django and Prefect keep with them
_OBJECTS: Final = (100_000, 50, 100)
#: seconds after which a thread that computes lets another one in: the one that reads the socket must not wait longer
_TURN: Final = 0.001
#: a third of what others get, so that the end of a run does not wait for long
_NICE: Final = 5

_lock = threading.Lock()
_runs = 0
_before: tuple[tuple[int, int, int], float] = ((0, 0, 0), 0.0)


def gently() -> None:
    """Let the other threads of this process, and other processes, go before this thread, where the system can."""
    if sys.platform == "linux":
        # who may not set it works as before
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


@contextmanager
def steady() -> Iterator[None]:
    """Let the garbage collector look seldom, and not at what is there now; let threads take short turns.

    Any number of runs in one process; the last one puts back what was.
    """
    global _runs, _before
    with _lock:
        _runs += 1
        if _runs == 1:
            _before = gc.get_threshold(), sys.getswitchinterval()
            # what is garbage by now stays so long; to look for it first takes up to seconds
            gc.freeze()
            gc.set_threshold(*_OBJECTS)
            sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                gc.set_threshold(*_before[0])
                sys.setswitchinterval(_before[1])
                gc.unfreeze()
