"""Alpaca: what the contract cannot know. The stand-in answers Alpaca's own SDK too."""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import NotEntitled
from catalog.errors import UnknownSymbol
from flows.extractors.sessions import last_moment
from flows.extractors.sessions import settled
from tests.vendors import market
from tests.vendors.alpaca import AlpacaStandIn
from tests.vendors.alpaca import instant
from tests.vendors.alpaca import nanoseconds
from tests.vendors.alpaca import stamp
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.landed import read
from tests.vendors.server import Row

# the SDK imports its live side, which is built on a deprecated part of websockets
pytestmark = pytest.mark.filterwarnings("ignore:websockets")
DAY = timedelta(days=1)


@pytest.fixture
def stand_in() -> Iterator[AlpacaStandIn]:
    with AlpacaStandIn() as server:
        yield server


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


# -- the SDK -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1m", "1h", "1d", "1w", "1mo"])
def test_the_sdk_reads_the_stand_ins_bars(stand_in: AlpacaStandIn, name: str) -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame
    from alpaca.data.timeframe import TimeFrameUnit

    units = {"m": TimeFrameUnit.Minute, "h": TimeFrameUnit.Hour, "d": TimeFrameUnit.Day, "w": TimeFrameUnit.Week}
    unit = TimeFrameUnit.Month if name == "1mo" else units[name[-1]]
    stand_in.page_most = 100
    start, end = stand_in.windows[f"ohlcv-{name}"]
    client = StockHistoricalDataClient(*stand_in.keys.values(), url_override=stand_in.url)
    asked = StockBarsRequest(
        symbol_or_symbols=["AAPL", "MSFT"], timeframe=TimeFrame(1, unit), start=start, end=end - timedelta(seconds=1)
    )
    found = client.get_stock_bars(asked).data
    for symbol in ("AAPL", "MSFT"):
        truth = stand_in.truth(f"ohlcv-{name}", symbol, start, end)
        assert [bar.timestamp.date() if name in ("1d", "1w", "1mo") else bar.timestamp for bar in found[symbol]] == [
            row["ts_event"].date() if name in ("1d", "1w", "1mo") else row["ts_event"] for row in truth
        ]
        columns = ("open", "high", "low", "close", "volume", "trade_count", "vwap")
        assert [[getattr(bar, column) for column in columns] for bar in found[symbol]] == [
            [float(row[column]) for column in columns] for row in truth
        ]
    assert len(stand_in.log) > 1


def test_the_sdk_reads_the_stand_ins_trades_and_quotes_to_the_nanosecond(stand_in: AlpacaStandIn) -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockQuotesRequest
    from alpaca.data.requests import StockTradesRequest

    stand_in.page_most = 100
    start, end = stand_in.windows["trades"]
    client = StockHistoricalDataClient(*stand_in.keys.values(), url_override=stand_in.url, raw_data=True)
    window = {"symbol_or_symbols": ["AAPL", "MSFT"], "start": start, "end": end - timedelta(microseconds=1)}
    trades = client.get_stock_trades(StockTradesRequest(**window))
    quotes = client.get_stock_quotes(StockQuotesRequest(**window))
    for symbol in ("AAPL", "MSFT"):
        assert [(stamp(nanoseconds(row["t"])), str(row["i"]), row["p"], row["s"]) for row in trades[symbol]] == [
            (row["ts_event"], row["trade_id"], float(row["price"]), float(row["size"]))
            for row in stand_in.truth("trades", symbol, start, end)
        ]
        given = [(stamp(nanoseconds(row["t"])), row["bp"], row["bs"], row["ap"], row["as"]) for row in quotes[symbol]]
        assert given == [
            (row["ts_event"], *(float(row[f"{side}_{what}"]) for side in ("bid", "ask") for what in ("price", "size")))
            for row in stand_in.truth("quotes", symbol, start, end)
        ]
    assert any(row["ts_event"].nanosecond for row in stand_in.truth("trades", "AAPL", start, end))
    models = StockHistoricalDataClient(*stand_in.keys.values(), url_override=stand_in.url)
    assert [trade.id for trade in models.get_stock_trades(StockTradesRequest(**window)).data["AAPL"]] == [
        row["i"] for row in trades["AAPL"]
    ]


