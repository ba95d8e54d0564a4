"""A live run against a vendor that a test scripts: what is stored is what happened, whatever happened between."""

import time
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta

import pytest
from django.db.models import F

from catalog.errors import AuthFailed
from catalog.errors import TransientError
from catalog.models import Coverage
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Quarantined
from flows.live.runner import Settings
from tests.flows.live.kit import Stage
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    made.series("live", "trades", "BTC")
    return made


def covered():
    """Return whether anything was heard for a while."""
    return Coverage.objects.filter(fetch__live=True, start__lt=F("end")).exists()


def numbers(stage):
    return sorted(int(row["trade_id"]) for row in stage.rows("trades"))


def trades(stage, *numbers_, symbol="BTC"):
    for number in numbers_:
        stage.vendor.trade(symbol, number)


def test_what_is_heard_is_stored(stage, tmp_path):
    stage.series("more", "trades", "ETH")
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, *range(1, 51))
        trades(stage, *range(1, 51), symbol="ETH")
        eventually(lambda: len(stage.rows("trades")) == 100)
    assert Fetch.objects.filter(live=True, complete=True, schema="trades").count() == 1
    assert not list((tmp_path / "feed" / "live").glob("*"))
    delivery = Delivery.objects.get(fetch__live=True)
    assert (delivery.status, delivery.new, delivery.cursor) == ("delivered", 100, 101)
    accounted()


@pytest.mark.parametrize("error", [None, TransientError("reset by peer")], ids=["closed", "reset"])
def test_a_hole_after_a_cut_is_filled_from_history(stage, error):
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(covered)
        stage.vendor.drop(error)
        trades(stage, *range(2, 20))
        stage.vendor.wait_connected(2)
        trades(stage, *range(20, 30))
        eventually(lambda: numbers(stage) == list(range(1, 30)))
    # history was asked for the holes only: the moment before the first window, and what lies between the two
    assert all(high - low < 10_000_000_000 for _, low, high in stage.vendor.asked)
    accounted()


def test_a_hole_between_two_runs_is_filled(stage):
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(covered)
    trades(stage, *range(2, 9))
    with stage.running():
        stage.vendor.wait_connected(2)
        trades(stage, 9, 10)
        eventually(lambda: numbers(stage) == list(range(1, 11)))


def test_a_jump_in_the_numbers_is_a_hole(stage):
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 1, 2)
        eventually(covered)
        lost = stage.vendor.connections[0].channels.pop()
        trades(stage, 3, 4, 5)
        stage.vendor.connections[0].channels.add(lost)
        trades(stage, 6)
        eventually(lambda: numbers(stage) == [1, 2, 3, 4, 5, 6])
    assert len(stage.vendor.connections) == 1


def test_a_trade_told_twice_is_stored_once(stage):
    with stage.running():
        stage.vendor.wait_connected(1)
        record = stage.vendor.trade("BTC", 1)
        for _ in range(3):
            stage.vendor.connections[0].send(record)
        trades(stage, 2)
        eventually(lambda: numbers(stage) == [1, 2])
    delivery = Delivery.objects.get(fetch__live=True)
    assert delivery.new == 2
    assert delivery.duplicate + delivery.unchanged == 3
    accounted()


def test_silence_is_a_dead_connection(stage):
    stage.adjust = lambda extractor: setattr(extractor, "quiet", 0.5)
    with stage.running():
        stage.vendor.wait_connected(1)
        stage.vendor.mute = True
        stage.vendor.wait(lambda: len(stage.vendor.connections) >= 2)
        stage.vendor.mute = False
        eventually(lambda: stage.vendor.connections[-1].subscribed and stage.vendor.connections[-1].open)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])


def test_a_vendor_that_is_away_is_asked_again_without_end(stage):
    stage.vendor.refusing = TransientError("connection refused")
    with stage.running() as live:
        eventually(lambda: live.status.connections >= 4)
        assert "connection refused" in live.status.error
        stage.vendor.refusing = None
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        assert live.status.error == ""
    # attempts that brought nothing leave nothing
    assert Fetch.objects.filter(live=True).count() == 1


def test_a_refused_key_ends_a_run_that_never_worked(stage):
    stage.vendor.refusing = AuthFailed("no such key")
    with pytest.raises(AuthFailed, match="no such key"), stage.running() as live:
        eventually(lambda: live._fatal)


def test_connections_are_renewed_with_overlap(stage):
    stage.adjust = lambda extractor: setattr(type(extractor), "rotation", timedelta(seconds=0.7))
    try:
        with stage.running() as live:
            stage.vendor.wait_connected(1)
            number = 0
            while len(stage.vendor.connections) < 3:
                number += 1
                trades(stage, number)
                time.sleep(0.01)
            eventually(lambda: numbers(stage) == list(range(1, number + 1)))
            assert live.status.error == ""
    finally:
        stage.adjust = None
        from tests.flows.live.scripted import ScriptedLive

        ScriptedLive.rotation = None
    # nothing had to be bought
    assert stage.vendor.asked == [] or all(high - low < 4_000_000_000 for _, low, high in stage.vendor.asked)
    accounted()


def test_revised_bars_replace(tmp_path):
    stage = Stage(tmp_path)
    stage.series("bars", "ohlcv-1s", "BTC")
    at = time.time_ns() // 1_000_000_000 * 1_000_000_000
    with stage.running():
        stage.vendor.wait_connected(1)
        for price in ("1", "2", "3"):
            stage.vendor.publish("ohlcv-1s", "BTC", t=at, p=price, q="1")
        eventually(lambda: [str(row["close"].normalize()) for row in stage.rows("ohlcv-1s")] == ["3"])
        stage.vendor.publish("ohlcv-1s", "BTC", t=at, p="4", q="1")
        eventually(lambda: [str(row["close"].normalize()) for row in stage.rows("ohlcv-1s")] == ["4"])
    accounted()


