"""Model fields whose database types are exactly the Arrow types of the schemas."""

from decimal import Decimal
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class ExactDecimalField(models.Field):  # type: ignore[type-arg]
    """NUMERIC(38,18); in SQLite, which would store a float, canonical decimal text."""

    description = "decimal with 20 digits before and 18 after the point, exact in every database"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """Return the column's type."""
        return "text" if connection.vendor == "sqlite" else "numeric(38, 18)"

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Decimal | None:
        """Return the stored value as a Decimal."""
        return None if value is None else Decimal(value)

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """Return the value as the database takes it."""
        if value is None or connection.vendor != "sqlite":
            return value
        text = f"{Decimal(value):f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
