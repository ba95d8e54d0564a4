"""The conversation with a vendor, without network or clock: requests, halves, late answers, changes, heartbeats."""

import json
import random
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import TransientError
from flows.feeds.feed import Feed
from flows.feeds.talk import Talk
from flows.frames import Channel
from flows.frames import Told

TRADES = {
    "channel": "t.{symbol}", "when": {"e": "t"}, "symbol": "s",
    "fields": {"ts_event": "t", "price": "p", "size": "q"},
}  # fmt: skip
NUMBERED: dict[str, Any] = {
    "url": "wss://x.example",
    "subscribe": {"op": "sub", "to": "{list}", "id": "{id}"},
    "unsubscribe": {"op": "unsub", "to": "{list}", "id": "{id}"},
    "answers": [
        {"when": {"ok": True}, "means": "subscribed", "request": "id"},
        {"when": {"ok": False}, "means": "refused", "request": "id", "reason": "why"},
    ],
    "events": {"trades": TRADES},
}


class Nobody:
    """A speaker without secrets or objections."""

    def secret(self, ending: str) -> str:
        raise AssertionError(ending)

    def scrub(self, text: str) -> str:
        return text

    def wire(self, channel: Channel) -> str:
        return f"t.{channel.symbol}"

    def objection(self, channel: Channel) -> str:
        return ""


def talk(channels: Iterable[Channel] = (), **changed: Any) -> Talk:
    made = Talk(Feed.model_validate({**NUMBERED, **changed}), "x", Nobody(), 10.0, 0.0)
    assert made.change(channels, ()) == {}
    return made


def channels(number: int) -> list[Channel]:
    return [Channel("trades", f"S{at}") for at in range(number)]


def converse(made: Talk, vendor: Callable[[Any], Iterable[Any]]) -> tuple[list[Any], list[Told]]:
    """Let a vendor answer until nothing is said any more; return what was said, and what was told of it."""
    said, told = [], []
    while True:
        message, known = made.due(0.0, 1)
        told += known
        if message is None:
            return said, told
        said.append(json.loads(message))
        for answer in vendor(said[-1]):
            told += made.heard(json.dumps(answer).encode(), 1)


def acknowledged(told: Iterable[Told]) -> set[Channel]:
    return {channel for one in told for channel in one.acknowledged}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=5), st.integers(1, 50))
