"""Recorded files of real vendors through vendor `files` into every store, against an independent reading.

The independent readings use csv, zipfile, gzip and databento's own decoder record by record; nothing of ours.
"""

import csv
import gzip
import io
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import ROUND_HALF_EVEN
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from catalog.models import Delivery
from catalog.models import Quarantined
from flows.ingest import ingest
from flows.plan import Selection
from flows.query import read
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = [pytest.mark.corpus, pytest.mark.django_db(transaction=True)]

Bar = tuple[datetime, Decimal, Decimal, Decimal, Decimal, Decimal]


@pytest.fixture(params=["database", "file"])
def home(request: pytest.FixtureRequest) -> Any:
    """The home route's destination: the database of the test, or Parquet files."""
    return destination("home", request.param, **({"path": "out"} if request.param == "file" else {}))


def put(source: Path, folder: Path, name: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / (name or source.name))


def ingested(expected_rejects: int = 0) -> int:
    (outcome,) = ingest(Selection()).values()
    assert outcome.errors == []
    tally = outcome.tallies["home"]
    assert tally.quarantined == expected_rejects, list(Quarantined.objects.values_list("reason", flat=True)[:5])
    assert tally.parsed == tally.settled
    # twice is once
    (again,) = ingest(Selection(again=True)).values()
    assert (again.tallies["home"].new, again.tallies["home"].updated) == (0, 0)
    return tally.new


def stored_bars(symbol: str) -> list[Bar]:
    table = read(symbol, exact=True).select(["ts_event", "open", "high", "low", "close", "volume"])
    return [
        (row[0].to_pydatetime(), *row[1:])
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
    ]


def sound(bar: Bar) -> bool:
    _, open_, high, low, close, volume = bar
    return high >= max(open_, low, close) and low <= min(open_, close) and low > 0 and volume >= 0


@pytest.mark.parametrize("symbol", ["AAPL", "SPY"])
def test_lean_daily_prices_without_header_times_ten_thousand_inside_a_zip(
    database: str, home: Any, corpus: Path, tmp_path: Path, symbol: str
) -> None:
    path = corpus / f"equities-lean/daily/{symbol.lower()}.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        expected = [
            (
                datetime.strptime(row[0], "%Y%m%d %H:%M").replace(tzinfo=UTC),
                *(Decimal(value) / 10_000 for value in row[1:5]),
                Decimal(row[5]),
            )
            for row in csv.reader(io.TextIOWrapper(file))
        ]
    put(path, tmp_path / "data")
    series("lean", [symbol], destinations=[home], path="*.zip", header=False, time=0, time_format="%Y%m%d %H:%M",
           columns={"open": 1, "high": 2, "low": 3, "close": 4, "volume": 5}, price_scale="0.0001",
           symbol_case="upper", timezone="America/New_York")  # fmt: skip
    assert ingested() == len(expected)
    assert stored_bars(symbol) == expected


def test_cme_minutes_labelled_by_close(database: str, home: Any, corpus: Path, tmp_path: Path) -> None:
    path = next((corpus / "fx").glob("6EH4*.csv.gz"))
    with gzip.open(path, "rt") as file:
        expected = [
            (
                datetime.fromisoformat(row["timestamp_utc"]).replace(tzinfo=UTC) - timedelta(minutes=1),
                *(Decimal(row[name]) for name in ("open", "high", "low", "close", "volume")),
            )
            for row in csv.DictReader(file)
        ]
    assert len(expected) == 29_996
    put(path, tmp_path / "data")
    series("fx", ["6EH4"], schema="ohlcv-1m", asset_class="future", destinations=[home], path="*.csv.gz",
           symbol_name="{symbol}.XCME_*", label="close")  # fmt: skip
    assert ingested() == 29_996
    assert stored_bars("6EH4") == expected


YAHOO = ["AAPL-20040819-20180120", "GOOG-20040819-20180120", "INTC-19950101-20040412", "SPY-20080101-20180101",
         "SPY-20200901-20210113"]  # fmt: skip


