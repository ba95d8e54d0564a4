"""Deployments follow the catalog and keep what people switched in the Prefect UI."""

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError
from django.core.management import call_command
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.filters import FlowRunFilterDeploymentId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from prefect.settings import temporary_settings
from prefect.testing.utilities import prefect_test_harness

from catalog.models import TimeSeries
from flows.deployments import WATCH
from flows.deployments import schedules
from flows.deployments import sync
from flows.orchestrator import dispatch_groups
from flows.plan import Selection
from tests.flows.catalogs import series

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(300),
    # Prefect's own server and clients, in other threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of a server that has no deployments yet."""
    with get_client(sync_client=True) as made:
        for one in made.read_deployments():
            made.delete_deployment(one.id)
        for automation in made.read_automations_by_name(WATCH):
            made.delete_automation(automation.id)
        yield made


def scheduled(series_id: str, source: str, cron: str, zone: str = "UTC") -> None:
    made = series(series_id, [series_id.upper()], source=source)
    TimeSeries.objects.filter(pk=made.pk).update(schedule=cron, timezone=zone)


def test_one_deployment_for_each_group_and_one_schedule_for_each_cron_and_zone() -> None:
    scheduled("a", "one", "0 22 * * 1-5", "America/New_York")
    scheduled("b", "one", "0 22 * * 1-5", "America/New_York")
    scheduled("c", "one", "0 6 * * *")
    scheduled("d", "two", "")
    assert {source: sorted(slugs.values()) for source, slugs in schedules().items()} == {
        "one": [("0 22 * * 1-5", "America/New_York"), ("0 6 * * *", "UTC")],
        "two": [],
    }
    assert sync().applied == ("historical/one", "historical/two")
    with get_client(sync_client=True) as client:
        one = client.read_deployment_by_name("historical/one")
        assert sorted((item.schedule.cron, item.schedule.timezone) for item in one.schedules) == [
            ("0 22 * * 1-5", "America/New_York"),
            ("0 6 * * *", "UTC"),
        ]
        assert one.parameters == {"source": "one"}
        # somebody switches one schedule off and pauses the other deployment
        client.update_deployment_schedule(one.id, one.schedules[0].id, active=False)
        client.pause_deployment(client.read_deployment_by_name("historical/two").id)
        sync()
        again = client.read_deployment_by_name("historical/one")
        assert {item.slug: item.active for item in again.schedules} == {
            item.slug: item.id != one.schedules[0].id for item in one.schedules
        }
        assert client.read_deployment_by_name("historical/two").paused
        TimeSeries.objects.filter(source__name="two").update(active=False)
        assert sync().removed == ("historical/two",)
        assert [deployment.name for deployment in client.read_deployments()] == ["one"]


def live(series_id: str, source: str) -> TimeSeries:
    made = series(series_id, [series_id.upper()], source=source)
    made.extractor_type = "realtime"
    made.save()
    return made


def test_what_is_live_has_a_deployment_that_is_kept_running(client: SyncPrefectClient) -> None:
    scheduled("a", "one", "0 6 * * *")
    made = live("b", "one")
    assert sync().applied == ("historical/one", "realtime/one")
    found = client.read_deployment_by_name("realtime/one")
    (keepalive,) = found.schedules
    assert (keepalive.slug, keepalive.active) == ("keepalive", True)
    assert keepalive.schedule.interval == timedelta(minutes=1)
    assert found.parameters == keepalive.parameters == {"source": "one"}
    assert found.entrypoint == "flows.realtime.realtime"
    assert found.global_concurrency_limit
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options
    assert found.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert len(client.read_deployment_by_name("historical/one").schedules) == 1

    # what people change stays
    client.update_deployment_schedule(found.id, keepalive.id, active=False)
    client.update_deployment(found.id, DeploymentUpdate(job_variables={"env": {"A": "1"}, "working_dir": "/"}))
    client.pause_deployment(found.id)
    sync()
    again = client.read_deployment_by_name("realtime/one")
    assert again.paused
    assert not again.schedules[0].active
    assert again.job_variables == {
        "env": {"A": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
        "working_dir": "/",
    }  # fmt: skip

    made.delete()
    assert sync().removed == ("realtime/one",)
    assert client.read_deployment_by_name("historical/one").id


def test_runs_that_died_without_a_word_are_watched_for(client: SyncPrefectClient) -> None:
    scheduled("a", "one", "")
    sync()
    assert not client.read_automations_by_name(WATCH)
    live("b", "one")
    sync()
    (watch,) = client.read_automations_by_name(WATCH)
    client.pause_automation(watch.id)
    sync()
    (again,) = client.read_automations_by_name(WATCH)
    assert (again.id, again.enabled) == (watch.id, False)


def test_a_schedule_becomes_runs(client: SyncPrefectClient) -> None:
    """Prefect's server cannot make them with every version of SQLAlchemy that it accepts."""
    scheduled("a", "one", "0 6 * * *")
    sync()
    found = client.read_deployment_by_name("historical/one")
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as impatient:
        # what the server's scheduler does now and then
        impatient.request("POST", "/deployments/{id}/schedule", path_params={"id": found.id}, json={"max_runs": 2})
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
    )
    assert [run.expected_start_time.hour for run in runs] == [6, 6]


def test_the_orchestrator_submits_what_is_live_and_does_not_run_it_itself(client: SyncPrefectClient) -> None:
    live("b", "one")
    sync()
    assert dispatch_groups(Selection(), "here") == {
        "one live": "skipped: it runs for weeks, by its deployment or by manage.py stream"
    }
    ended = dispatch_groups(Selection(sources=("one",)), "deployments")
    (run,) = client.read_flow_runs(limit=1, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    assert ended == {"one live": f"submitted as {run.name}"}
    assert run.parameters == {"source": "one"}


def test_without_a_server_nothing_is_said_to_be_done(client: SyncPrefectClient) -> None:
    live("b", "one")
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(CommandError, match=r"PREFECT_API_URL is not set: .*export PREFECT_API_URL=http"),
    ):
        call_command("sync_deployments", stdout=StringIO())
    out = StringIO()
    call_command("sync_deployments", stdout=out)
    assert out.getvalue().splitlines() == [f"at {PREFECT_API_URL.value()}:", "realtime/one"]
