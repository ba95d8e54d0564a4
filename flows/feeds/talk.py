"""The conversation over one connection: what to say next, and what the vendor's answers mean. No network, no clock:
both are the caller's.

connect → greeting → login → subscriptions, one request after the other → whatever comes. A request that is refused as a
whole is asked again in halves, so that one wrong channel costs no other.

Where acknowledgements name channels, a refusal that names none may be about any channel of the request, or of the one
before: first all that is acknowledged is waited for. An acknowledgement that comes too late counts all the same.
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
#: seconds without an answer after which a request is taken to have all its answers, where one refused it has not named
_QUIET: Final = 1.0
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
    #: refusals that may be about one of its channels each, or about another request
    refusals: list[str] = field(default_factory=list)
    #: when no more answers are waited for after them; None: an answer has just come
    quiet: float | None = None


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
        self._names_channels = any(answer.names for answer in feed.meaning("subscribed"))
        #: whether an acknowledgement is of no other request than it seems to be
        self._is_certain = all(answer.names or answer.request for answer in feed.meaning("subscribed"))
        #: what channels are called that were ever asked
        self._names: set[str] = set()
        # greeting, login, answer (to the login), open
        self._stage = "greeting" if feed.meaning("greeting") else "login"
        self._until = now + patience
        self._todo: deque[_Request] = deque()
        self._asked: _Request | None = None
        self._held: set[Channel] = set()
        self._dropped: set[Channel] = set()
        #: channels without an acknowledgement whose request is over, with its number where nothing answered it
        self._late: dict[Channel, int] = {}
        self._number = 0
        self._free = now
        self._beat = now + feed.heartbeat_seconds
        #: whether nothing was said since a heartbeat
        self._has_beaten = False

    # -- what is said ---------------------------------------------------------------------------------------------

    def change(self, added: Iterable[Channel], removed: Iterable[Channel]) -> dict[Channel, str]:
        """Subscribe to some channels and no longer to others; return those that cannot be asked, with the reason."""
        gone, asked = set(removed), self._asked.open if self._asked and self._asked.subscribes else set()
        for request in self._todo:
            if request.subscribes:
                request.channels = tuple(one for one in request.channels if one not in gone)
        self._dropped |= gone & (asked | self._late.keys())
        ended = self._held & gone
        self._held -= gone
        if self.feed.unsubscribe is not None:
            self._request(ended, subscribes=False)
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
            times.append(self._asked.until if self._asked.quiet is None else self._asked.quiet)
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
        beats = self.feed.heartbeat is not None and now >= self._beat
        # in turn: where few messages are heard, heartbeats would leave no room for requests
        if beats and not self._has_beaten:
            return self._heartbeat(now)
        while self._todo and self._asked is None:
            request = self._todo.popleft()
            if not request.subscribes:
                # what two schemas come from stays for the other, which may have been acknowledged meanwhile
                stay = {self._named(one) for one in self._held}
                request.channels = tuple(one for one in request.channels if self._named(one) not in stay)
            if request.channels:
                self._has_beaten = False
                return self._ask(request, now)
        return self._heartbeat(now) if beats else None

    def _heartbeat(self, now: float) -> str:
        self._beat = now + self.feed.heartbeat_seconds
        self._has_beaten = True
        self._number += 1
        return templates.message(self.feed.heartbeat, Known(self._speaker.secret, number=self._number))

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
        late = self._too_late(answer, record) if answer.means == "subscribed" else set()
        told = self._answered(late, received)
        if asked is None or not _is_of(answer, record, asked):
            # an answer that tells what is refused may tell that nothing is
            tells = answer.means == "refused" and not (answer.names and not answer.named(record))
            return [Told(received, note=words)] if tells else told
        asked.quiet = None
        if not asked.subscribes:
            if answer.means == "unsubscribed":
                self._settle(self._meant(answer, record, asked.open))
            elif answer.means == "refused" or not self.feed.meaning("unsubscribed"):
                self._settle(set(asked.open))
            return told
        if answer.means == "subscribed":
            return told + self._answered(self._meant(answer, record, asked.open), received)
        if answer.means != "refused":
            return []
        if answer.names:
            return self._refused(self._meant(answer, record, asked.open), words, received)
        if said := set(_WORD.findall(words)) & self._names:
            # words that name a channel are about that one, which may be of an earlier request
            named = {one for one in asked.open if self._speaker.wire(one) in said}
            return self._refused(named, words, received) or [Told(received, note=words)]
        if answer.whole or not self._names_channels or _number(answer, record):
            return self._halved(set(asked.open), words, received)
        asked.refusals.append(words)
        return []

    def _meant(self, answer: Answer, record: Any, some: Iterable[Channel]) -> set[Channel]:
        """Return those of some channels that an answer is about: without names all of them."""
        if not answer.names:
            return set(some)
        named = set(answer.named(record))
        wire = self._speaker.wire
        return {one for one in some if named & {("", wire(one)), (one.schema, wire(one))}}

    def _too_late(self, answer: Answer, record: Any) -> set[Channel]:
        """Return the channels of requests that are over which an answer names, or whose request it numbers."""
        number = _number(answer, record)
        asked = [one for one, known in self._late.items() if answer.names or (known and str(known) == number)]
        return self._meant(answer, record, asked)

    def _answered(self, some: set[Channel], received: int) -> list[Told]:
        self._settle(some)
        self._held |= some
        if late := some & self._late.keys():
            self._late = {one: number for one, number in self._late.items() if one not in late}
            # they need not be asked again
            for request in self._todo:
                if request.subscribes:
                    request.channels = tuple(one for one in request.channels if one not in late)
        unwanted = some & self._dropped
        self._dropped -= unwanted
        self.change((), unwanted)
        good = frozenset(some - unwanted)
        return [Told(received, acknowledged=good)] if good else []

    def _refused(self, some: set[Channel], words: str, received: int, number: int = 0) -> list[Told]:
        self._give_up(some, number)
        return [Told(received, refused=dict.fromkeys(some, words))] if some else []

    def _halved(self, some: set[Channel], words: str, received: int) -> list[Told]:
        """Ask channels once more of which at least one is refused, each half for itself; a single one is that."""
        if len(some) < 2:
            return self._refused(some, words, received)
        self._give_up(some)
        both = sorted(some, key=_order)
        middle = len(both) // 2
        self._todo.extendleft([_Request(tuple(both[middle:])), _Request(tuple(both[:middle]))])
        return []

    def _give_up(self, some: set[Channel], number: int = 0) -> None:
        """Wait no longer for the acknowledgement of channels; it may come all the same."""
        self._late |= dict.fromkeys(some, number)
        self._settle(some)

    def _settle(self, some: set[Channel]) -> None:
        """Take channels as answered."""
        if self._asked is not None:
            self._asked.open -= some
            if not self._asked.open:
                self._asked = None

    def _overdue(self, now: float, received: int) -> list[Told]:
        if self._stage in ("greeting", "answer") and now >= self._until:
            what = "the connection, which it greets" if self._stage == "greeting" else "the login"
            raise TransientError(f"{self.name}: no answer to {what} in {self._patience:g} s")
        asked = self._asked
        if asked is None:
            return []
        if asked.refusals:
            if asked.quiet is None:
                asked.quiet = min(now + _QUIET, asked.until)
            if now < asked.quiet:
                return []
            some, words = set(asked.open), asked.refusals[-1]
            # as many as are left: one for each of them
            settle = self._refused if len(asked.refusals) >= len(some) else self._halved
            return settle(some, words, received)
        if now < asked.until:
            return []
        if not asked.subscribes:
            self._asked = None
            return []
        if not self._held or not self._is_certain:
            # an answer that is still to come would be taken for that to the next request
            about = _shown(asked.open)
            raise TransientError(f"{self.name}: no answer to the subscription to {about} in {self._patience:g} s")
        reason = f"the vendor did not answer for it in {self._patience:g} s"
        return self._refused(set(asked.open), reason, received, asked.number)

    def _named(self, channel: Channel) -> tuple[str, str]:
        """Return what the vendor tells channels apart by: the name, and where lists are by schema, the schema too."""
        by_schema = any(name for _, name in templates.placeholders(self.feed.subscribe))
        return channel.schema if by_schema else "", self._speaker.wire(channel)

    def _request(self, channels: Iterable[Channel], *, subscribes: bool) -> None:
        self._todo += [_Request(some, subscribes) for some in _batches(sorted(channels, key=_order), self.feed.batch)]


def _number(answer: Answer, record: Any) -> str:
    """Return the number of the request that an answer is to; empty where it tells none."""
    number = dig(record, steps(answer.request)) if answer.request else None
    return "" if number is None else str(number)


def _is_of(answer: Answer, record: Any, asked: _Request) -> bool:
    return _number(answer, record) in ("", str(asked.number))


def _batches(channels: list[Channel], size: int) -> Iterator[tuple[Channel, ...]]:
    for first in range(0, len(channels), size):
        yield tuple(channels[first : first + size])


def _order(channel: Channel) -> tuple[str, str]:
    return channel.schema, channel.symbol


def _shown(channels: Collection[Channel]) -> str:
    some = [f"{one.schema} of {one.symbol!r}" for one in sorted(channels, key=_order)[:5]]
    return ", ".join(some) + (f" and {len(channels) - 5} more" if len(channels) > 5 else "")
