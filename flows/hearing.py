"""The ledger of what is live, over the catalog's tables."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime

from django.db import connections
from django.db import transaction
from django.db.models import Max
from django.db.models import Min
from django.utils import timezone

from catalog.models import Coverage
from catalog.models import Delivery
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Run
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.ledger import CatalogLedger
from flows.ledger import fetch_ref
from flows.work import DeliveryRef
from flows.work import FetchRef

# a bulk insert holds its rows in memory and, in SQLite, one parameter for each value
_CHUNK = 500


class CatalogLiveLedger(CatalogLedger):
    """The ledger for one run of live connections; any thread may call it."""

    def begin(self, request: Request) -> FetchRef:
        now = timezone.now()
        with transaction.atomic():
            fetch = Fetch.objects.create(
                run=self.run,
                source_id=request.job.source.id,
                schema=request.job.schema,
                start=now,
                end=now,
                live=True,
            )
            begun = FetchRef(fetch.pk, request.job.source.name, fetch.schema, fetch.fetched_at)
            self.join(begun, request.instruments)
        return begun

    def join(self, fetch: FetchRef, instruments: Sequence[InstrumentFacts]) -> None:
        # an empty window covers nothing, and says whom the fetch concerns, and since when
        now = timezone.now()
        Coverage.objects.bulk_create(
            (Coverage(fetch_id=fetch.id, instrument_id=one.id, start=now, end=now) for one in instruments),
            batch_size=_CHUNK,
            ignore_conflicts=True,
        )

    def heard(self, fetch: FetchRef, windows: Mapping[tuple[datetime, datetime], Collection[int]]) -> None:
        with transaction.atomic():
            for (start, end), ids in windows.items():
                numbers = sorted(ids)
                for first in range(0, len(numbers), _CHUNK):
                    some = numbers[first : first + _CHUNK]
                    own = Coverage.objects.filter(fetch_id=fetch.id, start=start, instrument__in=some)
                    if own.update(end=end) < len(some):
                        Coverage.objects.bulk_create(
                            (Coverage(fetch_id=fetch.id, instrument_id=one, start=start, end=end) for one in some),
                            ignore_conflicts=True,
                        )
            if windows:
                last = max(end for _, end in windows)
                Fetch.objects.filter(pk=fetch.id, end__lt=last).update(end=last)

    def interrupted(self, fetches: Collection[int]) -> list[FetchRef]:
        return [
            FetchRef(fetch.pk, fetch.source.name, fetch.schema, fetch.fetched_at)
            for fetch in Fetch.objects.filter(pk__in=fetches, live=True, complete=False)
            .select_related("source")
            .order_by("id")
        ]

    def orphans(self, source: int, held: Collection[int]) -> list[FetchRef]:
        dead = Fetch.objects.filter(source_id=source, live=True, complete=False).exclude(pk__in=held)
        return [
            FetchRef(fetch.pk, fetch.source.name, fetch.schema, fetch.fetched_at)
            for fetch in dead.exclude(run__status=Run.Status.RUNNING).select_related("source").order_by("id")
        ]

    def heard_elsewhere(self, source: int) -> bool:
        others = Fetch.objects.filter(source_id=source, live=True, complete=False, run__status=Run.Status.RUNNING)
        return others.exclude(run=self.run).exists()

    def first_heard(self, job: Job) -> dict[int, datetime]:
        # an empty window too: from the first acknowledgement on, everything is expected
        heard = Coverage.objects.filter(
            fetch__source_id=job.source.id, fetch__schema=job.schema, fetch__live=True
        ).order_by()
        found = dict(heard.values_list("instrument_id").annotate(Min("start")))
        return {one.id: found[one.id] for one in job.instruments if one.id in found}

    def last_heard(self, job: Job) -> dict[int, datetime]:
        heard = Coverage.objects.filter(
            fetch__source_id=job.source.id, fetch__schema=job.schema, fetch__live=True
        ).order_by()
        found = dict(heard.values_list("instrument_id").annotate(Max("end")))
        return {one.id: found[one.id] for one in job.instruments if one.id in found}

    def note_gaps(self, holes: Sequence[Request], reason: str) -> int:
        noted = 0
        with transaction.atomic():
            for hole in holes:
                for one in hole.instruments:
                    known = Gap.objects.filter(instrument=one.id, schema=hole.job.schema)
                    # while a connection is away its gap grows
                    if not known.filter(end=one.start, reason=reason).update(end=one.end):
                        noted += known.get_or_create(
                            start=one.start, instrument_id=one.id, schema=hole.job.schema,
                            defaults={"end": one.end, "reason": reason},
                        )[1]  # fmt: skip
        return noted

    def behind(self, job: Job, destination: str) -> list[DeliveryRef]:
        waiting = Delivery.objects.filter(
            fetch__source_id=job.source.id,
            fetch__schema=job.schema,
            fetch__live=True,
            fetch__complete=True,
            fetch__pruned=False,
            destination_id=_number(job, destination),
            schema=job.schema,
        ).exclude(status=Delivery.Status.DELIVERED)
        return [
            DeliveryRef(one.pk, fetch_ref(one.fetch, job.source.name), destination, one.schema, one.cursor)
            for one in waiting.select_related("fetch").order_by("fetch_id")
        ]

    def delivery(self, job: Job, fetch: FetchRef, destination: str) -> DeliveryRef | None:
        required = any(route.required for route in job.routes if route.destination == destination)
        found, _ = Delivery.objects.get_or_create(
            fetch_id=fetch.id,
            destination_id=_number(job, destination),
            schema=fetch.schema,
            defaults={"required": required},
        )
        if found.status == Delivery.Status.DELIVERED or Fetch.objects.filter(pk=fetch.id, pruned=True).exists():
            return None
        return DeliveryRef(found.pk, fetch, destination, fetch.schema, found.cursor)

    def troubled(self, delivery: DeliveryRef, error: str) -> None:
        Delivery.objects.filter(pk=delivery.id).update(status=Delivery.Status.FAILED, error=error[:10_000])

    def mend(self) -> None:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close_if_unusable_or_obsolete()


def _number(job: Job, destination: str) -> int:
    """Return the id of one of the job's destinations."""
    return next(route.destination_id for route in job.routes if route.destination == destination)
