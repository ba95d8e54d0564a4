"""Listens with a vendor's live half, as a run does but without its care: what comes is kept, how it ends is told."""

import asyncio
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any
from typing import Self

import pyarrow as pa

from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import refine
from flows import registry
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.extractors.base import LiveRequest
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.job import SourceFacts
from tests.vendors import market
from tests.vendors.live.connections import PATIENCE
from tests.vendors.server import Row


def live_half(vendor: str, options: Row, keys: Mapping[str, str]) -> BaseRealtimeExtractor:
    """Return a vendor's live half with the secrets of a stand-in."""
    source = SourceFacts(1, f"{vendor}-live", vendor, {"first_pause": 0.01, **options}, "VENDOR")
    environ = {f"VENDOR_{ending}": value for ending, value in keys.items()}
    made: BaseRealtimeExtractor = registry.extractor(vendor, "realtime")(source, Context((), environ))
    return made


class Listener:
    """One connection, in a thread of its own; `wait_for` waits for what it brings."""

    def __init__(
        self, extractor: BaseRealtimeExtractor, channels: Iterable[Channel], since: Mapping[Channel, int] | None = None
    ) -> None:
        self.extractor = extractor
        self.channels = frozenset(channels)
        self.since = since or {}
        self.items: list[Frame | Told] = []
        self.error: Exception | None = None
        self.ended = False
        self.changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the connection, as a run does that stops."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def change(self, added: Iterable[Channel] = (), removed: Iterable[Channel] = ()) -> None:
        """Tell the connection what is to be subscribed besides, and what no longer."""
        self._loop.call_soon_threadsafe(self.request.changes.put_nowait, (frozenset(added), frozenset(removed)))

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition returns once that is something; fails where the connection ends before."""
        with self.changed:
            self.changed.wait_for(lambda: condition() or self.ended, PATIENCE)
            found = condition()
        assert found, (self.error, self.told[-5:])
        return found

    def wait_ended(self) -> Exception | None:
        """Return what the connection has ended with; None: in order."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended, PATIENCE)
        self._thread.join(PATIENCE)
        return self.error

    def wait_acknowledged(self, channels: Iterable[Channel]) -> None:
        """Return when all of these were acknowledged."""
        wanted = set(channels)
        self.wait_for(lambda: wanted <= self.acknowledged.keys())

    @property
    def told(self) -> list[Told]:
        """What the vendor said of the connection."""
        return [item for item in self.items if isinstance(item, Told)]

    @property
    def acknowledged(self) -> dict[Channel, int | None]:
        """What was acknowledged, with the time from which on it is sent."""
        return {channel: told.since for told in self.told for channel in told.acknowledged}

    @property
    def refused(self) -> dict[Channel, str]:
        """What was refused, with the vendor's words."""
        return {channel: words for told in self.told for channel, words in told.refused.items()}

    @property
    def frames(self) -> list[Frame]:
        """The frames as they land: numbered, contexts as the frame that follows."""
        found, number = [], 0
        for item in self.items:
            if isinstance(item, Frame):
                found.append(replace(item, number=number))
                number += not item.context
        return found

    def batches(self) -> list[Batch]:
        """Return what came, parsed at once."""
        return list(self.extractor.parse(self.frames, {}))

    def rows(self, schema: str, symbol: str) -> list[Row]:
        """Return the refined rows of a symbol, in order of their key."""
        return refined(self.batches(), schema, symbol)

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.request = LiveRequest(self.channels, since=self.since)
        self._task = asyncio.create_task(self._keep())
        self._ready.set()
        await asyncio.wait([self._task])
        with self.changed:
            self.ended = True
            if not self._task.cancelled():
                self.error = self._task.exception()  # type: ignore[assignment]
            self.changed.notify_all()

    async def _keep(self) -> None:
        async with aclosing(self.extractor.frames(self.request)) as coming:
            async for item in coming:
                with self.changed:
                    self.items += [item] if isinstance(item, Frame | Told) else item
                    self.changed.notify_all()


def raw_table(batches: Iterable[Batch], schema: str) -> pa.Table:
    """Return the raw rows of a schema, in the order in which they came."""
    found = [batch.table for batch in batches if batch.schema == schema and batch.table.num_rows]
    return pa.concat_tables(found).unify_dictionaries() if found else pa.table({})


def refined(batches: Iterable[Batch], schema: str, symbol: str = "") -> list[Row]:
    """Return the refined rows of a schema, where a symbol is given only of that one; none may be rejected."""
    table = raw_table(batches, schema)
    if not table.num_rows:
        return []
    names = [INSTRUMENT if name == SYMBOL else name for name in table.column_names]
    facts = Facts(1, market.day(2200, 1, 1))
    made = refine(SCHEMAS[schema], table.rename_columns(names), facts, Ordinals())
    assert made.rejected.num_rows == 0, made.rejected.to_pylist()[:3]
    return [row for row in made.accepted.to_pylist() if symbol in ("", row[INSTRUMENT])]
