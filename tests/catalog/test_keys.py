"""Keys: what is made can be parsed, what is hostile stays text."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.keys import InstrumentName
from catalog.keys import Key

part = st.text(min_size=1, max_size=30).filter(lambda text: not any(0xD800 <= ord(char) <= 0xDFFF for char in text))


@given(part, part, part, part)
def test_parsing_a_printed_key_gives_the_key(source: str, asset_class: str, symbol: str, schema: str) -> None:
    key = Key(InstrumentName(source, asset_class, symbol), schema)
    assert Key.parse(str(key)) == key
    assert str(key).count(":") == 3


@given(part)
def test_no_part_climbs_out_of_its_folder(text: str) -> None:
    for folder in InstrumentName(text, text, text).folders():
        assert PurePosixPath(folder).name == folder
        assert folder not in (".", "..")


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:d:e", "a::c:d", "a:b:c d:e", "a:b:c%2:d", "a:b:ü:d", "a:b:%F0:d"])
def test_other_texts_are_refused_with_the_shape(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted: source:asset_class:symbol:schema"):
        Key.parse(text)
