"""The one text of each value in files: moments, durations, options, transforms; and how they are read.

Readers raise ConfigError, naming the value and what is accepted. `print_x(read_x(text))` is canonical:
printing what was read from it gives the same text again.
"""

import json
import math
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import lru_cache
from typing import Any
from typing import Final

from django.utils.dateparse import parse_duration
from django.utils.duration import duration_iso_string

from catalog.errors import ConfigError
from transforms.chains import parse_chains
from transforms.chains import print_chains

_MOMENT: Final = "accepted: 2024-01-02 (00:00Z) or a time with its zone, 2024-01-02T09:30-05:00"
_DURATION: Final = "accepted: e.g. P2D, PT12H or 2 12:00:00 (days, hours:minutes:seconds)"
_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# SQLite stores a duration as a 64-bit number of microseconds
_MAX_MICROSECONDS: Final = 2**63 - 1
_SHOWN: Final = 80
# a page of names answers nobody who mistyped one
_LISTED: Final = 20


def shown(value: object) -> str:
    """Return the value for a message, cut to what a person reads."""
    text = repr(value[: _SHOWN + 2] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def unknown_name(thing: str, name: str, accepted: Iterable[str], advice: str = "") -> str:
    """Return the sentence for a name that no row has; a long list of those that exist is cut."""
    names = sorted(accepted)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{thing} {shown(name)} is unknown; have: {', '.join(names[:_LISTED]) or 'none'}{more}{advice}"


@lru_cache(maxsize=4096)
def read_moment(text: str) -> datetime:
    """Return an aware time in UTC; a date alone is its midnight, a time needs its zone."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            if len(text) > len("2024-01-02"):
                raise ConfigError(f"time {shown(text)} has no zone; {_MOMENT}")
            moment = moment.replace(tzinfo=UTC)
        # beyond the years 1 to 9999 the conversion overflows
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f"{shown(text)} is no ISO 8601 time; {_MOMENT}") from None


@lru_cache(maxsize=4096)
def print_moment(moment: datetime | None) -> str:
    """Return the time in UTC, e.g. 2024-01-02T14:30:00Z; nothing for none."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else ""


def read_duration(text: str) -> timedelta:
    """Return a length of time that every database can store."""
    try:
        duration = parse_duration(text)
    except (ValueError, OverflowError):
        duration = None
    if duration is None or abs(duration) // timedelta(microseconds=1) > _MAX_MICROSECONDS:
        raise ConfigError(f"{shown(text)} is no length of time; {_DURATION}")
    return duration


def print_duration(duration: timedelta) -> str:
    """Return a length of time as ISO 8601, e.g. P2DT00H00M00S."""
    return duration_iso_string(duration)


def read_flag(text: str) -> bool:
    """Return true or false."""
    if text.lower() not in _FLAGS:
        raise ConfigError(f"{shown(text)} is neither true nor false; accepted: true, false")
    return _FLAGS[text.lower()]


def read_options(text: str) -> dict[str, Any]:
    """Return a JSON object; what other readers would take differently is refused."""
    try:
        options = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f'options {shown(text)} are no JSON ({reason}); accepted: e.g. {{"name": "value"}}') from None
    if not isinstance(options, dict):
        raise ConfigError(f'options {shown(text)} are no JSON object; accepted: e.g. {{"name": "value"}}')
    check_options(options)
    return options


def check_options(value: Any) -> None:
    """Refuse what not every database can store: NUL, half characters, numbers that are not finite."""
    if isinstance(value, str):
        if fault := text_fault(value):
            raise ConfigError(f"options hold {shown(value)}, which {fault}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"options hold the number {value}; accepted: finite numbers")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            check_options(name)
            check_options(item)
    elif isinstance(value, list):
        for item in value:
            check_options(item)


def print_options(options: Mapping[str, Any]) -> str:
    """Return options as JSON with sorted names; nothing for none."""
    return json.dumps(options, sort_keys=True, ensure_ascii=False) if options else ""


def text_fault(text: str) -> str:
    """Return why no store can carry a text, or nothing."""
    if "\0" in text:
        return "holds a NUL character"
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        return "holds half of a character (a lone surrogate)"
    return ""


@lru_cache(maxsize=4096)
def print_transforms(text: str, schema: str) -> str:
    """Return the canonical text of a series' transforms; what cannot be parsed stays as it is."""
    try:
        return print_chains(parse_chains(text, schema)) if text else ""
    except ConfigError:
        return text


def transforms_faults(text: str) -> Sequence[str]:
    """Return what is wrong with the transforms of any series of bars."""
    try:
        parse_chains(text, "ohlcv-1d")
    except ConfigError as error:
        return error.faults
    return ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"given twice: {', '.join(map(shown, twice))}")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
