"""The page of declarations: every kind of record there is.

To add one, add a `Schema` to one of the modules named here and run `manage.py makemigrations`; nothing else names it.
"""

from typing import Final

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.schemas import bars
from catalog.schemas import books
from catalog.schemas import definitions
from catalog.schemas import ticks
from catalog.schemas import values
from catalog.schemas.base import DECIMAL
from catalog.schemas.base import FETCH_ID
from catalog.schemas.base import INSTRUMENT
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import ORDINAL
from catalog.schemas.base import ROW
from catalog.schemas.base import Check
from catalog.schemas.base import Column
from catalog.schemas.base import Schema
from catalog.schemas.rules import TIMEFRAMES
from catalog.schemas.rules import bar_open
from catalog.schemas.rules import bars_end

__all__ = [
    "DECIMAL",
    "FETCH_ID",
    "INSTRUMENT",
    "NANOSECONDS",
    "ORDINAL",
    "ROW",
    "SCHEMAS",
    "TIMEFRAMES",
    "Check",
    "Column",
    "Schema",
    "bar_open",
    "bars_end",
    "schema",
]

_DECLARED: Final = (
    *bars.DECLARED,
    *ticks.DECLARED,
    *books.DECLARED,
    *definitions.DECLARED,
    *values.DECLARED,
)

SCHEMAS: Final[dict[str, Schema]] = {declared.name: declared for declared in _DECLARED}


def schema(name: str) -> Schema:
    """Return the schema called `name`; ConfigError names the accepted ones."""
    try:
        return SCHEMAS[name]
    except KeyError:
        raise ConfigError(unknown("schema", name, SCHEMAS)) from None
