"""CoinGecko's own traps, over the socket: distances of points, "now", closes, how far back, plans."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import SchemaMismatch
from catalog.errors import UnknownSymbol
from flows.extractors.coingecko import CoinGeckoOptions
from flows.landing import Landing
from flows.work import Outcome
from tests.vendors import market
from tests.vendors.coingecko import CoinGeckoStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.fixture
def stand_in() -> Iterator[CoinGeckoStandIn]:
    with CoinGeckoStandIn() as server:
        yield server


def floor(moment: datetime, step: timedelta) -> datetime:
    return market.EPOCH + (moment - market.EPOCH) // step * step


def run(bench: Bench, schema: str, start: datetime, end: datetime) -> Outcome:
    return bench.run(bench.job(schema, ["bitcoin"], start, end))


def fetch(bench: Bench, schema: str, symbol: str = "bitcoin", start: datetime = START) -> None:
    extractor = bench.extractor(schema)
    for request in extractor.requests(bench.job(schema, [symbol], start, start + 3 * DAY)):
        list(extractor.pages(request))


def test_a_time_that_one_array_lacks_is_null_there(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    # at midnight points are not late
    stand_in.holes = {("market_cap", START), ("price", START + DAY), ("volume_24h", START + 2 * DAY)}
    bench = Bench(stand_in, tmp_path, {"granularity": "daily"})
    assert run(bench, "market_cap", START, START + 4 * DAY).errors == []
    stored = bench.stored("market_cap", "bitcoin")
    assert matches(stored, list(stand_in.points("bitcoin", 86_400, START, START + 4 * DAY)))
    assert [row["market_cap"] is None for row in stored] == [True, False, False, False]
    assert [row["price"] is None for row in stored] == [False, True, False, False]
    assert [row["volume_24h"] is None for row in stored] == [False, False, True, False]


@pytest.mark.parametrize(("granularity", "step"), [("5m", timedelta(minutes=5)), ("hourly", HOUR), ("daily", DAY)])
def test_now_lands_and_is_counted_and_not_delivered(
    stand_in: CoinGeckoStandIn, tmp_path: Path, granularity: str, step: timedelta
) -> None:
    now = datetime.now(UTC)
    stand_in.now = lambda: now
    bench = Bench(stand_in, tmp_path, {"granularity": granularity})
    start = floor(now - 10 * step, step)
    outcome = run(bench, "market_cap", start, now)
    assert outcome.errors == []
    stored = bench.stored("market_cap", "bitcoin")
    (fetched,) = bench.ledger.fetches
    end = bench.ledger.requests[fetched.id].end
    assert now - 2 * step - timedelta(hours=1) < end <= now
    assert matches(stored, list(stand_in.points("bitcoin", step // timedelta(seconds=1), start, end)))
    (page,) = Landing(tmp_path).pages(fetched.source, fetched.id)
    tally = outcome.tallies["shelf"]
    assert (tally.new, tally.quarantined) == (len(stored), 0)
    assert tally.filtered == tally.parsed - len(stored) > 0
    # as far as the vendor's answer reaches the present: a range ends where the window does
    assert (str(int(now.timestamp() * 1000)).encode() in page.read()) == (granularity == "5m")


def test_now_of_an_old_answer_is_kept_apart(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    # a cache answers at 12:10 with what was; the day's window is over
    cached = datetime(2024, 3, 5, 12, 10, tzinfo=UTC)
    stand_in.now = lambda: cached
    bench = Bench(stand_in, tmp_path, {"granularity": "daily"})
    start = START - 60 * DAY
    outcome = run(bench, "market_cap", start, datetime(2024, 3, 10, tzinfo=UTC))
    assert outcome.errors == []
    expected = list(stand_in.points("bitcoin", 86_400, start, datetime(2024, 3, 6, tzinfo=UTC)))
    assert matches(bench.stored("market_cap", "bitcoin"), expected)
    ((rule, reason, _),) = bench.ledger.quarantined.values()
    assert "daily grid" in rule + reason


@pytest.mark.parametrize(("granularity", "least"), [("hourly", 2 * DAY), ("daily", 91 * DAY)])
def test_a_short_window_is_asked_long_enough_for_its_distance(
    stand_in: CoinGeckoStandIn, tmp_path: Path, granularity: str, least: timedelta
) -> None:
    bench = Bench(stand_in, tmp_path, {"granularity": granularity})
    end = START + 2 * DAY
    outcome = run(bench, "market_cap", end - DAY, end)
    seconds = {"hourly": 3600, "daily": 86_400}[granularity]
    truth = list(stand_in.points("bitcoin", seconds, end - DAY, end))
    assert matches(bench.stored("market_cap", "bitcoin"), truth)
    (asked,) = stand_in.log
    assert int(asked.params["to"]) - int(asked.params["from"]) == least.total_seconds()
    assert outcome.tallies["shelf"].filtered > 0


def test_hourly_windows_are_never_longer_than_ninety_days(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    assert run(bench, "market_cap", START, START + 200 * DAY).errors == []
    lengths = [int(asked.params["to"]) - int(asked.params["from"]) for asked in stand_in.log]
    assert len(lengths) >= 3
    assert max(lengths) <= 90 * 86_400
    assert matches(
        bench.stored("market_cap", "bitcoin"), list(stand_in.points("bitcoin", 3600, START, START + 200 * DAY))
    )


def test_points_at_another_distance_are_refused(tmp_path: Path) -> None:
    class Coarse(CoinGeckoStandIn):
        def chart_range(self, asked: Asked) -> Reply:
            return super().chart_range(
                Asked(
                    asked.method, asked.path, {**asked.params, "from": "1600000000"}, asked.headers, parts=asked.parts
                )
            )

    with Coarse() as coarse, pytest.raises(PermanentError, match="one every 3600 s, but they come one every 86400 s"):
        fetch(Bench(coarse, tmp_path), "market_cap")


@pytest.mark.parametrize(("schema", "step", "days"), [("ohlcv-30m", HOUR / 2, 1), ("ohlcv-4h", 4 * HOUR, 30)])
def test_bars_are_given_so_many_days_back_and_an_unfinished_one_is_not_taken(
    stand_in: CoinGeckoStandIn, tmp_path: Path, schema: str, step: timedelta, days: int
) -> None:
    now = datetime.now(UTC)
    stand_in.now = lambda: now
    bench = Bench(stand_in, tmp_path)
    outcome = run(bench, schema, floor(now, DAY) - (days + 3) * DAY, now)
    (error,) = outcome.errors
    assert f"for {days} days back from now only" in error
    # what is in reach came all the same
    (fetched,) = [fetched for fetched in bench.ledger.fetches if fetched.complete]
    request = bench.ledger.requests[fetched.id]
    assert now - request.start > days * DAY - 3 * step
    assert request.end <= floor(now, step)
    stored = bench.stored(schema, "bitcoin")
    assert matches(stored, stand_in.truth(schema, "bitcoin", request.start, request.end))
    assert stored[-1]["ts_event"] + step == request.end


def test_points_of_five_minutes_are_given_for_a_day(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path, {"granularity": "5m"})
    (error,) = run(bench, "market_cap", datetime.now(UTC) - 3 * DAY, datetime.now(UTC)).errors
    assert "5m is given for 1 days back from now only" in error
    assert len(bench.stored("market_cap", "bitcoin")) > 280


def test_what_a_free_plan_cannot_have_costs_one_call_and_the_rest_comes(
    stand_in: CoinGeckoStandIn, tmp_path: Path
) -> None:
    today = floor(datetime.now(UTC), DAY)
    bench = Bench(stand_in, tmp_path, {"plan": "demo"})
    outcome = run(bench, "market_cap", today - 1000 * DAY, today - DAY)
    (error,) = outcome.errors
    assert "10012" in error
    stored = bench.stored("market_cap", "bitcoin")
    now = datetime.now(UTC)
    assert now - 365 * DAY < stored[0]["ts_event"] < now - 364 * DAY
    assert matches(stored, list(stand_in.points("bitcoin", 3600, stored[0]["ts_event"], today - DAY)))
    assert len(stand_in.log) <= 7


@pytest.mark.parametrize("plan", ["public", "demo"])
@pytest.mark.parametrize(
    ("granularity", "back", "until"),
    [
        ("hourly", timedelta(days=364, hours=20), timedelta(days=363, hours=20)),
        ("daily", 360 * DAY, 350 * DAY),
        ("daily", 200 * DAY, 190 * DAY),
    ],
)
def test_a_window_near_the_limit_is_ended_later_not_begun_earlier(
    stand_in: CoinGeckoStandIn, tmp_path: Path, granularity: str, back: timedelta, until: timedelta, plan: str
) -> None:
    # of the step, not of the day: how far back may be asked moves with the hour
    step = {"hourly": HOUR, "daily": DAY}[granularity]
    now = floor(datetime.now(UTC), step)
    start, end = now - back, now - until
    bench = Bench(stand_in, tmp_path, {"plan": plan, "granularity": granularity}, {} if plan == "public" else None)
    assert run(bench, "market_cap", start, end).errors == []
    points = stand_in.points("bitcoin", step // timedelta(seconds=1), start, end)
    assert matches(bench.stored("market_cap", "bitcoin"), list(points))
    (asked,) = stand_in.log
    assert int(asked.params["from"]) == (start if back > 300 * DAY else end - 91 * DAY).timestamp()
    assert int(asked.params["to"]) < datetime.now(UTC).timestamp()


def test_the_distance_of_points_is_fixed_once_rows_are_stored(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    assert "granularity" in type(Bench(stand_in, tmp_path).extractor("market_cap")).value_options


def test_nothing_is_asked_from_before_the_first_bars(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    job = bench.job("ohlcv-1d", ["bitcoin"], datetime(1970, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))
    assert min(request.start for request in bench.extractor("ohlcv-1d").requests(job)) == datetime(
        2018, 2, 9, tzinfo=UTC
    )


def test_a_young_coin_is_complete(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    today = floor(datetime.now(UTC), DAY)
    stand_in.listed = today - 5 * DAY
    bench = Bench(stand_in, tmp_path)
    assert run(bench, "ohlcv-4h", today - 20 * DAY, today - DAY).errors == []
    truth = stand_in.truth("ohlcv-4h", "bitcoin", today - 5 * DAY, today - DAY)
    assert matches(bench.stored("ohlcv-4h", "bitcoin")[-len(truth) :], truth)


@pytest.mark.parametrize("plan", ["public", "demo", "pro"])
def test_each_plan_has_its_host_and_its_header(stand_in: CoinGeckoStandIn, tmp_path: Path, plan: str) -> None:
    assert CoinGeckoOptions.model_validate({"plan": plan}).base_url == (
        "https://pro-api.coingecko.com/api/v3" if plan == "pro" else "https://api.coingecko.com/api/v3"
    )
    assert CoinGeckoOptions.model_validate({"plan": plan, "base_url": "http://proxy/x"}).base_url == "http://proxy/x"
    bench = Bench(stand_in, tmp_path, {"plan": plan}, keys={} if plan == "public" else None)
    fetch(bench, "market_cap", start=floor(datetime.now(UTC), DAY) - 9 * DAY)
    (asked,) = stand_in.log
    sent = {name: value for name, value in asked.headers.items() if name.startswith("x-cg-")}
    assert sent == ({} if plan == "public" else {f"x-cg-{plan}-api-key": "CG-right"})


@pytest.mark.parametrize("schema", ["ohlcv-1h", "ohlcv-1d", "market_cap"])
def test_what_only_pro_has_is_not_entitled(stand_in: CoinGeckoStandIn, tmp_path: Path, schema: str) -> None:
    # bars of these lengths, and points older than a year
    with pytest.raises(NotEntitled, match=r"10005|10012"):
        fetch(Bench(stand_in, tmp_path, {"plan": "demo"}), schema)


def test_a_currency_nobody_knows_is_a_wrong_setting(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="invalid vs_currency"):
        fetch(Bench(stand_in, tmp_path, {"vs_currency": "florins"}), "market_cap")


def test_a_symbol_stays_one_part_of_the_path(stand_in: CoinGeckoStandIn, tmp_path: Path) -> None:
    with pytest.raises(UnknownSymbol, match="coin not found"):
        fetch(Bench(stand_in, tmp_path), "market_cap", "bitcoin/../list?x=1#")
    assert stand_in.log[0].path == "/api/v3/coins/bitcoin%2F..%2Flist%3Fx%3D1%23/market_chart/range"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"status": {"error_code": 10005, "error_message": "limited to PRO API subscribers"}}, NotEntitled),
        ({"status": {"error_code": 10002, "error_message": "API Key Missing"}}, AuthFailed),
        ({"error": "coin not found"}, UnknownSymbol),
        ({"error": {"status": {"error_code": 10011, "error_message": "Invalid API Key"}}}, AuthFailed),
        ({"prices": [["soon", 1]], "market_caps": [], "total_volumes": []}, SchemaMismatch),
        ({"points": []}, SchemaMismatch),
    ],
)
def test_an_error_inside_a_good_answer_is_seen(tmp_path: Path, body: object, error: type[Exception]) -> None:
    class Odd(CoinGeckoStandIn):
        def chart_range(self, asked: Asked) -> Reply:
            return Reply(body)

    with Odd() as odd, pytest.raises(error):
        fetch(Bench(odd, tmp_path), "market_cap")


def test_a_time_twice_with_two_values_is_not_chosen_from(tmp_path: Path) -> None:
    class Twice(CoinGeckoStandIn):
        def chart_range(self, asked: Asked) -> Reply:
            time = int(START.timestamp() * 1000)
            pairs = [[time, 1.5], [time, 2.5], [time + 3_600_000, 3.5]]
            return Reply({"prices": pairs, "market_caps": pairs, "total_volumes": pairs})

    with Twice() as twice:
        bench = Bench(twice, tmp_path)
        outcome = run(bench, "market_cap", START, START + 3 * DAY)
    assert outcome.tallies["shelf"].quarantined >= 1
    assert [row["ts_event"] for row in bench.stored("market_cap", "bitcoin")][-1] == START + HOUR
    assert all("one row for each key" in reason for _, reason, _ in bench.ledger.quarantined.values())


def test_the_vendors_own_client_accepts_the_stand_in(stand_in: CoinGeckoStandIn) -> None:
    from coingecko_sdk import AuthenticationError
    from coingecko_sdk import Coingecko
    from coingecko_sdk import NotFoundError

    url = f"{stand_in.url}/api/v3"
    end = floor(datetime.now(UTC), DAY) - DAY
    start = end - 3 * DAY
    with Coingecko(demo_api_key="CG-right", base_url=url, max_retries=0) as client:
        seconds = {"from_": str(int(start.timestamp())), "to": str(int(end.timestamp()) - 1)}
        chart = client.coins.market_chart.get_range("bitcoin", vs_currency="usd", **seconds)
        truth = stand_in.truth("market_cap", "bitcoin", start, end)
        assert len(truth) == 72
        times = [row["ts_event"].timestamp() * 1000 for row in truth]
        for array, column in ((chart.prices, "price"), (chart.market_caps, "market_cap")):
            assert array == [[round(time), float(row[column])] for time, row in zip(times, truth, strict=True)]
        assert chart.total_volumes == [
            [round(time), float(row["volume_24h"])] for time, row in zip(times, truth, strict=True)
        ]
        # named by their close, the last one unfinished
        bars = client.coins.ohlc.get("bitcoin", days="7", vs_currency="usd")
        opened = {market.EPOCH + timedelta(milliseconds=bar[0]) - 4 * HOUR: bar[1:] for bar in bars}
        for right in stand_in.truth("ohlcv-4h", "bitcoin", start, end):
            assert opened[right["ts_event"]] == [float(right[name]) for name in ("open", "high", "low", "close")]
        assert max(opened) + 4 * HOUR > datetime.now(UTC)
        assert [coin.id for coin in client.coins.list.get()] == ["bitcoin", "matic-network"]
        with pytest.raises(NotFoundError):
            client.coins.market_chart.get_range("nosuch", vs_currency="usd", **seconds)
    with Coingecko(pro_api_key="CG-right", base_url=url, max_retries=0) as client:
        window = {"from_": str(int(START.timestamp()) + 1), "to": str(int((START + DAY).timestamp()))}
        bars = client.coins.ohlc.get_range("bitcoin", interval="hourly", vs_currency="usd", **window)
        right = stand_in.truth("ohlcv-1h", "bitcoin", START, START + DAY)
        assert [bar[4] for bar in bars] == [float(row["close"]) for row in right]
    with (
        Coingecko(demo_api_key="CG-wrong", base_url=url, max_retries=0) as client,
        pytest.raises(AuthenticationError),
    ):
        client.coins.list.get()
