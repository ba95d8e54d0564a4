import subprocess
import sys

import pytest

from catalog.errors import ConfigError
from tests.transforms.markets import bars
from tests.transforms.markets import decimals
from tests.transforms.markets import walk
from transforms.base import BaseTransformer
from transforms.base import Chain
from transforms.indicators import ALIASES
from transforms.indicators import indicators
from transforms.registry import make
from transforms.registry import transformers
from transforms.spec import TransformSpec
from transforms.spec import parse
from transforms.spec import text

EVERY = [*transformers(), *ALIASES, *indicators()]
REQUIRED = {"resample": "resample(timeframe='1d')", "select": "select(column='close')"}


def test_what_is_written_in_this_folder_is_found():
    assert set(transformers()) == {"ratio", "resample", "select", "spread"}
    assert indicators()["volatility"].function.__module__ == "transforms.returns"
    assert indicators()["kst"].function.__module__ == "transforms.corrected"
    assert all(issubclass(found, BaseTransformer) and found.__doc__ for found in transformers().values())


def test_names_are_given_once():
    assert len(EVERY) == len(set(EVERY))


@pytest.mark.parametrize("name", EVERY)
def test_specs_with_every_parameter_make_the_same_transformer(name):
    made = make(REQUIRED.get(name, name))
    again = make(made.specs)
    assert again.specs == made.specs == parse(text(made.specs))
    assert again.labels == made.labels
    assert again.warmup == made.warmup


def test_a_transformer_is_made_from_text_spec_or_specs():
    spec = TransformSpec("rsi", {"window": 5})
    assert make(spec).specs == make("rsi(window=5)").specs == make([spec]).specs == (spec,)


def test_warmups_add_up_and_anchors_are_contagious():
    assert make("sma(window=5) | sma(window=3)").warmup == 6
    assert make("obv | sma(window=3)").warmup is None
    assert make("sma(window=3) | cumulative_return").warmup is None
    assert make("select(column='close') | sma(window=3)").warmup == 2


def test_warmup_is_counted_in_the_bars_that_resampling_makes():
    chain = make("resample(timeframe='1h') | resample(timeframe='1d') | sma(window=5)")
    assert (chain.warmup, chain.warmup_timeframe) == (6, "1d")
    assert make("sma").warmup_timeframe == ""


def test_only_the_first_step_takes_several_inputs():
    chain = make("spread | sma(window=2)")
    assert isinstance(chain, Chain)
    assert chain.inputs == 2
    found = chain.transform(decimals([1, 2], close=["3", "4"]), decimals([1, 2], close=["1", "1"]))
    assert found.to_pydict()["spread | sma_indicator(window=2)"] == [None, 2.5]
    with pytest.raises(ConfigError, match="spread takes 2 inputs, so it can only be the first step"):
        make("sma | spread")


def test_a_chain_gives_the_schema_it_says():
    for chain in ("resample(timeframe='1d') | macd", "select(column='close') | select(column='close')", "rsi | bbands"):
        table = decimals([1, 2], **{name: ["1", "2"] for name in ("open", "high", "low", "close")})
        if chain.startswith("rsi"):
            table = walk(1, 400)
        assert make(chain).transform(table).schema == make(chain).output(table.schema)


def test_steps_that_do_not_fit_are_refused_before_any_row_is_read():
    with pytest.raises(ConfigError, match=r"resample: column 'open' is missing; have: ts_event, sma_indicator"):
        make("sma(window=2) | resample(timeframe='1d')").output(bars(close=[1.0]).schema)


def test_an_empty_chain_is_refused():
    with pytest.raises(ConfigError, match="chain is empty"):
        make([])


def test_faults_of_all_steps_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        make("smaa | rsi(windw=3) | resample(timeframe='2h')")
    assert [fault.partition(";")[0].partition("?")[0] for fault in caught.value.faults] == [
        "transform 'smaa' is unknown",
        "rsi: parameter 'windw' is unknown",
        "resample: timeframe '2h' is unknown",
    ]


def test_an_unknown_name_is_answered_with_close_ones_or_all():
    with pytest.raises(ConfigError, match=r"did you mean .*bbands"):
        make("bband")
    with pytest.raises(ConfigError, match=r"have: acc_dist_index, adi, .*, wma_indicator$"):
        make("qqqqqqq")


def test_pandas_and_ta_are_imported_only_when_needed():
    script = """
import sys
from transforms.registry import make
make("resample(timeframe='1d') | select(column='close')")
assert not {"pandas", "ta", "django", "prefect"} & set(sys.modules), set(sys.modules)
make("sma")
assert "ta" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
