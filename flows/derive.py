"""Stores the indicators that series ask for, and keeps them right while rows come, change, or come late.

Whoever writes rows to a home notes with them from when on they change (`Ledger.changing`): a cursor for each
(indicator, instrument, destination) keeps the earliest such time as `due`. From there on values are computed again,
from as many earlier bars as the warm-up needs, and those that are others are written. What was due before a crash is
due after it. Bars made by resampling give values when they are finished: when all before their end was heard, or
asked for.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import cache
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from django.db import transaction
from django.db.models import F
from django.db.models import Max
from django.db.models import Q
from django.db.models import QuerySet
from django.utils import timezone

from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.models import Coverage
from catalog.models import Fetch
from catalog.models import Indicator
from catalog.models import IndicatorCursor
from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas import bars_end
from catalog.schemas import schema as schema_called
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import Job
from flows.job import RouteFacts
from flows.query import refuse_several_venues
from flows.sinks.base import ReadableSink
from flows.work import Outcome
from flows.work import Tally
from flows.workshops import open_sink
from transforms.bars import Resample
from transforms.base import BaseTransformer
from transforms.live import LiveBars
from transforms.live import depth
from transforms.live import divide

_INDICATORS: Final = SCHEMAS["indicators"]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TRADE: Final = ("price", "size")
_BAR: Final = ("open", "high", "low", "close", "volume", "trade_count", "vwap", FETCH_ID)
#: instruments whose values are written together
_TOGETHER: Final = 20
_CHUNK: Final = 500
#: no row lies further ahead; a window that ends is quicker to ask for
_AHEAD: Final = timedelta(days=366)


def store_indicators(job: Job) -> Outcome:
    """Bring the stored indicators of a job up to its stored rows, at each route's home."""
    outcome = Outcome()
    for route in job.routes:
        if route.home and job.chains:
            outcome.add(Follower(job, route, keep=False).follow())
    return outcome


@dataclass(frozen=True, slots=True)
class _Chain:
    """What follows a chain's resamplings, its rows in the catalog, and the instruments whose values are stored."""

    steps: BaseTransformer
    indicators: tuple[int, ...]
    instruments: frozenset[int]


@dataclass(slots=True)
class _Group:
    """Chains over the same bars, and the bars that are kept: by instrument, with the time they were last used."""

    made: tuple[Resample, ...]
    chains: list[_Chain] = field(default_factory=list)
    kept: dict[int, tuple[LiveBars, datetime | None]] = field(default_factory=dict)
    #: instruments whose rows cannot be used
    failed: set[int] = field(default_factory=set)

    def cursors(self, route: RouteFacts) -> QuerySet[IndicatorCursor]:
        """Return the cursors of the group's indicators; some may be of instruments that others follow."""
        indicators = [number for chain in self.chains for number in chain.indicators]
        return IndicatorCursor.objects.filter(destination=route.destination_id, indicator__in=indicators)

    def follows(self, cursor: IndicatorCursor) -> bool:
        """Whether the group has the cursor's indicator for its instrument."""
        return any(
            cursor.indicator_id in chain.indicators and cursor.instrument_id in chain.instruments
            for chain in self.chains
        )


@dataclass(frozen=True, slots=True)
class _Stored:
    """The stored rows of an instrument (`transforms.live.Rows`)."""

    sink: ReadableSink
    schema: Schema
    name: str
    #: resampling sums volumes and so needs decimals; indicators are float64 anyway
    exact: bool

    def read(self, start: int, end: int) -> pa.Table:
        columns = _BAR if self.schema.timeframe else _TRADE
        window = _moment(start), _moment(end)
        table = self.sink.read(self.schema, [self.name], *window, exact=self.exact, columns=columns)
        if self.schema.timeframe:
            refuse_several_venues(table, self.name)
        return table.drop_columns([INSTRUMENT])

    def before(self, moment: int, rows: int) -> int | None:
        found = self.sink.tail(self.schema, self.name, _moment(moment), rows)
        return None if found is None else _nanoseconds(found)

    def extent(self, start: int, end: int) -> tuple[int, int, int] | None:
        found = self.sink.extents(self.schema, [self.name], _moment(start), _moment(end))
        if self.name not in found:
            return None
        first, last, rows = found[self.name]
        return _nanoseconds(first), _nanoseconds(last), rows

    def known(self, indicator: int, start: int, end: int) -> pa.Table:
        """Return the stored values of an indicator, as `transforms.live.Known`."""
        table = self.sink.read(_INDICATORS, [self.name], _moment(start), _moment(end), columns=("value",))
        return table.filter(pc.equal(table["indicator_id"], indicator)).select(["ts_event", "value"])


