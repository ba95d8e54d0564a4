"""One connection to Redis: commands sent together, replies in order, errors as ours.

The connection is used itself and not a client, because a client connects again unasked: it would lose what WATCH
guards between reading and writing.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import PermanentError
from catalog.errors import TransientError
from flows.rediswire.packing import Packed

if TYPE_CHECKING:
    from redis.exceptions import RedisError

Command = Sequence[str | bytes | int]
Commands = Command | Packed

#: what passes: the server is full, saving, without its master, busy, or has a replica's role for a while
_PASSING: Final = (
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN",
)  # fmt: skip
_NOT_THERE: Final = "no such key"


class Link:
    """A connection that opens when it is first used and never by itself between two commands of an exchange."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        """Prepare a connection; `settings` are those of redis-py, `name` stands in errors."""
        self.name = name
        self._settings = settings
        self._connection: Any = None

    def exchange(self, commands: Iterable[Commands], meanwhile: Callable[[], object] | None = None) -> list[Any]:
        """Send the commands together, as they come, and return their replies; None for a key that is not there.

        `meanwhile` is called when all are sent and the server works on them.

        Raises TransientError, AuthFailed or PermanentError; what the server then did of the commands is not known,
        and the connection is closed, so that nothing of a transaction stays open.
        """
        with translated(self.name, self):
            connection = self._open()
            sent = _Sent(connection, commands)
            connection.send_packed_command(sent)
            if meanwhile is not None:
                meanwhile()
            replies = _replies(connection, sent.count)
            _raise_first(replies)
            for reply in replies:
                if isinstance(reply, list):
                    _raise_first(reply)
            return replies

    def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _open(self) -> Any:
        if self._connection is None:
            made = unopened(self._settings)
            made.connect()
            self._connection = made
        return self._connection


def unopened(settings: Mapping[str, Any]) -> Any:
    """Return a connection that is not open yet; TypeError where a setting is none of a connection."""
    import redis

    plain = dict(settings)
    return plain.pop("connection_class", redis.Connection)(**plain)


@contextmanager
def translated(name: str, link: Link | None = None) -> Iterator[None]:
    """Raise errors of redis-py as ours, with what to do; closes the link on any error."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        if link is not None:
            link.close()
        raise translate(name, error) from error
    except BaseException:
        if link is not None:
            link.close()
        raise


def translate(name: str, error: "RedisError") -> DataflowError:
    """Return an error of redis-py as the class that says whether to try again."""
    import redis
    from redis import exceptions

    text = f"{name}: {error}"
    if isinstance(error, redis.AuthenticationError | exceptions.AuthenticationWrongNumberOfArgsError):
        return AuthFailed(f"{text} (check the user name and the password in the environment)")
    if isinstance(error, exceptions.NoPermissionError):
        return AuthFailed(f"{text} (docs/redis.md lists the commands that the user needs)")
    if isinstance(error, exceptions.MovedError | exceptions.AskError | exceptions.ClusterCrossSlotError):
        return ConfigError(f"{text}: a Redis Cluster is not supported; name a server of its own")
    passing = (
        redis.ConnectionError
        | redis.TimeoutError
        | redis.BusyLoadingError
        | exceptions.OutOfMemoryError
        | redis.ReadOnlyError
        | exceptions.ClusterDownError
        | exceptions.TryAgainError
    )
    if isinstance(error, passing) or str(error).split(" ", 1)[0] in _PASSING:
        return TransientError(text)
    return PermanentError(text)


class _Sent:
    """The bytes of commands, neighbours together; and how many were given so far."""

    def __init__(self, connection: Any, commands: Iterable[Commands]) -> None:
        self._connection = connection
        self._commands = commands
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        plain: list[Command] = []
        for one in self._commands:
            if isinstance(one, Packed):
                yield from self._connection.pack_commands(plain)
                plain.clear()
                yield one.content
                self.count += one.commands
            else:
                plain.append(one)
                self.count += 1
        yield from self._connection.pack_commands(plain)


def _replies(connection: Any, count: int) -> list[Any]:
    """Return so many replies; errors stand in their places, None where a key is not there."""
    import redis
    from redis._parsers.hiredis import NOT_ENOUGH_DATA

    # there are two replies for each row, and the call of redis-py for one takes five times as long as hiredis' own
    parser = connection._parser
    next_reply, missing = partial(parser._reader.gets, False), NOT_ENOUGH_DATA
    replies: list[Any] = []
    try:
        while True:
            replies.extend(iter(next_reply, missing))
            if len(replies) >= count:
                break
            parser.read_from_socket()
    except TimeoutError as error:
        raise redis.TimeoutError("Timeout reading from socket") from error
    except OSError as error:
        raise redis.ConnectionError(str(error)) from error
    if _has_errors(replies):
        for at, reply in enumerate(replies):
            if isinstance(reply, redis.ResponseError) and _NOT_THERE in str(reply):
                replies[at] = None
    return replies


def _has_errors(replies: Sequence[Any]) -> bool:
    # many are of few kinds
    return any(issubclass(kind, Exception) for kind in set(map(type, replies)))


def _raise_first(replies: Sequence[Any]) -> None:
    """Raise the error among replies that says why; that the transaction was given up for it says less."""
    from redis.exceptions import ExecAbortError

    if not _has_errors(replies):
        return
    failed = [reply for reply in replies if isinstance(reply, Exception)]
    raise next((error for error in failed if not isinstance(error, ExecAbortError)), failed[0])
