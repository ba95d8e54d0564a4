"""Flux: one row of options expresses each of the four streams that have a class of their own; and what is refused."""

import json
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.forms.options import OptionField
from catalog.models import DataSource
from catalog.models import TimeSeries
from flows.extractors.flux import FluxExtractor
from flows.feeds.feed import Answer
from flows.feeds.feed import Events
from flows.feeds.templates import Known
from flows.feeds.templates import message
from flows.frames import Channel
from flows.frames import Frame
from flows.options import read_options
from tests.flows.extractors.both_halves import plain
from tests.flows.extractors.both_halves import present
from tests.vendors.live.alpaca import AlpacaLiveStandIn
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.listener import refined
from tests.vendors.live.massive import MassiveLiveStandIn
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.twelvedata import TwelveDataLiveStandIn
from tests.vendors.server import Row

START = datetime(2024, 1, 2, 15, tzinfo=UTC)
WINDOW = (START, START + timedelta(minutes=3))

# what somebody types into the form of a source, as JSON
BINANCE = r"""{
  "subscribe": {"method": "SUBSCRIBE", "params": "{list}", "id": "{id}"},
  "unsubscribe": {"method": "UNSUBSCRIBE", "params": "{list}", "id": "{id}"},
  "batch": 100, "most": 1024, "pace": 3, "rotation_hours": 23, "every_bar": true,
  "answers": [
    {"when": {"result": null, "id": []}, "means": "subscribed", "request": "id"},
    {"when": {"error": []}, "means": "refused", "request": "id", "reason": "error.msg"},
    {"when": {"data.e": "serverShutdown"}, "means": "leaving"},
    {"when": {"data.e": "kline", "data.k.x": false}, "means": "nothing"}
  ],
  "dedup": {"trades": "trade_id"}, "consecutive": ["trades"],
  "events": {
    "trades": {
      "channel": "{lower}@aggTrade", "when": {"data.e": "aggTrade"}, "symbol": "data.s", "time_unit": "ms",
      "fields": {"ts_event": "data.T", "trade_id": "data.a", "price": "data.p", "size": "data.q", "side": "data.m"},
      "words": {"side": {"true": "A", "false": "B"}}
    },
    "ohlcv-1m": {
      "channel": "{lower}@kline_1m", "when": {"data.e": "kline", "data.k.i": "1m", "data.k.x": true},
      "symbol": "data.s", "time_unit": "ms",
      "fields": {"ts_event": "data.k.t", "open": "data.k.o", "high": "data.k.h", "low": "data.k.l",
                 "close": "data.k.c", "volume": "data.k.v", "trade_count": "data.k.n"}
    }
  }
}"""
ALPACA = r"""{
  "auth": {"action": "auth", "key": "{secret:API_KEY_ID}", "secret": "{secret:API_SECRET_KEY}"},
  "subscribe": {"action": "subscribe", "trades": "{list:trades}", "quotes": "{list:quotes}",
                "bars": "{list:ohlcv-1m}", "updatedBars": "{list:ohlcv-1m}"},
  "answers": [
    {"when": {"T": "success", "msg": "connected"}, "means": "greeting"},
    {"when": {"T": "success", "msg": "authenticated"}, "means": "authenticated"},
    {"when": {"T": "subscription"}, "means": "subscribed",
     "names": {"trades": "trades", "quotes": "quotes", "bars": "ohlcv-1m"}},
    {"when": {"T": "error", "code": 402}, "means": "auth", "reason": "msg"},
    {"when": {"T": "error", "code": 409}, "means": "entitlement", "reason": "msg"},
    {"when": {"T": "error", "code": 407}, "means": "lost", "reason": "msg"},
    {"when": {"T": "error", "code": [404, 406, 500]}, "means": "again", "reason": "msg"},
    {"when": {"T": "error"}, "means": "refused", "reason": "msg", "whole": true}
  ],
  "dedup": {"trades": "trade_id"},
  "events": {
    "trades": {
      "when": {"T": "t"}, "symbol": "S",
      "fields": {"ts_event": "t", "venue": "x", "trade_id": "i", "price": "p", "size": "s", "conditions": "c"}
    },
    "quotes": {
      "when": {"T": "q"}, "symbol": "S",
      "fields": {"ts_event": "t", "bid_price": "bp", "bid_size": "bs", "bid_venue": "bx", "ask_price": "ap",
                 "ask_size": "as", "ask_venue": "ax", "conditions": "c"},
      "empty": [{"zero": ["bid_price"], "null": ["bid_price", "bid_size"]},
                {"zero": ["ask_price"], "null": ["ask_price", "ask_size"]}]
    },
    "ohlcv-1m": {
      "when": {"T": ["b", "u"]}, "symbol": "S", "late_seconds": 35,
      "fields": {"ts_event": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v",
                 "trade_count": "n", "vwap": "vw"}
    }
  }
}"""
MASSIVE = r"""{
  "auth": {"action": "auth", "params": "{secret:API_KEY}"},
  "subscribe": {"action": "subscribe", "params": "{joined}"},
  "unsubscribe": {"action": "unsubscribe", "params": "{joined}"},
  "answers": [
    {"when": {"ev": "status", "status": "connected"}, "means": "greeting"},
    {"when": {"ev": "status", "status": "auth_success"}, "means": "authenticated"},
    {"when": {"ev": "status", "status": "auth_failed"}, "means": "auth", "reason": "message"},
    {"when": {"ev": "status", "status": "success"}, "means": "subscribed", "names": {"message": ""},
     "prefix": "subscribed to: "},
    {"when": {"ev": "status", "status": "success"}, "means": "unsubscribed", "names": {"message": ""},
     "prefix": "unsubscribed to: "},
    {"when": {"ev": "status", "status": "slow_consumer"}, "means": "lost", "reason": "message"},
    {"when": {"ev": "status", "status": "error"}, "means": "refused", "reason": "message"}
  ],
  "dedup": {"trades": "sequence", "quotes": "sequence"},
  "events": {
    "trades": {
      "channel": "T.{symbol}", "when": {"ev": "T"}, "symbol": "sym", "time_unit": "ms",
      "fields": {"ts_event": "t", "ts_recv": "t", "venue": "x", "trade_id": "i", "sequence": "q", "price": "p",
                 "size": "s", "conditions": "c"}
    },
    "quotes": {
      "channel": "Q.{symbol}", "when": {"ev": "Q"}, "symbol": "sym", "time_unit": "ms",
      "fields": {"ts_event": "t", "ts_recv": "t", "sequence": "q", "bid_price": "bp", "bid_size": "bs",
                 "bid_venue": "bx", "ask_price": "ap", "ask_size": "as", "ask_venue": "ax", "conditions": "c"}
    },
    "ohlcv-1m": {
      "channel": "AM.{symbol}", "when": {"ev": "AM"}, "symbol": "sym", "time_unit": "ms",
      "fields": {"ts_event": "s", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw"}
    }
  }
}"""
TWELVEDATA = r"""{
  "params": {"apikey": "{secret:API_KEY}"},
  "subscribe": {"action": "subscribe", "params": {"symbols": "{joined}"}},
  "heartbeat": {"action": "heartbeat"}, "heartbeat_seconds": 10,
  "answers": [
    {"when": {"event": "subscribe-status"}, "means": "subscribed", "names": {"success": ""}, "name": "symbol"},
    {"when": {"event": "subscribe-status"}, "means": "refused", "names": {"fails": ""}, "name": "symbol"},
    {"when": {"event": "heartbeat"}, "means": "alive"}
  ],
  "events": {
    "statistics": {
      "when": {"event": "price"}, "symbol": "symbol", "time_unit": "s", "constants": {"statistic": "last_price"},
      "fields": {"ts_event": "timestamp", "price": "price", "venue": "mic_code"}
    }
  }
}"""


