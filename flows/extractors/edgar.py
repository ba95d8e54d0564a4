"""SEC EDGAR: https://www.sec.gov/search-filings/edgar-application-programming-interfaces.

An answer is everything of one company. What is kept of it is cut by the date of filing, for both schemas: that is when
a thing became known, and a restatement of an old period arrives today. A company's late publications (letters to and
from the staff bear a date that lies months back; what is filed today is not over before midnight in New York) are
asked anew in every run, so that runs one after the other lose nothing.

`acceptanceDateTime` ends in Z for every filer, but for about a quarter of them is the clock of New York (measured in
https://github.com/theOGognf/finagg/issues/64; the two recorded answers are such). EDGAR's opening hours tell which:
it accepts from 6:00 to 22:00 in New York, so nothing is accepted at 6 to 9 UTC, or at 23 to 3 in New York.
"""

import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from typing import Any
from typing import ClassVar
from typing import Final
from typing import Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import Field
from pydantic import field_validator

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import Batch
from flows.extractors.base import Listing
from flows.extractors.http import HttpExtractor
from flows.extractors.http import HttpOptions
from flows.extractors.http import asked
from flows.extractors.http import plain_url
from flows.formats.records import Shape
from flows.formats.records import batch
from flows.formats.times import Clock
from flows.job import Job
from flows.job import Request
from flows.landing import LandedPage
from flows.limits import Quota
from flows.web import Answer
from flows.web import Call
from flows.web import Web

_PATHS: Final = {"filings": "submissions/CIK{}.json", "fundamentals": "api/xbrl/companyfacts/CIK{}.json"}
_FILING: Final = {
    "ts_event": "accepted", "filing": "accessionNumber", "form": "form", "filed": "filed", "period_end": "period",
    "items": "items", "document": "primaryDocument", "description": "primaryDocDescription", "size": "size",
}  # fmt: skip
_FACT: Final = {
    "ts_event": "end", "concept": "concept", "unit": "unit", "period_start": "start", "filing": "accn",
    "filed": "filed", "value": "val", "form": "form", "fiscal_year": "fy", "fiscal_period": "fp",
}  # fmt: skip
_NEW_YORK: Final = "America/New_York"
#: days after their filing by which reported figures are in; EDGAR promises a minute
_FIGURES_LATE: Final = 3
#: an even pace: a burst of ten and ten a second would be twenty in the first second, and the SEC bans for ten minutes
_PACE: Final[Mapping[str, float]] = {"pace": 1.0}
#: hours at which nothing is accepted if the clock is UTC (EDGAR opens at 10), and if it is New York's (it closes at 22)
_NOT_UTC: Final = ("06", "07", "08", "09")
_NOT_NEW_YORK: Final = ("23", "00", "01", "02")
_CIK: Final = re.compile(r"\d{1,10}")


class EdgarOptions(HttpOptions):
    """Options of a source of vendor `edgar`."""

    base_url: str = Field("https://data.sec.gov", description="Where filings and figures are.")
    www_url: str = Field("https://www.sec.gov", description="Where the list of tickers is.")
    user_agent: str = Field(
        description="Who asks, as the SEC demands it: Company contact@mail. Without it every request is refused."
    )
    since: date = Field(date(1993, 1, 1), description="Nothing filed before this day is asked.")
    accepted: Literal["evidence", "UTC", "New York"] = Field(
        "evidence",
        description="Clock of the time of acceptance: what EDGAR's opening hours show for each filer (UTC, as it says,"
        " where they show nothing), or always one of the two.",
    )
    late_days: int = Field(
        180, ge=0, le=3660, description="Filings of so many last days are asked anew each run: some appear that late."
    )
    attempts: int = Field(
        12, ge=1, le=100, description="Times a failing request is sent; a ban of ten minutes needs eleven."
    )

    @field_validator("www_url")
    @classmethod
    def _is_plain_too(cls, value: str) -> str:
        return plain_url(value, ("http", "https"))

    @field_validator("user_agent")
    @classmethod
    def _names_a_contact(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable() and re.fullmatch(r"\S.*\s\S+@\S+\.\S+", value)):
            raise ValueError("accepted: a name and an address for mail, e.g. Example Research data@example.com")
        return value


