"""Vendors' servers on loopback, each in a process of its own, that send what is prepared to whoever subscribes.

    python -m benchmarks.live_servers gateway FILE          Databento's; FILE is what each session sends
    python -m benchmarks.live_servers streams COUNT RATE    Binance's: COUNT trades, RATE a second (0: as they are read)

A server tells in lines: where it answers; then, for each connection, when it begins to send (nanoseconds of the
monotonic clock, which all processes of a machine share) and, when all is sent, how much that was. It ends with its
input.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.live_trades import Trades
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Wanted
from tests.vendors.live.databento import DatabentoLiveStandIn
from tests.vendors.live.databento_gateway import Session

KEY: Final = DatabentoLiveStandIn.keys["API_KEY"]
#: trades of one millisecond, where they are prepared; what is written at once; what may wait for a slow reader
_A_MILLISECOND: Final = 20
_BLOCK: Final = 1 << 16
_WAITING: Final = 1 << 20
_TICK: Final = 0.001
_MOMENT: Final = 0.2


class Server:
    """A server's process, seen from the one that started it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self.told()

    def told(self) -> str:
        """Return the next line; fails where the server has ended."""
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        if not line:
            raise AssertionError("the server has ended")
        return line

    def begun(self) -> int:
        """Return when it began to send to the next connection."""
        return int(self.told())


@contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """Start a server; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.live_servers", *map(str, arguments)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        try:
            yield Server(process)
        finally:
            process.stdin.close()


class PreparedGateway(DatabentoLiveStandIn):
    """Sends each session the same records, all at once and a moment after it has started.

    The vendor's client loses what comes between its start and its first iteration.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__("GLBX.MDP3")
        size = 8 + int.from_bytes(content[4:8], "little")
        self.recorded, self._records = content[:size], content[size:]

    def _start(self, client: Session) -> None:
        super()._start(client)
        self._loop.call_later(_MOMENT, self._send, client)

    def _send(self, client: Session) -> None:
        _tell(time.monotonic_ns())
        self._write(client, self._records)


class PreparedStreams(BinanceLiveStandIn):
    """Sends trades to each connection that is subscribed to all of them."""

    def __init__(self, count: int, rate: int) -> None:
        super().__init__()
        self.trades = Trades()
        self._count = count
        self._rate = rate
        self._playing: dict[int, asyncio.Task[None]] = {}
        self._blocks = [] if rate else list(self._prepared())

    def _prepared(self) -> Iterator[bytes]:
        now = time.time_ns() // 1_000_000 - self._count // _A_MILLISECOND
        made = bytearray()
        for first in range(0, self._count, _A_MILLISECOND):
            made += self.trades.frames(first, min(first + _A_MILLISECOND, self._count), now + first // _A_MILLISECOND)
            if len(made) >= _BLOCK:
                yield bytes(made)
                made.clear()
        yield bytes(made)

    def _wanted(self, name: str) -> Wanted:
        symbol = name.partition("@")[0].upper()
        return ("trades", symbol) if symbol in self.trades.symbols else super()._wanted(name)

    def subscribe(self, client: Client, channels: Mapping[str, Wanted]) -> None:
        super().subscribe(client, channels)
        heard = {symbol for _, symbol in client.channels.values()}
        if client.number not in self._playing and heard.issuperset(self.trades.symbols):
            play = self._paced(client) if self._rate else self._pressed(client)
            self._playing[client.number] = asyncio.get_running_loop().create_task(play)

    async def _pressed(self, client: Client) -> None:
        """Send all that is prepared, as fast as it is read."""
        # the acknowledgement goes first
        await asyncio.sleep(0)
        transport = client.socket.transport
        _tell(time.monotonic_ns())
        for block in self._blocks:
            transport.write(block)
            while transport.get_write_buffer_size() > _WAITING and not transport.is_closing():
                await asyncio.sleep(_TICK)
        _tell(self._count)

    async def _paced(self, client: Client) -> None:
        """Send what is due, every millisecond; a reader that does not keep up is not waited for."""
        await asyncio.sleep(0)
        transport = client.socket.transport
        begun, sent = time.monotonic(), 0
        _tell(time.monotonic_ns())
        while sent < self._count and not transport.is_closing():
            due = min(int((time.monotonic() - begun) * self._rate), self._count)
            if due > sent:
                transport.write(self.trades.frames(sent, due, time.time_ns() // 1_000_000))
                sent = due
            await asyncio.sleep(_TICK)
        _tell(sent)


def _tell(value: object) -> None:
    print(value, flush=True)


def main(kind: str, *arguments: str) -> None:
    if kind == "gateway":
        gateway = PreparedGateway(Path(arguments[0]).read_bytes())
        with gateway:
            _tell(gateway.address)
            sys.stdin.read()
        return
    streams = PreparedStreams(int(arguments[0]), int(arguments[1]))
    with streams:
        _tell(streams.url)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
