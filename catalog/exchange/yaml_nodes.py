"""YAML as nodes that know their lines.

Only the parser's events are used: nothing is constructed, so no tag can name a Python object. Anchors,
aliases and tags are refused, which leaves no way to write a small file that grows when it is read.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Final

import yaml

from catalog.errors import ConfigError
from catalog.exchange.entries import Fault
from catalog.exchange.values import shown

#: deeper than any catalog; it bounds what a hostile file can cost
MAX_DEPTH: Final = 32

TEXT_TAG: Final = "tag:yaml.org,2002:str"

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# what YAML 1.1 allows in a file
_UNPRINTABLE: Final = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RESOLVER: Final = yaml.resolver.Resolver()
_NULL: Final = ("", "~", "null", "Null", "NULL")
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", re.ASCII)
# what YAML 1.1 reads as something else than text; times stay text, they are read by whoever declares them
_TEXT_TAGS: Final = (TEXT_TAG, "tag:yaml.org,2002:timestamp")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value: its text, and whether it stands without quotes."""

    line: int
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether nothing is given."""
        return self.plain and self.text in _NULL


@dataclass(frozen=True, slots=True)
class Listing:
    """A sequence of nodes."""

    line: int
    items: "list[Node]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping: name → (line of the name, node)."""

    line: int
    items: "dict[str, tuple[int, Node]]" = field(default_factory=dict)


Node = Scalar | Listing | Section


def compose(text: str, faults: list[Fault]) -> Node | None:
    """Return the file's only document; what is wrong is noted, None where nothing could be read."""
    if unprintable := list(_UNPRINTABLE.finditer(text)):
        for found in unprintable:
            line = text.count("\n", 0, found.start()) + 1
            faults.append(Fault(line, "", f"the character {found.group()!r} is not accepted in YAML; write an escape"))
        return None
    try:
        return _Composer(faults).compose(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        faults.append(Fault(mark.line + 1 if mark else 1, "", f"this is no YAML: {error.problem or error.context}"))
    except _TooDeep as error:
        faults.append(error.fault)
    return None


def plain_value(node: Node) -> Any:
    """Return a node as JSON would give it; ConfigError for words that YAML readers take differently."""
    if isinstance(node, Listing):
        return [plain_value(item) for item in node.items]
    if isinstance(node, Section):
        return {name: plain_value(item) for name, (_, item) in node.items.items()}
    text = node.text
    if not node.plain:
        return text
    if node.is_null:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _NUMBER.fullmatch(text):
        try:
            return json.loads(text)
        except ValueError:
            raise ConfigError(f"the number {shown(text)} has too many digits") from None
    if tag(text) not in _TEXT_TAGS:
        raise ConfigError(f'{shown(text)} is read differently by different programs; accepted: true, 16, 0.5 or "text"')
    return text


def tag(text: str) -> str:
    """Return what YAML 1.1 takes a plain word for."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]


class _TooDeep(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Composer:
    """Puts the events together; a stack, so that depth costs no recursion."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.root: Node | None = None
        self.documents = 0
        self.open: list[tuple[Listing | Section, list[tuple[int, str]]]] = []

    def compose(self, events: Iterator[yaml.Event]) -> Node | None:
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.ScalarEvent):
                self._refuse_extras(event, line)
                self._add(Scalar(line, event.value, not event.style))
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._refuse_extras(event, line)
                self._enter(Section(line) if isinstance(event, yaml.MappingStartEvent) else Listing(line))
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self.open.pop()
            elif isinstance(event, yaml.AliasEvent):
                self.faults.append(Fault(line, "", f"alias '*{event.anchor}' is not accepted; write the value itself"))
                self._add(Scalar(line, "", True))
            elif isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self.faults.append(Fault(line, "", "a second document begins; accepted: one"))
                    break
        return self.root

    def _refuse_extras(self, event: Any, line: int) -> None:
        if event.anchor:
            self.faults.append(Fault(line, "", f"anchor '&{event.anchor}' is not accepted"))
        if event.tag:
            self.faults.append(Fault(line, "", f"tag {shown(event.tag)} is not accepted"))

    def _enter(self, node: Listing | Section) -> None:
        self._add(node)
        self.open.append((node, []))
        if len(self.open) > MAX_DEPTH:
            raise _TooDeep(Fault(node.line, "", f"it is nested deeper than {MAX_DEPTH} levels"))

    def _add(self, node: Node) -> None:
        if not self.open:
            self.root = node
            return
        parent, names = self.open[-1]
        if isinstance(parent, Listing):
            parent.items.append(node)
        elif not names:
            if not isinstance(node, Scalar):
                self.faults.append(Fault(node.line, "", "a list or mapping cannot be a name; accepted: text"))
            names.append((node.line, node.text if isinstance(node, Scalar) else ""))
        else:
            line, name = names.pop()
            if name in parent.items:
                first = parent.items[name][0]
                self.faults.append(Fault(line, "", f"{shown(name)} is given twice, first on line {first}"))
            else:
                parent.items[name] = line, node