class EdgarExtractor(HttpExtractor):
    """Filings of a company, and the figures in them."""

    name = "edgar"
    label = "SEC EDGAR"
    doc = (
        "Filings of US filers and the figures they report, restatements beside them. Free; symbols are CIKs or tickers."
    )
    schemas = tuple(_PATHS)
    Options: ClassVar[type[HttpOptions]] = EdgarOptions
    value_options = ("accepted",)
    quotas = (Quota("pace", 1, 0.1),)
    refusals = (
        ("Undeclared Automated Tool", AuthFailed),
        ("Request Rate Threshold Exceeded", RateLimited),
        ("<Code>NoSuchKey</Code>", UnknownSymbol),
    )

    def headers(self) -> Mapping[str, str]:
        return {"user-agent": self.options.user_agent}

    def window_column(self, schema: Schema) -> str:
        """Return `filed` for both schemas: an answer of tomorrow differs from today's by what is filed in between."""
        return "filed"

    def requests(self, job: Job) -> Iterator[Request]:
        """Cut a job into companies, and each into what will not change and what is asked anew in every run."""
        now = datetime.now(UTC)
        today = datetime.combine(now.astimezone(ZoneInfo(_NEW_YORK)), datetime.min.time(), UTC)
        final = today - timedelta(days=self.options.late_days if job.schema == "filings" else _FIGURES_LATE)
        for request in super().requests(job):
            for one in request.instruments:
                if one.start < min(one.end, final):
                    yield replace(request, instruments=(replace(one, end=min(one.end, final)),))
                if one.end > final:
                    # covers nothing but itself: the next run has another name for it
                    open_part = replace(one, start=max(one.start, final))
                    yield replace(request, instruments=(open_part,), identity=f"as of {now.isoformat()}")

    def calls(self, request: Request) -> Iterator[Call]:
        for _, symbol, _, _ in asked(request):
            number = symbol.zfill(10) if _CIK.fullmatch(symbol) else quote(symbol, safe="")
            yield Call(_PATHS[request.job.schema].format(number), facts={"symbol": symbol}, costs=_PACE)

    def following(self, request: Request, call: Call, answer: Answer) -> Call | None:
        if request.job.schema != "filings":
            return None
        facts = dict(call.facts)
        if "rest" not in facts:
            said = self.json_of(answer)["filings"]
            facts["clock"] = self._clock(said["recent"]["acceptanceDateTime"])
            facts["rest"] = [
                [older["name"], older["filingCount"]]
                for older in said["files"]
                if _day(older["filingFrom"]) < request.end and _day(older["filingTo"]) >= request.start
            ]
        if not facts["rest"]:
            return None
        (name, facts["count"]), *facts["rest"] = facts["rest"]
        return Call(f"submissions/{quote(name, safe='')}", facts=facts, costs=_PACE)

    def ask(self, call: Call) -> Answer:
        symbol = call.facts.get("symbol", "")
        if symbol and "rest" not in call.facts and not _CIK.fullmatch(symbol):
            # the path names the ticker, so that it can be quoted and resumed without asking for the list
            call = replace(call, path=call.path.replace(f"CIK{quote(symbol, safe='')}.", f"CIK{self._cik(symbol)}."))
        with self._explained():
            return super().ask(call)

    def judge(self, call: Call, answer: Answer) -> None:
        if answer.content.lstrip().startswith(b"<"):
            # the pages that come with 403 have been seen with 200, too
            for pattern, _ in self.refusals:
                if found := re.search(pattern, answer.content.decode("utf-8", "replace")):
                    raise self.refuse(found[0], answer.headers)
        said = self.json_of(answer)
        if call.path.startswith("submissions/"):
            lengths = {len(values) for values in _columns(said).values()}
            if len(lengths) > 1 or max(lengths, default=0) < call.facts.get("count", 0):
                raise TransientError(
                    f"{self.web.name}: {call.path} is not whole: its columns have {sorted(lengths)} rows"
                )

    def parse(self, page: LandedPage, state: dict[str, Any]) -> Iterator[Batch]:
        facts = page.manifest.facts
        schema = schema_called(page.request["schema"])
        said = Answer(page.read()).json()
        if schema.name == "filings":
            columns = _columns(said)
            clock = facts.get("clock") or self._clock(columns["acceptanceDateTime"])
            rows = zip(*columns.values(), strict=True)
            records = [_filing(dict(zip(columns, row, strict=True)), clock) for row in rows]
            yield batch(schema, records, Shape(_FILING, Clock(zone=clock)), facts["symbol"])
        else:
            records = [
                {**fact, "concept": f"{taxonomy}:{concept}", "unit": unit}
                for taxonomy, concepts in said["facts"].items()
                for concept, about in concepts.items()
                for unit, figures in about["units"].items()
                for fact in figures
            ]
            yield batch(schema, records, Shape(_FACT, Clock()), facts["symbol"])

    def discover(self, text: str) -> Iterator[Listing]:
        """Yield the companies with a ticker whose name, ticker or CIK has the text in it, each once, by CIK."""
        tickers: dict[str, list[str]] = {}
        titles: dict[str, str] = {}
        for row in self._listed():
            number = str(row["cik_str"]).zfill(10)
            tickers.setdefault(number, []).append(row["ticker"])
            titles[number] = row["title"]
        for number, own in tickers.items():
            name = f"{titles[number]} ({', '.join(own)})"
            if text.upper() in f"{number} {name}".upper():
                yield Listing(number, "equity", name)

    def check(self) -> list[str]:
        listed = self._listed()
        self.ask(Call(_PATHS["filings"].format(str(listed[0]["cik_str"]).zfill(10)), costs=_PACE))
        return [f"{self.options.www_url} lists {len(listed):,} tickers", f"{self.options.base_url} answers"]

    @cached_property
    def www(self) -> Web:
        """The way to the other host, within the same limits."""
        web = self.web
        return Web(
            web.name, self.options.www_url, self.limiter, web.bounds, headers=self.headers(), refusals=self.refusals
        )

    def _listed(self) -> list[Any]:
        call = Call("files/company_tickers.json", costs=_PACE)
        with self._explained():
            answer = self.www.fetch(call)
            self.judge(call, answer)
        return list(self.json_of(answer).values())

    def _cik(self, ticker: str) -> str:
        if ticker.upper() not in self._ciks:
            # the list may have grown since it was read
            del self._ciks
        if ticker.upper() not in self._ciks:
            raise UnknownSymbol(f"{self.web.name}: {self.options.www_url} lists no ticker {ticker!r}; give the CIK")
        return self._ciks[ticker.upper()]

    @cached_property
    def _ciks(self) -> dict[str, str]:
        return {row["ticker"].upper(): str(row["cik_str"]).zfill(10) for row in self._listed()}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (AuthFailed, NotEntitled) as error:
            # everything is free: what the SEC refuses is who does not say whom to write to
            raise AuthFailed(f"{error}; option user_agent is {self.options.user_agent!r}") from None

    def _clock(self, accepted: list[str]) -> str:
        """Return the zone of a filer's times of acceptance, by the hours at which EDGAR is closed."""
        if self.options.accepted != "evidence":
            return "UTC" if self.options.accepted == "UTC" else _NEW_YORK
        hours = Counter(text[11:13] for text in accepted if "T00:00:00" not in text)
        utc = sum(hours[hour] for hour in _NOT_NEW_YORK)
        return _NEW_YORK if sum(hours[hour] for hour in _NOT_UTC) > utc else "UTC"


def _columns(said: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = said["filings"]["recent"] if "filings" in said else said
    return columns


def _filing(row: dict[str, Any], clock: str) -> dict[str, Any]:
    """Return a filing's fields; what EDGAR leaves empty is none, and only the time of acceptance has a clock."""
    fields = {name: None if value == "" else value for name, value in row.items()}
    accepted = fields.get("acceptanceDateTime")
    fields["accepted"] = accepted.removesuffix("Z") if accepted else None
    for name, dated in (("filed", "filingDate"), ("period", "reportDate")):
        fields[name] = f"{fields[dated]}T00:00:00Z" if fields.get(dated) else None
    return fields


def _day(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
