"""Kind `redis`: for each key a stream, its newest row, messages and a range of times, for consumers in any language.

The wire format is docs/redis.md. Consumers in Python use `tail`, `range_` and `last` from here.

It is not readable, so it cannot be a home: caps, TTL and eviction give memory back, and a home must still have what
complete fetches once brought.
"""

import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from itertools import pairwise
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
from flows.options import Options
from flows.rediswire import changes
from flows.rediswire import packing
from flows.rediswire import rows as wire
from flows.rediswire.link import Command
from flows.rediswire.link import Commands
from flows.rediswire.link import Link
from flows.rediswire.link import unopened
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
from flows.rediswire.rows import Lines
from flows.sinks.base import Sink
from flows.sinks.base import Target

__all__ = ["RedisOptions", "RedisSink", "last", "range_", "tail"]

#: rows, entries and keys of one transaction: the server does nothing else while it runs one
_ROWS: Final = 2_000
_KEYS: Final = 200
#: rows of one transaction that are in packs
_PACKED_ROWS: Final = 20_000
# how often in a row somebody else may write the same key between our reading and writing
_ATTEMPTS: Final = 100
_MEMBERS: Final = 500
#: entries that are read at once where they may be fewer than the rows
_ENTRIES: Final = 64
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
    """Rows of one key, sorted by their times, in one transaction; and what was decided of them."""

    owner: Owner
    names: Names
    rows: Lines
    times: np.ndarray
    ranged: changes.Ranged | None = None
    added: changes.Appended | None = None
    newest: changes.Latest | None = None
    changed: Lines | None = None


class _Ahead:
    """Yields transactions; the next one can be prepared while the server works on one."""

    def __init__(self, transactions: Iterator[list[_Part]]) -> None:
        self._transactions = transactions
        self._prepared: list[list[_Part]] = []

    def __iter__(self) -> Iterator[list[_Part]]:
        while self._prepared or self.prepare():
            yield self._prepared.pop()

    def prepare(self) -> bool:
        """Prepare what comes next, if it is not yet; returns whether anything does."""
        if not self._prepared and (parts := next(self._transactions, None)) is not None:
            parts[0].rows.prepare()
            self._prepared.append(parts)
        return bool(self._prepared)


