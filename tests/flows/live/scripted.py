"""A vendor whose connections, messages and memory a test decides: both halves, without a network.

What happens is published; whoever is connected hears it, and the historical half remembers all of it.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import ClassVar

from catalog.errors import TransientError
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.extractors.base import LiveRequest
from flows.extractors.base import Patience
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.frames import ROWS_A_FRAME
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.landing import Page

_SHAPES = {
    "trades": Shape({"ts_event": "t", "trade_id": "i", "price": "p", "size": "q"}, Clock("ns")),
    "quotes": Shape(
        {"ts_event": "t", "bid_price": "bp", "bid_size": "bs", "ask_price": "ap", "ask_size": "as"}, Clock("ns")
    ),
    "ohlcv-1s": Shape(
        {"ts_event": "t", "open": "p", "high": "p", "low": "p", "close": "p", "volume": "q"},
        Clock("ns", timeframe="1s"),
    ),
}
Record = dict[str, Any]


class Vendor:
    """What happens at the vendor; any thread."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.happened: list[Record] = []
        self.connections: list[_Wire] = []
        self.refusing: Exception | None = None
        self.asked: list[tuple[str, int, int]] = []
        self.acknowledging = True
        #: gives no sign of life: a connection that is half open
        self.mute = False

    def publish(self, schema: str, symbol: str, **fields: Any) -> Record:
        """Let something happen now; those who are connected are told."""
        with self.lock:
            record = {"k": schema, "s": symbol, **fields}
            self.happened.append(record)
            for wire in self.connections:
                if wire.open and Channel(schema, symbol) in wire.channels:
                    wire.send(record)
            return record

    def trade(self, symbol: str, number: int, at: int | None = None, price: str = "10.5") -> Record:
        return self.publish("trades", symbol, t=at or time.time_ns(), i=str(number), p=price, q="1")

    def raw(self, content: bytes) -> None:
        with self.lock:
            for wire in self.connections:
                if wire.open:
                    wire.put(content)

    def drop(self, error: Exception | None = None) -> None:
        """End every connection: cleanly, or with an error."""
        with self.lock:
            for wire in self.connections:
                if wire.open:
                    wire.open = False
                    wire.put(error)

    def wait(self, condition: Any, seconds: float = 20.0) -> None:
        with self.lock:
            assert self.lock.wait_for(condition, seconds), "nothing of the kind happened in time"

    def wait_connected(self, number: int) -> None:
        """Wait for the n-th connection to be subscribed."""
        self.wait(lambda: len(self.connections) >= number and self.connections[number - 1].subscribed)


class _Wire:
    """One connection as the vendor sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channels: frozenset[Channel]) -> None:
        self.loop = loop
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.channels = set(channels)
        self.open = True
        self.subscribed = False

    def send(self, record: Record) -> None:
        self.put(json.dumps(record).encode())

    def put(self, item: Any) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


class ScriptedLive(BaseRealtimeExtractor):
    name = "scripted"
    label = "Scripted"
    schemas = ("trades", "quotes", "ohlcv-1s")
    numbered = frozenset({"trades"})
    consecutive: ClassVar[Mapping[str, str]] = {"trades": "trade_id"}
    transit = timedelta(seconds=0)

    def __init__(self, source: SourceFacts, vendor: Vendor) -> None:
        super().__init__(source, Context())
        self.vendor = vendor
        self.quiet = 30.0

    @property
    def patience(self) -> Patience:
        return Patience(first=0.05, longest=0.2)

    @property
    def silence(self) -> float:
        return self.quiet

    async def frames(self, request: LiveRequest) -> AsyncGenerator[Frame | Told, None]:
        vendor = self.vendor
        with vendor.lock:
            if vendor.refusing is not None:
                raise vendor.refusing
            wire = _Wire(asyncio.get_running_loop(), request.channels)
            vendor.connections.append(wire)
        try:
            yield Frame(b'{"hello": true}', time.time_ns())
            if vendor.acknowledging:
                yield Told(time.time_ns(), frozenset(wire.channels))
            with vendor.lock:
                wire.subscribed = True
                vendor.lock.notify_all()
            getting = asyncio.create_task(wire.queue.get())
            changing = asyncio.create_task(request.changes.get())
            while True:
                done, _ = await asyncio.wait([getting, changing], timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                if not done and not vendor.mute:
                    yield Told(time.time_ns())
                if changing.done():
                    added, removed = changing.result()
                    with vendor.lock:
                        wire.channels |= added
                        wire.channels -= removed
                        vendor.lock.notify_all()
                    yield Told(time.time_ns(), added)
                    changing = asyncio.create_task(request.changes.get())
                if getting.done():
                    item = getting.result()
                    if item is None:
                        return
                    if isinstance(item, Exception):
                        raise item
                    yield Frame(item, time.time_ns())
                    getting = asyncio.create_task(wire.queue.get())
        finally:
            for task in (getting, changing) if "getting" in locals() else ():
                task.cancel()
            with vendor.lock:
                wire.open = False
                vendor.lock.notify_all()

    def parse(self, frames: Sequence[Frame], state: dict[str, Any]) -> Iterator[Batch]:
        found: dict[str, tuple[list[Record], list[str], list[int]]] = {}
        for frame in frames:
            record = json.loads(frame.content)
            if "k" not in record:
                continue
            records, symbols, rows = found.setdefault(record["k"], ([], [], []))
            records.append(record)
            symbols.append(record["s"])
            rows.append(frame.number * ROWS_A_FRAME)
        for name, (records, symbols, rows) in found.items():
            made = batch(schema_called(name), records, _SHAPES[name], symbols)
            position = made.table.column_names.index("row")
            numbers = [rows[at] for at in made.table["row"].to_pylist()]
            yield Batch(name, made.table.set_column(position, "row", [numbers]), made.rejected)


class ScriptedHistory(BaseHistoricalExtractor):
    name = "scripted"
    label = "Scripted"
    schemas = ("trades", "ohlcv-1s", "quotes")

    def __init__(self, source: SourceFacts, vendor: Vendor) -> None:
        super().__init__(source, Context())
        self.vendor = vendor

    @property
    def patience(self) -> Patience:
        return Patience(attempts=1)

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        if landed:
            return
        with self.vendor.lock:
            if self.vendor.refusing is not None:
                raise TransientError(str(self.vendor.refusing))
            happened = list(self.vendor.happened)
        for one in request.instruments:
            symbol = one.symbols[0].symbol
            low, high = (_nanoseconds(moment) for moment in (one.start, one.end))
            self.vendor.asked.append((symbol, low, high))
            rows = [
                record
                for record in happened
                if record["k"] == request.job.schema and record["s"] == symbol and low <= record["t"] < high
            ]
            content = json.dumps(rows).encode()
            yield Page("application/json", [content], facts={"symbol": symbol})

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        schema = schema_called(page.request["schema"])
        yield batch(schema, json.loads(page.read()), _SHAPES[schema.name], page.manifest.facts["symbol"])


def _nanoseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
