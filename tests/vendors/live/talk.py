"""A plain client for tests of live stand-ins."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any

from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from tests.vendors.live.server import LiveStandIn

START = datetime(2024, 1, 2, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
#: seconds that nothing takes
LONG = 30.0


@contextmanager
def client(stand_in: LiveStandIn, path: str, **about: Any) -> Iterator[ClientConnection]:
    """Connect; who is cut off, or not answered, does not wait for a farewell."""
    with connect(stand_in.url + path, close_timeout=0.1, proxy=None, **about) as socket:
        yield socket


def said(socket: ClientConnection) -> Any:
    """Return the next message."""
    return json.loads(socket.recv(LONG))


def tell(socket: ClientConnection, **message: Any) -> None:
    """Send a message."""
    socket.send(json.dumps(message))
