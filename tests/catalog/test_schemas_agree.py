"""A schema's columns are declared once: Arrow, model, database and documentation say the same."""

import re
import runpy
from pathlib import Path

import pytest
from django.db import connection

from catalog.marketdata.models import MODELS
from catalog.schemas import DECIMAL
from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import ORDINAL
from catalog.schemas import SCHEMAS
from catalog.schemas import Schema

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/schemas.md"
every_schema = pytest.mark.parametrize("schema", tuple(SCHEMAS.values()), ids=tuple(SCHEMAS))

POSTGRESQL = {
    DECIMAL: "numeric(38,18)", NANOSECONDS: "bigint", "int64": "bigint", "int32": "integer", "int16": "smallint",
    "double": "double precision", "string": "text",
}  # fmt: skip


def database_columns(schema: Schema) -> dict[str, tuple[str, bool]]:
    """The columns that the Arrow schema asks for, with type and whether they may be null."""
    columns: dict[str, tuple[str, bool]] = {}
    for field in schema.arrow:
        if field.name == INSTRUMENT:
            columns["instrument_id"] = ("bigint", False)
        elif field.name == schema.time:
            columns[field.name] = ("timestamp with time zone", False)
            if schema.nanoseconds:
                columns[f"{field.name}_ns"] = ("smallint", False)
        else:
            known = field.type if field.type in POSTGRESQL else str(field.type)
            columns[field.name] = (POSTGRESQL[known], field.nullable)
    return columns


@every_schema
def test_arrow_has_the_declared_columns_and_its_own(schema: Schema) -> None:
    declared = [column.name for column in schema.columns]
    assert schema.arrow.names == [INSTRUMENT, *declared, *([ORDINAL] if schema.repeats else []), FETCH_ID]
    for column in schema.columns:
        field = schema.arrow.field(column.name)
        assert (field.type, field.nullable) == (column.type, column.null)
    # a key column is never null, and says what it holds where the vendor has nothing
    for name in schema.identity:
        assert not schema.arrow.field(name).nullable
    assert set(schema.key) | set(schema.values) | {FETCH_ID} == set(schema.arrow.names)


@every_schema
def test_the_model_has_the_same_columns_key_and_words(schema: Schema) -> None:
    model = MODELS[schema.name]
    fields = {field.name: field for field in model._meta.concrete_fields if field.name != "pk"}
    assert list(fields) == list(database_columns(schema))
    for name, (_, null) in database_columns(schema).items():
        assert fields[name].null == null
    for column in schema.columns:
        assert fields[column.name].help_text == column.doc
    key = [field.name for field in model._meta.pk_fields]
    expected = [("instrument_id" if name == INSTRUMENT else name) for name in schema.key]
    assert [name for name in key if name != f"{schema.time}_ns"] == expected
    assert (f"{schema.time}_ns" in key) == schema.nanoseconds


@pytest.mark.parametrize("database", ["timescale"], indirect=True)
@every_schema
def test_the_database_has_the_same_columns(database: str, schema: Schema) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            [MODELS[schema.name]._meta.db_table],
        )
        found = {name: (kind, null) for name, kind, null in cursor.fetchall()}
    assert found == database_columns(schema)


def test_the_page_is_what_the_declarations_say() -> None:
    page = runpy.run_path(str(REPOSITORY / "scripts/docs"))["schemas_page"]()
    assert page == PAGE.read_text(), "write it anew: .venv/bin/python scripts/docs"


@every_schema
def test_the_page_documents_every_column(schema: Schema) -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    (section,) = [text for text in sections if schema.name in text.splitlines()[0].split(", ")]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == schema.arrow.names
