"""Alpaca's streams: https://docs.alpaca.markets/docs/streaming-market-data (stocks v2, crypto v1beta3).

Every message is an array. Minute bars come at the end of the minute, and again half a minute later as updated bars when
late trades belong to them: rows of the same key, of which the later one counts. Daily bars come every minute and never
say that they are final: they are not offered. With trades come, unasked, their corrections and cancellations. History
has them as a mark of the trade (`u`: canceled, incorrect), and a corrected trade as one more (`u`: corrected). Trades
are never changed, and no column has the mark: these events are kept in quarantine.
"""

from collections.abc import Mapping

from flows.feeds.feed import Answer
from flows.feeds.feed import Events
from flows.feeds.feed import Feed
from flows.feeds.feed import empty_sides
from flows.formats.records import Place

#: what each code of an error means; others concern the request
_CODES: Mapping[int, str] = {
    401: "again", 402: "auth", 403: "nothing", 404: "again", 406: "again", 407: "lost", 408: "entitlement",
    409: "entitlement", 500: "again",
}  # fmt: skip


def feed(url: str, columns: Mapping[str, Mapping[str, Place]]) -> Feed:
    """Return the feed of an address. `columns` say where a record of `bars`, `trades` and `quotes` has its values."""
    where = {kind: {column: str(place) for column, place in some.items()} for kind, some in columns.items()}
    subscription = {
        "trades": "{list:trades}", "quotes": "{list:quotes}", "bars": "{list:ohlcv-1m}",
        "updatedBars": "{list:ohlcv-1m}",
    }  # fmt: skip
    return Feed(
        url=url,
        auth={"action": "auth", "key": "{secret:API_KEY_ID}", "secret": "{secret:API_SECRET_KEY}"},
        subscribe={"action": "subscribe", **subscription},
        unsubscribe={"action": "unsubscribe", **subscription},
        batch=1000,
        answers=(
            Answer(when={"T": "success", "msg": "connected"}, means="greeting"),
            Answer(when={"T": "success", "msg": "authenticated"}, means="authenticated"),
            Answer(
                when={"T": "subscription"},
                means="subscribed",
                names={"trades": "trades", "quotes": "quotes", "bars": "ohlcv-1m"},
            ),
            *(
                Answer.model_validate({"when": {"T": "error", "code": code}, "means": means, "reason": "msg"})
                for code, means in _CODES.items()
            ),
            Answer(when={"T": "error", "code": [400, 405, 410]}, means="refused", reason="msg", whole=True),
            Answer(when={"T": "c"}, means="kept", of="trades", reason="it corrects a trade, and trades do not change"),
            Answer(when={"T": "x"}, means="kept", of="trades", reason="it cancels a trade, and trades do not change"),
        ),
        events={
            "trades": Events(
                when={"T": "t"}, symbol="S", fields={**where["trades"], "side": "tks"},
                words={"side": {"B": "B", "S": "A"}},
            ),
            "quotes": Events(
                when={"T": "q"}, symbol="S", fields=where["quotes"],
                empty=empty_sides("price"),
            ),
            # the revision of a bar comes half a minute after its end
            "ohlcv-1m": Events(when={"T": ["b", "u"]}, symbol="S", fields=where["bars"], late_seconds=35),
        },
    )  # fmt: skip
