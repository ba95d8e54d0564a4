"""SEC EDGAR's JSON interfaces and list of tickers (sec.gov, EDGAR Application Programming Interfaces).

Filer 320193 writes its times of acceptance on the clock of New York, filer 1318605 in UTC; both say Z.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar
from zoneinfo import ZoneInfo

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_NEW_YORK = ZoneInfo("America/New_York")
_COMPANIES = {"0000320193": ("Apple Inc.", ("AAPL",)), "0001318605": ("Tesla, Inc.", ("TSLA", "TSLA-W"))}
_WRITES_NEW_YORK = ("0000320193",)
#: filings of a page; EDGAR's own has a thousand
_PAGE = 30
_FORMS = ("4", "8-K", "10-Q", "424B2", "144", "10-K")
#: New York, around the clock that EDGAR is open; what is not Form 4 bears the next day after 17:30
_HOURS = (
    timedelta(hours=6, minutes=1),
    timedelta(hours=16, minutes=30),
    timedelta(hours=18, minutes=4),
    timedelta(hours=20),
)
UNDECLARED = b"""<!DOCTYPE html><html><head>
<title>SEC.gov | Your Request Originates from an Undeclared Automated Tool</title></head><body>
<h1>Your Request Originates from an Undeclared Automated Tool</h1></body></html>"""
TOO_FAST = b"""<!DOCTYPE html><html><head><title>SEC.gov | Request Rate Threshold Exceeded</title></head>
<body><h1>Request Rate Threshold Exceeded</h1></body></html>"""
_MISSING = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>%s</Key></Error>"""


class EdgarStandIn(StandIn):
    vendor = "edgar"
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {
        "filings": ("0000320193", "1318605"), "fundamentals": ("0000320193", "1318605"),
    }  # fmt: skip
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "filings": (datetime(2022, 1, 3, tzinfo=UTC), datetime(2023, 6, 5, tzinfo=UTC)),
        "fundamentals": (datetime(2021, 5, 3, tzinfo=UTC), datetime(2023, 2, 6, tzinfo=UTC)),
    }

    def __init__(self) -> None:
        super().__init__()
        #: what is filed up to here is known
        self.now = date(2024, 1, 1)
        #: what is filed from here on, every week
        self.began = date(2020, 1, 6)
        #: filings that bear their date, but are not public yet
        self.withheld: set[str] = set()

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/submissions/CIK(\d{10})\.json", self.submissions),
            (r"/submissions/CIK(\d{10})-submissions-(\d{3})\.json", self.overflow),
            (r"/api/xbrl/companyfacts/CIK(\d{10})\.json", self.company_facts),
            (r"/files/company_tickers\.json", self.tickers),
        )

    def options(self, schema: str) -> Row:
        return {"base_url": self.url, "www_url": self.url, "user_agent": "Example Research data@example.com"}

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        cik = symbol.zfill(10)
        if schema == "fundamentals":
            rows = [
                {
                    "ts_event": midnight(fact["end"]), "concept": f"{taxonomy}:{concept}", "unit": unit,
                    "period_start": fact.get("start", ""), "filing": fact["accn"], "filed": midnight(fact["filed"]),
                    "value": Decimal(str(fact["val"])), "form": fact["form"], "fiscal_year": fact["fy"],
                    "fiscal_period": fact["fp"],
                }
                for taxonomy, concept, unit, fact in facts(self.filings(cik))
            ]  # fmt: skip
            names = ("ts_event", "concept", "unit", "period_start", "filing")
        else:
            rows = [
                {
                    "ts_event": filing["at"], "filing": filing["accessionNumber"], "form": filing["form"],
                    "filed": midnight(filing["filingDate"]), "items": filing["items"] or None,
                    "period_end": midnight(filing["reportDate"]) if filing["reportDate"] else None,
                    "document": filing["primaryDocument"], "size": filing["size"],
                }
                for filing in self.filings(cik)
            ]  # fmt: skip
            names = ("ts_event", "filing")
        return sorted(
            (row for row in rows if start <= row["filed"] < end), key=lambda row: tuple(row[name] for name in names)
        )

    def refuse(self, asked: Asked) -> Reply | None:
        return None if "@" in asked.headers.get("user-agent", "") else Reply(UNDECLARED, 403, kind="text/html")

    def missing(self, asked: Asked) -> Reply:
        return Reply(_MISSING % asked.path.lstrip("/").encode(), 404, kind="application/xml")

    def throttled(self, seconds: float) -> Reply:
        return Reply(TOO_FAST, 429, {"Retry-After": f"{seconds:g}"}, kind="text/html")

    def filings(self, cik: str) -> list[Row]:
        return [row for row in filings(cik, self.began, self.now) if row["accessionNumber"] not in self.withheld]

    def pages(self, cik: str) -> list[list[Row]]:
        found = self.filings(cik)
        return [found[first : first + _PAGE] for first in range(0, len(found), _PAGE)]

    def submissions(self, asked: Asked) -> Reply:
        cik = asked.parts[0]
        if cik not in _COMPANIES:
            return self.missing(asked)
        pages = self.pages(cik)
        files = [
            {
                "name": f"CIK{cik}-submissions-{number:03}.json", "filingCount": len(page),
                "filingFrom": page[-1]["filingDate"], "filingTo": page[0]["filingDate"],
            }
            for number, page in enumerate(pages[1:], start=1)
        ]  # fmt: skip
        name, tickers = _COMPANIES[cik]
        recent = {"recent": _columns(pages[0]), "files": files}
        return Reply({"cik": cik, "name": name, "tickers": list(tickers), "filings": recent})

    def overflow(self, asked: Asked) -> Reply:
        cik, number = asked.parts
        pages = self.pages(cik)
        return Reply(_columns(pages[int(number)])) if int(number) < len(pages) else self.missing(asked)

    def company_facts(self, asked: Asked) -> Reply:
        cik = asked.parts[0]
        if cik not in _COMPANIES:
            return self.missing(asked)
        said: dict[str, dict[str, Row]] = {}
        for taxonomy, concept, unit, fact in facts(self.filings(cik)):
            about = said.setdefault(taxonomy, {}).setdefault(concept, {"label": concept, "units": {}})
            about["units"].setdefault(unit, []).append(fact)
        return Reply({"cik": int(cik), "entityName": _COMPANIES[cik][0], "facts": said})

    def tickers(self, asked: Asked) -> Reply:
        rows = [(int(cik), ticker, name) for cik, (name, tickers) in _COMPANIES.items() for ticker in tickers]
        return Reply(
            {str(at): {"cik_str": cik, "ticker": ticker, "title": name} for at, (cik, ticker, name) in enumerate(rows)}
        )


