"""Flow `orchestrator`: groups the active catalog by (extractor_type, source) and dispatches each group."""

import flows.setup  # isort: skip  # makes Django ready before models are imported

from dataclasses import replace
from datetime import datetime
from typing import Any
from typing import Final
from typing import Literal

from prefect import flow
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ThreadPoolTaskRunner

from flows.historical import historical
from flows.plan import Selection
from flows.plan import groups

__all__ = ["FAILED", "dispatch_groups", "flows", "orchestrator", "run_as_flows"]

#: states of a flow run that did not do its work
FAILED: Final = frozenset({"failed", "crashed", "cancelled"})


@flow(name="orchestrator", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]  # typed for a class
def orchestrator(
    sources: list[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    again: bool = False,
    allow_cost: bool = False,
    dispatch: Literal["here", "deployments"] = "here",
) -> dict[str, str]:
    """Run every active group: in this process, or each as its own deployment's flow run.

    Realtime groups run for weeks, and only as their deployment's flow runs. Returns what became of each source; fails
    after all groups ran when one of them failed.
    """
    ended = dispatch_groups(Selection((), tuple(sources or ()), start, end, again, allow_cost=allow_cost), dispatch)
    failed = [source for source, state in ended.items() if state in FAILED]
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")
    return ended


def dispatch_groups(selection: Selection, dispatch: Literal["here", "deployments"]) -> dict[str, str]:
    """Run or submit each group of the selection; returns what became of each source, `<source> live` included."""
    with flows.setup.database_connections():
        found = groups(selection)
        live = groups(replace(selection, extractor_type="realtime"))
    ended = {}
    for _, source in found:
        if dispatch == "deployments":
            ended[source] = _submit(f"historical/{source}", _parameters(source, selection))
        else:
            state = historical(**_parameters(source, selection), return_state=True)
            ended[source] = str(state.type.value).lower()
    for _, source in live:
        ended[f"{source} live"] = (
            # where one runs already, this one is cancelled before it begins
            _submit(f"realtime/{source}", {"source": source}, as_subflow=False)
            if dispatch == "deployments"
            else "skipped: it runs for weeks, by its deployment or by manage.py stream"
        )
    return ended


def _submit(deployment: str, parameters: dict[str, Any], *, as_subflow: bool = True) -> str:
    run = run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=as_subflow)
    return f"submitted as {run.name}"  # type: ignore[union-attr]  # a sync call returns the run


def run_as_flows(selection: Selection) -> dict[str, str]:
    """Run a selection through Prefect: submitted where an API is configured, else on a temporary server."""
    return dispatch_groups(selection, "deployments" if PREFECT_API_URL.value() else "here")


def _parameters(source: str, selection: Selection) -> dict[str, Any]:
    """Return the flow's parameters: selectors only, for Prefect caps their size."""
    return {
        "source": source,
        "series": list(selection.series) or None,
        "start": selection.start,
        "end": selection.end,
        "again": selection.again,
        "allow_cost": selection.allow_cost,
    }
