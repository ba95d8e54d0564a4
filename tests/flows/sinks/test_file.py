import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import TransientError
from catalog.schemas import DECIMAL
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.exports.formats import BLOCK_ROWS
from flows.job import EARLIEST
from flows.job import LATEST
from flows.sinks.base import Target
from flows.sinks.file import FileSink
from tests.flows.sinks.rows import AAPL
from tests.flows.sinks.rows import DAYS
from tests.flows.sinks.rows import IDS
from tests.flows.sinks.rows import MINUTES
from tests.flows.sinks.rows import NS
from tests.flows.sinks.rows import START
from tests.flows.sinks.rows import STATISTICS
from tests.flows.sinks.rows import TRADES
from tests.flows.sinks.rows import at
from tests.flows.sinks.rows import minutes
from tests.flows.sinks.rows import table

REPOSITORY = Path(__file__).parents[3]
FORMATS: list[dict[str, Any]] = [
    {"format": "parquet"},
    {"format": "csv"},
    {"format": "csv", "gzip": True},
    {"format": "jsonl"},
]
every_format = pytest.mark.parametrize("options", FORMATS, ids=["parquet", "csv", "csv.gz", "jsonl"])
text_format = pytest.mark.parametrize("options", FORMATS[1:], ids=["csv", "csv.gz", "jsonl"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def sink(root: Path, options: dict[str, Any] | None = None) -> FileSink:
    return FileSink(options or {}, Target("files", IDS, root))


def stored(opened: FileSink, schema: Schema = MINUTES) -> pa.Table:
    return opened.read(schema, [AAPL], EARLIEST, LATEST, exact=True)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("ohlcv-1s", "2024-01"), ("ohlcv-1m", "2024-01"), ("ohlcv-4h", "2024-01"), ("ohlcv-1d", "2024"),
        ("ohlcv-1w", "2024"), ("ohlcv-1mo", "2024"), ("trades", "2024-01-31"), ("tbbo", "2024-01-31"),
        ("statistics", "2024-01"), ("indicators", "2024-01"),
    ],
)  # fmt: skip
def test_a_file_holds_a_year_of_days_a_month_of_bars_or_a_day_of_ticks(root: Path, schema: str, name: str) -> None:
    sink(root).write(SCHEMAS[schema], table(SCHEMAS[schema], [{"ts_event": at(START)}]))
    assert files(root) == [f"vendor/equity/AAPL/{schema}/{name}.parquet"]


def test_a_batch_is_cut_into_its_periods(root: Path) -> None:
    written = table(TRADES, [{"ts_event": time} for time in (-1, 0, 86_400 * NS - 1, 86_400 * NS)])
    opened = sink(root, {"path": "deep/er"})
    assert opened.write(TRADES, written) == Counts(new=4)
    folder = "deep/er/vendor/equity/AAPL/trades"
    assert files(root) == [f"{folder}/{day}.parquet" for day in ("1969-12-31", "1970-01-01", "1970-01-02")]


@pytest.mark.parametrize("symbol", ["=cmd|'!A1", "..", "a/b", "é😀", 'x"\n'])
def test_any_symbol_is_a_folder_and_in_no_cell(root: Path, symbol: str) -> None:
    from catalog.keys import InstrumentName

    name = str(InstrumentName("vendor", "equity", symbol))
    opened = FileSink({"format": "csv"}, Target("files", {name: 1}, root))
    opened.write(MINUTES, table(MINUTES, [{INSTRUMENT: name, "ts_event": 0}]))
    (path,) = root.rglob("*.csv")
    assert len(path.relative_to(root).parts) == 5
    assert path.parts[-3].isascii()
    assert symbol.encode() not in path.read_bytes()
    assert opened.read(MINUTES, [name], EARLIEST, LATEST)[INSTRUMENT].to_pylist() == [name]


