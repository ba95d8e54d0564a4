"""What goes wrong between threads, disks and clocks: found by review, each with the test that shows it."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta

import numpy as np
import pytest
from django.db import transaction

from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Quarantined
from catalog.models import Route
from catalog.models import Run
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import Ordinals
from flows import ledger
from flows import pruning
from flows import refining
from flows import spool
from flows.extractors.base import BaseHistoricalExtractor
from flows.formats.records import batch
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.frames import encode
from flows.frames import intact
from flows.groups import Group
from flows.hearing import CatalogLiveLedger
from flows.job import Request
from flows.landing import Landing
from flows.live import filling
from flows.live import refinery
from flows.live import ring as rings
from flows.live import stint as stints
from flows.live.coverage import Heard
from flows.live.stint import Stint
from flows.pipeline import refine
from flows.refining import Refiner
from flows.refining import strand
from flows.spool import Spool
from flows.spool import StintNote
from flows.work import FetchRef
from flows.work import Workshop
from flows.workshops import open_sink
from tests.flows.live.kit import Stage
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually
from tests.flows.live.scripted import _SHAPES
from tests.flows.live.scripted import ScriptedHistory
from tests.flows.live.scripted import ScriptedLive
from tests.flows.live.test_outages import Sleeper
from tests.vendors.harness import Shelf

pytestmark = pytest.mark.django_db(transaction=True)

_SECOND = 1_000_000_000


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    made.series("live", "trades", "BTC")
    return made


def numbers(stage):
    return sorted(int(row["trade_id"]) for row in stage.rows("trades"))


def trades(stage, *numbers_, symbol="BTC"):
    for number in numbers_:
        stage.vendor.trade(symbol, number)


def moment(nanoseconds):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def heard(schema="trades", **options):
    return Heard(schema_called(schema), timedelta(0), every_bar=False, skew=timedelta(0), **options)


@contextmanager
def stint_of(stage):
    """Begin a stint by hand: whoever has it is the connection."""
    record = CatalogLiveLedger(Run.objects.create(kind="realtime", source=stage.source))
    jobs = {job.schema: job for job in stage.plan()}
    extractor = ScriptedLive(replace(stage.plan()[0].source, options={}), stage.vendor)
    made = Stint(extractor, Landing(stage.root), record, jobs, lambda schema: True, lambda: None)
    try:
        yield made
    finally:
        made.refinery.stopping.set()
        if made.refinery.thread.is_alive():
            made.refinery.thread.join(20)
        made.spool.abandon()


def windows():
    found = Coverage.objects.filter(fetch__live=True).values_list("start", "end")
    return sorted((start, end) for start, end in found if start < end)


def refined_again(schema, live):
    fetch = Fetch.objects.filter(live=True, schema=schema).earliest("id")
    return list(refine(FetchRef(fetch.pk, "feed", schema, fetch.fetched_at, True), live.workshop))


# -- what lands ---------------------------------------------------------------------------------------------------


class Slow:
    """A file whose disk takes time, or a part of what it is given."""

    def __init__(self, file, limit):
        self.file = file
        self.limit = limit

    def write(self, content):
        return self.file.write(bytes(content[: self.limit]))

    def __getattr__(self, name):
        return getattr(self.file, name)


def spooled(tmp_path):
    landing = Landing(tmp_path)
    landing.begin("feed", 7, {"asked": "live"})
    return Spool(landing, StintNote("feed", 7, {"trades": 7}))


def test_a_disk_that_takes_a_part_is_given_the_rest(tmp_path):
    made = spooled(tmp_path)
    made.append([Frame(b"first", 1)])
    made.flush()
    made._file = Slow(made._file, 5)
    made.append([Frame(b"the second one", 2)])
    made.flush()
    made.end()
    found = [frame.content for group in made.read(0) if group for frame in group.frames]
    assert found == [b"first", b"the second one"]
    made.abandon()


def test_an_empty_frame_counts_where_the_file_is_torn(tmp_path):
    whole = encode([Frame(b"", 1)]) + encode([Frame(b"last", 2)])
    path = tmp_path / "torn"
    path.write_bytes(whole + bytes(40))
    with path.open("rb") as stream:
        assert intact(stream) == (len(whole), 2)


def test_a_stint_that_is_still_written_is_not_released(stage):
    """Completing it meanwhile would delete the frames that are not sealed yet."""
    with stint_of(stage) as stint:
        stint.refinery.start()
        stint.take([Frame(b'{"hello": true}', time.time_ns())])
        stint.spool.flush()
        with pytest.raises(TransientError, match="still being written"):
            stint.close()
        assert list(stint.spool.folder.glob("*.frames"))
        stint.end()
        stint.refinery.thread.join(20)
        stint.close()
        assert not stint.spool.folder.exists()
        assert len(stint.landing.pages("feed", stint.channels["trades"].fetch.id)) == 1


def test_a_full_disk_ends_no_run(stage, monkeypatch):
    full = threading.Event()
    room = Landing.check_room

    def check(self):
        if full.is_set():
            raise TransientError("no room", retry_after=3600.0)
        room(self)

    monkeypatch.setattr(Landing, "check_room", check)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        begun = Fetch.objects.filter(live=True).count()
        full.set()
        stage.vendor.drop()
        trades(stage, 2)
        eventually(lambda: live.status.connections >= 4 and "no room" in live.status.error)
        assert Fetch.objects.filter(live=True).count() == begun
        full.clear()
        eventually(lambda: live.status.connected)
        stage.vendor.wait(lambda: stage.vendor.connections[-1].open and stage.vendor.connections[-1].subscribed)
        trades(stage, 3)
        eventually(lambda: numbers(stage) == [1, 2, 3])
    accounted()


def test_what_was_dropped_was_not_heard(stage):
    with stint_of(stage) as stint:
        stint.refinery.start()
        (number,) = stint.channels["trades"].instruments
        now = time.time_ns() - 7200 * _SECOND
        stint.told(Told(now, frozenset({Channel("trades", "BTC")})), {"trades": [number]})
        stint.take([Frame(b'{"hello": true}', now + 2 * _SECOND)])
        stint.spool.flush()
        eventually(lambda: stint.refinery.refined == 1)
        stint.take([Frame(b'{"lost": true}', now + 20 * _SECOND)])
        # taken, and not written yet
        stint.persist()
        assert [end for _, end in windows()] == [moment(now + 2 * _SECOND)]
        stint.spool._write = lambda content, frames: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            stint.spool.flush()
        stint.persist()
        assert [end for _, end in windows()] == [moment(now + 2 * _SECOND)]


# -- coverage -----------------------------------------------------------------------------------------------------


def test_a_loss_before_the_first_row_of_a_window_empties_it():
    one = heard()
    one.acknowledged([5], 10 * _SECOND)
    one.until(100 * _SECOND)
    assert one.take() == {(moment(10 * _SECOND), moment(100 * _SECOND)): {5}}
    # what came before the window is followed by what came long after: anything between may be lost
    assert one.broken(5, 9 * _SECOND, 110 * _SECOND)
    assert one.take() == {(moment(10 * _SECOND), moment(10 * _SECOND)): {5}}


def test_a_loss_since_before_the_window_empties_it():
    one = heard()
    one.acknowledged([5], 10 * _SECOND)
    one.until(100 * _SECOND)
    one.take()
    one.ended(4 * _SECOND)
    assert one.take() == {(moment(10 * _SECOND), moment(10 * _SECOND)): {5}}


def test_a_bar_that_was_open_when_messages_were_lost_is_not_heard():
    one = heard("ohlcv-1m")
    one.acknowledged([5], 0)
    one.until(600 * _SECOND)
    one.take()
    one.ended(210 * _SECOND)
    assert one.take() == {(moment(0), moment(180 * _SECOND)): {5}}


def test_windows_that_could_not_be_written_are_written_later(tmp_path):
    stage = Stage(tmp_path)
    stage.series("live", "trades", "BTC")
    stage.series("more", "quotes", "BTC")
    with stint_of(stage) as stint:
        now = time.time_ns() - 60 * _SECOND
        for name, channel in stint.channels.items():
            (number,) = channel.instruments
            stint.told(Told(now, frozenset({Channel(name, "BTC")})), {name: [number]})
        stint.told(Told(now + 5 * _SECOND), {})
        whole, stint.ledger.heard = stint.ledger.heard, lambda *given: (_ for _ in ()).throw(TransientError("away"))
        with pytest.raises(TransientError):
            stint.persist()
        stint.ledger.heard = whole
        stint.persist()
        assert set(Fetch.objects.filter(coverage__end=moment(now + 5 * _SECOND)).values_list("schema", flat=True)) == {
            "trades",
            "quotes",
        }


def test_a_machine_that_slept_heard_nothing(stage):
    with stint_of(stage) as stint:
        (number,) = stint.channels["trades"].instruments
        now = time.time_ns() - 7200 * _SECOND
        stint.told(Told(now, frozenset({Channel("trades", "BTC")})), {"trades": [number]})
        stint.told(Told(now + 5 * _SECOND), {})
        stint.persist()
        stint.told(Told(now + 3600 * _SECOND), {})
        stint.told(Told(now + 3610 * _SECOND), {})
        stint.persist()
        assert windows() == [
            (moment(now + _SECOND), moment(now + 5 * _SECOND)),
            (moment(now + 3601 * _SECOND), moment(now + 3610 * _SECOND)),
        ]


def test_a_clock_that_is_set_back_takes_back_what_it_said(stage):
    with stint_of(stage) as stint:
        (number,) = stint.channels["trades"].instruments
        now = time.time_ns()
        stint.told(Told(now - 10 * _SECOND, frozenset({Channel("trades", "BTC")})), {"trades": [number]})
        stint.told(Told(now + 19 * _SECOND), {})
        stint.persist()
        assert windows() == [(moment(now - 9 * _SECOND), moment(now + 19 * _SECOND))]
        stint.told(Told(now), {})
        stint.told(Told(now + _SECOND), {})
        stint.persist()
        assert stint.adrift
        ((start, end),) = windows()
        assert start == moment(now - 9 * _SECOND)
        assert moment(now) <= end <= datetime.now(UTC)


# -- the catalog, edited ------------------------------------------------------------------------------------------


def test_a_schema_that_joins_a_connection_that_then_ends(stage):
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        stage.series("quotes", "quotes", "BTC")
        stage.vendor.wait(lambda: len(stage.vendor.connections[0].channels) == 2)
        # nothing comes after it has joined
        stage.vendor.drop()
        stage.vendor.wait_connected(2)
        lane = eventually(lambda: live.lanes.get(("quotes", "store")))
        eventually(lambda: [stint.spool.ended for stint in lane.stints] == [False])
    assert not Delivery.objects.exclude(status="delivered").exists()


def test_a_schema_that_joined_is_not_quarantined_when_it_is_refined_again(stage):
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        stage.series("quotes", "quotes", "BTC")
        stage.vendor.wait(lambda: len(stage.vendor.connections[0].channels) == 2)
        time.sleep(1.1)
        stage.vendor.publish("quotes", "BTC", t=time.time_ns(), bp="1", bs="1", ap="9", **{"as": "1"})
        eventually(lambda: len(stage.rows("quotes")) == 1)
    assert sum(batch.rejected.num_rows for batch in refined_again("trades", live)) == 0


def test_an_instrument_joins_while_rows_come_without_pause(stage):
    """A destination that sees the new job before what it is about would filter the rows of the new instrument."""
    Route.objects.update(condition="price > 0")
    stage.settings = replace(stage.settings, refresh=0.1)
    whole = CatalogLiveLedger.join

    def slowly(self, fetch, instruments):
        time.sleep(0.3)
        whole(self, fetch, instruments)

    CatalogLiveLedger.join = slowly
    try:
        with stage.running():
            stage.vendor.wait_connected(1)
            with transaction.atomic():
                stage.series("added", "trades", "ETH")
                Route.objects.update(condition="price > 0")
            number = 0
            while len(stage.vendor.connections[0].channels) < 2:
                number += 1
                trades(stage, number)
                time.sleep(0.005)
            trades(stage, *range(1, 20), symbol="ETH")
            eventually(lambda: len(stage.rows("trades")) == number + 19)
    finally:
        CatalogLiveLedger.join = whole
    assert not Delivery.objects.filter(filtered__gt=0).exists()


def test_an_edit_that_met_a_ledger_that_is_away_is_taken_up_later(stage):
    whole, fails = CatalogLiveLedger.join, [0]

    def failing(self, fetch, instruments):
        if fails[0]:
            fails[0] -= 1
            raise TransientError("away")
        whole(self, fetch, instruments)

    CatalogLiveLedger.join = failing
    try:
        with stage.running():
            stage.vendor.wait_connected(1)
            fails[0] = 2
            stage.series("added", "trades", "ETH")
            stage.vendor.wait(lambda: len(stage.vendor.connections[-1].channels) == 2)
            trades(stage, 1, 2, symbol="ETH")
            eventually(lambda: numbers(stage) == [1, 2])
    finally:
        CatalogLiveLedger.join = whole
    assert fails == [0]
    assert not Quarantined.objects.exists()


def test_a_symbol_that_is_corrected_is_known_at_once(stage):
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        (instrument,) = live.jobs["trades"].instruments
        InstrumentSymbol.objects.create(instrument_id=instrument.id, symbol="XBT")
        stage.vendor.wait(lambda: stage.vendor.connections[0].channels == {Channel("trades", "XBT")})
        trades(stage, 2, symbol="XBT")
        eventually(lambda: numbers(stage) == [1, 2])
    assert not Quarantined.objects.exists()


def test_a_new_route_has_what_an_ended_connection_brought(stage, tmp_path):
    """It waits for another destination; the new one must not wait for ever on it."""
    Sleeper.awake, Sleeper.fails = threading.Event(), 0
    rows, more = {}, {}
    series = stage.source.series.get()
    slow = OutputDestination.objects.create(name="slow", kind="database")
    Route.objects.create(series=series, destination=slow)

    def opened(route, ids):
        if route.destination == "new":
            return Shelf(more)
        return Sleeper(rows) if route.destination == "slow" else open_sink(route, ids)

    stage.sinks = opened
    try:
        with stage.running():
            stage.vendor.wait_connected(1)
            trades(stage, 1, 2)
            eventually(lambda: numbers(stage) == [1, 2])
            stage.vendor.drop()
            stage.vendor.wait_connected(2)
            new = OutputDestination.objects.create(name="new", kind="database")
            Route.objects.create(series=series, destination=new)
            trades(stage, 3)
            eventually(lambda: sorted(int(row["trade_id"]) for row in more.values()) == [1, 2, 3])
            Sleeper.awake.set()
    finally:
        Sleeper.awake.set()


def test_a_channel_that_comes_back_is_heard_anew_and_keeps_what_it_gave_before(tmp_path):
    """What it missed must not be counted as what it brings; refined again, its frames give what they gave."""
    stage = Stage(tmp_path)
    series = stage.series("quotes", "quotes", "BTC")
    stage.series("others", "quotes", "ETH")
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        wire = stage.vendor.connections[0]
        time.sleep(1.1)
        stage.vendor.publish("quotes", "BTC", t=time.time_ns(), bp="1", bs="1", ap="9", **{"as": "1"})
        eventually(lambda: len(stage.rows("quotes")) == 1)
        series.active = False
        series.save()
        stage.vendor.wait(lambda: len(wire.channels) == 1)
        series.active = True
        series.save()
        stage.vendor.wait_connected(2)
        assert not wire.open
        eventually(lambda: live.connections.current.stint)
        stint = live.connections.current.stint
        eventually(lambda: len(stint.channels["quotes"].heard.starts()) == 2)
    assert sum(batch.accepted.num_rows for batch in refined_again("quotes", live)) == 1


# -- connections --------------------------------------------------------------------------------------------------


def test_a_connection_that_ends_while_its_stint_is_begun_blocks_no_route(stage):
    whole, going = CatalogLiveLedger.begin, threading.Event()
    slow = [True]

    def slowly(self, request):
        if slow:
            slow.clear()
            going.set()
            time.sleep(1.5)
        return whole(self, request)

    CatalogLiveLedger.begin = slowly
    stage.adjust = lambda extractor: setattr(extractor, "quiet", 0.4)
    try:
        with stage.running() as live:
            assert going.wait(20)
            eventually(lambda: live.status.connections >= 2 and live.status.connected)
            stage.vendor.wait(lambda: any(one.open and one.subscribed for one in stage.vendor.connections))
            trades(stage, 1)
            eventually(lambda: numbers(stage) == [1])
            eventually(lambda: not live._closing)
    finally:
        CatalogLiveLedger.begin = whole
    assert not list((stage.root / "feed" / "live").glob("*"))
    assert not Fetch.objects.filter(live=True, complete=False).exists()


def test_a_stint_that_is_begun_while_the_run_ends_is_completed(stage, monkeypatch):
    whole, going = CatalogLiveLedger.begin, threading.Event()

    def slowly(self, request):
        going.set()
        time.sleep(1.0)
        return whole(self, request)

    monkeypatch.setattr(CatalogLiveLedger, "begin", slowly)
    stage.settings = replace(stage.settings, drain=0.0)
    with stage.running():
        assert going.wait(20)
    assert not list((stage.root / "feed" / "live").glob("*"))
    assert not Fetch.objects.filter(live=True, complete=False).exists()


def test_a_ledger_that_is_away_ends_no_run_of_a_vendor_that_replays(stage):
    whole, fails = CatalogLiveLedger.last_heard, [3]

    def failing(self, job):
        if fails[0]:
            fails[0] -= 1
            raise OSError("the ledger is away")
        return whole(self, job)

    CatalogLiveLedger.last_heard = failing
    ScriptedLive.replays = True
    try:
        with stage.running():
            stage.vendor.wait_connected(1)
            stage.vendor.drop()
            stage.vendor.wait_connected(2)
            trades(stage, 1)
            eventually(lambda: numbers(stage) == [1])
    finally:
        CatalogLiveLedger.last_heard = whole
        ScriptedLive.replays = False


def test_pages_that_cannot_be_sealed_end_no_run(stage, monkeypatch):
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 100)
    whole, fails = Landing.write, [3]

    def failing(self, *given):
        if fails[0]:
            fails[0] -= 1
            raise TransientError("disk full", retry_after=3600.0)
        return whole(self, *given)

    monkeypatch.setattr(Landing, "write", failing)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        for number in range(1, 20):
            trades(stage, number)
            time.sleep(0.02)
        eventually(lambda: numbers(stage) == list(range(1, 20)))
        eventually(lambda: not fails[0])
        assert live.status.connections == 1
    assert not Fetch.objects.filter(live=True, complete=False).exists()


# -- routes and memory --------------------------------------------------------------------------------------------


def test_a_destination_that_is_away_costs_no_history(tmp_path, monkeypatch):
    """What landed is known to be heard, however long nobody takes it."""
    monkeypatch.setattr(stints, "Ring", lambda: rings.Ring(1))
    monkeypatch.setattr(refinery, "_PATIENT", 0.5)
    stage = Stage(tmp_path)
    stage.settings = replace(stage.settings, drain=0.0)
    stage.series("live", "trades", "BTC")

    def away(route, ids):
        raise TransientError("away")

    stage.sinks = away
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        for number in range(1, 40):
            trades(stage, number)
            time.sleep(0.01)
        stint = live.stints[-1]
        eventually(lambda: stint.refinery.refined == stint.spool.written == 40)


def test_connections_that_ended_keep_nothing_in_memory(stage):
    def away(route, ids):
        raise TransientError("away")

    stage.sinks = away
    with stage.running() as live:
        for number in range(1, 5):
            stage.vendor.wait_connected(number)
            trades(stage, number)
            eventually(lambda: live.connections.current.stint is not None)
            eventually(lambda: live.connections.current.stint.refinery.refined == 2)
            stage.vendor.drop()
        stage.vendor.wait_connected(5)
        eventually(lambda: live.connections.current.stint is not None)
        stage.sinks = open_sink
        kept = [stint.channels["trades"].ring.size for stint in live.stints]
        assert len(kept) == 5
        assert sum(size > 0 for size in kept) <= 2
        object.__setattr__(live.workshop, "open_sink", open_sink)
        for lane in live.lanes.values():
            eventually(lambda lane=lane: not [one for one in lane.stints if one.spool.ended], 60)
        eventually(lambda: numbers(stage) == [1, 2, 3, 4])
    accounted()


def test_whoever_stands_inside_a_step_comes_out_of_it():
    one = rings.Ring()
    one.add(0, 10, [])
    one.add(10, 20, [])
    assert one.take(10, 0)[1] is None
    assert one.take(14, 0) == ([], 20)
    one.close()
    one.clear()
    assert one.take(3, 0) == ([], 20)
    assert one.take(20, 0) == ([], None)


# -- repeats ------------------------------------------------------------------------------------------------------


def test_repeats_are_known_whatever_the_times_say():
    """One row a day ahead must not make the others forgotten."""
    one = Ordinals()
    hashes = np.array([7], np.uint64)
    now = 1_700_000_000 * _SECOND
    assert one.number(hashes.copy(), np.array([now])).tolist() == [0]
    one.number(np.array([8], np.uint64), np.array([now + 86_000 * _SECOND]))
    one.compact()
    assert one.number(hashes.copy(), np.array([now])).tolist() == [1]
    for _ in range(1000):
        one.number(np.array([9], np.uint64), np.array([now + _SECOND]))
        one.compact()
    assert len(one.blocks) < 20
    one.turn()
    assert one.number(hashes.copy(), np.array([now])).tolist() == [2]
    one.turn()
    one.turn()
    assert one.number(hashes.copy(), np.array([now])).tolist() == [0]


def refined_by(stage, schema, parse, frames):
    """Refine frames by a parser of one's own."""
    stage.series("other", schema, "BTC")
    job = next(job for job in stage.plan() if job.schema == schema)
    extractor = ScriptedLive(replace(job.source, options={}), stage.vendor)
    extractor.parse = parse
    ref = FetchRef(1, "feed", schema, datetime.now(UTC))
    one = strand(ref, extractor, job.instruments, frozenset(), primary=True)
    return list(Refiner(extractor, [one]).refine(Group(0, 0, len(frames), frames)))


