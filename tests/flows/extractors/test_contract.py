"""What every vendor keeps, by existing: the registry is scanned; each meets its stand-in over a real socket."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from catalog.errors import NotEntitled
from catalog.errors import PermanentError
from catalog.errors import UnknownSymbol
from catalog.schemas import SCHEMAS
from flows import registry
from flows.extractors.base import BaseHistoricalExtractor
from flows.extractors.http import HttpExtractor
from flows.job import Job
from flows.options import Options
from flows.quotes import Quote
from tests.vendors.catalogue import stand_ins
from tests.vendors.harness import Bench
from tests.vendors.harness import matches
from tests.vendors.server import PASSING_FAULTS
from tests.vendors.server import StandIn

VENDORS = [name for name, vendor in registry.extractors().items() if issubclass(vendor, HttpExtractor)]
SERVED = [(name, schema) for name in VENDORS if name in stand_ins() for schema in stand_ins()[name].windows]


@pytest.fixture
def stand_in(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with stand_ins()[request.param]() as server:
        yield server


def each_vendor() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stand_in", [name for name in VENDORS if name in stand_ins()], indirect=True)


def each_schema() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("stand_in", "schema"), SERVED, indirect=["stand_in"])


def first_schema(stand_in: StandIn) -> str:
    return next(iter(stand_in.windows))


def expect(bench: Bench, schema: str, symbols: list[str]) -> None:
    start, end = bench.stand_in.windows[schema]
    for symbol in symbols:
        truth = bench.stand_in.truth(schema, symbol, start, end)
        assert truth, "a window without rows proves nothing"
        stored = bench.stored(schema, symbol)
        assert matches(stored, truth), (symbol, len(stored), len(truth), stored[:2], truth[:2])


def fetched(extractor: BaseHistoricalExtractor, job: Job) -> PermanentError | None:
    """Ask for everything; returns what the vendor's border raised."""
    try:
        for request in extractor.requests(job):
            list(extractor.pages(request))
    except PermanentError as error:
        return error
    return None


@pytest.mark.parametrize("name", sorted(registry.extractors()))
def test_declares_itself(name: str) -> None:
    vendor = registry.extractor(name)
    halves = [half[name] for half in (registry.historical(), registry.realtime()) if name in half]
    assert vendor is halves[0]
    shared = ("name", "label", "doc", "requires", "extra", "credentials", "Options", "value_options")
    assert all(getattr(half, one) == getattr(vendor, one) for half in halves for one in shared)
    assert all(set(half.schemas) <= set(SCHEMAS) for half in halves)
    assert vendor.name == name
    assert vendor.label
    assert vendor.doc
    assert set(vendor.schemas) <= set(SCHEMAS)
    assert issubclass(vendor.Options, Options)
    assert set(vendor.value_options) <= set(vendor.Options.model_fields)
    assert all(ending == ending.upper() for ending in vendor.credentials)
    assert all(field.description for field in vendor.Options.model_fields.values())
    assert not any(word in field for field in vendor.Options.model_fields for word in ("key", "secret", "password")), (
        "secrets live in the environment"
    )


def test_every_http_vendor_has_a_stand_in() -> None:
    assert set(VENDORS) <= set(stand_ins())