@pytest.mark.parametrize("name", YAHOO)
def test_yahoo_daily_prices(database: str, home: Any, corpus: Path, tmp_path: Path, name: str) -> None:
    path = corpus / f"yahoo/mplfinance/yahoofinance-{name}.csv"
    symbol = name.partition("-")[0]
    with path.open() as file:
        rows: list[Bar] = [
            (
                datetime.fromisoformat(row["Date"]).replace(tzinfo=UTC),
                *(
                    Decimal(row[column]).quantize(Decimal("1e-18"), ROUND_HALF_EVEN)
                    for column in ("Open", "High", "Low", "Close", "Volume")
                ),
            )  # type: ignore[misc]
            for row in csv.DictReader(file)
        ]
    expected = [row for row in rows if sound(row)]
    put(path, tmp_path / "data")
    series("yahoo", [symbol], destinations=[home], path="*.csv", symbol_name="yahoofinance-{symbol}-*",
           timezone="America/New_York")  # fmt: skip
    assert ingested(len(rows) - len(expected)) == len(expected)
    assert stored_bars(symbol) == expected


def test_dates_and_times_written_the_american_way(database: str, corpus: Path, tmp_path: Path) -> None:
    path = corpus / "yahoo/mplfinance/SP500_NOV2019_IDay.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    put(path, tmp_path / "data")
    series("spx", ["SP500"], schema="ohlcv-1m", asset_class="index", destinations=[destination("home")],
           path="*.csv", symbol="SP500", time_format="%m/%d/%Y %H:%M", timezone="America/New_York")  # fmt: skip
    ingested()
    table = read("SP500")
    assert table.num_rows == len({row["Date"] for row in rows})
    # 09:30 in New York in November
    assert table["ts_event"][0].as_py().to_pydatetime() == datetime(2019, 11, 5, 14, 30, tzinfo=UTC)


def dbn_files(corpus: Path) -> Iterator[Path]:
    for folder in ("EQUS.MINI", "GLBX.MDP3", "OPRA.PILLAR", "XNAS.ITCH", "dbn-repo"):
        for path in sorted((corpus / "databento" / folder).iterdir()):
            if ".frag" not in path.name:
                yield path


def independent(path: Path) -> tuple[str, list[Any], dict[tuple[int, date], str]]:
    """Return the schema, the records one by one, and (id, day) → symbol."""
    import databento

    store = databento.DBNStore.from_bytes(path.read_bytes())
    names = {}
    for symbol, intervals in store.mappings.items():
        for interval in intervals:
            day = interval["start_date"]
            while interval["symbol"] and day < interval["end_date"]:
                names[int(interval["symbol"]), day] = symbol
                day += timedelta(days=1)
    return str(store.schema), list(store), names


