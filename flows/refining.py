"""Refines frames: of a connection as they come, and of landed pages again years later; the same rows both times.

Pure but for the vendor's `parse`. What a live row is and what a historical one must not depend on where frames are
cut: numbers of rows are those of frames, repeats are counted over the stint, revisions are decided by arrival.
"""

import json
import logging
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import TransientError
from catalog.schemas import INSTRUMENT
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import Refined
from catalog.schemas.refine import refine as refine_rows
from flows.chunks import by_chunks
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.formats.blocks import Rejects
from flows.frames import ROWS_A_FRAME
from flows.frames import Frame
from flows.groups import Group
from flows.job import InstrumentFacts
from flows.symbols import Symbols
from flows.work import FetchRef
from flows.work import RefinedBatch

log = logging.getLogger(__name__)

_SHOWN: Final = 4000
_NOTHING: Final = pa.table({SYMBOL: pa.array([], pa.string()), ROW: pa.array([], pa.int64())})


@dataclass(slots=True)
class Strand:
    """One schema of a stint: its fetch, what its rows can be about, and the repeats so far.

    `primary` takes what cannot be said to be of any schema.
    """

    fetch: FetchRef
    schema: Schema
    symbols: Symbols
    facts: Facts
    window: str
    primary: bool = False
    ordinals: Ordinals = field(default_factory=Ordinals)

    def about(self, instruments: Sequence[InstrumentFacts], positive: frozenset[str]) -> None:
        """Change what the rows can be about."""
        self.symbols = Symbols(instruments)
        self.facts = replace(self.facts, positive=positive)


def strand(
    fetch: FetchRef,
    extractor: BaseRealtimeExtractor,
    instruments: Sequence[InstrumentFacts],
    positive: frozenset[str],
    *,
    primary: bool,
) -> Strand:
    """Return a schema of a stint, with nothing refined yet."""
    schema = schema_called(fetch.schema)
    facts = Facts(
        fetch.id, fetch.fetched_at, positive, live=True, numbered=schema.name in extractor.numbered
    )  # fmt: skip
    return Strand(fetch, schema, Symbols(instruments), facts, extractor.window_column(schema), primary)


def counts_repeats(extractor: BaseRealtimeExtractor, schema: Schema) -> bool:
    """Whether rows are told apart by how often their key came before: then reading must begin a little earlier."""
    return schema.repeats and schema.name not in extractor.numbered


