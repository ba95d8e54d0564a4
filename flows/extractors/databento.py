"""Databento, past and present.

History: https://databento.com/docs/api-reference-historical, base https://hist.databento.com/v0. Asked with a thin
client of our own, `flows.databento_api`: the vendor's cannot speak plain HTTP, does not try again, and takes a stream
that was cut for a shorter one. What is bought is announced, counted and checked there. Traps here:

- windows are of `ts_recv` in every schema that has it;
- history ends some time ago (a day, without a live licence): requests end where `metadata.get_dataset_range` does;
- parent symbols (ES.FUT) stand for many instruments: records carry the symbol of each, and go to the series that name
  it. The parent itself gets none.

Live: https://databento.com/docs/api-live, the raw protocol over TCP, spoken by `flows.databento_live`: the vendor's
client makes an object of every record, takes an orderly close for the end, and comes back from others at once, without
what it missed. All series of a source share one session. Its records give the same rows as history.
"""

import logging
from collections.abc import AsyncGenerator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.errors import unknown
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.databento_api import actions
from flows.databento_api import figures
from flows.databento_api import parents
from flows.databento_api import streams
from flows.databento_api.batch import Jobs
from flows.databento_api.client import Client
from flows.databento_api.client import warnings
from flows.databento_api.landed import by_call
from flows.databento_api.symbols import AT_ONCE
from flows.databento_api.symbols import Dataset
from flows.databento_live import gateway
from flows.databento_live.reading import Reader
from flows.databento_live.session import Session
from flows.extractors.base import SYMBOL
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.extractors.base import Context
from flows.extractors.base import Listing
from flows.extractors.base import LiveRequest
from flows.extractors.base import Patience
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import cut
from flows.extractors.http import zulu
from flows.formats import dbn
from flows.formats.records import Place
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.frames import Frame
from flows.frames import Told
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Quota
from flows.quotes import Quote
from flows.web import Answer
from flows.web import Call

log = logging.getLogger(__name__)

_DBN: Final = (
    "ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "ohlcv-eod", "trades", "mbp-1", "mbp-10", "tbbo", "bbo-1s",
    "bbo-1m", "cmbp-1", "cbbo-1s", "cbbo-1m", "tcbbo", "mbo", "statistics", "status", "imbalance", "definition",
)  # fmt: skip
_ACTIONS: Final = "corporate_actions"
_ACTION: Final[Mapping[str, Place]] = {
    "ts_event": "event_date", "kind": "kind", "action_id": "event_unique_id", "ratio_from": "ratio_old",
    "ratio_to": "ratio_new", "amount": "gross_dividend", "currency": "rate_currency", "frequency": "frequency",
    "record_date": "record_date", "payable": "payment_date", "description": "words",
}  # fmt: skip
#: asset class of a dataset's instruments by the code of its venue, where it is not shares
_CLASSES: Final = {
    "GLBX": "future", "IFEU": "future", "IFLL": "future", "IFUS": "future", "NDEX": "future", "XEUR": "future",
    "XEEE": "future", "XCBF": "future", "OPRA": "option",
}  # fmt: skip


