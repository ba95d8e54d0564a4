"""Whatever the cuts, revisions and holes: live bars and values are those of all rows at once."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from tests.transforms.homes import Follower
from tests.transforms.homes import Home
from tests.transforms.homes import moments
from tests.transforms.markets import MINUTE
from tests.transforms.markets import decimals
from tests.transforms.markets import stamps
from tests.transforms.markets import walk
from tests.transforms.test_every_indicator import EVERY
from tests.transforms.test_every_indicator import shortened
from transforms import live
from transforms.chains import parse_chains
from transforms.indicators import indicators
from transforms.live import LAST
from transforms.live import LiveBars
from transforms.live import depth
from transforms.live import divide
from transforms.registry import make

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
#: relative to the largest value, since many indicators cross zero
PROMISE = 1e-9
#: every indicator, and chains that begin, end or are wholly in what needs the first bar
CHAINS = {
    *map(shortened, EVERY),
    "ema(window=5) | rsi(window=4)",
    "macd(window_fast=3, window_slow=6)",
    "obv | sma(window=3)",
    "rsi(window=4) | cumulative_return",
    "select(column='volume') | sma(window=4)",
    "vpt(smoothing_factor=5)",
}


def batch(chain, table):
    """Return all values, a dictionary for each column."""
    found = make(chain).transform(table)
    return [
        {at: value for at, value in zip(moments(found).tolist(), column.to_pylist(), strict=True) if value is not None}
        for column in found.columns[1:]
    ]


def agree(follower, rows=None):
    """Compare what was stored with what all rows at once give."""
    rows = follower.home.table if rows is None else rows
    for name, columns in follower.values.items():
        for stored, whole in zip(columns, batch(name, rows), strict=True):
            assert stored.keys() >= whole.keys(), name
            # a revision may turn the trend, and no write takes back what is stored
            assert stored.keys() == whole.keys() or name.startswith("psar_"), name
            largest = max(map(abs, whole.values()), default=0.0)
            assert all(abs(stored[at] - value) <= PROMISE * largest for at, value in whole.items()), name


def revised(table, row, factor=1.01):
    """Return the table with other numbers in one bar."""
    columns = [table[name].to_numpy().copy() for name in table.column_names[1:]]
    for column in columns:
        column[row] *= factor
    return pa.table([table["ts_event"], *columns], names=table.column_names)


def without(table, rows):
    """Return the table without some rows."""
    return table.filter(pa.array(~np.isin(np.arange(table.num_rows), rows)))


def at(table, row):
    return int(moments(table)[row])


@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_each_indicator_follows_new_bars_revisions_and_holes_filled_late(chain):
    rows = 2 * (depth(make(chain)) or 0) + 60
    table = walk(5, rows)
    hole = np.arange(rows // 2, rows // 2 + 7)
    follower = Follower([chain], Home(table.slice(0, 0)))
    for before, known in pairwise((0, rows // 2, rows - 30, rows - 29, rows - 20)):
        part = without(table.slice(0, known), hole)
        follower.write(part, at(table, before))
        follower.follow()
        agree(follower)
    follower.write(revised(part, part.num_rows - 3), at(part, part.num_rows - 3))
    follower.follow()
    agree(follower)
    follower.forget()
    follower.write(without(table, hole), at(part, part.num_rows - 3))
    follower.follow()
    agree(follower)
    follower.write(table, at(table, hole[0]))
    follower.follow()
    agree(follower)


#: quick ones, of every kind: windows, averages of averages, ratios, sums from the first bar
SAMPLED = st.sampled_from(sorted(chain for chain in CHAINS if not chain.startswith("psar_")))


@settings(max_examples=60, deadline=None)
@given(
    chains=st.lists(SAMPLED, min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_any_cuts_revisions_and_late_fills_give_the_batch_values(chains, seed, data):
    rows = max(depth(make(chain)) or 0 for chain in chains) + 120
    table = walk(seed, rows)
    hole = np.arange(*sorted(data.draw(st.tuples(st.integers(0, rows - 1), st.integers(0, rows)))))
    cuts = sorted(data.draw(st.sets(st.integers(1, rows), max_size=6)) | {rows})
    follower = Follower(chains, Home(table.slice(0, 0)))
    for before, known in pairwise([0, *cuts]):
        back = data.draw(st.integers(0, 5))
        for row in range(max(before - back, 0), before):
            table = revised(table, row)
        follower.write(without(table.slice(0, known), hole), at(table, max(before - back, 0)))
        if data.draw(st.booleans()):
            follower.follow()
        if data.draw(st.booleans()):
            follower.forget()
    follower.follow()
    agree(follower)
    follower.write(table, at(table, hole[0]) if hole.size else at(table, -1))
    follower.follow()
    agree(follower)


@settings(max_examples=30, deadline=None)
@given(
    chain=st.sampled_from(["money_flow_index(window=4)", "on_balance_volume", "volume_price_trend", "cmf(window=5)",
                           "force_index(window=2) | sma(window=3)"]),
    lacking=st.sets(st.integers(0, 299), max_size=200),
    cuts=st.sets(st.integers(200, 299), max_size=4),
)  # fmt: skip
def test_bars_that_lack_a_column_are_gone_over(chain, lacking, cuts):
    whole = walk(3, 300)
    volume = pa.array(whole["volume"].to_numpy(), mask=np.isin(np.arange(300), list(lacking)))
    whole = whole.set_column(whole.column_names.index("volume"), "volume", volume)
    follower = Follower([chain], Home(whole.slice(0, 0)))
    for before, known in pairwise([0, *sorted(cuts | {300})]):
        follower.forget()
        follower.write(whole.slice(0, known), at(whole, before))
        follower.follow()
        agree(follower)


# -- bars of trades -----------------------------------------------------------------------------------------------


RESAMPLINGS = st.sampled_from(
    [
        "resample(timeframe='1s')",
        "resample(timeframe='1m')",
        "resample(timeframe='4h')",
        "resample(timeframe='1d')",
        "resample(timeframe='1d', zone='America/Chicago', rolls='17:00')",
        "resample(timeframe='1d', zone='America/New_York', rolls='01:30')",
        "resample(timeframe='1w', zone='Australia/Sydney', rolls='08:00')",
        "resample(timeframe='1m') | resample(timeframe='1h')",
        "resample(timeframe='1d', zone='Asia/Kolkata', rolls='09:15') | resample(timeframe='1mo')",
    ]
)
#: five days around the night in which New York's clocks go back
NOVEMBER = np.datetime64("2024-11-01", "ns").astype(int).item()
instants = st.one_of(
    st.integers(0, 5 * 24 * HOUR),
    st.integers(0, 5 * 24 * 60).map(lambda minute: minute * MINUTE),
    st.integers(2 * 24 * 60 + 5 * 60, 2 * 24 * 60 + 8 * 60).map(lambda minute: minute * MINUTE),
)
numbers = st.decimals("-99999", "99999", places=9), st.decimals("0", "9999", places=18)
ticks = st.lists(st.tuples(instants, *numbers), min_size=1, max_size=40)


def trades(rows):
    rows = sorted(rows, key=lambda row: row[0])
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return decimals([NOVEMBER + instant for instant in columns[0]], price=columns[1], size=columns[2])


def finished(steps, table, heard):
    """Return the rows whose bars are finished."""
    bars = LiveBars(steps)
    return table.slice(0, np.searchsorted(moments(table), bars.opens(bars.label(heard))))


@settings(max_examples=50, deadline=None)
@given(rows=ticks, resampling=RESAMPLINGS, data=st.data())
def test_finished_bars_are_those_of_the_batch_whatever_comes_late(rows, resampling, data):
    resample = make(resampling)
    steps = tuple(step for step in getattr(resample, "steps", (resample,)))
    follower = Follower([f"{resampling} | sma(window=2)", f"{resampling} | obv"], Home(trades([])))
    arriving = data.draw(st.permutations(rows)) if data.draw(st.booleans()) else sorted(rows, key=lambda row: row[0])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)), max_size=5)) | {len(rows)})
    heard = NOVEMBER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "SLICE", data.draw(st.sampled_from([1, 4, 250_000])))
        for before, known in pairwise([0, *cuts]):
            table = trades(arriving[:known])
            follower.write(table, NOVEMBER + min(row[0] for row in arriving[before:known]))
            heard = max(heard, NOVEMBER + data.draw(instants))
            follower.follow(heard)
            assert list(follower.bars.values()) == [] or sorted(follower.bars) == sorted(set(follower.bars))
            expected = resample.transform(finished(steps, table, heard))
            assert dict(sorted(follower.bars.items())) == dict(
                zip(moments(expected).tolist(), expected.to_pylist(), strict=True)
            )
            agree(follower, finished(steps, table, heard))
            if data.draw(st.booleans()):
                follower.forget()
        follower.follow(LAST)
    expected = resample.transform(table)
    assert [follower.bars[label] for label in sorted(follower.bars)] == expected.to_pylist()
    agree(follower)


@pytest.mark.parametrize("chain", ["resample(timeframe='1m') | rsi(window=3)", "resample(timeframe='1m') | obv"])
def test_following_reads_each_row_once_however_old_the_series_is(chain):
    minutes, each = 300, 20
    table = trades([(row * 3 * SECOND, row % 7 + 1, 1) for row in range(minutes * each)])
    follower = Follower([chain], Home(table.slice(0, 0)))
    for known in range(each, table.num_rows + 1, each):
        follower.write(table.slice(0, known), at(table, known - each))
        follower.follow(NOVEMBER + known * 3 * SECOND)
    assert follower.home.asked == table.num_rows
    assert follower.home.largest == each
    # what is kept does not grow, and beginning again reads back as far as the warm-up
    assert follower.live.bars.num_rows < minutes
    follower.forget()
    follower.home.asked = 0
    follower.write(table, at(table, -1))
    follower.follow(LAST)
    assert 0 < follower.home.asked < table.num_rows / 2
    agree(follower)


def test_a_row_that_comes_late_makes_its_bar_again_and_what_follows_from_it():
    chain = "resample(timeframe='1m') | sma(window=2)"
    early, late, last = (0, 10, 1), (5 * SECOND, 40, 2), (MINUTE, 20, 1)
    follower = Follower([chain], Home(trades([])))
    follower.write(trades([early, last]), NOVEMBER)
    follower.follow(NOVEMBER + MINUTE)
    assert [bar["close"] for bar in follower.bars.values()] == [10]
    assert follower.values[chain] == [{}]
    follower.write(trades([early, late, last]), NOVEMBER + 5 * SECOND)
    follower.follow(NOVEMBER + 2 * MINUTE)
    assert [(bar["close"], bar["volume"]) for bar in follower.bars.values()] == [(40, 3), (20, 1)]
    assert follower.values[chain] == [{NOVEMBER + MINUTE: 30.0}]


def test_rows_before_a_minute_is_over_give_no_bar_of_it():
    live_bars = LiveBars(divide(make("resample(timeframe='1m') | obv"))[0])
    home = Home(trades([(0, 1, 1)]))
    assert live_bars.update(home, NOVEMBER, NOVEMBER + MINUTE - 1) is None
    assert live_bars.update(home, NOVEMBER, NOVEMBER + MINUTE) == NOVEMBER
    assert live_bars.bars["close"].to_pylist() == [1]


def test_bars_that_somebody_else_has_followed_meanwhile_are_not_taken_for_known():
    steps, chain = divide(make("resample(timeframe='1m') | sma(window=2)"))
    table = trades([(minute * MINUTE, 10 + minute * minute, 1) for minute in range(6)])
    bars, home = LiveBars(steps), Home(table)
    bars.update(home, NOVEMBER, NOVEMBER + 2 * MINUTE)
    first = bars.update(home, NOVEMBER + 4 * MINUTE, NOVEMBER + 6 * MINUTE)
    found = bars.values(chain, home, first, lambda start, end: None)
    assert found.column(1).to_pylist() == [(19 + 26) / 2, (26 + 35) / 2]


def test_clocks_that_go_back_do_not_begin_a_session_twice():
    # 01:45 summer time, 01:15 and 01:45 winter time
    instants = ["2024-11-03T05:15Z", "2024-11-03T05:45Z", "2024-11-03T06:15Z", "2024-11-03T06:45Z"]
    resample = make("resample(timeframe='1d', zone='America/New_York', rolls='01:30')")
    found = resample.transform(decimals(instants, price=["1", "2", "3", "4"], size=["1"] * 4))
    assert stamps(found) == ["2024-11-03T00:00:00Z", "2024-11-04T00:00:00Z"]
    assert found["trade_count"].to_pylist() == [1, 3]
    assert stamps(pa.table({"ts_event": resample.opens_of(found["ts_event"])})) == [
        "2024-11-02T05:30:00Z",
        "2024-11-03T05:30:00Z",
    ]


def test_rows_of_older_fetches_are_known():
    table = walk(1, 4).append_column("fetch_id", pa.array([1, 1, 7, 1]))
    bars, home = LiveBars(), Home(table)
    assert bars.update(home, at(table, 0), LAST, fetch=7) == at(table, 2)
    assert bars.update(home, at(table, 1), LAST, fetch=8) is None
    assert bars.update(home, at(table, 3), LAST) == at(table, 3)


def test_whatever_needs_the_first_bar_tells_how_it_goes_on():
    assert [name for name, found in indicators().items() if found.anchored and found.resume is None] == []


def test_trades_make_their_own_bars_for_what_is_stored():
    chain = "resample(timeframe='1m') | rsi(window=14) | store"
    assert [str(read) for read in parse_chains(chain, "trades")] == [chain]
    for refused, schema in (
        ("rsi", "trades"),
        ("select(column='price')", "trades"),
        (chain, "quotes"),
        ("rsi", "nonsense"),
    ):
        with pytest.raises(ConfigError, match=f"schema '{schema}' has no bars; accepted: schemas ohlcv-\\*, and"):
            parse_chains(refused, schema)
