"""A file's times as aware UTC: epoch numbers, ISO 8601 or a format of its own, in a zone, labelled by open or close.

Nothing is guessed. A time that does not exist or exists twice in its zone (a change of the clock), that cannot be
parsed, or whose number is of another unit, is a fault of its row.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from datetime import date
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import NANOSECONDS
from catalog.schemas import TIMEFRAMES

UNITS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
# seconds taken for milliseconds (or ms for µs…) fall into January 1970 to February 1973
EARLIEST_EPOCH: Final = date(1973, 3, 3)
_ZONED: Final = r"([Zz]|[+-]\d\d:?(\d\d)?)$"
_LIMIT: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Clock:
    """How a file writes its times."""

    unit: str = ""
    form: str = ""
    zone: str = "UTC"
    label: str = "open"
    earliest: date | None = None
    timeframe: str = ""


@dataclass(frozen=True, slots=True)
class Times:
    """Aware times in ns, null where a fault is; `faults` maps a rule to the rows that break it."""

    values: pa.Array
    faults: dict[str, np.ndarray]


def read_times(raw: pa.Array, clock: Clock) -> Times:
    """Return the times of a column of text, numbers or timestamps."""
    faults: dict[str, np.ndarray] = {}
    if pa.types.is_timestamp(raw.type) or pa.types.is_date(raw.type):
        aware = _aware(raw, clock, faults) if getattr(raw.type, "tz", None) is None else _nanoseconds(raw, faults)
    elif clock.unit:
        aware = _from_numbers(raw, clock, faults)
    elif pa.types.is_string(raw.type) or pa.types.is_large_string(raw.type):
        aware = _from_text(raw.cast(pa.string()), clock, faults)
    elif pa.types.is_null(raw.type):
        aware = pa.nulls(len(raw), NANOSECONDS)
    else:
        faults["time has a unit (option time_unit)"] = _mask(pc.is_valid(raw))
        aware = pa.nulls(len(raw), NANOSECONDS)
    return Times(_labelled(aware, clock), faults)


def _from_numbers(raw: pa.Array, clock: Clock, faults: dict[str, np.ndarray]) -> pa.Array:
    scale = UNITS[clock.unit]
    try:
        whole = pc.cast(raw, pa.int64())
    except pa.ArrowInvalid:
        whole = pa.array([_whole(value, scale) for value in raw.to_pylist()], pa.int64())
        faults[f"time is a number of {clock.unit}"] = _mask(pc.and_(pc.is_valid(raw), pc.is_null(whole)))
        scale = 1
    limit = _LIMIT // scale
    inside = pc.and_(pc.less_equal(whole, limit), pc.greater_equal(whole, -limit))
    first = datetime.combine(clock.earliest or EARLIEST_EPOCH, datetime.min.time(), UTC)
    bound = int(first.timestamp()) * 1_000_000_000 // scale
    plausible = pc.and_(inside, pc.greater_equal(whole, bound))
    bad = pc.and_(pc.is_valid(whole), pc.invert(pc.fill_null(plausible, True)))
    _note(faults, f"time in {clock.unit} lies between {first.date()} and 2262", bad)
    kept = pc.if_else(pc.fill_null(plausible, False), whole, pa.scalar(None, pa.int64()))
    return pc.cast(pc.multiply(kept, scale), NANOSECONDS)


def _whole(value: object, scale: int) -> int | None:
    """Return nanoseconds of a number that is no whole number of its unit (1700000000.25 s)."""
    from decimal import Decimal
    from decimal import InvalidOperation

    if value is None:
        return None
    try:
        nanoseconds = Decimal(str(value)) * scale
    except InvalidOperation:
        return None
    if not nanoseconds.is_finite() or abs(nanoseconds) > _LIMIT or nanoseconds != nanoseconds.to_integral_value():
        return None
    return int(nanoseconds)


def _from_text(raw: pa.Array, clock: Clock, faults: dict[str, np.ndarray]) -> pa.Array:
    if clock.form:
        naive = pc.strptime(raw, format=clock.form, unit="us", error_is_null=True)
        _note(faults, f"time has the form {clock.form}", pc.and_(pc.is_valid(raw), pc.is_null(naive)))
        if getattr(naive.type, "tz", None):
            return _nanoseconds(naive, faults)
        return _aware(naive, clock, faults)
    for unit in ("ns", "us"):
        # nearly always every time has a zone, or none has
        with suppress(pa.ArrowInvalid):
            return _nanoseconds(pc.cast(raw, pa.timestamp(unit, "UTC")), faults)
        with suppress(pa.ArrowInvalid):
            return _aware(pc.cast(raw, pa.timestamp(unit)), clock, faults)
    zoned = pc.fill_null(pc.match_substring_regex(raw, _ZONED), False)
    # a date alone ends like a zone (2024-01-02): it is the length that tells
    zoned = pc.and_(zoned, pc.fill_null(pc.greater(pc.utf8_length(raw), 10), False))
    nothing = pa.scalar(None, pa.string())
    with_zone = _nanoseconds(_iso(pc.if_else(zoned, raw, nothing), "UTC", faults), faults)
    without = _aware(_iso(pc.if_else(zoned, nothing, raw), None, faults), clock, faults)
    return pc.coalesce(with_zone, without)


def _iso(raw: pa.Array, zone: str | None, faults: dict[str, np.ndarray]) -> pa.Array:
    values = []
    for text in raw.to_pylist():
        try:
            moment = None if text is None else datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is not None and zone:
            moment = moment.astimezone(UTC) if moment.tzinfo else None
        values.append(moment)
    times = pa.array(values, pa.timestamp("us", zone))
    _note(faults, "time is ISO 8601", pc.and_(pc.is_valid(raw), pc.is_null(times)))
    return times


def _aware(naive: pa.Array, clock: Clock, faults: dict[str, np.ndarray]) -> pa.Array:
    """Give naive times their zone; those that exist twice or not at all there are faults."""
    if pa.types.is_date(naive.type):
        naive = pc.cast(naive, pa.timestamp("us"))
    if clock.zone == "UTC" or _names_a_date(clock):
        if _names_a_date(clock):
            # a session's date has no clock that could change
            naive = pc.floor_temporal(naive, unit="day")
        return _nanoseconds(pc.cast(naive, pa.timestamp(naive.type.unit, "UTC")), faults)
    first = pc.assume_timezone(naive, clock.zone, ambiguous="earliest", nonexistent="earliest")
    last = pc.assume_timezone(naive, clock.zone, ambiguous="latest", nonexistent="latest")
    doubtful = pc.fill_null(pc.not_equal(first, last), False)
    _note(faults, f"time exists exactly once in {clock.zone}", doubtful)
    certain = pc.if_else(doubtful, pa.scalar(None, first.type), first)
    return _nanoseconds(certain, faults)


def _nanoseconds(aware: pa.Array, faults: dict[str, np.ndarray]) -> pa.Array:
    utc = pc.cast(aware, pa.timestamp(aware.type.unit, "UTC"))
    try:
        return pc.cast(utc, NANOSECONDS)
    except pa.ArrowInvalid:
        per_unit = UNITS[aware.type.unit]
        whole = pc.cast(utc, pa.int64())
        inside = pc.and_(pc.less(whole, _LIMIT // per_unit), pc.greater(whole, -(_LIMIT // per_unit)))
        _note(
            faults, "time lies between 1677 and 2262", pc.and_(pc.is_valid(utc), pc.invert(pc.fill_null(inside, True)))
        )
        return pc.cast(pc.if_else(inside, utc, pa.scalar(None, utc.type)), NANOSECONDS)


def _names_a_date(clock: Clock) -> bool:
    return clock.timeframe in ("1d", "1w", "1mo")


def _labelled(aware: pa.Array, clock: Clock) -> pa.Array:
    """Move the stamp to the label our bars carry: the open instant; 1d and coarser the date at 00:00Z."""
    if _names_a_date(clock):
        # a stamp at 00:00Z is the date itself; any other is an instant of the session, whose date the zone tells
        local = pc.local_timestamp(pc.cast(aware, pa.timestamp("ns", clock.zone)))
        dates = pc.local_timestamp(aware)
        is_date = pc.equal(dates, pc.floor_temporal(dates, unit="day"))
        local = pc.if_else(is_date, dates, local)
        unit = {"1d": "day", "1w": "week", "1mo": "month"}[clock.timeframe]
        floor = pc.floor_temporal(local, unit=unit, week_starts_monday=True)
        return pc.assume_timezone(floor, "UTC")
    length = TIMEFRAMES.get(clock.timeframe)
    if clock.label == "close" and length:
        return pc.cast(pc.subtract(pc.cast(aware, pa.int64()), length * 1_000_000_000), NANOSECONDS)
    return aware


def _note(faults: dict[str, np.ndarray], rule: str, bad: pa.Array) -> None:
    mask = _mask(bad)
    if mask.any():
        faults[rule] = faults[rule] | mask if rule in faults else mask


def _mask(bad: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
