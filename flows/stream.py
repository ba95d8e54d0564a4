"""Runs realtime series in this process, a thread for each source: what `manage.py stream` and flow `realtime` share."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from django.db import Error as StoreError
from django.db.models import F
from django.utils import timezone

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Instrument
from catalog.models import Run
from flows.claims import Claim
from flows.following import Following
from flows.hearing import CatalogLiveLedger
from flows.job import Job
from flows.ledger import recorded
from flows.live.runner import Live
from flows.live.runner import Settings
from flows.plan import Selection
from flows.plan import groups
from flows.plan import plan
from flows.setup import database_connections
from flows.snapshot import Snapshot
from flows.snapshot import Watch
from flows.snapshot import summary
from flows.workshops import live_extractor_of
from flows.workshops import workshop

log = logging.getLogger(__name__)

#: errors that last until somebody changes the catalog, the environment or the subscription
FOR_GOOD: Final = (AuthFailed, NotEntitled, ConfigError)
#: seconds between two askings for a claim that somebody else holds
_WAIT: Final = 1.0
#: seconds until what ended by itself is begun again
_PAUSE: Final = 10.0
#: seconds between two glances at a run, between two summaries in the ledger, and to write the last one
_GLANCE: Final = 1.0
_TELL: Final = 10.0
_LAST: Final = 1.0
#: of a run's selector: that it goes on only until its successor is heard
LEAVING: Final = "leaving"
#: of a run's selector: the source as it was when the run began
ASKED: Final = "fingerprint"


class Stream:
    """The realtime series of one source, all or some, run in a thread of its own from `start` on.

    It waits for the source's claim first: no two processes stream one source. `error` is what it ended with.
    """

    def __init__(
        self,
        source: str,
        series: tuple[str, ...] = (),
        settings: Settings = Settings(),  # noqa: B008  # frozen
        flow_run: str = "",
    ) -> None:
        self.source = source
        self.selection = Selection(series, (source,), extractor_type="realtime")
        self.settings = settings
        self.flow_run = flow_run
        self.live: Live | None = None
        self.run: Run | None = None
        self.claim: Claim | None = None
        self.error: Exception | None = None
        self.jobs: list[Job] = []
        self.waiting = False
        self.ended = threading.Event()
        self._stopping = threading.Event()
        self._leaving = False
        self._following: Following | None = None
        self._watch: Watch | None = None
        self._names: Mapping[tuple[str, int], str] = {}
        self._named: dict[str, Job] = {}
        # whoever ends the process does not wait for it: what it has not delivered lies landed
        self._thread = threading.Thread(target=self._run, name=f"stream {source}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Disconnect, deliver for some seconds, end. From any thread."""
        self._stopping.set()
        if self.live is not None:
            self.live.stop()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked of it any more: its last series was switched off."""
        return self.live is not None and self.live.ready.is_set() and not self.live.jobs

    @property
    def condition(self) -> str:
        """How it stands, in a few words."""
        if self.ended.is_set():
            return "ended"
        if self.live is None:
            return "waiting: another process streams this source" if self.waiting else "starting"
        return "connected" if self.live.status.connected else "not connected"

    def look(self) -> Snapshot:
        """Return what it looks like now. Any one thread."""
        live = self.live
        errors = (f"{type(self.error).__name__}: {self.error}",) if self.error else ()
        if live is None:
            return Snapshot(self.source, self.condition, errors=errors)
        assert self._watch is not None
        found = self.seen_by(self._watch)
        return replace(found, errors=tuple(dict.fromkeys((*errors, *found.errors))))

    def seen_by(self, watch: Watch) -> Snapshot:
        """Return what somebody who watches it sees. From any thread, each with a watch of its own."""
        if watch.live.jobs != self._named:
            # names are for people: without the catalog the old ones stand
            with suppress(StoreError), database_connections():
                self._names, self._named = _names(self.source), dict(watch.live.jobs)
        found = watch.look(self.condition, self._names)
        if self._following is not None and self._following.error:
            found = replace(found, errors=(*found.errors, f"indicators: {self._following.error}"))
        return found

    # -- a successor ----------------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Let another process take the source, and go on."""
        self._mark(leaving=True)
        if self.claim is not None:
            self.claim.release()

    def keep(self) -> bool:
        """Say whether the source is still ours, having taken it again where nobody else has."""
        if self.claim is not None and not self.claim.take():
            return False
        if self._leaving:
            self._mark(leaving=False)
        return True

    def _mark(self, *, leaving: bool) -> None:
        if self.run is not None:
            selector = {**self.run.selector, LEAVING: True} if leaving else self.run.selector
            Run.objects.filter(pk=self.run.pk).update(selector=selector)
        self._leaving = leaving

    @property
    def succeeded(self) -> bool:
        """Whether a newer run of the source has been acknowledged by the vendor."""
        if self.run is None:
            return False
        return Fetch.objects.filter(
            live=True, run__kind="realtime", run__source=self.run.source_id, run__gt=self.run.pk
        ).exists()

    # -- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with database_connections():
                self._stream()
        except Exception as error:  # noqa: BLE001  # whoever runs it sees what it ended with
            self.error = error
            level = logging.ERROR if isinstance(error, FOR_GOOD) else logging.WARNING
            said = f"{type(error).__name__}: {error}"
            # what a connection ended with is logged by who keeps it
            if self.live is None or self.live.status.error != said:
                log.log(level, "%s: %s", self.source, said)
        finally:
            self.ended.set()

    def _stream(self) -> None:
        self.jobs = plan(self.selection)
        if not self.jobs:
            raise ConfigError(f"source {self.source!r} has no active realtime series")
        facts = self.jobs[0].source
        live_extractor_of(facts)
        self.claim = Claim(f"live-{facts.id}")
        try:
            if not self._claimed(self.claim):
                return
            selector = {
                "series": list(self.selection.series),
                "sources": [self.source],
                ASKED: fingerprint(DataSource.objects.get(pk=facts.id)),
            }
            with recorded(facts.id, selector, "realtime", self.flow_run) as self.run:
                _bury(self.run)
                ledger = CatalogLiveLedger(self.run)
                kit = workshop(facts, ledger)
                assert kit.live is not None
                live = Live(
                    kit.live, kit, ledger, lambda: plan(self.selection), database_connections, settings=self.settings
                )
                self._watch = Watch(live)
                self.live = live
                if self._stopping.is_set():
                    live.stop()
                self._following = following = Following(live, database_connections)
                following.start()
                telling = Telling(self, live, self.run.pk)
                telling.start()
                try:
                    live.run()
                finally:
                    following.stop()
                    telling.stop()
                    # this thread's connection has idled for the whole run
                    ledger.mend()
        finally:
            self.claim.release()

    def _claimed(self, claim: Claim) -> bool:
        while not claim.take():
            if not self.waiting:
                log.warning("%s: another process streams this source; waiting for it", self.source)
                self.waiting = True
            if self._stopping.wait(_WAIT):
                return False
        self.waiting = False
        return True


