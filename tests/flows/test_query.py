"""Read: names are found or every fault is said; prices exact or float; indicators beside the bars."""

from datetime import UTC
from datetime import date
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from catalog.errors import ConfigError
from catalog.models import Asset
from flows.ingest import ingest
from flows.plan import Selection
from flows.query import read
from flows.stored import inventory
from flows.stored import missing_sessions
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import series

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stored(database: str, tmp_path: Path) -> None:
    series("a", ["AAPL", "IBM"], asset_class="equity")
    series("other", ["AAPL"], source="other", path="other/*.csv")
    daily_csv(tmp_path / "data/AAPL.csv", days(5))
    daily_csv(tmp_path / "data/IBM.csv", days(3, 100))
    daily_csv(tmp_path / "data/other/AAPL.csv", days(2, 50))
    outcomes = ingest(Selection())
    assert [outcome.errors for outcome in outcomes.values()] == [[], []]


def test_a_symbol_a_name_and_a_key_name_the_same_rows(stored: None) -> None:
    by_key = read("prices:equity:IBM:ohlcv-1d")
    assert read("IBM").equals(by_key)
    assert read("prices:equity:IBM").equals(by_key)
    assert by_key["close"].to_pylist() == [101, 102, 103]
    assert by_key.to_pandas().shape[0] == 3


def test_several_instruments_come_sorted_and_tell_which_is_which(stored: None) -> None:
    table = read(["prices:equity:AAPL", "IBM"])
    assert table["instrument"].to_pylist() == ["prices:equity:AAPL"] * 5 + ["prices:equity:IBM"] * 3


def test_exact_reads_decimals_and_the_default_floats(stored: None) -> None:
    assert read("IBM")["close"].type == pa.float64()
    assert read("IBM", exact=True)["close"].to_pylist() == [Decimal(101), Decimal(102), Decimal(103)]
    assert read("IBM")["ts_event"].type == pa.timestamp("ns", "UTC")


def test_ranges_include_their_start_and_exclude_their_end(stored: None) -> None:
    table = read("IBM", start=datetime(2024, 1, 2, tzinfo=UTC), end=datetime(2024, 1, 3, tzinfo=UTC))
    assert table["close"].to_pylist() == [102]


def test_every_name_that_is_unknown_or_ambiguous_is_said(stored: None) -> None:
    with pytest.raises(ConfigError) as caught:
        read(["AAPL", "NOPE", "prices:equity:IBM:ohlcv-1h"])
    ambiguous, unknown, without = caught.value.faults
    assert ambiguous == "'AAPL' is ambiguous; accepted: other:equity:AAPL:ohlcv-1d, prices:equity:AAPL:ohlcv-1d"
    assert "'NOPE' names no series" in unknown
    assert "with schema 'ohlcv-1h' names no series" in without


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        pytest.param("nope()", "unknown", id="unknown"),
        pytest.param("resample(timeframe='1w')", "table of its own", id="resampled bars"),
        pytest.param("resample(timeframe='1w') | rsi()", "on bars of 1w", id="indicator of coarser bars"),
        pytest.param("__import__('os')", "parameter", id="hostile"),
    ],
)
def test_chains_that_are_no_columns_are_refused(stored: None, chain: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("IBM", indicators=[chain])


def test_inventory_says_what_is_there(stored: None) -> None:
    rows = {str(row.key): (row.rows, row.first, row.last, row.gaps) for row in inventory(["a"])}
    assert rows["prices:equity:IBM:ohlcv-1d"] == (
        3,
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 3, tzinfo=UTC),
        None,
    )


def test_sessions_of_the_calendar_without_a_row_are_gaps(database: str, tmp_path: Path) -> None:
    series("a", ["AAPL"])
    # 1 January is a holiday, 6 and 7 are a weekend
    daily_csv(tmp_path / "data/AAPL.csv", [("2024-01-02", 10), ("2024-01-04", 10), ("2024-01-08", 10)])
    ingest(Selection())
    Asset.objects.update(calendar="XNYS")
    (row,) = inventory(["a"])
    assert row.gaps == (date(2024, 1, 3), date(2024, 1, 5))
    assert row.describe(name_gaps=True)["gaps"] == "2024-01-03, 2024-01-05"
    Asset.objects.update(calendar="NOWHERE")
    with pytest.raises(ConfigError, match="calendar 'NOWHERE' is unknown"):
        list(inventory(["a"]))


def test_an_intraday_bar_counts_for_the_session_that_holds_it() -> None:
    moments = [datetime(2024, 1, 2, 15, tzinfo=UTC), datetime(2024, 1, 4, 20, 30, tzinfo=UTC)]
    times = pa.chunked_array([pa.array(moments, pa.timestamp("ns", "UTC"))])
    assert missing_sessions("XNYS", times, intraday=True) == (date(2024, 1, 3),)
