"""Databento's history: https://databento.com/docs/api-reference-historical, base https://hist.databento.com/v0.

Asked with a thin client of our own: the vendor's cannot speak plain HTTP, does not try again, and takes a stream that
was cut for a shorter one. Traps that are met here:

- a cut stream decodes without an error: the records that pass are counted, and compared with what
  `metadata.get_record_count` said before; nothing lands otherwise;
- money is spent when a stream is sent or a batch job is submitted, so the cost is asked before, and a job that an
  earlier attempt submitted is found again instead of bought again;
- a day without a session resolves no symbol, which the vendor words like an unknown symbol (422): symbols count as
  unknown only when the dataset never had them;
- windows are of `ts_recv` in every schema that has it;
- history ends some time ago (a day, without a live licence): requests end where `metadata.get_dataset_range` does;
- parent symbols (ES.FUT) stand for many instruments: records carry the symbol of each, and go to the series that name
  it. The parent itself gets none.
"""

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from decimal import InvalidOperation
from functools import cached_property
from functools import partial
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal

import pyarrow as pa
import zstandard
from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.errors import unknown
from catalog.schemas import ROW
from catalog.schemas import Schema
from catalog.schemas import bar_open
from catalog.schemas import schema as schema_called
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import cut
from flows.extractors.http import zulu
from flows.formats import dbn
from flows.formats.blocks import Rejects
from flows.formats.records import Place
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.job import SymbolInterval
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Quota
from flows.quotes import Quote
from flows.web import Call
from flows.web import Web
from flows.web import continued
from flows.web import read_json

log = logging.getLogger(__name__)

_DBN: Final = (
    "ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "ohlcv-eod", "trades", "mbp-1", "mbp-10", "tbbo", "bbo-1s",
    "bbo-1m", "cmbp-1", "cbbo-1s", "cbbo-1m", "tcbbo", "mbo", "statistics", "status", "imbalance", "definition",
)  # fmt: skip
_ACTIONS: Final = "corporate_actions"
_EVENTS: Final = {"FSPLT": "split", "RSPLT": "split", "DIV": "dividend"}
_ACTION: Final[Mapping[str, Place]] = {
    "ts_event": "event_date", "kind": "kind", "action_id": "event_unique_id", "ratio_from": "ratio_old",
    "ratio_to": "ratio_new", "amount": "gross_dividend", "currency": "rate_currency", "frequency": "frequency",
    "record_date": "record_date", "payable": "payment_date", "description": "words",
}  # fmt: skip
#: what the vendor says of an event, or of what it pays, that is not to be: cancelled, or deleted
_TAKEN_BACK: Final = ("C", "D", "P", "Q")
#: symbols that stand for many instruments
_PARENTS: Final = (".FUT", ".OPT", ".SPOT")
#: a window that ends later than this before now may end beyond what history has; no venue closes for longer
_RECENT: Final = timedelta(days=7)
_DAY: Final = timedelta(days=1)
#: how much later our clock may be than the vendor's, when submitted jobs are looked for
_SKEW: Final = timedelta(hours=1)
#: asset class of a dataset's instruments by the code of its venue, where it is not shares
_CLASSES: Final = {
    "GLBX": "future", "IFEU": "future", "IFLL": "future", "IFUS": "future", "NDEX": "future", "XEUR": "future",
    "XEEE": "future", "XCBF": "future", "OPRA": "option",
}  # fmt: skip


