"""Writing what a file says: all or nothing, one import after the other, and who did it."""

import threading
from collections.abc import Callable

import pytest
from django.contrib.admin.models import ADDITION
from django.contrib.admin.models import CHANGE
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import IntegrityError
from django.db import connection
from django.db import connections
from django.db import transaction

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import TransientError
from catalog.exchange import Changes
from catalog.exchange import apply
from catalog.exchange import compare
from catalog.exchange import read_catalog
from catalog.exchange import read_series_csv
from catalog.exchange import write_catalog
from catalog.exchange import write_series_csv
from catalog.exchange import writing
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

HEADER = "series_id,data_source,extractor_type,schema,assets,output_destinations,schedule\n"
CATALOG = """\
version: 1
sources: [{name: eod, vendor: paper}]
assets: [{asset_class: equity, symbol: AAPL, instruments: {eod: [{symbol: A}]}}]
destinations: [{name: db, kind: database}]
series: [{series_id: one, source: eod, schema: trades, assets: [AAPL], routes: [{destination: db}]}]
"""


def series(count: int, schedule: str = "", assets: str = "index:{}") -> str:
    lines = [f"s{n},paper,historical,ohlcv-1d,{assets.format(n)},database;bin,{schedule}" for n in range(count)]
    return HEADER + "\n".join(lines)


def at_once(*works: Callable[[], Changes]) -> list[Changes | DataflowError]:
    """Run several imports in threads that start together; returns what each gave or raised."""
    ready = threading.Barrier(len(works))
    results: list[Changes | DataflowError] = []

    def work(run: Callable[[], Changes]) -> None:
        try:
            ready.wait()
            results.append(run())
        except DataflowError as error:
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(run,)) for run in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_two_imports_of_one_file_at_once_give_it_once(database: str) -> None:
    document = read_series_csv(series(300))
    results = at_once(*[lambda: apply(document, create_missing=True)] * 2)
    assert sorted(getattr(result, "unchanged", {})["series"] for result in results) == [0, 300]
    assert TimeSeries.objects.count() == Asset.objects.count() == 300
    assert Route.objects.count() == 600
    assert (DataSource.objects.count(), OutputDestination.objects.count()) == (1, 2)


@pytest.mark.django_db(transaction=True)
def test_of_two_different_imports_at_once_the_later_wins_whole(database: str) -> None:
    apply(read_series_csv(series(200)), create_missing=True)
    first, second = series(200, "1 1 * * *", "fx:A"), series(200, "2 2 * * *", "fx:B;fx:C")
    at_once(
        lambda: apply(read_series_csv(first), create_missing=True),
        lambda: apply(read_series_csv(second), create_missing=True),
    )
    facts = {
        (row.schedule, tuple(sorted(asset.symbol for asset in row.assets.all())))
        for row in TimeSeries.objects.prefetch_related("assets")
    }
    assert facts in ({("1 1 * * *", ("A",))}, {("2 2 * * *", ("B", "C"))})


@pytest.mark.django_db(transaction=True)
def test_catalog_files_at_once_leave_no_half(database: str) -> None:
    other = CATALOG.replace("symbol: A}", "symbol: B}").replace("trades", "ohlcv-1d")
    at_once(lambda: apply(read_catalog(CATALOG)), lambda: apply(read_catalog(other)))
    assert compare(read_catalog(CATALOG)).rows == [] or compare(read_catalog(other)).rows == []


@pytest.mark.django_db(transaction=True)
def test_import_waits_for_a_writer_and_says_when_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.1)
    with transaction.atomic():
        DataSource.objects.create(name="other", vendor="paper")
        (result,) = at_once(lambda: apply(read_catalog(CATALOG)))
    assert isinstance(result, TransientError)
    assert str(result) == (
        "somebody else is changing the catalog and nothing was imported (database is locked); try again"
    )
    assert DataSource.objects.count() == 1
    (result,) = at_once(lambda: apply(read_catalog(CATALOG)))
    assert isinstance(result, Changes)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step", ["_save", "_write_assets", "_write_routes", "_log"])
def test_import_that_fails_anywhere_leaves_nothing(database: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = User.objects.create_user("ann")
    apply(read_catalog(CATALOG))
    before = write_catalog()
    real, calls = getattr(writing, step), []

    def fail(*args: object) -> None:
        real(*args)
        calls.append(args)
        # the last of several, when all else is written
        if len(calls) == (7 if step == "_save" else 1):
            raise IntegrityError("somebody was faster")

    monkeypatch.setattr(writing, step, fail)
    text = CATALOG.replace("symbol: A}", "symbol: B}").replace("trades", "ohlcv-1d").replace("one", "two")
    with pytest.raises(TransientError, match=r"nothing was imported \(somebody was faster\); try again"):
        apply(read_catalog(text), user=user)
    assert write_catalog() == before
    assert not LogEntry.objects.exists()


@pytest.mark.django_db
def test_one_fault_keeps_everything_out() -> None:
    with pytest.raises(ConfigError) as caught:
        apply(read_series_csv(series(50) + "\nlast,paper,historical,nothing,index:1,database,"), create_missing=True)
    assert len(caught.value.faults) == 1
    for model in (TimeSeries, Asset, DataSource, OutputDestination):
        assert not model.objects.exists()


@pytest.mark.django_db
def test_comparison_writes_nothing() -> None:
    document = read_series_csv(series(50))
    changes = compare(document, create_missing=True)
    assert len(changes.rows) == 50 + 50 + 3
    assert not DataSource.objects.exists()
    # and a document can be compared and applied again
    assert apply(document, create_missing=True).summary() == changes.summary()
    assert apply(document).rows == []


@pytest.mark.django_db
def test_change_history_says_who_changed_what() -> None:
    user = User.objects.create_user("ann")
    apply(read_catalog(CATALOG), user=user)
    assert LogEntry.objects.filter(user=user, action_flag=ADDITION).count() == 5
    apply(read_catalog(CATALOG.replace("schema: trades", "schema: trades, schedule: 0 22 * * *")), user=user)
    entry = LogEntry.objects.get(action_flag=CHANGE)
    assert (entry.user, entry.object_repr, entry.get_edited_object()) == (user, "one", TimeSeries.objects.get())
    assert entry.get_change_message() == "Imported. schedule: none → 0 22 * * *"
    apply(read_catalog(CATALOG))
    assert LogEntry.objects.count() == 6


@pytest.mark.django_db
def test_rows_deleted_since_the_comparison_are_made_again() -> None:
    document = read_catalog(CATALOG)
    apply(document)
    assert compare(document).rows == []
    TimeSeries.objects.all().delete()
    assert [change.added for change in apply(document).rows] == [True]


def test_export_reads_with_few_queries(database: str, django_assert_max_num_queries: Callable[[int], object]) -> None:
    apply(read_series_csv(series(120)), create_missing=True)
    with django_assert_max_num_queries(10):  # type: ignore[attr-defined]
        assert write_series_csv().count("\n") == 121
    with django_assert_max_num_queries(10):  # type: ignore[attr-defined]
        assert write_catalog().count("series_id") == 120
    assert connection.vendor in ("sqlite", "postgresql")
