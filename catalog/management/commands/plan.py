"""`manage.py plan`: what `ingest` would do, without doing it."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.arguments import add_selection
from catalog.management.arguments import read_selection
from catalog.management.tables import add_format
from catalog.management.tables import show


class Command(BaseCommand):
    help = "Show the jobs of the active catalog and which of their requests are not covered yet."

    def add_arguments(self, parser: CommandParser) -> None:
        add_selection(parser)
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.outlook import outlook
        from flows.plan import plan

        try:
            jobs = plan(read_selection(options))
            rows = [outlook(job) for job in jobs]
        except DataflowError as error:
            raise CommandError(str(error)) from error
        columns = (
            "source", "schema", "instruments", "start", "end", "destinations", "covered", "missing", "calls", "bytes",
            "cost", "waiting",
        )  # fmt: skip
        show(self.stdout, rows, columns, options["format"])
