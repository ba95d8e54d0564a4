"""A live stand-in does wrong what it is told to, at every step, and everything else right."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidMessage
from websockets.exceptions import InvalidStatus
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.massive import MassiveLiveStandIn
from tests.vendors.live.talk import LONG
from tests.vendors.live.talk import START
from tests.vendors.live.talk import client
from tests.vendors.live.talk import said
from tests.vendors.live.talk import tell

TRADES = {("trades", "BTCUSDT")}


def trades(stand_in: Any, count: int, symbol: str = "BTCUSDT") -> list[Any]:
    return stand_in.rows("trades", symbol, START, START + timedelta(seconds=7 * count))[:count]


ENDINGS: dict[str, Callable[[BinanceLiveStandIn], None]] = {
    "fin": lambda stand_in: stand_in.fin(),
    "bare fin": lambda stand_in: stand_in.fin(None),
    "rst": lambda stand_in: stand_in.rst(),
    "cut": lambda stand_in: stand_in.cut("trades", "BTCUSDT", trades(stand_in, 2)[1]),
    "rotate": lambda stand_in: stand_in.rotate(),
    "throttle": lambda stand_in: stand_in.throttle(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_connections_end_and_others_can_be_made(ending: str) -> None:
    with BinanceLiveStandIn() as binance:
        with client(binance, "/ws/btcusdt@trade") as socket:
            binance.wait_subscribed(TRADES)
            binance.publish("trades", "BTCUSDT", trades(binance, 1))
            ENDINGS[ending](binance)
            assert said(socket)["e"] == "trade"
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(LONG)
        assert (caught.value.rcvd is not None) == (ending in ("fin", "rotate", "throttle"))
        binance.wait_open(0)
        # half of a record is none, but it happened
        assert len(binance.truth("trades", "BTCUSDT")) == 1 + (ending == "cut")
        with client(binance, "/ws/btcusdt@trade") as socket:
            binance.wait_connections(2)
            binance.wait_subscribed(TRADES)
            assert binance.publish("trades", "BTCUSDT", trades(binance, 3)[2]) == 1
            assert said(socket)["e"] == "trade"


def test_a_silent_connection_stays_open_and_says_nothing() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws/btcusdt@trade", ping_interval=None) as socket:
        binance.wait_subscribed(TRADES)
        assert binance.ping() == 1
        binance.silence()
        assert binance.publish("trades", "BTCUSDT", trades(binance, 1)) == 0
        assert binance.subscribed == set()
        pong = socket.ping()
        with pytest.raises(TimeoutError):
            socket.recv(0.1)
        assert not pong.is_set()


@pytest.mark.parametrize(("status", "waits"), [(503, None), (429, "7")])
def test_handshakes_are_refused(status: int, waits: str | None) -> None:
    with BinanceLiveStandIn() as binance:
        if waits:
            binance.throttle(7, handshakes=2)
        else:
            binance.refuse(2, status)
        for _ in range(2):
            with pytest.raises(InvalidStatus) as caught, client(binance, "/ws"):
                pass
            assert caught.value.response.status_code == status
            assert caught.value.response.headers.get("Retry-After") == waits
        with client(binance, "/ws"):
            binance.wait_connections(1)
        assert [opened.connection for opened in binance.opened] == [0, 0, 1]
        with pytest.raises(InvalidStatus, match="404"), client(binance, "/other"):
            pass


@pytest.mark.parametrize("step", ["connect", "auth", "subscribe", "data"])
@pytest.mark.parametrize("kind", ["fin", "rst", "cut", "silence", "slow_consumer"])
def test_every_step_can_fail(step: str, kind: str) -> None:
    with MassiveLiveStandIn() as massive:
        massive.fail(kind, step)
        with pytest.raises(TimeoutError if kind == "silence" else ConnectionClosed):
            visit(massive)
        assert [message["ev"] for message in visit(massive)] == ["status", "status", "status", "T", "T"]


def visit(massive: MassiveLiveStandIn) -> list[Any]:
    """Return what two trades bring, from the handshake on; TimeoutError where the server went silent."""
    found: list[Any] = []
    with client(massive, "/stocks") as socket:
        found += patient(massive, socket)
        tell(socket, action="auth", params="massive-test-key")
        found += patient(massive, socket)
        tell(socket, action="subscribe", params="T.AAPL")
        found += patient(massive, socket)
        for trade in trades(massive, 2, "AAPL"):
            massive.publish("trades", "AAPL", trade)
            found += patient(massive, socket)
        # a fault after the last message is one too
        assert massive.ping() == 1
    return found


def patient(massive: MassiveLiveStandIn, socket: ClientConnection) -> Any:
    while True:
        try:
            return json.loads(socket.recv(0.05))
        except TimeoutError:
            if massive.clients[-1].silent:
                raise


def test_handshakes_are_reset() -> None:
    with MassiveLiveStandIn() as massive:
        massive.fail("rst", "handshake")
        with pytest.raises((InvalidMessage, OSError)), client(massive, "/stocks"):
            pass
        assert len(visit(massive)) == 5
        with pytest.raises(ValueError, match="nothing called 'cut' can happen at handshake"):
            massive.fail("cut", "handshake")


def test_a_fault_waits_for_so_many_messages() -> None:
    with BinanceLiveStandIn() as binance:
        binance.fail("rst", "data", after=2)
        with client(binance, "/ws/btcusdt@trade") as socket:
            binance.wait_subscribed(TRADES)
            assert binance.publish("trades", "BTCUSDT", trades(binance, 5)) == 1
            assert [said(socket)["e"], said(socket)["e"]] == ["trade", "trade"]
            with pytest.raises(ConnectionClosed):
                socket.recv(LONG)
        with pytest.raises(ValueError, match="binance has no step 'auth'"):
            binance.fail("rst", "auth")


def test_records_come_twice_and_out_of_order() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws/btcusdt@trade") as socket:
        binance.wait_subscribed(TRADES)
        one, two, three = trades(binance, 3)
        binance.duplicate()
        binance.publish("trades", "BTCUSDT", one)
        binance.reorder(2)
        binance.publish("trades", "BTCUSDT", two)
        binance.publish("trades", "BTCUSDT", three)
        numbers = [str(said(socket)["t"]) for _ in range(4)]
        assert numbers == [row["trade_id"] for row in (one, one, three, two)]
        assert [row["trade_id"] for row in binance.truth("trades", "BTCUSDT")] == [
            row["trade_id"] for row in (one, two, three)
        ]


def test_any_frame_can_be_sent() -> None:
    with BinanceLiveStandIn(compression="deflate") as binance, client(binance, "/ws", max_size=None) as socket:
        binance.wait_open(1)
        binance.raw('{"e":"tra')
        binance.raw(b"\x00\xff")
        binance.raw(b'{"e":1}', binary=False)
        binance.raw("0" * 50_000_000)
        assert socket.recv(LONG) == '{"e":"tra'
        assert socket.recv(LONG) == b"\x00\xff"
        assert socket.recv(LONG) == '{"e":1}'
        # so much out of 50 kB
        assert len(socket.recv(LONG)) == 50_000_000


def test_what_a_client_does_not_read_waits_here() -> None:
    with BinanceLiveStandIn() as binance, client(binance, "/ws", max_queue=1, max_size=None) as socket:
        binance.wait_open(1)
        for _ in range(40):
            binance.raw("0" * 1_000_000)
        assert binance.unsent > 10_000_000
        for _ in range(40):
            socket.recv(LONG)
        binance.drain()
        assert binance.unsent < 1_000_000


def failure(url: str) -> Exception | None:
    try:
        connect(url, proxy=None, open_timeout=LONG).close()
    except (WebSocketException, OSError) as error:
        return error
    return None


def test_the_end_of_a_stand_in_is_the_end_of_its_connections() -> None:
    with BinanceLiveStandIn() as binance:
        binance.fail("silence", "handshake")
        failed: list[type] = []
        waiting = threading.Thread(target=lambda: failed.append(type(failure(binance.url + "/ws"))))
        waiting.start()
        binance.wait_for(lambda: binance.opened)
        sockets = [connect(binance.url + "/ws", close_timeout=0.1, proxy=None) for _ in range(2)]
        binance.silence()
    for socket in sockets:
        with pytest.raises(ConnectionClosed):
            socket.recv(LONG)
        socket.close()
    waiting.join(LONG)
    assert failed == [InvalidMessage]


def test_a_fault_of_the_stand_in_itself_is_not_taken_for_the_vendors() -> None:
    class Broken(BinanceLiveStandIn):
        def hear(self, client: Any, message: Any) -> None:
            raise LookupError("broken")

    def visit() -> None:
        with Broken() as binance, client(binance, "/ws") as socket:
            tell(socket, method="LIST_SUBSCRIPTIONS", id=1)
            with pytest.raises(ConnectionClosed):
                socket.recv(LONG)

    with pytest.raises(LookupError, match="broken"):
        visit()
