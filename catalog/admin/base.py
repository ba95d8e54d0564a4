"""What all pages of the admin share: lists that ask few questions, times with their zone, read-only ledgers."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import flatten
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import DateTimeField
from django.db.models import Field
from django.db.models import Model
from django.db.models import TextField
from django.forms import Field as FormField
from django.http import HttpRequest
from django.http import HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.admin import TabularInline
from unfold.decorators import display
from unfold.views import ChangeList as UnfoldChangeList
from unfold.widgets import UnfoldAdminExpandableTextareaWidget

from catalog.admin.history import HistoryMixin
from catalog.admin.operations import Operation
from catalog.forms.base import CatalogForm


class FurnishedChangeList(UnfoldChangeList):
    """A list whose rows get what they show of other tables all at once, after the page is cut."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        # the list and its editable forms share this query's cache, so the rows are these objects
        self.model_admin.furnish(list(self.result_list))


class BaseAdmin(ModelAdmin):
    """A list page that stays fast with 100,000 rows."""

    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    list_per_page = 50
    list_filter_submit = True
    list_fullwidth = True
    #: whether people change these rows, so that a history of it is worth a button
    keeps_history = True
    compressed_fields = True
    empty_value_display = "–"
    formfield_overrides = {TextField: {"widget": UnfoldAdminExpandableTextareaWidget}}
    #: buttons on the page of a row; each is a POST to a page of its own
    operations: ClassVar[tuple[type[Operation], ...]] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return FurnishedChangeList

    def furnish(self, rows: Sequence[Any]) -> None:
        """Give the rows of one page what their columns show of other tables; a fixed number of queries."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> FormField | None:
        made: FormField | None = super().formfield_for_dbfield(db_field, request, **kwargs)
        return explained(db_field, made)

    def get_urls(self) -> list[Any]:
        made = [operation(self).path() for operation in self.operations]
        urls: list[Any] = super().get_urls()
        return made + urls

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        shown = [operation(self) for operation in self.operations]
        context = {
            **(extra_context or {}),
            "operations": [operation.button(object_id) for operation in shown if operation.allowed(request)],
        }
        made: HttpResponse = super().change_view(request, object_id, form_url, context)
        return made


class CatalogAdmin(HistoryMixin, BaseAdmin):
    """A page of the catalog: people edit it, and the log says what they did."""

    form = CatalogForm
    object_history_template = "catalog/history.html"

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **{"form": CatalogForm, **kwargs})

    def get_queryset(self, request: HttpRequest) -> Any:
        queryset = super().get_queryset(request)
        related = self.list_select_related
        return queryset.select_related(*related) if isinstance(related, tuple | list) and related else queryset


class CatalogInline(TabularInline):
    """Rows of another table on the page of the row they belong to."""

    extra = 0
    form = CatalogForm
    show_change_link = True

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> FormField | None:
        made: FormField | None = super().formfield_for_dbfield(db_field, request, **kwargs)
        return explained(db_field, made)


class ReadOnlyMixin:
    """Rows that only flows write: nobody adds, changes or deletes them here, superusers included."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnlyMixin, BaseAdmin):
    """A page of the ledger."""

    actions = None
    keeps_history = False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Sequence[str]:
        return flatten(self.fields or [])

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        made: HttpResponse = super().changelist_view(request, extra_context)
        return made


class ReadOnlyInline(ReadOnlyMixin, TabularInline):
    """Rows of the ledger on the page of the row they belong to."""

    extra = 0
    max_num = 0
    can_delete = False
    per_page = 20
    show_change_link = True

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Sequence[str]:
        return flatten(self.fields or [])


def explained(db_field: "Field[Any, Any]", made: FormField | None) -> FormField | None:
    """Say that a time is entered in UTC, and keep a `<prefix>` in a help text from being taken for HTML."""
    if made is not None:
        zone = "UTC. " if isinstance(db_field, DateTimeField) else ""
        made.help_text = format_html("{}{}", zone, made.help_text)
    return made


def labelled(
    description: str, ordering: str | None, colours: Mapping[str, str]
) -> Callable[[Callable[[Any, Any], str]], Callable[[Any, Any], str]]:
    """Return a decorator for a column whose values are shown as labels, coloured by value."""

    def decorate(column: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
        made: Callable[[Any, Any], str] = display(column, description=description, ordering=ordering, label=colours)
        return made

    return decorate


def linked(model: str, text: str, **filters: Any) -> SafeString:
    """Return a link to the list of a model's rows that meet the filters."""
    url = reverse(f"admin:catalog_{model}_changelist", query=filters)
    return format_html('<a class="text-link" href="{}">{}</a>', url, text)
