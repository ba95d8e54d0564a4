"""A vendor's symbol means an instrument for a time; whatever unit the time is in."""

from datetime import UTC
from datetime import datetime

import pyarrow as pa
import pytest

from catalog.keys import InstrumentName
from flows.job import InstrumentFacts
from flows.job import SymbolInterval
from flows.symbols import Symbols

ROLL = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_an_interval_decides_in_every_unit(unit: str) -> None:
    old, new = (InstrumentName("x", "future", symbol) for symbol in ("ESM4", "ESU4"))
    symbols = Symbols(
        [
            InstrumentFacts(1, old, (SymbolInterval("ES", end=ROLL),)),
            InstrumentFacts(2, new, (SymbolInterval("ES", start=ROLL),)),
        ]
    )
    times = [datetime(2024, 5, 31, tzinfo=UTC), ROLL, datetime(2024, 7, 1, tzinfo=UTC), None]
    table = pa.table({"symbol": ["ES", "ES", "ES", "NQ"], "ts_event": pa.array(times, pa.timestamp(unit, "UTC"))})
    found = symbols.resolve(table, "ts_event")["instrument"].to_pylist()
    assert found == [str(old), str(new), str(new), None]
