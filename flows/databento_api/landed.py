"""Which call a page answers, and what of the answer it is: written when it lands, read when a fetch goes on. Pure."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from typing import Any

from catalog.errors import OtherQuestion
from flows.landing import LandedPage
from flows.web import Call


def facts(call: Call, kind: str) -> dict[str, Any]:
    """Return what a page says of itself: which call it answers, and what of the answer it is."""
    return {"call": call.key, "kind": kind, "received": datetime.now(UTC).isoformat()}


def by_call(calls: Iterable[Call], landed: Sequence[LandedPage], name: str) -> Iterator[tuple[Call, list[LandedPage]]]:
    """Yield each call with what has landed of its answer; OtherQuestion where a page answers none of them."""
    wanted = {call.key: call for call in calls}
    have: dict[str, list[LandedPage]] = {key: [] for key in wanted}
    for page in landed:
        if page.manifest.facts.get("call") not in have:
            raise OtherQuestion(
                f"{name}: what landed of fetch {page.manifest.fetch} answers another question than is asked now: the"
                " source's options have changed since"
            )
        have[page.manifest.facts["call"]].append(page)
    for key, call in wanted.items():
        yield call, have[key]
