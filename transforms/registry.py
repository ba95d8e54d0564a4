"""From the text of a transform to the transformer; everything in this folder is found by scanning."""

import inspect
from collections.abc import Mapping
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType

from catalog.errors import ConfigError
from catalog.errors import unknown
from transforms.base import BaseTransformer
from transforms.base import Chain
from transforms.indicators import ALIASES
from transforms.indicators import indicators
from transforms.indicators import modules
from transforms.parameters import Parameter
from transforms.parameters import fill
from transforms.spec import TransformSpec
from transforms.spec import Value
from transforms.spec import parse
from transforms.values import BoundIndicator
from transforms.values import IndicatorValues
from transforms.values import canonical


@cache
def transformers() -> Mapping[str, type[BaseTransformer]]:
    """Return every transformer class by name; indicators are not among them."""
    found: dict[str, type[BaseTransformer]] = {}
    for module in modules():
        for member in vars(module).values():
            if inspect.isclass(member) and issubclass(member, BaseTransformer) and member.name:
                found[member.name] = member
    return MappingProxyType(dict(sorted(found.items())))


def make(source: str | TransformSpec | Sequence[TransformSpec]) -> BaseTransformer:
    """Return the transformer that a text or spec names; ConfigError lists every fault of every step."""
    if isinstance(source, str):
        source = parse(source)
    specs = (source,) if isinstance(source, TransformSpec) else source
    steps: list[BaseTransformer] = []
    faults: list[str] = []
    for spec in specs:
        try:
            steps.append(_step(spec))
        except ConfigError as error:
            faults.extend(error.faults)
    if faults:
        raise ConfigError(*faults)
    return steps[0] if len(steps) == 1 else Chain(steps)


def _step(spec: TransformSpec) -> BaseTransformer:
    if found := transformers().get(spec.name):
        return found(**fill(spec.name, found.parameters(), spec.parameters))
    members = ALIASES.get(spec.name, (spec.name,))
    if members[0] not in indicators():
        raise ConfigError(_unknown(spec.name))
    return _values(spec, members)


def _unknown(name: str) -> str:
    names = [*transformers(), *ALIASES, *indicators()]
    # over a hundred names answer nobody who mistyped one
    if near := get_close_matches(name, names):
        return f"transform {name!r} is unknown; did you mean {', '.join(near)}? There are {len(names)}"
    return unknown("transform", name, names)


def _values(spec: TransformSpec, members: Sequence[str]) -> IndicatorValues:
    """Fill the parameters once for all members of an alias; each takes those it has."""
    accepted: dict[str, Parameter] = {}
    for member in members:
        accepted |= indicators()[member].parameters
    filled = fill(spec.name, accepted, spec.parameters)
    columns = []
    for member in members:
        found = indicators()[member]
        own: dict[str, Value] = {name: filled[name] for name in found.parameters}
        columns.append(BoundIndicator(found, own))
    name = members[0] if len(members) == 1 else spec.name
    return IndicatorValues(canonical(name, filled), tuple(columns))
