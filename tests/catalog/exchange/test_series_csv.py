"""Reading series from CSV: what each cell means, and every fault with its line."""

import codecs

import pytest

from catalog.exchange import Changes
from catalog.exchange import apply
from catalog.exchange import compare
from catalog.exchange import read_series_csv
from catalog.exchange import write_series_csv
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

REQUIRED = "series_id,data_source,extractor_type,schema,assets,output_destinations"
START = "one,eod,historical,ohlcv-1d,AAPL,db,,,,2020-01-01,,,"
ALL = f"{REQUIRED},transforms,schedule,timezone,start,end,options,active"

pytestmark = pytest.mark.usefixtures("catalog")


def check(*lines: str, header: str = REQUIRED, create_missing: bool = False) -> Changes:
    return compare(read_series_csv("\n".join([header, *lines])), create_missing=create_missing)


def faults(*lines: str, header: str = REQUIRED, create_missing: bool = False) -> list[str]:
    return [str(fault) for fault in check(*lines, header=header, create_missing=create_missing).faults]


def load(*lines: str, header: str = REQUIRED, create_missing: bool = False) -> None:
    apply(read_series_csv("\n".join([header, *lines])), create_missing=create_missing)


def assets_of(series_id: str) -> list[str]:
    return sorted(map(str, TimeSeries.objects.get(series_id=series_id).assets.all()))


def routes_of(series_id: str) -> dict[str, bool]:
    return {route.destination.name: route.home for route in Route.objects.filter(series__series_id=series_id)}


def test_line_becomes_series_with_assets_and_routes() -> None:
    load(
        'one,eod,historical,ohlcv-1d,AAPL; equity:MSFT,trash;db;more,"sma( window=20 );rsi",0 22 * * 1-5,'
        "America/New_York,2020-01-01,2021-01-01T00:00-05:00,,false",
        header=ALL,
    )
    row = TimeSeries.objects.get()
    assert (row.source.name, row.extractor_type, row.schema) == ("eod", "historical", "ohlcv-1d")
    assert row.transforms == "sma(window=20); rsi"
    assert (row.schedule, row.timezone, row.active) == ("0 22 * * 1-5", "America/New_York", False)
    assert row.start.isoformat() == "2020-01-01T00:00:00+00:00"
    assert row.end.isoformat() == "2021-01-01T05:00:00+00:00"
    assert assets_of("one") == ["equity:AAPL", "equity:MSFT"]
    assert routes_of("one") == {"trash": False, "db": True, "more": False}


@pytest.mark.parametrize(
    ("cell", "home"),
    [
        ("db;more", "db"),
        ("more;db", "more"),
        ("db;more*", "more"),
        ("trash;db", "db"),
        ("trash", None),
        ("db;more;*", None),
    ],
)
def test_home_is_the_first_readable_destination_or_the_marked_one(cell: str, home: str | None) -> None:
    load(f"one,eod,historical,ohlcv-1d,AAPL,{cell}")
    assert [name for name, is_home in routes_of("one").items() if is_home] == ([home] if home else [])
    exported = write_series_csv()
    assert compare(read_series_csv(exported)).rows == []
    TimeSeries.objects.all().delete()
    apply(read_series_csv(exported))
    assert write_series_csv() == exported


def test_exported_cells_are_empty_where_a_series_has_the_default() -> None:
    load("b,feed,realtime,trades,crypto:BTC%2FUSD,more;db", "a,eod,historical,ohlcv-1d,etf:SPY;AAPL,")
    assert write_series_csv() == (
        f"{ALL}\n"
        "a,eod,historical,ohlcv-1d,equity:AAPL;etf:SPY,,,,,,,,\n"
        "b,feed,realtime,trades,crypto:BTC%2FUSD,more;db,,,,,,,\n"
    )
    assert write_series_csv(["feed"]).count("\n") == 2


def test_column_that_is_left_out_is_kept_and_empty_cell_is_the_default() -> None:
    load("one,eod,historical,ohlcv-1d,AAPL,db,0 22 * * *,false", header=f"{REQUIRED},schedule,active")
    load("one,eod,historical,ohlcv-1d,AAPL,db", header=REQUIRED)
    assert TimeSeries.objects.values_list("schedule", "active").get() == ("0 22 * * *", False)
    load("one,eod,historical,ohlcv-1d,AAPL,db,,", header=f"{REQUIRED},schedule,active")
    assert TimeSeries.objects.values_list("schedule", "active").get() == ("", True)


