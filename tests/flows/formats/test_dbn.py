"""DBN made field by field: sentinels, versions, mixed streams, symbols by day, cuts."""

import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zstandard

from catalog.errors import Damaged
from catalog.errors import SchemaMismatch
from catalog.schemas import DECIMAL
from catalog.schemas import NANOSECONDS
from flows.formats import dbn
from flows.formats import dbn_columns
from flows.formats.dbn_stream import Header

dbn_package = pytest.importorskip("databento_dbn")

DAY = 86_400 * 10**9
START = 1_704_153_600 * 10**9  # 2024-01-02
NO_TIME = 2**64 - 1
NO_PRICE = 2**63 - 1
CLASSES = {name: dbn.RECORDS[name][name] for name in dbn.RECORDS}


def layout(record: str, version: int = 3) -> np.dtype[Any]:
    import databento_dbn.v1
    import databento_dbn.v2

    module = {1: databento_dbn.v1, 2: databento_dbn.v2, 3: databento_dbn}[version]
    return np.dtype(getattr(module, record)._dtypes)


def rows(record: str, count: int = 1, version: int = 3, rtype: int = 0, **values: Any) -> np.ndarray:
    """Records of venue GLBX and instrument 7, one a second; `values` are the fields that matter."""
    made = np.zeros(count, layout(record, version))
    made["length"], made["rtype"], made["publisher_id"], made["instrument_id"] = made.itemsize // 4, rtype, 1, 7
    made["ts_event"] = START + np.arange(count) * 10**9
    for name in ("ts_recv",):
        if name in made.dtype.names:
            made[name] = made["ts_event"]
    for name, value in values.items():
        made[name] = value
    return made