@pytest.mark.parametrize(
    ("stand_in", "path", "typed", "own", "symbol"),
    [
        (BinanceLiveStandIn, "/stream", BINANCE, {}, "BTCUSDT"),
        (AlpacaLiveStandIn, "/v2/sip", ALPACA, {}, "AAPL"),
        (MassiveLiveStandIn, "/stocks", MASSIVE, {"tick_times": "stream"}, "AAPL"),
        (TwelveDataLiveStandIn, "/v1/quotes/price", TWELVEDATA, {}, "AAPL"),
    ],
)
def test_one_row_of_options_gives_what_a_vendors_class_gives(
    stand_in: type[LiveStandIn], path: str, typed: str, own: Row, symbol: str
) -> None:
    options = json.loads(typed)
    with stand_in() as vendor:
        at = f"{vendor.url}{path}" if stand_in is TwelveDataLiveStandIn else vendor.url
        for schema in options["events"]:
            # the stand-in of Twelve Data calls a price a trade
            said = {"statistics": "trades"}.get(schema, schema)
            records = vendor.rows(said, symbol, *WINDOW)  # type: ignore[attr-defined]
            declared = {**options, "url": f"{vendor.url}{path}"}
            found = present(vendor, declared, schema, symbol, records, vendor="flux", published_as=said)
            right = present(vendor, {"stream_url": at, **own}, schema, symbol, records, published_as=said)
            assert len(found) > 2
            assert plain(found) == plain(right)
            # and the vendor hears the same words
            last = vendor.connections
            ours, own_words = (
                [one.message for one in vendor.log if one.connection == number] for number in (last - 1, last)
            )
            assert ours == own_words != []


