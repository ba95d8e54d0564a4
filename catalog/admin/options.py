"""Option fields on a page: one group for each vendor or kind, the chosen one shown."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest
from django.utils.html import escape

from catalog.forms.choices import install_advice
from catalog.forms.options import UNDECLARED
from catalog.forms.options import field_name
from catalog.forms.options import with_option_fields
from flows.options import Options


class OptionsMixin:
    """A ModelAdmin of a row with options. Who may only look sees them as they are stored."""

    def declared(self) -> Mapping[str, type[Options]]:
        """Return the class that declares the options of each vendor or kind."""
        raise NotImplementedError

    def stored_owner(self, row: Any) -> str:
        """Return the vendor or kind of a stored row."""
        raise NotImplementedError

    def chosen(self, request: HttpRequest, row: Any) -> str:
        """Return the vendor or kind whose group is shown."""
        raise NotImplementedError

    def plug_in(self, owner: str) -> Any:
        """Return the class of a vendor or kind."""
        raise NotImplementedError

    def about(self, owner: str) -> str:
        """Return what to know before filling in the group."""
        return ""

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = with_option_fields(self.form, self.declared())  # type: ignore[attr-defined]  # of ModelAdmin
        return super().get_form(request, obj, change, **kwargs)  # type: ignore[misc]  # of ModelAdmin

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        sets = [*super().get_fieldsets(request, obj)]  # type: ignore[misc]  # of ModelAdmin
        if obj is not None and not self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            return [*sets, ("Options", {"fields": ("options",)})]
        chosen = self.chosen(request, obj)
        before = self.stored_owner(obj) if obj is not None else ""
        for owner, options in self.declared().items():
            stored = obj.options if owner == before else {}
            # what must be said stands before what may be tuned
            declared = sorted(options.model_fields, key=lambda name: not options.model_fields[name].is_required())
            names = [*declared, *([UNDECLARED] if stored.keys() - options.model_fields.keys() else [])]
            about = self.about(owner)
            if names or about:
                hidden = () if owner == chosen else ("option-group-hidden",)
                group = {
                    "fields": tuple(field_name(owner, name) for name in names),
                    # unfold makes a tab of whatever has these three letters in its classes, as "database" does
                    "classes": ("option-group", option_class(owner), *hidden),
                    # unfold shows a description as HTML
                    "description": escape(about),
                }
                sets.append((f"Options of {self.plug_in(owner).label}", group))
        return sets


def option_class(owner: str) -> str:
    """Return the class of a vendor's or kind's group: its name in hexadecimal, which options.js writes too."""
    return f"option-group--{owner.encode().hex()}"


def describe(plug_in: Any) -> str:
    """Return what a vendor or kind is, the variables its secrets stand in, and what it lacks here."""
    said = [plug_in.doc]
    if plug_in.credentials:
        names = ", ".join(f"<prefix>_{ending}" for ending in plug_in.credentials)
        said.append(f"Its secrets are read from the environment: {names}.")
    if advice := install_advice(plug_in):
        said.append(f"On this machine it {advice}.")
    return " ".join(filter(None, said))
