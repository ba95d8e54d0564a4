"""Recorded requests and answers of Bloomberg against an independent reading of the same recordings.

`blp` holds what was asked and answered as JSON; `pdblp` the printed messages beside their JSON: there the JSON goes
through the SDK's stand-in, and what is expected is read from the print.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from catalog.keys import InstrumentName
from flows.blp import asks
from flows.blp.session import Connection
from flows.blp.session import opened
from flows.extractors.base import Context
from flows.extractors.bloomberg import BloombergExtractor
from flows.job import InstrumentFacts
from flows.job import Job
from flows.job import Request
from flows.job import SourceFacts
from flows.job import SymbolInterval
from flows.landing import Landing
from tests.vendors import blpapi_standin as standin

pytestmark = pytest.mark.corpus

_SOURCES = count(1_000_000)
# our columns to which the fields of a recording are given, in their order
COLUMNS = ("close", "open", "high", "low", "volume")
Row = tuple[str, datetime, dict[str, str]]


def outcome(
    tmp_path: Path, asked: dict[str, Any], events: list[tuple[int, str, Any]], fields: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Ask what was asked, be answered what was answered; return raw rows and the reasons of what was rejected."""
    ((operation, elements),) = asked.items()
    schema = {
        asks.HISTORICAL: "ohlcv-1d", asks.BARS: "ohlcv-1m", asks.TICKS: "trades", asks.REFERENCE: "fundamentals",
    }[operation]  # fmt: skip
    number = next(_SOURCES)
    columns = dict(zip(COLUMNS, fields, strict=False))
    options = {
        "fields": fields,
        "bar_fields": {name: columns.get(name, "PX_NONE") for name in COLUMNS[:4]} | columns,
        "intraday_days": 3660,
    }
    source = SourceFacts(number, f"bbg{number}", "bloomberg", options)
    start, end = window(operation, elements)
    symbols = elements.get("securities") or [elements["security"]]
    instruments = tuple(
        InstrumentFacts(number, InstrumentName("bbg", "equity", symbol), (SymbolInterval(symbol),), start, end)
        for number, symbol in enumerate(symbols, start=1)
    )
    job = Job(source, schema, instruments, ())
    extractor = BloombergExtractor(source, Context())
    landing = Landing(tmp_path / f"landing{number}")
    landing.begin("bbg", 1, {"schema": schema})
    with standin.installed(standin.Desk(lambda operation, asked: events)) as desk:
        for part, page in enumerate(extractor.pages(Request(job, instruments))):
            landing.write("bbg", 1, part, page)
    assert [(operation, *named(elements))] == [(name, *named(sent)) for name, sent in desk.asked]
    batches = [batch for page in landing.pages("bbg", 1) for batch in extractor.parse(page, {})]
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    return rows, [reason for batch in batches for reason in batch.rejected["reason"].to_pylist()]


def named(elements: dict[str, Any]) -> tuple[Any, ...]:
    """Return what our request and the recorded one have to share."""
    moments = [elements.get(name) for name in ("startDateTime", "endDateTime")]
    times = [str(moment).replace(" ", "T").removesuffix("+00:00") for moment in moments]
    names = ("securities", "security", "startDate", "endDate", "interval", "eventType", "eventTypes")
    return (*(elements.get(name) for name in names), *times)


def window(operation: str, elements: dict[str, Any]) -> tuple[datetime, datetime]:
    """Return the window [start, end) whose request the recorded one is."""
    if operation == asks.REFERENCE:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return today, today + timedelta(days=1)
    if operation == asks.HISTORICAL:
        start, end = (
            datetime.strptime(elements[name], "%Y%m%d").replace(tzinfo=UTC) for name in ("startDate", "endDate")
        )
        return start, end + timedelta(days=1)
    start, end = (
        datetime.fromisoformat(elements[name]).replace(tzinfo=UTC) for name in ("startDateTime", "endDateTime")
    )
    return start, end


