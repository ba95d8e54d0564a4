"""`manage.py ingest`: plan, extract, refine and deliver in this process, without Prefect."""

from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.management.arguments import add_selection
from catalog.management.arguments import read_selection

if TYPE_CHECKING:
    from flows.plan import Selection


class Command(BaseCommand):
    help = "Collect what the active catalog asks for and does not have yet."

    def add_arguments(self, parser: CommandParser) -> None:
        add_selection(parser)
        parser.add_argument("--again", action="store_true", help="fetch what is already covered once more")
        parser.add_argument(
            "--allow-cost", action="store_true", help="run even if it costs more than is left of a source's budget"
        )
        parser.add_argument(
            "--limit", action="store_true", help="fetch a first page only and show its first rows; nothing is stored"
        )
        parser.add_argument(
            "--prefect",
            action="store_true",
            help="as flow runs: submitted to the deployments of PREFECT_API_URL, else on a temporary server here",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["limit"]:
            self._first_pages(options)
            return
        if options["prefect"]:
            self._as_flows(options)
            return
        from rich.console import Console

        from flows.ingest import ingest
        from flows.terminal import ProgressBars

        try:
            selection = self._selection(options)
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

    def _selection(self, options: dict[str, Any]) -> "Selection":
        selection = read_selection(options, again=options["again"])
        return replace(selection, allow_cost=options["allow_cost"])

    def _first_pages(self, options: dict[str, Any]) -> None:
        from catalog.management.tables import show
        from flows.plan import plan
        from flows.preview import first_rows
        from flows.workshops import extractor_of

        failed = []
        try:
            jobs = plan(self._selection(options))
        except ConfigError as error:
            raise CommandError(str(error)) from error
        for job in jobs:
            try:
                found = first_rows(job, extractor_of(job.source))
            except DataflowError as error:
                failed.append(f"{job.source.name} {job.schema}: {error}")
                continue
            self.stdout.write(f"{job.source.name} {job.schema}: {found.pages} pages, {found.bytes:,} bytes")
            for note in found.notes:
                self.stdout.write(f"  {note}")
            rows = [{"state": row.state, **row.refined, "reason": row.reason} for row in found.rows]
            show(self.stdout, rows, ("state", *found.refined_columns, "reason"), "table")
        if failed:
            raise CommandError("\n".join(failed))

    def _as_flows(self, options: dict[str, Any]) -> None:
        from flows.orchestrator import run_as_flows

        try:
            ended = run_as_flows(self._selection(options))
        except ConfigError as error:
            raise CommandError(str(error)) from error
        for source, state in ended.items():
            self.stdout.write(f"{source}: {state}")
        failed = [source for source, state in ended.items() if state in ("failed", "crashed", "cancelled")]
        if failed:
            raise CommandError(f"failed: {', '.join(failed)}")
