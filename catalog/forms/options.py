"""Form fields for the options that a vendor or a destination kind declares.

The JSON column `options` is never edited as text: each option of the pydantic class becomes a field, those of
every vendor are in the form, and the select of the vendor shows one group (static/catalog/options.js).
"""

import enum
import json
import types
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from datetime import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal
from typing import Union
from typing import get_args
from typing import get_origin

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import ModelFormMetaclass
from django.utils.html import format_html
from django.utils.safestring import SafeString
from pydantic import BaseModel
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo
from unfold.widgets import UnfoldAdminExpandableTextareaWidget
from unfold.widgets import UnfoldAdminSelectWidget
from unfold.widgets import UnfoldAdminTextInputWidget
from unfold.widgets import UnfoldBooleanSwitchWidget

from catalog.forms.base import CatalogForm
from flows.options import Options

#: name of the field that holds stored options which the class no longer declares
UNDECLARED: Final = ""
#: what a field that was left empty gives: the option keeps its default
_UNSET: Final = object()


def field_name(owner: str, option: str) -> str:
    """Return the name of the form field for an option of a vendor or kind."""
    return f"options__{owner}__{option}"


@dataclass(frozen=True, slots=True)
class OptionField:
    """One declared option: how it is shown, and how its value goes to JSON and back."""

    name: str
    info: FieldInfo

    @property
    def members(self) -> tuple[Any, ...]:
        """The declared types without None; several for a union."""
        return tuple(member for member in _members(self.info.annotation) if member is not type(None))

    @property
    def type(self) -> Any:
        """The one declared type; None for a union of several."""
        return self.members[0] if len(self.members) == 1 else None

    @property
    def nullable(self) -> bool:
        """Whether None is accepted."""
        return type(None) in _members(self.info.annotation)

    @property
    def default(self) -> Any:
        """The default as JSON holds it; `_UNSET` where the option is required."""
        if self.info.is_required():
            return _UNSET
        return _plain(self.info.get_default(call_default_factory=True))

    @property
    def choices(self) -> dict[str, Any]:
        """Text → value, for options with a few possible values; empty for others."""
        if get_origin(self.type) is Literal:
            # an empty field means the default, so an empty value has a text of its own
            return {str(value) or '""': value for value in get_args(self.type)}
        if isinstance(self.type, type) and issubclass(self.type, enum.Enum):
            return {str(member.value): member.value for member in self.type}
        if self.type is bool and (self.nullable or self.default is _UNSET):
            return {"yes": True, "no": False}
        return {}

    def form_field(self) -> forms.Field:
        """Return the field; it is never required in HTML, since it may belong to a vendor that is not chosen."""
        label = self.info.title or _words(self.name)
        common: dict[str, Any] = {"label": _label(label, self.default is _UNSET), "required": False}
        common["help_text"] = _help(self.info.description or "", _UNSET if self.choices else self.default)
        if self.choices:
            empty = "Choose…" if self.default is _UNSET else f"Default ({_shown(self.default)})"
            choices = [("", empty), *((text, text) for text in self.choices)]
            return forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget(), **common)
        if self.type is bool:
            return forms.BooleanField(widget=UnfoldBooleanSwitchWidget(), initial=self.default, **common)
        placeholder = "" if self.default in _EMPTY else self._write(self.default, indent=None)
        if self.is_json:
            widget = UnfoldAdminExpandableTextareaWidget(attrs={"placeholder": placeholder, "spellcheck": "false"})
        else:
            widget = UnfoldAdminTextInputWidget(attrs={"placeholder": placeholder})
        return forms.CharField(strip=False, widget=widget, **common)

    @property
    def is_json(self) -> bool:
        """Whether the value is written as JSON: lists, mappings and whatever has no simpler form."""
        return not all(
            get_origin(member) is Literal or (isinstance(member, type) and issubclass(member, _SIMPLE))
            for member in self.members
        )

    def initial(self, stored: Mapping[str, Any]) -> Any:
        """Return what the field shows for the stored options."""
        if self.name not in stored:
            return self.default if self.type is bool and not self.choices else ""
        value = stored[self.name]
        if value is None:
            return ""
        if self.choices:
            return next((text for text, choice in self.choices.items() if choice == value), str(value))
        return value if self.type is bool else self._write(value)

    def _write(self, value: Any, indent: int | None = 2) -> str:
        """Return the text of a value; quoted as in JSON where plain text would be read as something else."""
        if self.is_json and isinstance(value, str) and str in self.members and _no_json(value):
            return value
        if not isinstance(value, str) or self.is_json:
            if value is None:
                return ""
            lines = indent if isinstance(value, dict | list) and value else None
            return json.dumps(value, ensure_ascii=False, indent=lines, default=str)
        plain = value and value.isprintable() and value == _scalar(value, self.members)
        return value if plain else json.dumps(value, ensure_ascii=False)

    def read(self, shown: Any) -> Any:
        """Return the JSON value of what was entered, `_UNSET` for nothing; ValidationError where it is no JSON."""
        if self.choices:
            return self.choices[shown] if shown else _UNSET
        if self.type is bool:
            return _UNSET if shown == self.default else bool(shown)
        if shown == "":
            return _UNSET
        if self.is_json:
            try:
                return json.loads(shown)
            except ValueError as error:
                if str in self.members:
                    return shown
                raise ValidationError(f'not JSON: {error}; accepted: e.g. ["a", "b"] or {{"name": "value"}}') from None
        return _scalar(shown, self.members)