class RedisSink(Sink):
    """Writes rows of each key in transactions: what is new is decided by what Redis has, and applied at once."""

    name = "redis"
    label = "Redis"
    doc = "Streams, newest rows, messages and ranges for live consumers; described in docs/redis.md."
    Options = RedisOptions
    credentials = ("URL", "PASSWORD")

    def __init__(self, options: Mapping[str, Any], target: Target) -> None:
        super().__init__(options, target)
        self._places: dict[tuple[str, str], tuple[Owner, Names]] = {}
        #: names of which it is known that they do not expire
        self._lasting: set[str] = set()
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
        transactions = _Ahead(self._transactions(schema, table))
        for parts in transactions:
            counts += self._commit(parts, replace, transactions.prepare)
        return counts

    def _commit(self, parts: list[_Part], replace: bool, meanwhile: Callable[[], object]) -> Counts:
        for _ in range(_ATTEMPTS):
            counts = self._prepare(parts, replace)
            if not any(map(_changes, parts)):
                self._link.exchange([("UNWATCH",)])
                return counts
            touched: list[str] = []
            commands = chain([("MULTI",)], self._commands(parts, touched), [("EXEC",)])
            if self._link.exchange(commands, meanwhile)[-1] is not None:
                if not self.options.ttl:
                    self._lasting.update(touched)
                return counts
        raise TransientError(f"destination {self.target.name!r}: others write the same keys all the time")

    def _prepare(self, parts: list[_Part], replace: bool) -> Counts:
        """Read what the keys have, under WATCH, and decide what becomes of each part."""
        reads: list[Command] = []
        for part in parts:
            reads += self._reads(part)
        names = [name for part in parts for name in (part.names.stream, part.names.last, part.names.range)]
        found = iter(self._link.exchange([("WATCH", *names), *reads])[1:])
        states = [[next(found) for _ in self._reads(part)] for part in parts]
        if self.options.sorted_set:
            self._complete(parts, states)
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
            low, high = score(int(part.times[0])), score(int(part.times[-1]))
            reads.append(("ZRANGEBYSCORE", part.names.range, low, high, "LIMIT", 0, _most(part)))
        if self.options.last:
            reads.append(("HGETALL", part.names.last))
        return reads

    def _complete(self, parts: Sequence[_Part], states: Sequence[list[Any]]) -> None:
        """Read the sets again, time by time, that have much between the times of some rows that lie far apart."""
        at = int(self.options.stream)
        for part, state in zip(parts, states, strict=True):
            if len(state[at]) >= _most(part):
                scores = sorted(set(map(score, part.times.tolist())))
                found = self._link.exchange([("ZRANGEBYSCORE", part.names.range, one, one) for one in scores])
                state[at] = [member for members in found for member in members]

    def _entries(self, parts: list[_Part], positions: Sequence[tuple[int, int] | None]) -> Iterator[list[Any]]:
        """Yield what each part's stream holds of the times that are not after its last entry, where it matters."""
        wanted = [
            ([], []) if position is None else self._spans(part, position)
            for part, position in zip(parts, positions, strict=True)
        ]
        reads = [command for spans in wanted for commands in spans for command in commands]
        found = iter(self._link.exchange(reads) if reads else [])
        for part, position, (late, level) in zip(parts, positions, wanted, strict=True):
            entries: list[Any] = []
            if late and position is not None:
                entries += self._sparse(part, position, next(found))
                entries += next(found)
            yield entries + [entry for _ in level for entry in next(found)]

    def _spans(self, part: _Part, position: tuple[int, int]) -> tuple[list[Command], list[Command]]:
        """Return how a stream is read at times before its last one, and at its last one."""
        late, level = self._late(part, position), part.times == position[0]
        before: list[Command] = []
        if len(late):
            high = entry_id(int(late[-1]), COUNTERS - 1)
            # a pack has the id of its last row: the next one may begin before
            beyond = ("XRANGE", part.names.stream, f"({high}", "+", "COUNT", 1)
            before = [self._from(part, entry_id(int(late[0]), 0), late), beyond]
        low, high = entry_id(position[0], 0), entry_id(position[0], COUNTERS - 1)
        return before, [("XRANGE", part.names.stream, low, high)] if level.any() else []

    def _late(self, part: _Part, position: tuple[int, int]) -> np.ndarray:
        """Return the times that lie before a stream's last one, where the stream is to say what of them is stored."""
        # the sorted set knows better
        return part.times[(part.times >= 0) & (part.times < position[0]) & (not self.options.sorted_set)]

    def _from(self, part: _Part, low: str, late: np.ndarray) -> Command:
        """Return what reads some entries of times, so many as there are mostly."""
        return ("XRANGE", part.names.stream, low, entry_id(int(late[-1]), COUNTERS - 1), "COUNT", self._some(late))

    def _some(self, late: np.ndarray) -> int:
        return max(len(late) // int(self.options.pack) + 1, _ENTRIES)

    def _sparse(self, part: _Part, position: tuple[int, int], entries: list[Any]) -> list[Any]:
        """Return the entries of late times, given the first of them: what lies between two times is passed over."""
        late = self._late(part, position)
        found = list(entries)
        while len(entries) == self._some(late):
            number = entries[-1][0].decode()
            time, _ = parse_id(number)
            following = int(late[late.searchsorted(time)])
            low = f"({number}" if following == time else entry_id(following, 0)
            (entries,) = self._link.exchange([self._from(part, low, late)])
            found += entries
        return found

    def _decide(
        self, part: _Part, state: list[Any], position: tuple[int, int] | None, entries: list[Any], replace: bool
    ) -> Counts:
        """Note what each structure takes; returns the counts of the one that knows most."""
        owner, names = part.owner, part.names
        decided: list[tuple[Counts, Lines]] = []
        replies = iter(state[1:] if self.options.stream else state)
        if self.options.sorted_set:
            part.ranged = changes.arrange(owner, part.rows.table, next(replies), names.range, replace=replace)
            decided.append((part.ranged.counts, Lines(part.ranged.rows)))
        if self.options.stream:
            part.added = changes.append(
                owner, part.rows, part.times, position, entries, names.stream, replace=replace
            )  # fmt: skip
            decided.append((part.added.counts, part.added.rows))
        if self.options.last:
            part.newest = changes.newest(owner, part.rows, part.times, next(replies), names.last, replace=replace)
            decided.append((part.newest.counts, part.newest.rows))
        counts, part.changed = decided[0]
        return counts

    def _commands(self, parts: Sequence[_Part], touched: list[str]) -> Iterator[Commands]:
        """Yield what is to be done for all parts; `touched` takes the names that it changes."""
        for part in parts:
            if part.ranged is not None and (ranging := _ranging(part.owner, part.names.range, part.ranged)):
                yield from ranging
                touched.append(part.names.range)
        grown = [(part.names.stream, part.added) for part in parts if part.added and part.added.rows]
        newer = [(part.names.last, part.newest.rows) for part in parts if part.newest and part.newest.rows]
        touched += [name for name, _ in (*grown, *newer)]
        if grown and self.options.pack == 1:
            yield from packing.additions(grown)
        if newer:
            yield packing.replacements(newer)
        for name, added in grown:
            yield from self._appending(name, added)
        if self.options.ttl:
            yield from (("EXPIRE", name, self.options.ttl) for name in touched)
        else:
            # there may have been a TTL before: that goes once, not with every write
            yield from (("PERSIST", name) for name in touched if name not in self._lasting)
        if self.options.publish:
            for part in parts:
                if part.changed:
                    yield from self._publishing(part.names.channel, part.changed.table)

    def _appending(self, name: str, added: changes.Appended) -> list[Commands]:
        """Return what a stream takes in packs, and what it gives away."""
        commands: list[Commands] = []
        size = self.options.pack
        for start in range(0, len(added.rows), size) if size > 1 else ():
            piece = added.rows.slice(start, size).table
            end = start + piece.num_rows - 1
            number = entry_id(int(added.times[end]), int(added.counters[end]))
            commands.append(("XADD", name, number, wire.ROWS, piece.num_rows, wire.PACK, wire.pack(piece)))
        # those of the last time stay, so that they are known when they come again
        return [*commands, ("XTRIM", name, "MAXLEN", max(self.options.stream_length, added.keep))]

    def _publishing(self, channel: str, rows: pa.Table) -> list[Commands]:
        size = self.options.pack
        if size == 1:
            return [packing.messages(channel, wire.members(rows).to_pylist())]
        pieces = (rows.slice(start, size) for start in range(0, rows.num_rows, size))
        return [("PUBLISH", channel, wire.pack(piece)) for piece in pieces]

    def _transactions(self, schema: Schema, table: pa.Table) -> Iterator[list[_Part]]:
        """Cut rows into transactions: few enough rows and keys, each key once."""
        # whole packs; only the last piece of an instrument is smaller, so no key is twice in a transaction
        some = _ROWS if self.options.sorted_set else min(_ROWS * self.options.pack, _PACKED_ROWS)
        most = max(some // self.options.pack, 1) * self.options.pack
        rows, times, owners = _by_instrument(schema, table)
        spans: list[tuple[str, int, int]] = []
        for instrument, first, end in owners:
            for start in range(first, end, most):
                stop = min(start + most, end)
                if spans and (stop - spans[0][1] > most or len(spans) == _KEYS):
                    yield self._parts(schema, rows, times, spans)
                    spans = []
                spans.append((instrument, start, stop))
        if spans:
            yield self._parts(schema, rows, times, spans)

    def _parts(
        self, schema: Schema, rows: pa.Table, times: np.ndarray, spans: Sequence[tuple[str, int, int]]
    ) -> list[_Part]:
        begin, end = spans[0][1], spans[-1][2]
        lines = Lines(rows.slice(begin, end - begin))
        if self.options.stream and self.options.pack == 1:
            # all of it is sent as text
            lines = lines.shared()
        return [
            _Part(*self._place(schema, instrument), lines.slice(start - begin, stop - start), times[start:stop])
            for instrument, start, stop in spans
        ]

    def _place(self, schema: Schema, instrument: str) -> tuple[Owner, Names]:
        """Return whose rows those of a key are and where they are kept."""
        if (found := self._places.get((schema.name, instrument))) is None:
            names = Names.of(key_text(instrument, schema), self.options.prefix)
            found = self._places[schema.name, instrument] = Owner(instrument, schema), names
        return found


def _by_instrument(schema: Schema, table: pa.Table) -> tuple[pa.Table, np.ndarray, list[tuple[str, int, int]]]:
    """Return the rows by instrument and time, those of one time in their order; their times; and whose they are.

    The last are instruments with their first row and the one after their last.
    """
    instrument = table.unify_dictionaries()[INSTRUMENT].combine_chunks()
    codes = np.asarray(instrument.indices.to_numpy())
    times = np.asarray(table[schema.time].cast(pa.int64()).to_numpy())
    order = np.lexsort((times, codes))
    rows = table.drop_columns([INSTRUMENT]).take(pa.array(order))
    columns = Owner("", schema).columns
    if rows.schema != columns:
        rows = rows.select(columns.names).cast(columns)
    rows = rows.combine_chunks()
    codes, times = codes[order], times[order]
    bounds = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    owners = [
        (instrument.dictionary[codes[start]].as_py(), start, stop) for start, stop in pairwise(bounds) if start < stop
    ]
    return rows, times, owners


def _most(part: _Part) -> int:
    """Return how many members a set is asked for at once: mostly it has as many as there are rows."""
    return 2 * len(part.rows) + _MEMBERS


def _changes(part: _Part) -> bool:
    """Whether anything is to be done for a part."""
    ranged = part.ranged is not None and (part.ranged.rows.num_rows or part.ranged.outdated)
    return bool(ranged or (part.added and part.added.rows) or (part.newest and part.newest.rows))


def _position(facts: list[Any] | None) -> tuple[int, int] | None:
    """Return time and counter of a stream's last id, from XINFO's names and values; None where there is no stream."""
    if facts is None:
        return None
    number: bytes = facts[facts.index(b"last-generated-id") + 1]
    return parse_id(number.decode())


def _ranging(owner: Owner, name: str, ranged: changes.Ranged) -> list[Commands]:
    commands: list[Commands] = []
    for start in range(0, len(ranged.outdated), _MEMBERS):
        commands.append(("ZREM", name, *ranged.outdated[start : start + _MEMBERS]))
    scores = map(score, owner.times(ranged.rows).tolist())
    pairs = list(zip(scores, ranged.members.to_pylist(), strict=True))
    for start in range(0, len(pairs), _MEMBERS):
        commands.append(("ZADD", name, *(part for pair in pairs[start : start + _MEMBERS] for part in pair)))
    return commands


def _settings(options: RedisOptions, target: Target) -> dict[str, Any]:
    """Return redis-py's settings of a connection; ConfigError where the URL in the environment is none."""
    import redis
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
    try:
        unopened(settings)
    except (TypeError, ValueError, redis.RedisError):
        raise ConfigError(
            f"destination {target.name!r}: after '?', {prefix}_URL has what is no setting of a connection"
            " (max_connections is one of a pool)"
        ) from None
    return settings
