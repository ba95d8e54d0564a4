"""Schemas whose rows come later than others': what may still be revised does not count as heard."""

import time
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal

import pytest

from catalog.errors import TransientError
from tests.flows.live.kit import Stage
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually
from tests.flows.live.scripted import ScriptedLive

pytestmark = pytest.mark.django_db(transaction=True)
_SECOND = 1_000_000_000


def revising(seconds):
    """Return what makes a vendor revise its bars after some seconds."""

    def adjust(extractor: ScriptedLive) -> None:
        late = {"ohlcv-1s": timedelta(seconds=seconds)}
        extractor.transit_of = lambda schema: late.get(schema, extractor.transit)

    return adjust


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    made.series("bars", "ohlcv-1s", "BTC", start=datetime.now(UTC).replace(microsecond=0))
    return made


def test_a_bar_whose_revision_was_not_heard_is_asked_of_history(stage):
    stage.adjust = revising(12)
    with stage.running():
        stage.vendor.wait_connected(1)
        # of a second that lies wholly within what is subscribed
        opens = time.time_ns() // _SECOND * _SECOND + 3 * _SECOND
        time.sleep((opens + _SECOND - time.time_ns()) / _SECOND + 0.1)
        bar = stage.vendor.publish("ohlcv-1s", "BTC", t=opens, p="10", q="1")
        eventually(lambda: [row["volume"] for row in stage.rows("ohlcv-1s")] == [1])
        # signs of life after the bar's end
        time.sleep(1)
        stage.vendor.refusing = TransientError("away")
        stage.vendor.drop()
        stage.vendor.wait(lambda: not stage.vendor.connections[0].open)
        stage.vendor.publish("ohlcv-1s", "BTC", t=opens, p="10", q="3")
        # history has the bar as it became
        stage.vendor.happened.remove(bar)
        stage.vendor.refusing = None
        stage.vendor.wait_connected(2)
        eventually(lambda: [row["volume"] for row in stage.rows("ohlcv-1s")] == [Decimal(3)], 60)
    accounted()


def test_a_renewal_overlaps_as_long_as_the_latest_schema_needs(stage, monkeypatch):
    monkeypatch.setattr(ScriptedLive, "rotation", timedelta(seconds=0.5))
    stage.adjust = revising(4)
    stage.series("ticks", "trades", "BTC")
    with stage.running() as live:
        stage.vendor.wait_connected(2)
        renewed = time.monotonic()
        assert live.transit == timedelta(seconds=4)
        stage.vendor.wait(lambda: not stage.vendor.connections[0].open)
        # that of the other one would be over after a second
        assert time.monotonic() - renewed > 2.5
