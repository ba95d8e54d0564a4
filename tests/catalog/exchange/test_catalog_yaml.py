"""The catalog as one YAML file: what entries mean, and every fault with its line."""

from datetime import timedelta

import pytest

from catalog.errors import ConfigError
from catalog.exchange import apply
from catalog.exchange import compare
from catalog.exchange import read_catalog
from catalog.exchange import write_catalog
from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

CANONICAL = """\
version: 1

sources:
  - name: eod
    vendor: notes
    options:
      path: "*.csv"
    env_prefix: EOD
    settled_after: P2DT00H00M00S
  - name: feed
    vendor: paper
    active: false

assets:
  - asset_class: equity
    symbol: META
    name: "Meta Platforms, \\"Inc.\\""
    mic: "NO"
    instruments:
      eod:
        - symbol: FB
          end: 2022-06-09T00:00:00Z
        - symbol: META
          start: 2022-06-09T00:00:00Z
      feed:
        - symbol: "1"
  - asset_class: fx
    symbol: "=cmd;🚀"

destinations:
  - name: db
    kind: database
  - name: trash
    kind: bin

series:
  - series_id: meta-1d
    source: eod
    extractor_type: realtime
    schema: ohlcv-1d
    transforms: sma(window=20); rsi(window=14) | store
    timezone: America/New_York
    start: 2020-01-01T00:00:00Z
    end: 2030-01-01T00:00:00Z
    active: false
    assets:
      - equity:META
      - fx:%3Dcmd%3B%F0%9F%9A%80
    routes:
      - destination: db
      - destination: trash
        condition: "close > 100"
        batch_rows: 500
        required: false
        active: false
"""

BASE = """\
version: 1
sources: [{name: eod, vendor: paper}]
assets: [{asset_class: equity, symbol: AAPL}, {asset_class: equity, symbol: MSFT}]
destinations: [{name: db, kind: database}, {name: more, kind: database}, {name: trash, kind: bin}]
"""

pytestmark = pytest.mark.django_db


def faults(text: str) -> list[str]:
    return [str(fault) for fault in compare(read_catalog(text)).faults]


def load(text: str) -> list[str]:
    return apply(read_catalog(text)).summary()


def homes() -> list[str]:
    return [route.destination.name for route in Route.objects.filter(home=True)]


def test_canonical_file_comes_back_byte_for_byte() -> None:
    load(CANONICAL)
    assert write_catalog() == CANONICAL
    changes = compare(read_catalog(CANONICAL))
    assert (changes.faults, changes.rows) == ([], [])
    assert changes.summary() == [
        "source: 0 added, 0 changed, 2 unchanged",
        "destination: 0 added, 0 changed, 2 unchanged",
        "asset: 0 added, 0 changed, 2 unchanged",
        "instrument: 0 added, 0 changed, 2 unchanged",
        "series: 0 added, 0 changed, 1 unchanged",
    ]
    assert DataSource.objects.get(name="eod").settled_after == timedelta(days=2)
    assert Asset.objects.get(symbol="META").mic == "NO"


def test_empty_catalog_is_a_version() -> None:
    assert write_catalog() == "version: 1\n"
    assert load("version: 1\n") == []
    assert load("version: 1\nsources:\nseries: []\n") == []


def test_file_may_hold_some_sections_only() -> None:
    load(BASE)
    assert load("version: 1\nassets:\n- {asset_class: etf, symbol: SPY}") == ["asset: 1 added, 0 changed, 0 unchanged"]
    assert Asset.objects.count() == 3


