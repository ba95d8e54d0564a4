"""The Prefect flows, on a real (temporary) Prefect server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.settings import temporary_settings
from prefect.testing.utilities import prefect_test_harness

from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import Route
from catalog.models import Run
from catalog.models import TimeSeries
from flows.historical import historical
from flows.orchestrator import orchestrator
from flows.query import read
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import destination
from tests.flows.catalogs import series
from tests.vendors.binance import BinanceStandIn

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
    # a heartbeat's thread sleeps a second at the end of each flow
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quick):
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    return folder


def test_flow_does_the_main_job_and_its_tasks_are_recorded(database: str, data: Path) -> None:
    files = destination("files", "file", path="out")
    series("a", ["AAPL", "IBM"], destinations=[destination(), files], transforms="sma(window=2) | store")
    daily_csv(data / "AAPL.csv", days(4))
    daily_csv(data / "IBM.csv", days(3))
    counts = historical("prices")
    assert counts["new"] == 2 * 7 + 5
    assert read("AAPL", "ohlcv-1d")["close"].to_pylist() == [11, 12, 13, 14]
    run = Run.objects.get()
    assert (run.status, run.source.name) == ("completed", "prices")
    with get_client(sync_client=True) as client:
        names = {task.name.split("-")[0] for task in client.read_task_runs() if str(task.flow_run_id) == run.flow_run}
    assert {"plan", "extract ohlcv", "transform ohlcv", "sink ohlcv", "indicators of ohlcv"} <= names
    # what one task hands to the next does not stay behind
    assert not list(Path(data.parent / "landing").rglob("refined*"))
    assert set(historical("prices").values()) == {0}


def test_flow_stores_the_symbols_it_registers(data: Path) -> None:
    made = series("a", ["AAPL"], symbol_column="Symbol", unknown_symbols="register")
    rows = "".join(f"{symbol},2024-01-02,10,11,9,10,5\n" for symbol in ("AAPL", "MSFT", "IBM"))
    (data / "all.csv").write_text("Symbol,Date,Open,High,Low,Close,Volume\n" + rows)
    assert historical("prices")["new"] == 3
    assert made.assets.count() == 3
    assert set(historical("prices").values()) == {0}


def test_flow_fails_with_what_failed_after_doing_the_rest(database: str, data: Path) -> None:
    series("a", ["AAPL", "IBM"])
    daily_csv(data / "AAPL.csv", days(4))
    (data / "IBM.csv").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"IBM\.csv"):
        historical("prices")
    assert Run.objects.get().status == "failed"
    assert read("AAPL")["close"].to_pylist() == [11, 12, 13, 14]


def test_flow_delivers_what_an_interrupted_run_landed(data: Path) -> None:
    series("a", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(4))
    historical("prices")
    Delivery.objects.update(status=Delivery.Status.PENDING)
    (data / "AAPL.csv").unlink()
    with pytest.raises(RuntimeError, match="no file matches"):
        historical("prices")
    assert Delivery.objects.get().status == "delivered"


def test_orchestrator_runs_every_active_group_and_says_which_failed(data: Path) -> None:
    series("a", ["AAPL"], source="one", path="one/*.csv")
    series("b", ["IBM"], source="two", path="two/*.csv")
    series("c", ["MSFT"], source="off", path="off/*.csv").__class__.objects.filter(series_id="c").update(active=False)
    daily_csv(data / "one/AAPL.csv", days(2))
    daily_csv(data / "two/IBM.csv", days(2))
    assert orchestrator() == {"one": "completed", "two": "completed"}
    (data / "two/IBM2.csv").write_text("")
    (data / "two/IBM.csv").write_text("")
    with pytest.raises(RuntimeError, match="failed: two"):
        orchestrator(again=True)


def test_flow_tries_again_what_may_work_next_time() -> None:
    with BinanceStandIn() as vendor:
        source = DataSource.objects.create(
            name="coins", vendor="binance", options={"base_url": vendor.url, "first_pause": 0}
        )
        start, end = vendor.windows["ohlcv-1d"]
        made = TimeSeries.objects.create(series_id="c", source=source, schema="ohlcv-1d", start=start, end=end)
        made.assets.add(Asset.objects.create(symbol="BTCUSDT", asset_class="crypto"))
        Route.objects.create(series=made, destination=destination(), home=True)
        vendor.fail("unavailable", times=3)
        assert historical("coins")["new"] == 365


def test_flow_ends_where_the_disk_is_full_and_goes_on_next_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series("a", ["AAPL"])
    daily_csv(data / "AAPL.csv", days(4))
    usage = shutil.disk_usage
    with monkeypatch.context() as full:
        full.setattr("flows.landing.shutil.disk_usage", lambda path: usage(path)._replace(free=0))
        with pytest.raises(RuntimeError, match="free some space and run again"):
            historical("prices")
    assert historical("prices")["new"] == 4


def test_flow_does_not_try_again_what_fails_again(data: Path) -> None:
    series("a", ["AAPL"])
    (data / "AAPL.csv").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"AAPL\.csv is empty"):
        historical("prices")
    assert Run.objects.get().error == "AAPL.csv is empty"
