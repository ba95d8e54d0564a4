"""Commands laid out by columns are those that redis-py would make of each row."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hiredis
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from catalog.schemas.base import Counts
from flows.rediswire.changes import Appended
from flows.rediswire.names import entry_id
from flows.rediswire.packing import Packed
from flows.rediswire.packing import additions
from flows.rediswire.packing import messages
from flows.rediswire.packing import replacements
from flows.rediswire.rows import Lines

COLUMNS = pa.schema([("number", pa.int64()), ("text", pa.string()), ("same", pa.string()), ("often", pa.string())])
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(["%d", "%", "\r\n", "é"])
rows = st.fixed_dictionaries(
    {
        "number": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
        "text": words,
        "same": st.just("é%s"),
        "often": st.none() | words,
    }
)
tables = st.lists(rows, min_size=1, max_size=1200).map(lambda some: pa.Table.from_pylist(some, COLUMNS))


def sent(packed: Iterator[Packed]) -> list[list[bytes]]:
    """What a server reads."""
    reader = hiredis.Reader()
    found: list[Any] = []
    for one in packed:
        reader.feed(one.content)
        some = [reader.gets() for _ in range(one.commands)]
        assert all(some)
        found += some
    assert reader.gets() is False
    return found


def fields(row: dict[str, Any]) -> list[bytes]:
    return [str(text).encode() for pair in row.items() if pair[1] is not None for text in pair]


@given(tables, st.lists(st.integers(0, 1200)), st.booleans())
def test_streams_get_each_row_in_its_place(table: pa.Table, cuts: list[int], shared: bool) -> None:
    count = table.num_rows
    whole = Lines(table).shared() if shared else Lines(table)
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    times, counters = np.arange(count) * 10**15, np.arange(1, count + 1)
    streams = [
        (f"strëam {begin}", Appended(Counts(), whole.slice(begin, end - begin), times[begin:end], counters[begin:end]))
        for begin, end in pairwise(bounds)
    ]
    names = [name for name, added in streams for _ in range(len(added.rows))]
    assert sent(additions(streams)) == [
        [b"XADD", name.encode(), entry_id(int(time), int(counter)).encode(), *fields(row)]
        for name, time, counter, row in zip(names, times, counters, table.to_pylist(), strict=True)
    ]


@given(tables)
def test_hashes_get_the_row_alone(table: pa.Table) -> None:
    whole = Lines(table)
    newest = [(f"{at}%s", whole.slice(at, 1)) for at in range(table.num_rows)]
    expected = []
    for (name, _), row in zip(newest, table.to_pylist(), strict=True):
        expected += [[b"DEL", name.encode()], [b"HSET", name.encode(), *fields(row)]]
    assert sent(iter([replacements(newest)])) == expected


@given(st.lists(words, min_size=1))
def test_texts_are_published_as_they_are(texts: list[str]) -> None:
    assert sent(iter([messages("chännel", texts)])) == [
        [b"PUBLISH", "chännel".encode(), text.encode()] for text in texts
    ]
