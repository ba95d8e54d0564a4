"""2 M records from zstd DBN to validated Arrow with symbols, against `DBNStore.to_df` of the vendor's own package."""

import warnings
from collections.abc import Iterator
from datetime import UTC
from datetime import date
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks import catalogs
from benchmarks.machine import Line
from benchmarks.machine import alternate
from benchmarks.machine import data_folder
from benchmarks.machine import seconds

ROWS = 2_000_000
SYMBOLS = ("ESH4", "NQH4", "CLG4", "GCG4", "ZNH4")
#: a day of one future: how often each action comes, and how many records share a time and sequence
ACTIONS = {b"A": 0.425, b"C": 0.262, b"M": 0.178, b"F": 0.092, b"T": 0.043}
A_DAY = 69_000


def run() -> Iterator[Line]:
    trades, orders = data_folder() / "trades.dbn.zst", data_folder() / "orders.dbn.zst"
    catalogs.write_trades(trades, ROWS, SYMBOLS, days=10)
    write_orders(orders, ROWS)
    # both import what they use
    rows_of(trades, "trades", SYMBOLS)
    frame_of(trades)
    for path, schema, symbols in ((trades, "trades", SYMBOLS), (orders, "mbo", SYMBOLS[:1])):
        base, ours = alternate(
            5,
            lambda path=path: seconds(lambda: frame_of(path)),
            lambda path=path, schema=schema, symbols=symbols: seconds(lambda: rows_of(path, schema, symbols)),
        )
        yield Line(f"{schema}: DBN → symbols → validated Arrow, against DBNStore.to_df with symbols", base / ours, 7.0,
                   note=f"{ROWS / ours / 1000:,.0f} k rows/s")  # fmt: skip
        counted = seconds(lambda path=path: count_of(path))
        yield Line(f"{schema}: to count the records, against reading them", counted / ours, 0.6, at_least=False)


def rows_of(path: Path, schema_name: str, symbols: tuple[str, ...]) -> None:
    """What the pipeline does between landing and sink."""
    from catalog.keys import InstrumentName
    from catalog.schemas import ROW
    from catalog.schemas import schema as schema_called
    from catalog.schemas.refine import Facts
    from catalog.schemas.refine import Ordinals
    from catalog.schemas.refine import refine
    from flows.extractors.base import SYMBOL
    from flows.formats import dbn
    from flows.job import InstrumentFacts
    from flows.job import SymbolInterval
    from flows.symbols import Symbols

    schema = schema_called(schema_name)
    known = Symbols(
        InstrumentFacts(number, InstrumentName("bench", "future", symbol), (SymbolInterval(symbol),))
        for number, symbol in enumerate(symbols, start=1)
    )
    facts, ordinals, accepted = Facts(1, datetime.now(UTC)), Ordinals(), 0
    with path.open("rb") as file:
        for block in dbn.read(file, schema.name, {}, path.name):
            table = block.table.append_column(SYMBOL, block.symbols).append_column(ROW, block.rows)
            refined = refine(schema, known.resolve(table, schema.time), facts, ordinals)
            accepted += refined.accepted.num_rows
            if refined.accepted["instrument"].null_count:
                raise AssertionError("a symbol is unknown")
    if accepted != ROWS:
        raise AssertionError(f"{accepted} of {ROWS} rows")


def frame_of(path: Path) -> None:
    import databento

    with warnings.catch_warnings():
        # the vendor's package warns of pandas 4 at every call
        warnings.simplefilter("ignore")
        frame = databento.DBNStore.from_file(path).to_df(map_symbols=True)
    if len(frame) != ROWS or frame["symbol"].isna().any():
        raise AssertionError(len(frame))


def count_of(path: Path) -> None:
    from flows.formats import dbn

    with path.open("rb") as file:
        if (found := dbn.count(file, path.name)) != ROWS:
            raise AssertionError(found)


def write_orders(path: Path, rows: int) -> None:
    """Write a DBN file of orders of one future, in the order the vendor received them."""
    import databento_dbn as dbn
    import zstandard

    random = np.random.default_rng(2)
    start = int(datetime(2024, 1, 2, tzinfo=UTC).timestamp()) * 10**9
    days = -(-rows // A_DAY)
    records = np.zeros(rows, dtype=np.dtype(dbn.MBOMsg._dtypes))
    records["length"], records["rtype"] = records.dtype.itemsize // 4, 160
    records["publisher_id"], records["instrument_id"] = 1, 1
    # an event of several records has one time and one sequence: every fourth record repeats those before
    event = np.cumsum(random.random(rows) >= 0.27)
    moments = start + np.sort(random.integers(0, days * 86_400 * 10**9, int(event[-1]) + 1))
    records["ts_event"] = moments[event]
    records["ts_recv"] = records["ts_event"] + np.uint64(20_000)
    records["ts_in_delta"] = random.integers(10_000, 20_000, rows)
    records["sequence"] = event
    records["order_id"] = 6_412_777_000_000 + random.integers(0, 300_000, rows)
    records["price"] = (4_800 * 4 + random.integers(-40, 40, rows)) * (10**9 // 4)
    records["size"] = random.integers(1, 20, rows)
    records["action"] = random.choice(list(ACTIONS), rows, p=list(ACTIONS.values()))
    records["side"] = np.where(random.random(rows) < 0.5, b"A", b"B")
    records["flags"] = 130
    metadata = dbn.Metadata(
        dataset="GLBX.MDP3", schema=dbn.Schema.MBO, start=start, stype_in=dbn.SType.RAW_SYMBOL, partial=[],
        stype_out=dbn.SType.INSTRUMENT_ID, symbols=[SYMBOLS[0]], not_found=[],
        mappings=[
            SimpleNamespace(
                raw_symbol=SYMBOLS[0],
                intervals=[SimpleNamespace(start_date=date(2024, 1, 2), end_date=date(2025, 1, 1), symbol="1")],
            )
        ],
    )  # fmt: skip
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as writer:
        writer.write(metadata.encode())
        writer.write(records.tobytes())