def test_conditions_and_batches_of_routes_stay() -> None:
    load("one,eod,historical,ohlcv-1d,AAPL,db;trash")
    Route.objects.filter(destination__name="trash").update(condition="close > 1", batch_rows=7, required=False)
    load("one,eod,historical,ohlcv-1d,AAPL,trash;more;db*")
    kept = Route.objects.get(destination__name="trash")
    assert (kept.condition, kept.batch_rows, kept.required, kept.home) == ("close > 1", 7, False, False)
    assert routes_of("one") == {"trash": False, "more": False, "db": True}
    # the condition that stays must fit the schema that comes
    (found,) = faults("one,eod,historical,statistics,AAPL,trash")
    assert found.startswith("line 2, condition: name 'close' is unknown; have: ")


def test_home_moves_from_one_destination_to_another() -> None:
    load("one,eod,historical,ohlcv-1d,AAPL,db;more")
    load("one,eod,historical,ohlcv-1d,AAPL,more;db")
    assert routes_of("one") == {"db": False, "more": True}
    load("one,eod,historical,ohlcv-1d,AAPL,db")
    assert routes_of("one") == {"db": True}


def test_difference_names_old_and_new() -> None:
    load("one,eod,historical,ohlcv-1d,AAPL,db", "two,eod,historical,ohlcv-1d,AAPL,db")
    changes = check(
        "one,feed,realtime,ohlcv-1d,MSFT,more;db,",
        "two,eod,historical,ohlcv-1d,AAPL,db,",
        "three,eod,historical,ohlcv-1d,AAPL,trash,sma(window=2)",
        header=f"{REQUIRED},transforms",
    )
    assert [str(change) for change in changes.rows] == [
        "~ series one (line 2)\n"
        "    source: eod → feed\n"
        "    extractor_type: historical → realtime\n"
        "    assets: equity:AAPL → equity:MSFT\n"
        "    routes: db (home) → db, more (home)",
        "+ series three (line 4)\n"
        "    source: eod\n"
        "    schema: ohlcv-1d\n"
        "    transforms: sma(window=2)\n"
        "    assets: equity:AAPL\n"
        "    routes: trash",
    ]
    assert changes.summary() == ["series: 1 added, 1 changed, 1 unchanged"]
    assert TimeSeries.objects.count() == 2


def test_another_spelling_of_the_same_is_no_change() -> None:
    header = f"{REQUIRED},transforms,start"
    load("one,eod,historical,ohlcv-1d,AAPL;MSFT,db;trash,sma(window=20),2020-01-01", header=header)
    changes = check(
        'one,eod,historical,ohlcv-1d," equity:MSFT ;AAPL;",db ; trash; ,sma( window = 20 ) ;,2019-12-31T19:00-05:00',
        header=header,
    )
    assert (changes.faults, changes.rows) == ([], [])
    # and what a person typed in the admin is not rewritten either
    TimeSeries.objects.update(transforms="sma(window = 20);")
    assert check("one,eod,historical,ohlcv-1d,AAPL;MSFT,db;trash", header=REQUIRED).rows == []


def test_series_that_are_not_in_the_file_stay() -> None:
    load("one,eod,historical,ohlcv-1d,AAPL,db")
    load("two,eod,historical,ohlcv-1d,AAPL,db")
    assert TimeSeries.objects.count() == 2


@pytest.mark.parametrize(
    "symbol",
    [
        "=cmd|' /C calc'!A0",
        "+A",
        "-A",
        "@SUM(A1)",
        "A;B",
        "A:B",
        "100%",
        'say "hi"',
        "a,b",
        "🚀",
        "名前",
        ".",
        "..",
        "^GSPC",
    ],
)
def test_odd_symbols_are_made_and_come_back(symbol: str) -> None:
    from catalog.keys import encode

    load(f"one,eod,historical,ohlcv-1d,index:{encode(symbol)},db", create_missing=True)
    assert Asset.objects.filter(asset_class="index", symbol=symbol).exists()
    exported = write_series_csv()
    TimeSeries.objects.all().delete()
    apply(read_series_csv(exported))
    assert assets_of("one") == [f"index:{symbol}"]
    assert write_series_csv() == exported


@pytest.mark.parametrize("symbol", ["=cmd", "🚀", "^GSPC", 'say ""hi""', "a,b", "BTC/USD", "A B"])
def test_symbols_need_no_escape_where_they_cannot_be_misread(symbol: str) -> None:
    load(f'one,eod,historical,ohlcv-1d,"index:{symbol}",db', create_missing=True)
    assert assets_of("one") == ["index:" + symbol.replace('""', '"')]


