"""`manage.py import_timeseries_csv`: series from a CSV, all of them or none."""

from django.core.management.base import CommandParser

from catalog.exchange import Document
from catalog.exchange import read_series_csv
from catalog.exchange.command import ImportCommand


class Command(ImportCommand):
    help = (
        "Import series from a CSV: all of it, or nothing and a report of every fault with its line. Columns: "
        "series_id, data_source, extractor_type, schema, assets, output_destinations, and optionally transforms, "
        "schedule, timezone, start, end, options, active. assets are asset_class:symbol, destinations names, both "
        "separated by ';'; the first destination that can be read back is home, or the one with a '*' after its name "
        "('*' alone: none). A column that is left out keeps what a series has; an empty cell is the default. Series "
        "that are not in the file stay as they are, and so do conditions and batch sizes of routes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--create-missing",
            action="store_true",
            help="make the assets that are missing (named asset_class:symbol), and sources and destinations "
            "that have the name of a vendor or destination kind",
        )

    def read(self, content: bytes) -> Document:
        return read_series_csv(content)
