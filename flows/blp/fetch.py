"""The messages of an answer as pages: one message a page, with the facts that say what it answers.

What lasts (an unknown security, no entitlement) is kept beside the rows of the other securities; what passes is
raised when everything else has landed, so that only the rest is asked again.
"""

import logging
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import astuple
from dataclasses import replace
from datetime import date
from typing import Any

from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from flows.blp import answers
from flows.blp.asks import BARS
from flows.blp.asks import TICKS
from flows.blp.asks import Ask
from flows.blp.faults import of_security
from flows.blp.progress import Rest
from flows.blp.session import Session
from flows.landing import Page

log = logging.getLogger(__name__)


def fetch(
    session: Session, wanted: Sequence[tuple[Ask, Rest]], columns: dict[str, str], today: date, *, begun: bool
) -> Iterator[Page]:
    """Yield the messages that answer the rest of each request.

    Messages that say nothing but that securities are unknown come last, and only if any other has landed (`begun`:
    in an earlier attempt); else UnknownSymbol, NotEntitled or PermanentError names every security in Bloomberg's words.
    Raises what stands for a whole request at once; TransientError for securities with trouble that passes, or of
    which the answer says nothing, at the end.
    """
    held: list[Page] = []
    refused: list[DataflowError] = []
    for ask, left in wanted:
        common = {"request": ask.operation, "ask": ask.rest, "asked": today.isoformat(), "columns": columns}
        if ask.operation in (BARS, TICKS):
            pages = _by_time(session, left, common)
        else:
            pages = _by_security(session, left, common, refused)
        for page in pages:
            if page.facts.get("refused") and page.facts["refused"] == page.facts["securities"]:
                held.append(page)
            else:
                begun = True
                yield page
    for error in refused:
        if isinstance(error, TransientError):
            raise error
    if held and not begun:
        raise _united(refused)
    yield from held


def _by_security(session: Session, left: Rest, common: dict[str, Any], refused: list[DataflowError]) -> Iterator[Page]:
    operation, missing = left.ask.operation, set(left.ask.securities)
    for number, answer in enumerate(session.ask(operation, left.ask.elements)):
        said = answers.securities(operation, answer.body)
        names = [security["security"] for security in said]
        missing -= set(names)
        errors = {
            security["security"]: of_security(security["securityError"], security["security"])
            for security in said
            if security.get("securityError")
        }
        refused += errors.values()
        for error in errors.values():
            if isinstance(error, RateLimited):
                raise error
        if any(isinstance(error, TransientError) for error in errors.values()):
            # it will be asked again, so it is not landed as an answer
            continue
        yield _page(answer.body, common | {"securities": names, "refused": list(errors), "last": answer.last}, number)
    if missing:
        silent = ", ".join(security for security in left.ask.securities if security in missing)
        refused.append(TransientError(f"{operation}: Bloomberg's answer says nothing of {silent}"))


def _by_time(session: Session, left: Rest, common: dict[str, Any]) -> Iterator[Page]:
    operation, (security,) = left.ask.operation, left.ask.securities
    position = left.position
    awaited = left.position
    for number, answer in enumerate(session.ask(operation, left.ask.elements)):
        rows, delayed = answers.intraday(operation, answer.body)
        if delayed and not number:
            log.warning("Bloomberg gives %s delayed: the latest minutes may be missing", security)
        repeated = answers.repeated(rows, awaited)
        awaited = replace(awaited, count=awaited.count - repeated)
        position = answers.advance(position, rows[repeated:])
        facts = {"securities": [security], "last": answer.last, "delayed": delayed}
        yield _page(answer.body, common | facts | {"repeated": repeated, "until": list(astuple(position))}, number)


def _page(body: dict[str, Any], facts: dict[str, Any], number: int) -> Page:
    # one request, however many messages its answer has
    return Page("application/json", [answers.as_json(body)], facts=facts, requests=int(number == 0))


def _united(errors: Sequence[DataflowError]) -> PermanentError:
    text = "; ".join(str(error) for error in errors)
    for kind in (UnknownSymbol, NotEntitled):
        if all(isinstance(error, kind) for error in errors):
            return kind(text)
    return PermanentError(text)
