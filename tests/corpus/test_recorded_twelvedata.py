"""Twelve Data's recorded answers through the vendor's parser and refine, against an independent reading."""

import json
import re
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog.errors import AuthFailed
from catalog.errors import DataflowError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import UnknownSymbol
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import REJECTED
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import Refined
from catalog.schemas.refine import refine
from flows import registry
from flows.extractors.base import Context
from flows.job import SourceFacts
from flows.landing import Landing
from flows.landing import Page
from tests.vendors.harness import Bench
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.twelvedata import TwelveDataStandIn

pytestmark = pytest.mark.corpus

#: file → schema, symbols asked, rows
SERIES = {
    "fixtures/batch_time_series.json": ("ohlcv-1d", ["AAPL", "MSFT"]),
    "fixtures/batch_error.json": ("ohlcv-1d", ["AAPL", "INVALID"]),
    "fixtures/time_series_cross.json": ("ohlcv-1m", ["JPY/BTC"]),
    "soulgarden/client_core_data__Test_client_GetTimeSeries_5.json": ("ohlcv-1m", ["AAPL"]),
}
#: what has bars or quotes inside, and is no answer of an endpoint that is asked
OTHERS = {
    "batch_multi.json": "POST /batch: several endpoints in one",
    "batch_quote.json": "/quote: a bar of today that is not over",
    "GetQuote": "/quote: a bar of today that is not over",
    "time_series_benchmark": "a template with %d in place of numbers",
}


def exact(content: bytes) -> Any:
    return json.loads(content, parse_float=Decimal)


def files(corpus: Path) -> Iterator[tuple[str, bytes]]:
    folder = corpus / "twelvedata"
    for path in sorted(folder.rglob("*.json")):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def refined(tmp_path: Path, schema: str, content: bytes, facts: dict[str, Any]) -> Refined:
    """Land the recorded bytes, parse them and refine the rows."""
    landing = Landing(tmp_path)
    landing.begin("td", 1, {"schema": schema})
    landing.write("td", 1, 0, Page("application/json", [content], facts=facts))
    (page,) = landing.pages("td", 1)
    # parsing wants no secret
    extractor = registry.extractor("twelvedata")(SourceFacts(1, "td", "twelvedata", {}, "TD"), Context())
    accepted, rejected = [schema_called(schema).arrow.empty_table()], [REJECTED.empty_table()]
    for batch in extractor.parse(page, {}):
        rejected.append(batch.rejected)
        table = batch.table.append_column("instrument", batch.table["symbol"]).drop_columns(["symbol"])
        if table.num_rows:
            found = refine(schema_called(schema), table, Facts(1, datetime.now(UTC)), Ordinals())
            accepted.append(found.accepted)
            rejected.append(found.rejected)
    return Refined(pa.concat_tables(accepted), pa.concat_tables(rejected))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("name", SERIES)
def test_bars_are_the_recorded_ones(corpus: Path, tmp_path: Path, name: str) -> None:
    schema, symbols = SERIES[name]
    content = (corpus / "twelvedata" / name).read_bytes()
    found = refined(tmp_path, schema, content, {"kind": "bars", "symbols": symbols})
    said = exact(content)
    expected = []
    broken = 0
    for symbol in symbols:
        part = said if len(symbols) == 1 else said[symbol]
        if part.get("status") == "error":
            broken += 1
            continue
        for row in part["values"]:
            opening, high, low, close = (Decimal(row[column]) for column in ("open", "high", "low", "close"))
            if high >= max(opening, close, low) and low <= min(opening, close):
                volume = Decimal(row["volume"]) if "volume" in row else None
                expected.append((symbol, moment(row["datetime"]), opening, high, low, close, volume))
            else:
                broken += 1
    names = ("instrument", "ts_event", "open", "high", "low", "close", "volume")
    rows = [tuple(row[column] for column in names) for row in found.accepted.to_pylist()]
    assert rows == sorted(expected, key=lambda row: row[:2])
    assert found.rejected.num_rows == broken
    if "cross" in name:
        # opens outside the bar: the vendor divides two series column by column
        assert broken > 0
        assert min(row[2] for row in rows) < Decimal("1e-7")
    else:
        assert rows


