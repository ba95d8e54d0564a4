"""The ledger over the catalog's tables: what was fetched, delivered, refused. Our record, not Prefect's."""

import hashlib
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import Final

import pyarrow as pa
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists
from django.db.models import F
from django.db.models import OuterRef
from django.db.models import Q
from django.utils import timezone

from catalog.errors import ConfigError
from catalog.errors import TransientError
from catalog.keys import InstrumentName
from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Indicator
from catalog.models import IndicatorCursor
from catalog.models import Instrument
from catalog.models import Quarantined
from catalog.models import Run
from catalog.models import TimeSeries
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import bars_end
from catalog.schemas import schema as schema_called
from flows.job import LATE
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import RouteFacts
from flows.job import SymbolInterval
from flows.work import DeliveryRef
from flows.work import FetchRef
from flows.work import Tally

#: rejected rows kept as rows for each fetch; the rest are counted, and their page stays landed
MAX_QUARANTINED: Final = 10_000
_COUNTS: Final = ("new", "updated", "unchanged", "duplicate", "superseded", "filtered", "quarantined")
# a bulk insert holds its rows in memory and, in SQLite, one parameter for each value
_CHUNK: Final = 500


class CatalogLedger:
    """The pipeline's ledger, for one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        #: by source: it is asked once a run, not once a request
        self._ages: dict[int, timedelta] = {}

    def missing(self, request: Request) -> list[Request]:
        # the first hole of every instrument is one request, the second another: nothing between them is asked again
        parts: list[list[InstrumentFacts]] = []
        covered = _covered(request)
        settled = LATE if request.job.filling else self._settled_after(request.job.source.id)
        schema = schema_called(request.job.schema)
        for instrument in request.instruments:
            windows = [
                # what a vendor was asked by window covers nothing that had not happened, or settled, by then
                (start, end if request.identity or heard else min(end, _settled(schema, fetched_at - settled)))
                for start, end, fetched_at, heard in covered.get(instrument.id, ())
                # what was heard at once had not settled
                if not (heard and settled) or request.job.filling
            ]
            for number, hole in enumerate(_holes(instrument, windows)):
                if number == len(parts):
                    parts.append([])
                parts[number].append(hole)
        return [replace(request, instruments=tuple(part)) for part in parts]

    def _settled_after(self, source: int) -> timedelta:
        if source not in self._ages:
            self._ages[source] = DataSource.objects.values_list("settled_after", flat=True).get(pk=source)
        return self._ages[source]

    def open_fetch(self, request: Request) -> FetchRef:
        digest = request_hash(request)
        with transaction.atomic():
            unfinished = Fetch.objects.filter(
                source_id=request.job.source.id, schema=request.job.schema, request_hash=digest, complete=False
            )
            if request.job.again:
                # what another run began is not "again"
                unfinished = unfinished.filter(run=self.run)
            fetch = unfinished.order_by("id").first()
            if fetch is None:
                fetch = Fetch.objects.create(
                    run=self.run,
                    source_id=request.job.source.id,
                    schema=request.job.schema,
                    request_hash=digest,
                    identity=request.identity,
                    start=request.start,
                    end=request.end,
                )
                Coverage.objects.bulk_create(
                    (
                        Coverage(fetch=fetch, instrument_id=item.id, start=item.start, end=item.end)
                        for item in request.instruments
                    ),
                    batch_size=_CHUNK,
                )
        return fetch_ref(fetch, request.job.source.name)

    def unfinished(self, job: Job) -> list[tuple[FetchRef, Request]]:
        known = {instrument.id: instrument for instrument in job.instruments}
        found = []
        begun = Fetch.objects.filter(source_id=job.source.id, schema=job.schema, complete=False, identity="")
        for fetch in begun.exclude(request_hash="").order_by("id").prefetch_related("coverage"):
            windows = list(fetch.coverage.all())
            # a part of what is asked now, and nothing else: it costs no more than the job would
            inside = windows and all(
                window.instrument_id in known
                and known[window.instrument_id].start <= window.start
                and window.end <= known[window.instrument_id].end
                for window in windows
            )
            if inside:
                instruments = tuple(
                    replace(known[window.instrument_id], start=window.start, end=window.end) for window in windows
                )
                request = Request(job, instruments)
                if request_hash(request) == fetch.request_hash:
                    found.append((fetch_ref(fetch, job.source.name), request))
        return found

    def abandon(self, fetch: FetchRef, reason: str) -> None:
        Fetch.objects.filter(pk=fetch.id).update(request_hash="", error=reason[:10_000])

    def landed(self, fetch: FetchRef, pages: int, size: int, without: Collection[str] = ()) -> FetchRef:
        if without:
            for one in Coverage.objects.filter(fetch_id=fetch.id).select_related("instrument__asset"):
                symbols = {each.symbol for each in one.instrument.symbols.all()} or {one.instrument.asset.symbol}
                if symbols <= set(without):
                    one.refused = True
                    one.save(update_fields=("refused",))
        Fetch.objects.filter(pk=fetch.id).update(complete=True, pages=pages, bytes=size, error="")
        return replace(fetch, complete=True, parts=pages)

    def register(self, request: Request, fetch: FetchRef, symbols: Sequence[str]) -> tuple[InstrumentFacts, ...]:
        source = request.job.source
        given = str(source.options.get("unknown_asset_class", ""))
        classes = {given} if given else {instrument.name.asset_class for instrument in request.job.instruments}
        if len(classes) > 1:
            raise ConfigError(
                f"source {source.name!r}: option 'unknown_asset_class' must say what unknown symbols are: the series'"
                f" assets are {', '.join(sorted(classes))}"
            )
        (asset_class,) = classes
        wanted = [symbol for symbol in symbols if _can_be_asset(symbol, asset_class)]
        with transaction.atomic():
            Asset.objects.bulk_create(
                (Asset(asset_class=asset_class, symbol=symbol) for symbol in wanted),
                batch_size=_CHUNK,
                ignore_conflicts=True,
            )
            assets = {
                symbol: pk
                for first in range(0, len(wanted), _CHUNK)
                for pk, symbol in Asset.objects.filter(
                    asset_class=asset_class, symbol__in=wanted[first : first + _CHUNK]
                ).values_list("pk", "symbol")
            }
            Instrument.objects.bulk_create(
                (Instrument(source_id=source.id, asset_id=pk) for pk in assets.values()),
                batch_size=_CHUNK,
                ignore_conflicts=True,
            )
            # an instrument that has symbols of its own is called otherwise by this vendor: it is not this one
            plain = Instrument.objects.filter(
                source=source.id, asset__asset_class=asset_class, symbols__isnull=True
            ).values_list("asset_id", "pk")
            mine = set(assets.values())
            instruments = {asset: pk for asset, pk in plain if asset in mine}
            concerned = TimeSeries.objects.filter(
                source=source.id, schema=request.job.schema, extractor_type="historical", active=True
            )
            for series in concerned:
                series.assets.add(*instruments)
            made = tuple(
                InstrumentFacts(
                    instruments[pk],
                    InstrumentName(source.name, asset_class, symbol),
                    (SymbolInterval(symbol),),
                    request.start,
                    request.end,
                )
                for symbol, pk in sorted(assets.items())
                if pk in instruments
            )
            Coverage.objects.bulk_create(
                (Coverage(fetch_id=fetch.id, instrument_id=one.id, start=one.start, end=one.end) for one in made),
                batch_size=_CHUNK,
                ignore_conflicts=True,
            )
        return made

    def spent(self, fetch: FetchRef, requests: int, cost: Decimal) -> None:
        Fetch.objects.filter(pk=fetch.id).update(requests=F("requests") + requests, cost=F("cost") + cost)

    def failed(self, fetch: FetchRef, error: str) -> None:
        Fetch.objects.filter(pk=fetch.id).update(error=error[:10_000])

    def deliveries(self, job: Job, fetch: FetchRef | None = None) -> list[DeliveryRef]:
        of_job = Fetch.objects.filter(source_id=job.source.id, schema=job.schema)
        # a connection's fetch is delivered by whoever runs it, until it has ended
        of_job = of_job.filter(pk=fetch.id) if fetch else of_job.filter(complete=True)
        if job.extractor_type == "realtime" and not fetch:
            # what is live goes where it is heard; the past went where the past is asked for
            of_job = of_job.filter(run__kind="realtime")
        for route in job.routes:
            has_one = Delivery.objects.filter(
                fetch=OuterRef("pk"), destination_id=route.destination_id, schema=job.schema
            )
            concerned = Coverage.objects.filter(
                fetch=OuterRef("pk"),
                instrument__asset__series__source_id=job.source.id,
                instrument__asset__series__schema=job.schema,
                instrument__asset__series__routes__destination_id=route.destination_id,
            )
            lacking = of_job.filter(~Exists(has_one), Exists(concerned), pruned=False).order_by("id")
            Delivery.objects.bulk_create(
                (
                    Delivery(
                        fetch=found, destination_id=route.destination_id, schema=job.schema, required=route.required
                    )
                    for found in lacking
                ),
                batch_size=_CHUNK,
                ignore_conflicts=True,
            )
        waiting = (
            Delivery.objects.filter(
                fetch__in=of_job,
                # what was deleted reaches nobody any more
                fetch__pruned=False,
                schema=job.schema,
                destination_id__in=[route.destination_id for route in job.routes],
            )
            .exclude(status=Delivery.Status.DELIVERED)
            .select_related("fetch", "destination")
            .order_by("fetch_id", "id")
        )
        return [
            DeliveryRef(
                delivery.pk,
                fetch_ref(delivery.fetch, job.source.name),
                delivery.destination.name,
                delivery.schema,
                delivery.cursor,
            )
            for delivery in waiting
        ]

    def waiting(self, job: Job) -> int:
        """Return how many deliveries of the job are not done; nothing is made or changed."""
        return (
            Delivery.objects.filter(fetch__source_id=job.source.id, schema=job.schema, fetch__complete=True)
            .exclude(status=Delivery.Status.DELIVERED)
            .count()
        )

    def restart(self, job: Job, fetches: Sequence[int] = ()) -> int:
        """Make the job's delivered fetches (or some of them) wait again, from their first batch; returns how many."""
        concerned: set[int] = set(fetches)
        ids = [instrument.id for instrument in job.instruments]
        if not fetches:
            for first in range(0, len(ids), _CHUNK):
                covering = Coverage.objects.filter(
                    instrument__in=ids[first : first + _CHUNK], fetch__schema=job.schema, fetch__complete=True
                )
                concerned.update(covering.values_list("fetch_id", flat=True))
        zeros = dict.fromkeys((*_COUNTS, "parsed", "pending", "rounded", "cursor"), 0)
        restarted = 0
        with transaction.atomic():
            for number in sorted(concerned):
                deliveries = Delivery.objects.filter(
                    fetch=number, fetch__source=job.source.id, fetch__pruned=False, schema=job.schema
                )
                restarted += deliveries.update(status=Delivery.Status.PENDING, error="", **zeros)
                Quarantined.objects.filter(fetch=number, fetch__pruned=False).delete()
        return restarted

    def quarantine(self, fetch: FetchRef, part: int, rejected: pa.Table) -> None:
        room = MAX_QUARANTINED - Quarantined.objects.filter(fetch_id=fetch.id).count()
        rows = rejected.slice(0, max(room, 0)).to_pylist()
        Quarantined.objects.bulk_create(
            (
                Quarantined(
                    fetch_id=fetch.id,
                    part=part,
                    row=row["row"],
                    rule=row["rule"][:500],
                    reason=_storable(row["reason"]),
                    raw=_storable(row["raw"]),
                )
                for row in rows
            ),
            batch_size=_CHUNK,
            ignore_conflicts=True,
        )

    def unparsable(self, fetch: FetchRef, part: int, reason: str) -> None:
        with transaction.atomic():
            Quarantined.objects.get_or_create(
                fetch_id=fetch.id,
                part=part,
                row=-1,
                defaults={"rule": "page can be parsed", "reason": _storable(reason), "raw": ""},
            )
            pages = Quarantined.objects.filter(fetch_id=fetch.id, row=-1).count()
            Fetch.objects.filter(pk=fetch.id).update(unparsable=pages)

    def changing(self, route: RouteFacts, schema: str, fetch: FetchRef, since: Mapping[int, datetime]) -> None:
        numbers = sorted(since)
        of_schema = IndicatorCursor.objects.filter(
            indicator__in=Indicator.objects.filter(input_schema=schema), destination=route.destination_id
        )
        with transaction.atomic(savepoint=False):
            for first in range(0, len(numbers), _CHUNK):
                # locked: who computes at this moment is waited for, and has not seen these rows
                cursors = of_schema.filter(instrument__in=numbers[first : first + _CHUNK]).select_for_update()
                earlier: dict[tuple[datetime, int], list[int]] = {}
                for cursor in cursors.order_by("pk"):
                    at, oldest = since[cursor.instrument_id], fetch.id
                    if cursor.due is not None:
                        at, oldest = min(at, cursor.due), min(oldest, cursor.fetch_id)
                    if (at, oldest) != (cursor.due, cursor.fetch_id):
                        earlier.setdefault((at, oldest), []).append(cursor.pk)
                for (at, oldest), pks in earlier.items():
                    IndicatorCursor.objects.filter(pk__in=pks).update(due=at, fetch_id=oldest)

    def advance(self, delivery: DeliveryRef, cursor: int, tally: Tally) -> None:
        counts = {name: F(name) + getattr(tally, name) for name in (*_COUNTS, "rounded")}
        # what waited after a failure is inside this tally or still ahead of the cursor
        parsed = sum((F(name) for name in _COUNTS[1:]), start=F(_COUNTS[0])) + tally.settled
        moved = Delivery.objects.filter(pk=delivery.id, cursor=delivery.cursor).update(
            cursor=cursor, parsed=parsed, pending=0, status=Delivery.Status.PENDING, error="", **counts
        )
        if not moved:
            raise TransientError(f"delivery {delivery.id} was moved by another run; run again")

    def finish(self, delivery: DeliveryRef, error: str = "", pending: int = 0) -> None:
        settled = sum((F(name) for name in _COUNTS[1:]), start=F(_COUNTS[0]))
        Delivery.objects.filter(pk=delivery.id).update(
            status=Delivery.Status.FAILED if error else Delivery.Status.DELIVERED,
            error=error[:10_000],
            pending=pending,
            parsed=settled + pending,
            finished_at=timezone.now(),
        )

    def confirmed(self, fetch: FetchRef) -> dict[int, list[tuple[datetime, datetime]]]:
        own = Fetch.objects.get(pk=fetch.id)
        later = Coverage.objects.filter(
            fetch__source_id=own.source_id,
            fetch__schema=own.schema,
            fetch__identity=own.identity,
            fetch__complete=True,
            fetch_id__gt=own.pk,
            refused=False,
        )
        windows: dict[int, list[tuple[datetime, datetime]]] = {}
        for instrument, start, end in later.values_list("instrument_id", "start", "end").distinct():
            windows.setdefault(instrument, []).append((start, end))
        return windows

    def cursors(self, fetch: FetchRef) -> list[int]:
        waiting = Delivery.objects.filter(fetch_id=fetch.id).exclude(status=Delivery.Status.DELIVERED)
        return sorted(set(waiting.values_list("cursor", flat=True)))


