"""Plain values as YAML, byte for byte the same everywhere: one way to write each value, no wrapped lines."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from typing import Final

from catalog.exchange.yaml_nodes import TEXT_TAG
from catalog.exchange.yaml_nodes import tag

# words that begin with a letter and hold nothing that could mean something in YAML
_PLAIN: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.()=,;|/*%+-]|:(?=[A-Za-z0-9(%])| (?=[A-Za-z0-9(|]))*", re.ASCII)
_STEP: Final = "  "
# a longer name needs YAML's explicit form; the limit is 1,024 characters, escapes included
_MAX_NAME: Final = 128


def print_yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Yield the lines of a mapping or list, without line ends."""
    if isinstance(value, dict):
        for name, item in value.items():
            head = f"{scalar(name)}:" if len(name) <= _MAX_NAME else f"? {scalar(name)}\n{indent}:"
            yield from _item(f"{indent}{head}", item, indent)
    else:
        for item in value:
            if isinstance(item, dict | list) and item:
                first, *others = print_yaml(item, indent + _STEP)
                yield f"{indent}- {first.removeprefix(indent + _STEP)}"
                yield from others
            else:
                yield f"{indent}- {scalar(item)}"


@lru_cache(maxsize=65536, typed=True)
def text_scalar(text: str) -> str:
    """Return a text as YAML: as it is where no reader can misunderstand it, else in double quotes."""
    if _PLAIN.fullmatch(text) and tag(text) == TEXT_TAG:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_escape, quoted))


class Bare(str):
    """A text that needs no quotes, as times do."""

    __slots__ = ()


def scalar(value: Any) -> str:
    """Return a value that is neither a mapping nor a list with items."""
    if isinstance(value, Bare):
        return value
    if isinstance(value, str):
        return text_scalar(value)
    if isinstance(value, float):
        # YAML 1.1 takes 1e-05 for text
        digits, exponent, power = repr(value).partition("e")
        return f"{digits}{'' if '.' in digits or not exponent else '.0'}{exponent}{power}"
    return json.dumps(value)


def _item(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield head
        yield from print_yaml(value, indent + _STEP)
    else:
        yield f"{head} {scalar(value)}"


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
