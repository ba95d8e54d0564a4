"""The subscriptions of one session to //blp/mktdata: what was asked, what became of it, what is still awaited.

Names and bodies: BLPAPI Core Developer Guide and the SDK's unit tests (msitt/blpapi-python,
examples/unittests/snippets/test_events.py); blpapi 3.18 or later.

- `SubscriptionStarted` says that a subscription is known; then comes an image of the state, and only what happens
  after the image comes as events. So a subscription counts as acknowledged with its image.
- While its streams are down (`SubscriptionStreamsDeactivated`) a subscription is not heard; the SDK finds others.
- One that failed for a reason that passes is asked again in a minute: the others go on.
- A delayed stream is refused: what was heard until now would not be what happened until now.
"""

import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any
from typing import Final

from catalog.errors import TransientError
from flows.blp import events
from flows.blp import faults
from flows.frames import Channel
from flows.frames import Told

MKTDATA: Final = "//blp/mktdata"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take, in seconds."""

    #: between two looks at what else is to be done
    look: float = 0.1
    #: for the image of a subscription to come
    image: float = 5.0
    #: between two signs of life, and how far these lie back
    sign: float = 5.0
    certain: float = 15.0
    #: until a subscription that failed for a reason that passes is asked again
    again: float = 60.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of each subscription: its fields, and those of them without which it is of no use.

    The SDK keeps `queue` events while this process is behind.
    """

    fields: tuple[str, ...]
    needed: frozenset[str]
    queue: int
    pace: Pace = Pace()