class DatabentoOptions(HttpOptions):
    """Options of a source of vendor `databento`."""

    base_url: str = Field("https://hist.databento.com", description="Where the vendor answers; a proxy goes here.")
    dataset: str = Field(min_length=1, max_length=50, description="Code of the dataset, e.g. GLBX.MDP3, XNAS.ITCH.")
    stype_in: Literal["raw_symbol", "continuous", "parent", "instrument_id"] = Field(
        "raw_symbol",
        description="What our symbols are: the venue's, continuous (ES.c.0), parents (ES.FUT: records go to the series"
        " of each child), or the vendor's numbers.",
    )
    delivery: Literal["stream", "batch"] = Field(
        "stream",
        description="stream: at once, paid again where it breaks off. batch: files made on demand, paid once, their"
        " download goes on where it broke off; for much data.",
    )
    days_per_page: int = Field(
        0,
        ge=0,
        description="Days of bars or corporate actions that one stream brings; where it breaks off, those before it are"
        " not paid again. 0: all days at once.",
    )
    countries: str = Field(
        "US", description="Corporate actions: countries of the listings, separated by commas; empty: the whole world."
    )
    poll_seconds: float = Field(10, gt=0, le=3600, description="Between two looks at whether a batch job is done.")
    wait_seconds: float = Field(
        21_600, ge=0, description="How long a run waits for a batch job; the next run waits for the same job."
    )
    gateway: str = Field(
        "",
        pattern=r"^([A-Za-z0-9.-]+(:[0-9]{1,5})?)?$",
        description="Live: host or host:port of the gateway, for a proxy; empty: the dataset's own, port 13000.",
    )
    heartbeat_seconds: int = Field(
        10,
        ge=5,
        le=1800,
        description="Live: a gateway with nothing to send says so this often; thrice that is silence.",
    )
    slow_reader_behavior: Literal["warn", "skip"] = Field(
        "warn",
        description="Live: when this side is too slow, quotes come late (warn) or are left out and fetched later from"
        " history (skip). Trades, orders and bars are never left out.",
    )
    timeout: float = Field(100, gt=0, le=600, description="Seconds to wait for the vendor to go on.")
    longest_answer: float = Field(43_200, gt=0, description="Seconds a whole answer may take.")
    largest_answer_mb: int = Field(65_536, gt=0, le=65_536, description="MiB an answer may have; it is not held.")


