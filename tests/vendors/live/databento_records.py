"""Rows in our words as records of DBN, made with the vendor's own classes, and back as the rows they mean."""

from collections.abc import Callable
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import databento_dbn as dbn
from databento.common.publishers import Publisher

from tests.vendors.live.words import nanoseconds
from tests.vendors.live.words import only
from tests.vendors.live.words import stamp
from tests.vendors.server import Row

NANO = 1_000_000_000
UNDEF_PRICE = 2**63 - 1
#: nanoseconds after which the vendor has received what happened
LATE = 250_000
_TYPES = {
    "ohlcv-1s": 32, "ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35, "cmbp-1": 177, "cbbo-1s": 192, "cbbo-1m": 193,
    "tcbbo": 194, "bbo-1s": 195, "bbo-1m": 196,
}  # fmt: skip
_BAR = ("open", "high", "low", "close")
_QUOTE = ("bid_price", "bid_size", "ask_price", "ask_size")
_COUNTS = ("bid_count", "ask_count")
#: schema → columns a test must give, and those it may give with what they are otherwise
COLUMNS: Mapping[str, tuple[tuple[str, ...], Row]] = {
    "trades": (("price", "size", "side"), {"sequence": 0}),
    "tbbo": (("price", "size", "side", *_QUOTE), {"sequence": 0, **dict.fromkeys(_COUNTS, 1)}),
    "mbp-1": (
        ("price", "size", "side", "action", *_QUOTE),
        {"sequence": 0, "flags": 128, "depth": 0, "ts_in_delta": 0, **dict.fromkeys(_COUNTS, 1)},
    ),
    "mbo": (
        ("price", "size", "side", "action", "order_id"),
        {"sequence": 0, "flags": 128, "channel_id": 0, "ts_in_delta": 0},
    ),
    **dict.fromkeys(
        ("bbo-1s", "bbo-1m"),
        (("price", "size", "side", *_QUOTE), {"sequence": 0, "flags": 128, **dict.fromkeys(_COUNTS, 1)}),
    ),
    "statistics": (
        ("statistic", "price", "quantity"),
        {"sequence": 0, "ts_ref": None, "channel_id": 0, "update_action": 1, "stat_flags": 0},
    ),
    **dict.fromkeys(("ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"), ((*_BAR, "volume"), {})),
}


def row(schema: str, record: Row, publisher: int) -> Row:
    """Return the row that a record must become; ValueError where the vendor has no words for it."""
    if schema not in COLUMNS:
        raise ValueError(f"records of {schema} are published as they are, with `raw`")
    needed, others = COLUMNS[schema]
    bars = schema.startswith("ohlcv-")
    made = others | only(record, ("ts_event", *needed), (*others, *(() if bars else ("ts_recv",))))
    if not bars:
        made["ts_recv"] = stamp(nanoseconds(made.get("ts_recv", nanoseconds(made["ts_event"]) + LATE)))
    if made.get("ts_ref") is not None:
        made["ts_ref"] = stamp(nanoseconds(made["ts_ref"]))
    return made | {"venue": str(Publisher.from_int(publisher).venue.value)}


def record(schema: str, values: Row, publisher: int, instrument: int, ts_out: int | None = None) -> bytes:
    """Return a row as a record."""
    head = (publisher, instrument, nanoseconds(values["ts_event"]))
    sent = {} if ts_out is None else {"ts_out": ts_out}
    if schema.startswith("ohlcv-"):
        prices = [_fixed(values[name]) for name in _BAR]
        return bytes(dbn.OHLCVMsg(_TYPES[schema], *head, *prices, int(values["volume"]), **sent))
    make = _MAKERS.get(schema, _event)
    return bytes(make(schema, head, values, sent))


def _event(schema: str, head: tuple[int, int, int], values: Row, sent: Row) -> Any:
    made = dbn.TradeMsg if schema == "trades" else dbn.MBP1Msg
    more = {} if schema == "trades" else {"levels": _level(values)}
    return made(
        *head, _fixed(values["price"]), int(values["size"]), dbn.Action.from_str(values.get("action", "T")),
        dbn.Side.from_str(values["side"]), values.get("depth", 0), nanoseconds(values["ts_recv"]),
        flags=values.get("flags", 128), ts_in_delta=values.get("ts_in_delta", 0), sequence=values["sequence"],
        **more, **sent,
    )  # fmt: skip


def _order(schema: str, head: tuple[int, int, int], values: Row, sent: Row) -> Any:
    return dbn.MBOMsg(
        *head, values["order_id"], _fixed(values["price"]), int(values["size"]),
        dbn.Action.from_str(values["action"]), dbn.Side.from_str(values["side"]), nanoseconds(values["ts_recv"]),
        flags=values["flags"], channel_id=values["channel_id"], ts_in_delta=values["ts_in_delta"],
        sequence=values["sequence"], **sent,
    )  # fmt: skip


def _sampled(schema: str, head: tuple[int, int, int], values: Row, sent: Row) -> Any:
    return dbn.BBOMsg(
        _TYPES[schema], *head, _fixed(values["price"]), int(values["size"]), dbn.Side.from_str(values["side"]),
        nanoseconds(values["ts_recv"]), flags=values["flags"], sequence=values["sequence"], levels=_level(values),
        **sent,
    )  # fmt: skip


def _statistic(schema: str, head: tuple[int, int, int], values: Row, sent: Row) -> Any:
    return dbn.StatMsg(
        *head, nanoseconds(values["ts_recv"]), 2**64 - 1 if values["ts_ref"] is None else nanoseconds(values["ts_ref"]),
        _fixed(values["price"]), UNDEF_PRICE if values["quantity"] is None else int(values["quantity"]),
        getattr(dbn.StatType, values["statistic"].upper()), sequence=values["sequence"],
        channel_id=values["channel_id"], update_action=dbn.StatUpdateAction.from_int(values["update_action"]),
        stat_flags=values["stat_flags"], **sent,
    )  # fmt: skip


_MAKERS: Mapping[str, Callable[[str, tuple[int, int, int], Row, Row], Any]] = {
    "mbo": _order, "bbo-1s": _sampled, "bbo-1m": _sampled, "statistics": _statistic,
}  # fmt: skip


def _level(values: Row) -> Any:
    sides = {
        f"{side}_{code}": values[f"{side}_{name}"]
        for side in ("bid", "ask") for name, code in (("price", "px"), ("size", "sz"), ("count", "ct"))
    }  # fmt: skip
    return dbn.BidAskPair(**{name: _fixed(value) if "px" in name else int(value or 0) for name, value in sides.items()})


def _fixed(price: Decimal | int | None) -> int:
    """Return a price in billionths; ValueError where it is none: the vendor could not say it."""
    if price is None:
        return UNDEF_PRICE
    exact = Decimal(price) * NANO
    if exact != int(exact):
        raise ValueError(f"{price} has more than nine digits after the point")
    return int(exact)
