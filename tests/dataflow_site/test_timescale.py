from datetime import timedelta
from typing import Any

from django.db import connections
from django.db import models
from django.test.utils import isolate_apps
from timescale.db.models.fields import TimescaleDateTimeField


@isolate_apps("catalog")
def bars(chunk: timedelta, **more: Any) -> type[models.Model]:
    meta = type("Meta", (), {"app_label": "catalog", "db_table": "bars"})
    key = models.CompositePrimaryKey("instrument_id", "ts_event")
    fields = {"instrument_id": models.IntegerField(), "ts_event": TimescaleDateTimeField(interval=chunk)}
    return type("Bars", (models.Model,), {"__module__": __name__, "Meta": meta, "pk": key} | fields | more)


def rows(alias: str, sql: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def test_hypertable_keeps_its_key_and_has_no_other_index(market_database: str) -> None:
    with connections[market_database].schema_editor() as editor:
        editor.create_model(bars(timedelta(days=30)))
    chunks = rows(
        market_database, "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'bars'"
    )
    assert chunks == [(timedelta(days=30),)]
    indexes = rows(market_database, "SELECT indexdef FROM pg_indexes WHERE tablename = 'bars'")
    assert indexes == [("CREATE UNIQUE INDEX bars_pkey ON public.bars USING btree (instrument_id, ts_event)",)]


def test_key_without_the_time_gives_way(market_database: str) -> None:
    with connections[market_database].schema_editor() as editor:
        editor.create_model(bars(timedelta(days=30), pk=None, id=models.BigAutoField(primary_key=True)))
    assert rows(market_database, "SELECT indexdef FROM pg_indexes WHERE tablename = 'bars'") == []


def test_changed_chunk_is_set_on_the_hypertable(market_database: str) -> None:
    before, after = bars(timedelta(days=30)), bars(timedelta(days=365))
    with connections[market_database].schema_editor() as editor:
        editor.create_model(before)
        editor.alter_field(before, before._meta.get_field("ts_event"), after._meta.get_field("ts_event"))
    chunks = rows(
        market_database, "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'bars'"
    )
    assert chunks == [(timedelta(days=365),)]


def test_every_generated_table_is_a_hypertable_with_its_key_only(market_database: str) -> None:
    from django.apps import apps

    tables = {model._meta.db_table for model in apps.get_app_config("marketdata").get_models()}
    hypertables = rows(market_database, "SELECT hypertable_name FROM timescaledb_information.hypertables")
    assert {name for (name,) in hypertables} >= tables
    indexes = rows(market_database, "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public'")
    assert {index for table, index in indexes if table in tables} == {f"{table}_pkey" for table in tables}
