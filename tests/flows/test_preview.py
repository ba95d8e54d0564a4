"""A look before a run: the first rows, bounded in size and time, and nothing left behind."""

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.keys import InstrumentName
from catalog.schemas import ROW
from flows import preview
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import LandedPage
from flows.landing import Page
from flows.preview import first_rows
from flows.preview import sample
from flows.preview import within

SOURCE = SourceFacts(1, "s", "lines", {})
NOW = datetime(2024, 6, 10, 12, tzinfo=UTC)  # a Monday


class Lines(BaseHistoricalExtractor):
    """A vendor whose pages are lines of day, close and symbol; `log` is what it was asked."""

    name = "lines"
    label = "Lines"
    windowed = False
    content: tuple[bytes, ...] = ()
    wait = 0.0

    def requests(self, job: Job) -> Iterator[Request]:
        yield Request(job, job.instruments, "a")
        yield Request(job, job.instruments, "b")

    def pages(self, request: Request) -> Iterator[Page]:
        for block in self.content:
            time.sleep(self.wait)
            yield Page("text/plain", iter([block]))

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        with page.open() as content:
            lines = content.read().decode().splitlines()
        if lines and lines[0] == "cut":
            raise PermanentError("it is cut")
        cells = [line.split(",") for line in lines if line.count(",") == 2]
        prices = pa.array([close for _, close, _ in cells])
        yield Batch(
            "ohlcv-1d",
            pa.table(
                {
                    SYMBOL: pa.array([symbol for _, _, symbol in cells]).dictionary_encode(),
                    ROW: pa.array(range(len(cells)), pa.int64()),
                    "ts_event": pa.array([f"{day}T00:00:00Z" for day, _, _ in cells]).cast(pa.timestamp("ns", "UTC")),
                    **dict.fromkeys(("open", "high", "low", "close"), prices),
                    "volume": pa.array([1] * len(cells)),
                }
            ),
        )


def job(schema: str = "ohlcv-1d", start: datetime = EARLIEST, end: datetime = LATEST) -> Job:
    instruments = tuple(
        InstrumentFacts(number, InstrumentName("s", "equity", symbol), (SymbolInterval(symbol),), start, end)
        for number, symbol in enumerate(("A", "B"), start=1)
    )
    return Job(SOURCE, schema, instruments, ())


def lines(*content: bytes, wait: float = 0) -> Lines:
    extractor = Lines(SOURCE, Context())
    extractor.content = content
    extractor.wait = wait
    return extractor


def many(count: int) -> bytes:
    days = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(count))
    return "\n".join(f"{day:%Y-%m-%d},{day.day},A" for day in days).encode()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_each_row_stands_beside_what_became_of_it() -> None:
    content = b"2024-01-01,10,A\n2024-01-02,-1,A\n2024-01-03,10,Z\n2024-01-01,10,A\n2024-01-01,11,A\n2024-01-04,x,B"
    found = first_rows(job(), lines(content))
    assert [(row.raw["close"], row.state) for row in found.rows[:6]] == [
        ("10", "accepted"),
        ("-1", "rejected"),
        ("10", "rejected"),
        ("10", "duplicate"),
        ("11", "rejected"),
        ("x", "rejected"),
    ]
    assert found.rows[0].refined["close"] == "10"
    assert found.rows[0].refined["ts_event"] == "2024-01-01 00:00:00Z"
    assert found.rows[1].reason == "low > 0: low='-1'"
    assert "symbol is known" in found.rows[2].reason
    assert "one row for each key" in found.rows[4].reason
    assert "fetch_id" not in found.refined_columns
    assert found.raw_columns == ["symbol", "ts_event", "open", "high", "low", "close", "volume", "instrument"][:7]


def test_it_stops_at_ten_rows_and_leaves_nothing_behind(temporary: Path) -> None:
    found = first_rows(job(), lines(many(100)))
    assert len(found.rows) == 10
    assert found.requests == 1
    assert not list(temporary.iterdir())


def test_it_goes_on_to_the_next_request_for_more_rows() -> None:
    found = first_rows(job(), lines(many(4)))
    assert found.requests == 2
    assert len(found.rows) == 8


def test_of_a_huge_page_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "PAGE_BYTES", 159)
    found = first_rows(job(), lines(many(100_000)))
    assert found.bytes <= 2 * 159
    assert len(found.rows) >= 10


def test_a_page_that_cannot_be_parsed_is_told_with_the_reason() -> None:
    found = first_rows(job(), lines(b"cut\n"))
    assert not found.rows
    assert [note for note in found.notes if "it is cut" in note]


def test_a_vendor_that_does_not_answer_is_given_up(temporary: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TransientError, match="no answer within"):
        first_rows(job(), lines(b"x", b"y", wait=1), seconds=0.2)
    assert time.monotonic() - began < 0.9


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    assert within(5, lambda: 7) == 7


@pytest.mark.parametrize(
    ("schema", "start", "end"),
    [
        ("ohlcv-1d", NOW - timedelta(days=14), NOW),
        ("ohlcv-1mo", NOW - timedelta(days=120), NOW),
        ("ohlcv-1m", NOW - timedelta(days=4), NOW),
        # the last weekday before yesterday: Friday
        ("trades", datetime(2024, 6, 7, 15, tzinfo=UTC), datetime(2024, 6, 7, 15, 1, tzinfo=UTC)),
    ],
)
def test_little_is_asked_of_a_vendor(schema: str, start: datetime, end: datetime) -> None:
    small = sample(job(schema), NOW)
    assert [(item.start, item.end) for item in small.instruments] == [(start, end)]


def test_a_sample_stays_inside_the_series() -> None:
    start, end = datetime(2020, 1, 6, tzinfo=UTC), datetime(2020, 1, 8, tzinfo=UTC)
    for schema in ("ohlcv-1d", "ohlcv-1m", "trades"):
        (item,) = sample(job(schema, start, end), NOW).instruments
        assert start <= item.start < item.end <= end
