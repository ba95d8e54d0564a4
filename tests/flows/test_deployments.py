"""Deployments follow the catalog and keep what people switched in the Prefect UI."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from catalog.models import TimeSeries
from flows.deployments import schedules
from flows.deployments import sync
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
    assert sync().applied == ("one", "two")
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
        assert sync().removed == ("two",)
        assert [deployment.name for deployment in client.read_deployments()] == ["one"]
