"""Parents (ES.FUT): symbols that stand for many instruments, whose records come in the parent's requests. Pure."""

from dataclasses import replace
from typing import Final

from catalog.errors import PermanentError
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request

_ENDINGS: Final = (".FUT", ".OPT", ".SPOT")


def is_parent(symbol: str) -> bool:
    """Whether a symbol stands for many instruments."""
    return symbol.endswith(_ENDINGS)


def alone(job: Job) -> Job:
    """Return the job of the parents; PermanentError where there are only others."""
    parents = tuple(one for one in job.instruments if _stands_for_many(one))
    if job.instruments and not parents:
        raise PermanentError(
            f"source {job.source.name!r}: option stype_in is 'parent', and no series asks one (e.g. ES.FUT) whose"
            f" records {job.instruments[0].name} and others could be among"
        )
    return replace(job, instruments=parents)


def with_children(request: Request, job: Job) -> Request:
    """Return a request for parents with the job's other instruments, each in the part of the window it wants."""
    low, high = request.start, request.end
    children = (one for one in job.instruments if not _stands_for_many(one))
    among = (replace(one, start=max(one.start, low), end=min(one.end, high)) for one in children)
    return Request(job, (*request.instruments, *(one for one in among if one.start < one.end)))


def _stands_for_many(instrument: InstrumentFacts) -> bool:
    return any(is_parent(symbol.symbol) for symbol in instrument.symbols)
