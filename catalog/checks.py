"""System checks: rows of the catalog that name a vendor, kind, schema or option which no longer exists."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.core.checks import Error
from django.core.checks import Tags
from django.core.checks import register
from django.core.exceptions import ValidationError


@register(Tags.database)
def check_catalog(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Report sources, destinations and series that `clean()` would refuse today (`check --database default`)."""
    from django.db import connection

    from catalog.models import DataSource
    from catalog.models import OutputDestination
    from catalog.models import TimeSeries
    from catalog.schemas import SCHEMAS

    if not databases or "default" not in databases:
        return []
    if DataSource._meta.db_table not in connection.introspection.table_names():
        return []
    messages: list[CheckMessage] = []
    for row in [*DataSource.objects.all(), *OutputDestination.objects.all()]:
        try:
            row.clean()
        except ValidationError as error:
            messages.append(Error(" ".join(error.messages), obj=row, id="catalog.E001"))
    gone = TimeSeries.objects.exclude(schema__in=SCHEMAS).values_list("schema", flat=True).distinct()
    messages += [Error(f"series name schema {name!r}, which is not declared", id="catalog.E002") for name in gone]
    return messages