def test_entry_is_the_whole_row_and_rows_not_named_are_kept() -> None:
    load(CANONICAL)
    load("version: 1\nassets:\n- {asset_class: equity, symbol: META}\nsources:\n- {name: feed, vendor: paper}")
    assert Asset.objects.get(symbol="META").name == ""
    assert DataSource.objects.get(name="feed").active
    # symbols belong to instruments, which the file does not name
    assert InstrumentSymbol.objects.count() == 3
    load("version: 1\nassets:\n- {asset_class: equity, symbol: META, instruments: {eod: [{symbol: META}], feed: []}}")
    assert [str(symbol) for symbol in InstrumentSymbol.objects.all()] == ["META […, …)"]
    assert TimeSeries.objects.count() == 1
    load(CANONICAL)
    assert compare(read_catalog(write_catalog())).rows == []
    assert DataSource.objects.filter(name="feed", active=False).exists()


def test_difference_names_old_and_new() -> None:
    load(CANONICAL)
    text = (
        CANONICAL.replace("EOD", "OTHER")
        .replace("P2DT00H00M00S", "3 days")
        .replace("symbol: FB", "symbol: FB2")
        .replace("close > 100", "close > 200")
        .replace("batch_rows: 500\n", "batch_rows:\n")
        .replace("      - equity:META\n", "")
    )
    changes = compare(read_catalog(text))
    assert [str(change) for change in changes.rows] == [
        "~ source eod (line 4)\n    env_prefix: EOD → OTHER\n    settled_after: P2DT00H00M00S → P3DT00H00M00S",
        "~ instrument eod:equity:META (line 20)\n"
        "    symbols: FB […, 2022-06-09T00:00:00Z); META [2022-06-09T00:00:00Z, …) → "
        "FB2 […, 2022-06-09T00:00:00Z); META [2022-06-09T00:00:00Z, …)",
        "~ series meta-1d (line 37)\n"
        "    assets: equity:META; fx:%3Dcmd%3B%F0%9F%9A%80 → fx:%3Dcmd%3B%F0%9F%9A%80\n"
        "    routes: db (home), trash (if close > 100, 500 rows a write, optional, inactive) → "
        "db (home), trash (if close > 200, optional, inactive)",
    ]
    assert write_catalog() == CANONICAL
    apply(read_catalog(text))
    assert compare(read_catalog(text)).rows == []


