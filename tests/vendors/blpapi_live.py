"""The other half of the stand-in for `blpapi`: sessions with //blp/mktdata, where a test says what is published.

Signatures and rules follow blpapi 3.26 (msitt/blpapi-python, MIT: session.py, subscriptionlist.py, sessionoptions.py),
bodies of status messages its examples/unittests/snippets/test_events.py. `nextEvent` waits as long as it is told,
correlation ids are not used twice, nothing is seen of a subscription that was given up but that it was terminated, and
what waits beyond the queue's size is dropped and told: `SlowConsumerWarning`, `DataLoss`.
"""

import threading
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from enum import Enum
from itertools import count
from typing import Any

from tests.vendors import blpapi_standin as standin
from tests.vendors.blpapi_standin import ADMIN
from tests.vendors.blpapi_standin import SERVICE_STATUS
from tests.vendors.blpapi_standin import SESSION_STATUS
from tests.vendors.blpapi_standin import TIMEOUT
from tests.vendors.blpapi_standin import CorrelationId
from tests.vendors.blpapi_standin import Event
from tests.vendors.blpapi_standin import InvalidArgumentException
from tests.vendors.blpapi_standin import InvalidStateException

SUBSCRIPTION_STATUS, SUBSCRIPTION_DATA = 3, 8
NONE, SOLICITED, UNSOLICITED = 0, 1, 2
SERVER = "10.0.0.1:8194"
_PREFIX = "//blp/mktdata/"
# how long a test waits for the session before it fails
_PATIENCE = 30.0


class SubscriptionPreprocessMode(Enum):
    """What `subscribe` does about entries that cannot be."""

    FAIL_ON_FIRST_ERROR = 1
    RETURN_INDIVIDUAL_ERRORS = 2


@dataclass(frozen=True)
class SubscriptionPreprocessError:
    """One entry that cannot be."""

    correlationId: CorrelationId  # noqa: N815
    subscriptionString: str  # noqa: N815
    errorCode: int  # noqa: N815
    description: str


