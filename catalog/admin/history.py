"""The change history: Django's own log, with the old and the new value of every field that changed."""

import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from typing import Final

from django.contrib.admin.models import ADDITION
from django.contrib.admin.models import CHANGE
from django.contrib.admin.models import DELETION
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import Model
from django.http import HttpRequest

#: characters of one value: a history is read, not restored from
_SHOWN: Final = 200
_LOGGED_AT_ONCE: Final = 500
#: JSON columns are compared name by name
_JSON: Final = "options"

Values = dict[str, Any]
Message = str | list[dict[str, Any]]


def values_of(instance: Model) -> Values:
    """Return what a row holds, by the name of the field; options by `options.<name>`, relations as text."""
    found: Values = {}
    for field in instance._meta.concrete_fields:
        if field.primary_key:
            continue
        value = getattr(instance, field.name) if field.is_relation else field.value_from_object(instance)
        if field.name == _JSON and isinstance(value, Mapping):
            found |= {f"{_JSON}.{name}": item for name, item in value.items()}
        else:
            found[field.name] = value
    if instance.pk:
        for field in instance._meta.many_to_many:
            found[field.name] = frozenset(str(item) for item in getattr(instance, field.name).all())
    return found


def difference(before: Values, after: Values) -> list[str]:
    """Return a sentence such as `schedule: '' → '0 22 * * 1-5'` for each value that changed."""
    return [
        f"{name}: {_change(before.get(name), after.get(name))}"
        for name in [*before, *(name for name in after if name not in before)]
        if before.get(name) != after.get(name)
    ]


def shown(value: Any) -> str:
    """Return a value as the history writes it."""
    if value is None:
        return "nothing"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset):
        return _cut(", ".join(sorted(value)))
    return _cut(repr(value) if isinstance(value, str | list | dict) else str(value))


def changed(changes: Iterable[str]) -> list[dict[str, Any]]:
    """Return a message of the log that says what changed."""
    return [{"changed": {"fields": list(changes)}}]


def log(request: HttpRequest, entries: Iterable[tuple[Model, int, Message]]) -> None:
    """Write entries (row, flag, message) to the log, many at once."""
    user: Any = request.user
    made = [
        LogEntry(
            user_id=user.pk,
            content_type_id=ContentType.objects.get_for_model(row, for_concrete_model=False).pk,
            object_id=str(row.pk),
            object_repr=str(row)[:200],
            action_flag=flag,
            change_message=message if isinstance(message, str) else json.dumps(message, ensure_ascii=False),
        )
        for row, flag, message in entries
    ]
    LogEntry.objects.bulk_create(made, batch_size=_LOGGED_AT_ONCE)


class HistoryMixin:
    """A ModelAdmin whose log says what was there before and what is there now."""

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        form.before = values_of(type(obj)._base_manager.get(pk=obj.pk)) if change else {}
        super().save_model(request, obj, form, change)  # type: ignore[misc]  # of ModelAdmin

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Sequence[Any] | None, add: bool = False
    ) -> list[dict[str, Any]]:
        """Return the message of one save: the row itself, then the rows of its inlines."""
        message: list[dict[str, Any]] = []
        if add:
            message.append({"added": {}})
        else:
            changes = difference(form.before, values_of(_fresh(form.instance)))
            if changes:
                message += changed(changes)
        for formset in formsets or ():
            message += _of_inline(formset)
        return message

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Model]) -> None:
        """Keep what a deleted row held."""
        log(
            request,
            (
                (
                    row,
                    DELETION,
                    "Held " + ", ".join(f"{name}: {shown(value)}" for name, value in values_of(row).items()),
                )
                for row in queryset
            ),
        )


def _fresh(instance: Model) -> Model:
    # prefetched relations of the form's instance may be older than what was saved
    return type(instance)._base_manager.get(pk=instance.pk)


def _of_inline(formset: Any) -> list[dict[str, Any]]:
    message: list[dict[str, Any]] = []
    forms = {form.instance.pk: form for form in formset.initial_forms}
    for added in formset.new_objects:
        message.append({"added": _named(added)})
    for row, fields in formset.changed_objects:
        before = {name: _value(row, name, forms[row.pk].initial.get(name)) for name in fields}
        after = {name: _value(row, name, row.serializable_value(name)) for name in fields}
        message.append({"changed": {**_named(row), "fields": difference(before, after)}})
    for deleted in formset.deleted_objects:
        message.append({"deleted": _named(deleted)})
    return message


def _named(row: Model) -> dict[str, str]:
    return {"name": str(row._meta.verbose_name), "object": str(row)}


def _value(row: Model, name: str, value: Any) -> Any:
    field = row._meta.get_field(name)
    related = field.related_model
    if isinstance(field, models.ForeignKey) and isinstance(related, type) and value is not None:
        return str(related._base_manager.filter(pk=value).first())
    return value


def _change(before: Any, after: Any) -> str:
    if isinstance(before, frozenset) and isinstance(after, frozenset):
        gone = [f"− {item}" for item in sorted(before - after)]
        return _cut(", ".join([*gone, *(f"+ {item}" for item in sorted(after - before))]))
    return f"{shown(before)} → {shown(after)}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


__all__ = ["ADDITION", "CHANGE", "DELETION", "HistoryMixin", "changed", "difference", "log", "shown", "values_of"]
