"""Flow `realtime`: the live series of one source, as one long run that people watch and cancel in the Prefect UI.

The stream needs Prefect for nothing: while its API is away the stream goes on, and what could not be said is noted.
Which run streams a source is decided by a claim; Prefect's concurrency limit (`flows.deployments`) only keeps the
keepalive schedule from starting processes that would wait for it.
"""

from flows.setup import database_connections  # isort: skip  # makes Django ready before models are imported

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from prefect import flow
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.filters import DeploymentFilterId
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.filters import FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateName
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import deployment as own_deployment
from prefect.runtime import flow_run as own_run
from prefect.states import Cancelled
from prefect.states import Completed

from catalog.models import DataSource
from catalog.models import Run
from flows.live.coverage import SKEW
from flows.live.runner import Settings
from flows.plan import Selection
from flows.plan import groups
from flows.stream import ASKED
from flows.stream import FOR_GOOD
from flows.stream import Stream
from flows.stream import fingerprint

#: seconds that a run may take to end
DRAIN: Final = 10.0
_LOOK: Final = 30.0
_FIRST_LOOK: Final = 5.0
_LAST_LOOK: Final = 2.0
_TICK: Final = 0.5
#: seconds a successor may take to be heard, and until it is tried again where none was
_SUCCESSION: Final = 300.0
_NEXT_TRY: Final = 3600.0
_UNSUBMITTED: Final = 600.0
#: seconds that both are heard, beside what the vendor needs to send
_OVERLAP: Final = 5.0
#: after a failure that lasts until somebody does something nothing is tried
_REST: Final = timedelta(minutes=5)
#: rows of the table that is shown
_SHOWN: Final = 200


@flow(name="realtime", flow_run_name="{source} live", persist_result=False)
def realtime(source: str, renew_hours: float = 24.0) -> Any:
    """Stream what the active realtime series of a source ask for, until it is told to end.

    A run of a deployment has a successor after `renew_hours`, and ends when that is heard; any other goes on. Returns
    counts; fails with what the vendor refuses for good.
    """
    logger = get_run_logger()
    with database_connections():
        reason = _unasked(source) or _rest(source)
    if reason:
        logger.info(reason)
        return Completed(message=reason)
    # deliver for a little less than it may take, for the disk and the ledger need some of it
    stream = Stream(source, settings=Settings(drain=DRAIN - 4.0), flow_run=str(own_run.id or ""))
    attendant = Attendant(stream, timedelta(hours=renew_hours), logger)
    stream.start()
    attendant.start()
    try:
        _until_over(stream, attendant, logger)
    finally:
        stream.stop()
        attendant.stop()
        if not stream.ended.wait(DRAIN):
            logger.warning("%s: not all was delivered in %g s; the next run does it", source, DRAIN)
        attendant.conclude()
    if stream.error is not None:
        raise stream.error
    shown = stream.look()
    if attendant.cancelled:
        return Cancelled(message="Told to end; all that was heard has landed.")
    return {name: getattr(shown, name) for name in ("frames", "reconnects", "filled", "gaps")}


def _until_over(stream: Stream, attendant: "Attendant", logger: Any) -> None:
    while True:
        try:
            while not stream.ended.wait(_TICK) and not attendant.leave.is_set():
                pass
        except asyncio.CancelledError:
            # Prefect interrupts a run whose slot it could not renew: its API was away, or has forgotten the slot
            logger.warning("%s: Prefect gave up this run's concurrency slot; the stream goes on", stream.source)
            attendant.renew()
        else:
            return


def _unasked(source: str) -> str:
    """Return that nobody asks for a source any more: its deployment is there until it is synced."""
    known = DataSource.objects.filter(name=source)
    if not known.exists() or groups(Selection(sources=(source,), extractor_type="realtime")):
        return ""
    return (
        f"source {source!r} has no active realtime series: nothing to do. manage.py sync_deployments removes this"
        " deployment."
    )


