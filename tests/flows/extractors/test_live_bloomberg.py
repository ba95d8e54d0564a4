"""The live half of vendor `bloomberg` over the stand-in SDK: what is subscribed, told and landed, and every way to end.

No recording of subscribed trades is at hand. Bodies have the fields that Bloomberg documents; the times of an image,
and which fields one has, are as published with xbbg (github.com/alpha-xone/xbbg, notebook of `blp.live`).
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from contextlib import aclosing
from contextlib import asynccontextmanager
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from itertools import count
from pathlib import Path
from time import time_ns
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import TransientError
from catalog.keys import InstrumentName
from catalog.schemas import schema
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import refine
from flows import registry
from flows.blp import events
from flows.blp.stream import threaded
from flows.blp.subscriptions import Pace
from flows.extractors.base import Context
from flows.extractors.base import LiveRequest
from flows.extractors.bloomberg import BloombergExtractor
from flows.extractors.bloomberg import BloombergLive
from flows.frames import ROWS_A_FRAME
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import Landing
from tests.vendors import blpapi_live as standin
from tests.vendors.blpapi_live import Floor
from tests.vendors.blpapi_standin import Desk
from tests.vendors.blpapi_standin import Market
from tests.vendors.blpapi_standin import installed as installed_desk

_SOURCES = count(2_000_000)
_PATIENCE = 30
NEW_YORK = timezone(timedelta(hours=-4))
SPY, IBM = "SPY US Equity", "IBM US Equity"
IMAGE = {
    "LAST_PRICE": 531.25, "SIZE_LAST_TRADE": 100, "EVT_TRADE_PRICE_RT": 531.25, "IS_DELAYED_STREAM": False,
    "TRADING_DT_REALTIME": date(2024, 5, 16), "RT_TIME_OF_TRADE": time(9, 59, 58),
    "LAST_PRICE_TIME_TODAY_REALTIME": time(9, 59, 58, 802000), "IMBALANCE_BUY": None, "EXCH_CODE_LAST": "",
}  # fmt: skip


def at(second: float) -> datetime:
    return datetime(2024, 5, 16, 10, 0, tzinfo=NEW_YORK) + timedelta(seconds=second)


def trade(second: float = 0.0, price: Any = 531.25, size: Any = 100, **other: Any) -> dict[str, Any]:
    """The fields of a trade as the SDK gives them."""
    return {
        "TRADE_UPDATE_STAMP_RT": at(second), "EVT_TRADE_PRICE_RT": price, "EVT_TRADE_SIZE_RT": size,
        "LAST_PRICE": price,
    } | other  # fmt: skip


def channel(symbol: str) -> Channel:
    return Channel("trades", symbol)


class Quick(BloombergLive):
    """Looks around more often than is needed in life."""

    pace = Pace(look=0.02)


def live(kind: type[BloombergLive] = Quick, environ: dict[str, str] | None = None, **options: Any) -> BloombergLive:
    number = next(_SOURCES)
    return kind(SourceFacts(number, f"bbg{number}", "bloomberg", options, "BBG"), Context(environ=environ or {}))


class Heard:
    """What a connection has brought so far."""

    def __init__(self, request: LiveRequest) -> None:
        self.request = request
        self.items: list[Frame | Told] = []
        self.more = asyncio.Event()
        self.error: BaseException | None = None
        self.ended = False

    async def listen(self, extractor: BloombergLive) -> None:
        try:
            async with aclosing(extractor.frames(self.request)) as items:
                async for item in items:
                    self.items.append(item)
                    self.more.set()
        except DataflowError as error:
            self.error = error
        finally:
            self.ended = True
            self.more.set()

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not true():
                assert not self.ended, self.error
                self.more.clear()
                await self.more.wait()

    async def end(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not self.ended:
                self.more.clear()
                await self.more.wait()

    @property
    def frames(self) -> list[Frame]:
        """The frames, numbered as they lie in a file."""
        found = [item for item in self.items if isinstance(item, Frame)]
        return [replace(frame, number=number) for number, frame in enumerate(found)]

    @property
    def told(self) -> list[Told]:
        return [item for item in self.items if isinstance(item, Told)]

    @property
    def acknowledged(self) -> list[str]:
        return [one.symbol for told in self.told for one in told.acknowledged]

    @property
    def refused(self) -> dict[str, str]:
        return {one.symbol: why for told in self.told for one, why in told.refused.items()}

    @property
    def lost(self) -> list[str]:
        return [told.lost for told in self.told if told.lost]

    @property
    def notes(self) -> list[str]:
        return [told.note for told in self.told if told.note]

    @property
    def signs(self) -> list[int]:
        return [told.received for told in self.told if told == Told(told.received)]

    def names(self) -> list[str]:
        return [json.loads(frame.content)["type"] for frame in self.frames]


@asynccontextmanager
async def listening(extractor: BloombergLive, *symbols: str) -> AsyncIterator[Heard]:
    heard = Heard(LiveRequest(frozenset(map(channel, symbols))))
    task = asyncio.create_task(heard.listen(extractor))
    try:
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def floor() -> Iterator[Floor]:
    with standin.installed(Floor({SPY: IMAGE, IBM: IMAGE})) as floor:
        yield floor
    assert all(session.stopped for session in floor.sessions)
    assert not [thread for thread in threading.enumerate() if thread.name == "blpapi"]


def parsed(extractor: BloombergLive, frames: list[Frame]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return raw rows and rejected rows."""
    batches = list(extractor.parse(frames, {}))
    assert {batch.schema for batch in batches} <= {"trades"}
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    return rows, [row for batch in batches for row in batch.rejected.to_pylist()]


