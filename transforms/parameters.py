"""Parameters of transforms, read from the signatures of functions and classes.

The default says what is accepted: the type, and for numbers the least value. A whole number whose default
is 1 or more is a count and at least 1; a default of 0 allows 0; a fraction whose default is above 0 stays
above 0; a negative default takes the limit away.
"""

import inspect
import math
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Final

from catalog.errors import ConfigError
from catalog.errors import unknown
from transforms.spec import Value

#: no window is longer: a million rows are two years of minutes
MAX_COUNT: Final = 1_000_000

_KINDS: Final[Mapping[str, type]] = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; `required` has no default, `optional` also accepts None."""

    name: str
    kind: type
    default: Value = None
    required: bool = False
    optional: bool = False

    @property
    def accepts(self) -> str:
        """What is accepted, in words."""
        if self.kind is float:
            words = "a number above 0" if self._positive else "a number"
        elif self.kind is int:
            words = f"a whole number from {self._least} to {MAX_COUNT}"
        else:
            words = "True or False" if self.kind is bool else "text"
        return f"{words}, or None" if self.optional else words

    def read(self, value: Value) -> Value:
        """Return the value in the parameter's own type; ValueError says what is accepted."""
        match value:
            case None if self.optional:
                return None
            case bool() | str() if type(value) is self.kind:
                return value
            case bool():  # which is an int to Python, and no number here
                pass
            case int() if self.kind is int and self._least <= value <= MAX_COUNT:
                return value
            case int() | float() if self.kind is float and math.isfinite(value) and (value > 0 or not self._positive):
                return float(value) + 0.0  # -0.0 becomes 0.0: one text for both
        raise ValueError(self.accepts)

    @property
    def _least(self) -> int:
        default = self.default if isinstance(self.default, int) else 1
        return min(default, 1) if default >= 0 else -MAX_COUNT

    @property
    def _positive(self) -> bool:
        return isinstance(self.default, int | float) and self.default > 0


def declared(
    function: Callable[..., Any], *, fractions: Container[str] = (), hidden: Container[str] = ()
) -> dict[str, Parameter]:
    """Return the parameters in a signature, in order, without the `hidden` ones.

    A parameter named in `fractions` takes fractions although its default is a whole number.
    """
    parameters: dict[str, Parameter] = {}
    for name, found in inspect.signature(function).parameters.items():
        if name in hidden:
            continue
        required = found.default is inspect.Parameter.empty
        default: Value = None if required else found.default
        annotated, optional = _annotation(found.annotation)
        kind = annotated or (float if default is None else type(default))
        if name in fractions:
            kind, default = float, float(str(default))
        parameters[name] = Parameter(name, kind, default, required, optional)
    return parameters


def fill(owner: str, parameters: Mapping[str, Parameter], given: Mapping[str, Value]) -> dict[str, Value]:
    """Return every parameter, defaults filled in; ConfigError lists every fault at once."""
    faults = [unknown(f"{owner}: parameter", name, parameters) for name in given if name not in parameters]
    filled: dict[str, Value] = {}
    for name, parameter in parameters.items():
        if name in given:
            try:
                filled[name] = parameter.read(given[name])
            except ValueError as error:
                faults.append(f"{owner}: {name}={given[name]!r} is not accepted; have: {error}")
        elif parameter.required:
            faults.append(f"{owner}: parameter {name!r} is required: {parameter.accepts}")
        else:
            filled[name] = parameter.default
    if faults:
        raise ConfigError(*faults)
    return filled


def _annotation(annotation: Any) -> tuple[type | None, bool]:
    """Return the type that an annotation names, if any, and whether it accepts None."""
    words = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    names = words.replace("typing.Optional[", "None | ").rstrip("]").split(" | ")
    return next((_KINDS[name] for name in names if name in _KINDS), None), "None" in names