def test_rows_of_one_key_meet_though_the_parser_parts_them(stage):
    frames = [Frame(b"", time.time_ns(), False, number) for number in range(2)]
    at = time.time_ns() // _SECOND * _SECOND

    def parse(given, state):
        for frame in given:
            record = {"t": at, "p": str(frame.number + 1), "q": "1"}
            yield batch(schema_called("ohlcv-1s"), [record], _SHAPES["ohlcv-1s"], "BTC")

    (found,) = refined_by(stage, "ohlcv-1s", parse, frames)
    assert [int(price) for price in found.accepted["close"].to_pylist()] == [2]
    assert (found.parsed, found.superseded) == (2, 1)


def test_a_row_that_refining_stumbles_over_costs_that_row(stage, monkeypatch):
    frames = [Frame(b"", time.time_ns(), False, number) for number in range(9)]
    whole = refining.refine_rows

    def stumbling(schema, table, facts, ordinals):
        if "5" in table["trade_id"].to_pylist():
            raise ValueError("five")
        return whole(schema, table, facts, ordinals)

    def parse(given, state):
        records = [{"t": frame.received, "i": str(frame.number), "p": "1", "q": "1"} for frame in given]
        yield batch(schema_called("trades"), records, _SHAPES["trades"], "BTC")

    monkeypatch.setattr(refining, "refine_rows", stumbling)
    (found,) = refined_by(stage, "trades", parse, frames)
    assert found.accepted["trade_id"].to_pylist() == [str(number) for number in range(9) if number != 5]
    assert found.rejected["reason"].to_pylist() == ["row can be refined: ValueError: five"]
    assert found.parsed == 9


