"""`manage.py delete KEY --start --end`: the only way rows are deleted; asks, and is written to the ledger."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.arguments import add_window
from catalog.management.arguments import read_window


class Command(BaseCommand):
    help = "Delete the stored rows of one key in [start, end) from every readable destination. Asks first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", help="source:asset_class:symbol:schema")
        add_window(parser)
        parser.add_argument("--noinput", "--no-input", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.deletion import delete
        from flows.deletion import rows_in

        try:
            start, end = read_window(options)
            if start is None or end is None:
                raise CommandError("--start and --end are required: a deletion names what it deletes")
            found = rows_in(options["key"], start, end)
        except DataflowError as error:
            raise CommandError(str(error)) from error
        total = sum(found.values())
        listed = ", ".join(f"{count:,} in {destination}" for destination, count in found.items()) or "none"
        self.stdout.write(f"{options['key']} has these rows in [{start.isoformat()}, {end.isoformat()}): {listed}")
        if not total:
            return
        if not options["noinput"] and input(f"Delete {total:,} rows? Type 'yes': ") != "yes":
            raise CommandError("nothing was deleted")
        deleted = delete(options["key"], start, end)
        self.stdout.write(
            f"deleted {sum(deleted.values()):,} rows; `ingest` does not bring them back, `ingest --again` does"
        )
