"""Massive: what the contract cannot know. The stand-in answers Massive's own SDK too."""

import json
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from massive import RESTClient
from massive.exceptions import BadResponse

from catalog.errors import AuthFailed
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from flows.extractors.base import Listing
from tests.vendors import market
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.landed import read
from tests.vendors.massive import WAY
from tests.vendors.massive import MassiveStandIn
from tests.vendors.massive import extent
from tests.vendors.massive import instant
from tests.vendors.massive import stamp
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row

DAY = timedelta(days=1)


@pytest.fixture
def stand_in() -> Iterator[MassiveStandIn]:
    with MassiveStandIn() as server:
        yield server


@pytest.fixture
def sdk(stand_in: MassiveStandIn) -> Iterator[RESTClient]:
    stand_in.page_most = 40
    client = RESTClient(stand_in.keys["API_KEY"], base=stand_in.url, retries=0)
    yield client
    client.client.clear()


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


# -- the SDK -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "multiplier", "span"),
    [("1m", 1, "minute"), ("15m", 15, "minute"), ("1d", 1, "day"), ("1w", 1, "week"), ("1mo", 1, "month")],
)
def test_the_sdk_reads_the_stand_ins_bars(
    stand_in: MassiveStandIn, sdk: RESTClient, name: str, multiplier: int, span: str
) -> None:
    start, end = stand_in.windows[f"ohlcv-{name}"]
    truth = stand_in.truth(f"ohlcv-{name}", "AAPL", start, end)
    last = end - timedelta(days=3 if name == "1w" else 1) if span in ("day", "week", "month") else end - 1 * DAY / 86400
    window = (start.date(), last.date()) if span in ("day", "week", "month") else (start, last)
    bars = list(sdk.list_aggs("AAPL", multiplier, span, *window, adjusted=False, sort="asc", limit=40))
    assert [bar.timestamp for bar in bars] == [
        extent(row["ts_event"], f"{multiplier}/{span}", "AAPL")[0].timestamp() * 1000 for row in truth
    ]
    assert [(bar.open, bar.high, bar.low, bar.close, bar.volume, bar.transactions, bar.vwap) for bar in bars] == [
        tuple(float(row[column]) for column in ("open", "high", "low", "close", "volume", "trade_count", "vwap"))
        for row in truth
    ]
    assert len(stand_in.log) > 1


def test_the_sdk_reads_the_stand_ins_trades_and_quotes(stand_in: MassiveStandIn, sdk: RESTClient) -> None:
    start, end = stand_in.windows["trades"]
    window = {"timestamp_gte": start, "timestamp_lt": end, "order": "asc", "limit": 40}
    trades = list(sdk.list_trades("AAPL", **window))
    given = [(row.participant_timestamp, row.sip_timestamp, row.id, row.price, row.size) for row in trades]
    assert given == [
        (row["ts_event"].value, row["ts_recv"].value, row["trade_id"], float(row["price"]), float(row["size"]))
        for row in stand_in.truth("trades", "AAPL", start, end)
    ]
    quotes = list(sdk.list_quotes("AAPL", **window))
    assert [(stamp(row.participant_timestamp), row.bid_price, row.bid_size, row.ask_price) for row in quotes] == [
        (row["ts_event"], float(row["bid_price"]), float(row["bid_size"]), float(row["ask_price"]))
        for row in stand_in.truth("quotes", "AAPL", start, end)
    ]


def test_the_sdk_reads_the_stand_ins_reference(stand_in: MassiveStandIn, sdk: RESTClient) -> None:
    start, end = stand_in.windows["corporate_actions"]
    truth = stand_in.truth("corporate_actions", "AAPL", start, end)
    splits = sdk.list_splits("AAPL", execution_date_gte=start.date(), execution_date_lt=end.date(), order="asc")
    assert [(row.execution_date, row.split_from, row.split_to) for row in splits] == [
        (f"{row['ts_event'].date()}", row["ratio_from"], row["ratio_to"]) for row in truth if row["kind"] == "split"
    ]
    dividends = sdk.list_dividends("AAPL", ex_dividend_date_gte=start.date(), ex_dividend_date_lt=end.date(), limit=7)
    assert [(row.ex_dividend_date, row.cash_amount) for row in dividends] == [
        (f"{row['ts_event'].date()}", float(row["amount"])) for row in truth if row["kind"] != "split"
    ]
    start, end = stand_in.windows["news"]
    window = {"published_utc_gte": start.isoformat(), "published_utc_lt": end.isoformat()}
    assert [(row.id, row.publisher.name) for row in sdk.list_ticker_news("AAPL", **window, order="asc", limit=40)] == [
        (row["article_id"], row["publisher"]) for row in stand_in.truth("news", "AAPL", start, end)
    ]
    assert [row.ticker for row in sdk.list_tickers(search="aap")] == ["AAPL"]