# What is subscribed and what lands


def test_trades_land_and_become_rows(floor: Floor) -> None:
    async def scenario() -> None:
        extractor = live()
        async with listening(extractor, SPY, IBM) as heard:
            await heard.until(lambda: len(heard.acknowledged) == 2)
            floor.publish(SPY, {"MKTDATA_EVENT_TYPE": "QUOTE", "MKTDATA_EVENT_SUBTYPE": "BID", "BID": 531.2})
            floor.trade(SPY, **trade(1.848, 531.26, 25, EXCH_CODE_LAST="P", EVT_TRADE_CONDITION_CODE_RT="OLT,IS"))
            floor.trade(IBM, **trade(1.9, 0.1 + 0.2, 7))
            await heard.until(lambda: heard.names().count("MarketDataEvents") == 5)
            rows, rejected = parsed(extractor, heard.frames)
            received = {row["row"]: row["ts_recv"].value for row in rows}
            assert rejected == []
            for row in rows:
                frame = heard.frames[row.pop("row") // ROWS_A_FRAME]
                assert row.pop("ts_recv").value == frame.received
            second = datetime(2024, 5, 16, 14, 0, 1, tzinfo=UTC)
            assert rows == [
                {"symbol": SPY, "ts_event": second, "price": "531.26", "size": "25", "venue": "P",
                 "conditions": "OLT,IS"},
                {"symbol": IBM, "ts_event": second, "price": "0.30000000000000004", "size": "7", "venue": None,
                 "conditions": None},
            ]  # fmt: skip
            assert len(received) == 2

    asyncio.run(scenario())


def test_what_is_asked_of_the_session(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(live_queue=5000), SPY, "/isin/US4592001014") as heard:
            await heard.until(lambda: heard.acknowledged == [SPY] and heard.refused)
        fields = (
            "MKTDATA_EVENT_TYPE,MKTDATA_EVENT_SUBTYPE,IS_DELAYED_STREAM,TRADE_UPDATE_STAMP_RT,EVT_TRADE_PRICE_RT,"
            "EVT_TRADE_SIZE_RT,EXCH_CODE_LAST,EVT_TRADE_CONDITION_CODE_RT"
        )
        assert floor.asked == [
            f"//blp/mktdata/isin/US4592001014?fields={fields}", f"//blp/mktdata/ticker/{SPY}?fields={fields}",
        ]  # fmt: skip
        (session,) = floor.sessions
        values = session.options.values
        assert (values["queue"], values["receive times"], values["keep alive"]) == (5000, True, True)
        assert values["ping after"] + values["pong within"] < Pace().certain * 1000
        # the SDK wants subscriptions and events in one thread
        assert len(session.threads) == 1

    asyncio.run(scenario())


def test_frames_are_the_messages_as_the_sdk_gives_them(floor: Floor) -> None:
    odd = {"BYTES": b"\x00\xff", "OTHER": object(), "NAN": float("nan"), "TEXT": "caf\xe9 \ud800"}

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            floor.publish(SPY, {"MKTDATA_EVENT_TYPE": "MARKET_STATUS"} | odd)
            await heard.until(lambda: heard.names().count("MarketDataEvents") == 2)
            assert heard.names() == [
                "SessionConnectionUp", "SessionStarted", "ServiceOpened", "SubscriptionStarted",
                "SubscriptionStreamsActivated", "MarketDataEvents", "MarketDataEvents",
            ]  # fmt: skip
            image, strange = (json.loads(frame.content) for frame in heard.frames[-2:])
            assert (image["event"], image["recap"], image["symbols"]) == ("SUBSCRIPTION_DATA", "SOLICITED", [SPY])
            received = datetime.fromisoformat(image["received"])
            assert heard.frames[-2].received == int(received.timestamp()) * 10**9 + received.microsecond * 1000
            assert image["body"]["TRADING_DT_REALTIME"] == "2024-05-16"
            assert image["body"]["LAST_PRICE_TIME_TODAY_REALTIME"] == "09:59:58.802000"
            assert image["body"]["LAST_PRICE"] == 531.25
            assert (strange["body"]["BYTES"], strange["body"]["TEXT"]) == ("AP8=", odd["TEXT"])
            assert parsed(live(), heard.frames) == ([], [])

    asyncio.run(scenario())


def test_an_image_is_no_trade_that_happens_now(floor: Floor) -> None:
    told = {"MKTDATA_EVENT_TYPE": "TRADE", "MKTDATA_EVENT_SUBTYPE": "NEW"} | trade()

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            for recap in (standin.SOLICITED, standin.UNSOLICITED, standin.NONE):
                floor.publish(SPY, told, recap)
            await heard.until(lambda: heard.names().count("MarketDataEvents") == 4)
            rows, rejected = parsed(live(), heard.frames)
            assert [row["row"] for row in rows] == [heard.frames[-1].number * ROWS_A_FRAME]
            assert rejected == []

    asyncio.run(scenario())


TICKS = [
    (0.0, 531.25, 100, "P", "R6,IS"), (0.25, 531.25, 100, "P", ""), (0.999, 531.26, 1, "", "OLT"),
    (1.0, 531.3, 200, "D", ""), (61.5, 0.1 + 0.2, 3, "D", "R6"), (62.0, 1e-7, 10**12, "", ""),
    (62.0, -37.63, 5, "N", ""),
]  # fmt: skip


def test_rows_equal_those_of_history(floor: Floor, tmp_path: Path) -> None:
    """History has whole seconds in UTC without saying so, and leaves out what a tick has not."""

    def tick(second: float, price: float, size: int, venue: str, conditions: str) -> dict[str, Any]:
        stamp = at(second).astimezone(UTC).replace(microsecond=0, tzinfo=None)
        optional = {"exchangeCode": venue, "conditionCodes": conditions}
        return {"time": stamp, "type": "TRADE", "value": price, "size": size} | {
            name: text for name, text in optional.items() if text
        }

    async def scenario() -> list[dict[str, Any]]:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            for second, price, size, venue, conditions in TICKS:
                floor.trade(
                    SPY, **trade(second, price, size, EXCH_CODE_LAST=venue, EVT_TRADE_CONDITION_CODE_RT=conditions)
                )
            await heard.until(lambda: heard.names().count("MarketDataEvents") == 1 + len(TICKS))
            return parsed(live(), heard.frames)[0]

    came = asyncio.run(scenario())
    start, end = (at(second).astimezone(UTC) for second in (0, 3600))
    number = next(_SOURCES)
    source = SourceFacts(number, f"bbg{number}", "bloomberg", {"intraday_days": 3660})
    name = InstrumentName(source.name, "equity", SPY)
    job = Job(source, "trades", (InstrumentFacts(1, name, (SymbolInterval(SPY),), start, end),), ())
    past = BloombergExtractor(source, Context())
    landing = Landing(tmp_path)
    landing.begin("bbg", 1, {"schema": "trades"})
    with installed_desk(Desk(Market(ticks={SPY: [tick(*one) for one in TICKS]}, per_message=100))):
        for part, page in enumerate(past.pages(Request(job, job.instruments))):
            landing.write("bbg", 1, part, page)
    kept = [
        row for page in landing.pages("bbg", 1) for batch in past.parse(page, {}) for row in batch.table.to_pylist()
    ]
    assert [{**row, "venue": row["venue"] or None} for row in map(_values, came)] == list(map(_values, kept))
    accepted = [_refined(rows) for rows in (came, kept)]
    assert accepted[0] == accepted[1]
    assert [row["ordinal"] for row in accepted[0]] == [0, 1, 0, 0, 0, 0, 0]
    assert accepted[0][0]["price"] == Decimal("531.25")


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("row", "ts_recv")}


