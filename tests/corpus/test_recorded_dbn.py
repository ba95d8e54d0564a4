"""Recorded DBN files of every schema and version, against databento's own decoder and symbology, record by record."""

import io
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from catalog.errors import Damaged
from catalog.schemas import DECIMAL
from catalog.schemas import FETCH_ID
from catalog.schemas import INSTRUMENT
from catalog.schemas import NANOSECONDS
from catalog.schemas import ORDINAL
from catalog.schemas import ROW
from catalog.schemas import SCHEMAS
from catalog.schemas.base import TEXT
from catalog.schemas.refine import Facts
from catalog.schemas.refine import Ordinals
from catalog.schemas.refine import Refined
from catalog.schemas.refine import refine
from flows.formats import dbn
from flows.ingest import ingest
from flows.plan import Selection
from flows.query import read
from tests.flows.catalogs import destination
from tests.flows.catalogs import series

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(300)]

FOLDERS = ("EQUS.MINI", "GLBX.MDP3", "XNAS.ITCH", "OPRA.PILLAR", "dbn-repo", "nautilus", "LIVE")
UNDEFINED_PRICE = 2**63 - 1
UNDEFINED_TIME = 2**64 - 1
#: files without a header, and the version of their records
FRAGMENTS = {
    "multi-frame.definition.v1.dbn.frag.zst": 1,
    "test_data.definition.dbn.frag.zst": 2,
    "test_data.definition.v1.dbn.frag.zst": 1,
    "test_data.definition.v3.dbn.frag.zst": 3,
}
LEGS = (
    "leg_count", "leg_raw_symbol", "leg_instrument_class", "leg_side", "leg_price", "leg_delta", "leg_instrument_id",
    "leg_underlying_id", "leg_ratio_price_numerator", "leg_ratio_price_denominator", "leg_ratio_qty_numerator",
    "leg_ratio_qty_denominator",
)  # fmt: skip


