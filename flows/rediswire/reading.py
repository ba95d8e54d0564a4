"""For consumers: follow a stream, read a range of times, read the newest row. See docs/redis.md.

The client is a `redis.Redis` of the consumer's own, which must not decode replies (packs are not text).
Rows come as refined tables have them (`schema.arrow`: exact decimals, times in ns, the column `instrument` first)
or as dicts. What redis-py raises goes through as it is.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import Literal
from typing import overload

import pyarrow as pa

from catalog.errors import ConfigError
from catalog.keys import Key
from catalog.schemas import schema as schema_called
from flows.exports.facts import Owner
from flows.exports.merging import by_key
from flows.exports.partitions import nanoseconds
from flows.rediswire import rows as wire
from flows.rediswire.changes import latest
from flows.rediswire.names import COUNTERS
from flows.rediswire.names import PREFIX
from flows.rediswire.names import Names
from flows.rediswire.names import entry_id
from flows.rediswire.names import score

if TYPE_CHECKING:
    from redis import Redis

Rows = list[dict[str, Any]]
_BEGIN: Final = "0-0"


@overload
def tail(
    client: "Redis",
    key: str | Key,
    *,
    after: str | datetime = ...,
    form: Literal["table"] = ...,
    count: int = ...,
    block_ms: int = ...,
    idle: float | None = ...,
    prefix: str = ...,
) -> Iterator[pa.Table]: ...


@overload
def tail(
    client: "Redis",
    key: str | Key,
    *,
    after: str | datetime = ...,
    form: Literal["dicts"],
    count: int = ...,
    block_ms: int = ...,
    idle: float | None = ...,
    prefix: str = ...,
) -> Iterator[Rows]: ...


def tail(
    client: "Redis",
    key: str | Key,
    *,
    after: str | datetime = "$",
    form: Literal["table", "dicts"] = "table",
    count: int = 1000,
    block_ms: int = 1000,
    idle: float | None = None,
    prefix: str = PREFIX,
) -> Iterator[pa.Table | Rows]:
    """Follow a stream from this call on: an iterator of its rows, at most `count` entries at a time, in its order.

    `after` is "$" (what comes from now on), "0" (from the oldest entry kept), an entry's id, or an aware time: rows
    of that time and later (from a pack, those before it too). Ends after `idle` seconds without a row; None: never.
    `block_ms` (above 0) is how long one read waits, below the client's socket timeout. A row that a later fetch
    revised while it was the newest comes again. Raises ConfigError for a key or client that cannot be used, Damaged
    for entries that are not rows.
    """
    owner, names = _open(client, key, prefix)
    tables = _follow(client, owner, names.stream, _start(client, names.stream, after), count, block_ms, idle)
    return map(wire.dicts, tables) if form == "dicts" else tables


def range_(client: "Redis", key: str | Key, start: datetime, end: datetime, *, prefix: str = PREFIX) -> pa.Table:
    """Return the rows with times in `[start, end)` (aware), sorted by key, each key once.

    Read from the sorted set where there is one, else from the stream, which holds no rows that came late and only
    the newest of all. Raises ConfigError for a key or client that cannot be used, Damaged for what are no rows.
    """
    owner, names = _open(client, key, prefix)
    first, last = nanoseconds(start), nanoseconds(end) - 1
    found: Any
    if client.exists(names.range):
        found = client.zrange(names.range, score(first), score(last), byscore=True) if first <= last else []
        table = wire.from_members(owner, found, names.range)
    else:
        table = wire.from_entries(owner, _between(client, names.stream, max(first, 0), last), names.stream)
    table = latest(owner, table)
    times = owner.times(table)
    inside = pa.array((times >= first) & (times <= last))
    return wire.with_instrument(owner, by_key(owner, table.filter(inside)))


def last(client: "Redis", key: str | Key, *, prefix: str = PREFIX) -> dict[str, Any] | None:
    """Return the newest row: Decimals, ints, texts, times as int ns since 1970, no nulls; None where none is kept.

    Raises ConfigError for a key or client that cannot be used, Damaged for a hash that is not a row.
    """
    owner, names = _open(client, key, prefix)
    found: Any = client.hgetall(names.last)
    if not found:
        return None
    content = [part for pair in found.items() for part in pair]
    return wire.dicts(wire.with_instrument(owner, wire.from_fields(owner, [content], names.last)))[0]


def _follow(
    client: "Redis", owner: Owner, stream: str, position: str, count: int, block_ms: int, idle: float | None
) -> Iterator[pa.Table]:
    heard = time.monotonic()
    while True:
        reply: Any = client.xread({stream: position}, count=count, block=block_ms)
        if entries := _entries(reply):
            position = entries[-1][0].decode()
            yield wire.with_instrument(owner, wire.from_entries(owner, entries, stream))
            heard = time.monotonic()
        elif idle is not None and time.monotonic() - heard >= idle:
            return


def _open(client: "Redis", key: str | Key, prefix: str) -> tuple[Owner, Names]:
    if client.get_encoder().decode_responses:
        raise ConfigError("this client decodes replies, and packed rows are not text: use decode_responses=False")
    parsed = Key.parse(key) if isinstance(key, str) else key
    return Owner(str(parsed.instrument), schema_called(parsed.schema)), Names.of(str(parsed), prefix)


def _start(client: "Redis", stream: str, after: str | datetime) -> str:
    """Return the id to read after, fixed once: "$" would skip what comes between two reads."""
    if isinstance(after, datetime):
        moment = nanoseconds(after)
        # the last id before the first of that time
        return entry_id(moment - 1, COUNTERS - 1) if moment > 0 else _BEGIN
    if after != "$":
        return after
    if not client.exists(stream):
        return _BEGIN
    facts: Any = client.xinfo_stream(stream)
    last_id: bytes = facts["last-generated-id"]
    return last_id.decode()


def _between(client: "Redis", stream: str, first: int, last: int) -> list[Any]:
    """Return the entries with rows of these times (ns): an entry has its last row's time, so the next one may too."""
    if first > last:
        return []
    low, high = entry_id(first, 0), entry_id(last, COUNTERS - 1)
    # one read, so that no entry is cut off between two
    with client.pipeline(transaction=True) as pipe:
        pipe.xrange(stream, low, high)
        pipe.xrange(stream, f"({high}", "+", count=1)
        within, beyond = pipe.execute()
    return [(entry, [part for pair in content.items() for part in pair]) for entry, content in [*within, *beyond]]


def _entries(reply: Any) -> list[Any]:
    """Return the entries of XREAD's reply for one stream, RESP2 or RESP3, with flat contents."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    found = next(iter(pairs))[1]
    # RESP3 wraps the entries once more
    found = found[0] if found and isinstance(found[0], list) else found
    return [(entry, [part for pair in content.items() for part in pair]) for entry, content in found]
