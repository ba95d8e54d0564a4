"""`manage.py sync_deployments`: make the Prefect deployments agree with the catalog."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import ConfigError


class Command(BaseCommand):
    help = "Make, update and remove Prefect deployments: one for each active group. Keeps what was paused in the UI."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--work-pool", default="dataflow", help="made as a process pool where missing")

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.deployments import sync

        try:
            synced = sync(options["work_pool"])
        except ConfigError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"at {synced.api}:")
        for name in synced.applied:
            self.stdout.write(name)
        for name in synced.removed:
            self.stdout.write(f"{name} removed: no active series")
