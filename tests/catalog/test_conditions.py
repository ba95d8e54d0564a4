import operator
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.conditions import MAX_CHARACTERS
from catalog.conditions import check_condition
from catalog.conditions import select
from catalog.errors import ConfigError
from catalog.keys import InstrumentName
from catalog.schemas import SCHEMAS
from catalog.schemas import Column
from catalog.schemas import Schema
from catalog.schemas.base import DECIMAL
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INT16
from catalog.schemas.base import INT64
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT

# one column of every type a schema may have, all but the time nullable
EVERY_TYPE = Schema(
    name="every-type",
    doc="",
    timeframe="1h",
    columns=(
        Column("ts_event", NANOSECONDS, ""),
        Column("ts_recv", NANOSECONDS, "", null=True),
        Column("bid", DECIMAL, "", null=True),
        Column("ask", DECIMAL, "", null=True),
        Column("count", INT64, "", null=True),
        Column("flags", INT16, "", null=True),
        Column("value", FLOAT64, "", null=True),
        Column("other_value", FLOAT64, "", null=True),
        Column("side", TEXT, "", null=True),
        Column("final", pa.bool_(), "", null=True),
    ),
    chunk=timedelta(days=1),
)
MIDNIGHT = 1_704_153_600_000_000_000  # 2024-01-02T00:00Z
NOTHING = {column.name: None for column in EVERY_TYPE.columns} | {"ts_event": MIDNIGHT}


