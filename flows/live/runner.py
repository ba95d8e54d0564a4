"""Runs the live series of one source: what its connections bring is landed, covered, filled up and delivered.

One asyncio loop in the caller's thread reads the vendor and writes the spool. Threads beside it refine, deliver to
each destination, fill holes from the vendor's history, and speak to the ledger. What a run does not deliver before it
ends lies landed, and is delivered by the next one.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any
from typing import Final
from typing import TypeVar

from catalog.errors import ConfigError
from catalog.errors import TransientError
from flows.extractors.base import BaseRealtimeExtractor
from flows.frames import Channel
from flows.job import LIVE
from flows.job import Job
from flows.live.connections import Connections
from flows.live.connections import Link
from flows.live.connections import Status
from flows.live.coverage import instant
from flows.live.filling import Filler
from flows.live.refinery import Seen
from flows.live.routes import Lane
from flows.live.routes import lanes
from flows.live.steady import gently
from flows.live.steady import steady
from flows.live.stint import Stint
from flows.spool import held
from flows.spool import left_behind
from flows.symbols import nanoseconds
from flows.work import DeliveryRef
from flows.work import LiveLedger
from flows.work import Workshop

log = logging.getLogger(__name__)

T = TypeVar("T")

#: frames are durable after at most this and what the disk takes; issue: ≤ 100 ms
_SYNC_SECONDS: Final = 0.05
_PERSIST_SECONDS: Final = 2.0
#: how long all threads together may take to end what they are at; the process does not wait for those that take longer
_LAST_SECONDS: Final = 1.0
#: how long what was heard may take to be sealed and completed at the end; else the next run does it
_COMPLETE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run may be told: seconds between looks at the catalog, and to deliver the rest at its end."""

    refresh: float = 15.0
    drain: float = 7.0


