"""Messages of a session with //blp/mktdata as bytes, and trades out of them. Pure.

The SDK gives no bytes, so a frame is the message as `toPy()` gives it, in JSON: floats by `repr`, which is what the
double is, dates and times in ISO form. Around the body stand what the SDK says of the message and the securities it
is about, since a message names its subscription by a number only:

    {"event": "SUBSCRIPTION_DATA", "type": "MarketDataEvents", "recap": "NONE", "fragment": 0,
     "symbols": ["SPY US Equity"], "received": "2024-05-16T04:38:58.848000+00:00", "body": {…}}

What MarketDataEvents mean (BLPAPI Core Developer Guide, market data service): after a subscription comes an image of
the state, a recap: SUMMARY, INITPAINT. Then come events, QUOTE or TRADE among others, with the fields that the event
has. A field that a message lacks is not known from an earlier one.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import date
from datetime import datetime
from datetime import time
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schemas import NANOSECONDS
from catalog.schemas import ROW
from flows.formats.blocks import Rejects
from flows.formats.times import Clock
from flows.formats.times import read_times
from flows.frames import ROWS_A_FRAME
from flows.frames import Frame

DATA: Final = "SUBSCRIPTION_DATA"
MARKET_DATA: Final = "MarketDataEvents"
#: fields that say what an event is; always asked for
TYPE: Final = "MKTDATA_EVENT_TYPE"
SUBTYPE: Final = "MKTDATA_EVENT_SUBTYPE"
DELAYED: Final = "IS_DELAYED_STREAM"
#: by number of `recapType()`: an event, or the state, sent because it was asked for or unasked
RECAPS: Final = ("NONE", "SOLICITED", "UNSOLICITED")
# numbers stay as they are written: a double would lose digits
_DECODER: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
# a time without a zone would be in the one that the terminal is set to
_ZONED: Final = r"^\d{4}-\d\d-\d\dT.*([Zz]|[+-]\d\d:\d\d)$"
_WHOLE: Final = "second"
_SHOWN: Final = 4000


class _Strange(Exception):
    """What is wrong with a message: the rule it breaks, and how."""


def content(
    event: str,
    kind: str,
    recap: int,
    fragment: int,
    symbols: Sequence[str],
    received: datetime | None,
    body: object,
) -> bytes:
    """Return a message as the content of a frame."""
    message = {
        "event": event,
        "type": kind,
        "recap": RECAPS[recap] if 0 <= recap < len(RECAPS) else str(recap),
        "fragment": fragment,
        "symbols": list(symbols),
        "received": received,
        "body": body,
    }
    return json.dumps(message, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    return b64encode(value).decode() if isinstance(value, bytes) else repr(value)


def trades(frames: Sequence[Frame], fields: Mapping[str, str]) -> tuple[pa.Table, pa.Table, int]:
    """Return the raw rows of new trades, the rejected rows, and how many trades are of nobody (any more).

    `fields` is our column → Bloomberg's field.

    `ts_event` is cut to the whole second, as Bloomberg's tick history has it: the same trade is the same row.
    """
    rejects, left_out = Rejects(), 0
    found: list[tuple[Frame, int, str, Mapping[str, Any]]] = []
    for frame in frames:
        try:
            symbols, body = _trade(frame.content)
        except _Strange as strange:
            rule, detail = strange.args
            rejects.add(frame.number * ROWS_A_FRAME, rule, detail, _shown(frame))
        else:
            found += [(frame, place, symbol, body) for place, symbol in enumerate(symbols)]
            left_out += 1 if body and not symbols else 0
    columns: dict[str, pa.Array] = {
        "symbol": pa.array([symbol for _, _, symbol, _ in found], pa.string()).dictionary_encode(),
        ROW: pa.array([frame.number * ROWS_A_FRAME + place for frame, place, _, _ in found], pa.int64()),
        "ts_recv": pa.array([frame.received for frame, _, _, _ in found], pa.int64()).cast(NANOSECONDS),
    }
    for column, field in fields.items():
        columns[column] = pa.array([_text(body.get(field)) for _, _, _, body in found], pa.string())
    if "conditions" in columns:
        # history leaves the element out where there are none
        columns["conditions"] = pc.replace_with_mask(
            columns["conditions"], pc.equal(columns["conditions"], ""), pa.scalar(None, pa.string())
        )
    stamps = columns["ts_event"]
    times = read_times(stamps, Clock())
    columns["ts_event"] = pc.floor_temporal(times.values, unit=_WHOLE)
    unzoned = pc.fill_null(pc.invert(pc.match_substring_regex(stamps, _ZONED)), False)
    faults = {**times.faults, "time carries its zone": unzoned.to_numpy(zero_copy_only=False)}
    bad = np.logical_or.reduce(list(faults.values()))
    for position in np.flatnonzero(bad).tolist():
        frame, place, _, _ = found[position]
        broken = "; ".join(rule for rule, mask in faults.items() if mask[position])
        detail = f"{fields['ts_event']} is {stamps[position].as_py()!r}"
        rejects.add(frame.number * ROWS_A_FRAME + place, broken, detail, _shown(frame))
    return pa.table(columns).filter(pa.array(~bad)), rejects.table(), left_out


def _trade(raw: bytes) -> tuple[Sequence[str], Mapping[str, Any]]:
    """Return the symbols and the fields of a new trade, neither where the message is none.

    What comes after its subscription was given up has no symbols.
    """
    try:
        message = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        raise _Strange("frame is a message of Bloomberg's", str(error)) from None
    if not isinstance(message, dict) or not isinstance(message.get("event"), str):
        raise _Strange("frame is a message of Bloomberg's", "it is no object with an event")
    if message["event"] != DATA or message.get("recap") != "NONE":
        # a recap is the state at the time: its last trade did not happen now
        return (), {}
    body = message.get("body")
    if message.get("type") != MARKET_DATA or not isinstance(body, dict):
        raise _Strange(f"message is one of {MARKET_DATA}", f"its type is {message.get('type')!r}")
    kind, part = body.get(TYPE), body.get(SUBTYPE)
    if not isinstance(kind, str):
        raise _Strange("event has a type", f"{TYPE} is {kind!r}")
    if kind != "TRADE":
        return (), {}
    if part != "NEW":
        raise _Strange("trade is new", f"{SUBTYPE} is {part!r}: it changes or takes back an earlier trade")
    symbols = message.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise _Strange("message names its subscription", f"symbols are {symbols!r}")
    return symbols, body


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _shown(frame: Frame) -> str:
    return frame.content[:_SHOWN].decode("utf-8", "backslashreplace")
