"""What is live, as pages show it: who is connected, how much comes, what was refused. Read from the ledger only."""

from datetime import datetime
from typing import Any
from typing import Final

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from catalog.admin.base import linked
from catalog.models import Run
from catalog.models import TimeSeries
from flows.alive import Alive
from flows.alive import Summary
from flows.alive import alive

_RED: Final = "text-red-700 dark:text-red-400"
_GREEN: Final = "text-green-700 dark:text-green-400"
_AMBER: Final = "text-orange-700 dark:text-orange-400"
_COLOURS: Final = {
    "failed": _RED, "not running": _RED, "reconnecting": _RED, "not reporting": _RED, "connecting": _AMBER,
    "starting": _AMBER, "completed": _GREEN, "connected": _GREEN,
}  # fmt: skip
#: characters of an error in a table
_SHORT: Final = 200


def coloured(state: str) -> SafeString:
    """Return a state in its colour."""
    return format_html('<span class="{}">{}</span>', _COLOURS.get(state, ""), state)


def overview() -> dict[str, Any] | None:
    """Return the sources that should be streamed, and how that goes; None where there are none."""
    # what was switched off and never heard is of no interest
    rows = [_row(one) for one in alive() if one.series or one.heard]
    headers = [
        "Source", "State", "Messages a second", "Lag", "Reconnects", "Refused", "Covered until", "Series", "Known gaps",
    ]  # fmt: skip
    return {"headers": headers, "rows": rows} if rows else None


def of_source(source: int) -> dict[str, Any] | None:
    """Return how a source is streamed; None where it has no realtime series."""
    found = alive([source])
    return _panel(found[0]) if found else None


def of_series(number: str) -> dict[str, Any] | None:
    """Return how a realtime series is streamed: its source's connection, and what came of the series."""
    realtime = TimeSeries.objects.filter(extractor_type="realtime")
    series = realtime.filter(pk=number).first() if number.isdecimal() else None
    if series is None:
        return None
    panel = of_source(series.source_id)
    if panel is not None:
        panel["series"] = [row for row in panel["series"] if row["name"] == series.series_id]
        mine = [one for one in panel["refused"] if series.series_id in one["series"].split(", ")]
        panel["refused"], panel["more_refused"] = mine, 0
        if not series.active:
            panel["state"] = coloured("switched off")
    return panel


def of_run(run: Run) -> SafeString | str:
    """Return what a live run wrote of itself."""
    found = Summary.read(run.live)
    if found is None:
        return "nothing yet" if run.kind == "realtime" and run.status == Run.Status.RUNNING else ""
    state = found.state if run.status == Run.Status.RUNNING else "ended"
    return render_to_string("catalog/live.html", _facts(found, state))


def _panel(one: Alive) -> dict[str, Any]:
    found = one.summary
    if found is None:
        return {
            "state": coloured(one.state), "error": one.error, "covered": _covered(one), "series": [], "refused": [],
        }  # fmt: skip
    return {**_facts(found, one.state), "covered": _covered(one)}


def _facts(found: Summary, state: str) -> dict[str, Any]:
    return {
        "state": coloured(state),
        "summary": found,
        "error": found.error,
        "lag": seconds(found.lag),
        "series": [
            {"name": name, **values, "newest": _instant(values.get("newest"))}
            for name, values in sorted(found.series.items())
        ],
        "refused": list(found.refused),
        "more_refused": found.refusals - len(found.refused),
    }


def _row(one: Alive) -> list[Any]:
    found = one.summary
    state = coloured(one.state)
    notes = []
    if found is not None and found.stale:
        notes.append(f"last heard of at {date_format(found.at, 'DATETIME_FORMAT')}; what follows is of then")
    elif found is not None and found.since:
        notes.append(f"since {date_format(found.since, 'DATETIME_FORMAT')}")
    if one.error:
        notes.append(one.error.split("\n")[0][:_SHORT])
    if notes:
        state = format_html('{}<div class="live-note">{}</div>', state, "; ".join(notes))
    return [
        linked("timeseries", one.source, source__id__exact=one.id, extractor_type__exact="realtime"),
        state,
        f"{found.per_second:,.1f}" if found else "–",
        seconds(found.lag) if found else "–",
        f"{found.reconnects:,}" if found else "–",
        _refusals(found) if found else "–",
        _covered(one),
        f"{one.series:,}",
        linked("gap", f"{one.gaps:,}", instrument__source__id__exact=one.id),
    ]


def _refusals(found: Summary) -> SafeString | str:
    if not found.refused:
        return "0"
    first = found.refused[0]
    more = f" and {found.refusals - 1:,} more" if found.refusals > 1 else ""
    return format_html(
        '<span class="{}">{}</span><div class="live-note">{}</div>',
        _RED,
        f"{found.refusals:,}",
        f"{first['schema']} of {first['symbol']}: {first['reason'][:_SHORT]}{more}",
    )


def _covered(one: Alive) -> str:
    """Return until when everything that happened was heard, which is a little behind what has come already."""
    if one.heard is None:
        return "never heard"
    return f"{date_format(one.heard, 'DATETIME_FORMAT')} ({ago((timezone.now() - one.heard).total_seconds())} ago)"


def _instant(text: str | None) -> str:
    return date_format(datetime.fromisoformat(text), "DATETIME_FORMAT") if text else "nothing yet"


def seconds(lag: float | None) -> str:
    """Return from a vendor's time of an event until we had it."""
    if lag is None:
        return "–"
    return f"{lag:,.3f}\N{NO-BREAK SPACE}s" if abs(lag) < 10 else f"{lag:,.0f}\N{NO-BREAK SPACE}s"


def ago(past: float) -> str:
    """Return a time span in words."""
    if past < 120:
        return f"{max(past, 0):.0f} s"
    return f"{past / 60:,.0f} min" if past < 7200 else f"{past / 3600:,.0f} h"