class Follower:
    """Keeps the stored indicators of a job right at one home; another one is made when job or route change.

    With `keep` the newest bars stay in memory from call to call: of each instrument and resampling as many as the
    longest warm-up, and at most 200 more (all, for an indicator that needs the first bar inside a chain).
    """

    def __init__(self, job: Job, route: RouteFacts, *, keep: bool = True) -> None:
        self.job = job
        self.route = route
        self.keep = keep
        self.schema = schema_called(job.schema)
        self.names = {one.id: str(one.name) for one in job.instruments}
        self.groups = _groups(job, route)
        self._heard: dict[int, datetime] = {}
        for group in self.groups:
            _make_cursors(group, route)

    def follow(self, heard: Mapping[int, datetime] | None = None) -> Outcome:
        """Compute and store what is due; a query for each kind of bars where nothing is.

        `heard` says, by instrument, before which time all rows are at the home; without it, what the ledger has as
        covered counts. An instrument whose rows cannot be used is an error of the outcome, once; the others go on.
        Raises what the home raises: what was due then still is.
        """
        outcome = Outcome()
        opened = open_sink(self.route, {name: number for number, name in self.names.items()})
        if not isinstance(opened, ReadableSink):
            return outcome
        if heard is None and any(group.made for group in self.groups):
            for number, moment in _covered(self.job, live_only=bool(self._heard)).items():
                self._heard[number] = max(moment, self._heard.get(number, EARLIEST))
        ever = timezone.now() + _AHEAD
        with opened as sink:
            for group in self.groups:
                until = (self._heard if heard is None else heard) if group.made else dict.fromkeys(self.names, ever)
                for numbers in self._due(group, until):
                    tally = self._store(sink, group, numbers, until, outcome)
                    if tally.parsed:
                        name = f"{self.route.destination} (indicators)"
                        outcome.tallies[name] = outcome.tallies.get(name, Tally()) + tally
        return outcome

    def _due(self, group: _Group, until: Mapping[int, datetime]) -> Iterator[list[int]]:
        """Yield the instruments whose values are due, some at a time; alone those whose whole history is."""
        due: dict[int, datetime] = {}
        for cursor in group.cursors(self.route).filter(due__isnull=False):
            if group.follows(cursor) and cursor.instrument_id not in group.failed:
                assert cursor.due is not None
                due[cursor.instrument_id] = min(cursor.due, due.get(cursor.instrument_id, LATEST))
        label = cache(LiveBars(group.made).label)
        waiting: list[int] = []
        for number, since in sorted(due.items()):
            if label(_nanoseconds(since)) >= label(_nanoseconds(until.get(number, EARLIEST))):
                # no bar is finished
                continue
            if since == EARLIEST:
                yield [number]
            else:
                waiting.append(number)
        for first in range(0, len(waiting), _TOGETHER):
            yield waiting[first : first + _TOGETHER]

    def _store(
        self, sink: ReadableSink, group: _Group, numbers: Sequence[int], until: Mapping[int, datetime], outcome: Outcome
    ) -> Tally:
        """Compute and write the values of some instruments, and note what is due then."""
        written = Tally()
        tables: list[pa.Table] = []
        done: dict[datetime | None, list[int]] = {}
        with sink.unit() if sink.shares_ledger else transaction.atomic():
            # locked: who writes rows meanwhile waits before it notes them, and is not overlooked
            locked = group.cursors(self.route).filter(instrument__in=numbers).select_for_update().order_by("pk")
            cursors = sorted(filter(group.follows, locked), key=attrgetter("instrument_id"))
            now = timezone.now()
            # never smaller than what was asked before under these locks: values computed later win
            fetch = _newest_fetch(self.job)
            for number, own in groupby(cursors, attrgetter("instrument_id")):
                mine = list(own)
                try:
                    table, due = self._compute(sink, group, number, mine, until[number], fetch)
                except (ConfigError, SchemaMismatch, pa.ArrowInvalid) as error:
                    group.failed.add(number)
                    group.kept.pop(number, None)
                    outcome.errors.append(f"indicators of {self.names[number]}: {error}")
                    continue
                tables.append(table)
                done.setdefault(due, []).extend(cursor.pk for cursor in mine)
            if tables:
                rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
                counts = sink.write(_INDICATORS, rows)
                written = Tally(rows.num_rows, counts.new, counts.updated, counts.unchanged, 0, counts.superseded)
            for due, pks in done.items():
                IndicatorCursor.objects.filter(pk__in=pks).update(due=due, fetch_id=0, computed_at=now)
        for number in numbers:
            if number in group.kept:
                group.kept[number] = (group.kept[number][0], now)
        return written

    def _compute(
        self,
        sink: ReadableSink,
        group: _Group,
        number: int,
        cursors: list[IndicatorCursor],
        until: datetime,
        fetch: int,
    ) -> tuple[pa.Table, datetime | None]:
        """Return the values that are due of one instrument, and what is due then."""
        rows = _Stored(sink, self.schema, self.names[number], exact=bool(group.made))
        # what is no longer due was computed by somebody else meanwhile
        since = min((cursor.due for cursor in cursors if cursor.due is not None), default=until)
        oldest = min((cursor.fetch_id for cursor in cursors if cursor.due is not None), default=0)
        bars, used = group.kept.get(number, (LiveBars(group.made), None))
        if any(cursor.computed_at != used for cursor in cursors):
            # somebody else has followed changes that were not due here any more
            bars = LiveBars(group.made)
        first = bars.update(rows, _nanoseconds(since), _nanoseconds(until), oldest)
        parts = [_INDICATORS.arrow.empty_table()]
        if first is not None:
            for chain in group.chains:
                if number in chain.instruments:
                    known = partial(rows.known, chain.indicators[0])
                    parts += _rows(bars.values(chain.steps, rows, first, known), chain.indicators, rows.name, fetch)
            bars.trim()
        if self.keep:
            group.kept[number] = (bars, used)
        table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        table = table.sort_by([("ts_event", "ascending"), ("indicator_id", "ascending")])
        if not group.made:
            return table, None
        return table, max(since, _moment(bars.opens(bars.label(_nanoseconds(until)))))


