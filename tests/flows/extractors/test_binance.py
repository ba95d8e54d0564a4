"""What the contract cannot know of Binance: what its two markets allow, and pages that are shorter than asked."""

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from flows.extractors.http import HttpExtractor
from tests.vendors.binance import BinanceStandIn
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply


@pytest.fixture
def vendor() -> Iterator[BinanceStandIn]:
    with BinanceStandIn() as running:
        yield running


def extractor(bench: Bench) -> HttpExtractor:
    made = bench.extractor("ohlcv-1h")
    assert isinstance(made, HttpExtractor)
    return made


def test_a_page_that_is_shorter_than_asked_is_not_the_end(vendor: BinanceStandIn, tmp_path: Path) -> None:
    klines = vendor.klines

    def capped(asked: Asked) -> Reply:
        return Reply(klines(asked).body[:30])

    vendor.klines = capped  # type: ignore[method-assign]
    bench = Bench(vendor, tmp_path)
    window = vendor.windows["ohlcv-1h"]
    assert bench.run(bench.job("ohlcv-1h", ["BTCUSDT"], *window)).errors == []
    assert matches(bench.stored("ohlcv-1h", "BTCUSDT"), vendor.truth("ohlcv-1h", "BTCUSDT", *window))


def test_spot_is_not_asked_for_more_rows_than_it_gives(vendor: BinanceStandIn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spot gives at most 1,000 rows"):
        extractor(Bench(vendor, tmp_path, {"page_rows": 1001}))
    assert extractor(Bench(vendor, tmp_path, {"page_rows": 1500, "market": "usdt-futures"}))


@pytest.mark.parametrize(("market", "weight"), [("spot", 6000), ("usdt-futures", 2400)])
def test_each_market_has_its_own_limit_and_its_header_is_believed(
    vendor: BinanceStandIn, tmp_path: Path, market: str, weight: int
) -> None:
    made = extractor(Bench(vendor, tmp_path, {"market": market}))
    assert {quota.name: quota.amount for quota in made.limiter.quotas} == {"weight": weight}
    made.observe({"x-mbx-used-weight-1m": str(weight - 7)})
    assert made.limiter.buckets.take(made.limiter.quotas, {"weight": 8}) > 0
    assert made.limiter.buckets.take(made.limiter.quotas, {"weight": 7}) == 0


def test_what_is_published_later_is_not_asked_yet(vendor: BinanceStandIn, tmp_path: Path) -> None:
    bench = Bench(vendor, tmp_path, {"delay_minutes": 90})
    now = datetime.now(UTC)
    for schema, latest in (("trades", now - timedelta(minutes=90)), ("ohlcv-1h", now - timedelta(minutes=120))):
        job = bench.job(schema, ["BTCUSDT"], now - timedelta(hours=9), now)
        end = max(request.end for request in bench.extractor(schema).requests(job))
        assert latest - timedelta(minutes=31) < end <= latest + timedelta(seconds=5)
