"""What keeps a connection's time: when to look up from reading, and whether the other side still answers."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

from flows.frames import Told

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

T = TypeVar("T")


class Alarm:
    """Wakes who waits for a message when there is something else to do. One timer serves many messages, since a time
    limit for each, as asyncio.timeout sets it, costs as much as reading it does."""

    def __init__(self) -> None:
        self.due = True
        self._waiter: asyncio.Task[Any] | None = None
        self._rang = False
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring once, after some seconds."""
        self.stop()
        self.due = False
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._ring)

    def stop(self) -> None:
        """Do not ring any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def until(self, message: Awaitable[T]) -> T | None:
        """Return a message when it comes; None where the alarm rings before. Who else cancels is heard."""
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        self._waiter, self._rang = task, False
        try:
            return await message
        except asyncio.CancelledError:
            if self._rang and task.uncancel() <= cancelled:
                return None
            raise
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self.due = True
        if self._waiter is not None:
            self._rang = True
            self._waiter.cancel()


class Pings:
    """Our pings, and what their answers tell: that the vendor is alive."""

    def __init__(self, socket: "ClientConnection", seconds: float) -> None:
        self.socket = socket
        self._seconds = seconds
        self._next = 0.0
        self._waiting: deque[asyncio.Future[float]] = deque(maxlen=8)

    async def go(self, now: float) -> None:
        """Ping where it is time to."""
        if now >= self._next:
            self._next = now + self._seconds
            self._waiting.append(asyncio.ensure_future(await self.socket.ping()))

    def wait(self, now: float) -> float:
        """Return the seconds until the next one, less where an answer is awaited."""
        return min(self._next - now, 0.25) if self._waiting else self._next - now

    def told(self, received: int) -> list[Told]:
        """Return a sign of life where an answer came."""
        done = [answer for answer in self._waiting if answer.done()]
        for answer in done:
            self._waiting.remove(answer)
        heard = any(not answer.cancelled() and answer.exception() is None for answer in done)
        return [Told(received)] if heard else []
