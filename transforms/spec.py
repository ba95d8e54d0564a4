"""The text of a transform: `rsi(window=14)`, and chains of them joined by ` | `.

Read by `ast` with a whitelist, never evaluated. A step is a name, or a name with keyword arguments whose
values are numbers, text, True, False or None. Printing is canonical (parameters sorted by name, no
brackets where there are none), so two specs are equal exactly when their texts are, and
`parse(text(specs)) == specs`.
"""

import ast
import keyword
import math
import warnings
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Final

from catalog.errors import ConfigError

Value = bool | int | float | str | None

# far more than any real chain needs; they bound what parsing can cost
MAX_TEXT: Final = 1000
MAX_STEPS: Final = 8
MAX_WHOLE: Final = 10**15

_SHOWN: Final = 80
_ACCEPTED: Final = "a number, text, True, False or None"


@dataclass(frozen=True, slots=True, eq=False)
class TransformSpec:
    """One step: the name of a transform and its parameters."""

    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the text could not carry; ConfigError lists every fault."""
        faults = [] if _plain(self.name) else [f"transform name {_shown(self.name)} is not a plain name"]
        for name, value in self.parameters.items():
            if not _plain(name):
                faults.append(f"{self.name}: parameter name {_shown(name)} is not a plain name")
            elif fault := _value_fault(value):
                faults.append(f"{self.name}: {name}={_shown(value)} {fault}")
        if faults:
            raise ConfigError(*faults)
        object.__setattr__(self, "parameters", dict(sorted(self.parameters.items())))
        if len(str(self)) > MAX_TEXT:
            raise ConfigError(f"transform {_shown(str(self))} is longer than {MAX_TEXT} characters")

    def __str__(self) -> str:
        """Return the canonical text."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{self.name}({arguments})" if arguments else self.name

    def __eq__(self, other: object) -> bool:
        """Compare by text: 2 and 2.0, or 1 and True, are different parameters."""
        return str(self) == str(other) if isinstance(other, TransformSpec) else NotImplemented

    def __hash__(self) -> int:
        """Hash by text, as equality does."""
        return hash(str(self))


def text(specs: Iterable[TransformSpec]) -> str:
    """Return the canonical text of a chain."""
    return " | ".join(map(str, specs))


def parse(source: str) -> tuple[TransformSpec, ...]:
    """Read the text of a chain; ConfigError lists every fault in it."""
    if not isinstance(source, str) or not source.strip():
        raise ConfigError(f"transform {_shown(source)} is empty; write name(parameter=value), steps joined by ' | '")
    if len(source) > MAX_TEXT:
        raise ConfigError(f"transform {_shown(source)} is longer than {MAX_TEXT} characters")
    if not source.isascii():
        # Python would read such letters as their plain cousins
        raise ConfigError(f"transform {source[:_SHOWN]!a} holds characters other than ASCII")
    steps = _steps(_tree(source))
    if len(steps) > MAX_STEPS:
        raise ConfigError(f"transform {_shown(source)} has {len(steps)} steps; at most {MAX_STEPS} are accepted")
    specs: list[TransformSpec] = []
    faults: list[str] = []
    for step in steps:
        try:
            specs.append(_spec(step, source))
        except ConfigError as error:
            faults.extend(error.faults)
    if faults:
        raise ConfigError(*faults)
    return tuple(specs)


def _tree(source: str) -> ast.expr:
    try:
        # a doubtful literal ('\d', 1if) only warns in Python; here it is refused
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds a null byte"
        raise ConfigError(
            f"transform {_shown(source)} cannot be read ({reason}); write name(parameter=value), steps joined by ' | '"
        ) from None


def _steps(tree: ast.expr) -> list[ast.expr]:
    steps: list[ast.expr] = []
    # `a | b | c` nests to the left: walked in a loop, so that length costs no recursion
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        steps.append(tree.right)
        tree = tree.left
    return [tree, *reversed(steps)]


def _spec(step: ast.expr, source: str) -> TransformSpec:
    if isinstance(step, ast.Name):
        return TransformSpec(step.id)
    if not isinstance(step, ast.Call) or not isinstance(step.func, ast.Name):
        raise ConfigError(f"step {_segment(source, step)} is not of the form name(parameter=value)")
    owner = step.func.id
    faults = [f"{owner}: every value needs its parameter's name: name=value"] if step.args else []
    parameters: dict[str, Value] = {}
    for argument in step.keywords:
        if argument.arg is None:
            faults.append(f"{owner}: '**' is not accepted, only name=value")
            continue
        if argument.arg in parameters:
            faults.append(f"{owner}: parameter {argument.arg!r} is given twice")
        try:
            parameters[argument.arg] = _literal(argument.value)
        except ValueError:
            given = _segment(source, argument.value)
            faults.append(f"{owner}: {argument.arg}={given} is not a plain value; have: {_ACCEPTED}")
    try:
        spec = TransformSpec(owner, parameters)
    except ConfigError as error:
        faults.extend(error.faults)
    if faults:
        raise ConfigError(*faults)
    return spec


def _literal(node: ast.expr) -> Value:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand) if isinstance(node.operand, ast.Constant) else None
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
        return node.value
    raise ValueError


def _segment(source: str, node: ast.expr) -> str:
    """Return the part of the source that a node was read from, cut to what a person reads."""
    segment = ast.get_source_segment(source.strip(), node) or ""
    return segment if len(segment) <= _SHOWN else f"{segment[: _SHOWN - 3]}..."


def _value_fault(value: object) -> str:
    if isinstance(value, str):
        printable = value.isascii() and value.isprintable() and "\\" not in value
        return "" if printable else "holds characters other than printable ASCII without backslash"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is not finite"
    if isinstance(value, int):
        return "" if abs(value) <= MAX_WHOLE else f"is beyond {MAX_WHOLE}"
    return "" if value is None else f"is not a plain value; have: {_ACCEPTED}"


def _plain(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _shown(value: object) -> str:
    """Return the value for a message, cut to what a person reads."""
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        return "a very large number"
    shown = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
