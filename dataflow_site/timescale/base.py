from django.db.models import Model
from timescale.db.backends.postgresql import base
from timescale.db.backends.postgresql.schema import TimescaleSchemaEditor
from timescale.db.models.fields import TimescaleDateTimeField


class SchemaEditor(TimescaleSchemaEditor):
    # TimescaleDB's default index on the time column costs a third of the write speed, and no query here uses it:
    # every one names its instruments
    sql_add_hypertable = TimescaleSchemaEditor.sql_add_hypertable.replace(
        "migrate_data =>", "create_default_indexes => false, migrate_data =>"
    )

    def _drop_primary_key(self, model: type[Model]) -> None:
        """Drop the key only where TimescaleDB could not enforce it, i.e. where it lacks the time column.

        The parent drops every key, and with it what makes an upsert possible.
        """
        if not any(isinstance(field, TimescaleDateTimeField) for field in model._meta.pk_fields):
            super()._drop_primary_key(model)


class DatabaseWrapper(base.DatabaseWrapper):
    SchemaEditorClass = SchemaEditor
