"""What every vendor shares. A vendor's file declares, and writes `pages` and `parse` for the past, `frames` and `parse`
for what is live; nothing else.

`pages` is the only code that talks to the vendor; `parse` is pure and reads what has landed, so that a
page can be parsed again years later, after a fix, without asking (or paying) the vendor again.
"""

from abc import ABC
from abc import abstractmethod
from asyncio import Queue
from collections.abc import AsyncGenerator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any
from typing import ClassVar
from zoneinfo import ZoneInfo
from zoneinfo import ZoneInfoNotFoundError

import pyarrow as pa

from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.schemas import Schema
from catalog.schemas.refine import REJECTED
from flows import options
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.landing import Page
from flows.quotes import Quote

#: the raw symbol of a row as the vendor writes it; resolve turns it into `instrument`
SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Context:
    """What an extractor may use of the machine: folders it may read, and the environment for secrets."""

    files_roots: tuple[Path, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: where the workers of a source share its limits; empty: each process keeps its own
    redis_url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Raw rows of one schema out of one page.

    `table` has `symbol`, `row` (position in the page) and any of the schema's columns, unconverted.
    `rejected` holds what could not even be read as a row; `left_out` counts records that the source's options leave
    out on purpose.
    """

    schema: str
    table: pa.Table
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """An instrument as the vendor lists it; `symbol` is the vendor's, `asset_class` one of ours."""

    symbol: str
    asset_class: str
    name: str = ""
    currency: str = ""
    mic: str = ""
    figi: str = ""
    isin: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How a failure that may pass is met: attempts without progress, and seconds between them.

    The pause doubles from `first` up to `longest`, of which a random half is left out so that workers do not come back
    all at once. A vendor that asks for more than `longest` is not waited for.
    """

    attempts: int = 5
    first: float = 1.0
    longest: float = 60.0

    def pause(self, attempt: int, asked: float | None, random: float) -> float | None:
        """Return the seconds before attempt + 1; None: give up. `random` is in [0, 1)."""
        if attempt >= self.attempts or (asked is not None and asked > self.longest):
            return None
        own = min(self.first * 2.0 ** (attempt - 1), self.longest) * (1 - random / 2)
        return max(own, asked or 0.0)


def known_asset_class(name: str) -> str:
    """Return the name of an asset class, or an empty text; ValueError names the accepted ones."""
    if name and name not in ASSET_CLASSES:
        raise ValueError(f"accepted: {', '.join(sorted(ASSET_CLASSES))}, or nothing")
    return name


def known_zone(name: str) -> str:
    """Return the name of a time zone; ValueError where there is none."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; accepted: names like America/New_York") from None
    return name


