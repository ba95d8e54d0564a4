"""The flow `realtime` on a real Prefect server: with a worker, cancelled, ended, killed, and where Prefect is away."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.utils import timezone
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.settings import temporary_settings
from prefect.states import Cancelled
from prefect.states import Cancelling
from prefect.states import Crashed
from prefect.states import Pending
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness
from pytest_django import Settings

from catalog.errors import ConfigError
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Run
from catalog.models import TimeSeries
from flows import realtime as module
from flows.deployments import sync
from flows.live.runner import Settings as LiveSettings
from flows.realtime import Attendant
from flows.realtime import realtime
from flows.stream import ASKED
from flows.stream import LEAVING
from flows.stream import Stream
from flows.stream import fingerprint
from tests.flows.catalogs import series
from tests.flows.coins import Coins
from tests.flows.coins import filled
from tests.flows.coins import is_whole
from tests.flows.coins import whole
from tests.flows.live.kit import eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(300),
    # Prefect's own server and clients, in other threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    # a heartbeat's thread sleeps a second at the end of each flow
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quick):
        yield


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of a server that has no deployments yet, and so no runs that wait."""
    with get_client(sync_client=True) as made:
        for one in made.read_deployments():
            made.delete_deployment(one.id)
        yield made


@pytest.fixture
def environment(settings: Settings, database_url: str) -> dict[str, str]:
    """What a process needs to work on this test's catalog."""
    own = {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings",
        "DATABASE_URL": database_url,
        "LANDING_URL": settings.LANDING_URL,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    return {**os.environ, **own}


@contextmanager
def process(environment: dict[str, str], folder: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours; what it prints is shown where the test fails."""
    log = folder / "process.log"
    with log.open("wb") as output:
        made = subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=folder, stdout=output, stderr=output
        )  # fmt: skip
    try:
        yield made
    finally:
        made.terminate()
        try:
            made.wait(30)
        except subprocess.TimeoutExpired:
            made.kill()
            made.wait()
        print(log.read_text())


def state(client: SyncPrefectClient, run: UUID) -> str:
    found = client.read_flow_run(run).state
    return str(found.type.value) if found else ""


def submit(client: SyncPrefectClient) -> UUID:
    deployment = client.read_deployment_by_name("realtime/coins")
    return client.create_flow_run_from_deployment(deployment.id).id


@pytest.fixture
def attended(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TimeSeries, Stream, UUID]]:
    """A stream of a deployment's run, as the flow has it."""
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        sync()
        run = submit(client)
        client.set_flow_run_state(run, Running(), force=True)
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run))
        stream = Stream("coins", settings=LiveSettings(refresh=0.2))
        stream.start()
        try:
            eventually(lambda: stream.live is not None and stream.live.status.connected)
            yield made, stream, run
        finally:
            stream.stop()
            assert stream.ended.wait(20)


def runs(client: SyncPrefectClient, own: Attendant) -> set[UUID]:
    return {one.id for one in client.read_flow_runs(limit=200) if str(one.deployment_id) == own.deployment}


def attendant(stream: Stream) -> Attendant:
    return Attendant(stream, timedelta(hours=24), get_logger("test"))


def test_a_run_that_is_killed_is_recovered_and_one_that_is_cancelled_ends_in_time(
    client: SyncPrefectClient, environment: dict[str, str], tmp_path: Path
) -> None:
    worker = ("-m", "prefect", "worker", "start", "--pool", "dataflow", "--type", "process")
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", "ETHUSDT", minutes=0.2)
        sync()
        with process(environment, tmp_path, *worker):
            first = submit(client)
            eventually(lambda: filled(made) and filled(made, "ETHUSDT"), 90)
            running = str(client.read_flow_run(first).infrastructure_pid)
            os.kill(int(running.rpartition(":")[2]), signal.SIGKILL)
            eventually(lambda: state(client, first) == "CRASHED", 30)
            assert Run.objects.get().status == "running"

            second = submit(client)
            eventually(lambda: Fetch.objects.filter(run__flow_run=str(second), live=True).exists(), 60)
            died, lives = Run.objects.order_by("pk")
            assert (died.status, died.error) == ("failed", "ended without a word: killed")
            shown = eventually(lambda: [one for one in client.read_artifacts() if one.flow_run_id == second])
            assert "coins at" in str(shown[0].description)

            # what happened between the two is fetched
            restarted = timezone.now()
            eventually(lambda: is_whole(made, restarted) and is_whole(made, restarted, "ETHUSDT"), 60)
            told = time.monotonic()
            client.set_flow_run_state(second, Cancelling())
            lives.refresh_from_db()
            while lives.status != "completed":
                assert time.monotonic() - told < 10
                time.sleep(0.05)
                lives.refresh_from_db()
            eventually(lambda: state(client, second) == "CANCELLED", 30)
        assert whole(made) > 15
        assert whole(made, "ETHUSDT") > 15
    assert not Fetch.objects.filter(complete=False).exists()


