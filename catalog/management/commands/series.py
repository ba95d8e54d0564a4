"""`manage.py series`: what is there."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from typing import Final

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser
from django.db.models import QuerySet

from catalog.errors import DataflowError
from catalog.keys import InstrumentName
from catalog.keys import Key
from catalog.management.tables import add_format
from catalog.management.tables import show
from catalog.management.tables import text
from catalog.models import Gap
from catalog.models import TimeSeries
from catalog.models.series import without_route

#: known gaps that are named
_NAMED: Final = 20


class Command(BaseCommand):
    help = (
        "List what is stored: first and last time, rows, sessions of the asset's calendar without any row, and known"
        " gaps: what was not heard live and cannot be had. Series without a route are listed too."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="SERIES", help="series ids; none: all active ones")
        parser.add_argument("--gaps", action="store_true", help="name the sessions without a row, and known gaps")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.stored import inventory

        try:
            rows = [row.describe(name_gaps=options["gaps"]) for row in inventory(options["names"])]
        except DataflowError as error:
            raise CommandError(str(error)) from error
        gaps = _known_gaps(options["names"])
        for row in rows:
            windows = gaps.get(row["key"], ())
            row["known_gaps"] = ", ".join(map(_window, windows[:_NAMED])) if options["gaps"] else len(windows)
            if options["gaps"] and len(windows) > _NAMED:
                row["known_gaps"] += f" and {len(windows) - _NAMED:,} more"
        asked = TimeSeries.objects.filter(series_id__in=options["names"]) if options["names"] else _active()
        rows += [
            {"series": name, "destination": "no route"}
            for name in without_route(asked).order_by("series_id").values_list("series_id", flat=True)
        ]
        columns = ("series", "key", "destination", "first", "last", "rows", "gaps", "known_gaps")
        show(self.stdout, rows, columns, options["format"])


def _active() -> "QuerySet[TimeSeries]":
    return TimeSeries.objects.filter(active=True)


def _known_gaps(names: Sequence[str]) -> dict[str, list[tuple[datetime, datetime]]]:
    """Return by key what was not heard live and cannot be had."""
    found: dict[str, list[tuple[datetime, datetime]]] = {}
    known = Gap.objects.order_by("start")
    if names:
        known = known.filter(instrument__asset__series__series_id__in=names).distinct()
    facts = known.values_list(
        "instrument__source__name", "instrument__asset__asset_class", "instrument__asset__symbol", "schema", "start",
        "end",
    )  # fmt: skip
    for source, asset_class, symbol, schema, start, end in facts:
        key = str(Key(InstrumentName(source, asset_class, symbol), schema))
        found.setdefault(key, []).append((start, end))
    return found


def _window(bounds: tuple[datetime, datetime]) -> str:
    return " – ".join(text(moment.replace(microsecond=0)) for moment in bounds)
