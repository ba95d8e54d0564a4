"""The kind `redis` on a real server: what it writes, twice is once, late rows, caps, faults, consumers."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from threading import Barrier
from threading import Event
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from redis import exceptions

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.keys import Key
from catalog.models import Delivery
from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.ingest import ingest
from flows.ingest import replay
from flows.plan import Selection
from flows.query import read
from flows.rediswire.link import translate
from flows.rediswire.names import COUNTERS
from flows.rediswire.names import entry_id
from flows.rediswire.names import parse_id
from flows.rediswire.rows import members
from flows.sinks.base import Target
from flows.sinks.redis import RedisSink
from flows.sinks.redis import last
from flows.sinks.redis import range_
from flows.sinks.redis import tail
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import destination
from tests.flows.catalogs import series
from tests.flows.sinks.rows import AAPL
from tests.flows.sinks.rows import DAYS
from tests.flows.sinks.rows import IBM
from tests.flows.sinks.rows import MINUTES
from tests.flows.sinks.rows import NS
from tests.flows.sinks.rows import START
from tests.flows.sinks.rows import TRADES
from tests.flows.sinks.rows import at
from tests.flows.sinks.rows import minutes
from tests.flows.sinks.rows import rows_of
from tests.flows.sinks.rows import table
from tests.redis_server import Server

MINUTE_KEY = f"{AAPL}:ohlcv-1m"
TRADE_KEY = f"{AAPL}:trades"
STREAM = f"dataflow:{MINUTE_KEY}"
ALL = {"sorted_set": True, "publish": True}
SECRET = "s3cr:et@/?#"
numbers = count()


def sink(url: str, **options: Any) -> RedisSink:
    return RedisSink(options, Target("live feed", environ={"REDIS_URL": url}))


def wrote(url: str, schema: Schema, written: pa.Table, replace: bool = True, **options: Any) -> Counts:
    with sink(url, **options) as opened:
        return opened.write(schema, written, replace=replace)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def alone(server: Server) -> Iterator[redis.Redis]:
    """A client of a server of its own: messages of one database are heard in all."""
    with server.client() as made:
        yield made


def content(client: redis.Redis) -> dict[str, Any]:
    """Everything in the database, as plain values."""
    found: dict[str, Any] = {}
    for name in sorted(client.keys()):
        kind = client.type(name)
        if kind == b"stream":
            found[name.decode()] = client.xrange(name)
        elif kind == b"zset":
            found[name.decode()] = client.zrange(name, 0, -1, withscores=True)
        else:
            found[name.decode()] = client.hgetall(name)
    return found


def closes(client: redis.Redis, key: str = MINUTE_KEY) -> list[int]:
    """What a stream says, oldest first."""
    found = list(tail(client, key, after="0", idle=0, block_ms=1))
    return [int(value) for block in found for value in block["close"].to_pylist()]


# what is written


def test_a_row_is_text_in_the_stream_the_hash_the_set_and_the_message(server: Server, alone: redis.Redis) -> None:
    with alone.pubsub() as messages:
        messages.psubscribe("dataflow:vendor:*")
        assert messages.get_message(timeout=5)["type"] == "psubscribe"
        bar = minutes([Decimal("-37.630")], fetch=8, vwap="0.000000000000000001", venue='é"\n')
        assert wrote(server.url, MINUTES, bar, **ALL) == Counts(new=1)
        message = messages.get_message(timeout=5)
    row = {
        "ts_event": "1706745480000000000", "venue": 'é"\n', "open": "1", "high": "1", "low": "1", "close": "-37.63",
        "vwap": "0.000000000000000001", "fetch_id": "8",
    }  # fmt: skip
    in_bytes = {name.encode(): value.encode() for name, value in row.items()}
    assert alone.xrange(STREAM) == [(b"1706745480000-1", in_bytes)]
    assert alone.hgetall(f"{STREAM}:last") == in_bytes
    ((member, score),) = alone.zrange(f"{STREAM}:range", 0, -1, withscores=True)
    assert (json.loads(member), score) == (row, 1706745480000000.0)
    assert (message["channel"], message["data"]) == (STREAM.encode(), member)
    assert len(alone.keys()) == 3


def test_only_what_is_asked_for_is_kept(redis_url: str, client: redis.Redis) -> None:
    bars = minutes([1, 2])
    for options, names in [
        ({}, {"a:K", "a:K:last"}),
        ({"last": False}, {"a:K"}),
        ({"stream": False}, {"a:K:last"}),
        ({"stream": False, "last": False, "sorted_set": True}, {"a:K:range"}),
    ]:
        client.flushdb()
        wrote(redis_url, MINUTES, bars, prefix="a:", **options)
        assert {name.decode().replace(MINUTE_KEY, "K") for name in client.scan_iter()} == names


def test_ids_are_the_times_to_the_nanosecond(redis_url: str, client: redis.Redis) -> None:
    times = [0, 0, 1, 999_999, 1_000_000, 1_706_745_480_123_456_789]
    wrote(redis_url, TRADES, table(TRADES, [{"ts_event": t, "sequence": n} for n, t in enumerate(times)]))
    ids = [entry.decode() for entry, _ in client.xrange(f"dataflow:{TRADE_KEY}")]
    assert ids == ["0-1", "0-2", "0-1000001", "0-999999000001", "1-1", "1706745480123-456789000001"]
    assert [parse_id(text)[0] for text in ids] == times
    assert parse_id(entry_id(5 * NS + 17, COUNTERS - 1)) == (5 * NS + 17, COUNTERS - 1)


@pytest.mark.parametrize("pack", [1, 2])
def test_rows_of_one_write_are_put_in_the_order_of_time(redis_url: str, client: redis.Redis, pack: int) -> None:
    newest_first = minutes(range(5)).take(pa.array([4, 3, 2, 1, 0]))
    assert wrote(redis_url, MINUTES, newest_first, pack=pack) == Counts(new=5)
    assert closes(client) == [0, 1, 2, 3, 4]
    assert last(client, MINUTE_KEY)["close"] == 4  # type: ignore[index]


def test_times_before_1970_are_in_the_set_and_not_in_the_stream(redis_url: str, client: redis.Redis) -> None:
    bars = table(DAYS, [{"ts_event": -86_400 * NS}, {"ts_event": -1}, {"ts_event": 0}])
    assert wrote(redis_url, DAYS, bars) == Counts(new=1, superseded=2)
    assert [entry for entry, _ in client.xrange(f"dataflow:{AAPL}:ohlcv-1d")] == [b"0-1"]
    client.flushdb()
    assert wrote(redis_url, DAYS, bars, **ALL) == Counts(new=3)
    found = range_(client, f"{AAPL}:ohlcv-1d", datetime(1960, 1, 1, tzinfo=UTC), datetime(1980, 1, 1, tzinfo=UTC))
    assert rows_of(found) == rows_of(bars)


@pytest.mark.parametrize("pack", [1, 2, 1000])
@pytest.mark.parametrize("schema", tuple(SCHEMAS.values()), ids=tuple(SCHEMAS))
def test_every_schema_comes_back_from_every_structure(
    redis_url: str, client: redis.Redis, schema: Schema, pack: int
) -> None:
    rows = [{schema.time: 86_400 * NS * day} for day in (4, 11, 18)]
    written = table(schema, [row | {INSTRUMENT: name} for row in rows for name in (AAPL, IBM)])
    assert wrote(redis_url, schema, written, pack=pack, sorted_set=True) == Counts(new=6)
    for name in (AAPL, IBM):
        expected = written.filter(pa.array([row == name for row in written[INSTRUMENT].to_pylist()]))
        key = Key.parse(f"{name}:{schema.name}")
        followed = pa.concat_tables(tail(client, key, after="0", idle=0, block_ms=1))
        ranged = range_(client, key, datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC))
        assert followed.schema.equals(schema.arrow)
        assert ranged.schema.equals(schema.arrow)
        assert rows_of(followed) == rows_of(ranged) == rows_of(expected)
        newest = last(client, key)
        assert newest is not None
        columns = dict(zip(schema.arrow.names, rows_of(expected)[-1], strict=True))
        assert newest == {column: value for column, value in columns.items() if value is not None}
    lengths = {client.xlen(f"dataflow:{name}:{schema.name}") for name in (AAPL, IBM)}
    assert lengths == {-(-3 // pack)}


def test_a_pack_is_an_arrow_stream_that_needs_nothing_of_ours(server: Server, alone: redis.Redis) -> None:
    prices = ["0.000000000000000001", "99999999999999999999.999999999999999999", "-5"]
    ticks = table(TRADES, [{"ts_event": NS + n, "price": price} for n, price in enumerate(prices)])
    with alone.pubsub() as messages:
        messages.subscribe(f"dataflow:{TRADE_KEY}")
        messages.get_message(timeout=5)
        wrote(server.url, TRADES, ticks, pack=2, publish=True)
        sent = [messages.get_message(timeout=5)["data"] for _ in range(2)]
    entries = alone.xrange(f"dataflow:{TRADE_KEY}")
    assert [(entry, fields[b"rows"]) for entry, fields in entries] == [(b"1000-1000001", b"2"), (b"1000-2000001", b"1")]
    assert [fields[b"arrow"] for _, fields in entries] == sent
    found = pa.concat_tables(pa.ipc.open_stream(message).read_all() for message in sent)
    assert found["price"].to_pylist() == [Decimal(price) for price in prices]
    assert found["ts_event"].cast(pa.int64()).to_pylist() == [NS, NS + 1, NS + 2]


# twice is once


@pytest.mark.parametrize("options", [{}, {"pack": 3}, ALL, ALL | {"pack": 3}, {"stream": False}])
def test_writing_again_changes_nothing_and_says_nothing(
    server: Server, alone: redis.Redis, options: dict[str, Any]
) -> None:
    ticks = table(TRADES, [{"ts_event": NS * (n // 3), "sequence": n} for n in range(10)])
    first, second = ticks.slice(0, 7), ticks.slice(7)
    for piece in (first, second):
        wrote(server.url, TRADES, piece, **options)
    before = content(alone)
    with alone.pubsub() as messages:
        messages.psubscribe("*")
        messages.get_message(timeout=5)
        for piece in (first, second, ticks, ticks.slice(2, 6)):
            counts = wrote(server.url, TRADES, piece, **options)
            assert (counts.new, counts.updated) == (0, 0)
            assert counts.unchanged + counts.superseded == piece.num_rows
            if options.get("stream", True):
                assert counts.superseded == 0
        assert messages.get_message(timeout=0.05) is None
    assert content(alone) == before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_and_repetition_gives_the_same_content(
    redis_url: str, client: redis.Redis, data: st.DataObject
) -> None:
    schema = data.draw(st.sampled_from([MINUTES, TRADES]))
    keys = st.tuples(st.integers(0, 4), st.sampled_from(["", "X", "Y", "Z"]))
    drawn = data.draw(st.lists(keys, unique=True, min_size=1, max_size=12))
    # in order of time; those of one time in any order
    rows = [
        {"ts_event": at(START) + 60 * NS * step, "venue": venue, "close": number, "price": number}
        for number, (step, venue) in enumerate(sorted(drawn, key=lambda key: key[0]))
    ]
    pack = data.draw(st.sampled_from([1, 2, 5]))
    cap = data.draw(st.sampled_from([1, 3, 100])) if pack == 1 else 100
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {len(rows)})
    pieces = [rows[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
    names = [f"vendor:equity:P{next(numbers)}" for _ in range(2)]
    seen = []
    with sink(redis_url, pack=pack, stream_length=cap, sorted_set=data.draw(st.booleans())) as opened:
        opened.write(schema, unsorted(schema, [row | {INSTRUMENT: names[0]} for row in rows]))
        for number, piece in enumerate(pieces):
            repeats = data.draw(st.lists(st.integers(0, number), max_size=2))
            for part in (piece, *(pieces[again] for again in repeats)):
                counts = opened.write(schema, unsorted(schema, [row | {INSTRUMENT: names[1]} for row in part]))
                assert sum(getattr(counts, field) for field in Counts.__slots__) == len(part)
    for name in names:
        key = f"{name}:{schema.name}"
        blocks = tail(client, key, after="0", idle=0, block_ms=1, form="dicts")
        streamed = [row | {INSTRUMENT: ""} for block in blocks for row in block]
        ids = client.xrange(f"dataflow:{key}") if pack == 1 else []
        seen.append(
            (streamed, ids, client.hgetall(f"dataflow:{key}:last"), client.zrange(f"dataflow:{key}:range", 0, -1))
        )
    assert seen[0] == seen[1]
    newest = [row for row in rows if row["ts_event"] == rows[-1]["ts_event"]]
    assert len(seen[0][0]) == min(len(rows), max(cap, len(newest)))


def unsorted(schema: Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """A refined table with the rows in the order given."""
    return pa.concat_tables(table(schema, [row]) for row in rows).unify_dictionaries()


def test_two_writers_of_the_same_rows_write_them_once(redis_url: str, client: redis.Redis) -> None:
    ticks = table(TRADES, [{"ts_event": NS * n, INSTRUMENT: name} for n in range(300) for name in (AAPL, IBM)])
    barrier = Barrier(2)

    def write() -> Counts:
        barrier.wait(30)
        counts = Counts()
        with sink(redis_url, **ALL) as opened:
            for start in range(0, 600, 60):
                counts += opened.write(TRADES, ticks.slice(start, 60))
        return counts

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(write), pool.submit(write)]]
    assert first + second == Counts(new=600, unchanged=600)
    assert client.xlen(f"dataflow:{TRADE_KEY}") == client.zcard(f"dataflow:{TRADE_KEY}:range") == 300
    times = [parse_id(entry.decode())[0] for entry, _ in client.xrange(f"dataflow:{AAPL}:trades")]
    assert times == [NS * n for n in range(300)]


def test_a_write_that_others_disturb_is_decided_anew(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbances = iter([1, 2])
    with sink(redis_url) as opened:
        decide = opened._decide

        def disturbed(*arguments: Any) -> Counts:
            if next(disturbances, None):
                client.xadd(STREAM, {"x": 1})
                client.delete(STREAM)
            return decide(*arguments)

        monkeypatch.setattr(opened, "_decide", disturbed)
        assert opened.write(MINUTES, minutes([1, 2])) == Counts(new=2)
        assert closes(client) == [1, 2]
        disturbances = iter([1] * 1000)
        with pytest.raises(TransientError, match="others write the same keys"):
            opened.write(MINUTES, minutes([1, 2, 3]))
    assert client.exists(STREAM) == 0


# late and revised rows


def test_late_rows_go_to_the_set_and_the_channel_only(server: Server, alone: redis.Redis) -> None:
    late, bars = minutes([1, 2, 3]).slice(0, 1), minutes([1, 2, 3]).slice(1)
    wrote(server.url, MINUTES, bars, **ALL)
    with alone.pubsub() as messages:
        messages.subscribe(STREAM)
        messages.get_message(timeout=5)
        assert wrote(server.url, MINUTES, late, **ALL) == Counts(new=1)
        assert json.loads(messages.get_message(timeout=5)["data"])["close"] == "1"
    assert closes(alone) == [2, 3]
    assert [Decimal(json.loads(row)["close"]) for row in alone.zrange(f"{STREAM}:range", 0, -1)] == [1, 2, 3]
    assert last(alone, MINUTE_KEY)["close"] == 3  # type: ignore[index]


@pytest.mark.parametrize("pack", [1, 2, 1000])
def test_without_a_set_late_rows_are_superseded_and_stored_ones_unchanged(
    redis_url: str, client: redis.Redis, pack: int
) -> None:
    bars = minutes(range(9))
    with sink(redis_url, pack=pack) as opened:
        for number in (1, 2, 4, 5, 6, 8):
            opened.write(MINUTES, bars.slice(number, 1))
        assert opened.write(MINUTES, bars) == Counts(unchanged=6, superseded=3)
        assert opened.write(MINUTES, bars.slice(2, 3)) == Counts(unchanged=2, superseded=1)
    assert closes(client) == [1, 2, 4, 5, 6, 8]


def test_a_late_row_inside_a_pack_is_known_again(redis_url: str) -> None:
    with sink(redis_url, pack=4) as opened:
        opened.write(MINUTES, minutes(range(8)))
        # the last row of the pack is later than the rows asked for
        assert opened.write(MINUTES, minutes(range(8)).slice(1, 2)) == Counts(unchanged=2)
        assert opened.write(MINUTES, minutes(range(8)).slice(3, 3)) == Counts(unchanged=3)


def sent(client: redis.Redis) -> int:
    """How many bytes the server has sent."""
    return int(client.info("stats")["total_net_output_bytes"])


@pytest.mark.parametrize("options", [{}, {"pack": 7}, {"sorted_set": True}])
def test_rows_that_lie_far_apart_do_not_read_what_lies_between(
    server: Server, alone: redis.Redis, options: dict[str, Any]
) -> None:
    many = 40_000
    whole = minutes(list(range(many)))
    everything = Counts(new=many)
    assert wrote(server.url, MINUTES, whole, **options) == everything
    apart = pa.concat_tables([whole.slice(at, 1) for at in (3, 4, many // 3, many // 2, many - 2)])
    # a row that is stored, beside one of each time that is not
    venue = apart.schema.get_field_index("venue")
    late = apart.set_column(venue, apart.schema.field(venue), pa.array(["late"] * 5))
    both = pa.concat_tables([apart, late])
    before = sent(alone)
    counts = wrote(server.url, MINUTES, both, **options)
    assert counts == (Counts(new=5, unchanged=5) if "sorted_set" in options else Counts(superseded=5, unchanged=5))
    # a tenth of what there is, and less
    assert sent(alone) - before < many * 20
    # all of it once more is nothing new
    assert wrote(server.url, MINUTES, whole, **options) == Counts(unchanged=many)


@pytest.mark.parametrize("pack", [1, 1000])
def test_newest_row_revised_is_another_entry_of_its_time(redis_url: str, client: redis.Redis, pack: int) -> None:
    with sink(redis_url, pack=pack) as opened:
        opened.write(MINUTES, minutes([1, 2], volume=7))
        assert opened.write(MINUTES, minutes([1, 3], fetch=2)) == Counts(updated=1, unchanged=1)
        assert opened.write(MINUTES, minutes([1, 3], fetch=2)) == Counts(unchanged=2)
        assert opened.write(MINUTES, minutes([1, 2], fetch=1)) == Counts(unchanged=1, superseded=1)
        assert opened.write(MINUTES, minutes([1, 4], fetch=3), replace=False) == Counts(unchanged=1, superseded=1)
    assert closes(client) == [1, 2, 3]
    assert [entry.rpartition(b"-")[2] for entry, _ in client.xrange(STREAM)][-1] == b"2"
    # what the revision did not bring stays, in the stream as in the hash
    found = range_(client, MINUTE_KEY, START, START + timedelta(hours=1))
    assert (found["close"].to_pylist(), found["volume"].to_pylist()) == ([1, 3], [7, 7])
    newest = last(client, MINUTE_KEY)
    assert newest is not None
    assert (newest["close"], newest["volume"], newest["fetch_id"]) == (3, 7, 2)


@pytest.mark.parametrize("options", [{}, {"pack": 2}, ALL])
def test_newest_row_revised_and_back_is_what_it_was_last(
    redis_url: str, client: redis.Redis, options: dict[str, Any]
) -> None:
    for close in (10, 11, 10):
        counts = wrote(redis_url, MINUTES, minutes([close], fetch=5), **options)
        assert counts.new + counts.updated == 1
        assert last(client, MINUTE_KEY)["close"] == closes(client)[-1] == close  # type: ignore[index]
    assert closes(client) == [10, 11, 10]
    before = content(client)
    assert wrote(redis_url, MINUTES, minutes([10], fetch=5), **options) == Counts(unchanged=1)
    assert content(client) == before


def test_older_row_revised_is_in_the_set_and_not_in_the_stream(redis_url: str, client: redis.Redis) -> None:
    wrote(redis_url, MINUTES, minutes([1, 2]), **ALL)
    assert wrote(redis_url, MINUTES, minutes([9], fetch=2), **ALL) == Counts(updated=1)
    assert closes(client) == [1, 2]
    found = range_(client, MINUTE_KEY, START, START + timedelta(hours=1))
    assert found["close"].to_pylist() == [9, 2]
    assert client.zcard(f"{STREAM}:range") == 2
    client.flushdb()
    wrote(redis_url, MINUTES, minutes([1, 2]))
    assert wrote(redis_url, MINUTES, minutes([9], fetch=2)) == Counts(superseded=1)


def test_last_is_the_row_with_the_greatest_key(redis_url: str, client: redis.Redis) -> None:
    options = {"stream": False}
    with sink(redis_url, **options) as opened:
        assert opened.write(MINUTES, minutes([1, 2, 3], vwap=5)) == Counts(new=1, superseded=2)
        assert opened.write(MINUTES, minutes([8, 9], fetch=5)) == Counts(superseded=2)
        assert opened.write(MINUTES, minutes([1, 2, 3])) == Counts(unchanged=1, superseded=2)
        assert opened.write(MINUTES, minutes([1, 2, 4], fetch=2)) == Counts(updated=1, superseded=2)
        assert last(client, MINUTE_KEY)["vwap"] == 5  # type: ignore[index]
        assert opened.write(MINUTES, minutes([1, 2, 3], fetch=1)) == Counts(superseded=3)
        later = minutes([6], start=START + timedelta(minutes=3))
        assert opened.write(MINUTES, later) == Counts(new=1)
        newest = last(client, MINUTE_KEY)
        assert newest is not None
        # another row: nothing of the one before is left in it
        assert (newest["close"], newest.get("vwap")) == (6, None)


# memory


def test_stream_keeps_exactly_so_many_entries(redis_url: str, client: redis.Redis) -> None:
    with sink(redis_url, stream_length=4) as opened:
        opened.write(MINUTES, minutes(range(10)))
        assert closes(client) == [6, 7, 8, 9]
        # gone is gone: what was cut off is too late now
        assert opened.write(MINUTES, minutes(range(10))) == Counts(unchanged=4, superseded=6)
        opened.write(MINUTES, minutes([10], start=START + timedelta(minutes=10)))
    assert closes(client) == [7, 8, 9, 10]


def test_rows_of_the_last_time_are_never_cut_off(redis_url: str, client: redis.Redis) -> None:
    burst = table(TRADES, [{"ts_event": 5, "sequence": n} for n in range(10)])
    with sink(redis_url, stream_length=3) as opened:
        opened.write(TRADES, burst)
        assert opened.write(TRADES, burst) == Counts(unchanged=10)
        assert client.xlen(f"dataflow:{TRADE_KEY}") == 10
        opened.write(TRADES, table(TRADES, [{"ts_event": 6}]))
    assert client.xlen(f"dataflow:{TRADE_KEY}") == 3


def test_ttl_counts_from_the_last_change(redis_url: str, client: redis.Redis) -> None:
    names = [STREAM, f"{STREAM}:last", f"{STREAM}:range"]
    wrote(redis_url, MINUTES, minutes([1]), **ALL)
    assert [client.ttl(name) for name in names] == [-1, -1, -1]
    wrote(redis_url, MINUTES, minutes([1, 2]), ttl=100, **ALL)
    assert all(90 < client.ttl(name) <= 100 for name in names)
    for name in names:
        client.expire(name, 50)
    wrote(redis_url, MINUTES, minutes([1, 2]), ttl=100, **ALL)
    assert all(client.ttl(name) <= 50 for name in names)
    wrote(redis_url, MINUTES, minutes([3], start=START + timedelta(hours=1)), ttl=1, **ALL)
    time.sleep(1.2)
    assert client.keys() == []


def test_a_ttl_that_is_switched_off_is_gone_with_the_next_change(server: Server, alone: redis.Redis) -> None:
    names = [STREAM, f"{STREAM}:last", f"{STREAM}:range"]
    wrote(server.url, MINUTES, minutes([1, 2]), ttl=1000, **ALL)
    assert all(alone.ttl(name) > 0 for name in names)
    with sink(server.url, **ALL) as lasting:
        lasting.write(MINUTES, minutes([1, 2, 3]))
        assert [alone.ttl(name) for name in names] == [-1, -1, -1]
        # once: it costs nothing where rows come all the time
        lasting.write(MINUTES, minutes([1, 2, 3, 4]))
        assert alone.info("commandstats")["cmdstat_persist"]["calls"] == len(names)


def test_more_rows_and_keys_than_one_transaction_has(redis_url: str, client: redis.Redis) -> None:
    names = [f"vendor:equity:M{number}" for number in range(450)]
    many = table(DAYS, [{INSTRUMENT: name, "ts_event": 0, "close": number} for number, name in enumerate(names)])
    assert wrote(redis_url, DAYS, many) == Counts(new=450)
    assert last(client, f"{names[449]}:ohlcv-1d")["close"] == 449  # type: ignore[index]
    ticks = table(TRADES, [{"ts_event": NS * (n // 7), "sequence": n} for n in range(4_500)])
    assert wrote(redis_url, TRADES, ticks) == Counts(new=4_500)
    assert wrote(redis_url, TRADES, ticks) == Counts(unchanged=4_500)
    assert client.xlen(f"dataflow:{TRADE_KEY}") == 4_500


# consumers


def test_tail_begins_where_it_is_told(redis_url: str, client: redis.Redis) -> None:
    wrote(redis_url, MINUTES, minutes(range(5)))
    second = entry_id(at(START) + 60 * NS, 1)

    def found(after: str | datetime) -> list[int]:
        blocks = tail(client, MINUTE_KEY, after=after, idle=0, block_ms=1, count=2)
        return [int(value) for block in blocks for value in block["close"].to_pylist()]

    assert found("0") == found("0-0") == found(datetime(1970, 1, 1, tzinfo=UTC)) == [0, 1, 2, 3, 4]
    assert found(second) == [2, 3, 4]
    assert found(START + timedelta(minutes=1)) == [1, 2, 3, 4]
    assert found("$") == []


@pytest.mark.parametrize("before", [0, 2])
def test_tail_from_now_on_begins_with_the_call(redis_url: str, client: redis.Redis, before: int) -> None:
    bars = minutes(range(4))
    if before:
        wrote(redis_url, MINUTES, bars.slice(0, before))
    following = tail(client, MINUTE_KEY, idle=0, block_ms=1)
    wrote(redis_url, MINUTES, bars.slice(before))
    assert [value for block in following for value in block["close"].to_pylist()] == list(range(before, 4))


@pytest.mark.parametrize("pack", [1, 10])
def test_tail_follows_what_is_written_and_a_flush(redis_url: str, client: redis.Redis, pack: int) -> None:
    listening = Event()
    seen: list[Decimal] = []

    def follow() -> None:
        with redis.Redis.from_url(redis_url) as reader:
            blocks = tail(reader, MINUTE_KEY, after="0", form="dicts", block_ms=50, idle=20)
            for block in blocks:
                seen.extend(row["close"] for row in block)
                listening.set()
                if len(seen) == 5:
                    return

    reader = Thread(target=follow)
    reader.start()
    with sink(redis_url, pack=pack) as opened:
        opened.write(MINUTES, minutes(range(3)))
        assert listening.wait(20)
        client.flushdb()
        opened.write(MINUTES, minutes(range(5)).slice(3))
    reader.join(20)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("options", [{}, {"pack": 2}, {"sorted_set": True}])
def test_range_holds_its_start_and_not_its_end(redis_url: str, client: redis.Redis, options: dict[str, Any]) -> None:
    # nanoseconds around a microsecond, which is all that a score has
    offsets = [-1001, -1000, -1, 0, 999, 1000]
    wrote(redis_url, TRADES, table(TRADES, [{"ts_event": at(START) + offset} for offset in offsets]), **options)
    microsecond = timedelta(microseconds=1)
    for low, high, expected in [
        (START, START + microsecond, [0, 999]), (START - microsecond, START, [-1000, -1]), (START, START, []),
        (START - timedelta(days=99_999), START + timedelta(days=1), offsets), (START + microsecond, START, []),
    ]:  # fmt: skip
        found = range_(client, TRADE_KEY, low, high)["ts_event"].cast(pa.int64()).to_pylist()
        assert [moment - at(START) for moment in found] == expected


@pytest.mark.parametrize("options", [{}, {"pack": 2}, {"sorted_set": True}])
def test_clients_of_both_protocols_read_the_same(redis_url: str, options: dict[str, Any]) -> None:
    bars = minutes(range(5))
    for expected in (Counts(new=5), Counts(unchanged=5)):
        assert wrote(f"{redis_url}?protocol=3", MINUTES, bars, **options) == expected
    seen = []
    for protocol in (2, 3):
        with redis.Redis.from_url(redis_url, protocol=protocol) as client:
            followed = pa.concat_tables(tail(client, MINUTE_KEY, after="0", idle=0, block_ms=1, count=2))
            ranged = range_(client, MINUTE_KEY, START, START + timedelta(hours=1))
            seen.append((rows_of(followed), rows_of(ranged), last(client, MINUTE_KEY)))
    assert seen[0] == seen[1]
    assert seen[0][:2] == (rows_of(bars), rows_of(bars))


def test_what_is_not_there_is_nothing(redis_url: str, client: redis.Redis) -> None:
    assert last(client, MINUTE_KEY) is None
    assert range_(client, MINUTE_KEY, START, START + timedelta(days=1)).schema.equals(MINUTES.arrow)
    assert list(tail(client, MINUTE_KEY, idle=0, block_ms=1)) == []


def test_consumers_refuse_keys_and_clients_they_cannot_use(redis_url: str, client: redis.Redis) -> None:
    for key in ("vendor:equity:AAPL", "a b:c:d:ohlcv-1m", "vendor:equity:AAPL:nonsense"):
        with pytest.raises(ConfigError):
            last(client, key)
    with redis.Redis.from_url(redis_url, decode_responses=True) as decoding, pytest.raises(ConfigError, match="decode"):
        range_(decoding, MINUTE_KEY, START, START)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client: client.xadd(STREAM, {"ts_event": "yesterday"}, id=entry_id(at(START), 1)),
        lambda client: client.xadd(STREAM, {"arrow": b"\xff\xff"}, id=entry_id(at(START), 1)),
        lambda client: client.xadd(STREAM, {"arrow": packed(TRADES)}, id=entry_id(at(START), 1)),
        lambda client: client.hset(f"{STREAM}:last", mapping={"close": "x", "venue": b"\xff"}),
        lambda client: client.hset(f"{STREAM}:last", mapping={"close": "1"}),
        lambda client: client.zadd(f"{STREAM}:range", {"no json": at(START) // 1000}),
        lambda client: client.zadd(
            f"{STREAM}:range", {members(without_name(minutes([1])))[0].as_py() * 2: at(START) // 1000}
        ),
    ],
    ids=["entry", "no-pack", "other-pack", "bytes", "incomplete", "no-json", "two-in-one"],
)
def test_what_others_put_there_is_damage_and_named(redis_url: str, client: redis.Redis, spoil: Any) -> None:
    spoil(client)
    (name,) = client.keys()
    before = content(client)
    with pytest.raises(Damaged, match=name.decode()):
        wrote(redis_url, MINUTES, minutes([1]), **ALL)
    assert content(client) == before


def without_name(rows: pa.Table) -> pa.Table:
    return rows.drop_columns([INSTRUMENT])


def packed(schema: Schema) -> bytes:
    rows = table(schema, [{}])
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(content.getvalue())


# options and secrets


def test_options_that_keep_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is kept"):
        RedisSink({"stream": False, "last": False, "publish": True}, Target("r"))
    with pytest.raises(ConfigError, match="'password' is unknown"):
        RedisSink({"password": SECRET}, Target("r"))


def settings_of(environ: dict[str, str], **options: Any) -> dict[str, Any]:
    return RedisSink(options, Target("my feed\n", environ=environ))._link._settings


def test_server_is_named_by_options_or_by_the_url_and_the_password_by_the_environment() -> None:
    plain = settings_of({})
    assert (plain["host"], plain["port"], plain["db"], plain["socket_timeout"]) == ("localhost", 6379, 0, 10)
    assert "password" not in plain
    assert plain["client_name"] == "dataflow:my-feed-"
    assert settings_of({"REDIS_URL": "redis://h?health_check_interval=5&protocol=3"})["health_check_interval"] == 0
    url = settings_of({"REDIS_URL": "rediss://u:p%40@h:7/3", "REDIS_PASSWORD": "other"})
    assert (url["host"], url["port"], url["db"], url["username"], url["password"]) == ("h", 7, 3, "u", "p@")
    assert url["connection_class"] is redis.SSLConnection
    named = {"host": "h2", "username": "me", "tls": True, "tls_ca": "/ca.pem", "timeout": 2.5}
    own = settings_of({"REDIS_URL": "redis://h:7", "REDIS_PASSWORD": SECRET}, **named)
    assert (own["host"], own["username"], own["password"], own["socket_timeout"]) == ("h2", "me", SECRET, 2.5)
    assert (own["connection_class"], own["ssl_ca_certs"]) == (redis.SSLConnection, "/ca.pem")


@pytest.mark.parametrize("more", ["max_connections=5", "s3cr:et=1", "ssl_keyfile=x"])
def test_a_url_with_what_a_connection_does_not_take_is_named(more: str) -> None:
    with pytest.raises(ConfigError, match=r"live feed.*REDIS_URL has what is no setting") as caught:
        sink(f"redis://localhost?{more}")
    assert "s3cr" not in str(caught.value)


def test_a_url_that_is_none_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of({"REDIS_URL": f"http://u:{SECRET}@h"})
    assert "REDIS_URL is not redis://" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert SECRET not in repr(RedisSink({}, Target("r", environ={"REDIS_PASSWORD": SECRET})).target)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("gone"), TransientError),
        (exceptions.TimeoutError("late"), TransientError),
        (exceptions.BusyLoadingError("loading"), TransientError),
        (exceptions.ReadOnlyError("replica"), TransientError),
        (exceptions.OutOfMemoryError("full"), TransientError),
        (exceptions.MasterDownError("no master"), TransientError),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), TransientError),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), TransientError),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), TransientError),
        (exceptions.AuthenticationError("invalid username-password pair"), AuthFailed),
        (exceptions.NoPermissionError("no permissions"), AuthFailed),
        (exceptions.MovedError("3999 127.0.0.1:6381"), ConfigError),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), PermanentError),
        (exceptions.DataError("invalid input"), PermanentError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_say_whether_to_try_again(error: exceptions.RedisError, expected: type[Exception]) -> None:
    found = translate("destination 'r'", error)
    assert type(found) is expected
    assert str(found).startswith("destination 'r': ")


# faults, on a server of the test's own


def test_a_server_that_is_down_is_transient_and_gets_all_in_order_later(server: Server) -> None:
    with sink(server.url) as opened:
        opened.write(MINUTES, minutes(range(2)))
        server.stop()
        for _ in range(2):
            with pytest.raises(TransientError, match="destination 'live feed': "):
                opened.write(MINUTES, minutes(range(4)).slice(2))
        server.start()
        # it came back empty: what the landing holds is delivered again
        assert opened.write(MINUTES, minutes(range(2))) == Counts(new=2)
        assert opened.write(MINUTES, minutes(range(4)).slice(2)) == Counts(new=2)
    with server.client() as client:
        assert closes(client) == [0, 1, 2, 3]


def test_a_killed_connection_is_transient_and_the_next_write_is_whole(server: Server) -> None:
    with server.client() as client, sink(server.url) as opened:
        opened.write(MINUTES, minutes(range(2)))
        (connected,) = [row for row in client.client_list() if row["name"] == "dataflow:live-feed"]
        client.client_kill_filter(_id=connected["id"])
        with pytest.raises(TransientError):
            opened.write(MINUTES, minutes(range(4)))
        assert opened.write(MINUTES, minutes(range(4))) == Counts(new=2, unchanged=2)
        assert closes(client) == [0, 1, 2, 3]


def test_a_reply_lost_after_the_write_makes_no_row_twice(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sink(redis_url, **ALL) as opened:
        exchange = opened._link.exchange

        def lost(commands: Any, meanwhile: Any = None) -> list[Any]:
            sent = list(commands)
            replies = exchange(sent, meanwhile)
            if sent[-1] == ("EXEC",):
                opened._link.close()
                raise TransientError("the reply is lost")
            return replies

        with monkeypatch.context() as patch:
            patch.setattr(opened._link, "exchange", lost)
            with pytest.raises(TransientError):
                opened.write(MINUTES, minutes(range(3)))
        before = content(client)
        assert opened.write(MINUTES, minutes(range(3))) == Counts(unchanged=3)
    assert content(client) == before
    assert closes(client) == [0, 1, 2]


def test_a_server_that_pauses_is_transient_after_the_timeout(server: Server) -> None:
    with server.client() as client, sink(f"{server.url}?socket_timeout=60", timeout=0.2, **ALL) as opened:
        opened.write(MINUTES, minutes(range(2)))
        client.client_pause(1000)
        began = time.monotonic()
        with pytest.raises(TransientError, match="Timeout"):
            opened.write(MINUTES, minutes(range(4)))
        assert time.monotonic() - began < 0.9
        client.client_unpause()
        assert opened.write(MINUTES, minutes(range(4))).new in (0, 2)
        assert closes(client) == [0, 1, 2, 3]


def test_a_full_server_is_transient_and_nothing_is_half_written(server: Server) -> None:
    with server.client() as client, sink(server.url, **ALL) as opened:
        opened.write(MINUTES, minutes(range(2)))
        before = content(client)
        client.config_set("maxmemory", 1)
        with pytest.raises(TransientError, match="maxmemory"):
            opened.write(MINUTES, minutes([0, 9, 2, 3], fetch=2))
        assert content(client) == before
        # nothing of the transaction stays open
        assert not [row for row in client.client_list() if row["name"] == "dataflow:live-feed"]
        client.config_set("maxmemory", 0)
        assert opened.write(MINUTES, minutes([0, 9, 2, 3], fetch=2)) == Counts(new=2, updated=1, unchanged=1)
        assert client.zcard(f"{STREAM}:range") == 4


def test_a_replica_is_transient(server: Server) -> None:
    with server.client() as client, sink(server.url) as opened:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(TransientError):
            opened.write(MINUTES, minutes([1]))
        client.replicaof("NO", "ONE")
        assert opened.write(MINUTES, minutes([1])) == Counts(new=1)


def test_a_server_that_cannot_save_is_transient(server: Server) -> None:
    with server.client() as client, sink(server.url) as opened:
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(TransientError, match="NOREPLICAS"):
            opened.write(MINUTES, minutes([1]))


def test_wrong_or_missing_passwords_are_permanent_and_not_shown(server: Server) -> None:
    with server.client() as client:
        client.config_set("requirepass", SECRET)
        options = {"host": "127.0.0.1", "port": server.port}
        for password in ("", f"not {SECRET}"):
            with RedisSink(options, Target("r", environ={"REDIS_PASSWORD": password})) as opened:
                with pytest.raises(AuthFailed) as caught:
                    opened.write(MINUTES, minutes([1]))
                assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
        with RedisSink(options, Target("r", environ={"REDIS_PASSWORD": SECRET})) as opened:
            assert opened.write(MINUTES, minutes([1])) == Counts(new=1)


def test_a_user_needs_the_documented_commands_and_no_more(server: Server) -> None:
    lines = (Path(__file__).parents[3] / "docs/redis.md").read_text().splitlines()
    rules = next(line for line in lines if line.startswith("ACL SETUSER dataflow")).split()[3:]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "dataflow", *(rule.replace("PASSWORD", "pw") for rule in rules))
        url = f"redis://dataflow:pw@127.0.0.1:{server.port}"
        for written in (minutes([1, 2]), minutes([1, 3], fetch=2), minutes([1, 3], fetch=2)):
            wrote(url, MINUTES, written, ttl=50, **ALL)
            wrote(url, MINUTES, written, pack=3, prefix="dataflow:packed:")
        client.execute_command("ACL", "SETUSER", "dataflow", "-xadd")
        with pytest.raises(AuthFailed, match="xadd"):
            wrote(url, MINUTES, minutes([1, 2, 4]), **ALL)


@pytest.mark.parametrize("name", [STREAM, f"{STREAM}:last", f"{STREAM}:range"])
def test_a_name_of_another_type_is_permanent_and_nothing_is_written(
    redis_url: str, client: redis.Redis, name: str
) -> None:
    client.set(name, "mine")
    with pytest.raises(PermanentError, match="WRONGTYPE"):
        wrote(redis_url, MINUTES, minutes([1]), **ALL)
    assert client.keys() == [name.encode()]


def test_a_flush_between_writes_is_no_end(redis_url: str, client: redis.Redis) -> None:
    with sink(redis_url, **ALL) as opened:
        opened.write(MINUTES, minutes(range(3)))
        whole = content(client)
        client.flushdb()
        opened.write(MINUTES, minutes(range(3)).slice(2))
        assert closes(client) == [2]
        # a replay: the set is whole again, the stream after its key is deleted
        assert opened.write(MINUTES, minutes(range(3))) == Counts(new=2, unchanged=1)
        assert client.zrange(f"{STREAM}:range", 0, -1, withscores=True) == whole[f"{STREAM}:range"]
        assert closes(client) == [2]
        client.delete(STREAM)
        assert opened.write(MINUTES, minutes(range(3))) == Counts(unchanged=3)
    assert content(client) == whole


def test_a_stream_emptied_by_hand_still_takes_rows(redis_url: str, client: redis.Redis) -> None:
    wrote(redis_url, MINUTES, minutes(range(2)))
    client.xtrim(STREAM, maxlen=0, approximate=False)
    wrote(redis_url, MINUTES, minutes(range(3)))
    assert closes(client)[-1] == 2


# through the pipeline


@pytest.mark.django_db(transaction=True)
def test_an_ingest_delivers_to_redis_beside_its_home(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_URL", server.url)
    (tmp_path / "data").mkdir()
    live = destination("live", "redis", sorted_set=True, timeout=2)
    series("aapl", ["AAPL"], destinations=[destination(), live])
    key = "prices:equity:AAPL:ohlcv-1d"
    daily_csv(tmp_path / "data/AAPL.csv", days(5))
    first = ingest(Selection())["prices"]
    assert (first.errors, first.tallies["db"].new, first.tallies["live"].new) == ([], 5, 5)
    # down: the home is delivered, the other route waits in the landing
    server.stop()
    daily_csv(tmp_path / "data/AAPL.csv", days(7))
    second = ingest(Selection(again=True))["prices"]
    assert second.transient
    assert [error.partition(":")[0] for error in second.errors] == ["destination 'live'"]
    assert (second.tallies["db"].new, second.tallies["live"].new) == (2, 0)
    assert sum(Delivery.objects.values_list("pending", flat=True)) == 7
    # up, and empty: what waited is delivered, a replay brings the rest
    server.start()
    third = ingest(Selection())["prices"]
    assert (third.errors, third.tallies["live"].new) == ([], 7)
    again = replay(Selection())["prices"]
    assert (again.errors, again.tallies["live"].new) == ([], 0)
    assert sum(Delivery.objects.values_list("pending", flat=True)) == 0
    with server.client() as client:
        assert closes(client, key) == [11, 12, 13, 14, 15, 16, 17] == read("AAPL")["close"].to_pylist()
        assert last(client, key)["close"] == 17  # type: ignore[index]
        begin, end = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC)
        assert range_(client, key, begin, end)["close"].to_pylist() == [12, 13]