class SubscriptionList:
    """Subscription strings with their correlation ids."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, CorrelationId]] = []

    def add(
        self,
        topic: str | None,
        fields: str | Sequence[str] | None = None,
        options: str | Sequence[str] | Mapping[str, Any] | None = None,
        correlationId: CorrelationId | None = None,  # noqa: N803
    ) -> int:
        text = topic or ""
        if fields:
            text += "?fields=" + (fields if isinstance(fields, str) else ",".join(fields))
        if isinstance(options, Mapping):
            options = [name if value is None else f"{name}={value}" for name, value in options.items()]
        if options:
            text += ("&" if fields else "?") + (options if isinstance(options, str) else "&".join(options))
        self.entries.append((text, correlationId or CorrelationId(-len(self.entries))))
        return 0

    def size(self) -> int:
        return len(self.entries)


class Message(standin.Message):
    """A message with what the SDK says around it."""

    FRAGMENT_NONE, RECAPTYPE_NONE, RECAPTYPE_SOLICITED, RECAPTYPE_UNSOLICITED = 0, NONE, SOLICITED, UNSOLICITED

    def __init__(
        self,
        name: str,
        body: Any,
        correlation: CorrelationId | None = None,
        recap: int = NONE,
        received: datetime | None = None,
    ) -> None:
        super().__init__(name, body, correlation)
        self._recap, self._received = recap, received

    def recapType(self) -> int:  # noqa: N802
        return self._recap

    def fragmentType(self) -> int:  # noqa: N802
        return self.FRAGMENT_NONE

    def timeReceived(self) -> datetime:  # noqa: N802
        if self._received is None:
            raise ValueError("Message has no timestamp")
        return self._received


@dataclass
class Floor:
    """Bloomberg's side. Methods may be called from any thread; what is published goes to every session that has it.

    `images` are the securities there are, with the state that a subscription begins with (None: none comes).
    """

    images: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    #: security → why it cannot be subscribed to (`reason`); taken out once it was said
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: security → fields it has not
    exceptions: dict[str, list[str]] = field(default_factory=dict)
    #: events instead of those that say that a session, or the service, is there
    startup: list[tuple[int, str, Any]] | None = None
    service: list[tuple[int, str, Any]] | None = None
    sessions: list["Session"] = field(default_factory=list)
    #: subscription strings, in the order in which they were asked
    asked: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, true: Callable[[], object]) -> None:
        """Wait until something is true of the sessions."""
        with self.changed:
            assert self.changed.wait_for(true, _PATIENCE)

    def subscribed(self, *securities: str) -> None:
        """Wait until the last session has subscriptions to exactly these securities."""
        self.wait(lambda: self.sessions and sorted(self.sessions[-1].topics.values()) == sorted(securities))

    def publish(
        self, security: str, body: Mapping[str, Any], recap: int = NONE, name: str = "MarketDataEvents"
    ) -> None:
        """Send subscribed data."""
        with self.changed:
            for session in self.sessions:
                for number in session.numbers(security):
                    session.post(SUBSCRIPTION_DATA, name, dict(body), number, recap)

    def trade(self, security: str, **fields: Any) -> None:
        """Send a new trade."""
        self.publish(security, {"MKTDATA_EVENT_TYPE": "TRADE", "MKTDATA_EVENT_SUBTYPE": "NEW"} | fields)

    def status(self, security: str, name: str, body: Any) -> None:
        """Send what concerns the subscription to a security."""
        with self.changed:
            for session in self.sessions:
                for number in session.numbers(security):
                    session.post(SUBSCRIPTION_STATUS, name, body, number)
                    if name == "SubscriptionTerminated":
                        del session.topics[number]

    def say(self, kind: int, name: str, body: Any) -> None:
        """Send what concerns a whole session."""
        with self.changed:
            for session in self.sessions:
                session.post(kind, name, body)

    def down(self, server: str = SERVER) -> None:
        """Lose a connection."""
        self.say(SESSION_STATUS, "SessionConnectionDown", {"server": server, "description": "connection reset"})

    def up(self, server: str = SERVER) -> None:
        """Get a connection."""
        said = {"server": server, "serverId": "host", "encryptionStatus": "Clear", "compressionStatus": "Uncompressed"}
        self.say(SESSION_STATUS, "SessionConnectionUp", said)


class Session:
    """A session in synchronous mode that was started without waiting."""

    def __init__(self, floor: Floor, options: standin.SessionOptions) -> None:
        self.floor, self.options = floor, options
        self.queue: deque[Event] = deque()
        self.topics: dict[int, str] = {}
        self.used: set[int] = set()
        self.threads: set[int] = set()
        self.given: Counter[str] = Counter()
        self.started = self.stopped = False
        self.opened: set[str] = set()
        self._streams = count(1)
        self._dropped = 0
        self._slow = False
        with floor.changed:
            floor.sessions.append(self)

    # -- what the SDK has -------------------------------------------------------------------------------------------

    def startAsync(self) -> bool:  # noqa: N802
        with self._called():
            if self.started:
                raise InvalidStateException("a session may only be started once")
            self.started = True
            up = {"server": SERVER, "serverId": "host"}
            said = [
                (SESSION_STATUS, "SessionConnectionUp", up),
                (SESSION_STATUS, "SessionStarted", {"initialEndpoints": [{"address": SERVER}]}),
            ]
            for kind, name, body in said if self.floor.startup is None else self.floor.startup:
                self.post(kind, name, body)
        return True

    def openServiceAsync(self, serviceName: str, correlationId: CorrelationId | None = None) -> CorrelationId:  # noqa: N802, N803
        with self._called():
            said = [(SERVICE_STATUS, "ServiceOpened", {"serviceName": serviceName})]
            for kind, name, body in said if self.floor.service is None else self.floor.service:
                # its number is the SDK's own, and may be one of a subscription
                self.post(kind, name, body, 1)
            if self.floor.service is None:
                self.opened.add(serviceName)
        return correlationId or CorrelationId(1)

    def subscribe(
        self,
        subscriptionList: SubscriptionList,  # noqa: N803
        identity: Any = None,
        requestLabel: str | None = None,  # noqa: N803
        mode: SubscriptionPreprocessMode = SubscriptionPreprocessMode.FAIL_ON_FIRST_ERROR,
    ) -> list[SubscriptionPreprocessError] | None:
        errors = []
        with self._called():
            if "//blp/mktdata" not in self.opened:
                raise InvalidStateException("//blp/mktdata is not open")
            for text, correlation in subscriptionList.entries:
                number, security = correlation.value(), _security(text)
                if number in self.used or not security:
                    why = "duplicate correlation id" if number in self.used else "invalid subscription string"
                    errors.append(SubscriptionPreprocessError(correlation, text, 1, why))
                    continue
                self.floor.asked.append(text)
                self.used.add(number)
                self._begin(number, security)
        if errors and mode is SubscriptionPreprocessMode.FAIL_ON_FIRST_ERROR:
            raise InvalidArgumentException(errors[0].description)
        return errors if mode is SubscriptionPreprocessMode.RETURN_INDIVIDUAL_ERRORS else None

    def unsubscribe(self, subscriptionList: SubscriptionList) -> None:  # noqa: N803
        with self._called():
            for _, correlation in subscriptionList.entries:
                number = correlation.value()
                if self.topics.pop(number, None) is None:
                    continue
                self.queue = deque(event for event in self.queue if not _about(event, number))
                self.post(SUBSCRIPTION_STATUS, "SubscriptionTerminated", {"reason": {"category": "CANCELED"}}, number)

    def nextEvent(self, timeout: int = 0) -> Event:  # noqa: N802
        with self._called():
            self.floor.changed.wait_for(lambda: self.queue, timeout / 1000 if timeout else None)
            if self.queue:
                return self._pop()
            self.given["TIMEOUT"] += 1
            return Event(TIMEOUT, [])

    def tryNextEvent(self) -> Event | None:  # noqa: N802
        with self._called():
            return self._pop() if self.queue else None

    def stop(self) -> bool:
        with self._called():
            self.stopped = True
        return True

    # -- what the floor does ----------------------------------------------------------------------------------------

    def numbers(self, security: str) -> list[int]:
        """The subscriptions to a security."""
        return [number for number, topic in self.topics.items() if topic == security]

    def post(self, kind: int, name: str, body: Any, number: int | None = None, recap: int = NONE) -> None:
        """Put an event into the queue, or drop it where the queue is full; the lock is held."""
        if self.stopped:
            return
        size = self.options.values.get("queue", 10_000)
        if kind == SUBSCRIPTION_DATA and len(self.queue) >= size:
            self._dropped += 1
            return
        timed = kind == SUBSCRIPTION_DATA and self.options.values.get("receive times")
        moment = datetime.now(UTC) if timed else None
        correlation = None if number is None else CorrelationId(number)
        self.queue.append(Event(kind, [Message(name, body, correlation, recap, moment)]))
        if len(self.queue) > size * 0.75 and not self._slow:
            self._slow = True
            self.queue.append(Event(ADMIN, [Message("SlowConsumerWarning", {})]))
        self.floor.changed.notify_all()

    def _begin(self, number: int, security: str) -> None:
        if reason := self.floor.failures.pop(security, None):
            self.post(SUBSCRIPTION_STATUS, "SubscriptionFailure", {"reason": reason}, number)
            return
        if security not in self.floor.images:
            unknown = {"source": "test", "errorCode": 2, "category": "BAD_SEC", "description": "Invalid security"}
            self.post(SUBSCRIPTION_STATUS, "SubscriptionFailure", {"reason": unknown, "failureDetails": []}, number)
            return
        self.topics[number] = security
        bad = {"source": "test", "errorCode": 9, "category": "BAD_FLD", "description": "Field not valid"}
        stream = str(next(self._streams))
        started = {
            "exceptions": [{"fieldId": name, "reason": bad} for name in self.floor.exceptions.get(security, [])],
            "streamIds": [stream],
            "receivedFrom": {"address": SERVER},
            "reason": "",
        }
        self.post(SUBSCRIPTION_STATUS, "SubscriptionStarted", started, number)
        streams = {"streams": [{"id": stream, "endpoint": {"address": SERVER}}], "reason": ""}
        self.post(SUBSCRIPTION_STATUS, "SubscriptionStreamsActivated", streams, number)
        image = self.floor.images[security]
        if image is not None:
            paint = {"MKTDATA_EVENT_TYPE": "SUMMARY", "MKTDATA_EVENT_SUBTYPE": "INITPAINT"}
            self.post(SUBSCRIPTION_DATA, "MarketDataEvents", paint | image, number, SOLICITED)

    def _pop(self) -> Event:
        event = self.queue.popleft()
        for message in event:
            self.given[str(message.messageType())] += 1
        self.floor.changed.notify_all()
        if self._slow and len(self.queue) < self.options.values.get("queue", 10_000) * 0.5:
            self._slow = False
            cleared = {"eventsDropped": self._dropped}
            self.queue.append(Event(ADMIN, [Message("SlowConsumerWarningCleared", cleared)]))
            if self._dropped:
                lost = {"id": "1", "source": "test", "numMessagesDropped": self._dropped}
                self.queue.append(Event(ADMIN, [Message("DataLoss", lost)]))
            self._dropped = 0
        return event

    @contextmanager
    def _called(self) -> Iterator[None]:
        with self.floor.changed:
            self.threads.add(threading.get_ident())
            if self.stopped:
                raise InvalidStateException("the session was stopped")
            yield
            self.floor.changed.notify_all()


def _security(text: str) -> str:
    """Return the security that a subscription string names; nothing where it names none."""
    if not text.startswith(_PREFIX):
        return ""
    topic = text.removeprefix(_PREFIX).partition("?")[0]
    return topic.removeprefix("ticker/") if topic.startswith("ticker/") else f"/{topic}"


def _about(event: Event, number: int) -> bool:
    return any(one.value() == number for message in event for one in message.correlationIds())


@contextmanager
def installed(floor: Floor) -> Iterator[Floor]:
    """Put the stand-in where `import blpapi` finds it."""
    made: Any = standin.module(standin.Desk(lambda operation, asked: []))
    made.Session = lambda options: Session(floor, options)
    made.Message, made.SubscriptionList = Message, SubscriptionList
    made.SubscriptionPreprocessMode = SubscriptionPreprocessMode
    made.SubscriptionPreprocessError = SubscriptionPreprocessError
    with standin.found(made):
        yield floor
