"""Kill a live run anywhere, run it again: no row missing, none twice.

A child process streams from a vendor on loopback and kills itself (SIGKILL) at the n-th thing it makes durable or asks
the database; another one goes on. The vendor's connections break with the process, and its history knows all.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Instrument
from flows.live.runner import Settings
from flows.stream import Stream
from tests.flows.coins import Coins
from tests.flows.coins import stored
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

_SYMBOL = "BTCUSDT"
_KEY = f"coins:crypto:{_SYMBOL}"
#: each takes some seconds: all of them are for who asks
_STEPS = range(1, 61) if os.environ.get("DATAFLOW_KILL_EVERY_STEP") else (1, 3, 6, 10, 19, 32, 50)


class Countdown:
    """Counts what a process makes durable, in whichever thread; at the last one allowed it dies."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed

    def step(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return function(*args, **kwargs)

        return counted


def stream_in_child(allowed: int = 10**9) -> int:
    """Stream in a child that dies at event `allowed`; returns its process id. SIGTERM ends it as it should."""
    connections.close_all()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        countdown = Countdown(allowed)
        os.fsync = countdown.before(os.fsync)
        Path.rename = countdown.before(Path.rename)  # type: ignore[method-assign]
        Path.unlink = countdown.before(Path.unlink)  # type: ignore[method-assign]
        wrapper = type(connections["default"])
        wrapper._commit = countdown.before(wrapper._commit)  # type: ignore[method-assign]
        stream = Stream("coins", settings=Settings(refresh=0.5))
        signal.signal(signal.SIGTERM, lambda *_: stream.stop())
        stream.start()
        while not stream.ended.wait(0.1):
            pass
        status = int(stream.error is not None)
    except BaseException:  # noqa: BLE001  # whatever it is, the parent sees the exit code
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int, seconds: float) -> int | None:
    """Return the wait status of a child, None where it lives on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return status
        time.sleep(0.02)
    return None


def drained(child: int) -> None:
    """End a child as an operator does: within ten seconds, and cleanly."""
    os.kill(child, signal.SIGTERM)
    begun = time.monotonic()
    status = ended(child, 30)
    assert status is not None, "it did not end"
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    assert time.monotonic() - begun < 12


def whole(coins: Coins, start: datetime, end: datetime) -> bool:
    """Return whether exactly what happened in `[start, end)` is stored; rows after it may be."""
    if not Instrument.objects.exists():
        return False
    happened = coins.live.rows("trades", _SYMBOL, start, end)
    mine = [row for row in stored(_KEY) if row["ts_event"] < end]
    names = ("ts_event", "trade_id", "price", "size", "side")
    return [tuple(row[name] for name in names) for row in mine] == [
        tuple(row[name] for name in names) for row in happened
    ]


@pytest.mark.parametrize("allowed", _STEPS)
def test_killed_at_any_step(allowed: int, database: str) -> None:
    with Coins() as coins:
        series = coins.series(coins.source(), "live", _SYMBOL, minutes=0.5)
        first = stream_in_child(allowed)
        status = ended(first, 20)
        if status is None:
            pytest.fail("it lives: it should have come so far by now")
        assert os.WIFSIGNALED(status), "it ended by itself"
        second = stream_in_child()
        try:
            end = datetime.now(UTC)
            eventually(lambda: whole(coins, series.start, end), 40)
        finally:
            drained(second)
        assert whole(coins, series.start, end)
    # nothing is left behind: every connection's fetch is complete and delivered
    assert not Fetch.objects.filter(live=True, complete=False).exists()
    waiting = Delivery.objects.exclude(status="delivered").values("fetch", "fetch__live", "status", "error", "cursor")
    assert list(waiting) == []
    assert not list((Path(settings.LANDING_URL) / "coins" / "live").glob("*"))
    accounted()


def test_killed_again_and_again(database: str) -> None:
    with Coins() as coins:
        series = coins.series(coins.source(), "live", _SYMBOL, minutes=0.5)
        for pause in (0.4, 1.0, 1.7, 2.5):
            child = stream_in_child()
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        child = stream_in_child()
        try:
            end = datetime.now(UTC)
            eventually(lambda: whole(coins, series.start, end), 40)
        finally:
            drained(child)
    accounted()