def test_missing_rows_are_made_on_request() -> None:
    row = "one,paper,realtime,trades,index:NEW;NEW;AAPL,bin"
    assert faults(row) == [
        "line 2, assets: asset 'NEW' is unknown; accepted: asset_class:symbol, or the symbol of an asset that exists",
        "line 2, assets: asset 'index:NEW' is unknown; have: none of that symbol; missing ones are made on request",
        "line 2, data_source: source 'paper' is unknown; have: eod, feed",
        "line 2, output_destinations: destination 'bin' is unknown; have: db, more, trash",
    ]
    load("one,paper,realtime,trades,NEW;AAPL,bin", "two,paper,realtime,trades,index:NEW,bin", create_missing=True)
    assert assets_of("one") == ["equity:AAPL", "index:NEW"]
    assert DataSource.objects.get(name="paper").vendor == "paper"
    assert OutputDestination.objects.get(name="bin").kind == "bin"
    assert [
        str(change).splitlines()[0] for change in check(row.replace("NEW;NEW", "NEW"), create_missing=True).rows
    ] == []


def test_what_cannot_be_made_is_a_fault() -> None:
    assert faults("one,notes,realtime,trades,NEW;idx:NEW;equity:%20A,nowhere", create_missing=True) == [
        "line 2, assets: ' A' is no symbol; accepted: text without control characters or outer spaces",
        "line 2, assets: asset 'NEW' is unknown; accepted: asset_class:symbol, or the symbol of an asset that exists",
        "line 2, assets: asset class 'idx' is unknown; have: bond, commodity, crypto, economic, equity, etf, fund,"
        " future, fx, index, option, other, rate, spread",
        "line 2, data_source: source 'notes' cannot be made: source 'notes': option 'path' is required",
        "line 2, output_destinations: destination 'nowhere' is unknown; have: db, more, trash; one can be made where it"
        " has the name of a kind",
    ]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("series_id", "", "series_id: it is empty; accepted: a name"),
        ("series_id", "a b", "series_id: 'a b': Accepted: letters, digits"),
        ("series_id", "=cmd", "series_id: '=cmd': Accepted: letters, digits"),
        ("series_id", "x" * 101, f"series_id: '{'x' * 79}…: Accepted: letters"),
        ("data_source", "eodd", "data_source: source 'eodd' is unknown; have: eod, feed"),
        ("data_source", "", "data_source: source '' is unknown; have: eod, feed"),
        ("extractor_type", "batch", "extractor_type: extractor type 'batch' is unknown; have: historical, realtime"),
        ("extractor_type", "", "extractor_type: extractor type '' is unknown; have: historical, realtime"),
        ("schema", "ohlcv-2d", "schema: schema 'ohlcv-2d' is unknown; have: bbo-1m, "),
        ("schema", "s" * 100_000, f"schema: '{'s' * 79}…: Ensure this value has at most 50 characters"),
        ("assets", "", "assets: there are none; accepted: asset_class:symbol, separated by ';'"),
        ("assets", " ; ", "assets: there are none; accepted: asset_class:symbol, separated by ';'"),
        ("assets", "GOOG", "assets: asset 'GOOG' is unknown; accepted: asset_class:symbol, or the symbol of an asset"),
        (
            "assets",
            "etf:AAPL",
            "assets: asset 'etf:AAPL' is unknown; have: equity:AAPL; missing ones are made",
        ),
        ("assets", "SPY", "assets: 'SPY' is the symbol of several assets; accepted: equity:SPY, etf:SPY"),
        ("assets", "stock:AAPL", "assets: asset class 'stock' is unknown; have: bond, "),
        ("assets", "AAPL;equity:AAPL", "assets: asset 'equity:AAPL' is named twice"),
        ("assets", "a:b:c", "assets: 'a:b:c' names no asset; accepted: asset_class:symbol or a symbol"),
        ("assets", ":AAPL", "assets: ':AAPL' names no asset; accepted:"),
        ("assets", "equity:", "assets: 'equity:' names no asset; accepted:"),
        ("assets", "100%", "assets: '100%' has a '%' that begins no escape; accepted:"),
        ("assets", "%FF", "assets: '%FF' is not percent-encoded UTF-8; accepted:"),
        ("assets", "A" * 100_000, f"assets: asset '{'A' * 79}… is unknown"),
        ("output_destinations", "dbb", "output_destinations: destination 'dbb' is unknown; have: db, more, trash"),
        ("output_destinations", "db;db", "output_destinations: destination 'db' is named twice"),
        ("output_destinations", "db*;more*", "output_destinations: db, more are all home; accepted: one"),
        ("output_destinations", "trash*", "output_destinations: kind 'bin' cannot be read back; accepted: database"),
        ("transforms", "smaa(window=2)", "transforms: transform 'smaa' is unknown"),
        ("transforms", "sma(window=2); sma(window=2)", "transforms: transform 'sma(window=2)' is given twice"),
        ("transforms", "__import__('os')", "transforms: "),
        ("schedule", "often", "schedule: schedule 'often': Wrong number of fields; accepted: five cron fields"),
        ("schedule", "0 " * 80, f"schedule: '{'0 ' * 39}0…: Ensure this value has at most 100"),
        ("timezone", "Mars/Base", "timezone: time zone 'Mars/Base' is unknown; accepted: names like America/New_York"),
        ("start", "yesterday", "start: 'yesterday' is no ISO 8601 time; accepted: 2024-01-02 (00:00Z) or a time with"),
        ("start", "2024-01-02T00:00", "start: time '2024-01-02T00:00' has no zone; accepted:"),
        ("start", "0001-01-01T00:00+14:00", "start: '0001-01-01T00:00+14:00' is no ISO 8601 time"),
        ("end", "2024-02-30", "end: '2024-02-30' is no ISO 8601 time"),
        ("end", "2019-01-01", "end: end 2019-01-01T00:00:00+00:00 is not after start 2020-01-01T00:00:00+00:00"),
        ("options", "path=x", "options: options 'path=x' are no JSON (Expecting value"),
        ("options", "[1]", "options: options '[1]' are no JSON object; accepted:"),
        ("options", '{"a": 1, "a": 2}', "options: options '{\"a\": 1, \"a\": 2}' are no JSON (given twice: 'a')"),
        ("options", '{"a": NaN}', "options: options '{\"a\": NaN}' are no JSON (NaN is no number)"),
        ("options", '{"a": 1e999}', "options: options hold the number inf; accepted: finite numbers"),
        ("options", r'{"a": "\u0000"}', "options: options hold '\\x00', which holds a NUL character"),
        ("options", r'{"\ud800": 1}', "options: options hold '\\ud800', which holds half of a character"),
        ("options", "[" * 100_000, "options: options '["),
        ("options", '{"a": 1}', "options: series 'one': option 'a' is unknown; have: none"),
        ("active", "maybe", "active: 'maybe' is neither true nor false; accepted: true, false"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_fault_names_line_value_and_what_is_accepted(column: str, cell: str, expected: str) -> None:
    cells = dict(
        zip(
            ALL.split(","),
            START.split(","),
            strict=True,
        )
    )
    cells[column] = cell
    quoted = ",".join('"' + text.replace('"', '""') + '"' for text in cells.values())
    found = faults("fine,eod,historical,ohlcv-1d,AAPL,db,,,,,,,", quoted, header=ALL)
    assert len(found) == 1
    assert found[0].startswith(f"line 3, {expected}")
    assert len(found[0]) < 500


def test_every_fault_of_every_line_is_in_one_report() -> None:
    found = faults(
        "one,nowhere,daily,ohlcv-9d,GOOG,gone,smaa,often,Mars,never,now,{,maybe",
        "two,eod,historical,ohlcv-1d,AAPL,db,,,,,,,",
        "two,eod,historical,ohlcv-1d,AAPL,db,,,,,,,",
        "three,eod,historical",
        header=ALL,
    )
    assert [fault.partition(":")[0] for fault in found] == [
        "line 2, active",
        "line 2, assets",
        "line 2, data_source",
        "line 2, end",
        "line 2, extractor_type",
        "line 2, options",
        "line 2, output_destinations",
        "line 2, schedule",
        "line 2, schema",
        "line 2, start",
        "line 2, timezone",
        "line 2, transforms",
        "line 4, series_id",
        "line 5",
    ]
    assert found[-2] == "line 4, series_id: 'two' is given twice, first on line 3"
    assert found[-1] == "line 5: the row has 3 cells; accepted: 13, as in the header"
    assert not TimeSeries.objects.exists()


def test_lines_are_those_of_the_file_where_cells_span_several() -> None:
    found = faults(
        'one,eod,historical,ohlcv-1d,AAPL,db,"sma(window=2)\n\nrsi\r\n"',
        "",
        "two,eod,historical,ohlcv-1d,GOOG,db,",
        'three,eod,historical,ohlcv-1d,AAPL,db,"sma(window=2)\nwrong"',
        "four,eod,historical,ohlcv-1d,GOOG,db,",
        header=f"{REQUIRED},transforms",
    )
    assert [fault.partition(":")[0] for fault in found] == ["line 7, assets", "line 8, transforms", "line 10, assets"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_read(end: str) -> None:
    lines = [REQUIRED, "one,eod,historical,ohlcv-1d,AAPL,db", "two,eod,historical,ohlcv-1d,GOOG,db"]
    assert [fault.line for fault in compare(read_series_csv(end.join(lines).encode())).faults] == [3]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ["line 1: the file has no header; accepted: series_id, data_source, "]),
        (
            f"{REQUIRED},color,size",
            ["line 1: column 'color' is unknown; have: ", "line 1: column 'size' is unk"],
        ),
        (f"{REQUIRED},schema", ["line 1: column 'schema' is given 2 times"]),
        (
            "series_id,data_source,schema,assets",
            ["line 1: column 'extractor_ty", "line 1: column 'output_de"],
        ),
        (REQUIRED.replace(",", ";"), ["line 1: column 'assets' is required", *["line 1: column "] * 6]),
        (REQUIRED.upper(), ["line 1: column "] * 12),
    ],
    ids=["empty", "unknown", "twice", "missing", "semicolons", "capitals"],
)
def test_faulty_columns_are_all_named(header: str, expected: list[str]) -> None:
    found = faults(header=header)
    assert len(found) == len(expected)
    for fault, start in zip(found, expected, strict=True):
        assert fault.startswith(start)


