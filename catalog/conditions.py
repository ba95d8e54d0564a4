"""Which rows a route takes: a condition in a small, safe part of Python's syntax, answered by Arrow.

`timeframe in ['1h', '1d'] and asset_class == 'crypto'`, `low < vwap <= 100`, `ask_price - bid_price < 0.05`,
`ts_event >= '2024-01-02T00:00Z'`. Nothing is evaluated as Python: the text is parsed, every part is checked
against a short list of what is accepted, and becomes Arrow kernels. Numbers are exact, except in float
columns. A comparison with null is null, `not` of that too, and a row whose answer is null is not taken.
A blank condition takes every row.
"""

import ast
import re
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from datetime import timedelta
from decimal import Context
from decimal import Decimal
from enum import IntEnum
from functools import cached_property
from functools import lru_cache
from functools import reduce
from itertools import pairwise
from typing import Any
from typing import Final
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import ConfigError
from catalog.errors import unknown
from catalog.keys import InstrumentName
from catalog.schemas import schema as find_schema
from catalog.schemas.base import FLOAT64
from catalog.schemas.base import INSTRUMENT
from catalog.schemas.base import NANOSECONDS
from catalog.schemas.base import TEXT
from catalog.schemas.base import Schema

MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 32
#: What decimal128(38, 18) holds, the type of every price.
MAX_WHOLE_DIGITS: Final = 20
MAX_DECIMALS: Final = 18
#: What decimal256 holds, in which sums and products are made.
MAX_DIGITS: Final = 76

# a time's is in nanoseconds since 1970
_Literal: TypeAlias = bool | int | float | str | Decimal

_BOOLEAN: Final = pa.bool_()
# how messages call the types; a part with a fault has Arrow's null type and causes no second fault
_TRUTH: Final = "true or false"
_NUMBER: Final = "a number"
_INSTANT: Final = "a time"
_FAULTY: Final = "faulty"

