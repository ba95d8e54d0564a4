"""Fields of rows: what changes in them, and what their validators say. Nothing here asks the database."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from datetime import timedelta
from functools import cache
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import EMPTY_VALUES
from django.db.models import Field
from django.db.models import Model

from catalog.exchange.changes import FieldChange
from catalog.exchange.entries import Entry
from catalog.exchange.entries import Fault
from catalog.exchange.values import print_duration
from catalog.exchange.values import print_moment
from catalog.exchange.values import print_options
from catalog.exchange.values import shown


def print_value(value: Any) -> str:
    """Return the value of a field as people read it in a difference."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return print_options(value)
    if isinstance(value, datetime):
        return print_moment(value)
    return print_duration(value) if isinstance(value, timedelta) else str(value)


def amend(row: Model, values: Mapping[str, Any]) -> list[FieldChange]:
    """Set the fields of a row; returns those that differ from what it had."""
    changes = []
    for name, value in values.items():
        before = getattr(row, name)
        # 1, 1.0 and True are equal for Python and different options
        same = print_options(before) == print_options(value) if isinstance(value, dict) else before == value
        if not same:
            changes.append(FieldChange(name, print_value(before), print_value(value)))
            setattr(row, name, value)
    return changes


def field_faults(model: type[Model], name: str, value: Any) -> Iterator[str]:
    """Yield what the validators of a field say about a value: lengths, ranges, names."""
    if value in EMPTY_VALUES:
        return
    for validate in _validators(model, name):
        try:
            validate(value)
        except ValidationError as error:
            yield from (_with_value(message, value) for message in error.messages)
            # what is too long is mostly no name either
            return


def entry_faults(entry: Entry, row: Model, *, clean: bool) -> Iterator[Fault]:
    """Yield what the validators of the fields given and the row's `clean()` say; a field is faulted by one of them."""
    told = set()
    for name in entry.values:
        for message in field_faults(type(row), name, getattr(row, name)):
            told.add(name)
            yield Fault(entry.line_of(name), name, message)
    try:
        if clean:
            row.clean()
    except ValidationError as error:
        for name, messages in by_field(error).items():
            if name not in told:
                yield from (Fault(entry.line_of(name), name, message) for message in messages)


def by_field(error: ValidationError) -> Mapping[str, Sequence[str]]:
    """Return the messages of an error by the field they are about; empty where they are about the row."""
    return error.message_dict if hasattr(error, "error_dict") else {"": error.messages}


@cache
def _validators(model: type[Model], name: str) -> Sequence[Callable[[Any], None]]:
    # Django makes the list anew each time it is asked
    field = model._meta.get_field(name)
    assert isinstance(field, Field)
    return field.validators


def _with_value(message: str, value: Any) -> str:
    text = shown(value)
    return message if message.startswith(text) else f"{text}: {message}"
