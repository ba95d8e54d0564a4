"""Connections of a live stand-in: who came, what was said, and waiting for either."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from dataclasses import field
from types import TracebackType
from typing import Any
from typing import Self
from typing import TypeVar

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from tests.vendors.live.words import Happening
from tests.vendors.server import Row

T = TypeVar("T")
Content = str | bytes
#: (schema, symbol) in our words; symbol * is all of them
Wanted = tuple[str, str]
#: seconds after which a test that waits fails
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A handshake as it came in; the connection is 0 where it was refused."""

    connection: int
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """A control message of a client, decoded where that was possible."""

    connection: int
    message: Any


@dataclass(slots=True)
class Fault:
    """What goes wrong `times` times: when a connection comes to a step, at `data` after so many messages of data."""

    kind: str
    step: str
    after: int = 0
    times: int = 1
    about: Row = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Client:
    """A connection; `channels` are the vendor's names of what it is subscribed to."""

    number: int
    socket: ServerConnection
    opened: Opened
    channels: dict[str, Wanted] = field(default_factory=dict)
    authenticated: bool = False
    silent: bool = False
    sent: int = 0
    #: what a vendor's stand-in must know of it
    notes: Row = field(default_factory=dict)

    @property
    def heard(self) -> bool:
        """Whether what is sent to it arrives."""
        there = self.socket.protocol.state is State.OPEN and not self.socket.transport.is_closing()
        return there and not self.silent


class Connections:
    """A server's loop in a thread of its own, and what a test can see of it."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.log: list[Said] = []
        self.clients: list[Client] = []
        self.happened: list[Happening] = []
        #: faults of the stand-in itself: the with-statement ends with the first
        self.errors: list[Exception] = []
        #: guards all of these, and tells of every change
        self.changed = threading.Condition()
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        self._port.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def url(self) -> str:
        """Where it answers, without a path."""
        return f"ws://127.0.0.1:{self._port.result(0)}"

    async def serve_all(self) -> None:
        """Serve until `_stop` is set."""
        raise NotImplementedError

    # -- what a test waits for ------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], what: str = "", timeout: float = PATIENCE) -> None:
        """Return when a condition on `clients`, `log`, `opened` holds; it is looked at whenever these change."""
        with self.changed:
            if not self.changed.wait_for(condition, timeout):
                state = [(client.number, client.silent, sorted(client.channels)) for client in self.clients]
                raise AssertionError(f"{what or 'what was awaited'} did not come: {state} {self.log[-5:]}")

    def wait_subscribed(self, wanted: Iterable[Wanted], timeout: float = PATIENCE) -> None:
        """Return when the connections that hear are subscribed, together, to all of these (schema, symbol)."""
        needed = set(wanted)
        self.wait_for(lambda: needed <= self.subscribed, f"subscription to {needed}", timeout)

    def wait_unsubscribed(self, unwanted: Iterable[Wanted], timeout: float = PATIENCE) -> None:
        """Return when no connection that hears is subscribed to any of these."""
        gone = set(unwanted)
        self.wait_for(lambda: not gone & self.subscribed, f"end of subscription to {gone}", timeout)

    def wait_connections(self, count: int, timeout: float = PATIENCE) -> None:
        """Return when so many connections have been made since the beginning, those that ended included."""
        self.wait_for(lambda: self.connections >= count, f"connection {count}", timeout)

    def wait_open(self, count: int, timeout: float = PATIENCE) -> None:
        """Return when exactly so many connections are open and hear."""
        self.wait_for(lambda: sum(client.heard for client in self.clients) == count, f"{count} connections", timeout)

    def wait_said(self, test: Callable[[Any], Any], count: int = 1, timeout: float = PATIENCE) -> None:
        """Return when so many control messages of the log pass a test."""
        self.wait_for(lambda: sum(bool(test(said.message)) for said in self.log) >= count, "a message", timeout)

    def ping(self, timeout: float = PATIENCE) -> int:
        """Ping all connections and return how many answered: those of which it is expected must."""

        async def ask() -> int:
            waiters = [await client.socket.ping() for client in list(self.clients) if client.heard]
            await asyncio.gather(*waiters)
            return len(waiters)

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(timeout)

    def drain(self, timeout: float = PATIENCE) -> None:
        """Return when little of what was sent still waits here because clients do not read."""

        async def empty() -> None:
            for client in list(self.clients):
                if client.heard:
                    await client.socket.drain()

        asyncio.run_coroutine_threadsafe(empty(), self._loop).result(timeout)

    @property
    def subscribed(self) -> set[Wanted]:
        """What the connections that hear are subscribed to."""
        return {wanted for client in self.clients if client.heard for wanted in client.channels.values()}

    @property
    def connections(self) -> int:
        """Connections made since the beginning."""
        return sum(opened.connection > 0 for opened in self.opened)

    @property
    def unsent(self) -> int:
        """Bytes that wait here because clients do not read."""
        return self.do(lambda: sum(client.socket.transport.get_write_buffer_size() for client in self.clients))

    def _run(self) -> None:
        try:
            asyncio.run(self.serve_all())
        except BaseException as error:
            if self._port.done():
                raise
            self._port.set_exception(error)

    def do(self, work: Callable[[], T]) -> T:
        """Return what a function returns that runs on the server's loop."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)


def reset(connection: ServerConnection) -> None:
    """Close with RST: whatever was not sent yet is gone."""
    if connection.transport.is_closing():
        return
    lingering: Any = connection.transport.get_extra_info("socket")
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()
