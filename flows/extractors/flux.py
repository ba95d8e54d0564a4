"""Any vendor with a JSON stream over a WebSocket, described by options instead of code: a `flows.feeds.feed.Feed`.

docs/flux.md explains each option, examples/flux.yaml has two whole catalogs. In short:

    url        wss://stream.example/v1        params     {"token": "{secret:TOKEN}"}
    subscribe  {"op": "subscribe", "channels": "{list}"}
    answers    [{"when": {"type": "subscribed"}, "means": "subscribed", "names": {"channels": ""}},
                {"when": {"type": "error"}, "means": "refused", "reason": "message"}]
    records    data
    events     {"trades": {"channel": "trades.{symbol}", "when": {"type": "trade"}, "symbol": "s", "time_unit": "ms",
                           "fields": {"ts_event": "t", "price": "p", "size": "q", "trade_id": "id", "side": "m"},
                           "words": {"side": {"true": "A", "false": "B"}}}}
    heartbeat  {"op": "ping"}                 dedup      {"trades": "trade_id"}

Places are field names and positions joined by points: in events as `records` finds them, in answers of the whole
message (what is `nothing` or `kept` may be told by the event too). Templates know `{secret:NAME}`, which is the
environment variable <prefix>_NAME, and where they say so `{list}`, `{joined}`, `{id}` and `{symbol}`; nothing in them
is evaluated. There is no history: what a connection missed becomes a known gap.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from typing import Literal

from pydantic import Field
from pydantic import ValidationError
from pydantic import model_validator

from catalog.schemas import schema as schema_called
from flows.extractors.base import Context
from flows.extractors.http import is_loopback
from flows.extractors.websocket import StreamOptions
from flows.extractors.websocket import WebSocketExtractor
from flows.feeds.feed import Feed
from flows.job import SourceFacts


class FluxOptions(StreamOptions, Feed):
    """Options of a source of vendor `flux`."""

    dedup: dict[str, str] = Field(
        {},
        description="Schema → the column of its key that numbers rows: the same number is the same row, not another.",
    )
    consecutive: tuple[str, ...] = Field(
        (), description="Schemas of dedup whose numbers grow by one: a jump is a loss."
    )
    every_bar: bool = Field(False, description="There is a bar for every interval, also where none came.")
    rotation_hours: float = Field(
        0, ge=0, le=10_000, description="Hours after which a new connection takes over; 0: none does."
    )
    unknown_symbols: Literal["filter", "quarantine"] = Field(
        "quarantine", description="Rows of symbols no series asks for: kept in quarantine, or counted as filtered."
    )

    @model_validator(mode="after")
    def _secrets_are_not_sent_in_the_clear(self) -> "FluxOptions":
        if self.secrets and self.url.startswith("ws://") and not is_loopback(self.url):
            raise ValueError(f"option url: {self.url}: anybody could read the secrets; accepted: wss://")
        return self

    @model_validator(mode="after")
    def _numbers_are_in_the_key(self) -> "FluxOptions":
        for name, column in self.dedup.items():
            if name not in self.events:
                raise ValueError(f"option dedup: the feed has no {name!r}; it has {', '.join(self.events)}")
            if column not in (identity := schema_called(name).identity):
                accepted = ", ".join(identity) or "none"
                raise ValueError(f"option dedup: {column!r} is not in the key of {name!r}; accepted: {accepted}")
        if missing := [name for name in self.consecutive if name not in self.dedup]:
            raise ValueError(f"option consecutive: {missing[0]!r} has no number in option dedup")
        return self


class FluxExtractor(WebSocketExtractor):
    """A vendor's stream described by its source's options."""

    name = "flux"
    label = "Any JSON stream"
    doc = (
        "A WebSocket feed by options: address, login, subscriptions, acknowledgements, where events and fields are."
        " Secrets are named in its templates. docs/flux.md explains each option, with two examples."
    )
    Options = FluxOptions
    value_options = ("params", "records", "events", "dedup")

    @classmethod
    def secret_endings(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            return tuple(sorted(FluxOptions.model_validate(dict(options)).secrets))
        except ValidationError:
            return ()

    @classmethod
    def offered(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            return tuple(FluxOptions.model_validate(dict(options)).events)
        except ValidationError:
            return ()

    def __init__(self, source: SourceFacts, context: Context) -> None:
        super().__init__(source, context)
        options: FluxOptions = self.options
        self.numbered = frozenset(options.dedup)
        self.consecutive = {name: options.dedup[name] for name in options.consecutive}
        self.every_bar = options.every_bar
        self.rotation = timedelta(hours=options.rotation_hours) if options.rotation_hours else None

    def feed(self) -> Feed:
        feed: Feed = self.options
        return feed
