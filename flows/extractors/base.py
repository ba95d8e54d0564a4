"""What every vendor shares. A vendor's file declares, and writes `pages` and `parse`; nothing else.

`pages` is the only code that talks to the vendor; `parse` is pure and reads what has landed, so that a
page can be parsed again years later, after a fix, without asking (or paying) the vendor again.
"""

from abc import ABC
from abc import abstractmethod
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
from typing import ClassVar

import pyarrow as pa

from catalog.schemas.refine import REJECTED
from flows import registry
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.landing import Page

#: the raw symbol of a row as the vendor writes it; resolve turns it into `instrument`
SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Context:
    """What an extractor may use of the machine: folders it may read, and the environment for secrets."""

    files_roots: tuple[Path, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Raw rows of one schema out of one page.

    `table` has `symbol`, `row` (position in the page) and any of the schema's columns, unconverted.
    `rejected` holds what could not even be read as a row.
    """

    schema: str
    table: pa.Table
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)


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
    Options: ClassVar[type[registry.Options]] = registry.Options
    #: names of the source's options that change what its numbers mean; fixed once rows are stored
    value_options: ClassVar[tuple[str, ...]] = ()
    #: options of a series
    SeriesOptions: ClassVar[type[registry.Options]] = registry.Options

    def __init__(self, source: SourceFacts, context: Context) -> None:
        self.source = source
        self.context = context
        self.options: Any = registry.read_options(f"source {source.name!r}", self.Options, source.options)

    def check(self) -> list[str]:
        """Ask the vendor whether the source works; one sentence for each thing found."""
        return ["options are valid"]


class BaseHistoricalExtractor(BaseExtractor):
    """A vendor's past: requests are cut, pages are fetched, landed pages are parsed."""

    #: false where what the vendor has is not asked by window (files): open ends stay open
    windowed: ClassVar[bool] = True

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job into fetches; the base asks for everything at once."""
        yield Request(job, job.instruments)

    @abstractmethod
    def pages(self, request: Request) -> Iterator[Page]:
        """Yield the vendor's answer, page by page, exactly as sent. The only network code."""

    @abstractmethod
    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the raw rows of a landed page, in the vendor's order. Pure given `state`.

        Raises Damaged when the page is cut short or is not what it claims to be.
        """