def _rest(source: str) -> str:
    """Return why nothing is done now: the last run has just failed for good, and nothing has changed since.

    Whoever refuses us is not asked every minute. The run ends instead of waiting: the next one reads the environment
    anew, where somebody may have corrected a secret.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not context.flow_run.auto_scheduled:
        # somebody has asked for it
        return ""
    last = Run.objects.filter(kind="realtime", source__name=source).select_related("source").order_by("-id").first()
    if last is None or last.finished_at is None or last.error.split(":")[0] not in {one.__name__ for one in FOR_GOOD}:
        return ""
    again = last.finished_at + _REST
    if timezone.now() >= again or _environment_changed(last.finished_at):
        return ""
    if last.source is not None and last.selector.get(ASKED) != fingerprint(last.source):
        return ""
    return (
        f"run {last.pk} has failed and nothing has changed since; the first run after {again:%H:%M:%S}Z tries again,"
        f" or one that is started by hand: {last.error}"
    )


def _environment_changed(since: datetime) -> bool:
    try:
        return settings.ENV_FILE.stat().st_mtime > since.timestamp()
    except OSError:
        return False


class Attendant:
    """Shows a stream in Prefect and sees to its successor, in a thread of its own.

    Prefect and the ledger may be away or slow: the stream does not notice.
    """

    def __init__(self, stream: Stream, renewal: timedelta, logger: Any) -> None:
        self.stream = stream
        self.logger = logger
        self.run_id = own_run.id
        self.deployment: str | None = own_deployment.id
        self.parameters = {"source": stream.source, "renew_hours": renewal.total_seconds() / 3600}
        #: set when the run should end
        self.leave = threading.Event()
        self.cancelled = False
        self._renewal = renewal.total_seconds()
        #: when it is to be renewed: counted from when it had the claim
        self._due: float | None = None
        self._handing: float | None = None
        self._heard: float | None = None
        #: whether Prefect takes the run for dead
        self._gone = False
        self._single = False
        self._artifact: UUID | None = None
        self._said = ""
        self._troubles: dict[str, str] = {}
        self._ended = threading.Event()
        self._over = threading.Event()
        # settings, and so the API's address, are in the context
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="attendant", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way."""
        self._ended.set()

    def conclude(self) -> None:
        """Show how the stream ended; where Prefect is away that is not waited for."""
        self._over.set()
        self._thread.join(_LAST_LOOK)

    def renew(self) -> None:
        """Have a successor soon."""
        self._due = 0.0

    def _run(self) -> None:
        every: dict[Callable[[], None], float] = {self._say: _TICK, self._succession: _TICK}
        if self.run_id:
            every |= {self._show: _LOOK, self._ask: _LOOK}
        if self.deployment:
            every |= {self._hold: _LOOK, self._limit: _LOOK, self._tidy: _LOOK}
        due = dict.fromkeys(every, 0.0)
        # before something has come there is little to show
        due[self._show] = time.monotonic() + _FIRST_LOOK
        while not self._ended.wait(_TICK):
            for duty, seconds in every.items():
                if time.monotonic() >= due[duty]:
                    self._attempt(duty)
                    due[duty] = time.monotonic() + seconds
        # how it ended is shown as well
        self._over.wait(DRAIN)
        if self._show in every:
            self._attempt(self._show)

    def _attempt(self, duty: Callable[[], None]) -> None:
        name = duty.__name__
        try:
            with database_connections():
                duty()
        except Exception as error:  # noqa: BLE001  # whatever Prefect or the ledger says, the stream goes on
            trouble = f"{type(error).__name__}: {error}"
            if self._troubles.get(name) != trouble:
                self.logger.warning("%s: not done: %s: %s", self.stream.source, name.strip("_"), trouble)
            self._troubles[name] = trouble
        else:
            self._troubles.pop(name, None)

    # -- its duties -----------------------------------------------------------------------------------------------

    def _say(self) -> None:
        """Say what has changed for better or worse."""
        live = self.stream.live
        said = "; ".join(filter(None, (self.stream.condition, live.status.error if live else "")))
        if said != self._said:
            self.logger.info("%s: %s", self.stream.source, said)
            self._said = said

    def _show(self) -> None:
        """Show the stream as one table, which is written anew."""
        shown = self.stream.look()
        rows = [row for row, _ in zip(shown.table(), range(_SHOWN), strict=False)]
        content = {"data": json.dumps(rows), "description": f"{shown.source} at {shown.at:%H:%M:%S}Z: {shown.line()}"}
        with get_client(sync_client=True) as client:
            if self._artifact is None:
                key = "".join(one if one.isalnum() else "-" for one in shown.source.lower())
                made = client.create_artifact(
                    ArtifactCreate(key=f"live-{key}", type="table", flow_run_id=UUID(self.run_id), **content)
                )
                self._artifact = made.id
            else:
                # the client's own method would store the table once more in an event, every time
                client.request("PATCH", "/artifacts/{id}", path_params={"id": self._artifact}, json=content)

    def _ask(self) -> None:
        """Ask how Prefect sees this run: a worker that died cannot tell us that it was cancelled."""
        with get_client(sync_client=True) as client:
            state: State[Any] | None = client.read_flow_run(UUID(self.run_id)).state
        if state is None:
            return
        if state.is_cancelling() or state.is_cancelled():
            self.cancelled = True
            self.leave.set()
        elif state.is_final() and not self._gone:
            self.logger.warning("%s: Prefect takes this run for %s", self.stream.source, state.name)
            self._gone = True
            self.renew()

    def _hold(self) -> None:
        """Make sure that the source is still ours: a database that was restarted has forgotten it."""
        if self._handing is None and self.stream.live is not None and not self.stream.keep():
            self.logger.warning("%s: another run has taken over", self.stream.source)
            self._handing = time.monotonic()

    def _limit(self) -> None:
        """Let one run be started at a time, once a predecessor has made room for this one."""
        if self._single or self._handing or self.stream.live is None:
            return
        self._allow(1)
        self._single = True

    def _tidy(self) -> None:
        """Remove the runs that the keepalive schedule asked for and that never began."""
        if self.stream.live is None:
            return
        with get_client(sync_client=True) as client:
            for one in client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Cancelled"]))
                ),
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[UUID(self.deployment)])),
                limit=_SHOWN,
            ):
                if one.auto_scheduled and not one.run_count:
                    client.delete_flow_run(one.id)

    def _succession(self) -> None:
        """Hand over when it is time: another run is started, and this one ends when that is heard."""
        stream, now = self.stream, time.monotonic()
        if stream.idle:
            self.logger.info("%s: no series asks for it any more", stream.source)
            self.leave.set()
        elif stream.live is None or self.deployment is None:
            return
        elif self._due is None:
            self._due = now + self._renewal
        elif self._handing is None:
            if now >= self._due:
                self._due = now + _UNSUBMITTED
                self._submit()
                stream.hand_over()
                self._handing = now
        elif stream.succeeded:
            self._heard = self._heard or now
            if now - self._heard >= (SKEW + stream.live.transit).total_seconds() + _OVERLAP:
                self.leave.set()
        elif now - self._handing >= _SUCCESSION:
            if stream.keep():
                self.logger.warning("%s: no successor was heard; going on", stream.source)
                self._handing, self._due, self._single = None, now + _NEXT_TRY, False
            else:
                # somebody has the source, and is not heard yet
                self._handing = now

    def _submit(self) -> None:
        assert self.deployment
        # a run that Prefect takes for dead has no slot any more
        self._allow(1 if self._gone else 2)
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(UUID(self.deployment), parameters=self.parameters)
        self.logger.info("%s: renewing: the successor is %s", self.stream.source, run.name)

    def _allow(self, runs: int) -> None:
        with get_client(sync_client=True) as client:
            name = f"deployment:{self.deployment}"
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=runs))
