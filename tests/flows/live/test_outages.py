"""What is away comes back: destinations that sleep or die, a ledger that is gone, and nothing is lost or doubled."""

import resource
import threading
import time
from pathlib import Path

import pytest
from django.db import connection

from catalog.errors import TransientError
from catalog.models import Delivery
from catalog.models import OutputDestination
from catalog.models import Route
from flows.live import ring
from flows.live import stint as stints
from flows.live.runner import Settings
from flows.workshops import open_sink
from tests.flows.live.kit import Stage
from tests.flows.live.kit import accounted
from tests.flows.live.kit import eventually
from tests.vendors.harness import Shelf

pytestmark = pytest.mark.django_db(transaction=True)


class Sleeper(Shelf):
    """A destination that takes its time, or fails, as a test says."""

    awake = threading.Event()
    fails = 0

    def write(self, schema, table, *, replace=True):
        cls = type(self)
        if cls.fails:
            cls.fails -= 1
            raise TransientError("not now")
        assert cls.awake.wait(60)
        return super().write(schema, table, replace=replace)


@pytest.fixture
def sleeper():
    Sleeper.awake = threading.Event()
    Sleeper.fails = 0
    rows = {}

    def opened(route, ids):
        return Sleeper(rows) if route.destination == "slow" else open_sink(route, ids)

    yield opened, rows
    Sleeper.awake.set()


def with_slow(stage, opened):
    stage.sinks = opened
    series = stage.series("live", "trades", "BTC")
    slow = OutputDestination.objects.create(name="slow", kind="database")
    Route.objects.create(series=series, destination=slow)
    return series


def test_a_destination_that_sleeps_harms_no_other_and_takes_no_memory(tmp_path, sleeper, monkeypatch):
    opened, rows = sleeper
    # a small ring, so that the sleeper falls out of it and reads what has landed
    monkeypatch.setattr(stints, "Ring", lambda: ring.Ring(100_000))
    stage = Stage(tmp_path)
    with_slow(stage, opened)
    total = 20_000
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        for number in range(1, total + 1):
            stage.vendor.trade("BTC", number)
        eventually(lambda: len(stage.rows("trades")) == total, 60)
        kept = max(one.size for stint in live.stints for one in [channel.ring for channel in stint.channels.values()])
        assert kept < 100_000 + 20_000 * 300
        assert not rows
        Sleeper.awake.set()
        eventually(lambda: len(rows) == total, 60)
    assert sorted(int(row["trade_id"]) for row in rows.values()) == list(range(1, total + 1))
    accounted()


def test_a_destination_that_fails_is_tried_from_its_cursor(tmp_path, sleeper):
    opened, rows = sleeper
    Sleeper.awake.set()
    stage = Stage(tmp_path)
    with_slow(stage, opened)
    # what history brings may meet the failing destination too, and is tried again later
    live_ones = Delivery.objects.filter(fetch__live=True)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        stage.vendor.trade("BTC", 1)
        eventually(lambda: len(rows) == 1)
        Sleeper.fails = 3
        for number in range(2, 200):
            stage.vendor.trade("BTC", number)
        eventually(lambda: len(rows) == 199)
        eventually(lambda: all(lane.lag.error == "" for lane in live.lanes.values()))
        eventually(lambda: not live_ones.filter(status="failed").exists())
    assert list(dict.fromkeys(int(row["trade_id"]) for row in rows.values())) == list(range(1, 200))
    assert not live_ones.exclude(status="delivered").exists()
    assert not live_ones.exclude(error="").exists()
    accounted()


def test_a_ledger_that_is_away_stops_no_landing(tmp_path, database):
    """Every connection to the database is cut again and again, as by a server that restarts."""
    if database == "sqlite":
        pytest.skip("SQLite is no server that can go away")
    stage = Stage(tmp_path)
    stage.series("live", "trades", "BTC")
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        number = 0
        for _ in range(15):
            for _ in range(100):
                number += 1
                stage.vendor.trade("BTC", number)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            time.sleep(0.05)
        eventually(lambda: len(stage.rows("trades")) == number, 60)
        assert live.status.connections == 1
    assert sorted(int(row["trade_id"]) for row in stage.rows("trades")) == list(range(1, number + 1))
    accounted()


