"""Vendor `bloomberg`: prices, ticks and figures from the Desktop, Server and B-PIPE interfaces.

One page is one message of an answer, as JSON. An unknown security does not hold up the others of its request: their
rows come, what Bloomberg says of it is kept in quarantine ("security is known"), and it alone is asked again next time.
A request of which no security can be answered fails with Bloomberg's words. Quotes are not offered: Bloomberg sends bid
and ask one at a time, and a row with one side would say that the other side of the book was empty.

Live are trades, from subscriptions to //blp/mktdata in real time. A frame is a message as JSON, since the SDK gives no
bytes (`flows.blp.events`). Traps:

- The image that comes first holds the last trade there was: no row.
- Tick history has whole seconds (Bloomberg cuts them; github.com/Rblp/Rblpapi/issues/112), events have milliseconds.
  The time of a live trade is cut likewise, so that it is the same row as in history; `ts_recv` is finer.
- Times of day (EVT_TRADE_TIME_RT …) are in the zone that the terminal is set to; TRADE_UPDATE_STAMP_RT says its zone.
- Cancels and corrections name no earlier trade that could be found: they are kept in quarantine ("trade is new").
- Subscriptions at an interval bring summaries instead of trades: the option `interval` is not offered.
- Bars are not offered: //blp/mktbar sends what changes in a bar, and no message that is known to hold a whole one.
"""

import asyncio
from collections.abc import AsyncGenerator
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import aclosing
from contextlib import suppress
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from typing import Any
from typing import ClassVar
from typing import Final

import pyarrow as pa

from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import RateLimited
from catalog.schemas import NANOSECONDS
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.blp import answers
from flows.blp import events
from flows.blp.asks import SCHEMAS
from flows.blp.asks import Ask
from flows.blp.asks import Wishes
from flows.blp.asks import asks
from flows.blp.asks import windows
from flows.blp.fetch import fetch
from flows.blp.listening import Changes
from flows.blp.listening import listen
from flows.blp.options import TRADE_NEEDS
from flows.blp.options import BloombergOptions
from flows.blp.progress import rest
from flows.blp.session import REFDATA
from flows.blp.session import Connection
from flows.blp.session import opened
from flows.blp.stream import threaded
from flows.blp.subscriptions import MKTDATA
from flows.blp.subscriptions import Pace
from flows.blp.subscriptions import Wishes as Wanted
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseExtractor
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.extractors.base import LiveRequest
from flows.frames import Frame
from flows.frames import Told
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Limiter
from flows.limits import buckets
from flows.quotes import Quote

# frames that wait here while the loop is behind
_WAITING: Final = 20_000


class _Bloomberg(BaseExtractor):
    """What both halves declare, and how they connect."""

    name = "bloomberg"
    label = "Bloomberg"
    doc = "Prices, ticks and figures by the Desktop, Server or B-PIPE interface; symbols like SPY US Equity."
    requires = "blpapi"
    extra = "bloomberg"
    credentials = ("APPLICATION", "TLS_CREDENTIALS", "TLS_PASSWORD", "TLS_TRUSTED")
    Options = BloombergOptions
    value_options = (
        "bar_fields", "overrides", "currency", "bar_events", "adjust_splits", "adjust_normal", "adjust_abnormal",
        "trade_fields",
    )  # fmt: skip
    #: what Bloomberg calls the service
    service: ClassVar[str] = REFDATA

    def check(self) -> list[str]:
        """Start a session, open the service, and say so."""
        connection = self._connection()
        with opened(connection, self.service):
            return [f"session with {connection.where} started", f"{self.service} is open"]

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


class BloombergExtractor(_Bloomberg, BaseHistoricalExtractor):
    """Bloomberg's //blp/refdata: historical, intraday and reference requests."""

    schemas = SCHEMAS

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


class BloombergLive(_Bloomberg, BaseRealtimeExtractor):
    """Bloomberg's //blp/mktdata: every trade of the securities that are subscribed to."""

    schemas = ("trades",)
    # as the historical half has them
    grain = timedelta(seconds=1)
    service = MKTDATA
    pace: ClassVar[Pace] = Pace()

    @property
    def silence(self) -> float:
        """Longer than a session may take to begin: its own words are better than that it was silent."""
        timeout: float = self.options.timeout
        return max(60.0, timeout + 30.0)

    async def frames(self, request: LiveRequest) -> AsyncGenerator[Frame | Told, None]:
        """Yield the messages of one session; see `flows.blp.listening` for what is told and raised."""
        changes: Changes = Changes()

        async def forward() -> None:
            while True:
                changes.put(await request.changes.get())

        fields = self.options.trade_fields
        needed = frozenset((events.TYPE, events.SUBTYPE, *(fields[name] for name in TRADE_NEEDS)))
        asked = tuple(dict.fromkeys((events.TYPE, events.SUBTYPE, events.DELAYED, *fields.values())))
        wanted = Wanted(asked, needed, self.options.live_queue, self.pace)
        listening = partial(listen, self._connection(), wanted, request.channels, changes)
        forwarding = asyncio.create_task(forward())
        try:
            async with aclosing(threaded(listening, _WAITING)) as items:
                async for item in items:
                    yield item
        finally:
            forwarding.cancel()

    def parse(self, frames: Sequence[Frame], state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the new trades of some messages; one message tells all of a trade, so there is no state."""
        yield Batch("trades", *events.trades(frames, self.options.trade_fields))


_WITH_APPLICATION: Final = ("application", "user+application", "manual")


def _table(schema: Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows, which all have the same columns, as the pipeline takes them: text as it came, times aware."""
    types = {ROW: pa.int64(), schema.time: pa.timestamp("us", "UTC")}
    names = list(rows[0]) if rows else [SYMBOL, ROW, schema.time]
    table = pa.table({name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in names})
    with suppress(pa.ArrowInvalid):  # a time beyond nanoseconds is refused with its row, not with the page
        return table.set_column(2, schema.time, table[schema.time].cast(NANOSECONDS))
    return table
