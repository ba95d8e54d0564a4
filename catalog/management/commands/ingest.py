"""`manage.py ingest`: plan, extract, refine and deliver in this process, without Prefect."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import ConfigError
from catalog.management.arguments import add_selection
from catalog.management.arguments import read_selection


class Command(BaseCommand):
    help = "Collect what the active catalog asks for and does not have yet."

    def add_arguments(self, parser: CommandParser) -> None:
        add_selection(parser)
        parser.add_argument("--again", action="store_true", help="fetch what is already covered once more")
        parser.add_argument(
            "--prefect",
            action="store_true",
            help="as flow runs: submitted to the deployments of PREFECT_API_URL, else on a temporary server here",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["prefect"]:
            self._as_flows(options)
            return
        from rich.console import Console

        from flows.ingest import ingest
        from flows.terminal import ProgressBars

        try:
            selection = read_selection(options, again=options["again"])
            with ProgressBars(Console(stderr=True), enabled=options["verbosity"] > 0) as bars:
                outcomes = ingest(selection, bars.progress)
        except ConfigError as error:
            raise CommandError(str(error)) from error
        for source, outcome in outcomes.items():
            self.stdout.write(f"{source}: {outcome.fetches} fetched, {outcome.skipped} already covered")
            for destination, tally in sorted(outcome.tallies.items()):
                self.stdout.write(
                    f"  → {destination}: {tally.parsed} rows = {tally.new} new + {tally.updated} updated"
                    f" + {tally.unchanged} unchanged + {tally.duplicate} duplicate + {tally.superseded} superseded"
                    f" + {tally.filtered} filtered + {tally.quarantined} quarantined"
                )
        if not outcomes:
            self.stdout.write("nothing is active in this selection")
        errors = [f"{source}: {error}" for source, outcome in outcomes.items() for error in outcome.errors]
        if errors:
            raise CommandError("\n".join(errors))

    def _as_flows(self, options: dict[str, Any]) -> None:
        from flows.orchestrator import run_as_flows

        try:
            ended = run_as_flows(read_selection(options, again=options["again"]))
        except ConfigError as error:
            raise CommandError(str(error)) from error
        for source, state in ended.items():
            self.stdout.write(f"{source}: {state}")
        failed = [source for source, state in ended.items() if state in ("failed", "crashed", "cancelled")]
        if failed:
            raise CommandError(f"failed: {', '.join(failed)}")