class BaseExtractor(ABC):
    """A vendor: declarations for the catalog's forms, and the options of one source."""

    name: ClassVar[str]
    label: ClassVar[str]
    doc: ClassVar[str] = ""
    #: module of the vendor's SDK, imported where it is used; empty where none is needed
    requires: ClassVar[str] = ""
    #: the extra of this project that installs the SDK
    extra: ClassVar[str] = ""
    #: endings of the environment variables that hold secrets: `<prefix of the source>_<ending>`
    credentials: ClassVar[tuple[str, ...]] = ()
    #: names of the schemas the vendor can give; empty: every one
    schemas: ClassVar[tuple[str, ...]] = ()
    #: options of a source
    Options: ClassVar[type[options.Options]] = options.Options
    #: names of the source's options that change what its numbers mean; fixed once rows are stored
    value_options: ClassVar[tuple[str, ...]] = ()
    #: options of a series
    SeriesOptions: ClassVar[type[options.Options]] = options.Options

    def __init__(self, source: SourceFacts, context: Context) -> None:
        self.source = source
        self.context = context
        self.options: Any = options.read_options(f"source {source.name!r}", self.Options, source.options)

    @classmethod
    def secret_endings(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the endings of the secrets that a source with such options needs; options that are wrong name none."""
        return cls.credentials

    @classmethod
    def offered(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the schemas that a source with such options has, empty for every one; wrong options leave out none."""
        return cls.schemas

    def check(self) -> list[str]:
        """Ask the vendor whether the source works; one sentence for each thing found."""
        return ["options are valid"]

    def discover(self, text: str) -> Iterator[Listing]:
        """Yield the instruments that the vendor lists, or of a long list those that match a text.

        Raises ConfigError where the vendor has no list.
        """
        raise ConfigError(f"vendor {self.name!r} lists no instruments: add assets by hand, by CSV or YAML")

    def secret(self, ending: str) -> str:
        """Return a secret of the source from the environment; AuthFailed names the variable that is not set."""
        variable = f"{self.source.env_prefix}_{ending}"
        if value := self.context.environ.get(variable, ""):
            if any(ord(character) < 32 or ord(character) == 127 for character in value):
                raise AuthFailed(
                    f"source {self.source.name!r}: {variable} holds a line break or another control character"
                )
            return value
        raise AuthFailed(f"source {self.source.name!r}: environment variable {variable} is not set")

    def window_column(self, schema: Schema) -> str:
        """Return the column by which the vendor cuts windows: the schema's time, or for some when they received it."""
        return schema.time


class BaseHistoricalExtractor(BaseExtractor):
    """A vendor's past: requests are cut, pages are fetched, landed pages are parsed."""

    #: false where what the vendor has is not asked by window (files): open ends stay open
    windowed: ClassVar[bool] = True
    #: names of the schemas of which it has only what is now: no window of them can be asked
    snapshots: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def fills(cls, schema: str) -> bool:
        """Whether a window of a schema that was not heard live can be asked."""
        return schema not in cls.snapshots and (not cls.schemas or schema in cls.schemas)

    @property
    def patience(self) -> Patience:
        """How failures that may pass are met."""
        return Patience()

    def resolve(self, job: Job) -> Job:
        """Return the job with the vendor's symbols of each instrument, as intervals; the base knows no others."""
        return job

    def quote(self, request: Request) -> Quote:
        """Return what a request will cost; the base costs nothing."""
        return Quote(bytes=0)

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job into fetches; the base asks for everything at once."""
        yield Request(job, job.instruments)

    @abstractmethod
    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield the vendor's answer, page by page, exactly as sent. The only network code.

        `landed` are the pages that an earlier attempt has landed: they are not asked again.
        """

    @abstractmethod
    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the raw rows of a landed page, in the vendor's order. Pure given `state`.

        Raises Damaged when the page is cut short or is not what it claims to be.
        """


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What one connection is to bring.

    `changes` brings (added, removed) channels while the connection lives. `since` says where the coverage of a channel
    ended, in nanoseconds since 1970, for vendors that can send again what has passed.
    """

    channels: frozenset[Channel]
    changes: Queue[tuple[frozenset[Channel], frozenset[Channel]]] = field(default_factory=Queue)
    since: Mapping[Channel, int] = field(default_factory=dict)


class BaseRealtimeExtractor(BaseExtractor):
    """A vendor's present: one connection brings frames, and frames that have landed are parsed.

    Who runs it (`flows.live`) connects again for ever, watches for silence, renews connections in time, lands every
    frame before anything else is done with it, and fills from the same vendor's history what was not heard.
    """

    #: time after which a connection is renewed, the new one overlapping the old; None: it may live for ever
    rotation: timedelta | None = None
    #: schemas whose rows carry a number of their own: the same one twice is the same row, not a repeat
    numbered: frozenset[str] = frozenset()
    #: schema → column of whole numbers that grows by one from row to row of an instrument: a jump is a loss
    consecutive: Mapping[str, str] = {}
    #: whether a bar of which nothing came must be asked for (the vendor may be silent about it), or there is none
    every_bar: bool = False
    #: what the vendor's times are whole multiples of: nothing begins or ends between two of them
    grain: ClassVar[timedelta] = timedelta(0)
    #: whether `since` is of use: the vendor sends again what has passed
    replays: ClassVar[bool] = False
    #: time after which what happened has been sent, where `transit_of` says nothing else of a schema
    transit: timedelta = timedelta(seconds=5)

    @property
    def patience(self) -> Patience:
        """Pauses between connections; attempts never end."""
        return Patience()

    @property
    def silence(self) -> float:
        """Seconds without a frame, or a sign of life, after which a connection is taken to be dead."""
        return 60.0

    def transit_of(self, schema: str) -> timedelta:
        """Return the time after which what happened has been sent of a schema, revisions included."""
        return self.transit

    def channels(self, schema: str, instruments: Sequence[InstrumentFacts], now: datetime) -> dict[Channel, int]:
        """Return what must be subscribed for a schema of some instruments, with the instrument of each."""
        return {
            Channel(schema, symbol.symbol): instrument.id
            for instrument in instruments
            for symbol in instrument.symbols
            if symbol.start <= now < symbol.end
        }

    @abstractmethod
    def frames(self, request: LiveRequest) -> AsyncGenerator[Frame | Sequence[Frame] | Told, None]:
        """Connect, authenticate, subscribe, and yield what comes until the connection ends; the only network code.

        Every message is yielded as a Frame exactly as it came, those about the connection itself too; several that
        came together may be yielded together. Beside them,
        `Told` says what was acknowledged or refused, that messages were lost, and (at least every third of `silence`)
        that the connection is alive. Returns where the vendor closes; raises AuthFailed, NotEntitled, ConfigError or
        TransientError with the vendor's words. Closing the generator closes the connection.
        """

    @abstractmethod
    def parse(self, frames: Sequence[Frame], state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the raw rows of some frames in a row, by schema.

        Pure given `state`, which is empty at the head of a file.

        `row` is `frame.number * ROWS_A_FRAME + place in it`. What is no data (acknowledgements, heartbeats, records
        that are not final yet) gives nothing; what cannot be read becomes a rejected row with the raw frame, of the
        schema it seems to be or of any that is subscribed. Rows of symbols that nobody asked for are rows like any
        other. Never raises for the content of a frame.
        """
