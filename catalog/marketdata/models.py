"""Django models generated from the declared schemas, so that migrations make and follow the tables."""

from typing import Any

import pyarrow as pa
from django.db import models
from timescale.db.models.fields import TimescaleDateTimeField

from catalog.marketdata.fields import ExactDecimalField
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from catalog.schemas import SCHEMAS
from catalog.schemas.base import FETCH_ID
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INT16
from catalog.schemas.base import INT32
from catalog.schemas.base import INT64
from catalog.schemas.base import ORDINAL
from catalog.schemas.base import TEXT
from catalog.schemas.base import Schema

_FIELDS: "dict[pa.DataType, type[models.Field[Any, Any]]]" = {
    DECIMAL: ExactDecimalField,
    INT64: models.BigIntegerField,
    INT32: models.IntegerField,
    INT16: models.SmallIntegerField,
    TEXT: models.TextField,
    FLOAT64: models.FloatField,
    # nanoseconds since 1970: the databases' own times end at microseconds
    NANOSECONDS: models.BigIntegerField,
}


def nanosecond_column(schema: Schema) -> str:
    """Name of the column that holds the time's part below a microsecond; empty where there is none."""
    return f"{schema.time}_ns" if schema.nanoseconds else ""


def build_model(schema: Schema) -> type[models.Model]:
    """Return the model of a schema: its columns, its row key, its hypertable's chunk width."""
    key = ["instrument_id", schema.time, *filter(None, [nanosecond_column(schema)]), *schema.identity]
    fields: dict[str, Any] = {"instrument_id": models.BigIntegerField()}
    for column in schema.columns:
        if column.name == schema.time:
            seconds = int(schema.chunk.total_seconds())
            fields[column.name] = TimescaleDateTimeField(interval=f"{seconds} seconds", help_text=column.doc)
            if schema.nanoseconds:
                fields[nanosecond_column(schema)] = models.SmallIntegerField()
        else:
            fields[column.name] = _FIELDS[column.type](null=column.null, help_text=column.doc)
    if schema.repeats:
        fields[ORDINAL] = models.IntegerField()
        key.append(ORDINAL)
    fields[FETCH_ID] = models.BigIntegerField()
    meta = type("Meta", (), {"app_label": "marketdata", "db_table": f"marketdata_{schema.table_name}"})
    return type(
        schema.model_name,
        (models.Model,),
        {
            "__module__": __name__,
            "__doc__": schema.doc,
            "pk": models.CompositePrimaryKey(*key),
            **fields,
            "Meta": meta,
        },
    )


MODELS = {schema.name: build_model(schema) for schema in SCHEMAS.values()}
globals().update({model.__name__: model for model in MODELS.values()})
