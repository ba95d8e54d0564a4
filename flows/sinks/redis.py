"""Kind `redis`: for each key a stream, its newest row, messages and a range of times, for consumers in any language.

The wire format is docs/redis.md. Consumers in Python use `tail`, `range_` and `last` from here.

It is not readable, so it cannot be a home: caps, TTL and eviction give memory back, and a home must still have what
complete fetches once brought.
"""

import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from types import TracebackType
from typing import Any
from typing import Final
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field
from pydantic import model_validator

from catalog.errors import ConfigError
from catalog.errors import TransientError
from catalog.schemas import INSTRUMENT
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.exports.facts import Owner
from flows.rediswire import changes
from flows.rediswire import rows as wire
from flows.rediswire.link import Command
from flows.rediswire.link import Link
from flows.rediswire.names import COUNTERS
from flows.rediswire.names import PREFIX
from flows.rediswire.names import Names
from flows.rediswire.names import entry_id
from flows.rediswire.names import key_text
from flows.rediswire.names import parse_id
from flows.rediswire.names import score
from flows.rediswire.reading import last
from flows.rediswire.reading import range_
from flows.rediswire.reading import tail
from flows.registry import Options
from flows.sinks.base import Sink
from flows.sinks.base import Target

__all__ = ["RedisOptions", "RedisSink", "last", "range_", "tail"]

#: rows and keys of one transaction: the server does nothing else while it runs one
_ROWS: Final = 2_000
_KEYS: Final = 200
# how often in a row somebody else may write the same key between our reading and writing
_ATTEMPTS: Final = 100
_MEMBERS: Final = 500
_UNSAFE_NAME: Final = re.compile(r"[^A-Za-z0-9_.:-]+")
# where a destination has no prefix of its own, in a bare shell
_ENV_PREFIX: Final = "REDIS"


class RedisOptions(Options):
    """Which server, and what is kept for each key."""

    host: str = Field("", description="Server. Empty: the URL in PREFIX_URL, or localhost where there is none.")
    port: int = Field(6379, ge=1, le=65535, description="Port; used with `host`.")
    db: int = Field(0, ge=0, description="Number of the database; used with `host`.")
    username: str = Field("", description="User (ACL); used with `host`. The password is in PREFIX_PASSWORD.")
    tls: bool = Field(False, description="Encrypt and verify the server's certificate; used with `host`.")
    tls_ca: str = Field("", description="File of the authority that signed the certificate; empty: the system's.")
    timeout: float = Field(10, gt=0, le=600, description="Seconds to wait for a connection and for each answer.")
    prefix: str = Field(PREFIX, max_length=100, description="What every name in Redis begins with.")
    stream: bool = Field(True, description="Append rows to a stream for each key.")
    stream_length: int = Field(100_000, ge=1, description="Entries a stream keeps; the oldest go.")
    pack: int = Field(1, ge=1, le=100_000, description="Rows an entry or message: 1 is fields, more is Arrow IPC.")
    last: bool = Field(True, description="Keep the newest row of each key as a hash.")
    publish: bool = Field(False, description="Publish rows that are new or changed on a channel for each key.")
    sorted_set: bool = Field(False, description="Keep all rows of each key, revised ones too, for ranges of times.")
    ttl: int = Field(0, ge=0, description="Seconds after the last change of a key until it goes; 0: never.")

    @model_validator(mode="after")
    def _something_is_kept(self) -> Self:
        if not (self.stream or self.last or self.sorted_set):
            raise ValueError("nothing is kept: switch on stream, last or sorted_set (publish sends what those take)")
        return self


@dataclass(slots=True)
class _Part:
    """Rows of one key, sorted by time, in one transaction."""

    owner: Owner
    names: Names
    rows: pa.Table
    commands: list[Command] = field(default_factory=list)


