"""Twelve Data's stream of prices: https://twelvedata.com/docs#websocket.

A price comes with a whole second, without a size, a number or a side: it is no trade, and is stored as the figure
`last_price` (schema `statistics`). What fails is named in the acknowledgement of what does not. A connection that says
nothing itself is closed: hence the heartbeats.
"""

from flows.feeds.feed import Answer
from flows.feeds.feed import Events
from flows.feeds.feed import Feed


def feed(url: str) -> Feed:
    """Return the feed of an address."""
    return Feed(
        url=url,
        params={"apikey": "{secret:API_KEY}"},
        subscribe={"action": "subscribe", "params": {"symbols": "{joined}"}},
        unsubscribe={"action": "unsubscribe", "params": {"symbols": "{joined}"}},
        batch=100,
        heartbeat={"action": "heartbeat"},
        heartbeat_seconds=10,
        answers=(
            Answer(when={"event": "subscribe-status"}, means="subscribed", names={"success": ""}, name="symbol"),
            Answer(when={"event": "subscribe-status"}, means="refused", names={"fails": ""}, name="symbol"),
            Answer(when={"event": "subscribe-status", "messages": []}, means="refused", reason="messages"),
            Answer(when={"event": "unsubscribe-status"}, means="unsubscribed"),
            Answer(when={"event": "heartbeat"}, means="alive"),
            Answer(when={"event": "error", "code": 401}, means="auth", reason="message"),
            Answer(when={"event": "error", "code": 403}, means="entitlement", reason="message"),
            Answer(when={"event": "error", "code": 429}, means="limit", reason="message"),
            Answer(when={"event": "error"}, means="refused", reason="message"),
        ),
        events={
            "statistics": Events(
                when={"event": "price"},
                symbol="symbol",
                fields={"ts_event": "timestamp", "price": "price", "venue": "mic_code"},
                constants={"statistic": "last_price"},
                time_unit="s",
            )
        },
    )