@contextmanager
def recorded(
    source: int | None, selector: dict[str, Any], kind: str = "historical", flow_run: str = ""
) -> Iterator[Run]:
    """Record a run; it is failed when the block raises or says so in `run.error`."""
    run = Run.objects.create(source_id=source, selector=selector, kind=kind, flow_run=flow_run)
    try:
        yield run
    except BaseException as error:
        run.error = run.error or f"{type(error).__name__}: {error}"
        raise
    finally:
        run.status = Run.Status.FAILED if run.error else Run.Status.COMPLETED
        run.finished_at = timezone.now()
        run.save(update_fields=("status", "error", "finished_at"))


def request_hash(request: Request) -> str:
    """Return a digest that two requests share exactly when they ask the same."""
    digest = hashlib.sha256(request.identity.encode())
    for instrument in sorted(request.instruments, key=lambda item: item.id):
        digest.update(f"|{instrument.id},{instrument.start.isoformat()},{instrument.end.isoformat()}".encode())
        # a symbol that was corrected asks something else
        for symbol in instrument.symbols:
            digest.update(f",{symbol.symbol!r},{symbol.start.isoformat()},{symbol.end.isoformat()}".encode())
    return digest.hexdigest()


#: by instrument id: start, end, when it was fetched, whether it was heard live
_Windows = dict[int, list[tuple[datetime, datetime, datetime, bool]]]