def _refined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist([{**row, "ts_recv": None, "instrument": row["symbol"]} for row in rows])
    table = table.drop_columns(["symbol"])
    for column in ("ts_event", "ts_recv"):
        table = table.set_column(
            table.schema.get_field_index(column), column, table[column].cast(pa.timestamp("ns", "UTC"))
        )
    table = table.set_column(
        table.schema.get_field_index("instrument"),
        "instrument",
        table["instrument"].combine_chunks().dictionary_encode(),
    )
    refined = refine(schema("trades"), table, Facts(1, datetime.now(UTC)), Ordinals())
    assert refined.rejected.to_pylist() == []
    return refined.accepted.to_pylist()


# What is told


def test_a_subscription_is_acknowledged_with_its_image(floor: Floor) -> None:
    floor.images[IBM] = None

    async def scenario() -> None:
        async with listening(live(), SPY, IBM) as heard:
            await heard.until(lambda: heard.names().count("SubscriptionStreamsActivated") == 2 and heard.acknowledged)
            assert heard.acknowledged == [SPY]
            (told,) = (told for told in heard.told if told.acknowledged)
            image = next(frame for frame in heard.frames if b"INITPAINT" in frame.content)
            assert told.received == image.received
            floor.trade(IBM, **trade())
            await heard.until(lambda: heard.acknowledged == [SPY, IBM])

    asyncio.run(scenario())


def test_a_subscription_without_an_image_is_acknowledged_a_little_later(floor: Floor) -> None:
    class Eager(BloombergLive):
        pace = Pace(look=0.01, image=0.05)

    floor.images[SPY] = None

    async def scenario() -> None:
        async with listening(live(Eager), SPY) as heard:
            await heard.until(lambda: heard.acknowledged == [SPY])
            assert "MarketDataEvents" not in heard.names()

    asyncio.run(scenario())


@pytest.mark.parametrize(("bad", "useful"), [("EXCH_CODE_LAST", True), ("EVT_TRADE_PRICE_RT", False)])
def test_fields_a_security_has_not(floor: Floor, bad: str, useful: bool) -> None:
    floor.exceptions[SPY] = [bad]

    async def scenario() -> None:
        async with listening(live(), SPY, IBM) as heard:
            await heard.until(lambda: sorted((*heard.acknowledged, *heard.refused)) == [IBM, SPY])
            said = heard.notes if useful else list(heard.refused.values())
            assert (SPY in heard.acknowledged) is useful
            assert any(f"{bad}: Field not valid (BAD_FLD, code 9)" in words for words in said)
            await asyncio.to_thread(floor.subscribed, *([IBM, SPY] if useful else [IBM]))

    asyncio.run(scenario())