@pytest.mark.parametrize("typed", [BINANCE, ALPACA, MASSIVE, TWELVEDATA])
def test_the_admins_form_shows_and_reads_every_option(typed: str) -> None:
    options = {**json.loads(typed), "url": "wss://x.example"}
    fields = {name: OptionField(name, info) for name, info in FluxExtractor.Options.model_fields.items()}
    assert options.keys() <= fields.keys()
    for name, option in fields.items():
        field = option.form_field()
        assert field.help_text
        shown = option.initial(options)
        if name in options and option.type is not bool:
            assert option.read(field.clean(shown)) == options[name]
    # as plain text too
    assert fields["heartbeat"].read("ping") == "ping"


def test_options_say_how_rows_are_told_apart() -> None:
    extractor = live_half("flux", {**json.loads(BINANCE), "url": "wss://x.example"}, {})
    assert extractor.numbered == {"trades"}
    assert extractor.consecutive == {"trades": "trade_id"}
    assert extractor.every_bar
    assert extractor.rotation == timedelta(hours=23)
    assert live_half("flux", {**json.loads(TWELVEDATA), "url": "wss://x.example"}, {}).rotation is None
    revised = live_half("flux", {**json.loads(ALPACA), "url": "wss://x.example", "stream_delay_minutes": 15}, {})
    assert revised.transit_of("ohlcv-1m") == timedelta(minutes=15, seconds=35)
    assert revised.transit_of("trades") == timedelta(minutes=15, seconds=5)


def test_answers_are_those_of_whole_messages_where_events_lie_inside() -> None:
    options = {
        "url": "wss://x.example", "subscribe": {"to": "{list}"}, "records": "data",
        "answers": [
            {"when": {"type": "subscribed"}, "means": "subscribed", "names": {"data.channels": ""}},
            {"when": {"kind": "status"}, "means": "nothing"},
        ],
        "events": {"trades": {
            "when": {"kind": "trade"}, "symbol": "s", "time_unit": "ms",
            "fields": {"ts_event": "t", "price": "p", "size": "q"},
        }},
    }  # fmt: skip
    trade = {"kind": "trade", "s": "A", "t": 1_700_000_000_000, "p": "1.5", "q": "2"}
    said = [
        {"type": "subscribed", "data": {"channels": ["A"]}},
        {"type": "events", "data": [trade, {"kind": "status"}]},
        {"type": "events", "data": {"kind": "other"}},
        {"type": "events", "data": trade},
    ]
    frames = [Frame(json.dumps(one).encode(), 2**61, number=at) for at, one in enumerate(said)]
    batches = list(live_half("flux", options, {}).parse(frames, {}))
    assert sum(batch.table.num_rows for batch in batches) == 2
    (rejected,) = [row for batch in batches for row in batch.rejected.to_pylist()]
    assert "other" in rejected["raw"]