# -- filling ------------------------------------------------------------------------------------------------------


def test_history_that_has_everything_is_not_asked_what_is_missing(stage, monkeypatch):
    asked = []
    monkeypatch.setattr(filling, "EVERY", 0.1)
    monkeypatch.setattr(ledger, "LATE", timedelta(0))
    whole = BaseHistoricalExtractor.requests

    def requests(self, job):
        asked.append(job)
        yield from whole(self, job)

    monkeypatch.setattr(BaseHistoricalExtractor, "requests", requests)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        eventually(lambda: Coverage.objects.filter(end__gt=datetime.now(UTC) - timedelta(seconds=1)).exists())
        live.filler.soon(time.time_ns())
        time.sleep(2.5)
        before = len(asked)
        time.sleep(1.0)
        assert len(asked) == before


def test_a_hole_that_history_refuses_is_asked_less_and_less(stage, monkeypatch):
    monkeypatch.setattr(filling, "EVERY", 0.2)
    stage.source.series.update(start=datetime.now(UTC) - timedelta(hours=1))
    asked = []

    def refused(self, request, landed=()):
        asked.append(time.monotonic())
        raise PermanentError("not in your plan")
        yield

    monkeypatch.setattr(ScriptedHistory, "pages", refused)
    with stage.running():
        stage.vendor.wait_connected(1)
        eventually(lambda: len(asked) >= 2)
        time.sleep(2.0)
    assert len(asked) <= 6