class Refiner:
    """Refines groups of frames, in order, for some schemas of a stint."""

    def __init__(self, extractor: BaseRealtimeExtractor, strands: Iterable[Strand], known: Iterable[str] = ()) -> None:
        self.extractor = extractor
        self.strands = {one.schema.name: one for one in strands}
        #: schemas of the stint that others refine
        self.known = frozenset(known)
        self._part = self._counted = -1
        self._state: dict[str, Any] = {}

    def refine(self, group: Group) -> Iterator[RefinedBatch]:
        """Yield what each strand has of a group: its last batch, maybe empty, moves the cursor to the group's end."""
        if group.part != self._part:
            self._part, self._state = group.part, {}
        if group.part != self._counted and group.end > group.first:
            # by files, which are the same whenever they are read; times may be wrong, and groups are of any size
            self._counted = group.part
            for one in self.strands.values():
                one.ordinals.turn()
        batches: dict[str, list[Batch]] = {name: [] for name in self.strands}
        nobody: list[Batch] = []
        for batch in self._parse(group.frames):
            if batch.schema in batches:
                batches[batch.schema].append(batch)
            elif batch.schema not in self.known:
                nobody.append(batch)
        # what a later frame says of now is not in the future, however long the connection lives
        latest = group.latest
        for name, found in batches.items():
            one = self.strands[name]
            if one.primary:
                found += [_unwanted(batch) for batch in nobody]
            yield from self._batches(one, found, group, latest)

    def _parse(self, frames: Sequence[Frame]) -> list[Batch]:
        try:
            return list(self.extractor.parse(frames, self._state))
        except (ConfigError, TransientError, MemoryError):
            raise
        except Exception:
            log.exception("%s: frames %s cannot be parsed together", self.extractor.source.name, frames[0].number)
        found: list[Batch] = []
        for frame in frames:
            try:
                found += self.extractor.parse([frame], self._state)
            except (ConfigError, TransientError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001  # whatever a parser stumbles over costs its frame
                found.append(_unreadable(frame, f"{type(error).__name__}: {error}"))
        return found

    def _batches(self, one: Strand, found: list[Batch], group: Group, latest: int) -> Iterator[RefinedBatch]:
        schema = one.schema
        accepted: list[pa.Table] = []
        rejected = [batch.rejected for batch in found if batch.rejected.num_rows]
        parsed = sum(batch.rejected.num_rows + batch.left_out for batch in found)
        filtered = sum(batch.left_out for batch in found)
        duplicates = rounded = superseded = 0
        for table in _joined([batch.table for batch in found if batch.table.num_rows]):
            parsed += table.num_rows
            for refined, left_out in self._safely(one, table, latest):
                filtered += left_out
                accepted.append(refined.accepted)
                if refined.rejected.num_rows:
                    rejected.append(refined.rejected)
                duplicates += refined.duplicates
                superseded += refined.superseded
                rounded += refined.rounded
        joined = pa.concat_tables(accepted).unify_dictionaries() if accepted else schema.arrow.empty_table()
        *pieces, last = by_chunks(schema, joined)
        for piece in pieces:
            yield RefinedBatch(
                group.first, schema, piece, REJECTED.empty_table(), group.part, parsed=piece.num_rows, end=group.first
            )
        yield RefinedBatch(
            group.first,
            schema,
            last,
            pa.concat_tables(rejected) if rejected else REJECTED.empty_table(),
            group.part,
            parsed=parsed - sum(piece.num_rows for piece in pieces),
            duplicates=duplicates,
            filtered=filtered,
            rounded=rounded,
            superseded=superseded,
            end=group.end,
        )

    def _safely(self, one: Strand, raw: pa.Table, latest: int) -> Iterator[tuple[Refined, int]]:
        """Refine rows, with how many were left out; whatever refining stumbles over costs its row."""
        try:
            table = one.symbols.resolve(raw, one.schema.time)
            if getattr(self.extractor.options, "unknown_symbols", "") == "filter" and table[INSTRUMENT].null_count:
                table = table.filter(pc.is_valid(table[INSTRUMENT]))
            table = one.symbols.inside(table, one.window)
            yield self._refined(one, table, latest), raw.num_rows - table.num_rows
            return
        except (ConfigError, TransientError, MemoryError):
            raise
        except Exception as error:
            if raw.num_rows == 1:
                log.exception("%s: row %s cannot be refined", self.extractor.source.name, raw[ROW][0])
                rejects = Rejects()
                _reject(rejects, raw, "row can be refined", f"{type(error).__name__}: {error}")
                yield Refined(one.schema.arrow.empty_table(), rejects.table()), 0
                return
        middle = raw.num_rows // 2
        for half in (raw.slice(0, middle), raw.slice(middle)):
            yield from self._safely(one, half, latest)

    def _refined(self, one: Strand, table: pa.Table, latest: int) -> Refined:
        now = pa.scalar(latest, pa.timestamp("ns", "UTC")).cast(pa.timestamp("us", "UTC"), safe=False).as_py()
        refined = refine_rows(one.schema, table, replace(one.facts, fetched_at=now), one.ordinals)
        one.ordinals.compact()
        return refined


def split(group: Group, cuts: Iterable[int]) -> Iterator[Group]:
    """Yield a group in pieces that begin at the cuts inside it; contexts stay where they were."""
    inside = sorted({cut for cut in cuts if group.first < cut < group.end})
    frames = list(group.frames)
    first = group.first
    for cut in inside:
        before = [frame for frame in frames if frame.number < cut]
        frames = frames[len(before) :]
        yield replace(group, first=first, end=cut, frames=before)
        first = cut
    yield replace(group, first=first, frames=frames)


def _unwanted(batch: Batch) -> Batch:
    """Return rows of a schema nobody subscribed to as rejected ones: what came must be seen to have come."""
    rejects = Rejects()
    _reject(rejects, batch.table, "schema is subscribed", f"nobody subscribed to {batch.schema}")
    rejected = pa.concat_tables([batch.rejected, rejects.table()])
    return Batch(batch.schema, batch.table.slice(0, 0), rejected, batch.left_out)


def _reject(rejects: Rejects, table: pa.Table, rule: str, reason: str) -> None:
    for row in table.to_pylist():
        rejects.add(row[ROW], rule, reason, json.dumps(row, default=str, ensure_ascii=False)[:_SHOWN])


def _joined(tables: list[pa.Table]) -> list[pa.Table]:
    """Return tables as one, in which rows of one key meet, where their columns allow it."""
    if len(tables) < 2:
        return tables
    try:
        return [pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()]
    except pa.ArrowException:
        return tables


def _unreadable(frame: Frame, reason: str) -> Batch:
    rejects = Rejects()
    shown = frame.content[:_SHOWN].decode("utf-8", "backslashreplace")
    rejects.add(frame.number * ROWS_A_FRAME, "frame can be parsed", reason, shown)
    return Batch("", _NOTHING, rejects.table())


def unparsable(schema: Schema, part: int, first: int, end: int, error: Damaged) -> RefinedBatch:
    """Return the step over what cannot be read of a page: it stays landed, and is said to be unparsable."""
    return RefinedBatch(
        first, schema, schema.arrow.empty_table(), REJECTED.empty_table(), part, unparsable=str(error), end=end
    )
