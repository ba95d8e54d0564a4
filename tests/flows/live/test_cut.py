"""Connections that break at every step, in every way: what is stored is what happened."""

import time
from datetime import UTC
from datetime import datetime
from datetime import timedelta

import pytest

from catalog.models import Fetch
from flows.live.runner import Settings
from flows.stream import Stream
from tests.flows.coins import Coins
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually
from tests.flows.live.test_killed import whole

pytestmark = pytest.mark.django_db(transaction=True)

_FAULTS = [
    ("refuse", "handshake"),
    ("rst", "handshake"),
    ("silence", "handshake"),
    ("fin", "connect"),
    ("rst", "connect"),
    ("fin", "subscribe"),
    ("rst", "subscribe"),
    ("silence", "subscribe"),
    ("cut", "subscribe"),
    ("fin", "data"),
    ("rst", "data"),
    ("silence", "data"),
    ("cut", "data"),
    ("throttle", "data"),
    ("rotate", "data"),
]


@pytest.mark.parametrize(("kind", "step"), _FAULTS)
def test_a_connection_that_breaks(kind: str, step: str) -> None:
    with Coins() as coins:
        source = coins.source(answer_seconds=1.0, silence=2)
        series = coins.series(source, "live", "BTCUSDT", minutes=0.2)
        coins.live.fail(kind, step, after=1 if step == "data" else 0, times=2)
        stream = Stream("coins", settings=Settings(refresh=0.5))
        stream.start()
        try:
            eventually(lambda: stream.live is not None and stream.live.status.connections >= 3, 40)
            eventually(lambda: stream.live is not None and stream.live.status.connected, 40)
            end = datetime.now(UTC)
            eventually(lambda: whole(coins, series.start, end), 40)
        finally:
            stream.stop()
            assert stream.ended.wait(20)
        assert stream.error is None
        assert whole(coins, series.start, end)
    assert not Fetch.objects.filter(live=True, complete=False).exists()
    accounted()


def test_duplicates_and_disorder() -> None:
    with Coins() as coins:
        series = coins.series(coins.source(), "live", "BTCUSDT", minutes=0.2)
        stream = Stream("coins", settings=Settings(refresh=0.5))
        stream.start()
        try:
            coins.live.wait_subscribed({("trades", "BTCUSDT")})
            begun = time.monotonic()
            while time.monotonic() - begun < 3:
                coins.live.duplicate()
                coins.live.reorder()
                time.sleep(0.2)
            end = datetime.now(UTC) - timedelta(seconds=1)
            eventually(lambda: whole(coins, series.start, end), 40)
        finally:
            stream.stop()
            assert stream.ended.wait(20)
    accounted()