def test_unknown_column_does_not_hide_the_faults_of_rows() -> None:
    found = faults("one,eod,historical,ohlcv-1d,GOOG,db,red", header=f"{REQUIRED},color")
    assert [fault.partition(":")[0] for fault in found] == ["line 1", "line 2, assets"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "line 1: the file has no header; accepted: series_id"),
        (REQUIRED.encode("utf-16"), "line 1: the file is UTF-16; accepted: UTF-8"),
        (
            f"{REQUIRED}\none\nMünchen".encode("latin-1"),
            "line 3: the byte 0xFC is not UTF-8; accepted: a file",
        ),
        (b"\x1f\x8b\x08\x00", "line 1: the byte 0x8B is not UTF-8; accepted: a file in UTF-8"),
        (f'{REQUIRED}\n"one,eod\n\n'.encode(), "line 2: a cell opens a quote that is never closed"),
        (
            f'{REQUIRED}\n"one"x,eod,historical,ohlcv-1d,AAPL,db'.encode(),
            "line 2: text follows the quote that",
        ),
    ],
    ids=["empty", "utf-16", "latin-1", "gzip", "open quote", "stray quote"],
)
def test_file_that_is_no_csv(content: bytes, expected: str) -> None:
    (found,) = compare(read_series_csv(content)).faults
    assert str(found).startswith(expected)