@pytest.mark.parametrize(
    ("routes", "home"),
    [
        ("[{destination: db}, {destination: more}]", ["db"]),
        ("[{destination: trash}, {destination: more}, {destination: db}]", ["more"]),
        ("[{destination: db}, {destination: more, home: true}]", ["more"]),
        ("[{destination: db, home: false}, {destination: more}]", ["more"]),
        ("[{destination: db, home: false}, {destination: more, home: false}]", []),
        ("[{destination: trash}]", []),
        ("[]", []),
    ],
)
def test_home_is_the_first_readable_route_unless_it_is_said(routes: str, home: list[str]) -> None:
    load(BASE)
    load(f"version: 1\nseries:\n- {{series_id: a, source: eod, schema: trades, assets: [AAPL], routes: {routes}}}")
    assert homes() == home
    exported = write_catalog()
    assert compare(read_catalog(exported)).rows == []
    TimeSeries.objects.all().delete()
    load(exported)
    assert (homes(), write_catalog()) == (home, exported)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": this is no catalog; accepted: version: 1, then sources, assets, destinations, series"),
        ("- a", ": this is no catalog; accepted: version: 1, then"),
        ("text", ": this is no catalog; accepted: version: 1, then"),
        ("sources: []", ", version: the version is missing or unknown; accepted: version: 1"),
        ("version: 2", ", version: the version is missing or unknown; accepted: version: 1"),
        ("version: [1]", ", version: the version is missing or unknown; accepted: version: 1"),
    ],
    ids=["empty", "list", "text", "no version", "other version", "wrong version"],
)
def test_file_that_is_no_catalog(text: str, expected: str) -> None:
    (found,) = faults(text)
    assert found.startswith(f"line 1{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("assset: []", "2: section 'assset' is unknown; have: assets, destinations, series, sources, version"),
        ("version: 1", "2: 'version' is given twice, first on line 1"),
        ("sources: {name: eod}", "2, sources: it is no list; accepted: lines that begin with '- '"),
        ("sources: [eod]", "2: this is no source; accepted: a mapping of name, vendor, options,"),
        ("sources:\n- name: x\n  vendor: paper\n  colour: 1", "5: key of a source 'colour' is unknown; have: active,"),
        ("sources:\n- vendor: paper", "3, name: it is missing; every source needs it"),
        ("sources:\n- name:\n  vendor: paper", "3, name: it is missing; every source needs it"),
        ("sources:\n- name: ''\n  vendor: paper", "3, name: it is missing; every source needs it"),
        ("sources:\n- name: [x]\n  vendor: paper", "3, name: a list or mapping stands where text is accepted"),
        ("sources:\n- name: x", "3, vendor: it is missing; every source needs it"),
        ("sources:\n- name: a b\n  vendor: paper", "3, name: 'a b': Accepted: letters, digits"),
        ("sources:\n- name: x\n  vendor: papr", "4, vendor: vendor 'papr' is unknown; have: "),
        ("sources: [{name: x, vendor: notes}]", "2, options: source 'x': option 'path' is required"),
        ("destinations:\n- {name: x, kind: tape}", "3, kind: destination kind 'tape' is unknown; have: bin, "),
        (
            "sources:\n- {name: x, vendor: paper}\n- {name: x, vendor: paper}",
            "4, name: 'x' is given twice, first on line 3",
        ),
        (
            "assets:\n- {asset_class: fx, symbol: A}\n- {symbol: A, asset_class: fx}",
            "4, symbol: 'fx:A' is given twice, first on line 3",
        ),
        (
            "assets:\n- asset_class: fx\n  symbol: A\n  instruments:\n    nowhere: []",
            "6, source: source 'nowhere' is unknown; have: eod",
        ),
        (
            "assets:\n- {asset_class: fx, symbol: A, instruments: [eod]}",
            "3, instruments: they are no mapping; accepted: names of sources, each with its symbols",
        ),
        (
            "assets:\n- asset_class: fx\n  symbol: A\n  instruments:\n    eod:\n    - symbol: A\n"
            "      start: 2020-01-01\n      end: 2020-01-01",
            "9, end: end 2020-01-01T00:00:00Z is not after start 2020-01-01T00:00:00Z",
        ),
    ],
)
def test_fault_names_line_and_what_is_accepted(text: str, expected: str) -> None:
    load(BASE)
    (found,) = faults(f"version: 1\n{text}")
    assert found.startswith(f"line {expected}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("options: {a: 1}", "source 'x': option 'a' is unknown; have: none"),
        ("options: [1]", "options are no mapping; accepted: name: value"),
        ("options: {a: yes}", "'yes' is read differently by different programs; accepted: true, 16, 0.5 or \"text\""),
        ('options: {a: "\\0"}', r"options hold '\x00', which holds a NUL character"),
        ("options: {a: 1e999}", "options hold the number inf; accepted: finite numbers"),
        ("env_prefix: 1a", "'1a': Accepted: capital letters, digits and '_', starting with a letter."),
        ("env_prefix: DATABASE", "'DATABASE' is that of variables which are no vendor's; accepted: any but"),
        ("env_prefix: AWS_SECRET", "'AWS_SECRET' is that of variables which are no vendor's; accepted: any but"),
        ("active: 1", "1 is neither true nor false; accepted: true, false"),
        ("active: off", "'off' is read differently by different programs; accepted: true, 16"),
        ("settled_after: soon", "'soon' is no length of time; accepted: e.g. P2D, PT12H or 2 12:00:00"),
        ("settled_after: P999999999D", "'P999999999D' is no length of time"),
    ],
)
def test_fault_of_a_source(line: str, expected: str) -> None:
    (found,) = faults(f"version: 1\nsources:\n- name: x\n  vendor: paper\n  {line}")
    assert found.startswith(f"line 5, {line.partition(':')[0]}: {expected}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asset_class: stock", "asset class 'stock' is unknown; have: bond, "),
        ('symbol: "A\\0"', r"'A\x00' holds a NUL character"),
        ('symbol: "A\\n"', r"'A\n' is no symbol; accepted: text without control characters"),
        ("symbol: " + "A" * 101, f"'{'A' * 79}…: Ensure this value has at most 100 characters (it has 101)."),
        ("mic: XNYSX", "'XNYSX': Ensure this value has at most 4 characters (it has 5)."),
    ],
)
def test_fault_of_an_asset(line: str, expected: str) -> None:
    key = line.partition(":")[0]
    others = [other for other in ("asset_class: fx", "symbol: A") if not other.startswith(key)]
    text = "\n  ".join(["version: 1\nassets:\n- name: x", line, *others])
    (found,) = faults(text)
    assert found.startswith(f"line 4, {key}: {expected}")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("source: nowhere", "6, source: source 'nowhere' is unknown; have: eod"),
        ("schema: ohlcv-2d", "6, schema: schema 'ohlcv-2d' is unknown; have: "),
        ("assets: [AAPL, GOOG]", "6, assets: asset 'GOOG' is unknown; accepted: asset_class:symbol, or the symbol"),
        ("assets: []", "6, assets: there are none; accepted: a list of asset_class:symbol"),
        ("assets: AAPL", "6, assets: it is no list; accepted: lines that begin with '- '"),
        ("assets:\n  - AAPL\n  - equity:AAPL", "8, assets: asset 'equity:AAPL' is named twice, first on line 7"),
        ("assets:\n  - [AAPL]", "7, assets: a list or mapping stands where text is accepted"),
        ("start: 2024-01-02 09:30", "6, start: time '2024-01-02 09:30' has no zone; accepted: 2024-01-02 (00:00Z)"),
        ("routes: [db]", "6: this is no route; accepted: a mapping of destination, home, condition, batch_rows,"),
        ("routes:\n  - destination: dbb", "7, destination: destination 'dbb' is unknown; have: db, more, trash"),
        ("routes:\n  - destination: db\n  - destination: db", "8, routes: destination 'db' is named twice"),
        (
            "routes:\n  - {destination: trash, home: true}",
            "7, home: kind 'bin' cannot be read back; accepted: database",
        ),
        ("routes:\n  - destination: db\n    condition: clse > 1", "7, condition: name 'clse' is unknown; have: "),
        ("routes:\n  - destination: db\n    batch_rows: many", "8, batch_rows: 'many' is no number of rows; accepted"),
        ("routes:\n  - destination: db\n    batch_rows: -1", "8, batch_rows: -1 is no number of rows; accepted"),
        ("routes:\n  - destination: db\n    batch_rows: 9999999999", "8, batch_rows: 9999999999 is no number of rows"),
        (
            "routes: [{destination: db, home: true}, {destination: more, home: true}]",
            "6, routes: db, more are all home; accepted: one",
        ),
    ],
)
def test_fault_of_a_series_names_its_own_line(lines: str, expected: str) -> None:
    load(BASE)
    needed = {"source": "eod", "schema": "ohlcv-1d", "assets": "[AAPL]"}
    needed.pop(lines.partition(":")[0], None)
    head = "version: 1\nseries:\n- series_id: a\n  timezone: UTC\n  active: true"
    (found,) = faults("\n  ".join([head, lines, *(f"{key}: {value}" for key, value in needed.items())]))
    assert found.startswith(f"line {expected}")