def test_a_symbol_too_long_for_a_folder_is_refused(root: Path) -> None:
    name = f"vendor:equity:{'%C3%A9' * 43}"
    with pytest.raises(ConfigError, match="258 bytes"):
        sink(root).write(MINUTES, table(MINUTES, [{INSTRUMENT: name, "ts_event": 0}]))


@pytest.mark.parametrize("path", ["..", "a/../../b", "/etc", "link/x"])
def test_a_path_that_leaves_the_root_is_refused(root: Path, path: str) -> None:
    root.mkdir()
    (root / "link").symlink_to(root.parent)
    with pytest.raises(ConfigError, match="leaves"):
        sink(root, {"path": path})


def test_without_a_root_nothing_can_be_written() -> None:
    with pytest.raises(ConfigError, match="EXPORT_ROOT"):
        FileSink({}, Target("files"))


def test_wrong_options_are_refused_all_at_once(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        sink(root, {"format": "xlsx", "compression_level": 99, "color": "red"})
    assert len(caught.value.faults) == 3
    with pytest.raises(ConfigError, match="Parquet is compressed already"):
        sink(root, {"gzip": True})


@every_format
def test_second_write_of_same_rows_does_not_touch_the_files(root: Path, options: dict[str, Any]) -> None:
    opened = sink(root, options)
    opened.write(MINUTES, minutes([1, 2, 3, 4]))

    def states() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("20*")}

    before = states()
    opened.write(MINUTES, minutes([1, 2, 3, 4]))
    assert states() == before
    # in the second month only
    opened.write(MINUTES, minutes([1, 2, 3, 9]))
    assert {path.name[:7] for path in before if states()[path] != before[path]} == {"2024-02"}


def test_parquet_says_what_it_holds(root: Path) -> None:
    sink(root).write(DAYS, table(DAYS, [{"ts_event": at(datetime(2024, 1, day, tzinfo=UTC))} for day in (2, 3, 4)]))
    path = root / "vendor/equity/AAPL/ohlcv-1d/2024.parquet"
    metadata = pq.read_metadata(path)
    facts = json.loads(metadata.metadata[b"dataflow"])
    assert facts["instrument"] == AAPL
    assert facts["schema"] == "ohlcv-1d"
    assert facts["columns"]["close"] == "decimal128(38, 18)"
    assert list(facts["columns"]) == DAYS.arrow.names[1:]
    assert (facts["first"], facts["last"]) == ("2024-01-02T00:00:00.000000000Z", "2024-01-04T00:00:00.000000000Z")
    assert facts["rows"] == metadata.num_rows == 3
    assert facts["created_by"] == f"DataFlow, pyarrow {pa.__version__}"
    # the digest is of all bytes before the footer
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert facts["sha256"] == hashlib.sha256(content[:-footer]).hexdigest()


@text_format
def test_a_sidecar_says_what_a_text_file_holds(root: Path, options: dict[str, Any]) -> None:
    sink(root, options).write(MINUTES, minutes([1, 2]))
    path, beside = sorted((root / "vendor/equity/AAPL/ohlcv-1m").glob("20*"))
    assert beside.name == f"{path.name}.meta.json"
    facts = json.loads(beside.read_bytes())
    assert (facts["instrument"], facts["schema"], facts["rows"]) == (AAPL, "ohlcv-1m", 2)
    assert facts["bytes"] == path.stat().st_size
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@text_format
def test_a_stale_or_broken_sidecar_is_not_believed_and_is_mended(root: Path, options: dict[str, Any]) -> None:
    opened = sink(root, options)
    opened.write(MINUTES, minutes([1]))
    (beside,) = root.rglob("*.meta.json")
    old = beside.read_bytes()
    opened.write(MINUTES, minutes([1, 2]))
    for content in (old, b"", b"[]", b'{"bytes": 1}'):
        # the process died after the file and before the sidecar
        beside.write_bytes(content)
        assert opened.extents(MINUTES, [AAPL], EARLIEST, LATEST)[AAPL][2] == 2
        assert opened.write(MINUTES, minutes([1, 2])) == Counts(unchanged=2)
        assert json.loads(beside.read_bytes())["rows"] == 2
    beside.unlink()
    assert opened.extents(MINUTES, [AAPL], EARLIEST, LATEST)[AAPL][2] == 2
    assert opened.delete(MINUTES, AAPL, EARLIEST, LATEST) == 2
    assert files(root) == []


