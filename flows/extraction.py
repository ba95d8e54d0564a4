"""extract: the vendor's pages into the landing, once each; no Django, no Prefect.

What has landed is not asked again, in whichever attempt or run it did. Failures that may pass are met here, for every
vendor alike; one request that fails for good, or keeps failing, does not stop the others.
"""

import logging
import random
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import OtherQuestion
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.extractors.base import SYMBOL
from flows.job import Job
from flows.job import Request
from flows.job import describe
from flows.job import undescribe
from flows.work import FetchRef
from flows.work import Outcome
from flows.work import Workshop

log = logging.getLogger(__name__)

# requests that fail one after another before the vendor is taken to be away
_FAILURES: Final = 3


def extract_missing(
    job: Job, workshop: Workshop, outcome: Outcome, landed: Callable[[FetchRef], None] = lambda fetch: None
) -> None:
    """Land every request of a job that no complete fetch covers; `landed` is told of each.

    A request that fails for good (a damaged file) is noted and does not stop the others.
    """
    failures = 0
    for request in _wanted(workshop.extractor.resolve(job), workshop, outcome):
        try:
            fetch = extract(request, workshop)
        except (AuthFailed, RateLimited):
            # no other request would fare better
            raise
        except PermanentError as error:
            outcome.errors.append(str(error))
            continue
        except TransientError as error:
            # one symbol's trouble is not that of the others, until it looks like everybody's
            outcome.transient = True
            failures += 1
            if failures >= _FAILURES:
                raise
            outcome.errors.append(str(error))
            continue
        failures = 0
        outcome.fetches += 1
        landed(fetch)


def _wanted(job: Job, workshop: Workshop, outcome: Outcome) -> Iterator[Request]:
    """Yield what is to be asked: first what was begun and not finished, then what nothing covers."""
    if not job.again:
        for fetch, request in workshop.ledger.unfinished(job):
            # where nothing has landed there is nothing to go on with
            if workshop.landing.pages(fetch.source, fetch.id):
                yield request
    for request in workshop.extractor.requests(job):
        wanted = [request] if job.again else workshop.ledger.missing(request)
        outcome.skipped += not wanted
        yield from wanted


def extract(request: Request, workshop: Workshop) -> FetchRef:
    """Land every page of a request; what has landed is not asked again, in whichever attempt it did.

    Failures that may pass are met with the vendor's patience. Raises what the vendor's border raises; the fetch then
    stays incomplete, with the reason, and goes on from its last page next time.
    """
    ledger, landing = workshop.ledger, workshop.landing
    fetch = ledger.open_fetch(request)
    landing.begin(request.job.source.name, fetch.id, describe(request))
    attempt = 0
    while True:
        before = len(landing.pages(fetch.source, fetch.id))
        try:
            return _extract_once(request, fetch, workshop)
        except OtherQuestion as error:
            # the source's options have changed since: what has landed stays, and is no part of this
            ledger.abandon(fetch, str(error))
            fetch = ledger.open_fetch(request)
            landing.begin(fetch.source, fetch.id, describe(request))
        except TransientError as error:
            pages = len(landing.pages(fetch.source, fetch.id))
            attempt = 1 if pages > before else attempt + 1
            pause = workshop.extractor.patience.pause(attempt, error.retry_after, random.random())
            ledger.failed(fetch, f"{type(error).__name__}: {error}")
            if pause is None:
                raise
            log.info("fetch %s, attempt %s: %s; trying again in %.1f s", fetch.id, attempt, error, pause)
            workshop.sleep(pause)
        except Exception as error:
            ledger.failed(fetch, f"{type(error).__name__}: {error}")
            raise


def _extract_once(request: Request, fetch: FetchRef, workshop: Workshop) -> FetchRef:
    ledger, landing = workshop.ledger, workshop.landing
    landed = landing.pages(fetch.source, fetch.id)
    size = sum(page.manifest.bytes for page in landed)
    parts = len(landed)
    pages = workshop.extractor.pages(request, landed)
    while True:
        # before something is bought: it must be allowed, and have room
        left = workshop.left()
        if left is not None and left <= 0:
            raise PermanentError(
                f"source {fetch.source!r}: the month's budget is spent; --allow-cost goes on all the same"
            )
        landing.check_room()
        page = next(pages, None)
        if page is None:
            break
        if page.requests or page.cost:
            # it is spent whether or not the page lands
            ledger.spent(fetch, page.requests, page.cost)
        manifest = landing.write(fetch.source, fetch.id, parts, page)
        workshop.fresh.add(manifest.sha256)
        parts += 1
        size += manifest.bytes
        workshop.progress("pages", 1)
    if getattr(workshop.extractor.options, "unknown_symbols", "") == "register":
        _register(request, fetch, workshop)
    done = landing.pages(fetch.source, fetch.id)
    refused = {symbol for page in done for symbol in page.manifest.facts.get("refused", ())}
    return ledger.landed(fetch, parts, size, refused)


def _register(request: Request, fetch: FetchRef, workshop: Workshop) -> None:
    """Make instruments of the symbols in the landed pages that the request does not name; again changes nothing.

    It is done before the fetch is complete: a crash on the way leaves a fetch that is gone on with, not one whose rows
    were refused.
    """
    described = undescribe(workshop.landing.request(fetch.source, fetch.id))
    known = {symbol.symbol for instrument in described for symbol in instrument.symbols}
    found: dict[str, None] = {}
    for page in workshop.landing.pages(fetch.source, fetch.id):
        try:
            for batch in workshop.extractor.parse(page, {}):
                symbols = batch.table[SYMBOL].unique().drop_null().to_pylist()
                found |= dict.fromkeys(str(symbol) for symbol in symbols)
        except (ConfigError, TransientError, MemoryError):
            raise
        except Exception:  # noqa: BLE001  # refine says what is wrong with the page
            log.info("fetch %s, page %s: no symbols to register", fetch.id, page.manifest.part)
    if new := [symbol for symbol in found if symbol not in known]:
        made = workshop.ledger.register(request, fetch, new)
        amended = replace(request, instruments=(*described, *made))
        workshop.landing.amend(fetch.source, fetch.id, describe(amended))
        workshop.registered.setdefault(request.job.schema, {}).update({facts.id: facts for facts in made})
