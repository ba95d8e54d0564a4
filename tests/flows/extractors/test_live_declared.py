"""Events read as objects of the declared fields alone are the rows that reading everything gives."""

import json

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flows.feeds import binance
from flows.feeds.reading import Reader
from flows.frames import Frame

SPOT = binance.feed("wss://stream.binance.com:9443", "spot", "aggregated", "")
TRADE = {
    "stream": "btcusdt@aggTrade",
    "data": {"e": "aggTrade", "E": 1, "s": "BTCUSDT", "a": 7, "p": "0.1", "q": "2", "T": 1700000000000, "m": True},
}
BAR = {
    "stream": "btcusdt@kline_1m",
    "data": {"e": "kline", "s": "BTCUSDT", "k": {
        "t": 1700000000000, "T": 1, "i": "1m", "o": "1", "h": "2", "l": "1", "c": "2", "v": "3", "n": 4, "x": True,
    }},
}  # fmt: skip
BOOK = {
    "stream": "btcusdt@depth10@100ms",
    "data": {"lastUpdateId": 5, "bids": [["1", "2"]], "asks": [["3", "4"]]},
}

values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just("1e-7"),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.sampled_from("epqT"), st.integers(), max_size=2),
)  # fmt: skip
event = st.sampled_from([TRADE, TRADE, TRADE, BAR, BOOK, {"result": None, "id": 3}])


@st.composite
def documents(draw):
    record = json.loads(json.dumps(draw(event)))
    for _ in range(draw(st.integers(0, 2))):
        inner = record.get("data") if draw(st.booleans()) else record
        if isinstance(inner, dict) and inner:
            name = draw(st.sampled_from([*inner, "other"]))
            if draw(st.booleans()):
                inner.pop(name, None)
            else:
                inner[name] = draw(values)
    return [record] * draw(st.integers(0, 2)) if draw(st.integers(0, 5)) == 0 else record


def read(reader, contents):
    frames = [Frame(content, 1700000001000000000 + at, False, at) for at, content in enumerate(contents)]
    return sorted(
        (batch.schema, batch.table.to_pylist(), batch.rejected.to_pylist(), batch.left_out)
        for batch in reader.read(frames)
        if batch.table.num_rows or batch.rejected.num_rows
    )  # fmt: skip


def whole(feed):
    reader = Reader(feed)
    assert reader._declared is not None
    reader._declared = None
    return reader


@settings(max_examples=300)
@given(st.lists(st.one_of(documents(), documents(), documents(), values), min_size=1, max_size=6))
@example([TRADE, BAR, BOOK])
@example([])
@example([TRADE, {"data": 5}])
def test_the_rows_are_the_same(found):
    contents = [json.dumps(one).encode() for one in found] or [b'{"data": {"e": "\x92"}}']
    assert read(Reader(SPOT), contents) == read(whole(SPOT), contents)


def test_what_is_as_declared_is_not_read_whole(monkeypatch):
    feed = SPOT.model_copy(update={"events": {"trades": SPOT.events["trades"]}})
    reader = Reader(feed)
    monkeypatch.setattr("flows.feeds.reading.read_json", None)
    ((schema, rows, rejected, _),) = read(reader, [json.dumps(TRADE).encode()] * 3)
    assert (schema, len(rows), rejected) == ("trades", 3, [])


def test_arrays_of_events_are_read_alike():
    feed = SPOT.model_copy(update={"events": {"trades": SPOT.events["trades"]}})
    contents = [json.dumps([TRADE, TRADE]).encode(), json.dumps(TRADE).encode(), b"[]"]
    ((_, rows, _, _),) = read(Reader(feed), contents)
    assert len(rows) == 3
    assert [(schema, rows) for schema, rows, _, _ in read(whole(feed), contents)] == [("trades", rows)]


def test_a_feed_that_keeps_sending_other_things_is_read_whole_at_once():
    feed = SPOT.model_copy(update={"events": {"trades": SPOT.events["trades"]}})
    reader = Reader(feed)
    for _ in range(20):
        assert read(reader, [json.dumps(BAR | {"data": {"e": "kline", "k": {"x": False}}}).encode()]) == []
    assert reader._declared is None
    assert len(read(reader, [json.dumps(TRADE).encode()])) == 1
