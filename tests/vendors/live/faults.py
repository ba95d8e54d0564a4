"""What can go wrong with the connections of a live stand-in: at once, or when one comes to a step."""

import asyncio
from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import Final

from websockets.frames import Frame
from websockets.frames import Opcode

from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Connections
from tests.vendors.live.connections import Fault
from tests.vendors.live.connections import reset
from tests.vendors.live.words import Happening
from tests.vendors.server import Row

#: kinds of faults that can happen before a connection is one
AT_THE_HANDSHAKE: Final = ("refuse", "throttle", "rst", "silence")


class Faults(Connections):
    """Faults: `do_…` is what happens to one connection, on the server's loop; the other methods are a test's."""

    #: name of the vendor in the registry
    vendor: ClassVar[str]
    #: what a connection goes through; a fault can wait at each
    steps: ClassVar[Sequence[str]] = ("handshake", "connect", "auth", "subscribe", "data")

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def fail(self, kind: str, at: str = "connect", after: int = 0, times: int = 1, **about: Any) -> None:
        """Let something go wrong with the next connections that come to a step; can be called before any is there.

        Kinds are those of the methods below, and `refuse` (about: status, seconds) at the handshake.
        """
        if at not in self.steps:
            raise ValueError(f"{self.vendor} has no step {at!r}; it has {', '.join(self.steps)}")
        if not (kind in AT_THE_HANDSHAKE if at == "handshake" else hasattr(self, f"do_{kind}")):
            raise ValueError(f"nothing called {kind!r} can happen at {at}")
        with self.changed:
            self.faults.append(Fault(kind, at, after, times, about))

    def refuse(self, times: int = 1, status: int = 503) -> None:
        """Answer the next handshakes with an HTTP status."""
        self.fail("refuse", "handshake", times=times, status=status)

    def fin(self, code: int | None = 1000) -> None:
        """Close all connections, in order, or without a word (None: a bare FIN of TCP)."""
        self.strike("fin", code=code)

    def rst(self) -> None:
        """Reset all connections."""
        self.strike("rst")

    def silence(self) -> None:
        """Keep all connections open, and never read or write on them again."""
        self.strike("silence")

    def cut(self, schema: str = "", symbol: str = "", record: Row | None = None) -> None:
        """Send half of a frame to all connections and reset them; where a record is given, of that record."""
        happening = record and Happening(schema, symbol, record, self.row(schema, symbol, record))
        if happening:
            with self.changed:
                self.happened.append(happening)
        self.strike("cut", happening=happening)

    def rotate(self) -> None:
        """Close all connections because they have lived long enough."""
        self.strike("rotate")

    def throttle(self, seconds: float = 0.05, handshakes: int = 0) -> None:
        """Tell all connections that they ask too much; answer the next handshakes with 429 and Retry-After."""
        if handshakes:
            self.fail("refuse", "handshake", times=handshakes, status=429, seconds=seconds)
        self.strike("throttle", seconds=seconds)

    def auth_failure(self, times: int = 1) -> None:
        """Refuse the key of the next connections, although it is right."""
        self.fail("auth_failure", "auth", times=times)

    def slow_consumer(self) -> None:
        """Tell all connections that they read too slowly."""
        self.strike("slow_consumer")

    def shutdown_notice(self) -> None:
        """Tell all connections that the server will go."""
        self.strike("shutdown_notice")

    # -- what happens to a connection -----------------------------------------------------------------------------

    def do_rotate(self, client: Client) -> None:
        """End a connection that has lived its time."""
        self.close(client, 1001, "")

    def do_throttle(self, client: Client, seconds: float = 0) -> None:
        """End a connection that asked too much; at the handshake it is HTTP 429."""
        self.close(client, 1008, "Too many requests")

    def do_auth_failure(self, client: Client) -> None:
        """Refuse the key."""
        raise AssertionError(f"{self.vendor} asks for no key")

    def do_slow_consumer(self, client: Client) -> None:
        """Say that the client reads too slowly, as the vendor does."""
        raise AssertionError(f"{self.vendor} says nothing to slow readers")

    def do_shutdown_notice(self, client: Client) -> None:
        """Say that the server will go."""
        raise AssertionError(f"{self.vendor} says nothing before it goes")

    def do_fin(self, client: Client, code: int | None = 1000) -> None:
        if code is None:
            client.socket.transport.close()
        else:
            self.close(client, code, "")

    def do_rst(self, client: Client) -> None:
        reset(client.socket)

    def do_silence(self, client: Client) -> None:
        client.silent = True
        client.socket.transport.pause_reading()
        if client.socket.keepalive_task:
            client.socket.keepalive_task.cancel()

    def do_cut(self, client: Client, happening: Happening | None = None) -> None:
        frames = list(self.frames(client, [happening])) if happening else []
        content = frames[0] if frames else '{"never":"the whole of it"}'
        opcode = Opcode.TEXT if isinstance(content, str) else Opcode.BINARY
        whole = Frame(opcode, content.encode() if isinstance(content, str) else content).serialize(mask=False)
        client.socket.transport.write(whole[: len(whole) // 2])
        reset(client.socket)

    def close(self, client: Client, code: int, reason: str) -> None:
        """Close a connection in order; the client's answer is not waited for."""
        task = self._loop.create_task(client.socket.close(code, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def trips(self, step: str, client: Client) -> bool:
        """Return whether something waited at this step; it has gone wrong then."""
        fault = self.fault(step, client.sent)
        if fault:
            self._happens(fault.kind, client, fault.about)
        return fault is not None

    def fault(self, step: str, sent: int) -> Fault | None:
        """Return what waits at a step of a connection that was sent so much, and take it as having happened."""
        with self.changed:
            for fault in self.faults:
                if fault.step == step and fault.times > 0 and (step != "data" or sent >= fault.after):
                    fault.times -= 1
                    return fault
        return None

    def strike(self, kind: str, **about: Any) -> None:
        """Let something happen to all connections, now."""
        self.do(lambda: [self._happens(kind, client, about) for client in list(self.clients)])

    def _happens(self, kind: str, client: Client, about: Row) -> None:
        with self.changed:
            getattr(self, f"do_{kind}")(client, **about)
            self.changed.notify_all()
