"""What vendors asked over HTTP share: options, limits, paging, resuming, errors inside good answers.

A vendor declares, and writes

    calls(request)                    the first call of each independent chain of pages, always the same ones
    following(request, call, answer)  the call for the next page, where the answer says there is one
    judge(call, answer)               what the vendor says is wrong inside an answer of status 200
    parse(page, state)                the raw rows of a landed page

and nothing about retries, limits, secrets or resuming.
"""

from abc import abstractmethod
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from ipaddress import IPv4Address
from ipaddress import IPv6Address
from ipaddress import ip_address
from itertools import islice
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field
from pydantic import field_validator

from catalog.errors import DataflowError
from catalog.errors import OtherQuestion
from catalog.errors import PermanentError
from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from catalog.schemas import Schema
from catalog.schemas import bars_end
from catalog.schemas import schema as schema_called
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.base import Patience
from flows.extractors.base import known_asset_class
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.landing import Page
from flows.limits import Limiter
from flows.limits import Quota
from flows.limits import buckets
from flows.options import Options
from flows.quotes import Quote
from flows.web import Answer
from flows.web import Bounds
from flows.web import Call
from flows.web import Web

#: calls of one request that a quote counts before it says "at least"
_COUNTED: Final = 10_000
_DAY: Final = timedelta(days=1)


