"""A window of bars ends where the first bar that is not finished begins."""

from datetime import UTC
from datetime import datetime
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schemas import TIMEFRAMES
from catalog.schemas import bar_open
from catalog.schemas import bars_end
from catalog.schemas.rules import GRIDS

MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds
FIXED = [name for name, seconds in TIMEFRAMES.items() if seconds]


@pytest.mark.parametrize("timeframe", FIXED)
@given(now=MOMENTS)
def test_what_opens_before_the_end_is_finished_and_nothing_else(timeframe: str, now: datetime) -> None:
    length = timedelta(seconds=TIMEFRAMES[timeframe] or 0)
    grid = timedelta(seconds=GRIDS.get(timeframe) or TIMEFRAMES[timeframe] or 0)
    end = bars_end(now, timeframe)
    assert end - grid + length <= now < end + length


@given(now=MOMENTS)
def test_weeks_and_months_are_calendar_periods(now: datetime) -> None:
    week, month = bars_end(now, "1w"), bars_end(now, "1mo")
    assert week.weekday() == 0
    assert week <= now < week + timedelta(days=7)
    assert (month.day, month.month, month.year) == (1, now.month, now.year)
    assert bar_open(week, "1w") == week
