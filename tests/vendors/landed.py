"""Puts an answer into the landing as if the vendor had sent it, and reads it as the pipeline does."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flows.job import Request
from flows.job import describe
from flows.landing import Landing
from flows.landing import Page
from flows.pipeline import refine
from flows.work import Workshop
from tests.vendors.harness import Bench
from tests.vendors.harness import Shelf
from tests.vendors.server import Row


def read(
    bench: Bench,
    schema: str,
    symbols: list[str],
    window: tuple[datetime, datetime],
    content: bytes,
    facts: Mapping[str, Any],
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Return the accepted rows of one landed answer, and (rule, reason) of the rejected ones."""
    job = bench.job(schema, symbols, *window)
    request = Request(job, job.instruments)
    landing = Landing(bench.folder)
    fetch = bench.ledger.open_fetch(request)
    landing.begin(fetch.source, fetch.id, describe(request))
    landing.write(fetch.source, fetch.id, 0, Page("application/json", [content], facts=dict(facts)))
    fetch = bench.ledger.landed(fetch, 1, len(content))
    kit = Workshop(
        bench.extractor(schema), landing, bench.ledger, lambda route, ids: Shelf(bench.rows), lambda what, count: None
    )
    rows: list[Row] = []
    rejected: list[tuple[str, str]] = []
    for batch in refine(fetch, kit):
        assert not batch.unparsable, batch.unparsable
        rows += batch.accepted.to_pylist()
        rejected += [(row["rule"], row["reason"]) for row in batch.rejected.to_pylist()]
    return rows, rejected