class HttpOptions(Options):
    """Options that every source asked over HTTP has; a vendor gives `base_url` and the numbers their defaults."""

    base_url: str = Field(description="Where the vendor answers; a proxy, sandbox or test network goes here.")
    since: date = Field(date(2000, 1, 1), description="Nothing before this day is asked, where a series has no start.")
    unknown_symbols: Literal["filter", "quarantine", "register"] = Field(
        "quarantine",
        description="Rows of symbols no series asks for: kept in quarantine, counted as filtered, or stored:"
        " the symbols become assets of the source's series.",
    )
    unknown_asset_class: str = Field("", description="What registered symbols are; empty: as the series' other assets.")
    delay_minutes: int = Field(0, ge=0, le=100_000, description="Minutes after which the vendor has published all.")
    requests_per_minute: float = Field(0, ge=0, description="Your plan's limit; 0: the vendor's default.")
    price_per_request: Decimal = Field(Decimal(0), ge=0, description="For quotes and the monthly budget.")
    timeout: float = Field(30, gt=0, le=600, description="Seconds to wait for the vendor to go on.")
    longest_answer: float = Field(600, gt=0, description="Seconds a whole answer may take.")
    largest_answer_mb: int = Field(256, gt=0, le=65_536, description="MiB an answer may have.")
    attempts: int = Field(5, ge=1, le=100, description="Times a failing request is sent before its fetch is left.")
    first_pause: float = Field(1, ge=0, le=600, description="Seconds before the second attempt; they double.")
    longest_pause: float = Field(60, ge=0, le=3600, description="Longest wait for a vendor that asks to wait.")

    @field_validator("unknown_asset_class")
    @classmethod
    def _class_exists(cls, value: str) -> str:
        return known_asset_class(value)

    @field_validator("base_url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        return plain_url(value, ("http", "https"))


def plain_url(value: str, schemes: Sequence[str]) -> str:
    """Return an address without user, query or fragment; ValueError otherwise."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not an address: {error}") from None
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise ValueError(f"accepted: {' or '.join(schemes)}://host[:port][/path]")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("an address here has no user, password, query or fragment: secrets go into the environment")
    if any(character.isspace() or ord(character) < 32 for character in value):
        raise ValueError("an address has no spaces")
    if _is_link_local(parts.hostname):
        raise ValueError(f"{parts.hostname} is a link-local address: no vendor is there, but a cloud's secrets are")
    return value


def is_loopback(url: str) -> bool:
    """Say whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or getattr(_literal(host), "is_loopback", False)


def _is_link_local(host: str) -> bool:
    return getattr(_literal(host), "is_link_local", False)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        # a name
        return None


class HttpExtractor(BaseHistoricalExtractor):
    """A vendor asked over HTTP."""

    Options: ClassVar[type[Options]] = HttpOptions
    #: what the vendor allows: requests and its own credits or weights
    quotas: ClassVar[tuple[Quota, ...]] = ()
    #: (pattern, error): what the vendor's words in a refusal mean, where its status does not say
    refusals: ClassVar[tuple[tuple[str, type[DataflowError]], ...]] = ()
    #: symbols that one call can ask
    at_once: ClassVar[int] = 1

    # -- what a vendor says of itself -----------------------------------------------------------------------------

    @abstractmethod
    def calls(self, request: Request) -> Iterator[Call]:
        """Yield the first call of each chain of pages; the same ones for the same request, whenever it is asked."""

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        """Return the call for the page after this one; None at the end."""
        return None

    def judge(self, call: Call, answer: Answer) -> None:
        """Raise what the vendor says inside an answer of status 200; the base wants JSON where JSON was asked."""
        if call.accepts == "application/json":
            self.json_of(answer)

    def refused(self, call: Call, answer: Answer) -> Sequence[str]:
        """Return the symbols that an answer refuses while it gives others: they do not count as covered."""
        return ()

    def headers(self) -> Mapping[str, str]:
        """Return headers for every call; secrets among them come from `self.secret`."""
        return {}

    def secret_params(self) -> Mapping[str, str]:
        """Return query parameters that are secret: they are in no call, manifest or message."""
        return {}

    def auth(self) -> tuple[str, str] | None:
        """Return user and password for basic authentication."""
        return None

    def limits(self) -> Sequence[Quota]:
        """Return what the vendor allows; a vendor whose plans differ reads them from its options."""
        return self.quotas

    def refusal_patterns(self) -> Sequence[tuple[str, type[DataflowError]]]:
        """Return what the vendor's words mean; a vendor whose words are options says so here."""
        return self.refusals

    def observe(self, headers: Mapping[str, str]) -> None:
        """Read from an answer's headers what is left of a quota, and tell `self.limiter.correct`."""

    def span(self, schema: Schema) -> timedelta | None:
        """Return the window of one fetch: a day of ticks; None, all at once, for the rest."""
        return _DAY if schema.nanoseconds else None

    # -- what they all do -----------------------------------------------------------------------------------------

    @property
    def patience(self) -> Patience:
        return Patience(self.options.attempts, self.options.first_pause, self.options.longest_pause)

    @cached_property
    def limiter(self) -> Limiter:
        """The source's limits, shared by its workers."""
        quotas = tuple(self.limits())
        if self.options.requests_per_minute:
            own = Quota("requests", self.options.requests_per_minute, 60)
            quotas = (own, *(quota for quota in quotas if quota.name != "requests"))
        name = f"source {self.source.name!r}"
        return Limiter(name, quotas, buckets(f"{self.source.id}:{self.source.name}", self.context.redis_url))

    @cached_property
    def web(self) -> Web:
        """The way to the vendor."""
        options = self.options
        bounds = Bounds(options.timeout, options.longest_answer, options.largest_answer_mb << 20)
        secrets = [self.context.environ.get(f"{self.source.env_prefix}_{ending}", "") for ending in self.credentials]
        return Web(
            f"source {self.source.name!r}",
            options.base_url,
            self.limiter,
            bounds,
            headers=self.headers(),
            secret_params=self.secret_params(),
            auth=self.auth(),
            secrets=secrets,
            refusals=self.refusal_patterns(),
        )

    def ask(self, call: Call) -> Answer:
        """Return the answer to one call, once it has proved to be one."""
        answer = self.web.fetch(call)
        self.observe(answer.headers)
        self.judge(call, answer)
        return answer

    def shown(self, answer: Answer) -> str:
        """Return the beginning of an answer for a message; no secret is in it, not even a part of one."""
        return self.web.scrub(answer.content[:4096].decode("utf-8", "replace"))[:120]

    def json_of(self, answer: Answer) -> Any:
        """Return an answer's JSON. What is none is a page of a proxy or a cut answer: asking again may help."""
        try:
            return answer.json()
        except ValueError as error:
            shown = self.shown(answer)
            kind = answer.headers.get("content-type", "no content type")
            raise TransientError(f"{self.web.name}: the answer is no JSON ({kind}): {shown!r} ({error})") from None

    def refuse(self, words: str, headers: Mapping[str, str] | None = None) -> DataflowError:
        """Return the error that the vendor's words inside an answer of status 200 mean."""
        message = f"{self.web.name}: {words}"
        meant = self.web.meant(words, message, headers or {})
        return meant if isinstance(meant, DataflowError) else PermanentError(self.web.scrub(message))

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job: into days for ticks, and into as many instruments as one call can ask."""
        since = datetime.combine(self.options.since, datetime.min.time(), UTC)
        job = self._published(job)
        windows: dict[tuple[datetime, datetime], list[InstrumentFacts]] = {}
        for instrument in job.instruments:
            windows.setdefault((max(instrument.start, since), instrument.end), []).append(instrument)
        span = self.span(schema_called(job.schema))
        for (start, end), instruments in windows.items():
            for low, high in cut(start, end, span):
                for first in range(0, len(instruments), self.at_once):
                    some = instruments[first : first + self.at_once]
                    yield Request(job, tuple(replace(one, start=low, end=high) for one in some))

    def _published(self, job: Job) -> Job:
        """Return the job without what the vendor publishes later: what is not given yet must not count as covered."""
        schema = schema_called(job.schema)
        if schema.announced or not self.options.delay_minutes:
            return job
        latest = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=self.options.delay_minutes)
        if schema.timeframe:
            latest = bars_end(latest, schema.timeframe)
        some = tuple(replace(one, end=min(one.end, latest)) for one in job.instruments)
        return replace(job, instruments=some)

    def pages(self, request: Request, landed: Sequence[LandedPage] = ()) -> Iterator[Page]:
        """Yield what has not landed yet; pages that have are read for the way on, and not asked again."""
        known = iter(landed)
        for first in self.calls(request):
            call: Call | None = first
            asked_before: set[str] = set()
            while call is not None:
                if call.key in asked_before:
                    raise SchemaMismatch(
                        f"{self.web.name}: the next page of {call.path!r} is one that was asked already"
                    )
                asked_before.add(call.key)
                page = next(known, None)
                if page is None:
                    answer = self.ask(call)
                    yield self.page(call, answer)
                elif page.manifest.facts.get("call") == call.key:
                    answer = Answer(page.read())
                else:
                    raise OtherQuestion(
                        f"source {self.source.name!r}: what landed of fetch {page.manifest.fetch} answers another"
                        " question than is asked now: the source's options have changed since"
                    )
                call = self._next(request, call, answer)

    def _next(self, request: Request, call: Call, answer: Answer) -> Call | None:
        try:
            return self.following(request, call, answer)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise SchemaMismatch(
                f"{self.web.name}: the answer is not as documented ({type(error).__name__}: {error}):"
                f" {self.shown(answer)!r}"
            ) from error

    def page(self, call: Call, answer: Answer) -> Page:
        """Return an answer on its way to the landing."""
        facts = {**call.facts, "call": call.key, "received": datetime.now(UTC).isoformat()}
        if refused := self.refused(call, answer):
            facts["refused"] = list(refused)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip() or call.accepts
        return Page(kind, [answer.content], facts=facts, requests=1, cost=self.options.price_per_request)

    def quote(self, request: Request) -> Quote:
        """Return the calls of a request and what they cost by the source's own price."""
        number = sum(1 for _ in islice(self.calls(request), _COUNTED))
        follows = type(self).following is not HttpExtractor.following
        return Quote(number, None, number * self.options.price_per_request, exact=number < _COUNTED and not follows)


def cut(start: datetime, end: datetime, span: timedelta | None) -> Iterator[tuple[datetime, datetime]]:
    """Yield `[start, end)` in windows that begin at multiples of `span` since 1970: the same ones tomorrow."""
    if span is None:
        if start < end:
            yield start, end
        return
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    at = start
    while at < end:
        following = epoch + ((at - epoch) // span + 1) * span
        yield at, min(following, end)
        at = following


def asked(request: Request) -> Iterator[tuple[InstrumentFacts, str, datetime, datetime]]:
    """Yield each instrument with each symbol it had in its window, and the part of the window that is meant."""
    for instrument in request.instruments:
        for symbol in instrument.symbols:
            start, end = max(instrument.start, symbol.start), min(instrument.end, symbol.end)
            if start < end:
                yield instrument, symbol.symbol, start, end


def units(moment: datetime, unit: timedelta = timedelta(milliseconds=1)) -> int:
    """Return the first whole unit since 1970 that does not lie before a time: the bounds of `[start, end)`.

    What happens at whole units lies inside `[start, end)` exactly when it does inside `[units(start), units(end))`.
    """
    return -((datetime(1970, 1, 1, tzinfo=UTC) - moment) // unit)


def zulu(moment: datetime) -> str:
    """Return an aware time as 2024-01-02T03:04:05Z, with its fraction where it has one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