def test_every_fault_is_in_one_report_in_the_order_of_lines() -> None:
    text = CANONICAL.replace("vendor: paper", "vendor: papr").replace("kind: bin", "kind: bim").replace("rsi(", "rsj(")
    text = text.replace("asset_class: fx", "asset_class: fy").replace("timezone: America", "timezone: Amerika")
    found = compare(read_catalog(text)).faults
    assert [(fault.line, fault.where) for fault in found] == [
        (11, "vendor"),
        (27, "asset_class"),
        (34, "kind"),
        (41, "transforms"),
        (42, "timezone"),
        (48, "assets"),
    ]
    with pytest.raises(ConfigError) as caught:
        apply(read_catalog(text))
    assert caught.value.faults == tuple(map(str, found))
    assert not DataSource.objects.exists()


def test_source_with_stored_rows_keeps_its_meaning() -> None:
    load("version: 1\nsources:\n- {name: eod, vendor: notes, options: {path: a}}")
    Fetch.objects.create(
        source=DataSource.objects.get(), schema="trades", start="2020-01-01T00:00Z", end="2020-01-02T00:00Z"
    )
    (found,) = faults("version: 1\nsources:\n- name: eod\n  vendor: paper")
    assert found.startswith("line 4, vendor: 'notes' cannot be changed: rows are stored under it")
    assert load("version: 1\nsources:\n- {name: eod, vendor: notes, options: {path: a}, active: false}") == [
        "source: 0 added, 1 changed, 0 unchanged"
    ]


