"""A live run as others see it: what came by key, how far each destination is, and what is wrong now."""

import time
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from typing import Any
from typing import Final

from catalog.keys import Key
from flows.live.connections import Status
from flows.live.coverage import instant
from flows.live.refinery import Seen
from flows.live.routes import Lane
from flows.live.runner import Live

#: refused channels that are named
_REFUSED: Final = 5


@dataclass(frozen=True, slots=True)
class KeySeen:
    """What came of one key. `age` and `transit` are seconds from its newest event: until now, until it was received."""

    key: str
    series: str
    rows: int
    per_second: float
    newest: datetime | None
    age: float | None
    transit: float | None
    jumps: int


@dataclass(frozen=True, slots=True)
class RouteSeen:
    """How far a destination is: rows written by this run, frames that it does not have yet, what is wrong now."""

    schema: str
    destination: str
    rows: int
    behind: int
    error: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment. `filled` counts fetches that closed holes, `gaps` holes that nothing can close."""

    source: str
    state: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    frames: int = 0
    bytes: int = 0
    reconnects: int = 0
    acknowledged: int = 0
    filled: int = 0
    gaps: int = 0
    errors: tuple[str, ...] = ()
    keys: tuple[KeySeen, ...] = ()
    routes: tuple[RouteSeen, ...] = ()

    @property
    def rows(self) -> int:
        """Rows received, of all keys."""
        return sum(one.rows for one in self.keys)

    def line(self) -> str:
        """Return it as one line of text."""
        if not self.keys:
            return "; ".join((self.state, *self.errors))
        ages = [one.age for one in self.keys if one.age is not None]
        parts = [
            self.state,
            f"{self.frames:,} messages, {self.rows:,} rows, {sum(one.per_second for one in self.keys):,.1f} a second",
            f"newest {min(ages):.1f} s ago" if ages else "nothing yet",
            f"{self.reconnects:,} reconnects, {self.filled:,} holes filled, {self.gaps:,} known gaps",
            *(
                f"{one.schema} → {one.destination}: {one.rows:,} rows, {one.behind:,} frames behind"
                for one in self.routes
            ),
            *self.errors,
        ]
        return "; ".join(parts)

    def table(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each key, for people."""
        for one in self.keys:
            schema = Key.parse(one.key).schema
            to = [
                f"{route.destination} ({route.error or f'{route.behind:,} frames behind'})"
                if route.error or route.behind
                else route.destination
                for route in self.routes
                if route.schema == schema
            ]
            yield {
                "key": one.key,
                "series": one.series,
                "rows": one.rows,
                "rows a second": round(one.per_second, 1),
                "newest": one.newest.isoformat(timespec="milliseconds") if one.newest else "",
                "seconds ago": None if one.age is None else round(one.age, 1),
                "received after": None if one.transit is None else round(one.transit, 3),
                "jumps": one.jumps,
                "to": ", ".join(to),
            }


class Watch:
    """Looks at a run now and then; rates are those since the last look."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self._looked: float | None = None
        self._rows: dict[tuple[str, int], int] = {}

    def look(self, state: str, series: Mapping[tuple[str, int], str]) -> Snapshot:
        """Return the run as it is now; `series` names the series of (schema, instrument id)."""
        live, status = self.live, self.live.status
        now = time.monotonic()
        seconds = 0.0 if self._looked is None else now - self._looked
        seen = self._seen()
        keys = []
        for name, job in sorted(live.jobs.items()):
            for one in job.instruments:
                at = (name, one.id)
                found = seen.get(at, Seen())
                rate = max(found.rows - self._rows.get(at, 0), 0) / seconds if seconds > 0 else 0.0
                keys.append(_key(str(Key(one.name, name)), series.get(at, ""), found, rate))
        self._looked, self._rows = now, {at: one.rows for at, one in seen.items()}
        errors = [status.error, live.filler.error, *_refusals(status)]
        routes = tuple(_route(lane) for _, lane in sorted(live.lanes.items()))
        errors += [f"{one.schema} → {one.destination}: {one.error}" for one in routes if one.error]
        return Snapshot(
            live.name,
            state,
            frames=status.frames,
            bytes=status.bytes,
            reconnects=status.reconnects,
            acknowledged=status.acknowledged,
            filled=live.filler.filled,
            gaps=live.filler.gaps,
            errors=tuple(error for error in errors if error),
            keys=tuple(sorted(keys, key=lambda one: one.key)),
            routes=routes,
        )

    def _seen(self) -> dict[tuple[str, int], Seen]:
        found: dict[tuple[str, int], Seen] = {}
        for part in (self.live.seen, *(stint.refinery.seen for stint in self.live.stints)):
            # other threads add to it
            for at, one in list(part.items()):
                found.setdefault(at, Seen()).add(one)
        return found


def _refusals(status: Status) -> Iterator[str]:
    refused = list(status.refused.items())
    for channel, reason in refused[:_REFUSED]:
        yield f"{channel.schema} of {channel.symbol} is refused: {reason}"
    if len(refused) > _REFUSED:
        yield f"{len(refused) - _REFUSED:,} more are refused"


def _key(key: str, series: str, seen: Seen, rate: float) -> KeySeen:
    if not seen.newest:
        return KeySeen(key, series, seen.rows, rate, None, None, None, seen.gaps)
    age, transit = (time.time_ns() - seen.newest) / 1e9, (seen.received - seen.newest) / 1e9
    return KeySeen(key, series, seen.rows, rate, instant(seen.newest), age, transit, seen.gaps)


def _route(lane: Lane) -> RouteSeen:
    stints = list(lane.stints)
    behind = sum(stint.spool.written for stint in stints) - (lane.lag.cursor if stints else 0)
    return RouteSeen(lane.schema, lane.destination, lane.lag.rows, max(behind, 0), lane.lag.error)
