"""A stand-in for the module `blpapi`: the documented interface, over answers that a test writes or has recorded.

It replaces Bloomberg's SDK, which is not on PyPI and talks a closed protocol, and nothing of ours. Signatures, order of
events and messages follow blpapi 3.26 (msitt/blpapi-python, MIT) and the refdata service schema: a request refuses
elements that its operation has not, a service has to be open, messages carry the correlation id of their request.
"""

import sys
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import date
from datetime import datetime
from types import ModuleType
from types import SimpleNamespace
from typing import Any

ADMIN, SESSION_STATUS, REQUEST_STATUS, RESPONSE, PARTIAL_RESPONSE, SERVICE_STATUS, TIMEOUT, UNKNOWN = (
    1, 2, 4, 5, 6, 9, 10, -1,
)  # fmt: skip
TEXT, TEXTS, FLAG, NUMBER, MOMENT, OVERRIDES = "text", "texts", "flag", "number", "moment", "overrides"
_ADJUST = dict.fromkeys(("adjustmentSplit", "adjustmentNormal", "adjustmentAbnormal", "adjustmentFollowDPDF"), FLAG)
OPERATIONS: dict[str, dict[str, str]] = {
    "HistoricalDataRequest": {
        "securities": TEXTS, "fields": TEXTS, "startDate": TEXT, "endDate": TEXT, "periodicitySelection": TEXT,
        "periodicityAdjustment": TEXT, "nonTradingDayFillOption": TEXT, "nonTradingDayFillMethod": TEXT,
        "currency": TEXT, "maxDataPoints": NUMBER, "returnEids": FLAG, "overrides": OVERRIDES, **_ADJUST,
    },
    "IntradayBarRequest": {
        "security": TEXT, "eventType": TEXT, "interval": NUMBER, "startDateTime": MOMENT, "endDateTime": MOMENT,
        "gapFillInitialBar": FLAG, "maxDataPoints": NUMBER, "returnEids": FLAG, **_ADJUST,
    },
    "IntradayTickRequest": {
        "security": TEXT, "eventTypes": TEXTS, "startDateTime": MOMENT, "endDateTime": MOMENT,
        "includeConditionCodes": FLAG, "includeExchangeCodes": FLAG, "maxDataPoints": NUMBER, "returnEids": FLAG,
    },
    "ReferenceDataRequest": {"securities": TEXTS, "fields": TEXTS, "overrides": OVERRIDES, "returnEids": FLAG},
}  # fmt: skip
BAD_SECURITY = {
    "source": "1::test", "code": 15, "category": "BAD_SEC", "message": "Unknown/Invalid security [nid:1] ",
    "subcategory": "INVALID_SECURITY",
}  # fmt: skip
BAD_FIELD = {
    "source": "1::test", "code": 9, "category": "BAD_FLD", "message": "Field not applicable to security",
    "subcategory": "NOT_APPLICABLE_TO_REF_DATA",
}  # fmt: skip


class SdkException(Exception):
    """Root of the SDK's exceptions (`blpapi.Exception`)."""


class NotFoundException(SdkException):
    """An element or operation that the schema has not."""


class InvalidStateException(SdkException):
    """A call at the wrong time."""


class InvalidArgumentException(SdkException):
    """An argument that cannot be."""


class Name:
    """An interned name."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class CorrelationId:
    """An integer that comes back with every message of a request."""

    def __init__(self, value: int) -> None:
        self._value = value

    def value(self) -> int:
        return self._value


class Message:
    """A message; `toPy` gives plain dictionaries, lists and Python's dates and times."""

    def __init__(self, name: str, body: Any, correlation: CorrelationId | None = None) -> None:
        self._name, self._body, self._correlation = name, body, correlation

    def messageType(self) -> Name:  # noqa: N802
        return Name(self._name)

    def toPy(self) -> Any:  # noqa: N802
        return self._body

    def correlationIds(self) -> list[CorrelationId]:  # noqa: N802
        return [self._correlation] if self._correlation else []


