"""What every form of the catalog does: selects from the registry, and no fault of `clean()` gets lost."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import ClassVar

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminSelect2Widget
from unfold.widgets import UnfoldAdminSelectWidget

from catalog.forms.choices import Choices

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:
    ModelForm = forms.ModelForm

#: a list longer than this is searched, not scrolled
_SEARCHED = 40


class CatalogForm(ModelForm):
    """A row of the catalog. `selects` maps fields whose text is checked against the registry to their choices."""

    selects: ClassVar[dict[str, Callable[[], Choices]]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, choices in self.selects.items():
            if name in self.fields:
                self.fields[name].widget = _select(choices(), str(self.initial.get(name) or ""))

    def _clean_fields(self) -> None:
        super()._clean_fields()  # type: ignore[misc]  # Django's, and not in its stubs
        # a widget without microseconds must not cut them off a value nobody touched
        changed = self.changed_data
        for name, field in self.fields.items():
            if isinstance(field, forms.SplitDateTimeField) and name in self.cleaned_data and name not in changed:
                self.cleaned_data[name] = self.initial.get(name)

    def _update_errors(self, errors: ValidationError) -> None:
        # a partial form (one column of a list, an inline) has no field for what clean() found elsewhere
        if hasattr(errors, "error_dict"):
            placed: dict[str, list[ValidationError]] = {}
            for name, faults in errors.error_dict.items():
                if name == NON_FIELD_ERRORS or name in self.fields:
                    placed.setdefault(name, []).extend(faults)
                else:
                    placed.setdefault(NON_FIELD_ERRORS, []).extend(self.place(name, faults))
            errors = ValidationError({name: faults for name, faults in placed.items() if faults})
            if not errors.error_dict:
                return
        super()._update_errors(errors)  # type: ignore[misc]  # Django's, and not in its stubs

    def place(self, name: str, faults: list[ValidationError]) -> list[ValidationError]:
        """Return faults of a field that this form does not show, as faults of the row."""
        return [ValidationError(f"{name}: {message}") for fault in faults for message in fault.messages]


def _select(choices: Choices, current: str) -> forms.Select:
    known = {value for value, _ in choices}
    if current and current not in known:
        choices = [*choices, (current, f"{current} (unknown)")]
    widget = UnfoldAdminSelect2Widget if len(choices) > _SEARCHED else UnfoldAdminSelectWidget
    made: forms.Select = widget(choices=[("", "Choose…"), *choices])
    return made
