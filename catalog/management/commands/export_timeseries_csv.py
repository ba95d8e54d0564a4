"""`manage.py export_timeseries_csv`: series as canonical CSV."""

from typing import Any

from django.core.management.base import CommandParser

from catalog.exchange import write_series_csv
from catalog.exchange.command import ExportCommand


class Command(ExportCommand):
    help = (
        "Export series as CSV, sorted, as import_timeseries_csv reads them: export, import and export again gives the "
        "same bytes. Symbols may begin with '=', '+', '-' or '@'; no quote is put in front of them, so tell a "
        "spreadsheet to read the cells as text."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--source", action="append", default=[], metavar="NAME", help="only this (repeatable)")

    def text(self, options: dict[str, Any]) -> str:
        return write_series_csv(options["source"])
