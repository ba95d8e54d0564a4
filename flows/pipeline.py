"""refine → deliver → run: plain functions over a ledger and a landing; no Django, no Prefect.

    refine(fetch, …)      yields refined batches of a landed fetch, always the same ones in the same order
    deliver(fetch, …)     writes those batches to routes, each from its own cursor
    run(job, …)           all of it for one job, extraction (`flows.extraction`) included

The ledger keeps the account of every fetch and route, in rows:
parsed = new + updated + unchanged + duplicate + superseded + filtered + quarantined + pending.
"""

import logging
from collections import deque
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any
from typing import Final

import pyarrow.compute as pc

from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import ConfigError
from catalog.errors import Damaged
from catalog.errors import DataflowError
from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.schemas import INSTRUMENT
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import refine as refine_rows
from flows.chunks import by_chunks
from flows.delivery import Writer
from flows.extraction import extract_missing
from flows.extractors.base import Batch
from flows.groups import frame_pages
from flows.groups import landed_groups
from flows.job import LIVE
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import undescribe
from flows.landing import LandedPage
from flows.refining import Refiner
from flows.refining import counts_repeats
from flows.refining import split
from flows.refining import strand
from flows.refining import unparsable
from flows.symbols import Symbols
from flows.work import DeliveryRef
from flows.work import FetchRef
from flows.work import Outcome
from flows.work import RefinedBatch
from flows.work import Tally
from flows.work import Workshop

log = logging.getLogger(__name__)

#: rows of a refined batch: large enough for COPY, small enough that ten of them fit in memory
BATCH_ROWS: Final = 250_000
# batches refined before they are asked for
_AHEAD: Final = 4


def run(job: Job, workshop: Workshop) -> Outcome:
    """Run one job: first what landed earlier and was not delivered, then what is missing."""
    outcome = catch_up(job, workshop)
    try:
        extract_missing(job, workshop, outcome, partial(_deliver_fetch, job, workshop, outcome))
    except DataflowError as error:
        outcome.errors.append(str(error))
    return outcome


def _deliver_fetch(job: Job, workshop: Workshop, outcome: Outcome, fetch: FetchRef) -> None:
    outcome.add(deliver(fetch, job, workshop.ledger.deliveries(job, fetch), workshop))


def catch_up(job: Job, workshop: Workshop, without: Collection[int] = ()) -> Outcome:
    """Deliver what landed earlier and some route of the job does not have, oldest fetch first.

    Fetches `without` are being delivered by somebody else.
    """
    outcome = Outcome()
    waiting: dict[int, list[DeliveryRef]] = {}
    for delivery in workshop.ledger.deliveries(job):
        if delivery.fetch.id not in without:
            waiting.setdefault(delivery.fetch.id, []).append(delivery)
    for number, deliveries in sorted(waiting.items()):
        try:
            outcome.add(deliver(deliveries[0].fetch, job, deliveries, workshop))
        except (OSError, DataflowError) as error:
            # what is wrong with the landing of one fetch keeps no other back
            log.exception("fetch %s cannot be delivered", number)
            outcome.errors.append(f"fetch {number}: {type(error).__name__}: {error}")
            outcome.transient |= isinstance(error, TransientError)
    return outcome


def refine(fetch: FetchRef, workshop: Workshop) -> Iterator[RefinedBatch]:
    """Return the refined batches of a landed fetch; the same stream each time, which is what cursors count."""
    pages = workshop.landing.pages(fetch.source, fetch.id)
    request = workshop.landing.request(fetch.source, fetch.id)
    if LIVE in request:
        # the ledger is asked here: the batches may be made in a thread that nobody closes connections of
        return _refine_frames(fetch, pages, request, workshop, workshop.ledger.cursors(fetch) or [0])
    return _refine_pages(fetch, pages, request, workshop)


