"""A feed as a declaration: how it is opened, what is said, what answers mean, where rows are in its events.

Vendors write a `Feed` in Python; a source of vendor `flux` has one as its options. Places are field names and positions
joined by points: `data.k.o`, `bids.0.1`.
"""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal

from pydantic import BeforeValidator
from pydantic import Field
from pydantic import StrictBool
from pydantic import StrictInt
from pydantic import StrictStr
from pydantic import field_validator
from pydantic import model_validator

from catalog.schemas import SCHEMAS
from catalog.schemas import Schema
from catalog.schemas import schema as schema_called
from flows.extractors.base import known_zone
from flows.extractors.http import plain_url
from flows.feeds import templates
from flows.formats.records import Place
from flows.formats.records import dig
from flows.formats.times import Clock
from flows.options import Options

Scalar = StrictBool | StrictInt | StrictStr | None
#: what is sent: JSON, or a text as it is
Message = dict[str, Any] | list[Any] | str
#: what ends a connection, and as which error
ENDS: Final = ("auth", "entitlement", "limit", "again")
_PLAIN: Final = re.compile(r"[\w .-]+")
_MISSING: Final = object()


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


#: place → the values a record has there, one of them; none named: any value at all
Match = Annotated[
    dict[str, Annotated[tuple[Scalar, ...], BeforeValidator(_several)]],
    Field(min_length=1),
]


class Answer(Options):
    """Something the vendor says that is no data: how it is recognised, and what it means.

    greeting, authenticated   before it nothing else is sent
    subscribed, unsubscribed, refused    of the channels it names, or of all that were asked
    alive, nothing            a heartbeat; something without meaning
    lost                      messages were left out
    leaving                   the server will go: connect anew
    kept                      an event that no schema of ours has: quarantined with `reason`, which is a sentence then
    auth, entitlement, limit, again    the connection ends: the key is wrong, the plan too small, wait, or try again
    """

    when: Match
    means: Literal[
        "greeting", "authenticated", "subscribed", "unsubscribed", "refused", "alive", "nothing", "lost", "leaving",
        "kept", "auth", "entitlement", "limit", "again",
    ]  # fmt: skip
    #: where names of channels are (a list, or a text with commas) → the schema they are of; "" any
    names: dict[str, str] = {}
    #: where in an element of such a list the name is; "" the element itself
    name: str = ""
    #: what a text begins with before the names; without it the answer is another one
    prefix: str = ""
    #: where the number of the request is that it answers
    request: str = ""
    #: a refusal without names is the only answer to its request; else others may refuse or acknowledge some channels
    whole: StrictBool = False
    #: where the vendor's words are
    reason: str = ""
    #: the schema under which an event is kept
    of: str = ""

    def fits(self, record: Any) -> bool:
        """Whether this is the answer."""
        if not all(_accepts(_found(record, place), accepted) for place, accepted in self.when.items()):
            return False
        return not self.prefix or all(str(_found(record, place)).startswith(self.prefix) for place in self.names)

    def named(self, record: Any) -> list[tuple[str, str]]:
        """Return schema and name of each channel it names."""
        found = []
        for place, schema in self.names.items():
            value = dig(record, steps(place))
            items: Sequence[Any] = value if isinstance(value, list) else []
            if isinstance(value, str):
                items = [name.strip() for name in value.removeprefix(self.prefix).split(",")]
            for item in items:
                name = dig(item, steps(self.name)) if self.name else item
                if isinstance(name, str):
                    found.append((schema, name))
        return found

    def words(self, record: Any) -> str:
        """Return what the vendor says about it."""
        found = dig(record, steps(self.reason)) if self.reason else None
        return str(record if found is None else found)[:300]

    @property
    def markers(self) -> tuple[bytes, ...]:
        """Texts of which such a message has one, so that others need not be decoded to be known as something else."""
        place, accepted = next(iter(self.when.items()))
        if accepted and all(isinstance(value, str) and _PLAIN.fullmatch(value) for value in accepted):
            return tuple(f'"{value}"'.encode() for value in accepted)
        return (f'"{str(place).rpartition(".")[2]}"'.encode(),)


class Empty(Options):
    """A side of a quote that is empty where all columns of `zero` are 0 (or, after the first, missing)."""

    zero: tuple[str, ...] = Field(min_length=1)
    null: tuple[str, ...] = Field(min_length=1)


def empty_sides(*zero: str) -> tuple[Empty, ...]:
    """Return both sides of a quote, each empty where its `price`, or both `price` and `size`, are 0."""
    return tuple(
        Empty(zero=tuple(f"{side}_{what}" for what in zero), null=(f"{side}_price", f"{side}_size"))
        for side in ("bid", "ask")
    )


class Events(Options):
    """The events of one schema: how they are recognised, and where a row's values are."""

    channel: str = Field("{symbol}", description="The vendor's name of a channel: {symbol}, {lower} or {upper}.")
    when: Match
    symbol: str = Field(min_length=1, description="Place of the symbol.")
    symbol_form: str = Field("{symbol}", description="How the symbol is written there, e.g. {lower}@depth10.")
    fields: dict[str, str] = Field(description="Our column → place.")
    constants: dict[str, str] = Field({}, description="Our column → a value that every row has.")
    words: dict[str, dict[str, str]] = Field({}, description="Our column → the vendor's value → ours; others: null.")
    empty: tuple[Empty, ...] = Field((), description="Columns whose 0 means that there is no bid or no offer.")
    received: tuple[str, ...] = Field((), description="Columns that hold when this machine received the event.")
    time_unit: Literal["", "s", "ms", "us", "ns"] = Field("", description="Unit of times that are numbers since 1970.")
    time_format: str = Field("", max_length=60, description="strptime format; empty: ISO 8601.")
    timezone: str = Field("UTC", description="Zone of times that carry none, and of the sessions of daily bars.")
    label: Literal["open", "close"] = Field("open", description="Which instant of an intraday bar its time is.")
    late_seconds: float = Field(
        5, ge=0, le=86_400, description="Seconds after which what happened has come, the revision of a bar too."
    )

    @field_validator("channel", "symbol_form")
    @classmethod
    def _names_a_symbol(cls, value: str) -> str:
        templates.checked(value, templates.CHANNEL)
        if len(templates.placeholders(value)) != 1:
            raise ValueError("one of {symbol}, {lower} and {upper}, once")
        return value

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        return known_zone(value)

    def clock(self, schema: Schema) -> Clock:
        """Return how its times are written."""
        return Clock(self.time_unit, self.time_format, self.timezone, self.label, timeframe=schema.timeframe)