class TooEarlyError(PermanentError):
    """The window begins before the dataset does."""


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
    timeout: float = Field(100, gt=0, le=600, description="Seconds to wait for the vendor to go on.")
    longest_answer: float = Field(43_200, gt=0, description="Seconds a whole answer may take.")
    largest_answer_mb: int = Field(65_536, gt=0, le=65_536, description="MiB an answer may have; it is not held.")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call will bring: the call as it is sent, its records, its cost, the symbols that do not exist."""

    call: Call
    records: int
    cost: Decimal
    unknown: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """As it goes into a manifest."""
        return {"records": self.records, "cost": str(self.cost), "unknown": list(self.unknown)}


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
    value_options = ("dataset", "stype_in")
    # 100 a second for series and symbology, 20 a second for the rest, 20 submissions a minute
    # (databento.com/docs/api-historical/basics/rate-limits); half of that leaves room for the team's other programs
    quotas = (Quota("requests", 10, 1), Quota("submissions", 10, 60))
    refusals = (
        ("data_start_before_available_start", TooEarlyError),
        ('"case": ?"symbology_invalid|of the symbols could be resolved|[Cc]ould not resolve', UnknownSymbol),
        ('"case": ?"auth_', AuthFailed),
        ('"case": ?"license_', NotEntitled),
    )
    #: symbols a call may have
    at_once = 2000

    def auth(self) -> tuple[str, str]:
        return self.secret("API_KEY"), ""

    def observe(self, headers: Mapping[str, str]) -> None:
        for words in _warnings(headers.get("x-warning", "")):
            log.warning("%s: the vendor warns: %s", self.web.name, words)

    def window_column(self, schema: Schema) -> str:
        """Return `ts_recv` where the schema has it: the vendor cuts by when it received a record."""
        return "ts_recv" if any(column.name == "ts_recv" for column in schema.columns) else schema.time

    def span(self, schema: Schema) -> timedelta | None:
        """Return a day of ticks for a stream; one batch job takes the whole window, in files of a day."""
        return None if self.options.delivery == "batch" else super().span(schema)

    # -- what is asked --------------------------------------------------------------------------------------------

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job as for every vendor; what comes with a parent comes in the parent's requests, however many."""
        if self.options.stype_in != "parent" or job.schema == _ACTIONS:
            yield from super().requests(job)
            return
        parents = tuple(one for one in job.instruments if any(_is_parent(symbol.symbol) for symbol in one.symbols))
        among_parents = {one.id for one in parents}
        children = [one for one in job.instruments if one.id not in among_parents]
        if not parents and children:
            raise PermanentError(
                f"source {self.source.name!r}: option stype_in is 'parent', and no series asks one (e.g. ES.FUT) whose"
                f" records {children[0].name} and others could be among"
            )
        for request in super().requests(replace(job, instruments=parents)):
            low, high = request.start, request.end
            among = (replace(one, start=max(one.start, low), end=min(one.end, high)) for one in children)
            yield Request(job, (*request.instruments, *(one for one in among if one.start < one.end)))

    def calls(self, request: Request) -> Iterator[Call]:
        wanted: dict[tuple[datetime, datetime], dict[str, None]] = {}
        days = self.options.days_per_page if self.options.delivery == "stream" else 0
        for _, symbol, start, end in asked(request):
            if self.options.stype_in != "parent" or _is_parent(symbol) or request.job.schema == _ACTIONS:
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
            form |= {"index": "event_date", "stype_in": "raw_symbol", "countries": self.options.countries}
            form = {name: value for name, value in form.items() if value}
            return Call("v0/corporate_actions.get_range", form=form, accepts="*/*")
        form |= {
            "dataset": self.options.dataset, "schema": schema, "stype_in": self.options.stype_in,
            "stype_out": "instrument_id", "encoding": "dbn",
        }  # fmt: skip
        return Call("v0/timeseries.get_range", form=form, accepts="*/*", streamed=True)

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield streams, or a batch job's terms, its number and its files; what has landed is not bought again."""
        calls = list(self.calls(request))
        have: dict[str, list[LandedPage]] = {call.key: [] for call in calls}
        for page in landed:
            if page.manifest.facts.get("call") not in have:
                raise Damaged(
                    f"source {self.source.name!r}: what landed of fetch {page.manifest.fetch} answers another question"
                    " than is asked now: the source's options have changed since; run with --again"
                )
            have[page.manifest.facts["call"]].append(page)
        for call in calls:
            if request.job.schema == _ACTIONS:
                yield from () if have[call.key] else self._actions(call)
            elif self.options.delivery == "batch":
                yield from self._batch(call, have[call.key])
            elif not have[call.key] and (terms := self._terms(call)):
                facts = {**self._facts(call, "stream"), **terms.facts}
                cost = terms.cost + self.options.price_per_request
                yield Page(
                    "application/x-dbn", self._stream(terms), facts=facts, compressed=True, requests=1, cost=cost
                )

    def _facts(self, call: Call, kind: str) -> dict[str, Any]:
        return {"call": call.key, "kind": kind, "received": datetime.now(UTC).isoformat()}

    # -- what it will be ------------------------------------------------------------------------------------------

    def _terms(self, call: Call) -> Terms | None:
        """Return what a call will bring; None where that is nothing. Free.

        Raises UnknownSymbol where the dataset never had any of the symbols.
        """
        form = dict(call.form or {})
        try:
            return self._terms_of(call, form)
        except TooEarlyError:
            low, _ = self._available(schema_called(form["schema"]))
            if low >= datetime.fromisoformat(form["end"]):
                return None
            form["start"] = zulu(low)
            return self._terms_of(replace(call, form=form), form)

    def _terms_of(self, call: Call, form: Mapping[str, str]) -> Terms | None:
        symbols = form["symbols"].split(",")
        start, end = (datetime.fromisoformat(form[name]) for name in ("start", "end"))
        found, missing = self._resolved(symbols, *_whole_days(start, end))
        never = self._never_known(missing)
        if not found:
            if len(never) == len(symbols):
                raise UnknownSymbol(self._nobody_knows(never))
            return None
        records = int(self._number("get_record_count", form))
        if not records and not never:
            return None
        return Terms(call, records, self._number("get_cost", form), tuple(never))

    def _number(self, method: str, form: Mapping[str, str]) -> Decimal:
        names = ("dataset", "symbols", "schema", "start", "end", "stype_in")
        call = Call(f"v0/metadata.{method}", form={name: form[name] for name in names})
        said = self.json_of(self.ask(call))
        try:
            return Decimal(str(said))
        except InvalidOperation:
            raise SchemaMismatch(f"{self.web.name}: {method} says {str(said)[:100]!r}, no number") from None

    def quote(self, request: Request) -> Quote:
        """Return the vendor's own figures for a request: billable bytes and US dollars."""
        if request.job.schema == _ACTIONS:
            return super().quote(request)
        total = Quote(bytes=0)
        for call in self.calls(request):
            if terms := self._terms(call):
                size = int(self._number("get_billable_size", terms.call.form or {}))
                total += Quote(1, size, terms.cost + self.options.price_per_request)
        return total

    # -- symbols --------------------------------------------------------------------------------------------------

    def resolve(self, job: Job) -> Job:
        """Return the job inside what the dataset has, with the days on which its symbols mean something.

        Asks the vendor (free) only where the answer can change: a window that is open or reaches into the last week
        ends where history does, for a batch job at midnight, so that a later run finds the same job; continuous
        symbols and ids get intervals, whose open ends stay open. Symbols that nobody knows stay, and are named when
        they are asked; raises UnknownSymbol where there are no others.
        """
        if job.schema == _ACTIONS:
            return job
        since = datetime.combine(self.options.since, datetime.min.time(), UTC)
        if job.start < since or job.end > datetime.now(UTC) - _RECENT:
            low, high = self._available(schema_called(job.schema))
            if self.options.delivery == "batch":
                high = high.replace(hour=0, minute=0, second=0, microsecond=0)
            clipped = (replace(one, start=max(one.start, low), end=min(one.end, high)) for one in job.instruments)
            job = replace(job, instruments=tuple(one for one in clipped if one.start < one.end))
        if self.options.stype_in in ("raw_symbol", "parent") or not job.instruments:
            return job
        first, last = _whole_days(job.start, job.end)
        names = list(dict.fromkeys(symbol.symbol for one in job.instruments for symbol in one.symbols))
        days: dict[str, list[tuple[date, date]]] = {}
        for at in range(0, len(names), self.at_once):
            some = names[at : at + self.at_once]
            found, _ = self._patiently(partial(self._resolved, some, first, last))
            days |= found
        if not days:
            raise UnknownSymbol(self._nobody_knows(names))
        instruments = tuple(
            replace(
                one,
                symbols=tuple(
                    part for symbol in one.symbols for part in _cut(symbol, days.get(symbol.symbol, []), first, last)
                ),
            )
            for one in job.instruments
        )
        return replace(job, instruments=instruments)

    def _resolved(
        self, symbols: Sequence[str], start: date, end: date
    ) -> tuple[dict[str, list[tuple[date, date]]], list[str]]:
        """Return symbol → days `[first, last)`, and the symbols without any; a parent's children are symbols too."""
        out = "raw_symbol" if self.options.stype_in == "instrument_id" else "instrument_id"
        form = {
            "dataset": self.options.dataset, "symbols": ",".join(symbols), "stype_in": self.options.stype_in,
            "stype_out": out, "start_date": start.isoformat(), "end_date": end.isoformat(),
        }  # fmt: skip
        try:
            said = self.json_of(self.ask(Call("v0/symbology.resolve", form=form)))
        except UnknownSymbol:
            return {}, list(symbols)
        try:
            found = {
                symbol: [(date.fromisoformat(part["d0"]), date.fromisoformat(part["d1"])) for part in parts]
                for symbol, parts in said["result"].items()
                if parts
            }
            return found, list(said["not_found"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SchemaMismatch(f"{self.web.name}: symbology.resolve says {str(said)[:200]!r} ({error})") from error

    def _never_known(self, symbols: Iterable[str]) -> list[str]:
        """Return those of the symbols that the dataset never had; the others are only absent from a window."""
        open_questions = [symbol for symbol in symbols if symbol not in self._known]
        if open_questions:
            _, missing = self._resolved(open_questions, *_whole_days(self._range["start"], self._range["end"]))
            self._known.update({symbol: symbol not in missing for symbol in open_questions})
        return [symbol for symbol in symbols if not self._known[symbol]]

    @cached_property
    def _known(self) -> dict[str, bool]:
        return {}

    def _nobody_knows(self, symbols: Sequence[str]) -> str:
        shown = ", ".join(symbols[:20]) + (f" and {len(symbols) - 20} more" if len(symbols) > 20 else "")
        return f"{self.web.name}: dataset {self.options.dataset} has no {self.options.stype_in} symbol {shown}"

    # -- what there is --------------------------------------------------------------------------------------------

    @cached_property
    def _range(self) -> dict[str, Any]:
        call = Call("v0/metadata.get_dataset_range", {"dataset": self.options.dataset})
        said = self._patiently(lambda: self.json_of(self.ask(call)))
        try:
            schemas = {name: _bounds(bounds) for name, bounds in (said.get("schema") or {}).items()}
            start, end = _bounds(said)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SchemaMismatch(f"{self.web.name}: get_dataset_range says {str(said)[:200]!r} ({error})") from error
        return {"start": start, "end": end, "schemas": schemas}

    def _available(self, schema: Schema) -> tuple[datetime, datetime]:
        """Return the window `[start, end)` that the dataset has of a schema; a bar that is not closed lies outside."""
        low, high = self._range["schemas"].get(schema.name, (self._range["start"], self._range["end"]))
        return low, bar_open(high, schema.timeframe) if schema.timeframe else high

    def check(self) -> list[str]:
        """Say which datasets the account may ask, and what the source's own has."""
        have = self.json_of(self.ask(Call("v0/metadata.list_datasets")))
        dataset = self.options.dataset
        if dataset not in have:
            raise ConfigError(f"source {self.source.name!r}: {unknown('dataset', dataset, have)}")
        low, high = self._range["start"], self._range["end"]
        return [f"{len(have)} datasets", f"{dataset} from {low:%Y-%m-%d} to {high:%Y-%m-%d %H:%M}Z"]

    def discover(self, text: str) -> Iterator[Listing]:
        """Yield the venue's symbols of the last day that has any; free, where definitions cost.

        The asset class is that of the dataset: futures of a future's venue, its options and spreads among them.
        """
        kind = _CLASSES.get(self.options.dataset.partition(".")[0], "equity")
        last = (self._range["end"] - timedelta(microseconds=1)).date()
        for back in range(7):
            day = last - timedelta(days=back)
            form = {
                "dataset": self.options.dataset, "symbols": "ALL_SYMBOLS", "stype_in": "raw_symbol",
                "stype_out": "instrument_id", "start_date": day.isoformat(), "end_date": (day + _DAY).isoformat(),
            }  # fmt: skip
            try:
                found = self._of(self.json_of(self.ask(Call("v0/symbology.resolve", form=form))), "result", "resolve")
            except UnknownSymbol:
                found = {}
            if not found:
                # no session on that day
                continue
            yield from (Listing(symbol, kind) for symbol in sorted(found) if text.upper() in symbol.upper())
            return

    # -- streams --------------------------------------------------------------------------------------------------

    def _stream(self, terms: Terms) -> Iterator[bytes]:
        """Yield the blocks of a stream as they come; raises at its end where it is not what was announced."""
        with self.web.opened(terms.call) as (response, blocks):
            self.observe({name.lower(): value for name, value in response.headers.items()})
            with _counting(self.web.name) as (feed, counted):
                for block in blocks:
                    feed(block)
                    yield block
                records = counted()
        if records != terms.records:
            # asking again costs again, and whole answers that differ will differ again
            raise Damaged(
                f"{self.web.name}: the answer is whole and has {records:,} records, where get_record_count said"
                f" {terms.records:,}; nothing is kept"
            )

    def _actions(self, call: Call) -> Iterator[Page]:
        answer = self.web.fetch(call)
        self.observe(answer.headers)
        try:
            _unpacked(answer.content)
        except Damaged as error:
            raise TransientError(f"{self.web.name}: {error}") from None
        facts = {**self._facts(call, "actions"), "symbols": (call.form or {})["symbols"].split(",")}
        cost = self.options.price_per_request
        yield Page("application/jsonl", [answer.content], facts=facts, compressed=True, requests=1, cost=cost)

    # -- batch jobs -----------------------------------------------------------------------------------------------

    def _batch(self, call: Call, landed: Sequence[LandedPage]) -> Iterator[Page]:
        """Yield a job's terms, then its number, then its files; each lands before the next step is taken."""
        kinds = {page.manifest.facts["kind"]: page.manifest.facts for page in landed}
        agreed, job = kinds.get("terms"), kinds.get("job", {}).get("job", "")
        if agreed is None:
            terms = self._terms(call)
            if terms is None:
                return
            agreed = {**self._facts(call, "terms"), **terms.facts, "form": self._submission(terms.call)}
            yield Page("application/json", [json.dumps(agreed).encode()], facts=agreed)
        elif agreed["records"] and not job:
            # an attempt that died here may have been heard
            job = self._submitted(agreed)
        if not agreed["records"]:
            # symbols that do not exist were all there was to say
            return
        if "job" not in kinds:
            job = job or self._submit(agreed["form"])
            facts = {**self._facts(call, "job"), "job": job}
            cost = Decimal(agreed["cost"]) + self.options.price_per_request
            yield Page("application/json", [json.dumps({"id": job}).encode()], facts=facts, requests=1, cost=cost)
        self._wait(job)
        have = {page.manifest.name for page in landed}
        for file in self._files(job):
            if file["filename"] not in have:
                facts = {**self._facts(call, "file"), "job": job}
                name, content = file["filename"], self._download(file)
                yield Page("application/x-dbn", content, name, facts=facts, compressed=True)

    def _submission(self, call: Call) -> dict[str, str]:
        form = dict(call.form or {})
        duration = "day" if schema_called(form["schema"]).nanoseconds else "none"
        return {**form, "delivery": "download", "split_duration": duration}

    def _submit(self, form: Mapping[str, str]) -> str:
        said = self.json_of(self.ask(Call("v0/batch.submit_job", form=form, costs={"submissions": 1})))
        return str(self._of(said, "id", "batch.submit_job"))

    def _submitted(self, agreed: Mapping[str, Any]) -> str:
        """Return the number of the job that asks exactly this and was submitted since; empty where there is none."""
        since = datetime.fromisoformat(agreed["received"]) - _SKEW
        params = {"states": "queued,processing,done", "since": zulu(since)}
        for short in self.json_of(self.ask(Call("v0/batch.list_jobs", params))):
            number = str(self._of(short, "id", "batch.list_jobs"))
            if _same(self._details(number), agreed["form"]):
                return number
        return ""

    def _details(self, job: str) -> dict[str, Any]:
        said = self.json_of(self.ask(Call("v0/batch.get_job_details", {"job_id": job})))
        self._of(said, "state", "batch.get_job_details")
        return dict(said)

    def _wait(self, job: str) -> None:
        waited = 0.0
        while (state := self._details(job)["state"]) != "done":
            if state == "expired":
                raise PermanentError(f"{self.web.name}: the files of batch job {job} are gone; run with --again")
            if waited >= self.options.wait_seconds:
                # longer than any patience: the next run goes on
                raise TransientError(
                    f"{self.web.name}: batch job {job} is {state}; run again later, it is paid", retry_after=3601
                )
            self.limiter.sleep(self.options.poll_seconds)
            waited += self.options.poll_seconds

    def _files(self, job: str) -> list[dict[str, Any]]:
        said = self.json_of(self.ask(Call("v0/batch.list_files", {"job_id": job})))
        files = [file for file in said if str(self._of(file, "filename", "batch.list_files")).endswith(".dbn.zst")]
        return sorted(files, key=lambda file: str(file["filename"]))

    def _download(self, file: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield a file, going on where the connection broke; raises TransientError where its checksum is another."""
        kind, _, wanted = str(self._of(file, "hash", "batch.list_files")).partition(":")
        if kind != "sha256":
            raise SchemaMismatch(
                f"{self.web.name}: file {file['filename']} has a checksum of kind {kind!r}, not sha256"
            )
        call = continued(Call("", accepts="*/*", streamed=True), file["urls"]["https"], self.options.base_url)
        digest, size, attempt = hashlib.sha256(), 0, 0
        while True:
            before = size
            try:
                with (self._from(size) if size else self.web).opened(call) as (response, blocks):
                    # a server that does not know ranges sends what we have once more
                    skip = size if response.status_code != 206 else 0
                    for block in blocks:
                        rest = block[skip:]
                        skip -= len(block) - len(rest)
                        digest.update(rest)
                        size += len(rest)
                        if rest:
                            yield rest
                break
            except TransientError as error:
                attempt = 1 if size > before else attempt + 1
                self._pause(attempt, error)
        if digest.hexdigest() != wanted:
            raise TransientError(f"{self.web.name}: file {file['filename']} has another checksum than the vendor says")

    def _from(self, size: int) -> Web:
        """Return a way to the vendor that asks for the rest of a file: a call cannot carry a header of its own."""
        web = self.web
        return Web(
            web.name,
            web.base_url,
            web.limiter,
            web.bounds,
            headers={"range": f"bytes={size}-"},
            auth=self.auth(),
            secrets=web.secrets,
            refusals=self.refusals,
        )

    def _of(self, said: Any, name: str, method: str) -> Any:
        if not isinstance(said, dict) or name not in said:
            raise SchemaMismatch(f"{self.web.name}: {method} says {str(said)[:200]!r}, without {name!r}")
        return said[name]

    def _pause(self, attempt: int, error: TransientError) -> None:
        """Sleep before the next attempt; raises the error when there is none."""
        pause = self.patience.pause(attempt, error.retry_after, random.random())
        if pause is None:
            raise error
        log.info("%s, attempt %s: %s; trying again in %.1f s", self.web.name, attempt, error, pause)
        self.limiter.sleep(pause)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        attempt = 0
        while True:
            try:
                return ask()
            except TransientError as error:
                attempt += 1
                self._pause(attempt, error)

    # -- what came ------------------------------------------------------------------------------------------------

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        if rejected := _unknown_rows(facts):
            yield Batch(schema.name, pa.table({}), rejected)
        if facts["kind"] == "actions":
            with page.open() as raw:
                yield _actions(schema, _unpacked(raw.read()))
        elif facts["kind"] in ("stream", "file"):
            name = page.manifest.name or f"page {page.manifest.part}"
            with page.open() as stream:
                for records in dbn.read(stream, schema.name, {}, name):
                    table = records.table.append_column(SYMBOL, records.symbols).append_column(ROW, records.rows)
                    yield Batch(schema.name, table)


@contextmanager
def _counting(name: str) -> Iterator[tuple[Callable[[bytes], None], Callable[[], int]]]:
    """Count the records of a DBN stream that passes by: a function that takes blocks, one that returns the count.

    A thread reads what is fed through a pipe, so that little is held. Both raise TransientError where the bytes are
    none or end too early.
    """
    reading, writing = os.pipe()

    def read() -> int:
        with os.fdopen(reading, "rb") as stream:
            return dbn.count(stream, name)

    with ThreadPoolExecutor(1, "dbn-count") as pool:
        counted = pool.submit(read)

        def result() -> int:
            pipe.close()
            try:
                return counted.result()
            except Damaged as error:
                raise TransientError(str(error)) from None

        def feed(block: bytes) -> None:
            left = memoryview(block)
            try:
                while left:
                    left = left[pipe.write(left) :]
            except BrokenPipeError:
                # the reader has seen enough
                result()
                raise Damaged(f"{name}: bytes follow the end of the stream") from None

        with os.fdopen(writing, "wb", buffering=0) as pipe:
            yield feed, result


def _unpacked(content: bytes) -> bytes:
    """Return what a zstd frame holds; Damaged where it is none or cut."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        plain = frame.decompress(content)
    except zstandard.ZstdError as error:
        raise Damaged(f"the answer is no sound zstd: {error}") from None
    if not frame.eof:
        raise Damaged("the answer is cut short: its zstd frame is unfinished")
    return plain


def _actions(schema: Schema, content: bytes) -> Batch:
    """Return the corporate actions of JSON lines; events that were taken back are rejected."""
    rows: list[dict[str, Any]] = []
    rejects = Rejects()
    lines = [line for line in content.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        try:
            row = read_json(line)
        except ValueError as error:
            raise Damaged(f"line {number + 1} of the corporate actions is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise Damaged(f"line {number + 1} of the corporate actions is no JSON object")
        event = row.get("event")
        if row.get("event_action") in _TAKEN_BACK:
            shown = line.decode("utf-8", "replace")
            rejects.add(number, "event stands", f"the vendor took it back ({row['event_action']})", shown)
        words = " ".join(str(word) for word in (event, row.get("event_subtype")) if word)
        # what depends on the kind of event is one level down
        inner = [row.get(name) for name in ("date_info", "rate_info", "event_info")]
        flat = {name: value for part in inner if isinstance(part, dict) for name, value in part.items()}
        rows.append({**flat, **row, "kind": _EVENTS.get(str(event), event), "words": words})
    made = batch(schema, rows, Shape(_ACTION, Clock()), [row.get("symbol") for row in rows])
    gone = set(rejects.rows)
    kept = pa.array([number not in gone for number in made.table[ROW].to_pylist()], pa.bool_())
    return Batch(schema.name, made.table.filter(kept), pa.concat_tables([made.rejected, rejects.table()]))


def _unknown_rows(facts: Mapping[str, Any]) -> pa.Table | None:
    """Return the symbols of a call that do not exist as rejected rows, behind the rows there are."""
    symbols = facts.get("unknown") or []
    rejects = Rejects()
    for number, symbol in enumerate(symbols, start=int(facts.get("records", 0))):
        rejects.add(number, "symbol is known", f"the dataset has no {symbol!r}", symbol)
    return rejects.table() if symbols else None


def _same(details: Mapping[str, Any], form: Mapping[str, str]) -> bool:
    """Whether a job asks what a form does."""
    for name in ("dataset", "schema", "stype_in", "stype_out", "encoding", "compression", "split_duration"):
        if str(details.get(name)) != form[name]:
            return False
    symbols = details.get("symbols")
    have = symbols.split(",") if isinstance(symbols, str) else list(symbols or [])
    try:
        times = [datetime.fromisoformat(str(details[name])) for name in ("start", "end")]
    except (KeyError, ValueError):
        return False
    return set(have) == set(form["symbols"].split(",")) and times == [
        datetime.fromisoformat(form[name]) for name in ("start", "end")
    ]


def _bounds(said: Mapping[str, str]) -> tuple[datetime, datetime]:
    start, end = (datetime.fromisoformat(said[name]) for name in ("start", "end"))
    return start.replace(tzinfo=start.tzinfo or UTC), end.replace(tzinfo=end.tzinfo or UTC)


def _cut(
    symbol: SymbolInterval, days: Sequence[tuple[date, date]], first: date, last: date
) -> Iterator[SymbolInterval]:
    """Yield the parts of a symbol's interval in which it has days of those asked; all of it where it has none.

    Days without a session are no gap, and what touches the ends of what was asked goes on there.
    """
    joined: list[tuple[date, date]] = []
    for start, end in sorted(days):
        if joined and start - joined[-1][1] <= _RECENT:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    if not joined:
        yield symbol
    for start, end in joined:
        low = symbol.start if start - first <= _RECENT else max(symbol.start, _midnight(start))
        high = symbol.end if last - end <= _RECENT else min(symbol.end, _midnight(end))
        if low < high:
            yield SymbolInterval(symbol.symbol, low, high)


def _whole_days(start: datetime, end: datetime) -> tuple[date, date]:
    """Return the UTC days `[first, last)` that hold a window."""
    return start.date(), (end + _DAY - timedelta(microseconds=1)).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def _is_parent(symbol: str) -> bool:
    return symbol.endswith(_PARENTS)


def _warnings(header: str) -> list[str]:
    """Return what header X-Warning says: a JSON list, or a text."""
    if not header:
        return []
    try:
        said = json.loads(header)
    except ValueError:
        return [header]
    return [str(words) for words in said] if isinstance(said, list) else [str(said)]