_SYNTAX: Final = (
    "accepted: names, text, numbers, True, False, and, or, not, == != < <= > >=, "
    "in and not in a list of literals, + - * of numbers, parentheses"
)
# also keeps out what Python's parser lets pass or only warns about: prefixes and escapes of text, look-alikes
# of a name in other alphabets (it folds them to ASCII), 1or, comments, line continuations
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<text>'[^'\\\t\r\n]*'|"[^"\\\t\r\n]*")
    | (?P<number>(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?(?![A-Za-z0-9_.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*+(?!['"]))
    | (?P<operator>[=!<>]=|[-+*<>()\[\],])
    | (?P<wrong>&&|\|\||[A-Za-z0-9_.]+|[^\x00-\x7f]+|.)""",
    re.VERBOSE | re.DOTALL,
)
_HINTS: Final = {"=": "==", "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not", "~": "not"}
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)\.(\d{1,9}))?(?:Z|([-+])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00")

_COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
}


def check_condition(text: str, schema: str) -> None:
    """Raise ConfigError with every fault of a condition on rows of the schema called `schema`."""
    _compile(text, find_schema(schema))


def select(text: str, schema: Schema, table: pa.Table, *, extractor_type: str = "historical") -> pa.BooleanArray:
    """Return which rows of a refined `table` meet the condition: true or false, never null.

    What depends on the instrument alone is answered once for each instrument, not for each row.
    """
    term = _compile(text, schema)
    answer = _Rows(table, extractor_type).values(term, _Per.ROW)
    if term.per is _Per.BATCH:
        answer = pa.repeat(answer, table.num_rows)
    taken: pa.BooleanArray = _call("coalesce", answer, pa.scalar(False))
    return taken


class _Per(IntEnum):
    """How often a term has a value of its own."""

    BATCH = 0
    INSTRUMENT = 1
    ROW = 2


class _Rows:
    """The batch that a condition is asked about."""

    def __init__(self, table: pa.Table, extractor_type: str) -> None:
        self.table = table
        self.extractor_type = extractor_type

    @cached_property
    def instrument(self) -> Any:
        return self.column(INSTRUMENT)

    @cached_property
    def instrument_names(self) -> Sequence[InstrumentName]:
        return [InstrumentName.parse(text) for text in self.instrument.dictionary.to_pylist()]

    def column(self, name: str) -> Any:
        return self.table[name].combine_chunks()

    def values(self, term: "_Term", per: _Per) -> Any:
        """Return the values of `term`: a Scalar for the batch, or an Array over instruments or rows."""
        values = term.values(self)
        if term.per is _Per.INSTRUMENT and per is _Per.ROW:
            return values.take(self.instrument.indices)
        return values


@dataclass(frozen=True, slots=True)
class _Term:
    """A part of a condition: its type, how often it changes, how to get its values, its literal if it is one.

    Integers are decimals with nothing after the point, so that all exact numbers compare in one way.
    """

    type: Any  # a pa.DataType; the stubs of that do not know a decimal's precision and scale
    per: _Per
    values: Callable[[_Rows], Any]
    literal: _Literal | None = None

    @property
    def kind(self) -> str:
        if pa.types.is_null(self.type):
            return _FAULTY
        if pa.types.is_boolean(self.type):
            return _TRUTH
        if pa.types.is_decimal(self.type) or pa.types.is_floating(self.type):
            return _NUMBER
        return _INSTANT if pa.types.is_timestamp(self.type) else "text"

    def cast(self, to: pa.DataType) -> "_Term":
        """Return the same values in a type that holds them all."""
        if self.type == to:
            return self
        if isinstance(self.literal, Decimal):
            return _literal(float(self.literal) if to == FLOAT64 else self.literal, to)
        return _Term(to, self.per, lambda rows: self.values(rows).cast(to))


_NOTHING: Final = _Term(pa.null(), _Per.BATCH, lambda rows: None)


def _call(kernel: str, *values: Any) -> Any:
    return pc.call_function(kernel, list(values))


def _apply(kernel: str, to: pa.DataType, *terms: _Term) -> _Term:
    """Return the term of a kernel of one value, or of a kernel of two folded over the terms."""
    per = max(term.per for term in terms)

    def values(rows: _Rows) -> Any:
        operands = [rows.values(term, per) for term in terms]
        if len(operands) == 1:
            return _call(kernel, *operands)
        return reduce(lambda left, right: _call(kernel, left, right), operands)

    return _Term(to, per, values)


def _literal(literal: _Literal, of: pa.DataType) -> _Term:
    scalar: Any = pa.scalar(literal, of)
    return _Term(of, _Per.BATCH, lambda rows: scalar, literal)


def _decimal(digits: int, decimals: int) -> pa.DataType:
    return pa.decimal128(digits, decimals) if digits <= 38 else pa.decimal256(digits, decimals)


def _known_names(schema: Schema) -> dict[str, _Term]:
    """Return what a condition on rows of `schema` may name."""

    def column(name: str, of: pa.DataType) -> _Term:
        if not pa.types.is_integer(of):
            return _Term(of, _Per.ROW, lambda rows: rows.column(name))
        number = pa.decimal128(len(str(2**of.bit_width)), 0)
        return _Term(number, _Per.ROW, lambda rows: rows.column(name).cast(number))

    def part(name: str) -> _Term:
        return _Term(
            TEXT,
            _Per.INSTRUMENT,
            lambda rows: pa.array([getattr(instrument, name) for instrument in rows.instrument_names], TEXT),
        )

    return {
        **{declared.name: column(declared.name, declared.type) for declared in schema.columns},
        **{name: part(name) for name in ("source", "asset_class", "symbol")},
        "schema": _Term(TEXT, _Per.BATCH, lambda rows: pa.scalar(schema.name)),
        "timeframe": _Term(TEXT, _Per.BATCH, lambda rows: pa.scalar(schema.timeframe)),
        "extractor_type": _Term(TEXT, _Per.BATCH, lambda rows: pa.scalar(rows.extractor_type)),
        "is_realtime": _Term(_BOOLEAN, _Per.BATCH, lambda rows: pa.scalar(rows.extractor_type == "realtime")),
    }


@lru_cache(maxsize=1024)
def _compile(text: str, schema: Schema) -> _Term:
    if not text.strip():
        return _literal(True, _BOOLEAN)
    return _Compiler(_scan(text), schema).condition()


def _scan(text: str) -> str:
    """Return the text on one line; raises ConfigError where it has what no condition has."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"condition has {len(text)} characters; accepted: up to {MAX_CHARACTERS}")
    faults = []
    previous = ""
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup or "", match.group()
        if kind == "space":
            continue
        place = f"{_quoted(token)} at character {match.start() + 1}"
        if kind == "wrong":
            faults.append(f"{place} is not accepted; {f'write {_HINTS[token]}' if token in _HINTS else _SYNTAX}")
        elif not token.isprintable():
            faults.append(f"{place} holds a character that does not print; accepted: printable text")
        elif kind == previous == "text":
            faults.append(f"{place} follows another text; accepted: a comma or an operator between them")
        previous = kind
    if faults:
        raise ConfigError(*faults)
    return re.sub(r"[\t\r\n]", " ", text).strip()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _parse(text: str) -> ast.expr:
    too_deep = f"condition is nested too deep; accepted: {MAX_DEPTH} levels"
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        place = f"{error.msg} at character {error.offset or len(text)}"
        raise ConfigError(f"condition cannot be read: {place}; {_SYNTAX}") from None
    except (MemoryError, RecursionError):
        raise ConfigError(too_deep) from None
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ConfigError(too_deep)
    return tree


def _nanoseconds(text: str) -> int | None:
    """Return the instant that `text` names, in nanoseconds since 1970; None where it names none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    local, fraction, sign, hours, minutes = match.groups()
    try:
        since = datetime.fromisoformat(local) - _EPOCH
    except ValueError:
        return None
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    seconds = (since + offset if sign == "-" else since - offset) // timedelta(seconds=1)
    instant = seconds * 10**9 + int((fraction or "").ljust(9, "0"))
    return instant if -(2**63) < instant < 2**63 else None


class _Compiler:
    """Turns the syntax tree of one condition into a term, and gathers its faults."""

    def __init__(self, text: str, schema: Schema) -> None:
        self.text = text
        self.names = _known_names(schema)
        self.faults: list[str] = []

    def condition(self) -> _Term:
        term = self.truth(_parse(self.text))
        if self.faults:
            raise ConfigError(*dict.fromkeys(self.faults))
        return term

    def faulty(self, node: ast.expr, what: str) -> _Term:
        self.faults.append(f"{_quoted(ast.get_source_segment(self.text, node) or self.text)} {what}")
        return _NOTHING

    def term(self, node: ast.expr) -> _Term:
        match node:
            case ast.BoolOp(op=op, values=parts):
                kernel = "and_kleene" if isinstance(op, ast.And) else "or_kleene"
                return _apply(kernel, _BOOLEAN, *[self.truth(part) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _apply("invert", _BOOLEAN, self.truth(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.negative(operand)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
                return self.arithmetic(node)
            case ast.Compare():
                return self.comparison(node)
            case ast.Name(id=name):
                if name not in self.names:
                    self.faults.append(unknown("name", name, self.names))
                return self.names.get(name, _NOTHING)
            case ast.Constant(value=bool(literal)):
                return _literal(literal, _BOOLEAN)
            case ast.Constant(value=str(literal)):
                return _literal(literal, TEXT)
            case ast.Constant(value=int() | float()):
                return self.number(node)
            case ast.List() | ast.Tuple():
                return self.faulty(node, "is a list; accepted: a list right of in or not in")
            case _:
                return self.faulty(node, f"is not accepted; {_SYNTAX}")

    def truth(self, node: ast.expr) -> _Term:
        term = self.term(node)
        if term.kind in (_TRUTH, _FAULTY):
            return term
        return self.faulty(node, f"is {term.kind}; accepted here: {_TRUTH}, e.g. a comparison")

    def number(self, node: ast.expr) -> _Term:
        # from the text: the parser's float is not always the number that was written
        written = Decimal(ast.get_source_segment(self.text, node) or "")
        number = written.normalize(Context(prec=MAX_CHARACTERS))
        whole = max(number.adjusted() + 1, 0)
        decimals = max(-int(number.as_tuple().exponent), 0)
        if whole > MAX_WHOLE_DIGITS or decimals > MAX_DECIMALS:
            accepted = f"{MAX_WHOLE_DIGITS} before the point and {MAX_DECIMALS} after it"
            return self.faulty(node, f"has too many digits; accepted: {accepted}")
        return _literal(number, _decimal(whole + decimals, decimals))

    def exact(self, node: ast.expr) -> _Term:
        term = self.term(node)
        if term.kind == _FAULTY or pa.types.is_decimal(term.type):
            return term
        kind = "a float, which rounds" if term.kind == _NUMBER else term.kind
        return self.faulty(node, f"is {kind}; + - * accept exact numbers")

    def negative(self, node: ast.expr) -> _Term:
        term = self.exact(node)
        if isinstance(term.literal, Decimal):
            return _literal(term.literal.copy_negate(), term.type)
        return _apply("negate", term.type, term)

    def arithmetic(self, node: ast.BinOp) -> _Term:
        sides = [self.exact(node.left), self.exact(node.right)]
        if any(side.kind == _FAULTY for side in sides):
            return _NOTHING
        (p, s), (q, t) = ((side.type.precision, side.type.scale) for side in sides)
        # Arrow's own type of the result, which is wide enough for every result
        if isinstance(node.op, ast.Mult):
            digits, decimals = p + q + 1, s + t
        else:
            digits, decimals = max(p - s, q - t) + max(s, t) + 1, max(s, t)
        if digits > MAX_DIGITS:
            return self.faulty(node, f"can have {digits} digits; accepted: up to {MAX_DIGITS}, to be exact")
        sides = [side.cast(pa.decimal256(side.type.precision, side.type.scale)) for side in sides]
        return _apply(_ARITHMETIC[type(node.op)], pa.decimal256(digits, decimals), *sides)

    def comparison(self, node: ast.Compare) -> _Term:
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            return self.member(node, node.comparators[0])
        if any(type(op) not in _COMPARISONS for op in node.ops):
            return self.faulty(node, f"compares by is, or by in inside a chain; {_SYNTAX}")
        terms = [self.term(each) for each in (node.left, *node.comparators)]
        parts = []
        for op, pair in zip(node.ops, pairwise(terms), strict=True):
            if {term.kind for term in pair} == {_TRUTH} and not isinstance(op, ast.Eq | ast.NotEq):
                self.faulty(node, "orders true and false; accepted: == and !=")
            parts.append(_apply(_COMPARISONS[type(op)], _BOOLEAN, *self.alike(node, *pair)))
        return parts[0] if len(parts) == 1 else _apply("and_kleene", _BOOLEAN, *parts)

    def member(self, node: ast.Compare, choices: ast.expr) -> _Term:
        left = self.term(node.left)
        if not isinstance(choices, ast.List | ast.Tuple) or not choices.elts:
            return self.faulty(choices, "follows in; accepted: a list of literals, e.g. ['1h', '1d']")
        items = [self.term(item) for item in choices.elts]
        for item, item_node in zip(items, choices.elts, strict=True):
            if item.literal is None and item.kind != _FAULTY:
                self.faulty(item_node, "is not a literal; accepted in a list: literals")
        left, *items = self.alike(node, left, *items)
        if self.faults:
            return _NOTHING
        literals = [item.literal for item in items]
        if 0.0 in literals and left.type == FLOAT64:
            # equal, yet two values to is_in
            literals += [0.0, -0.0]
        choice_set: Any = pa.array(literals, left.type)

        def values(rows: _Rows) -> Any:
            searched = left.values(rows)
            found = pc.is_in(searched, value_set=choice_set)
            return _call("if_else", _call("is_valid", searched), found, pa.scalar(None, _BOOLEAN))

        found = _Term(_BOOLEAN, left.per, values)
        return found if isinstance(node.ops[0], ast.In) else _apply("invert", _BOOLEAN, found)

    def alike(self, node: ast.expr, *terms: _Term) -> Sequence[_Term]:
        """Return the terms in one type, in which they compare exactly."""
        if any(term.kind == _INSTANT for term in terms):
            terms = tuple(self.instant(term) for term in terms)
        kinds = sorted({term.kind for term in terms})
        if kinds == [_NUMBER]:
            return self.numbers(node, terms)
        if len(kinds) > 1 and _FAULTY not in kinds:
            self.faulty(node, f"compares {' with '.join(kinds)}; accepted: values of one kind")
        return terms

    def instant(self, term: _Term) -> _Term:
        if not isinstance(term.literal, str):
            return term
        nanoseconds = _nanoseconds(term.literal)
        if nanoseconds is None:
            accepted = "a date, T, a time of day and a zone, e.g. '2024-01-02T00:00Z', from 1677-09-22 to 2262-04-11"
            self.faults.append(f"time {_quoted(term.literal)} is no instant; accepted: {accepted}")
            return _NOTHING
        return _literal(nanoseconds, NANOSECONDS)

    def numbers(self, node: ast.expr, terms: Sequence[_Term]) -> Sequence[_Term]:
        floats = [pa.types.is_floating(term.type) for term in terms]
        if any(floats):
            if not all(is_float or term.literal is not None for is_float, term in zip(floats, terms, strict=True)):
                self.faulty(node, "compares a float with an exact number; accepted: a literal or another float")
            return [term.cast(FLOAT64) for term in terms]
        decimals = max(term.type.scale for term in terms)
        digits = max(term.type.precision - term.type.scale for term in terms) + decimals
        if digits > MAX_DIGITS:
            self.faulty(node, f"compares numbers of {digits} digits; accepted: up to {MAX_DIGITS}, to be exact")
            return terms
        return [term.cast(_decimal(digits, decimals)) for term in terms]
