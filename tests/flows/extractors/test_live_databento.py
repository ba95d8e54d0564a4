"""Databento's gateway: a session from the first line to its end, what is told of it, and what it ends with."""

import asyncio
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from typing import Any

import databento
import databento_dbn
import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import TransientError
from catalog.schemas import SCHEMAS
from flows.databento_live import gateway
from flows.databento_live import messages
from flows.databento_live.asked import Asked
from flows.databento_live.messages import Message
from flows.extractors.base import LiveRequest
from flows.extractors.databento import DatabentoExtractor
from flows.extractors.databento import DatabentoLive
from flows.frames import Channel
from flows.frames import Frame
from flows.frames import Told
from flows.refining import strand
from flows.work import FetchRef
from tests.vendors.live.databento import DAY
from tests.vendors.live.databento import DatabentoLiveStandIn
from tests.vendors.live.databento_records import record as encoded
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.words import nanoseconds
from tests.vendors.server import Row

SECOND = 1_000_000_000
AAPL, MSFT = Channel("trades", "AAPL"), Channel("trades", "MSFT")
BARS = Channel("ohlcv-1m", "AAPL")
QUOTES = Channel("mbp-1", "AAPL")
SPACES = {"price": Decimal("18.25"), "size": 3, "side": "A"}


@pytest.fixture
def stand_in() -> Iterator[DatabentoLiveStandIn]:
    with DatabentoLiveStandIn() as server:
        yield server


@pytest.fixture
def futures() -> Iterator[DatabentoLiveStandIn]:
    with DatabentoLiveStandIn("GLBX.MDP3") as server:
        yield server


def live(stand_in: DatabentoLiveStandIn, **options: Any) -> DatabentoLive:
    made = live_half("databento", {**stand_in.options(), **options}, stand_in.keys)
    assert isinstance(made, DatabentoLive)
    return made


def trade(moment: int, **values: Any) -> Row:
    return {"ts_event": moment, **SPACES, **values}


def quote(moment: int, **values: Any) -> Row:
    book = {"bid_price": Decimal("18.20"), "bid_size": 5, "ask_price": Decimal("18.30"), "ask_size": 7}
    return {"ts_event": moment, **SPACES, "action": "A", **book, **values}


def bar(moment: int) -> Row:
    prices = dict.fromkeys(("open", "high", "low", "close"), Decimal("18.25"))
    return {"ts_event": moment, **prices, "volume": 12}


def ends(extractor: DatabentoLive, *channels: Channel, since: int | None = None) -> Exception | None:
    with Listener(extractor, channels, {} if since is None else dict.fromkeys(channels, since)) as ear:
        return ear.wait_ended()


def subscriptions(stand_in: DatabentoLiveStandIn) -> list[Row]:
    return [said.message for said in stand_in.log if "schema" in said.message]


# -- the stand-in is the vendor, for the vendor's own client ----------------------------------------------------------


@pytest.fixture
def client(stand_in: DatabentoLiveStandIn) -> Callable[..., databento.Live]:
    host, _, port = stand_in.address.partition(":")

    def make(**options: Any) -> databento.Live:
        made = databento.Live(**{"key": stand_in.keys["API_KEY"], "gateway": host, "port": int(port), **options})
        made.got = []
        made.add_callback(made.got.append)
        return made

    return make


def kinds(client: Any) -> list[str]:
    return [type(record).__name__ for record in client.got]


