"""Tells the events of a feed apart: a tree of places, in which each value leads to fewer kinds of events."""

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from flows.feeds.feed import steps
from flows.formats.records import values

_Key = tuple[type, Any]
_NULL: _Key = (type(None), None)


@dataclass(slots=True)
class _Fork:
    """A place, and where its values lead; the last way is that of values which none is for."""

    place: tuple[str | int, ...]
    codes: dict[_Key, int]
    ways: list["_Node"]


@dataclass(slots=True)
class _Node:
    """What is looked at next; `kind` is what an event is that fits nothing further, -1: unknown."""

    kind: int = -1
    forks: list[_Fork] = field(default_factory=list)


class Sorter:
    """Tells which of some kinds records are."""

    def __init__(self, whens: Sequence[Mapping[str, Any]]) -> None:
        self._whens = [[(steps(place), accepted) for place, accepted in when.items()] for when in whens]
        self._root = self._node(range(len(whens)), 0)
        #: the places that are looked at first
        self.places = [fork.place for fork in self._root.forks]

    def kinds(self, records: list[Any]) -> np.ndarray:
        """Return the number of each record's kind; -1 where it is none of them."""
        found = np.full(len(records), -1)
        self._sort(self._root, records, np.arange(len(records)), found)
        return found

    def _node(self, kinds: Sequence[int], depth: int) -> _Node:
        done = [kind for kind in kinds if len(self._whens[kind]) == depth]
        node = _Node(done[0] if done else -1)
        further = [kind for kind in kinds if len(self._whens[kind]) > depth]
        for place in dict.fromkeys(self._whens[kind][depth][0] for kind in further):
            accepted = {kind: self._whens[kind][depth][1] for kind in further if self._whens[kind][depth][0] == place}
            keys = list(dict.fromkeys(_key(value) for some in accepted.values() for value in some))
            # what takes any value is possible with every value
            ways = [[kind for kind, some in accepted.items() if not some or key in map(_key, some)] for key in keys]
            ways.append([kind for kind, some in accepted.items() if not some])
            nodes = [self._node(way, depth + 1) for way in ways]
            node.forks.append(_Fork(place, {key: code for code, key in enumerate(keys)}, nodes))
        return node

    def _sort(self, node: _Node, records: list[Any], positions: np.ndarray, found: np.ndarray) -> None:
        for fork in node.forks:
            if not len(positions):
                return
            codes = _coded(values(taken(records, positions), fork.place), fork.codes)
            for code in np.unique(codes).tolist():
                if code >= 0:
                    self._sort(fork.ways[code], records, positions[codes == code], found)
            positions = positions[found[positions] < 0]
        if node.kind >= 0:
            found[positions] = node.kind


def taken(records: list[Any], positions: np.ndarray) -> list[Any]:
    """Return the records at some positions, which are in order."""
    if len(positions) == len(records):
        return records
    if len(positions) < 2:
        return [records[at] for at in positions.tolist()]
    return list(itemgetter(*positions.tolist())(records))


def _coded(found: list[Any], codes: dict[_Key, int]) -> np.ndarray:
    """Return the code of each value; that of others, which are not null, is the next one, that of null -1."""
    other, null = len(codes), codes.get(_NULL, -1)
    try:
        words = pa.array(found, pa.string()).dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        # not only texts
        each = (null if value is None else codes.get(_key(value), other) for value in found)
        return np.fromiter(each, np.int64, len(found))
    table = np.array([*(codes.get((str, word), other) for word in words.dictionary.to_pylist()), null], np.int64)
    return np.asarray(table[words.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)])


def _key(value: Any) -> _Key:
    """Return a value as a key that tells true from 1; of what could be none, a key that nothing has."""
    return (type(value), value if isinstance(value, bool | int | str | None) else None)
