import pytest

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from tests.transforms.markets import bars
from tests.transforms.markets import decimals
from tests.transforms.markets import texts
from tests.transforms.markets import walk
from transforms.registry import make


def test_spread_is_exact_and_only_where_both_have_a_bar():
    one = decimals([1, 2, 4], close=["0.3", "99999999999999999999", "1"])
    other = decimals([1, 2, 3], close=["0.100000000000000001", "0.1", "1"])
    found = make("spread").transform(one, other)
    assert found["ts_event"].cast("int64").to_pylist() == [1, 2]
    assert texts(found) == {"spread": ["0.199999999999999999", "99999999999999999998.9"]}
    assert texts(make("spread").transform(other, one))["spread"][0] == "-0.199999999999999999"


def test_ratio_is_null_over_zero():
    found = make("ratio").transform(decimals([1, 2], close=["1", "1"]), decimals([1, 2], close=["4", "0"]))
    assert found["ratio"].to_pylist() == [0.25, None]


def test_the_join_is_in_time_order():
    table = walk(1, 5000)
    found = make("ratio").transform(table, table)
    assert found["ts_event"] == table["ts_event"]
    assert set(found["ratio"].to_pylist()) == {1.0}


def test_two_columns_of_values_can_be_compared():
    left, right = (make(chain).transform(walk(1, 50)) for chain in ("sma(window=2)", "sma(window=3)"))
    found = make("spread").transform(left, right)
    assert found["spread"].type == "double"
    assert found["spread"].to_pylist()[:2] == [None, None]


def test_nothing_in_common_gives_no_rows():
    found = make("spread").transform(decimals([1], close=["1"]), decimals([2], close=["1"]))
    assert found.num_rows == 0
    assert make("spread").transform(*[decimals([], close=[])] * 2).num_rows == 0


def test_a_time_given_twice_is_refused():
    with pytest.raises(SchemaMismatch):
        make("spread").transform(decimals([1, 1], close=["1", "1"]), decimals([1], close=["1"]))


def test_inputs_without_one_value_are_refused():
    with pytest.raises(ConfigError, match="column 'close' is missing; have: ts_event, open, high"):
        make("spread").transform(bars(close=[1.0]), bars(open=[1.0], high=[1.0]))


def test_a_pair_takes_two_tables():
    with pytest.raises(ConfigError, match=r"^spread: 1 tables given; takes 2$"):
        make("spread").transform(bars(close=[1.0]))
