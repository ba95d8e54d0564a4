"""What is subscribed in a session, and what of it the gateway has taken up. Pure.

Traps:

- A subscription that replays first brings what has passed: its channels are acknowledged when that has caught up, not
  before. A connection that breaks off within a replay has covered nothing.
- Replay is cut by when things happened (`ts_event`; bbo and cbbo: `ts_recv`), coverage by when they were captured: it
  begins a minute earlier, and only what was captured from the end of the coverage on counts.
- What is captured long after it happened is in no replay that its coverage could be claimed for: mbo, definition and
  status are not replayed. Replayed bbo and cbbo lack records (github.com/databento/databento-rs/issues/90): they come
  early, and history has all of them.
- Only what is subscribed before the session starts is replayed, and nothing is ever unsubscribed.
- Symbols that cannot be resolved are refused one by one, while the others of their subscription go on. The gateway
  begins to send one that is listed later, and says so by its mapping: nothing of it was replayed.
- A record says its type, not its schema, and `tbbo` has that of `mbp-1`: one session can have only one of them.
- A continuous symbol (ES.c.0) stands for what it stood for when it was subscribed, for ever: nothing is replayed from
  before midnight, and the session ends there.
- What a session sends where two continuous symbols (ES.c.0, ES.v.0) stand for one instrument is not documented, and a
  record says the instrument only: the first has it, the others are refused.
- Parents (ES.FUT) are subscribed, their children are not: mappings say which have come with them.
"""

import re
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Final

from catalog.schemas import TIMEFRAMES
from catalog.schemas import schema as schema_called
from flows.databento_live import gateway
from flows.databento_live import messages
from flows.databento_live.messages import Message
from flows.formats.dbn import indexed_by
from flows.frames import Channel
from flows.frames import Told

_SECOND: Final = 1_000_000_000
#: what was captured may have happened so much earlier
MARGIN: Final = 60 * _SECOND
#: the gateway replays the last 24 hours; a minute of it for the way there
REPLAYED: Final = (24 * 60 - 1) * 60 * _SECOND - MARGIN
_NOT_REPLAYED: Final = frozenset(("mbo", "definition", "status"))
_LACKING: Final = frozenset(("bbo-1s", "bbo-1m", "cbbo-1s", "cbbo-1m"))
_ALIKE: Final = {"tbbo": "mbp-1", "mbp-1": "tbbo"}
_PARENTS: Final = (".FUT", ".OPT", ".SPOT")
_WORD: Final = re.compile(r"[\w-]+")
#: what a symbol cannot have in a line of the protocol
_RESERVED: Final = frozenset(",|=\r\n")


@dataclass(eq=False, slots=True)
class Subscription:
    """A schema of some symbols, from a time in nanoseconds on or from now on; `live` once all it brings is new.

    All that was captured from `since` on comes.
    """

    number: int
    schema: str
    symbols: tuple[str, ...]
    start: int | None
    since: int | None
    acknowledged: bool = False
    live: bool = False