def test_the_sdk_is_refused_as_we_are(stand_in: MassiveStandIn, sdk: RESTClient) -> None:
    with pytest.raises(BadResponse, match="NOT_AUTHORIZED"):
        sdk.get_aggs("SPX", 1, "day", "2024-01-02", "2024-01-05")
    with pytest.raises(BadResponse, match="Unknown API Key"):
        RESTClient("wrong", base=stand_in.url, retries=0).get_aggs("AAPL", 1, "day", "2024-01-02", "2024-01-05")


# -- paging --------------------------------------------------------------------------------------------------------


def test_links_to_the_vendor_are_asked_here_with_the_key_in_a_header(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    assert bench.run(bench.job("ohlcv-1m", ["AAPL"], *stand_in.windows["ohlcv-1m"])).errors == []
    paged = [asked for asked in stand_in.log if "cursor" in asked.params]
    assert len(paged) == 2
    assert all(asked.headers["authorization"] == "Bearer massive-test-key" for asked in stand_in.log)
    assert all(set(asked.params) == {"cursor"} for asked in paged)


def test_a_proxy_with_a_path_keeps_its_path(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    inner = stand_in.answer

    def behind(asked: Asked) -> Reply:
        assert asked.path.startswith("/proxy/"), asked.path
        return inner(Asked(asked.method, asked.path.removeprefix("/proxy"), asked.params, asked.headers))

    stand_in.answer = behind  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path, {"base_url": f"{stand_in.url}/proxy"})
    start, end = stand_in.windows["ohlcv-1m"]
    assert bench.run(bench.job("ohlcv-1m", ["AAPL"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1m", "AAPL"), stand_in.truth("ohlcv-1m", "AAPL", start, end))


def test_an_answer_with_fewer_rows_than_it_counts_is_asked_again(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    stand_in.short = 2
    bench = Bench(stand_in, tmp_path)
    start, end = stand_in.windows["ohlcv-1m"]
    assert bench.run(bench.job("ohlcv-1m", ["AAPL"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1m", "AAPL"), stand_in.truth("ohlcv-1m", "AAPL", start, end))
    assert len(bench.slept) == 2
    stand_in.short = 99
    (error,) = (
        Bench(stand_in, tmp_path / "other", {"attempts": 1}).run(bench.job("ohlcv-1m", ["MSFT"], start, end)).errors
    )
    assert "the answer has 99 of the 100 rows it speaks of" in error


def test_a_link_that_leads_nowhere_ends(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    link = "https://api.massive.com/v3/trades/AAPL?cursor=abc"
    stand_in.answer = lambda asked: Reply({"status": "OK", "results": [], "next_url": link})  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path)
    outcome = bench.run(bench.job("trades", ["AAPL"], day(2024, 1, 2), day(2024, 1, 3)))
    assert ["the same page again" in error for error in outcome.errors] == [True]
    assert len(stand_in.log) == 2


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ({"status": "ERROR", "error": "Unknown API Key"}, AuthFailed),
        ({"status": "ERROR", "error": "something else"}, PermanentError),
        ({"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}, RateLimited),
    ],
)
def test_an_error_inside_a_good_answer(
    stand_in: MassiveStandIn, said: Row, meaning: type[Exception], tmp_path: Path
) -> None:
    stand_in.answer = lambda asked: Reply(said, headers={"Retry-After": "0"})  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path)
    extractor = bench.extractor("ohlcv-1d")
    (request,) = extractor.requests(bench.job("ohlcv-1d", ["AAPL"], day(2024, 1, 2), day(2024, 1, 5)))
    with pytest.raises(meaning, match=said["error"]):
        list(extractor.pages(request))


# -- windows and labels --------------------------------------------------------------------------------------------


def test_weeks_begin_on_sunday_there_and_on_monday_here(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # a window that begins and ends inside weeks, with the Sunday on which the clock goes back
    start, end = day(2024, 10, 23), day(2024, 11, 13)
    bench.run(bench.job("ohlcv-1w", ["AAPL"], start, end))
    assert [row["ts_event"] for row in bench.stored("ohlcv-1w", "AAPL")] == [
        day(2024, 10, 28), day(2024, 11, 4), day(2024, 11, 11)
    ]  # fmt: skip
    # from Sunday to Saturday, so that no week is answered by half
    assert stand_in.log[0].path.endswith("/range/1/week/2024-10-20/2024-11-16")
    other = Bench(stand_in, tmp_path / "pairs")
    outcome = other.run(other.job("ohlcv-1w", ["X:BTCUSD"], start, end))
    assert ["begin on Sunday" in error for error in outcome.errors] == [True]


def test_what_is_snapped_outward_does_not_get_in(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = datetime(2024, 1, 2, 10, 20, tzinfo=UTC), datetime(2024, 1, 2, 13, 0, tzinfo=UTC)
    outcome = bench.run(bench.job("ohlcv-1h", ["AAPL"], start, end))
    assert [row["ts_event"].hour for row in bench.stored("ohlcv-1h", "AAPL")] == [11, 12]
    assert outcome.tallies["shelf"].filtered == 1


def test_days_of_pairs_are_days_in_utc(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = day(2024, 3, 8), day(2024, 3, 12)
    assert bench.run(bench.job("ohlcv-1d", ["X:BTCUSD"], start, end)).errors == []
    truth = stand_in.truth("ohlcv-1d", "X:BTCUSD", start, end)
    assert len(truth) == 4
    assert matches(bench.stored("ohlcv-1d", "X:BTCUSD"), truth)
    assert stand_in.log[0].path.startswith("/v2/aggs/ticker/X%3ABTCUSD/")


def test_trades_are_cut_by_the_tape_to_the_nanosecond(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    trade = market.trade("AAPL", 243_450_005)
    # in the microsecond in which the tape had it: before it is not, with it is
    reached = (instant(trade.time) + WAY) // 1000
    moment = market.EPOCH + timedelta(microseconds=reached)
    bench.run(bench.job("trades", ["AAPL"], moment - timedelta(seconds=3), moment))
    assert bench.stored("trades", "AAPL") == []
    bench.run(bench.job("trades", ["AAPL"], moment, moment + timedelta(microseconds=1)))
    (stored,) = bench.stored("trades", "AAPL")
    assert stored["ts_event"] == stamp(instant(trade.time))
    assert stored["ts_event"].nanosecond
    # the participant's time lies before the window
    assert stored["ts_event"] < moment <= stored["ts_recv"]


def test_pairs_are_on_no_tape(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    start, end = day(2024, 1, 2), datetime(2024, 1, 2, 0, 30, tzinfo=UTC)
    bench.run(bench.job("trades", ["X:BTCUSD"], start, end))
    assert [(row["ts_event"], row["ts_recv"], row["trade_id"]) for row in bench.stored("trades", "X:BTCUSD")] == [
        (stamp(instant(trade.time)), None, str(trade.id)) for trade in market.trades("X:BTCUSD", start, end)
    ]


# -- values --------------------------------------------------------------------------------------------------------


def test_adjusted_is_asked_and_changes_what_numbers_mean(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    start, end = stand_in.windows["ohlcv-1h"]
    truth = stand_in.truth("ohlcv-1h", "AAPL", start, end)
    bench = Bench(stand_in, tmp_path, {"adjusted": True})
    bench.run(bench.job("ohlcv-1h", ["AAPL"], start, end))
    assert [row["close"] * 2 for row in bench.stored("ohlcv-1h", "AAPL")] == [row["close"] for row in truth]
    assert {asked.params.get("adjusted", "true") for asked in stand_in.log} == {"true"}
    assert "adjusted" in type(bench.extractor("ohlcv-1h")).value_options


def test_a_side_nobody_quotes_is_empty_and_a_price_of_nothing_is_refused(
    stand_in: MassiveStandIn, tmp_path: Path
) -> None:
    time = {"participant_timestamp": 1652191872800402201, "sip_timestamp": 1652191872800638701, "sequence_number": 1}
    quotes = [
        {**time, "ask_price": 155.87, "ask_size": 3, "bid_price": 0, "bid_size": 0},
        {**time, "ask_price": 0.0, "bid_price": 155.85, "bid_size": 4, "ask_exchange": 12},
        {**time, "ask_price": 0, "ask_size": 5, "bid_price": 155.85, "bid_size": 4},
    ]
    facts = {"symbol": "AAPL", "kind": "quotes", "rows": 0}
    window = (day(2022, 5, 10), day(2022, 5, 11))
    content = json.dumps({"status": "OK", "results": quotes}).encode()
    rows, rejected = read(Bench(stand_in, tmp_path), "quotes", ["AAPL"], window, content, facts)
    assert [(row["bid_price"], row["bid_size"], row["ask_price"], row["ask_size"]) for row in rows] == [
        (None, None, Decimal("155.87"), Decimal(3)), (Decimal("155.85"), Decimal(4), None, None)
    ]  # fmt: skip
    assert [rule for rule, _ in rejected] == ["ask_price > 0"]
    assert rows[0]["ts_event"].value == time["participant_timestamp"]


def test_special_dividends_and_gains_are_told_apart(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("corporate_actions", ["AAPL"], *stand_in.windows["corporate_actions"]))
    stored = bench.stored("corporate_actions", "AAPL")
    assert {(row["kind"], row["description"]) for row in stored} == {
        ("split", None), ("dividend", "CD"), ("dividend", "SC"), ("capital_gain", "LT")
    }  # fmt: skip
    (backward,) = [row for row in stored if row["kind"] == "split" and row["ratio_from"] > row["ratio_to"]]
    assert (backward["ts_event"], backward["ratio_from"], backward["ratio_to"]) == (day(2021, 8, 2), 30, 1)


# -- tickers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["ohlcv-1d", "trades", "quotes"])
def test_silence_is_unknown_only_where_no_list_has_the_ticker(
    stand_in: MassiveStandIn, schema: str, tmp_path: Path
) -> None:
    bench = Bench(stand_in, tmp_path)
    start = day(2024, 1, 6)
    window = (start, start + 2 * DAY) if schema == "ohlcv-1d" else (start, start + timedelta(microseconds=1))
    # a known one without rows, one that is listed no more, and one that never was
    outcome = bench.run(bench.job(schema, ["AAPL", "TWTR", "NOSUCH"], *window))
    assert outcome.errors == []
    (refused,) = bench.ledger.quarantined.values()
    assert refused[:2] == ("symbol is known", "symbol is known: Massive lists no ticker 'NOSUCH'")
    asked = [dict(one.params) for one in stand_in.log if one.path == "/v3/reference/tickers"]
    assert asked == [
        {"ticker": "AAPL", "active": "true"},
        {"ticker": "TWTR", "active": "true"}, {"ticker": "TWTR", "active": "false"},
        {"ticker": "NOSUCH", "active": "true"}, {"ticker": "NOSUCH", "active": "false"},
    ]  # fmt: skip


def test_an_unknown_ticker_is_not_covered_and_the_others_are(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    job = bench.job("ohlcv-1d", ["AAPL", "TWTR", "NOSUCH"], day(2024, 1, 6), day(2024, 1, 8))
    assert bench.run(job).errors == []
    stand_in.log.clear()
    assert bench.run(job).errors == []
    bars, *listed = [(asked.path, asked.params.get("ticker")) for asked in stand_in.log]
    assert "/ticker/NOSUCH/" in bars[0]
    assert listed == [("/v3/reference/tickers", "NOSUCH")] * 2


def test_listings_carry_what_identifies_them(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    stand_in.page_most = 1
    extractor = Bench(stand_in, tmp_path).extractor("ohlcv-1d")
    assert list(extractor.discover("")) == [
        Listing("AAPL", "equity", "AAPL Inc.", "USD", "XNAS", "BBG-AAPL"),
        Listing("MSFT", "equity", "MSFT Inc.", "USD", "XNAS", "BBG-MSFT"),
        Listing("X:BTCUSD", "crypto", "Bitcoin - United States dollar", "USD"),
    ]


def test_check_asks_with_the_key(stand_in: MassiveStandIn, tmp_path: Path) -> None:
    assert Bench(stand_in, tmp_path).extractor("trades").check() == [
        f"{stand_in.url} answers and accepts the key; the market is closed"
    ]
    wrong: Any = Bench(stand_in, tmp_path, keys={"API_KEY": "other"}).extractor("trades")
    with pytest.raises(AuthFailed, match="Unknown API Key"):
        wrong.check()
