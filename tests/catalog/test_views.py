"""On SQLite prices are text, so that they are exact; the views make them numbers for ad-hoc SQL."""

from pathlib import Path

import pytest
from django.db import connection

from flows.ingest import ingest
from flows.plan import Selection
from tests.flows.catalogs import daily_csv
from tests.flows.catalogs import days
from tests.flows.catalogs import series


@pytest.mark.django_db(transaction=True)
def test_view_has_numbers_and_the_names_of_the_key(tmp_path: Path) -> None:
    series("a", ["AAPL"])
    daily_csv(tmp_path / "data/AAPL.csv", days(9, 3))
    ingest(Selection())
    with connection.cursor() as cursor:
        cursor.execute("SELECT source, asset_class, symbol, max(close), typeof(max(close)) FROM ohlcv_1d")
        # as text, 9 would be above 12
        assert cursor.fetchall() == [("prices", "equity", "AAPL", 12.0, "real")]
