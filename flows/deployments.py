"""One deployment for each active group, one schedule for each distinct cron and zone of its series.

`manage.py sync_deployments` makes, updates and removes them. What people switched in the Prefect UI (a
paused deployment, an inactive schedule) is read first and kept: applying a deployment would reset it.
"""

import flows.setup  # isort: skip  # makes Django ready before models are imported

import hashlib
from dataclasses import dataclass
from typing import Any
from typing import Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.filters import DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.types.entrypoint import EntrypointType

from catalog.models import TimeSeries
from flows.historical import historical

__all__ = ["WORK_POOL", "Synced", "flows", "sync"]

WORK_POOL: Final = "dataflow"
#: marks the deployments that are ours to change and remove
TAG: Final = "dataflow-catalog"


@dataclass(frozen=True, slots=True)
class Synced:
    """Names of deployments made or updated, and of those removed."""

    applied: tuple[str, ...]
    removed: tuple[str, ...]


def schedules() -> dict[str, dict[str, tuple[str, str]]]:
    """Return source → slug → (cron, zone) of the active historical series, sources without a schedule included."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    rows = TimeSeries.objects.filter(active=True, source__active=True, extractor_type="historical").order_by()
    for source, cron, zone in rows.values_list("source__name", "schedule", "timezone").distinct():
        slugs = found.setdefault(source, {})
        if cron:
            slugs[hashlib.sha256(f"{cron} {zone}".encode()).hexdigest()[:12]] = (cron, zone)
    return found


def sync(work_pool: str = WORK_POOL) -> Synced:
    """Make the Prefect deployments agree with the catalog; returns what changed."""
    wanted = schedules()
    with get_client(sync_client=True) as client:
        existing = {
            deployment.name: deployment
            for deployment in client.read_deployments(
                deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
            )
        }
        _ensure_pool(client, work_pool)
        for source, slugs in sorted(wanted.items()):
            _apply(source, slugs, existing.get(source), work_pool)
        removed = sorted(existing.keys() - wanted.keys())
        for name in removed:
            client.delete_deployment(existing[name].id)
    return Synced(tuple(sorted(wanted)), tuple(removed))


def _apply(source: str, slugs: dict[str, tuple[str, str]], existing: DeploymentResponse | None, work_pool: str) -> None:
    inactive = {schedule.slug for schedule in existing.schedules if not schedule.active} if existing else set()
    deployment = RunnerDeployment.from_flow(
        historical,
        name=source,
        parameters={"source": source},
        tags=[TAG],
        work_pool_name=work_pool,
        paused=existing.paused if existing else False,
        schedules=[
            Schedule(cron=cron, timezone=zone, slug=slug, active=slug not in inactive, parameters={"source": source})
            for slug, (cron, zone) in sorted(slugs.items())
        ],
        # the code is installed where the worker runs: nothing is pulled
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply()


def _ensure_pool(client: Any, name: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
