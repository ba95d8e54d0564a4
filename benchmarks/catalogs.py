"""The catalog rows and the generated files that the benchmarks use."""

from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def series(series_id: str, symbols: Sequence[str], schema: str, kind: str, options: dict[str, object]) -> None:
    """Make a source of files, a series of the symbols and one home route to a destination of the kind."""
    from catalog.models import Asset
    from catalog.models import DataSource
    from catalog.models import OutputDestination
    from catalog.models import Route
    from catalog.models import TimeSeries

    source = DataSource.objects.create(name=series_id, vendor="files", options=options)
    settings = {"path": series_id} if kind == "file" else {}
    destination = OutputDestination.objects.create(name=f"{series_id}-{kind}", kind=kind, options=settings)
    made = TimeSeries.objects.create(series_id=series_id, source=source, schema=schema)
    for symbol in symbols:
        made.assets.add(Asset.objects.get_or_create(symbol=symbol, asset_class="future")[0])
    Route.objects.create(series=made, destination=destination, home=True)


def clear_ledger() -> None:
    """Forget every run, as if nothing had been fetched."""
    from catalog.models import Coverage
    from catalog.models import Delivery
    from catalog.models import Fetch
    from catalog.models import Quarantined
    from catalog.models import Run

    for model in (Quarantined, Delivery, Coverage, Fetch, Run):
        model.objects.all().delete()


def write_trades(path: Path, rows: int, symbols: Sequence[str], days: int) -> None:
    """Write a DBN file of trades, zstd-compressed: sequences grow, times grow, every symbol in turn at random."""
    import databento_dbn as dbn
    import zstandard

    random = np.random.default_rng(1)
    start = int(datetime(2024, 1, 2, tzinfo=UTC).timestamp()) * 1_000_000_000
    records = np.zeros(rows, dtype=np.dtype(dbn.TradeMsg._dtypes))
    records["length"] = records.dtype.itemsize // 4
    records["rtype"] = 0
    records["publisher_id"] = 1
    records["instrument_id"] = random.integers(1, len(symbols) + 1, rows)
    records["ts_event"] = start + np.sort(random.integers(0, days * 86_400 * 10**9, rows)).astype(np.uint64)
    records["price"] = (5000 + random.integers(-400, 400, rows) * 0.25) * 1e9
    records["size"] = random.integers(1, 50, rows)
    records["action"] = b"T"
    records["side"] = np.where(random.random(rows) < 0.5, b"A", b"B")
    records["ts_recv"] = records["ts_event"] + 1000
    records["sequence"] = np.arange(rows)
    first = datetime.fromtimestamp(start / 1e9, UTC).date()
    last = datetime.fromtimestamp(start / 1e9 + (days + 1) * 86_400, UTC).date()
    metadata = dbn.Metadata(
        dataset="GLBX.MDP3",
        schema=dbn.Schema.TRADES,
        start=start,
        end=start + days * 86_400 * 10**9,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        symbols=list(symbols),
        partial=[],
        not_found=[],
        mappings=[
            # the encoder's own classes cannot be made from Python; it reads these attributes
            SimpleNamespace(
                raw_symbol=symbol,
                intervals=[SimpleNamespace(start_date=first, end_date=last, symbol=str(number))],
            )
            for number, symbol in enumerate(symbols, start=1)
        ],
    )
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as writer:
        writer.write(metadata.encode())
        for offset in range(0, rows, 250_000):
            writer.write(records[offset : offset + 250_000].tobytes())


def join_files(folder: Path, target: Path) -> None:
    """Write one CSV of a folder's files, with the symbol of each as a first column."""
    with target.open("w") as joined:
        joined.write("symbol,ts_event,open,high,low,close,volume\n")
        for path in sorted(folder.glob("*.csv")):
            _, *lines = path.read_text().splitlines()
            joined.writelines(f"{path.stem},{line}\n" for line in lines)


def write_minutes(folder: Path, symbols: Sequence[str], rows: int) -> None:
    """Write one CSV of minute bars for each symbol, `rows` in all."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    folder.mkdir(parents=True, exist_ok=True)
    each = rows // len(symbols)
    for number, symbol in enumerate(symbols):
        random = np.random.default_rng(number)
        close = np.round(100 + np.cumsum(random.normal(0, 0.02, each)) % 50, 2)
        spread = np.round(random.random(each), 2)
        times = np.datetime64("2020-01-01T00:00", "s") + np.arange(each) * np.timedelta64(60, "s")
        table = pa.table(
            {
                "ts_event": pc.strftime(pa.array(times).cast(pa.timestamp("s", "UTC")), "%Y-%m-%dT%H:%M:%SZ"),
                "open": close,
                "high": np.round(close + spread, 2),
                "low": np.round(close - spread, 2),
                "close": close,
                "volume": random.integers(1, 10_000, each),
            }
        )
        pyarrow.csv.write_csv(table, folder / f"{symbol}.csv", pyarrow.csv.WriteOptions(quoting_style="none"))
