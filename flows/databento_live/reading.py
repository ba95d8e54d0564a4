"""Landed frames of a connection as tables: many blocks are joined and decoded at once. Pure.

A continuous symbol stands for an instrument for a day, and a session is not told when it begins to stand for another
(databento.com/docs/api-live/basics/symbology): what is of other days than its mapping is left out, and history has it.

What is damaged costs itself alone: a record of another length than its type has, or of no known type, is a rejected
row; where a block cannot be followed any further, the rest of it is one.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import Damaged
from catalog.schemas import schema as schema_called
from flows.databento_live import messages
from flows.databento_live.gateway import DAY
from flows.databento_live.gateway import fields
from flows.formats.blocks import Rejects
from flows.formats.dbn import RECORDS
from flows.formats.dbn import Decoder
from flows.formats.dbn import Records
from flows.formats.dbn import indexed_by
from flows.formats.dbn import sizes
from flows.formats.dbn_stream import Whole
from flows.formats.dbn_stream import offsets
from flows.formats.dbn_stream import read_header
from flows.frames import ROWS_A_FRAME
from flows.frames import Frame

#: bytes decoded at once, so that what lies between two steps stays in the processor's cache
_BLOCK: Final = 2 << 20
#: bytes of what is damaged that are shown
_SHOWN: Final = 512
_HEAD: Final = 16
_FOLLOWS: Final = "records follow each other"
_HEADED: Final = "a header comes before records"
_KNOWN: Final = "record has a known type"
_LENGTH: Final = "record has the length of its type"
_DECLARED: Final = tuple(RECORDS)


@dataclass(frozen=True, slots=True)
class Found:
    """What some frames hold of a schema; rows are frame × ROWS_A_FRAME + place."""

    schema: str
    records: Records | None
    rejects: Rejects
    left_out: int = 0


class Reader:
    """Reads the frames of one file in order; remembers its header, its subscriptions and its symbols."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._decoder: Decoder | None = None
        self._schemas: dict[str, None] = {}
        self._continuous = False
        #: the day in which the first symbol was mapped, in nanoseconds
        self._day: int | None = None
        self._lengths = np.zeros(256, np.uint8)

    def read(self, frames: Sequence[Frame]) -> Iterator[Found]:
        """Yield what the frames hold, in order, a schema at a time."""
        blocks: list[Frame] = []
        size = 0
        for frame in frames:
            if frame.context and frame.content[1:2] != bytes([messages.MAPPING]):
                yield from self._decoded(blocks)
                blocks, size = [], 0
                self._learn(frame)
                continue
            if frame.context and self._day is None:
                self._day = frame.received - frame.received % DAY
            blocks.append(frame)
            size += len(frame.content)
            if size >= _BLOCK:
                yield from self._decoded(blocks)
                blocks, size = [], 0
        yield from self._decoded(blocks)

    def _learn(self, frame: Frame) -> None:
        """Take in a header, or what was said in text."""
        if not frame.content.startswith(b"DBN"):
            said = [fields(line) for line in frame.content.splitlines()]
            self._schemas |= dict.fromkeys(line["schema"] for line in said if line.get("schema") in RECORDS)
            self._continuous |= any(line.get("stype_in") == "continuous" for line in said)
        else:
            try:
                header = read_header(Whole(BytesIO(frame.content), self.name), self.name)
            except Damaged:
                # whoever landed it could read it; the records that follow are rejected
                self._decoder = None
                return
            self._decoder = Decoder(header, (), name=self.name)
            self._lengths = np.zeros(256, np.uint8)
            for kind, length in sizes(header).items():
                self._lengths[kind] = length // 4
        if self._decoder is not None:
            # one of the two whose records are of the same type
            other = "mbp-1" if "tbbo" in self._schemas else "tbbo"
            self._decoder.wanted = tuple(schema for schema in _DECLARED if schema != other)
            # what stands for an instrument that another has already is refused
            self._decoder.names.first_only = self._continuous

    def _decoded(self, blocks: Sequence[Frame]) -> Iterator[Found]:
        if not blocks:
            return
        rejects: dict[str, Rejects] = {}
        found: dict[str, Records] = {}
        if self._decoder is None:
            for frame in blocks:
                self._reject(rejects, frame.number * ROWS_A_FRAME, _HEADED, "there is none", frame.content)
        else:
            content, starts, rows = self._walked(blocks, rejects)
            found = self._rows(self._decoder, content, starts, rows, rejects)
        for schema in {**found, **rejects}:
            records, left_out = found.get(schema), 0
            if records is not None and self._continuous and self._day is not None:
                records, left_out = _of_day(schema, records, self._day)
            yield Found(schema, records, rejects.get(schema, Rejects()), left_out)

    def _walked(self, blocks: Sequence[Frame], rejects: dict[str, Rejects]) -> tuple[bytes, np.ndarray, np.ndarray]:
        """Return the blocks joined, where records begin in them, and the row of each."""
        content = b"".join([frame.content for frame in blocks])
        begins = np.cumsum([0, *(len(frame.content) for frame in blocks)])
        try:
            starts, end = self._starts(blocks, begins, content)
        except Damaged:
            return content, *self._salvaged(blocks, begins, rejects)
        firsts = np.searchsorted(starts, begins)
        if end < len(content) or not np.array_equal(np.append(starts, end)[firsts], begins):
            return content, *self._salvaged(blocks, begins, rejects)
        numbers = np.array([frame.number for frame in blocks], np.int64)
        rows = np.repeat(numbers * ROWS_A_FRAME - firsts[:-1], np.diff(firsts)) + np.arange(len(starts))
        return content, starts, rows

    def _starts(self, blocks: Sequence[Frame], begins: np.ndarray, content: bytes) -> tuple[np.ndarray, int]:
        """Return where records begin in joined blocks, and where the last one ends; Damaged where that is not said."""
        if all(frame.known is not None for frame in blocks):
            # the connection has gone from one to the next already
            known = [frame.known + begin for frame, begin in zip(blocks, begins.tolist(), strict=False)]
            return np.concatenate(known), len(content)
        return offsets(content, self.name)

    def _salvaged(
        self, blocks: Sequence[Frame], begins: np.ndarray, rejects: dict[str, Rejects]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where whole records begin, block by block, and the row of each; what lies between is rejected."""
        found: list[int] = []
        rows: list[int] = []
        for frame, begin in zip(blocks, begins.tolist(), strict=False):
            row = frame.number * ROWS_A_FRAME
            for place, (start, end, whole) in enumerate(self._pieces(frame.content)):
                if whole:
                    found.append(begin + start)
                    rows.append(row + place)
                else:
                    self._reject(
                        rejects, row + place, _FOLLOWS, "no record begins after this", frame.content[start:end]
                    )
        return np.array(found, np.int64), np.array(rows, np.int64)

    def _pieces(self, content: bytes) -> Iterator[tuple[int, int, bool]]:
        """Yield start and end of the records of a block, and whether there is a record."""
        try:
            starts, end = offsets(content, self.name)
        except Damaged:
            end = -1
        if end == len(content):
            yield from zip(starts.tolist(), [*starts[1:].tolist(), end], [True] * len(starts), strict=True)
            return
        at = 0
        while at < len(content):
            if self._begins(content, at):
                following, whole = at + content[at] * 4, True
            else:
                # the next record is where the length says, or else the type
                lengths = {content[at] * 4, int(self._lengths[content[at + 1]]) * 4} if at + 1 < len(content) else ()
                sound = [at + length for length in lengths if length >= _HEAD and self._begins(content, at + length)]
                following, whole = min(sound, default=len(content)), False
            yield at, following, whole
            at = following

    def _begins(self, content: bytes, at: int) -> bool:
        """Whether a whole record of a known type begins at an offset."""
        if at + _HEAD > len(content):
            return False
        return 0 < content[at] == self._lengths[content[at + 1]] and at + content[at] * 4 <= len(content)

    def _rows(
        self, decoder: Decoder, content: bytes, starts: np.ndarray, rows: np.ndarray, rejects: dict[str, Rejects]
    ) -> dict[str, Records]:
        if not len(starts):
            return {}
        everything = np.frombuffer(content, np.uint8)
        types = everything[starts + 1]
        wrong = everything[starts] != self._lengths[types]
        if wrong.any():
            for at in np.flatnonzero(wrong).tolist():
                self._reject_record(rejects, content, int(starts[at]), int(rows[at]))
            starts, rows = starts[~wrong], rows[~wrong]
        before = decoder.position
        return {
            schema: Records(one.table, one.symbols, pa.array(rows[one.rows.to_numpy() - before], pa.int64()))
            for schema, one in decoder.decode(content, starts).items()
        }

    def _reject_record(self, rejects: dict[str, Rejects], content: bytes, start: int, row: int) -> None:
        length, kind = content[start] * 4, content[start + 1]
        usual = int(self._lengths[kind]) * 4
        rule = _LENGTH if usual else _KNOWN
        detail = f"type {kind} has {usual} bytes, not {length}" if usual else f"nothing is known of type {kind}"
        self._reject(rejects, row, rule, detail, content[start : start + length])

    def _reject(self, rejects: dict[str, Rejects], row: int, rule: str, detail: str, raw: bytes) -> None:
        shown = raw[:_SHOWN].hex() + (f"… of {len(raw)} bytes" if len(raw) > _SHOWN else "")
        # what has no readable type is of any schema that is subscribed
        schema = next(iter(self._schemas), "trades")
        rejects.setdefault(schema, Rejects()).add(row, rule, detail, shown)


def _of_day(schema: str, records: Records, day: int) -> tuple[Records, int]:
    """Return the records of a day, and how many there are of others."""
    times = records.table[indexed_by(schema_called(schema))].cast(pa.int64())
    chosen = pc.and_(pc.greater_equal(times, day), pc.less(times, day + DAY))
    # one without a time is refused later
    chosen = pc.fill_null(chosen, True).combine_chunks()
    table = records.table.filter(chosen)
    return Records(table, records.symbols.filter(chosen), records.rows.filter(chosen)), len(chosen) - table.num_rows