def test_a_run_whose_process_is_told_to_end_drains(
    client: SyncPrefectClient, environment: dict[str, str], tmp_path: Path
) -> None:
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.2)
        with process(environment, tmp_path, "-c", "from flows.realtime import realtime; realtime('coins')") as running:
            begun = timezone.now()
            eventually(lambda: is_whole(made, begun), 60)
            told = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == -signal.SIGTERM
            assert time.monotonic() - told < 10
        assert whole(made)
    run = Run.objects.get()
    assert run.status == "completed"
    assert state(client, UUID(run.flow_run)) == "CRASHED"
    assert client.read_flow_run(UUID(run.flow_run)).name == "coins live"


def test_a_successor_takes_over_before_its_predecessor_ends(database: str) -> None:
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        old, new = Stream("coins"), Stream("coins")
        begun = timezone.now()
        old.start()
        try:
            eventually(lambda: is_whole(made, begun), 40)
            new.start()
            eventually(lambda: new.waiting)
            assert not old.succeeded
            assert new.live is None
            old.hand_over()
            eventually(lambda: old.succeeded)
            assert not old.keep()
            assert old.run
            assert new.run
            assert Run.objects.get(pk=old.run.pk).selector[LEAVING]
            assert Run.objects.get(pk=old.run.pk).status == "running"
        finally:
            old.stop()
            assert old.ended.wait(20)
            eventually(lambda: new.live is not None and new.live.stints and new.live.stints[0].refinery.seen)
            new.stop()
            assert new.ended.wait(20)
        assert whole(made)
    assert list(Run.objects.values_list("status", flat=True)) == ["completed", "completed"]


def test_a_run_makes_room_for_its_successor_and_takes_it_back(
    client: SyncPrefectClient, attended: tuple[TimeSeries, Stream, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream, _ = attended
    own = attendant(stream)
    name = f"deployment:{own.deployment}"
    own._succession()
    assert own._handing is None
    before = runs(client, own)
    own.renew()
    own._succession()
    assert own._handing
    assert client.read_global_concurrency_limit_by_name(name).limit == 2
    (other,) = runs(client, own) - before
    assert client.read_flow_run(other).parameters == {"source": "coins", "renew_hours": 24.0}
    # it is not started: nobody works here
    monkeypatch.setattr(module, "_SUCCESSION", 0.0)
    own._succession()
    assert own._handing is None
    assert stream.keep()
    assert LEAVING not in Run.objects.get().selector
    own._limit()
    assert client.read_global_concurrency_limit_by_name(name).limit == 1
    assert not own.leave.is_set()


def test_runs_that_never_began_are_removed(
    client: SyncPrefectClient, attended: tuple[TimeSeries, Stream, UUID]
) -> None:
    _, stream, _ = attended
    own = attendant(stream)
    before = runs(client, own)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as impatient:
        # what the server's scheduler does now and then
        address = "/deployments/{id}/schedule"
        impatient.request("POST", address, path_params={"id": own.deployment}, json={"max_runs": 3})
    planned = runs(client, own) - before
    assert len(planned) > 2
    asked = submit(client)
    never, *later = planned
    for one in (never, asked):
        client.set_flow_run_state(one, Cancelled(), force=True)
    own._tidy()
    # what somebody asked for stays, and what is still to come
    assert runs(client, own) == {asked, *later, *before}


def test_a_run_that_prefect_takes_for_dead_or_cancelled_makes_way(
    client: SyncPrefectClient, attended: tuple[TimeSeries, Stream, UUID]
) -> None:
    _, stream, run = attended
    own = attendant(stream)
    own._ask()
    assert not own.leave.is_set()
    client.set_flow_run_state(run, Crashed(), force=True)
    own._ask()
    assert own._gone
    own._succession()
    assert own._handing
    client.set_flow_run_state(run, Cancelling(), force=True)
    own._ask()
    assert own.leave.is_set()
    assert own.cancelled


def test_without_prefect_the_stream_goes_on(
    attended: tuple[TimeSeries, Stream, UUID], caplog: pytest.LogCaptureFixture
) -> None:
    made, stream, _ = attended
    own = attendant(stream)
    own.renew()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        for duty in (own._show, own._show, own._ask, own._succession):
            own._attempt(duty)
    assert own._handing is None
    assert own._due
    # each is told once
    assert [one.getMessage().split(":")[2] for one in caplog.records if "not done" in one.getMessage()] == [
        " show",
        " ask",
        " succession",
    ]
    eventually(lambda: filled(made))
    own._attempt(own._show)
    assert "_show" not in own._troubles


def test_prefects_interruption_for_a_lost_slot_does_not_end_the_stream(
    attended: tuple[TimeSeries, Stream, UUID],
) -> None:
    _, stream, _ = attended
    own = attendant(stream)
    caught = threading.Event()
    main = threading.main_thread().ident or 0

    def inside() -> bool:
        frame = sys._current_frames()[main]
        while frame and frame.f_code.co_name != "_until_over":
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None

    def interrupt() -> None:
        eventually(inside)
        # as Prefect does it: an exception out of nowhere
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(asyncio.CancelledError))
        eventually(lambda: own._due == 0.0)
        caught.set()
        own.leave.set()

    other = threading.Thread(target=interrupt)
    other.start()
    module._until_over(stream, own, get_logger("test"))
    other.join()
    assert caught.is_set()
    assert not stream.ended.is_set()


def test_a_worker_that_is_told_to_end_lets_its_runs_deliver_what_they_have(
    client: SyncPrefectClient, environment: dict[str, str], tmp_path: Path
) -> None:
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.2)
        sync()
        with process(environment, tmp_path, "-m", "flows.worker", "dataflow") as worker:
            submit(client)
            begun = timezone.now()
            eventually(lambda: is_whole(made, begun), 90)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(40) == 0
        assert whole(made)
    run = Run.objects.get()
    assert run.status == "completed"
    assert run.live["state"] == "ended"
    assert not Fetch.objects.filter(complete=False).exists()


