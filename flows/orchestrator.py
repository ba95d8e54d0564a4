"""Flow `orchestrator`: groups the active catalog by (extractor_type, source) and dispatches each group."""

import flows.setup  # isort: skip  # makes Django ready before models are imported

from datetime import datetime
from typing import Literal

from prefect import flow
from prefect import get_run_logger
from prefect.deployments import run_deployment
from prefect.task_runners import ThreadPoolTaskRunner

from flows.historical import historical
from flows.plan import Selection
from flows.plan import groups

__all__ = ["flows", "orchestrator"]


@flow(name="orchestrator", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]  # typed for a class
def orchestrator(
    sources: list[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    again: bool = False,
    dispatch: Literal["here", "deployments"] = "here",
) -> dict[str, str]:
    """Run every active group: in this process, or each as its own deployment's flow run.

    Returns what became of each source; fails after all groups ran when one of them failed.
    """
    logger = get_run_logger()
    selection = Selection((), tuple(sources or ()), start, end, again)
    ended: dict[str, str] = {}
    with flows.setup.database_connections():
        found = groups(selection)
    for (extractor_type, source), count in found.items():
        logger.info("%s %s: %d series", extractor_type, source, count)
        if dispatch == "deployments":
            run = run_deployment(
                f"historical/{source}", parameters={"source": source, "again": again}, timeout=0, as_subflow=True
            )
            ended[source] = f"submitted as {run.name}"  # type: ignore[union-attr]  # a sync call returns the run
            continue
        state = historical(source, None, start, end, again, return_state=True)
        ended[source] = str(state.type.value).lower()
    failed = [source for source, end_state in ended.items() if end_state in ("failed", "crashed")]
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")
    return ended
