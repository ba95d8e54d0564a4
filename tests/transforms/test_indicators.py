"""Common indicators against answers made by hand, and by plain Python that shares nothing with `ta`."""

import math
import statistics
from itertools import pairwise

import pytest

from catalog.errors import ConfigError
from tests.transforms.markets import bars
from tests.transforms.markets import decimals
from tests.transforms.markets import walk
from transforms.indicators import ALIASES
from transforms.indicators import RENAMED
from transforms.indicators import indicators
from transforms.registry import make

ROWS = 1200


def values(chain, table):
    """Return the value columns of a chain as lists."""
    found = make(chain).transform(table)
    assert found.column_names[0] == "ts_event"
    assert found["ts_event"] == table["ts_event"]
    return [found[name].to_pylist() for name in found.column_names[1:]]


def agree(found, expected, warmup):
    """Compare from the warm-up on; before it there is nothing."""
    assert found[:warmup] == [None] * warmup
    assert found[warmup:] == pytest.approx(expected[warmup:], rel=1e-9, abs=1e-9)


def ema(prices, window):
    average, averages = prices[0], []
    for price in prices:
        average += 2 / (window + 1) * (price - average)
        averages.append(average)
    return averages


def wilder(changes, window):
    """Wilder's average as in his book: the mean of the first window, then 1/window of each change."""
    average = statistics.fmean(changes[:window])
    averages = [math.nan] * (window - 1) + [average]
    for change in changes[window:]:
        average = (average * (window - 1) + change) / window
        averages.append(average)
    return averages


@pytest.fixture(scope="module")
def market():
    return walk(7, ROWS)


@pytest.fixture(scope="module")
def close(market):
    return market["close"].to_pylist()


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("sma(window=3)", [None, None, 2, 3, 5]),
        ("sma(window=1)", [1, 2, 3, 4, 8]),
        ("wma(window=3)", [None, None, 14 / 6, 20 / 6, 35 / 6]),
        ("roc(window=2)", [None, None, 200, 100, 500 / 3]),
        ("returns", [None, 100, 50, 100 / 3, 100]),
        ("log_returns", [None, *(100 * math.log(x) for x in (2, 3 / 2, 4 / 3, 2))]),
        ("cumulative_return", [0, 100, 200, 300, 700]),
        ("volatility(window=2)", [None, None, *(math.log(x) / math.sqrt(2) for x in (4 / 3, 9 / 8, 3 / 2))]),
        ("donchian_channel_hband(window=2)", [None, 3, 4, 5, 9]),
        ("donchian_channel_hband(window=2, offset=1)", [None, None, 3, 4, 5]),
        ("obv", [10, 30, 60, 100, 150]),
        ("vwap(window=2)", [None, 50 / 30, 130 / 50, 250 / 70, 560 / 90]),
        ("aroon_up(window=2)", [None, None, 100, 100, 100]),
        ("williams_r(lbp=2)", [None, *(-100 * x for x in (1 / 3, 1 / 3, 1 / 3, 1 / 6))]),
    ],
)
def test_small_market_by_hand(chain, expected):
    prices = [1, 2, 3, 4, 8]
    table = bars(
        open=prices,
        high=[price + 1 for price in prices],
        low=[price - 1 for price in prices],
        close=prices,
        volume=[10, 20, 30, 40, 50],
    )
    (found,) = values(chain, table)
    assert found == pytest.approx([None if value is None else float(value) for value in expected])


def test_sma(market, close):
    expected = [math.nan] * 19 + [statistics.fmean(close[row - 19 : row + 1]) for row in range(19, ROWS)]
    agree(*values("sma(window=20)", market), expected, 19)


def test_ema(market, close):
    warmup = math.ceil(math.log(1e-10) / math.log(1 - 2 / 13))
    assert make("ema(window=12)").warmup == warmup == 138
    agree(*values("ema(window=12)", market), ema(close, 12), warmup)


def test_rsi(market, close):
    changes = [after - before for before, after in pairwise(close)]
    ups = wilder([max(change, 0) for change in changes], 14)
    downs = wilder([max(-change, 0) for change in changes], 14)
    expected = [math.nan, *(100 - 100 / (1 + up / down) for up, down in zip(ups, downs, strict=True))]
    agree(*values("rsi(window=14)", market), expected, make("rsi").warmup)


def test_macd_has_line_signal_and_histogram(market, close):
    line = [fast - slow for fast, slow in zip(ema(close, 12), ema(close, 26), strict=True)]
    signal = ema(line, 9)
    histogram = [one - other for one, other in zip(line, signal, strict=True)]
    chain = "macd(window_slow=26, window_fast=12, window_sign=9)"
    slow, both = make("ema(window=26)").warmup, make(chain).warmup
    for found, expected, warmup in zip(
        values(chain, market), (line, signal, histogram), (slow, both, both), strict=True
    ):
        agree(found, expected, warmup)


