"""Files that the admin imports and exports: one table of a model's rows, as CSV or as YAML.

Every value has one text, the same in both formats; YAML shows what the text holds: a list, options, true.

A cell of a CSV that a spreadsheet would take for a formula (it begins with =, +, -, @, a tab or a carriage
return) or that begins with an apostrophe is written with an apostrophe in front, which is taken off when the
file is read. Nobody's spreadsheet runs a symbol called `=cmd`, and what is exported, imported and exported
again is the same byte for byte.
"""

import json
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Final

import tablib
from import_export.formats.base_formats import CSV
from import_export.formats.base_formats import YAML

from catalog.errors import ConfigError
from catalog.exchange.content import decode
from catalog.exchange.entries import Fault
from catalog.exchange.series_csv import print_cell
from catalog.exchange.series_csv import read_rows
from catalog.exchange.values import shown
from catalog.exchange.values import text_fault
from catalog.exchange.yaml_nodes import Listing
from catalog.exchange.yaml_nodes import Section
from catalog.exchange.yaml_nodes import compose
from catalog.exchange.yaml_nodes import plain_value
from catalog.exchange.yaml_text import print_yaml

SEPARATOR: Final = ";"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file: the line it begins on, and the text of each cell; a column it has not is not in it."""

    line: int
    cells: Mapping[str, str]


class FileTable(tablib.Dataset):
    """The rows of a file and what is wrong with the file as such."""

    def __init__(self, headers: Sequence[str] = ()) -> None:
        super().__init__(headers=list(headers) or None)
        self.columns: list[str] = list(headers)
        self.file_rows: list[FileRow] = []
        self.faults: list[Fault] = []

    def __len__(self) -> int:
        # an unreadable file is not an empty one
        return len(self.file_rows) or len(self.faults)

    def note(self, line: int, where: str, message: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(line, where, message))


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table, and those whose text is JSON, a list or a truth value."""

    names: Sequence[str]
    json: Collection[str] = ("options",)
    lists: Collection[str] = ()
    flags: Collection[str] = ("active",)

    def native(self, cells: Mapping[str, str]) -> dict[str, Any]:
        """Return cells as YAML shows them; empty ones are left out."""
        return {name: self._native(name, text) for name, text in cells.items() if text}

    def _native(self, name: str, text: str) -> Any:
        if name in self.json:
            return json.loads(text)
        if name in self.lists:
            return text.split(SEPARATOR)
        return text == "true" if name in self.flags else text


class CatalogCSV(CSV):
    """One line for each row, in UTF-8."""

    def is_binary(self) -> bool:
        # bytes as they are: reading as text would change line ends inside cells
        return True

    def get_read_mode(self) -> str:
        return "rb"

    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> FileTable:
        text = decode(in_stream)
        if isinstance(text, Fault):
            return _unreadable(text)
        faults: list[Fault] = []
        rows = read_rows(text, faults)
        line, header = next(rows, (1, []))
        table = FileTable(header)
        table.faults = faults
        for name in dict.fromkeys(header):
            if header.count(name) > 1:
                table.note(line, "", f"column {shown(name)} is given {header.count(name)} times")
        for line, row in rows:
            if len(row) != len(header):
                table.note(line, "", f"the row has {len(row)} cells; accepted: {len(header)}, as in the header")
                continue
            _add(table, line, {name: unguarded(cell) for name, cell in zip(header, row, strict=True)})
        return table

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> str:
        lines = [",".join(map(print_cell, dataset.headers or ()))]
        lines += [",".join(print_cell(guarded(cell)) for cell in row) for row in dataset]
        return "\n".join(lines) + "\n"


class CatalogYAML(YAML):
    """A list of mappings, in UTF-8."""

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"

    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> FileTable:
        text = decode(in_stream)
        if isinstance(text, Fault):
            return _unreadable(text)
        faults: list[Fault] = []
        root = compose(text, faults)
        if not isinstance(root, Listing):
            if not faults and root is not None:
                faults.append(Fault(1, "", "this is no list of rows; accepted: lines that begin with '- '"))
            return _unreadable(*faults)
        sections = [node for node in root.items if isinstance(node, Section)]
        table = FileTable(list(dict.fromkeys(name for section in sections for name in section.items)))
        table.faults = faults
        for node in root.items:
            if not isinstance(node, Section):
                table.note(node.line, "", "this is no row; accepted: name: value")
                continue
            cells = {}
            for name, (line, value) in node.items.items():
                try:
                    cells[name] = _text(plain_value(value))
                except ConfigError as error:
                    table.note(line, name, str(error))
            _add(table, node.line, cells)
        return table

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> str:
        rows: list[Any] = getattr(dataset, "native", [])
        return "\n".join(print_yaml(rows)) + "\n" if rows else "[]\n"


def guarded(text: str) -> str:
    """Return a cell as no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def unguarded(text: str) -> str:
    """Return a cell without the apostrophe that `guarded` put in front."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _add(table: FileTable, line: int, cells: Mapping[str, str]) -> None:
    wrong = [(name, fault) for name, cell in cells.items() if (fault := text_fault(cell))]
    for name, fault in wrong:
        table.note(line, name, f"{shown(cells[name])} {fault}")
    if not wrong:
        table.file_rows.append(FileRow(line, cells))


def _unreadable(*faults: Fault) -> FileTable:
    table = FileTable()
    table.faults = list(faults)
    return table


def _text(value: Any) -> str:
    """Return the text of a value of YAML."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return SEPARATOR.join(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
