"""Databento's gateway as a server: sessions over TCP, what can go wrong with them, and heartbeats."""

import asyncio
import time
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import databento_dbn as dbn
import zstandard

from tests.vendors.live.connections import Content
from tests.vendors.live.connections import Opened
from tests.vendors.live.connections import Said
from tests.vendors.live.connections import reset
from tests.vendors.live.server import Client
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.words import Happening
from tests.vendors.live.words import nanoseconds
from tests.vendors.server import Row

#: errors after which the session goes on
PASSING = (dbn.ErrorCode.SYMBOL_RESOLUTION_FAILED, dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING)


@dataclass(eq=False, slots=True)
class Session(Client):
    """A connection; `socket` is its writer. `terms` are what it said when it authenticated."""

    @property
    def heard(self) -> bool:
        return not self.socket.transport.is_closing() and not self.silent

    @property
    def terms(self) -> Mapping[str, str]:
        return self.notes.get("terms", {})

    @property
    def started(self) -> bool:
        return self.notes.get("started", False)


class Gateway(LiveStandIn):
    """A server of sessions; a subclass speaks with them."""

    steps = ("connect", "challenge", "auth", "subscribe", "start", "header", "replay", "data")

    def __init__(self) -> None:
        super().__init__()
        #: seconds between heartbeats where there is nothing else to say; 0: as the client asked
        self.beats = 0.0
        self._skipping = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port.result(0)}"

    def header(self, client: Session) -> bytes:
        """Return what precedes the records of a session."""
        raise NotImplementedError

    # -- what a test does -----------------------------------------------------------------------------------------

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections while a block runs; those that are open stay."""
        self.do(self._server.close)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Send nothing that happens while a block runs, and then say that it was skipped for a slow reader."""
        self._skipping = True
        try:
            yield
        finally:
            self._skipping = False
            self.error(dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING, "Slow client detected for session")

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Send nothing that happens while a block runs, as a gateway does that has not come to it yet."""
        self._skipping = True
        try:
            yield
        finally:
            self._skipping = False

    def heartbeat(self) -> None:
        """Say to all sessions that they are alive."""
        self.system(dbn.SystemCode.HEARTBEAT, "Heartbeat")

    def end_of_interval(self, schema: str, end: datetime) -> None:
        """Say to all sessions that every record of an interval was sent."""
        self.system(dbn.SystemCode.END_OF_INTERVAL, f"End of interval for {schema}", nanoseconds(end))

    def system(self, code: Any, words: str, moment: int | None = None) -> None:
        """Say something to all sessions."""
        self.strike("system", code=code, words=words, moment=moment)

    def error(self, code: Any, words: str) -> None:
        """Say to all sessions that something is wrong; most errors end them."""
        self.strike("error", code=code, words=words)

    # -- what happens to a session --------------------------------------------------------------------------------

    def do_fin(self, client: Session, code: int | None = 1000) -> None:
        client.socket.transport.close()

    def do_rotate(self, client: Session) -> None:
        client.socket.transport.close()

    def do_silence(self, client: Session) -> None:
        client.silent = True
        client.socket.transport.pause_reading()

    def do_cut(self, client: Session, happening: Happening | None = None, by: str = "rst") -> None:
        whole = self.header(client)
        if client.started:
            records = list(self.frames(client, [happening])) if happening else []
            whole = records[0] if records else self.system_record(client, dbn.SystemCode.HEARTBEAT, "Heartbeat")
        client.socket.write(whole[: len(whole) // 2])
        if by == "rst":
            reset(client.socket)
        else:
            client.socket.transport.close()

    def do_auth_failure(self, client: Session) -> None:
        self.do_refusal(client, "Authentication failed.")

    def do_refusal(self, client: Session, words: str) -> None:
        """Refuse a client that authenticates."""
        self.say(client, f"success=0|error={words}")
        client.socket.transport.close()

    def do_slow_consumer(self, client: Session) -> None:
        if client.terms.get("slow_reader_behavior") == "skip":
            words = "Slow client detected for session"
            self.do_error(client, dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING, words)
        else:
            words = "Warning: slow reading, not keeping pace with trades data"
            self.do_system(client, dbn.SystemCode.SLOW_READER_WARNING, words)

    def do_system(self, client: Session, code: Any, words: str, moment: int | None = None) -> None:
        """Say something to a session that has begun."""
        if client.started:
            self._write(client, self.system_record(client, code, words, moment))

    def do_error(self, client: Session, code: Any, words: str) -> None:
        """Say to a session that has begun what is wrong, and end it where that is the end."""
        if client.started:
            self._write(client, bytes(dbn.ErrorMsg(time.time_ns(), words, True, code, **self.stamped(client))))
        if code not in PASSING:
            client.socket.transport.close()

    # -- what a subclass uses -------------------------------------------------------------------------------------

    def say(self, client: Session, line: str) -> None:
        """Send a line of text."""
        client.socket.write(f"{line}\n".encode())

    def stamped(self, client: Session) -> Row:
        """Return what a record says of when it was sent, to those that want to know."""
        return {"ts_out": time.time_ns()} if client.terms.get("ts_out") == "1" else {}

    def beat(self, client: Session) -> None:
        """Send heartbeats where nothing else is sent, from now on."""
        every = self.beats or float(client.terms.get("heartbeat_interval_s", 30))
        idle = self._loop.time() - client.notes["wrote"]
        if idle >= every * 0.9:
            self.do_system(client, dbn.SystemCode.HEARTBEAT, "Heartbeat")
        if client.heard:
            client.notes["timer"] = self._loop.call_later(every, self.beat, client)

    def system_record(self, client: Session, code: Any, words: str, moment: int | None = None) -> bytes:
        """Return a message of the gateway."""
        stamp = time.time_ns() if moment is None else moment
        return bytes(dbn.SystemMsg(stamp, words, code, **self.stamped(client)))

    # -- the server -----------------------------------------------------------------------------------------------

    async def serve_all(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._listen()
        await self._stop.wait()
        self._server.close()
        for client in list(self.clients):
            client.socket.transport.abort()
        while self.clients:
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        known = self._port.result(0) if self._port.done() else 0
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", known)
        if not known:
            self._port.set_result(self._server.sockets[0].getsockname()[1])

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self.changed:
            opened = Opened(self.connections + 1, "/", {}, {})
            client = Session(opened.connection, writer, opened)
            self.opened.append(opened)
            self.clients.append(client)
            self.changed.notify_all()
        try:
            if not self.trips("connect", client):
                self.greet(client)
            while line := await reader.readline():
                if not client.heard:
                    continue
                parts = (part.partition("=") for part in line.decode().strip().split("|"))
                message = {name: value for name, _, value in parts}
                with self.changed:
                    self.log.append(Said(client.number, message))
                    self.changed.notify_all()
                self.hear(client, message)
        except ConnectionError:
            pass
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            if timer := client.notes.get("timer"):
                timer.cancel()
            writer.close()
            with self.changed:
                self.clients.remove(client)
                self.changed.notify_all()

    def _write(self, client: Session, content: Content, as_text: bool | None = None) -> bool:
        if not client.heard:
            return False
        packer = client.notes.get("packer")
        content = content.encode() if isinstance(content, str) else content
        if packer:
            content = packer.compress(content) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        client.socket.write(content)
        client.notes["wrote"] = self._loop.time()
        return True
