"""Every recorded answer of Alpaca that has rows of a schema gives the rows that another reading of it gives."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.vendors.alpaca import AlpacaStandIn
from tests.vendors.harness import Bench
from tests.vendors.landed import read
from tests.vendors.server import Row

pytestmark = pytest.mark.corpus

#: recorded file → (schema, number of rows it has); crypto is of the market that its symbols tell
RECORDED = {
    "rest/historical_stock_data__test_get_bars.json": ("ohlcv-1d", 2),
    "rest/historical_stock_data__test_get_bars_desc.json": ("ohlcv-1d", 3),
    "rest/historical_stock_data__test_multisymbol_get_bars.json": ("ohlcv-1d", 2),
    "rest/historical_stock_data__test_get_bars_multi_empty_response.json": ("ohlcv-1d", 0),
    "rest/historical_stock_data__test_get_bars_single_empty_response.json": ("ohlcv-1d", 0),
    "rest/historical_stock_data__test_get_trades.json": ("trades", 2),
    "rest/historical_stock_data__test_multisymbol_get_trades.json": ("trades", 2),
    "rest/historical_stock_data__test_get_trades_multi_empty_response.json": ("trades", 0),
    "rest/historical_stock_data__test_get_quotes.json": ("quotes", 2),
    "rest/historical_stock_data__test_multisymbol_quotes.json": ("quotes", 2),
    "rest/historical_stock_data__test_get_quotes_multi_empty_response.json": ("quotes", 0),
    # at 05:00Z, which is no midnight in Chicago on that day: read as hours
    "rest/historical_crypto_data__test_get_crypto_bars.json": ("ohlcv-1h", 2),
    "rest/historical_crypto_data__test_get_crypto_trades.json": ("trades", 2),
    "rest/historical_crypto_data__test_get_crypto_quotes.json": ("quotes", 2),
    "rest/historical_news_data__test_get_news.json": ("news", 1),
    "rest/historical_news_data__test_get_news_2.json": ("news", 1),
    "rest/corporate_actions__test_get_corporate_actions.json": ("corporate_actions", 13),
    "rest/corporate_actions__test_get_corporate_actions_2.json": ("corporate_actions", 1),
    "trades.json.gz": ("trades", 5),
}
#: what the other recordings are, by a part of their name
OTHERS = {
    "latest": "the last value of each symbol, asked by no schema",
    "snapshot": "last values of several kinds, asked by no schema",
    "screener": "rankings of symbols",
    "historical_option_data": "options have an interface of their own, which is not asked",
}
BARS = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "trade_count": "n", "vwap": "vw"}
TRADES = {"price": "p", "size": "s"}
QUOTES = {"bid_price": "bp", "bid_size": "bs", "ask_price": "ap", "ask_size": "as"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with AlpacaStandIn() as stand_in:
        yield Bench(stand_in, tmp_path)


def content(corpus: Path, name: str) -> bytes:
    raw = (corpus / "alpaca" / name).read_bytes()
    return gzip.decompress(raw) if name.endswith(".gz") else raw


def expected(schema: str, said: Any) -> Iterator[tuple[str, Row]]:
    """Yield (symbol, what the row must have), read from the same bytes in another way."""
    if schema.startswith("ohlcv"):
        for symbol, bars in said["bars"].items():
            for bar in bars:
                time = datetime.fromisoformat(bar["t"])
                # these bars of days are stamped 04:00Z or 05:00Z, on the session's own day
                label = datetime(time.year, time.month, time.day, tzinfo=UTC) if schema == "ohlcv-1d" else time
                yield symbol, {"ts_event": label, **{name: bar[place] for name, place in BARS.items()}}
    elif schema == "trades":
        for symbol, trades in said["trades"].items():
            for trade in trades:
                yield symbol, {
                    "ts_event": pd.Timestamp(trade["t"]), "trade_id": str(trade["i"]), "venue": trade.get("x", ""),
                    **{name: trade[place] for name, place in TRADES.items()},
                    "side": {"S": "A", "B": "B", None: None}[trade.get("tks")],
                    "conditions": ",".join(trade["c"]) if "c" in trade else None,
                }  # fmt: skip
    elif schema == "quotes":
        for symbol, quotes in said["quotes"].items():
            for quote in quotes:
                yield symbol, {
                    "ts_event": pd.Timestamp(quote["t"]), **{name: quote[place] for name, place in QUOTES.items()},
                    "bid_venue": quote.get("bx"), "ask_venue": quote.get("ax"),
                    "conditions": ",".join(quote["c"]) if "c" in quote else None,
                }  # fmt: skip
    elif schema == "news":
        for article in said["news"]:
            yield article["symbols"][0], {
                "ts_event": datetime.fromisoformat(article["created_at"]), "article_id": str(article["id"]),
                "title": article["headline"], "summary": article["summary"], "publisher": article["source"],
                "author": article["author"], "url": article["url"], "symbols": ",".join(article["symbols"]),
            }  # fmt: skip
    else:
        yield from actions(said["corporate_actions"])


def actions(lists: Any) -> Iterator[tuple[str, Row]]:
    """Yield what each list of actions says, written out by hand."""
    by_hand = {
        "reverse_splits": ("split", "ex_date", "symbol", "old_rate", "new_rate", None),
        "forward_splits": ("split", "ex_date", "symbol", "old_rate", "new_rate", None),
        "unit_splits": ("unit_split", "effective_date", "old_symbol", "old_rate", "new_rate", None),
        "stock_dividends": ("stock_dividend", "ex_date", "symbol", None, None, None),
        "cash_dividends": ("dividend", "ex_date", "symbol", None, None, "rate"),
        "spin_offs": ("spin_off", "ex_date", "source_symbol", "source_rate", "new_rate", None),
        "cash_mergers": ("merger", "effective_date", "acquiree_symbol", None, None, "rate"),
        "stock_mergers": ("merger", "effective_date", "acquiree_symbol", "acquiree_rate", "acquirer_rate", None),
        "stock_and_cash_mergers": (
            "merger", "effective_date", "acquiree_symbol", "acquiree_rate", "acquirer_rate", "cash_rate"
        ),
        "redemptions": ("redemption", "process_date", "symbol", None, None, "rate"),
        "name_changes": ("name_change", "process_date", "old_symbol", None, None, None),
        "worthless_removals": ("worthless_removal", "process_date", "symbol", None, None, None),
        "rights_distributions": ("rights_distribution", "ex_date", "source_symbol", None, None, None),
    }  # fmt: skip
    for name, found in lists.items():
        kind, day, symbol, old, new, amount = by_hand[name]
        for action in found:
            yield action[symbol], {
                "ts_event": datetime.fromisoformat(action[day]).replace(tzinfo=UTC), "kind": kind,
                "action_id": action["id"], "ratio_from": action[old] if old else None,
                "ratio_to": action[new] if new else None, "amount": action[amount] if amount else None,
                "record_date": date_of(action.get("record_date")), "payable": date_of(action.get("payable_date")),
            }  # fmt: skip


def date_of(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_rows(corpus: Path, bench: Bench, name: str) -> None:
    schema, number = RECORDED[name]
    raw = content(corpus, name)
    right = list(expected(schema, json.loads(raw, parse_float=Decimal)))
    assert len(right) == number
    symbols = sorted({symbol for symbol, _ in right} or {"AAPL"})
    if "crypto" in name:
        bench.options = {"market": "crypto"}
    window = (datetime(2016, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    rows, rejected = read(bench, schema, symbols, window, raw, {"symbols": symbols, "silent": symbols})
    assert rejected == []
    for symbol in symbols:
        mine = [row for row in rows if row["instrument"].rpartition(":")[2].replace("%2F", "/") == symbol]
        meant = [row for other, row in right if other == symbol]
        order = [(row["ts_event"], row.get("trade_id", ""), row.get("kind", "")) for row in meant]
        meant = [row for _, row in sorted(zip(order, meant, strict=True), key=lambda pair: pair[0])]
        assert [{name: row[name] for name in right} for row, right in zip(mine, meant, strict=True)] == meant


def test_the_words_of_actions_that_have_no_columns_are_kept(corpus: Path, bench: Bench) -> None:
    name = "rest/corporate_actions__test_get_corporate_actions.json"
    window = (datetime(2016, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    rows, _ = read(
        bench, "corporate_actions", ["MSBC"], window, content(corpus, name), {"symbols": ["MSBC"], "silent": ["MSBC"]}
    )
    (dividend,) = rows
    assert dividend["description"].startswith('stock_dividends: {"cusip": "CUSIP1"')
    assert '"rate": "0.05"' in dividend["description"]


def test_the_recorded_tokens_are_followed(corpus: Path, bench: Bench) -> None:
    from flows.web import Answer

    followed = 0
    for name, (schema, _) in RECORDED.items():
        said = json.loads(content(corpus, name))
        extractor: Any = bench.extractor(schema)
        job = bench.job(schema, ["AAPL"], datetime(2022, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC) + DAY)
        (request,) = extractor.requests(job)
        (call,) = extractor.calls(request)
        answer = Answer(content(corpus, name))
        extractor.judge(call, answer)
        after = extractor.following(request, call, answer)
        if said["next_page_token"]:
            assert after.params == {**call.params, "page_token": said["next_page_token"]}
            followed += 1
        elif after is not None:
            assert after.path.endswith("/trades/latest")
    assert followed == 7


DAY = timedelta(days=1)


def test_no_recording_is_left_out(corpus: Path) -> None:
    folder = corpus / "alpaca"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(RECORDED) <= found
    unexplained = [name for name in found - set(RECORDED) if not any(part in name for part in OTHERS)]
    assert unexplained == []
