"""What vendors heard over WebSockets (RFC 6455) share: one machine, driven by a declaration.

A vendor gives `feed()`, a `flows.feeds.feed.Feed`, from its options, and little else. The machine connects, logs in,
subscribes, keeps the connection alive both ways and yields what comes; `flows.feeds.reading` reads the rows out of it.
It does not reconnect, queue or store: who runs it does.
"""

import logging
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from functools import partial
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import Final
from urllib.parse import quote
from urllib.parse import quote_plus
from urllib.parse import urlencode

from pydantic import AfterValidator
from pydantic import Field

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.extractors.base import BaseRealtimeExtractor
from flows.extractors.base import Batch
from flows.extractors.base import LiveRequest
from flows.extractors.base import Patience
from flows.extractors.http import plain_url
from flows.feeds import templates
from flows.feeds.feed import Feed
from flows.feeds.pulse import Alarm
from flows.feeds.pulse import Pings
from flows.feeds.reading import Reader
from flows.feeds.talk import Talk
from flows.feeds.templates import Known
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.options import Options
from flows.web import retry_after

if TYPE_CHECKING:
    from flows.feeds.bursts import Bursts

#: how soon a change of subscriptions is taken up
_TICK: Final = 0.5
#: shortest time between two pings: where few messages are heard they leave room for requests
_PING: Final = 1.0
#: for the vendor to answer when we close
_PARTING: Final = 1.0
#: the connection is closed in order: the vendor restarts, or has had enough of it
_ORDERLY: Final = (1000, 1001, 1005, 1012)
_TOO_BIG: Final = 1009
# the client would log every message, the one with the key too, and addresses with their query
_LOG: Final = logging.getLogger("flows.websocket")
_LOG.setLevel(logging.INFO)


def _stream_url(value: str) -> str:
    return plain_url(value, ("wss", "ws")) if value else value


#: an address without a query; empty: the vendor's own
StreamUrl = Annotated[str, AfterValidator(_stream_url)]


class StreamOptions(Options):
    """Options that every source heard over a WebSocket has, beside where it is heard."""

    silence: float = Field(
        60, ge=2, le=3600, description="Seconds without a sign of life after which a connection is taken to be dead."
    )
    answer_seconds: float = Field(10, gt=0, le=600, description="Seconds for the vendor to answer a login or request.")
    largest_message_mb: int = Field(64, gt=0, le=256, description="MiB a message may have, unpacked.")
    first_pause: float = Field(1, ge=0, le=600, description="Seconds before the second attempt; they double.")
    longest_pause: float = Field(60, ge=0, le=3600, description="Longest pause before connecting again.")
    stream_delay_minutes: int = Field(0, ge=0, le=10_000, description="Minutes by which the stream comes late.")