def inner(element: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yield every object called `name` that holds plain values, wherever it is: a reading that knows no shapes."""
    if isinstance(element, dict):
        for key, value in element.items():
            if key == name and isinstance(value, dict) and name not in value:
                yield value
            else:
                yield from inner(value, name)
    elif isinstance(element, list):
        for item in element:
            yield from inner(item, name)


def load(path: Path) -> Any:
    return json.loads(path.read_bytes(), parse_float=Decimal)


def recordings(folder: Path) -> dict[str, tuple[Any, list[Any]]]:
    return {
        path.name.removesuffix(".request.json"): (
            load(path), json.loads(path.with_name(path.name.replace(".request.", ".response.")).read_bytes()),
        )
        for path in sorted(folder.glob("*.request.json"))
    }  # fmt: skip


def said(events: list[Any]) -> list[Any]:
    return [event["message"] for event in json.loads(json.dumps(events), parse_float=Decimal)]


def test_daily_answers(corpus: Path, tmp_path: Path) -> None:
    seen = 0
    for name, (asked, events) in recordings(corpus / "bloomberg/blp").items():
        elements = asked.get("HistoricalDataRequest")
        if not elements or "startDate" not in elements or "bad_security" in name:
            continue
        rows, reasons = outcome(tmp_path, asked, standin.recorded(events), elements["fields"])
        expected = [
            (security["security"], date.fromisoformat(row["date"][:10]), [row.get(name) for name in elements["fields"]])
            for security in inner(said(events), "securityData")
            for row in inner(security, "fieldData")
        ]
        found = [
            (
                row["symbol"],
                row["ts_event"].date(),
                [
                    None if row[column] is None else Decimal(row[column])
                    for column, _ in zip(COLUMNS, elements["fields"], strict=False)
                ],
            )
            for row in rows
        ]
        assert found == expected, name
        errors = list(inner(said(events), "fieldExceptions"))
        assert len(reasons) == len(errors), name
        for reason, error in zip(reasons, errors, strict=True):
            assert error["fieldId"] in reason
            assert error["errorInfo"]["errorInfo"]["message"] in reason
        seen += len(rows)
    assert seen == 8


def test_intraday_answers(corpus: Path, tmp_path: Path) -> None:
    seen = 0
    for name, (asked, events) in recordings(corpus / "bloomberg/blp").items():
        ((operation, elements),) = asked.items()
        if operation not in (asks.BARS, asks.TICKS) or elements.get("eventTypes", ["TRADE"]) != ["TRADE"]:
            continue
        if elements["startDateTime"] == elements["endDateTime"]:
            # one instant is no window of ours: it is asked as it was, and only read here
            rows = read_ticks(tmp_path, elements, events)
        else:
            rows, reasons = outcome(tmp_path, asked, standin.recorded(events), [])
            assert reasons == []
        bars = [
            {"ts_event": item["time"], "open": item["open"], "high": item["high"], "low": item["low"],
             "close": item["close"], "volume": item["volume"], "trade_count": item["numEvents"]}
            for item in inner(said(events), "barTickData")
        ]  # fmt: skip
        ticks = [
            {"ts_event": item["time"], "price": item["value"], "size": item["size"]}
            for item in inner(said(events), "tickData")
            if "value" in item
        ]
        expected = bars or ticks
        assert [
            {key: row[key].isoformat(" ") if key == "ts_event" else Decimal(row[key]) for key in one}
            for row, one in zip(rows, expected, strict=True)
        ] == [{**one, "ts_event": f"{one['ts_event']}+00:00"} for one in expected], name
        assert {row["symbol"] for row in rows} == {elements["security"]}
        seen += len(rows)
    assert seen > 2


def read_ticks(tmp_path: Path, elements: dict[str, Any], events: list[Any]) -> list[dict[str, Any]]:
    later = elements | {"endDateTime": "2019-04-24T08:00:01"}
    return outcome(tmp_path, {asks.TICKS: later}, standin.recorded(events), [])[0]


def test_ticks_that_are_no_trades_are_kept_aside(corpus: Path, tmp_path: Path) -> None:
    (_, events) = recordings(corpus / "bloomberg/blp")["parser_parse_intraday_tick_multi"]
    given = [item for item in inner(said(events), "tickData") if "value" in item]
    elements = {"security": "CL1 Comdty", "eventTypes": ["TRADE"], "startDateTime": "2019-04-24T08:00:00"}
    elements["endDateTime"] = "2019-04-24T08:00:01"
    rows, reasons = outcome(tmp_path, {asks.TICKS: elements}, standin.recorded(events), [])
    assert [Decimal(row["price"]) for row in rows] == [item["value"] for item in given if item["type"] == "TRADE"]
    assert reasons == [f"type is TRADE: {item['type']!r}" for item in given if item["type"] != "TRADE"]
    assert rows or reasons


def test_reference_answers(corpus: Path, tmp_path: Path) -> None:
    seen = 0
    for name, (asked, events) in recordings(corpus / "bloomberg/blp").items():
        elements = asked.get("ReferenceDataRequest")
        if not elements:
            continue
        rows, reasons = outcome(tmp_path, asked, standin.recorded(events), elements["fields"])
        expected = [
            (security["security"], f"{field}/{place}/{key}" if place else field, value)
            for security in inner(said(events), "securityData")
            for figures in inner(security, "fieldData")
            for field, given in figures.items()
            for place, key, value in spread(field, given)
        ]
        found = [(row["symbol"], row["concept"], row["value"] or row["value_text"]) for row in rows]
        assert found == [(symbol, concept, str(value)) for symbol, concept, value in expected], name
        words = [error["errorInfo"]["errorInfo"]["message"] for error in inner(said(events), "fieldExceptions")]
        assert len(words) == len(reasons), name
        assert all(word in reason for word, reason in zip(words, reasons, strict=True))
        seen += len(rows)
    assert seen == 19


def spread(field: str, given: Any) -> Iterator[tuple[int, str, Any]]:
    if not isinstance(given, list):
        yield 0, "", given
        return
    for place, item in enumerate(given, start=1):
        for key, value in item[field].items():
            yield place, key, value


@pytest.mark.parametrize(
    ("name", "meaning", "words"),
    [
        ("mock_bad_security", UnknownSymbol, "BAD_SECURITY: Bloomberg says Unknown/Invalid securityInvalid Security"),
        ("mock_missing_start_date", ConfigError, r"Invalid start date specified \[nid:2979\]"),
        ("mock_timeout_response", TransientError, "said nothing"),
        ("mock_unknown_response", TransientError, "said nothing"),
    ],
)
def test_recorded_errors(corpus: Path, tmp_path: Path, name: str, meaning: type[DataflowError], words: str) -> None:
    _, events = recordings(corpus / "bloomberg/blp")[name]
    asked = {"securities": ["BAD_SECURITY"], "fields": ["PX_LAST"], "startDate": "20180101", "endDate": "20180105"}
    with pytest.raises(meaning, match=words):
        outcome(tmp_path, {asks.HISTORICAL: asked}, standin.recorded(events), ["PX_LAST"])


def test_no_recording_is_left_out(corpus: Path) -> None:
    """What the other tests pass over is asked by operations that this vendor does not use."""
    left = {
        name
        for name, (asked, _) in recordings(corpus / "bloomberg/blp").items()
        if not {*asked} & {*standin.OPERATIONS}
    }
    assert left == {
        "field_info_bad_field", "field_info_one_field", "field_info_one_field_with_docs", "field_info_two_fields",
        "parser_parse_field_info_multi", "parser_parse_field_list", "parser_parse_instrument_list",
    }  # fmt: skip


# Printed messages


def printed(text: str) -> Any:
    """Read a printed message: `name = value`, `name = {` … `}`; what is called `name[]` becomes a list of objects."""
    stack: list[Any] = [{}]
    for line in (line.strip() for line in text.splitlines()):
        if line == "}":
            stack.pop()
        elif begun := re.fullmatch(r"(.+?)(\[\])? = \{", line):
            element: Any = [] if begun[2] else {}
            if isinstance(stack[-1], list):
                stack[-1].append(element)
            else:
                stack[-1][begun[1]] = element
            stack.append(element)
        elif line:
            name, _, value = line.partition(" = ")
            stack[-1][name] = value.strip('"')
    return stack[0]


def messages(text: str) -> list[Any]:
    return [printed(part) for part in re.split(r"\n\s*\n(?=\s+\w+ = \{)", text) if part.strip()]


PRINTED = (
    "invalid_date", "invalid_field", "invalid_security", "nan", "one_security_one_field_multi_date",
    "one_security_one_field_one_date", "one_security_two_fields", "two_securities_one_field",
)  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_printed_daily_answers(corpus: Path, tmp_path: Path, name: str) -> None:
    path = corpus / f"bloomberg/pdblp/historical_data_response_{name}.txt"
    print_outs = [message["HistoricalDataResponse"] for message in messages(path.read_text())]
    events = as_answer(path.with_suffix(".json"))
    data = [message["securityData"] for message in print_outs if "securityData" in message]
    symbols = [one["security"] for one in data] or ["SPY US Equity"]
    fields = sorted({key for one in data for row in one["fieldData"] for key in row if key != "date"}) or ["PX_LAST"]
    asked = {"securities": symbols, "fields": fields, "startDate": "19960101", "endDate": "20151231"}
    if name == "invalid_date":
        with pytest.raises(ConfigError, match=re.escape(print_outs[0]["responseError"]["message"].strip())):
            outcome(tmp_path, {asks.HISTORICAL: asked}, events, fields)
        return
    if name == "invalid_security":
        with pytest.raises(UnknownSymbol, match=re.escape(data[0]["securityError"]["message"].strip())):
            outcome(tmp_path, {asks.HISTORICAL: asked}, events, fields)
        return
    rows, reasons = outcome(tmp_path, {asks.HISTORICAL: asked}, events, fields)
    expected = [
        (one["security"], row["date"], [value(row[field]) for field in fields])
        for one in data
        for row in one["fieldData"]
    ]
    assert [
        (
            row["symbol"],
            f"{row['ts_event']:%Y-%m-%d}",
            [value(row[column]) for column, _ in zip(COLUMNS, fields, strict=False)],
        )
        for row in rows
    ] == expected
    told = [error for one in data for error in one["fieldExceptions"]]
    assert len(reasons) == len(told)
    for reason, error in zip(reasons, told, strict=True):
        assert error["fieldId"] in reason
        assert error["errorInfo"]["subcategory"] in reason


def value(text: str) -> Decimal | str:
    return "nan" if text.lower() == "nan" else Decimal(text)


def as_answer(path: Path) -> list[tuple[int, str, Any]]:
    bodies = [
        (name, standin.plain(body, name)) for message in json.loads(path.read_bytes()) for name, body in message.items()
    ]
    last = len(bodies) - 1
    return [
        (standin.RESPONSE if number == last else standin.PARTIAL_RESPONSE, name, body)
        for number, (name, body) in enumerate(bodies)
    ]


def test_printed_intraday_bars(corpus: Path, tmp_path: Path) -> None:
    path = corpus / "bloomberg/pdblp/intradaybar_data_response.txt"
    (message,) = messages(path.read_text())
    given = message["IntradayBarResponse"]["barData"]["barTickData"]
    asked = {
        "security": "GBP Curncy", "interval": 1, "eventType": "TRADE", "startDateTime": "2018-12-11T10:55:00",
        "endDateTime": "2018-12-11T11:05:00",
    }  # fmt: skip
    rows, reasons = outcome(tmp_path, {asks.BARS: asked}, as_answer(path.with_suffix(".json")), [])
    names = ("open", "high", "low", "close", "volume", "numEvents")
    ours = ("open", "high", "low", "close", "volume", "trade_count")
    assert reasons == []
    assert [(f"{row['ts_event']:%Y-%m-%dT%H:%M:%S}.000", *(Decimal(row[name]) for name in ours)) for row in rows] == [
        (bar["time"], *(Decimal(bar[name]) for name in names)) for bar in given
    ]
    assert len(rows) == 2


@pytest.mark.parametrize("name", ["futures_chain", "override", "time", "two_securities"])
def test_printed_reference_answers(corpus: Path, tmp_path: Path, name: str) -> None:
    path = corpus / f"bloomberg/pdblp/reference_data_response_{name}.txt"
    (message,) = messages(path.read_text())
    data = message["ReferenceDataResponse"]["securityData"]
    expected = []
    for one in data:
        for field, given in one["fieldData"].items():
            for place, item in enumerate(given, start=1) if isinstance(given, list) else [(0, given)]:
                if place:
                    expected += [(one["security"], f"{field}/{place}/{key}", text) for key, text in item.items()]
                else:
                    expected.append((one["security"], field, item))
    fields = list(dict.fromkeys(field for one in data for field in one["fieldData"]))
    asked = {"securities": [one["security"] for one in data], "fields": fields}
    rows, reasons = outcome(tmp_path, {asks.REFERENCE: asked}, as_answer(path.with_suffix(".json")), fields)
    assert [(row["symbol"], row["concept"], row["value_text"]) for row in rows] == expected
    assert (reasons, len(rows) > 0) == ([], True)


def test_recorded_requests_are_ones_that_the_service_takes(corpus: Path) -> None:
    """The stand-in's schema of requests agrees with what was asked of the real service."""
    taken = 0
    with (
        standin.installed(standin.Desk(lambda operation, asked: [(standin.RESPONSE, "R", {})])),
        opened(Connection()) as session,
    ):
        for path in sorted((corpus / "bloomberg/pdblp").glob("*_request_*.json")):
            for message in json.loads(path.read_bytes()):
                ((operation, elements),) = message.items()
                assert list(session.ask(operation, standin.plain(elements)))
                taken += 1
    assert taken >= 6