def test_one_security_that_fails_leaves_the_others(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY, "NO Equity", "A?B Equity", "//blp/mktbar/ticker/X", " ") as heard:
            await heard.until(lambda: heard.acknowledged == [SPY] and len(heard.refused) == 4)
            floor.trade(SPY, **trade())
            await heard.until(lambda: parsed(live(), heard.frames)[0])
            assert "NO Equity: Bloomberg says Invalid security (BAD_SEC, code 2)" in heard.refused["NO Equity"]
            assert "accepted: IBM US Equity" in heard.refused["A?B Equity"]

    asyncio.run(scenario())


@pytest.mark.parametrize("category", ["TIMEOUT", "NO_AUTH"])
def test_what_fails_for_a_reason_that_passes_is_asked_again(floor: Floor, category: str) -> None:
    class Eager(BloombergLive):
        pace = Pace(look=0.01, again=0.05)

    floor.failures[SPY] = {"category": category, "description": "not now"}

    async def scenario() -> None:
        async with listening(live(Eager), SPY, IBM) as heard:
            await heard.until(lambda: heard.refused and IBM in heard.acknowledged)
            if category == "TIMEOUT":
                await heard.until(lambda: SPY in heard.acknowledged)
            assert heard.names().count("SubscriptionFailure") == 1
        assert len(floor.asked) == (3 if category == "TIMEOUT" else 2)

    asyncio.run(scenario())


