"""Symbol intervals: in one source no two of an instrument overlap, and no two of a symbol."""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from typing import Final

from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Fault
from catalog.exchange.stored import Interval
from catalog.exchange.values import print_moment

_EVER: Final = datetime.min.replace(tzinfo=UTC)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """An interval as it will be; `line` is 0 where it is stored already and not in the file."""

    asset: AssetName
    interval: Interval
    line: int = 0


def sort_key(interval: Interval) -> tuple[bool, datetime]:
    """Return what intervals are sorted by: their start, those without one first."""
    return interval.start is not None, interval.start or _EVER


def print_intervals(intervals: Iterable[Interval]) -> str:
    """Return intervals as people read them in a difference."""
    return "; ".join(map(_print, sorted(intervals, key=sort_key)))


def overlaps(source: str, claims: Sequence[Claim]) -> Iterator[Fault]:
    """Yield a fault for each interval of the file that overlaps another one of its source."""
    yield from _overlaps(source, claims, lambda claim: claim.asset)
    # one symbol, two instruments; within an instrument it has been told above
    yield from _overlaps(source, claims, lambda claim: claim.interval.symbol, across=True)


def _overlaps(
    source: str, claims: Sequence[Claim], group: Callable[[Claim], Hashable], *, across: bool = False
) -> Iterator[Fault]:
    groups: dict[Hashable, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(group(claim), []).append(claim)
    for rivals in groups.values():
        if len(rivals) == 1:
            continue
        rivals.sort(key=lambda claim: sort_key(claim.interval))
        latest = rivals[0]
        for claim in rivals[1:]:
            if (claim.interval.start or _EVER) < (latest.interval.end or _NEVER) and not (
                across and claim.asset == latest.asset
            ):
                faulty, other = (claim, latest) if claim.line else (latest, claim)
                if faulty.line:
                    where = f" (line {other.line})" if other.line else ""
                    yield Fault(
                        faulty.line,
                        "symbol",
                        f"{_print(faulty.interval)} overlaps {_print(other.interval)} of {source}:{other.asset}{where}",
                    )
            if (claim.interval.end or _NEVER) > (latest.interval.end or _NEVER):
                latest = claim


def _print(interval: Interval) -> str:
    if not interval.start and not interval.end:
        return interval.symbol
    return f"{interval.symbol} [{print_moment(interval.start) or '…'}, {print_moment(interval.end) or '…'})"