def test_the_sdk_reads_the_stand_ins_news_actions_and_crypto(stand_in: AlpacaStandIn) -> None:
    from alpaca.data.historical import CryptoHistoricalDataClient
    from alpaca.data.historical.corporate_actions import CorporateActionsClient
    from alpaca.data.historical.news import NewsClient
    from alpaca.data.requests import CorporateActionsRequest
    from alpaca.data.requests import CryptoBarsRequest
    from alpaca.data.requests import NewsRequest
    from alpaca.data.timeframe import TimeFrame

    stand_in.page_most = 30
    start, end = stand_in.windows["news"]
    news = NewsClient(*stand_in.keys.values(), url_override=stand_in.url)
    asked = NewsRequest(symbols="MSFT", start=start, end=end - timedelta(seconds=1), sort="asc")
    truth = stand_in.truth("news", "MSFT", start, end)
    articles = news.get_news(asked).data["news"]
    assert {str(article.id): article.headline for article in articles} == {
        row["article_id"]: row["title"] for row in truth
    }
    start, end = stand_in.windows["corporate_actions"]
    actions = CorporateActionsClient(*stand_in.keys.values(), url_override=stand_in.url)
    found = actions.get_corporate_actions(
        CorporateActionsRequest(symbols=["AAPL"], start=start.date(), end=(end - DAY).date())
    ).data
    truth = stand_in.truth("corporate_actions", "AAPL", start, end)
    assert [(action.ex_date, action.rate) for action in found["cash_dividends"]] == [
        (row["ts_event"].date(), float(row["amount"])) for row in truth if row["kind"] == "dividend"
    ]
    assert [(split.old_rate, split.new_rate) for split in found["forward_splits"] + found["reverse_splits"]] == [
        (1, 4), (30, 1)
    ]  # fmt: skip
    coins = CryptoHistoricalDataClient(*stand_in.keys.values(), url_override=stand_in.url)
    window = (day(2024, 1, 2), day(2024, 1, 3))
    request = CryptoBarsRequest(
        symbol_or_symbols="BTC/USD", timeframe=TimeFrame.Hour, start=window[0], end=window[1] - timedelta(seconds=1)
    )
    assert [(bar.timestamp, bar.close) for bar in coins.get_crypto_bars(request).data["BTC/USD"]] == [
        (row["ts_event"], float(row["close"])) for row in stand_in.truth("ohlcv-1h", "BTC/USD", *window)
    ]


def test_the_sdk_is_refused_with_a_wrong_key(stand_in: AlpacaStandIn) -> None:
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockTradesRequest

    client = StockHistoricalDataClient("wrong", "wrong", url_override=stand_in.url)
    with pytest.raises(APIError, match="forbidden"):
        client.get_stock_trades(StockTradesRequest(symbol_or_symbols="AAPL", start=day(2024, 1, 2)))


# -- paging and symbols --------------------------------------------------------------------------------------------


