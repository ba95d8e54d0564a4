"""Arguments that several commands share."""

from datetime import UTC
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any

from django.core.management.base import CommandParser

from catalog.errors import ConfigError

if TYPE_CHECKING:
    from flows.plan import Selection


def add_window(parser: CommandParser) -> None:
    """Add `--start` and `--end`."""
    parser.add_argument("--start", help="inclusive; ISO 8601 with its zone, or a date (00:00Z)")
    parser.add_argument("--end", help="exclusive; ISO 8601 with its zone, or a date (00:00Z)")


def add_selection(parser: CommandParser) -> None:
    """Add `--series`, `--source`, `--start` and `--end`."""
    parser.add_argument("--series", action="append", default=[], metavar="ID", help="only this series (repeatable)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="only this source (repeatable)")
    add_window(parser)


def read_selection(options: dict[str, Any], *, again: bool = False) -> "Selection":
    """Return the selection the arguments name; ConfigError lists every fault."""
    from flows.plan import Selection

    start, end = read_window(options)
    return Selection(tuple(options["series"]), tuple(options["source"]), start, end, again)


def read_window(options: dict[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Return `--start` and `--end` as aware times; ConfigError lists every fault."""
    moments: list[datetime | None] = []
    faults: list[str] = []
    for name in ("start", "end"):
        text = options.get(name)
        try:
            moments.append(parse_moment(text, f"--{name}") if text else None)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return moments[0], moments[1]


def parse_moment(text: str, owner: str) -> datetime:
    """Return an aware time; a date alone is its midnight in UTC, a time needs its zone."""
    accepted = "accepted: 2024-01-02 or 2024-01-02T09:30-05:00"
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None and len(text) > 10:
            raise ConfigError(f"{owner} {text!r} has no zone; {accepted}")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        # the year 1 in a zone ahead of UTC lies before the calendar
        raise ConfigError(f"{owner} {text!r} is no ISO 8601 time; {accepted}") from None
