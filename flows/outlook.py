"""What a job would do, seen without doing it."""

from typing import Any

from django.utils import timezone

from catalog.errors import DataflowError
from catalog.models import Run
from flows import registry
from flows.costs import money
from flows.costs import quote
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import Job
from flows.job import Request
from flows.ledger import CatalogLedger
from flows.work import Workshop
from flows.workshops import context
from flows.workshops import workshop


def outlook(job: Job) -> dict[str, Any]:
    """Return a job in words and numbers: requests covered and missing, what they will cost, deliveries that wait.

    Nothing is written. Vendors that quote are asked; where one cannot be, `cost` says why.
    """
    # a run that is never saved: this ledger only answers
    ledger = CatalogLedger(Run())
    kit = workshop(job.source, ledger)
    requests = list(kit.extractor.requests(job))
    parts = [[request] if job.again else ledger.missing(request) for request in requests]
    missing = [part for request in parts for part in request]
    quoted = _quoted(missing, kit)
    return {
        **_asked(job),
        "covered": sum(not request for request in parts),
        "missing": len(missing),
        **quoted,
        "waiting": ledger.waiting(job),
    }


def outlook_live(job: Job) -> dict[str, Any]:
    """Return what a stream would subscribe for a job, and what becomes of what it does not hear. Asks nobody."""
    now = timezone.now()
    current = [one for one in job.instruments if now < one.end]
    channels = registry.extractor(job.source.vendor, "realtime")(job.source, context()).channels(
        job.schema, current, now
    )
    past = registry.historical().get(job.source.vendor)
    return {
        **_asked(job),
        "subscribed": [channel.symbol for channel in channels],
        "filled": past is not None and past.fills(job.schema),
        "waiting": CatalogLedger(Run()).waiting(job),
    }


def _asked(job: Job) -> dict[str, Any]:
    return {
        "source": job.source.name,
        "schema": job.schema,
        "instruments": len(job.instruments),
        "start": None if job.start <= EARLIEST else job.start,
        "end": None if job.end >= LATEST else job.end,
        "destinations": ", ".join(route.destination for route in job.routes),
    }


def _quoted(missing: list[Request], kit: Workshop) -> dict[str, Any]:
    try:
        found = quote(missing, kit)
    except DataflowError as error:
        return {"calls": None, "bytes": None, "cost": f"unknown: {error}"}
    least = "" if found.exact else "≥ "
    return {
        "calls": f"{least}{found.requests}",
        "bytes": found.bytes,
        "cost": f"{least}{money(found.money)}",
    }
