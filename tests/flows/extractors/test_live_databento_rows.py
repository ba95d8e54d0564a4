"""Frames of Databento's gateway as rows: those of history, however frames are cut into files, whatever is damaged."""

import json
import random
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn
import databento_dbn.v1
import pytest

from catalog.schemas import ROW
from catalog.schemas import SCHEMAS
from flows.databento_live import messages
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.extractors.databento import DatabentoLive
from flows.formats.dbn_stream import Header
from flows.frames import ROWS_A_FRAME
from flows.frames import Channel
from flows.frames import Frame
from flows.job import describe
from flows.landing import Landing
from tests.vendors.databento import DatabentoStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.live.databento import DatabentoLiveStandIn
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import raw_table
from tests.vendors.live.listener import refined
from tests.vendors.server import Row

SECOND = 1_000_000_000
BOOK = {"bid_price": Decimal("18.20"), "bid_size": 5, "ask_price": None, "ask_size": 0}
PRICES = {"open": Decimal("18.25"), "high": Decimal("19"), "low": Decimal("-0.000000001"), "close": Decimal("18.3")}
SOLD = {"price": Decimal("18.25"), "size": 3, "side": "A"}
EXAMPLES: dict[str, Row] = {
    "trades": SOLD,
    "mbp-1": {**SOLD, **BOOK, "action": "C", "side": "N", "sequence": 2**32 - 1, "ts_in_delta": -5},
    "mbo": {**SOLD, "action": "A", "order_id": 2**62, "channel_id": 3},
    "bbo-1s": {**SOLD, **BOOK, "sequence": 9},
    "ohlcv-1s": {**PRICES, "volume": 12},
    "ohlcv-1m": {**PRICES, "volume": 2**62},
    "statistics": {"statistic": "settlement_price", "price": None, "quantity": 5, "ts_ref": 86_400 * SECOND},
}


@pytest.fixture
def stand_in() -> Iterator[DatabentoLiveStandIn]:
    with DatabentoLiveStandIn() as server:
        yield server


def extractor() -> DatabentoLive:
    made = live_half("databento", {"dataset": "XNAS.ITCH"}, {})
    assert isinstance(made, DatabentoLive)
    return made


def parsed(frames: Sequence[Frame]) -> list[Batch]:
    return list(extractor().parse(frames, {}))


def heard(
    stand_in: DatabentoLiveStandIn, channels: Sequence[Channel], happen: Callable[[], int], **options: Any
) -> list[Frame]:
    """Return the frames of a session in which something happens that brings so many rows."""
    made = live_half("databento", {**stand_in.options(), **options}, stand_in.keys)
    with Listener(made, channels) as ear:
        ear.wait_acknowledged(channels)
        rows = happen()
        ear.wait_for(lambda: sum(batch.table.num_rows for batch in ear.batches()) >= rows)
        return ear.frames


def mixed(stand_in: DatabentoLiveStandIn, times: int = 20) -> list[Frame]:
    channels = [Channel(schema, symbol) for schema in EXAMPLES for symbol in ("AAPL", "MSFT")]

    def happen() -> int:
        now = time.time_ns()
        for number in range(times):
            moment = now - now % (60 * SECOND) - (times - number) * 60 * SECOND
            for schema, values in EXAMPLES.items():
                stand_in.publish(schema, ("AAPL", "MSFT")[number % 2], {"ts_event": moment, **values})
        return times * len(EXAMPLES)

    return heard(stand_in, channels, happen)


def everything(batches: Sequence[Batch]) -> dict[str, list[Row]]:
    """All raw rows and rejected ones by schema, in the order in which they came."""
    found: dict[str, list[Row]] = {}
    for batch in batches:
        rows = found.setdefault(batch.schema, [])
        rows += batch.table.to_pylist() + batch.rejected.to_pylist()
    return {schema: sorted(rows, key=lambda row: row[ROW]) for schema, rows in found.items()}


# -- rows are what happened -------------------------------------------------------------------------------------------


def test_rows_are_what_happened(stand_in: DatabentoLiveStandIn) -> None:
    batches = parsed(mixed(stand_in))
    for schema in EXAMPLES:
        for symbol in ("AAPL", "MSFT"):
            truth = stand_in.truth(schema, symbol)
            assert len(truth) == 10
            assert matches(refined(batches, schema, symbol), truth), (schema, symbol)
    assert {batch.schema for batch in batches} == set(EXAMPLES)
    assert all(batch.rejected.num_rows == 0 for batch in batches)


