"""Databento's recorded live session, sent again by the stand-in, against the vendor's decoder, record by record."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from catalog.schemas import INSTRUMENT
from catalog.schemas import ROW
from catalog.schemas import SCHEMAS
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import refine
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.frames import ROWS_A_FRAME
from flows.frames import Channel
from flows.frames import Decoder
from flows.frames import Frame
from flows.frames import encode
from tests.corpus.test_recorded_dbn import LIVE
from tests.corpus.test_recorded_dbn import expected
from tests.corpus.test_recorded_dbn import independent
from tests.corpus.test_recorded_dbn import plain
from tests.vendors.live.databento import DatabentoLiveStandIn
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half

pytestmark = pytest.mark.corpus

SESSION = "databento/LIVE/test_data.live.dbn.zst"
CHANNELS = [Channel(schema, "ESZ4") for schema in ("ohlcv-1s", "ohlcv-1m", *LIVE.values())]


@pytest.fixture
def recorded(corpus: Path) -> bytes:
    with (corpus / SESSION).open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


@pytest.fixture
def heard(recorded: bytes) -> Iterator[Listener]:
    with DatabentoLiveStandIn("GLBX.MDP3") as stand_in:
        stand_in.recorded = recorded
        with Listener(live_half("databento", stand_in.options(), stand_in.keys), CHANNELS) as ear:
            # a session of 2023 had no other acknowledgements than what symbols mean
            ear.wait_acknowledged(CHANNELS)
            ear.wait_for(lambda: sum(len(frame.content) for frame in ear.frames[1:]) == len(recorded))
            stand_in.fin()
            assert ear.wait_ended() is None
            yield ear


def by_schema(records: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in records:
        kind = type(record).__name__
        schema = {32: "ohlcv-1s", 33: "ohlcv-1m"}[int(record.rtype)] if kind == "OHLCVMsg" else LIVE.get(kind)
        if schema:
            found.setdefault(schema, []).append(record)
    return found


def rows(batches: list[Batch], schema: str) -> Counter[tuple[Any, ...]]:
    facts, ordinals = Facts(1, datetime(2027, 1, 1, tzinfo=UTC), live=True), Ordinals()
    found = Counter[tuple[Any, ...]]()
    for batch in batches:
        assert batch.rejected.num_rows == 0
        if batch.schema == schema:
            names = [INSTRUMENT if name == SYMBOL else name for name in batch.table.column_names]
            made = refine(SCHEMAS[schema], batch.table.rename_columns(names), facts, ordinals)
            assert made.rejected.num_rows == made.duplicates == made.superseded == 0
            found.update(plain(made.accepted))
    return found


def test_frames_are_the_bytes_that_were_recorded(heard: Listener, recorded: bytes) -> None:
    asked, *frames = heard.frames
    assert asked.context
    assert b"".join(frame.content for frame in frames) == recorded
    # the header, and the first of twenty mappings that say the same
    assert [frame.content[:2] for frame in frames if frame.context] == [b"DBN"[:2], bytes([176 // 4, 22])]


def test_rows_are_those_of_the_vendors_decoder(heard: Listener, corpus: Path) -> None:
    _, version, records, names = independent(corpus / SESSION)
    wanted = by_schema(records)
    batches = heard.batches()
    assert {batch.schema for batch in batches} == set(wanted) == {channel.schema for channel in CHANNELS}
    for schema, its in wanted.items():
        assert rows(batches, schema) == expected(schema, its, names, version), schema
    assert sum(batch.table.num_rows for batch in batches) == len(records) - 20 == 26


def test_rows_say_their_place_in_the_session(heard: Listener, corpus: Path) -> None:
    _, _, records, _ = independent(corpus / SESSION)
    whole = b"".join(frame.content for frame in heard.frames if not frame.context)
    # as one frame: mappings that say nothing new are records of it like others
    single = [*(frame for frame in heard.frames if frame.context), Frame(whole, 1, number=0)]
    placed = {
        (row[ROW] % ROWS_A_FRAME, batch.schema)
        for batch in heard.extractor.parse(single, {}) for row in batch.table.to_pylist()
    }  # fmt: skip
    right = {id(record): schema for schema, its in by_schema(records).items() for record in its}
    # the first record became a context
    assert placed == {(place - 1, right[id(record)]) for place, record in enumerate(records) if id(record) in right}


def test_a_file_of_the_session_is_read_as_it_was_heard(heard: Listener) -> None:
    decoder = Decoder()
    read = list(decoder.feed(encode(heard.frames)))
    decoder.finish()
    assert read == heard.frames
    again = list(heard.extractor.parse(read, {}))
    assert [(one.schema, one.table) for one in again] == [(one.schema, one.table) for one in heard.batches()]
