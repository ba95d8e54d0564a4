"""One Bloomberg session that listens: connect, authenticate, open //blp/mktdata, subscribe, give what comes.

All of it blocks, in one thread, as the SDK wants it. A session is started without waiting, so that it can be stopped
while it still connects. Order of events: BLPAPI Core Developer Guide, and SubscriptionWithEventPollingExample.py of
the SDK.

- The SDK would connect again by itself. Here a session ends with its last connection: whoever runs it connects again,
  and knows what was not heard.
- A quiet line says nothing, so nothing heard is no sign of death, nor of life. The SDK pings: a line that is dead is
  noticed within ten seconds, hence a session that is up now was alive a little before, which is what is told.
- Where this process is behind, the SDK keeps events up to a limit, then drops them and says `DataLoss`. What it keeps
  was received, and is not heard: until all of it is taken, signs of life count up to the last message that was. What
  it drops came after the warning that precedes it.
- What came by a connection that went down may have ended a while before.
"""

import threading
import time
from collections.abc import Collection
from collections.abc import Generator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from queue import Empty
from queue import SimpleQueue
from typing import Any
from typing import Final

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import TransientError
from flows.blp import events
from flows.blp import faults
from flows.blp.session import Connection
from flows.blp.session import cleaned
from flows.blp.session import sdk
from flows.blp.session import session_options
from flows.blp.session import translated
from flows.blp.subscriptions import MKTDATA
from flows.blp.subscriptions import Subscriptions
from flows.blp.subscriptions import Wishes
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told

#: channels that come and go while a session lives
Changes = SimpleQueue[tuple[Collection[Channel], Collection[Channel]]]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# SDK events that are taken before what they brought is handed on
_EVENTS: Final = 500
# ms of quiet after which the SDK pings, and ms it waits for the answer
_PING: Final = 5000
# numbers of blpapi.Event; they are part of its binary interface
_KINDS: Final = {
    1: "ADMIN",
    2: "SESSION_STATUS",
    3: "SUBSCRIPTION_STATUS",
    8: events.DATA,
    9: "SERVICE_STATUS",
    11: "AUTHORIZATION_STATUS",
    12: "TOKEN_STATUS",
}
_OF_SUBSCRIPTIONS: Final = ("SUBSCRIPTION_STATUS", events.DATA)


def listen(
    connection: Connection, wishes: Wishes, channels: Collection[Channel], changes: Changes, stopped: threading.Event
) -> Generator[list[Frame | Told], None, None]:
    """Yield what a session brings, until its connection is gone or `stopped` is set; the session is then stopped.

    Raises ConfigError, AuthFailed, NotEntitled or TransientError, by what Bloomberg says.
    """
    blpapi = sdk()
    with translated(connection, "session options", ConfigError):
        options = session_options(blpapi, connection)
        options.setRecordSubscriptionDataReceiveTimes(True)
        options.setMaxEventQueueSize(wishes.queue)
        options.setKeepAliveEnabled(True)
        options.setDefaultKeepAliveInactivityTime(_PING)
        options.setDefaultKeepAliveResponseTimeout(_PING)
        session = blpapi.Session(options)
    try:
        listener = _Listener(blpapi, session, connection, wishes, channels)
        while not stopped.is_set() and not listener.over:
            if items := listener.turn(changes):
                yield items
        if listener.error is not None:
            raise cleaned(listener.error, connection)
    finally:
        session.stop()