def test_a_secret_that_is_not_set_is_named_and_none_is_shown() -> None:
    with MassiveLiveStandIn() as vendor:
        options = {**json.loads(MASSIVE), "url": f"{vendor.url}/stocks"}
        channel = Channel("ohlcv-1m", "AAPL")
        with Listener(live_half("flux", options, {}), [channel]) as listener:
            error = listener.wait_ended()
        assert isinstance(error, AuthFailed)
        assert "VENDOR_API_KEY is not set" in str(error)
        options["answers"] = [{**answer, "reason": ""} for answer in options["answers"]]
        extractor = live_half("flux", options, {"API_KEY": "hush-hush"})
        with Listener(extractor, [channel]) as listener:
            error = listener.wait_ended()
        assert isinstance(error, AuthFailed)
        assert "hush" not in f"{error} {error!r} {error.__context__!r}"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"url": "https://x.example"}, "accepted: wss or ws://"),
        (
            {"url": "ws://x.example", "headers": {"key": "{secret:API_KEY}"}},
            "anybody could read the secrets; accepted: wss://",
        ),
        ({"url": "wss://user:pass@x.example"}, "no user, password"),
        ({"url": "wss://x.example/?apikey=1"}, "secrets go into the environment"),
        ({"url": "wss://x.example/#a"}, "no user, password"),
        ({"url": "file:///etc/passwd"}, "accepted: wss or ws://"),
        ({"subscribe": {"a": "{what}"}}, "{what} means nothing here; accepted: {id}, {joined}, {list}, {secret:NAME}"),
        ({"subscribe": {"{list:news}": "b"}}, "names no schema of the feed; it has trades"),
        ({"params": {"a": "{list}"}}, "{list} means nothing here; accepted: {secret:NAME}"),
        ({"headers": {"A": "{secret}"}}, "{secret} means nothing here"),
        ({"headers": {"A": "b\r\nEvil: c"}}, "no line break"),
        ({"heartbeat": "{symbol}"}, "{symbol} means nothing here"),
        ({"dedup": {"trades": "price"}}, "'price' is not in the key of 'trades'; accepted: venue, trade_id, sequence"),
        ({"dedup": {"quotes": "sequence"}}, "the feed has no 'quotes'; it has trades, ohlcv-1m"),
        ({"dedup": {}}, "'trades' has no number in option dedup"),
        ({"answers": [{"when": {}, "means": "subscribed"}]}, "at least 1 item"),
        ({"answers": [{"when": {"a": 1}, "means": "perhaps"}]}, "'greeting', 'authenticated'"),
        ({"events": {}}, "at least 1 item"),
        ({"events": {"nope": {"when": {"a": 1}, "symbol": "s", "fields": {}}}}, "schema 'nope' is unknown; have: "),
        (
            {"events": {"trades": {"when": {"a": 1}, "symbol": "s", "fields": {"ts_event": "t", "prize": "p"}}}},
            "schema 'trades' has no column 'prize'",
        ),
        ({"events": {"trades": {"when": {"a": 1}, "symbol": "s", "fields": {}}}}, "where column 'price' is"),
        ({"events": {"trades": {"when": {}, "symbol": "s", "fields": {}}}}, "at least 1 item"),
        ({"events": {"trades": {"when": {"a": 1.5}, "symbol": "s", "fields": {}}}}, "valid"),
        ({"unheard": 1}, "option 'unheard' is unknown"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(wrong: Row, fault: str) -> None:
    options: dict[str, Any] = {**json.loads(BINANCE), "url": "wss://x.example", **wrong}
    with pytest.raises(ConfigError) as refused:
        read_options("source 'x'", FluxExtractor.Options, options)
    assert fault in str(refused.value)


def test_nothing_in_a_template_is_evaluated() -> None:
    known = Known({"KEY": 'a"b'}.__getitem__, {"": ["x", "y"], "trades": ["x"]}, 7)
    harmless = "{0.__class__} %s $y {known.secret} {__import__('os')} {}"
    template = {"a": "{list}", "b": "{list:quotes}", "c": ["{id}", "n{id}"], "d": "{joined:trades}|{secret:KEY}"}
    filled = {"a": ["x", "y"], "c": [7, "n7"], "d": 'x|a"b', "e": harmless}
    assert json.loads(message({**template, "e": harmless}, known)) == filled
    assert message("ping {id}", known) == "ping 7"


REPOSITORY = Path(__file__).parents[3]


@pytest.mark.django_db
def test_the_examples_can_be_imported_and_the_page_explains_every_option() -> None:
    call_command("import_catalog", str(REPOSITORY / "examples/flux.yaml"), stdout=StringIO())
    assert {one.read_options().url for one in DataSource.objects.all()} == {
        "wss://stream.binance.com:9443/stream", "wss://feed.example.com/v1",
    }  # fmt: skip
    for series in TimeSeries.objects.all():
        series.clean()
    page = (REPOSITORY / "docs/flux.md").read_text()
    for declared in (FluxExtractor.Options, Answer, Events):
        for name in declared.model_fields:
            assert f"`{name}`" in page, name
    assert "docs/flux.md" in FluxExtractor.doc


def test_the_example_with_a_login_hears_what_the_page_shows() -> None:
    options = yaml.safe_load((REPOSITORY / "examples/flux.yaml").read_text())["sources"][1]["options"]
    said = [
        {"type": "welcome"}, {"type": "login", "ok": True}, {"type": "subscribed", "symbols": ["AAPL"]},
        {"type": "rejected", "symbols": ["NOPE"], "text": "unknown symbol"},
        {"quotes": [{"type": "quote", "s": "AAPL", "t": 1700000000000000, "b": "189.99", "bs": "100", "a": "190.01",
                     "as": "200"}]},
    ]  # fmt: skip
    feed = FluxExtractor.Options.model_validate(options)
    assert [answer.means for one in said[:4] for answer in feed.answers if answer.fits(one)] == [
        "greeting", "authenticated", "subscribed", "refused",
    ]  # fmt: skip
    frames = [Frame(json.dumps(one).encode(), 1_700_000_000_500_000_000, number=n) for n, one in enumerate(said)]
    batches = live_half("flux", options, {"KEY": "k"}).parse(frames, {})
    ((row,),) = [refined([batch], "quotes") for batch in batches if batch.table.num_rows]
    assert (str(row["bid_price"]).rstrip("0"), int(row["ask_size"])) == ("189.99", 200)
