"""`manage.py prune`: delete landed pages that their source no longer keeps."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandParser


class Command(BaseCommand):
    help = "Delete landed pages older than their source keeps them and delivered to every required route."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.pruning import prune

        count = size = 0
        for pruned in prune(dry_run=options["dry_run"]):
            count += 1
            size += pruned.bytes
            if options["verbosity"] > 1:
                self.stdout.write(f"fetch {pruned.fetch} of {pruned.source}: {pruned.bytes:,} bytes")
        would = "would delete" if options["dry_run"] else "deleted"
        self.stdout.write(f"{would} the pages of {count:,} fetches, {size:,} bytes")