def midnight(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)


def filings(cik: str, began: date, now: date) -> list[Row]:
    """Return what a company filed, newest first: something every week; each third thing is a report."""
    found: list[Row] = []
    day, number = began, 0
    while day <= now:
        form, hour = _FORMS[number % len(_FORMS)], _HOURS[number % len(_HOURS)]
        # after 17:30 it bears the next day; here accepted the day before, a Sunday or not
        late = form != "4" and hour > timedelta(hours=17, minutes=30)
        local = datetime.combine(day - timedelta(days=late), datetime.min.time(), _NEW_YORK) + hour
        at = local.astimezone(UTC)
        written = local.replace(tzinfo=None) if cik in _WRITES_NEW_YORK else at.replace(tzinfo=None)
        found.append(
            {
                "at": at, "accessionNumber": f"{cik}-{day:%y}-{number:06}", "filingDate": day.isoformat(),
                "reportDate": "" if form == "424B2" else (day - timedelta(days=20)).isoformat(),
                "acceptanceDateTime": f"{written.isoformat()}.000Z", "act": "34", "form": form,
                "fileNumber": "001-36743", "filmNumber": "", "core_type": form,
                "items": "2.02,9.01" if form == "8-K" else "",
                "size": int(market.price(cik, at) * 1000), "isXBRL": 0, "isInlineXBRL": 0,
                "primaryDocument": f"document{number}.htm", "primaryDocDescription": f"FORM {form}",
            }
        )  # fmt: skip
        day, number = day + timedelta(days=7), number + 1
    return found[::-1]


def facts(known: list[Row]) -> list[tuple[str, str, str, Row]]:
    """Return the figures in the reports of these: each tells its quarter and, often corrected, an earlier one."""
    found: list[tuple[str, str, str, Row]] = []
    for filing in reversed(known):
        if filing["form"] not in ("10-Q", "10-K"):
            continue
        filed = date.fromisoformat(filing["filingDate"])
        end = date.fromisoformat(filing["reportDate"])
        about = {
            "accn": filing["accessionNumber"], "fy": filed.year, "fp": "FY" if filing["form"] == "10-K" else "Q1",
            "form": filing["form"], "filed": filing["filingDate"],
        }  # fmt: skip
        # of four reports ago: the same period in another filing
        for back in (0, 84):
            last = end - timedelta(days=back)
            value = (
                int(market.price(filing["accessionNumber"][:10], midnight(last.isoformat())) * 10_000_000)
                + filed.toordinal() % 5
            )
            span = {"start": (last - timedelta(days=90)).isoformat(), "end": last.isoformat()}
            found.append(("us-gaap", "Revenues", "USD", {**span, "val": value, **about}))
            found.append(
                ("us-gaap", "EarningsPerShareBasic", "USD/shares", {**span, "val": value % 997 / 100, **about})
            )
            found.append(("us-gaap", "Assets", "USD", {"end": last.isoformat(), "val": value * 1000, **about}))
    return found


def _columns(rows: list[Row]) -> dict[str, list[object]]:
    return {name: [row[name] for row in rows] for name in rows[0] if name != "at"}