def files(corpus: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted(path for path in (corpus / "databento" / folder).iterdir() if ".dbn" in path.name)


def independent(path: Path) -> tuple[str, int, list[Any], Any]:
    """The schema (none: several), the version, the records one by one, and the vendor's own symbology."""
    import databento
    from databento.common.symbology import InstrumentMap
    from databento_dbn import Compression
    from databento_dbn import DBNDecoder

    names = InstrumentMap()
    content = path.read_bytes()
    if path.name in FRAGMENTS:
        version = FRAGMENTS[path.name]
        decoder = DBNDecoder(has_metadata=False, input_version=version, compression=Compression.ZSTD)
        decoder.write(content)
        return "definition", version, decoder.decode(), names
    store = databento.DBNStore.from_bytes(content)
    records = list(store)
    names.insert_metadata(store.metadata)
    for record in records:
        if type(record).__name__ == "SymbolMappingMsg":
            names.insert_symbol_mapping_msg(record)
    return str(store.schema or ""), store.metadata.version, records, names


def symbol(record: Any, names: Any) -> str:
    when = getattr(record, "ts_recv", record.ts_event)
    day = datetime.fromtimestamp(when // 10**9, UTC).date()
    return str(names.resolve(record.instrument_id, day) or getattr(record, "raw_symbol", record.instrument_id))


def venue(publisher: int) -> str | None:
    from databento.common.publishers import Publisher

    return str(Publisher.from_int(publisher).venue.value) if publisher else None


def value(record: Any, column: Any, version: int) -> Any:
    """What a column must hold, told from the record's attribute alone."""
    name, kind = column.name, column.type
    if name in ("venue", "statistic", "vendor_instrument_id"):
        if name == "venue":
            return venue(record.publisher_id)
        return record.stat_type.name.lower() if name == "statistic" else record.instrument_id
    if version < 3 and name in (*LEGS, "leg_index") and type(record).__name__ == "InstrumentDefMsg":
        return column.absent
    side, _, rest = name.partition("_")
    found: Any
    if side in ("bid", "ask"):
        what, _, level = rest.partition("_")
        code = {"price": "px", "size": "sz", "count": "ct", "venue": "pb"}[what]
        found = getattr(record.levels[int(level or 0)], f"{side}_{code}")
        if what == "venue":
            return venue(found)
    elif not hasattr(record, name):
        return column.absent
    else:
        found = getattr(record, name)
    if kind == NANOSECONDS:
        if name == "decay_start_date":
            return None if found == 2**16 - 1 else found * 86_400 * 10**9
        return None if found == UNDEFINED_TIME or (name == "auction_time" and found == 0) else found
    if kind == DECIMAL:
        if quantity(name):
            return None if found in (2**32 - 1, UNDEFINED_PRICE) else Decimal(found)
        return None if found == UNDEFINED_PRICE else Decimal(found) / 10**9
    if kind == TEXT:
        if name.startswith("is_"):
            return {True: "Y", False: "N", None: None}[found]
        word = found.name.lower() if type(record).__name__ == "StatusMsg" else str(found)
        return None if word in ("", " ", "\x00", "~") else word
    if type(record).__name__ == "InstrumentDefMsg" and name not in ("leg_count", "leg_index", "channel_id"):
        return None if found == largest(name, version) else found
    return int(found)


def largest(field: str, version: int) -> int:
    """The largest value of a definition's field: what means undefined."""
    import databento_dbn
    from databento_dbn import v1
    from databento_dbn import v2

    layout = {1: v1, 2: v2, 3: databento_dbn}[version].InstrumentDefMsg._dtypes
    return int(np.iinfo(np.dtype(layout)[field]).max)


def quantity(name: str) -> bool:
    words = ("size", "volume", "quantity", "qty")
    return name != "unit_of_measure_qty" and any(word in name.split("_") for word in words)


def plain(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows with times as their nanoseconds, the columns that are ours alone left out."""
    table = table.drop_columns([name for name in (ORDINAL, FETCH_ID) if name in table.column_names])
    columns = [
        (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for column in table.columns
    ]
    return list(zip(*columns, strict=True))


def expected(schema: str, records: list[Any], names: Any, version: int) -> Counter[tuple[Any, ...]]:
    declared = SCHEMAS[schema].columns
    return Counter(
        (symbol(record, names), *(value(record, column, version) for column in declared)) for record in records
    )


def refined(path: Path, schema: str) -> list[Refined]:
    """The file as the pipeline refines it, each symbol its own instrument."""
    fragment = ("definition", FRAGMENTS[path.name]) if path.name in FRAGMENTS else None
    facts, ordinals = Facts(1, datetime(2027, 1, 1, tzinfo=UTC)), Ordinals()
    found = []
    with path.open("rb") as file:
        for block in dbn.read(file, schema, {}, path.name, fragment):
            table = block.table.append_column(ROW, block.rows).append_column(INSTRUMENT, block.symbols)
            found.append(refine(SCHEMAS[schema], table, facts, ordinals))
    return found


#: a live session's records by the schema that holds them
LIVE = {
    "TradeMsg": "trades", "MBP1Msg": "mbp-1", "MBP10Msg": "mbp-10", "MBOMsg": "mbo", "StatMsg": "statistics",
    "InstrumentDefMsg": "definition",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_says_what_the_vendors_decoder_says(corpus: Path) -> None:
    checked = Counter[str]()
    versions = Counter[tuple[str, int]]()
    for path in files(corpus):
        held, version, records, names = independent(path)
        wanted = {held: records}
        if not held:
            wanted = {}
            for record in records:
                kind = type(record).__name__
                schema = {32: "ohlcv-1s", 33: "ohlcv-1m"}[int(record.rtype)] if kind == "OHLCVMsg" else LIVE.get(kind)
                if schema:
                    wanted.setdefault(schema, []).append(record)
        for schema, its in wanted.items():
            batches = refined(path, schema)
            assert [row for batch in batches for row in batch.rejected.to_pylist()] == [], path.name
            assert sum(batch.duplicates + batch.rounded for batch in batches) == 0, path.name
            found = Counter(row for batch in batches for row in plain(batch.accepted))
            assert found == expected(schema, its, names, version), path.name
            checked[schema] += 1
            versions[schema, version] += 1
        with path.open("rb") as file:
            fragment = ("definition", version) if path.name in FRAGMENTS else None
            assert dbn.count(file, path.name, fragment) == len(records), path.name
    # tcbbo and ohlcv-eod were never recorded
    assert set(checked) == set(dbn.RECORDS) - {"tcbbo", "ohlcv-eod"}
    assert {versions["definition", number] > 0 for number in (1, 2, 3)} == {True}
    assert {versions["statistics", number] > 0 for number in (1, 2, 3)} == {True}


@pytest.mark.parametrize("schema", ["bbo-1s", "bbo-1m", "cbbo-1s", "cbbo-1m"])
def test_a_venue_has_one_quote_for_each_interval(corpus: Path, schema: str) -> None:
    # these schemas count no repeats: a second row of a key would be a duplicate or a contradiction
    seen = 0
    for path in files(corpus):
        if f"test_data.{schema}." in path.name:
            _, _, records, _ = independent(path)
            keys = Counter((r.instrument_id, r.publisher_id, r.ts_recv) for r in records)
            assert set(keys.values()) == {1}, path.name
            seen += 1
    assert seen


def test_a_book_begins_its_day_with_the_orders_that_rest(corpus: Path) -> None:
    (path,) = (corpus / "databento/GLBX.MDP3").glob("*.mbo.*")
    (batch,) = refined(path, "mbo")
    day = datetime(2020, 12, 28, tzinfo=UTC)
    # received as the day began, made hours before: by ts_event they would lie outside the day that was asked
    assert set(batch.accepted["ts_recv"].to_pylist()) == {pd.Timestamp(day)}
    assert max(batch.accepted["ts_event"].to_pylist()) < pd.Timestamp(day)


def test_events_of_a_book_share_time_and_sequence(corpus: Path) -> None:
    (path,) = (corpus / "databento/nautilus").glob("*.mbo.*")
    (batch,) = refined(path, "mbo")
    assert batch.accepted.num_rows == 68_792
    assert sum(ordinal > 0 for ordinal in batch.accepted[ORDINAL].to_pylist()) > 10_000


@pytest.mark.parametrize("cut", [200_000, 500_000])
def test_a_cut_file_is_damaged_and_never_shorter(corpus: Path, cut: int) -> None:
    (path,) = (corpus / "databento/nautilus").glob("*.mbo.*")
    whole = path.read_bytes()
    assert len(whole) == 997_238
    with pytest.raises(Damaged, match="cut short"):
        list(dbn.read(io.BytesIO(whole[:cut]), "mbo", {}, path.name))
    with pytest.raises(Damaged, match="cut short"):
        dbn.count(io.BytesIO(whole[:cut]), path.name)


STORED = {
    "ohlcv-1s": "GLBX.MDP3", "ohlcv-1m": "GLBX.MDP3", "ohlcv-1h": "XNAS.ITCH", "ohlcv-1d": "OPRA.PILLAR",
    "trades": "GLBX.MDP3", "tbbo": "XNAS.ITCH", "mbp-1": "EQUS.MINI", "mbp-10": "GLBX.MDP3", "bbo-1s": "EQUS.MINI",
    "bbo-1m": "GLBX.MDP3", "cmbp-1": "dbn-repo", "cbbo-1s": "OPRA.PILLAR", "cbbo-1m": "OPRA.PILLAR",
    "mbo": "XNAS.ITCH", "statistics": "GLBX.MDP3", "status": "GLBX.MDP3", "imbalance": "XNAS.ITCH",
    "definition": "GLBX.MDP3",
}  # fmt: skip


@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_schema_is_stored_once_however_often_it_is_written(database: str, corpus: Path, tmp_path: Path) -> None:
    for schema, folder in STORED.items():
        path = sorted((corpus / "databento" / folder).glob(f"test_data.{schema}.*"))[-1]
        _, version, records, names = independent(path)
        (name,) = {symbol(record, names) for record in records}
        put = tmp_path / "data" / schema / path.name
        put.parent.mkdir(parents=True)
        shutil.copyfile(path, put)
        series(schema, [name], source=schema, schema=schema, asset_class="option", path=f"{schema}/*",
               destinations=[destination("home")], unknown_symbols="quarantine")  # fmt: skip
        for again in (False, True):
            outcome = ingest(Selection(sources=(schema,), again=again))[schema]
            assert outcome.errors == [], schema
            tally = outcome.tallies["home"]
            assert (tally.new, tally.quarantined) == (0 if again else len(records), 0), schema
        stored = read(f"{schema}:option:{name.replace(' ', '%20')}", schema, exact=True)
        assert stored.column_names == SCHEMAS[schema].arrow.names
        found = Counter((name, *row[1:]) for row in plain(stored))
        assert found == expected(schema, records, names, version), schema
