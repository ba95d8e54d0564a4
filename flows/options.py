"""Options: the one JSON column of a row, always read through the class that declares it."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import ValidationError

from catalog.errors import ConfigError


class Options(BaseModel):
    """Base of every class that declares options: unknown names are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


def read_options(owner: str, declared: type[Options], values: Mapping[str, Any]) -> Any:
    """Return `values` as the class that declares them; ConfigError lists every fault at once."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{owner}: options {values!r} are not a mapping of names to values")
    try:
        return declared.model_validate(dict(values))
    except ValidationError as error:
        accepted = ", ".join(sorted(declared.model_fields)) or "none"
        faults = []
        for fault in error.errors(include_url=False):
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                faults.append(f"{owner}: option {name!r} is unknown; have: {accepted}")
            elif fault["type"] == "missing":
                faults.append(f"{owner}: option {name!r} is required")
            else:
                where = f"option {name!r} " if name else ""
                faults.append(f"{owner}: {where}{str(fault['input'])[:200]!r} is wrong: {fault['msg']}")
        raise ConfigError(*faults) from None
