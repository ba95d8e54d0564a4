"""Many commands as the server reads them (RESP), laid out by columns.

    *<parts>  \\r\\n$<bytes of a part>\\r\\n<part> …  \\r\\n

What is the same in all rows is laid out once. A part begins with the end of the line before it, so that one that a row
does not have is nothing at all.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from itertools import repeat
from typing import Final
from typing import cast

import numpy as np

from flows.rediswire import rows as wire
from flows.rediswire.changes import Appended
from flows.rediswire.names import entry_ids

#: rows that are laid out before they are sent
_AT_ONCE: Final = 500
_END: Final = b"\r\n"

# the same in all rows, or of each row
_Piece = bytes | list[bytes]


@dataclass(frozen=True, slots=True)
class Packed:
    """Some commands, one after the other."""

    content: bytes
    commands: int


def additions(streams: Sequence[tuple[str, Appended]]) -> Iterator[Packed]:
    """Yield the commands that append rows to streams as fields, some at a time: the server begins with those."""
    times = np.concatenate([added.times for _, added in streams])
    rows = _Rows(
        [added.rows for _, added in streams], entry_ids(times, np.concatenate([a.counters for _, a in streams]))
    )
    for name, added in streams:
        for start in range(0, len(added.rows), _AT_ONCE):
            count = min(len(added.rows) - start, _AT_ONCE)
            yield Packed(rows.take(count, b"", "XADD", name), count)


def replacements(hashes: Sequence[tuple[str, wire.Lines]]) -> Packed:
    """Return the commands that put one row each in the place of what hashes hold."""
    rows = _Rows([row for _, row in hashes])
    content = [rows.take(1, b"*2" + _parts("DEL", name) + _END, "HSET", name) for name, _ in hashes]
    return Packed(b"".join(content), 2 * len(content))


def messages(channel: str, texts: Sequence[str]) -> Packed:
    """Return the commands that publish texts."""
    head = b"*3" + _parts("PUBLISH", channel)
    return Packed(b"".join([head + _parts(text) + _END for text in texts]), len(texts))


class _Rows:
    """Rows as the parts of commands: names and values in turn, the nulls left out; taken from the first on."""

    def __init__(self, rows: Sequence[wire.Lines], ids: list[bytes] | None = None) -> None:
        self._at = 0
        self._pieces: list[_Piece] = [b""]
        self._parts = 0
        #: how many parts of each row are left out; none where no column has nulls in some rows
        self._absent: np.ndarray | None = None
        if ids is not None:
            self._add(b"", ids, ids)
            self._parts += 1
        for name in rows[0].table.column_names:
            texts = list(chain.from_iterable(some.texts(name) for some in rows))
            whole = [text for text in texts if text is not None] if any(some.lacks(name) for some in rows) else texts
            if whole:
                self._add(_parts(name), texts, cast(list[bytes], whole))
                self._parts += 2

    def _add(self, name: bytes, texts: Sequence[bytes | None], whole: list[bytes]) -> None:
        sizes = list(map(len, whole))
        heads = {size: name + b"\r\n$%d\r\n" % size for size in set(sizes)}
        if len(whole) < len(texts):
            absent = np.array([2 * (text is None) for text in texts])
            self._absent = absent if self._absent is None else self._absent + absent
            self._pieces += [[b"" if text is None else heads[len(text)] + text for text in texts], b""]
        elif whole[0] == whole[-1] and whole.count(whole[0]) == len(whole):
            self._same(heads[sizes[0]] + whole[0])
        elif len(heads) == 1:
            self._same(heads[sizes[0]])
            self._pieces += [whole, b""]
        else:
            self._pieces += [list(map(heads.__getitem__, sizes)), whole, b""]

    def _same(self, content: bytes) -> None:
        last = self._pieces[-1]
        assert isinstance(last, bytes)
        self._pieces[-1] = last + content

    def take(self, count: int, before: bytes, *words: str) -> bytes:
        """Return the commands of the next rows: what comes before each, words, and the parts of the row."""
        rows = slice(self._at, self._at + count)
        self._at += count
        parts = len(words) + self._parts
        head: list[_Piece] = [before + b"*%d" % parts]
        if self._absent is not None:
            head = [[before + b"*%d" % (parts - left_out) for left_out in self._absent[rows].tolist()]]
        head.append(_parts(*words))
        own = [piece if isinstance(piece, bytes) else piece[rows] for piece in self._pieces]
        columns = [
            repeat(piece, count) if isinstance(piece, bytes) else piece for piece in (*head, *own, _END) if piece
        ]
        return b"".join(chain.from_iterable(zip(*columns, strict=True)))


def _parts(*texts: str) -> bytes:
    """Return parts as they stand in a command."""
    return b"".join([b"\r\n$%d\r\n%b" % (len(text), text) for text in map(str.encode, texts)])
