"""Runs jobs in this process: the pipeline without Prefect."""

import logging
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from catalog.errors import DataflowError
from flows.claims import claim
from flows.costs import check_budget
from flows.costs import money_left
from flows.derive import store_indicators
from flows.job import Job
from flows.ledger import CatalogLedger
from flows.ledger import recorded
from flows.pipeline import catch_up
from flows.pipeline import run
from flows.plan import Selection
from flows.plan import plan
from flows.work import Outcome
from flows.workshops import workshop

log = logging.getLogger(__name__)

Progress = Callable[[str, str, int], None]


def ingest(selection: Selection, progress: Progress = lambda source, what, count: None) -> dict[str, Outcome]:
    """Run every job of the selection, source by source; returns what each source did.

    A source that fails is noted in its outcome and does not stop the others.
    """
    outcomes: dict[str, Outcome] = {}
    for name, jobs in groupby(plan(selection), key=lambda job: job.source.name):
        outcomes[name] = run_source(list(jobs), selection, progress)
    return outcomes


def replay(selection: Selection, fetches: Sequence[int] = ()) -> dict[str, Outcome]:
    """Refine and deliver landed fetches of the selection again, from their first row; the vendor is not asked."""
    outcomes: dict[str, Outcome] = {}
    for name, jobs in groupby(plan(selection), key=lambda job: job.source.name):
        outcomes[name] = run_source(list(jobs), selection, again_from=fetches)
    return outcomes


def run_source(
    jobs: list[Job],
    selection: Selection,
    progress: Progress = lambda source, what, count: None,
    again_from: Sequence[int] | None = None,
) -> Outcome:
    """Run the jobs of one source under its claim, recorded as one run.

    With `again_from`, landed fetches (these, or all where it is empty) are replayed and nothing is fetched.
    """
    source = jobs[0].source
    outcome = Outcome()
    kind = "historical" if again_from is None else "replay"
    with claim(f"source-{source.id}"), recorded(source.id, selection.describe(), kind) as record:
        try:
            ledger = CatalogLedger(record)
            kit = workshop(source, ledger, lambda what, count: progress(source.name, what, count))
            if again_from is None and not selection.allow_cost:
                check_budget(jobs, kit)
                kit = replace(kit, left=partial(money_left, source.id))
            for job in jobs:
                if again_from is None:
                    outcome.add(run(job, kit))
                else:
                    ledger.restart(job, again_from)
                    outcome.add(catch_up(job, kit))
                outcome.add(store_indicators(job))
        except DataflowError as error:
            outcome.errors.append(str(error))
        except Exception as error:  # the other sources still run
            log.exception("source %s failed", source.name)
            outcome.errors.append(f"{type(error).__name__}: {error}")
        record.error = "\n".join(outcome.errors)[:10_000]
    return outcome
