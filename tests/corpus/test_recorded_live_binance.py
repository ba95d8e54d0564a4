"""Binance's recorded sessions (spot of .com and .us, 2021) against a reading of the same lines with nothing of ours.

Of 745 messages those have rows that a series can ask for: aggregated trades, and bars that are closed. Changes of books
and best bids and offers (which have no time) are in the sessions too, and give nothing.
"""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.extractors.base import BaseRealtimeExtractor
from flows.frames import ROWS_A_FRAME
from flows.frames import Channel
from flows.frames import Frame
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import refined
from tests.vendors.live.recorded import RecordedStandIn
from tests.vendors.live.recorded import Session
from tests.vendors.live.recorded import session
from tests.vendors.server import Row

pytestmark = pytest.mark.corpus

#: messages, aggregated trades and closed bars of each session
SESSIONS = {"BINANCE": (265, 2, 0), "BINANCE_US": (480, 11, 1)}
BAR = ("ts_event", "open", "high", "low", "close", "volume", "trade_count")


def at(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def events(recorded: Session, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the message and the event, by a plain reading."""
    for number, (_, message) in enumerate(recorded.messages):
        said = json.loads(message)["data"]
        if said.get("e") == kind:
            yield number, said


def trades(recorded: Session) -> list[tuple[Any, ...]]:
    found = [
        (one["s"], at(one["T"]), str(one["a"]), Decimal(one["p"]), Decimal(one["q"]), "A" if one["m"] else "B")
        for _, one in events(recorded, "aggTrade")
    ]
    return sorted(found)


def bars(recorded: Session) -> list[tuple[Any, ...]]:
    found = [
        (one["s"], at(bar["t"]), *(Decimal(bar[name]) for name in "ohlcv"), bar["n"])
        for _, one in events(recorded, "kline")
        if (bar := one["k"])["x"]
    ]
    return sorted(found)


def extractor(url: str) -> BaseRealtimeExtractor:
    return live_half("binance", {"stream_url": url}, {})


def as_trades(rows: list[Row]) -> list[tuple[Any, ...]]:
    names = ("instrument", "ts_event", "trade_id", "price", "size", "side")
    return sorted(tuple(row[name] for name in names) for row in rows)


def as_bars(rows: list[Row]) -> list[tuple[Any, ...]]:
    return sorted((row["instrument"], *(row[name] for name in BAR)) for row in rows)


@pytest.mark.parametrize("name", SESSIONS)
def test_every_message_is_read(corpus: Path, name: str) -> None:
    recorded = session(corpus, name)
    frames = [
        Frame(message.encode(), int(Decimal(repr(time)) * 10**9), number=number)
        for number, (time, message) in enumerate(recorded.messages)
    ]
    batches = list(extractor("ws://127.0.0.1:1").parse(frames, {}))
    assert [batch.rejected.to_pylist() for batch in batches if batch.rejected.num_rows] == []
    assert {batch.schema for batch in batches} <= {"trades", "ohlcv-1m"}
    assert as_trades(refined(batches, "trades")) == trades(recorded)
    assert as_bars(refined(batches, "ohlcv-1m")) == bars(recorded)
    assert (len(frames), len(trades(recorded)), len(bars(recorded))) == SESSIONS[name]
    (found,) = (batch for batch in batches if batch.schema == "trades")
    numbers = [number for number, _ in events(recorded, "aggTrade")]
    assert [row // ROWS_A_FRAME for row in found.table["row"].to_pylist()] == numbers
    received = [frames[number].received for number in numbers]
    assert found.table["ts_recv"].cast("int64").to_pylist() == received
    # however they are cut
    pieces = [batch for frame in frames for batch in extractor("ws://127.0.0.1:1").parse([frame], {})]
    assert as_trades(refined(pieces, "trades")) == trades(recorded)


@pytest.mark.parametrize("name", SESSIONS)
def test_the_session_comes_over_the_wire(corpus: Path, name: str) -> None:
    recorded = session(corpus, name)
    names = sorted({stream.partition("@")[0].upper() for stream in recorded.streams})
    channels = [Channel(schema, one) for one in names for schema in ("trades", "ohlcv-1m")]
    with RecordedStandIn(recorded) as vendor, Listener(extractor(vendor.url), channels) as listener:
        assert listener.wait_ended() is None
        heard = listener.batches()
    assert listener.acknowledged.keys() == set(channels)
    assert as_trades(refined(heard, "trades")) == trades(recorded)
    assert as_bars(refined(heard, "ohlcv-1m")) == bars(recorded)
    wanted = [message.encode() for _, message in recorded.messages if "aggTrade" in message or "kline" in message]
    assert [frame.content for frame in listener.frames if b'"stream"' in frame.content] == wanted