def test_byte_order_mark_of_a_spreadsheet_is_accepted() -> None:
    content = codecs.BOM_UTF8 + f"{REQUIRED}\r\none,eod,historical,ohlcv-1d,AAPL,db\r\n".encode()
    assert compare(read_series_csv(content)).faults == []
    assert compare(read_series_csv(content.decode())).faults == []


def test_nul_is_a_fault_of_its_cell_and_hides_no_other_line() -> None:
    found = faults("one,eod,historical,ohlcv-1d,A\0PL,d\0b", "two,eod,historical,ohlcv-1d,GOOG,db")
    assert [fault.partition(";")[0] for fault in found] == [
        "line 2, assets: 'A\\x00PL' holds a NUL character",
        "line 2, output_destinations: 'd\\x00b' holds a NUL character",
        "line 3, assets: asset 'GOOG' is unknown",
    ]
    assert faults("one,eod,historical,ohlcv-1d,A\ud83dPL,db") == [
        "line 2, assets: 'A\\ud83dPL' holds half of a character (a lone surrogate)"
    ]


def test_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from catalog.exchange import content

    assert content.decode(b"x" * 11, 10) == content.Fault(1, "", "the file has 11 bytes; accepted: at most 10")


def test_series_of_a_whole_market_fits_one_cell() -> None:
    names = ";".join(f"index:SYMBOL{number}_{'X' * 80}" for number in range(1500))
    assert len(names) > 131_072
    load(f"one,eod,historical,ohlcv-1d,{names},db", create_missing=True)
    exported = write_series_csv()
    assert compare(read_series_csv(exported)).rows == []
    other = f"one,eod,historical,ohlcv-1d,{names.replace('SYMBOL7_', 'SYMBOL7A')},db"
    (change,) = check(other, create_missing=True).of(TimeSeries)
    (field,) = change.fields
    assert field.before == f"1,500 assets, with index:SYMBOL7_{'X' * 80}"
    assert field.after == f"1,500 assets, with index:SYMBOL7A{'X' * 80}"