def test_the_vendors_client_subscribes_and_hears(stand_in: DatabentoLiveStandIn, client: Any) -> None:
    one = client()
    one.subscribe("XNAS.ITCH", "trades", ["AAPL", "MSFT"])
    one.subscribe("XNAS.ITCH", "ohlcv-1m", "AAPL")
    one.start()
    stand_in.wait_subscribed([("trades", "MSFT"), ("ohlcv-1m", "AAPL")])
    now = time.time_ns()
    assert stand_in.publish("trades", "AAPL", trade(now, sequence=7)) == 1
    stand_in.publish("ohlcv-1m", "AAPL", bar(now - now % (60 * SECOND)))
    stand_in.end_of_interval("ohlcv-1m", datetime.fromtimestamp(now // SECOND, UTC))
    stand_in.heartbeat()
    stand_in.slow_consumer()
    stand_in.fin()
    # an orderly close is the end of it, without an error
    one.block_for_close(timeout=10)
    assert kinds(one) == [
        "SystemMsg", "SymbolMappingMsg", "SymbolMappingMsg", "SystemMsg", "SymbolMappingMsg", "TradeMsg", "OHLCVMsg",
        "SystemMsg", "SystemMsg", "SystemMsg",
    ]  # fmt: skip
    codes = [str(record.code) for record in one.got if type(record).__name__ == "SystemMsg"]
    assert codes == ["subscription_ack", "subscription_ack", "end_of_interval", "heartbeat", "slow_reader_warning"]
    (sold,) = (record for record in one.got if type(record).__name__ == "TradeMsg")
    assert (sold.ts_event, sold.price, sold.size, str(sold.side), sold.sequence) == (now, 18_250_000_000, 3, "A", 7)
    assert one.symbology_map == {38: "AAPL", 10_888: "MSFT"}


def test_the_vendors_client_sees_a_reset(stand_in: DatabentoLiveStandIn, client: Any) -> None:
    one = client()
    one.subscribe("XNAS.ITCH", "trades", ["AAPL"])
    one.start()
    stand_in.wait_subscribed([("trades", "AAPL")])
    stand_in.rst()
    with pytest.raises(databento.BentoError, match="reset by peer"):
        one.block_for_close(timeout=10)


def test_the_vendors_client_is_refused_with_another_key(stand_in: DatabentoLiveStandIn, client: Any) -> None:
    with pytest.raises(databento.BentoError, match="Authentication failed"):
        client(key="db-" + "x" * 29).subscribe("XNAS.ITCH", "trades", ["AAPL"])


def test_the_vendors_client_gets_replay_compressed_and_stamped(stand_in: DatabentoLiveStandIn, client: Any) -> None:
    now = time.time_ns()
    stand_in.publish("trades", "AAPL", [trade(now - 2 * SECOND), trade(now - SECOND), trade(now)])
    stand_in.publish(
        "mbo", "AAPL", [trade(now, action=action, order_id=id) for action, id in (("A", 1), ("A", 2), ("C", 1))]
    )
    one = client(ts_out=True, compression=databento_dbn.Compression.ZSTD)
    one.subscribe("XNAS.ITCH", "trades", ["AAPL"], start=now - SECOND)
    one.subscribe("XNAS.ITCH", "mbo", ["AAPL"], snapshot=True)
    one.start()
    stand_in.wait_subscribed([("mbo", "AAPL")])
    stand_in.publish("trades", "AAPL", trade(now + 1))
    stand_in.fin()
    one.block_for_close(timeout=10)
    sold = [record for record in one.got if type(record).__name__ == "TradeMsg"]
    assert [record.ts_event - now for record in sold] == [-SECOND, 0, 1]
    assert all(record.ts_out >= now for record in sold)
    (resting,) = (record for record in one.got if type(record).__name__ == "MBOMsg")
    assert (resting.order_id, resting.flags & 32) == (2, 32)


def test_the_vendors_client_hears_what_cannot_be_resolved(stand_in: DatabentoLiveStandIn, client: Any) -> None:
    one = client()
    one.subscribe("XNAS.ITCH", "trades", ["NOPE"])
    one.start()
    stand_in.wait_for(lambda: stand_in.clients[0].notes.get("unresolved"))
    stand_in.fin()
    with pytest.raises(databento.BentoError, match="Failed to resolve symbol NOPE"):
        one.block_for_close(timeout=10)


# -- both halves ------------------------------------------------------------------------------------------------------


def test_both_halves_are_one_vendor() -> None:
    for name in ("name", "label", "doc", "requires", "extra", "credentials", "Options", "value_options"):
        assert getattr(DatabentoLive, name) == getattr(DatabentoExtractor, name), name
    assert set(DatabentoExtractor.schemas) - set(DatabentoLive.schemas) == {"corporate_actions"}


@pytest.mark.parametrize("schema", DatabentoLive.schemas)
def test_both_halves_cut_windows_by_one_column(stand_in: DatabentoLiveStandIn, schema: str) -> None:
    one = live(stand_in)
    past = DatabentoExtractor(one.source, one.context)
    made = strand(FetchRef(1, one.source.name, schema, datetime.now(UTC)), one, [], frozenset(), primary=True)
    assert made.window == past.window_column(SCHEMAS[schema])


def test_a_dataset_has_a_gateway_of_its_own() -> None:
    assert gateway.address("GLBX.MDP3", "") == ("glbx-mdp3.lsg.databento.com", 13_000)
    assert gateway.address("GLBX.MDP3", "proxy.example") == ("proxy.example", 13_000)
    assert gateway.address("GLBX.MDP3", "proxy.example:99") == ("proxy.example", 99)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gateway", "tcp://x:1"), ("gateway", "user@x"), ("heartbeat_seconds", 4), ("slow_reader_behavior", "stop")],
)
def test_an_option_that_cannot_be_is_named(stand_in: DatabentoLiveStandIn, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"option '{name}'"):
        live(stand_in, **{name: value})


def test_silence_is_three_heartbeats(stand_in: DatabentoLiveStandIn) -> None:
    extractor = live(stand_in, heartbeat_seconds=7, slow_reader_behavior="skip")
    assert extractor.silence == 21
    with Listener(extractor, [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
    terms = stand_in.log[0].message
    asked = {name: terms[name] for name in ("heartbeat_interval_s", "slow_reader_behavior", "ts_out", "compression")}
    assert asked == {
        "heartbeat_interval_s": "7", "slow_reader_behavior": "skip", "ts_out": "0", "compression": "none",
    }  # fmt: skip


# -- subscribing ------------------------------------------------------------------------------------------------------


def test_all_schemas_share_a_session_and_are_acknowledged(stand_in: DatabentoLiveStandIn) -> None:
    channels = [AAPL, MSFT, BARS, QUOTES, Channel("mbo", "MSFT")]
    with Listener(live(stand_in), channels) as ear:
        ear.wait_acknowledged(channels)
        assert stand_in.connections == 1
        assert ear.acknowledged == dict.fromkeys(channels)
        assert [(one["schema"], one["symbols"], one["id"]) for one in subscriptions(stand_in)] == [
            ("mbo", "MSFT", "0"), ("mbp-1", "AAPL", "1"), ("ohlcv-1m", "AAPL", "2"), ("trades", "AAPL,MSFT", "3"),
        ]  # fmt: skip


def test_a_line_has_five_hundred_symbols(stand_in: DatabentoLiveStandIn) -> None:
    names = [f"S{number:04}" for number in range(1_201)]
    stand_in.ids |= {name: number for number, name in enumerate(names, start=1)}
    channels = [Channel("trades", name) for name in names]
    with Listener(live(stand_in), channels) as ear:
        ear.wait_acknowledged(channels)
    lines = subscriptions(stand_in)
    assert [(len(one["symbols"].split(",")), one["id"], one["is_last"]) for one in lines] == [
        (500, "0", "0"), (500, "0", "0"), (201, "0", "1"),
    ]  # fmt: skip


def test_one_symbol_that_nobody_knows_does_not_stop_the_others(stand_in: DatabentoLiveStandIn) -> None:
    nope = Channel("trades", "NOPE")
    with Listener(live(stand_in), [AAPL, nope, Channel("trades", "OPE")]) as ear:
        ear.wait_for(lambda: len(ear.refused) == 2)
        ear.wait_acknowledged([AAPL])
        assert ear.refused[nope] == "Failed to resolve symbol NOPE"
        # it may have been acknowledged with the others of its subscription, a moment before
        assert [told for told in ear.told if nope in told.acknowledged or nope in told.refused][-1].refused
        before = len(ear.told)
        # listed later: the gateway begins to send it, and says so
        stand_in.lists("NOPE", 5)
        ear.wait_for(lambda: any(nope in told.acknowledged for told in ear.told[before:]))


def test_a_symbol_that_is_listed_later_is_heard_from_then_on(stand_in: DatabentoLiveStandIn) -> None:
    soon = Channel("trades", "SOON")
    since = time.time_ns() - 3600 * SECOND
    with Listener(live(stand_in), [AAPL, soon], {AAPL: since, soon: since}) as ear:
        ear.wait_acknowledged([AAPL])
        ear.wait_for(lambda: ear.refused)
        stand_in.lists("SOON", 5)
        ear.wait_acknowledged([soon])
        assert ear.acknowledged == {AAPL: since, soon: None}


def test_a_symbol_that_is_listed_within_a_replay_was_not_replayed() -> None:
    since = time.time_ns() - 3600 * SECOND
    asked = Asked("raw_symbol")
    asked.add([AAPL, MSFT], {AAPL: since, MSFT: since}, time.time_ns())
    for message in (
        Message(messages.SYSTEM, messages.ACKNOWLEDGED),
        Message(messages.ERROR, messages.UNKNOWN_SYMBOL, "Failed to resolve symbol MSFT"),
        Message(messages.MAPPING, asked="MSFT", given="MSFT"),
        Message(messages.SYSTEM, messages.REPLAYED, "Finished trades replay"),
    ):
        asked.hear(message)
    assert {one.since: set(one.acknowledged) for one in asked.take(0)} == {since: {AAPL}, None: {MSFT}}


@pytest.mark.parametrize("symbol", ["A,B", "A|start=0", "A\nstart_session=0", ""])
def test_a_symbol_cannot_write_the_protocol(stand_in: DatabentoLiveStandIn, symbol: str) -> None:
    odd = Channel("trades", symbol)
    with Listener(live(stand_in), [AAPL, odd]) as ear:
        ear.wait_acknowledged([AAPL])
        assert "cannot be written" in ear.refused[odd]
    assert [one["symbols"] for one in subscriptions(stand_in)] == ["AAPL"]
    error = ends(live(stand_in), odd)
    assert isinstance(error, ConfigError)
    assert "cannot be written" in str(error)


def test_changes_are_taken_up_in_the_running_session(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        ear.change(added=[BARS, Channel("trades", "NOPE")], removed=[AAPL])
        ear.wait_acknowledged([BARS])
        ear.wait_for(lambda: ear.refused)
        assert stand_in.connections == 1
        # the gateway cannot be told to stop
        assert stand_in.subscribed >= {("trades", "AAPL")}
        before = len(ear.told)
        ear.change(added=[AAPL])
        ear.wait_for(lambda: any(AAPL in told.acknowledged for told in ear.told[before:]))
        now = time.time_ns()
        stand_in.publish("ohlcv-1m", "AAPL", bar(0))
        stand_in.publish("trades", "AAPL", trade(now))
        ear.wait_for(lambda: len(ear.rows("trades", "AAPL")) == 1)
        assert len(ear.rows("ohlcv-1m", "AAPL")) == 1
    assert [one["symbols"] for one in subscriptions(stand_in)] == ["AAPL", "AAPL", "NOPE"]


def test_two_schemas_whose_records_look_alike_exclude_each_other(stand_in: DatabentoLiveStandIn) -> None:
    tbbo, other = Channel("tbbo", "MSFT"), Channel("mbp-1", "MSFT")
    with Listener(live(stand_in), [QUOTES, tbbo]) as ear:
        ear.wait_acknowledged([QUOTES])
        assert "'tbbo' cannot be told from 'mbp-1'" in ear.refused[tbbo]
    with Listener(live(stand_in), [tbbo]) as ear:
        ear.wait_acknowledged([tbbo])
        ear.change(added=[other])
        ear.wait_for(lambda: ear.refused)
        assert "'mbp-1' cannot be told from 'tbbo'" in ear.refused[other]
    assert [one["schema"] for one in subscriptions(stand_in)] == ["mbp-1", "tbbo"]


def test_children_are_acknowledged_when_they_come_with_their_parent(futures: DatabentoLiveStandIn) -> None:
    parent, child, other = (Channel("trades", name) for name in ("ES.FUT", "ESM4", "NQH4"))
    lonely = Channel("mbo", "ESM4")
    with Listener(live(futures, stype_in="parent"), [parent, child, other, lonely]) as ear:
        ear.wait_acknowledged([parent, child])
        assert "no series asks a parent" in ear.refused[lonely]
        assert other not in ear.acknowledged
        now = time.time_ns()
        futures.publish("trades", "ESM4", trade(now))
        futures.publish("trades", "ESH4", trade(now))
        ear.wait_for(lambda: ear.rows("trades", "ESH4"))
        assert len(ear.rows("trades", "ESM4")) == 1
        futures.lists("ESU4", 99)
    assert [(one["symbols"], one["stype_in"]) for one in subscriptions(futures)] == [("ES.FUT", "parent")]


def test_a_continuous_symbol_names_its_rows(futures: DatabentoLiveStandIn) -> None:
    front = Channel("trades", "ES.c.0")
    with Listener(live(futures, stype_in="continuous"), [front]) as ear:
        ear.wait_acknowledged([front])
        futures.publish("trades", "ESH4", trade(time.time_ns()))
        ear.wait_for(lambda: ear.rows("trades", "ES.c.0"))


# -- replay -----------------------------------------------------------------------------------------------------------


def test_what_has_passed_is_replayed_and_then_acknowledged(stand_in: DatabentoLiveStandIn) -> None:
    now = time.time_ns()
    past = [trade(now - second * SECOND, sequence=second) for second in (9, 8, 7)]
    stand_in.publish("trades", "AAPL", past)
    since = now - 8 * SECOND
    with Listener(live(stand_in), [AAPL, MSFT, BARS], {AAPL: since}) as ear:
        ear.wait_acknowledged([AAPL, MSFT, BARS])
        assert ear.acknowledged == {AAPL: since, MSFT: None, BARS: None}
        # by the time it counts, all of it has come
        told = next(
            place for place, item in enumerate(ear.items) if isinstance(item, Told) and AAPL in item.acknowledged
        )
        ear.items = ear.items[:told]
        assert [row["sequence"] for row in ear.rows("trades", "AAPL")][-2:] == [8, 7]


@pytest.mark.parametrize(
    ("schema", "asked"), [("mbo", False), ("definition", False), ("status", False), ("bbo-1s", True)]
)
def test_a_replay_that_may_lack_something_covers_nothing(
    stand_in: DatabentoLiveStandIn, schema: str, asked: bool
) -> None:
    channel = Channel(schema, "AAPL")
    with Listener(live(stand_in), [channel], {channel: time.time_ns() - 8 * SECOND}) as ear:
        ear.wait_acknowledged([channel])
        assert ear.acknowledged == {channel: None}
    assert [("start" in one) for one in subscriptions(stand_in)] == [asked]


def test_a_connection_that_ends_in_a_replay_has_covered_nothing(stand_in: DatabentoLiveStandIn) -> None:
    since = time.time_ns() - SECOND
    stand_in.fail("fin", "replay")
    with Listener(live(stand_in), [AAPL, MSFT], {MSFT: since}) as ear:
        assert ear.wait_ended() is None
        assert ear.acknowledged == {AAPL: None}


def test_a_replay_is_over_when_its_schema_is_named() -> None:
    since = time.time_ns() - 3600 * SECOND
    asked = Asked("raw_symbol")
    asked.add([AAPL, BARS, QUOTES], {AAPL: since, BARS: since}, time.time_ns())

    def heard(code: int, words: str) -> set[Channel]:
        asked.hear(Message(messages.SYSTEM, code, words))
        return {channel for told in asked.take(0) for channel in told.acknowledged}

    assert heard(messages.ACKNOWLEDGED, "Subscription request 0 for mbp-1 data succeeded") == {QUOTES}
    # of one that nothing is replayed of
    assert heard(messages.REPLAYED, "Finished mbp-1 replay") == set()
    assert heard(messages.REPLAYED, "Finished 'trades' replay.") == {AAPL}
    # of which is not said
    assert heard(messages.REPLAYED, "Finished") == {BARS}


@pytest.mark.parametrize("words", ["Unknown schema", "Invalid start for trades."])
def test_only_the_schemas_that_are_named_are_not_replayed_next_time(words: str) -> None:
    since = time.time_ns() - 3600 * SECOND
    asked = Asked("raw_symbol")
    asked.add([AAPL, BARS], {AAPL: since, BARS: since}, time.time_ns())
    assert asked.replay_refused(Message(messages.ERROR, messages.INVALID, words))
    assert asked.not_replayed == ({"trades"} if "trades" in words else {"trades", "ohlcv-1m"})


def test_replay_reaches_back_a_day_and_no_further(stand_in: DatabentoLiveStandIn) -> None:
    before = time.time_ns()
    with Listener(live(stand_in), [AAPL], {AAPL: before - 3 * DAY}) as ear:
        ear.wait_acknowledged([AAPL])
        since = ear.acknowledged[AAPL]
    assert since is not None
    # a minute for the way there, and one for what happened before it was captured
    assert 119 * SECOND < since - (before - DAY) < 180 * SECOND
    assert subscriptions(stand_in)[0]["start"] == str(since - 60 * SECOND)


def test_replay_brings_what_happened_before_and_was_captured_since(stand_in: DatabentoLiveStandIn) -> None:
    since = time.time_ns() - 8 * SECOND
    stand_in.publish("trades", "AAPL", trade(since - 2, sequence=1, ts_recv=since - 1))
    stand_in.publish("trades", "AAPL", trade(since - 1, sequence=2, ts_recv=since))
    with Listener(live(stand_in), [AAPL], {AAPL: since}) as ear:
        ear.wait_acknowledged([AAPL])
        assert ear.acknowledged == {AAPL: since}
        assert 2 in [row["sequence"] for row in ear.rows("trades", "AAPL")]


def test_replay_of_bars_begins_with_the_bar_that_was_open(stand_in: DatabentoLiveStandIn) -> None:
    now = time.time_ns()
    opened = now - now % (60 * SECOND) - 600 * SECOND
    stand_in.publish("ohlcv-1m", "AAPL", [bar(opened), bar(opened + 60 * SECOND)])
    with Listener(live(stand_in), [BARS], {BARS: opened + 59 * SECOND}) as ear:
        ear.wait_acknowledged([BARS])
        assert ear.acknowledged[BARS] == opened
        assert len(ear.rows("ohlcv-1m", "AAPL")) == 2


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (databento_dbn.ErrorCode.REPLAY_DATA_AGED_OUT, "Replay data for trades is no longer retained"),
        (databento_dbn.ErrorCode.INVALID_SUBSCRIPTION, "Invalid start for trades"),
        (databento_dbn.ErrorCode.INVALID_SUBSCRIPTION, "Subscription of 'trades': intraday data goes back 24 hours."),
    ],
)
def test_a_refused_replay_is_not_asked_again_at_once(stand_in: DatabentoLiveStandIn, code: Any, words: str) -> None:
    extractor = live(stand_in)
    since = time.time_ns() - SECOND
    stand_in.fail("error", "replay", times=2, code=code, words=words)
    error = ends(extractor, AAPL, since=since)
    assert isinstance(error, TransientError)
    assert words in str(error)
    with Listener(extractor, [AAPL], {AAPL: since}) as ear:
        ear.wait_acknowledged([AAPL])
        assert ear.acknowledged == {AAPL: None}
    # after a session that went well it is worth trying again
    assert ends(extractor, AAPL, since=since) is not None
    assert [("start" in one) for one in subscriptions(stand_in)] == [True, False, True]


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_an_orderly_close_ends_in_order(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        stand_in.publish("trades", "AAPL", trade(time.time_ns()))
        stand_in.fin()
        assert ear.wait_ended() is None
        assert len(ear.rows("trades", "AAPL")) == 1


def test_a_reset_is_told_after_all_that_came(stand_in: DatabentoLiveStandIn) -> None:
    records = bytes(encoded("trades", {**trade(1), "sequence": 0, "ts_recv": 2}, 2, 38)) * 2_000

    async def slowly() -> tuple[int, Exception]:
        size = 0
        request = LiveRequest(frozenset([AAPL]))
        try:
            async with aclosing(live(stand_in).frames(request)) as coming:
                async for item in coming:
                    if isinstance(item, Told) and item.acknowledged:
                        # nobody reads while it comes and breaks off
                        await asyncio.to_thread(stand_in.raw, records)
                        await asyncio.to_thread(stand_in.rst)
                        await asyncio.to_thread(stand_in.wait_open, 0)
                    size += len(item.content) if isinstance(item, Frame) and item.content[1] == 0 else 0
        except TransientError as error:
            return size, error
        raise AssertionError("it ended in order")

    size, error = asyncio.run(slowly())
    assert size == len(records) == 96_000
    assert "the connection broke off" in str(error)


@pytest.mark.parametrize("by", ["fin", "rst"])
def test_a_record_that_was_cut_is_no_frame(stand_in: DatabentoLiveStandIn, by: str) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        whole = trade(time.time_ns(), sequence=1)
        stand_in.publish("trades", "AAPL", whole)
        ear.wait_for(lambda: ear.rows("trades", "AAPL"))
        if by == "fin":
            stand_in.strike("cut", by="fin")
        else:
            stand_in.cut("trades", "AAPL", trade(time.time_ns(), sequence=2))
        error = ear.wait_ended()
        assert isinstance(error, TransientError)
        assert ("inside a record" if by == "fin" else "broke off") in str(error)
        assert [row["sequence"] for row in ear.rows("trades", "AAPL")] == [1]
        assert all(not batch.rejected.num_rows for batch in ear.batches())


def test_leaving_closes_the_connection(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        stand_in.wait_open(1)
    stand_in.wait_open(0)
    assert ear.error is None


def test_a_half_open_connection_can_be_left(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        stand_in.silence()
        stand_in.heartbeat()
        ear.close()
        assert ear.error is None


@pytest.mark.parametrize("kind", ["fin", "rst", "cut"])
@pytest.mark.parametrize("step", ["connect", "challenge", "auth", "subscribe", "start", "header"])
def test_a_session_that_never_begins_can_be_tried_again(stand_in: DatabentoLiveStandIn, step: str, kind: str) -> None:
    stand_in.fail(kind, step)
    extractor = live(stand_in)
    error = ends(extractor, AAPL)
    assert isinstance(error, TransientError)
    assert stand_in.address in str(error)
    with Listener(extractor, [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])


def test_a_gateway_that_is_away_can_be_tried_again(stand_in: DatabentoLiveStandIn) -> None:
    with stand_in.away():
        error = ends(live(stand_in), AAPL)
        assert isinstance(error, TransientError)
        assert "cannot be reached" in str(error)
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Authentication failed.", AuthFailed),
        ("User or API key deactivated", AuthFailed),
        ("A live data license is required to access XNAS.ITCH.", NotEntitled),
        ("User has reached their open connection limit", TransientError),
        ("Internal error", TransientError),
    ],
)
def test_a_refusal_means_what_it_says(
    stand_in: DatabentoLiveStandIn, words: str, expected: type[DataflowError]
) -> None:
    stand_in.fail("refusal", "auth", words=words)
    error = ends(live(stand_in), AAPL)
    assert type(error) is expected
    assert words in str(error)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AUTH_FAILED", AuthFailed), ("API_KEY_DEACTIVATED", AuthFailed), ("CONNECTION_LIMIT_EXCEEDED", TransientError),
        ("INVALID_SUBSCRIPTION", ConfigError), ("INTERNAL_ERROR", TransientError),
    ],
)  # fmt: skip
def test_an_error_ends_the_session_with_the_gateways_words(
    stand_in: DatabentoLiveStandIn, code: str, expected: type[DataflowError]
) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        stand_in.publish("trades", "AAPL", trade(time.time_ns()))
        stand_in.error(getattr(databento_dbn.ErrorCode, code), "so it is")
        error = ear.wait_ended()
        assert type(error) is expected
        assert "so it is" in str(error)
        # what came with it landed
        assert len(ear.rows("trades", "AAPL")) == 1


def test_another_key_is_refused_and_shown_nowhere(stand_in: DatabentoLiveStandIn) -> None:
    key = "db-secret-" + "y" * 22
    extractor = live_half("databento", stand_in.options(), {"API_KEY": key})
    error = ends(extractor, AAPL)  # type: ignore[arg-type]
    assert isinstance(error, AuthFailed)
    terms = replace(live(stand_in)._terms(), key=key)
    assert not any(part in f"{error} {terms} {error!r}" for part in (key, key[-5:], "secret"))
    nothing = live_half("databento", stand_in.options(), {})
    assert isinstance(ends(nothing, AAPL), AuthFailed)  # type: ignore[arg-type]


def test_nothing_that_lands_holds_a_part_of_the_key(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        landed = b"".join(frame.content for frame in ear.frames)
    assert stand_in.keys["API_KEY"][-5:].encode() not in landed
    assert b"auth=" not in landed
    assert b"session_id=" in landed


# -- what is told meanwhile -------------------------------------------------------------------------------------------


def test_heartbeats_are_signs_of_life(stand_in: DatabentoLiveStandIn) -> None:
    stand_in.beats = 0.01
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        ear.wait_for(lambda: [told for told in ear.told if told == Told(told.received)])


def test_a_slow_reader_is_told(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        stand_in.slow_consumer()
        ear.wait_for(lambda: [told for told in ear.told if "slow reading" in told.note])
        assert not any(told.lost for told in ear.told)


def test_skipped_records_are_lost_from_the_last_that_came(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in, slow_reader_behavior="skip"), [QUOTES]) as ear:
        ear.wait_acknowledged([QUOTES])
        now = time.time_ns()
        stand_in.publish("mbp-1", "AAPL", [quote(now - 30 * SECOND), quote(now - 20 * SECOND)])
        ear.wait_for(lambda: len(ear.rows("mbp-1", "AAPL")) == 2)
        with stand_in.skipping():
            stand_in.publish("mbp-1", "AAPL", quote(now - 10 * SECOND))
        stand_in.publish("mbp-1", "AAPL", quote(now))
        (lost,) = ear.wait_for(lambda: [told for told in ear.told if told.lost])
        assert "Slow client" in lost.lost
        assert lost.since == nanoseconds(ear.rows("mbp-1", "AAPL")[1]["ts_recv"])
        ear.wait_for(lambda: len(ear.rows("mbp-1", "AAPL")) == 3)


def test_frames_are_large_where_much_comes_at_once(stand_in: DatabentoLiveStandIn) -> None:
    with Listener(live(stand_in), [AAPL]) as ear:
        ear.wait_acknowledged([AAPL])
        many = [trade(number) for number in range(5_000)]
        stand_in.publish("trades", "AAPL", many)
        ear.wait_for(lambda: len(ear.rows("trades", "AAPL")) == 5_000)
        blocks = [frame.content for frame in ear.frames if not frame.context]
        assert all(len(block) <= gateway.READ + 1_020 for block in blocks)
        assert all(len(block) % 48 == 0 for block in blocks[-3:])


# -- continuous symbols -----------------------------------------------------------------------------------------------


def near_midnight(monkeypatch: pytest.MonkeyPatch, seconds: float) -> int:
    """Set the clock, so that it is some seconds until (or since) midnight; returns that midnight."""
    real, now = time.time_ns, time.time_ns()
    midnight = now - now % DAY + DAY
    ahead = midnight - int(seconds * SECOND) - now
    monkeypatch.setattr(time, "time_ns", lambda: real() + ahead)
    return midnight


def test_a_second_symbol_of_an_instrument_is_refused(futures: DatabentoLiveStandIn) -> None:
    futures.fronts |= {"ES.v.0": "ESH4", "NQ.c.0": "NQH4"}
    first, second, other = (Channel("trades", name) for name in ("ES.c.0", "ES.v.0", "NQ.c.0"))
    with Listener(live(futures, stype_in="continuous"), [first, second, other]) as ear:
        ear.wait_acknowledged([first, other])
        ear.wait_for(lambda: ear.refused)
        assert "ES.v.0 stands for the same instrument as ES.c.0 now" in ear.refused[second]
        assert ear.refused.keys() == {second}
        futures.publish("trades", "ESH4", trade(time.time_ns(), sequence=1))
        ear.wait_for(lambda: ear.rows("trades", "ES.c.0"))


def test_a_session_of_continuous_symbols_ends_at_midnight(
    futures: DatabentoLiveStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Channel("trades", "ES.c.0")
    extractor = live(futures, stype_in="continuous")
    midnight = near_midnight(monkeypatch, 6)
    with Listener(extractor, [front]) as ear:
        ear.wait_acknowledged([front])
        futures.publish("trades", "ESH4", trade(midnight - 2 * SECOND, sequence=1, ts_recv=midnight - 1))
        # as it comes where the clocks differ
        futures.publish("trades", "ESH4", trade(midnight - 1 * SECOND, sequence=2, ts_recv=midnight))
        assert ear.wait_ended() is None
        assert time.time_ns() >= midnight
        assert all(item.received < midnight for item in ear.items)
        assert [row["sequence"] for row in ear.rows("trades", "ES.c.0")] == [1]
        assert sum(batch.left_out for batch in ear.batches()) == 1
    futures.fronts["ES.c.0"] = "ESM4"
    with Listener(extractor, [front], {front: midnight - 5 * SECOND}) as ear:
        ear.wait_acknowledged([front])
        assert subscriptions(futures)[-1]["start"] >= str(midnight - 60 * SECOND)
        # what is of the day before is left out
        assert ear.acknowledged == {front: midnight}
        # by the clock of a gateway that is a little behind
        assert ear.frames[0].received >= midnight + 2 * SECOND
        futures.publish("trades", "ESM4", trade(midnight + SECOND, sequence=3))
        ear.wait_for(lambda: [row["sequence"] for row in ear.rows("trades", "ES.c.0")] == [3])


def test_a_session_of_other_symbols_lives_on_after_midnight(
    futures: DatabentoLiveStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel("trades", "ESM4")
    extractor = live(futures)
    midnight = near_midnight(monkeypatch, 2)
    with Listener(extractor, [channel]) as ear:
        ear.wait_acknowledged([channel])
        ear.wait_for(lambda: time.time_ns() > midnight or futures.heartbeat())
        futures.publish("trades", "ESM4", trade(midnight + SECOND))
        ear.wait_for(lambda: ear.rows("trades", "ESM4"))