def header(schema: str | None, version: int = 3, mappings: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """A header; `mappings` are symbol → (first day, last day exclusive, id)."""
    made = dbn_package.Metadata(
        dataset="GLBX.MDP3", start=START, stype_in=None, stype_out=dbn_package.SType.INSTRUMENT_ID, partial=[],
        schema=dbn_package.Schema.from_str(schema) if schema else None, symbols=list(mappings or {}), not_found=[],
        version=version, **more,
        mappings=[
            SimpleNamespace(
                raw_symbol=symbol,
                intervals=[
                    SimpleNamespace(start_date=first, end_date=last, symbol=str(number))
                    for first, last, number in intervals
                ],
            )
            for symbol, intervals in (mappings or {}).items()
        ],
    )  # fmt: skip
    return bytes(made.encode())


def decoded(content: bytes, schema: str, **more: Any) -> list[dict[str, Any]]:
    """The rows with symbol and position; times as nanoseconds."""
    found = []
    for block in dbn.read(io.BytesIO(content), schema, more.pop("symbols", {}), "x.dbn", **more):
        table = block.table.append_column("symbol", block.symbols).append_column("at", block.rows)
        for name in table.column_names:
            if table[name].type == NANOSECONDS:
                table = table.set_column(table.column_names.index(name), name, table[name].cast("int64"))
        found += table.to_pylist()
    return found


def one(record: str, schema: str, version: int = 3, **values: Any) -> dict[str, Any]:
    (row,) = decoded(header(schema, version) + rows(record, version=version, **values).tobytes(), schema)
    return row


def test_undefined_values_are_null() -> None:
    row = one("TradeMsg", "trades", price=NO_PRICE, size=2**32 - 1, ts_recv=NO_TIME)
    assert (row["price"], row["size"], row["ts_recv"]) == (None, None, None)
    # the values beside them are values
    row = one("TradeMsg", "trades", price=NO_PRICE - 1, size=2**32 - 2, ts_recv=START)
    assert (row["price"], row["size"]) == (Decimal(NO_PRICE - 1) / 10**9, 2**32 - 2)


def test_a_quote_before_the_first_trade_has_no_time_of_a_trade() -> None:
    row = one("BBOMsg", "bbo-1s", ts_event=NO_TIME, ts_recv=START + 10**9, price=NO_PRICE, bid_px_00=-1, side=b"N")
    assert (row["ts_event"], row["ts_recv"], row["price"]) == (None, START + 10**9, None)
    assert (row["bid_price"], row["side"]) == (Decimal("-0.000000001"), "N")


@pytest.mark.parametrize(("version", "undefined"), [(1, 2**31 - 1), (2, 2**31 - 1), (3, 2**63 - 1)])
def test_a_statistic_without_quantity_has_none_in_every_version(version: int, undefined: int) -> None:
    row = one("StatMsg", "statistics", version, quantity=undefined, price=5, stat_type=3, ts_ref=NO_TIME)
    assert (row["quantity"], row["ts_ref"], row["statistic"]) == (None, None, "settlement_price")
    assert one("StatMsg", "statistics", version, quantity=undefined - 1)["quantity"] == undefined - 1
    # what is undefined in version 1 is a quantity in version 3
    if version == 3:
        assert one("StatMsg", "statistics", version, quantity=2**31 - 1)["quantity"] == 2**31 - 1


def test_numbers_the_package_has_no_name_for_stay_numbers() -> None:
    assert one("StatMsg", "statistics", stat_type=9_999)["statistic"] == "9999"
    row = one("StatusMsg", "status", action=7, reason=1, trading_event=60_000, is_trading=b"Y", is_quoting=b"~")
    assert (row["action"], row["reason"], row["trading_event"]) == ("trading", "scheduled", "60000")
    assert (row["is_trading"], row["is_quoting"]) == ("Y", None)
    assert one("TradeMsg", "trades", publisher_id=65_000)["venue"] == "65000"


def test_levels_keep_their_place() -> None:
    values = {f"{side}_{what}_{at:02d}": 10**9 * (at + 1) * (1 if side == "bid" else -1) if what == "px" else at
              for side in ("bid", "ask") for what in ("px", "sz", "ct") for at in range(10)}  # fmt: skip
    row = one("MBP10Msg", "mbp-10", action=b"A", side=b"B", depth=3, flags=130, **values)
    assert [row[f"bid_price_{at:02d}"] for at in range(10)] == [at + 1 for at in range(10)]
    assert [row[f"ask_price_{at:02d}"] for at in range(10)] == [-at - 1 for at in range(10)]
    assert [row[f"ask_count_{at:02d}"] for at in range(10)] == list(range(10))
    assert (row["action"], row["depth"], row["flags"]) == ("A", 3, 130)


def test_consolidated_levels_name_their_venues() -> None:
    for schema in ("cmbp-1", "tcbbo"):
        row = one("CMBP1Msg", schema, bid_pb_00=2, ask_pb_00=0, ask_px_00=NO_PRICE, action=b"T")
        assert (row["bid_venue"], row["ask_venue"], row["ask_price"]) == ("XNAS", None, None)
        assert "bid_count" not in row


def test_order_numbers_are_never_wrapped() -> None:
    assert one("MBOMsg", "mbo", order_id=2**63 - 1)["order_id"] == 2**63 - 1
    # refining rejects it, with its value: as int64 it would be negative
    assert one("MBOMsg", "mbo", order_id=2**64 - 1)["order_id"] == 2**64 - 1


@pytest.mark.parametrize(("version", "size"), [(1, 360), (2, 400), (3, 520)])
def test_definitions_of_each_version(version: int, size: int) -> None:
    assert layout("InstrumentDefMsg", version).itemsize == size
    symbol = b"S" * (21 if version == 1 else 70)
    row = one(
        "InstrumentDefMsg", "definition", version, raw_symbol=symbol, strike_price=-5 * 10**9, expiration=NO_TIME,
        activation=START, min_lot_size=2**31 - 1, market_depth=10, currency=b"USD", match_algorithm=b" ",
        instrument_class=b"C", decay_start_date=19_724, maturity_month=255, raw_instrument_id=2**31,
    )  # fmt: skip
    assert (row["raw_symbol"], row["strike_price"], row["expiration"]) == (symbol.decode(), -5, None)
    assert (row["activation"], row["min_lot_size"], row["market_depth"]) == (START, None, 10)
    assert (row["currency"], row["settl_currency"], row["match_algorithm"]) == ("USD", None, None)
    assert (row["instrument_class"], row["decay_start_date"], row["maturity_month"]) == ("C", START, None)
    assert (row["raw_instrument_id"], row["vendor_instrument_id"], row["venue"]) == (2**31, 7, "GLBX")
    assert ("leg_price" in row) == (version == 3)
    # no mapping says what 7 is, but the definition does
    assert row["symbol"] == symbol.decode()


def test_no_records_are_no_rows() -> None:
    assert decoded(header("mbp-1"), "mbp-1") == []
    assert decoded(header(None), "mbp-1") == []
    assert dbn.count(io.BytesIO(header("mbp-1")), "x.dbn") == 0


MAPPINGS = {
    "ESH4": [(date(2024, 1, 2), date(2024, 1, 3), 7)],
    "ESM4": [(date(2024, 1, 3), date(2024, 1, 9), 7), (date(2024, 1, 2), date(2024, 1, 3), 8)],
    "ES.c.0": [(date(2024, 1, 4), date(2024, 1, 5), 9), (date(2024, 1, 5), date(2024, 1, 6), 10)],
}


def test_an_id_is_another_instrument_on_another_day() -> None:
    made = rows("TradeMsg", 6)
    made["ts_recv"] = START + np.array([0, DAY - 1, DAY, 0, 2 * DAY, 3 * DAY], np.uint64)
    made["instrument_id"] = [7, 7, 7, 8, 9, 10]
    found = decoded(header("trades", mappings=MAPPINGS) + made.tobytes(), "trades")
    assert [row["symbol"] for row in found] == ["ESH4", "ESH4", "ESM4", "ESM4", "ES.c.0", "ES.c.0"]
    # outside the days of a mapping nothing says what it is
    made["ts_recv"] += np.uint64(30 * DAY)
    found = decoded(header("trades", mappings=MAPPINGS) + made.tobytes(), "trades")
    assert [row["symbol"] for row in found] == ["7", "7", "7", "8", "9", "10"]


def test_the_day_is_that_of_receiving_where_there_is_one() -> None:
    late = {"ts_event": START - 1, "ts_recv": START}
    for record, schema in (("TradeMsg", "trades"), ("MBOMsg", "mbo"), ("StatMsg", "statistics")):
        content = header(schema, mappings=MAPPINGS) + rows(record, **late).tobytes()
        assert [row["symbol"] for row in decoded(content, schema)] == ["ESH4"]
    bar = header("ohlcv-1s", mappings=MAPPINGS) + rows("OHLCVMsg", ts_event=START + DAY).tobytes()
    assert [row["symbol"] for row in decoded(bar, "ohlcv-1s")] == ["ESM4"]
    unknown = header("trades", mappings=MAPPINGS) + rows("TradeMsg", ts_event=START, ts_recv=NO_TIME).tobytes()
    assert [row["symbol"] for row in decoded(unknown, "trades")] == ["ESH4"]


def told(number: int, asked: bytes, meant: bytes = b"", version: int = 3) -> bytes:
    made = rows("SymbolMappingMsg", version=version, rtype=22, instrument_id=number, stype_in_symbol=asked,
                stype_out_symbol=meant or asked)  # fmt: skip
    return made.tobytes()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_of_a_live_session_the_schema_asked_is_read(version: int) -> None:
    trade, quote = (rows(name, version=version, rtype=kind, price=10**9, action=b"T")
                    for name, kind in (("TradeMsg", 0), ("MBP1Msg", 1)))  # fmt: skip
    added = rows("MBP1Msg", version=version, rtype=1, action=b"A")
    bar = rows("OHLCVMsg", version=version, rtype=33, close=10**9)
    system = rows("SystemMsg", version=version, rtype=23)
    content = header(None, version) + b"".join(
        [told(7, b"ESH4", version=version), trade.tobytes(), quote.tobytes(), system.tobytes(), bar.tobytes(),
         added.tobytes(), trade.tobytes()]
    )  # fmt: skip
    found = {schema: [(row["symbol"], row["at"]) for row in decoded(content, schema)] for schema in dbn.RECORDS}
    assert {schema: its for schema, its in found.items() if its} == {
        "trades": [("ESH4", 1), ("ESH4", 6)],
        "mbp-1": [("ESH4", 2), ("ESH4", 5)],
        # the same record: of those only a trade can be one of tbbo
        "tbbo": [("ESH4", 2)],
        "ohlcv-1m": [("ESH4", 4)],
    }
    assert dbn.count(io.BytesIO(content), "x.dbn") == 7


def test_a_live_session_says_symbols_as_it_goes() -> None:
    trade = rows("TradeMsg").tobytes()
    other = rows("TradeMsg", instrument_id=8).tobytes()
    content = header(None) + b"".join(
        [trade, told(7, b"ESH4"), trade, told(8, b"ES.FUT", b"ESM4"), other, told(7, b"ES.c.0", b"ESM4"), trade,
         told(7, b"ES.c.0", b"ESM4"), trade, other]
    )  # fmt: skip
    symbols = [row["symbol"] for row in decoded(content, "trades")]
    # nothing said yet; as asked; many asked, so what is meant; asked anew, as history would name it
    assert symbols == ["7", "ESH4", "ESM4", "ES.c.0", "ES.c.0", "ESM4"]
    symbols = [row["symbol"] for row in decoded(content, "trades", symbols={"7": "MINE"})]
    assert symbols == ["MINE", "MINE", "ESM4", "MINE", "MINE", "ESM4"]


def test_blocks_of_a_session_are_decoded_as_they_come() -> None:
    decoder = dbn.Decoder(Header(3), ("trades", "mbp-1"))
    first = decoder.decode(told(7, b"ESH4") + rows("TradeMsg").tobytes())
    second = decoder.decode(rows("MBP1Msg", 2, rtype=1).tobytes() + rows("TradeMsg").tobytes())
    assert list(first) == ["trades"]
    assert {name: block.symbols.to_pylist() for name, block in second.items()} == {
        "trades": ["ESH4"], "mbp-1": ["ESH4", "ESH4"],
    }  # fmt: skip
    assert [second[name].rows.to_pylist() for name in ("mbp-1", "trades")] == [[2, 3], [4]]
    assert decoder.decode(b"") == {}
    with pytest.raises(Damaged, match="ends inside a record"):
        decoder.decode(rows("TradeMsg").tobytes()[:-1])


def test_the_time_of_sending_is_passed_over() -> None:
    import numpy.lib.recfunctions as fields

    for schema in ("trades", None):
        sent = fields.append_fields(rows("TradeMsg", 3, price=10**9), "ts_out", np.full(3, 5, "u8"), usemask=False)
        sent["length"] = sent.itemsize // 4
        content = header(schema, ts_out=True) + sent.tobytes()
        assert [row["price"] for row in decoded(content, "trades")] == [1, 1, 1]
        assert dbn.count(io.BytesIO(content), "x.dbn") == 3


def test_records_of_another_length_than_their_version_has_are_damage() -> None:
    wrong = rows("StatMsg", version=1, rtype=24).tobytes()
    for schema in ("statistics", None):
        with pytest.raises(Damaged, match="of 64 bytes, not 80"):
            decoded(header(schema) + wrong + wrong * 4, "statistics")
    with pytest.raises(Damaged, match="record of 0 bytes"):
        decoded(header(None) + bytes(16), "trades")


@pytest.mark.parametrize("schema", ["trades", None])
@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_stream_is_damaged(schema: str | None, packed: bool) -> None:
    random = np.random.default_rng(0).integers(0, 2**31, 5_000)
    whole = header(schema) + rows("TradeMsg", 5_000, price=random).tobytes()
    content = zstandard.compress(whole) if packed else whole
    assert dbn.count(io.BytesIO(content), "x.dbn") == 5_000
    assert len(decoded(content, "trades")) == 5_000
    for cut in (5, 30, len(content) // 2, len(content) - 1):
        with pytest.raises(Damaged, match=r"cut short|is no DBN file"):
            dbn.count(io.BytesIO(content[:cut]), "x.dbn")
        with pytest.raises(Damaged, match=r"cut short|is no DBN file"):
            decoded(content[:cut], "trades")


def test_several_frames_are_one_stream() -> None:
    parts = (header("trades"), rows("TradeMsg", 3).tobytes(), rows("TradeMsg", 2).tobytes())
    content = b"".join(zstandard.compress(part) for part in parts)
    assert len(decoded(content, "trades")) == 5
    assert dbn.count(io.BytesIO(content), "x.dbn") == 5
    with pytest.raises(Damaged, match="no sound zstd"):
        decoded(content + b"rubbish!", "trades")


def test_a_fragment_says_nothing_of_itself() -> None:
    content = rows("StatMsg", 2, version=1, quantity=5).tobytes()
    assert [row["quantity"] for row in decoded(content, "statistics", fragment=("statistics", 1))] == [5, 5]
    assert dbn.count(io.BytesIO(content), "x.frag", ("statistics", 1)) == 2
    with pytest.raises(Damaged, match="not 80"):
        decoded(content, "statistics", fragment=("statistics", 3))


def test_what_a_file_holds_is_said_where_it_is_something_else() -> None:
    with pytest.raises(SchemaMismatch, match=r"x.dbn holds mbp-1; schema 'trades' can be made of: trades, mbo"):
        decoded(header("mbp-1"), "trades")
    with pytest.raises(SchemaMismatch, match=r"records of several schemas; schema 'ohlcv-1w' can be made of: none"):
        decoded(header(None), "ohlcv-1w")


def test_trades_are_cut_out_of_a_book() -> None:
    made = rows("MBOMsg", 3, price=10**9)
    made["action"] = [b"A", b"T", b"F"]
    assert [row["at"] for row in decoded(header("mbo") + made.tobytes(), "trades")] == [1]


EDGES = [0, 1, -1, 10**9, -(10**9), 2**32 - 1, 2**32, -(2**32), 9_223_372_036, -9_223_372_037, 2**62, -(2**62),
         2**63 - 2, -(2**63), 123_456_789_012_345_678]  # fmt: skip


def test_decimals_are_exact_to_the_last_digit() -> None:
    values = np.array(EDGES, np.int64)
    assert dbn_columns.prices(values).type == DECIMAL
    assert dbn_columns.prices(values).to_pylist() == [Decimal(value).scaleb(-9) for value in EDGES]
    small = [value for value in EDGES if abs(value) < 10**19]
    assert dbn_columns.quantities(np.array(small, np.int64)).to_pylist() == [Decimal(value) for value in small]
    # as many as no market trades stay numbers for refining to reject
    large = dbn_columns.quantities(np.array([2**63, 5], np.uint64))
    assert large.to_pylist() == [2**63, 5]
