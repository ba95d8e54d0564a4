"""Messages with placeholders: JSON in which `{…}` stands for channels, a number or a secret. Nothing is evaluated."""

import json
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Final

_PLACEHOLDER: Final = re.compile(r"{(\w+)(?::([\w-]+))?}")
#: what a name of a channel knows
CHANNEL: Final = frozenset({"symbol", "lower", "upper"})
#: what a message to the vendor knows
MESSAGE: Final = frozenset({"secret", "id", "list", "joined"})
SECRET: Final = frozenset({"secret"})
_NAMED: Final = frozenset({"secret"})
_MAYBE_NAMED: Final = frozenset({"list", "joined"})
_NOTHING: Final[Mapping[str, Sequence[str]]] = {}


@dataclass(frozen=True, slots=True)
class Known:
    """What placeholders of a message stand for: secrets by ending, names of channels by schema ("" all of them)."""

    secret: Callable[[str], str]
    names: Mapping[str, Sequence[str]] = field(default_factory=lambda: _NOTHING)
    number: int = 0


def checked(template: Any, known: Iterable[str]) -> Any:
    """Return a template; ValueError where a placeholder means nothing there."""
    accepted = frozenset(known)
    for kind, name in placeholders(template):
        wrong = kind not in accepted or bool(name) != (kind in _NAMED)
        if wrong and not (kind in accepted and kind in _MAYBE_NAMED):
            shown = f"{{{kind}:{name}}}" if name else f"{{{kind}}}"
            names = ", ".join(_shown(one) for one in sorted(accepted))
            raise ValueError(f"{shown} means nothing here; accepted: {names}")
    return template


def placeholders(template: Any) -> list[tuple[str, str]]:
    """Return kind and name of every placeholder in a template, in names of fields too."""
    if isinstance(template, str):
        return [(kind, name) for kind, name in _PLACEHOLDER.findall(template)]
    if isinstance(template, Mapping):
        return [found for pair in template.items() for part in pair for found in placeholders(part)]
    if isinstance(template, list | tuple):
        return [found for part in template for found in placeholders(part)]
    return []


def message(template: Any, known: Known) -> str:
    """Return what is sent: a text as it is, everything else as JSON. Lists without a channel are left out."""
    filled = _filled(template, known)
    return filled if isinstance(filled, str) else json.dumps(filled, separators=(",", ":"), ensure_ascii=False)


def text(template: str, known: Known) -> str:
    """Return a text with its placeholders filled."""

    def fill(found: re.Match[str]) -> str:
        kind, name = found[1], found[2] or ""
        if kind == "secret":
            return known.secret(name)
        return str(known.number) if kind == "id" else ",".join(known.names.get(name, ()))

    return _PLACEHOLDER.sub(fill, template)


def name_of(template: str, symbol: str) -> str:
    """Return the vendor's name of the channel of a symbol."""
    forms = {"symbol": symbol, "lower": symbol.lower(), "upper": symbol.upper()}
    return _PLACEHOLDER.sub(lambda found: forms[found[1]], template)


def symbol_in(template: str) -> Callable[[str], str | None]:
    """Return what reads the symbol out of a channel's name; None where the name has another form.

    Of a name in lower case the symbol is in upper case.
    """
    kinds = [kind for kind, _ in placeholders(template)]
    parts = _PLACEHOLDER.split(template)[::3]
    before, after = parts[0], parts[-1]

    def read(name: str) -> str | None:
        if not (len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after)):
            return None
        symbol = name[len(before) : len(name) - len(after)]
        return symbol.upper() if kinds[0] == "lower" else symbol

    return read


def _filled(template: Any, known: Known) -> Any:
    if isinstance(template, str):
        whole = _PLACEHOLDER.fullmatch(template)
        if whole and whole[1] == "list":
            return list(known.names.get(whole[2] or "", ()))
        if whole and whole[1] == "id":
            return known.number
        return text(template, known)
    if isinstance(template, Mapping):
        filled = {text(name, known): _filled(part, known) for name, part in template.items()}
        return {name: part for name, part in filled.items() if part != []}
    if isinstance(template, list | tuple):
        return [_filled(part, known) for part in template]
    return template


def _shown(kind: str) -> str:
    return f"{{{kind}:NAME}}" if kind in _NAMED else f"{{{kind}}}"
