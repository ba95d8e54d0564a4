"""Frames of a feed as raw rows: many at once are decoded, told apart and laid out in columns together.

What is no event of a schema is an answer that the feed declares, or a rejected row. Nothing here raises for content.
"""

import json
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from catalog.schemas import ROW
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.feeds.declared import decoder
from flows.feeds.feed import Feed
from flows.feeds.feed import steps
from flows.feeds.layout import Layout
from flows.feeds.sorting import Sorter
from flows.feeds.sorting import taken
from flows.formats.blocks import Rejects
from flows.formats.records import Records
from flows.formats.records import dig
from flows.formats.records import values
from flows.frames import ROWS_A_FRAME
from flows.frames import Frame
from flows.web import read_json

#: a longer frame is quarantined as it is: as objects it would take twenty times its size
LARGEST: Final = 8 << 20
#: stands between frames that are decoded together: if it is where it should be, each of them was one value
_BETWEEN: Final = "|frame|"
#: so many groups in a row that are not all as declared, and it is not expected any more
_ODD: Final = 8
_NOTHING: Final = pa.table({SYMBOL: pa.array([], pa.string()), ROW: pa.array([], pa.int64())})
_SHOWN: Final = 10_000
_content, _number, _received = attrgetter("content"), attrgetter("number"), attrgetter("received")