class DatabentoExtractor(HttpExtractor):
    """Every schema of DBN, streamed or by batch job, and corporate actions."""

    name = "databento"
    label = "Databento"
    doc = "Exchange data as the venues publish it: bars, trades, quotes, order books, statistics, definitions."
    requires = "databento_dbn"
    extra = "databento"
    credentials = ("API_KEY",)
    schemas = (*_DBN, _ACTIONS)
    Options: ClassVar[type[HttpOptions]] = DatabentoOptions
    value_options = ("dataset", "stype_in", "countries")
    # 100 a second for series and symbology, 20 a second for the rest, 20 submissions a minute
    # (databento.com/docs/api-historical/basics/rate-limits); half of that leaves room for the team's other programs
    quotas = (Quota("requests", 10, 1), Quota("submissions", 10, 60))
    refusals = (
        ("data_start_before_available_start", figures.TooEarlyError),
        ('"case": ?"symbology_invalid|of the symbols could be resolved|[Cc]ould not resolve', UnknownSymbol),
        ('"case": ?"auth_', AuthFailed),
        ('"case": ?"license_', NotEntitled),
    )
    at_once = AT_ONCE

    def auth(self) -> tuple[str, str]:
        return self.secret("API_KEY"), ""

    def observe(self, headers: Mapping[str, str]) -> None:
        for words in warnings(headers.get("x-warning", "")):
            log.warning("%s: the vendor warns: %s", self.web.name, words)

    def judge(self, call: Call, answer: Answer) -> None:
        super().judge(call, answer)
        if call.facts.get("kind") == "actions":
            try:
                actions.unpacked(answer.content)
            except Damaged as error:
                raise TransientError(f"{self.web.name}: {error}") from None

    def window_column(self, schema: Schema) -> str:
        return dbn.indexed_by(schema)

    def span(self, schema: Schema) -> timedelta | None:
        """Return a day of ticks for a stream; one batch job takes the whole window, in files of a day."""
        return None if self.options.delivery == "batch" else super().span(schema)

    @cached_property
    def _dataset(self) -> Dataset:
        client = Client(self.web, lambda call: self.json_of(self.ask(call)), self.patience.pause)
        return Dataset(client, self.options.dataset, self.options.stype_in)

    def check(self) -> list[str]:
        """Say which datasets the account may ask, and what the source's own has."""
        have = self.json_of(self.ask(Call("v0/metadata.list_datasets")))
        dataset = self.options.dataset
        if dataset not in have:
            raise ConfigError(f"source {self.source.name!r}: {unknown('dataset', dataset, have)}")
        low, high = self._dataset.windows[""]
        return [f"{len(have)} datasets", f"{dataset} from {low:%Y-%m-%d} to {high:%Y-%m-%d %H:%M}Z"]

    def discover(self, text: str) -> Iterator[Listing]:
        """Yield the venue's symbols of the last day that has any; free, where definitions cost.

        The asset class is that of the dataset: futures of a future's venue, its options and spreads among them.
        """
        kind = _CLASSES.get(self.options.dataset.partition(".")[0], "equity")
        found = self._dataset.listed()
        yield from (Listing(symbol, kind) for symbol in found if text.upper() in symbol.upper())

    def resolve(self, job: Job) -> Job:
        """Return the job inside what the dataset has, with the days on which its symbols mean something.

        Asks the vendor (free) only where the answer can change: a window that is open or reaches into the last week
        ends where history does, for a batch job at midnight, so that a later run finds the same job; continuous
        symbols and ids get intervals. Raises UnknownSymbol where nobody knows any of these.
        """
        if job.schema == _ACTIONS:
            return job
        since = datetime.combine(self.options.since, datetime.min.time(), UTC)
        job = self._dataset.inside(job, since, to_midnight=self.options.delivery == "batch")
        if self.options.stype_in in ("raw_symbol", "parent") or not job.instruments:
            return job
        return self._dataset.valid(job)

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job as for every vendor; what comes with a parent comes in the parent's requests, however many."""
        if self.options.stype_in != "parent" or job.schema == _ACTIONS:
            yield from super().requests(job)
            return
        for request in super().requests(parents.alone(job)):
            yield parents.with_children(request, job)

    def calls(self, request: Request) -> Iterator[Call]:
        wanted: dict[tuple[datetime, datetime], dict[str, None]] = {}
        days = self.options.days_per_page if self.options.delivery == "stream" else 0
        for _, symbol, start, end in asked(request):
            if self.options.stype_in != "parent" or parents.is_parent(symbol) or request.job.schema == _ACTIONS:
                for window in cut(start, end, timedelta(days=days) if days else None):
                    wanted.setdefault(window, {})[symbol] = None
        if not wanted:
            raise PermanentError(
                f"source {self.source.name!r}: {request.instruments[0].name} comes with its parent, which has landed"
                " before this instrument was wanted; run the parent's series with --again"
            )
        for (start, end), symbols in wanted.items():
            names = list(symbols)
            for first in range(0, len(names), self.at_once):
                yield self._call(request.job.schema, names[first : first + self.at_once], start, end)

    def _call(self, schema: str, symbols: Sequence[str], start: datetime, end: datetime) -> Call:
        form = {"symbols": ",".join(symbols), "start": zulu(start), "end": zulu(end), "compression": "zstd"}
        if schema == _ACTIONS:
            form |= {"index": "event_date", "stype_in": "raw_symbol"}
            if self.options.countries:
                form["countries"] = self.options.countries
            return Call("v0/corporate_actions.get_range", facts={"kind": "actions"}, form=form, accepts="*/*")
        form |= {
            "dataset": self.options.dataset, "schema": schema, "stype_in": self.options.stype_in,
            "stype_out": "instrument_id", "encoding": "dbn",
        }  # fmt: skip
        return Call("v0/timeseries.get_range", form=form, accepts="*/*", streamed=True)

    def page(self, call: Call, answer: Answer) -> Page:
        return replace(super().page(call, answer), media_type="application/jsonl", compressed=True)

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield streams, or a batch job's terms, its number and its files; what has landed is not bought again."""
        if request.job.schema == _ACTIONS:
            yield from super().pages(request, landed)
            return
        options, price = self.options, self.options.price_per_request
        jobs = Jobs(self._dataset, self.auth(), options.poll_seconds, options.wait_seconds, price)
        for call, have in by_call(self.calls(request), landed, self.web.name):
            if options.delivery == "batch":
                yield from jobs.pages(call, have)
            elif not have:
                yield from streams.pages(self._dataset, call, price, self.observe)

    def quote(self, request: Request) -> Quote:
        """Return the vendor's own figures for a request: billable bytes and US dollars."""
        if request.job.schema == _ACTIONS:
            return super().quote(request)
        return figures.quote(self._dataset, self.calls(request), self.options.price_per_request)

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        said = page.manifest.facts
        schema = schema_called(page.request["schema"])
        if rejected := figures.unknown_rows(said):
            yield Batch(schema.name, pa.table({}), rejected)
        if said["kind"] == "actions":
            yield _actions(schema, actions.unpacked(page.read()))
        elif said["kind"] in ("stream", "file"):
            name = page.manifest.name or f"page {page.manifest.part}"
            with page.open() as stream:
                for records in dbn.read(stream, schema.name, {}, name):
                    yield Batch(schema.name, _rows(records))


