"""One Bloomberg session: connect, authenticate, open //blp/refdata, ask, yield the messages of the answer.

The SDK, `blpapi`, is imported when a session is opened: it is not on PyPI and loads Bloomberg's C++ library at once.
Names and order of events: BLPAPI Core Developer Guide; blpapi 3.18 or later.
"""

import importlib
import logging
import time
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from itertools import count
from typing import Any
from typing import Final

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import TransientError
from flows.blp import faults

log = logging.getLogger(__name__)

REFDATA: Final = "//blp/refdata"
INDEX: Final = "https://blpapi.bloomberg.com/repository/releases/python/simple/"
_MILLISECONDS: Final = 1000
# what setConnectTimeout takes at most, in ms
_LONGEST_CONNECT: Final = 120_000


@dataclass(frozen=True, slots=True)
class Connection:
    """Where Bloomberg is and who asks.

    `servers` are tried in order. `mode` is one of: none (Desktop), application, user, user+application, directory,
    manual. `timeout` is in seconds, of silence. What is secret is never shown.
    """

    servers: tuple[tuple[str, int], ...] = (("localhost", 8194),)
    mode: str = "none"
    application: str = field(default="", repr=False)
    directory_property: str = ""
    user_id: str = ""
    ip_address: str = ""
    tls_credentials: str = ""
    tls_password: str = field(default="", repr=False)
    tls_trusted: str = ""
    timeout: float = 60.0
    start_attempts: int = 3

    def shown(self, text: object) -> str:
        """Return a text of the vendor without the secrets of this connection."""
        said = str(text)
        for secret in (self.application, self.tls_password):
            said = said.replace(secret, "***") if secret else said
        return said

    @property
    def where(self) -> str:
        """The servers as text."""
        return ", ".join(f"{host}:{port}" for host, port in self.servers)


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of an answer, as `toPy()` gives it; `last` when it came with the closing RESPONSE event."""

    type: str
    body: dict[str, Any]
    last: bool


def sdk() -> Any:
    """Return the module `blpapi`; ConfigError says where Bloomberg publishes it."""
    try:
        return importlib.import_module("blpapi")
    except ImportError as error:
        raise ConfigError(
            f"vendor 'bloomberg' needs blpapi, which is not on PyPI: pip install --index-url {INDEX} blpapi ({error})"
        ) from error


@contextmanager
def opened(connection: Connection, service: str = REFDATA) -> Iterator["Session"]:
    """Start a session, open the service, and stop the session at the end, whatever happened.

    Raises ConfigError, AuthFailed, NotEntitled or TransientError, by what Bloomberg says.
    """
    blpapi = sdk()
    with translated(connection, "session options", ConfigError):
        session = blpapi.Session(session_options(blpapi, connection))
    about = f"session with {connection.where}"
    try:
        with translated(connection, about, TransientError):
            if not session.start():
                raise _reason(session, connection, about)
            if not session.openService(service):
                raise _reason(session, connection, service)
        yield Session(blpapi, session, connection, service)
    finally:
        session.stop()


class Session:
    """A started session with one open service. Asks one thing at a time."""

    def __init__(self, blpapi: Any, session: Any, connection: Connection, service: str) -> None:
        self._blpapi = blpapi
        self._session = session
        self._connection = connection
        self._service = service
        self._numbers = count(1)

    def ask(self, operation: str, elements: Mapping[str, Any]) -> Iterator[Answer]:
        """Send one request and yield every message of its answer, the last one marked.

        Raises what the vendor's error means: of the whole request (`responseError`, RequestFailure), of the session
        (SessionTerminated), or TransientError after `timeout` seconds without a message. Messages yielded before
        stay good.
        """
        blpapi, connection = self._blpapi, self._connection
        about = f"{operation} of {_subject(elements)}"
        number = next(self._numbers)
        with translated(connection, about, ConfigError):
            request = self._session.getService(self._service).createRequest(operation)
            request.fromPy(dict(elements))
        with translated(connection, about, TransientError):
            correlation = self._session.sendRequest(request, correlationId=blpapi.CorrelationId(number))
        finished = False
        deadline = time.monotonic() + connection.timeout
        try:
            while not finished:
                with translated(connection, about, TransientError):
                    wait = max(deadline - time.monotonic(), 0.001)
                    event = self._session.nextEvent(max(int(wait * _MILLISECONDS), 1))
                    kind = event.eventType()
                    messages = [
                        (str(message.messageType()), message)
                        for message in event
                        if kind not in _ANSWERS or number in [one.value() for one in message.correlationIds()]
                    ]
                if kind not in _ANSWERS:
                    self._heed(messages, about)
                    if kind == _TIMEOUT or time.monotonic() > deadline:
                        raise TransientError(f"{about}: Bloomberg said nothing for {connection.timeout:g} s")
                    continue
                finished = bool(messages) and kind == _RESPONSE
                for position, (name, message) in enumerate(messages, start=1):
                    body = message.toPy()
                    self._refuse(name, body, about)
                    if kind != _REQUEST_STATUS:
                        yield Answer(name, body, last=finished and position == len(messages))
                # waiting for whoever takes the messages is not the vendor's silence
                deadline = time.monotonic() + connection.timeout
        finally:
            if not finished:
                self._session.cancel(correlation)

    def _heed(self, messages: list[tuple[str, Any]], about: str) -> None:
        """Act on what is not part of an answer: the end of the session ends the request too."""
        for name, message in messages:
            if name in faults.SESSION_ENDED or name in faults.AUTH_REFUSED:
                raise cleaned(faults.of_session(name, message.toPy(), about), self._connection)
            if name.endswith(("Down", "Failure", "Warning", "DataLoss")):
                log.warning("Bloomberg: %s: %s", name, self._connection.shown(message.toPy()))

    def _refuse(self, name: str, body: Any, about: str) -> None:
        """Raise the error that stands for the whole request, where the message is one."""
        if name == "RequestFailure":
            raise cleaned(faults.of_answer(body.get("reason") or {}, f"{about}: RequestFailure"), self._connection)
        if isinstance(body, dict) and "responseError" in body:
            raise cleaned(faults.of_answer(body["responseError"], about), self._connection)


# numbers of blpapi.Event; they are part of its binary interface
_REQUEST_STATUS: Final = 4
_RESPONSE: Final = 5
_PARTIAL_RESPONSE: Final = 6
_TIMEOUT: Final = 10
_ANSWERS: Final = (_REQUEST_STATUS, _RESPONSE, _PARTIAL_RESPONSE)


def session_options(blpapi: Any, connection: Connection) -> Any:
    """Return the SDK's options for where Bloomberg is and who asks."""
    options = blpapi.SessionOptions()
    for index, (host, port) in enumerate(connection.servers):
        options.setServerAddress(host, port, index)
    options.setNumStartAttempts(connection.start_attempts)
    options.setAutoRestartOnDisconnection(True)
    options.setConnectTimeout(min(int(connection.timeout * _MILLISECONDS), _LONGEST_CONNECT))
    if connection.tls_credentials:
        options.setTlsOptions(
            blpapi.TlsOptions.createFromFiles(
                connection.tls_credentials, connection.tls_password, connection.tls_trusted
            )
        )
    auth = _auth(blpapi, connection)
    if auth is not None:
        options.setSessionIdentityOptions(auth)
    return options