class Event:
    """An event: a type and its messages."""

    ADMIN, SESSION_STATUS, REQUEST_STATUS = ADMIN, SESSION_STATUS, REQUEST_STATUS
    RESPONSE, PARTIAL_RESPONSE, SERVICE_STATUS = RESPONSE, PARTIAL_RESPONSE, SERVICE_STATUS
    TIMEOUT, UNKNOWN = TIMEOUT, UNKNOWN

    def __init__(self, kind: int, messages: list[Message]) -> None:
        self._kind, self._messages = kind, messages

    def eventType(self) -> int:  # noqa: N802
        return self._kind

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)


class Request:
    """A request under construction; refuses what its operation's schema has not."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.elements: dict[str, Any] = {}

    def fromPy(self, given: Mapping[str, Any]) -> None:  # noqa: N802
        accepted = OPERATIONS[self.operation]
        for name, value in given.items():
            if name not in accepted:
                raise NotFoundException(f"{self.operation} has no element {name!r}")
            if not _fits(accepted[name], value):
                raise InvalidArgumentException(f"{name} cannot be {value!r}")
        self.elements = dict(given)


def _fits(kind: str, value: Any) -> bool:
    if kind == TEXTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == OVERRIDES:
        return isinstance(value, list) and all(set(one) == {"fieldId", "value"} for one in value)
    if kind == MOMENT:
        return isinstance(value, datetime) and value.utcoffset() is not None
    if kind == FLAG:
        return isinstance(value, bool)
    return isinstance(value, int if kind == NUMBER else str) and not isinstance(value, bool)


class SessionOptions:
    """What a session is made with; kept for tests to look at."""

    def __init__(self) -> None:
        self.servers: dict[int, tuple[str, int]] = {}
        self.identity: Any = None
        self.tls: Any = None
        self.values: dict[str, Any] = {}

    def setServerAddress(self, serverHost: str, serverPort: int, index: int) -> None:  # noqa: N802, N803
        self.servers[index] = (serverHost, serverPort)

    def setSessionIdentityOptions(self, authOptions: Any) -> None:  # noqa: N802, N803
        self.identity = authOptions

    def setTlsOptions(self, tlsOptions: Any) -> None:  # noqa: N802, N803
        self.tls = tlsOptions

    def setNumStartAttempts(self, numStartAttempts: int) -> None:  # noqa: N802, N803
        self.values["attempts"] = numStartAttempts

    def setAutoRestartOnDisconnection(self, autoRestart: bool) -> None:  # noqa: N802, N803
        self.values["restart"] = autoRestart

    def setConnectTimeout(self, timeoutMilliSeconds: int) -> None:  # noqa: N802, N803
        if not 1 <= timeoutMilliSeconds <= 120_000:
            raise InvalidArgumentException("connect timeout is not in 1 … 120000 ms")
        self.values["timeout"] = timeoutMilliSeconds

    def setRecordSubscriptionDataReceiveTimes(self, shouldRecord: bool) -> None:  # noqa: N802, N803
        self.values["receive times"] = shouldRecord

    def setMaxEventQueueSize(self, eventQueueSize: int) -> None:  # noqa: N802, N803
        self.values["queue"] = eventQueueSize

    def setKeepAliveEnabled(self, isEnabled: bool) -> None:  # noqa: N802, N803
        self.values["keep alive"] = isEnabled

    def setDefaultKeepAliveInactivityTime(self, inactivityMsecs: int) -> None:  # noqa: N802, N803
        self.values["ping after"] = inactivityMsecs

    def setDefaultKeepAliveResponseTimeout(self, timeoutMsecs: int) -> None:  # noqa: N802, N803
        self.values["pong within"] = timeoutMsecs


class TlsOptions:
    """Files of a client's credentials, their password, and files of those who are trusted."""

    @staticmethod
    def createFromFiles(  # noqa: N802
        clientCredentialsFilename: str,  # noqa: N803
        clientCredentialsPassword: str,  # noqa: N803
        trustedCertificatesFilename: str,  # noqa: N803
    ) -> Any:
        if clientCredentialsPassword == "wrong":
            raise InvalidArgumentException(f"cannot open {clientCredentialsFilename} with {clientCredentialsPassword}")
        return (clientCredentialsFilename, clientCredentialsPassword, trustedCertificatesFilename)


