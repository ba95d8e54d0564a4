"""Deletes landed pages that are old enough and that every required route has; the stored rows stay."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from django.db.models import Exists
from django.db.models import OuterRef
from django.utils import timezone

from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Fetch
from flows.claims import claim
from flows.workshops import landing

_TOO_LATE: Final = "the pages were deleted: the source keeps them no longer, and this route is not required"


@dataclass(frozen=True, slots=True)
class Pruned:
    """A fetch whose pages are deleted, or would be."""

    fetch: int
    source: str
    bytes: int


def prune(*, dry_run: bool = False) -> Iterator[Pruned]:
    """Delete the pages of settled fetches of each source that says how long to keep them; yields what it deletes."""
    shelf = landing()
    for source in DataSource.objects.order_by("name"):
        if source.keep_landed is None:
            continue
        waiting = Delivery.objects.filter(fetch=OuterRef("pk"), required=True).exclude(status=Delivery.Status.DELIVERED)
        delivered = Delivery.objects.filter(fetch=OuterRef("pk"))
        ripe = Fetch.objects.filter(
            ~Exists(waiting),
            Exists(delivered),
            source=source,
            complete=True,
            pruned=False,
            fetched_at__lt=timezone.now() - source.keep_landed,
        )
        with claim(f"source-{source.pk}"):
            for fetch in ripe.order_by("id"):
                size = sum(page.path.stat().st_size for page in shelf.pages(source.name, fetch.pk))
                if not dry_run:
                    # the mark first: a fetch that says it has pages must have them
                    Fetch.objects.filter(pk=fetch.pk).update(pruned=True)
                    Delivery.objects.filter(fetch=fetch.pk).exclude(status=Delivery.Status.DELIVERED).update(
                        status=Delivery.Status.FAILED, error=_TOO_LATE, finished_at=timezone.now()
                    )
                    shelf.remove(source.name, fetch.pk)
                yield Pruned(fetch.pk, source.name, size)