def _groups(job: Job, route: RouteFacts) -> list[_Group]:
    # the transforms' library takes a second to import
    from transforms.registry import make

    groups: dict[tuple[tuple[Resample, ...], bool], _Group] = {}
    for chain in job.chains:
        instruments = chain.instruments & route.home & {one.id for one in job.instruments}
        if not instruments:
            continue
        transformer = make(chain.chain)
        made, steps = divide(transformer)
        indicators = tuple(
            Indicator.objects.get_or_create(chain=label, input_schema=job.schema, version=1)[0].pk
            for label in transformer.labels
        )
        # what needs all bars does not make others read them
        group = groups.setdefault((made, depth(steps) is None), _Group(made))
        group.chains.append(_Chain(steps, indicators, instruments))
    return list(groups.values())


def _make_cursors(group: _Group, route: RouteFacts) -> None:
    known = set(group.cursors(route).values_list("indicator_id", "instrument_id"))
    IndicatorCursor.objects.bulk_create(
        (
            IndicatorCursor(indicator_id=indicator, instrument_id=number, destination_id=route.destination_id)
            for chain in group.chains
            for indicator in chain.indicators
            for number in sorted(chain.instruments)
            if (indicator, number) not in known
        ),
        batch_size=_CHUNK,
        ignore_conflicts=True,
    )


def _newest_fetch(job: Job) -> int:
    fetches = Fetch.objects.filter(source_id=job.source.id, schema=job.schema).order_by("-pk")
    return fetches.values_list("pk", flat=True).first() or 0


def _covered(job: Job, *, live_only: bool) -> dict[int, datetime]:
    """Return, by instrument, before which time all rows were heard or asked for and had happened.

    With `live_only` only what is connected now is looked at.
    """
    fetches = Q(fetch__live=True, fetch__complete=False)
    if not live_only:
        fetches |= Q(fetch__live=True) | Q(fetch__complete=True)
    coverage = Coverage.objects.filter(
        fetches, fetch__source_id=job.source.id, fetch__schema=job.schema, refused=False, start__lt=F("end")
    ).order_by()
    # a window that was asked for as far as there is anything ends with what had happened then
    past = Q(fetch__live=True) | Q(end__lte=F("fetch__fetched_at"))
    timeframe = schema_called(job.schema).timeframe
    heard: dict[int, datetime] = {}
    for number, end, asked in coverage.values_list("instrument_id").annotate(
        heard=Max("end", filter=past), asked=Max("fetch__fetched_at", filter=~past)
    ):
        if asked is not None:
            asked = bars_end(asked, timeframe) if timeframe else asked
        heard[number] = max(moment for moment in (end, asked) if moment is not None)
    return heard


def _rows(values: pa.Table, indicators: Sequence[int], name: str, fetch: int) -> Iterator[pa.Table]:
    """Yield values as rows of schema `indicators`, for each indicator; those inside a warm-up have none."""
    for position, indicator in enumerate(indicators, start=1):
        column = values.column(position)
        kept = pc.is_valid(column)
        times = values.column(0).filter(kept)
        yield pa.table(
            {
                INSTRUMENT: pa.repeat(name, len(times)).dictionary_encode(),
                "ts_event": times,
                "indicator_id": pa.repeat(pa.scalar(indicator, INT32), len(times)),
                "value": column.filter(kept).cast(FLOAT64),
                FETCH_ID: pa.repeat(pa.scalar(fetch, INT64), len(times)),
            }
        ).cast(_INDICATORS.arrow)


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _moment(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