def test_one_symbols_recorded_error_is_a_rejected_row(corpus: Path, tmp_path: Path) -> None:
    content = (corpus / "twelvedata/fixtures/batch_error.json").read_bytes()
    facts = {"kind": "bars", "symbols": ["AAPL", "INVALID"]}
    (row,) = refined(tmp_path, "ohlcv-1d", content, facts).rejected.to_pylist()
    assert row["rule"] == "symbol is known"
    assert "not found: INVALID" in row["reason"]


def ratio_in_words(text: str) -> tuple[Decimal, Decimal]:
    """Return (old, new) of "4-for-1 split": so many new ones for so many old ones."""
    found = re.fullmatch(r"([0-9.]+)-for-([0-9.]+) split", text)
    assert found, text
    return Decimal(found[2]), Decimal(found[1])


def test_splits_are_the_recorded_ones(corpus: Path, tmp_path: Path) -> None:
    answers = [(name, body) for name, body in files(corpus) if "GetSplits" in name and exact(body).get("splits")]
    assert len(answers) == 3
    # the calendar's records are the same; only what holds them is another
    calendar = exact((corpus / "twelvedata/fixtures/splits_calendar.json").read_bytes())
    wrapped = [
        (f"calendar {number}", json.dumps({"splits": [split]}, default=str).encode())
        for number, split in enumerate(calendar)
    ]
    assert len(wrapped) > 10
    for number, (name, body) in enumerate(answers + wrapped):
        found = refined(tmp_path / str(number), "corporate_actions", body, {"kind": "splits", "symbols": ["X"]})
        assert found.rejected.num_rows == 0, name
        rows = [
            (row["ts_event"], row["kind"], row["ratio_from"], row["ratio_to"]) for row in found.accepted.to_pylist()
        ]
        expected = [
            (moment(split["date"]), "split", *ratio_in_words(split["description"])) for split in exact(body)["splits"]
        ]
        assert rows == sorted(expected), name


def test_dividends_are_the_recorded_ones(corpus: Path, tmp_path: Path) -> None:
    (body,) = [body for name, body in files(corpus) if "GetDividends_3" in name]
    found = refined(tmp_path, "corporate_actions", body, {"kind": "dividends", "symbols": ["AAPL"]})
    said = exact(body)
    rows = [(row["ts_event"], row["kind"], row["amount"], row["currency"]) for row in found.accepted.to_pylist()]
    assert rows == [(moment(row["ex_date"]), "dividend", row["amount"], "USD") for row in said["dividends"]]
    assert len(rows) == 1


def test_no_recorded_bars_are_left_out(corpus: Path) -> None:
    for name, body in files(corpus):
        if name in SERIES:
            continue
        text = body.decode()
        bars = '"datetime"' in text and '"open"' in text
        # indicators repeat the bars they are made of
        indicator = '"indicator"' in text
        assert not bars or indicator or any(part in name for part in OTHERS), name


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("apikey.*incorrect|Invalid API key", AuthFailed),
        ("available exclusively", NotEntitled),
        ("symbol may be delisted", UnknownSymbol),
        ("Invalid parameter", PermanentError),
    ],
)
def test_recorded_refusals_mean_what_they_say(
    corpus: Path, tmp_path: Path, said: str, wanted: type[DataflowError]
) -> None:
    bodies = {
        body
        for _, body in files(corpus)
        if '"status": "error"' in (text := body.decode()) and text.startswith('{\n "code"') and re.search(said, text)
    }
    assert bodies
    for number, body in enumerate(sorted(bodies)):
        for status in (200, exact(body)["code"]):

            class Replayed(TwelveDataStandIn):
                reply = Reply(body, status)

                def time_series(self, asked: Asked) -> Reply:
                    return self.reply

            with Replayed() as replayed:
                bench = Bench(replayed, tmp_path / f"{number}-{status}")
                extractor = bench.extractor("ohlcv-1d")
                (request,) = extractor.requests(bench.job("ohlcv-1d", ["AAPL"], *replayed.windows["ohlcv-1d"]))
                with pytest.raises(wanted) as caught:
                    list(extractor.pages(request))
                assert type(caught.value) is wanted
