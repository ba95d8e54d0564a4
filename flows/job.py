"""Plain frozen data that say what to do: picklable, no ORM object, no secret.

A `Job` is made by plan and holds all that one pass needs; nothing is looked up later.
"""

from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final

from catalog.keys import InstrumentName

#: The open ends of a range: the first and last instants that int64 nanoseconds can name, to the second.
EARLIEST: Final = datetime(1677, 9, 22, tzinfo=UTC)
LATEST: Final = datetime(2262, 4, 11, tzinfo=UTC)
#: how long after it happened something is in a vendor's history at the latest: holes that were asked sooner are asked
#: once more
LATE: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """A source as a job needs it. `options` is the source's JSON, read through the vendor's class."""

    id: int
    name: str
    vendor: str
    options: dict[str, Any] = field(hash=False)
    env_prefix: str = ""


@dataclass(frozen=True, slots=True)
class SymbolInterval:
    """The vendor's symbol for an instrument in `[start, end)`."""

    symbol: str
    start: datetime = EARLIEST
    end: datetime = LATEST


@dataclass(frozen=True, slots=True)
class InstrumentFacts:
    """An instrument as a job needs it, with the window `[start, end)` asked of it."""

    id: int
    name: InstrumentName
    symbols: tuple[SymbolInterval, ...]
    start: datetime = EARLIEST
    end: datetime = LATEST


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of these instruments that meet the condition are delivered; an empty condition is met by all."""

    instruments: frozenset[int]
    condition: str = ""


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """All routes of a job's series to one destination, united: a row goes there once, by any rule."""

    destination_id: int
    destination: str
    kind: str
    options: dict[str, Any] = field(hash=False)
    rules: tuple[Rule, ...]
    env_prefix: str = ""
    batch_rows: int = 0
    required: bool = True
    home: frozenset[int] = frozenset()
    extractor_type: str = "historical"

    @property
    def instruments(self) -> frozenset[int]:
        """Every instrument whose rows may go there."""
        return frozenset().union(*(rule.instruments for rule in self.rules))


@dataclass(frozen=True, slots=True)
class StoredChain:
    """An indicator chain whose values are stored, for some instruments of the job."""

    chain: str
    instruments: frozenset[int]


@dataclass(frozen=True, slots=True)
class Job:
    """What one pass needs: a source, a schema, instruments with windows, routes, stored chains.

    `filling` jobs close the holes between what was heard live: that counts even while the vendor may still revise it.
    """

    source: SourceFacts
    schema: str
    instruments: tuple[InstrumentFacts, ...]
    routes: tuple[RouteFacts, ...]
    chains: tuple[StoredChain, ...] = ()
    again: bool = False
    extractor_type: str = "historical"
    filling: bool = False

    @property
    def start(self) -> datetime:
        """The earliest start asked, inclusive."""
        return min(instrument.start for instrument in self.instruments)

    @property
    def end(self) -> datetime:
        """The latest end asked, exclusive."""
        return max(instrument.end for instrument in self.instruments)


@dataclass(frozen=True, slots=True)
class Request:
    """One fetch to be made: a part of a job in a form the vendor can be asked.

    `identity` names what a vendor has when that is not a window (a file with its size and time of
    change); coverage is compared within one identity. Empty for vendors asked by window.
    """

    job: Job
    instruments: tuple[InstrumentFacts, ...]
    identity: str = ""
    locator: str = ""

    @property
    def start(self) -> datetime:
        """Earliest start, inclusive."""
        return min(instrument.start for instrument in self.instruments)

    @property
    def end(self) -> datetime:
        """Latest end, exclusive."""
        return max(instrument.end for instrument in self.instruments)


#: of a described request: that it was live, with `schemas` (of its connection) and `primary` (it takes what has none)
LIVE: Final = "live"


def describe(request: Request) -> dict[str, Any]:
    """Return what a request asks as JSON for the landing; no secret is in it."""
    return {
        "vendor": request.job.source.vendor,
        "source": request.job.source.name,
        "options": request.job.source.options,
        "schema": request.job.schema,
        "identity": request.identity,
        "instruments": [
            {
                "id": instrument.id,
                "name": str(instrument.name),
                "symbols": [
                    [symbol.symbol, symbol.start.isoformat(), symbol.end.isoformat()] for symbol in instrument.symbols
                ],
                "start": instrument.start.isoformat(),
                "end": instrument.end.isoformat(),
            }
            for instrument in request.instruments
        ],
    }


def undescribe(request: dict[str, Any]) -> tuple[InstrumentFacts, ...]:
    """Return the instruments of a described request."""
    return tuple(
        InstrumentFacts(
            item["id"],
            InstrumentName.parse(item["name"]),
            tuple(
                SymbolInterval(symbol, datetime.fromisoformat(start), datetime.fromisoformat(end))
                for symbol, start, end in item["symbols"]
            ),
            datetime.fromisoformat(item["start"]),
            datetime.fromisoformat(item["end"]),
        )
        for item in request["instruments"]
    )
