"""Binance's streams: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams.

Combined streams, since the partial book of spot names its symbol only by its stream. Of a bar every change comes, and
the last one says that it is closed (`x`). Among the single trades of futures are fills of the insurance fund and other
events that are none (`X`: INSURANCE_FUND, ADL, NA), with numbers of their own: history does not give them, and neither
do we. USDT futures have two addresses since 2026-04-23 (usds-margined-futures,
"Important WebSocket Change Notice"), and a stream that is asked at the wrong one is acknowledged and silent.
"""

from typing import Any
from typing import Final

from flows.feeds.feed import Answer
from flows.feeds.feed import Events
from flows.feeds.feed import Feed
from flows.feeds.feed import empty_sides

INTERVALS: Final = {
    "ohlcv-1s": "1s", "ohlcv-1m": "1m", "ohlcv-5m": "5m", "ohlcv-15m": "15m", "ohlcv-30m": "30m", "ohlcv-1h": "1h",
    "ohlcv-4h": "4h", "ohlcv-1d": "1d", "ohlcv-1w": "1w", "ohlcv-1mo": "1M",
}  # fmt: skip
_BAR: Final = {
    "ts_event": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "trade_count": "n",
}  # fmt: skip
_PRICES: Final = {"price": "data.p", "size": "data.q", "side": "data.m"}
#: the side of the aggressor: where the buyer was waiting, a seller came
_SIDES: Final = {"side": {"true": "A", "false": "B"}}
_QUOTE: Final = {"bid_price": "data.b", "bid_size": "data.B", "ask_price": "data.a", "ask_size": "data.A"}
_BOOK: Final = "{lower}@depth10@100ms"


def part_of(schema: str, trades: str) -> str:
    """Return at which address futures stream a schema: what changes often is `public`, all else the `market`."""
    often = ("quotes", "mbp-10", "trades") if trades == "single" else ("quotes", "mbp-10")
    return "public" if schema in often else "market"


def feed(url: str, market: str, trades: str, part: str) -> Feed:
    """Return the feed of spot, or of one part of futures."""
    events = {**_bars(), "trades": _trades(market, trades), "mbp-10": _book(market)}
    if market != "spot":
        events["quotes"] = _quotes()
        events = {name: one for name, one in events.items() if part_of(name, trades) == part}
    return Feed(
        url=f"{url}/stream" if market == "spot" else f"{url}/{part}/stream",
        subscribe={"method": "SUBSCRIBE", "params": "{list}", "id": "{id}"},
        unsubscribe={"method": "UNSUBSCRIBE", "params": "{list}", "id": "{id}"},
        # it leaves messages of more than 4,096 bytes without an answer: a stream's name takes up to 40 of them
        batch=100,
        most=1024,
        # five a second are allowed, our pings and pongs among them
        pace=3,
        answers=(
            Answer(when={"result": None, "id": []}, means="subscribed", request="id"),
            Answer(when={"error": []}, means="refused", request="id", reason="error.msg"),
            Answer(when={"code": [], "msg": []}, means="refused", request="id", reason="msg"),
            Answer(when={"data.e": "serverShutdown"}, means="leaving", reason="data.e"),
            Answer(when={"e": "serverShutdown"}, means="leaving", reason="e"),
            Answer(when={"data.e": "kline", "data.k.x": False}, means="nothing"),
            *_others(market),
        ),
        events=events,
    )


def _bars() -> dict[str, Events]:
    fields = {column: f"data.k.{name}" for column, name in _BAR.items()}
    return {
        schema: Events(
            channel=f"{{lower}}@kline_{interval}",
            when={"data.e": "kline", "data.k.i": interval, "data.k.x": True},
            symbol="data.s",
            fields=fields,
            time_unit="ms",
        )
        for schema, interval in INTERVALS.items()
    }


def _trades(market: str, kind: str) -> Events:
    name, number = ("aggTrade", "data.a") if kind == "aggregated" else ("trade", "data.t")
    fields = {"ts_event": "data.T", "trade_id": number, **_PRICES}
    # what has no X is null there, and a trade of the market
    only: dict[str, Any] = {"data.X": ("MARKET", None)} if market != "spot" and kind == "single" else {}
    return Events(
        channel=f"{{lower}}@{name}", when={"data.e": name, **only}, symbol="data.s", fields=fields, words=_SIDES,
        time_unit="ms",
    )  # fmt: skip


def _book(market: str) -> Events:
    bids, asks = ("bids", "asks") if market == "spot" else ("b", "a")
    levels = {
        f"{side}_{what}_{level:02}": f"data.{name}.{level}.{place}"
        for level in range(10)
        for side, name in (("bid", bids), ("ask", asks))
        for place, what in enumerate(("price", "size"))
    }
    if market == "spot":
        return Events(
            channel=_BOOK, when={"data.lastUpdateId": []}, symbol="stream", symbol_form=_BOOK,
            fields={"sequence": "data.lastUpdateId", **levels}, received=("ts_event",),
        )  # fmt: skip
    fields = {"ts_event": "data.T", "sequence": "data.u", **levels}
    return Events(channel=_BOOK, when={"data.e": "depthUpdate"}, symbol="data.s", fields=fields, time_unit="ms")


def _quotes() -> Events:
    fields = {"ts_event": "data.T", "sequence": "data.u", **_QUOTE}
    return Events(
        channel="{lower}@bookTicker", when={"data.e": "bookTicker"}, symbol="data.s", fields=fields,
        empty=empty_sides("price"), time_unit="ms",
    )  # fmt: skip


def _others(market: str) -> tuple[Answer, ...]:
    """What other streams bring, and no schema has.

    Of spot: changes of a book, a best bid and offer without a time. Of futures: single trades that the market did not
    make.
    """
    if market != "spot":
        return (Answer(when={"data.e": "trade"}, means="nothing"),)
    return (
        Answer(when={"data.e": "depthUpdate"}, means="nothing"),
        Answer(when={"data.u": [], "data.b": [], "data.a": []}, means="nothing"),
    )