class Subscriptions:
    """What a session is subscribed to. `tell` is called with what Bloomberg says of it."""

    def __init__(self, blpapi: Any, session: Any, wishes: Wishes, tell: Callable[[Told], None]) -> None:
        self._blpapi = blpapi
        self._session = session
        self._wishes = wishes
        self._tell = tell
        # never used twice: messages of a subscription that was given up may still come
        self._numbers = count(1)
        self._channels: dict[int, Channel] = {}
        # those that are not heard yet, with the time at which they are taken to be, though no image has come
        self._awaited: dict[int, float] = {}
        self._again: dict[Channel, float] = {}

    def symbols(self, numbers: Collection[int]) -> Sequence[str]:
        """Return whom a message with these correlation ids is about."""
        return [self._channels[number].symbol for number in numbers if number in self._channels]

    def change(self, added: Collection[Channel], removed: Collection[Channel]) -> None:
        """Subscribe to some channels, and give others up."""
        for channel in removed:
            self._again.pop(channel, None)
        self._give_up([number for number, channel in self._channels.items() if channel in removed])
        self.subscribe(set(added) - set(self._channels.values()))

    def subscribe(self, channels: Collection[Channel]) -> None:
        """Subscribe to some channels; what becomes of each is told."""
        wanted = self._blpapi.SubscriptionList()
        for channel in sorted(channels, key=lambda channel: channel.symbol):
            self._again.pop(channel, None)
            if fault := _fault(channel.symbol):
                self._tell(Told(time.time_ns(), refused={channel: fault}))
                continue
            number = next(self._numbers)
            self._channels[number] = channel
            wanted.add(_topic(channel.symbol), list(self._wishes.fields), None, self._blpapi.CorrelationId(number))
        if wanted.size():
            each = self._blpapi.SubscriptionPreprocessMode.RETURN_INDIVIDUAL_ERRORS
            for error in self._session.subscribe(wanted, mode=each) or ():
                self._refuse(error.correlationId.value(), error.description, time.time_ns())

    def look(self, now: float) -> None:
        """Do what is due at a moment of the monotonic clock."""
        for number in [number for number, late in self._awaited.items() if late <= now]:
            self._begin(number, time.time_ns())
        if due := [channel for channel, when in self._again.items() if when <= now]:
            self.subscribe(due)

    def status(self, name: str, numbers: Collection[int], body: Mapping[str, Any], received: int) -> None:
        """Take what an event SUBSCRIPTION_STATUS says."""
        now = time.monotonic()
        for number in numbers:
            channel = self._channels.get(number)
            if channel is None:
                # it was given up before
                continue
            if name == "SubscriptionStarted":
                self._started(number, channel, body, received)
            elif name in ("SubscriptionFailure", "SubscriptionTerminated"):
                error = faults.of_security(_reason(body), channel.symbol)
                self._refuse(number, f"{error}{_details(body)}", received)
                if isinstance(error, TransientError):
                    self._again[channel] = now + max(self._wishes.pace.again, error.retry_after or 0)
            elif name == "SubscriptionStreamsDeactivated":
                self._awaited[number] = inf
                words = f"{channel.symbol}: {name}: {body.get('reason') or 'no words'}"
                self._tell(Told(received, refused={channel: words}))
            elif name == "SubscriptionStreamsActivated" and self._awaited.get(number) == inf:
                self._awaited[number] = now + self._wishes.pace.image

    def data(self, numbers: Collection[int], body: Mapping[str, Any], received: int) -> None:
        """Take what an event SUBSCRIPTION_DATA says of the subscription itself."""
        for number in numbers:
            channel = self._channels.get(number)
            if channel is None:
                continue
            if body.get(events.DELAYED) is True:
                self._give_up([number])
                words = f"{channel.symbol}: Bloomberg gives it delayed ({events.DELAYED}); accepted: real time"
                self._tell(Told(received, refused={channel: words}))
                continue
            # what comes while its streams are down was sent before
            if self._awaited.get(number, inf) != inf:
                self._begin(number, received)
            if body.get(events.SUBTYPE) == "DATALOSS":
                self._tell(Told(received, lost=f"{channel.symbol}: {body.get(events.TYPE)} DATALOSS"))

    def _started(self, number: int, channel: Channel, body: Mapping[str, Any], received: int) -> None:
        exceptions = [one for one in body.get("exceptions") or () if isinstance(one, Mapping)]
        missing = {str(one.get("fieldId")): faults.words(_reason(one)) for one in exceptions}
        words = "; ".join(f"{field}: {why}" for field, why in missing.items())
        if not self._wishes.needed.isdisjoint(missing):
            self._give_up([number])
            text = f"{channel.symbol}: Bloomberg does not give what a trade needs: {words}"
            self._tell(Told(received, refused={channel: text}))
            return
        self._awaited[number] = time.monotonic() + self._wishes.pace.image
        if said := "; ".join(part for part in (words, str(body.get("reason") or "")) if part):
            self._tell(Told(received, note=f"{channel.symbol}: Bloomberg says {said}"))

    def _begin(self, number: int, received: int) -> None:
        del self._awaited[number]
        self._tell(Told(received, acknowledged=frozenset((self._channels[number],))))

    def _refuse(self, number: int, reason: str, received: int) -> None:
        self._awaited.pop(number, None)
        self._tell(Told(received, refused={self._channels.pop(number): reason}))

    def _give_up(self, numbers: Collection[int]) -> None:
        gone = self._blpapi.SubscriptionList()
        for number in numbers:
            self._channels.pop(number, None)
            self._awaited.pop(number, None)
            gone.add("", None, None, self._blpapi.CorrelationId(number))
        if gone.size():
            self._session.unsubscribe(gone)


def _topic(symbol: str) -> str:
    return f"{MKTDATA}{symbol}" if symbol.startswith("/") else f"{MKTDATA}/ticker/{symbol}"


def _fault(symbol: str) -> str:
    """Return why a symbol cannot be a topic; empty where it can."""
    if not symbol.strip() or "?" in symbol or symbol.startswith("//"):
        return f"{symbol!r} is no security; accepted: IBM US Equity, /isin/US4592001014, without '?'"
    return ""


def _reason(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found = body.get("reason")
    return found if isinstance(found, Mapping) else {"description": found} if found else {}


def _details(body: Mapping[str, Any]) -> str:
    found = [one for one in body.get("failureDetails") or () if isinstance(one, Mapping)]
    return "".join(f"; {one.get('fieldId')}: {faults.words(_reason(one))}" for one in found)