def test_memory_stays_where_it_is(tmp_path, sleeper, monkeypatch):
    """Frames that nobody takes lie on the disk: 60 MB of them do not show in memory."""
    opened, _ = sleeper
    stage = Stage(tmp_path)
    stage.sinks = opened
    series = stage.series("live", "trades", "BTC")
    Route.objects.filter(series=series).update(
        destination=OutputDestination.objects.create(name="slow", kind="database"), home=False
    )
    monkeypatch.setattr(stints, "Ring", lambda: ring.Ring(1_000_000))
    with stage.running():
        stage.vendor.wait_connected(1)
        stage.vendor.trade("BTC", 0)
        eventually(lambda: Path(tmp_path, "feed").exists())
        before = _resident()
        padding = " " * 3000
        for number in range(1, 20_001):
            stage.vendor.raw(
                b'{"k":"trades","s":"BTC","t":%d,"i":"%d","p":"1","q":"1"}%b'
                % (time.time_ns(), number, padding.encode())
            )
            if not number % 500:
                # the test's own queue shall not be what grows
                eventually(lambda: stage.vendor.connections[0].queue.empty())
        landed = sum(path.stat().st_size for path in tmp_path.rglob("*.frames"))
        assert landed > 55_000_000
        assert _resident() - before < 40_000_000
        Sleeper.awake.set()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_redis_that_dies_gets_all_in_order_later(tmp_path, server):
    stage = Stage(tmp_path)
    series = stage.series("live", "trades", "BTC")
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    options = {"host": "127.0.0.1", "port": port, "timeout": 1.0}
    destination = OutputDestination.objects.create(name="cache", kind="redis", options=options)
    Route.objects.create(series=series, destination=destination)
    with stage.running() as live:
        stage.vendor.wait_connected(1)
        number = 0
        for outage in range(4):
            for _ in range(100):
                number += 1
                stage.vendor.trade("BTC", number)
            if outage % 2:
                server.start()
            else:
                server.stop()
                eventually(lambda: live.lanes["trades", "cache"].lag.error, 20)
        # what it lost with its memory is gone; what it was not told yet comes, in order
        with server.client() as client:
            eventually(lambda: _told(client)[-1:] == [number], 40)
            told = _told(client)
    assert told == sorted(told)
    assert len(set(told)) == len(told)
    assert len(stage.rows("trades")) == number
    eventually(lambda: not Delivery.objects.exclude(status="delivered").exists())
    accounted()


def _told(client):
    key = next(iter(client.scan_iter("*:trades", _type="stream")), None)
    return [int(fields[b"trade_id"]) for _, fields in client.xrange(key)] if key else []


def test_what_an_earlier_run_left_is_delivered_before_anything_newer(tmp_path, server):
    stage = Stage(tmp_path, settings=Settings(refresh=0.2, drain=1.0))
    port = int(server.url.rpartition(":")[2])
    options = {"host": "127.0.0.1", "port": port, "timeout": 1.0}
    cache = OutputDestination.objects.create(name="cache", kind="redis", options=options)
    Route.objects.create(series=stage.series("live", "trades", "BTC"), destination=cache)
    with stage.running():
        stage.vendor.wait_connected(1)
        publish(stage, 1, 51)
        with server.client() as client:
            eventually(lambda: _told(client)[-1:] == [50])
        server.stop()
        publish(stage, 51, 101)
        eventually(lambda: len(stage.rows("trades")) == 100)
    with stage.running() as live:
        stage.vendor.wait_connected(2)
        publish(stage, 101, 151)
        eventually(lambda: len(stage.rows("trades")) == 150)
        eventually(lambda: live.lanes["trades", "cache"].lag.error)
        server.start()
        with server.client() as client:
            eventually(lambda: _told(client)[-1:] == [150], 60)
            told = _told(client)
        # what it had before it went away is gone with it, but for what was not noted yet
        assert told == list(range(told[0], 151))
        assert told[0] <= 51
    accounted()
    assert not Delivery.objects.filter(fetch__live=True, superseded__gt=0).exists()


def publish(stage, first, end):
    for number in range(first, end):
        stage.vendor.trade("BTC", number)
