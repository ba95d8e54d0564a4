"""Vendor `files`: every format gives the same rows; bad files are refused by name; bad rows are kept with a reason."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.keys import InstrumentName
from flows import registry
from flows.extractors.base import Context
from flows.formats import delimited
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import RouteFacts
from flows.job import Rule
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import Landing
from flows.memory import MemoryLedger
from flows.pipeline import run
from flows.work import Outcome
from flows.work import Workshop
from tests.flows.shelf import Shelf


class Bench:
    """A folder of files and everything a job needs, without a database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.ledger = MemoryLedger()
        self.shelf = Shelf()

    def run(
        self,
        wanted: tuple[str, ...] = ("AAPL",),
        schema: str = "ohlcv-1d",
        *,
        asset_class: str = "equity",
        **options: Any,
    ) -> Outcome:
        source = SourceFacts(1, "prices", "files", {"path": "*"} | options)
        instruments = tuple(
            InstrumentFacts(number, InstrumentName("prices", asset_class, symbol), (SymbolInterval(symbol),))
            for number, symbol in enumerate(wanted, start=1)
        )
        route = RouteFacts(1, "shelf", "shelf", {}, (Rule(frozenset(range(1, len(wanted) + 1))),))
        job = Job(source, schema, instruments, (route,))
        extractor = registry.extractor("files")(source, Context((self.data,)))
        landing = Landing(self.folder / "landing")
        outcome = run(job, Workshop(extractor, landing, self.ledger, lambda route, ids: self.shelf))
        for made in self.ledger.made:
            assert made.tally.parsed == made.tally.settled
        return outcome

    def reasons(self) -> list[str]:
        return [reason for _, (_, reason, _) in sorted(self.ledger.quarantined.items())]

    def times(self) -> list[str]:
        return [row["ts_event"].isoformat() for row in self.shelf.rows()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    return Bench(tmp_path)


CSV = "Date,Open,High,Low,Close,Volume,Adj Close\n2024-01-02,10.1,11,9,10.5,100,1\n2024-01-03,10,11,9,10.25,200,1\n"
EXPECTED = [(datetime(2024, 1, 2, tzinfo=UTC), Decimal("10.5")), (datetime(2024, 1, 3, tzinfo=UTC), Decimal("10.25"))]


def as_gzip(text: str) -> bytes:
    return gzip.compress(text.encode())


def as_zip(text: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", text)
    return content.getvalue()


def as_jsonl(text: str) -> bytes:
    header, *lines = text.splitlines()
    keys = header.split(",")
    rows = []
    for line in lines:
        values = line.split(",")
        numbers = ", ".join(f"{json.dumps(key)}: {value}" for key, value in zip(keys[1:], values[1:], strict=True))
        rows.append(f'{{"Date": "{values[0]}", {numbers}}}')
    return "\n".join(rows).encode()


def as_parquet(text: str) -> bytes:
    import pyarrow.csv
    import pyarrow.parquet

    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(io.BytesIO(text.encode())), content)
    return content.getvalue()


FORMATS = {
    "AAPL.csv": lambda text: text.encode(),
    "AAPL.csv.gz": as_gzip,
    "AAPL.zip": as_zip,
    "AAPL.csv.zst": lambda text: zstandard.compress(text.encode()),
    "AAPL.jsonl": as_jsonl,
    "AAPL.parquet": as_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(bench: Bench, name: str) -> None:
    (bench.data / name).write_bytes(FORMATS[name](CSV))
    outcome = bench.run()
    assert outcome.errors == []
    assert [(row["ts_event"].to_pydatetime(), row["close"]) for row in bench.shelf.rows()] == EXPECTED


def test_json_numbers_keep_digits_that_a_double_has_not(bench: Bench) -> None:
    bar = '{"date": "2024-01-02", "open": 1.234567890123456789, "high": 2, "low": 1, "close": 1.5, "volume": 1e-18}'
    (bench.data / "AAPL.jsonl").write_text(bar)
    assert bench.run().errors == []
    (row,) = bench.shelf.rows()
    assert (row["open"], row["volume"]) == (Decimal("1.234567890123456789"), Decimal("1e-18"))


DAMAGED = {
    "AAPL.csv": (b"", "AAPL.csv is empty"),
    "cut.csv.gz": (as_gzip(CSV * 50)[:-20], "cut.csv.gz is cut short"),
    "wrong.csv.gz": (CSV.encode(), "wrong.csv.gz is no sound gzip file"),
    "cut.zip": (as_zip(CSV * 50)[:-30], "cut.zip is no sound zip archive"),
    "cut.csv.zst": (zstandard.compress(CSV.encode() * 50)[:-5], "its last zstd frame is unfinished"),
    "cut.parquet": (as_parquet(CSV)[:-30], "cut.parquet is no sound Parquet file"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture.csv is a PNG picture"),
    "packed.csv": (as_zip(CSV), "packed.csv is a zip archive"),
    "wide.csv": ("\ufeff" + CSV).encode("utf-16-le"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_refused_by_name_and_the_others_go_in(bench: Bench, name: str) -> None:
    content, message = DAMAGED[name] if isinstance(DAMAGED[name], tuple) else (DAMAGED[name], "wide.csv is UTF-16 text")
    (bench.data / name).write_bytes(content)
    (bench.data / "sound.csv").write_text(CSV)
    outcome = bench.run(symbol="AAPL")
    assert len(outcome.errors) == 1
    assert message in outcome.errors[0]
    assert len(bench.shelf.rows()) == 2
    # mended, it is a new thing to fetch
    (bench.data / name).unlink()
    (bench.data / "mended.csv").write_text(CSV)
    assert bench.run(symbol="AAPL").errors == []


def test_header_alone_is_no_fault(bench: Bench) -> None:
    (bench.data / "AAPL.csv").write_text("Date,Open,High,Low,Close,Volume\n")
    outcome = bench.run()
    assert (outcome.errors, outcome.fetches, bench.shelf.rows()) == ([], 1, [])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Date,Open,High,Close,Volume", "needs low; the data have"),
        ("Day,Open,High,Low,Close,Volume", "no column time"),
        ("Date,Open,Open,Low,Close,Volume", "'Open' more than once"),
    ],
)
def test_missing_columns_are_said_with_what_the_file_has(bench: Bench, header: str, message: str) -> None:
    (bench.data / "AAPL.csv").write_text(header + "\n2024-01-02" + ",1" * header.count(",") + "\n")
    outcome = bench.run()
    assert message in outcome.errors[0]
    assert bench.ledger.pages


@pytest.mark.parametrize("path", ["../secret.csv", "/etc/passwd", "a/../../b.csv", "x\x00.csv", ""])
def test_paths_that_leave_the_root_are_refused(bench: Bench, path: str) -> None:
    with pytest.raises(ConfigError, match="below FILES_ROOT"):
        bench.run(path=path)


def test_links_out_of_the_root_are_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text(CSV)
    (bench.data / "AAPL.csv").symlink_to(tmp_path / "secret.csv")
    outcome = bench.run()
    assert "lies outside FILES_ROOT" in outcome.errors[0]
    assert bench.shelf.rows() == []


def test_every_fault_of_the_options_is_said(bench: Bench) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.run(path="*.csv", timezone="Mars/Olympus", delimiter=";;", colour="red", price_scale="-1")
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    assert "option 'colour' is unknown; have: columns, dbn_schema" in text
    assert "no such time zone" in text


def bar(time: str) -> str:
    return f"{time},10,11,9,10,5"


def timed(bench: Bench, *times: str, schema: str = "ohlcv-1m", **options: Any) -> Outcome:
    lines = ["time,open,high,low,close,volume", *(bar(time) for time in times)]
    (bench.data / "AAPL.csv").write_text("\n".join(lines))
    return bench.run(schema=schema, **options)


@pytest.mark.parametrize(
    ("time", "options", "expected"),
    [
        pytest.param("2024-01-02T14:30:00Z", {}, "2024-01-02T14:30:00+00:00", id="utc"),
        pytest.param("2024-01-02T09:30:00-05:00", {}, "2024-01-02T14:30:00+00:00", id="offset"),
        pytest.param("2024-01-02 09:30", {"timezone": "America/New_York"}, "2024-01-02T14:30:00+00:00", id="zone"),
        pytest.param("1704205800", {"time_unit": "s"}, "2024-01-02T14:30:00+00:00", id="seconds"),
        pytest.param("1704205800000", {"time_unit": "ms"}, "2024-01-02T14:30:00+00:00", id="milliseconds"),
        pytest.param("1704205800000000000", {"time_unit": "ns"}, "2024-01-02T14:30:00+00:00", id="nanoseconds"),
        pytest.param("1/2/2024 14:30", {"time_format": "%m/%d/%Y %H:%M"}, "2024-01-02T14:30:00+00:00", id="format"),
        pytest.param("2024-01-02T14:31Z", {"label": "close"}, "2024-01-02T14:30:00+00:00", id="labelled by close"),
    ],
)
def test_times_are_read_as_the_options_say(bench: Bench, time: str, options: dict[str, Any], expected: str) -> None:
    assert timed(bench, time, **options).errors == []
    assert bench.times() == [expected]


@pytest.mark.parametrize(
    ("stamp", "zone", "expected"),
    [
        pytest.param("2024-01-02T14:30:00Z", "America/New_York", "2024-01-02", id="the open"),
        pytest.param("2024-01-03T05:00:00Z", "America/New_York", "2024-01-03", id="midnight in New York"),
        pytest.param("2024-01-02 23:30", "Asia/Tokyo", "2024-01-02", id="naive: its own date"),
        pytest.param("2024-01-02", "America/New_York", "2024-01-02", id="date alone"),
    ],
)
def test_daily_bars_carry_the_date_of_their_session(bench: Bench, stamp: str, zone: str, expected: str) -> None:
    assert timed(bench, stamp, schema="ohlcv-1d", timezone=zone).errors == []
    assert bench.times() == [f"{expected}T00:00:00+00:00"]


@pytest.mark.parametrize(
    ("time", "options", "reason"),
    [
        pytest.param("2024-11-03 01:30", {"timezone": "America/New_York"}, "exists exactly once", id="twice"),
        pytest.param("2024-03-10 02:30", {"timezone": "America/New_York"}, "exists exactly once", id="never"),
        pytest.param("1704205800", {"time_unit": "ms"}, "time in ms lies between", id="seconds for milliseconds"),
        pytest.param("1704205800000", {"time_unit": "s"}, "time in s lies between", id="milliseconds for seconds"),
        pytest.param("9999-01-01T00:00Z", {}, "lies between 1677 and 2262", id="out of range"),
        pytest.param("yesterday", {}, "time is ISO 8601: 'yesterday'", id="no time"),
        pytest.param("02.01.2024", {"time_format": "%m/%d/%Y"}, "time has the form %m/%d/%Y", id="other format"),
        pytest.param("", {}, "ts_event is required", id="empty"),
        pytest.param("2031-01-01T00:00Z", {}, "not in the future", id="future"),
    ],
)
def test_doubtful_times_are_refused_row_by_row(bench: Bench, time: str, options: dict[str, Any], reason: str) -> None:
    sound = {"s": "1704205800", "ms": "1704205800000"}.get(options.get("time_unit", ""), "2024-01-02 12:00")
    if "time_format" in options:
        sound = "01/02/2024"
    assert timed(bench, sound, time, **options).errors == []
    assert len(bench.shelf.rows()) == 1
    (found,) = bench.reasons()
    assert reason in found
    assert time[:10] in found


def test_prices_are_scaled_exactly(bench: Bench) -> None:
    (bench.data / "AAPL.csv").write_text("Date,Open,High,Low,Close,Volume\n2024-01-02,136300,162501,135000,x,5\n"
                                         "2024-01-03,136300,162501,135000,136333,5\n")  # fmt: skip
    assert bench.run(price_scale="0.0001").errors == []
    (row,) = bench.shelf.rows()
    assert (row["open"], row["high"], row["close"], row["volume"]) == (
        Decimal("13.63"), Decimal("16.2501"), Decimal("13.6333"), Decimal(5),
    )  # fmt: skip
    assert bench.reasons() == ["close is not a number: close='x'"]


def test_odd_records_cost_themselves_only(bench: Bench) -> None:
    content = (
        CSV.encode()
        + b"2024-01-04,1,2\n\n2024-01-05,1,2,1,1,1,1,1,1\n2024-01-06,\xff,11,9,10,5,1\n"
        + (b'2024-01-07,"10,11,9,10,5,1\n2024-01-08,10,11,9,10,5,1\n')
    )
    (bench.data / "AAPL.csv").write_bytes(content)
    assert bench.run().errors == []
    assert [row["ts_event"].day for row in bench.shelf.rows()] == [2, 3, 8]
    rules = [rule for _, (rule, _, _) in sorted(bench.ledger.quarantined.items())]
    assert rules == ["record has 7 values", "record has 7 values", "text is UTF-8", "record can be read"]


def test_symbols_may_hold_quotes_newlines_nul_emoji_and_formulas(bench: Bench) -> None:
    symbols = ('A"B', "two\nlines", "💥", "=cmd|'/C calc'!A0", "a,b")
    lines = ["symbol,date,open,high,low,close,volume"]
    for symbol in (*symbols, "nul\x00l"):
        quoted = symbol.replace('"', '""')
        lines.append(f'"{quoted}",2024-01-02,10,11,9,10,5')
    (bench.data / "all.csv").write_text("\n".join(lines))
    assert bench.run(symbols, symbol_column="symbol", unknown_symbols="quarantine").errors == []
    names = {row["instrument"] for row in bench.shelf.rows()}
    assert names == {str(InstrumentName("prices", "equity", symbol)) for symbol in symbols}
    (reason,) = bench.reasons()
    assert reason.startswith("symbol is known")


def test_symbols_nobody_asked_for_are_filtered_or_kept(bench: Bench) -> None:
    rows = ["ticker,date,open,high,low,close,volume", "AAPL,2024-01-02,10,11,9,10,5", "IBM,2024-01-02,10,11,9,10,5"]
    (bench.data / "all.csv").write_text("\n".join(rows))
    bench.run(symbol_column="ticker")
    assert bench.ledger.made[0].tally.filtered == 1
    kept = Bench(bench.folder)
    kept.run(symbol_column="ticker", unknown_symbols="quarantine")
    assert kept.ledger.made[0].tally.quarantined == 1


def trades_dbn(records: int) -> tuple[bytes, bytes]:
    """Return a DBN header and records of trades, one a second from 2024-01-02 on."""
    import databento_dbn as dbn
    import numpy as np

    start = 1_704_153_600_000_000_000
    rows = np.zeros(records, np.dtype(dbn.TradeMsg._dtypes))
    rows["length"] = rows.dtype.itemsize // 4
    rows["publisher_id"], rows["instrument_id"] = 1, 7
    rows["ts_event"] = start + np.arange(records) * 1_000_000_000
    rows["ts_recv"] = 2**64 - 1
    rows["price"], rows["size"] = -37_630_000_000, 5
    rows["action"], rows["side"], rows["sequence"] = b"T", b"A", np.arange(records)
    header = dbn.Metadata(
        dataset="GLBX.MDP3", schema=dbn.Schema.TRADES, start=start, stype_in=None, symbols=[], mappings=[],
        stype_out=dbn.SType.INSTRUMENT_ID, partial=[], not_found=[],
    )  # fmt: skip
    return header.encode(), rows.tobytes()


def test_dbn_without_mappings_takes_its_symbols_from_the_options(bench: Bench) -> None:
    (bench.data / "x.dbn").write_bytes(b"".join(trades_dbn(3)))
    outcome = bench.run(("CLF0",), "trades", asset_class="future", symbols={"7": "CLF0"})
    assert outcome.errors == []
    rows = bench.shelf.rows()
    # nothing is lost below zero, and an undefined time is no time
    assert [(row["price"], row["ts_recv"], row["sequence"]) for row in rows] == [
        (Decimal("-37.63"), None, number) for number in range(3)
    ]
    assert rows[0]["venue"] == "GLBX"


def test_dbn_fragment_is_read_where_the_options_name_schema_and_version(bench: Bench) -> None:
    _, records = trades_dbn(3)
    (bench.data / "x.dbn.frag.zst").write_bytes(zstandard.compress(records))
    assert "needs option dbn_schema" in bench.run(("7",), "trades").errors[0]
    (bench.data / "y.dbn.frag.zst").write_bytes(zstandard.compress(records))
    assert bench.run(("7",), "trades", asset_class="future", path="y*", dbn_schema="trades", dbn_version=3).errors == []
    assert len(bench.shelf.rows()) == 3


@pytest.mark.parametrize("cut", [5, 60, -10])
def test_cut_dbn_is_unparsable_and_stays_landed(bench: Bench, cut: int) -> None:
    whole = b"".join(trades_dbn(10))
    (bench.data / "x.dbn").write_bytes(whole[:cut])
    outcome = bench.run(("7",), "trades")
    assert "cut short" in outcome.errors[0]
    assert list(bench.ledger.pages.values()) == [outcome.errors[0].partition(": ")[2]]


def test_dbn_of_another_schema_is_said(bench: Bench) -> None:
    (bench.data / "x.dbn").write_bytes(b"".join(trades_dbn(1)))
    outcome = bench.run(("7",), "ohlcv-1d")
    assert "x.dbn holds trades; schema 'ohlcv-1d' can be made of: ohlcv-1d" in outcome.errors[0]


cell = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=30), st.integers(16, 400))
def test_records_survive_however_the_blocks_are_cut(records: list[tuple[str, str]], size: int) -> None:
    import csv

    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows(records)
    blocks = list(delimited.read(io.BytesIO(content.getvalue().encode()), delimited.Dialect(), block_bytes=size))
    found = [tuple(value or "" for value in row.values()) for block in blocks for row in block.table.to_pylist()]
    assert found == [(first, second) for first, second in records]
    assert [row for block in blocks for row in block.rows.to_pylist()] == list(range(len(records)))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(8, 64))
def test_any_bytes_end_as_rows_or_rejects(content: bytes, size: int) -> None:
    whole = b"a,b\n" + content
    blocks = list(delimited.read(io.BytesIO(whole), delimited.Dialect(), block_bytes=size))
    seen = sorted(row for block in blocks for row in [*block.rows.to_pylist(), *block.rejected["row"].to_pylist()])
    assert seen == list(range(len(seen)))
    if content.strip(b"\n\r"):
        assert seen