def test_symbols_share_a_call_and_a_page(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = stand_in.windows["ohlcv-1m"]
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL", "MSFT"], start, end))
    assert outcome.errors == []
    # 180 bars of each: 100 AAPL, 80 AAPL and 20 MSFT, …
    assert [asked.params["symbols"] for asked in stand_in.log] == ["AAPL,MSFT"] * 4
    assert all(matches(bench.stored("ohlcv-1m", name), stand_in.truth("ohlcv-1m", name, start, end)) for name in
               ("AAPL", "MSFT"))  # fmt: skip


@pytest.mark.parametrize("schema", ["ohlcv-1m", "trades", "news", "corporate_actions"])
def test_an_empty_page_with_a_token_is_followed(stand_in: AlpacaStandIn, schema: str, tmp_path: Path) -> None:
    stand_in.hollow = True
    bench = Bench(stand_in, tmp_path)
    start, end = stand_in.windows[schema]
    assert bench.run(bench.job(schema, ["AAPL"], start, end)).errors == []
    assert matches(bench.stored(schema, "AAPL"), stand_in.truth(schema, "AAPL", start, end))


def test_a_token_that_leads_nowhere_ends(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    stand_in.answer = lambda asked: _same_again()  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("ohlcv-1m", ["AAPL"], *stand_in.windows["ohlcv-1m"]))
    assert ["the same page again" in error for error in outcome.errors] == [True]
    assert len(stand_in.log) == 2


def _same_again() -> Any:
    from tests.vendors.server import Reply

    return Reply({"bars": {}, "next_page_token": "QUFQTA=="})


def test_the_end_is_left_out_to_the_nanosecond(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    # a trade that has no fraction of a second: its time is a possible end
    hour = datetime(2024, 1, 2, 1, tzinfo=UTC)
    found = market.trades("AAPL", hour, hour + DAY)
    trade = next(one for one in found if not instant(one.time) % 10**9 and one.id % 10 > 1)
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("trades", ["AAPL"], day(2024, 1, 2), trade.time))
    stored = bench.stored("trades", "AAPL")
    assert stored[-1]["ts_event"] < trade.time
    assert stand_in.log[0].params["end"].endswith(".999999999Z")
    bench.run(bench.job("trades", ["AAPL"], trade.time, trade.time + timedelta(microseconds=1)))
    (added,) = [row for row in bench.stored("trades", "AAPL") if row["ts_event"] == trade.time]
    assert added["trade_id"] == str(trade.id)


def test_a_malformed_symbol_takes_no_other_along(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = stand_in.windows["ohlcv-1d"]
    outcome = bench.run(bench.job("ohlcv-1d", ["AAPL", "^GSPC", "MSFT"], start, end))
    assert ["invalid symbol: ^GSPC" in error for error in outcome.errors] == [True]
    assert all(len(bench.stored("ohlcv-1d", name)) > 200 for name in ("AAPL", "MSFT"))
    extractor = bench.extractor("ohlcv-1d")
    (request,) = extractor.requests(bench.job("ohlcv-1d", ["^GSPC"], start, end))
    with pytest.raises(UnknownSymbol, match=r"invalid symbol: \^GSPC"):
        list(extractor.pages(request))


@pytest.mark.parametrize(
    ("kind", "symbols", "wrong"),
    [("stocks", ["AAPL", "BTC/USD", "MSFT"], "BTC/USD"), ("crypto", ["BTC/USD", "AAPL", "ETH/USD"], "AAPL")],
)
def test_a_symbol_of_the_other_market_takes_no_other_along(
    stand_in: AlpacaStandIn, kind: str, symbols: list[str], wrong: str, tmp_path: Path
) -> None:
    bench = Bench(stand_in, tmp_path, {"market": kind})
    window = (day(2024, 1, 2), day(2024, 1, 5))
    outcome = bench.run(bench.job("ohlcv-1h", symbols, *window))
    assert [f"invalid symbol: {wrong}" in error for error in outcome.errors] == [True]
    right = [symbol for symbol in symbols if symbol != wrong]
    assert [asked.params["symbols"] for asked in stand_in.log if asked.params["symbols"] != wrong] == [
        ",".join(right)
    ] * 2
    for symbol in right:
        assert matches(bench.stored("ohlcv-1h", symbol), stand_in.truth("ohlcv-1h", symbol, *window))


def test_an_unknown_symbol_is_not_covered_and_the_others_are(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # a weekend: nobody has a daily bar
    job = bench.job("ohlcv-1d", ["AAPL", "NOSUCH", "MSFT"], day(2024, 1, 6), day(2024, 1, 8))
    for symbols in ("AAPL,NOSUCH,MSFT", "NOSUCH"):
        stand_in.log.clear()
        assert bench.run(job).errors == []
        assert [asked.params["symbols"] for asked in stand_in.log] == [symbols] * 2


def test_silence_is_unknown_only_where_there_never_was_a_trade(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # a weekend: nobody has a daily bar
    outcome = bench.run(bench.job("ohlcv-1d", ["AAPL", "NOSUCH"], day(2024, 1, 6), day(2024, 1, 8)))
    assert outcome.errors == []
    (refused,) = bench.ledger.quarantined.values()
    assert refused[:2] == ("symbol is known", "symbol is known: Alpaca has no trade of 'NOSUCH', ever")
    latest = stand_in.log[-1]
    # what a free plan may ask
    assert (latest.path, latest.params) == (
        "/v2/stocks/trades/latest", {"symbols": "AAPL,NOSUCH", "feed": "delayed_sip"}
    )  # fmt: skip


# -- what numbers mean ---------------------------------------------------------------------------------------------


def test_adjustment_feed_and_asof_are_asked_and_kept(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    options = {"adjustment": "split", "feed": "iex", "asof": "2022-06-09"}
    bench = Bench(stand_in, tmp_path, options)
    start, end = stand_in.windows["ohlcv-1d"]
    bench.run(bench.job("ohlcv-1d", ["AAPL"], start, end))
    truth = stand_in.truth("ohlcv-1d", "AAPL", start, end)
    assert [row["close"] for row in bench.stored("ohlcv-1d", "AAPL")] == [row["close"] * 2 for row in truth]
    assert {name: stand_in.log[0].params[name] for name in options} == options
    assert set(options) <= set(type(bench.extractor("ohlcv-1d")).value_options)


@pytest.mark.parametrize("schema", ["ohlcv-1h", "ohlcv-1d", "trades"])
def test_crypto_is_another_market(stand_in: AlpacaStandIn, schema: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"market": "crypto"})
    start, end = day(2024, 3, 8), day(2024, 3, 12)
    if schema == "trades":
        end = start + timedelta(hours=1)
    outcome = bench.run(bench.job(schema, ["BTC/USD", "ETH/USD", "NO/SUCH"], start, end))
    assert outcome.errors == []
    assert [refused[0] for refused in bench.ledger.quarantined.values()] == ["symbol is known"]
    if schema == "trades":
        truth = list(market.trades("BTC/USD", start, end))
        assert [(row["trade_id"], row["side"]) for row in bench.stored(schema, "BTC/USD")] == [
            (str(trade.id), "A" if trade.buyer_is_maker else "B") for trade in truth
        ]
    else:
        # four days with a weekend and a change of the clock in Chicago
        truth_rows = stand_in.truth(schema, "BTC/USD", start, end)
        assert len(truth_rows) == (96 if schema == "ohlcv-1h" else 4)
        assert matches(bench.stored(schema, "BTC/USD"), truth_rows)


def test_one_unreadable_time_costs_its_row_and_no_nanosecond(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    times = ["2024-01-02T14:30:00.123456789Z", "yesterday", "2024-01-02T14:30:01.000000001Z"]
    trades: list[Any] = [{"t": time, "x": "D", "p": 1.5, "s": 1, "i": number} for number, time in enumerate(times)]
    rows, rejected = answer(stand_in, tmp_path, "trades", {"trades": {"AAPL": [*trades, 7]}})
    assert [row["ts_event"].value % 10**9 for row in rows] == [123456789, 1]
    assert [rule for rule, _ in rejected] == ["time is ISO 8601", "record has the documented shape"]


def test_a_side_nobody_quotes_is_empty(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    time = "2024-01-02T09:00:00.000059Z"
    quotes = [
        {"t": time, "ax": "K", "ap": 158.65, "as": 1, "bx": " ", "bp": 0, "bs": 0, "c": ["R"]},
        {"t": time, "ax": " ", "ap": 0.0, "as": 0, "bx": "Q", "bp": 158.6, "bs": 4, "c": ["R"]},
    ]
    rows, rejected = answer(stand_in, tmp_path, "quotes", {"quotes": {"AAPL": quotes}})
    assert rejected == []
    assert [(row["bid_price"], row["bid_size"], row["ask_price"], row["ask_size"]) for row in rows] == [
        (None, None, Decimal("158.65"), Decimal(1)), (Decimal("158.6"), Decimal(4), None, None)
    ]  # fmt: skip


def answer(stand_in: AlpacaStandIn, folder: Path, schema: str, said: Any) -> tuple[list[Row], list[tuple[str, str]]]:
    content = json.dumps({**said, "next_page_token": None}).encode()
    facts = {"symbols": ["AAPL"], "silent": ["AAPL"]}
    return read(Bench(stand_in, folder), schema, ["AAPL"], (day(2024, 1, 1), day(2024, 2, 1)), content, facts)


# -- news and actions ----------------------------------------------------------------------------------------------


def test_an_article_belongs_to_the_window_of_its_update(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = day(2024, 1, 18), day(2024, 1, 19)
    bench.run(bench.job("news", ["AAPL", "MSFT"], start, end))
    stored = bench.stored("news", "AAPL")
    assert matches(stored, stand_in.truth("news", "AAPL", start, end))
    # written ten days before the window in which it changed
    assert min(row["ts_event"] for row in stored) < start - 9 * DAY
    both = {row["article_id"] for row in stored} & {row["article_id"] for row in bench.stored("news", "MSFT")}
    assert both, "an article about both is one of each"
    assert bench.ledger.quarantined == {}


def test_a_merger_is_an_action_of_both(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("corporate_actions", ["AAPL", "MSFT"], day(2023, 7, 1), day(2023, 8, 1)))
    for name in ("AAPL", "MSFT"):
        (merger,) = [row for row in bench.stored("corporate_actions", name) if row["kind"] == "merger"]
        assert (merger["ratio_from"], merger["ratio_to"], merger["amount"]) == (1, Decimal("0.7733"), Decimal("7.8"))
        assert merger["ts_event"] == day(2023, 7, 18)
        assert '"acquirer_symbol": "MSFT"' in merger["description"]


def test_actions_are_cut_by_the_day_they_are_processed(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    number = 50
    ex = day(2010, 2, 9) + 91 * number * DAY
    bench.run(bench.job("corporate_actions", ["AAPL"], ex + DAY, ex + 7 * DAY))
    (dividend,) = bench.stored("corporate_actions", "AAPL")
    assert dividend["ts_event"] == ex
    assert dividend["payable"] == ex + 6 * DAY


# -- what is not final ---------------------------------------------------------------------------------------------


def test_what_the_plan_refuses_is_said(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    stand_in.recent = day(2024, 1, 2)
    bench = Bench(stand_in, tmp_path)
    extractor = bench.extractor("trades")
    (request,) = extractor.requests(bench.job("trades", ["AAPL"], day(2024, 1, 2), day(2024, 1, 3)))
    with pytest.raises(NotEntitled, match="does not permit querying recent SIP data"):
        list(extractor.pages(request))


def test_the_last_minutes_and_days_that_are_not_over_are_left(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    quarter = timedelta(minutes=15)

    def ends(schema: str, now: datetime, zone: str = "America/New_York") -> datetime:
        return settled(bench.job(schema, ["AAPL"], day(2024, 1, 1), day(2030, 1, 1)), quarter, zone, now).end

    now = datetime(2024, 1, 5, 0, 40, tzinfo=UTC)
    assert ends("trades", now) == datetime(2024, 1, 5, 0, 25, tzinfo=UTC)
    # the hour that opened at 23:00 is over, one that opened at half past would not be
    assert ends("ohlcv-1h", now) == datetime(2024, 1, 4, 23, 30, tzinfo=UTC)
    # in New York it is still the 4th
    assert ends("ohlcv-1d", now) == day(2024, 1, 4)
    assert ends("ohlcv-1d", now, "UTC") == day(2024, 1, 5)
    assert ends("ohlcv-1d", datetime(2024, 1, 5, 5, 15, tzinfo=UTC)) == day(2024, 1, 5)
    assert ends("ohlcv-1w", datetime(2024, 1, 8, 4, 0, tzinfo=UTC)) == day(2024, 1, 1)
    assert ends("ohlcv-1mo", datetime(2024, 2, 1, 4, 0, tzinfo=UTC)) == day(2024, 1, 1)
    assert ends("corporate_actions", now) == day(2030, 1, 1)
    # and the extractor asks nothing else
    job = bench.job("ohlcv-1m", ["AAPL"], datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + DAY)
    (request,) = bench.extractor("ohlcv-1m").requests(job)
    assert quarter <= datetime.now(UTC) - request.end < quarter + timedelta(minutes=2)


def test_weeks_and_months_are_asked_whole() -> None:
    end = day(2024, 1, 10)
    assert last_moment(end, "1h") == end - timedelta(microseconds=1)
    assert last_moment(end, "1d") == end - timedelta(microseconds=1)
    assert last_moment(end + timedelta(microseconds=1), "1d") == end + DAY - timedelta(microseconds=1)
    assert last_moment(end, "1w") == day(2024, 1, 15) - timedelta(microseconds=1)
    assert last_moment(day(2024, 1, 15), "1w") == day(2024, 1, 15) - timedelta(microseconds=1)
    assert last_moment(end, "1mo") == day(2024, 2, 1) - timedelta(microseconds=1)
    assert last_moment(day(2024, 2, 1), "1mo") == day(2024, 2, 1) - timedelta(microseconds=1)


def test_check_asks_with_the_key(stand_in: AlpacaStandIn, tmp_path: Path) -> None:
    (sentence,) = Bench(stand_in, tmp_path).extractor("trades").check()
    assert stand_in.url in sentence
    assert stand_in.log[0].headers["apca-api-key-id"] == "AKTESTKEY"
