"""The conversation over one connection: what to say next, and what the vendor's answers mean. No network, no clock:
both are the caller's.

connect → greeting → login → subscriptions, one request after the other → whatever comes. A request that is refused as a
whole is asked again in halves, so that one wrong channel costs no other.
"""

import re
from collections import deque
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Final
from typing import Protocol

from catalog.errors import AuthFailed
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.feeds import templates
from flows.feeds.feed import ENDS
from flows.feeds.feed import Answer
from flows.feeds.feed import Feed
from flows.feeds.feed import steps
from flows.feeds.templates import Known
from flows.formats.records import dig
from flows.frames import Channel
from flows.frames import Told
from flows.web import read_json

_ERRORS: Final[Mapping[str, type[DataflowError]]] = {
    "auth": AuthFailed, "entitlement": NotEntitled, "limit": RateLimited, "again": TransientError,
}  # fmt: skip
_WORD: Final = re.compile(r"[^\s,;'\"]+[^\s,;'\".:]")
#: what is said of no connection
_DATA: Final = ("nothing", "kept")


class Speaker(Protocol):
    """Who has the conversation."""

    def secret(self, ending: str) -> str:
        """Return a secret."""

    def scrub(self, text: str) -> str:
        """Return a text without secrets."""

    def wire(self, channel: Channel) -> str:
        """Return the vendor's name of a channel."""

    def objection(self, channel: Channel) -> str:
        """Return why a channel cannot be asked; empty where it can."""


@dataclass(slots=True)
class _Request:
    """One message about channels; `open` are those without an answer."""

    channels: tuple[Channel, ...]
    subscribes: bool = True
    number: int = 0
    open: set[Channel] = field(default_factory=set)
    until: float = 0.0


