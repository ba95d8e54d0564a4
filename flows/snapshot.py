"""A live run as others see it: what came by key, how far each destination is, and what is wrong now."""

import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from typing import Any
from typing import Final

from catalog.keys import Key
from flows.alive import Summary
from flows.live.coverage import instant
from flows.live.refinery import Seen
from flows.live.routes import Lane
from flows.live.runner import Live

#: refused channels that are named in a line
_REFUSED: Final = 5
#: of what the ledger keeps: refusals and problems that are named, series, characters of a text
_NAMED: Final = 100
_SERIES: Final = 500
_LONGEST: Final = 500


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
class Refusal:
    """What the vendor refused to send, in its own words, and the series that asked for it."""

    schema: str
    symbol: str
    series: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment. `filled` counts fetches that closed holes, `gaps` holes that nothing can close.

    `error` is the connection's, `per_second` counts messages, `earlier` rows of keys that are not asked for any more.
    """

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
    refused: tuple[Refusal, ...] = ()
    error: str = ""
    per_second: float = 0.0
    earlier: int = 0

    @property
    def rows(self) -> int:
        """Rows received, of all keys there were."""
        return self.earlier + sum(one.rows for one in self.keys)

    def line(self) -> str:
        """Return it as one line of text."""
        if not self.keys:
            return "; ".join((self.state, *self.errors))
        ages = [one.age for one in self.keys if one.age is not None]
        parts = [
            self.state,
            f"{_many(self.frames, 'message')}, {_many(self.rows, 'row')},"
            f" {sum(one.per_second for one in self.keys):,.1f} a second",
            f"newest {min(ages):.1f} s ago" if ages else "nothing yet",
            f"{_many(self.reconnects, 'reconnect')}, {_many(self.filled, 'hole')} filled,"
            f" {_many(self.gaps, 'known gap')}",
            *(
                f"{one.schema} → {one.destination}: {_many(one.rows, 'row')}, {_many(one.behind, 'frame')} behind"
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
                f"{route.destination} ({route.error or _many(route.behind, 'frame') + ' behind'})"
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


def summary(shown: Snapshot, state: str, since: datetime, error: str = "", error_at: datetime | None = None) -> Summary:
    """Return a snapshot as the ledger keeps it: of bounded size, whatever the run asks for."""
    series: dict[str, dict[str, Any]] = {}
    for one in shown.keys:
        for name in filter(None, one.series.split(", ")):
            if name not in series and len(series) >= _SERIES:
                continue
            found = series.setdefault(name, {"rows": 0, "per_second": 0.0, "newest": None})
            found["rows"] += one.rows
            found["per_second"] = round(found["per_second"] + one.per_second, 2)
            newest = one.newest.isoformat(timespec="milliseconds") if one.newest else None
            found["newest"] = max(filter(None, (found["newest"], newest)), default=None)
    timed = [one for one in shown.keys if one.newest is not None and one.transit is not None]
    newest_key = max(timed, key=lambda one: one.newest or shown.at, default=None)
    own = {error, shown.error, *_lines(shown.refused)}
    return Summary(
        shown.at,
        state,
        since,
        error[:_LONGEST],
        error_at,
        messages=shown.frames,
        per_second=round(shown.per_second, 2),
        rows=shown.rows,
        reconnects=shown.reconnects,
        lag=None if newest_key is None or newest_key.transit is None else round(newest_key.transit, 3),
        behind=max((one.behind for one in shown.routes), default=0),
        problems=tuple(one[:_LONGEST] for one in shown.errors if one not in own)[:_NAMED],
        refused=tuple(
            {"schema": one.schema, "symbol": one.symbol, "series": one.series, "reason": one.reason[:_LONGEST]}
            for one in shown.refused[:_NAMED]
        ),
        refusals=len(shown.refused),
        series=series,
    )


class Watch:
    """Looks at a run now and then; rates are those since the last look, at first since it was made."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self._looked = time.monotonic()
        self._rows: dict[tuple[str, int], int] = {}
        self._frames = 0

    def look(self, state: str, series: Mapping[tuple[str, int], str]) -> Snapshot:
        """Return the run as it is now; `series` names the series of (schema, instrument id)."""
        live, status = self.live, self.live.status
        now = time.monotonic()
        seconds = now - self._looked
        seen = self._seen()
        frames = status.frames
        per_second = (frames - self._frames) / seconds if seconds > 0 else 0.0
        keys, shown = [], set()
        for name, job in sorted(live.jobs.items()):
            for one in job.instruments:
                at = (name, one.id)
                found = seen.get(at, Seen())
                rate = max(found.rows - self._rows.get(at, 0), 0) / seconds if seconds > 0 else 0.0
                keys.append(_key(str(Key(one.name, name)), series.get(at, ""), found, rate))
                shown.add(at)
        self._looked, self._frames, self._rows = now, frames, {at: one.rows for at, one in seen.items()}
        refused = tuple(self._refused(series))
        errors = [status.error, live.filler.error, *_lines(refused)]
        routes = tuple(_route(lane) for _, lane in sorted(live.lanes.items()))
        errors += [f"{one.schema} → {one.destination}: {one.error}" for one in routes if one.error]
        return Snapshot(
            live.name,
            state,
            frames=frames,
            bytes=status.bytes,
            reconnects=status.reconnects,
            acknowledged=status.acknowledged,
            filled=live.filler.filled,
            gaps=live.filler.gaps,
            errors=tuple(error for error in errors if error),
            keys=tuple(sorted(keys, key=lambda one: one.key)),
            routes=routes,
            refused=refused,
            error=status.error,
            per_second=per_second,
            earlier=sum(one.rows for at, one in seen.items() if at not in shown),
        )

    def _refused(self, series: Mapping[tuple[str, int], str]) -> Iterator[Refusal]:
        # other threads add to it
        refused = dict(list(self.live.status.refused.items()))
        if not refused:
            return
        asked = {
            (schema, symbol.symbol): one.id
            for schema, job in list(self.live.jobs.items())
            for one in job.instruments
            for symbol in one.symbols
        }
        for channel, reason in refused.items():
            number = asked.get((channel.schema, channel.symbol))
            # what is not asked for any more is nobody's trouble
            if number is not None:
                yield Refusal(channel.schema, channel.symbol, series.get((channel.schema, number), ""), reason)

    def _seen(self) -> dict[tuple[str, int], Seen]:
        found: dict[tuple[str, int], Seen] = {}
        for part in (self.live.seen, *(stint.refinery.seen for stint in self.live.stints)):
            # other threads add to it
            for at, one in list(part.items()):
                found.setdefault(at, Seen()).add(one)
        return found


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s'[: count != 1]}"


def _lines(refused: Sequence[Refusal]) -> Iterator[str]:
    for one in refused[:_REFUSED]:
        yield f"{one.schema} of {one.symbol} is refused: {one.reason}"
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
