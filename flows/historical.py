"""Flow `historical`: the past of one source, as tasks people can watch in the Prefect UI.

plan → extract (one task a job) → transform (one a shard) → sink (one a shard and destination). Tasks hand
each other paths and counts, never tables. Our ledger is the record of what is done, not Prefect's states:
a run that is killed is simply run again.
"""

from flows.setup import database_connections  # isort: skip  # makes Django ready before models are imported

from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from typing import Final

from prefect import flow
from prefect import get_run_logger
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from prefect.tasks import exponential_backoff

from catalog.errors import DataflowError
from catalog.errors import TransientError
from catalog.models import Run
from flows import refined
from flows.claims import claim
from flows.costs import check_budget
from flows.costs import money_left
from flows.derive import store_indicators
from flows.extraction import extract_missing
from flows.job import Job
from flows.ledger import CatalogLedger
from flows.ledger import recorded
from flows.pipeline import deliver
from flows.pipeline import refine
from flows.plan import Selection
from flows.plan import plan
from flows.work import FetchRef
from flows.work import Outcome
from flows.work import Tally
from flows.work import Workshop
from flows.workshops import workshop

_RETRIES: Final = 4
# a task costs about 20 ms; these make it do at least half a second of work
_SHARD_FETCHES: Final = 50
_SHARD_BYTES: Final = 128 << 20
_THREADS: Final = 4


def _is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry what may work next time, and nothing else."""
    try:
        state.result(raise_on_failure=True)
    except TransientError:
        return True
    except Exception:  # noqa: BLE001  # whatever else failed fails again
        return False
    return False


_RETRYING: Final[dict[str, Any]] = {
    "retries": _RETRIES,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_transient,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@dataclass(frozen=True, slots=True)
class Shard:
    """Landed fetches of one job that are refined and delivered together."""

    job: Job
    fetches: tuple[FetchRef, ...]


@flow(name="historical", flow_run_name="{source}", task_runner=ThreadPoolTaskRunner(max_workers=_THREADS))  # type: ignore[arg-type]  # typed for a class
def historical(
    source: str,
    series: list[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    again: bool = False,
    allow_cost: bool = False,
) -> dict[str, int]:
    """Collect what the active historical series of a source ask for and do not have yet.

    `start` and `end` are aware times, `[start, end)`; `series` limits the run to some series ids; `again`
    fetches what is covered once more; `allow_cost` lets it cost more than is left of the source's budget. Returns
    rows by outcome; fails when anything failed, after all that could be done was done.
    """
    selection = Selection(tuple(series or ()), (source,), start, end, again, allow_cost=allow_cost)
    with database_connections():
        jobs = plan_jobs(selection)
        if not jobs:
            get_run_logger().warning("source %s has no active historical series in this selection", source)
            return {}
        number = jobs[0].source.id
        run_id = str(flow_run.id or "")
        with claim(f"source-{number}"), recorded(number, selection.describe(), flow_run=run_id) as record:
            if not allow_cost:
                check_budget(jobs, _kit(jobs[0], CatalogLedger(record)))
            outcome = _run(jobs, record.pk, allow_cost)
            record.error = "\n".join(outcome.errors)[:10_000]
    _publish(source, outcome)
    if outcome.errors:
        raise RuntimeError("\n".join(outcome.errors))
    total = sum(outcome.tallies.values(), Tally())
    return {name: getattr(total, name) for name in Tally.__slots__}


def _run(jobs: Sequence[Job], record: int, allow_cost: bool) -> Outcome:
    outcome = Outcome()
    shards: list[Shard] = []
    for extracting in [extract.submit(job, record, allow_cost) for job in jobs]:
        with _noting(outcome):
            cut, made = extracting.result()
            shards += cut
            outcome.add(made)
    delivering = []
    for shard in shards:
        ready = transform.submit(shard, record)
        # Prefect hands a task the result of the future it is given
        sinks = [sink.submit(shard, route.destination, record, ready) for route in shard.job.routes]  # type: ignore[call-overload]
        delivering.append((ready, sinks))
    for ready, sinks in delivering:
        with _noting(outcome):
            # a failed transform is the reason of its sinks' failure, and says more
            ready.result()
            for future in sinks:
                with _noting(outcome):
                    outcome.add(future.result())
    for shard in shards:
        for fetch in shard.fetches:
            refined.remove(_kit(shard.job).landing.folder(fetch.source, fetch.id))
    for job in jobs:
        if job.chains:
            outcome.add(indicators(job))
    return outcome


@contextmanager
def _noting(outcome: Outcome) -> Iterator[None]:
    """Note what a task failed with, and go on with the others."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # recorded, and the flow fails with it at its end
        outcome.errors.append(f"{type(error).__name__}: {error}")