def _covered(request: Request) -> _Windows:
    complete = Coverage.objects.filter(
        Q(fetch__complete=True) | Q(fetch__live=True),
        fetch__source_id=request.job.source.id,
        fetch__schema=request.job.schema,
        fetch__identity=request.identity,
        refused=False,
        start__lt=F("end"),
    )
    fields = ("instrument_id", "start", "end", "fetch__fetched_at", "fetch__live")
    covered: _Windows = {}
    if request.identity:
        found: Iterable[Sequence[Any]] = complete.values_list(*fields)
    else:
        ids = [instrument.id for instrument in request.instruments]
        parts = [ids[first : first + _CHUNK] for first in range(0, len(ids), _CHUNK)]
        found = [row for part in parts for row in complete.filter(instrument__in=part).values_list(*fields)]
        if request.job.filling:
            # what is known to be lost is not looked for again
            found += [
                (*row, True)
                for part in parts
                for row in Gap.objects.filter(instrument__in=part, schema=request.job.schema).values_list(
                    "instrument_id", "start", "end", "noted_at"
                )
            ]
    for instrument, start, end, fetched_at, heard in found:
        covered.setdefault(instrument, []).append((start, end, fetched_at, heard))
    return covered


def _holes(asked: InstrumentFacts, windows: list[tuple[datetime, datetime]]) -> Iterator[InstrumentFacts]:
    """Yield the windows asked that nothing covers, in order."""
    at = asked.start
    for start, end in sorted(window for window in windows if window[0] < window[1]):
        if min(start, asked.end) > at:
            yield replace(asked, start=at, end=min(start, asked.end))
        at = max(at, end)
    if at < asked.end:
        yield replace(asked, start=at)


def _settled(schema: Schema, moment: datetime) -> datetime:
    """Return the end of the window of what had ended by a time: bars that had closed, days that were over.

    A row is labelled by its open, or by its date: the label of what is still going on lies before the time.
    """
    if schema.timeframe:
        return bars_end(moment, schema.timeframe)
    return bar_open(moment, "1d") if schema.announced else moment


def fetch_ref(fetch: Fetch, source: str) -> FetchRef:
    """Return a row of the ledger as what refers to it."""
    return FetchRef(fetch.pk, source, fetch.schema, fetch.fetched_at, fetch.complete, fetch.pages)


def _can_be_asset(symbol: str, asset_class: str) -> bool:
    try:
        Asset(asset_class=asset_class, symbol=symbol).clean_fields()
    except ValidationError:
        return False
    return True


def _storable(text: str) -> str:
    # PostgreSQL's text cannot hold NUL; the picture character shows where it was
    return text.replace("\x00", "␀")