class WebSocketExtractor(BaseRealtimeExtractor):
    """A vendor heard over a WebSocket."""

    Options: ClassVar[type[Options]] = StreamOptions

    # -- what a vendor says of itself -----------------------------------------------------------------------------

    @abstractmethod
    def feed(self) -> Feed:
        """Return how the vendor speaks, from the source's options; without secrets, which templates name."""

    def objection(self, channel: Channel) -> str:
        """Return why a channel cannot be asked; empty where it can. The base knows the feed's schemas."""
        have = self._feed.events
        return "" if channel.schema in have else f"the stream has no {channel.schema}; it has {', '.join(have)}"

    def spoken(self, symbol: str) -> str:
        """Return a symbol as the stream writes it; the base knows one spelling."""
        return symbol

    def written(self, symbol: str) -> str:
        """Return a symbol of the stream as the source writes it: the inverse of `spoken`."""
        return symbol

    # -- what they all do -----------------------------------------------------------------------------------------

    @property
    def patience(self) -> Patience:
        return Patience(first=self.options.first_pause, longest=self.options.longest_pause)

    @property
    def silence(self) -> float:
        return float(self.options.silence)

    def transit_of(self, schema: str) -> timedelta:
        events = self._feed.events.get(schema)
        late = self.transit if events is None else timedelta(seconds=events.late_seconds)
        return late + timedelta(minutes=self.options.stream_delay_minutes)

    def wire(self, channel: Channel) -> str:
        """Return the vendor's name of a channel."""
        return templates.name_of(self._feed.events[channel.schema].channel, self.spoken(channel.symbol))

    def scrub(self, text: str) -> str:
        """Return a text with every secret of the source replaced by ***."""
        endings = {*self.credentials, *self._feed.secrets}
        secrets = [self.context.environ.get(f"{self.source.env_prefix}_{ending}", "") for ending in endings]
        ways = (str, quote_plus, partial(quote, safe=""))
        forms = {way(secret) for secret in secrets if secret for way in ways}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def parse(self, frames: Sequence[Frame], state: dict[str, Any]) -> Iterator[Batch]:
        return self._reader.read(frames)

    async def frames(self, request: LiveRequest) -> AsyncGenerator[Frame | Sequence[Frame] | Told, None]:
        from websockets.exceptions import ConnectionClosed

        talk = Talk(self._feed, self._name, self, self.options.answer_seconds, time.monotonic())
        socket = await self._connected()
        alarm = Alarm()
        try:
            if refused := talk.change(request.channels, ()):
                yield Told(time.time_ns(), refused=refused)
            pings = Pings(socket, max(self.silence / 6, _PING))
            while True:
                if alarm.due:
                    now = time.monotonic()
                    for told in await self._look(talk, pings, request, now):
                        yield told
                    alarm.set(min(_TICK, talk.wait(now), pings.wait(now)))
                burst = await alarm.until(socket.burst())
                if burst is None:
                    continue
                received, messages = burst
                coming = [Frame(content, received) for content in messages]
                if not talk.concerns(b"".join(messages)):
                    yield coming
                    continue
                for frame in coming:
                    yield frame
                    if talk.concerns(frame.content):
                        alarm.due = True
                        for told in talk.heard(frame.content, received):
                            yield told
                        if talk.leaving:
                            yield Told(received, note=talk.leaving)
                            return
        except ConnectionClosed as closed:
            if (error := self._ended(closed)) is not None:
                raise error from None
        finally:
            alarm.stop()
            try:
                await socket.close()
            finally:
                # who is not answered, or is told not to wait, leaves no socket open
                socket.transport.abort()

    async def _look(self, talk: Talk, pings: Pings, request: LiveRequest, now: float) -> list[Told]:
        """Take up changes, say what is due, and return what is known by now."""
        from websockets.exceptions import ConnectionClosed

        received = time.time_ns()
        found = pings.told(received)
        while not request.changes.empty():
            if refused := talk.change(*request.changes.get_nowait()):
                found.append(Told(received, refused=refused))
        said, told = talk.due(now, received)
        # where the connection has ended, what came before the end is still to be read
        with suppress(ConnectionClosed):
            while said is not None:
                await pings.socket.send(said)
                found += told
                said, told = talk.due(now, received)
            await pings.go(now)
        return found + told

    # -- the connection -------------------------------------------------------------------------------------------

    @cached_property
    def _feed(self) -> Feed:
        return self.feed()

    @cached_property
    def _reader(self) -> Reader:
        same = type(self).written is WebSocketExtractor.written
        return Reader(self._feed, None if same else self.written)

    @property
    def _name(self) -> str:
        return f"source {self.source.name!r}"

    async def _connected(self) -> "Bursts":
        """Return an open connection; raises what its refusal means."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake
        from websockets.exceptions import InvalidStatus
        from websockets.exceptions import InvalidURI

        from flows.feeds.bursts import Bursts

        class Connection(Bursts):
            longest = self.options.largest_message_mb << 20

        class Straight(connect):
            """Goes where it is told: a vendor that sends us elsewhere would get our key there."""

            def process_redirect(self, exc: Exception) -> Exception:
                return exc

        feed = self._feed
        known = Known(self.secret)
        params = {name: templates.text(value, known) for name, value in feed.params.items()}
        headers = {name: templates.text(value, known) for name, value in feed.headers.items()}
        try:
            socket = await Straight(
                feed.url + (f"?{urlencode(params)}" if params else ""),
                additional_headers=headers,
                user_agent_header="dataflow",
                open_timeout=self.options.answer_seconds,
                close_timeout=_PARTING,
                # our own pings tell that the vendor is alive; who runs this decides when it is not
                ping_interval=None,
                max_size=Connection.longest,
                logger=_LOG,
                create_connection=Connection,
            )
            assert isinstance(socket, Bursts)
            return socket
        except InvalidStatus as error:
            response = error.response
            headers = {name.lower(): value for name, value in response.headers.raw_items()}
            raise self._refusal(response.status_code, headers, bytes(response.body or b"")) from None
        except (InvalidURI, UnicodeError) as error:
            # a host that cannot be asked for, a header that cannot be written
            raise ConfigError(self.scrub(f"{self._name}: {error}")) from None
        except (InvalidHandshake, OSError) as error:
            # TimeoutError is one too
            words = str(error) or type(error).__name__
            raise TransientError(self.scrub(f"{self._name}: {feed.url}: {words}")) from None

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> DataflowError:
        """Return the error that the status of a handshake means, with the vendor's own words."""
        words = " ".join(body[:4096].decode("utf-8", "replace").split())[:300] or "no reason given"
        message = self.scrub(f"{self._name}: {self._feed.url}: HTTP {status}: {words}")
        if status in (418, 429):
            return RateLimited(message, retry_after=retry_after(headers))
        if status in (408, 425) or status >= 500:
            return TransientError(message, retry_after=retry_after(headers))
        if status == 401:
            return AuthFailed(message)
        return NotEntitled(message) if status in (402, 403, 451) else ConfigError(message)

    def _ended(self, closed: Any) -> DataflowError | None:
        """Return the error that a connection ended with; None where the vendor closed it in order."""
        if closed.sent is not None and closed.sent.code == _TOO_BIG and not closed.rcvd_then_sent:
            most = self.options.largest_message_mb
            return TransientError(f"{self._name}: a message is longer than {most} MiB ({closed.sent.reason})")
        code = closed.rcvd.code if closed.rcvd is not None else None
        if code in _ORDERLY:
            return None
        reason = closed.rcvd.reason if closed.rcvd is not None else "without a word"
        return TransientError(self.scrub(f"{self._name}: the connection was closed: {code or ''} {reason}".strip()))
