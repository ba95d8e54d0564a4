"""Asks a vendor over HTTP: within its limits, in bounded time and size, with secrets kept out of every message.

One call is one attempt; what to do about a failure is said by the class of the error, and done by `flows.extraction`.
Answers are RFC 9110; `Retry-After` in seconds or as a date, §10.2.3.
"""

import json
import logging
import re
import time
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from typing import Final
from urllib.parse import parse_qsl
from urllib.parse import quote
from urllib.parse import urljoin
from urllib.parse import urlsplit

import httpx
import msgspec

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from flows.limits import Limiter

_SHOWN: Final = 300
#: what 429 and 418 without Retry-After mean
_PAUSE: Final = 60.0
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


#: gives a number with a point or an exponent as its text
_DECODER: Final = msgspec.json.Decoder(float_hook=str)


class _Hidden(logging.Filter):
    """Takes secrets out of what the HTTP client logs: it writes whole addresses, and headers too when debugging."""

    secrets: tuple[str, ...] = ()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if any(secret in message for secret in self.secrets):
            record.msg, record.args = _scrubbed(message, self.secrets), None
        return True


_HIDDEN: Final = _Hidden()
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks"):
    # a filter does not hold for the loggers below its own
    logging.getLogger(_name).addFilter(_HIDDEN)


def _in_address(secret: str) -> str:
    """Return a secret as the client writes it into a query; it leaves some signs that others encode."""
    return str(httpx.URL("http://x/", params={"k": secret})).removeprefix("http://x/?k=")


