"""Binance's recorded sessions (cryptofeed's samples of 2021), sent again to whoever connects.

A file of a session begins with the address that was asked and when, and has a line `time: message` for each message;
beside it lie the answers of the REST interface, a line `address -> time: answer` each.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed

from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.connections import Client
from tests.vendors.live.connections import Wanted

#: where the sessions lie in the corpus; BINANCE and BINANCE_US are spot
SESSIONS = "binance/cryptofeed"
_LINE = re.compile(r"(?P<time>\d+(?:\.\d+)?): (?P<message>.*)")


@dataclass(frozen=True, slots=True)
class Session:
    """A recorded session: path and query that were asked, and (seconds since 1970, message) of each message."""

    asked: str
    messages: tuple[tuple[float, str], ...]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that were asked for."""
        return tuple(self.asked.partition("streams=")[2].split("/"))


def session(corpus: Path, name: str) -> Session:
    """Return a recorded session by its name, BINANCE or BINANCE_US."""
    lines = (corpus / SESSIONS / f"{name}.ws.1.0").read_text().splitlines()
    address = urlsplit(lines[0].partition(" <-> ")[0])
    found = [_LINE.fullmatch(line) for line in lines[1:] if line.strip()]
    messages = tuple((float(one["time"]), one["message"]) for one in found if one)
    if len(messages) != len(found):
        raise ValueError(f"session {name} has lines of another form")
    return Session(f"{address.path}?{address.query}", messages)


def answers(corpus: Path, name: str) -> dict[str, Any]:
    """Return the recorded answers of the REST interface by their address: exchangeInfo and snapshots of books."""
    found = {}
    for file in (f"{name}.0", f"{name}.http.0.0"):
        for line in (corpus / SESSIONS / file).read_text().splitlines():
            address, arrow, rest = line.partition(" -> ")
            if arrow:
                found[address] = json.loads(rest.partition(": ")[2])
    return found


class RecordedStandIn(BinanceLiveStandIn):
    """Sends a session, word for word, to each connection once it is subscribed.

    A connection hears of it what it is subscribed to, in the order of the recording, and is closed after it.
    """

    def __init__(self, recorded: Session, speed: float = 0.0, *, stays: bool = False) -> None:
        super().__init__()
        self.session = recorded
        #: seconds of the recording in a second; 0: as fast as a connection reads
        self.speed = speed
        #: whether connections stay open after the last message
        self.stays = stays
        #: streams that a connection must be subscribed to before it is sent anything; empty: any
        self.awaited: set[str] = set()
        #: numbers of the connections that were sent everything
        self.done: list[int] = []
        self._playing: dict[int, asyncio.Task[None]] = {}

    def subscribe(self, client: Client, channels: Mapping[str, Wanted]) -> None:
        super().subscribe(client, {name: ("recorded", name) for name in channels})
        if client.number not in self._playing and self.awaited <= client.channels.keys():
            self._playing[client.number] = asyncio.get_running_loop().create_task(self._play(client))

    async def _play(self, client: Client) -> None:
        # the acknowledgement goes first
        await asyncio.sleep(0)
        clock = asyncio.get_running_loop().time
        begun, first = clock(), self.session.messages[0][0]
        for time, message in self.session.messages:
            if self.speed:
                await asyncio.sleep(begun + (time - first) / self.speed - clock())
            if json.loads(message)["stream"] not in client.channels:
                continue
            content = message if client.notes["combined"] else message[message.index('"data":') + 7 : -1]
            try:
                await client.socket.send(content)
            except ConnectionClosed:
                return
            client.sent += 1
            if self.trips("data", client):
                return
        with self.changed:
            self.done.append(client.number)
            self.changed.notify_all()
        if not self.stays:
            self.close(client, 1000, "")
