"""Views for ad-hoc SQL on SQLite, where prices are stored as text to be exact: `SELECT max(close) FROM ohlcv_1d`.

A view has the name of its schema, prices cast to floats, and the instrument's key instead of its id where the
catalog is in the same file. PostgreSQL needs none: its NUMERIC columns calculate as they are.
"""

from typing import Any

from django.conf import settings
from django.db import connections

from catalog.marketdata.models import MODELS
from catalog.schemas import DECIMAL
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema


def make_views(using: str, **kwargs: Any) -> None:
    """Make the views anew after each migration (signal `post_migrate`)."""
    connection = connections[using]
    if connection.vendor != "sqlite" or using != settings.MARKET_ALIAS:
        return
    with connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        for schema in SCHEMAS.values():
            if MODELS[schema.name]._meta.db_table in tables:
                cursor.execute(f'DROP VIEW IF EXISTS "{schema.table_name}"')
                cursor.execute(_view(schema, named="catalog_instrument" in tables))


def _view(schema: Schema, *, named: bool) -> str:
    columns = [
        f'CAST(row."{column.name}" AS REAL) AS "{column.name}"' if column.type == DECIMAL else f'row."{column.name}"'
        for column in schema.columns
    ]
    who, join = 'row."instrument_id"', ""
    if named:
        who = "source.name AS source, asset.asset_class, asset.symbol"
        join = (
            " JOIN catalog_instrument instrument ON instrument.id = row.instrument_id"
            " JOIN catalog_datasource source ON source.id = instrument.source_id"
            " JOIN catalog_asset asset ON asset.id = instrument.asset_id"
        )
    table = MODELS[schema.name]._meta.db_table
    return f'CREATE VIEW "{schema.table_name}" AS SELECT {who}, {", ".join(columns)} FROM "{table}" row{join}'