def test_csv_and_json_lines_are_what_other_programs_read(root: Path) -> None:
    rows = [
        {"ts_event": 5 * NS, "statistic": "=cmd", "price": Decimal("1e-18"), "value_text": 'a "b"\n'},
        {"ts_event": -1, "statistic": "x,y", "price": Decimal("-37.630"), "value_text": "", "ts_ref": 7},
    ]
    for options in FORMATS[1::2]:
        sink(root, options).write(STATISTICS, table(STATISTICS, rows))
    (december, january) = sorted((root / "vendor/equity/AAPL/statistics").glob("*.csv"))
    assert december.read_text().splitlines() == [
        "ts_event,venue,ts_recv,ts_ref,statistic,sequence,price,quantity,value_text,channel_id,update_action,"
        "stat_flags,ordinal,fetch_id",
        '1969-12-31T23:59:59.999999999Z,"",,1970-01-01T00:00:00.000000007Z,"x,y",0,-37.63,,"",,,,0,1',
    ]
    assert january.read_text().endswith('\n1970-01-01T00:00:05Z,"",,,=cmd,0,0.000000000000000001,,"a ""b""\n",,,,0,1\n')
    (line,) = january.with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(line, parse_float=Decimal) == {
        "ts_event": "1970-01-01T00:00:05Z", "venue": "", "ts_recv": None, "ts_ref": None, "statistic": "=cmd",
        "sequence": 0, "price": Decimal("1e-18"), "quantity": None, "value_text": 'a "b"\n', "channel_id": None,
        "update_action": None, "stat_flags": None, "ordinal": 0, "fetch_id": 1,
    }  # fmt: skip


def test_duckdb_reads_the_parquet_files_as_they_are(root: Path) -> None:
    written = minutes(["1.1", "2.2", "-3.3"])
    sink(root).write(MINUTES, written)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(f"SELECT * FROM '{root}/**/*.parquet' ORDER BY ts_event").to_arrow_table()
    assert found["close"].type == DECIMAL
    assert found["ts_event"].type == NANOSECONDS
    assert found.select(["ts_event", "close"]).to_pylist() == written.select(["ts_event", "close"]).to_pylist()


def test_gzip_is_gzip_and_the_same_rows_are_the_same_bytes(root: Path) -> None:
    contents = []
    for name in ("a", "b"):
        sink(root, {"format": "jsonl", "gzip": True, "path": name}).write(MINUTES, minutes([1]))
        (path,) = (root / name).rglob("*.jsonl.gz")
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][:2] == b"\x1f\x8b"


@every_format
def test_rows_merge_across_blocks(root: Path, options: dict[str, Any]) -> None:
    """Two venues at each time, so that blocks end between rows of one time."""
    half = BLOCK_ROWS // 2 + 10
    evens = table(
        MINUTES,
        [{"ts_event": 60 * NS * number, "close": number, "venue": v} for number in range(0, 2 * half, 2) for v in "ab"],
    )
    odds = table(
        MINUTES, [{"ts_event": 60 * NS * number, "close": number, "fetch_id": 2} for number in range(1, 2 * half, 2)]
    )
    opened = sink(root, options)
    assert opened.write(MINUTES, evens) == Counts(new=2 * half)
    assert opened.write(MINUTES, odds) == Counts(new=half)
    assert opened.write(MINUTES, evens) == Counts(unchanged=2 * half)
    assert opened.write(MINUTES, odds) == Counts(unchanged=half)
    found = stored(opened)
    assert found["ts_event"].cast(pa.int64()).to_pylist() == sorted(
        60 * NS * number for number in [*range(0, 2 * half, 2), *range(0, 2 * half, 2), *range(1, 2 * half, 2)]
    )
    # the middle minute, whatever block it is in
    late = table(MINUTES, [{"ts_event": 60 * NS * half, "close": -1, "venue": "b", "fetch_id": 3}])
    assert opened.write(MINUTES, late) == Counts(updated=1)
    assert stored(opened)["close"].to_pylist().count(-1) == 1


