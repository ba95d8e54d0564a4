"""Every recorded answer of Massive that has rows of a schema gives the rows that another reading of it gives."""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.extractors.base import Listing
from flows.web import Answer
from tests.vendors.harness import Bench
from tests.vendors.landed import read
from tests.vendors.massive import MassiveStandIn
from tests.vendors.server import Reply
from tests.vendors.server import Row

pytestmark = pytest.mark.corpus

#: beginning of a recording's name → (schema, kind of page, number of rows)
RECORDED = {
    "v2__aggs__ticker__AAPL__range__1__day__2005-04-01__2005-04-04": ("ohlcv-1d", "ohlcv-1d", 2),
    "v2__aggs__ticker__AAPL__range__1__day__2005-04-02__2005-04-04": ("ohlcv-1d", "ohlcv-1d", 2),
    "v2__reference__news&ticker=NFLX": ("news", "news", 1),
    "v3__quotes__AAPL&cursor": ("quotes", "quotes", 10),
    "v3__quotes__AAPL.json": ("quotes", "quotes", 10),
    "v3__trades__AAPL": ("trades", "trades", 2),
    "v3__reference__splits": ("corporate_actions", "splits", 10),
    "v3__reference__dividends": ("corporate_actions", "dividends", 10),
}
LISTS = ("v3__reference__tickers.json", "v3__reference__tickers&cursor")
#: what the other recordings are
OTHERS = {
    "v1__conversion": "one conversion of an amount", "v1__indicators": "indicators, which are computed here",
    "v1__last": "last values", "v1__marketstatus": "whether a market is open", "v1__open-close": "a day of one symbol",
    "v1__summaries": "last values", "v2__aggs__grouped": "one day of every symbol", "v2__last": "last values",
    "v2__aggs__ticker__AAPL__prev": "the day before of one symbol", "v2__snapshot": "last values",
    "v3__reference__conditions": "names of codes", "v3__reference__exchanges": "names of codes",
    "v3__reference__options": "contracts, asked by no schema", "v3__reference__tickers__AAPL": "one instrument",
    "v3__reference__tickers__types": "names of codes", "v3__snapshot": "last values",
    "vX__reference__financials": "figures of companies, a beta", "vX__reference__tickers": "renamings",
}  # fmt: skip
WINDOW = (datetime(2004, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
BARS = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "trade_count": "n", "vwap": "vw"}


@pytest.fixture
def stand_in() -> Iterator[MassiveStandIn]:
    with MassiveStandIn() as server:
        yield server


def recording(corpus: Path, beginning: str) -> bytes:
    (path,) = [path for path in (corpus / "polygon/mocks").iterdir() if path.name.startswith(beginning)]
    return path.read_bytes()


def day(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def moment(number: int) -> pd.Timestamp:
    return pd.Timestamp(number, unit="ns", tz="UTC")


def expected(kind: str, row: Any) -> tuple[str, Row]:
    """Return (symbol, what the row must have), read from the same bytes in another way."""
    if kind == "ohlcv-1d":
        session = datetime.fromtimestamp(row["t"] / 1000, UTC).replace(hour=0)
        return "AAPL", {"ts_event": session, **{name: row[place] for name, place in BARS.items()}}
    if kind == "news":
        return "NFLX", {
            "ts_event": datetime.fromisoformat(row["published_utc"]), "article_id": row["id"], "title": row["title"],
            "summary": row["description"], "publisher": row["publisher"]["name"], "author": row["author"],
            "url": row["article_url"], "symbols": ",".join(row["tickers"]),
        }  # fmt: skip
    if kind == "quotes":
        return "AAPL", {
            "ts_event": moment(row["participant_timestamp"]), "ts_recv": moment(row["sip_timestamp"]),
            "sequence": row["sequence_number"], "bid_price": row["bid_price"], "bid_size": row["bid_size"],
            "ask_price": row["ask_price"], "ask_size": row["ask_size"], "bid_venue": str(row["bid_exchange"]),
            "ask_venue": str(row["ask_exchange"]),
        }  # fmt: skip
    if kind == "trades":
        return "AAPL", {
            "ts_event": moment(row["participant_timestamp"]), "ts_recv": moment(row["sip_timestamp"]),
            "venue": str(row["exchange"]), "trade_id": row["id"], "sequence": row["sequence_number"],
            "price": row["price"], "size": row["size"], "conditions": ",".join(map(str, row["conditions"])),
        }  # fmt: skip
    if kind == "splits":
        return row["ticker"], {
            "ts_event": day(row["execution_date"]), "kind": "split", "ratio_from": row["split_from"],
            "ratio_to": row["split_to"], "action_id": "",
        }  # fmt: skip
    assert row["dividend_type"] == "CD"
    return row["ticker"], {
        "ts_event": day(row["ex_dividend_date"]), "kind": "dividend", "amount": row["cash_amount"],
        "frequency": str(row["frequency"]), "declared": day(row["declaration_date"]), "payable": day(row["pay_date"]),
        "record_date": day(row["record_date"]), "description": "CD",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_rows(corpus: Path, stand_in: MassiveStandIn, tmp_path: Path, name: str) -> None:
    schema, kind, number = RECORDED[name]
    said = json.loads(recording(corpus, name), parse_float=Decimal)
    right = [expected(kind, row) for row in said["results"]]
    assert len(right) == number
    # one ticker is asked at a time: a recording of several is landed as one answer for each
    for symbol in {symbol for symbol, _ in right}:
        meant = [row for other, row in right if other == symbol]
        of_symbol = [row for row in said["results"] if row.get("ticker", symbol) == symbol]
        content = recording(corpus, name)
        if len(of_symbol) < number:
            raw = json.loads(content)
            content = json.dumps({"results": [row for row in raw["results"] if row["ticker"] == symbol]}).encode()
        facts = {"symbol": symbol, "kind": kind, "rows": 0}
        rows, rejected = read(Bench(stand_in, tmp_path / symbol), schema, [symbol], WINDOW, content, facts)
        assert rejected == []
        meant.sort(key=lambda row: (row["ts_event"], row.get("venue", ""), row.get("sequence", 0)))
        assert [{name: row[name] for name in right} for row, right in zip(rows, meant, strict=True)] == meant


def test_the_recorded_links_are_followed_here(corpus: Path, stand_in: MassiveStandIn, tmp_path: Path) -> None:
    extractor: Any = Bench(stand_in, tmp_path).extractor("quotes")
    job = Bench(stand_in, tmp_path).job("quotes", ["AAPL"], WINDOW[1].replace(year=2022), WINDOW[1].replace(year=2023))
    request = next(extractor.requests(job))
    (call,) = extractor.calls(request)
    answer = Answer(recording(corpus, "v3__quotes__AAPL.json"))
    extractor.judge(call, answer)
    after = extractor.following(request, call, answer)
    link = json.loads(answer.content)["next_url"]
    assert link.startswith("https://api.massive.com/v3/quotes/AAPL?cursor=")
    assert extractor.web.url(after.path) == f"{stand_in.url}/v3/quotes/AAPL"
    assert after.params == {"cursor": link.partition("?cursor=")[2]}
    assert extractor.following(request, after, Answer(recording(corpus, "v3__quotes__AAPL&cursor"))) is None


def test_the_recorded_list_of_tickers(corpus: Path, stand_in: MassiveStandIn, tmp_path: Path) -> None:
    answers = [recording(corpus, name) for name in LISTS]
    stand_in.answer = lambda asked: Reply(answers.pop(0))  # type: ignore[method-assign]
    found = list(Bench(stand_in, tmp_path).extractor("ohlcv-1d").discover("A"))
    assert found == [
        Listing("A", "equity", "Agilent Technologies Inc.", "USD", "XNYS", "BBG000C2V3D6"),
        Listing("AA", "equity", "Alcoa Corporation", "USD", "XNYS", "BBG00B3T3HD3"),
        Listing("AAA", "etf", "AAF First Priority CLO Bond ETF", "USD", "ARCX", "BBG00X5FSP48"),
        Listing("AAAU", "etf", "Goldman Sachs Physical Gold ETF Shares", "USD", "BATS", "BBG00LPXX872"),
    ]


def test_no_recording_is_left_out(corpus: Path) -> None:
    names = {path.name for path in (corpus / "polygon/mocks").iterdir()}
    known = (*RECORDED, *LISTS)
    unexplained = [name for name in names if not name.startswith((*known, *OTHERS))]
    assert unexplained == []
    assert all(any(name.startswith(beginning) for name in names) for beginning in (*known, *OTHERS))
