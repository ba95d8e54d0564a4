"""What every live stand-in shares: a real WebSocket server on loopback that says what a test publishes, and fails on
command, at once or when a connection comes to a step."""

import asyncio
import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from typing import ClassVar
from urllib.parse import parse_qsl
from urllib.parse import unquote
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import broadcast
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.http11 import Response

from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Content
from tests.vendors.live.connections import Opened
from tests.vendors.live.connections import Said
from tests.vendors.live.connections import Wanted
from tests.vendors.live.connections import reset
from tests.vendors.live.faults import Faults
from tests.vendors.live.words import Happening
from tests.vendors.live.words import nanoseconds
from tests.vendors.live.words import true_rows
from tests.vendors.server import Row

__all__ = ["Client", "LiveStandIn", "Opened", "Said"]


class LiveStandIn(Faults):
    """A vendor's live server on loopback; a subclass greets, understands control messages and writes records.

    Whatever a test calls returns when the server has done it; what waits for a client (`wait_…`, `ping`, `drain`) must
    not run on the loop of that client: `await asyncio.to_thread(stand_in.wait_subscribed, …)`.
    """

    #: secrets that are accepted, by ending of the variable
    keys: ClassVar[Mapping[str, str]] = {}
    #: schema → vendor symbols there are
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: seconds between the vendor's pings, and for the answer
    pings: ClassVar[tuple[float | None, float | None]] = (None, None)

    def __init__(self, compression: str | None = None) -> None:
        super().__init__()
        #: "deflate" where frames may be compressed (a zip bomb is a large frame then)
        self.compression = compression
        self._twice = 0
        self._shuffled = 0
        self._held: list[Happening] = []

    # -- what a subclass says -------------------------------------------------------------------------------------

    def admit(self, opened: Opened) -> tuple[int, str] | None:
        """Return status and words that refuse a handshake; None where it may pass."""
        return None

    def meet(self, client: Client) -> None:
        """Note what must be known of a connection before anything is said on it."""

    def greet(self, client: Client) -> None:
        """Say what comes before the client says anything."""

    def hear(self, client: Client, message: Any) -> None:
        """Answer a control message; where it could not be decoded it is the bytes or text that came."""
        raise NotImplementedError

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        """Return the row that the vendor's words for a record mean; ValueError where it has no words for it."""
        raise NotImplementedError

    def encode(self, client: Client, channel: str, happening: Happening) -> list[Any]:
        """Return what is said of a happening on a channel; nothing where the channel has nothing of that kind."""
        raise NotImplementedError

    def decode(self, client: Client, content: Content) -> Any:
        """Return a control message as an object; ValueError where it is none."""
        return json.loads(content)

    def pack(self, client: Client, messages: Sequence[Any]) -> Iterable[Content]:
        """Return the frames that messages are sent in; the base sends each in one of its own, as JSON."""
        return [json.dumps(message, separators=(",", ":")) for message in messages]

    # -- what a test does -----------------------------------------------------------------------------------------

    def publish(self, schema: str, symbol: str, record: Row | Sequence[Row], kind: str = "final") -> int:
        """Let records happen, and say them to every connection that is subscribed; return how many heard of it.

        A record has columns of ours: `ts_event` an aware time or nanoseconds since 1970, numbers as Decimal.
        """
        records = [record] if isinstance(record, dict) else record
        happenings = [Happening(schema, symbol, one, self.row(schema, symbol, one), kind) for one in records]
        return self.do(lambda: self._publish(happenings))

    def provisional(self, schema: str, symbol: str, record: Row | Sequence[Row]) -> int:
        """Say bars that are still open."""
        return self.publish(schema, symbol, record, "provisional")

    def revise(self, schema: str, symbol: str, record: Row | Sequence[Row]) -> int:
        """Say bars once more that were final, as they became."""
        return self.publish(schema, symbol, record, "revised")

    def truth(self, schema: str, symbol: str, start: datetime | int = 0, end: datetime | int = 2**63) -> list[Row]:
        """Return the rows of what happened in `[start, end)`, heard or not, in order of time."""
        low, high = nanoseconds(start), nanoseconds(end)
        with self.changed:
            rows = true_rows(self.happened, schema, symbol)
        return [row for row in rows if "ts_event" not in row or low <= nanoseconds(row["ts_event"]) < high]

    def raw(self, content: Content, *, binary: bool | None = None) -> int:
        """Send a frame as it is to all connections: text is a text frame, bytes a binary one unless said otherwise."""
        as_text = None if binary is None else not binary
        return self.do(lambda: sum(self._write(client, content, as_text) for client in list(self.clients)))

    def duplicate(self, count: int = 1) -> None:
        """Say each of the next published records twice."""
        with self.changed:
            self._twice += count

    def reorder(self, count: int = 2) -> None:
        """Keep the next published records until there are so many, and say them the other way round."""
        with self.changed:
            self._shuffled = count

    # -- what a subclass uses, on the server's loop ---------------------------------------------------------------

    def send(self, client: Client, *messages: Any) -> None:
        """Send control messages."""
        for frame in self.pack(client, messages):
            self._write(client, frame)

    def subscribe(self, client: Client, channels: Mapping[str, Wanted]) -> None:
        """Note what a connection is subscribed to, beside what it was."""
        with self.changed:
            client.channels.update(channels)
            self.changed.notify_all()

    def unsubscribe(self, client: Client, channels: Iterable[str]) -> None:
        """Note what a connection is not subscribed to any more."""
        with self.changed:
            for channel in channels:
                client.channels.pop(channel, None)
            self.changed.notify_all()

    # -- the server -----------------------------------------------------------------------------------------------

    async def serve_all(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        interval, timeout = self.pings
        async with serve(
            self._handle, "127.0.0.1", 0, process_request=self._admit, compression=self.compression, open_timeout=None,
            ping_interval=interval, ping_timeout=timeout, close_timeout=5, max_queue=None,
        ) as server:  # fmt: skip
            (listening,) = server.sockets
            self._port.set_result(listening.getsockname()[1])
            await self._stop.wait()
            for connection in list(server.handlers):
                connection.transport.abort()

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
        opened = Opened(0, unquote(parts.path), params, headers)
        refusal, waiting = self.admit(opened), {}
        fault = self.fault("handshake", 0)
        if fault:
            about = {"status": 429 if fault.kind == "throttle" else 503, **fault.about}
            refusal = (about["status"], "come back later")
            waiting = {"Retry-After": f"{about['seconds']:g}"} if "seconds" in about else {}
        with self.changed:
            opened = replace(opened, connection=0 if refusal else self.connections + 1)
            self.opened.append(opened)
            self.changed.notify_all()
        if fault and fault.kind in ("rst", "silence"):
            if fault.kind == "silence":
                await self._stop.wait()
            reset(connection)
            raise asyncio.CancelledError
        if refusal:
            response = connection.respond(*refusal)
            response.headers.update(waiting)
            return response
        connection.opened = opened  # type: ignore[attr-defined]
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        opened: Opened = connection.opened  # type: ignore[attr-defined]
        client = Client(opened.connection, connection, opened)
        with self.changed:
            self.clients.append(client)
            self.changed.notify_all()
        try:
            self.meet(client)
            if not self.trips("connect", client):
                self.greet(client)
            async for content in connection:
                try:
                    message = self.decode(client, content)
                except ValueError:
                    message = content
                with self.changed:
                    self.log.append(Said(client.number, message))
                    self.changed.notify_all()
                if client.heard:
                    self.hear(client, message)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            with self.changed:
                self.clients.remove(client)
                self.changed.notify_all()

    def _publish(self, happenings: list[Happening]) -> int:
        with self.changed:
            self.happened += happenings
            groups = [happenings]
            if self._twice:
                groups.append(happenings[: self._twice])
                self._twice -= len(groups[1])
            elif self._shuffled:
                self._held += happenings
                groups = []
                if len(self._held) >= self._shuffled:
                    groups = [self._held[: self._shuffled][::-1], self._held[self._shuffled :]]
                    self._held, self._shuffled = [], 0
        got = {client.number for group in groups for client in list(self.clients) if self._tell(client, group)}
        with self.changed:
            self.changed.notify_all()
        return len(got)

    def _tell(self, client: Client, happenings: list[Happening]) -> bool:
        told = False
        for frame in self.frames(client, happenings):
            if not client.heard or self.trips("data", client) or not self._write(client, frame):
                break
            told = True
            client.sent += 1
            if self.trips("data", client):
                break
        return told

    def frames(self, client: Client, happenings: list[Happening]) -> Iterable[Content]:
        messages = [
            message
            for one in happenings
            for channel, (schema, symbol) in client.channels.items()
            if schema == one.schema and symbol in (one.symbol, "*")
            for message in self.encode(client, channel, one)
        ]
        return self.pack(client, messages) if messages else ()

    def _write(self, client: Client, content: Content, as_text: bool | None = None) -> bool:
        if not client.heard:
            return False
        # never waits: whether a client reads is its own matter
        broadcast([client.socket], content, raise_exceptions=True, text=as_text)
        return True
