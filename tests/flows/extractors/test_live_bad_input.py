"""What live feeds should never send: each such frame is a rejected row with its reason, and the others are rows."""

import json
import random
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import refine
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.frames import ROWS_A_FRAME
from flows.frames import Frame
from tests.vendors.live.listener import live_half
from tests.vendors.server import Row

NOW = datetime(2024, 1, 2, 15, tzinfo=UTC)
NANOSECONDS = int(NOW.timestamp()) * 1_000_000_000
MS = NANOSECONDS // 1_000_000
ZULU = "2024-01-02T14:59:59.123456789Z"
#: vendor → a good event, where its values are, and the frame around it
GOOD: dict[str, Row] = {
    "binance": {"stream": "btcusdt@aggTrade", "data": {
        "e": "aggTrade", "E": MS, "s": "BTCUSDT", "a": 7, "p": "1.50", "q": "2", "l": 2, "T": MS - 1, "m": True}},
    "alpaca": {"T": "t", "S": "BTCUSDT", "i": 7, "x": "D", "p": 1.5, "s": 2, "t": ZULU, "c": ["@", "I"], "z": "C"},
    "massive": {"ev": "T", "sym": "BTCUSDT", "i": "7", "x": 4, "p": 1.5, "s": 2, "t": MS - 1, "c": [1, 12], "q": 7},
}  # fmt: skip
PRICE = {"binance": ("data", "p"), "alpaca": ("p",), "massive": ("p",)}
TIME = {"binance": ("data", "T"), "alpaca": ("t",), "massive": ("t",)}
KIND = {"binance": ("data", "e"), "alpaca": ("T",), "massive": ("ev",)}
NAME = {"binance": ("data", "s"), "alpaca": ("S",), "massive": ("sym",)}


def changed(vendor: str, place: Sequence[str], value: Any) -> Row:
    """Return a good event with another value at a place; `...` takes it out."""
    event: Row = json.loads(json.dumps(GOOD[vendor]))
    inner = event
    for step in place[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return event


def framed(vendor: str, event: Any) -> bytes:
    return json.dumps(event if vendor == "binance" else [event]).encode()


def parsed(vendor: str, contents: Sequence[bytes]) -> list[Batch]:
    frames = [Frame(content, NANOSECONDS, number=number) for number, content in enumerate(contents)]
    return list(live_half(vendor, {}, {}).parse(frames, {}))


def refused(vendor: str, content: bytes) -> tuple[str, str]:
    """Put a frame between two good ones; return rule and reason with which it is refused, by parsing or refining."""
    good = framed(vendor, GOOD[vendor])
    batches = parsed(vendor, [good, content, good])
    table = pa.concat_tables([batch.table for batch in batches if batch.schema == "trades"], promote_options="default")
    names = [INSTRUMENT if name == SYMBOL else name for name in table.column_names]
    facts = Facts(1, NOW, frozenset(["BTCUSDT"]))
    made = refine(SCHEMAS["trades"], table.rename_columns(names), facts, Ordinals())
    wrong = [row for batch in batches for row in batch.rejected.to_pylist()] + made.rejected.to_pylist()
    assert made.accepted.num_rows == 2
    assert made.accepted["price"].to_pylist() == [Decimal("1.5"), Decimal("1.5")]
    if vendor == "alpaca":
        # to the nanosecond, whatever lies between them
        assert np.unique(made.accepted["ts_event"].cast("int64").to_numpy()) == [NANOSECONDS - 876_543_211]
    (row,) = wrong
    assert row["row"] // ROWS_A_FRAME == 1
    assert row["raw"]
    return row["rule"], row["reason"]


@pytest.mark.parametrize("vendor", GOOD)
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "frame is JSON"),
        (b"{", "frame is JSON"),
        (b'{"a":1}{"b":2}', "frame is JSON"),
        (b'{"a":1},{"b":2}', "frame is JSON"),
        (b'{"a":1},"|frame|",{"b":2}', "frame is JSON"),
        (b"\xff\xfe\x00", "frame is JSON"),
        (b'{"a":"\xed\xa0\x80"}', "frame is JSON"),
        (b'{"s":"\\ud800","S":"\\ud800","sym":"\\ud800"}', "frame is JSON"),
        (b'{"a":NaN,"\\udfff":1}', "frame is JSON"),
        (b"[" * 100_000, "frame is JSON"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "frame is JSON"),
        (b"pong", "frame is JSON"),
        (b"17", "event is a JSON object"),
        (b'"text"', "event is a JSON object"),
        (b"null", "event is a JSON object"),
        (b"[1,2,[],null]", "event is a JSON object"),
        (b"{}", "event is of a known type"),
        (b'{"data":null}', "event is of a known type"),
        (b'{"data":[{}]}', "event is of a known type"),
        (b'{"T":["t"],"ev":{"T":1},"data":{"e":["aggTrade"]}}', "event is of a known type"),
        (b'{"T":"news","ev":"LULD","data":{"e":"forceOrder"}}', "event is of a known type"),
        (b"x" * (8 << 20) + b"x", "frame has at most 8,388,608 bytes"),
    ],
)
def test_what_is_no_event(vendor: str, content: bytes, rule: str) -> None:
    assert refused(vendor, content)[0] == rule