def test_a_terminated_subscription_is_refused_and_its_number_is_not_used_again(floor: Floor) -> None:
    class Eager(BloombergLive):
        pace = Pace(look=0.01, again=0.02)

    async def scenario() -> None:
        async with listening(live(Eager), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            floor.status(
                SPY, "SubscriptionTerminated", {"reason": {"category": "TIMEOUT", "description": "source gone"}}
            )
            await heard.until(lambda: heard.acknowledged == [SPY, SPY])
            assert "source gone" in heard.refused[SPY]
            assert len(floor.sessions[0].used) == 2

    asyncio.run(scenario())


def test_streams_that_are_down_are_not_heard(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY, IBM) as heard:
            await heard.until(lambda: len(heard.acknowledged) == 2)
            floor.status(SPY, "SubscriptionStreamsDeactivated", {"streams": [{"id": "1"}], "reason": "host went away"})
            await heard.until(lambda: heard.refused)
            assert heard.refused == {SPY: f"{SPY}: SubscriptionStreamsDeactivated: host went away"}
            # what was under way
            floor.trade(SPY, **trade(1))
            await heard.until(lambda: parsed(live(), heard.frames)[0])
            assert len(heard.acknowledged) == 2
            floor.status(SPY, "SubscriptionStreamsActivated", {"streams": [{"id": "2"}], "reason": ""})
            floor.publish(
                SPY, {"MKTDATA_EVENT_TYPE": "SUMMARY", "MKTDATA_EVENT_SUBTYPE": "INITPAINT"}, standin.SOLICITED
            )
            await heard.until(lambda: len(heard.acknowledged) == 3)
            assert heard.acknowledged[-1] == SPY

    asyncio.run(scenario())


def test_delayed_streams_are_refused(floor: Floor) -> None:
    floor.images[SPY] = IMAGE | {"IS_DELAYED_STREAM": True}

    async def scenario() -> None:
        async with listening(live(), SPY, IBM) as heard:
            await heard.until(lambda: heard.refused and heard.acknowledged)
            assert heard.acknowledged == [IBM]
            assert "gives it delayed" in heard.refused[SPY]
            await asyncio.to_thread(floor.subscribed, IBM)

    asyncio.run(scenario())


def test_what_the_sdk_drops_is_lost(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(live_queue=1000), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            with floor.changed:
                for number in range(3000):
                    floor.trade(SPY, **trade(number / 100, size=number))
            await heard.until(lambda: len(heard.lost) == 2)
            assert any("SlowConsumerWarning" in note for note in heard.notes)
            cleared, loss = heard.lost
            dropped = int(loss.split()[1])
            assert dropped > 0
            assert (cleared, loss) == (
                f"SlowConsumerWarningCleared: {dropped} events dropped",
                f"DataLoss: {dropped} messages dropped by test",
            )
            await heard.until(lambda: len(parsed(live(), heard.frames)[0]) == 3000 - dropped)
            # what was dropped came after the last one that had come before the warning
            came = [one.received for one in heard.frames if json.loads(one.content)["event"] == "SUBSCRIPTION_DATA"]
            warned = heard.names().index("SlowConsumerWarning")
            last = max(one.received for one in heard.frames[:warned] if b"SUBSCRIPTION_DATA" in one.content)
            assert came[0] < last < came[-1]
            assert [told.since for told in heard.told if told.lost] == [last, last]

    asyncio.run(scenario())


def test_data_loss_of_one_subscription(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            floor.publish(SPY, {"MKTDATA_EVENT_TYPE": "SUMMARY", "MKTDATA_EVENT_SUBTYPE": "DATALOSS"})
            await heard.until(lambda: heard.lost)
            assert heard.lost == [f"{SPY}: SUMMARY DATALOSS"]

    asyncio.run(scenario())


def test_signs_of_life_lie_back_and_begin_with_the_session(floor: Floor) -> None:
    class Lively(BloombergLive):
        pace = Pace(look=0.01, sign=0.02, certain=0.2)

    async def scenario() -> None:
        floor.service = []
        async with listening(live(Lively), SPY) as heard:
            await heard.until(lambda: "SessionStarted" in heard.names())
            (session,) = floor.sessions
            await asyncio.to_thread(floor.wait, lambda: session.given["TIMEOUT"] > 10)
            assert heard.told == []
            session.opened.add("//blp/mktdata")
            floor.say(standin.SERVICE_STATUS, "ServiceOpened", {"serviceName": "//blp/mktdata"})
            await heard.until(lambda: heard.acknowledged)
            newest = max(frame.received for frame in heard.frames)
            await heard.until(lambda: max(heard.signs, default=0) > newest)
            assert heard.signs == sorted(heard.signs)
            # that the line was alive is certain only later
            assert heard.signs[-1] <= time_ns() - 200_000_000

    asyncio.run(scenario())
    assert Pace().sign < live().silence / 3


# Changes and ends


def test_what_waits_in_the_sdk_is_not_heard(floor: Floor) -> None:
    class Lively(BloombergLive):
        pace = Pace(look=0.01, sign=0.0, certain=0.0)

    async def scenario() -> None:
        async with listening(live(Lively), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            with floor.changed:
                for number in range(2000):
                    floor.trade(SPY, **trade(number / 100, size=number))
                begun = len(heard.items)
                posted = time_ns()
            await heard.until(lambda: len(parsed(live(), heard.frames)[0]) == 2000)
            await heard.until(lambda: max(heard.signs, default=0) > posted)
            trades, behind = 0, False
            for item in heard.items[begun:]:
                if isinstance(item, Frame):
                    trades += b'"TRADE"' in item.content
                elif not item.acknowledged and trades < 2000:
                    behind |= item.behind
                    # alive up to what was taken, and no more; or it is said that more waits
                    assert item.behind or item.received <= posted
            assert behind

    asyncio.run(scenario())


def test_a_service_that_goes_down_ends_the_session(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            floor.say(standin.SERVICE_STATUS, "ServiceDown", {"serviceName": "//blp/refdata"})
            floor.say(standin.SERVICE_STATUS, "ServiceDown", {"serviceName": "//blp/mktdata"})
            await heard.end()
            assert heard.error is None
            assert heard.lost == ["ServiceDown: //blp/mktdata"]

    asyncio.run(scenario())


def test_channels_come_and_go(floor: Floor) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            # asked before the session is there
            heard.request.changes.put_nowait((frozenset({channel(IBM)}), frozenset()))
            await heard.until(lambda: sorted(heard.acknowledged) == [IBM, SPY])
            heard.request.changes.put_nowait((frozenset(), frozenset({channel(SPY), channel("X Equity")})))
            await asyncio.to_thread(floor.subscribed, IBM)
            floor.trade(SPY, **trade(1))
            floor.trade(IBM, **trade(2))
            await heard.until(lambda: parsed(live(), heard.frames)[0])
            assert [row["symbol"] for row in parsed(live(), heard.frames)[0]] == [IBM]
            # what it terminates because it was told to is no refusal
            await heard.until(lambda: "SubscriptionTerminated" in heard.names())
            heard.request.changes.put_nowait((frozenset({channel(SPY), channel(IBM)}), frozenset()))
            await heard.until(lambda: len(heard.acknowledged) == 3)
            assert heard.refused == {}
        assert len(floor.sessions) == 1
        assert len(floor.asked) == 3

    asyncio.run(scenario())


def test_the_last_connection_ends_the_session_and_the_next_one_starts_anew(floor: Floor) -> None:
    async def scenario() -> None:
        extractor = live()
        for attempt in (1, 2):
            async with listening(extractor, SPY) as heard:
                await heard.until(lambda: heard.acknowledged)
                floor.up("10.0.0.2:8194")
                floor.down()
                await heard.until(lambda: heard.lost)
                floor.trade(SPY, **trade())
                await heard.until(lambda: parsed(extractor, heard.frames)[0])
                floor.down("10.0.0.2:8194")
                await heard.end()
                assert heard.error is None
                assert heard.lost == [
                    f"SessionConnectionDown: {server}: connection reset"
                    for server in ("10.0.0.1:8194", "10.0.0.2:8194")
                ]
                assert heard.names()[-1] == "SessionConnectionDown"
                # the SDK may have noticed it some time later
                assert {told.received - told.since for told in heard.told if told.lost} == {15_000_000_000}
            assert len(floor.sessions) == attempt

    asyncio.run(scenario())


def test_a_server_that_is_lost_while_connecting_is_not_the_end(floor: Floor) -> None:
    floor.startup = [
        (standin.SESSION_STATUS, "SessionConnectionUp", {"server": "a"}),
        (standin.SESSION_STATUS, "SessionConnectionDown", {"server": "a", "description": "refused"}),
        (standin.SESSION_STATUS, "SessionConnectionUp", {"server": "b"}),
        (standin.SESSION_STATUS, "SessionStarted", {}),
    ]

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)

    asyncio.run(scenario())


@pytest.mark.parametrize("step", ["connecting", "opening", "listening", "behind"])
def test_a_cancel_stops_the_session_and_the_thread(floor: Floor, step: str) -> None:
    if step == "connecting":
        floor.startup = []
    if step == "opening":
        floor.service = []

    async def scenario() -> None:
        extractor = live()
        request = LiveRequest(frozenset({channel(SPY)}))
        if step == "behind":
            # nobody takes what comes any more
            items = extractor.frames(request)
            await anext(items)
            await asyncio.to_thread(floor.subscribed, SPY)
            with floor.changed:
                for _ in range(30_000):
                    floor.trade(SPY, **trade())
            await asyncio.to_thread(floor.wait, lambda: floor.sessions[0].given["MarketDataEvents"] > 19_000)
            async with asyncio.timeout(_PATIENCE):
                await items.aclose()
            # the rest waited in the SDK
            assert floor.sessions[0].given["MarketDataEvents"] < 22_000
            return
        heard = Heard(request)
        task = asyncio.create_task(heard.listen(extractor))
        if step == "listening":
            await heard.until(lambda: heard.acknowledged)
        else:
            await asyncio.to_thread(floor.wait, lambda: floor.sessions and floor.sessions[0].started)
        task.cancel()
        async with asyncio.timeout(_PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())


def reason(category: str, description: str = "why") -> dict[str, Any]:
    return {"reason": {"category": category, "errorCode": 5, "description": description, "source": "test"}}


@pytest.mark.parametrize(
    ("kind", "name", "category", "meaning"),
    [
        (2, "SessionStartupFailure", "IO_ERROR", TransientError),
        (2, "SessionStartupFailure", "NO_AUTH", AuthFailed),
        (12, "TokenGenerationFailure", "NO_AUTH", AuthFailed),
    ],
)
def test_sessions_that_do_not_start(
    floor: Floor, kind: int, name: str, category: str, meaning: type[DataflowError]
) -> None:
    floor.startup = [(kind, name, reason(category))]

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.end()
            assert type(heard.error) is meaning
            assert "localhost:8194" in str(heard.error)
            assert heard.names() == [name]

    asyncio.run(scenario())


@pytest.mark.parametrize(("category", "meaning"), [("NO_AUTH", NotEntitled), ("IO_ERROR", TransientError)])
def test_services_that_do_not_open(floor: Floor, category: str, meaning: type[DataflowError]) -> None:
    floor.service = [(standin.SERVICE_STATUS, "ServiceOpenFailure", reason(category))]

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.end()
            assert type(heard.error) is meaning
            assert "//blp/mktdata: ServiceOpenFailure" in str(heard.error)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "name", "category", "meaning"),
    [
        (2, "SessionTerminated", "IO_ERROR", TransientError),
        (2, "SessionTerminated", "NO_AUTH", AuthFailed),
        (11, "AuthorizationRevoked", "NOT_ENTITLED", AuthFailed),
    ],
)
def test_sessions_that_end(floor: Floor, kind: int, name: str, category: str, meaning: type[DataflowError]) -> None:
    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            with floor.changed:
                floor.trade(SPY, **trade())
                floor.say(kind, name, reason(category))
                floor.trade(SPY, **trade())
            await heard.end()
            assert type(heard.error) is meaning
            # what came before has come
            assert len(parsed(live(), heard.frames)[0]) == 1
            assert heard.names()[-1] == name

    asyncio.run(scenario())


def test_a_session_that_says_nothing_is_given_up(floor: Floor) -> None:
    floor.startup = []

    async def scenario() -> None:
        async with listening(live(timeout=0.05), SPY) as heard:
            await heard.end()
            assert isinstance(heard.error, TransientError)
            assert "localhost:8194: Bloomberg said nothing for 0.05 s" in str(heard.error)

    asyncio.run(scenario())


def test_exceptions_of_the_sdk_are_translated(floor: Floor) -> None:
    floor.startup = [(standin.SESSION_STATUS, "SessionStarted", {})]
    # it says that the service is open, and refuses to subscribe
    floor.service = [(standin.SERVICE_STATUS, "ServiceOpened", {"serviceName": "//blp/mktdata"})]

    async def scenario() -> None:
        async with listening(live(), SPY) as heard:
            await heard.end()
            assert type(heard.error) is TransientError
            assert str(heard.error) == "session with localhost:8194: //blp/mktdata is not open"

    asyncio.run(scenario())


def test_secrets_are_in_nothing_that_is_said(floor: Floor) -> None:
    secret = "corp:secret"
    environ = {"BBG_APPLICATION": secret}
    floor.startup = [
        (standin.ADMIN, "Greeting", {"application": secret}),
        (standin.SESSION_STATUS, "SessionConnectionDown", {"server": "a", "description": f"no {secret}"}),
        (standin.SESSION_STATUS, "SessionStartupFailure", reason("NO_AUTH", f"no entry for {secret}")),
    ]

    async def scenario() -> None:
        async with listening(live(environ=environ, authentication="application"), SPY) as heard:
            await heard.end()
            assert "no entry for ***" in str(heard.error)
            assert len(heard.frames) == 3
            assert secret not in repr(heard.error) + repr(heard.items)

    asyncio.run(scenario())
    assert floor.sessions[0].options.identity == {"application": secret}


def test_missing_secrets_and_a_missing_sdk_are_named(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(**options: Any) -> BaseException | None:
        async with listening(live(**options), SPY) as heard:
            await heard.end()
            return heard.error

    refused = asyncio.run(scenario(authentication="application"))
    assert isinstance(refused, AuthFailed)
    assert "BBG_APPLICATION" in str(refused)
    monkeypatch.setitem(__import__("sys").modules, "blpapi", None)
    missing = asyncio.run(scenario())
    assert isinstance(missing, ConfigError)
    assert "pip install --index-url https://blpapi.bloomberg.com/" in str(missing)


# The thread


def test_the_thread_waits_while_the_loop_is_behind() -> None:
    far, ended = threading.Event(), threading.Event()

    def endless(stopped: threading.Event) -> Generator[list[Frame | Told], None, None]:
        try:
            for first in count(0, 10):
                if stopped.is_set():
                    return
                if first == 500:
                    far.set()
                yield [Told(number) for number in range(first, first + 10)]
        finally:
            ended.set()

    async def scenario() -> None:
        async with aclosing(threaded(endless, 50)) as items, asyncio.timeout(_PATIENCE):
            assert (await anext(items)).received == 0
            # nobody takes more: at most as many as are being taken, as many as wait, and a batch or two come to be
            assert not await asyncio.to_thread(far.wait, 0.2)
            assert [(await anext(items)).received for _ in range(1000)] == list(range(1, 1001))
        assert ended.is_set()

    asyncio.run(scenario())


def test_items_come_before_the_error_that_follows_them() -> None:
    def failing(stopped: threading.Event) -> Generator[list[Frame | Told], None, None]:
        yield [Told(1), Told(2)]
        raise TransientError("enough")

    async def scenario() -> None:
        items = threaded(failing, 10)
        assert [await anext(items), await anext(items)] == [Told(1), Told(2)]
        with pytest.raises(TransientError, match="enough"):
            await anext(items)

    asyncio.run(scenario())


# What cannot be read


def frame(number: int = 0, *, body: Any = None, **other: Any) -> Frame:
    message: dict[str, Any] = {"event": "SUBSCRIPTION_DATA", "type": "MarketDataEvents", "recap": "NONE", "fragment": 0,
        "symbols": [SPY], "received": None, "body": body} | other  # fmt: skip
    return Frame(json.dumps(message, default=str).encode(), 1_715_868_000_000_000_000 + number, number=number)


def body(**other: Any) -> dict[str, Any]:
    new = {"MKTDATA_EVENT_TYPE": "TRADE", "MKTDATA_EVENT_SUBTYPE": "NEW"}
    return new | trade(1) | {"TRADE_UPDATE_STAMP_RT": "2024-05-16T10:00:01.848-04:00"} | other


@pytest.mark.parametrize(
    ("strange", "rule", "detail"),
    [
        (Frame(b"\xff\xfe", 1), "frame is a message of Bloomberg's", "can't decode"),
        (Frame(b'{"event": ', 1), "frame is a message of Bloomberg's", "Expecting value"),
        (Frame(b"[1]", 1), "frame is a message of Bloomberg's", "no object"),
        (Frame(b"[" * 100_000, 1), "frame is a message of Bloomberg's", ""),
        (frame(body=[1]), "message is one of MarketDataEvents", ""),
        (frame(body={}, type="MarketBarStart"), "message is one of MarketDataEvents", "'MarketBarStart'"),
        (frame(body={}), "event has a type", "MKTDATA_EVENT_TYPE is None"),
        (frame(body={"MKTDATA_EVENT_TYPE": ["TRADE"]}), "event has a type", "['TRADE']"),
        (frame(body=body(MKTDATA_EVENT_SUBTYPE="CANCEL")), "trade is new", "'CANCEL'"),
        (frame(body=body(), symbols=None), "message names its subscription", "None"),
        (frame(body=body(), symbols=[None]), "message names its subscription", "[None]"),
        (
            frame(body=body(TRADE_UPDATE_STAMP_RT="2024-05-16T10:00:01")),
            "time carries its zone",
            "TRADE_UPDATE_STAMP_RT is '2024-05-16T10:00:01'",
        ),
        (frame(body=body(TRADE_UPDATE_STAMP_RT="10:00:01.848-04:00")), "time is ISO 8601; time carries its zone", ""),
        (frame(body=body(TRADE_UPDATE_STAMP_RT=1715868001)), "time is ISO 8601; time carries its zone", "1715868001"),
        (frame(body=body(TRADE_UPDATE_STAMP_RT="9999-05-16T10:00:01Z")), "time lies between 1677 and 2262", ""),
    ],
)  # fmt: skip
def test_strange_messages_are_kept_and_the_others_go_on(strange: Frame, rule: str, detail: str) -> None:
    frames = [frame(1, body=body(EVT_TRADE_SIZE_RT=1)), replace(strange, number=2), frame(3, body=body())]
    rows, ((kept),) = parsed(live(), frames)
    assert [row["row"] for row in rows] == [ROWS_A_FRAME, 3 * ROWS_A_FRAME]
    assert (kept["row"], kept["rule"]) == (2 * ROWS_A_FRAME, rule)
    assert detail in kept["reason"]
    assert json.loads(kept["raw"])[:30] == strange.content[:30].decode("utf-8", "backslashreplace")[:30]


@pytest.mark.parametrize(
    ("values", "column", "value"),
    [
        ({"EVT_TRADE_PRICE_RT": None}, "price", None),
        ({"EVT_TRADE_PRICE_RT": float("nan")}, "price", "NaN"),
        ({"EVT_TRADE_PRICE_RT": "1e3"}, "price", "1e3"),
        ({"EVT_TRADE_PRICE_RT": True}, "price", "true"),
        ({"EVT_TRADE_PRICE_RT": {"value": 1}}, "price", '{"value": "1"}'),
        ({"EVT_TRADE_SIZE_RT": 10**30}, "size", str(10**30)),
        ({"EVT_TRADE_SIZE_RT": -5}, "size", "-5"),
        ({"TRADE_UPDATE_STAMP_RT": None}, "ts_event", None),
        ({"EVT_TRADE_CONDITION_CODE_RT": ""}, "conditions", None),
    ],
)
def test_values_are_left_to_refining(values: dict[str, Any], column: str, value: Any) -> None:
    (row,), rejected = parsed(live(), [frame(body=body(**values))])
    assert rejected == []
    assert row[column] == value


def test_a_message_of_several_subscriptions_is_a_row_of_each() -> None:
    rows, _ = parsed(live(), [frame(5, body=body(), symbols=[SPY, IBM])])
    assert [(row["row"], row["symbol"]) for row in rows] == [(5 * ROWS_A_FRAME, SPY), (5 * ROWS_A_FRAME + 1, IBM)]


def test_a_trade_of_a_subscription_that_was_given_up_is_left_out() -> None:
    (batch,) = live().parse([frame(1, body=body(), symbols=[]), frame(2, body=body())], {})
    assert (batch.table.num_rows, batch.rejected.num_rows, batch.left_out) == (1, 0, 1)


def test_no_frames_give_no_rows() -> None:
    assert parsed(live(), []) == ([], [])


@given(st.lists(st.sampled_from(["trade", "quote", "image", "bad", "naive"]), max_size=12), st.data())
def test_rows_do_not_depend_on_where_frames_are_cut(kinds: list[str], data: st.DataObject) -> None:
    made = {
        "trade": {"body": body()}, "quote": {"body": {"MKTDATA_EVENT_TYPE": "QUOTE"}}, "image": {"recap": "SOLICITED"},
        "bad": {"body": 1}, "naive": {"body": body(TRADE_UPDATE_STAMP_RT="2024-05-16T10:00:01")},
    }  # fmt: skip
    frames = [frame(number, **made[kind]) for number, kind in enumerate(kinds)]
    cut = data.draw(st.integers(0, len(frames)))
    extractor = live()
    whole, first, second = (parsed(extractor, some) for some in (frames, frames[:cut], frames[cut:]))
    assert whole[0] == first[0] + second[0]
    by_row = sorted(whole[1], key=lambda row: row["row"])
    assert by_row == sorted(first[1] + second[1], key=lambda row: row["row"])


# What is declared


def test_both_halves_declare_the_same() -> None:
    past, present = BloombergExtractor, BloombergLive
    assert registry.extractor("bloomberg", "realtime") is present
    for name in ("name", "label", "doc", "requires", "extra", "credentials", "Options", "value_options"):
        assert getattr(past, name) == getattr(present, name)
    assert set(present.schemas) <= set(past.schemas)
    assert "trade_fields" in present.value_options


def test_check_opens_the_service() -> None:
    with installed_desk(Desk(Market())) as desk:
        assert live().check() == ["session with localhost:8194 started", "//blp/mktdata is open"]
    assert desk.sessions[0].stopped


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"trade_fields": {"price": "LAST_PRICE"}}, "no field for ts_event, size"),
        ({"trade_fields": {"colour": "X"}}, "trade_fields"),
        ({"live_queue": 10}, "live_queue"),
        ({"interval": 5}, "interval"),
    ],
)
def test_wrong_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        live(**options)


def test_other_fields_may_be_asked(floor: Floor) -> None:
    fields = {"ts_event": "TRADE_UPDATE_STAMP_RT", "price": "LAST_PRICE", "size": "SIZE_LAST_TRADE"}

    async def scenario() -> None:
        extractor = live(trade_fields=fields)
        async with listening(extractor, SPY) as heard:
            await heard.until(lambda: heard.acknowledged)
            floor.trade(SPY, TRADE_UPDATE_STAMP_RT=at(3.5), LAST_PRICE=99.5, SIZE_LAST_TRADE=4)
            await heard.until(lambda: parsed(extractor, heard.frames)[0])
            ((row,), _) = parsed(extractor, heard.frames)
            assert (row["price"], row["size"], "venue" in row) == ("99.5", "4", False)
        assert f"{events.DELAYED},TRADE_UPDATE_STAMP_RT,LAST_PRICE,SIZE_LAST_TRADE" in floor.asked[0]

    asyncio.run(scenario())
