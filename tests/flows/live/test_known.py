"""What counts as heard: no more than what came, no less than what was heard, and nothing is said before it is known."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from itertools import count

import pytest

from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Run
from catalog.models import TimeSeries
from flows import ledger
from flows.frames import Frame
from flows.frames import Told
from flows.hearing import CatalogLiveLedger
from flows.job import Request
from flows.job import describe
from flows.landing import Landing
from flows.landing import Page
from flows.live import filling
from flows.live import refinery
from flows.live.runner import Settings
from flows.live.stint import Stint
from flows.stream import Stream
from tests.flows.coins import Coins
from tests.flows.live.kit import Stage
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually
from tests.flows.live.scripted import ScriptedLive

pytestmark = pytest.mark.django_db(transaction=True)

_SECOND = 1_000_000_000


def numbers(stage):
    return sorted(int(row["trade_id"]) for row in stage.rows("trades"))


@contextmanager
def trading(stage, first=1):
    """Let trades of BTC happen all the time; gives what tells how many there were."""
    ended, happened = threading.Event(), []

    def trade():
        for number in count(first):
            if ended.wait(0.05):
                return
            stage.vendor.trade("BTC", number)
            happened.append(number)

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        yield happened
    finally:
        ended.set()
        thread.join(10)


def slow(seconds):
    def adjust(extractor):
        extractor.transit = timedelta(seconds=seconds)

    return adjust


def test_a_renewal_leaves_no_gap_where_messages_take_their_time(tmp_path):
    stage = Stage(tmp_path, history=False)
    stage.series("live", "trades", "BTC")

    def adjust(extractor):
        extractor.transit = timedelta(seconds=3)
        extractor.rotation = timedelta(seconds=4)

    stage.adjust = adjust
    with stage.running() as live, trading(stage):
        stage.vendor.wait_connected(2)
        # until what was missing before the second acknowledgement has been looked for
        time.sleep(live.filler.known_after("trades") + 3)
    assert not Gap.objects.exists()


def test_an_instrument_that_joins_is_expected_from_then_on_and_makes_no_gap_of_others(tmp_path):
    stage = Stage(tmp_path, history=False, adjust=slow(3))
    series = stage.series("live", "trades", "BTC")
    with stage.running() as live, trading(stage):
        stage.vendor.wait_connected(1)
        time.sleep(5)
        added = datetime.now(UTC)
        series.assets.add(Asset.objects.get_or_create(asset_class="crypto", symbol="ETH")[0])
        eventually(lambda: live.status.acknowledged == 2)
        eventually(lambda: live.filler._due == 0, 40)
        assert live.status.connections == 1
    assert min(Coverage.objects.filter(instrument__asset__symbol="ETH").values_list("start", flat=True)) >= added
    gaps = list(Gap.objects.values_list("instrument__asset__symbol", "start"))
    assert all(symbol == "ETH" and start >= added for symbol, start in gaps), gaps


def test_a_successor_sees_no_gap_in_what_its_predecessor_still_hears(tmp_path):
    stage = Stage(tmp_path, history=False)
    stage.series("live", "trades", "BTC")
    with stage.running(), trading(stage):
        stage.vendor.wait_connected(1)
        time.sleep(2.5)
        for number in (2, 3, 4):
            with stage.running() as successor:
                stage.vendor.wait_connected(number)
                acknowledged = time.time_ns()
                eventually(lambda: successor.filler._due == 0 and time.time_ns() > acknowledged + _SECOND, 40)  # noqa: B023
    assert not Gap.objects.exists()


def test_what_comes_late_by_contract_is_not_bought(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "EVERY", 1.0)
    monkeypatch.setattr(filling, "LATE", timedelta(seconds=1))
    monkeypatch.setattr(ledger, "LATE", timedelta(seconds=1))
    stage = Stage(tmp_path, adjust=slow(4))
    stage.series("live", "trades", "BTC")
    with stage.running(), trading(stage):
        stage.vendor.wait_connected(1)
        acknowledged = time.time_ns()
        time.sleep(15)
    # before it was acknowledged, nothing was heard
    assert all(end < acknowledged + 2 * _SECOND for _, _, end in stage.vendor.asked), stage.vendor.asked


def test_what_waited_at_the_vendor_when_the_connection_broke_is_fetched(tmp_path, monkeypatch):
    """The vendor's queue for us is three seconds long, and goes with the connection."""
    monkeypatch.setattr(refinery, "_QUIET", 2 * _SECOND)
    stage = Stage(tmp_path, adjust=lambda extractor: slow(1)(extractor) or setattr(extractor, "consecutive", {}))
    stage.series("live", "trades", "BTC")
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        wire, queue = stage.vendor.connections[0], []
        until = time.monotonic() + 9
        number = 0
        while time.monotonic() < until:
            number += 1
            record = {"k": "trades", "s": "BTC", "t": time.time_ns(), "i": str(number), "p": "1", "q": "1"}
            with stage.vendor.lock:
                stage.vendor.happened.append(record)
            queue.append(record)
            while queue and queue[0]["t"] < time.time_ns() - 3 * _SECOND:
                wire.send(queue.pop(0))
            time.sleep(0.05)
        stage.vendor.drop()
        stage.vendor.wait_connected(2)
        eventually(lambda: numbers(stage) == list(range(1, number + 1)), 40)
        assert live.filler.gaps == 0
    accounted()


