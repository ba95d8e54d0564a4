"""What of a fetch has landed: a fetch that was stopped asks for the rest only. Pure.

The facts of a page say which request it answers (`request`, `ask`), for which securities, and whether it was the last
message of the answer. Historical and reference answers come security by security: those that have landed are not
asked again. Intraday answers come in order of time: the rest is asked from the last instant that has landed, and
`again` tells the parser how many rows of that instant come a second time.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

from flows.blp.answers import Position
from flows.blp.asks import BARS
from flows.blp.asks import TICKS
from flows.blp.asks import Ask


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a request, and how far its answer has landed."""

    ask: Ask
    position: Position


def rest(ask: Ask, landed: Iterable[Mapping[str, Any]]) -> Rest | None:
    """Return what is left of a request after the pages with these facts; None when nothing is."""
    mine = [facts for facts in landed if facts["request"] == ask.operation and facts["ask"] == ask.rest]
    if ask.operation in (BARS, TICKS):
        mine = [facts for facts in mine if facts["securities"] == list(ask.securities)]
        if any(facts["last"] for facts in mine):
            return None
        position = Position(*mine[-1]["until"]) if mine else Position()
        if not position.time:
            return Rest(ask, position)
        return Rest(replace(ask, rest=ask.rest | {"startDateTime": _aware(position.time)}), position)
    done = {security for facts in mine for security in facts["securities"]}
    if mine and not mine[-1]["last"]:
        # whether more was to come of the security that landed last nobody knows
        done -= set(mine[-1]["securities"])
    left = tuple(security for security in ask.securities if security not in done)
    return Rest(replace(ask, securities=left), Position()) if left else None


def _aware(stamp: str) -> str:
    # Bloomberg's times are UTC, with or without saying so
    return stamp if stamp.endswith("Z") or "+" in stamp[10:] or "-" in stamp[10:] else f"{stamp}+00:00"
