"""A market that never was: prices, trades and quotes of any symbol at any time, always the same ones.

Every value is computed from the symbol and the time alone, so a stand-in can answer any window at once and a test can
say what is right without asking the stand-in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from math import sin

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CENT = Decimal("0.0001")
#: seconds between two trades, and between two quotes
TICK = 7


def day(year: int, month: int, number: int) -> datetime:
    """Return the midnight (UTC) a day begins with."""
    return datetime(year, month, number, tzinfo=UTC)


_AROUND_MIDNIGHT = (datetime(2024, 1, 2, 23, 30, tzinfo=UTC), datetime(2024, 1, 3, 0, 20, tzinfo=UTC))
#: windows with several small pages, for vendors of US stocks
WINDOWS = {
    "ohlcv-5m": (day(2024, 1, 2), day(2024, 1, 3)),
    "ohlcv-15m": (day(2024, 1, 2), day(2024, 1, 4)),
    "ohlcv-30m": (day(2024, 1, 2), day(2024, 1, 5)),
    "ohlcv-1h": (day(2024, 1, 2), day(2024, 1, 9)),
    "ohlcv-4h": (day(2024, 1, 2), day(2024, 2, 2)),
    # across both changes of the clock in New York
    "ohlcv-1d": (day(2024, 1, 2), day(2024, 12, 2)),
    # a fetch of ticks is a day
    "trades": _AROUND_MIDNIGHT,
    "quotes": _AROUND_MIDNIGHT,
    "news": (day(2024, 1, 2), day(2024, 2, 2)),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar by its open instant; 1d by its date at 00:00Z."""

    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    vwap: Decimal


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade; every tenth happens at the same instant as the one before it."""

    id: int
    time: datetime
    price: Decimal
    size: Decimal
    buyer_is_maker: bool


@dataclass(frozen=True, slots=True)
class Quote:
    """A best bid and offer."""

    id: int
    time: datetime
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal


def price(symbol: str, moment: datetime) -> Decimal:
    """Return the price of a symbol at a time, with four digits."""
    seconds = (moment - EPOCH).total_seconds()
    base = 20 + _number(symbol) % 400
    wave = sin(seconds / 86_400 / 17 + base) * 0.11 + sin(seconds / 3_600 / 5) * 0.02 + sin(seconds / 90) * 0.003
    return Decimal(base * (1 + wave)).quantize(_CENT)


def bars(symbol: str, seconds: int, start: datetime, end: datetime, *, weekdays: bool = False) -> Iterator[Bar]:
    """Yield the bars that open in `[start, end)`; with `weekdays` none on Saturday and Sunday (UTC)."""
    step = timedelta(seconds=seconds)
    at = EPOCH + -((EPOCH - start) // step) * step
    while at < end:
        if not (weekdays and at.weekday() > 4):
            yield bar(symbol, at, step)
        at += step


def bar(symbol: str, at: datetime, step: timedelta) -> Bar:
    """Return the bar that opens at a time."""
    opening, closing = price(symbol, at), price(symbol, at + step)
    noise = _number(f"{symbol}{at.isoformat()}")
    high = max(opening, closing) + Decimal(noise % 97) * _CENT
    low = min(opening, closing) - Decimal(noise % 89) * _CENT
    volume = Decimal(noise % 1_000_003) / 100
    return Bar(at, opening, high, low, closing, volume, noise % 977 + 1, ((high + low) / 2).quantize(_CENT))


def trades(symbol: str, start: datetime, end: datetime) -> Iterator[Trade]:
    """Yield the trades in `[start, end)`, in order."""
    for number in _numbers(start, end):
        found = trade(symbol, number)
        if start <= found.time < end:
            yield found


def trade(symbol: str, number: int) -> Trade:
    """Return a trade by its number."""
    noise = _number(f"{symbol}{number}")
    return Trade(
        number, _instant(number), price(symbol, _instant(number)), Decimal(noise % 9_999 + 1) / 100, noise % 2 == 0
    )


def quotes(symbol: str, start: datetime, end: datetime) -> Iterator[Quote]:
    """Yield the quotes in `[start, end)`, in order."""
    for number in _numbers(start, end):
        moment = _instant(number)
        if start <= moment < end:
            noise = _number(f"{symbol}q{number}")
            middle = price(symbol, moment)
            half = Decimal(noise % 5 + 1) * _CENT
            yield Quote(
                number, moment, middle - half, Decimal(noise % 900 + 1), middle + half, Decimal(noise % 700 + 1)
            )


def _numbers(start: datetime, end: datetime) -> range:
    first = int((start - EPOCH).total_seconds()) // TICK - 1
    last = int((end - EPOCH).total_seconds()) // TICK + 2
    return range(first, last)


def _instant(number: int) -> datetime:
    """Return when something numbered happens: on a grid of seconds; a number that ends in 1 shares the one before."""
    at = number - 1 if number % 10 == 1 else number
    return EPOCH + timedelta(seconds=at * TICK)


@cache
def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big")
