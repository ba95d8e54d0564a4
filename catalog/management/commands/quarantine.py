"""`manage.py quarantine`: the refused rows and pages, with rule and reason."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandParser
from django.db.models import Count

from catalog.management.tables import add_format
from catalog.management.tables import show
from catalog.models import Quarantined


class Command(BaseCommand):
    help = "List refused rows, newest first; --summary counts them by source and rule."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--source", help="only this source")
        parser.add_argument("--fetch", type=int, help="only this fetch")
        parser.add_argument("--limit", type=int, default=50, help="rows to list (default: %(default)s)")
        parser.add_argument("--summary", action="store_true", help="count by source, schema and rule")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        rows = Quarantined.objects.order_by("-id")
        if options["source"]:
            rows = rows.filter(fetch__source__name=options["source"])
        if options["fetch"]:
            rows = rows.filter(fetch=options["fetch"])
        if options["summary"]:
            counted = rows.order_by().values("fetch__source__name", "fetch__schema", "rule").annotate(rows=Count("id"))
            found = [
                {
                    "source": row["fetch__source__name"],
                    "schema": row["fetch__schema"],
                    "rule": row["rule"],
                    "rows": row["rows"],
                }
                for row in counted.order_by("-rows")
            ]
            show(self.stdout, found, ("source", "schema", "rule", "rows"), options["format"])
            return
        listed = [
            {
                "source": row.fetch.source.name,
                "schema": row.fetch.schema,
                "fetch": row.fetch_id,
                "page": row.part,
                "row": row.row if row.row >= 0 else "whole page",
                "reason": row.reason,
                "raw": row.raw,
            }
            for row in rows.select_related("fetch__source")[: options["limit"]]
        ]
        columns = ("source", "schema", "fetch", "page", "row", "reason", "raw")
        show(self.stdout, listed, columns, options["format"])