def test_frames_that_make_sense_only_together_make_none() -> None:
    good = framed("binance", GOOD["binance"])
    batch, nothing = parsed("binance", [b"{},{},{}", b"[1", good, b"2]"])
    assert batch.table["row"].to_pylist() == [2 * ROWS_A_FRAME]
    assert [row["row"] // ROWS_A_FRAME for row in nothing.rejected.to_pylist()] == [0, 1, 3]
    (nothing,) = parsed("binance", [b"{},{},{}", b"[1", b"2]"])
    assert {row["rule"] for row in nothing.rejected.to_pylist()} == {"frame is JSON"}
    assert nothing.rejected.num_rows == 3


@pytest.mark.parametrize("vendor", GOOD)
@pytest.mark.parametrize(
    ("price", "rule"),
    [
        (..., "price is required"),
        (None, "price is required"),
        ("", "price is not a number"),
        ("1,5", "price is not a number"),
        ("1_5", "price is not a number"),
        (True, "price is not a number"),
        ([1.5], "price is not a number"),
        ({"a": 1}, "price is not a number"),
        ("NaN", "price is not a finite number"),
        (float("nan"), "price is not a finite number"),
        (float("inf"), "price is not a"),
        ("1e999", "price is beyond 20 digits"),
        (10**30, "price is beyond 20 digits"),
        ("1e30", "price is beyond 20 digits"),
        ("123456789012345678901234567890.5", "price is beyond 20 digits"),
        (-1, "price > 0"),
        ("0", "price > 0"),
    ],
)
def test_prices_that_are_none(vendor: str, price: Any, rule: str) -> None:
    if price == [1.5]:
        # a list is its elements joined: one alone is its element
        price = [1.5, 2]
    said = refused(vendor, framed(vendor, changed(vendor, PRICE[vendor], price)))[0]
    assert said.startswith(rule)


@pytest.mark.parametrize("vendor", GOOD)
@pytest.mark.parametrize(
    ("price", "exact"),
    [
        ("1.5", "1.5"),
        (15, "15"),
        ("15e-1", "1.5"),
        ("1.5E+3", "1500"),
        ("0.1234567890123456789", "0.123456789012345679"),
    ],
)
def test_prices_in_every_form_are_exact(vendor: str, price: Any, exact: str) -> None:
    for form in (price, price if isinstance(price, int) else f"~{price}~"):
        # as a text, and as a number with just these digits
        content = framed(vendor, changed(vendor, PRICE[vendor], form)).replace(b'"~', b"").replace(b'~"', b"")
        (batch,) = parsed(vendor, [content])
        names = [INSTRUMENT if name == SYMBOL else name for name in batch.table.column_names]
        made = refine(SCHEMAS["trades"], batch.table.rename_columns(names), Facts(1, NOW), Ordinals())
        assert made.accepted["price"].to_pylist() == [Decimal(exact)]


@pytest.mark.parametrize(
    ("vendor", "time", "rule"),
    [
        ("binance", MS // 1000, "time in ms lies between 1973-03-03 and 2262"),
        ("binance", MS * 1000, "time in ms lies between 1973-03-03 and 2262"),
        ("binance", MS * 1_000_000, "time in ms lies between 1973-03-03 and 2262"),
        ("binance", "soon", "time is a number of ms"),
        ("binance", MS + 3_600_000, "ts_event is not after its receipt"),
        ("binance", ..., "ts_event is required"),
        ("binance", None, "ts_event is required"),
        ("binance", 10**40, "time is a number of ms"),
        ("binance", [MS], "time is a number of ms"),
        ("massive", MS // 1000, "time in ms lies between 1973-03-03 and 2262"),
        ("massive", MS + 301_000, "ts_event is not after its receipt"),
        ("alpaca", "2024-01-02T16:00:00Z", "ts_event is not after its receipt"),
        ("alpaca", "2024-13-02T16:00:00Z", "time is ISO 8601"),
        ("alpaca", "yesterday", "time is ISO 8601"),
        ("alpaca", MS, "time is ISO 8601"),
        ("alpaca", None, "ts_event is required"),
    ],
)
def test_times_that_are_none(vendor: str, time: Any, rule: str) -> None:
    if isinstance(time, list):
        time = [*time, 1]
    found, reason = refused(vendor, framed(vendor, changed(vendor, TIME[vendor], time)))
    assert found.startswith(rule), reason


def test_a_clock_that_is_a_little_ahead_is_believed() -> None:
    later = framed("binance", changed("binance", TIME["binance"], MS + 200_000))
    (batch,) = parsed("binance", [later])
    assert batch.rejected.num_rows == 0


@pytest.mark.parametrize("vendor", GOOD)
@pytest.mark.parametrize("symbol", [..., None, 5, ["BTCUSDT"], {"a": 1}, True])
def test_symbols_that_are_none(vendor: str, symbol: Any) -> None:
    assert refused(vendor, framed(vendor, changed(vendor, NAME[vendor], symbol)))[0] == "symbol is known"


@pytest.mark.parametrize("vendor", GOOD)
def test_symbols_that_nobody_asked_for_are_rows_like_any_other(vendor: str) -> None:
    contents = [framed(vendor, changed(vendor, NAME[vendor], name)) for name in ("DOGE", "", "X" * 600, "Ω")]
    (batch,) = parsed(vendor, contents)
    assert batch.table[SYMBOL].to_pylist() == ["DOGE", "", "Ω"]
    (long,) = batch.rejected.to_pylist()
    assert (long["rule"], long["row"]) == ("symbol has at most 512 bytes", 2 * ROWS_A_FRAME)
    assert len(long["raw"]) < 3000


@pytest.mark.parametrize("maker", [..., None, "true", 1, [True], {"m": True}])
def test_a_side_that_is_not_said_is_null(maker: Any) -> None:
    good = framed("binance", GOOD["binance"])
    batches = parsed("binance", [good, framed("binance", changed("binance", ("data", "m"), maker)), good])
    assert batches[0].table["side"].to_pylist() == ["A", None, "A"]


def test_the_wrong_things_in_an_array_cost_no_other() -> None:
    event = GOOD["alpaca"]
    (batch, nothing) = parsed("alpaca", [json.dumps([event, 5, event, None, {"T": "?"}, event]).encode()])
    assert batch.table["row"].to_pylist() == [0, 2, 5]
    assert [(row["row"], row["rule"]) for row in nothing.rejected.to_pylist()] == [
        (1, "event is a JSON object"),
        (4, "event is of a known type"),
    ]


def test_bars_of_another_length_and_half_said_ones() -> None:
    bar = {
        "t": MS - 60_000,
        "s": "BTCUSDT",
        "i": "1m",
        "o": "1",
        "c": "1",
        "h": "1",
        "l": "1",
        "v": "1",
        "n": 1,
        "x": True,
    }
    said = [{**bar, "x": False}, bar, {**bar, "i": "3m"}, {**bar, "x": 1}, {**bar, "x": "true"}, {**bar, "i": None}]
    contents = [json.dumps({"stream": "s", "data": {"e": "kline", "s": "BTCUSDT", "k": one}}).encode() for one in said]
    contents.append(b'{"stream":"s","data":{"e":"kline","s":"BTCUSDT","k":[]}}')
    batch, nothing = parsed("binance", contents)
    assert (batch.schema, batch.table["row"].to_pylist()) == ("ohlcv-1m", [ROWS_A_FRAME])
    assert [row["row"] // ROWS_A_FRAME for row in nothing.rejected.to_pylist()] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("vendor", GOOD)
def test_whatever_a_frame_holds_it_is_a_row_or_a_rejected_one(vendor: str) -> None:
    """Change good frames at random, in values and in bytes: each gives one outcome, and no other frame suffers."""
    chance = random.Random(20240102)
    junk = [None, True, -1, 0, 10**25, 1.5, "x", "", [], [1, "a", None], {}, {"a": [1]}, "\u0000", "é" * 50, MS, ZULU]
    contents = []
    for _ in range(400):
        event = json.loads(json.dumps(GOOD[vendor]))
        inner = event["data"] if vendor == "binance" else event
        for name in chance.sample(sorted(inner), chance.randint(0, 3)):
            if chance.random() < 0.3:
                del inner[name]
            else:
                inner[name] = chance.choice(junk)
        content = bytearray(framed(vendor, event))
        for _ in range(chance.choice([0, 0, 0, 1, 4])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        contents.append(bytes(content))
    together = outcomes(parsed(vendor, contents))
    assert sorted(together) == sorted({*together})
    alone = []
    extractor = live_half(vendor, {}, {})
    for number, content in enumerate(contents):
        found = outcomes(list(extractor.parse([Frame(content, NANOSECONDS, number=number)], {})))
        assert len(found) <= 1
        alone += found
    assert together == sorted(alone)
    rows = sum(kind == "row" for _, kind in together)
    assert 50 < rows < 390
    assert len(together) > 380


def outcomes(batches: Sequence[Batch]) -> list[tuple[int, str]]:
    """Return the number of each row and of each rejected one."""
    rows = [(number, "row") for batch in batches for number in batch.table["row"].to_pylist()]
    return sorted(rows + [(number, "rejected") for batch in batches for number in batch.rejected["row"].to_pylist()])


def test_frames_are_read_alike_however_they_are_cut() -> None:
    contents = [framed("binance", changed("binance", ("data", "a"), number)) for number in range(50)]
    contents[7:7] = [b"{", b'{"result":null,"id":1}', b"[]"]
    frames = [Frame(content, NANOSECONDS, number=number) for number, content in enumerate(contents)]
    extractor = live_half("binance", {}, {})
    whole = list(extractor.parse(frames, {}))
    for size in (1, 7, 52):
        pieces = [one for at in range(0, 53, size) for one in extractor.parse(frames[at : at + size], {})]
        assert outcomes(pieces) == outcomes(whole)
        numbers = [number for one in pieces for number in one.table.to_pydict().get("trade_id", [])]
        assert numbers == list(range(50))
    assert list(extractor.parse([], {})) == []
    assert list(extractor.parse([Frame(b"{", 1, context=True)], {})) == []