@task(name="plan", cache_policy=NO_CACHE)
def plan_jobs(selection: Selection) -> list[Job]:
    """Turn the catalog's rows into jobs."""
    return plan(selection)


@task(name="extract", task_run_name="extract {job.schema}", **_RETRYING)
def extract(job: Job, record: int, allow_cost: bool = False) -> tuple[list[Shard], Outcome]:
    """Land what a job lacks; returns the landed fetches that some destination waits for, cut in shards."""
    with database_connections():
        ledger = CatalogLedger(Run.objects.get(pk=record))
        kit = _kit(job, ledger)
        if not allow_cost:
            kit = replace(kit, left=partial(money_left, job.source.id))
        outcome = Outcome()
        try:
            extract_missing(job, kit, outcome)
        except DataflowError as error:
            # what may pass was tried again already; what has landed is delivered
            outcome.errors.append(str(error))
        fetches = {delivery.fetch.id: delivery.fetch for delivery in ledger.deliveries(job)}
        return list(_cut(kit.amended(job), [fetches[number] for number in sorted(fetches)], kit)), outcome


@task(name="transform", task_run_name="transform {shard.job.schema}", **_RETRYING)
def transform(shard: Shard, record: int) -> int:
    """Refine the landed pages of a shard into Arrow IPC beside them; returns the rows parsed."""
    with database_connections():
        kit = _kit(shard.job, CatalogLedger(Run.objects.get(pk=record)))
        return sum(
            refined.write(kit.landing.folder(fetch.source, fetch.id), refine(fetch, kit)) for fetch in shard.fetches
        )


@task(name="sink", task_run_name="sink {shard.job.schema} to {destination}", **_RETRYING)
def sink(shard: Shard, destination: str, record: int, refined_rows: int) -> Outcome:
    """Deliver a shard's refined batches to one destination; `refined_rows` is what `transform` answered."""
    outcome = Outcome()
    with database_connections():
        ledger = CatalogLedger(Run.objects.get(pk=record))
        kit = _kit(shard.job, ledger)
        for fetch in shard.fetches:
            mine = [item for item in ledger.deliveries(shard.job, fetch) if item.destination == destination]
            if mine:
                batches = refined.read(kit.landing.folder(fetch.source, fetch.id))
                outcome.add(deliver(fetch, shard.job, mine, kit, batches))
    if outcome.transient:
        # what was delivered stays so; the task's retry goes on from the cursors
        raise TransientError("\n".join(outcome.errors))
    return outcome


@task(name="indicators", task_run_name="indicators of {job.schema}", **_RETRYING)
def indicators(job: Job) -> Outcome:
    """Bring the stored indicators of a job up to its stored bars."""
    return store_indicators(job)


def _kit(job: Job, ledger: CatalogLedger | None = None) -> Workshop:
    return workshop(job.source, ledger or CatalogLedger(Run()))


def _cut(job: Job, fetches: Sequence[FetchRef], kit: Workshop) -> list[Shard]:
    shards: list[Shard] = []
    current: list[FetchRef] = []
    size = 0
    for fetch in fetches:
        own = sum(page.manifest.bytes for page in kit.landing.pages(fetch.source, fetch.id))
        if current and (len(current) >= _SHARD_FETCHES or size + own > _SHARD_BYTES):
            shards.append(Shard(job, tuple(current)))
            current, size = [], 0
        current.append(fetch)
        size += own
    return [*shards, Shard(job, tuple(current))] if current else shards


def _publish(source: str, outcome: Outcome) -> None:
    """Show the account in the UI."""
    rows = [
        {"destination": name, **{count: getattr(tally, count) for count in Tally.__slots__}}
        for name, tally in sorted(outcome.tallies.items())
    ]
    if rows:
        key = "".join(character if character.isalnum() else "-" for character in source.lower())
        create_table_artifact(rows, key=f"account-{key}", description=f"Rows of {source} by destination")