def test_losses_without_end_do_not_put_off_filling(stage):
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        stage.vendor.connections[0].channels.clear()
        trades(stage, 2)
        stage.vendor.connections[0].channels.add(Channel("trades", "BTC"))
        trades(stage, 3)
        until = time.monotonic() + 20
        while numbers(stage) != [1, 2, 3]:
            live.filler.soon(time.time_ns())
            assert time.monotonic() < until
            time.sleep(0.2)


def test_history_that_has_something_late_is_asked_once_more(stage):
    """A hole that is asked as soon as it is known may be filled before the vendor has published all of it."""
    series = stage.plan()[0]
    record = CatalogLiveLedger(Run.objects.create(kind="realtime", source=stage.source))
    now = datetime.now(UTC)
    hole = tuple(replace(one, start=now - timedelta(seconds=60), end=now) for one in series.instruments)
    request = Request(replace(series, filling=True, instruments=hole), hole)
    record.landed(record.open_fetch(request), 0, 0)
    (again,) = record.missing(request)
    assert timedelta(seconds=29) < again.end - again.start < timedelta(seconds=32)


def test_a_run_ends_in_time_whatever_hangs(stage, monkeypatch):
    hanging = threading.Event()

    class Hanging(ScriptedHistory):
        def pages(self, request, landed=()):
            hanging.wait(60)
            yield from super().pages(request, landed)

    stage.settings = replace(stage.settings, drain=0.5)
    Sleeper.awake, Sleeper.fails = threading.Event(), 0
    stage.source.series.update(start=datetime.now(UTC) - timedelta(hours=1))
    for name in ("a", "b"):
        Route.objects.create(
            series=stage.source.series.get(),
            destination=OutputDestination.objects.create(name=name, kind="database"),
        )
    stage.sinks = lambda route, ids: open_sink(route, ids) if route.destination == "store" else Sleeper({})
    try:
        with stage.running() as live:
            live.workshop = Workshop(
                Hanging(live.extractor.source, stage.vendor), live.workshop.landing, live.ledger, stage.sinks,
                live=live.extractor,
            )  # fmt: skip
            live.filler.workshop = live.workshop
            stage.vendor.wait_connected(1)
            trades(stage, 1)
            eventually(lambda: numbers(stage) == [1])
            begun = time.monotonic()
            live.stop()
            eventually(lambda: live._ledger_thread._shutdown, 30)
            assert time.monotonic() - begun < 4
            hanging.set()
            Sleeper.awake.set()
    finally:
        hanging.set()
        Sleeper.awake.set()