class Live:
    """Runs one source's realtime series until it is told to stop."""

    def __init__(
        self,
        extractor: BaseRealtimeExtractor,
        workshop: Workshop,
        ledger: LiveLedger,
        plan: Callable[[], list[Job]],
        in_thread: Callable[[], AbstractContextManager[None]],
        settings: Settings = Settings(),  # frozen
    ) -> None:
        self.extractor = extractor
        self.workshop = workshop
        self.ledger = ledger
        self.plan = plan
        self.in_thread = in_thread
        self.settings = settings
        self.name = extractor.source.name
        self.connections = Connections(extractor, self)
        self.status = self.connections.status
        self.jobs: dict[str, Job] = {}
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.stints: list[Stint] = []
        #: what stints brought that are no longer among these
        self.seen: dict[tuple[str, int], Seen] = {}
        self.filler = Filler(
            self.name, workshop, ledger, in_thread, self._underway, self._persist_all, extractor.transit_of, self._begun
        )
        self.ready = threading.Event()
        self._closing: list[Stint] = []
        self._beginning: set[asyncio.Future[Stint]] = set()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._fatal: Exception | None = None
        # one thread, so that the ledger's connection is kept and its calls stay in order
        self._ledger_thread = ThreadPoolExecutor(1, f"ledger {self.name}")
        self._disk_thread = ThreadPoolExecutor(1, f"disk {self.name}")
        # compresses what is full: that can wait
        self._seal_thread = ThreadPoolExecutor(1, f"seal {self.name}", gently)

    @property
    def transit(self) -> timedelta:
        """The time after which what happened has been sent of everything that is asked for."""
        return max(map(self.extractor.transit_of, self.jobs), default=self.extractor.transit)

    # -- from outside ---------------------------------------------------------------------------------------------

    def run(self) -> Status:
        """Run until `stop`; returns what it looked like at the end.

        Raises AuthFailed, NotEntitled or ConfigError where the very first connection is refused for good.
        """
        with steady():
            asyncio.run(self._main())
        if self._fatal is not None:
            raise self._fatal
        return self.status

    def stop(self) -> None:
        """End: disconnect, deliver what is left for `drain` seconds, and leave the rest landed. From any thread."""
        self._stop.set()
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None:
            with suppress(RuntimeError):
                # the loop may have ended
                loop.call_soon_threadsafe(stopping.set)

    # -- the run --------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if self._stop.is_set():
            return
        try:
            await self._patiently(self._recover)
            await self._patiently(self._take_plan)
            self.filler.start(dict(self.jobs))
            self.ready.set()
            beside = [asyncio.create_task(one) for one in (self._syncing(), self._persisting(), self._following())]
            keeping = asyncio.create_task(self.connections.keep())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([keeping, stopping, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in (keeping, stopping, *beside):
                task.cancel()
            ended = await asyncio.gather(keeping, stopping, *beside, return_exceptions=True)
            for error in ended:
                if isinstance(error, Exception):
                    self._fatal = self._fatal or error
            await asyncio.gather(*(self.connections.close(link) for link in list(self.connections.links)))
        finally:
            if self._beginning:
                await asyncio.wait(self._beginning, timeout=_COMPLETE_SECONDS)
                # theirs who were cancelled meanwhile are ended by a callback
                await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, self._drain)
            leaving = asyncio.wrap_future(self._ledger_thread.submit(self._leave))
            await asyncio.wait([leaving], timeout=_LAST_SECONDS)
            for thread in (self._ledger_thread, self._disk_thread, self._seal_thread):
                # a store that does not answer is not waited for
                thread.shutdown(wait=False)

    async def _in(self, executor: ThreadPoolExecutor | None, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, self._guarded, call)

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception:
            self.ledger.mend()
            raise

    async def _patiently(self, call: Callable[[], T]) -> T:
        """Call until it works, or until it is told to stop."""
        while True:
            try:
                return await self._in(self._ledger_thread, call)
            except ConfigError:
                raise
            except Exception as error:  # the ledger's store is away
                self.status.error = f"{type(error).__name__}: {error}"
                log.warning("%s: %s", self.name, self.status.error)
                await self.pause(1.0)
                if self._stop.is_set():
                    raise

    def _recover(self) -> None:
        """Seal what a run that was killed left behind; the catching up delivers it."""
        for stint, pages in left_behind(self.workshop.landing, self.name):
            for fetch in self.ledger.interrupted(list(stint.fetches.values())):
                landed = self.workshop.landing.pages(fetch.source, fetch.id)
                self.ledger.landed(fetch, pages[fetch.id], sum(page.manifest.bytes for page in landed))
        source, landing = self.extractor.source, self.workshop.landing
        for fetch in self.ledger.orphans(source.id, held(landing, self.name)):
            # killed between the ledger and the disk: it brought nothing
            described = {"vendor": source.vendor, "schema": fetch.schema, "instruments": []}
            landing.begin(fetch.source, fetch.id, described | {LIVE: {"schemas": [fetch.schema], "primary": True}})
            self.ledger.landed(fetch, 0, 0)

    def _take_plan(self) -> None:
        jobs = {job.schema: job for job in self.plan()}
        behind = {key: self.ledger.behind(jobs[key[0]], key[1]) for key in lanes(jobs.values())}
        self._take_jobs(jobs, behind)

    def _take_jobs(
        self,
        jobs: dict[str, Job],
        behind: Mapping[tuple[str, str], list[DeliveryRef]] = MappingProxyType({}),
    ) -> None:
        """Take up what the catalog wants now: lanes to start, with what they lack of earlier runs, and to stop."""
        self.jobs = jobs
        for stint in self.stints:
            for name, channel in stint.channels.items():
                if stint.spool.ended and name in jobs:
                    # nothing new comes, but what did goes where it goes now
                    channel.job = jobs[name]
        wanted = lanes(jobs.values())
        if wanted - self.lanes.keys():
            # what has ended before goes there too
            self.filler.again()
        for key in wanted - self.lanes.keys():
            schema, destination = key
            lane = Lane(
                schema,
                destination,
                self.workshop,
                self.ledger,
                self.in_thread,
                partial(self._job, schema),
                list(behind.get(key, ())),
            )
            for stint in self.stints:
                lane.add(stint)
            self.lanes[key] = lane
            lane.start()
        for key in self.lanes.keys() - wanted:
            self.lanes.pop(key).stop()

    def _job(self, schema: str) -> Job | None:
        return self.jobs.get(schema)

    # -- what connections are for ------------------------------------------------------------------------------------

    async def heard_until(self, wanted: dict[Channel, int]) -> dict[Channel, int]:
        """Return where the coverage of channels ended, in nanoseconds since 1970."""
        return await self._in(self._ledger_thread, partial(self._heard_until, wanted))

    def _heard_until(self, wanted: dict[Channel, int]) -> dict[Channel, int]:
        ends = {job.schema: self.ledger.last_heard(job) for job in self.jobs.values()}
        return {
            channel: nanoseconds(ends[channel.schema][number])
            for channel, number in wanted.items()
            if number in ends[channel.schema]
        }

    def wanted(self) -> dict[Channel, int]:
        """Return what is to be subscribed now, with the instrument of each."""
        now = datetime.now(UTC)
        wanted: dict[Channel, int] = {}
        for job in self.jobs.values():
            current = [one for one in job.instruments if one.start < one.end and now < one.end]
            wanted |= self.extractor.channels(job.schema, current, now)
        return wanted

    async def begin(self, link: Link) -> None:
        """Give a connection its stint: something was acknowledged."""
        beginning = asyncio.ensure_future(self._in(self._ledger_thread, partial(self._begin, link, self.jobs)))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        try:
            stint = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # the connection is over, but its stint is begun all the same
            beginning.add_done_callback(self._unneeded)
            raise
        self.stints = [*self.stints, stint]
        for older in self.stints[:-1]:
            older.lighten()
        stint.refinery.start(self.in_thread)
        for (schema, _), lane in self.lanes.items():
            if schema in stint.channels:
                lane.add(stint)
        link.stint = stint
        if link.early:
            stint.take(link.early)
        link.early = []
        self.connections.flush_soon()
        # the catalog may have been edited meanwhile
        await self._join(link, self.jobs)

    def _unneeded(self, beginning: asyncio.Future[Stint]) -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            stint = beginning.result()
            # nothing was written: that needs no other thread
            stint.end()
            self._closing.append(stint)

    def _begin(self, link: Link, jobs: dict[str, Job]) -> Stint:
        try:
            # before anything is noted in the ledger: attempts on a full disk leave nothing
            self.workshop.landing.check_room()
        except TransientError as error:
            # it is looked at again sooner than a vendor would be asked
            raise TransientError(str(error)) from error
        replayed: dict[str, dict[int, datetime]] = {}
        for channel, at in link.request.since.items():
            if channel in link.wanted:
                replayed.setdefault(channel.schema, {})[link.wanted[channel]] = instant(at)
        return Stint(
            self.extractor, self.workshop.landing, self.ledger, jobs, self.workshop.fills, self._was_lost, replayed
        )

    async def end(self, stint: Stint) -> None:
        """Let a stint come to its end; it is completed when all of it is written and refined."""
        self._closing.append(stint)
        try:
            await asyncio.get_running_loop().run_in_executor(None, stint.end)
        except (OSError, TransientError) as error:
            # what was not written was not heard
            log.error("%s: %s", self.name, error)
            self.status.error = str(error)

    def acknowledged(self, at: int) -> None:
        """Look for what is missing before a time: channels were acknowledged."""
        self.filler.soon(at)

    def _underway(self) -> set[int]:
        """Return the fetches that lanes still deliver."""
        running = list(self.lanes.values())
        waiting = [stint for lane in running for stint in list(lane.stints)]
        left = {delivery.fetch.id for lane in running for delivery in list(lane.left)}
        return left | {channel.fetch.id for stint in waiting for channel in list(stint.channels.values())}

    def _persist_all(self) -> None:
        for stint in [link.stint for link in list(self.connections.links)] + list(self._closing):
            if stint is not None:
                stint.persist()

    def _begun(self, schema: str) -> Mapping[int, datetime]:
        """Return from when on each instrument is heard now; nothing where somebody else may still note something."""
        links = list(self.connections.links)
        stint = links[0].stint if len(links) == 1 else None
        channel = None if stint is None else stint.channels.get(schema)
        if channel is None or self._closing or self.ledger.heard_elsewhere(self.extractor.source.id):
            return {}
        return channel.heard.starts()

    def _was_lost(self) -> None:
        self.filler.soon(time.time_ns())

    # -- beside them ----------------------------------------------------------------------------------------------

    async def pause(self, seconds: float) -> None:
        """Wait, or until the run is told to end."""
        assert self._stopping is not None
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping], timeout=seconds)
        finally:
            stopping.cancel()

    async def _syncing(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            for link in list(self.connections.links):
                if link.stint is None:
                    continue
                try:
                    await self._in(self._disk_thread, link.stint.spool.sync)
                    if link.stint is not None and link.stint.spool.full:
                        link.stint.spool.roll(link.stint.context)
                except (OSError, TransientError) as error:
                    self.connections.give_up(link, error)

    async def _persisting(self) -> None:
        while True:
            await asyncio.sleep(_PERSIST_SECONDS)
            for link in list(self.connections.links):
                if link.stint is not None:
                    await self._attempt(self._ledger_thread, link.stint.persist)
                if link.stint is not None:
                    await self._attempt(self._seal_thread, link.stint.spool.seal)
                if (
                    link.stint is not None
                    and link.task is not None
                    and (link.stint.refinery.failed or link.stint.adrift)
                ):
                    # what it brought lies landed; a new connection is refined anew
                    link.task.cancel()
            await self._finish_closed()

    async def _finish_closed(self) -> None:
        for stint in list(self._closing):
            if stint.refinery.thread.is_alive():
                # what is not refined yet is not known to be heard
                await self._attempt(self._ledger_thread, stint.persist)
            elif await self._attempt(self._ledger_thread, stint.close):
                self._closing.remove(stint)
                if stint.refinery.failed:
                    # no route had the rest of it
                    self.filler.again()
                self.filler.soon(time.time_ns())

    async def _attempt(self, executor: ThreadPoolExecutor | None, call: Callable[[], Any]) -> bool:
        try:
            await self._in(executor, call)
        except Exception as error:  # noqa: BLE001  # the ledger or the disk is away: it is tried again
            log.warning("%s: %s: %s", self.name, type(error).__name__, error)
            self.status.error = f"{type(error).__name__}: {error}"
            return False
        return True

    async def _following(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh)
            try:
                jobs = await self._in(self._ledger_thread, lambda: {job.schema: job for job in self.plan()})
                await self._change(jobs)
            except ConfigError as error:
                self.status.error = str(error)
                log.error("%s: the catalog cannot be read: %s", self.name, error)
            except Exception as error:  # noqa: BLE001  # the catalog is away: what is known goes on
                log.warning("%s: the catalog: %s: %s", self.name, type(error).__name__, error)
            self._forget()

    async def _change(self, jobs: dict[str, Job]) -> None:
        """Take up an edited catalog without a new connection."""
        gone = self.jobs.keys() - jobs.keys()
        self._take_jobs(jobs)
        wanted = self.wanted()
        for link in list(self.connections.links):
            added = {channel: number for channel, number in wanted.items() if channel not in link.wanted}
            removed = {channel: number for channel, number in link.wanted.items() if channel not in wanted}
            await self._join(link, jobs)
            stint = link.stint
            for channel, number in removed.items():
                if stint is not None:
                    stint.left(channel.schema, [number])
            if stint is not None and stint.counts_again(added):
                # what it missed meanwhile would be taken for what it brings
                self.connections.give_up(link, TransientError(f"{self.name}: channels come back; connecting anew"))
                continue
            if added or removed:
                link.wanted = wanted
                link.request.changes.put_nowait((frozenset(added), frozenset(removed)))
        if gone:
            log.info("%s: no longer asked for: %s", self.name, ", ".join(sorted(gone)))
        self.filler.jobs = dict(self.jobs)

    async def _join(self, link: Link, jobs: dict[str, Job]) -> None:
        """Let a connection's stint take up what the catalog wants now."""
        stint = link.stint
        if stint is None or not stint.lacks(jobs):
            return
        new = await self._in(self._ledger_thread, partial(stint.prepare, jobs))
        if link.stint is not stint:
            return
        try:
            stint.join(jobs, new)
        except (OSError, TransientError) as error:
            self.connections.give_up(link, error)
        for (schema, _), lane in self.lanes.items():
            if schema in new:
                lane.add(stint)

    def _forget(self) -> None:
        """Drop stints that are complete and that every lane has delivered."""
        waiting = {id(stint) for lane in self.lanes.values() for stint in lane.stints}
        open_ones = {id(link.stint) for link in self.connections.links} | {id(stint) for stint in self._closing}
        before = self.stints
        self.stints = [one for one in before if id(one) in waiting | open_ones] or before[-1:]
        for stint in before:
            if stint not in self.stints:
                for at, seen in stint.refinery.seen.items():
                    self.seen.setdefault(at, Seen()).add(seen)

    # -- the end --------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Deliver what there is, for as long as it may take; what is left is the next run's."""
        until = time.monotonic() + self.settings.drain
        self.filler.stop()
        for lane in self.lanes.values():
            lane.drain()
        for lane in self.lanes.values():
            if lane.thread is not None:
                lane.thread.join(max(until - time.monotonic(), 0.0))
        for stint in self.stints:
            stint.refinery.stopping.set()
        for lane in self.lanes.values():
            lane.stop()
        until = time.monotonic() + _LAST_SECONDS
        for thread in self._threads():
            thread.join(max(until - time.monotonic(), 0.0))
        # in a thread that nobody waits for: the ledger's store, or the disk, may not answer
        closing = threading.Thread(target=self._complete, name=f"complete {self.name}", daemon=True)
        closing.start()
        closing.join(_COMPLETE_SECONDS)

    def _complete(self) -> None:
        with self.in_thread():
            for stint in self._closing:
                try:
                    stint.close()
                except Exception as error:  # noqa: BLE001  # the next run seals it
                    log.warning("%s: not completed: %s", self.name, error)
                    stint.spool.abandon()

    def _leave(self) -> None:
        with self.in_thread():
            return

    def _threads(self) -> Iterable[threading.Thread]:
        yield from (lane.thread for lane in self.lanes.values() if lane.thread is not None)
        yield from (stint.refinery.thread for stint in self.stints)
        if self.filler.thread is not None:
            yield self.filler.thread
