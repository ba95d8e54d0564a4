"""Recorded answers of Databento's reference interface; recorded DBN is read in test_recorded_dbn.py."""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard

from flows.job import describe
from flows.landing import Landing
from flows.landing import Page
from flows.pipeline import refine
from flows.work import Workshop
from tests.vendors.databento import DatabentoStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import Shelf
from tests.vendors.server import Row

pytestmark = pytest.mark.corpus

#: answers that have no rows of a schema of ours, or are never asked, and why
NOT_READ = {
    "test_data.adjustment-factors.jsonl": "factors that the vendor computes from actions; no schema has them",
    "test_data.security-master.jsonl": "what a security is, with the day it was learnt; no schema has it",
    "test_data.corporate-actions-pit.jsonl": "every version of an event (pit=true); the latest is asked",
}
READ = "test_data.corporate-actions.jsonl"


@pytest.fixture
def stand_in() -> Iterator[DatabentoStandIn]:
    with DatabentoStandIn() as server:
        yield server


def at(day: str | None) -> datetime | None:
    return datetime.fromisoformat(day).replace(tzinfo=UTC) if day else None


def test_every_recorded_answer_is_read_or_listed(corpus: Path) -> None:
    have = {path.name for path in (corpus / "databento/REFERENCE").iterdir()}
    assert have == {READ, *NOT_READ}


def test_corporate_actions_are_those_of_the_file(corpus: Path, stand_in: DatabentoStandIn, tmp_path: Path) -> None:
    recorded = (corpus / "databento/REFERENCE" / READ).read_bytes()
    expected: list[Row] = []
    for line in recorded.splitlines():
        row = json.loads(line, parse_float=Decimal)
        assert row["event"] == "RSPLT"
        expected.append(
            {
                "ts_event": at(row["ex_date"]), "kind": "split", "action_id": row["event_unique_id"],
                "ratio_from": row["ratio_old"], "ratio_to": row["ratio_new"], "amount": None,
                "currency": row["rate_currency"], "record_date": at(row["record_date"]),
                "payable": at(row["payment_date"]), "description": "RSPLT CONSD",
            }
        )  # fmt: skip
    assert len(expected) == 2
    symbols = [json.loads(line)["symbol"] for line in recorded.splitlines()]
    bench = Bench(stand_in, tmp_path)
    window = (datetime(2023, 10, 1, tzinfo=UTC), datetime(2023, 11, 1, tzinfo=UTC))
    job = bench.job("corporate_actions", symbols, *window)
    landing = Landing(tmp_path)
    kit = Workshop(bench.extractor(job.schema), landing, bench.ledger, lambda route, ids: Shelf(bench.rows))
    (request,) = kit.extractor.requests(job)
    fetch = kit.ledger.open_fetch(request)
    landing.begin(fetch.source, fetch.id, describe(request))
    # as the vendor sends it
    page = Page("application/jsonl", [zstandard.compress(recorded)], compressed=True, facts={"kind": "actions"})
    landing.write(fetch.source, fetch.id, 0, page)
    rows = [row for made in refine(fetch, kit) for row in made.accepted.to_pylist()]
    assert [row["instrument"].split(":")[2] for row in rows] == symbols
    assert [{name: row[name] for name in right} for row, right in zip(rows, expected, strict=True)] == expected