def test_bollinger_bands(market, close):
    windows = [close[row - 19 : row + 1] for row in range(19, ROWS)]
    middle = [math.nan] * 19 + [statistics.fmean(window) for window in windows]
    width = [math.nan] * 19 + [2.5 * statistics.pstdev(window) for window in windows]
    lower = [one - other for one, other in zip(middle, width, strict=True)]
    upper = [one + other for one, other in zip(middle, width, strict=True)]
    for found, expected in zip(values("bbands(window_dev=2.5)", market), (lower, middle, upper), strict=True):
        agree(found, expected, 19)


def true_ranges(market):
    high, low, close = (market[name].to_pylist() for name in ("high", "low", "close"))
    return [high[0] - low[0]] + [
        max(high[row], close[row - 1]) - min(low[row], close[row - 1]) for row in range(1, ROWS)
    ]


def test_atr_is_null_and_not_zero_in_its_warmup(market):
    agree(*values("atr(window=14)", market), wilder(true_ranges(market), 14), make("atr").warmup)


def test_adx(market):
    high, low = market["high"].to_pylist(), market["low"].to_pylist()
    ups = [after - before for before, after in pairwise(high)]
    downs = [before - after for before, after in pairwise(low)]
    plus = wilder([up if up > max(down, 0) else 0 for up, down in zip(ups, downs, strict=True)], 14)
    minus = wilder([down if down > max(up, 0) else 0 for up, down in zip(ups, downs, strict=True)], 14)
    ranges = wilder(true_ranges(market)[1:], 14)
    positive = [100 * up / whole for up, whole in zip(plus, ranges, strict=True)]
    negative = [100 * down / whole for down, whole in zip(minus, ranges, strict=True)]
    index = [100 * abs(up - down) / (up + down) for up, down in zip(positive, negative, strict=True)]
    adx = [math.nan] * 13 + wilder(index[13:], 14)
    for name, expected in (("adx_pos", positive), ("adx_neg", negative), ("adx", adx)):
        agree(*values(name, market), [math.nan, *expected], make(name).warmup)


@pytest.mark.parametrize("name", ["kst", "kst_sig", "kama", *(name for name in indicators() if "bollinger" in name)])
def test_corrected_functions_agree_with_ta_where_ta_sees_no_future(name, market):
    import ta.momentum
    import ta.trend
    import ta.volatility

    original = next(getattr(module, name) for module in (ta.momentum, ta.trend, ta.volatility) if hasattr(module, name))
    series = {column: market[column].to_pandas() for column in indicators()[name].inputs}
    agree(*values(name, market), original(**series).tolist(), make(name).warmup)


def test_a_split_in_the_history_leaves_the_bands_exact(close):
    after = close[600:]
    late = values("bollinger_wband", bars(close=after))[0]
    whole = values("bollinger_wband", bars(close=[*(price * 100 for price in close[:600]), *after]))[0]
    assert whole[-500:] == late[-500:]


def test_every_function_of_ta_is_there_by_its_own_name():
    import inspect

    from ta import momentum
    from ta import others
    from ta import trend
    from ta import volatility
    from ta import volume

    functions = {
        name: function
        for module in (momentum, others, trend, volatility, volume)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
    }
    assert len(functions) == 80
    for name, function in functions.items():
        found = indicators()[RENAMED.get(name, name)]
        expected = set(inspect.signature(function).parameters) - {"fillna", "dropnans"}
        assert {*found.inputs, *found.parameters} == expected
        assert found.doc


def test_parameters_have_ta_s_defaults_and_types():
    found = indicators()["keltner_channel_hband"]
    assert found.inputs == ("high", "low", "close")
    assert {name: (parameter.kind, parameter.default) for name, parameter in found.parameters.items()} == {
        "window": (int, 20),
        "window_atr": (int, 10),
        "original_version": (bool, True),
    }


def test_aliases_name_indicators_and_hide_none():
    for alias, members in ALIASES.items():
        assert set(members) <= set(indicators())
        assert alias not in indicators()