class Talk:
    """One connection's conversation. Times are seconds of a clock that never goes back, but for `received`."""

    def __init__(self, feed: Feed, name: str, speaker: Speaker, patience: float, now: float) -> None:
        self.feed = feed
        self.name = name
        #: what the vendor says where it is about to go
        self.leaving = ""
        self._speaker = speaker
        self._patience = patience
        heard = [answer for answer in feed.answers if answer.means not in _DATA]
        self._answers = tuple(heard)
        self._markers = tuple(dict.fromkeys(marker for answer in heard for marker in answer.markers))
        self._acknowledges = bool(feed.meaning("subscribed"))
        self._hears_ends = bool(feed.meaning("subscribed", "unsubscribed"))
        #: what channels are called that were ever asked
        self._names: set[str] = set()
        # greeting, login, answer (to the login), open
        self._stage = "greeting" if feed.meaning("greeting") else "login"
        self._until = now + patience
        self._todo: deque[_Request] = deque()
        self._asked: _Request | None = None
        self._held: set[Channel] = set()
        self._dropped: set[Channel] = set()
        self._number = 0
        self._free = now
        self._beat = now + feed.heartbeat_seconds

    # -- what is said ---------------------------------------------------------------------------------------------

    def change(self, added: Iterable[Channel], removed: Iterable[Channel]) -> dict[Channel, str]:
        """Subscribe to some channels and no longer to others; return those that cannot be asked, with the reason."""
        gone, asked = set(removed), self._asked.open if self._asked and self._asked.subscribes else set()
        for request in self._todo:
            if request.subscribes:
                request.channels = tuple(one for one in request.channels if one not in gone)
        self._dropped |= gone & asked
        ended = self._held & gone
        self._held -= gone
        if self.feed.unsubscribe is not None:
            # what two schemas come from stays for the other
            stay = {self._named(one) for one in self._held}
            self._request([one for one in ended if self._named(one) not in stay], subscribes=False)
        wanted: list[Channel] = []
        refused: dict[Channel, str] = {}
        count = len(self._held) + len(asked) + sum(len(one.channels) for one in self._todo if one.subscribes)
        for channel in sorted(added, key=_order):
            if reason := self._speaker.objection(channel):
                refused[channel] = reason
            elif self.feed.most and count + len(wanted) >= self.feed.most:
                refused[channel] = f"a connection has at most {self.feed.most:,} channels"
            else:
                wanted.append(channel)
        self._dropped -= set(wanted)
        self._request([channel for channel in wanted if channel not in asked], subscribes=True)
        return refused

    def due(self, now: float, received: int) -> tuple[str | None, list[Told]]:
        """Return what is to be said now, and what is known by now without an answer.

        Raises TransientError where the vendor should have answered.
        """
        told = self._overdue(now, received)
        said = self._next(now) if now >= self._free else None
        if said is not None and self.feed.pace:
            self._free = now + 1 / self.feed.pace
        if self._asked and not self._asked.subscribes and not self._hears_ends:
            self._asked = None
        elif self._asked and not self._acknowledges:
            told += self._answered(set(self._asked.open), received)
        return said, told

    def wait(self, now: float) -> float:
        """Return the seconds until something may be due."""
        times = [now + 60.0]
        if self._stage != "open":
            times.append(self._free if self._stage == "login" else self._until)
        elif self._asked:
            times.append(self._asked.until)
        elif self._todo:
            times.append(self._free)
        if self._stage == "open" and self.feed.heartbeat is not None:
            times.append(max(self._beat, self._free))
        return max(0.0, min(times) - now)

    def _next(self, now: float) -> str | None:
        if self._stage == "login":
            self._stage = "answer" if self.feed.meaning("authenticated") else "open"
            self._until = now + self._patience
            if self.feed.auth is not None:
                return templates.message(self.feed.auth, Known(self._speaker.secret))
        if self._stage != "open":
            return None
        if self.feed.heartbeat is not None and now >= self._beat:
            self._beat = now + self.feed.heartbeat_seconds
            self._number += 1
            return templates.message(self.feed.heartbeat, Known(self._speaker.secret, number=self._number))
        while self._todo and self._asked is None:
            request = self._todo.popleft()
            if request.channels:
                return self._ask(request, now)
        return None

    def _ask(self, request: _Request, now: float) -> str:
        self._number += 1
        request.number, request.open, request.until = self._number, set(request.channels), now + self._patience
        self._asked = request
        names: dict[str, list[str]] = {"": []}
        for channel in request.channels:
            name = self._speaker.wire(channel)
            for schema in ("", channel.schema):
                if name not in names.setdefault(schema, []):
                    names[schema].append(name)
        self._names.update(names[""])
        template = self.feed.subscribe if request.subscribes else self.feed.unsubscribe
        return templates.message(template, Known(self._speaker.secret, names, self._number))

    # -- what is heard --------------------------------------------------------------------------------------------

    def concerns(self, content: bytes) -> bool:
        """Whether a message may be about the connection: data need not be decoded to be known as such."""
        # a loop of its own: this is asked of every message
        for marker in self._markers:  # noqa: SIM110
            if marker in content:
                return True
        return False

    def heard(self, content: bytes, received: int) -> list[Told]:
        """Return what a message says about the connection; raises what ends it."""
        try:
            said = read_json(content)
        except (ValueError, RecursionError):
            # it is landed, and will be quarantined
            return []
        told: list[Told] = []
        for record in said if isinstance(said, list) else [said]:
            for answer in self._answers:
                if answer.fits(record):
                    told += self._understood(answer, record, received)
        return told

    def _understood(self, answer: Answer, record: Any, received: int) -> list[Told]:
        words = self._speaker.scrub(answer.words(record))
        if answer.means in ENDS:
            raise _ERRORS[answer.means](f"{self.name}: {words}")
        if answer.means in ("subscribed", "unsubscribed", "refused"):
            return self._requested(answer, record, words, received)
        if answer.means == "alive":
            return [Told(received)]
        if answer.means == "lost":
            return [Told(received, lost=words)]
        if answer.means == "leaving":
            self.leaving = words
        elif answer.means == "greeting" and self._stage == "greeting":
            self._stage = "login"
        elif answer.means == "authenticated" and self._stage == "answer":
            self._stage = "open"
        return []

    def _requested(self, answer: Answer, record: Any, words: str, received: int) -> list[Told]:
        """Take an answer to a request."""
        asked = self._asked
        if asked is None or not _is_of(answer, record, asked):
            return [Told(received, note=words)] if answer.means == "refused" else []
        if not asked.subscribes:
            if answer.means == "unsubscribed":
                self._settle(self._meant(answer, record, asked))
            elif answer.means == "refused" or not self.feed.meaning("unsubscribed"):
                self._settle(set(asked.open))
            return []
        if answer.means == "subscribed":
            return self._answered(self._meant(answer, record, asked), received)
        if answer.means != "refused":
            return []
        said = set(_WORD.findall(words)) & self._names
        if answer.names or not said:
            return self._refused(self._meant(answer, record, asked), words, received, halve=not answer.names)
        # words that name a channel are about that one, which may be of an earlier request
        named = {one for one in asked.open if self._speaker.wire(one) in said}
        return self._refused(named, words, received, halve=False) or [Told(received, note=words)]

    def _meant(self, answer: Answer, record: Any, asked: _Request) -> set[Channel]:
        """Return the channels of the request that an answer is about."""
        if not answer.names:
            return set(asked.open)
        named = set(answer.named(record))
        wire = self._speaker.wire
        return {one for one in asked.open if named & {("", wire(one)), (one.schema, wire(one))}}

    def _answered(self, some: set[Channel], received: int) -> list[Told]:
        self._settle(some)
        self._held |= some
        unwanted = some & self._dropped
        self._dropped -= unwanted
        self.change((), unwanted)
        good = frozenset(some - unwanted)
        return [Told(received, acknowledged=good)] if good else []

    def _refused(self, some: set[Channel], words: str, received: int, *, halve: bool) -> list[Told]:
        self._settle(some)
        if not some:
            return []
        if halve and len(some) > 1:
            both = sorted(some, key=_order)
            middle = len(both) // 2
            self._todo.extendleft([_Request(tuple(both[middle:])), _Request(tuple(both[:middle]))])
            return []
        return [Told(received, refused=dict.fromkeys(some, words))]

    def _settle(self, some: set[Channel]) -> None:
        """Take channels as answered."""
        assert self._asked is not None
        self._asked.open -= some
        if not self._asked.open:
            self._asked = None

    def _overdue(self, now: float, received: int) -> list[Told]:
        if self._stage in ("greeting", "answer") and now >= self._until:
            what = "the connection, which it greets" if self._stage == "greeting" else "the login"
            raise TransientError(f"{self.name}: no answer to {what} in {self._patience:g} s")
        if self._asked is None or now < self._asked.until:
            return []
        asked, self._asked = self._asked, None
        if not asked.subscribes:
            return []
        if not self._held:
            about = _shown(asked.open)
            raise TransientError(f"{self.name}: no answer to the subscription to {about} in {self._patience:g} s")
        reason = f"the vendor did not answer for it in {self._patience:g} s"
        return [Told(received, refused=dict.fromkeys(asked.open, reason))]

    def _named(self, channel: Channel) -> tuple[str, str]:
        """Return what the vendor tells channels apart by: the name, and where lists are by schema, the schema too."""
        by_schema = any(name for _, name in templates.placeholders(self.feed.subscribe))
        return channel.schema if by_schema else "", self._speaker.wire(channel)

    def _request(self, channels: Iterable[Channel], *, subscribes: bool) -> None:
        self._todo += [_Request(some, subscribes) for some in _batches(sorted(channels, key=_order), self.feed.batch)]


def _is_of(answer: Answer, record: Any, asked: _Request) -> bool:
    number = dig(record, steps(answer.request)) if answer.request else None
    return number is None or str(number) == str(asked.number)


def _batches(channels: list[Channel], size: int) -> Iterator[tuple[Channel, ...]]:
    for first in range(0, len(channels), size):
        yield tuple(channels[first : first + size])


def _order(channel: Channel) -> tuple[str, str]:
    return channel.schema, channel.symbol


def _shown(channels: Collection[Channel]) -> str:
    some = [f"{one.schema} of {one.symbol!r}" for one in sorted(channels, key=_order)[:5]]
    return ", ".join(some) + (f" and {len(channels) - 5} more" if len(channels) > 5 else "")
