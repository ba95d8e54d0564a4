"""One call to a vendor: what each answer means, in bounded time and size, and no secret in any message."""

import logging
import time
from collections.abc import Iterator
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from flows.limits import Limiter
from flows.limits import LocalBuckets
from flows.web import Bounds
from flows.web import Call
from flows.web import Web
from flows.web import continued
from flows.web import read_json
from flows.web import retry_after
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import StandIn

SECRET = "s3cr3t/+&="


class Echo(StandIn):
    """Answers with what it was asked, or with the status in the path."""

    def routes(self) -> Sequence[tuple[str, Any]]:
        return (
            (r"/v1/status/(\d+)", lambda asked: Reply({"message": f"no, {SECRET} is wrong"}, int(asked.parts[0]))),
            (r"/v1/moved", lambda asked: Reply({}, 302, {"Location": "http://127.0.0.1:1/"})),
            (r"/v1/echo.*", self.echo),
        )

    def echo(self, asked: Asked) -> Reply:
        return Reply({"path": asked.path, "params": dict(asked.params), "form": dict(asked.form)})


@pytest.fixture
def server() -> Iterator[Echo]:
    with Echo() as running:
        yield running


def web(server: StandIn, slept: list[float] | None = None, **options: Any) -> Web:
    bounds = options.pop("bounds", Bounds(5, 5, 1 << 20))
    limiter = Limiter("source 'x'", (), LocalBuckets(), (slept if slept is not None else []).append)
    return Web("source 'x'", f"{server.url}/v1", limiter, bounds, secrets=[SECRET], **options)


def test_asks_below_the_base_url_with_secrets_apart(server: Echo) -> None:
    asked = web(server, secret_params={"apikey": SECRET}).fetch(Call("/echo/a%2Fb", {"symbol": "BRK/B"})).json()
    assert asked == {"path": "/v1/echo/a%2Fb", "params": {"symbol": "BRK/B", "apikey": SECRET}, "form": {}}
    posted = web(server).fetch(Call("echo", form={"symbols": "A,B"})).json()
    assert posted["form"] == {"symbols": "A,B"}


@pytest.mark.parametrize("path", ["../secret", "http://elsewhere.example/x", "a/../../b"])
def test_never_asks_anywhere_else(server: Echo, path: str) -> None:
    with pytest.raises(ConfigError, match="is not below"):
        web(server).fetch(Call(path))
    assert server.log == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PermanentError), (401, AuthFailed), (402, NotEntitled), (403, NotEntitled), (404, PermanentError),
        (408, TransientError), (418, RateLimited), (422, PermanentError), (425, TransientError), (429, RateLimited),
        (451, NotEntitled), (500, TransientError), (502, TransientError), (503, TransientError), (302, PermanentError),
    ],
)  # fmt: skip
def test_a_status_is_an_error_with_the_vendors_words_and_no_secret(
    server: Echo, status: int, kind: type[DataflowError]
) -> None:
    with pytest.raises(DataflowError) as refused:
        web(server).fetch(Call(f"status/{status}"))
    assert type(refused.value) is kind
    assert f"HTTP {status}: no, *** is wrong" in str(refused.value)


def test_a_redirect_is_not_followed(server: Echo) -> None:
    with pytest.raises(PermanentError, match="HTTP 302"):
        web(server).fetch(Call("moved"))


def test_words_can_mean_more_than_the_status(server: Echo) -> None:
    with pytest.raises(UnknownSymbol):
        web(server, refusals=[("is wrong", UnknownSymbol)]).fetch(Call("status/400"))
    with pytest.raises(RateLimited):
        web(server, refusals=[("is wrong", RateLimited)]).fetch(Call("status/400"))


def test_429_stops_the_whole_source(server: Echo) -> None:
    shared = LocalBuckets()
    first, second = web(server), web(server, slept := [])
    first.limiter.buckets = second.limiter.buckets = shared
    server.fail("throttled", seconds=77)
    with pytest.raises(RateLimited) as limited:
        first.fetch(Call("echo"))
    assert limited.value.retry_after == 77
    second.limiter.sleep = lambda seconds: (slept.append(seconds), shared.__setattr__("closed_until", 0.0))
    second.fetch(Call("echo"))
    assert slept == [pytest.approx(77, abs=1)]


@pytest.mark.parametrize("fault", ["truncated", "reset"])
def test_a_cut_answer_is_no_answer(server: Echo, fault: str) -> None:
    server.fail(fault)
    with pytest.raises(TransientError):
        web(server).fetch(Call("echo"))


def test_an_answer_is_bounded_in_size_and_time(server: Echo) -> None:
    with pytest.raises(PermanentError, match="longer than 10 bytes"):
        web(server, bounds=Bounds(5, 5, 10)).fetch(Call("echo"))
    server.fail("slow", seconds=0.2)
    began = time.monotonic()
    with pytest.raises(TransientError, match="took longer than"):
        web(server, bounds=Bounds(5, 0.1, 1 << 20)).fetch(Call("echo", {"long": "x" * 2000}))
    # the whole would have taken six seconds
    assert time.monotonic() - began < 3


def test_a_vendor_that_is_not_there_can_be_asked_later(server: Echo) -> None:
    gone = web(server, secret_params={"apikey": SECRET})
    gone.base_url = "http://127.0.0.1:9/"
    with pytest.raises(TransientError) as failed:
        gone.fetch(Call("x"))
    assert SECRET not in str(failed.value)


def test_retry_after_is_seconds_or_a_date() -> None:
    def now() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    assert retry_after({"retry-after": "12"}, now) == 12
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, now) == 30
    assert retry_after({"retry-after": "Wed, 31 Dec 2025 00:00:30 GMT"}, now) == 0
    assert retry_after({"retry-after": "soon"}, now) is None
    assert retry_after({}, now) is None


def test_json_numbers_keep_their_digits() -> None:
    said = read_json(b"[1.10, 1e-10, 12345678901234567890123, 0.12345678901234567890, NaN, -0.0]")
    assert said == ["1.10", "1e-10", 12345678901234567890123, "0.12345678901234567890", "NaN", "-0.0"]


def test_a_link_of_the_vendor_is_asked_on_our_base_url() -> None:
    call = Call("v2/aggs", {"limit": "2"}, {"symbol": "A"})
    link = "https://api.vendor.example/v2/aggs?cursor=a%2Bb&limit=2"
    assert continued(call, link, "http://127.0.0.1:1") == Call(
        "/v2/aggs", {"cursor": "a+b", "limit": "2"}, {"symbol": "A"}
    )
    assert continued(call, "https://x.example/proxy/v2/a", "http://127.0.0.1/proxy/").path == "/v2/a"


def test_calls_that_ask_the_same_have_one_key() -> None:
    assert Call("a", {"x": "1", "y": "2"}).key == Call("a", {"y": "2", "x": "1"}, {"symbol": "A"}).key
    assert Call("a", {"x": "1"}).key != Call("a", {"x": "2"}).key
    assert Call("a").key != Call("a", form={"x": "1"}).key


def test_the_clients_own_log_shows_no_secret(server: Echo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "httpx")
    web(server, secret_params={"apikey": SECRET}, headers={"x-key": SECRET}).fetch(Call("echo", {"symbol": "A"}))
    assert "symbol=A" in caplog.text
    assert "***" in caplog.text
    for form in (SECRET, quote(SECRET, safe=""), quote(SECRET, safe="/")):
        assert form not in caplog.text
