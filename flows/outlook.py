"""What a job would do, seen without doing it."""

from typing import Any

from catalog.models import Run
from flows.job import EARLIEST
from flows.job import LATEST
from flows.job import Job
from flows.ledger import CatalogLedger
from flows.workshops import workshop


def outlook(job: Job) -> dict[str, Any]:
    """Return a job in words and numbers: requests covered and missing, deliveries that wait. Nothing is written."""
    # a run that is never saved: this ledger only answers
    ledger = CatalogLedger(Run())
    kit = workshop(job.source, ledger)
    requests = list(kit.extractor.requests(job))
    missing = [request for request in requests if ledger.missing(request)]
    return {
        "source": job.source.name,
        "schema": job.schema,
        "instruments": len(job.instruments),
        "start": None if job.start <= EARLIEST else job.start,
        "end": None if job.end >= LATEST else job.end,
        "destinations": ", ".join(route.destination for route in job.routes),
        "covered": len(requests) - len(missing),
        "missing": len(missing),
        "waiting": ledger.waiting(job),
    }
