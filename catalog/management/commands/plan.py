"""`manage.py plan`: what `ingest` would do, without doing it."""

from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.arguments import add_selection
from catalog.management.arguments import read_selection
from catalog.management.tables import add_format
from catalog.management.tables import show
from catalog.models import TimeSeries
from catalog.models.series import NO_ROUTE
from catalog.models.series import without_route

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from flows.plan import Selection

_PAST: Final = (
    "source", "schema", "instruments", "start", "end", "destinations", "covered", "missing", "calls", "bytes", "cost",
    "waiting",
)  # fmt: skip
_LIVE: Final = ("source", "schema", "instruments", "start", "end", "destinations", "live", "unheard", "waiting")
#: symbols that are named
_NAMED: Final = 5


class Command(BaseCommand):
    help = (
        "Show the jobs of the active catalog and which of their requests are not covered yet; of live series what"
        " `stream` subscribes. Series without a route are named."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_selection(parser)
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.outlook import outlook
        from flows.outlook import outlook_live
        from flows.plan import plan

        try:
            selection = read_selection(options)
            past = [outlook(job) for job in plan(selection)]
            live = [outlook_live(job) for job in plan(replace(selection, extractor_type="realtime"))]
        except DataflowError as error:
            raise CommandError(str(error)) from error
        for row in live:
            symbols = row["subscribed"]
            more = f" and {len(symbols) - _NAMED:,} more" if len(symbols) > _NAMED else ""
            row["live"] = ", ".join(symbols[:_NAMED]) + more or "nothing: no instrument has a symbol now"
            row["unheard"] = "is fetched from history" if row["filled"] else "is a known gap: there is no history"
        for row in (*past, *live):
            row["destinations"] = row["destinations"] or "no route"
        if options["format"] == "json":
            show(self.stdout, [*past, *live], tuple(dict.fromkeys((*_PAST, *_LIVE))), "json")
        else:
            if past or not live:
                show(self.stdout, past, _PAST, "table")
            if past and live:
                self.stdout.write("")
            if live:
                show(self.stdout, live, _LIVE, "table")
        for name in without_route(_asked(selection)).order_by("series_id").values_list("series_id", flat=True):
            self.stderr.write(f"series {name!r} {NO_ROUTE}")


def _asked(selection: "Selection") -> "QuerySet[TimeSeries]":
    asked = TimeSeries.objects.filter(active=True, source__active=True)
    if selection.series:
        asked = asked.filter(series_id__in=selection.series)
    return asked.filter(source__name__in=selection.sources) if selection.sources else asked