@pytest.mark.parametrize("schema", ["trades", "ohlcv-1m"])
def test_rows_are_those_of_history(stand_in: DatabentoLiveStandIn, schema: str, tmp_path: Path) -> None:
    start, end = datetime(2024, 1, 3, tzinfo=UTC), datetime(2024, 1, 3, 1, tzinfo=UTC)
    with DatabentoStandIn() as history:
        bench = Bench(history, tmp_path, {"days_per_page": 0})
        job = bench.job(schema, ["AAPL"], start, end)
        vendor = bench.extractor(schema)
        (request,) = vendor.requests(job)
        landing = Landing(tmp_path)
        fetch = bench.ledger.open_fetch(request)
        landing.begin(fetch.source, fetch.id, describe(request))
        for part, page in enumerate(vendor.pages(request)):
            landing.write(fetch.source, fetch.id, part, page)
        (landed,) = landing.pages(fetch.source, fetch.id)
        before = raw_table(vendor.parse(landed, {}), schema)
    # history cuts by when it received them
    rows = stand_in.rows(schema, "AAPL", start, end)

    def happen() -> int:
        stand_in.publish(schema, "AAPL", rows)
        return len(rows)

    live = raw_table(parsed(heard(stand_in, [Channel(schema, "AAPL")], happen)), schema)
    assert before.num_rows == live.num_rows > 50
    assert live.column_names == before.column_names
    assert live.drop_columns([ROW]).to_pylist() == before.drop_columns([ROW]).to_pylist()
    assert live.schema.equals(before.schema)


def test_a_row_says_its_frame_and_its_place(stand_in: DatabentoLiveStandIn) -> None:
    frames = mixed(stand_in)
    rows = [row for found in everything(parsed(frames)).values() for row in found]
    places = {frame.number: len(list(records(frame))) for frame in frames if not frame.context}
    assert len({row[ROW] for row in rows}) == len(rows) == 20 * len(EXAMPLES)
    for row in rows:
        number, place = divmod(row[ROW], ROWS_A_FRAME)
        assert place < places[number]
    # in the order in which they were sent
    sent = sorted(rows, key=lambda row: row[ROW])
    stamps = [row["ts_event"] for row in sent]
    assert stamps == sorted(stamps)


def test_each_file_of_frames_is_read_alone(stand_in: DatabentoLiveStandIn) -> None:
    frames = mixed(stand_in)
    whole = everything(parsed(frames))
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    for _ in range(5):
        found: dict[str, list[Row]] = {}
        contexts: list[Frame] = []
        vendor, state = extractor(), {}  # type: dict[str, Any]
        for at, frame in enumerate(frames):
            if at and choose.random() < 0.2:
                # a new file begins with all contexts there were
                state = {}
                list(vendor.parse([replace(one, number=frame.number) for one in contexts], state))
            for schema, rows in everything(list(vendor.parse([frame], state))).items():
                found.setdefault(schema, []).extend(rows)
            contexts += [frame] if frame.context else []
        assert found == whole, seed


