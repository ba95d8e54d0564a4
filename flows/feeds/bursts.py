"""A WebSocket that hands on together what came together.

The library takes a task switch and some hundred calls for each message. Here a frame that is a whole message (RFC 6455
§5.2: FIN set, no extension, not masked) is cut out of what was read; every other, and all that is said, is the
library's: handshake, control frames, fragments, compressed and too long ones, errors.
"""

import asyncio
import time
from math import inf
from typing import Any
from typing import ClassVar
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES
from websockets.frames import Frame
from websockets.protocol import OPEN

#: bytes of messages that may wait for whoever reads; then the socket is not read
_MOST: Final = 1 << 20
#: the first byte of a frame that is a whole message: text or binary
_WHOLE: Final = (0x81, 0x82)
_BLANK: Final = b"\r\n\r\n"


class Bursts(ClientConnection):
    """A client's connection that is read with `burst` and not with `recv`."""

    #: bytes that a message may have; what is longer is the library's to refuse
    longest: ClassVar[int] = 1 << 20

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most: float = _MOST
        self._messages: list[bytes] = []
        self._waiting = 0
        self._received = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._over = False
        #: the fragments of a message that is not whole yet
        self._parts: list[bytes] = []
        #: the answer to the handshake, until its head is whole
        self._head: bytes | None = b""
        #: frames are cut here, and this is the beginning of the next one; so many bytes are at least missing
        self._direct = False
        self._rest = bytearray()
        self._wanted = 0

    async def burst(self) -> tuple[int, list[bytes]]:
        """Return the messages that have come and when the last of them did (ns since 1970); waits for one.

        Raises ConnectionClosed when nothing more comes.
        """
        while not self._messages:
            if self._over:
                raise self.protocol.close_exc
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        messages, self._messages, self._waiting = self._messages, [], 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return self._received, messages

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; what still comes is nobody's."""
        if self._paused:
            # the other side's answer must be heard
            self._paused = False
            self.transport.resume_reading()
        self._most = inf
        await super().close(code, reason)

    # -- what asyncio calls ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._received = time.time_ns()
        if self._direct:
            self._cut(data)
        else:
            self._shake(data)
        if self._messages:
            self._wake()
            if self._waiting > self._most and not self._paused:
                self._paused = True
                self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._over = True
        self._wake()

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._parts.append(bytes(event.data))
            if event.fin:
                message = b"".join(self._parts)
                self._parts.clear()
                self._messages.append(message)
                self._waiting += len(message)
        else:
            super().process_event(event)

    # -- cutting --------------------------------------------------------------------------------------------------

    def _shake(self, data: bytes) -> None:
        """Give the library the answer to the handshake; frames may follow in the same read."""
        if self._head is None:
            super().data_received(data)
            return
        before = len(self._head)
        self._head += data
        end = self._head.find(_BLANK)
        if end < 0:
            super().data_received(data)
            return
        self._head = None
        cut = end + len(_BLANK) - before
        super().data_received(data[:cut])
        # where it was refused, a body follows
        self._direct = self.protocol.state is OPEN
        if self._direct:
            self._cut(data[cut:])
        elif len(data) > cut:
            super().data_received(data[cut:])

    def _cut(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
        at, size = 0, len(data)
        add, parts, longest = self._messages.append, self._parts, self.longest
        self._wanted = 0
        while size - at >= 2:
            begun = at
            # a loop of its own: nearly every message goes through it, whole and of two bytes' length
            while at + 4 <= size and data[at + 1] == 126 and data[at] in _WHOLE and not parts:
                end = at + 4 + (data[at + 2] << 8 | data[at + 3])
                if end > size:
                    break
                add(data[at + 4 : end])
                at = end
            if at > begun:
                self._waiting += at - begun
                continue
            length, start = data[at + 1], at + 2
            if length == 126:
                start += 2
                if size < start:
                    break
                length = data[at + 2] << 8 | data[at + 3]
            elif length == 127:
                start += 8
                if size < start:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            elif length > 127:
                # masked, which no server may send
                length = longest + 1
            end = start + length
            if length > longest:
                self._hand_over(data[at:])
                return
            if end > size:
                self._wanted = end - at
                break
            if data[at] in _WHOLE and not parts:
                add(data[start:end])
                self._waiting += length
            else:
                super().data_received(data[at:end])
                if self.protocol.state is not OPEN:
                    self._hand_over(data[end:])
                    return
            at = end
        self._rest = bytearray(data[at:])

    def _hand_over(self, data: bytes) -> None:
        """Leave the rest to the library: the connection comes to its end."""
        self._direct = False
        self._rest.clear()
        if data:
            super().data_received(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