class DatabentoLive(BaseRealtimeExtractor):
    """Every schema of DBN as it happens, all in one session."""

    name = DatabentoExtractor.name
    label = DatabentoExtractor.label
    doc = DatabentoExtractor.doc
    requires = DatabentoExtractor.requires
    extra = DatabentoExtractor.extra
    credentials = DatabentoExtractor.credentials
    schemas = _DBN
    Options: ClassVar[type[HttpOptions]] = DatabentoOptions
    value_options = DatabentoExtractor.value_options
    replays = True
    window_column = DatabentoExtractor.window_column

    def __init__(self, source: SourceFacts, context: Context) -> None:
        super().__init__(source, context)
        self._not_replayed: set[str] = set()

    @property
    def patience(self) -> Patience:
        return Patience(self.options.attempts, self.options.first_pause, self.options.longest_pause)

    @property
    def silence(self) -> float:
        return 3 * float(self.options.heartbeat_seconds)

    async def frames(self, request: LiveRequest) -> AsyncGenerator[Frame | Told, None]:
        """Yield blocks of whole records; contexts are what was said in text, the header, and mappings of symbols.

        What has passed since a channel's coverage ended is replayed, as far as the gateway has it (24 hours): such
        channels are acknowledged when the replay has caught up. After records were skipped, `lost` is told with the
        time from which on they were captured as `since`.
        """
        session = Session(self._terms(), self._not_replayed)
        async with aclosing(session.frames(request.channels, request.since, request.changes)) as coming:
            async for item in coming:
                yield item

    def parse(self, frames: Sequence[Frame], state: dict[str, Any]) -> Iterator[Batch]:
        reader = state.setdefault("reader", Reader(f"source {self.source.name!r}"))
        for found in reader.read(frames):
            table = pa.table({}) if found.records is None else _rows(found.records)
            yield Batch(found.schema, table, found.rejects.table(), found.left_out)

    def _terms(self) -> gateway.Terms:
        options = self.options
        host, port = gateway.address(options.dataset, options.gateway)
        return gateway.Terms(
            f"source {self.source.name!r}", host, port, options.dataset, options.stype_in, self.secret("API_KEY"),
            options.heartbeat_seconds, options.slow_reader_behavior,
        )  # fmt: skip


def _rows(records: dbn.Records) -> pa.Table:
    return records.table.append_column(SYMBOL, records.symbols).append_column(ROW, records.rows)


def _actions(schema: Schema, content: bytes) -> Batch:
    """Return the corporate actions of JSON lines; events that were taken back are rejected."""
    events, gone = actions.read(content)
    made = batch(schema, events, Shape(_ACTION, Clock()), [event.get("symbol") for event in events])
    kept = pc.invert(pc.is_in(made.table[ROW], pa.array(gone.rows, pa.int64())))
    return Batch(schema.name, made.table.filter(kept), pa.concat_tables([made.rejected, gone.table()]))
