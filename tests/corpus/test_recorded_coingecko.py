"""CoinGecko's recorded answers through the vendor's parser and refine, against an independent reading."""

import json
import re
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from catalog.errors import DataflowError
from catalog.errors import PermanentError
from catalog.errors import TransientError
from catalog.schemas import schema as schema_called
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import Refined
from catalog.schemas.refine import refine
from flows import registry
from flows.extractors.base import Context
from flows.job import SourceFacts
from flows.landing import Landing
from flows.landing import Page
from tests.vendors.coingecko import CoinGeckoStandIn
from tests.vendors.harness import Bench
from tests.vendors.server import Asked
from tests.vendors.server import Reply

pytestmark = pytest.mark.corpus

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: what lies in the corpus and has no rows of a schema of this vendor
OTHERS = {
    r"/simple/price": "one current price, without its time",
    r"/coins/[^/]+": "a snapshot of everything, whose values are of many times",
    r"/coins/[^/]+/history": "a day's value in all currencies; the chart gives the same with its time",
    r"/coins/[^/]+/contract/[^/]+": "a snapshot, found by contract",
    r"/coins/markets": "a snapshot of many coins: fetched at a moment, not over a window",
    r"/coins/[^/]+/tickers": "prices of single venues, without bars",
    r"/coins/categories(/list)?": "names of categories",
    r"/exchanges.*": "venues: what they are and how much they traded",
    r"/derivatives/.*": "venues of derivatives",
    r"/(indexes|finance_platforms|events|global|status_updates).*": "not of one asset",
    r"/key": "what is used of the plan",
    r"/ping": "whether it answers",
}


class _Loader(yaml.SafeLoader):
    """Cassettes keep bodies as `!binary`, which the safe loader reads as bytes."""


_Loader.add_constructor("!binary", lambda loader, node: yaml.SafeLoader.construct_yaml_binary(loader, node))


