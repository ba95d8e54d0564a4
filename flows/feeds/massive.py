"""Massive's streams, formerly Polygon's: https://massive.com/docs/websocket.

Every message is an array, and every channel is acknowledged by a message of its own. Ticks have whole milliseconds: of
stocks the time of the consolidated tape, of pairs the only one there is. Bars have no count of trades. Pairs are
written BTC-USD and EUR/USD here, X:BTCUSD and C:EURUSD over REST.
"""

from collections.abc import Mapping
from typing import Final

from flows.feeds.feed import Answer
from flows.feeds.feed import Events
from flows.feeds.feed import Feed
from flows.feeds.feed import empty_sides

#: market → schema → the event, which the names of its channels begin with
_EVENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "stocks": {"ohlcv-1s": "A", "ohlcv-1m": "AM", "trades": "T", "quotes": "Q"},
    "crypto": {"ohlcv-1s": "XAS", "ohlcv-1m": "XA", "trades": "XT", "quotes": "XQ"},
    "forex": {"ohlcv-1s": "CAS", "ohlcv-1m": "CA", "quotes": "C"},
}
#: market → what its symbols begin with over REST, and what stands between the two currencies here
PAIRS: Final[Mapping[str, tuple[str, str]]] = {"crypto": ("X:", "-"), "forex": ("C:", "/")}
_BAR: Final = {"ts_event": "s", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
_TRADE: Final = {"ts_event": "t", "venue": "x", "trade_id": "i", "price": "p", "size": "s", "conditions": "c"}
_QUOTE: Final = {"ts_event": "t", "bid_price": "bp", "bid_size": "bs", "ask_price": "ap", "ask_size": "as"}
_ONE_VENUE: Final = {"bid_venue": "x", "ask_venue": "x"}
_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    **{event: {**_BAR, "vwap": "vw"} for event in ("A", "AM", "XA", "XAS")},
    **dict.fromkeys(("CA", "CAS"), _BAR),
    "T": {**_TRADE, "ts_recv": "t", "sequence": "q"},
    "XT": {**_TRADE, "ts_recv": "r"},
    "Q": {**_QUOTE, "ts_recv": "t", "sequence": "q", "bid_venue": "bx", "ask_venue": "ax", "conditions": "c"},
    "XQ": {**_QUOTE, **_ONE_VENUE, "ts_recv": "r"},
    "C": {"ts_event": "t", "bid_price": "b", "ask_price": "a", **_ONE_VENUE},
}
_STATUSES: Final[Mapping[str, str]] = {
    "connected": "greeting", "auth_success": "authenticated", "auth_failed": "auth", "auth_timeout": "again",
    "auth_required": "again", "max_connections": "again", "force_disconnect": "again", "slow_consumer": "lost",
    "error": "refused",
}  # fmt: skip


def feed(url: str, market: str) -> Feed:
    """Return the feed of a market."""
    status = {"ev": "status", "status": "success"}
    return Feed(
        url=f"{url}/{market}",
        auth={"action": "auth", "params": "{secret:API_KEY}"},
        subscribe={"action": "subscribe", "params": "{joined}"},
        unsubscribe={"action": "unsubscribe", "params": "{joined}"},
        batch=500,
        answers=(
            Answer(when=status, means="subscribed", names={"message": ""}, prefix="subscribed to: "),
            Answer(when=status, means="unsubscribed", names={"message": ""}, prefix="unsubscribed to: "),
            *(
                Answer.model_validate({"when": {"ev": "status", "status": word}, "means": means, "reason": "message"})
                for word, means in _STATUSES.items()
            ),
        ),
        events={schema: _events(market, schema, event) for schema, event in _EVENTS[market].items()},
    )


def _events(market: str, schema: str, event: str) -> Events:
    return Events(
        channel=f"{event}.{{symbol}}",
        when={"ev": event},
        symbol="sym" if market == "stocks" else "p" if event == "C" else "pair",
        fields=dict(_FIELDS[event]),
        empty=empty_sides("price", "size") if schema == "quotes" else (),
        time_unit="ms",
    )
