import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.worker import _DRAIN

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


def test_services_of_an_installation_are_there(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"timescaledb", "redis", "migrate", "web", "prefect-server", "prefect-worker"}


def test_what_a_service_refers_to_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "healthcheck" in compose["services"][name]
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"]


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = {service["image"] for service in compose["services"].values() if "build" not in service}
    assert all(re.search(r":\d", image) for image in images)


def test_the_worker_may_end_its_runs(compose: dict[str, Any]) -> None:
    worker = compose["services"]["prefect-worker"]
    assert worker["command"] == ["python", "-m", "flows.worker", "dataflow"]
    # longer than the worker waits for its runs, and then for Prefect's
    assert int(worker["stop_grace_period"].removesuffix("s")) > _DRAIN + 10
