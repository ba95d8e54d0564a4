"""Validators and helpers that several models of the catalog share."""

import re
from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

#: Names that stand in keys, paths and environment variables: short, printable, no separators.
name_validator: Final = RegexValidator(
    re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"),
    "Accepted: letters, digits, '.', '_' and '-', starting with a letter or digit, at most 100.",
)
env_prefix_validator: Final = RegexValidator(
    re.compile(r"\A[A-Z][A-Z0-9_]{0,63}\Z"), "Accepted: capital letters, digits and '_', starting with a letter."
)
#: Variables of the platform and of what it runs on begin with these: whoever edits a source decides where its secrets
#: are sent, and these are none of its own.
_NOT_A_SOURCE: Final = frozenset(
    {
        "AWS", "AZURE", "DATABASE", "DATAFLOW", "DJANGO", "GCP", "GOOGLE", "KUBERNETES", "MARKET", "PG", "POSTGRES",
        "PREFECT", "REDIS", "SECRET",
    }
)  # fmt: skip


def source_prefix_fault(value: str) -> str:
    """Return what is wrong with the prefix of a source's secrets; empty where nothing is."""
    if value.split("_")[0] in _NOT_A_SOURCE:
        taken = ", ".join(sorted(_NOT_A_SOURCE))
        return f"{value!r} is that of variables which are no vendor's; accepted: any but those beginning with {taken}"
    return ""


def validate_symbol(value: str) -> None:
    """Refuse symbols that no key, log line or store can carry: empty, NUL and control characters."""
    if not value or value != value.strip() or any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValidationError(
            "%(value)r is no symbol; accepted: text without control characters or outer spaces",
            params={"value": value},
        )


class Faults:
    """Collects every fault of a row and raises them together, by field."""

    def __init__(self) -> None:
        self.by_field: dict[str, list[str]] = {}

    def add(self, field: str, *messages: str) -> None:
        """Note faults of a field."""
        self.by_field.setdefault(field, []).extend(messages)

    def raise_if_any(self) -> None:
        """Raise ValidationError with all that was noted."""
        if self.by_field:
            raise ValidationError({field: list(messages) for field, messages in self.by_field.items()})