def test_a_source_that_nobody_asks_for_is_no_failure() -> None:
    series("old", ["AAPL"])
    ended = realtime("prices", return_state=True)
    assert ended.is_completed()
    assert "source 'prices' has no active realtime series: nothing to do" in str(ended.message)
    with pytest.raises(ConfigError, match="source 'nope' is unknown"):
        realtime("nope")
    TimeSeries.objects.update(extractor_type="realtime")
    with pytest.raises(ConfigError, match="vendor 'files' has no realtime data"):
        realtime("prices")


@flow(name="probe", persist_result=False)
def probe(source: str) -> str:
    return module._rest(source)


def test_after_a_failure_for_good_runs_of_the_schedule_end_at_once(
    client: SyncPrefectClient, settings: Settings, tmp_path: Path
) -> None:
    settings.ENV_FILE = tmp_path / ".env"
    with Coins() as market:
        source = market.source()
        market.series(source, "c", "BTCUSDT")
        sync()
        deployment = client.read_deployment_by_name("realtime/coins")
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment.id}, json={"max_runs": 8})
        runs = [one for one in client.read_flow_runs(limit=200) if one.deployment_id == deployment.id]

        def said(ended: timedelta = timedelta(seconds=-1), error: str = "AuthFailed: no") -> str:
            Run.objects.all().delete()
            Run.objects.create(
                source=source, kind="realtime", status="failed", error=error, finished_at=timezone.now() + ended,
                selector={ASKED: fingerprint(source)},
            )  # fmt: skip
            own = runs.pop()
            assert own.auto_scheduled
            client.set_flow_run_state(own.id, Pending(), force=True)
            return str(run_flow(probe, own, {"source": "coins"}))

        assert "tries again, or one that is started by hand: AuthFailed: no" in said()
        assert not said(error="TransientError: away")
        assert not said(-module._REST - timedelta(seconds=1))
        # somebody asks
        assert not probe("coins")
        # somebody has corrected the secret, or the source
        settings.ENV_FILE.write_text("A=1")
        assert not said()
        assert said(timedelta(seconds=5))
        settings.ENV_FILE.unlink()
        Run.objects.create(source=source, kind="realtime", status="failed", error="AuthFailed: no")
        DataSource.objects.update(options={**source.options, "trades": "single"})
        assert not said()
        source.refresh_from_db()
        assert said()

        # the flow itself
        own = runs.pop()
        client.set_flow_run_state(own.id, Pending(), force=True)
        run_flow(realtime, own, {"source": "coins"}, return_type="state")
        ended = client.read_flow_run(own.id).state
        assert ended
        assert ended.is_completed()
        assert "has failed and nothing has changed since" in str(ended.message)
    assert Run.objects.count() == 1


def test_what_is_shown_begins_with_a_rate_keeps_its_rows_and_says_how_it_ended(
    client: SyncPrefectClient, attended: tuple[TimeSeries, Stream, UUID]
) -> None:
    made, stream, run = attended
    eventually(lambda: filled(made))
    eventually(lambda: sum(one.rows for stint in stream.live.stints for one in stint.refinery.seen.values()) > 2)
    first = stream.look()
    assert first.per_second > 0
    assert first.keys[0].per_second > 0
    made.assets.add(Asset.objects.create(asset_class="crypto", symbol="ETHUSDT"))
    made.assets.remove(Asset.objects.get(symbol="BTCUSDT"))
    eventually(lambda: [one.key for one in stream.look().keys] == ["coins:crypto:ETHUSDT:trades"])
    assert stream.look().rows >= first.rows
    own = attendant(stream)
    own.start()

    def shown() -> str:
        return " ".join(str(one.description) for one in client.read_artifacts() if one.flow_run_id == run)

    eventually(lambda: "connected" in shown())
    stream.stop()
    own.stop()
    assert stream.ended.wait(20)
    own.conclude()
    assert ": ended; " in shown()


def test_a_stream_ends_with_its_last_series(attended: tuple[TimeSeries, Stream, UUID]) -> None:
    made, stream, _ = attended
    own = attendant(stream)
    own._succession()
    assert not own.leave.is_set()
    made.active = False
    made.save()
    eventually(lambda: stream.idle)
    own._succession()
    assert own.leave.is_set()