def test_symbols_of_a_source_do_not_overlap() -> None:
    load(BASE)
    asset = "version: 1\nassets:\n- asset_class: equity\n  symbol: AAPL\n  instruments:\n    eod:\n"
    load(asset + "    - {symbol: X, end: 2020-01-01}\n    - {symbol: X, start: 2020-01-01}")
    assert faults(asset + "    - {symbol: X, end: 2020-01-02}\n    - {symbol: Y, start: 2020-01-01}") == [
        "line 8, symbol: Y [2020-01-01T00:00:00Z, …) overlaps X […, 2020-01-02T00:00:00Z) of eod:equity:AAPL (line 7)"
    ]
    other = asset.replace("AAPL", "MSFT")
    assert faults(other + "    - {symbol: X, start: 2019-01-01, end: 2019-02-01}") == [
        "line 7, symbol: X [2019-01-01T00:00:00Z, 2019-02-01T00:00:00Z) overlaps X […, 2020-01-01T00:00:00Z)"
        " of eod:equity:AAPL"
    ]
    assert faults(other + "    - {symbol: Z}\n    - {symbol: Z}") == [
        "line 8, symbol: Z overlaps Z of eod:equity:MSFT (line 7)"
    ]
    # one of the two gives way in the same file
    load(
        asset + "    - {symbol: X, start: 2020-01-01}\n"
        "- asset_class: equity\n  symbol: MSFT\n  instruments:\n    eod:\n    - {symbol: X, end: 2020-01-01}"
    )
    assert compare(read_catalog(write_catalog())).rows == []


def test_instrument_without_symbols_is_made_once() -> None:
    load(BASE)
    text = "version: 1\nassets:\n- {asset_class: equity, symbol: AAPL, instruments: {eod: []}}"
    assert [str(change) for change in compare(read_catalog(text)).rows] == ["+ instrument eod:equity:AAPL (line 3)"]
    load(text)
    assert Instrument.objects.count() == 1
    assert compare(read_catalog(text)).rows == []


def test_instrument_keeps_its_id_when_its_symbols_change() -> None:
    load(CANONICAL)
    before = Instrument.objects.get(source__name="eod").pk
    load(CANONICAL.replace("symbol: FB", "symbol: FB2"))
    assert Instrument.objects.get(source__name="eod").pk == before
    assert Coverage.objects.count() == 0


def test_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.exchange.catalog_reading.MAX_BYTES", 100)
    assert faults(CANONICAL) == [f"line 1: the file has {len(CANONICAL):,} bytes; accepted: at most 100"]


def test_secrets_are_nowhere_in_a_file() -> None:
    load(CANONICAL)
    assert OutputDestination.objects.count() == 2
    assert "SECRET" not in write_catalog().upper()
