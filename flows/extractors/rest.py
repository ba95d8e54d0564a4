"""Any vendor with a plain JSON interface, described by options instead of code.

    base_url   https://glucose.example          path     api/v3/entries
    params     {"date$gte": "{start}", "date$lt": "{end}", "limit": "{rows}", "sort": "date"}
    times      ms                               auth     query, auth_name token
    records    result                           fields   {"ts_event": "date", "mg_dl": "sgv", "trend": "direction"}
    paging     offset, paging_name skip         page_rows 1000

Templates know `{symbol}`, `{start}`, `{end}` (exclusive), `{last}` (one unit before the end, for vendors whose end is
inclusive) and `{rows}`; nothing in them is evaluated. Places in an answer are field names joined by points.
"""

import re
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from pydantic import field_validator

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import SchemaMismatch
from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import known_zone
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import units
from flows.extractors.http import zulu
from flows.formats.records import Place
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.records import column
from flows.formats.records import dig
from flows.formats.records import values
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.web import Answer
from flows.web import Call
from flows.web import continued

_KNOWN: Final = ("symbol", "start", "end", "last", "rows")
_PLACEHOLDER: Final = re.compile(r"{(\w*)}")
_UNITS: Final = {"s": timedelta(seconds=1), "ms": timedelta(milliseconds=1), "us": timedelta(microseconds=1)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: what option `errors` can say
MEANINGS: Final[dict[str, type[DataflowError]]] = {
    "auth": AuthFailed,
    "entitlement": NotEntitled,
    "symbol": UnknownSymbol,
    "limit": RateLimited,
}


class RestOptions(HttpOptions):
    """Options of a source of vendor `rest`."""

    path: str = Field(max_length=500, description="Below the base URL, e.g. v1/bars/{symbol}.")
    params: dict[str, str] = Field({}, description="Query: name → text with {symbol}, {start}, {end}, {last}, {rows}.")
    extra_headers: dict[str, str] = Field({}, description="Headers of every request; none of them secret.")
    times: Literal["s", "ms", "us", "iso", "date"] = Field("iso", description="How {start} and {end} are written.")
    auth: Literal["none", "bearer", "header", "query", "basic"] = Field("none", description="How PREFIX_TOKEN is sent.")
    auth_name: str = Field("", max_length=100, description="Name of the header or query parameter; basic: the user.")
    records: str = Field("", description="Where the list of records is, e.g. data.items; empty: the answer itself.")
    fields: dict[str, str] = Field(description="Our column → place in a record, e.g. open → o or prices.open.")
    constants: dict[str, str] = Field({}, description="Our column → a value that every row has.")
    time_unit: Literal["", "s", "ms", "us", "ns"] = Field("", description="Unit of times that are numbers since 1970.")
    time_format: str = Field("", max_length=60, description="strptime format; empty: ISO 8601.")
    timezone: str = Field("UTC", description="Zone of times that carry none, and of the sessions of daily bars.")
    label: Literal["open", "close"] = Field("open", description="Which instant of an intraday bar its time is.")
    symbol_field: str = Field("", description="Place of a record's symbol; empty: the one that was asked.")
    window_days: int = Field(0, ge=0, le=36_500, description="Days one request asks at most; 0: all at once.")
    page_rows: int = Field(1000, ge=1, le=1_000_000, description="Rows of a page: {rows}.")
    paging: Literal["none", "link", "token", "offset", "page"] = Field(
        "none", description="How further pages are asked: by a link, by a token, by rows to skip, or by number."
    )
    paging_place: str = Field("", description="Paging by link or token: where the answer has it.")
    paging_name: str = Field("", description="Paging by token, offset or page: the query parameter.")
    first_page: int = Field(1, ge=0, le=1, description="Paging by page: the number of the first one.")
    error_place: str = Field("", description="Where an answer of status 200 says that it is an error.")
    errors: dict[str, Literal["auth", "entitlement", "symbol", "limit"]] = Field(
        {}, description="Text in the vendor's refusals → what it means."
    )

    @field_validator("path")
    @classmethod
    def _path_is_known(cls, value: str) -> str:
        return _checked(value)

    @field_validator("params")
    @classmethod
    def _params_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: _checked(text) for name, text in value.items()}

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        return known_zone(value)