class AuthUser:
    """Who asks: one tuple for each way to say it."""

    @staticmethod
    def createWithLogonName() -> Any:  # noqa: N802
        return ("logon",)

    @staticmethod
    def createWithActiveDirectoryProperty(propertyName: str) -> Any:  # noqa: N802, N803
        return ("directory", propertyName)

    @staticmethod
    def createWithManualOptions(userId: str, ipAddress: str) -> Any:  # noqa: N802, N803
        return ("manual", userId, ipAddress)


class AuthOptions:
    """What a session identity is made of."""

    @staticmethod
    def createWithUser(user: Any) -> Any:  # noqa: N802
        return {"user": user}

    @staticmethod
    def createWithApp(appName: str) -> Any:  # noqa: N802, N803
        return {"application": appName}

    @staticmethod
    def createWithUserAndApp(user: Any, appName: str) -> Any:  # noqa: N802, N803
        return {"user": user, "application": appName}


@dataclass
class Trouble:
    """What goes wrong with a request: after so many of its messages an event comes, and nothing more."""

    after: int
    kind: int
    name: str = ""
    body: Any = None


Answering = Callable[[str, dict[str, Any]], list[tuple[int, str, Any]]]


@dataclass
class Desk:
    """Bloomberg's side of the stand-in: what it answers, what goes wrong, and what was asked of it."""

    answer: Answering
    troubles: deque[Trouble | None] = field(default_factory=deque)
    #: messages instead of SessionStarted and ServiceOpened
    startup: list[tuple[int, str, Any]] = field(default_factory=list)
    service: list[tuple[int, str, Any]] = field(default_factory=list)
    #: events that come before each answer and are no part of it
    noise: list[tuple[int, str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    sessions: list["Session"] = field(default_factory=list)

    @property
    def securities(self) -> list[tuple[str, ...]]:
        """The securities of each request."""
        return [tuple(asked.get("securities") or [asked["security"]]) for _, asked in self.asked]


class Session:
    """A session in synchronous mode."""

    def __init__(self, desk: Desk, options: SessionOptions) -> None:
        self.desk, self.options = desk, options
        self.queue: deque[Event] = deque()
        self.open: set[str] = set()
        self.started = self.stopped = False
        self.cancelled: list[int] = []
        self.pending: set[int] = set()
        desk.sessions.append(self)

    def start(self) -> bool:
        if self.started:
            raise InvalidStateException("a session may only be started once")
        self.started = True
        for kind, name, body in self.desk.startup or [(SESSION_STATUS, "SessionStarted", {"initialEndpoints": []})]:
            self.queue.append(Event(kind, [Message(name, body)]))
        return not self.desk.startup

    def openService(self, serviceName: str) -> bool:  # noqa: N802, N803
        opened = {"serviceName": serviceName}
        for kind, name, body in self.desk.service or [(SERVICE_STATUS, "ServiceOpened", opened)]:
            self.queue.append(Event(kind, [Message(name, body)]))
        if not self.desk.service:
            self.open.add(serviceName)
        return not self.desk.service

    def getService(self, serviceName: str) -> Any:  # noqa: N802, N803
        if serviceName not in self.open:
            raise InvalidStateException(f"service {serviceName} is not open")
        return SimpleNamespace(createRequest=_create_request)

    def sendRequest(self, request: Request, identity: Any = None, correlationId: CorrelationId | None = None) -> Any:  # noqa: N802, N803
        correlation = correlationId or CorrelationId(-len(self.desk.asked))
        if correlation.value() in self.pending:
            raise InvalidArgumentException("correlation id is in use")
        self.pending.add(correlation.value())
        self.desk.asked.append((request.operation, request.elements))
        for kind, name, body in self.desk.noise:
            self.queue.append(Event(kind, [Message(name, body)]))
        trouble = self.desk.troubles.popleft() if self.desk.troubles else None
        for number, (kind, name, body) in enumerate(self.desk.answer(request.operation, request.elements)):
            if trouble and number == trouble.after:
                break
            self.queue.append(Event(kind, [Message(name, body, correlation)] if name else []))
        if trouble and trouble.kind != TIMEOUT:
            about = correlation if trouble.kind in (REQUEST_STATUS, RESPONSE, PARTIAL_RESPONSE) else None
            self.queue.append(Event(trouble.kind, [Message(trouble.name, trouble.body, about)]))
        return correlation

    def nextEvent(self, timeout: int = 0) -> Event:  # noqa: N802
        if self.queue:
            return self.queue.popleft()
        if not timeout:
            raise AssertionError("would wait for ever")
        return Event(TIMEOUT, [])

    def tryNextEvent(self) -> Event | None:  # noqa: N802
        return self.queue.popleft() if self.queue else None

    def cancel(self, correlationId: CorrelationId) -> None:  # noqa: N803
        self.cancelled.append(correlationId.value())
        # messages that are on their way are not seen any more
        self.queue = deque(
            event for event in self.queue
            if not any(one.value() == correlationId.value() for message in event for one in message.correlationIds())
        )  # fmt: skip

    def stop(self) -> bool:
        self.stopped = True
        return True


def _create_request(operation: str) -> Request:
    if operation not in OPERATIONS:
        raise NotFoundException(f"//blp/refdata has no operation {operation!r}")
    return Request(operation)


def module(desk: Desk) -> ModuleType:
    """Return a module `blpapi` that talks to a desk."""
    made: Any = ModuleType("blpapi")
    made.Exception, made.NotFoundException, made.InvalidStateException = (
        SdkException, NotFoundException, InvalidStateException,
    )  # fmt: skip
    made.InvalidArgumentException = InvalidArgumentException
    made.Name, made.CorrelationId, made.Message, made.Event = Name, CorrelationId, Message, Event
    made.SessionOptions, made.AuthUser, made.AuthOptions = SessionOptions, AuthUser, AuthOptions
    made.TlsOptions = TlsOptions
    made.Session = lambda options: Session(desk, options)
    return made


@contextmanager
def installed(desk: Desk) -> Iterator[Desk]:
    """Put the stand-in where `import blpapi` finds it."""
    with found(module(desk)):
        yield desk


@contextmanager
def found(made: ModuleType) -> Iterator[None]:
    """Put a module where `import blpapi` finds it."""
    before = sys.modules.get("blpapi")
    sys.modules["blpapi"] = made
    try:
        yield
    finally:
        if before is None:
            del sys.modules["blpapi"]
        else:
            sys.modules["blpapi"] = before


@dataclass
class Market:
    """Generated data, answered as //blp/refdata does; a security in none of the tables is unknown.

    `days` are rows of HistoricalDataRequest with their stamps; `bars` and `ticks` those of intraday requests, in order
    of time; `figures` the fields of ReferenceDataRequest. `exceptions` are fields a security has not.
    """

    days: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bars: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ticks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    exceptions: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_message: int = 3

    def __call__(self, operation: str, asked: dict[str, Any]) -> list[tuple[int, str, Any]]:
        answer = operation.replace("Request", "Response")
        bodies = {
            "HistoricalDataRequest": self._historical, "IntradayBarRequest": self._bars,
            "IntradayTickRequest": self._ticks, "ReferenceDataRequest": self._reference,
        }[operation](asked)  # fmt: skip
        return [(PARTIAL_RESPONSE, answer, body) for body in bodies[:-1]] + [(RESPONSE, answer, bodies[-1])]

    def _historical(self, asked: dict[str, Any]) -> list[Any]:
        first, last = (_date(asked[name]) for name in ("startDate", "endDate"))
        if first > last:
            error = {
                "code": 31,
                "category": "BAD_ARGS",
                "message": "Invalid end date",
                "subcategory": "INVALID_END_DATE",
            }
            return [{"responseError": error}]
        bodies = []
        for number, security in enumerate(asked["securities"]):
            rows = [
                {name: value for name, value in row.items() if name == "date" or name in asked["fields"]}
                for row in self.days.get(security, [])
                if first <= row["date"] <= last
            ]
            bodies.append({"securityData": self._said(security, number, security in self.days) | {"fieldData": rows}})
        return bodies

    def _reference(self, asked: dict[str, Any]) -> list[Any]:
        said = []
        for number, security in enumerate(asked["securities"]):
            given = {name: value for name, value in self.figures.get(security, {}).items() if name in asked["fields"]}
            said.append(self._said(security, number, security in self.figures) | {"fieldData": given})
        return [{"securityData": said[first : first + 2]} for first in range(0, len(said), 2)]

    def _said(self, security: str, number: int, known: bool) -> dict[str, Any]:
        error = self.errors.get(security) or (None if known else BAD_SECURITY)
        exceptions = [{"fieldId": field_id, "errorInfo": BAD_FIELD} for field_id in self.exceptions.get(security, [])]
        said = {"security": security, "eidData": [], "sequenceNumber": number, "fieldExceptions": exceptions}
        return said | ({"securityError": error} if error else {})

    def _bars(self, asked: dict[str, Any]) -> list[Any]:
        # the bars that begin inside, start included and end not (as recorded: 08:00 to 08:02 gives 08:00 and 08:01)
        return self._intraday(self.bars, asked, "barData", "barTickData", lambda t, end: t < end)

    def _ticks(self, asked: dict[str, Any]) -> list[Any]:
        # both ends included (as recorded: 08:00:00 to 08:00:00 gives the ticks of that second)
        return self._intraday(self.ticks, asked, "tickData", "tickData", lambda t, end: t <= end)

    def _intraday(
        self,
        tables: dict[str, list[dict[str, Any]]],
        asked: dict[str, Any],
        outer: str,
        inner: str,
        before: Callable[[datetime, datetime], bool],
    ) -> list[Any]:
        if asked["security"] not in tables:
            return [{"responseError": BAD_SECURITY}]
        start, end = (asked[name].astimezone(UTC).replace(tzinfo=None) for name in ("startDateTime", "endDateTime"))
        rows = [row for row in tables[asked["security"]] if start <= row["time"] and before(row["time"], end)]
        pieces = [rows[first : first + self.per_message] for first in range(0, len(rows), self.per_message)] or [[]]
        return [{outer: {"eidData": [], inner: piece}} for piece in pieces]


def _date(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  # a date has no zone


def recorded(events: list[dict[str, Any]]) -> list[tuple[int, str, Any]]:
    """Return recorded events (matthewgilbert/blp) as an answer, in the form that `toPy` has."""
    answer = []
    for event in events:
        message = event["message"]
        name = message.get("messageType", "")
        answer.append((event["eventType"], name, plain(message["element"][name], name) if name else None))
    return answer


def plain(element: Any, name: str = "") -> Any:
    """Undo the nesting of recordings, which name each element of an array again: {"fieldData": [{"fieldData": …}]}."""
    if name == "ReferenceDataResponse" and isinstance(element, list):
        return {"securityData": plain(element, "securityData")}
    if isinstance(element, list):
        return [plain(item[name] if isinstance(item, dict) and set(item) == {name} else item) for item in element]
    if isinstance(element, dict):
        if set(element) == {name} and isinstance(element[name], dict):
            return plain(element[name], name)
        return {inner: _moment(inner, plain(value, inner)) for inner, value in element.items()}
    return element


def _moment(name: str, value: Any) -> Any:
    """Return the dates and times of rows as the SDK gives them."""
    if name == "date" and isinstance(value, str):
        return date.fromisoformat(value[:10])
    if name == "time" and isinstance(value, str):
        return datetime.fromisoformat(value)
    return float(value) if value == "nan" else value