class Telling:
    """Writes into the ledger what a run looks like, now and then, when that changes, and at its end.

    In a thread of its own: the stream does not wait for a store that is slow or away, and what could not be written is
    written the next time.
    """

    def __init__(self, stream: Stream, live: Live, run: int) -> None:
        self.stream = stream
        self.live = live
        self.run = run
        self._watch = Watch(live)
        self._state = "connecting"
        self._since = timezone.now()
        self._error = ""
        self._error_at: datetime | None = None
        self._told: object = None
        self._due = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"telling of {live.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write once more, and end."""
        self._ended.set()
        self._thread.join(_LAST)

    def _run(self) -> None:
        with database_connections():
            while not self._ended.wait(_GLANCE):
                self._glance()
                look = (self._state, len(self.live.status.refused))
                if look != self._told or time.monotonic() >= self._due:
                    self._write()
                    self._told, self._due = look, time.monotonic() + _TELL
            self._glance()
            self._turn("ended")
            self._write()

    def _glance(self) -> None:
        """See how the connection stands: between two writings it may have been lost and made again."""
        status = self.live.status
        if error := status.error:
            if error != self._error or self._state == "connected":
                self._error, self._error_at = error, timezone.now()
        elif not status.connected and self._state == "connected" and status.notes:
            # it was closed in order, or was silent: there is no error, but a reason
            self._error, self._error_at = status.notes[-1], timezone.now()
        if status.connected:
            self._turn("connected")
        elif self._state == "connected":
            self._turn("reconnecting")

    def _turn(self, state: str) -> None:
        if state != self._state:
            self._state, self._since = state, timezone.now()

    def _write(self) -> None:
        try:
            shown = self.stream.seen_by(self._watch)
            told = summary(shown, self._state, self._since, self._error, self._error_at)
            Run.objects.filter(pk=self.run).update(live=told.written())
        except Exception as error:  # noqa: BLE001  # whatever it is, the stream goes on
            log.debug("%s: not told: %s", self.live.name, error)
            self.live.ledger.mend()