# -- what no parser expects -------------------------------------------------------------------------------------------


def test_a_frame_the_parser_stumbles_over_costs_itself_alone(stage):
    poison = b'{"k":"trades","s":"\\ud800","t":1700000000000000000,"i":"2","p":"1","q":"1"}'
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        # by itself: in company each frame is tried alone anyway
        stage.vendor.raw(poison)
        eventually(lambda: Quarantined.objects.count() == 1)
        trades(stage, 3)
        eventually(lambda: numbers(stage) == [1, 3])
        assert live.status.connections == 1
    (refused,) = Quarantined.objects.all()
    assert refused.rule == "frame can be parsed"
    assert "UnicodeEncodeError" in refused.reason
    assert json.loads(refused.raw) == poison.decode()
    accounted()


# -- ends, and what is gone -------------------------------------------------------------------------------------------


def test_a_connection_whose_last_frame_is_a_context_comes_to_its_end(stage, monkeypatch):
    whole = ScriptedLive.frames

    async def frames(self, request):
        async for item in whole(self, request):
            yield Frame(item.content, item.received, context=True) if _is_hello(item) else item

    monkeypatch.setattr(ScriptedLive, "frames", frames)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        trades(stage, 1)
        eventually(lambda: numbers(stage) == [1])
        stage.vendor.raw(b'{"hello": "again"}')
        (lane,) = live.lanes.values()
        (stint,) = live.stints
        eventually(lambda: stint.spool.written == 1 and stint.refinery.refined == 1)
        stage.vendor.drop()
        stage.vendor.wait_connected(2)
        # the second connection brings a context and nothing else, and the lane has come as far
        eventually(lambda: lane.stints and lane.stints[0] is not stint)
        begun = time.monotonic()
    assert time.monotonic() - begun < live.settings.drain
    assert not Delivery.objects.exclude(status="delivered").exists()


