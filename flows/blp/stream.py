"""What blocks, for the loop: a generator runs in a thread of its own, what it gives is yielded on the loop."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from collections.abc import Callable
from collections.abc import Generator
from contextlib import closing

from flows.frames import Frame
from flows.frames import Told

log = logging.getLogger(__name__)

#: what blocks, given an event: once that is set, it has to end soon
Listening = Callable[[threading.Event], Generator[list[Frame | Told], None, None]]


async def threaded(listen: Listening, limit: int) -> AsyncGenerator[Frame | Told, None]:
    """Yield what a generator that blocks gives, item by item, and raise what it raises.

    All of it runs in the thread. At most `limit` items wait here, beside as many that are being taken and one batch:
    the thread waits while the loop is behind. Closing this generator ends the thread, and returns when it has ended.
    """
    shelf = _Shelf(limit)
    thread = threading.Thread(target=shelf.fill, args=(listen,), name="blpapi", daemon=True)
    thread.start()
    try:
        while items := await shelf.take():
            for item in items:
                yield item
    finally:
        shelf.stop()
        await shelf.ended.wait()
        # it has said so as its last deed
        thread.join()


class _Shelf:
    """What the thread has put down and the loop has not taken."""

    def __init__(self, limit: int) -> None:
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._items: list[Frame | Told] = []
        self._room = threading.Condition()
        self._stopped = threading.Event()
        self._filled = asyncio.Event()
        self._error: Exception | None = None

    def fill(self, listen: Listening) -> None:
        """Run the generator; in the thread."""
        try:
            with closing(listen(self._stopped)) as batches:
                for batch in batches:
                    with self._room:
                        self._room.wait_for(lambda: len(self._items) < self._limit or self._stopped.is_set())
                        if self._stopped.is_set():
                            break
                        self._items += batch
                    self._tell(self._filled)
        except Exception as error:  # noqa: BLE001  # the loop raises it
            if self._stopped.is_set():
                log.warning("a session that was closed ended with: %s", error)
            self._error = error
        finally:
            self._tell(self.ended, self._filled)

    async def take(self) -> list[Frame | Told]:
        """Return what is there, at least one item; nothing at the end. Raises what ended the generator."""
        while True:
            await self._filled.wait()
            if not self.ended.is_set():
                self._filled.clear()
            with self._room:
                items, self._items = self._items, []
                self._room.notify_all()
            if items:
                return items
            if self.ended.is_set():
                if self._error is not None:
                    raise self._error
                return []

    def stop(self) -> None:
        """Make the generator end; what it still gives is dropped."""
        with self._room:
            self._stopped.set()
            self._room.notify_all()

    def _tell(self, *events: asyncio.Event) -> None:
        try:
            for event in events:
                self._loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            # the loop is closed: nobody will take anything any more
            self._stopped.set()