class Feed(Options):
    """A vendor's stream: one connection's conversation, and the rows in what it brings."""

    url: str = Field(description="wss://host/path, without a query.")
    params: dict[str, str] = Field({}, description="Query of the address: name → text, which may hold {secret:NAME}.")
    headers: dict[str, str] = Field({}, description="Headers of the handshake; texts may hold {secret:NAME}.")
    auth: Message | None = Field(None, description="Message that logs in, with {secret:NAME}; empty: none.")
    subscribe: Message = Field(
        description="Message that subscribes. {list} or {list:schema} is a list of channels, {joined} a text with"
        " commas, {id} a number."
    )
    unsubscribe: Message | None = Field(None, description="Message that ends subscriptions; empty: they are left.")
    batch: int = Field(100, ge=1, le=100_000, description="Channels in one message.")
    most: int = Field(0, ge=0, description="Channels that a connection may have; 0: any number.")
    pace: float = Field(0, ge=0, le=1000, description="Messages a second that the vendor hears; 0: any number.")
    heartbeat: Message | None = Field(None, description="Message that is sent again and again; empty: none.")
    heartbeat_seconds: float = Field(10, gt=0, le=3600, description="Seconds between two of them.")
    answers: tuple[Answer, ...] = Field(
        (),
        description="What the vendor says that is no data: when → means. Of subscribed it should say names or request:"
        " without them a request that is not answered in time ends the connection.",
    )
    records: str = Field("", description="Place of the events in a message; empty: the message, or a list of them.")
    events: dict[str, Events] = Field(min_length=1, description="Our schema → how its events look.")
    ahead_seconds: float = Field(300, ge=0, description="An event may lie so much after its receipt, not more.")

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        return plain_url(value, ("wss", "ws"))

    @field_validator("params", "headers", "auth")
    @classmethod
    def _knows_secrets(cls, value: Any) -> Any:
        return templates.checked(value, templates.SECRET)

    @field_validator("headers")
    @classmethod
    def _are_lines(cls, value: dict[str, str]) -> dict[str, str]:
        if any(ord(character) < 32 for pair in value.items() for part in pair for character in part):
            raise ValueError("a header has no line break or other control character")
        return value

    @field_validator("subscribe", "unsubscribe", "heartbeat")
    @classmethod
    def _knows_channels(cls, value: Any) -> Any:
        return templates.checked(value, templates.MESSAGE)

    @model_validator(mode="after")
    def _columns_exist(self) -> "Feed":
        faults = [fault for name, events in self.events.items() for fault in _faults(name, events)]
        for template in (self.subscribe, self.unsubscribe):
            for kind, name in templates.placeholders(template):
                if name and kind in ("list", "joined") and name not in self.events:
                    faults.append(f"{{{kind}:{name}}} names no schema of the feed; it has {', '.join(self.events)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def secrets(self) -> set[str]:
        """Endings of the variables whose secrets the templates name."""
        said = (self.params, self.headers, self.auth, self.subscribe, self.unsubscribe, self.heartbeat)
        return {name for template in said for kind, name in templates.placeholders(template) if kind == "secret"}

    def meaning(self, *means: str) -> tuple[Answer, ...]:
        """Return the answers with one of these meanings."""
        return tuple(answer for answer in self.answers if answer.means in means)


def steps(place: str) -> tuple[str | int, ...]:
    """Return the steps of a place."""
    return tuple(int(step) if step.isdecimal() else step for step in place.split("."))


def place(text: str) -> Place:
    """Return a place as readers of records take it."""
    found = steps(text)
    return found[0] if len(found) == 1 else found


def _faults(name: str, events: Events) -> list[str]:
    if name not in SCHEMAS:
        return [f"schema {name!r} is unknown; have: {', '.join(sorted(SCHEMAS))}"]
    schema = schema_called(name)
    have = [column.name for column in schema.columns]
    given = {*events.fields, *events.constants, *events.received}
    told = {*given, *events.words, *(column for side in events.empty for column in (*side.zero, *side.null))}
    unknown = sorted(told.difference(have))
    faults = [f"schema {name!r} has no column {one!r}; have: {', '.join(have)}" for one in unknown]
    faults += [
        f"events of {name!r} do not say where column {one.name!r} is"
        for one in schema.columns
        if one.name not in given and not one.null and one.absent is None
    ]
    return faults


def _found(record: Any, where: str) -> Any:
    """Return the value at a place; `_MISSING` where there is none, which null is not."""
    *way, last = steps(where)
    above = dig(record, way)
    if isinstance(above, Mapping):
        return above.get(str(last), _MISSING)
    if isinstance(above, list) and isinstance(last, int):
        return above[last] if -len(above) <= last < len(above) else _MISSING
    return _MISSING


def _accepts(value: Any, accepted: tuple[Scalar, ...]) -> bool:
    if value is _MISSING:
        return False
    # True is no 1 here
    return not accepted or any(type(value) is type(one) and value == one for one in accepted)