class RedisSink(Sink):
    """Writes rows of each key in transactions: what is new is decided by what Redis has, and applied at once."""

    name = "redis"
    label = "Redis"
    doc = "Streams, newest rows, messages and ranges for live consumers; described in docs/redis.md."
    Options = RedisOptions
    credentials = ("URL", "PASSWORD")

    def __init__(self, options: Mapping[str, Any], target: Target) -> None:
        super().__init__(options, target)
        self._link = Link(f"destination {target.name!r}", _settings(self.options, target))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        """Bring every structure of the rows' keys up to date; docs/redis.md says what each takes.

        The counts are those of the sorted set where there is one, else of the stream, else of the newest rows.
        Raises TransientError (not reachable, loading, read-only, out of memory), AuthFailed, PermanentError (a name
        is taken by another type), Damaged (what is stored are no rows).
        """
        counts = Counts()
        for parts in self._transactions(schema, table):
            counts += self._commit(parts, replace)
        return counts

    def _commit(self, parts: list[_Part], replace: bool) -> Counts:
        for _ in range(_ATTEMPTS):
            counts = self._prepare(parts, replace)
            commands = [command for part in parts for command in part.commands]
            if not commands:
                self._link.exchange([("UNWATCH",)])
                return counts
            if self._link.exchange([("MULTI",), *commands, ("EXEC",)])[-1] is not None:
                return counts
        raise TransientError(f"destination {self.target.name!r}: others write the same keys all the time")

    def _prepare(self, parts: list[_Part], replace: bool) -> Counts:
        """Read what the keys have, under WATCH, and note each part's commands."""
        reads: list[Command] = []
        for part in parts:
            reads += self._reads(part)
        names = [name for part in parts for name in (part.names.stream, part.names.last, part.names.range)]
        found = iter(self._link.exchange([("WATCH", *names), *reads])[1:])
        states = [[next(found) for _ in self._reads(part)] for part in parts]
        positions = [_position(state[0]) if self.options.stream else None for state in states]
        entries = iter(self._entries(parts, positions))
        counts = Counts()
        for part, state, position in zip(parts, states, positions, strict=True):
            counts += self._decide(part, state, position, next(entries), replace)
        return counts

    def _reads(self, part: _Part) -> list[Command]:
        reads: list[Command] = []
        if self.options.stream:
            reads.append(("XINFO", "STREAM", part.names.stream))
        if self.options.sorted_set:
            times = part.owner.times(part.rows)
            reads.append(("ZRANGEBYSCORE", part.names.range, score(int(times[0])), score(int(times[-1]))))
        if self.options.last:
            reads.append(("HGETALL", part.names.last))
        return reads

    def _entries(self, parts: list[_Part], positions: Sequence[tuple[int, int] | None]) -> Iterator[pa.Table]:
        """Yield what each part's stream holds of the times that are not after its last entry, where it matters."""
        wanted = [
            [] if position is None else self._spans(part, position)
            for part, position in zip(parts, positions, strict=True)
        ]
        reads = [command for commands in wanted for command in commands]
        found = iter(self._link.exchange(reads) if reads else [])
        for part, commands in zip(parts, wanted, strict=True):
            entries = [entry for _ in commands for entry in next(found)]
            yield wire.from_entries(part.owner, entries, part.names.stream)

    def _spans(self, part: _Part, position: tuple[int, int]) -> list[Command]:
        times = part.owner.times(part.rows)
        spans: list[Command] = []
        late = times[(times >= 0) & (times < position[0])]
        # the sorted set knows better which of them are stored
        if len(late) and not self.options.sorted_set:
            low, high = entry_id(int(late[0]), 0), entry_id(int(late[-1]), COUNTERS - 1)
            spans.append(("XRANGE", part.names.stream, low, high))
            # a pack has the id of its last row: the next one may begin before
            spans.append(("XRANGE", part.names.stream, f"({high}", "+", "COUNT", 1))
        if (times == position[0]).any():
            spans.append(("XRANGE", part.names.stream, entry_id(position[0], 0), entry_id(position[0], COUNTERS - 1)))
        return spans

    def _decide(
        self, part: _Part, state: list[Any], position: tuple[int, int] | None, entries: pa.Table, replace: bool
    ) -> Counts:
        """Note the part's commands; returns the counts of the structure that knows most."""
        part.commands = []
        owner, names = part.owner, part.names
        decided: list[tuple[Counts, pa.Table]] = []
        replies = iter(state[1:] if self.options.stream else state)
        if self.options.sorted_set:
            ranged = changes.arrange(owner, part.rows, next(replies), names.range, replace=replace)
            decided.append((ranged.counts, ranged.rows))
            part.commands += self._changed(names.range, _ranging(owner, names.range, ranged))
        if self.options.stream:
            added = changes.append(owner, part.rows, position, entries, replace=replace)
            decided.append((added.counts, added.rows))
            part.commands += self._changed(names.stream, self._appending(names.stream, added))
        if self.options.last:
            stored = _hashed(owner, next(replies), names.last)
            newest = changes.newest(owner, part.rows, stored, replace=replace)
            decided.append((newest.counts, newest.rows))
            part.commands += self._changed(names.last, _setting(names.last, newest))
        counts, changed = decided[0]
        if self.options.publish:
            part.commands += [("PUBLISH", names.channel, message) for message in self._messages(changed)]
        return counts

    def _changed(self, name: str, commands: list[Command]) -> list[Command]:
        if commands and self.options.ttl:
            commands.append(("EXPIRE", name, self.options.ttl))
        return commands

    def _appending(self, name: str, added: changes.Appended) -> list[Command]:
        rows, ids, size = added.rows, added.ids, self.options.pack
        if not ids:
            return []
        commands: list[Command]
        if size == 1:
            contents = wire.fields(rows)
            commands = [("XADD", name, number, *content) for number, content in zip(ids, contents, strict=True)]
        else:
            commands = []
            for start in range(0, len(ids), size):
                piece = rows.slice(start, size)
                number = ids[start + piece.num_rows - 1]
                commands.append(("XADD", name, number, wire.ROWS, piece.num_rows, wire.PACK, wire.pack(piece)))
        # those of the last time stay, so that they are known when they come again
        commands.append(("XTRIM", name, "MAXLEN", max(self.options.stream_length, added.keep)))
        return commands

    def _messages(self, rows: pa.Table) -> Iterator[str | bytes]:
        if self.options.pack == 1:
            yield from wire.members(rows).to_pylist()
            return
        for start in range(0, rows.num_rows, self.options.pack):
            yield wire.pack(rows.slice(start, self.options.pack))

    def _transactions(self, schema: Schema, table: pa.Table) -> Iterator[list[_Part]]:
        """Cut rows into transactions: few enough rows and keys, each key once."""
        # whole packs; only the last piece of an instrument is smaller, so no key is twice in a transaction
        most = max(_ROWS // self.options.pack, 1) * self.options.pack
        parts: list[_Part] = []
        size = 0
        for instrument, rows in _by_instrument(schema, table):
            owner = Owner(instrument, schema)
            names = Names.of(key_text(instrument, schema), self.options.prefix)
            for start in range(0, rows.num_rows, most):
                piece = rows.slice(start, most)
                if parts and (size + piece.num_rows > most or len(parts) == _KEYS):
                    yield parts
                    parts, size = [], 0
                parts.append(_Part(owner, names, piece))
                size += piece.num_rows
        if parts:
            yield parts


def _by_instrument(schema: Schema, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each instrument sorted by time, those of one time in the order they have."""
    if not table.num_rows:
        return
    instrument = table.unify_dictionaries()[INSTRUMENT].combine_chunks()
    codes = np.asarray(instrument.indices.to_numpy())
    times = np.asarray(table[schema.time].cast(pa.int64()).to_numpy())
    order = np.lexsort((times, codes))
    rows = table.drop_columns([INSTRUMENT]).take(pa.array(order))
    owner = Owner("", schema)
    rows = rows.select(owner.columns.names).cast(owner.columns).combine_chunks()
    codes = codes[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        yield instrument.dictionary[codes[start]].as_py(), rows.slice(start, stop - start)


def _position(facts: list[Any] | None) -> tuple[int, int] | None:
    """Return time and counter of a stream's last id, from XINFO's names and values; None where there is no stream."""
    if facts is None:
        return None
    number: bytes = facts[facts.index(b"last-generated-id") + 1]
    return parse_id(number.decode())


def _hashed(owner: Owner, content: list[bytes], name: str) -> pa.Table:
    return wire.from_fields(owner, [content] if content else [], name)


def _ranging(owner: Owner, name: str, ranged: changes.Ranged) -> list[Command]:
    commands: list[Command] = []
    for start in range(0, len(ranged.outdated), _MEMBERS):
        commands.append(("ZREM", name, *ranged.outdated[start : start + _MEMBERS]))
    scores = map(score, owner.times(ranged.rows).tolist())
    pairs = list(zip(scores, ranged.members.to_pylist(), strict=True))
    for start in range(0, len(pairs), _MEMBERS):
        commands.append(("ZADD", name, *(part for pair in pairs[start : start + _MEMBERS] for part in pair)))
    return commands


def _setting(name: str, newest: changes.Latest) -> list[Command]:
    return [command for content in wire.fields(newest.rows) for command in (("DEL", name), ("HSET", name, *content))]


def _settings(options: RedisOptions, target: Target) -> dict[str, Any]:
    """Return redis-py's settings of a connection; ConfigError where the URL in the environment is none."""
    from redis import SSLConnection
    from redis import connection

    prefix = target.env_prefix or _ENV_PREFIX
    settings: dict[str, Any] = {}
    url = target.environ.get(f"{prefix}_URL", "")
    if url and not options.host:
        try:
            # redis-py gives no types here
            parse: Any = connection.parse_url
            settings |= parse(url)
        except ValueError:
            # not the reason either: it may quote what stands where a password should
            raise ConfigError(
                f"destination {target.name!r}: {prefix}_URL is not redis://, rediss:// or unix://"
            ) from None
    else:
        settings |= {"host": options.host or "localhost", "port": options.port, "db": options.db}
        settings |= {"username": options.username} if options.username else {}
        settings |= {"connection_class": SSLConnection} if options.tls else {}
    if options.tls_ca and settings.get("connection_class") is SSLConnection:
        settings["ssl_ca_certs"] = options.tls_ca
    if (password := target.environ.get(f"{prefix}_PASSWORD", "")) and "password" not in settings:
        settings["password"] = password
    settings["socket_timeout"] = settings["socket_connect_timeout"] = options.timeout
    # a check of the connection's health connects again unasked, and what WATCH guards would be lost
    settings["health_check_interval"] = 0
    # replies have another shape in RESP3
    settings["protocol"] = 2
    settings["client_name"] = "dataflow:" + _UNSAFE_NAME.sub("-", target.name)
    return settings