def _refine_pages(
    fetch: FetchRef, pages: Sequence[LandedPage], request: dict[str, Any], workshop: Workshop
) -> Iterator[RefinedBatch]:
    instruments = undescribe(request)
    symbols = Symbols(instruments)
    facts = Facts(fetch.id, fetch.fetched_at, positive(instruments))
    quarantine_unknown = getattr(workshop.extractor.options, "unknown_symbols", "quarantine") != "filter"
    ordinals: dict[str, Ordinals] = {}
    number = 0
    for page in pages:
        try:
            if page.manifest.sha256 not in workshop.fresh:
                page.verify()
            for batch in workshop.extractor.parse(page, {}):
                state = ordinals.setdefault(batch.schema, Ordinals())
                window = workshop.extractor.window_column(schema_called(batch.schema))
                for refined in _refine_batch(batch, page, symbols, facts, state, quarantine_unknown, window):
                    yield replace(refined, number=number)
                    number += 1
        except (ConfigError, TransientError, MemoryError):
            # not the page's fault: nothing is said of it, and it is tried again
            raise
        except Exception as error:
            # whatever a parser stumbles over costs its page, which stays landed for the parser's next version
            log.exception("fetch %s, page %s cannot be parsed", fetch.id, page.manifest.part)
            reason = str(error) if isinstance(error, PermanentError) else f"{type(error).__name__}: {error}"
            schema = schema_called(fetch.schema)
            yield RefinedBatch(
                number,
                schema,
                schema.arrow.empty_table(),
                REJECTED.empty_table(),
                page.manifest.part,
                unparsable=reason,
            )
            number += 1


def _refine_frames(
    fetch: FetchRef, pages: Sequence[LandedPage], request: dict[str, Any], workshop: Workshop, cursors: list[int]
) -> Iterator[RefinedBatch]:
    """Yield what a live connection brought, from where its deliveries stand on."""
    live = workshop.live
    if live is None:
        raise ConfigError(f"fetch {fetch.id} was live, and vendor {request['vendor']!r} is not: its frames wait")
    instruments = undescribe(request)
    one = strand(fetch, live, instruments, positive(instruments), primary=request[LIVE]["primary"])
    refiner = Refiner(live, [one], request[LIVE]["schemas"])
    for page, start in frame_pages(pages, min(cursors), warm=counts_repeats(live, one.schema)):
        first, frames = page.manifest.facts["first"], page.manifest.facts["frames"]
        at = max(first, start)
        try:
            if page.manifest.sha256 not in workshop.fresh:
                page.verify()
            for group in landed_groups(page, start):
                for piece in split(group, cursors):
                    yield from refiner.refine(piece)
                    at = piece.end
        except Damaged as error:
            yield unparsable(one.schema, page.manifest.part, at, first + frames, error)


def _refine_batch(
    batch: Batch,
    page: LandedPage,
    symbols: Symbols,
    facts: Facts,
    ordinals: Ordinals,
    quarantine_unknown: bool,
    window: str,
) -> Iterator[RefinedBatch]:
    schema = schema_called(batch.schema)
    part = page.manifest.part
    if batch.rejected.num_rows or batch.left_out:
        yield RefinedBatch(
            0,
            schema,
            schema.arrow.empty_table(),
            batch.rejected,
            part,
            parsed=batch.rejected.num_rows + batch.left_out,
            filtered=batch.left_out,
        )
    for offset in range(0, batch.table.num_rows, BATCH_ROWS):
        raw = batch.table.slice(offset, BATCH_ROWS)
        table = symbols.resolve(raw, schema.time)
        if not quarantine_unknown and table[INSTRUMENT].null_count:
            table = table.filter(pc.is_valid(table[INSTRUMENT]))
        table = symbols.inside(table, window if window in table.column_names else schema.time)
        refined = refine_rows(schema, table, facts, ordinals)
        pieces = by_chunks(schema, refined.accepted)
        yield RefinedBatch(
            0,
            schema,
            pieces[0],
            refined.rejected,
            part,
            parsed=raw.num_rows - sum(piece.num_rows for piece in pieces[1:]),
            duplicates=refined.duplicates,
            filtered=raw.num_rows - table.num_rows,
            rounded=refined.rounded,
        )
        for piece in pieces[1:]:
            yield RefinedBatch(0, schema, piece, REJECTED.empty_table(), part, parsed=piece.num_rows)