class _Listener:
    """What a session has said so far; `over` when it is of no use any more, with the `error` where one is why."""

    def __init__(
        self, blpapi: Any, session: Any, connection: Connection, wishes: Wishes, channels: Collection[Channel]
    ) -> None:
        self.over = False
        self.error: DataflowError | None = None
        self._session = session
        self._connection = connection
        self._pace = wishes.pace
        self._subscriptions = Subscriptions(blpapi, session, wishes, self._tell)
        self._first = channels
        self._about = f"session with {connection.where}"
        self._open = False
        self._up: set[str] = set()
        self._items: list[Frame | Told] = []
        self._latest = 0
        #: when the SDK received the last message that was taken, and the last one before it warned
        self._reached = 0
        self._warned = 0
        self._drained = True
        self._signed = time.monotonic()
        self._deadline = self._signed + connection.timeout
        with translated(connection, self._about, TransientError):
            session.startAsync()

    def turn(self, changes: Changes) -> list[Frame | Told]:
        """Wait a little for events; return what they and the clock bring."""
        try:
            with translated(self._connection, self._about, TransientError):
                if self._open:
                    self._obey(changes)
                event = self._session.nextEvent(max(int(self._pace.look * 1000), 1))
                taken = 0
                while event is not None and not self.over:
                    # of an event TIMEOUT there are no messages
                    self._take(event)
                    taken += 1
                    event = self._session.tryNextEvent() if taken < _EVENTS else None
                self._drained = taken < _EVENTS
                if not self._drained:
                    # what is said now of the session is no sign that what waits was heard
                    self._items.insert(0, Told(time.time_ns(), behind=True))
                if not self.over:
                    self._look(time.monotonic())
        except DataflowError as error:
            self._fail(error)
        items, self._items = self._items, []
        return items

    def _fail(self, error: DataflowError) -> None:
        self.over, self.error = True, error

    def _tell(self, told: Told) -> None:
        shown = self._connection.shown
        if told.lost and told.since is None:
            told = replace(told, since=self._warned or self._reached or None)
        refused = {channel: shown(reason) for channel, reason in told.refused.items()}
        self._items.append(replace(told, refused=refused, lost=shown(told.lost), note=shown(told.note)))

    def _obey(self, changes: Changes) -> None:
        with suppress(Empty):
            while True:
                self._subscriptions.change(*changes.get_nowait())

    def _look(self, now: float) -> None:
        if not self._open:
            if now > self._deadline:
                raise TransientError(
                    f"{self._about}: Bloomberg said nothing for {self._connection.timeout:g} s; are host, port and the "
                    "terminal's login right?"
                )
            return
        self._subscriptions.look(now)
        if self._drained and now - self._signed >= self._pace.sign:
            self._signed = now
            self._latest = max(self._latest, time.time_ns() - int(self._pace.certain * 1e9))
            self._tell(Told(self._latest))

    def _take(self, event: Any) -> None:
        kind = _KINDS.get(event.eventType(), str(event.eventType()))
        for message in event:
            name = str(message.messageType())
            body = message.toPy()
            numbers = [one.value() for one in message.correlationIds()] if kind in _OF_SUBSCRIPTIONS else []
            moment = _received(message)
            received = time.time_ns() if moment is None else (moment - _EPOCH) // _MICROSECOND * 1000
            self._latest = max(self._latest, received)
            symbols = self._subscriptions.symbols(numbers)
            raw = events.content(kind, name, message.recapType(), message.fragmentType(), symbols, moment, body)
            said = body if isinstance(body, dict) else {}
            if kind == events.DATA:
                self._subscriptions.data(numbers, said, received)
            elif kind == "SUBSCRIPTION_STATUS":
                self._subscriptions.status(name, numbers, said, received)
            else:
                self._session_says(name, said, received)
                # what is said of the session may name the application
                raw = self._connection.shown(raw.decode()).encode()
            self._items.append(Frame(raw, received))
            if moment is not None:
                self._reached = max(self._reached, received)

    def _session_says(self, name: str, body: Mapping[str, Any], received: int) -> None:
        if name in faults.SESSION_ENDED or name in faults.AUTH_REFUSED:
            self._fail(faults.of_session(name, body, self._about))
        elif name == "ServiceOpenFailure":
            self._fail(faults.of_session(name, body, MKTDATA))
        elif name == "SessionStarted":
            self._session.openServiceAsync(MKTDATA)
        elif name == "ServiceOpened" and body.get("serviceName") == MKTDATA:
            self._open = True
            self._subscriptions.subscribe(self._first)
        elif name == "SessionConnectionUp":
            self._up.add(str(body.get("server")))
        elif name == "SessionConnectionDown":
            self._up.discard(str(body.get("server")))
            # while it connects, the next server may be the right one
            self.over = self._open and not self._up
            self._lose(f"{name}: {body.get('server')}: {body.get('description') or 'no words'}", received)
        elif name == "ServiceDown" and body.get("serviceName") == MKTDATA:
            self.over = True
            self._lose(f"{name}: {MKTDATA}", received)
        elif name == "DataLoss":
            words = f"{name}: {body.get('numMessagesDropped')} messages dropped by {body.get('source')}"
            self._tell(Told(received, lost=words))
            self._warned = 0
        elif name == "SlowConsumerWarning":
            self._warned = self._reached
            self._tell(Told(received, note=f"{name}: more events wait in Bloomberg's library than it likes"))
        elif name == "SlowConsumerWarningCleared":
            dropped = body.get("eventsDropped")
            words = f"{name}: {dropped or 0} events dropped"
            self._tell(Told(received, lost=words) if dropped else Told(received, note=words))
            # where some were dropped, `DataLoss` says so too
            self._warned = self._warned if dropped else 0

    def _lose(self, words: str, received: int) -> None:
        """Tell of a line that is dead: it was alive some time ago."""
        self._tell(Told(received, lost=words, since=received - int(self._pace.certain * 1e9)))


def _received(message: Any) -> datetime | None:
    """Return when the SDK received a message; None where it does not say (it does for subscribed data)."""
    try:
        moment: datetime = message.timeReceived()
    except ValueError:
        return None
    return moment.astimezone(UTC)
