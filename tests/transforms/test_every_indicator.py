"""What every indicator keeps, whoever wrote it."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import SchemaMismatch
from tests.transforms.markets import bars
from tests.transforms.markets import walk
from transforms.base import ANCHORED
from transforms.indicators import indicators
from transforms.registry import make

EVERY = sorted(indicators())
#: relative to the largest value, since many indicators cross zero
PROMISE = 1e-9
AFTER = 300


@cache
def market(rows, seed=11):
    return walk(seed, rows)


def column(name, table):
    found = make(name).transform(table)
    assert found.num_rows == table.num_rows
    assert found.schema == make(name).output(table.schema)
    (label,) = make(name).labels
    assert found.column_names == ["ts_event", label]
    return found[label].to_numpy()


def differ(one, other):
    """Return how far two columns are apart, in parts of the largest value."""
    assert np.isnan(one).tolist() == np.isnan(other).tolist()
    if np.isnan(one).all():
        return 0.0
    return np.nanmax(np.abs(one - other)) / max(np.nanmax(np.abs(one)), 1e-300)


def shortened(name, by=3):
    """Return the indicator with its windows cut to a third, so that formulas are tested beside defaults."""
    windows = {
        key: max(1, parameter.default // by)
        for key, parameter in indicators()[name].parameters.items()
        if parameter.kind is int and parameter.default
    }
    arguments = ", ".join(f"{key}={value}" for key, value in windows.items())
    return f"{name}({arguments})" if arguments else name


CHAINS = {
    *EVERY,
    *map(shortened, EVERY),
    *(shortened(name, by=1000) for name in EVERY),
    *(f"dpo(window={window})" for window in (2, 3, 4)),
    *(f"donchian_channel_{band}band(offset=7)" for band in "hlmpw"),
    *(f"keltner_channel_{band}band(original_version=False, window=5)" for band in "hlmpw"),
    "ichimoku_a(visual=True)",
    "ichimoku_b(visual=True)",
    "kama(pow1=1, pow2=5)",
    "kst(window1=50)",
    "macd_signal(window_slow=5, window_fast=9)",
    "psar_up(step=0.05, max_step=0.05)",
    "volume_price_trend(smoothing_factor=5)",
}


@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_later_bars_change_nothing(chain):
    rows = (make(chain).warmup or 0) + AFTER
    whole = column(chain, market(rows))
    cut = column(chain, market(rows).slice(0, rows - 100))
    assert differ(cut, whole[:-100]) < 1e-12


@pytest.mark.parametrize("chain", [chain for chain in sorted(CHAINS) if make(chain).warmup is not ANCHORED])
def test_bars_before_the_warmup_change_nothing_after_it(chain):
    warmup = make(chain).warmup
    table = market(2 * warmup + 2 * AFTER)
    for dropped in (1, AFTER, warmup + AFTER):
        late = column(chain, table.slice(dropped))
        assert differ(column(chain, table)[dropped + warmup :], late[warmup:]) < PROMISE
        assert np.isnan(late[:warmup]).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_first_bar_after_the_warmup_has_a_value(name):
    warmup = make(name).warmup or 0
    values = column(name, market(warmup + AFTER))
    if name.startswith("psar_"):
        assert not np.isnan(values).all()  # one of up and down at a time
    else:
        # a change needs a bar before, whether the rest is anchored or not
        first = 1 if name == "volume_price_trend" else warmup
        assert not np.isnan(values[first:]).any()


@pytest.mark.parametrize("name", EVERY)
def test_short_inputs_are_null_and_no_error(name):
    warmup = make(name).warmup
    for rows in (0, 1, 2, 3, 30):
        values = column(name, market(30).slice(0, rows))
        if warmup is not ANCHORED:
            assert np.isnan(values[:warmup]).all()


@pytest.mark.parametrize("name", EVERY)
def test_markets_at_rest_at_zero_or_unknown_give_no_error(name):
    rows = min((make(name).warmup or 0) + 20, 1500)
    for price, volume in ((5.0, 0.0), (0.0, 0.0), (-37.63, 1.0), (None, None), (float("nan"), 1.0)):
        prices = [price] * rows
        values = column(name, bars(open=prices, high=prices, low=prices, close=prices, volume=[volume] * rows))
        assert not np.isinf(values).any()


@pytest.mark.parametrize("name", [name for name in EVERY if not indicators()[name].anchored])
def test_a_null_bar_is_as_if_it_were_not_there(name):
    rows = make(name).warmup + 50
    table = market(rows)
    hole = rows - 25
    kept = pa.array(np.arange(rows) != hole)
    nothing = pa.array([None] * rows, pa.float64())
    columns = [
        pa.chunked_array([pa.compute.if_else(kept, table[key].combine_chunks(), nothing)])
        for key in table.column_names[1:]
    ]
    holed = pa.table([table["ts_event"], *columns], names=table.column_names)
    values = column(name, holed)
    assert np.isnan(values[hole])
    assert differ(values[kept.to_numpy(zero_copy_only=False)], column(name, table.filter(kept))) == 0


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["sma", "ema", "rsi", "atr", "macd", "bbands", "volatility", "cci", "tsi", "aroon", "mfi"]),
    seed=st.integers(0, 2**32 - 1),
    dropped=st.integers(1, 400),
    removed=st.integers(1, 400),
)
def test_any_market_keeps_the_promises_of_common_indicators(name, seed, dropped, removed):
    transformer = make(name)
    table = walk(seed, 1100)
    whole = transformer.transform(table)
    part = transformer.transform(table.slice(dropped, 1100 - dropped - removed))
    for label, bound in zip(transformer.labels, transformer.columns, strict=True):
        late, full = part[label].to_numpy(), whole[label].to_numpy()[dropped : 1100 - removed]
        assert np.isnan(late[: bound.warmup]).all()
        assert differ(full[bound.warmup :], late[bound.warmup :]) < PROMISE


@settings(max_examples=25, deadline=None)
@given(window=st.integers(1, 60), name=st.sampled_from(["sma", "ema", "rsi", "wma", "atr", "aroon", "roc", "trix"]))
def test_warmups_hold_for_any_window(name, window):
    chain = f"{name}(window={window})"
    warmup = make(chain).warmup
    table = market(2600)
    whole, late = (make(chain).transform(part) for part in (table, table.slice(400)))
    for label in make(chain).labels:
        assert differ(whole[label].to_numpy()[400 + warmup :], late[label].to_numpy()[warmup:]) < PROMISE


def test_an_adaptive_average_waits_until_it_has_forgotten():
    up_and_down = [100.0 + row % 2 for row in range(8000)]
    whole, late = (column("kama", bars(close=prices)) for prices in (up_and_down, [300.0, *up_and_down[1000:]]))
    known = ~np.isnan(late[1:])
    assert not known[:4000].any()
    assert known[6000:].all()
    assert differ(whole[1000:][known], late[1:][known]) < PROMISE


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 0, 1], [0, 2, 1]], ids=["swapped", "twice", "late"])
def test_rows_out_of_order_are_refused(order):
    with pytest.raises(SchemaMismatch, match="in time order"):
        make("sma").transform(market(3).take(order))
