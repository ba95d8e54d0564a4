"""Messages of //blp/refdata → raw rows and what is wrong with them. Pure.

A message is what `toPy()` gives, as JSON: complex elements are objects, arrays lists, missing values absent keys, an
empty complex element `{}`; dates and times in ISO form, UTC unless they carry an offset. Shapes: BLPAPI refdata
service schema (HistoricalDataResponse, IntradayBarResponse, IntradayTickResponse, ReferenceDataResponse).
"""

import json
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import time
from typing import Any
from typing import Final

from flows.blp import asks
from flows.blp import faults
from flows.formats.blocks import Rejects

#: the response's column of an intraday bar → ours
_BAR: Final = {
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
    "numEvents": "trade_count",
}
_TICK: Final = {"value": "price", "size": "size", "exchangeCode": "venue", "conditionCodes": "conditions"}


@dataclass(slots=True)
class Found:
    """Raw rows by column, `symbol`, `row` and `ts_event` (aware) among them, and what could not be read as a row."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: Rejects = field(default_factory=Rejects)


@dataclass(frozen=True, slots=True)
class Position:
    """How far an intraday answer has landed: the time of its last row, and how many rows have that time."""

    time: str = ""
    count: int = 0


def as_json(body: Mapping[str, Any]) -> bytes:
    """Return a message as JSON exactly as received; dates and times in ISO form."""
    return json.dumps(body, ensure_ascii=False, default=_iso).encode()


def from_json(content: bytes) -> Any:
    """Return a message as it was received; numbers as their decimal text (a double would lose digits)."""
    return json.loads(content, parse_float=_Number, parse_int=_Number, parse_constant=_Number)


class _Number(str):
    """A number's own text, told from what came as text."""

    __slots__ = ()


def _iso(value: object) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} in a message of Bloomberg's has no place in JSON")


def securities(operation: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a message says of each security; intraday answers name none."""
    if operation == asks.HISTORICAL:
        said = body.get("securityData")
        return [said] if said else []
    return _list(body.get("securityData")) if operation == asks.REFERENCE else []


def intraday(operation: str, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return the bars or ticks of a message, and whether Bloomberg gives them delayed."""
    outer, inner = ("barData", "barTickData") if operation == asks.BARS else ("tickData", "tickData")
    data = body.get(outer) or {}
    return _list(data.get(inner)), data.get("delayedSecurity") is True


def repeated(rows: Sequence[Mapping[str, Any]], position: Position) -> int:
    """Return how many of the first rows are those of the last instant that has landed, asked again."""
    same = 0
    while same < min(position.count, len(rows)) and _stamp(rows[same]) == position.time:
        same += 1
    return same


def advance(position: Position, rows: Sequence[Mapping[str, Any]]) -> Position:
    """Return the position after some more rows, which are in order of time."""
    for row in rows:
        stamp = _stamp(row)
        position = Position(stamp, position.count + 1 if stamp == position.time else 1)
    return position


def _stamp(row: Mapping[str, Any]) -> str:
    moment = row.get("time")
    return moment.isoformat() if isinstance(moment, datetime) else ""


def read(facts: Mapping[str, Any], body: Mapping[str, Any], stamp: str) -> Found:
    """Return the rows of a landed message. `facts` are its page's; `stamp` is the schema of the rows."""
    operation = facts["request"]
    if operation == asks.HISTORICAL:
        return _historical(securities(operation, body), facts["columns"], stamp)
    if operation == asks.REFERENCE:
        return _reference(securities(operation, body), date.fromisoformat(facts["asked"]))
    return _intraday(operation, intraday(operation, body)[0], facts)


def _historical(said: list[dict[str, Any]], columns: Mapping[str, str], schema: str) -> Found:
    found = Found()
    days = [(one["security"], values) for one in said for values in _list(one.get("fieldData"))]
    for row, (symbol, values) in enumerate(days):
        try:
            day = date.fromisoformat(str(values.get("date"))[:10])
        except ValueError:
            found.rejects.add(row, "date is ISO 8601", repr(values.get("date")), str(values))
            continue
        first = asks.label(schema, day)
        event = datetime(first.year, first.month, first.day, tzinfo=UTC)
        given = {column: _text(values.get(mnemonic)) for column, mnemonic in columns.items()}
        found.rows.append({"symbol": symbol, "row": row, "ts_event": event} | given)
    _complain(said, found, len(days))
    return found


def _reference(said: list[dict[str, Any]], day: date) -> Found:
    found = Found()
    event = datetime(day.year, day.month, day.day, tzinfo=UTC)
    figures = (
        (security["security"], concept, value)
        for security in said
        for name, given in dict(security.get("fieldData") or {}).items()
        for concept, value in _figures(name, given)
    )
    row = -1
    for row, (symbol, concept, value) in enumerate(figures):
        number = str(value) if isinstance(value, _Number) else None
        text = None if number is not None else _text(value)
        found.rows.append(
            {"symbol": symbol, "row": row, "ts_event": event, "concept": concept, "value": number, "value_text": text}
        )
    _complain(said, found, row + 1)
    return found


def _figures(name: str, given: Any) -> Iterator[tuple[str, Any]]:
    """Yield one figure, or those of a bulk field: FUT_CHAIN/1/Security Description, FUT_CHAIN/2/…"""
    if not isinstance(given, list):
        yield name, given
        return
    for number, item in enumerate(given, start=1):
        for inner, value in item.items() if isinstance(item, dict) else [("", item)]:
            yield f"{name}/{number}" + (f"/{inner}" if inner else ""), value


def _intraday(operation: str, given: list[dict[str, Any]], facts: Mapping[str, Any]) -> Found:
    found = Found()
    (symbol,) = facts["securities"]
    columns = _BAR if operation == asks.BARS else _TICK
    # a fetch that was stopped asks again from its last instant: the first rows may be on an earlier page
    for row, values in enumerate(given[facts["repeated"] :], start=facts["repeated"]):
        try:
            moment = datetime.fromisoformat(str(values.get("time")))
        except ValueError:
            found.rejects.add(row, "time is ISO 8601", repr(values.get("time")), str(values))
            continue
        if operation == asks.TICKS and values.get("type") != "TRADE":
            found.rejects.add(row, "type is TRADE", repr(values.get("type")), str(values))
            continue
        event = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        shaped = {ours: _text(values.get(theirs)) for theirs, ours in columns.items()}
        found.rows.append({"symbol": symbol, "row": row, "ts_event": event} | shaped)
    return found


def _complain(said: list[dict[str, Any]], found: Found, row: int) -> None:
    """Keep what Bloomberg could not give as rejected rows: unknown securities, fields it has not."""
    for security in said:
        name = security.get("security")
        error = security.get("securityError")
        if error:
            found.rejects.add(row, "security is known", f"{name}: Bloomberg says {faults.words(error)}", str(security))
            row += 1
        for exception in _list(security.get("fieldExceptions")):
            detail = (
                f"{name}, {exception.get('fieldId')}: Bloomberg says {faults.words(exception.get('errorInfo') or {})}"
            )
            found.rejects.add(row, "every field has values", detail, str(exception))
            row += 1


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
