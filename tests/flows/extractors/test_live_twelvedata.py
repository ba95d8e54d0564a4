"""Twelve Data live: prices as what they are, failures named beside what does not fail, heartbeats."""

from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from flows.extractors.twelvedata import TwelveDataLive
from flows.feeds.reading import Reader
from flows.frames import Channel
from flows.frames import Frame
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import refined
from tests.vendors.live.twelvedata import TwelveDataLiveStandIn
from tests.vendors.server import Row

START = datetime(2024, 1, 2, 15, tzinfo=UTC)
APPLE = Channel("statistics", "AAPL")


def options(vendor: TwelveDataLiveStandIn) -> Row:
    return {"stream_url": f"{vendor.url}/v1/quotes/price"}


def test_a_price_is_the_last_price_and_no_trade() -> None:
    records = [{"ts_event": START + timedelta(seconds=at), "price": Decimal(f"1.{at}")} for at in (1, 2, 2, 3)]
    with (
        TwelveDataLiveStandIn() as vendor,
        Listener(live_half("twelvedata", options(vendor), vendor.keys), [APPLE]) as listener,
    ):
        listener.wait_acknowledged([APPLE])
        # the stand-in calls them trades
        vendor.publish("trades", "AAPL", records)
        vendor.fin()
        listener.wait_ended()
    rows = listener.rows("statistics", "AAPL")
    names = ("ts_event", "price", "statistic", "venue", "ordinal", "quantity")
    assert [[row[name] for name in names] for row in rows] == [
        [record["ts_event"], record["price"], "last_price", "XNGS", ordinal, None]
        for record, ordinal in zip(records, (0, 0, 1, 0), strict=True)
    ]
    assert "trades" not in TwelveDataLive.schemas


def test_what_fails_is_refused_and_the_rest_is_heard() -> None:
    unknown = Channel("statistics", "NOPE")
    for fails in ([], None):
        with TwelveDataLiveStandIn() as vendor:
            vendor.no_fails = fails
            with Listener(live_half("twelvedata", options(vendor), vendor.keys), [APPLE, unknown]) as listener:
                listener.wait_for(lambda heard=listener: heard.acknowledged and heard.refused)
                listener.change(added=[Channel("statistics", "EUR/USD")], removed=[APPLE])
                listener.wait_acknowledged([Channel("statistics", "EUR/USD")])
        assert listener.acknowledged.keys() == {APPLE, Channel("statistics", "EUR/USD")}
        assert listener.refused.keys() == {unknown}
        assert [one.message["action"] for one in vendor.log] == ["subscribe", "unsubscribe", "subscribe"]


def test_a_symbol_with_its_exchange_is_refused_before_it_is_asked() -> None:
    elsewhere = Channel("statistics", "AAPL:NASDAQ")
    with (
        TwelveDataLiveStandIn() as vendor,
        Listener(live_half("twelvedata", options(vendor), vendor.keys), [APPLE, elsewhere]) as listener,
    ):
        listener.wait_acknowledged([APPLE])
    assert "'AAPL:NASDAQ' names an exchange" in listener.refused[elsewhere]


def test_nothing_is_noted_of_what_is_acknowledged() -> None:
    for fails in ([], None):
        with TwelveDataLiveStandIn() as vendor:
            vendor.no_fails = fails
            with Listener(live_half("twelvedata", options(vendor), vendor.keys), [APPLE]) as listener:
                listener.wait_acknowledged([APPLE])
                # with the next sign of life all of the answer is known
                listener.wait_for(lambda heard=listener: not heard.told[-1].acknowledged)
        assert [told for told in listener.told if told.note or told.refused] == []


def test_a_heartbeat_is_sent_and_its_answer_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    with TwelveDataLiveStandIn() as vendor:
        extractor = live_half("twelvedata", options(vendor), vendor.keys)
        assert isinstance(extractor, TwelveDataLive)
        quick = extractor.feed().model_copy(update={"heartbeat_seconds": 0.05})
        monkeypatch.setattr(extractor, "feed", lambda: quick)
        with Listener(extractor, [APPLE]) as listener:
            vendor.wait_said(lambda said: said == {"action": "heartbeat"}, 3)
            listener.wait_for(lambda: sum(b"heartbeat" in frame.content for frame in listener.frames) > 2)
    assert extractor.feed().heartbeat == {"action": "heartbeat"}
    assert listener.batches() == []


def test_the_key_is_in_no_message() -> None:
    with TwelveDataLiveStandIn() as vendor:
        extractor = live_half("twelvedata", options(vendor), {"API_KEY": "td-wr0ng"})
        with Listener(extractor, [APPLE]) as listener:
            error = listener.wait_ended()
        assert vendor.opened[0].params == {"apikey": "td-wr0ng"}
    assert isinstance(error, AuthFailed)
    assert "apikey** parameter is incorrect" in str(error)
    assert "td-wr0ng" not in str(error)


@pytest.mark.corpus
def test_recorded_events(corpus: Path) -> None:
    folder = corpus / "twelvedata"
    names = [
        "fixtures/websocket_subscribe_status.json", "fixtures/websocket_price_event.json",
        "fixtures/websocket_heartbeat.json", "soulgarden/ws_benchmark__x_1.json", "soulgarden/ws_benchmark__x_4.json",
        "soulgarden/ws__TestWS_ConnectAndSubscribe_1.json", "soulgarden/ws_benchmark__x_3.json",
    ]  # fmt: skip
    frames = [Frame((folder / name).read_bytes(), 2**61, number=at) for at, name in enumerate(names)]
    extractor = live_half("twelvedata", {}, {})
    assert isinstance(extractor, TwelveDataLive)
    batches = list(Reader(extractor.feed()).read(frames))
    rows = refined(batches, "statistics")
    assert [(row["instrument"], row["ts_event"].timestamp(), row["price"], row["venue"]) for row in rows] == [
        ("AAPL", 1631772000, Decimal("150.25"), "XNGS"),
        ("AAPL", 1643972766, Decimal("150.25"), ""),
        ("EUR/USD", 1643972766, Decimal("1.1245"), "FXCM"),
    ]
    assert [batch for batch in batches if batch.rejected.num_rows] == []
