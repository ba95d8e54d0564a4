"""Any JSON interface by options: windows, authentication, every way of paging, and what is refused unasked."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import NotEntitled
from catalog.errors import RateLimited
from flows.extractors.base import Context
from flows.extractors.rest import RestExtractor
from flows.job import SourceFacts
from flows.options import read_options
from tests.vendors import market
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

START = datetime(2024, 1, 2, tzinfo=UTC)
FIELDS = {"ts_event": "t", "open": "p.o", "high": "p.h", "low": "p.l", "close": "p.c", "volume": "v"}
HOURS = 50


class AnyVendor(StandIn):
    """Hourly bars in whatever way a test asks; gives at most `cap` rows a page, whatever it is asked for."""

    keys = {"TOKEN": "t0ken"}
    cap = 1000

    def __init__(self) -> None:
        super().__init__()
        # not in the registry's scan: it stands for no vendor in particular
        self.vendor = "rest"

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/v1/bars/(.+)", self.bars),
            (r"/v1/said", lambda asked: Reply({"error": {"message": f"key {self.keys['TOKEN']} has no plan"}})),
        )

    def options(self, schema: str) -> Row:
        return {
            "base_url": self.url,
            "path": "v1/bars/{symbol}",
            "params": {"from": "{start}", "to": "{end}", "limit": "{rows}"},
            "records": "data.items",
            "fields": FIELDS,
            "page_rows": 20,
        }

    def bars(self, asked: Asked) -> Reply:
        params = asked.params
        low = self.moment(params["from"])
        if "last" in params:
            high = self.moment(params["last"])
            high += timedelta(days=1) if len(params["last"]) == 10 else timedelta(microseconds=1)
        else:
            high = self.moment(params["to"])
        rows = [
            {
                "t": bar.time.isoformat(), "v": float(bar.volume),
                "p": {"o": float(bar.open), "h": float(bar.high), "l": float(bar.low), "c": float(bar.close)},
            }
            for bar in market.bars(asked.parts[0], 3600, low, high)
        ]  # fmt: skip
        rows_a_page = min(int(params["limit"]), self.cap)
        first = int(params.get("skip", 0)) + rows_a_page * (int(params.get("page", 1)) - 1)
        if "token" in params:
            first = int(params["token"])
        page = rows[first : first + rows_a_page]
        onward = first + len(page)
        more = onward < len(rows)
        said: Row = {"data": {"items": page}}
        if more:
            said["next"] = {"token": onward, "url": f"https://elsewhere.example{asked.path}?token={onward}&" + "&".join(
                f"{name}={params[name]}" for name in ("from", "to", "limit")
            )}  # fmt: skip
        return Reply(said)

    @staticmethod
    def moment(text: str) -> datetime:
        if text.isdigit():
            return market.EPOCH + timedelta(seconds=int(text) / (1000 if len(text) > 10 else 1))
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@pytest.fixture
def vendor() -> Iterator[AnyVendor]:
    with AnyVendor() as running:
        yield running


def truth(symbol: str, start: datetime, end: datetime) -> list[Row]:
    return [
        {"ts_event": bar.time, "open": bar.open, "close": bar.close} for bar in market.bars(symbol, 3600, start, end)
    ]


def collect(bench: Bench, *ends: datetime, symbol: str = "A/B") -> list[str]:
    """Run the series up to each end, one after the other; returns the errors."""
    errors = []
    for end in ends:
        errors += bench.run(bench.job("ohlcv-1h", [symbol], START, end)).errors
    return errors


@pytest.mark.parametrize(
    "paging",
    [
        {"paging": "offset", "paging_name": "skip"},
        {"paging": "page", "paging_name": "page"},
        {"paging": "token", "paging_name": "token", "paging_place": "next.token"},
        {"paging": "link", "paging_place": "next.url"},
        {"paging": "none", "page_rows": 1000},
        {"paging": "none", "page_rows": 30, "window_days": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.parametrize("cap", [1000, 7])
def test_every_way_of_paging_is_complete(vendor: AnyVendor, tmp_path: Path, paging: Row, cap: int) -> None:
    if cap == 7 and paging["paging"] in ("none", "page"):
        pytest.skip(
            "nobody can know that there is more" if paging["paging"] == "none" else "pages are as long as asked"
        )
    vendor.cap = cap
    bench = Bench(vendor, tmp_path, paging)
    end = START + timedelta(hours=HOURS)
    assert collect(bench, end) == []
    assert matches(bench.stored("ohlcv-1h", "A/B"), truth("A/B", START, end))


@pytest.mark.parametrize(
    ("times", "params"),
    [
        ("iso", {"from": "{start}", "to": "{end}"}),
        ("iso", {"from": "{start}", "last": "{last}"}),
        ("date", {"from": "{start}", "to": "{end}"}),
        ("date", {"from": "{start}", "last": "{last}"}),
        ("s", {"from": "{start}", "to": "{end}"}),
        ("ms", {"from": "{start}", "to": "{end}"}),
    ],
)
def test_one_run_after_the_other_misses_nothing(
    vendor: AnyVendor, tmp_path: Path, times: str, params: dict[str, str]
) -> None:
    bench = Bench(vendor, tmp_path, {"times": times, "params": params | {"limit": "{rows}"}, "page_rows": 1000})
    ends = [START + timedelta(hours=hours) for hours in (5, 29, 29.5, HOURS)]
    assert collect(bench, *ends) == []
    assert matches(bench.stored("ohlcv-1h", "A/B"), truth("A/B", START, ends[-1]))


def test_a_full_answer_without_paging_is_refused(vendor: AnyVendor, tmp_path: Path) -> None:
    (error,) = collect(Bench(vendor, tmp_path), START + timedelta(hours=HOURS))
    assert "20 records, as many as were asked for: there may be more" in error


def test_a_token_that_comes_again_ends_the_fetch(vendor: AnyVendor, tmp_path: Path) -> None:
    options = {"paging": "token", "paging_name": "token", "paging_place": "next.token"}
    bars = vendor.bars

    def stuck(asked: Asked) -> Reply:
        said: Any = bars(asked).body
        return Reply(said | {"next": {"token": 20}})

    vendor.bars = stuck  # type: ignore[method-assign]
    (error,) = collect(Bench(vendor, tmp_path, options), START + timedelta(hours=HOURS))
    assert "was asked already" in error
    assert len(vendor.log) == 2


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"auth": "bearer"}, ("headers", "authorization", "Bearer t0ken")),
        ({"auth": "header", "auth_name": "X-Key"}, ("headers", "x-key", "t0ken")),
        ({"auth": "query", "auth_name": "apikey"}, ("params", "apikey", "t0ken")),
        ({"auth": "basic", "auth_name": "me"}, ("headers", "authorization", "Basic bWU6dDBrZW4=")),
        ({"extra_headers": {"X-Plan": "free"}}, ("headers", "x-plan", "free")),
    ],
)
def test_every_way_of_authentication(
    vendor: AnyVendor, tmp_path: Path, options: Row, place: tuple[str, str, str]
) -> None:
    assert collect(Bench(vendor, tmp_path, options | {"page_rows": 1000}), START + timedelta(hours=2)) == []
    where, name, value = place
    assert getattr(vendor.log[0], where)[name] == value


def test_an_error_inside_a_good_answer_is_told_apart_and_hides_the_key(vendor: AnyVendor, tmp_path: Path) -> None:
    options = {"path": "v1/said", "error_place": "error.message", "errors": {"has no plan": "entitlement"}}
    bench = Bench(vendor, tmp_path, options)
    extractor = bench.extractor("ohlcv-1h")
    job = bench.job("ohlcv-1h", ["A"], START, START + timedelta(hours=1))
    with pytest.raises(NotEntitled, match=r"key \*\*\* has no plan"):
        list(extractor.pages(next(iter(extractor.requests(job)))))
    limited = Bench(vendor, tmp_path, options | {"errors": {"no plan": "limit"}}).extractor("ohlcv-1h")
    with pytest.raises(RateLimited):
        list(limited.pages(next(iter(limited.requests(job)))))


def test_a_key_with_a_line_break_is_refused_before_it_can_be_shown(vendor: AnyVendor, tmp_path: Path) -> None:
    bench = Bench(vendor, tmp_path, {"auth": "bearer"}, keys={"TOKEN": "s3cret\n"})
    (error,) = collect(bench, START + timedelta(hours=1))
    assert "VENDOR_TOKEN holds a line break" in error
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"path": "x/{what}"}, "{what} means nothing here"),
        ({"params": {"a": "{0}"}}, "{0} means nothing here"),
        ({"base_url": "http://user:pw@x.example"}, "no user, password"),
        ({"base_url": "file:///etc/passwd"}, "accepted: http or https"),
        ({"base_url": "http://169.254.169.254/latest"}, "link-local"),
        ({"base_url": "http://[fe80::1]"}, "link-local"),
        ({"timezone": "Mars"}, "no such time zone"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(options: Row, fault: str) -> None:
    given = {"base_url": "http://x.example", "path": "p", "fields": FIELDS} | options
    with pytest.raises(ConfigError) as refused:
        read_options("source 'x'", RestExtractor.Options, given)
    assert fault in str(refused.value)


def test_columns_are_checked_against_the_schema_all_at_once(vendor: AnyVendor, tmp_path: Path) -> None:
    options = {"fields": {"ts_event": "t", "price": "p"}, "paging": "token"}
    (error,) = collect(Bench(vendor, tmp_path, options), START + timedelta(hours=1))
    assert "has no column 'price'" in error
    assert "does not say where column 'open' is" in error
    assert "needs option 'paging_place'" in error
    assert "needs option 'paging_name'" in error
    assert vendor.log == []


def test_a_symbol_stays_one_part_of_the_path(vendor: AnyVendor, tmp_path: Path) -> None:
    symbol = "../../etc?x=1#y"
    bench = Bench(vendor, tmp_path, {"page_rows": 1000})
    assert collect(bench, START + timedelta(hours=2), symbol=symbol) == []
    assert vendor.log[0].path == "/v1/bars/..%2F..%2Fetc%3Fx%3D1%23y"


def test_a_missing_key_is_named() -> None:
    options = {"base_url": "http://x.example", "path": "p", "fields": FIELDS, "auth": "bearer"}
    with pytest.raises(AuthFailed, match="X_TOKEN is not set"):
        RestExtractor(SourceFacts(1, "x", "rest", options, "X"), Context()).headers()