@pytest.mark.parametrize(
    ("chain", "labels"),
    [
        ("sma", ["sma_indicator(window=12)"]),
        ("sma_indicator(window=12)", ["sma_indicator(window=12)"]),
        ("bollinger_hband(window_dev=2)", ["bollinger_hband(window=20, window_dev=2.0)"]),
        ("vpt", ["volume_price_trend"]),
        ("aroon(window=5)", ["aroon_up(window=5)", "aroon_down(window=5)"]),
        (
            "resample(timeframe='1h') | rsi",
            ["resample(rolls='00:00', timeframe='1h', zone='UTC') | rsi(window=14)"],
        ),
    ],
)
def test_a_label_says_everything_and_reads_as_itself(chain, labels):
    found = make(chain).labels
    assert list(found) == labels
    for label in found:
        assert make(label).labels == (label,)


@pytest.mark.parametrize("name", ["acc_dist_index", "nvi", "obv", "vpt", "cumulative_return"])
def test_what_accumulates_from_the_first_bar_is_anchored(name):
    assert make(name).warmup is None


def test_decimals_and_floats_give_the_same_values():
    written = ["3.614886", "2.524021", "3.372352", "3.1"]
    exact = decimals([0, 1, 2, 3], close=written)
    assert values("sma(window=1)", exact) == [[float(price) for price in written]]
    assert values("sma(window=2)", exact) == values("sma(window=2)", bars(close=map(float, written)))


def test_a_bar_without_a_needed_value_counts_as_no_bar():
    close = [1.0, 2.0, None, 4.0, math.nan, 8.0, math.inf, 16.0]
    assert values("sma(window=2)", bars(close=close)) == [[None, 1.5, None, 3, None, 6, None, 12]]
    table = bars(close=[1.0, 2.0, 3.0], volume=[1.0, None, 1.0])
    assert values("sma(window=2)", table) == [[None, 1.5, 2.5]]
    assert values("obv", table) == [[1, None, 2]]


def test_a_market_at_rest_has_no_relative_strength():
    (found,) = values("rsi(window=2)", bars(close=[5.0] * 200))
    assert found == [None] * 200
    (found,) = values("ema(window=2)", bars(close=[5.0] * 200))
    assert found[-1] == 5


def test_division_by_zero_is_null():
    (found,) = values("roc(window=1)", bars(close=[0.0, 1.0, 2.0]))
    assert found == [None, None, 100]
    (found,) = values("log_returns", bars(close=[1.0, -1.0, 1.0, 1.0]))
    assert found == [None, None, None, 0]


def test_an_indicator_of_one_input_reads_the_only_column_there_is(market):
    (direct,) = values("sma(window=5)", bars(close=market["volume"].to_pylist()))
    assert values("select(column='volume') | sma(window=5)", market) == [direct]
    rsi = make("rsi").transform(market)["rsi(window=14)"].to_pylist()
    expected = [math.nan] * 2 + [
        statistics.fmean(rsi[row - 2 : row + 1]) if rsi[row - 2] is not None else math.nan for row in range(2, ROWS)
    ]
    agree(*values("rsi | sma(window=3)", market), expected, make("rsi | sma(window=3)").warmup)


@pytest.mark.parametrize(
    ("chain", "fault"),
    [
        ("sma(window=0)", "sma: window=0 is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(window=1000001)", "sma: window=1000001 is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(window=2.0)", "sma: window=2.0 is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(window=True)", "sma: window=True is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(window=None)", "sma: window=None is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(window='20')", "sma: window='20' is not accepted; have: a whole number from 1 to 1000000"),
        ("sma(fillna=True)", "sma: parameter 'fillna' is unknown; have: window"),
        ("vpt(dropnans=True)", "vpt: parameter 'dropnans' is unknown; have: smoothing_factor"),
        ("bbands(window_dev=0)", "bbands: window_dev=0 is not accepted; have: a number above 0"),
        (
            "donchian_channel_hband(offset=-1)",
            "donchian_channel_hband: offset=-1 is not accepted; have: a whole number from 0 to 1000000",
        ),
        ("ichimoku_a(visual=1)", "ichimoku_a: visual=1 is not accepted; have: True or False"),
        (
            "vpt(smoothing_factor=0)",
            "vpt: smoothing_factor=0 is not accepted; have: a whole number from 1 to 1000000, or None",
        ),
    ],
)
def test_wrong_parameters_are_refused_with_what_is_accepted(chain, fault):
    with pytest.raises(ConfigError) as caught:
        make(chain)
    assert list(caught.value.faults) == [fault]


def test_missing_columns_are_all_named():
    with pytest.raises(ConfigError) as caught:
        make("atr").output(bars(close=[1.0], volume=[1.0]).schema)
    assert list(caught.value.faults) == [
        "average_true_range(window=14): column 'high' is missing; have: ts_event, close, volume",
        "average_true_range(window=14): column 'low' is missing; have: ts_event, close, volume",
    ]