def price(value: int) -> Decimal | None:
    return None if value == 2**63 - 1 else Decimal(value) / 10**9


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.timeout(300)
def test_every_dbn_file_of_a_declared_schema(database: str, home: Any, corpus: Path, tmp_path: Path) -> None:
    from databento.common.publishers import Publisher

    checked = Counter[str]()
    for number, path in enumerate(dbn_files(corpus)):
        schema, records, names = independent(path)
        if schema not in ("ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "trades", "tbbo", "statistics"):
            continue
        symbol_of = {}
        for record in records:
            day = datetime.fromtimestamp(record.ts_event / 1e9, UTC).date()
            symbol_of[record.instrument_id] = names.get((record.instrument_id, day), str(record.instrument_id))
        symbols = sorted(set(symbol_of.values())) or ["NONE"]
        source = f"dbn-{number}"
        put(path, tmp_path / "data" / source)
        series(source, symbols, source=source, schema=schema, asset_class="option", destinations=[home],
               path=f"{source}/*", unknown_symbols="quarantine")  # fmt: skip
        outcome = ingest(Selection(sources=(source,)))[source]
        assert outcome.errors == [], path.name
        tally = outcome.tallies.get("home")
        bars = schema.startswith("ohlcv")
        assert (tally.new if tally else 0) == len(records), (
            path.name,
            list(Quarantined.objects.values_list("reason")[:3]),
        )
        checked[schema] += 1
        found = []
        for symbol in symbols if records else []:
            found += read(f"{source}:option:{symbol.replace(' ', '%20')}", exact=True).to_pylist()
        venues = Counter(row["venue"] for row in found)
        assert venues == Counter(str(Publisher.from_int(record.publisher_id).venue.value) for record in records)
        key = "close" if bars else "price"
        expected = Counter((record.ts_event, price(getattr(record, key))) for record in records)
        assert Counter((row["ts_event"].value, row[key]) for row in found) == expected, path.name
        if bars:
            assert sum(row["volume"] for row in found) == sum(record.volume for record in records)
        elif schema == "statistics":
            got = Counter((row["statistic"], row["sequence"], row["ts_recv"].value) for row in found)
            assert got == Counter((r.stat_type.name.lower(), r.sequence, r.ts_recv) for r in records)
            undefined = (2**63 - 1, 2**31 - 1)
            quantities = sorted(r.quantity for r in records if r.quantity not in undefined)
            assert sorted(row["quantity"] for row in found if row["quantity"] is not None) == quantities
        else:
            got = Counter((row["sequence"], row["size"], row["side"]) for row in found)
            assert got == Counter((r.sequence, r.size, str(r.side)) for r in records)
        if schema == "tbbo":
            got = Counter((row["bid_price"], row["ask_size"], row["ask_count"]) for row in found)
            levels = [(record, record.levels[0]) for record in records]
            assert got == Counter((price(level.bid_px), level.ask_sz, level.ask_ct) for _, level in levels)
    assert set(checked) == {"ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "trades", "tbbo", "statistics"}
    assert checked["trades"] >= 8
    assert not Delivery.objects.exclude(status="delivered").exists()


def test_four_publishers_of_options_give_four_bars(database: str, home: Any, corpus: Path, tmp_path: Path) -> None:
    put(corpus / "databento/OPRA.PILLAR/test_data.ohlcv-1d.dbn.zst", tmp_path / "data")
    series("opra", ["AAPL  250221C00250000"], asset_class="option", destinations=[home], path="*.zst")
    assert ingested() == 4
    table = read("AAPL  250221C00250000")
    assert len(set(table["venue"].to_pylist())) == 4
    assert len(set(table["ts_event"].to_pylist())) == 1


def test_trades_cut_out_of_a_book_keep_their_repeats(database: str, home: Any, corpus: Path, tmp_path: Path) -> None:
    import databento

    path = next((corpus / "databento/nautilus").glob("esh4*.mbo.dbn.zst"))
    trades = [record for record in databento.DBNStore.from_bytes(path.read_bytes()) if str(record.action) == "T"]
    assert len(trades) == 2_973
    put(path, tmp_path / "data")
    series("book", ["ESH4"], schema="trades", asset_class="future", destinations=[home], path="*.zst")
    assert ingested() == 2_973
    table = read("ESH4", exact=True)
    assert sum(table["size"].to_pylist()) == sum(record.size for record in trades)
    assert sum(table["price"].to_pylist()) == sum(Decimal(record.price) / 10**9 for record in trades)
    keys = Counter(
        (row["ts_event"].value, row["sequence"]) for row in table.select(["ts_event", "sequence"]).to_pylist()
    )
    assert sum(count > 1 for count in keys.values()) > 0


def test_sixty_years_of_daily_bars_go_in_by_one_run(database: str, tmp_path: Path) -> None:
    days = [date(1962, 1, 1) + timedelta(days=number) for number in range(60 * 365)]
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["Date,Open,High,Low,Close,Volume", *(f"{day},10,11,9,10,{number}" for number, day in enumerate(days))]
    (folder / "IBM.csv").write_text("\n".join(lines))
    series("ibm", ["IBM"], destinations=[destination("home")], transforms="sma(window=20) | store; obv | store")
    assert ingested() == len(days)
    table = read("IBM")
    assert table.num_rows == len(days)
    assert table["ts_event"][0].as_py().to_pydatetime() == datetime(1962, 1, 1, tzinfo=UTC)
    assert read("prices:equity:IBM", "indicators").num_rows == 2 * len(days) - 19