@each_schema()
def test_window_is_complete_and_half_open(stand_in: StandIn, schema: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    symbols = list(stand_in.symbols[schema])
    outcome = bench.run(bench.job(schema, symbols, *stand_in.windows[schema]))
    assert outcome.errors == []
    expect(bench, schema, symbols)
    tally = outcome.tallies["shelf"]
    assert (tally.parsed, tally.quarantined) == (tally.settled, 0), bench.ledger.quarantined
    # asking again asks nobody
    asked = len(stand_in.log)
    again = bench.run(bench.job(schema, symbols, *stand_in.windows[schema]))
    assert (again.fetches, again.errors, len(stand_in.log)) == (0, [], asked)


@each_schema()
def test_there_are_several_pages(stand_in: StandIn, schema: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    symbols = list(stand_in.symbols[schema])
    bench.run(bench.job(schema, symbols, *stand_in.windows[schema]))
    assert sum(fetch.parts for fetch in bench.ledger.fetches) > 1, "paging is not tried"


@pytest.mark.parametrize("fault", PASSING_FAULTS)
@each_vendor()
def test_what_passes_changes_nothing(stand_in: StandIn, fault: str, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path)
    stand_in.fail(fault, times=2)
    symbols = list(stand_in.symbols[schema])
    outcome = bench.run(bench.job(schema, symbols, *stand_in.windows[schema]))
    assert outcome.errors == []
    expect(bench, schema, symbols)
    assert len(bench.slept) == 2


@pytest.mark.parametrize(("fault", "seconds"), [("kind", 0.0), ("slow", 0.001)])
@each_vendor()
def test_what_is_only_odd_is_taken(stand_in: StandIn, fault: str, seconds: float, tmp_path: Path) -> None:
    """A wrong content type says nothing of the body, and a body that trickles in is whole at its end."""
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path)
    stand_in.fail(fault, times=2, seconds=seconds)
    symbols = list(stand_in.symbols[schema])
    outcome = bench.run(bench.job(schema, symbols, *stand_in.windows[schema]))
    assert (outcome.errors, bench.slept) == ([], [])
    expect(bench, schema, symbols)


@each_vendor()
def test_a_fault_in_every_other_answer_is_survived(stand_in: StandIn, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path, {"attempts": 3})
    asked = 0

    def storm(what: str, count: int) -> None:
        nonlocal asked
        if what == "pages":
            asked += 1
            stand_in.fail("unavailable" if asked % 2 else "truncated", times=2)

    symbols = list(stand_in.symbols[schema])
    outcome = bench.run(bench.job(schema, symbols, *stand_in.windows[schema]), storm)
    assert outcome.errors == []
    expect(bench, schema, symbols)


@each_vendor()
def test_a_vendor_that_stays_away_is_left_for_later(stand_in: StandIn, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path, {"attempts": 3})
    job = bench.job(schema, list(stand_in.symbols[schema]), *stand_in.windows[schema])
    stand_in.fail("unavailable", times=3)
    outcome = bench.run(job)
    assert len(outcome.errors) == 1
    assert "503" in outcome.errors[0]
    assert not bench.ledger.fetches[0].complete
    assert bench.run(job).errors == []
    expect(bench, schema, list(stand_in.symbols[schema]))


@each_schema()
def test_killed_in_the_middle_nothing_is_bought_twice(stand_in: StandIn, schema: str, tmp_path: Path) -> None:
    bench = Bench(stand_in, tmp_path)
    symbols = list(stand_in.symbols[schema])
    job = bench.job(schema, symbols, *stand_in.windows[schema])

    class KilledError(BaseException):
        pass

    def kill(what: str, count: int) -> None:
        raise KilledError

    # each attempt lands one page more, and dies
    for _ in range(3):
        with pytest.raises(KilledError):
            bench.run(job, kill)
        if any(fetch.complete for fetch in bench.ledger.fetches):
            break
    outcome = bench.run(job)
    assert outcome.errors == []
    expect(bench, schema, symbols)
    bought = Counter(asked.question for asked in stand_in.log)
    assert [question for question, times in bought.items() if times > 1] == []


@each_vendor()
def test_an_unknown_symbol_is_named_in_the_vendors_words(stand_in: StandIn, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path)
    extractor = bench.extractor(schema)
    job = bench.job(schema, ["NOSUCH"], *stand_in.windows[schema])
    known = stand_in.symbols[schema][0]
    failure = fetched(extractor, job)
    assert failure is None or isinstance(failure, UnknownSymbol), repr(failure)
    # the others of the job are not concerned
    outcome = bench.run(bench.job(schema, ["NOSUCH", known], *stand_in.windows[schema]))
    refused = [reason for _, reason, _ in bench.ledger.quarantined.values()]
    assert len(outcome.errors) + len(refused) >= 1
    expect(bench, schema, [known])


@each_vendor()
def test_a_wrong_key_is_said_and_not_shown(stand_in: StandIn, tmp_path: Path) -> None:
    if not stand_in.keys:
        pytest.skip("this vendor needs no key")
    schema = first_schema(stand_in)
    wrong = dict.fromkeys(stand_in.keys, "s3cret-that-is-wrong")
    bench = Bench(stand_in, tmp_path, keys=wrong)
    extractor = bench.extractor(schema)
    job = bench.job(schema, [stand_in.symbols[schema][0]], *stand_in.windows[schema])
    failure = fetched(extractor, job)
    assert isinstance(failure, AuthFailed), repr(failure)
    assert "s3cret" not in str(failure)
    outcome = bench.run(job)
    assert len(outcome.errors) == 1
    landed = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert b"s3cret" not in landed


@each_vendor()
def test_a_missing_key_is_named(stand_in: StandIn, tmp_path: Path) -> None:
    if not stand_in.keys:
        pytest.skip("this vendor needs no key")
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path, keys={})
    job = bench.job(schema, [stand_in.symbols[schema][0]], *stand_in.windows[schema])
    (error,) = bench.run(job).errors
    assert f"VENDOR_{next(iter(stand_in.keys))}" in error


