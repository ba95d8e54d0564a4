"""One connection to Redis: commands sent together, replies in order, errors as ours.

The connection is used itself and not a client, because a client connects again unasked: it would lose what WATCH
guards between reading and writing.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import PermanentError
from catalog.errors import TransientError

if TYPE_CHECKING:
    from redis.exceptions import RedisError

Command = Sequence[str | bytes | int]

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

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands together and return their replies; None for a key that is not there.

        Raises TransientError, AuthFailed or PermanentError; what the server then did of the commands is not known,
        and the connection is closed, so that nothing of a transaction stays open.
        """
        with translated(self.name, self):
            connection = self._open()
            connection.send_packed_command(connection.pack_commands(commands))
            replies = [self._reply(connection) for _ in commands]
            for reply in replies:
                _raise_first(reply if isinstance(reply, list) else [reply])
            return replies

    def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _open(self) -> Any:
        import redis

        if self._connection is None:
            settings = dict(self._settings)
            made = settings.pop("connection_class", redis.Connection)(**settings)
            made.connect()
            self._connection = made
        return self._connection

    @staticmethod
    def _reply(connection: Any) -> Any:
        import redis

        try:
            return connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:
            # the replies of the other commands are still to be read
            return None if _NOT_THERE in str(error) else error


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


def _raise_first(replies: Sequence[Any]) -> None:
    """Raise the error among replies that says why; that the transaction was given up for it says less."""
    from redis.exceptions import ExecAbortError

    failed = [reply for reply in replies if isinstance(reply, Exception)]
    if failed:
        raise next((error for error in failed if not isinstance(error, ExecAbortError)), failed[0])