class Streams:
    """The streams of a selection, kept as the catalog asks for them: begun, ended, begun again after a failure."""

    def __init__(self, series: tuple[str, ...] = (), sources: tuple[str, ...] = ()) -> None:
        """Take a selection. Raises ConfigError that lists every name unknown."""
        self.selection = Selection(series, sources, extractor_type="realtime")
        plan(self.selection)
        self.running: dict[str, Stream] = {}
        #: by source that ended: when it is begun again
        self._again: dict[str, float] = {}

    def follow(self) -> None:
        """Begin what is asked for and does not run, end what is not asked for any more."""
        with database_connections():
            self._follow({source for _, source in groups(self.selection)})

    def _follow(self, wanted: set[str]) -> None:
        for name, stream in list(self.running.items()):
            if name not in wanted:
                stream.stop()
                if stream.ended.is_set():
                    del self.running[name]
            elif not stream.ended.is_set():
                if stream.live is not None and not stream.keep():
                    # a database that was restarted has forgotten our claim, and another process was quicker
                    stream.stop()
            elif self._due(stream):
                del self.running[name]
        for name in sorted(wanted - self.running.keys()):
            self.running[name] = Stream(name, self.selection.series)
            self.running[name].start()

    def _due(self, stream: Stream) -> bool:
        """Say whether what ended may be begun again: after a pause, or when the catalog says something else."""
        if isinstance(stream.error, FOR_GOOD):
            return plan(replace(self.selection, sources=(stream.source,))) != stream.jobs
        at = self._again.setdefault(stream.source, time.monotonic() + _PAUSE)
        if time.monotonic() < at:
            return False
        del self._again[stream.source]
        return True

    def stop(self) -> None:
        """End all of them."""
        for stream in self.running.values():
            stream.stop()

    @property
    def ended(self) -> bool:
        """Whether none of them runs."""
        return all(stream.ended.is_set() for stream in self.running.values())

    @property
    def failed(self) -> Sequence[str]:
        """What is wrong with each, where none of them can run until somebody does something; else nothing."""
        if not self.ended or not all(isinstance(stream.error, FOR_GOOD) for stream in self.running.values()):
            return ()
        return [f"{name}: {type(one.error).__name__}: {one.error}" for name, one in sorted(self.running.items())]

    def look(self) -> list[Snapshot]:
        """Return what each looks like now."""
        return [stream.look() for _, stream in sorted(self.running.items())]


def fingerprint(source: DataSource) -> str:
    """Return a text that two versions of a source share where nothing has changed that a run depends on."""
    said = [source.vendor, source.options, source.secrets_prefix]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _names(source: str) -> dict[tuple[str, int], str]:
    """Return the names of the realtime series by (schema, instrument id)."""
    rows = Instrument.objects.filter(
        source__name=source,
        asset__series__source=F("source"),
        asset__series__extractor_type="realtime",
        asset__series__active=True,
    )
    found: dict[tuple[str, int], list[str]] = {}
    for schema, number, name in rows.values_list("asset__series__schema", "pk", "asset__series__series_id"):
        found.setdefault((schema, number), []).append(name)
    return {at: ", ".join(sorted(names)) for at, names in found.items()}


def _bury(run: Run) -> None:
    """Mark runs of the source that died without a word: whoever holds the claim knows that they do not run."""
    older = Run.objects.filter(kind="realtime", source=run.source_id, status=Run.Status.RUNNING, pk__lt=run.pk)
    leaving = older.order_by("-id").first()
    if leaving is not None and leaving.selector.get(LEAVING):
        older = older.exclude(pk=leaving.pk)
    older.update(status=Run.Status.FAILED, error="ended without a word: killed", finished_at=timezone.now())