def test_repeats_after_a_loss_are_not_taken_for_what_was_lost(tmp_path, monkeypatch):
    whole = ScriptedLive.frames

    async def frames(self, request):
        async for item in whole(self, request):
            lost = isinstance(item, Frame) and item.content == b"LOST"
            yield Told(item.received, lost="slow consumer") if lost else item

    monkeypatch.setattr(ScriptedLive, "frames", frames)
    stage = Stage(tmp_path)
    stage.series("live", "quotes", "BTC")

    def quote(price, at, *, sent=True):
        record = {"k": "quotes", "s": "BTC", "t": at, "bp": price, "bs": "1", "ap": "99", "as": "1"}
        with stage.vendor.lock:
            stage.vendor.happened.append(record)
            if sent:
                stage.vendor.connections[-1].send(record)

    with stage.running():
        stage.vendor.wait_connected(1)
        time.sleep(1.5)
        quote("1", time.time_ns())
        eventually(lambda: len(stage.rows("quotes")) == 1)
        at = time.time_ns()
        # of two with one key the first is lost
        quote("2", at, sent=False)
        stage.vendor.raw(b"LOST")
        quote("3", at)
        stage.vendor.wait_connected(2)
        eventually(lambda: len(stage.rows("quotes")) == 3, 40)
    found = sorted((row["ts_event"], row["ordinal"], int(row["bid_price"])) for row in stage.rows("quotes"))
    assert [(ordinal, price) for _, ordinal, price in found] == [(0, 1), (0, 2), (1, 3)]
    accounted()


def test_a_child_that_nobody_asked_again_is_not_covered_by_its_parents_replay(tmp_path):
    stage = Stage(tmp_path)
    stage.series("live", "quotes", "PARENT", "CHILD")
    record = CatalogLiveLedger(Run.objects.create(kind="realtime", source=stage.source))
    jobs = {job.schema: job for job in stage.plan()}
    extractor = ScriptedLive(replace(stage.plan()[0].source, options={}), stage.vendor)
    ids = {one.name.symbol: one.id for one in jobs["quotes"].instruments}
    since = time.time_ns() - 60 * _SECOND
    moment = datetime.fromtimestamp(since // _SECOND, UTC)
    replayed = {"quotes": {ids["PARENT"]: moment}}
    made = Stint(extractor, Landing(stage.root), record, jobs, lambda schema: True, lambda: None, replayed)
    made.refinery.start()
    try:
        made.told(Told(time.time_ns(), since=since // _SECOND * _SECOND), {"quotes": list(ids.values())})
        made.take([Frame(b'{"hello": 1}', time.time_ns())])
        made.spool.flush()
        eventually(lambda: made.refinery.refined == 1)
        made.take([Frame(b'{"hello": 2}', time.time_ns() + 2 * _SECOND)])
        made.spool.flush()
        eventually(lambda: made.refinery.refined == 2)
        made.persist()
    finally:
        made.refinery.stopping.set()
        made.refinery.thread.join(20)
        made.spool.abandon()
    starts = {one.instrument_id: one.start for one in Coverage.objects.all() if one.start < one.end}
    assert starts[ids["PARENT"]] == moment
    assert starts.get(ids["CHILD"], moment + timedelta(seconds=61)) > moment + timedelta(seconds=60)


def test_what_an_ingest_began_and_a_stream_ended_is_delivered(tmp_path):
    stage = Stage(tmp_path)
    stage.series("live", "trades", "BTC")
    now = datetime.now(UTC).replace(microsecond=0)
    TimeSeries.objects.update(start=now - timedelta(hours=3))
    old = now - timedelta(hours=2)
    at = int((old + timedelta(minutes=5)).timestamp()) * _SECOND
    record = {"k": "trades", "s": "BTC", "t": at, "i": "1", "p": "1", "q": "1"}
    stage.vendor.happened.append(record)
    # an ingest was killed after its first page had landed
    (job,) = stage.plan()
    (one,) = job.instruments
    hole = replace(one, start=old, end=old + timedelta(minutes=10))
    request = Request(replace(job, extractor_type="historical", instruments=(hole,)), (hole,))
    fetch = ledger.CatalogLedger(Run.objects.create(source=stage.source)).open_fetch(request)
    landing = Landing(stage.root)
    landing.begin("feed", fetch.id, describe(request))
    page = Page("application/json", [json.dumps([record]).encode()], facts={"symbol": "BTC"})
    landing.write("feed", fetch.id, 0, page)
    with stage.running():
        eventually(lambda: Fetch.objects.get(pk=fetch.id).complete)
        eventually(lambda: numbers(stage) == [1])
    accounted()


def test_a_snapshot_of_now_fills_no_hole_of_a_book():
    with Coins() as coins:
        coins.series(coins.source(), "live", "BTCUSDT", minutes=5)
        TimeSeries.objects.update(schema="mbp-10")
        stream = Stream("coins", settings=Settings(refresh=0.5))
        stream.start()
        try:
            eventually(lambda: stream.live is not None and stream.live.filler.gaps, 40)
            assert stream.live.filler.filled == 0
        finally:
            stream.stop()
            assert stream.ended.wait(20)
    assert not Fetch.objects.filter(live=False).exists()
    assert Gap.objects.exists()
