"""Import with preview, and export: who may, in which formats, and nothing half."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import ClassVar
from typing import Final

from django import forms
from django.contrib import messages
from django.core import signing
from django.http import HttpRequest
from django.http import HttpResponse
from django.template.response import TemplateResponse
from import_export.admin import ImportExportMixin
from import_export.forms import ConfirmImportForm
from import_export.results import Result
from unfold.contrib.import_export.forms import ExportForm
from unfold.contrib.import_export.forms import ImportForm
from unfold.widgets import UnfoldBooleanSwitchWidget

from catalog.models import TimeSeries
from catalog.models.series import NO_ROUTE
from catalog.models.series import without_route
from catalog.resources.base import PlainError
from catalog.resources.files import CatalogCSV
from catalog.resources.files import CatalogYAML

#: series that a message names, and those that are looked at for it
_NAMED: Final = 5
_LOOKED_AT: Final = 5_000


def warn_of_no_route(request: HttpRequest, numbers: Sequence[Any]) -> None:
    """Tell the user which active series, of those with some ids, collect what then goes nowhere."""
    active = TimeSeries.objects.filter(active=True, pk__in=numbers[:_LOOKED_AT]).order_by("series_id")
    names = list(without_route(active).values_list("series_id", flat=True)[: _NAMED + 1])
    for name in names[:_NAMED]:
        messages.warning(request, f"Series {name!r} {NO_ROUTE}.")
    if len(names) > _NAMED:
        messages.warning(request, "And more: manage.py series names them all.")


class SignedConfirmForm(ConfirmImportForm):
    """The step after the preview. The name of the uploaded file is signed, or it could name any file in /tmp."""

    create_missing = forms.BooleanField(required=False, widget=forms.HiddenInput)
    owner: ClassVar[str] = ""

    def clean_import_file_name(self) -> str:
        try:
            return Path(signing.loads(self.cleaned_data["import_file_name"], salt=self.owner)).name
        except signing.BadSignature as error:
            raise forms.ValidationError(
                "This preview is not yours, or it was changed. Upload the file again."
            ) from error


class SeriesImportForm(ImportForm):
    """The upload of series, which may bring what they name."""

    create_missing = forms.BooleanField(
        label="Make what is missing",
        required=False,
        widget=UnfoldBooleanSwitchWidget(),
        help_text="Assets named with their class; sources and destinations named like a vendor or kind.",
    )


class ExchangeMixin(ImportExportMixin):
    """A ModelAdmin whose rows can be imported and exported."""

    formats = (CatalogCSV, CatalogYAML)
    export_form_class = ExportForm
    import_template_name = "catalog/import.html"
    export_template_name = "catalog/export.html"
    skip_admin_log = True  # the exchange writes the log, with old and new values

    def has_import_permission(self, request: HttpRequest) -> bool:
        """Who may add and change rows may import them."""
        return bool(self.has_add_permission(request) and self.has_change_permission(request))

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Who may see rows may export them."""
        return bool(self.has_view_permission(request))

    def get_import_form_class(self, request: HttpRequest) -> type[ImportForm]:
        return SeriesImportForm if self.model is TimeSeries else ImportForm

    def get_confirm_form_class(self, request: HttpRequest) -> type[SignedConfirmForm]:
        return type("ConfirmForm", (SignedConfirmForm,), {"owner": self._owner(request)})

    def get_confirm_form_initial(self, request: HttpRequest, import_form: Any) -> dict[str, Any]:
        initial: dict[str, Any] = super().get_confirm_form_initial(request, import_form)
        if import_form is not None:
            initial["import_file_name"] = signing.dumps(initial["import_file_name"], salt=self._owner(request))
            initial["create_missing"] = import_form.cleaned_data.get("create_missing", False)
        return initial

    def get_import_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.get("form")
        cleaned = getattr(form, "cleaned_data", None) or {}
        return {"create_missing": bool(cleaned.get("create_missing"))}

    def get_export_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        return {}

    def process_result(self, result: Result, request: HttpRequest) -> HttpResponse:
        """Go back to the list, or show why nothing was imported after all."""
        if not result.has_errors() and not result.has_validation_errors():
            done: HttpResponse = super().process_result(result, request)
            if self.model is TimeSeries:
                warn_of_no_route(request, [row.object_id for row in result.rows if row.object_id])
            return done
        result.append_base_error(PlainError("The catalog changed since the preview: nothing was imported."))
        context = {
            **self.admin_site.each_context(request),
            "title": "Import",
            "form": self.get_import_form_class(request)(
                self.get_import_formats(), self.get_import_resource_classes(request)
            ),
            "opts": self.opts,
            "media": self.media,
            "result": result,
            "import_error_display": self.import_error_display,
        }
        return TemplateResponse(request, [self.import_template_name], context)

    def _owner(self, request: HttpRequest) -> str:
        return f"{self.opts.label_lower} of user {request.user.pk}"