def test_repeats_without_numbers_are_rows_of_their_own(tmp_path):
    stage = Stage(tmp_path)
    stage.series("quotes", "quotes", "BTC")
    with stage.running():
        stage.vendor.wait_connected(1)
        time.sleep(1.2)  # rows before the window are left to history
        at = time.time_ns()
        for price in ("1", "1", "2"):
            stage.vendor.publish("quotes", "BTC", t=at, bp=price, bs="1", ap="9", **{"as": "1"})
        eventually(lambda: len(stage.rows("quotes")) == 3)
    assert [row["ordinal"] for row in stage.rows("quotes")] == [0, 1, 2]
    accounted()


def test_what_came_before_the_window_is_brought_by_history(tmp_path):
    stage = Stage(tmp_path)
    stage.series("quotes", "quotes", "BTC")
    with stage.running():
        stage.vendor.wait_connected(1)
        at = time.time_ns()
        # the first of a group was not heard
        stage.vendor.happened.append(
            {"k": "quotes", "s": "BTC", "t": at, "bp": "1", "bs": "1", "ap": "9", "as": "1"}
        )  # fmt: skip
        stage.vendor.publish("quotes", "BTC", t=at, bp="2", bs="1", ap="9", **{"as": "1"})
        eventually(lambda: [int(row["bid_price"]) for row in stage.rows("quotes")] == [1, 2])
    accounted()


def test_bad_frames_are_kept_with_their_reason(stage):
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        stage.vendor.raw(b"{not json")
        stage.vendor.raw(b'{"k": "trades", "s": "BTC", "t": 17, "i": "2", "p": "1", "q": "1"}')
        stage.vendor.publish("trades", "BTC", t=time.time_ns(), i="3", p="-5", q="1")
        stage.vendor.publish("quotes", "BTC", t=1)
        stage.vendor.raw(b'{"k": "trades", "s": "DOGE", "t": %d, "i": "4", "p": "1", "q": "1"}' % time.time_ns())
        stage.vendor.raw(b'{"k": "quotes", "s": "BTC", "t": %d, "bp": "1"}' % time.time_ns())
        trades(stage, 5)
        eventually(lambda: numbers(stage) == [1, 5])
    rules = sorted(Quarantined.objects.values_list("rule", flat=True))
    assert [rule.split(" ")[0] for rule in rules] == ["frame", "price", "schema", "symbol", "time"]
    assert "{not json" in Quarantined.objects.get(rule="frame can be parsed").raw
    delivery = Delivery.objects.get(fetch__live=True)
    assert (delivery.quarantined, delivery.new) == (5, 2)
    accounted()


def test_a_catalog_edit_is_taken_up_without_a_new_connection(stage):
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        stage.series("added", "trades", "ETH")
        stage.series("quotes", "quotes", "BTC")
        stage.vendor.wait(lambda: len(stage.vendor.connections[0].channels) == 3)
        trades(stage, 7, symbol="ETH")
        trades(stage, 2)
        eventually(lambda: numbers(stage) == [1, 2, 7])
        time.sleep(1.2)
        stage.vendor.publish("quotes", "BTC", t=time.time_ns(), bp="1", bs="1", ap="9", **{"as": "1"})
        eventually(lambda: len(stage.rows("quotes")) == 1)
        stage.source.series.filter(series_id="added").update(active=False)
        stage.vendor.wait(lambda: len(stage.vendor.connections[0].channels) == 2)
        trades(stage, 8, symbol="ETH")
        trades(stage, 3)
        eventually(lambda: numbers(stage) == [1, 2, 3, 7])
    assert len(stage.vendor.connections) == 1
    accounted()


def test_a_hole_that_nothing_can_fill_is_a_known_gap(tmp_path):
    stage = Stage(tmp_path, history=False)
    stage.series("live", "trades", "BTC")
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(covered)
        stage.vendor.drop()
        trades(stage, 2)
        stage.vendor.wait_connected(2)
        trades(stage, 3)
        eventually(lambda: numbers(stage) == [1, 3])
        (gap,) = eventually(lambda: list(Gap.objects.all()))
        eventually(lambda: live.filler.gaps == 1)
    lost = datetime.fromtimestamp(stage.vendor.happened[1]["t"] / 1e9, UTC)
    assert gap.start <= lost < gap.end
    assert (gap.end - gap.start) < timedelta(seconds=20)


def test_a_series_with_a_start_is_filled_from_there(stage):
    start = datetime.now(UTC) - timedelta(hours=1)
    stage.source.series.update(start=start)
    for number in range(1, 4):
        stage.vendor.trade("BTC", number, at=time.time_ns() - (4 - number) * 600_000_000_000)
    with stage.running():
        stage.vendor.wait_connected(1)
        trades(stage, 4)
        eventually(lambda: numbers(stage) == [1, 2, 3, 4])


def test_what_is_left_at_the_end_is_delivered_by_the_next_run(stage):
    stage.settings = replace(Settings(refresh=0.2), drain=0.0)
    from flows.workshops import open_sink

    def closed(route, ids):
        raise TransientError("the destination is away")

    stage.sinks = closed
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1, 2, 3)
        eventually(lambda: any(lane.lag.error for lane in live.lanes.values()))
    assert stage.rows("trades") == []
    assert Delivery.objects.get(fetch__live=True).status == "failed"
    stage.sinks = open_sink
    with stage.running():
        eventually(lambda: numbers(stage) == [1, 2, 3])
    eventually(lambda: Delivery.objects.filter(status="delivered").exists())
    accounted()
