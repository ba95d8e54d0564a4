from decimal import ROUND_HALF_EVEN
from decimal import Decimal
from decimal import localcontext
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.schemas import TIMEFRAMES
from catalog.schemas import schema
from tests.transforms.markets import START
from tests.transforms.markets import bars
from tests.transforms.markets import decimals
from tests.transforms.markets import exact
from tests.transforms.markets import stamps
from tests.transforms.markets import texts
from transforms.registry import make

SECOND = 1_000_000_000
BAR = ("open", "high", "low", "close", "volume", "trade_count", "vwap")


def resampled(table, timeframe, **options):
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    return make(f"resample(timeframe={timeframe!r}{arguments})").transform(table)


def test_bars_from_trades_by_hand():
    trades = decimals(
        [
            "2024-01-02T00:00:00.000000000Z",
            "2024-01-02T00:00:00.000000000Z",
            "2024-01-02T00:04:59.999999999Z",
            "2024-01-02T00:05:00.000000000Z",
            "2024-01-02T00:12:00.000000001Z",
        ],
        price=["100.5", "101", "99.999999999999999999", "-1", "7"],
        size=["1", "2", "1", "3", "0"],
    )
    found = resampled(trades, "5m")
    assert stamps(found) == ["2024-01-02T00:00:00Z", "2024-01-02T00:05:00Z", "2024-01-02T00:10:00Z"]
    assert texts(found) == {
        "open": ["100.5", "-1", "7"],
        "high": ["101", "-1", "7"],
        "low": ["99.999999999999999999", "-1", "7"],
        "close": ["99.999999999999999999", "-1", "7"],
        "volume": ["4", "3", "0"],
        "trade_count": ["3", "1", "1"],
        # 402.499999999999999999 / 4 = 100.62499999999999999975, and no trade has a price where none has a size
        "vwap": ["100.625", "-1", None],
    }


def test_bars_from_bars_by_hand():
    minutes = decimals(
        ["2024-01-02T09:59Z", "2024-01-02T10:00Z", "2024-01-02T10:30Z", "2024-01-02T12:00Z"],
        open=["1", "2", "3", "4"],
        high=["1.5", "9", "3", "4"],
        low=["0.5", "2", "1", "4"],
        close=["1", "3", "2", "4"],
        volume=["10", "20", "10", "1"],
        trade_count=[1, 2, 3, 4],
        vwap=["1", "2.5", "1", "4"],
    )
    found = resampled(minutes, "1h")
    assert stamps(found) == ["2024-01-02T09:00:00Z", "2024-01-02T10:00:00Z", "2024-01-02T12:00:00Z"]
    assert texts(found) == {
        "open": ["1", "2", "4"],
        "high": ["1.5", "9", "4"],
        "low": ["0.5", "1", "4"],
        "close": ["1", "2", "4"],
        "volume": ["10", "30", "1"],
        "trade_count": ["1", "5", "4"],
        "vwap": ["1", "2", "4"],
    }


def test_made_bars_have_the_types_of_the_schema():
    found = resampled(decimals([0], price=["1"], size=["1"]), "1h").schema
    declared = schema("ohlcv-1h").arrow
    for name in ("ts_event", *BAR):
        assert found.field(name).type == declared.field(name).type
    assert found == make("resample(timeframe='1h')").output(decimals([0], price=["1"], size=["1"]).schema)


@pytest.mark.parametrize(
    ("timeframe", "label"),
    [
        ("1s", "2024-05-16T13:47:59Z"),
        ("1m", "2024-05-16T13:47:00Z"),
        ("5m", "2024-05-16T13:45:00Z"),
        ("15m", "2024-05-16T13:45:00Z"),
        ("30m", "2024-05-16T13:30:00Z"),
        ("1h", "2024-05-16T13:00:00Z"),
        ("4h", "2024-05-16T12:00:00Z"),
        ("1d", "2024-05-16T00:00:00Z"),
        ("1w", "2024-05-13T00:00:00Z"),
        ("1mo", "2024-05-01T00:00:00Z"),
    ],
)
def test_a_bar_is_labelled_by_its_open_instant_or_date(timeframe, label):
    found = resampled(decimals(["2024-05-16T13:47:59.999999999Z"], price=["1"], size=["1"]), timeframe)
    assert stamps(found) == [label]


def test_every_timeframe_of_the_schemas_can_be_made():
    for timeframe in TIMEFRAMES:
        found = resampled(decimals([START], price=["1"], size=["1"]), timeframe)
        grid = next(check for check in schema(f"ohlcv-{timeframe}").checks if "grid" in check.rule)
        assert grid.keeps(found).to_pylist() == [True]


def test_times_before_1970_are_cut_downwards():
    found = resampled(decimals([-1], price=["1"], size=["1"]), "1mo")
    assert stamps(found) == ["1969-12-01T00:00:00Z"]


