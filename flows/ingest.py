"""Runs jobs in this process: the pipeline without Prefect."""

from collections.abc import Callable
from itertools import groupby

from catalog.errors import DataflowError
from flows.claims import claim
from flows.derive import store_indicators
from flows.job import Job
from flows.ledger import CatalogLedger
from flows.ledger import recorded
from flows.pipeline import Outcome
from flows.pipeline import run
from flows.plan import Selection
from flows.plan import plan
from flows.workshops import workshop

Progress = Callable[[str, str, int], None]


def ingest(selection: Selection, progress: Progress = lambda source, what, count: None) -> dict[str, Outcome]:
    """Run every job of the selection, source by source; returns what each source did.

    A source that fails is noted in its outcome and does not stop the others.
    """
    outcomes: dict[str, Outcome] = {}
    for name, jobs in groupby(plan(selection), key=lambda job: job.source.name):
        outcomes[name] = run_source(list(jobs), selection, progress)
    return outcomes


def run_source(
    jobs: list[Job], selection: Selection, progress: Progress = lambda source, what, count: None, flow_run: str = ""
) -> Outcome:
    """Run the jobs of one source under its claim, recorded as one run."""
    source = jobs[0].source
    outcome = Outcome()
    with claim(f"source-{source.id}"), recorded(source.id, selection.describe(), flow_run=flow_run) as record:
        try:
            kit = workshop(source, CatalogLedger(record), lambda what, count: progress(source.name, what, count))
            for job in jobs:
                outcome.add(run(job, kit))
                outcome.add(store_indicators(job))
        except DataflowError as error:
            outcome.errors.append(str(error))
        record.error = "\n".join(outcome.errors)[:10_000]
    return outcome


