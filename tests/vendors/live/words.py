"""Rows in our words, as stand-ins are told them: times, exact numbers, and what has happened so far."""

from dataclasses import dataclass
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import Final

import pandas as pd

from tests.vendors import market
from tests.vendors.server import Row

#: final; provisional: a bar that is still open; revised: a final bar once more, as it became
KINDS: Final = ("final", "provisional", "revised")
_UNITS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Happening:
    """A record of the market: as the test told it, and the row that the vendor's words for it mean."""

    schema: str
    symbol: str
    record: Row
    row: Row
    kind: str = "final"


def nanoseconds(moment: datetime | int) -> int:
    """Return nanoseconds since 1970 of an aware time, or of a number that is that already."""
    if isinstance(moment, int):
        return moment
    if isinstance(moment, pd.Timestamp):
        return moment.value
    return (moment - market.EPOCH) // timedelta(microseconds=1) * 1000


def stamp(number: int) -> datetime:
    """Return nanoseconds since 1970 as a time that keeps them."""
    return pd.Timestamp(number, unit="ns", tz="UTC")


def ticks(moment: datetime | int, unit: str) -> int:
    """Return a time as a whole number of a unit; ValueError where it is none: stand-ins round nothing."""
    number, rest = divmod(nanoseconds(moment), _UNITS[unit])
    if rest:
        raise ValueError(f"{moment} is no whole number of {unit}: the vendor could not say it")
    return number


def text(value: Decimal | int) -> str:
    """Return a number as a plain decimal text with eight digits after the point, or more where it has more."""
    exact = Decimal(value)
    padded = f"{exact:.8f}"
    return padded if Decimal(padded) == exact else f"{exact:f}"


def number(value: Decimal | int) -> int | float:
    """Return a number as JSON has it; ValueError where a float would be another number."""
    exact = Decimal(value)
    if exact == exact.to_integral_value():
        return int(exact)
    near = float(exact)
    if Decimal(repr(near)) != exact:
        raise ValueError(f"{value} has more digits than a JSON number of the vendor")
    return near


def only(record: Row, needed: tuple[str, ...], known: tuple[str, ...] = ()) -> Row:
    """Return the columns of a record that the vendor can say; ValueError names what is missing or cannot be said."""
    if missing := [name for name in needed if name not in record]:
        raise ValueError(f"record {record} lacks {', '.join(missing)}")
    if unsaid := [name for name in record if name not in (*needed, *known)]:
        raise ValueError(f"the vendor says no {', '.join(unsaid)}; it says {', '.join((*needed, *known))}")
    return {name: stamp(nanoseconds(value)) if name == "ts_event" else value for name, value in record.items()}


def true_rows(happened: list[Happening], schema: str, symbol: str) -> list[Row]:
    """Return the rows of a schema and symbol in order of time; of a bar the last that was said of it."""
    found = [one.row for one in happened if (one.schema, one.symbol) == (schema, symbol) and one.kind != "provisional"]
    if schema.startswith("ohlcv-"):
        latest: dict[Any, Row] = {row["ts_event"]: row for row in found}
        found = list(latest.values())
    return sorted(found, key=lambda row: row.get("ts_event", market.EPOCH))
