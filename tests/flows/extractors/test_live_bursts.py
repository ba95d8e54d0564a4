"""Messages that are cut out of what was read are those that the library would have given."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from flows.feeds.bursts import Bursts

LONGEST = 100_000


class Wire(asyncio.Transport):
    """Keeps what the client says, and whether it wants to hear more."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.paused = False

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        return None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Connection(Bursts):
    longest = LONGEST


def opened(deflate: bool) -> tuple[Connection, ServerProtocol, bytes]:
    """Return a client, a server, and the server's answer to the client's handshake, which the client waits for."""
    there = [ClientPerMessageDeflateFactory()] if deflate else None
    here = [ServerPerMessageDeflateFactory()] if deflate else None
    server = ServerProtocol(extensions=here)
    client = Connection(ClientProtocol(parse_uri("ws://vendor/stream"), extensions=there, max_size=LONGEST))
    wire = Wire()
    client.connection_made(wire)
    client.protocol.send_request(client.protocol.connect())
    client.send_data()
    server.receive_data(wire.said)
    (request,) = server.events_received()
    server.send_response(server.accept(request))
    return client, server, b"".join(server.data_to_send())


step = st.one_of(
    st.tuples(st.just("text"), st.binary(max_size=300)),
    st.tuples(st.just("binary"), st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * 65_535, b"z" * 65_536])),
    st.tuples(st.just("fragments"), st.lists(st.binary(max_size=20), min_size=2, max_size=4)),
    st.tuples(st.just("ping"), st.binary(max_size=20)),
)


def written(server: ServerProtocol, steps: list[Any]) -> tuple[bytes, list[bytes]]:
    messages = []
    for kind, content in steps:
        if kind == "text":
            text = content.hex().encode()
            server.send_text(text)
            messages.append(text)
        elif kind == "binary":
            server.send_binary(content)
            messages.append(content)
        elif kind == "ping":
            server.send_ping(content)
        else:
            server.send_binary(content[0], fin=False)
            # a ping may come between two fragments
            server.send_ping(b"between")
            for part in content[1:-1]:
                server.send_continuation(part, fin=False)
            server.send_continuation(content[-1], fin=True)
            messages.append(b"".join(content))
    return b"".join(server.data_to_send()), messages


async def code_at_end(client: Connection) -> int:
    """Return the code with which the client closed the connection, once nothing more comes."""
    client.connection_lost(None)
    with pytest.raises(ConnectionClosed) as closed:
        await client.burst()
    assert closed.value.sent is not None
    return closed.value.sent.code


def in_pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    return [content[start:end] for start, end in pairwise(places)]


@settings(max_examples=150)
@given(st.lists(step, max_size=12), st.lists(st.integers(0, 1 << 20), max_size=40), st.booleans())
@example([("fragments", [b"a", b"b"]), ("text", b"c")], [], False)
def test_whatever_the_pieces_the_messages_are_the_same(steps: list[Any], cuts: list[int], deflate: bool) -> None:
    async def run() -> None:
        client, server, answer = opened(deflate)
        said, messages = written(server, steps)
        for piece in in_pieces(answer + said, cuts):
            client.data_received(piece)
        assert client.protocol.state is State.OPEN
        # by the quick way
        assert client._direct
        assert not messages or (await client.burst())[1] == messages
        # pings are answered whatever lies around them
        pongs = sum(kind in ("ping", "fragments") for kind, _ in steps)
        server.receive_data(client.transport.said[client.transport.said.index(b"\r\n\r\n") + 4 :])
        assert len(server.events_received()) == pongs

    asyncio.run(run())


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_message_that_is_too_long_ends_the_connection_after_those_before_it(pieces: int) -> None:
    async def run() -> None:
        client, server, answer = opened(deflate=False)
        server.send_text(b"before")
        server.send_binary(b"x" * (LONGEST + 1))
        content = answer + b"".join(server.data_to_send())
        size = len(content) // pieces + 1
        for start in range(0, len(content), size):
            client.data_received(content[start : start + size])
        assert (await client.burst())[1] == [b"before"]
        assert await code_at_end(client) == 1009

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [b"\x81\x85abcdhello", b"\x83\x00", b"\x80\x01x"])
def test_what_no_server_may_send_ends_the_connection(wrong: bytes) -> None:
    async def run() -> None:
        client, server, answer = opened(deflate=False)
        server.send_text(b"before")
        client.data_received(answer + b"".join(server.data_to_send()) + wrong + b"\x81\x05after")
        assert (await client.burst())[1] == [b"before"]
        assert await code_at_end(client) == 1002

    asyncio.run(run())


def test_a_reader_that_does_not_come_is_not_sent_more() -> None:
    async def run() -> None:
        client, server, answer = opened(deflate=False)
        client.data_received(answer)
        for _ in range(12):
            server.send_binary(b"x" * LONGEST)
        client.data_received(b"".join(server.data_to_send()))
        assert client.transport.paused
        assert len((await client.burst())[1]) == 12
        assert not client.transport.paused

    asyncio.run(run())