def _auth(blpapi: Any, connection: Connection) -> Any:
    make, users = blpapi.AuthOptions, blpapi.AuthUser
    match connection.mode:
        case "none":
            return None
        case "application":
            return make.createWithApp(connection.application)
        case "user":
            return make.createWithUser(users.createWithLogonName())
        case "user+application":
            return make.createWithUserAndApp(users.createWithLogonName(), connection.application)
        case "directory":
            return make.createWithUser(users.createWithActiveDirectoryProperty(connection.directory_property))
        case "manual":
            user = users.createWithManualOptions(connection.user_id, connection.ip_address)
            return make.createWithUserAndApp(user, connection.application)
    raise ConfigError(f"authentication {connection.mode!r} is unknown")


def _reason(session: Any, connection: Connection, about: str) -> DataflowError:
    """Return why a session or service is not to be had: what the events that are already there say."""
    while (event := session.tryNextEvent()) is not None:
        for message in event:
            name = str(message.messageType())
            if name in (*faults.SESSION_ENDED, *faults.AUTH_REFUSED, "ServiceOpenFailure"):
                return cleaned(faults.of_session(name, message.toPy(), about), connection)
    return TransientError(f"{about}: Bloomberg did not answer; are host, port and the terminal's login right?")


def cleaned(error: DataflowError, connection: Connection) -> DataflowError:
    """Return an error without the secrets of a connection."""
    error.args = tuple(connection.shown(argument) for argument in error.args)
    if isinstance(error, ConfigError):
        error.faults = tuple(connection.shown(fault) for fault in error.faults)
    return error


@contextmanager
def translated(connection: Connection, about: str, meaning: type[DataflowError]) -> Iterator[None]:
    """Turn exceptions of blpapi into ours."""
    library = sdk().Exception
    try:
        yield
    except library as error:
        # the cause is dropped: its words are here, and they may hold a secret
        raise meaning(connection.shown(f"{about}: {error}")) from None


def _subject(elements: Mapping[str, Any]) -> str:
    named = elements.get("security") or elements.get("securities") or ()
    several = [named] if isinstance(named, str) else list(named)
    return several[0] + (f" and {len(several) - 1} more" if len(several) > 1 else "") if several else "nothing"
