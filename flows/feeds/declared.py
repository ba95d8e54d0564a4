"""Events as objects that have only the fields a feed's rows are made of: half the time of reading everything.

That is for frames in which everything is as it was declared. What is not is read once more, whole.
"""

from itertools import takewhile
from keyword import iskeyword
from typing import Any

import msgspec

from flows.feeds.feed import Feed
from flows.feeds.feed import steps

_Tree = dict[str, "_Tree"]


def decoder(feed: Feed) -> msgspec.json.Decoder[list[Any]] | None:
    """Return what decodes a JSON array of a feed's messages, with texts between them; None where it cannot.

    A message is an event, or an array of events; where one is anything else it raises msgspec.DecodeError. What an
    event lacks is None; numbers with a point or an exponent are their text.
    """
    tree: _Tree = {}
    for events in feed.events.values():
        for place in (*events.when, *events.fields.values(), events.symbol):
            if not _grown(tree, steps(place)):
                return None
    if feed.records or not tree:
        return None
    event = _struct(tree)
    return msgspec.json.Decoder(list[event | list[event] | str], float_hook=str)  # type: ignore[valid-type]


def _grown(tree: _Tree, way: tuple[str | int, ...]) -> bool:
    """Add a place; false where it is not made of plain names, or lies inside another one."""
    # what has positions is kept as it is
    names = list(takewhile(lambda step: isinstance(step, str), way))
    for number, step in enumerate(names):
        if not isinstance(step, str) or not step.isidentifier() or iskeyword(step) or step.startswith("_"):
            return False
        last = number == len(names) - 1
        if step in tree and last == bool(tree[step]):
            return False
        tree = tree.setdefault(step, {})
    return bool(names)


def _struct(tree: _Tree) -> Any:
    fields = [(name, _struct(inner) | None if inner else Any, None) for name, inner in tree.items()]
    # JSON has no cycles
    return msgspec.defstruct("Event", fields, gc=False)
