"""Who changed what, over all rows, deleted ones included."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from catalog.admin.base import ReadOnlyAdmin
from catalog.admin.base import labelled
from catalog.admin.filters import by_age


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnlyAdmin):
    """The change history of everything."""

    list_display = ("action_time", "user", "action", "kind", "changed_row", "message")
    list_select_related = ("user", "content_type")
    list_filter = (
        "action_flag",
        ("user", AutocompleteSelectFilter),
        "content_type",
        by_age("action_time", "changed within"),
    )
    search_fields = ("object_repr", "change_message")
    ordering = ("-id",)
    fields = (("action_time", "user"), ("action", "kind", "changed_row"), "message")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LogEntry]:
        found: QuerySet[LogEntry] = super().get_queryset(request).select_related("user", "content_type")
        return found

    @labelled("action", "action_flag", {"Addition": "success", "Change": "info", "Deletion": "danger"})
    def action(self, row: LogEntry) -> str:
        """Return addition, change or deletion."""
        return str(row.get_action_flag_display())

    @admin.display(description="of", ordering="content_type")
    def kind(self, row: LogEntry) -> str:
        """Return what kind of row was changed."""
        return str(row.content_type.name) if row.content_type else ""

    @admin.display(description="row")
    def changed_row(self, row: LogEntry) -> Any:
        """Return the row's name, with a link where it is still there to be seen."""
        url = row.get_admin_url() if not row.is_deletion() else None
        return format_html('<a class="text-link" href="{}">{}</a>', url, row.object_repr) if url else row.object_repr

    @admin.display(description="what changed")
    def message(self, row: LogEntry) -> str:
        """Return the old and new values."""
        return str(row.get_change_message())
