"""A vendor that declares an option of every type, and whose SDK nobody has."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from typing import Literal

from pydantic import Field

from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.options import Options


class AcmeOptions(Options):
    dataset: str = Field(description="Which feed <b>of theirs</b>.")
    adjustment: Literal["none", "splits", "all"] = "none"
    depth: int = Field(default=10, ge=1, le=50)
    scale: Decimal = Decimal("0.0001")
    ratio: float | None = None
    extended_hours: bool = True
    paper: bool | None = None
    delimiter: str = ","
    venues: list[str] = []
    columns: dict[str, str | int] = {}
    column: str | int = "time"


class AcmeSeriesOptions(Options):
    side: Literal["bid", "ask"]
    roll: str | None = None


class Acme(BaseHistoricalExtractor):
    name = "acme"
    label = "Acme Markets"
    doc = "Sells & <script>alert(1)</script>."
    requires = "acme_sdk_that_nobody_has"
    extra = "acme"
    credentials = ("API_KEY",)
    Options = AcmeOptions
    SeriesOptions = AcmeSeriesOptions

    def check(self) -> list[str]:
        return ["options are valid", f"the key {self.context.environ['ACME_API_KEY']} is accepted"]

    def pages(self, request: Request) -> Iterator[Page]:
        import acme_sdk_that_nobody_has

        yield acme_sdk_that_nobody_has.page(request)

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        raise NotImplementedError
