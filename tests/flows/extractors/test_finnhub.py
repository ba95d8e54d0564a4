"""Finnhub's own traps, over the socket. There are no recorded answers of Finnhub: all is by its documentation."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from catalog.errors import ConfigError
from catalog.errors import PermanentError
from catalog.errors import RateLimited
from catalog.errors import TransientError
from catalog.errors import UnknownSymbol
from tests.vendors.finnhub import FinnhubStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply

DAY = timedelta(days=1)
TUESDAY = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.fixture
def stand_in() -> Iterator[FinnhubStandIn]:
    with FinnhubStandIn() as server:
        yield server


def candles(stand_in: FinnhubStandIn, reply: Reply) -> None:
    """Let every request for candles be answered by this."""
    stand_in.candle = lambda asked: reply  # type: ignore[method-assign]


def fetch(bench: Bench, schema: str, symbol: str = "AAPL", days: int = 1) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, [symbol], TUESDAY, TUESDAY + days * DAY)):
        list(extractor.pages(request))


def test_a_cut_answer_is_followed_back_until_nothing_is_older(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    # begins on a Saturday: before the first bar there is nothing
    start, end = datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 8, 4, 10, tzinfo=UTC)
    assert bench.run(bench.job("ohlcv-1m", ["AAPL"], start, end)).errors == []
    assert matches(bench.stored("ohlcv-1m", "AAPL"), stand_in.truth("ohlcv-1m", "AAPL", start, end))
    monday = int(datetime(2024, 1, 8, tzinfo=UTC).timestamp())
    asked = [(int(one.params["from"]), int(one.params["to"]) - monday) for one in stand_in.log]
    assert asked == [(int(start.timestamp()), to) for to in (14_999, 8_999, 2_999, -1)]
    # a window that is empty behind what came is no reason to doubt the symbol
    assert not any(one.path == "/search" for one in stand_in.log)


def test_bars_within_the_day_are_asked_by_the_month_and_daily_ones_at_once(
    stand_in: FinnhubStandIn, tmp_path: Path
) -> None:
    for schema, number in (("ohlcv-1h", 4), ("ohlcv-1d", 1)):
        bench = Bench(stand_in, tmp_path / schema)
        extractor = bench.extractor(schema)
        start = datetime(2024, 1, 1, tzinfo=UTC)
        (request,) = extractor.requests(bench.job(schema, ["AAPL"], start, start + 100 * DAY))
        windows = [(int(call.params["from"]), int(call.params["to"])) for call in extractor.calls(request)]  # type: ignore[attr-defined]
        assert len(windows) == number
        # the stamps of dates may lie on the day before and after
        more = 86_400 if schema == "ohlcv-1d" else 0
        assert windows[0][0] == start.timestamp() - more
        assert windows[-1][1] == (start + 100 * DAY).timestamp() - 1 + more
        # nothing between them, and nothing twice
        assert all(one[1] + 1 == other[0] for one, other in pairwise(windows))
        assert all(high - low < 30 * 86_400 for low, high in windows) is (schema == "ohlcv-1h")


def test_no_data_of_a_known_symbol_is_an_empty_window(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    saturday = datetime(2024, 1, 6, tzinfo=UTC)
    assert bench.run(bench.job("ohlcv-1h", ["AAPL"], saturday, saturday + 2 * DAY)).errors == []
    assert bench.rows == {}
    assert [one.path for one in stand_in.log] == ["/stock/candle", "/search"]


def test_no_data_of_a_symbol_that_the_search_does_not_find(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    # the search finds AAPL by a part of it, which is another symbol
    with pytest.raises(UnknownSymbol, match="does not find 'AAP'"):
        fetch(Bench(stand_in, tmp_path), "ohlcv-1d", "AAP")


@pytest.mark.parametrize(("market", "symbol"), [("forex", "OANDA:EUR_USD"), ("crypto", "BINANCE:BTCUSDT")])
def test_other_markets_have_their_own_candles(
    stand_in: FinnhubStandIn, market: str, symbol: str, tmp_path: Path
) -> None:
    bench = Bench(stand_in, tmp_path, {"market": market})
    assert bench.run(bench.job("ohlcv-1h", [symbol], TUESDAY, TUESDAY + DAY)).errors == []
    assert matches(bench.stored("ohlcv-1h", symbol), stand_in.truth("ohlcv-1h", symbol, TUESDAY, TUESDAY + DAY))
    assert {one.path for one in stand_in.log} == {f"/{market}/candle"}
    # the search knows stocks only
    assert bench.run(bench.job("ohlcv-1h", ["OANDA:XXX"], TUESDAY, TUESDAY + DAY)).errors == []


@pytest.mark.parametrize("zone", ["America/New_York", "UTC"])
def test_a_daily_candle_bears_the_date_of_its_zone(stand_in: FinnhubStandIn, zone: str, tmp_path: Path) -> None:
    late = int((TUESDAY + timedelta(hours=21)).timestamp())
    early = int((TUESDAY + timedelta(days=1, hours=3)).timestamp())
    columns = {name: [1.5, 1.5] for name in "ohlc"}
    body = {"s": "ok", "t": [late, early], "v": [1, 2], **columns}
    stand_in.candle = lambda asked: Reply({"s": "no_data"} if stand_in.log[1:] else body)  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path, {"zone": zone})
    tally = bench.run(bench.job("ohlcv-1d", ["AAPL"], TUESDAY, TUESDAY + 5 * DAY)).tallies["shelf"]
    dates = [row["ts_event"] for row in bench.stored("ohlcv-1d", "AAPL")]
    if zone == "UTC":
        assert dates == [TUESDAY, TUESDAY + DAY]
    else:
        # two bars of one date that contradict each other are not guessed about
        assert (dates, tally.quarantined) == ([], 2)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Auckland", "America/New_York", "UTC"])
@pytest.mark.parametrize("days", [1, 5])
def test_no_day_is_lost_wherever_its_midnight_lies(
    stand_in: FinnhubStandIn, zone: str, days: int, tmp_path: Path
) -> None:
    stand_in.zone = ZoneInfo(zone)
    bench = Bench(stand_in, tmp_path, {"zone": zone})
    monday = TUESDAY - DAY
    for first in range(0, 5, days):
        window = (monday + first * DAY, monday + (first + days) * DAY)
        assert bench.run(bench.job("ohlcv-1d", ["AAPL"], *window)).errors == []
    truth = stand_in.truth("ohlcv-1d", "AAPL", monday, monday + 5 * DAY)
    assert len(truth) == 5
    assert matches(bench.stored("ohlcv-1d", "AAPL"), truth)


@pytest.mark.parametrize(("schema", "days"), [("ohlcv-1w", 7), ("ohlcv-1mo", 31)])
def test_weeks_and_months_begin_at_a_midnight_of_the_zone_too(
    stand_in: FinnhubStandIn, schema: str, days: int, tmp_path: Path
) -> None:
    first = datetime(2024, 1, 1, tzinfo=UTC)
    stamps = [int(at.replace(tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()) for at in (first, first + days * DAY)]

    def candle(asked: Asked) -> Reply:
        times = [at for at in stamps if int(asked.params["from"]) <= at <= int(asked.params["to"])]
        columns = {name: [1.5] * len(times) for name in "ohlcv"}
        return Reply({"s": "ok", "t": times, **columns} if times else {"s": "no_data"})

    stand_in.candle = candle  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path, {"zone": "Asia/Tokyo"})
    for at in (first, first + days * DAY):
        assert bench.run(bench.job(schema, ["AAPL"], at, at + 7 * DAY)).errors == []
    assert [row["ts_event"] for row in bench.stored(schema, "AAPL")] == [first, first + days * DAY]


def test_prices_that_come_later_are_not_asked_yet(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for options, late in (({}, timedelta(minutes=15)), ({"delay_minutes": 0}, timedelta(0))):
        bench = Bench(stand_in, tmp_path, options)
        (request,) = bench.extractor("news").requests(bench.job("news", ["AAPL"], now - DAY, now + DAY))
        ends = request.end if late else request.end - DAY
        assert timedelta(seconds=-60) < ends - (now - late) < timedelta(seconds=60)


def test_numbers_come_as_they_are_written(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    at = int(TUESDAY.timestamp())
    body = b'{"s":"ok","t":[%d],"o":[1.1],"h":[1.10000000000000009],"l":[1e-1],"c":[1],"v":[12345678901]}' % at
    candles(stand_in, Reply(body))
    bench = Bench(stand_in, tmp_path)
    assert bench.run(bench.job("ohlcv-1h", ["AAPL"], TUESDAY, TUESDAY + DAY)).errors == []
    (row,) = bench.stored("ohlcv-1h", "AAPL")
    assert (row["high"], row["low"], row["close"]) == (Decimal("1.10000000000000009"), Decimal("0.1"), 1)
    assert row["volume"] == 12_345_678_901


@pytest.mark.parametrize(
    "said",
    [
        {"s": "ok", "t": [1704153600], "o": [1], "h": [1], "l": [1], "c": [], "v": [1]},
        {"s": "ok", "t": [1704153600], "o": [1], "h": [1], "l": [1], "c": [1]},
        {"s": "error"},
        {},
    ],
)
def test_candles_that_are_not_whole_are_asked_again(
    stand_in: FinnhubStandIn, said: dict[str, object], tmp_path: Path
) -> None:
    candles(stand_in, Reply(said))
    with pytest.raises(TransientError, match="columns of"):
        fetch(Bench(stand_in, tmp_path), "ohlcv-1d")


def test_an_error_with_status_200_is_an_error(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    candles(stand_in, Reply({"error": "Timeframe is not supported"}))
    with pytest.raises(PermanentError, match="Timeframe is not supported"):
        fetch(Bench(stand_in, tmp_path), "ohlcv-1d")


def test_waits_until_the_limit_is_reset(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    stand_in.fail("throttled", seconds=50)
    with pytest.raises(RateLimited, match="API limit reached") as raised:
        fetch(bench, "ohlcv-1d")
    assert raised.value.retry_after is not None
    assert 48 <= raised.value.retry_after <= 50


def test_what_the_headers_say_is_left_is_believed(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    at = int(TUESDAY.timestamp())
    columns = {name: [1.5] for name in "ohlcv"}
    candles(stand_in, Reply({"s": "ok", "t": [at], **columns}, headers={"X-Ratelimit-Remaining": "0"}))
    extractor = Bench(stand_in, tmp_path).extractor("ohlcv-1h")
    (request,) = extractor.requests(Bench(stand_in, tmp_path).job("ohlcv-1h", ["AAPL"], TUESDAY, TUESDAY + DAY))
    list(extractor.pages(request))
    waits: list[float] = []
    extractor.limiter.sleep = waits.append  # type: ignore[attr-defined]
    with suppress(RateLimited):
        for _ in range(1000):
            extractor.limiter.take({})  # type: ignore[attr-defined]
    # one a second comes back of sixty a minute
    assert waits[0] == pytest.approx(1, abs=0.2)


def test_news_are_followed_back_day_by_day(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    bench.run(bench.job("news", ["AAPL"], TUESDAY, TUESDAY + 3 * DAY))
    assert len(bench.stored("news", "AAPL")) == 72
    asked = [(one.params["from"], one.params["to"]) for one in stand_in.log]
    # thirty articles come at once: the older day of two is not whole
    assert asked == [("2024-01-02", f"2024-01-0{day}") for day in (4, 3, 2)]


def test_a_code_of_frequency_is_told_in_words(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    about = {
        "symbol": "AAPL",
        "amount": 0.25,
        "currency": "USD",
        "payDate": "",
        "recordDate": "",
        "declarationDate": "",
    }
    rows = [
        {**about, "date": f"2024-01-0{day}", "freq": freq} for day, freq in ((2, "2"), (3, "3"), (4, ""), (5, "99"))
    ]
    stand_in.dividend = lambda asked: Reply(rows)  # type: ignore[method-assign]
    bench = Bench(stand_in, tmp_path)
    assert bench.run(bench.job("corporate_actions", ["AAPL"], TUESDAY, TUESDAY + 9 * DAY)).errors == []
    stored = bench.stored("corporate_actions", "AAPL")
    assert [row["frequency"] for row in stored] == ["quarterly", "semi-annually", None, "99"]
    assert {row["payable"] for row in stored} == {None}


def test_lists_symbols_of_an_exchange(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    real = stand_in.symbol

    def symbol(asked: Asked) -> Reply:
        assert asked.params == {"exchange": "US"}
        rows = real(asked).body
        return Reply([*rows, {**rows[0], "symbol": "SPY", "description": "SPDR", "type": "ETP"}])

    stand_in.symbol = symbol  # type: ignore[method-assign]
    extractor = Bench(stand_in, tmp_path).extractor("ohlcv-1d")
    found = {listing.symbol: listing for listing in extractor.discover("")}
    assert {name: listing.asset_class for name, listing in found.items()} == {
        "AAPL": "equity", "MSFT": "equity", "SPY": "etf",
    }  # fmt: skip
    assert (found["AAPL"].mic, found["AAPL"].figi, found["AAPL"].currency) == ("XNAS", "BBG000B9Y5X2", "USD")
    assert extractor.check() == [f"{stand_in.url} answers, and knows the key"]


def test_the_zone_exists(stand_in: FinnhubStandIn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zone"):
        Bench(stand_in, tmp_path, {"zone": "New York"}).extractor("ohlcv-1d")