def test_row_groups_are_small_enough_to_choose_from(root: Path) -> None:
    rows = 2 * BLOCK_ROWS + 1
    times = pa.array(range(0, rows * NS, NS), pa.int64()).cast(NANOSECONDS)
    one = table(SCHEMAS["ohlcv-1s"], [{"ts_event": 0}])
    many = one.take(pa.array([0] * rows)).set_column(1, one.schema.field(1), times)
    sink(root).write(SCHEMAS["ohlcv-1s"], many)
    (path,) = root.rglob("*.parquet")
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(number).num_rows for number in range(3)] == [BLOCK_ROWS, BLOCK_ROWS, 1]
    assert metadata.row_group(1).column(0).statistics.min_raw == BLOCK_ROWS * NS
    with patch.object(
        pq.ParquetFile, "read_row_group", autospec=True, side_effect=pq.ParquetFile.read_row_group
    ) as read:
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=BLOCK_ROWS)
        found = sink(root).read(SCHEMAS["ohlcv-1s"], [AAPL], start, start + timedelta(seconds=5))
    assert found.num_rows == 5
    assert [call.args[1] for call in read.call_args_list] == [1]


def test_extents_of_whole_files_read_no_rows(root: Path) -> None:
    opened = sink(root)
    opened.write(MINUTES, minutes([1, 2, 3, 4]))
    with patch.object(pq.ParquetFile, "read_row_group", side_effect=AssertionError):
        assert opened.extents(MINUTES, [AAPL], EARLIEST, LATEST) == {AAPL: (START, START + timedelta(minutes=3), 4)}


@every_format
def test_a_damaged_file_is_named_and_stays(root: Path, options: dict[str, Any]) -> None:
    opened = sink(root, options)
    opened.write(MINUTES, minutes([1]))
    path = next(path for path in root.rglob("2024-01.*") if not path.name.endswith(".json"))
    path.write_bytes(b"\x00rubbish")
    for attempt in (
        lambda: opened.write(MINUTES, minutes([2])),
        lambda: stored(opened),
        lambda: opened.tail(MINUTES, AAPL, LATEST, 1),
        lambda: opened.extents(MINUTES, [AAPL], EARLIEST, LATEST),
        lambda: opened.delete(MINUTES, AAPL, EARLIEST, START),
    ):
        with pytest.raises(Damaged, match=path.name):
            attempt()
    assert path.read_bytes() == b"\x00rubbish"


def test_a_flipped_bit_stops_the_rewriting(root: Path) -> None:
    opened = sink(root)
    opened.write(MINUTES, minutes([1, 2]))
    (path,) = root.rglob("*.parquet")
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged):
        opened.write(MINUTES, minutes([3, 4], fetch=2))
    assert path.read_bytes() == content


@every_format
def test_a_file_of_another_key_is_not_mixed_in(root: Path, options: dict[str, Any]) -> None:
    opened = sink(root, options)
    opened.write(MINUTES, minutes([1]))
    (root / "vendor/equity/AAPL").rename(root / "vendor/equity/IBM")
    with pytest.raises(Damaged, match=AAPL):
        opened.extents(MINUTES, ["vendor:equity:IBM"], EARLIEST, LATEST)


def test_an_unsorted_text_file_is_refused(root: Path) -> None:
    opened = sink(root, {"format": "csv"})
    opened.write(MINUTES, minutes([1, 2]))
    (path,) = root.rglob("*.csv")
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, second, first, ""]))
    with pytest.raises(Damaged, match="not sorted"):
        stored(opened)


