"""What is said in text before records come: lines of `name=value|name=value`, ended by a line feed.

    gateway  lsg_version=0.4.2
    gateway  cram=<challenge>
    client   auth=<sha256 of challenge|key>-<last 5 of key>|dataset=GLBX.MDP3|encoding=dbn|ts_out=0|…
    gateway  success=1|session_id=5
    client   schema=trades|stype_in=raw_symbol|symbols=ESM4,NQM4|start=<ns>|snapshot=0|id=0|is_last=1
    client   start_session=0

What follows is DBN. The key itself is never sent, and nothing said here that could hold a part of it is passed on.
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Final

from catalog.errors import AuthFailed
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import TransientError

PORT: Final = 13_000
#: what is read at once
READ: Final = 1 << 18
START: Final = b"start_session=0\n"
#: nanoseconds for which a continuous symbol stands for one instrument: from midnight to midnight, UTC
DAY: Final = 86_400 * 1_000_000_000
_CONNECT: Final = 10.0
_ANSWER: Final = 30.0
#: symbols of one line
_AT_ONCE: Final = 500
_BUCKET: Final = 5
_ENTITLEMENT: Final = re.compile(r"licen[sc]e|entitle|not authori[sz]ed|permission", re.IGNORECASE)
_REFUSED: Final = re.compile(r"authenticat|api key|deactivated|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Terms:
    """Where a session is opened and on what terms. `name` is for messages; `key` is shown nowhere."""

    name: str
    host: str
    port: int
    dataset: str
    stype: str
    key: str = field(repr=False)
    heartbeat: int = 30
    slow_reader: str = "warn"

    @property
    def where(self) -> str:
        """The source and the gateway, for messages."""
        return f"{self.name}: live gateway {self.host}:{self.port}"


def address(dataset: str, gateway: str) -> tuple[str, int]:
    """Return host and port of a dataset's gateway; `gateway` (host or host:port) takes its place where it is given."""
    if not gateway:
        return f"{dataset.lower().replace('.', '-')}.lsg.databento.com", PORT
    host, _, port = gateway.partition(":")
    return host, int(port or PORT)


class Reader(asyncio.StreamReader):
    """Gives what has come before it says how the connection broke off; asyncio's own drops what was not read yet."""

    broken: Exception | None = None

    def set_exception(self, exc: Exception) -> None:
        """Note why the connection is gone: whoever reads on gets the rest, and then nothing."""
        self.broken = exc
        self.feed_eof()


async def connect(terms: Terms) -> tuple[Reader, asyncio.StreamWriter]:
    """Open the connection; raises TransientError."""
    loop = asyncio.get_running_loop()
    reader = Reader(limit=READ, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        async with asyncio.timeout(_CONNECT):
            transport, _ = await loop.create_connection(lambda: protocol, terms.host, terms.port)
            return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
    except TimeoutError:
        raise TransientError(f"{terms.where} does not answer within {_CONNECT:g} s") from None
    except OSError as error:
        raise TransientError(f"{terms.where} cannot be reached: {error}") from None


async def authenticate(terms: Terms, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Answer the gateway's challenge; return its greeting and its consent.

    Raises AuthFailed, NotEntitled or TransientError with its words.
    """
    greeting, challenged = b"", False
    while True:
        line = await _line(terms, reader)
        said = fields(line)
        if "success" in said:
            if said["success"] == "1":
                return greeting + line
            raise refusal(terms, said.get("error", "no reason"))
        if "cram" in said and not challenged:
            writer.write(_answer(terms, said["cram"]))
            challenged = True
        elif "lsg_version" in said and not challenged:
            greeting = line
        else:
            raise TransientError(f"{terms.where} says {line[:100]!r} where a challenge or an answer was due")


async def answer(terms: Terms, reader: asyncio.StreamReader, size: int) -> bytes:
    """Return exactly so many bytes of what must come soon; raises TransientError."""
    try:
        async with asyncio.timeout(_ANSWER):
            return await reader.readexactly(size)
    except TimeoutError:
        raise TransientError(f"{terms.where} was silent for {_ANSWER:g} s before its first record") from None
    except asyncio.IncompleteReadError:
        raise TransientError(f"{terms.where} closed the connection before its first record") from None


def fields(line: bytes) -> dict[str, str]:
    """Return the names and values of a line."""
    parts = (part.partition("=") for part in line.decode("utf-8", "replace").strip().split("|"))
    return {name: value for name, _, value in parts}


def subscription(schema: str, stype: str, symbols: Sequence[str], start: int | None, number: int) -> bytes:
    """Return the lines that subscribe to a schema of some symbols, from a time in nanoseconds on or from now on."""
    lines = []
    for first in range(0, len(symbols), _AT_ONCE):
        some = ",".join(symbols[first : first + _AT_ONCE])
        since = "" if start is None else f"|start={start}"
        last = int(first + _AT_ONCE >= len(symbols))
        lines.append(f"schema={schema}|stype_in={stype}|symbols={some}{since}|snapshot=0|id={number}|is_last={last}\n")
    return "".join(lines).encode()


def refusal(terms: Terms, words: str) -> DataflowError:
    """Return the error that the gateway's words instead of a consent mean."""
    message = f"{terms.where} refuses: {words}"
    if _ENTITLEMENT.search(words):
        return NotEntitled(message)
    if _REFUSED.search(words):
        return AuthFailed(message)
    # the limit of connections, a gateway that is not itself
    return TransientError(message)


def _answer(terms: Terms, challenge: str) -> bytes:
    digest = hashlib.sha256(f"{challenge}|{terms.key}".encode()).hexdigest()
    return (
        f"auth={digest}-{terms.key[-_BUCKET:]}|dataset={terms.dataset}|encoding=dbn|ts_out=0|compression=none"
        f"|heartbeat_interval_s={terms.heartbeat}|slow_reader_behavior={terms.slow_reader}|client=DataFlow\n"
    ).encode()


async def _line(terms: Terms, reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(_ANSWER):
            line = await reader.readline()
    except TimeoutError:
        raise TransientError(f"{terms.where} was silent for {_ANSWER:g} s before authentication was done") from None
    except ValueError:
        raise TransientError(f"{terms.where} sends a line without end") from None
    if not line.endswith(b"\n"):
        raise TransientError(f"{terms.where} closed the connection before authentication was done")
    return line
