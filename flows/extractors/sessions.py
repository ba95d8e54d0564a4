"""Days that belong to a session: when one is over, and which whole bars a window asks for.

A vendor's day of US stocks runs from midnight to midnight in New York, so at 00:00Z of the next day it is not over,
while a window of days may already end there. Shared by the vendors of US markets.
"""

from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

from catalog.schemas import bar_open
from catalog.schemas import bars_end
from catalog.schemas import schema as schema_called
from flows.job import Job

NEW_YORK: Final = "America/New_York"
#: timeframes whose bars are named by a date
DATED: Final = ("1d", "1w", "1mo")
_TICK: Final = timedelta(microseconds=1)


def settled(job: Job, delay: timedelta, zone: str, now: datetime | None = None) -> Job:
    """Return the job without its last `delay` before now, and without bars and session days that are not over then.

    What is announced ahead (dividends) has no such end. Ends that lie earlier stay as they are.
    """
    schema = schema_called(job.schema)
    if schema.announced:
        return job
    latest = (now or datetime.now(UTC)) - delay
    if schema.timeframe in DATED:
        # the day that has begun where the session is
        latest = latest.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
    if schema.timeframe:
        latest = bars_end(latest, schema.timeframe)
    some = (replace(one, end=min(one.end, latest)) for one in job.instruments)
    return replace(job, instruments=tuple(some))


def last_moment(end: datetime, timeframe: str) -> datetime:
    """Return the last microsecond of the bar that opens last before `end`.

    A vendor stamps a day with an instant inside it, and when asked for a part of a week or month may answer with a bar
    of that part. For timeframes shorter than a day, and for what is no bar, it is the microsecond before `end`.
    """
    last = end - _TICK
    longest = {"1d": 1, "1w": 7, "1mo": 31}.get(timeframe)
    if longest is None:
        return last
    return bar_open(bar_open(last, timeframe) + timedelta(days=longest), timeframe) - _TICK
