"""Recorded answers of EDGAR against an independent reading of the same JSON.

Not here, because no schema has their rows: ownership forms and 13F (form3, form4, 13F-HR, primarydoc: XML of single
documents), `0001213900-24-004875-index.json` (files of one filing).
"""

import json
from collections import Counter
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.errors import UnknownSymbol
from catalog.keys import InstrumentName
from catalog.schemas import schema as schema_called
from flows.extractors.base import Context
from flows.extractors.edgar import EdgarExtractor
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.job import describe
from flows.landing import Landing
from flows.landing import Page
from flows.memory import MemoryLedger
from flows.pipeline import refine
from flows.work import Workshop
from tests.vendors.edgar import EdgarStandIn
from tests.vendors.harness import Bench
from tests.vendors.server import Reply

pytestmark = pytest.mark.corpus

SUBMISSIONS = {
    "company_submission.json": 1001, "test_get_entity_by_ticker.yaml": 1005, "test_get_company_with_no_filings.yaml": 0,
}  # fmt: skip
FACTS = {"lpa_facts.json": 768, "TestCompanyTTMIntegration.test_ttm_ready_facts_are_cached.yaml": 24_579}
START, END = datetime(1990, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def recorded(corpus: Path, name: str) -> bytes:
    """Return the body that was recorded."""
    content = (corpus / "edgar" / name).read_bytes()
    if name.endswith(".json"):
        return content
    (interaction,) = yaml.load(content, yaml.CSafeLoader)["interactions"]
    body: str = interaction["response"]["body"]["string"]
    return body.encode()


def refined(folder: Path, schema: str, content: bytes, **options: object) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows that a landed answer becomes, and what was refused."""
    source = SourceFacts(1, "sec", "edgar", {"user_agent": "Example data@example.com", **options})
    company = InstrumentFacts(1, InstrumentName("sec", "equity", "1"), (SymbolInterval("1"),), START, END)
    job = Job(source, schema, (company,), ())
    extractor = EdgarExtractor(source, Context())
    (request, *_) = extractor.requests(job)
    ledger, landing = MemoryLedger(), Landing(folder)
    fetch = ledger.open_fetch(request)
    landing.begin("sec", fetch.id, describe(Request(job, (company,))))
    landing.write("sec", fetch.id, 0, Page("application/json", [content], facts={"symbol": "1"}))
    kit = Workshop(extractor, landing, ledger, lambda route, ids: pytest.fail("nothing is delivered"))
    batches = list(refine(fetch, kit))
    assert not any(batch.unparsable for batch in batches)
    rows = [row for batch in batches for row in batch.accepted.to_pylist()]
    return rows, [reason for batch in batches for reason in batch.rejected["reason"].to_pylist()]


def midnight(text: str) -> datetime | None:
    return datetime.fromisoformat(f"{text}T00:00+00:00") if text else None


@pytest.mark.parametrize("name", FACTS)
def test_every_fact_is_a_row(corpus: Path, tmp_path: Path, name: str) -> None:
    content = recorded(corpus, name)
    rows, refused = refined(tmp_path, "fundamentals", content)
    assert (len(rows), refused) == (FACTS[name], [])
    expected = Counter(
        (
            f"{taxonomy}:{concept}", unit, fact.get("start", ""), midnight(fact["end"]), fact["accn"],
            midnight(fact["filed"]), Decimal(fact["val"]), fact["form"], fact["fy"], fact["fp"],
        )
        for taxonomy, concepts in json.loads(content, parse_float=Decimal)["facts"].items()
        for concept, about in concepts.items()
        for unit, facts in about["units"].items()
        for fact in facts
    )  # fmt: skip
    names = (
        "concept",
        "unit",
        "period_start",
        "ts_event",
        "filing",
        "filed",
        "value",
        "form",
        "fiscal_year",
        "fiscal_period",
    )
    assert Counter(tuple(row[name] for name in names) for row in rows) == expected


@pytest.mark.parametrize(("name", "restated"), [("lpa_facts.json", 23), (list(FACTS)[1], 425)])
def test_the_key_tells_every_fact_from_every_other(corpus: Path, tmp_path: Path, name: str, restated: int) -> None:
    rows, _ = refined(tmp_path, "fundamentals", recorded(corpus, name))
    key = schema_called("fundamentals").key
    assert len({tuple(row[column] for column in key) for row in rows}) == len(rows)
    periods: dict[Any, set[Decimal]] = {}
    for row in rows:
        periods.setdefault(tuple(row[column] for column in key if column != "filing"), set()).add(row["value"])
    assert sum(len(values) > 1 for values in periods.values()) == restated


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_filing_is_a_row(corpus: Path, tmp_path: Path, name: str) -> None:
    content = recorded(corpus, name)
    rows, refused = refined(tmp_path, "filings", content, accepted="UTC")
    recent = json.loads(content)["filings"]["recent"]
    assert (len(rows), refused) == (SUBMISSIONS[name], [])
    assert len({row["filing"] for row in rows}) == len(rows)
    expected = {
        number: (
            datetime.fromisoformat(recent["acceptanceDateTime"][at]), recent["form"][at],
            midnight(recent["filingDate"][at]), midnight(recent["reportDate"][at]), recent["items"][at] or None,
            recent["primaryDocument"][at] or None, recent["primaryDocDescription"][at] or None, recent["size"][at],
        )
        for at, number in enumerate(recent["accessionNumber"])
    }  # fmt: skip
    names = ("ts_event", "form", "filed", "period_end", "items", "document", "description", "size")
    assert {row["filing"]: tuple(row[name] for name in names) for row in rows} == expected


@pytest.mark.parametrize("name", list(SUBMISSIONS)[:2])
def test_the_recorded_filers_write_the_clock_of_new_york(corpus: Path, tmp_path: Path, name: str) -> None:
    content = recorded(corpus, name)
    rows, refused = refined(tmp_path / "evidence", "filings", content)
    assert refused == []
    as_said = {row["filing"]: row["ts_event"] for row in refined(tmp_path, "filings", content, accepted="UTC")[0]}
    assert {row["ts_event"] - as_said[row["filing"]] for row in rows} == {timedelta(hours=4), timedelta(hours=5)}
    # what is not of an insider and is accepted after 17:30 bears a later day: so it is in New York, not in UTC
    same_day = [
        as_said[row["filing"]].time()
        for row in rows
        if row["form"] in ("8-K", "10-Q", "10-K") and row["filed"].date() == as_said[row["filing"]].date()
    ]
    assert len(same_day) > 100
    assert sum(time.hour * 60 + time.minute > 17 * 60 + 31 for time in same_day) <= 1


def test_a_recorded_404_is_an_unknown_company(corpus: Path, tmp_path: Path) -> None:
    body = recorded(corpus, "test_no_company_for_cik.yaml")
    with EdgarStandIn() as stand_in:
        stand_in.refuse = lambda asked: Reply(body, 404, kind="application/xml")  # type: ignore[method-assign]
        bench = Bench(stand_in, tmp_path)
        extractor = bench.extractor("filings")
        (request,) = extractor.requests(bench.job("filings", ["1"], START, START + timedelta(days=3650)))
        with pytest.raises(UnknownSymbol, match="NoSuchKey"):
            list(extractor.pages(request))
