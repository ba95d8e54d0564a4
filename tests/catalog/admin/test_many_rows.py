"""Lists ask the same few questions however many rows there are."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from catalog.models import Asset
from catalog.models import Fetch
from catalog.models import Run
from catalog.models import TimeSeries
from tests.catalog.admin.many import fill
from tests.catalog.admin.pages import url

#: queries of a list page: session, user, count and page, what the rows show of other tables, filters
MOST_QUERIES = 12
PAGES = [
    "/admin/",
    *(
        f"/admin/catalog/{model}/"
        for model in (
            "datasource",
            "asset",
            "instrument",
            "timeseries",
            "outputdestination",
            "route",
            "run",
            "fetch",
            "delivery",
            "quarantined",
        )
    ),
    "/admin/catalog/timeseries/?q=SYM1",
    "/admin/catalog/timeseries/?asset_class=equity&vendor=files&active__exact=1",
    "/admin/catalog/instrument/?q=V1",
    "/admin/catalog/route/?q=series",
    "/admin/autocomplete/?app_label=catalog&model_name=timeseries&field_name=assets&term=SYM",
    "/admin/autocomplete/?app_label=catalog&model_name=route&field_name=series&term=",
]


def queries(client: Client, page: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(page).status_code == 200
    return len(captured)


@pytest.mark.parametrize("page", PAGES)
def test_a_list_asks_as_many_questions_for_three_hundred_rows_as_for_three(page: str, boss: Client) -> None:
    fill(3)
    boss.get(page)  # content types are asked once
    few = queries(boss, page)
    fill(300)
    assert queries(boss, page) == few <= MOST_QUERIES


def test_a_page_of_a_row_asks_few_questions(boss: Client) -> None:
    fill(3)
    for model, row in (("timeseries", TimeSeries), ("asset", Asset), ("fetch", Fetch), ("run", Run)):
        page = url(model, "change", row.objects.first().pk)
        boss.get(page)
        few = queries(boss, page)
        fill(100)
        assert queries(boss, page) == few


def test_an_action_on_many_rows_is_a_handful_of_statements(boss: Client) -> None:
    fill(1500)
    first = TimeSeries.objects.values_list("pk", flat=True)[0]
    posted = {"action": "deactivate", "_selected_action": [first], "select_across": "1", "index": "0"}
    with CaptureQueriesContext(connection) as captured:
        boss.post(url("timeseries"), posted)
    assert not TimeSeries.objects.filter(active=True).exists()
    assert len(captured) < 40