@every_format
def test_files_older_than_a_column_are_read_and_upserted(root: Path, options: dict[str, Any]) -> None:
    from dataclasses import replace

    older = replace(MINUTES, columns=tuple(column for column in MINUTES.columns if column.name != "vwap"))
    opened = sink(root, options)
    opened.write(older, table(older, [{"ts_event": 0}]))
    assert stored(opened).cast(MINUTES.arrow)["vwap"].to_pylist() == [None]
    assert opened.write(MINUTES, table(MINUTES, [{"ts_event": 0, "vwap": 3, "fetch_id": 2}])) == Counts(updated=1)
    assert stored(opened)["vwap"].to_pylist() == [3]


@pytest.mark.parametrize("options", FORMATS[:2], ids=["parquet", "csv"])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(root: Path, options: dict[str, Any]) -> None:
    opened = sink(root, options)
    opened.write(MINUTES, minutes([1]))
    before = {path: path.read_bytes() for path in root.rglob("20*")}
    with (
        patch("flows.exports.partitions.os.fsync", side_effect=OSError(errno.ENOSPC, "full")),
        pytest.raises(TransientError, match="free some space"),
    ):
        opened.write(MINUTES, minutes([2], fetch=2))
    assert {path: path.read_bytes() for path in root.rglob("20*")} == before
    assert not list(root.rglob("*.partial"))


def either(opened: FileSink) -> set[int]:
    """The closes, where each file holds rows of one write: two minutes are in January."""
    closes = [int(close) for close in stored(opened)["close"].to_pylist()]
    assert len(closes) == 50
    assert len(set(closes[:2])) == len(set(closes[2:])) == 1
    return set(closes)


class Death(BaseException):
    """Ends a write at once; what would clean up is patched away."""


@every_format
def test_a_writer_that_dies_at_any_step_leaves_old_rows_or_new_ones(root: Path, options: dict[str, Any]) -> None:
    """Each sync and rename of a write is once the one that never happens."""
    seen = []
    for last in count():
        opened = sink(root / str(last), options)
        opened.write(MINUTES, minutes([1] * 50))
        steps = count()

        def step(real: Callable[..., Any], last: int = last, steps: Iterator[int] = steps) -> Callable[..., Any]:
            def taken(*arguments: Any) -> Any:
                if next(steps) == last:
                    raise Death
                return real(*arguments)

            return taken

        try:
            with (
                patch.object(os, "fsync", step(os.fsync)),
                patch.object(Path, "rename", step(Path.rename)),
                patch.object(Path, "unlink"),
            ):
                opened.write(MINUTES, minutes([2] * 50, fetch=2))
        except Death:
            seen.append(either(opened))
        else:
            break
        assert opened.extents(MINUTES, [AAPL], EARLIEST, LATEST)[AAPL][2] == 50
        # what the dead left is in nobody's way
        opened.write(MINUTES, minutes([3] * 50, fetch=3))
        assert either(opened) == {3}
        assert not list(root.rglob("*.partial"))
    assert seen[0] == {1}
    assert {1, 2} in seen
    assert seen[-1] == {2}


WRITER = """
import sys
from itertools import count
from pathlib import Path
from flows.sinks.base import Target
from flows.sinks.file import FileSink
from tests.flows.sinks.rows import IDS, MINUTES, minutes
sink = FileSink({"format": sys.argv[2]}, Target("files", IDS, Path(sys.argv[1])))
for number in count(1):
    sink.write(MINUTES, minutes([number] * 50, fetch=number))
    if number == 3:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("options", FORMATS[:2], ids=["parquet", "csv"])
def test_a_writer_killed_in_full_flight_leaves_whole_files(root: Path, options: dict[str, Any]) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WRITER, str(root), options["format"]]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.3)
        process.kill()
    opened = sink(root, options)
    (newest, *_) = sorted(either(opened), reverse=True)
    assert newest > 3
    opened.write(MINUTES, minutes([0] * 50, fetch=10**9))
    assert either(opened) == {0}
    assert not list(root.rglob("*.partial"))