def _is_hello(item):
    return isinstance(item, Frame) and b"hello" in item.content


def test_a_run_ends_though_the_ledger_does_not_answer(stage, monkeypatch):
    hangs, let_go = threading.Event(), threading.Event()
    whole = CatalogLiveLedger.heard

    def heard(self, *arguments):
        hangs.set()
        let_go.wait(60)
        return whole(self, *arguments)

    stage.settings = replace(stage.settings, drain=1.0)
    live = stage.live(Run.objects.create(kind="realtime", source=stage.source))
    thread = threading.Thread(target=live.run)
    thread.start()
    try:
        stage.vendor.wait_connected(1)
        monkeypatch.setattr(CatalogLiveLedger, "heard", heard)
        assert hangs.wait(20)
        live.stop()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        let_go.set()
        thread.join(60)
        eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith(("complete", "ledger"))])


@pytest.mark.parametrize("required", [True, False])
def test_pages_are_deleted_when_every_required_route_has_them_and_nobody_waits_for_what_is_deleted(
    tmp_path, monkeypatch, required
):
    class Down(Sleeper):
        fails = 10_000

    rows = {}
    stage = Stage(
        tmp_path, sinks=lambda route, ids: Down(rows) if route.destination == "slow" else open_sink(route, ids)
    )
    slow = OutputDestination.objects.create(name="slow", kind="database")
    Route.objects.create(series=stage.series("live", "trades", "BTC"), destination=slow, required=required)
    stage.history = False
    with stage.running():
        for number in (1, 2, 3):
            stage.vendor.wait_connected(number)
            trades(stage, number)
            eventually(lambda: len(stage.rows("trades")) == number)  # noqa: B023
            if number < 3:
                stage.vendor.drop()
        eventually(lambda: Fetch.objects.filter(complete=True).count() == 2)
        eventually(lambda: Delivery.objects.filter(fetch__complete=True, status="delivered").count() == 2)
        monkeypatch.setattr(pruning, "landing", lambda: Landing(stage.root))
        DataSource.objects.update(keep_landed=timedelta(0))
        assert len(list(pruning.prune())) == (0 if required else 2)
        Down.fails = 0
        Down.awake.set()
        expected = [1, 2, 3] if required else [3]
        eventually(lambda: sorted(int(row["trade_id"]) for row in rows.values()) == expected, 60)
    waiting = Delivery.objects.exclude(status="delivered")
    assert [one.error for one in waiting] == ([] if required else [pruning._TOO_LATE] * 2)
    accounted()
