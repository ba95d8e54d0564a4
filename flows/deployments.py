"""One deployment for each active group: `historical/<source>` and `realtime/<source>`.

A historical one has a schedule for each distinct cron and zone of its series. A realtime one has a schedule that asks
for a run every minute, and a concurrency limit that cancels it while one runs: so a run that died has a successor.

`manage.py sync_deployments` makes, updates and removes them. What people switched in the Prefect UI (a
paused deployment, an inactive schedule) is read first and kept: applying a deployment would reset it.
"""

import flows.setup  # isort: skip  # makes Django ready before models are imported

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from typing import Final

from prefect.automations import AutomationCore
from prefect.automations import ChangeFlowRunState
from prefect.automations import EventTrigger
from prefect.automations import Posture
from prefect.automations import ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.filters import DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from catalog.errors import ConfigError
from catalog.models import TimeSeries
from flows.historical import historical
from flows.plan import Selection
from flows.plan import groups
from flows.realtime import realtime

__all__ = ["WATCH", "WORK_POOL", "Synced", "flows", "sync"]

WORK_POOL: Final = "dataflow"
#: marks the deployments that are ours to change and remove
TAG: Final = "dataflow-catalog"
_PAGE: Final = 200
_ENDS: Final = ("Completed", "Failed", "Cancelled", "Crashed")

#: how often a realtime run is asked for that is not there
_KEEPALIVE: Final = timedelta(minutes=1)
_KEEPALIVE_SLUG: Final = "keepalive"
#: marks realtime runs as crashed that have died without a word, for they hold the place of their successor
WATCH: Final = "dataflow: realtime runs without a heartbeat"
#: seconds between the heartbeats of a realtime run: Prefect's own three minutes are too long
_HEARTBEAT: Final = 30
_HEARTBEATS: Final = timedelta(seconds=4 * _HEARTBEAT)

#: (flow, source)
Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Synced:
    """Names of deployments made or updated, and of those removed: `<flow>/<source>`; and the API that was told."""

    api: str
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
    """Make the Prefect deployments agree with the catalog; returns what changed.

    Raises ConfigError where no API is configured: Prefect would start a server for this process, and forget it.
    """
    api = PREFECT_API_URL.value()
    if not api:
        raise ConfigError(
            "PREFECT_API_URL is not set: there is no Prefect server to tell. `make run` starts one and prints the line"
            " to enter here, by default: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    past = schedules()
    live = {source for _, source in groups(Selection(extractor_type="realtime"))}
    wanted = {("historical", source) for source in past} | {("realtime", source) for source in live}
    with get_client(sync_client=True) as client:
        existing = _existing(client)
        _ensure_pool(client, work_pool)
        for flow, source in sorted(wanted):
            kept = existing.get((flow, source))
            if flow == "historical":
                _apply_historical(source, past[source], kept, work_pool)
            else:
                _apply_realtime(source, kept, work_pool)
        removed = sorted(existing.keys() - wanted)
        for group in removed:
            client.delete_deployment(existing[group].id)
        if live:
            _ensure_watch(client)
    return Synced(str(api), tuple("/".join(one) for one in sorted(wanted)), tuple("/".join(one) for one in removed))


def _existing(client: SyncPrefectClient) -> dict[Group, DeploymentResponse]:
    found: list[DeploymentResponse] = []
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    while page := client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=len(found)):
        found += page
    flows = {one.flow_id: client.read_flow(one.flow_id).name for one in found}
    return {(flows[one.flow_id], one.name): one for one in found}


def _apply_historical(
    source: str, slugs: dict[str, tuple[str, str]], existing: DeploymentResponse | None, work_pool: str
) -> None:
    inactive = _inactive(existing)
    planned = [
        Schedule(cron=cron, timezone=zone, slug=slug, active=slug not in inactive, parameters={"source": source})
        for slug, (cron, zone) in sorted(slugs.items())
    ]
    _apply(historical, source, existing, work_pool, planned)


def _apply_realtime(source: str, existing: DeploymentResponse | None, work_pool: str) -> None:
    active = _KEEPALIVE_SLUG not in _inactive(existing)
    planned = [Schedule(interval=_KEEPALIVE, slug=_KEEPALIVE_SLUG, active=active, parameters={"source": source})]
    # a run that has a successor makes room for it
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    variables = dict(existing.job_variables or {}) if existing else {}
    environment = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(_HEARTBEAT), **variables.get("env", {})}
    more = {"concurrency_limit": limit, "job_variables": {**variables, "env": environment}}
    _apply(realtime, source, existing, work_pool, planned, **more)


def _apply(
    flow: Any,
    source: str,
    existing: DeploymentResponse | None,
    work_pool: str,
    planned: list[Schedule],
    **more: Any,
) -> None:
    deployment = RunnerDeployment.from_flow(
        flow,
        name=source,
        parameters={"source": source},
        tags=[TAG],
        work_pool_name=work_pool,
        paused=existing.paused if existing else False,
        schedules=planned,
        # the code is installed where the worker runs: nothing is pulled
        entrypoint_type=EntrypointType.MODULE_PATH,
        **more,
    )
    deployment.apply()


def _inactive(existing: DeploymentResponse | None) -> set[str | None]:
    return {schedule.slug for schedule in existing.schedules if not schedule.active} if existing else set()


def _ensure_watch(client: SyncPrefectClient) -> None:
    """Make the automation where it is missing; people may switch it off."""
    if client.read_automations_by_name(WATCH):
        return
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        # it has ended, or it lives
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{name}" for name in _ENDS)},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": realtime.name}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=_HEARTBEATS,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: its process has died.")
    description = "Lets the keepalive schedule start a run again whose machine has died."
    client.create_automation(AutomationCore(name=WATCH, description=description, trigger=trigger, actions=[action]))


def _ensure_pool(client: Any, name: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