def _scrubbed(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a vendor, without its secrets.

    `path` is relative to the source's base URL. `facts` go into the landed page's manifest: what parsing needs and
    the answer does not say. `costs` are what it takes of quotas other than `requests`. A streamed answer goes to the
    landing as it comes; others are read whole.
    """

    path: str
    params: Mapping[str, str] = field(default_factory=dict, hash=False)
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    form: Mapping[str, str] | None = field(default=None, hash=False)
    accepts: str = "application/json"
    streamed: bool = False

    @property
    def key(self) -> str:
        """A digest that two calls share exactly when they ask the same."""
        asked = [self.path, sorted(self.params.items()), sorted((self.form or {}).items())]
        return sha256(json.dumps(asked).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor said: the whole body, or the body of a landed page."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200

    def json(self) -> Any:
        """Return the body as JSON; numbers with a point or exponent are their text, exactly as sent.

        Raises ValueError where it is none.
        """
        return read_json(self.content)


def read_json(content: bytes) -> Any:
    """Return JSON with every number that has a point or an exponent as its text: a float would change it.

    Raises ValueError (json.JSONDecodeError, UnicodeError) where it is none, or holds texts that are none.
    """
    try:
        return _DECODER.decode(content)
    except msgspec.DecodeError:
        # what is no JSON at all fails here too; NaN, which some vendors send, is a text that refine refuses in its row
        found = json.loads(content, parse_float=str, parse_constant=str)
        # half of a surrogate pair passes for a character here, and nowhere else
        json.dumps(found, ensure_ascii=False).encode()
        return found


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may take: seconds to connect and between two blocks, seconds and bytes in all."""

    idle: float = 30.0
    total: float = 600.0
    size: int = 256 << 20


class Web:
    """A vendor's HTTP side, for one source. `secrets` never leave it but to the vendor."""

    def __init__(
        self,
        name: str,
        base_url: str,
        limiter: Limiter,
        bounds: Bounds,
        *,
        headers: Mapping[str, str] = _NOTHING,
        secret_params: Mapping[str, str] = _NOTHING,
        auth: tuple[str, str] | None = None,
        secrets: Sequence[str] = (),
        refusals: Sequence[tuple[str, type[Exception]]] = (),
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/") + "/"
        self.limiter = limiter
        self.bounds = bounds
        self.secret_params = dict(secret_params)
        self.refusals = [(re.compile(pattern), kind) for pattern, kind in refusals]
        self.secrets: tuple[str, ...] = ()
        self.hide(*secrets)
        self.client = httpx.Client(
            headers={"user-agent": "dataflow", **headers},
            auth=httpx.BasicAuth(*auth) if auth else None,
            timeout=bounds.idle,
            # a vendor that sends us elsewhere would get our key there
            follow_redirects=False,
            limits=httpx.Limits(max_connections=20),
        )
        weakref.finalize(self, self.client.close)

    def fetch(self, call: Call) -> Answer:
        """Return the whole answer to a call. Raises what the status says, and TransientError when it is cut."""
        with self.opened(call) as (response, blocks):
            return Answer(b"".join(blocks), _lower(response.headers), response.status_code)

    @contextmanager
    def opened(self, call: Call) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """Open the answer to a call: its head, and its body block by block, bounded in time and size."""
        self.limiter.take(call.costs)
        deadline = time.monotonic() + self.bounds.total
        try:
            with self.client.stream(
                "GET" if call.form is None else "POST",
                self.url(call.path),
                params={**call.params, **self.secret_params} or None,
                data=dict(call.form) if call.form is not None else None,
                headers={"accept": call.accepts},
            ) as response:
                blocks = self._blocks(response, deadline)
                if response.status_code >= 300:
                    raise self.refusal(response.status_code, _lower(response.headers), _first(blocks))
                yield response, blocks
        except httpx.HTTPError as error:
            # no response, or one that breaks off
            raise TransientError(self.scrub(f"{self.name}: {type(error).__name__}: {error}")) from None
        except httpx.InvalidURL as error:
            raise ConfigError(self.scrub(f"{self.name}: {error}")) from None

    def url(self, path: str) -> str:
        """Return the absolute address of a path below the base URL; ConfigError where it is anywhere else."""
        url = urljoin(self.base_url, path.lstrip("/"))
        if not url.startswith(self.base_url):
            raise ConfigError(self.scrub(f"{self.name}: {path!r} is not below {self.base_url}"))
        return url

    def hide(self, *secrets: str) -> None:
        """Show these no more, as they are and as they are written in an address, here and in the client's log."""
        forms = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), _in_address(secret))}
        self.secrets = tuple(sorted({*self.secrets, *forms}, key=len, reverse=True))
        _HIDDEN.secrets = tuple(sorted({*_HIDDEN.secrets, *forms}, key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """Return the text with every secret replaced by ***."""
        return _scrubbed(text, self.secrets)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return the error that a status means, with the vendor's own words."""
        message = f"{self.name}: HTTP {status}: {_words(self.scrub(body.decode('utf-8', 'replace')))}"
        if status in (418, 429):
            return self.limited(message, headers)
        return self.meant(body.decode("utf-8", "replace"), message, headers) or self._by_status(
            status, message, headers
        )

    def meant(self, body: str, message: str, headers: Mapping[str, str] = _NOTHING) -> Exception | None:
        """Return the error that the vendor's own words mean; None where they are not known."""
        for pattern, kind in self.refusals:
            if pattern.search(body):
                if issubclass(kind, RateLimited):
                    return self.limited(message, headers)
                return kind(self.scrub(message))
        return None

    def _by_status(self, status: int, message: str, headers: Mapping[str, str]) -> Exception:
        message = self.scrub(message)
        if status in (408, 425) or status >= 500:
            return TransientError(message, retry_after=retry_after(headers))
        if status == 401:
            return AuthFailed(message)
        if status in (402, 403, 451):
            return NotEntitled(message)
        return PermanentError(message)

    def limited(self, message: str, headers: Mapping[str, str] = _NOTHING) -> RateLimited:
        """Stop the whole source until the vendor will hear us again; returns the error that says so."""
        seconds = retry_after(headers)
        seconds = _PAUSE if seconds is None else seconds
        self.limiter.pause(seconds)
        return RateLimited(self.scrub(message), retry_after=seconds)

    def _blocks(self, response: httpx.Response, deadline: float) -> Iterator[bytes]:
        size = 0
        # as they come: collected to larger blocks they would be seen too late
        for block in response.iter_bytes():
            size += len(block)
            if size > self.bounds.size:
                raise PermanentError(f"{self.name}: the answer is longer than {self.bounds.size:,} bytes")
            if time.monotonic() > deadline:
                raise TransientError(f"{self.name}: the answer took longer than {self.bounds.total:g} s")
            yield block


def continued(call: Call, url: str, base_url: str) -> Call:
    """Return the call for a link that the vendor sent: its path and query, asked on our own base URL.

    Vendors link to their own host; behind a proxy or a stand-in that is not where we ask. A path prefix of the base URL
    that the link repeats is taken off.
    """
    parts = urlsplit(url)
    prefix = urlsplit(base_url).path.rstrip("/")
    return replace(call, path=parts.path.removeprefix(prefix), params=dict(parse_qsl(parts.query)))


def retry_after(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Return the seconds that Retry-After asks for; None where it says nothing that can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now()).total_seconds())


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _first(blocks: Iterator[bytes]) -> bytes:
    """Return the beginning of a body, as far as it can be had: it only explains an error."""
    content = b""
    try:
        for block in blocks:
            content += block
            if len(content) > 4096:
                break
    except (httpx.HTTPError, TransientError):
        return content
    return content


def _words(text: str) -> str:
    """Return what a refusal says, in one line."""
    text = text.strip()
    try:
        said = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:_SHOWN] or "no reason given"
    for name in ("detail", "message", "error", "msg", "Error Message", "status"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return (said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))[:_SHOWN]
