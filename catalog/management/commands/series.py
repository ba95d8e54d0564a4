"""`manage.py series`: what is there."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.tables import add_format
from catalog.management.tables import show


class Command(BaseCommand):
    help = "List what is stored: first and last time, rows, and sessions without any row."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="SERIES", help="series ids; none: all active ones")
        parser.add_argument("--gaps", action="store_true", help="name the sessions without a row")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.stored import inventory

        try:
            rows = [row.describe(name_gaps=options["gaps"]) for row in inventory(options["names"])]
        except DataflowError as error:
            raise CommandError(str(error)) from error
        columns = ("series", "key", "destination", "first", "last", "rows", "gaps")
        show(self.stdout, rows, columns, options["format"])
