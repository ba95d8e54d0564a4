import keyword
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ConfigError
from transforms.spec import MAX_STEPS
from transforms.spec import MAX_TEXT
from transforms.spec import MAX_WHOLE
from transforms.spec import TransformSpec
from transforms.spec import parse
from transforms.spec import text

names = st.from_regex(r"[a-z_][a-z0-9_]{0,15}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=12)
values = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_WHOLE, MAX_WHOLE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | printable
)
specs = st.builds(TransformSpec, names, st.dictionaries(names, values, max_size=3))
chains = st.lists(specs, min_size=1, max_size=4).map(tuple)


@given(chains)
def test_what_is_printed_reads_as_the_same_chain(chain):
    assert parse(text(chain)) == chain


@given(chains)
def test_printing_what_was_read_gives_the_same_text(chain):
    assert text(parse(text(chain))) == text(chain)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("sma(window=20)", "sma(window=20)"),
        (" sma ( window = 20 ) ", "sma(window=20)"),
        ("on_balance_volume()", "on_balance_volume"),
        ("macd(window_slow=26, window_fast=12)", "macd(window_fast=12, window_slow=26)"),
        ('resample(timeframe="1h")|rsi(window=14)', "resample(timeframe='1h') | rsi(window=14)"),
        ("a(x=-1, y=2.50, z=None, t=True)", "a(t=True, x=-1, y=2.5, z=None)"),
        ("a(x='1 | 2')", "a(x='1 | 2')"),
        ("a(\n  x=1,\n) | b", "a(x=1) | b"),
    ],
)
def test_texts_have_one_canonical_form(written, canonical):
    assert text(parse(written)) == canonical


def test_numbers_of_another_type_are_another_spec():
    one, true, real = (TransformSpec("a", {"x": value}) for value in (1, True, 1.0))
    assert len({one, true, real}) == 3
    assert one == TransformSpec("a", {"x": 1})


def test_a_spec_can_be_pickled_for_a_job():
    import pickle

    spec = TransformSpec("a", {"x": 1})
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301


@pytest.mark.parametrize(
    "hostile",
    [
        "__import__('os').system('true')",
        "sma(window=__import__('os'))",
        "sma(window=open('/etc/passwd').read())",
        "sma.__class__(window=1)",
        "sma(window=x)",
        "sma(window=[1])",
        "sma(window={'a': 1})",
        "sma(window=1 + 1)",
        "sma(window=9**9**9)",
        "sma(window=lambda: 1)",
        "sma(window=f'{1}')",
        "sma(window=b'1')",
        "sma(window=1j)",
        "sma(window=...)",
        "sma(window=1e999)",
        "sma(window=-1e999)",
        "sma(window=--1)",
        "sma(window=-True)",
        "sma(window=not 1)",
        "sma(window=(y := 1))",
        "sma(20)",
        "sma(*a)",
        "sma(**{'window': 20})",
        "sma(window=1, window=2)",
        "sma(window=1)(window=2)",
        "sma[0]",
        "(sma, ema)",
        "sma & ema",
        "sma or ema",
        "sma; ema",
        "sma |",
        "| sma",
        "sma || ema",
        "import os",
        "x = 1",
        "'sma'",
        "1",
        "",
        "   ",
        "sma(window='\\d')",
        "sma(window='\\x00')",
        "sma(window='\N{LATIN SMALL LETTER E WITH ACUTE}')",
        "sma\x00",
        "ﬁ(x=1)",
        "sma(ﬁ=1)",
        "if(x=1)",
        "1if 2 else 3",
        "sma(window=1if 2 else 3)",
        "\ud800",
    ],
    ids=ascii,
)
def test_anything_else_is_refused_as_a_fault_of_the_catalog(hostile):
    with pytest.raises(ConfigError):
        parse(hostile)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("sma(window=" + "9" * 400 + ")", id="400 digits"),
        pytest.param("sma(window=" + "9" * 990 + ")", id="990 digits"),
        pytest.param("(" * 300, id="300 brackets"),
        pytest.param(
            "(" * 90 + "sma" + ")" * 90 + "(window=" + "(" * 150 + "1" + ")" * 150 + "[0])", id="nested brackets"
        ),
        pytest.param("-" * 900 + "1", id="900 minus signs"),
        pytest.param("not " * 240 + "1", id="240 nots"),
        pytest.param("sma(window=" + "-" * 900 + "1)", id="900 minus signs in a value"),
        pytest.param("sma(window=" + "[" * 190 + "]" * 190 + ")", id="190 lists"),
        pytest.param("a" + ".b" * 400, id="400 attributes"),
        pytest.param("a" + "()" * 400, id="400 calls"),
        pytest.param("a|" * (MAX_STEPS + 1) + "a", id="one step too many"),
        pytest.param("a|" * 400 + "a", id="400 steps"),
        pytest.param("a" * (MAX_TEXT + 1), id="one character too many"),
        pytest.param("sma" * 10_000_000, id="30 million characters"),
    ],
)
def test_what_is_long_or_deep_is_refused_in_a_short_message(hostile):
    with pytest.raises(ConfigError) as caught:
        parse(hostile)
    assert len(str(caught.value)) < 1000


@given(st.text(max_size=200))
def test_any_text_is_either_read_or_refused(source):
    with suppress(ConfigError):
        chain = parse(source)
        assert parse(text(chain)) == chain


@given(st.text(st.sampled_from("ab_1.5 =,|()-'\"[]*\\\n\t:@"), max_size=40))
def test_any_text_of_the_grammar_s_characters_is_either_read_or_refused(source):
    with suppress(ConfigError):
        chain = parse(source)
        assert parse(text(chain)) == chain


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse("sma(20) | rsi(window=x, if_=[]) | a.b | ema(window=1)")
    assert list(caught.value.faults) == [
        "sma: every value needs its parameter's name: name=value",
        "rsi: window=x is not a plain value; have: a number, text, True, False or None",
        "rsi: if_=[] is not a plain value; have: a number, text, True, False or None",
        "step a.b is not of the form name(parameter=value)",
    ]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("a b", {}),
        ("if", {}),
        ("", {}),
        ("a", {"b c": 1}),
        ("a", {"b": float("nan")}),
        ("a", {"b": MAX_WHOLE + 1}),
        ("a", {"b": 10**5000}),
        ("a", {"b": "\n"}),
        ("a", {"b": [1]}),
        ("a", {"b": "x" * 1000}),
    ],
)
def test_a_spec_that_could_not_be_written_cannot_be_made(name, parameters):
    with pytest.raises(ConfigError):
        TransformSpec(name, parameters)


def test_parsing_reads_the_same_from_other_types_not_at_all():
    with pytest.raises(ConfigError, match="is empty"):
        parse(None)
