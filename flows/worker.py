"""`python -m flows.worker [POOL]`: a Prefect worker of processes, whose runs come to their end when it is told to end.

Prefect's own worker leaves at once on SIGTERM, and its runs with it, in the middle of what they do. Here they are told
first, and live ones deliver what they have. A second signal does not wait for them.

Nothing of Django is imported: it would put what `.env` says now into the environment of every run to come.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

#: seconds that runs may take to end: more than a live one needs
_DRAIN: Final = 15.0
_TICK: Final = 0.2
#: what Prefect calls the processes of its runs
_RUNS: Final = (b"prefect.engine", b"prefect.flow_engine")


class _Told(Exception):
    """The process was told to end."""


def main(pool: str = "dataflow") -> int:
    """Run a worker until it ends, or until this process is told to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _tell)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    # a Ctrl-C on the terminal is for this process alone
    worker = subprocess.Popen(command, start_new_session=True)
    try:
        return worker.wait()
    except _Told:
        pass
    try:
        _end_runs(worker.pid)
        worker.terminate()
        worker.wait(10)
    except (_Told, subprocess.TimeoutExpired):
        worker.kill()
        worker.wait()
    return 0


def _end_runs(worker: int) -> None:
    """Tell every run to end, those too that begin meanwhile, and wait for them."""
    until, told = time.monotonic() + _DRAIN, set[int]()
    while (runs := _runs_of(worker)) and time.monotonic() < until:
        for pid in runs - told:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            told.add(pid)
        time.sleep(_TICK)


def _runs_of(worker: int) -> set[int]:
    """Return the processes of a worker's runs; none where the machine has no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name, in brackets, may hold anything
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, left = set[int](), [worker]
    while left:
        for pid in children.get(left.pop(), ()):
            left.append(pid)
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(name in arguments for name in _RUNS):
                found.add(pid)
    return found


def _tell(number: int, frame: FrameType | None) -> None:
    raise _Told


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