def test_wrong_channels_cost_no_other(number: int, wrong: set[int], batch: int) -> None:
    bad = {f"t.S{at}" for at in wrong}

    def vendor(message: Any) -> Iterable[Any]:
        yield {"id": message["id"], "ok": not bad & set(message["to"]), "why": "no such stream"}

    some = channels(number)
    said, told = converse(talk(some, batch=batch), vendor)
    refused = {channel: words for one in told for channel, words in one.refused.items()}
    assert acknowledged(told) == {one for one in some if f"t.{one.symbol}" not in bad}
    assert refused == {one: "no such stream" for one in some if f"t.{one.symbol}" in bad}
    # a wrong one is found by halving, not by asking for each alone
    assert len(said) <= -(-number // batch) + 2 * len(bad) * 7


def test_an_answer_to_another_request_is_not_taken() -> None:
    made = talk(channels(1))
    made.due(0.0, 1)
    assert made.heard(b'{"ok":true,"id":7}', 1) == []
    assert made.heard(b'{"ok":false,"id":7,"why":"late"}', 1) == [Told(1, note="late")]
    assert acknowledged(made.heard(b'{"ok":true,"id":"1"}', 1)) == set(channels(1))


def test_words_that_name_a_channel_are_about_that_one() -> None:
    plain = [
        {"when": {"ok": True}, "means": "subscribed", "names": {"to": ""}},
        {"when": {"ok": False}, "means": "refused", "reason": "why"},
    ]
    first, second, third = channels(3)
    made = talk([first, second], answers=plain)
    made.due(0.0, 1)
    assert made.heard(b'{"ok":false,"why":"not authorized for: t.S1."}', 1) == [
        Told(1, refused={second: "not authorized for: t.S1."})
    ]
    assert acknowledged(made.heard(b'{"ok":true,"to":["t.S0"]}', 1)) == {first}
    made.change([third], ())
    made.due(0.0, 1)
    # it comes once more, and is not about what is asked now
    late = made.heard(b'{"ok":false,"why":"not authorized for: t.S1."}', 1)
    assert [one.note for one in late] == ["not authorized for: t.S1."]
    assert acknowledged(made.heard(b'{"ok":true,"to":"t.S2"}', 1)) == {third}


def acted_out(made: Talk, vendor: Callable[[Any], Iterable[tuple[float, Any]]]) -> tuple[list[Any], dict[Channel, str]]:
    """Let a vendor answer after some seconds each; return what was said, and what became of each channel in the end."""
    said: list[Any] = []
    became: dict[Channel, str] = {}
    coming: list[tuple[float, int, Any]] = []
    now = 0.0
    while now < 600:
        message, told = made.due(now, 1)
        if message is not None:
            said.append(json.loads(message))
            coming += [(now + after, len(said), answer) for after, answer in vendor(said[-1])]
            # what is sent over one connection comes in its order
            coming.sort(key=lambda one: one[:2])
        elif coming and coming[0][0] <= now + made.wait(now):
            now, _, answer = coming.pop(0)
            told = [*told, *made.heard(json.dumps(answer).encode(), 1)]
        else:
            now += max(made.wait(now), 0.001)
        for one in told:
            became |= dict.fromkeys(one.acknowledged, "acknowledged") | dict(one.refused)
    return said, became


NAMING = [
    {"when": {"ok": True}, "means": "subscribed", "names": {"to": ""}},
    {"when": {"ok": False}, "means": "refused", "reason": "why"},
]


@pytest.mark.parametrize("each", [True, False], ids=["one for each channel", "one for the request"])
@pytest.mark.parametrize("seed", range(40))
def test_refusals_that_name_nothing_cost_no_other_channel(seed: int, *, each: bool) -> None:
    chance = random.Random(seed)
    some = channels(chance.randint(1, 12))
    bad = {f"t.{one.symbol}" for one in some if chance.random() < 0.4}

    def vendor(message: Any) -> Iterable[tuple[float, Any]]:
        refused = bad & set(message["to"])
        for name in message["to"]:
            # some take longer than is waited for
            after = chance.choice([0.05, 0.2, 0.9, 2.5])
            if each and name in bad:
                yield after, {"ok": False, "why": "not authorized"}
            elif each or not refused:
                yield after, {"ok": True, "to": [name]}
        if refused and not each:
            yield 0.05, {"ok": False, "why": "not authorized"}

    _, became = acted_out(talk(some, batch=chance.randint(1, 8), answers=NAMING), vendor)
    good = {one for one in some if f"t.{one.symbol}" not in bad}
    assert {one for one, how in became.items() if how == "acknowledged"} == good
    assert became.keys() == set(some)


def test_as_many_refusals_as_channels_are_left_refuse_them_all() -> None:
    def vendor(message: Any) -> Iterable[tuple[float, Any]]:
        for name in message["to"]:
            yield 0.1, {"ok": True, "to": [name]} if name < "t.S5" else {"ok": False, "why": "not authorized"}

    said, became = acted_out(talk(channels(10), answers=NAMING), vendor)
    assert len(said) == 1
    assert list(became.values()).count("not authorized") == 5


def test_a_refusal_of_a_whole_request_needs_no_waiting() -> None:
    made = talk(channels(2), answers=[NAMING[0], {**NAMING[1], "whole": True}])
    made.due(0.0, 1)
    assert made.heard(b'{"ok":false,"why":"too many"}', 1) == []
    assert json.loads(made.due(0.0, 1)[0] or "")["to"] == ["t.S0"]


def test_an_acknowledgement_that_comes_too_late_counts() -> None:
    first, second, third = channels(3)
    made = talk([first], answers=NAMING)
    made.due(0.0, 1)
    made.heard(b'{"ok":true,"to":["t.S0"]}', 1)
    made.change([second, third], ())
    made.due(0.0, 1)
    made.heard(b'{"ok":false,"why":"not authorized"}', 1)
    made.due(0.0, 1)
    # both are asked again, each alone
    assert json.loads(made.due(1.0, 1)[0] or "")["to"] == ["t.S1"]
    assert acknowledged(made.heard(b'{"ok":true,"to":["t.S2"]}', 1)) == {third}
    made.heard(b'{"ok":false,"why":"not authorized"}', 1)
    made.due(1.0, 1)
    message, told = made.due(2.0, 2)
    assert told == [Told(2, refused={second: "not authorized"})]
    assert message is None
    assert acknowledged(made.heard(b'{"ok":true,"to":["t.S1"]}', 1)) == {second}
    # one that is not wanted any more is ended
    made.change([], [second])
    assert json.loads(made.due(2.0, 1)[0] or "") == {"op": "unsub", "to": ["t.S1"], "id": 4}


def test_an_acknowledgement_that_comes_after_its_time_counts() -> None:
    first, second, third = channels(3)
    made = talk([first])
    made.due(0.0, 1)
    made.heard(b'{"ok":true,"id":1}', 1)
    made.change([second], ())
    made.due(0.0, 1)
    assert made.due(10.0, 1)[1][0].refused.keys() == {second}
    made.change([third], ())
    made.due(10.0, 1)
    assert acknowledged(made.heard(b'{"ok":true,"id":2}', 1)) == {second}
    assert acknowledged(made.heard(b'{"ok":true,"id":3}', 1)) == {third}


def test_a_channel_that_was_refused_by_name_is_not_acknowledged_by_number() -> None:
    first, second = channels(2)
    refused = {"when": {"failed": []}, "means": "refused", "names": {"failed": ""}, "reason": "why", "request": "id"}
    made = talk([first, second], answers=[NUMBERED["answers"][0], refused])
    made.due(0.0, 1)
    made.heard(b'{"id":1,"failed":["t.S1"],"why":"unknown"}', 1)
    assert acknowledged(made.heard(b'{"ok":true,"id":1}', 1)) == {first}
    assert acknowledged(made.heard(b'{"ok":true,"id":1}', 1)) == set()


def test_where_answers_cannot_be_told_apart_a_missing_one_ends_the_connection() -> None:
    first, second = channels(2)
    made = talk([first], answers=[{"when": {"ok": True}, "means": "subscribed"}])
    made.due(0.0, 1)
    made.heard(b'{"ok":true}', 1)
    made.change([second], ())
    made.due(0.0, 1)
    # else a late answer would acknowledge whatever is asked next
    with pytest.raises(TransientError, match=r"no answer to the subscription to trades of 'S1'"):
        made.due(10.0, 1)


def test_where_nothing_is_acknowledged_a_request_counts_when_it_is_sent() -> None:
    made = talk(channels(3), answers=[], batch=2)
    said, told = converse(made, lambda message: ())
    assert [message["to"] for message in said] == [["t.S0", "t.S1"], ["t.S2"]]
    assert acknowledged(told) == set(channels(3))
    assert made.change(channels(1), channels(1)) == {}
    said, told = converse(made, lambda message: ())
    assert [message["op"] for message in said] == ["unsub", "sub"]


def test_what_is_not_answered_is_refused_where_others_are_and_else_ends_the_connection() -> None:
    made = talk(channels(1))
    made.due(0.0, 1)
    assert made.wait(0.5) == 9.5
    with pytest.raises(TransientError, match=r"x: no answer to the subscription to trades of 'S0' in 10 s"):
        made.due(10.0, 1)
    made = talk(channels(1))
    made.due(0.0, 1)
    made.heard(b'{"ok":true,"id":1}', 1)
    other = Channel("trades", "X")
    made.change([other], ())
    made.due(0.0, 1)
    assert made.due(10.0, 2) == (None, [Told(2, refused={other: "the vendor did not answer for it in 10 s"})])


def test_a_channel_that_is_dropped_before_its_answer_is_ended_after_it() -> None:
    first, second = channels(2)
    made = talk([first, second])
    made.due(0.0, 1)
    made.change((), [second])
    assert acknowledged(made.heard(b'{"ok":true,"id":1}', 1)) == {first}
    assert json.loads(made.due(0.0, 1)[0] or "") == {"op": "unsub", "to": ["t.S1"], "id": 2}
    # and one that comes back in time is not
    made = talk([first])
    made.due(0.0, 1)
    made.change((), [first])
    made.change([first], ())
    assert acknowledged(made.heard(b'{"ok":true,"id":1}', 1)) == {first}
    assert made.due(0.0, 1)[0] is None


def test_a_channel_that_was_never_asked_is_not_ended() -> None:
    made = talk(channels(2), batch=1)
    made.due(0.0, 1)
    made.change((), channels(2)[1:])
    assert converse(made, lambda message: ()) == ([], [])
    assert acknowledged(made.heard(b'{"ok":true,"id":1}', 1)) == set(channels(1))
    assert converse(made, lambda message: ()) == ([], [])


def test_a_channel_that_two_schemas_come_from_stays_for_the_other() -> None:
    quotes = {**TRADES, "when": {"e": "q"}, "fields": {"ts_event": "t", "bid_price": "b"}}
    both = [Channel("trades", "A"), Channel("quotes", "A")]
    made = talk(both, events={"trades": TRADES, "quotes": quotes})
    ok: Callable[[Any], Iterable[Any]] = lambda message: [{"id": message["id"], "ok": True}]  # noqa: E731
    said, told = converse(made, ok)
    assert [message["to"] for message in said] == [["t.A"]]
    assert acknowledged(told) == set(both)
    made.change((), both[:1])
    assert converse(made, ok) == ([], [])
    made.change((), both[1:])
    assert [message["op"] for message in converse(made, ok)[0]] == ["unsub"]


def test_a_channel_that_another_schema_asks_meanwhile_stays_for_it() -> None:
    quotes = {**TRADES, "when": {"e": "q"}, "fields": {"ts_event": "t", "bid_price": "b"}}
    one, other = Channel("trades", "A"), Channel("quotes", "A")
    ok: Callable[[Any], Iterable[Any]] = lambda message: [{"id": message["id"], "ok": True}]  # noqa: E731
    # it is on its way when the first is dropped; or it waits behind another one that is
    for batch in (2, 1):
        made = talk([one], events={"trades": TRADES, "quotes": quotes}, batch=batch)
        converse(made, ok)
        made.change([other] if batch == 2 else [Channel("quotes", "0"), other], ())
        made.due(0.0, 1)
        made.change((), [one])
        made.heard(b'{"ok":true,"id":2}', 1)
        said, _ = converse(made, ok)
        assert [message["op"] for message in said] == ["sub"] * (2 - batch)
        # and is ended with the last
        made.change((), [other])
        assert [message["to"] for message in converse(made, ok)[0]] == [["t.A"]]


def test_no_more_is_said_than_the_vendor_hears() -> None:
    made = talk(channels(6), batch=2, pace=4, answers=[])
    times, now = [], 0.0
    while len(times) < 3:
        if made.due(now, 1)[0] is not None:
            times.append(now)
        now += made.wait(now)
    assert times == [0.0, 0.25, 0.5]


def test_heartbeats_go_out_in_time_and_come_in() -> None:
    made = talk(
        heartbeat={"op": "ping", "id": "{id}"},
        heartbeat_seconds=3,
        answers=[{"when": {"op": "pong"}, "means": "alive"}],
    )
    assert made.due(0.0, 1) == (None, [])
    assert made.wait(0.0) == 3
    assert made.due(3.0, 1)[0] == '{"op":"ping","id":1}'
    assert made.due(3.0, 1)[0] is None
    assert made.heard(b'{"op":"pong"}', 5) == [Told(5)]
    assert made.wait(4.0) == 2


def test_heartbeats_leave_room_for_requests() -> None:
    made = talk(channels(3), batch=1, pace=0.5, heartbeat={"op": "ping"}, heartbeat_seconds=1, answers=[])
    said, now = [], 0.0
    while now < 12:
        message, _ = made.due(now, 1)
        if message is not None:
            said.append(json.loads(message)["op"])
        now += max(made.wait(now), 0.001)
    assert said == ["sub", "ping", "sub", "ping", "sub", "ping"]


def test_a_login_waits_for_the_greeting_and_subscriptions_for_the_login() -> None:
    steps = [
        {"when": {"m": "hello"}, "means": "greeting"},
        {"when": {"m": "in"}, "means": "authenticated"},
        *NUMBERED["answers"],
    ]
    made = talk(channels(1), auth={"op": "login"}, answers=steps)
    assert made.due(0.0, 1)[0] is None
    assert made.wait(1.0) == 9
    made.heard(b'{"m":"in"}', 1)
    assert made.due(0.0, 1)[0] is None
    made.heard(b'[{"m":"hello"}]', 1)
    assert made.due(5.0, 1)[0] == '{"op":"login"}'
    assert made.due(5.0, 1)[0] is None
    with pytest.raises(TransientError, match="no answer to the login in 10 s"):
        made.due(15.0, 1)
    made.heard(b'{"m":"in"}', 1)
    assert json.loads(made.due(15.0, 1)[0] or "")["op"] == "sub"


def test_what_is_no_json_says_nothing() -> None:
    made = talk(channels(1))
    made.due(0.0, 1)
    for content in (b'{"ok"', b"\xff", b"[" * 5000, b'"ok"', b"17", b"null", b'[1,[{"ok":true,"id":1}]]'):
        assert made.heard(content, 1) == []
    assert made.concerns(b'{"ok":true}')
    assert not made.concerns(b'{"e":"t"}')