@pytest.mark.parametrize(
    ("instant", "zone", "rolls", "date"),
    [
        # CME: the trading day of a Sunday evening is Monday, summer and winter
        ("2024-01-07T23:00:00Z", "America/Chicago", "17:00", "2024-01-08"),
        ("2024-01-07T22:59:59Z", "America/Chicago", "17:00", "2024-01-07"),
        ("2024-07-07T22:00:00Z", "America/Chicago", "17:00", "2024-07-08"),
        ("2024-07-07T21:59:59Z", "America/Chicago", "17:00", "2024-07-07"),
        # a New York evening is another UTC date
        ("2024-07-03T01:00:00Z", "America/New_York", "00:00", "2024-07-02"),
        ("2024-07-03T04:00:00Z", "America/New_York", "00:00", "2024-07-03"),
        # both 01:30s of the night the clocks go back
        ("2024-11-03T05:30:00Z", "America/New_York", "00:00", "2024-11-03"),
        ("2024-11-03T06:30:00Z", "America/New_York", "00:00", "2024-11-03"),
        ("2024-01-01T23:30:00Z", "Asia/Kolkata", "00:00", "2024-01-02"),
    ],
)
def test_a_session_has_the_date_of_its_end(instant, zone, rolls, date):
    found = resampled(decimals([instant], price=["1"], size=["1"]), "1d", zone=zone, rolls=rolls)
    assert stamps(found) == [f"{date}T00:00:00Z"]


def test_daily_bars_are_not_moved_to_another_week():
    days = decimals(
        ["2024-01-05T00:00Z", "2024-01-08T00:00Z", "2024-01-12T00:00Z"],
        **{name: ["1", "2", "3"] for name in ("open", "high", "low", "close", "volume")},
    )
    found = resampled(days, "1w")
    assert stamps(found) == ["2024-01-01T00:00:00Z", "2024-01-08T00:00:00Z"]
    assert texts(found)["close"] == ["1", "3"]


prices = st.decimals("-99999", "99999", places=9)
sizes = st.decimals("0", "9999", places=18)
trades = st.lists(st.tuples(st.integers(0, 3 * 86_400 * SECOND), prices, sizes), min_size=1, max_size=60).map(sorted)


def table_of(rows):
    instants, price, size = zip(*rows, strict=True)
    return decimals([START + instant for instant in instants], price=price, size=size)


@settings(max_examples=60, deadline=None)
@given(trades)
def test_twice_resampled_is_once_resampled(rows):
    table = table_of(rows)
    for steps in (("1m", "5m", "1h"), ("1s", "15m", "30m", "4h", "1d"), ("1h", "1d", "1w"), ("1m", "1d", "1mo")):
        direct = resampled(table, steps[-1])
        stepped = table
        for step in steps:
            stepped = resampled(stepped, step)
        assert stepped.drop_columns("vwap") == direct.drop_columns("vwap")
        # each step rounds the quotient once more
        for one, other in zip(stepped["vwap"].to_pylist(), direct["vwap"].to_pylist(), strict=True):
            assert (one is None) == (other is None)
            assert one is None or abs(one - other) <= Decimal("1e-12") * max(1, abs(other))


@settings(max_examples=60, deadline=None)
@given(trades, st.sampled_from(sorted(TIMEFRAMES)))
def test_nothing_is_lost_and_nothing_is_rounded_but_the_quotient(rows, timeframe):
    found = resampled(table_of(rows), timeframe)
    with localcontext(prec=100):
        assert sum(found["volume"].to_pylist()) == sum(size for _, _, size in rows)
        assert sum(found["trade_count"].to_pylist()) == len(rows)
        assert max(found["high"].to_pylist()) == max(price for _, price, _ in rows)
        assert min(found["low"].to_pylist()) == min(price for _, price, _ in rows)
    for bar in found.drop_columns("ts_event").to_pylist():
        assert bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"]
        assert bar["vwap"] is None or bar["low"] <= bar["vwap"] <= bar["high"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(prices, sizes), min_size=1, max_size=5))
def test_vwap_is_rounded_once_and_half_even(pairs):
    found = resampled(table_of([(0, price, size) for price, size in pairs]), "1d")["vwap"].to_pylist()
    volume = sum(Fraction(size) for _, size in pairs)
    if not volume:
        assert found == [None]
    else:
        quotient = sum(Fraction(price) * Fraction(size) for price, size in pairs) / volume
        # Fraction rounds half to even
        assert Fraction(found[0]) == Fraction(round(quotient * 10**18), 10**18)


@pytest.mark.parametrize(("sign", "last"), [(1, "0"), (1, "2"), (-1, "0"), (-1, "2")])
def test_a_tie_goes_to_the_even_digit(sign, last):
    # the mean of ...0 and ...1 ends in ...05, that of ...1 and ...2 in ...15
    low, high = sorted(sign * Decimal(f"0.00000000000000000{digit}") for digit in (last, "1"))
    found = resampled(table_of([(0, low, Decimal(1)), (0, high, Decimal(1))]), "1d")["vwap"].to_pylist()
    assert found == [sign * Decimal(f"0.00000000000000000{last}")]
    assert found == [((low + high) / 2).quantize(Decimal("1e-18"), ROUND_HALF_EVEN)]


