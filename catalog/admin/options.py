"""Option fields on a page: one group for each vendor or kind, the chosen one shown."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString

from catalog.forms.options import UNDECLARED
from catalog.forms.options import field_name
from catalog.forms.options import with_option_fields
from flows import registry
from flows.registry import Options


class OptionsMixin:
    """A ModelAdmin of a row with options. Who may only look sees them as they are stored."""

    def declared(self) -> Mapping[str, type[Options]]:
        """Return the class that declares the options of each vendor or kind."""
        raise NotImplementedError

    def chosen(self, request: HttpRequest, row: Any) -> str:
        """Return the vendor or kind whose group is shown."""
        raise NotImplementedError

    def about(self, owner: str) -> SafeString:
        """Return what to know before filling in the group."""
        return SafeString("")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = with_option_fields(self.form, self.declared())  # type: ignore[attr-defined]  # of ModelAdmin
        return super().get_form(request, obj, change, **kwargs)  # type: ignore[misc]  # of ModelAdmin

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        sets = [*super().get_fieldsets(request, obj)]  # type: ignore[misc]  # of ModelAdmin
        if obj is not None and not self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            return [*sets, ("Options", {"fields": ("options",)})]
        chosen = self.chosen(request, obj)
        for owner, options in self.declared().items():
            stored = obj.options if obj is not None and owner == chosen else {}
            names = [*options.model_fields, *([UNDECLARED] if stored.keys() - options.model_fields.keys() else [])]
            about = self.about(owner)
            if names or about:
                hidden = () if owner == chosen else ("option-group-hidden",)
                group = {
                    "fields": tuple(field_name(owner, name) for name in names),
                    "classes": ("option-group", f"option-group--{owner}", *hidden),
                    "description": about,
                }
                sets.append((f"Options of {_label(owner)}", group))
        return sets


def _label(owner: str) -> str:
    plug_in = registry.extractors().get(owner) or registry.sinks().get(owner)
    return str(plug_in.label) if plug_in else owner
