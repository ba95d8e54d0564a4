"""`manage.py discover`: a vendor's own instruments, listed, and added to the catalog where asked."""

from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.errors import unknown
from catalog.management.tables import add_format
from catalog.management.tables import show


class Command(BaseCommand):
    help = "List the instruments of a source's vendor; with --add they become assets, with --series of a series too."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help="name of the source")
        parser.add_argument("text", nargs="?", default="", help="part of the symbol or name")
        parser.add_argument("--asset-class", default="", help="only this one")
        parser.add_argument("--most", type=int, default=100, help="how many at most (default 100)")
        parser.add_argument("--add", action="store_true", help="add what is listed to the catalog")
        parser.add_argument("--series", default="", metavar="ID", help="with --add: to this series")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from catalog.models import DataSource
        from catalog.models import TimeSeries
        from flows.discovery import add
        from flows.discovery import listings
        from flows.plan import source_facts
        from flows.workshops import extractor_of

        if options["series"] and not options["add"]:
            raise CommandError("--series needs --add")
        if options["most"] < 1:
            raise CommandError(f"--most {options['most']} is too few; accepted: 1 and more")
        source = DataSource.objects.filter(name=options["source"]).first()
        if source is None:
            names = DataSource.objects.values_list("name", flat=True)
            raise CommandError(unknown("source", options["source"], names))
        series = TimeSeries.objects.filter(series_id=options["series"]).first()
        if options["series"] and series is None:
            have = TimeSeries.objects.filter(source=source).values_list("series_id", flat=True)[:20]
            raise CommandError(unknown("series", options["series"], have))
        try:
            found = listings(
                extractor_of(source_facts(source)), options["text"], options["asset_class"], options["most"]
            )
            rows = [
                {name: getattr(listing, name) for name in ("symbol", "asset_class", "name", "currency", "mic")}
                for listing in found
            ]
            show(self.stdout, rows, ("symbol", "asset_class", "name", "currency", "mic"), options["format"])
            if options["add"]:
                added = add(source, found, series)
                self.stderr.write(
                    f"added {added.assets} assets, {added.instruments} instruments"
                    + (f", {added.in_series} to series {options['series']}" if series else "")
                )
        except DataflowError as error:
            raise CommandError(str(error)) from error