def recorded(corpus: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield (address, status, body) of every recorded answer."""
    for path in sorted((corpus / "coingecko/vcr").glob("*.yml")):
        for turn in yaml.load(path.read_text(), _Loader)["http_interactions"]:
            body = turn["response"]["body"]["string"]
            content = body.encode() if isinstance(body, str) else body
            yield turn["request"]["uri"], turn["response"]["status"]["code"], content
    for path in sorted((corpus / "coingecko/endpoints").glob("*.txt")):
        _, address, _, body = path.read_text(encoding="utf-8-sig").split("\n", 3)
        yield address.strip(), 200, body.encode()


def path_of(address: str) -> str:
    return address.partition("?")[0].partition("/api/v3")[2]


def refined(tmp_path: Path, schema: str, content: bytes, facts: dict[str, Any]) -> Refined:
    """Land the recorded bytes, parse them and refine the rows."""
    landing = Landing(tmp_path)
    landing.begin("cg", 1, {"schema": schema})
    landing.write("cg", 1, 0, Page("application/json", [content], facts={"symbol": "bitcoin", **facts}))
    (page,) = landing.pages("cg", 1)
    # parsing wants no secret
    extractor = registry.extractor("coingecko")(SourceFacts(1, "cg", "coingecko", {}, "CG"), Context())
    (batch,) = extractor.parse(page, {})
    table = batch.table.append_column("instrument", batch.table["symbol"]).drop_columns(["symbol"])
    found = refine(schema_called(schema), table, Facts(1, datetime.now(UTC)), Ordinals())
    return Refined(found.accepted, pa.concat_tables([batch.rejected, found.rejected]), found.duplicates)


def exact(content: bytes) -> Any:
    return json.loads(content, parse_float=Decimal)


def sound(bar: list[Any]) -> bool:
    _, opening, high, low, close = bar
    return bool(high >= max(opening, close, low) and low <= min(opening, close) and low > 0)


def test_bars_are_the_recorded_ones_by_their_open(corpus: Path, tmp_path: Path) -> None:
    bars = [(address, body) for address, status, body in recorded(corpus) if "/ohlc" in address and status == 200]
    assert len(bars) == 2
    for number, (address, body) in enumerate(bars):
        said = exact(body)
        found = refined(tmp_path / str(number), "ohlcv-4h", body, {})
        assert found.accepted.num_rows + found.rejected.num_rows == len(said), address
        expected = [
            (EPOCH + timedelta(milliseconds=bar[0]) - timedelta(hours=4), *(Decimal(value) for value in bar[1:]))
            for bar in said
            if sound(bar)
        ]
        names = ("ts_event", "open", "high", "low", "close")
        rows = [tuple(row[name] for name in names) for row in found.accepted.to_pylist()]
        assert rows == sorted(expected), address
        assert found.accepted["volume"].null_count == len(rows)
    assert max(len(exact(body)) for _, body in bars) == 180


@pytest.mark.parametrize("kind", ["daily", "hourly"])
def test_points_are_the_recorded_ones(corpus: Path, tmp_path: Path, kind: str) -> None:
    charts = [body for address, _, body in recorded(corpus) if "market_chart" in address]
    assert len(charts) == 2
    for number, body in enumerate(charts):
        said = exact(body)
        window = {"kind": kind, "currency": "usd", "start": 0, "end": 2**50}
        found = refined(tmp_path / str(number), "market_cap", body, window)
        expected = [
            (EPOCH + timedelta(milliseconds=time), Decimal(price), Decimal(value), Decimal(volume))
            for (time, price), (_, value), (_, volume) in zip(
                said["prices"], said["market_caps"], said["total_volumes"], strict=True
            )
        ]
        if kind == "daily":
            # the last one is "now"
            assert expected.pop()[0] == datetime(2024, 4, 1, 15, 1, 22, tzinfo=UTC)
        names = ("ts_event", "price", "market_cap", "volume_24h")
        assert [tuple(row[name] for name in names) for row in found.accepted.to_pylist()] == expected
        assert found.rejected.num_rows == (1 if kind == "daily" else 0)
        assert set(found.accepted["currency"].to_pylist()) == {"usd"}


def test_every_other_answer_is_of_an_endpoint_without_rows(corpus: Path) -> None:
    for address, _, _ in recorded(corpus):
        path = path_of(address)
        known = "market_chart" in path or path.endswith(("/ohlc", "/coins/list"))
        assert known or any(re.fullmatch(pattern, path) for pattern in OTHERS), path


def test_the_recorded_list_is_listed(corpus: Path, tmp_path: Path) -> None:
    (body,) = [body for address, _, body in recorded(corpus) if path_of(address) == "/coins/list"]

    class Replayed(CoinGeckoStandIn):
        def coins(self, asked: Asked) -> Reply:
            return Reply(body)

    with Replayed() as replayed:
        extractor = Bench(replayed, tmp_path).extractor("market_cap")
        found = [(listing.symbol, listing.name) for listing in extractor.discover("")]
    assert found == [(coin["id"], f"{coin['name']} ({coin['symbol'].upper()})") for coin in exact(body)]


def test_recorded_refusals_mean_what_they_say(corpus: Path, tmp_path: Path) -> None:
    refusals = [(status, body) for _, status, body in recorded(corpus) if status >= 400]
    assert {status for status, _ in refusals} == {422, 500}
    for number, (status, body) in enumerate(refusals):

        class Replayed(CoinGeckoStandIn):
            said = Reply(body, status)

            def chart_range(self, asked: Asked) -> Reply:
                return self.said

        wanted: type[DataflowError] = TransientError if status == 500 else PermanentError
        with Replayed() as replayed:
            bench = Bench(replayed, tmp_path / str(number))
            job = bench.job("market_cap", ["bitcoin"], *replayed.windows["market_cap"])
            request = next(iter(bench.extractor("market_cap").requests(job)))
            with pytest.raises(wanted, match=re.escape(json.loads(body)["error"])):
                list(bench.extractor("market_cap").pages(request))
