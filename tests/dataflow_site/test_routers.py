import pytest
from django.apps import apps
from django.db import router
from pytest_django import Settings

from catalog.models import DataSource


@pytest.mark.parametrize(
    ("market", "database", "app", "allowed"),
    [
        pytest.param("default", "default", "catalog", True, id="one-database-catalog"),
        pytest.param("default", "default", "marketdata", True, id="one-database-rows"),
        pytest.param("market", "default", "catalog", True, id="catalog-in-its-own"),
        pytest.param("market", "market", "catalog", False, id="catalog-not-among-rows"),
        pytest.param("market", "market", "marketdata", True, id="rows-in-their-own"),
        pytest.param("market", "default", "marketdata", False, id="rows-not-in-the-catalog"),
        pytest.param("market", "third", "marketdata", True, id="elsewhere-no-opinion"),
    ],
)
def test_tables_are_made_where_they_belong(
    settings: Settings, market: str, database: str, app: str, allowed: bool
) -> None:
    settings.MARKET_ALIAS = market
    assert router.allow_migrate(database, app) is allowed


def test_rows_are_read_and_written_in_the_market_database(settings: Settings) -> None:
    settings.MARKET_ALIAS = "market"
    for model in apps.get_app_config("marketdata").get_models():
        assert (router.db_for_read(model), router.db_for_write(model)) == ("market", "market")
    assert router.db_for_write(DataSource) == "default"
