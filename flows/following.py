"""Keeps the stored indicators of live series right: computes what commits have made due, beside the run."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from flows.derive import Follower
from flows.job import Job
from flows.job import RouteFacts
from flows.live.runner import Live

log = logging.getLogger(__name__)

#: a bar made of ticks ends with the clock, not with a commit
_EVERY: Final = 1.0
#: seconds that the end of a run waits for the last values
_LAST: Final = 2.0
#: frames that a home may be behind: where it is further, what was heard is not at the home yet
_BEHIND: Final = 20_000


class Following:
    """Follows the homes of one live run, in a thread of its own."""

    def __init__(self, live: Live, in_thread: Callable[[], AbstractContextManager[None]]) -> None:
        self.live = live
        self.in_thread = in_thread
        self.error = ""
        self.values = 0
        self._followers: dict[tuple[str, str], tuple[Job, RouteFacts, Follower]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"indicators of {live.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Compute once more what is due, and end; what is not done in time stays due."""
        self._stopping.set()
        self._thread.join(_LAST)

    def _run(self) -> None:
        with self.in_thread():
            while not self._stopping.wait(_EVERY):
                self._follow()
            self._follow()

    def _follow(self) -> None:
        for job in list(self.live.jobs.values()):
            for route in job.routes:
                if not route.home or not job.chains:
                    continue
                try:
                    outcome = self._follower(job, route).follow({} if self._behind(job, route) else None)
                except Exception as error:  # noqa: BLE001  # the home is away: what was due stays due
                    self._say(f"{type(error).__name__}: {error}")
                    self.live.ledger.mend()
                    continue
                self.values += sum(tally.parsed for tally in outcome.tallies.values())
                self._say("; ".join(outcome.errors))

    def _say(self, error: str) -> None:
        if error and error != self.error:
            log.warning("%s: indicators: %s", self.live.name, error)
        self.error = error

    def _follower(self, job: Job, route: RouteFacts) -> Follower:
        key = (job.schema, route.destination)
        known = self._followers.get(key)
        if known is None or known[0] is not job or known[1] is not route:
            known = self._followers[key] = (job, route, Follower(job, route))
        return known[2]

    def _behind(self, job: Job, route: RouteFacts) -> bool:
        lane = self.live.lanes.get((job.schema, route.destination))
        if lane is None or lane.lag.error:
            return True
        stints = list(lane.stints)
        return len(stints) > 1 or any(one.spool.written - lane.lag.cursor > _BEHIND for one in stints)
