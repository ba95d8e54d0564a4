"""`manage.py refine --from-landing`: parse landed pages again, after a fix, without asking the vendor."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.arguments import add_selection
from catalog.management.arguments import read_selection


class Command(BaseCommand):
    help = "Refine and deliver again what has landed; rows that come out the same are not written."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from-landing", action="store_true", required=True, help="the only place to refine from")
        parser.add_argument("--fetch", type=int, action="append", default=[], help="only this fetch (repeatable)")
        add_selection(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.ingest import replay

        try:
            outcomes = replay(read_selection(options), options["fetch"])
        except DataflowError as error:
            raise CommandError(str(error)) from error
        for source, outcome in outcomes.items():
            for destination, tally in sorted(outcome.tallies.items()):
                self.stdout.write(
                    f"{source} → {destination}: {tally.parsed} rows, {tally.new} new, {tally.updated} updated,"
                    f" {tally.quarantined} quarantined"
                )
        errors = [f"{source}: {error}" for source, outcome in outcomes.items() for error in outcome.errors]
        if errors:
            raise CommandError("\n".join(errors))
