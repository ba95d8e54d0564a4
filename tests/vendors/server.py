"""What every HTTP stand-in shares: a real server on loopback that logs what it is asked and fails on command."""

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any
from typing import ClassVar
from typing import Self
from urllib.parse import parse_qsl
from urllib.parse import unquote
from urllib.parse import urlsplit

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came in; `parts` are the groups of the route's pattern, decoded."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What was asked, as a text that two same questions share."""
        return json.dumps([self.method, self.path, sorted(self.params.items()), sorted(self.form.items())])


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: JSON, or bytes as they are."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(slots=True)
class Fault:
    """Something that goes wrong `times` times with answers to paths that match.

    Kinds: throttled (429 with Retry-After), unavailable (503), broken (500), html (200, but a page for people),
    truncated (fewer bytes than announced), reset (the connection is cut before any answer), slow (bytes trickle),
    kind (JSON that says it is text/plain).
    """

    kind: str
    times: int = 1
    path: str = ""
    seconds: float = 0.0


#: after these an extractor asks again, and gets what it would have got
PASSING_FAULTS = ("throttled", "unavailable", "broken", "html", "truncated", "reset")


class StandIn:
    """A vendor's server on loopback; a subclass routes, authenticates, pages and tells the truth."""

    #: name of the vendor in the registry
    vendor: ClassVar[str]
    #: secrets that are accepted, by ending of the variable
    keys: ClassVar[Mapping[str, str]] = {}
    #: schema → vendor symbols it is known to have rows for
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: schema → window with several pages of rows; both ends lie on a row's time
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {}
    #: asset class of every symbol
    asset_class: ClassVar[str] = "equity"
    #: a symbol that exists, but not for this account; empty where the vendor has no such thing
    forbidden: ClassVar[str] = ""

    def __init__(self) -> None:
        self.log: list[Asked] = []
        self.faults: deque[Fault] = deque()
        self.lock = threading.Lock()
        stand_in = self

        class Handler(_Handler):
            server_is = stand_in

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    # -- what a subclass says -------------------------------------------------------------------------------------

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        """Return (pattern of the whole path, what answers it)."""
        raise NotImplementedError

    def refuse(self, asked: Asked) -> Reply | None:
        """Return the refusal of a request without a right key; None where it may pass."""
        return None

    def missing(self, asked: Asked) -> Reply:
        """Return the answer to a path nobody knows."""
        return Reply({"error": "not found"}, 404)

    def throttled(self, seconds: float) -> Reply:
        """Return the vendor's answer to too many requests."""
        return Reply({"error": "too many requests"}, 429, {"Retry-After": f"{seconds:g}"})

    def options(self, schema: str) -> Row:
        """Return options of a source that asks this stand-in; small pages, so that there are several."""
        return {"base_url": self.url}

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return the rows that are right for `[start, end)`: any of the schema's columns, in order of time."""
        raise NotImplementedError

    # -- what a test does -----------------------------------------------------------------------------------------

    def fail(self, kind: str, times: int = 1, path: str = "", seconds: float = 0.0) -> None:
        """Let something go wrong."""
        self.faults.append(Fault(kind, times, path, seconds))

    def answer(self, asked: Asked) -> Reply:
        """Return the answer to a request."""
        if (refusal := self.refuse(asked)) is not None:
            return refusal
        for pattern, route in self.routes():
            if found := re.fullmatch(pattern, asked.path):
                parts = tuple(unquote(part or "") for part in found.groups())
                return route(Asked(asked.method, asked.path, asked.params, asked.headers, asked.form, parts))
        return self.missing(asked)

    def fault(self, path: str) -> Fault | None:
        """Return what goes wrong with this path now."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_is: ClassVar[StandIn]

    def do_GET(self) -> None:  # the standard library's name
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        stand_in = self.server_is
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        asked = Asked(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            dict(parse_qsl(body.decode(), keep_blank_values=True)),
        )
        fault = stand_in.fault(parts.path)
        if fault is None or fault.kind in ("slow", "kind"):
            # what fails was not sold
            with stand_in.lock:
                stand_in.log.append(asked)
        if fault is None:
            self._send(stand_in.answer(asked))
        elif fault.kind == "throttled":
            self._send(stand_in.throttled(fault.seconds))
        elif fault.kind in ("unavailable", "broken"):
            self._send(Reply({"message": "come back later"}, 503 if fault.kind == "unavailable" else 500))
        elif fault.kind == "html":
            self._send(Reply(b"<html><body>We are down for maintenance</body></html>", kind="text/html"))
        elif fault.kind == "kind":
            self._send(Reply(stand_in.answer(asked).content, kind="text/plain"))
        elif fault.kind == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.kind == "truncated":
            reply = stand_in.answer(asked)
            self._send(reply, keep=max(1, len(reply.content) // 2))
        elif fault.kind == "slow":
            self._send(stand_in.answer(asked), pause=fault.seconds)
        else:
            raise AssertionError(f"no such fault: {fault.kind}")

    def _send(self, reply: Reply, keep: int | None = None, pause: float = 0.0) -> None:
        content = reply.content
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if keep is not None:
                self.wfile.write(content[:keep])
                self.close_connection = True
            elif pause:
                for first in range(0, len(content), 64):
                    self.wfile.write(content[first : first + 64])
                    self.wfile.flush()
                    time.sleep(pause)
            else:
                self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            # the client has had enough
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent: tests look at `log`."""
