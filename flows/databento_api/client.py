"""One call to the vendor, its answer read as documented; what is tried again at once."""

import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

from catalog.errors import SchemaMismatch
from catalog.errors import TransientError
from flows.web import Call
from flows.web import Web

log = logging.getLogger(__name__)

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Client:
    """A way to the vendor.

    `ask` returns the JSON that a call is answered with. `patience` returns the seconds to wait after an attempt that
    failed, by its number, the seconds that the vendor asked for and a random number in [0, 1); None: give up.
    """

    web: Web
    ask: Callable[[Call], Any]
    patience: Callable[[int, float | None, float], float | None]

    def said(self, call: Call, read: Callable[[Any], Read]) -> Read:
        """Return what `read` takes from the answer to a call; SchemaMismatch where that is not in it."""
        answer = self.ask(call)
        try:
            return read(answer)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise SchemaMismatch(
                f"{self.web.name}: {call.path} says {str(answer)[:200]!r} ({type(error).__name__}: {error})"
            ) from error

    def patiently(self, ask: Callable[[], Read]) -> Read:
        """Return what `ask` does, after as many attempts as patience allows."""
        attempt = 0
        while True:
            try:
                return ask()
            except TransientError as error:
                attempt += 1
                self.pause(attempt, error)

    def pause(self, attempt: int, error: TransientError) -> None:
        """Sleep before the next attempt; raises the error when there is none."""
        seconds = self.patience(attempt, error.retry_after, random.random())
        if seconds is None:
            raise error
        log.info("%s, attempt %s: %s; trying again in %.1f s", self.web.name, attempt, error, seconds)
        self.web.limiter.sleep(seconds)


def warnings(header: str) -> list[str]:
    """Return what header X-Warning says: a JSON list, or a text."""
    if not header:
        return []
    try:
        said = json.loads(header)
    except ValueError:
        return [header]
    return [str(words) for words in said] if isinstance(said, list) else [str(said)]