@each_vendor()
def test_what_is_not_subscribed_is_said(stand_in: StandIn, tmp_path: Path) -> None:
    if not stand_in.forbidden:
        pytest.skip("this vendor sells all or nothing")
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path)
    extractor = bench.extractor(schema)
    job = bench.job(schema, [stand_in.forbidden], *stand_in.windows[schema])
    failure = fetched(extractor, job)
    assert isinstance(failure, NotEntitled), repr(failure)


@each_vendor()
def test_quotes_before_it_spends(stand_in: StandIn, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    bench = Bench(stand_in, tmp_path, {"price_per_request": "0.25"})
    extractor = bench.extractor(schema)
    job = bench.job(schema, list(stand_in.symbols[schema]), *stand_in.windows[schema])
    quote = sum((extractor.quote(request) for request in extractor.requests(job)), Quote(bytes=0))
    assert quote.requests >= 1
    assert quote.money > 0
    outcome = bench.run(job)
    assert outcome.errors == []
    requests = sum(requests for requests, _ in bench.ledger.spending.values())
    money = sum(cost for _, cost in bench.ledger.spending.values())
    assert requests >= quote.requests
    if quote.exact:
        assert (requests, money) == (quote.requests, quote.money)


@each_vendor()
def test_lists_its_instruments(stand_in: StandIn, tmp_path: Path) -> None:
    vendor = registry.extractor(stand_in.vendor)
    if vendor.discover is HttpExtractor.discover:
        pytest.skip("this vendor lists nothing")
    schema = first_schema(stand_in)
    wanted = stand_in.symbols[schema][0]
    found = list(Bench(stand_in, tmp_path).extractor(schema).discover(wanted[:3]))
    assert wanted in [listing.symbol for listing in found]


@each_schema()
def test_an_edge_may_lie_between_two_units_of_the_vendor(stand_in: StandIn, schema: str, tmp_path: Path) -> None:
    """A row at the start is out, one at the end is in, where the edges lie a microsecond later."""
    start, end = (edge + timedelta(microseconds=1) for edge in stand_in.windows[schema])
    bench = Bench(stand_in, tmp_path)
    symbol = stand_in.symbols[schema][0]
    assert bench.run(bench.job(schema, [symbol], start, end)).errors == []
    truth = stand_in.truth(schema, symbol, start, end)
    stored = bench.stored(schema, symbol)
    assert matches(stored, truth), (len(stored), len(truth), stored[:1], truth[:1], stored[-1:], truth[-1:])


@each_vendor()
def test_an_empty_window_is_complete(stand_in: StandIn, tmp_path: Path) -> None:
    schema = first_schema(stand_in)
    start, _ = stand_in.windows[schema]
    bench = Bench(stand_in, tmp_path)
    symbol = stand_in.symbols[schema][0]
    # between two rows
    outcome = bench.run(
        bench.job(schema, [symbol], start + timedelta(microseconds=1), start + timedelta(microseconds=2))
    )
    assert outcome.errors == []
    assert bench.stored(schema, symbol) == []
