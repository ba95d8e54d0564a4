"""Stored indicators of live series: equal to what the same rows give at once, while rows come, change and come late."""

import pytest

from catalog.models import IndicatorCursor
from flows.live.runner import Settings
from flows.query import read
from flows.stream import Stream
from tests.flows.coins import Coins
from tests.flows.live.kit import eventually
from transforms.registry import make

pytestmark = pytest.mark.django_db(transaction=True)

_TICKS = "coins:crypto:BTCUSDT:trades"
_CHAIN = "resample(timeframe='1s') | sma(window=3)"


def test_indicators_follow_live_trades(database: str) -> None:
    with Coins() as coins:
        series = coins.series(coins.source(), "live", "BTCUSDT", minutes=0.2)
        series.transforms = f"{_CHAIN} | store"
        series.full_clean(exclude=["options"])
        series.save()
        stream = Stream("coins", settings=Settings(refresh=0.5))
        stream.start()
        try:
            coins.live.wait_subscribed({("trades", "BTCUSDT")})
            eventually(lambda: len(_stored()) > 14, 60)
            # a hole is filled later, and its values with it
            coins.live.rst()
            count = len(_stored())
            eventually(lambda: len(_stored()) > count + 4, 60)
        finally:
            stream.stop()
            assert stream.ended.wait(20)
        assert stream.error is None
    stored = _stored()
    expected = make(_CHAIN).transform(read(_TICKS, exact=True))
    times, column = (one.to_pylist() for one in expected.columns[:2])
    values = {at: value for at, value in zip(times, column, strict=True) if value is not None}
    # the last bars end when their end was heard
    assert len(stored) >= len(values) - 12
    assert stored == {at: pytest.approx(values[at], rel=1e-9) for at in stored}
    assert IndicatorCursor.objects.count() == 1


def _stored() -> dict[object, float]:
    from catalog.errors import ConfigError

    try:
        rows = read("coins:crypto:BTCUSDT", "indicators").to_pylist()
    except ConfigError:
        return {}
    return {row["ts_event"]: row["value"] for row in rows}