def test_sums_beyond_the_column_are_an_error_and_not_another_number():
    largest = "99999999999999999999"
    table = decimals([START, START], price=["1", "1"], size=[largest, largest])
    with pytest.raises(pa.ArrowInvalid):
        resampled(table, "1d")
    (vwap,) = resampled(table.slice(1), "1d")["vwap"].to_pylist()
    assert vwap is None


def test_nulls():
    columns = {name: ["1", "2", None, "4"] for name in ("open", "high", "low", "close")}
    table = decimals([START] * 4, **columns, volume=["1", None, "1", "1"], trade_count=[1, 1, 1, 1])
    assert texts(resampled(table, "1d")) == {
        "open": ["1"],
        "high": ["4"],
        "low": ["1"],
        "close": ["4"],
        "volume": [None],
        "trade_count": ["3"],
        "vwap": [None],
    }


def test_what_bars_do_not_have_stays_null():
    found = resampled(decimals([START], **{name: ["1"] for name in ("open", "high", "low", "close")}), "1d")
    assert [found[name].to_pylist() for name in ("volume", "trade_count", "vwap")] == [[None]] * 3


def test_bars_without_trades_do_not_hide_the_others_vwap():
    columns = {name: ["1", "1"] for name in ("open", "high", "low", "close")}
    found = resampled(decimals([START, START + SECOND], **columns, volume=["2", "0"], vwap=["1.5", None]), "1d")
    assert texts(found)["vwap"] == ["1.5"]


@pytest.mark.parametrize("chunks", [[], [0], [1, 0, 2]])
def test_chunked_and_empty_tables(chunks):
    table = decimals([START + row for row in range(3)], price=["1", "2", "3"], size=["1", "1", "1"])
    offsets = np.cumsum([0, *chunks])
    parts = [table.slice(start, rows) for start, rows in zip(offsets, chunks, strict=False)]
    found = resampled(pa.concat_tables(parts) if parts else table.slice(0, 0), "1d")
    assert found["trade_count"].to_pylist() == ([3] if sum(chunks) else [])


def test_instrument_columns_of_stored_rows_do_no_harm():
    table = decimals([START], price=["1"], size=["1"]).append_column("instrument", pa.array(["a"]).dictionary_encode())
    assert resampled(table, "1d").column_names == ["ts_event", *BAR]


def test_whole_quantities_are_exact_numbers_too():
    table = decimals([START], price=["1.5"]).append_column("size", exact([7], pa.int64()))
    assert texts(resampled(table, "1d"))["volume"] == ["7"]


def test_unordered_rows_are_refused():
    with pytest.raises(SchemaMismatch, match="row 1 at"):
        resampled(decimals([START, START - 1], price=["1", "1"], size=["1", "1"]), "1d")
    table = decimals([START], price=["1"], size=["1"])
    timeless = table.set_column(0, "ts_event", pa.array([None], table["ts_event"].type))
    with pytest.raises(SchemaMismatch, match="1 rows have no ts_event"):
        resampled(timeless, "1d")


@pytest.mark.parametrize(
    ("table", "faults"),
    [
        (
            decimals([0], close=["1"]),
            [f"resample: column {name!r} is missing; have: ts_event, close" for name in ("open", "high", "low")],
        ),
        (
            bars(price=[1.0], size=[1.0]),
            [f"resample: column {name!r} is double; exact bars need decimal or integer" for name in ("price", "size")],
        ),
        (
            pa.table({"price": exact(["1"]), "size": pa.array(["1"])}),
            [
                "resample: needs the column ts_event of type timestamp[ns, tz=UTC]",
                "resample: column 'size' is string; needs decimal, float or integer",
            ],
        ),
    ],
    ids=["no bars", "floats", "no time"],
)
def test_inputs_that_make_no_bars_are_refused(table, faults):
    with pytest.raises(ConfigError) as caught:
        resampled(table, "1d")
    assert list(caught.value.faults) == faults


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        ("", ["resample: parameter 'timeframe' is required: text"]),
        ("timeframe=5", ["resample: timeframe=5 is not accepted; have: text"]),
        ("timeframe='2h'", ["resample: timeframe '2h' is unknown; have: " + ", ".join(sorted(TIMEFRAMES))]),
        (
            "timeframe='1d', zone='Mars/Olympus', rolls='24:00'",
            [
                "resample: rolls='24:00' is not a time of day; have: 00:00 to 23:59",
                "resample: zone='Mars/Olympus' is unknown; have: IANA names such as America/New_York",
            ],
        ),
        (
            "timeframe='1d', zone='../../etc/passwd'",
            ["resample: zone='../../etc/passwd' is unknown; have: IANA names such as America/New_York"],
        ),
        (
            "timeframe='1h', zone='Europe/Berlin'",
            ["resample: zone and rolls say which date a bar has; a bar of 1h has none"],
        ),
    ],
)
def test_wrong_parameters_are_refused(arguments, faults):
    with pytest.raises(ConfigError) as caught:
        make(f"resample({arguments})")
    assert list(caught.value.faults) == faults
