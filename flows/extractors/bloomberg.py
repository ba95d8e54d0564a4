"""Vendor `bloomberg`: prices, ticks and figures from the Desktop, Server and B-PIPE interfaces.

One page is one message of an answer, as JSON. An unknown security does not hold up the others of its request: their
rows come, what Bloomberg says of it is kept in quarantine ("security is known"), and it alone is asked again next time.
A request of which no security can be answered fails with Bloomberg's words. Quotes are not offered: Bloomberg sends bid
and ask one at a time, and a row with one side would say that the other side of the book was empty.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC
from datetime import datetime
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

import pyarrow as pa
from pydantic import Field
from pydantic import field_validator
from pydantic import model_validator

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import RateLimited
from catalog.schemas import NANOSECONDS
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows import registry
from flows.blp import answers
from flows.blp.asks import SCHEMAS
from flows.blp.asks import Ask
from flows.blp.asks import Wishes
from flows.blp.asks import asks
from flows.blp.asks import windows
from flows.blp.fetch import fetch
from flows.blp.progress import rest
from flows.blp.session import REFDATA
from flows.blp.session import Connection
from flows.blp.session import opened
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Batch
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Limiter
from flows.limits import buckets
from flows.quotes import Quote

BarColumn = Literal["open", "high", "low", "close", "volume", "trade_count", "vwap"]
Authentication = Literal["none", "application", "user", "user+application", "directory", "manual"]
_FIELDS: Final[dict[BarColumn, str]] = {
    "open": "PX_OPEN",
    "high": "PX_HIGH",
    "low": "PX_LOW",
    "close": "PX_LAST",
    "volume": "PX_VOLUME",
}


class BloombergOptions(registry.Options):
    """Options of a source of vendor `bloomberg`."""

    servers: tuple[str, ...] = Field(("localhost:8194",), min_length=1, description="host:port, tried in order.")
    authentication: Authentication = Field(
        "none", description="none: Desktop; the others: Server and B-PIPE. The application's name is a secret."
    )
    directory_property: str = Field("", description="Authentication directory: the Active Directory property.")
    user_id: str = Field("", description="Authentication manual: the user's id.")
    ip_address: str = Field("", description="Authentication manual: the user's address.")
    timeout: float = Field(60, gt=0, le=3600, description="Seconds of silence before a request is given up.")
    start_attempts: int = Field(3, ge=1, le=100, description="Attempts to connect before a session is given up.")
    bar_fields: dict[BarColumn, str] = Field(
        _FIELDS, description="Daily and coarser bars: our column → Bloomberg's field, e.g. close → PX_SETTLE."
    )
    fields: tuple[str, ...] = Field(
        (), max_length=400, description="Schema fundamentals: the fields, e.g. SALES_REV_TURN."
    )
    overrides: dict[str, str] = Field({}, description="Override field → value, for figures and daily bars.")
    currency: str = Field("", max_length=3, description="Daily and coarser bars in this currency; empty: as quoted.")
    bar_events: Literal["TRADE", "BID", "ASK", "BEST_BID", "BEST_ASK"] = Field(
        "TRADE", description="What intraday bars are made of."
    )
    adjust_splits: bool = Field(False, description="Prices and volumes adjusted for splits and spin-offs.")
    adjust_normal: bool = Field(False, description="Prices adjusted for regular cash dividends.")
    adjust_abnormal: bool = Field(False, description="Prices adjusted for special cash dividends.")
    securities_per_request: int = Field(100, ge=1, le=100, description="Securities in one request for daily bars.")
    bar_days: int = Field(60, ge=1, le=365, description="Days in one request for intraday bars.")
    tick_days: int = Field(1, ge=1, le=31, description="Days in one request for trades.")
    intraday_days: int = Field(
        210, ge=1, le=3660, description="How far back intraday data are asked; Bloomberg keeps about 140 business days."
    )

    @field_validator("servers")
    @classmethod
    def _named(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ValueError(f"{server!r}; accepted: host:port, e.g. localhost:8194")
        return servers

    @field_validator("bar_fields")
    @classmethod
    def _prices(cls, fields: dict[BarColumn, str]) -> dict[BarColumn, str]:
        if missing := [name for name in get_args(BarColumn)[:4] if not fields.get(name)]:
            raise ValueError(f"no field for {', '.join(missing)}")
        return fields

    @model_validator(mode="after")
    def _authenticated(self) -> "BloombergOptions":
        if self.authentication == "directory" and not self.directory_property:
            raise ValueError("authentication directory needs directory_property")
        if self.authentication == "manual" and not (self.user_id and self.ip_address):
            raise ValueError("authentication manual needs user_id and ip_address")
        return self


class BloombergExtractor(BaseHistoricalExtractor):
    """Bloomberg's //blp/refdata: historical, intraday and reference requests."""

    name = "bloomberg"
    label = "Bloomberg"
    doc = "Prices, ticks and figures by the Desktop, Server or B-PIPE interface; symbols like SPY US Equity."
    requires = "blpapi"
    extra = "bloomberg"
    credentials = ("APPLICATION", "TLS_CREDENTIALS", "TLS_PASSWORD", "TLS_TRUSTED")
    schemas = SCHEMAS
    Options = BloombergOptions
    value_options = (
        "bar_fields", "overrides", "currency", "bar_events", "adjust_splits", "adjust_normal", "adjust_abnormal",
    )  # fmt: skip

    def check(self) -> list[str]:
        """Start a session, open //blp/refdata, and say so."""
        connection = self._connection()
        with opened(connection):
            return [f"session with {connection.where} started", f"{REFDATA} is open"]

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job: securities with the same window together, intraday one security and some days each."""
        if job.schema == "fundamentals" and not self.options.fields:
            raise ConfigError(f"source {self.source.name!r}: option 'fields' names the figures of schema fundamentals")
        for instruments in windows(job.schema, job.instruments, self._wishes(), datetime.now(UTC)):
            yield Request(job, instruments)

    def quote(self, request: Request) -> Quote:
        """Return the number of requests; Bloomberg counts what is answered against a capacity it does not show."""
        return Quote(requests=sum(1 for _ in self._asks(request, datetime.now(UTC))))

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield each message of the answers that has not landed; no session is started when all have.

        Raises what Bloomberg's error means, see `flows.blp.fetch`; RateLimited stops everybody of this source.
        """
        now = datetime.now(UTC)
        facts = [page.manifest.facts for page in landed]
        wanted = [(ask, left) for ask in self._asks(request, now) if (left := rest(ask, facts))]
        if not wanted:
            return
        limiter = Limiter(self.source.name, (), buckets(f"{self.source.id}:{self.source.name}", self.context.redis_url))
        limiter.take({})
        try:
            with opened(self._connection()) as session:
                yield from fetch(session, wanted, dict(self.options.bar_fields), now.date(), begun=bool(facts))
        except RateLimited as error:
            limiter.pause(error.retry_after or 0)
            raise

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the rows of one message; Damaged when it is none."""
        schema = schema_called(page.request["schema"])
        try:
            found = answers.read(page.manifest.facts, answers.from_json(page.read()), schema.name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"page {page.manifest.part} is no message of Bloomberg's: {error!r}") from error
        yield Batch(schema.name, _table(schema, found.rows), found.rejects.table())

    def _asks(self, request: Request, now: datetime) -> Iterator[Ask]:
        return asks(request.job.schema, request.instruments, self._wishes(), now)

    def _wishes(self) -> Wishes:
        options = self.options
        return Wishes(
            bar_fields=options.bar_fields,
            fields=options.fields,
            overrides=options.overrides,
            currency=options.currency,
            event_type=options.bar_events,
            adjust={
                "adjustmentSplit": options.adjust_splits,
                "adjustmentNormal": options.adjust_normal,
                "adjustmentAbnormal": options.adjust_abnormal,
            },
            securities=options.securities_per_request,
            bar_days=options.bar_days,
            tick_days=options.tick_days,
            intraday_days=options.intraday_days,
        )

    def _connection(self) -> Connection:
        """Return where and as whom to connect; AuthFailed names the environment variable that is not set."""
        options = self.options
        servers = tuple(server.rpartition(":") for server in options.servers)
        files = self.context.environ.get(f"{self.source.env_prefix}_TLS_CREDENTIALS", "")
        return Connection(
            servers=tuple((host, int(port)) for host, _, port in servers),
            mode=options.authentication,
            application=self.secret("APPLICATION") if options.authentication in _WITH_APPLICATION else "",
            directory_property=options.directory_property,
            user_id=options.user_id,
            ip_address=options.ip_address,
            tls_credentials=files,
            tls_password=self.secret("TLS_PASSWORD") if files else "",
            tls_trusted=self.secret("TLS_TRUSTED") if files else "",
            timeout=options.timeout,
            start_attempts=options.start_attempts,
        )


_WITH_APPLICATION: Final = ("application", "user+application", "manual")


def _table(schema: Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows, which all have the same columns, as the pipeline takes them: text as it came, times aware."""
    types = {ROW: pa.int64(), schema.time: pa.timestamp("us", "UTC")}
    names = list(rows[0]) if rows else [SYMBOL, ROW, schema.time]
    table = pa.table({name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in names})
    with suppress(pa.ArrowInvalid):  # a time beyond nanoseconds is refused with its row, not with the page
        return table.set_column(2, schema.time, table[schema.time].cast(NANOSECONDS))
    return table