class Reader:
    """Reads the frames of one feed. `symbol` turns the feed's spelling of a symbol into the source's."""

    def __init__(self, feed: Feed, symbol: Callable[[str], str] | None = None) -> None:
        self.feed = feed
        self._records = steps(feed.records) if feed.records else ()
        self._layouts = [Layout(name, events, feed.ahead_seconds, symbol) for name, events in feed.events.items()]
        self._sorter = Sorter([events.when for events in feed.events.values()])
        self._declared = decoder(feed)
        self._odd = 0

    def read(self, frames: Sequence[Frame]) -> Iterator[Batch]:
        """Yield the rows of some frames by schema; rejected ones that seem to be of none under the name ""."""
        frames = [frame for frame in frames if not frame.context]
        if not frames:
            return
        if self._declared is not None:
            if (batches := self._as_declared(self._declared, frames)) is not None:
                self._odd = 0
                yield from batches
                return
            self._odd += 1
            if self._odd == _ODD:
                self._declared = None
        rejects: dict[str, Rejects] = {}
        numbers = np.array([frame.number for frame in frames], np.int64)
        received = np.array([frame.received for frame in frames], np.int64)
        documents, owners = _decoded(frames, rejects)
        found, owner, place = self._events(documents, owners, frames, rejects)
        records = Records(found)
        rows = numbers[owner] * ROWS_A_FRAME + place
        kinds = self._sorter.kinds(records)
        for kind in np.unique(kinds).tolist():
            mine = np.flatnonzero(kinds == kind)
            if kind >= 0:
                own = records if len(mine) == len(records) else Records(taken(records, mine))
                yield self._layouts[kind].batch(own, rows[mine], received[owner[mine]])
                continue
            for position in mine.tolist():
                whole = documents[int(np.searchsorted(owners, owner[position]))]
                self._judge(records[position], whole, int(rows[position]), rejects)
        for schema, refused in rejects.items():
            yield Batch(schema, _NOTHING, refused.table())

    def _as_declared(self, json: msgspec.json.Decoder[list[Any]], frames: Sequence[Frame]) -> list[Batch] | None:
        """Return the rows of frames that hold nothing but sound events; None where they hold anything else."""
        if sum(map(len, map(_content, frames))) > LARGEST:
            return None
        try:
            found = json.decode(_joined(frames))
        except (msgspec.DecodeError, ValueError, RecursionError):
            # a text that is no UTF-8 is a ValueError
            return None
        if not _are_apart(found, len(frames)):
            return None
        lists = found[::2]
        owner, place = np.arange(len(lists)), np.zeros(len(lists), np.int64)
        if list in set(map(type, lists)):
            lists = [one if isinstance(one, list) else (one,) for one in lists]
            sizes = np.fromiter(map(len, lists), np.int64, len(lists))
            owner = np.repeat(owner, sizes)
            place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            lists = list(chain.from_iterable(lists))
        records = Records(lists)
        kinds = self._sorter.kinds(records)
        if str in set(map(type, records)) or (kinds < 0).any():
            return None
        rows = np.fromiter(map(_number, frames), np.int64, len(frames))[owner] * ROWS_A_FRAME + place
        received = np.fromiter(map(_received, frames), np.int64, len(frames))[owner]
        batches = []
        for kind in np.unique(kinds).tolist():
            mine = np.flatnonzero(kinds == kind)
            own = records if len(mine) == len(records) else Records(taken(records, mine))
            batches.append(self._layouts[kind].batch(own, rows[mine], received[mine]))
        return None if any(batch.rejected.num_rows for batch in batches) else batches

    def _events(
        self, documents: list[Any], owners: np.ndarray, frames: Sequence[Frame], rejects: dict[str, Rejects]
    ) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return every event with the position of its frame and its place in it."""
        if not self._records and set(map(type, documents)) == {dict}:
            return documents, owners, np.zeros(len(documents), np.int64)
        if self._records:
            inner = values(documents, self._records)
            documents = [
                found if isinstance(found, list | dict) else whole
                for found, whole in zip(inner, documents, strict=True)
            ]
        lists = [document if isinstance(document, list) else [document] for document in documents]
        records = list(chain.from_iterable(lists))
        sizes = np.fromiter(map(len, lists), np.int64, len(lists))
        owner = np.repeat(owners, sizes)
        place = np.arange(len(records)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if records and set(map(type, records)) != {dict}:
            objects = np.fromiter((isinstance(record, dict) for record in records), bool, len(records))
            wrong, first = np.unique(owner[~objects], return_index=True)
            for at, position in zip(wrong.tolist(), np.flatnonzero(~objects)[first].tolist(), strict=True):
                row = frames[at].number * ROWS_A_FRAME + int(place[position])
                _reject(rejects, "", row, "event is a JSON object", _shown(records[position])[:200], frames[at].content)
            mine = np.flatnonzero(objects)
            return taken(records, mine), owner[mine], place[mine]
        return records, owner, place

    def _judge(self, record: Any, whole: Any, row: int, rejects: dict[str, Rejects]) -> None:
        """Reject what is neither an event nor an answer that is known, itself or the message that it lies in."""
        raw = _shown(record)
        for answer in self.feed.answers:
            if answer.fits(record) or (self._records and answer.fits(whole)):
                if answer.means == "kept":
                    _reject(rejects, answer.of, row, "event has a schema", answer.reason, raw)
                return
        places = self._sorter.places
        kind = ", ".join(f"{'.'.join(map(str, place))} is {_shown(dig(record, place))[:100]}" for place in places)
        _reject(rejects, "", row, "event is of a known type", kind, raw)


def _joined(frames: Sequence[Frame]) -> bytes:
    return b"[" + f',"{_BETWEEN}",'.encode().join(map(_content, frames)) + b"]"


def _are_apart(found: list[Any], frames: int) -> bool:
    """Whether each of some frames that were decoded together was one value."""
    return len(found) == 2 * frames - 1 and found[1::2].count(_BETWEEN) == frames - 1


def _decoded(frames: Sequence[Frame], rejects: dict[str, Rejects]) -> tuple[list[Any], np.ndarray]:
    """Return what each frame says, and the position of its frame; what is no JSON is rejected."""
    if sum(len(frame.content) for frame in frames) <= LARGEST:
        try:
            found = read_json(_joined(frames))
        except (ValueError, RecursionError):
            found = []
        if _are_apart(found, len(frames)):
            return found[::2], np.arange(len(frames))
    documents, positions = [], []
    for position, frame in enumerate(frames):
        if len(frame.content) > LARGEST:
            fault, detail = f"frame has at most {LARGEST:,} bytes", f"{len(frame.content):,}"
        else:
            try:
                documents.append(read_json(frame.content))
                positions.append(position)
                continue
            except (ValueError, RecursionError) as error:
                fault, detail = "frame is JSON", str(error)[:200]
        _reject(rejects, "", frame.number * ROWS_A_FRAME, fault, detail, frame.content)
    return documents, np.array(positions, np.int64)


def _reject(rejects: dict[str, Rejects], schema: str, row: int, rule: str, detail: str, raw: bytes | str) -> None:
    text = raw if isinstance(raw, str) else raw[:_SHOWN].decode("utf-8", "backslashreplace")
    rejects.setdefault(schema, Rejects()).add(row, rule, detail, text)


def _shown(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)