class RestExtractor(HttpExtractor):
    """A vendor described by its source's options."""

    name = "rest"
    label = "Any JSON interface"
    doc = "A simple REST interface by options: URL template, authentication, paging, where records and fields are."
    credentials = ("TOKEN",)
    Options = RestOptions
    value_options = ("path", "fields", "constants", "time_unit", "time_format", "timezone", "label")

    def headers(self) -> Mapping[str, str]:
        options = self.options
        if options.auth == "bearer":
            return {**options.extra_headers, "Authorization": f"Bearer {self.secret('TOKEN')}"}
        if options.auth == "header":
            return {**options.extra_headers, options.auth_name: self.secret("TOKEN")}
        return dict(options.extra_headers)

    def secret_params(self) -> Mapping[str, str]:
        return {self.options.auth_name: self.secret("TOKEN")} if self.options.auth == "query" else {}

    def auth(self) -> tuple[str, str] | None:
        return (self.options.auth_name, self.secret("TOKEN")) if self.options.auth == "basic" else None

    def refusal_patterns(self) -> tuple[tuple[str, type[DataflowError]], ...]:
        return tuple((re.escape(text), MEANINGS[meaning]) for text, meaning in self.options.errors.items())

    def span(self, schema: Schema) -> timedelta | None:
        return timedelta(days=self.options.window_days) if self.options.window_days else None

    def requests(self, job: Job) -> Iterator[Request]:
        self._check(schema_called(job.schema))
        yield from super().requests(job)

    def calls(self, request: Request) -> Iterator[Call]:
        options = self.options
        for _, symbol, start, end in asked(request):
            known = {
                "symbol": symbol,
                "start": self._moment(start) if options.times != "date" else start.astimezone(UTC).date().isoformat(),
                "end": self._moment(end),
                "last": self._last(end),
                "rows": str(options.page_rows),
            }
            params = {name: _filled(text, known) for name, text in options.params.items()}
            if options.paging == "page":
                params[options.paging_name] = str(options.first_page)
            path = _filled(options.path, {**known, "symbol": quote(symbol, safe="")})
            yield Call(path, params, {"symbol": symbol})

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        options = self.options
        said = self.json_of(answer)
        rows = len(self._records(said))
        if options.paging in ("link", "token"):
            onward = dig(said, options.paging_place.split("."))
            if not onward:
                return None
            if options.paging == "link":
                return continued(call, str(onward), options.base_url)
            return replace(call, params={**call.params, options.paging_name: str(onward)})
        if options.paging == "none":
            if rows < options.page_rows:
                return None
            raise PermanentError(
                f"{self.web.name}: an answer has {rows} records, as many as were asked for: there may be more."
                " Set option paging, or a smaller window_days"
            )
        if not rows:
            # only an empty page is the end: vendors give fewer rows than they are asked for
            return None
        step = rows if options.paging == "offset" else 1
        at = int(call.params.get(options.paging_name, "0")) + step
        return replace(call, params={**call.params, options.paging_name: str(at)})

    def judge(self, call: Call, answer: Answer) -> None:
        said = self.json_of(answer)
        if self.options.error_place and (words := dig(said, self.options.error_place.split("."))):
            raise self.refuse(str(words), answer.headers)
        self._records(said)

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        options = self.options
        schema = schema_called(page.request["schema"])
        records = self._records(Answer(page.read()).json())
        if not records:
            return
        clock = Clock(
            options.time_unit, options.time_format, options.timezone, options.label, timeframe=schema.timeframe
        )
        shape = Shape({name: _place(place) for name, place in options.fields.items()}, clock, options.constants)
        if options.symbol_field:
            found = column(values(records, _place(options.symbol_field)))
            yield batch(schema, records, shape, [None if word is None else str(word) for word in found.to_pylist()])
        else:
            yield batch(schema, records, shape, page.manifest.facts["symbol"])

    def _records(self, said: Any) -> list[Any]:
        found = dig(said, self.options.records.split(".")) if self.options.records else said
        if isinstance(found, list):
            return found
        place = repr(self.options.records) if self.options.records else "the answer itself"
        shown = self.web.scrub(str(found)[:4096])[:100]
        raise SchemaMismatch(f"{self.web.name}: {place} is no list of records: {shown!r}")

    def _check(self, schema: Schema) -> None:
        options = self.options
        given = {*options.fields, *options.constants}
        have = [one.name for one in schema.columns]
        faults = [
            f"source {self.source.name!r}: schema {schema.name!r} has no column {name!r}; have: {', '.join(have)}"
            for name in sorted(given.difference(have))
        ]
        faults += [
            f"source {self.source.name!r}: option 'fields' does not say where column {one.name!r} is"
            for one in schema.columns
            if one.name not in given and not one.null and one.absent is None
        ]
        for paging, option in (("link", "place"), ("token", "place"), ("token", "name"), ("offset", "name")):
            if options.paging == paging and not getattr(options, f"paging_{option}"):
                faults.append(f"source {self.source.name!r}: paging {paging!r} needs option 'paging_{option}'")
        if options.paging == "page" and not options.paging_name:
            faults.append(f"source {self.source.name!r}: paging 'page' needs option 'paging_name'")
        if faults:
            raise ConfigError(*faults)

    def _moment(self, moment: datetime) -> str:
        form = self.options.times
        if form in _UNITS:
            return str(units(moment, _UNITS[form]))
        if form == "date":
            # the first midnight that does not lie before it
            return (_EPOCH + timedelta(days=units(moment, timedelta(days=1)))).date().isoformat()
        return zulu(moment)

    def _last(self, end: datetime) -> str:
        """Return the last unit before an end, for vendors whose end is inclusive."""
        form = self.options.times
        if form in _UNITS:
            return str(units(end, _UNITS[form]) - 1)
        last = end - timedelta(microseconds=1)
        return last.astimezone(UTC).date().isoformat() if form == "date" else zulu(last)


def _checked(text: str) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(text)).difference(_KNOWN))
    if unknown:
        names = ", ".join(f"{{{name}}}" for name in _KNOWN)
        raise ValueError(f"{{{unknown[0]}}} means nothing here; accepted: {names}")
    return text


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: known[found[1]], text)


def _place(text: str) -> Place:
    """Return where a value is: `prices.open`, `0`, `items.2.value`."""
    steps = tuple(int(step) if step.isdecimal() else step for step in text.split("."))
    return steps[0] if len(steps) == 1 else steps
