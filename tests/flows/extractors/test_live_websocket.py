"""The machine behind every WebSocket vendor: how connections begin, live and end, and what is said about it."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.extractors.base import LiveRequest
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds.pulse import Alarm
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from tests.vendors.live.alpaca import AlpacaLiveStandIn
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.connections import Client
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.massive import MassiveLiveStandIn

TRADES = Channel("trades", "BTCUSDT")
START = datetime(2024, 1, 2, tzinfo=UTC)


def heard(vendor: BinanceLiveStandIn, **options: object) -> Listener:
    return Listener(live_half("binance", {"stream_url": vendor.url, **options}, {}), [TRADES])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ConfigError),
        (400, ConfigError),
        (401, AuthFailed),
        (403, NotEntitled),
        (404, ConfigError),
        (418, RateLimited),
        (429, RateLimited),
        (451, NotEntitled),
        (500, TransientError),
        (503, TransientError),
    ],
)
def test_what_a_refused_handshake_means(status: int, kind: type[Exception]) -> None:
    with BinanceLiveStandIn() as vendor:
        vendor.fail("refuse", "handshake", status=status, seconds=7.0)
        with heard(vendor) as listener:
            error = listener.wait_ended()
    assert type(error) is kind
    assert f"HTTP {status}: come back later" in str(error)
    if isinstance(error, TransientError):
        assert error.retry_after == 7
    assert listener.items == []


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Answer one request on a port of loopback, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)
        assert not thread.is_alive()


def test_a_vendor_that_sends_elsewhere_is_not_followed() -> None:
    with BinanceLiveStandIn() as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/stream\r\nContent-Length: 0\r\n\r\n"
        with answering(moved.encode()) as port:
            listener = Listener(live_half("binance", {"stream_url": f"ws://127.0.0.1:{port}"}, {}), [TRADES])
            with listener:
                error = listener.wait_ended()
        assert isinstance(error, ConfigError)
        assert "HTTP 307" in str(error)
        assert elsewhere.opened == []


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 101 Yes\r\n\r\n"])
def test_what_is_no_websocket_may_become_one(answer: bytes) -> None:
    with answering(answer) as port:
        listener = Listener(live_half("binance", {"stream_url": f"ws://127.0.0.1:{port}"}, {}), [TRADES])
        with listener:
            error = listener.wait_ended()
    assert type(error) is TransientError
    assert f"ws://127.0.0.1:{port}" in str(error)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Listener(live_half("binance", {"stream_url": f"ws://127.0.0.1:{port}"}, {}), [TRADES]) as listener:
        error = listener.wait_ended()
    assert type(error) is TransientError


def test_a_host_that_cannot_be_asked_for() -> None:
    with Listener(live_half("binance", {"stream_url": f"ws://{'x' * 70}.example"}, {}), [TRADES]) as listener:
        assert isinstance(listener.wait_ended(), ConfigError)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("handshake", "timed out during opening handshake"),
        ("connect", "no answer to the connection, which it greets in 0.8 s"),
        ("auth", "no answer to the login in 0.8 s"),
        ("subscribe", "no answer to the subscription to trades of 'AAPL' in 0.8 s"),
    ],
)
def test_a_vendor_that_does_not_answer_is_left(step: str, words: str) -> None:
    with AlpacaLiveStandIn() as vendor:
        vendor.fail("silence", step)
        options = {"stream_url": vendor.url, "answer_seconds": 0.8}
        with Listener(live_half("alpaca", options, vendor.keys), [Channel("trades", "AAPL")]) as listener:
            error = listener.wait_ended()
    assert type(error) is TransientError
    assert words in str(error)


def test_pongs_are_signs_of_life_until_there_are_none() -> None:
    with BinanceLiveStandIn() as vendor, heard(vendor, silence=2) as listener:
        listener.wait_acknowledged([TRADES])
        signs = len(listener.told)
        listener.wait_for(lambda: len(listener.told) > signs + 3)
        # they are no more than one a second, and leave room for what else is said
        assert listener.told[signs + 3].received - listener.told[signs].received > 2e9
        assert {(told.lost, told.note, *told.acknowledged, *told.refused) for told in listener.told[signs:]} == {
            ("", "")
        }
        vendor.silence()
        with listener.changed:
            # pings on their way are still answered
            signs = len(listener.items) + 2
            assert not listener.changed.wait_for(lambda: len(listener.items) > signs or listener.ended, 4)


@pytest.mark.parametrize("code", [1000, 1001, 1012])
def test_a_connection_that_is_closed_in_order(code: int) -> None:
    with BinanceLiveStandIn() as vendor, heard(vendor) as listener:
        listener.wait_acknowledged([TRADES])
        vendor.fin(code)
        assert listener.wait_ended() is None


@pytest.mark.parametrize(("code", "words"), [(1008, "1008"), (1011, "1011"), (4000, "4000"), (None, "without a word")])
def test_a_connection_that_is_closed_for_a_reason(code: int | None, words: str) -> None:
    with BinanceLiveStandIn() as vendor, heard(vendor) as listener:
        listener.wait_acknowledged([TRADES])
        vendor.fin(code)
        error = listener.wait_ended()
    assert type(error) is TransientError
    assert words in str(error)


@pytest.mark.parametrize("fault", ["rst", "cut"])
def test_a_connection_that_breaks_keeps_what_was_whole(fault: str) -> None:
    with BinanceLiveStandIn() as vendor, heard(vendor) as listener:
        listener.wait_acknowledged([TRADES])
        records = vendor.rows("trades", "BTCUSDT", START, START + timedelta(minutes=1))
        vendor.publish("trades", "BTCUSDT", records)
        listener.wait_for(lambda: len(listener.frames) == len(records) + 1)
        getattr(vendor, fault)()
        error = listener.wait_ended()
    assert type(error) is TransientError
    assert len(listener.rows("trades", "BTCUSDT")) == len(records)


def test_what_was_sent_before_the_end_is_read_though_nothing_can_be_said_any_more() -> None:
    # the reader takes these for answers, and then looks what there is to say
    messages = [f'[{{"ev":"status","status":"?","n":{at}}}]'.encode() for at in range(8)]
    bars = Channel("ohlcv-1m", "AAPL")

    async def listen(vendor: MassiveLiveStandIn) -> list[bytes]:
        found = []
        request = LiveRequest(frozenset([bars]))
        extractor = live_half("massive", {"stream_url": vendor.url}, vendor.keys)
        async with aclosing(extractor.frames(request)) as coming:
            async for item in coming:
                for frame in () if isinstance(item, Told) else [item] if isinstance(item, Frame) else item:
                    found.append(frame.content)
                    if frame.content == messages[1]:
                        # the end has come before the reader goes on, with something to say
                        await asyncio.to_thread(vendor.wait_for, lambda: not vendor.clients)
                        request.changes.put_nowait((frozenset([Channel("ohlcv-1m", "MSFT")]), frozenset()))
        return found

    with MassiveLiveStandIn() as vendor:

        def send() -> None:
            vendor.wait_subscribed([("ohlcv-1m", "AAPL")])
            for message in messages:
                vendor.raw(message.decode())
            vendor.fin()

        thread = threading.Thread(target=send)
        thread.start()
        found = asyncio.run(listen(vendor))
        thread.join(30)
    assert found[3:] == messages


@pytest.mark.parametrize("first", ["ring", "cancel"])
def test_who_is_cancelled_while_the_alarm_rings_is_cancelled(first: str) -> None:
    async def wait(alarm: Alarm, rings: list[object]) -> None:
        while True:
            alarm.set(0)
            rings.append(await alarm.until(asyncio.get_running_loop().create_future()))

    async def meet() -> list[object]:
        alarm, rings = Alarm(), list[object]()
        task = asyncio.create_task(wait(alarm, rings))
        while len(rings) < 3:
            await asyncio.sleep(0)
        # both in one turn of the loop, before the task can look
        both = [alarm._ring, task.cancel]
        for one in both if first == "ring" else reversed(both):
            one()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()
        alarm.stop()
        return rings

    assert set(asyncio.run(meet())) == {None}


def test_leaving_closes_the_connection() -> None:
    with BinanceLiveStandIn() as vendor:
        with heard(vendor) as listener:
            listener.wait_acknowledged([TRADES])
            vendor.wait_open(1)
        vendor.wait_open(0)
    assert listener.error is None


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_that_is_too_large_ends_the_connection(compression: str | None) -> None:
    with BinanceLiveStandIn(compression=compression) as vendor, heard(vendor, largest_message_mb=1) as listener:
        listener.wait_acknowledged([TRADES])
        # compressed it has a thousandth of that
        vendor.raw("0" * (40 << 20))
        error = listener.wait_ended()
    assert type(error) is TransientError
    assert "a message is longer than 1 MiB" in str(error)
    assert all(len(frame.content) < 1000 for frame in listener.frames)


def test_a_large_message_is_quarantined_and_the_stream_goes_on() -> None:
    with BinanceLiveStandIn() as vendor, heard(vendor) as listener:
        listener.wait_acknowledged([TRADES])
        vendor.raw("[" + "0," * (25 << 20) + "0]")
        records = vendor.rows("trades", "BTCUSDT", START, START + timedelta(minutes=1))
        vendor.publish("trades", "BTCUSDT", records)
        listener.wait_for(lambda: len(listener.frames) == len(records) + 2)
    batches = listener.batches()
    (rejected,) = [row for batch in batches for row in batch.rejected.to_pylist()]
    assert rejected["reason"] == "frame has at most 8,388,608 bytes: 52,428,803"
    assert len(rejected["raw"]) < 20_000
    assert len(listener.rows("trades", "BTCUSDT")) == len(records)


class Telltale(MassiveLiveStandIn):
    """Repeats a wrong key."""

    def do_auth_failure(self, client: Client) -> None:
        self.status(client, "auth_failed", f"key {self.log[-1].message['params']} is unknown")


def test_no_key_is_in_any_message() -> None:
    with Telltale() as vendor:
        extractor = live_half("massive", {"stream_url": vendor.url}, {"API_KEY": "w0rng/key"})
        with Listener(extractor, [Channel("ohlcv-1m", "AAPL")]) as listener:
            error = listener.wait_ended()
    assert str(error) == "source 'massive-live': key *** is unknown"


@pytest.mark.parametrize("written", ["a b/c+d", "a+b%2Fc%2Bd", "a%20b%2Fc%2Bd"])
def test_no_key_is_shown_however_it_is_written(written: str) -> None:
    extractor = live_half("twelvedata", {}, {"API_KEY": "a b/c+d"})
    assert isinstance(extractor, WebSocketExtractor)
    assert extractor.scrub(f"wss://x.example?apikey={written}&a=b") == "wss://x.example?apikey=***&a=b"


def test_no_key_is_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    channel = Channel("ohlcv-1m", "AAPL")
    with MassiveLiveStandIn() as vendor:
        options = {"stream_url": vendor.url}
        with Listener(live_half("massive", options, vendor.keys), [channel]) as listener:
            listener.wait_acknowledged([channel])
        (secret,) = vendor.keys.values()
        said = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert [one for one in said if secret in one] == []
    assert any(secret in str(one.message) for one in vendor.log)


def test_data_need_not_be_decoded_to_be_known_as_data() -> None:
    for vendor, frame in (
        ("binance", b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","s":"BTCUSDT","a":1,"m":true}}'),
        ("alpaca", b'[{"T":"t","S":"AAPL","i":1,"x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z"}]'),
        ("massive", b'[{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1}]'),
        ("twelvedata", b'{"event":"price","symbol":"AAPL","timestamp":1643972766,"price":172.87}'),
    ):
        extractor = live_half(vendor, {}, {})
        assert isinstance(extractor, WebSocketExtractor)
        markers = {
            marker for answer in extractor.feed().answers for marker in answer.markers if answer.means != "nothing"
        }
        kept = {marker for answer in extractor.feed().meaning("kept") for marker in answer.markers}
        assert not any(marker in frame for marker in markers - kept), vendor