def table(*rows: dict[str, Any], chunks: int = 1) -> pa.Table:
    """Return a refined table of EVERY_TYPE in so many chunks, each with its own dictionary."""
    size = -(-len(rows) // chunks) or 1
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    tables = [
        pa.Table.from_arrays(
            [
                pa.array([{"fetch_id": 1, **NOTHING, **row}.get(field.name) for row in part], field.type)
                if field.name != "instrument"
                else pa.array([str(row.get("instrument", BTC)) for row in part]).dictionary_encode()
                for field in EVERY_TYPE.arrow
            ],
            schema=EVERY_TYPE.arrow,
        )
        for part in parts
    ]
    return pa.concat_tables(tables) if tables else EVERY_TYPE.arrow.empty_table()


def taken(condition: str, *rows: dict[str, Any], **options: Any) -> list[bool]:
    mask = select(condition, EVERY_TYPE, table(*rows), **options)
    assert isinstance(mask, pa.BooleanArray)
    assert mask.null_count == 0
    return mask.to_pylist()


def faults(condition: str, schema: str = "ohlcv-1m") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        check_condition(condition, schema)
    return tuple(caught.value.faults)


BTC = InstrumentName("binance", "crypto", "BTC/USDT")
ES = InstrumentName("databento", "future", "ES:M4 é")


@pytest.mark.parametrize(
    "condition",
    [
        "timeframe in ['1h','1d'] and asset_class == 'crypto'",
        "close > 100",
        "low < vwap <= high",
        "not (vwap > 1)",
        "close > open * 1.02 or high - low >= 0.5",
        "ts_event >= '2024-01-02T00:00Z'",
        "is_realtime",
        "not is_realtime and extractor_type != 'realtime'",
        "symbol in ('A', \"B's\")",
        "trade_count in [1, 2.5, -3]",
        "close > 1_000 and volume > 1e6 and volume < .5",
        "close > 12345678901234567890.123456789012345678",
        "close == 1.00000000000000000000000",
        "(\n  close > 1\r\n\tand open > 1)",
        "True",
        "",
        "  \n",
    ],
)
def test_accepted(condition: str) -> None:
    check_condition(condition, "ohlcv-1m")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_column_and_every_name_is_known(schema: Schema) -> None:
    names = {"source", "asset_class", "symbol", "schema", "timeframe", "extractor_type", "is_realtime"}
    columns = {column.name for column in schema.columns}
    assert not names & columns
    for name in names | columns:
        check_condition(f"{name} == {name}", schema.name)
    select("symbol == 'a' or True", schema, schema.arrow.empty_table())


REFUSED = {
    "unknown name": ("clos > 1", "name 'clos' is unknown; have: asset_class, close, "),
    "column of another schema": ("bid_price > 1", "name 'bid_price' is unknown"),
    "bookkeeping": ("fetch_id > 1", "name 'fetch_id' is unknown"),
    "number with text": ("close > '1'", "compares a number with text"),
    "text with number": ("symbol == 1", "compares a number with text"),
    "text with truth": ("symbol == True", "compares text with true or false"),
    "time with number": ("ts_event > 5", "compares a number with a time"),
    "number with truth": ("close == is_realtime", "compares a number with true or false"),
    "mixed list": ("close in [1, 'a']", "compares a number with text"),
    "order of truths": ("is_realtime < True", "orders true and false"),
    "date alone": ("ts_event > '2024-01-02'", "time '2024-01-02' is no instant; accepted: a date, T, a time"),
    "time without zone": ("ts_event > '2024-01-02T00:00'", "and a zone"),
    "time in a list without zone": ("ts_event in ['2024-01-02T00:00']", "and a zone"),
    "month 13": ("ts_event > '2024-13-02T00:00Z'", "is no instant"),
    "zone of 24 hours": ("ts_event > '2024-01-02T00:00+24:00'", "is no instant"),
    "year 1": ("ts_event > '0001-01-01T00:00+23:00'", "from 1677"),
    "year 9999": ("ts_event > '9999-12-31T23:59-23:00'", "to 2262"),
    "picoseconds": ("ts_event > '2024-01-02T00:00:00.0000000001Z'", "is no instant"),
    "fraction of a minute": ("ts_event > '2024-01-02T00:00.5Z'", "is no instant"),
    "number as result": ("close + 1", "'close + 1' is a number; accepted here: true or false"),
    "text as result": ("'a'", "is text"),
    "time as result": ("ts_event", "is a time"),
    "number in and": ("close and open > 1", "'close' is a number"),
    "not of a number": ("not close", "'close' is a number"),
    "text plus": ("symbol + 'a' == 'b'", "'symbol' is text; + - * accept exact numbers"),
    "time plus": ("ts_event + 1 > ts_event", "'ts_event' is a time; + - *"),
    "minus of text": ("-symbol == 'a'", "'symbol' is text; + - *"),
    "product too wide": ("close * volume > 1", "'close * volume' can have 77 digits; accepted: up to 76"),
    "comparison too wide": ("1e-18 * 1e-18 * 1e-18 < 1e19 * 1e19", "compares numbers of"),
    "division": ("close / 2 > 1", "'/' at character 7 is not accepted"),
    "floor division": ("close // 2 > 1", "'/' at character 7 is not accepted"),
    "modulo": ("close % 2 > 1", "'%' at character 7 is not accepted"),
    "power": ("close ** 2 > 1", "'close ** 2' is not accepted"),
    "unary plus": ("close > +1", "'+1' is not accepted"),
    "19 decimals": ("close > 0.1234567890123456789", "has too many digits; accepted: 20 before"),
    "21 whole digits": ("close > 123456789012345678901", "has too many digits"),
    "huge exponent": ("close > 1e300", "has too many digits"),
    "infinite as a float": ("close > 1e999", "has too many digits"),
    "tiny": ("close > 1e-300", "has too many digits"),
    "exponent of four digits": ("close > 1e9999", "'1e9999' at character 9 is not accepted"),
    "900 digits": (f"close > {'9' * 900}", "has too many digits"),
    "hexadecimal": ("close > 0x10", "'0x10' at character 9 is not accepted"),
    "leading zero": ("close > 007", "cannot be read"),
    "complex": ("close == 1j", "'1j' at character 10 is not accepted"),
    "number run into a word": ("close > 1or True", "'1or' at character 9 is not accepted"),
    "empty list": ("close in []", "follows in; accepted: a list of literals"),
    "column in a list": ("close in [open]", "'open' is not a literal"),
    "nested list": ("close in [[1]]", "'[1]' is a list"),
    "starred": ("close in [*open]", "'*open' is not accepted"),
    "in a text": ("'a' in symbol", "follows in"),
    "list alone": ("[1, 2]", "is a list"),
    "tuple alone": ("close, open", "is a list"),
    "list compared": ("close == [1]", "is a list"),
    "in inside a chain": ("1 in [1] == True", "inside a chain"),
    "is": ("vwap is True", "compares by is"),
    "is None": ("vwap is None", "compares by is"),
    "None": ("vwap == None", "'None' is not accepted"),
    "ellipsis": ("close == ...", "'...' at character 10 is not accepted"),
    "assignment sign": ("close = 1", "'=' at character 7 is not accepted; write =="),
    "double ampersand": ("close > 1 && open > 1", "write and"),
    "double bar": ("close > 1 || open > 1", "write or"),
    "exclamation": ("!is_realtime", "write not"),
    "missing comma": ("symbol in ['A' 'B']", "follows another text"),
    "word run into text": ("symbol in'a'", "'in' at character 8 is not accepted"),
    "missing operand": ("close >", "cannot be read: invalid syntax at character 7"),
    "unclosed": ("(close > 1", "cannot be read"),
    "two expressions": ("close > 1 open > 1", "cannot be read"),
    "unclosed text": ("symbol == 'a", "is not accepted"),
    "call": ("abs(close) > 1", "'abs(close)' is not accepted"),
    "import": ("__import__('os')", "is not accepted"),
    "import and attribute": ("__import__('os').system('true')", "is not accepted"),
    "attribute": ("close.real > 1", "is not accepted"),
    "attribute of text": ("''.__class__ == 1", "is not accepted"),
    "subscript": ("close[0] > 1", "'close[0]' is not accepted"),
    "slice": ("close[:] > 1", "is not accepted"),
    "lambda": ("lambda: 1", "is not accepted"),
    "comprehension": ("[x for x in close]", "is not accepted"),
    "generator": ("(x for x in close)", "is not accepted"),
    "conditional": ("True if close > 1 else False", "is not accepted"),
    "await": ("await close", "is not accepted"),
    "yield": ("(yield)", "is not accepted"),
    "walrus": ("(close := 1) > 0", "':' at character 8 is not accepted"),
    "dictionary": ("{1: 2}", "is not accepted"),
    "f-string": ("symbol == f'{close}'", "'f' at character 11 is not accepted"),
    "bytes": ("symbol == b'a'", "'b' at character 11 is not accepted"),
    "raw text": ("symbol == r'a'", "'r' at character 11 is not accepted"),
    "triple quotes": ("symbol == '''a'''", "follows another text"),
    "backslash in text": (r"symbol == 'a\'b'", "is not accepted"),
    "line continuation": ("close \\\n > 1", "is not accepted"),
    "line end in text": ("symbol == 'a\nb'", "is not accepted"),
    "comment": ("close > 1 # or not", "'#' at character 11 is not accepted"),
    "statements": ("close > 1; import os", "';' at character 10 is not accepted"),
    "tower of powers": ("10**10**10 > close", "'10**10**10' is not accepted"),
    "null byte": ("close > 1\0", "is not accepted"),
    "null byte in text": ("symbol == '\0'", "does not print"),
    "surrogate": ("symbol == '\ud800'", "does not print"),
    "direction mark in text": ("symbol == 'a\u202eb'", "does not print"),
    "cyrillic o": ("cl\u043ese > 1", "'\u043e' at character 3 is not accepted"),
    "fullwidth letters": ("\uff43\uff4c\uff4f\uff53\uff45 > 1", "is not accepted"),
    "arabic digit": ("close > \u0661", "is not accepted"),
    "no-break space": ("close\u00a0> 1", "is not accepted"),
    "form feed": ("close\f> 1", "is not accepted"),
    "10000 parentheses": ("(" * 10_000 + "close" + ")" * 10_000, "has 20005 characters; accepted: up to 1000"),
    "300 parentheses": ("(" * 300 + "True" + ")" * 300, "too many nested parentheses"),
    "240 nots": ("not " * 240 + "True", "nested too deep; accepted: 32 levels"),
    "900 minuses": ("-" * 900 + "1 > 0", "nested too deep"),
    "200 sums": ("close" + "+1" * 200 + " > 0", "nested too deep"),
    "40 lists": ("1 in " + "[" * 40 + "]" * 40, "nested too deep"),
}


@pytest.mark.parametrize(("condition", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(condition: str, said: str) -> None:
    assert any(said in fault for fault in faults(condition))
    with pytest.raises(ConfigError):
        select(condition, SCHEMAS["ohlcv-1m"], SCHEMAS["ohlcv-1m"].arrow.empty_table())


def test_every_fault_is_listed_once() -> None:
    found = faults("clos > 1 and symbol == 3 and clos < 2 and -opn + 1 > 2 and volum in [1, f(2)] and close")
    assert [fault.split(";")[0] for fault in found] == [
        "name 'clos' is unknown",
        "'symbol == 3' compares a number with text",
        "name 'opn' is unknown",
        "name 'volum' is unknown",
        "'f(2)' is not accepted",
        "'close' is a number",
    ]
    assert len(faults("close = 1 & open $ 2")) == 3


def test_unknown_schema_is_refused() -> None:
    with pytest.raises(ConfigError, match="schema 'ohlcv-2m' is unknown; have: bbo-1m"):
        check_condition("close > 1", "ohlcv-2m")


def test_length_limit_is_inclusive() -> None:
    check_condition("close > 1".ljust(MAX_CHARACTERS), "ohlcv-1m")
    assert "1001 characters" in faults("close > 1".ljust(MAX_CHARACTERS + 1))[0]


def test_float_columns_compare_only_with_literals_and_floats() -> None:
    check_condition("value > 0.1 and value in [-1, 2.5] and value <= value", "indicators")
    assert "compares a float with an exact number" in faults("value > indicator_id", "indicators")[0]
    assert "'value' is a float, which rounds; + - *" in faults("value + 1 > 2", "indicators")[0]


NULL_ROW: dict[str, Any] = {}
SELECTED: dict[str, tuple[str, list[dict[str, Any]], list[bool]]] = {
    "blank takes all": ("", [NULL_ROW, NULL_ROW], [True, True]),
    "constant": ("1 < 2", [NULL_ROW], [True]),
    "constant false": ("'a' in ['b']", [NULL_ROW], [False]),
    "no rows": ("bid > 1 and symbol == 'a'", [], []),
    "no rows, constant": ("True", [], []),
    "null compared": ("bid > 1", [NULL_ROW], [False]),
    "not of null": ("not (bid > 1)", [NULL_ROW], [False]),
    "not in with null": ("side not in ['A']", [NULL_ROW, {"side": "B"}], [False, True]),
    "null or true": ("bid > 1 or symbol == 'BTC/USDT'", [NULL_ROW], [True]),
    "null and false": ("not (bid > 1 and symbol == 'x')", [NULL_ROW], [True]),
    "null chained with false": ("not (bid < 1 < 0)", [NULL_ROW], [True]),
    "null equals null": ("bid == bid", [NULL_ROW], [False]),
    "null truth": ("final or not final", [NULL_ROW, {"final": False}], [False, True]),
    "parts decoded": (
        "source == 'databento' and asset_class == 'future' and symbol == 'ES:M4 é'",
        [{"instrument": ES}, {"instrument": BTC}],
        [True, False],
    ),
    "instrument and row": (
        "symbol != side",
        [{"instrument": ES, "side": "BTC/USDT"}, {"instrument": BTC, "side": "BTC/USDT"}],
        [True, False],
    ),
    "schema": ("schema == 'every-type' and timeframe == '1h'", [NULL_ROW], [True]),
    "a tenth is a tenth": ("bid == 0.1", [{"bid": Decimal("0.1")}], [True]),
    "last decimal counts": (
        "bid > 0.1",
        [{"bid": Decimal("0.1")}, {"bid": Decimal("0.100000000000000001")}],
        [False, True],
    ),
    "widest price": (
        "bid == 99999999999999999999.999999999999999999 and -bid - bid * 2.5 < ask",
        [{"bid": Decimal("99999999999999999999.999999999999999999"), "ask": Decimal(0)}],
        [True],
    ),
    "exponent": ("bid == 1.5e3", [{"bid": Decimal(1500)}], [True]),
    "exact difference": (
        "ask - bid == 0.1",
        [{"ask": Decimal("0.3"), "bid": Decimal("0.2")}],
        [True],
    ),
    "exact product": ("ask * 1.1 == 0.33", [{"ask": Decimal("0.3")}], [True]),
    "chain": ("0 < bid <= 2", [{"bid": Decimal(n)} for n in (0, 1, 2, 3)], [False, True, True, False]),
    "integer with half": ("count > 1.5", [{"count": 1}, {"count": 2}], [False, True]),
    "integer above 2^53": (
        "count == 9007199254740993",
        [{"count": 9007199254740993}, {"count": 9007199254740992}],
        [True, False],
    ),
    "integers do not overflow": ("count + count > count * -1", [{"count": 2**63 - 1}], [True]),
    "smallest integer": ("-count == 9223372036854775808", [{"count": -(2**63)}], [True]),
    "integer with price": ("count < bid", [{"count": 1, "bid": Decimal("1.1")}], [True]),
    "integer in decimals": ("flags in [1.5, 2]", [{"flags": 1}, {"flags": 2}], [False, True]),
    "float with a tenth": ("value == 0.1", [{"value": 0.1}], [True]),
    "float not a number": ("not (value > 1)", [{"value": float("nan")}], [True]),
    "negative zero": ("value in [0] and value == 0", [{"value": -0.0}, {"value": 0.0}], [True, True]),
    "zone": ("ts_event == '2024-01-01T19:00:00-05:00'", [NULL_ROW], [True]),
    "nanosecond": (
        "ts_event > '2024-01-02T00:00:00.000000001Z'",
        [{"ts_event": MIDNIGHT + 1}, {"ts_event": MIDNIGHT + 2}],
        [False, True],
    ),
    "before 1970": ("ts_event == '1969-12-31T23:59:59.9Z'", [{"ts_event": -100_000_000}], [True]),
    "times in a list": ("ts_event in ['2024-01-02T01:00+01:00']", [NULL_ROW], [True]),
    "time on the left": ("'2024-01-02T00:00Z' <= ts_event < '2024-01-03T00:00Z'", [NULL_ROW], [True]),
    "time with time": ("ts_recv > ts_event", [{"ts_recv": MIDNIGHT + 1}, NULL_ROW], [True, False]),
    "quotes": ('side == "it\'s"', [{"side": "it's"}], [True]),
    "text that looks like code": ("side == 'or True'", [{"side": "or True"}], [True]),
}


@pytest.mark.parametrize(("condition", "rows", "expected"), SELECTED.values(), ids=SELECTED)
def test_selected(condition: str, rows: list[dict[str, Any]], expected: list[bool]) -> None:
    assert taken(condition, *rows) == expected


def test_extractor_type_is_that_of_the_call() -> None:
    live = "is_realtime and extractor_type == 'realtime'"
    assert taken(live, NULL_ROW, extractor_type="realtime") == [True]
    assert taken(live, NULL_ROW, extractor_type="historical") == [False]
    assert taken("not is_realtime", NULL_ROW) == [True]


def test_mask_filters_the_table_it_came_from() -> None:
    rows = table(*({"count": n} for n in range(5)), chunks=2).slice(1)
    assert rows.filter(select("count >= 3", EVERY_TYPE, rows))["count"].to_pylist() == [3, 4]


def test_instruments_are_answered_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = InstrumentName.parse
    monkeypatch.setattr(InstrumentName, "parse", lambda text: parsed.append(text) or parse(text))
    rows = [{"instrument": instrument} for instrument in (BTC, ES)] * 500
    assert sum(taken("symbol == 'BTC/USDT' or source in ['databento'] and symbol != 'x'", *rows)) == 1000
    assert parsed == [str(BTC), str(ES)]


# A second, slow reading of the same language: each piece is made together with the function that answers
# it for one row (None for null), so that nothing is parsed here. Exact numbers are fractions.

Row = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    text: str
    answer: Callable[[Row], Any]

    def __repr__(self) -> str:
        return self.text


OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def lifted(function: Callable[..., Any], *pieces: Piece) -> Callable[[Row], Any]:
    def answer(row: Row) -> Any:
        values = [piece.answer(row) for piece in pieces]
        return None if None in values else function(*values)

    return answer


def conjunction(answers: list[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def disjunction(answers: list[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False


def exact_column(name: str) -> Piece:
    return Piece(name, lambda row: None if row[name] is None else Fraction(row[name]))


def column(name: str) -> Piece:
    return Piece(name, lambda row: row[name])


def constant(text: str, value: Any) -> Piece:
    return Piece(text, lambda row: value)


def compared(
    firsts: st.SearchStrategy[Piece],
    others: st.SearchStrategy[Piece],
    *,
    operators: tuple[str, ...] = tuple(OPERATORS),
    links: int = 2,
) -> st.SearchStrategy[Piece]:
    def chain(first: Piece, rest: list[tuple[str, Piece]]) -> Piece:
        sides = [first, *(piece for _, piece in rest)]
        text = first.text + "".join(f" {sign} {piece.text}" for sign, piece in rest)
        parts = [lifted(OPERATORS[sign], *pair) for (sign, _), pair in zip(rest, pairwise(sides), strict=True)]
        return Piece(f"({text})", lambda row: conjunction([part(row) for part in parts]))

    link = st.tuples(st.sampled_from(operators), others)
    return st.builds(chain, firsts, st.lists(link, min_size=1, max_size=links))


def among(left: st.SearchStrategy[Piece], literals: st.SearchStrategy[Piece]) -> st.SearchStrategy[Piece]:
    def member(drawn: tuple[Piece, list[Piece], bool, str]) -> Piece:
        searched, items, negated, brackets = drawn
        listed = brackets[0] + ", ".join(item.text for item in items) + "," + brackets[1]
        return Piece(
            f"({searched.text} {'not in' if negated else 'in'} {listed})",
            lifted(lambda value, *values: (value in values) != negated, searched, *items),
        )

    return st.tuples(
        left, st.lists(literals, min_size=1, max_size=3), st.booleans(), st.sampled_from(["[]", "()"])
    ).map(member)


# few different values, so that equality happens
numbers = st.sampled_from(
    ["0", "1", "2", "0.1", "-0.1", "0.30", "1e2", "-1.5", "0.000000000000000001", "99999999999999999999"]
)
number_literals = numbers.map(lambda text: constant(text, Fraction(text)))
exact_columns = st.sampled_from(["bid", "ask", "count", "flags"]).map(exact_column)
operands = number_literals | exact_columns
sums = st.tuples(operands, st.sampled_from("+-"), operands).map(
    lambda drawn: Piece(
        f"({drawn[0].text} {drawn[1]} {drawn[2].text})",
        lifted(operator.add if drawn[1] == "+" else operator.sub, drawn[0], drawn[2]),
    )
)
products = st.tuples(number_literals, operands).map(
    lambda drawn: Piece(f"({drawn[0].text} * {drawn[1].text})", lifted(operator.mul, *drawn))
)
negatives = operands.map(lambda piece: Piece(f"-({piece.text})", lifted(operator.neg, piece)))
exact = operands | sums | negatives

float_literals = numbers.map(lambda text: constant(text, float(text)))
float_columns = st.sampled_from(["value", "other_value"]).map(column)

words = st.sampled_from(["A", "B", "", "BTC/USDT", "it's", "é"])
word_literals = words.map(lambda word: constant(f'"{word}"', word))
text_names = ["side", "source", "asset_class", "symbol", "schema", "timeframe", "extractor_type"]
texts = word_literals | st.sampled_from(text_names).map(column)

instants = {
    "2024-01-02T00:00Z": MIDNIGHT,
    "2024-01-02T01:00:00+01:00": MIDNIGHT,
    "2024-01-02T00:00:00.000000001Z": MIDNIGHT + 1,
    "1969-12-31T23:59:59.5Z": -500_000_000,
}
instant_literals = st.sampled_from(sorted(instants)).map(lambda text: constant(f"'{text}'", instants[text]))
instant_columns = st.sampled_from(["ts_event", "ts_recv"]).map(column)

truths = st.sampled_from([column("final"), column("is_realtime"), constant("True", True), constant("False", False)])

leaves = st.one_of(
    truths,
    compared(exact, exact),
    compared(products, exact, links=1),
    compared(float_literals | float_columns, float_literals | float_columns),
    compared(texts, texts),
    compared(instant_columns, instant_columns | instant_literals, links=1),
    compared(instant_literals, instant_columns),
    compared(truths, truths, operators=("==", "!=")),
    among(exact | products, number_literals),
    among(float_columns | float_literals, float_literals),
    among(texts, word_literals),
    among(instant_columns, instant_literals),
    among(truths, st.sampled_from([constant("True", True), constant("False", False)])),
)


def joined(word: str, pieces: list[Piece]) -> Piece:
    join = conjunction if word == "and" else disjunction
    text = f" {word} ".join(piece.text for piece in pieces)
    return Piece(f"({text})", lambda row: join([piece.answer(row) for piece in pieces]))


conditions = st.recursive(
    leaves,
    lambda inner: (
        inner.map(lambda piece: Piece(f"(not {piece.text})", lifted(operator.not_, piece)))
        | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)).map(
            lambda drawn: joined(*drawn)
        )
    ),
    max_leaves=6,
)
decimals = st.sampled_from(["0", "1", "0.1", "-0.1", "0.3", "100", "-99999999999999999999.999999999999999999"]).map(
    Decimal
)
rows = st.fixed_dictionaries(
    {
        "instrument": st.sampled_from([BTC, ES, InstrumentName("A", "B", "it's")]),
        "ts_event": st.sampled_from(sorted(instants.values())),
        "ts_recv": st.none() | st.sampled_from(sorted(instants.values())),
        "bid": st.none() | decimals,
        "ask": st.none() | decimals,
        "count": st.none() | st.sampled_from([0, 1, 2, 100, 2**63 - 1, -(2**63)]),
        "flags": st.none() | st.sampled_from([0, 1, 2, 100, -(2**15)]),
        "value": st.none() | st.sampled_from([0.0, -0.0, 0.1, -1.5, 100.0, float("inf"), float("nan")]),
        "other_value": st.none() | st.sampled_from([0.0, 0.1, 1e20, float("nan")]),
        "side": st.none() | words,
        "final": st.none() | st.booleans(),
    }
)


@settings(max_examples=400, deadline=None)
@given(
    conditions,
    st.lists(rows, max_size=6),
    st.integers(1, 3),
    st.sampled_from(["historical", "realtime"]),
)
def test_agrees_with_row_by_row_three_valued_logic(
    condition: Piece, rows: list[Row], chunks: int, extractor_type: str
) -> None:
    facts = {
        "schema": EVERY_TYPE.name,
        "timeframe": EVERY_TYPE.timeframe,
        "extractor_type": extractor_type,
        "is_realtime": extractor_type == "realtime",
    }
    expected = []
    for row in rows:
        name = row["instrument"]
        parts = {"source": name.source, "asset_class": name.asset_class, "symbol": name.symbol}
        expected.append(condition.answer(row | parts | facts) is True)
    mask = select(condition.text, EVERY_TYPE, table(*rows, chunks=chunks), extractor_type=extractor_type)
    assert mask.null_count == 0
    assert mask.to_pylist() == expected


@given(st.text(max_size=60) | st.text("()[]'\"<>=!+-*,.:\\ \nandorit1e_{}", max_size=60))
def test_any_text_is_accepted_or_refused_with_config_error(text: str) -> None:
    with suppress(ConfigError):
        check_condition(text, "ohlcv-1m")