class OptionsForm(CatalogForm):
    """A row with an `options` column. A subclass says which vendor or kind is chosen."""

    #: owner → option → field; filled by `with_option_fields`
    option_fields: ClassVar[dict[str, dict[str, OptionField]]] = {}
    declared: ClassVar[dict[str, type[Options]]] = {}
    #: name of the field whose choice decides
    option_select: ClassVar[str]

    class Media:
        js = ("catalog/options.js",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.option_select in self.fields:
            widget: Any = self.fields[self.option_select].widget
            # a select of related rows is wrapped with its add and change links
            getattr(widget, "widget", widget).attrs.update(self.select_attributes())
        self.stored: dict[str, Any] = dict(self.instance.options or {}) if self.instance.pk else {}
        self.stored_owner = self.owner_of_instance() if self.instance.pk else ""
        for owner, options in self.option_fields.items():
            stored = self.stored if owner == self.stored_owner else {}
            for option in options.values():
                self.initial[field_name(owner, option.name)] = option.initial(stored)
            left = {name: value for name, value in stored.items() if name not in options}
            undeclared = field_name(owner, UNDECLARED)
            if undeclared in self.fields:
                if left:
                    self.initial[undeclared] = json.dumps(left, ensure_ascii=False, indent=2)
                else:
                    del self.fields[undeclared]

    def select_attributes(self) -> dict[str, str]:
        """Return what options.js reads from the select."""
        return {"data-option-select": ""}

    def owner_of_instance(self) -> str:
        """Return the vendor or kind of the stored row."""
        raise NotImplementedError

    def chosen_owner(self) -> str:
        """Return the vendor or kind that was chosen."""
        raise NotImplementedError

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        owner = self.chosen_owner()
        for other, options in self.option_fields.items():
            if other != owner:
                # what stands in the fields of a vendor that is not chosen is nobody's fault
                for name in (*options, UNDECLARED):
                    self.errors.pop(field_name(other, name), None)
        if owner in self.option_fields:
            self.instance.options = self._read(owner)
            self._check(owner, self.instance.options)
        return cleaned

    def _read(self, owner: str) -> dict[str, Any]:
        stored = self.stored if owner == self.stored_owner else {}
        values: dict[str, Any] = {}
        changed = self.changed_data
        for name, option in self.option_fields[owner].items():
            at = field_name(owner, name)
            if name in stored and at not in changed:
                values[name] = stored[name]
                continue
            if at not in self.cleaned_data:
                continue
            try:
                value = option.read(self.cleaned_data[at])
            except ValidationError as error:
                self.add_error(at, error)
                continue
            if value is not _UNSET:
                values[name] = value
        return values | self._undeclared(owner)

    def _undeclared(self, owner: str) -> dict[str, Any]:
        at = field_name(owner, UNDECLARED)
        text = self.cleaned_data.get(at)
        if not text:
            return {}
        try:
            loaded = json.loads(text)
        except ValueError as error:
            self.add_error(at, f"not JSON: {error}")
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _check(self, owner: str, values: dict[str, Any]) -> None:
        # what could not be read is not judged as well
        unread = set(self.errors)
        try:
            self.declared[owner].model_validate(values)
        except PydanticError as error:
            for fault in error.errors(include_url=False):
                where = str(fault["loc"][0]) if fault["loc"] else UNDECLARED
                at = field_name(owner, where if where in self.option_fields[owner] else UNDECLARED)
                if at not in unread:
                    self.add_error(at if at in self.fields else None, _message(self.declared[owner], fault))

    def place(self, name: str, faults: list[ValidationError]) -> list[ValidationError]:
        """Put a fault of the column `options` at the option it names; what `_check` said is not said again."""
        if name != "options":
            return super().place(name, faults)
        owner = self.chosen_owner()
        messages = [message for fault in faults for message in fault.messages]
        already = any(at.startswith(field_name(owner, "")) for at in self.errors) or self.non_field_errors()
        left: list[ValidationError] = []
        for message in messages:
            option = next((name for name in self.option_fields.get(owner, {}) if f"option {name!r}" in message), None)
            if option is not None and not self.errors.get(field_name(owner, option)):
                self.add_error(field_name(owner, option), message)
            elif option is None and not already:
                left.append(ValidationError(message))
        return left


def with_option_fields(form: type[OptionsForm], declared: Mapping[str, type[Options]]) -> type[OptionsForm]:
    """Return the form with a field for each option that the vendors or kinds declare."""
    options = {
        owner: {name: OptionField(name, info) for name, info in options.model_fields.items()}
        for owner, options in declared.items()
    }
    attributes: dict[str, Any] = {"option_fields": options, "declared": dict(declared), "__module__": form.__module__}
    for owner, fields in options.items():
        for name, option in fields.items():
            attributes[field_name(owner, name)] = option.form_field()
        attributes[field_name(owner, UNDECLARED)] = forms.CharField(
            label="Undeclared options",
            help_text="Stored, but no longer declared. Empty it to drop them.",
            required=False,
            widget=UnfoldAdminExpandableTextareaWidget(),
        )
    made = ModelFormMetaclass(form.__name__, (form,), attributes)
    return made  # type: ignore[return-value]  # a subclass of `form`


_ABBREVIATIONS: Final = ("api", "csv", "id", "json", "mb", "mic", "ssl", "tls", "ttl", "url", "utc")
#: types whose values are entered as plain text
_SIMPLE: Final = (str, int, float, Decimal, date, time, timedelta, Path)
#: defaults that need no mention
_EMPTY: Final[tuple[Any, ...]] = (_UNSET, None, "", [], {})


def _message(declared: type[BaseModel], fault: Any) -> str:
    """Return what is wrong with an option: the place in it, the value there, and what is accepted."""
    loc = fault["loc"]
    place = ".".join(map(str, loc[1:]))
    if fault["type"] == "missing":
        return f"{place}: this is required." if place else "This option is required."
    if fault["type"] == "extra_forbidden":
        if not place:
            return f"{loc[0]}: this option is not declared (any more)."
        return f"{place}: there is no such thing; accepted: {', '.join(_names_at(declared, loc)) or 'nothing'}"
    said = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {repr(fault['input'])[:200]} is wrong: {said}" if place else said


def _names_at(declared: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Return the names that the model has in which a fault lies."""
    model = declared
    for step in loc[:-1]:
        if isinstance(step, str) and (info := model.model_fields.get(step)):
            model = next(_models(info.annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, such as `dict[str, Events]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    if get_origin(annotation) in (Union, types.UnionType):
        found = [member for part in get_args(annotation) for member in _members(part)]
        return tuple(found)
    return _members(get_args(annotation)[0]) if get_origin(annotation) is Annotated else (annotation,)


def _scalar(text: str, members: tuple[Any, ...]) -> Any:
    """Return a number where the option takes numbers and the text is one; else the text, for pydantic to judge.

    Text in double quotes is read as in JSON: "" is the empty text, "\\t" a tab.
    """
    plain = text.strip()
    if str in members and len(plain) > 1 and plain[0] == plain[-1] == '"':
        try:
            return json.loads(plain)
        except ValueError:
            return text
    if int in members:
        try:
            return int(plain)
        except ValueError:
            pass
    if float in members:
        try:
            return float(plain)
        except ValueError:
            pass
    # decimals stay text: JSON's numbers would round them
    return text if str in members else plain


def _no_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return bool(text) and text.isprintable()
    return False


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none" if value is None else "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    plain = isinstance(value, str) and value.isprintable() and value == value.strip()
    return str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)


def _words(name: str) -> str:
    """Return an option's name as words."""
    words = [word.upper() if word in _ABBREVIATIONS else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _label(text: str, required: bool) -> SafeString | str:
    if not required:
        return text
    return format_html('{} <span class="text-red-600 dark:text-red-500" title="required">*</span>', text)


def _help(text: str, default: Any) -> SafeString:
    if default in _EMPTY or isinstance(default, bool):
        return format_html("{}", text)
    return format_html("{} Default: <code>{}</code>.", text, _shown(default))
