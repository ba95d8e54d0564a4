"""A hundred thousand series: faults are found in seconds, and nothing asks the database row by row."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from catalog.exchange import apply
from catalog.exchange import compare
from catalog.exchange import read_series_csv
from catalog.exchange import write_series_csv
from catalog.models import Route
from catalog.models import TimeSeries

HEADER = "series_id,data_source,extractor_type,schema,assets,output_destinations,transforms,schedule,start"

Queries = Callable[[int], AbstractContextManager[object]]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("catalog")]


def lines(count: int) -> list[str]:
    common = "eod,historical,ohlcv-1d"
    return [
        f"s{n:06d},{common},equity:S{n},db;trash,sma(window={n % 50 + 2}),{n % 60} 22 * * 1-5,20{n % 20:02d}-01-01"
        for n in range(count)
    ]


def test_fifty_faults_among_a_hundred_thousand_are_reported_together(django_assert_max_num_queries: Queries) -> None:
    rows = lines(100_000)
    wrong = {
        "data_source": "nowhere",
        "extractor_type": "batch",
        "schema": "ohlcv-2d",
        "assets": "stock:A",
        "output_destinations": "gone",
        "transforms": "smaa(window=2)",
        "schedule": "often",
        "start": "yesterday",
        "series_id": "s000000",
        "": "",
    }
    expected = []
    for position in sorted(random.Random(7).sample(range(1, 100_000), 50)):
        column = list(wrong)[position % len(wrong)]
        cells = rows[position].split(",")
        if column:
            cells[HEADER.split(",").index(column)] = wrong[column]
        else:
            cells.append("one too many")
        rows[position] = ",".join(cells)
        expected.append((position + 2, column))
    with django_assert_max_num_queries(10):
        changes = compare(read_series_csv("\n".join([HEADER, *rows])), create_missing=True)
    assert [(fault.line, fault.where) for fault in changes.faults] == expected


def test_many_series_are_written_in_few_queries(django_assert_max_num_queries: Queries) -> None:
    text = "\n".join([HEADER, *lines(5000)])
    # Django gives SQLite at most 999 values in a statement
    with django_assert_max_num_queries(250):
        apply(read_series_csv(text), create_missing=True)
    assert (TimeSeries.objects.count(), Route.objects.filter(home=True).count()) == (5000, 5000)
    exported = write_series_csv()
    with django_assert_max_num_queries(40):
        assert apply(read_series_csv(exported)).rows == []
    changed = exported.replace("22 * * 1-5", "23 * * 1-5").replace("db;trash", "more;trash")
    with django_assert_max_num_queries(250):
        assert len(apply(read_series_csv(changed)).rows) == 5000
    assert write_series_csv() == changed
