"""YAML as nodes with lines, and plain values as YAML that every reader takes for the same."""

import json
import math
import string

import pytest
import yaml
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.exchange.entries import Fault
from catalog.exchange.yaml_nodes import Scalar
from catalog.exchange.yaml_nodes import Section
from catalog.exchange.yaml_nodes import compose
from catalog.exchange.yaml_nodes import plain_value
from catalog.exchange.yaml_text import print_yaml

WORDS = [
    "NO",
    "yes",
    "on",
    "null",
    "~",
    "1e5",
    "0x10",
    "012",
    "12:30",
    "1_000",
    ".inf",
    "2024-01-02",
    "=",
    "<<",
    "a: b",
    "- a",
]
TEXTS = st.one_of(st.text(), st.text(string.printable), st.sampled_from(WORDS), st.text("ab:# -\"'|", max_size=8))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
@example({"a" * 2000: {"b" * 2000: [[["c"]]]}})
@example({"x": "\ufeff\u2028\x85\x7f\U000e0001\t\n"})
def test_what_is_printed_is_read_as_the_same_by_us_and_by_everybody(value: dict[str, object]) -> None:
    text = "\n".join(print_yaml(value)) + "\n"
    faults: list[Fault] = []
    node = compose(text, faults)
    assert faults == []
    assert node is not None
    assert json.dumps(plain_value(node)) == json.dumps(value)
    assert json.dumps(yaml.safe_load(text)) == json.dumps(value)


def test_nodes_know_their_lines() -> None:
    root = compose("a: 1\n\n# why\nb:\n  - x\n  - {c: y,\n     d: z}\n", [])
    assert isinstance(root, Section)
    assert root.items["a"] == (1, Scalar(1, "1", plain=True))
    line, listing = root.items["b"]
    assert (line, listing.line, [item.line for item in listing.items]) == (4, 5, [5, 6])
    assert listing.items[1].items["d"] == (7, Scalar(7, "z", plain=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first on line 1"),
        (
            "a: &x [1]\nb: *x",
            "line 1: anchor '&x' is not accepted | line 2: alias '*x' is not accepted; write the",
        ),
        ("a: &a [1]\nb: {<<: *a}", "line 1: anchor '&a' is not accepted | line 2: alias '*a' is not accepted; write"),
        (
            "a: 1\nb: !!python/object/apply:os.system [ls]",
            "line 2: tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !!binary aGk=", "line 1: tag 'tag:yaml.org,2002:binary' is not accepted"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins; accepted: one"),
        ("? [1, 2]\n: 3", "line 1: a list or mapping cannot be a name; accepted: text"),
        ("a: [1,\n 2", "line 3: this is no YAML: did not find expected ',' or ']'"),
        ("a: 'x", "line 1: this is no YAML: found unexpected end of stream"),
        ("a:\n\t- b", "line 2: this is no YAML: found character that cannot start any token"),
        ("a: b: c", "line 1: this is no YAML: mapping values are not allowed in this context"),
        (
            "a: \x00\nb: \x07",
            r"line 1: the character '\x00' is not accepted in YAML; write an escape | line 2: the",
        ),
        ("a: " + "[" * 100_000, "line 1: it is nested deeper than 32 levels"),
        ("a: " + "{b: " * 100_000, "line 1: it is nested deeper than 32 levels"),
        ("%YAML 9.9\n---\na: 1", "line 1: this is no YAML"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_refused_is_named_with_its_line(text: str, expected: str) -> None:
    faults: list[Fault] = []
    compose(text, faults)
    assert " | ".join(map(str, faults)).startswith(expected)


def test_billion_laughs_stay_small() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    faults: list[Fault] = []
    compose("\n".join(lines), faults)
    assert len(faults) == 40 + 39 * 9


@pytest.mark.parametrize("word", ["yes", "No", "on", "OFF", "0x10", "012", "12:30", "1_000", ".inf", ".NaN", "+1"])
def test_words_that_readers_take_differently_are_refused_without_quotes(word: str) -> None:
    node = compose(f"a: {word}", [])
    assert isinstance(node, Section)
    with pytest.raises(ConfigError, match="is read differently by different programs; accepted: true, 16"):
        plain_value(node)
    quoted = compose(f"a: '{word}'", [])
    assert quoted is not None
    assert plain_value(quoted) == {"a": word}


def test_plain_words_are_what_json_would_make_of_them() -> None:
    node = compose("[true, False, null, ~, , 1, -0.5, 1e5, 2024-01-02, 09:30, text, '1']".replace(", ,", ", null,"), [])
    assert node is not None
    assert plain_value(node) == [
        True, False, None, None, None, 1, -0.5, 1e5, "2024-01-02", "09:30", "text", "1",
    ]  # fmt: skip
    huge = compose(f"a: {'9' * 5000}", [])
    assert huge is not None
    with pytest.raises(ConfigError, match="has too many digits"):
        plain_value(huge)
    assert math.isinf(plain_value(compose("1e999", [])))  # type: ignore[arg-type]