def test_reading_can_begin_at_any_frame(stand_in: DatabentoLiveStandIn) -> None:
    frames = mixed(stand_in)
    whole = everything(parsed(frames))
    first = frames[len(frames) // 2].number
    later = everything(parsed([frame for frame in frames if frame.context or frame.number >= first]))
    for schema, rows in whole.items():
        assert later[schema] == [row for row in rows if row[ROW] >= first * ROWS_A_FRAME]


# -- symbols ----------------------------------------------------------------------------------------------------------


def test_contexts_come_first_and_say_each_thing_once(stand_in: DatabentoLiveStandIn) -> None:
    frames = mixed(stand_in)
    contexts = [frame.content for frame in frames if frame.context]
    assert contexts[0].startswith(b"lsg_version=")
    assert b"schema=trades|stype_in=raw_symbol|symbols=AAPL,MSFT|snapshot=0|id=6|is_last=1\n" in contexts[0]
    assert contexts[1].startswith(b"DBN")
    # two symbols, however many subscriptions were told of them
    assert sum(len(content) for content in contexts[2:]) == 2 * 176
    assert parsed([frame for frame in frames if frame.context]) == []


def test_a_number_that_is_handed_on_means_another_symbol_from_then_on(stand_in: DatabentoLiveStandIn) -> None:
    def happen() -> int:
        stand_in.publish("trades", "AAPL", {"ts_event": 1, **SOLD})
        stand_in.lists("AAPL", 77)
        stand_in.publish("trades", "AAPL", {"ts_event": 2, **SOLD})
        stand_in.lists("MSFT", 38)
        stand_in.publish("trades", "MSFT", {"ts_event": 3, **SOLD})
        return 3

    frames = heard(stand_in, [Channel("trades", "AAPL"), Channel("trades", "MSFT")], happen)
    whole = raw_table(parsed(frames), "trades")
    assert whole[SYMBOL].to_pylist() == ["AAPL", "AAPL", "MSFT"]
    mapped = [record for frame in frames if frame.context and frame.content[1] == 22 for record in records(frame)]
    assert [int.from_bytes(record[4:8], "little") for record in mapped] == [38, 10_888, 77, 38]


def test_an_unknown_number_is_its_own_symbol(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    assert [one.content[1] for one in contexts[2:]] == [messages.MAPPING]
    assert set(raw_table(parsed([*contexts[:2], frame]), "trades")[SYMBOL].to_pylist()) == {"38"}


def test_trades_with_quotes_are_told_by_what_was_subscribed(stand_in: DatabentoLiveStandIn) -> None:
    def happen() -> int:
        stand_in.publish("tbbo", "AAPL", {"ts_event": 1, **SOLD, **BOOK})
        return 1

    frames = heard(stand_in, [Channel("tbbo", "AAPL")], happen)
    (batch,) = parsed(frames)
    assert batch.schema == "tbbo"
    assert matches(refined([batch], "tbbo"), stand_in.truth("tbbo", "AAPL"))


def test_messages_of_older_versions_are_understood() -> None:
    old = [
        databento_dbn.v1.SystemMsg(1, "Finished mbo replay"),
        databento_dbn.v1.ErrorMsg(1, "Failed to resolve symbol X"),
        databento_dbn.v1.SystemMsg(1, "Subscription request 7 for mbo data succeeded"),
    ]
    first, second, third = messages.read(b"".join(bytes(one) for one in old), Header(1))
    assert (first.type, first.code, first.words) == (messages.SYSTEM, messages.REPLAYED, "Finished mbo replay")
    assert (second.type, second.words) == (messages.ERROR, "Failed to resolve symbol X")
    assert (third.code, third.request) == (messages.ACKNOWLEDGED, 7)


# -- damage -----------------------------------------------------------------------------------------------------------


def records(frame: Frame) -> Iterator[bytes]:
    at = 0
    while at < len(frame.content):
        yield frame.content[at : at + frame.content[at] * 4]
        at += frame.content[at] * 4


def session(stand_in: DatabentoLiveStandIn) -> tuple[list[Frame], Frame]:
    """The contexts of a session with ten trades, and the trades as one frame."""

    def happen() -> int:
        stand_in.publish("trades", "AAPL", [{"ts_event": moment, **SOLD} for moment in range(10)])
        return 10

    frames = heard(stand_in, [Channel("trades", "AAPL"), Channel("statistics", "AAPL")], happen)
    content = b"".join(record for frame in frames if not frame.context for record in records(frame) if record[1] == 0)
    assert len(content) == 480
    return [frame for frame in frames if frame.context], Frame(content, 1, number=5)


def spoiled(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


def rejected(batches: Sequence[Batch]) -> list[Row]:
    return [row for batch in batches for row in batch.rejected.to_pylist()]


def kept(batches: Sequence[Batch]) -> list[int]:
    table = raw_table(batches, "trades")
    return [row % ROWS_A_FRAME for row in table[ROW].to_pylist()] if table.num_rows else []


def test_a_record_of_an_unknown_type_costs_itself(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    content = spoiled(frame.content, 3 * 48 + 1, 99)
    batches = parsed([*contexts, replace(frame, content=content)])
    (bad,) = rejected(batches)
    assert bad[ROW] == 5 * ROWS_A_FRAME + 3
    assert bad["rule"] == "record has a known type"
    assert "nothing is known of type 99" in bad["reason"]
    assert json.loads(bad["raw"]) == content[144:192].hex()
    assert kept(batches) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_record_of_another_length_than_its_type_costs_itself(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    # of version 1, whose statistics are shorter
    old = bytes([64 // 4, 24]) + bytes(62)
    content = frame.content[:48] + old * 2 + frame.content[48:]
    batches = parsed([*contexts, replace(frame, content=content)])
    assert [(bad[ROW] % ROWS_A_FRAME, bad["reason"]) for bad in rejected(batches)] == [
        (place, "record has the length of its type: type 24 has 80 bytes, not 64") for place in (1, 2)
    ]
    assert kept(batches) == [0, *range(3, 12)]


@pytest.mark.parametrize("length", [0, 3, 13, 50, 255])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_wrong_length_costs_one_record(stand_in: DatabentoLiveStandIn, length: int, place: int) -> None:
    contexts, frame = session(stand_in)
    content = spoiled(frame.content, place * 48, length)
    after = replace(frame, number=6)
    batches = parsed([*contexts, replace(frame, content=content), after])
    (bad,) = rejected(batches)
    assert bad[ROW] == 5 * ROWS_A_FRAME + place
    assert bad["rule"] == "records follow each other"
    expected = [number for number in range(10) if number != place]
    assert kept(batches) == [*expected, *range(10)]


def test_rubbish_is_one_row_and_shows_its_beginning(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    rubbish = bytes(range(1, 256)) * 40_000
    batches = parsed([*contexts, replace(frame, content=rubbish, number=4), frame])
    (bad,) = rejected(batches)
    assert bad[ROW] == 4 * ROWS_A_FRAME
    assert bad["raw"].startswith('"010203')
    assert bad["raw"].endswith(f'… of {len(rubbish)} bytes"')
    assert len(bad["raw"]) < 1_200
    assert kept(batches) == list(range(10))


def test_a_frame_of_fifty_megabytes_is_one_row(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    (bad,) = rejected(parsed([*contexts, replace(frame, content=bytes(50 << 20))]))
    assert f"of {50 << 20} bytes" in bad["raw"]


@pytest.mark.parametrize("left", [1, 15, 16, 47])
def test_a_cut_frame_keeps_its_whole_records(stand_in: DatabentoLiveStandIn, left: int) -> None:
    contexts, frame = session(stand_in)
    batches = parsed([*contexts, replace(frame, content=frame.content[: 9 * 48 + left]), replace(frame, number=6)])
    assert [bad[ROW] for bad in rejected(batches)] == [5 * ROWS_A_FRAME + 9]
    assert kept(batches) == [*range(9), *range(10)]


def test_records_without_a_header_are_kept_as_they_came(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    for missing in ([], [contexts[0]], [contexts[0], replace(contexts[1], content=b"DBN\x09\0\0\0\0")]):
        (bad,) = rejected(parsed([*missing, frame]))
        assert bad["rule"] == "a header comes before records"
        assert bad[ROW] == 5 * ROWS_A_FRAME


def test_an_empty_frame_is_nothing(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    batches = parsed([*contexts, replace(frame, content=b"", number=4), frame, replace(frame, content=b"", number=6)])
    assert rejected(batches) == []
    assert kept(batches) == list(range(10))
    assert parsed([*contexts, replace(frame, content=b"")]) == []
    assert parsed([]) == []


def test_a_symbol_that_is_no_text_is_shown_as_it_came(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    content = contexts[2].content.replace(b"AAPL", b"\xffAPL")
    batches = parsed([*contexts[:2], replace(contexts[2], content=content), frame])
    assert set(raw_table(batches, "trades")[SYMBOL].to_pylist()) == {"\\xffAPL"}


def test_any_byte_may_be_wrong(stand_in: DatabentoLiveStandIn) -> None:
    contexts, frame = session(stand_in)
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    for _ in range(200):
        content = bytearray(frame.content)
        for _ in range(choose.randrange(1, 30)):
            content[choose.randrange(len(content))] = choose.randrange(256)
        batches = parsed([*contexts, replace(frame, content=bytes(content)), replace(frame, number=6)])
        rows = [row for found in everything(batches).values() for row in found]
        # nothing is lost without a word, and what comes after is as it was
        assert len({row[ROW] for row in rows}) == len(rows), seed
        assert sum(row[ROW] >= 6 * ROWS_A_FRAME for row in rows) == 10, seed
        assert set(everything(batches)) <= set(SCHEMAS), seed