@dataclass(slots=True)
class Asked:
    """The subscriptions of one session.

    `not_replayed` holds the schemas whose replay the gateway has refused: they are asked from now on, once.
    """

    stype: str
    not_replayed: set[str] = field(default_factory=set)
    subscriptions: list[Subscription] = field(default_factory=list)
    _channels: dict[Channel, Subscription] = field(default_factory=dict)
    _named: dict[str, list[Channel]] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    #: what was resolved after it had failed
    _late: set[str] = field(default_factory=set)
    _children: set[str] = field(default_factory=set)
    #: the continuous symbol that has an instrument
    _having: dict[int, str] = field(default_factory=dict)
    #: what was told already, what is to be told next
    _told: set[Channel] = field(default_factory=set)
    _acknowledged: dict[Channel, int | None] = field(default_factory=dict)
    _refused: dict[Channel, str] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def add(self, channels: Collection[Channel], since: Mapping[Channel, int], now: int | None = None) -> bytes:
        """Note channels and return the lines that subscribe to them.

        `since` says where the coverage of a channel ended, in nanoseconds; `now` is given before the session starts,
        when there still is replay. Channels that cannot be asked are refused.
        """
        accepted = list(self._acceptable(sorted(channels, key=lambda one: (one.schema, one.symbol))))
        parents = self.stype == "parent"
        groups: dict[tuple[str, int | None, int | None], list[Channel]] = {}
        for channel in accepted:
            if not parents or channel.symbol.endswith(_PARENTS):
                reach = self._reach(channel.schema, since.get(channel), now)
                groups.setdefault((channel.schema, *reach), []).append(channel)
        lines = b""
        for (schema, start, reached), some in groups.items():
            names = tuple(channel.symbol for channel in some)
            made = Subscription(len(self.subscriptions), schema, names, start, reached)
            self.subscriptions.append(made)
            for channel in some:
                self._note(channel, made)
            lines += gateway.subscription(schema, self.stype, names, start, made.number)
        for channel in accepted:
            if channel not in self._channels:
                self._note_child(channel)
        return lines

    def _acceptable(self, channels: Collection[Channel]) -> Iterator[Channel]:
        """Yield the channels that are new and can be asked."""
        schemas = {one.schema for one in self.subscriptions}
        for channel in channels:
            alike = _ALIKE.get(channel.schema)
            if channel in self._channels:
                # it was removed, which the gateway could not be told: its records never ceased to come
                if channel in self._told:
                    self._acknowledged[channel] = None
            elif not channel.symbol or _RESERVED & set(channel.symbol):
                self._refused[channel] = f"symbol {channel.symbol!r} cannot be written in a subscription"
            elif alike in schemas:
                self._refused[channel] = (
                    f"schema {channel.schema!r} cannot be told from {alike!r}, which this source brings too: records do"
                    " not say which of the two they are; use two sources, or take the trades of 'mbp-1'"
                )
            else:
                schemas.add(channel.schema)
                yield channel

    def _reach(self, schema: str, since: int | None, now: int | None) -> tuple[int | None, int | None]:
        """Return from when on a schema is asked, and from when on all that was captured then comes; None: from now."""
        if since is None or now is None or schema in self.not_replayed | _NOT_REPLAYED:
            return None, None
        oldest = now - REPLAYED
        if self.stype == "continuous":
            # before that it may have stood for another instrument
            oldest = max(oldest, now - now % gateway.DAY)
        declared = schema_called(schema)
        # replay cuts bars by when they opened
        step = (TIMEFRAMES.get(declared.timeframe) or 0) * _SECOND
        since = max(since - since % step if step else since, oldest)
        start = since if indexed_by(declared) == declared.time else since - MARGIN
        return start, None if schema in _LACKING else since

    def _note(self, channel: Channel, subscription: Subscription) -> None:
        self._channels[channel] = subscription
        self._named.setdefault(channel.symbol, []).append(channel)

    def _note_child(self, channel: Channel) -> None:
        having = [one for one in self.subscriptions if one.schema == channel.schema]
        if not having:
            self._refused[channel] = (
                "option stype_in is 'parent', and no series asks a parent (e.g. ES.FUT) this could come with"
            )
            return
        # the one that reaches back furthest
        self._note(channel, min(having, key=lambda one: (one.start is None, one.start or 0)))
        if channel.symbol in self._children and self._channels[channel].live:
            # its records of before were nobody's
            self._acknowledge(channel, None)

    # -- what the gateway says --------------------------------------------------------------------------------------

    def hear(self, message: Message) -> None:
        """Note what a message says of subscriptions and symbols."""
        if message.type == messages.MAPPING:
            self._mapped(message)
        elif message.type == messages.ERROR and message.code == messages.UNKNOWN_SYMBOL:
            self._unresolved(message.words)
        elif message.type == messages.SYSTEM and message.code == messages.ACKNOWLEDGED:
            waiting = [one for one in self.subscriptions if not one.acknowledged]
            # they are answered in order
            named = [one for one in waiting if one.number == message.request] or waiting[:1]
            for one in named:
                one.acknowledged = True
                if one.start is None:
                    self._begin(one)
        elif message.type == messages.SYSTEM and message.code == messages.REPLAYED:
            schemas = self._named_in(message.words)
            for one in self._replaying():
                if not schemas or one.schema in schemas:
                    self._begin(one)

    def replay_refused(self, message: Message) -> bool:
        """Whether an error means that the gateway has not what was to be replayed; then it is not asked next time."""
        replaying = {one.schema for one in self._replaying()}
        # in which words it refuses is not documented: what is wrong without a replay too is refused again
        if not replaying or message.code not in (messages.AGED_OUT, messages.INVALID):
            return False
        self.not_replayed |= replaying & self._named_in(message.words) or replaying
        return True

    def _replaying(self) -> list[Subscription]:
        return [one for one in self.subscriptions if one.start is not None and not one.live]

    def _named_in(self, words: str) -> set[str]:
        """Return the schemas of this session that some words name."""
        return {one.schema for one in self.subscriptions} & set(_WORD.findall(words.lower()))

    def take(self, received: int) -> Iterator[Told]:
        """Yield what is to be told since the last time."""
        by_since: dict[int | None, set[Channel]] = {}
        for channel, since in self._acknowledged.items():
            by_since.setdefault(since, set()).add(channel)
        if self._refused:
            yield Told(received, refused=self._refused)
        for since, channels in by_since.items():
            yield Told(received, acknowledged=frozenset(channels), since=since)
        for words in self._notes:
            yield Told(received, note=words)
        self._acknowledged, self._refused, self._notes = {}, {}, []

    def _begin(self, subscription: Subscription) -> None:
        subscription.live = True
        if subscription.start is None:
            self.not_replayed.discard(subscription.schema)
        for channel, its in self._channels.items():
            if its is subscription and channel not in self._told and self._is_there(channel):
                self._acknowledge(channel, None if channel.symbol in self._late else subscription.since)

    def _is_there(self, channel: Channel) -> bool:
        if channel.symbol in self._failed:
            return False
        return self.stype != "parent" or channel.symbol.endswith(_PARENTS) or channel.symbol in self._children

    def _mapped(self, message: Message) -> None:
        if self.stype == "continuous":
            first = self._having.setdefault(message.instrument, message.asked)
            if message.asked != first:
                self._refuse(
                    message.asked,
                    f"{message.asked} stands for the same instrument as {first} now, and a session gives its records to"
                    " one of them; use two sources",
                )
                return
        if message.asked in self._failed:
            self._failed.discard(message.asked)
            self._late.add(message.asked)
        names = {message.asked}
        if self.stype == "parent":
            self._children.add(message.given)
            names.add(message.given)
        for name in names:
            for channel in self._named.get(name, ()):
                subscription = self._channels[channel]
                # older gateways acknowledge by mappings alone
                if (subscription.live or subscription.start is None) and channel not in self._told:
                    self._acknowledge(channel, None)

    def _unresolved(self, words: str) -> None:
        said = words.partition("symbol")[2].lstrip("s:").strip(" '\"`.")
        symbol = said if said in self._named else max((one for one in self._named if one in words), key=len, default="")
        if not symbol:
            self._notes.append(words)
            return
        self._refuse(symbol, words)

    def _refuse(self, symbol: str, words: str) -> None:
        self._failed.add(symbol)
        for channel in self._named.get(symbol, ()):
            self._refused[channel] = words
            self._acknowledged.pop(channel, None)
            self._told.discard(channel)

    def _acknowledge(self, channel: Channel, since: int | None) -> None:
        self._told.add(channel)
        self._refused.pop(channel, None)
        self._acknowledged[channel] = since