def deliver(
    fetch: FetchRef,
    job: Job,
    deliveries: Sequence[DeliveryRef],
    workshop: Workshop,
    batches: Iterator[RefinedBatch] | None = None,
) -> Outcome:
    """Write the refined batches of a landed fetch to each delivery's destination, from its cursor.

    Refines the landed pages unless their `batches` are given. One failing route is noted and left pending;
    the others go on.
    """
    outcome = Outcome()
    routes = {route.destination: route for route in workshop.amended(job).routes}
    ids = {
        str(instrument.name): instrument.id
        for instrument in undescribe(workshop.landing.request(fetch.source, fetch.id))
    }
    confirmed = workshop.ledger.confirmed(fetch)
    failed: dict[Writer, Exception] = {}
    parsed: list[tuple[int, int]] = []
    with ExitStack() as stack:
        writers = [Writer(delivery, routes[delivery.destination], workshop, ids, confirmed) for delivery in deliveries]
        for writer in writers:
            _attempt(writer, partial(writer.open, stack), failed)
        with closing(_ahead(batches if batches is not None else refine(fetch, workshop))) as stream:
            for batch in stream:
                parsed.append((batch.cursor, batch.parsed))
                _keep_faults(batch, fetch, workshop, outcome)
                for writer in writers:
                    _attempt(writer, partial(writer.take, batch), failed)
                workshop.progress("rows", batch.parsed)
        for writer in writers:
            _attempt(writer, writer.finish, failed)
            name = writer.route.destination
            outcome.tallies[name] = outcome.tallies.get(name, Tally()) + writer.total
    for writer, error in failed.items():
        reason = f"{type(error).__name__}: {error}"
        left = sum(rows for end, rows in parsed if end > writer.delivery.cursor)
        workshop.ledger.finish(writer.delivery, reason, left)
        outcome.errors.append(f"destination {writer.route.destination!r}: {reason}")
        outcome.transient |= isinstance(error, TransientError)
    return outcome


def _keep_faults(batch: RefinedBatch, fetch: FetchRef, workshop: Workshop, outcome: Outcome) -> None:
    if batch.rejected.num_rows:
        workshop.ledger.quarantine(fetch, batch.part, batch.rejected)
    if batch.unparsable:
        workshop.ledger.unparsable(fetch, batch.part, batch.unparsable)
        outcome.errors.append(f"fetch {fetch.id}, page {batch.part}: {batch.unparsable}")


def _attempt(writer: Writer, step: Callable[[], object], failed: dict[Writer, Exception]) -> None:
    """Take a step of a route; its first failure is noted and it is left out from then on, the others go on."""
    if writer in failed:
        return
    try:
        step()
    except Exception as error:  # whatever a destination raises
        log.exception("destination %s failed", writer.route.destination)
        failed[writer] = error


def _ahead(batches: Iterator[RefinedBatch]) -> Generator[RefinedBatch, None, None]:
    """Refine the next batches in a thread while this one is written (decoding and writing overlap).

    Two batches ahead, or more of small ones: a destination that collects them would else be waited for.
    """
    end: Final = object()
    with ThreadPoolExecutor(1, thread_name_prefix="refine") as pool:
        upcoming = deque([pool.submit(next, batches, end)])
        while (batch := upcoming.popleft().result()) is not end:
            depth = 2 * BATCH_ROWS // max(batch.parsed, 1)  # type: ignore[attr-defined]  # `end` was compared away
            while len(upcoming) < min(max(depth, 1), _AHEAD):
                upcoming.append(pool.submit(next, batches, end))
            yield batch  # type: ignore[misc]


def positive(instruments: Iterable[InstrumentFacts]) -> frozenset[str]:
    """Return the texts of the instruments whose asset class has positive prices only."""
    return frozenset(
        str(instrument.name) for instrument in instruments if ASSET_CLASSES.get(instrument.name.asset_class, False)
    )
