"""A model's rows in a file: read to a document, compared with the catalog and written by `catalog.exchange`.

django-import-export gives the pages (upload, preview, confirm, export); what a file means, every fault of it
and the transaction are those of the import commands.
"""

from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from typing import ClassVar
from typing import Final

import tablib
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.db.models import QuerySet
from import_export import resources
from import_export.fields import Field
from import_export.results import Error
from import_export.results import InvalidRow
from import_export.results import Result
from import_export.results import RowResult

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import unknown
from catalog.exchange import Change
from catalog.exchange import Changes
from catalog.exchange import Document
from catalog.exchange import Fault
from catalog.exchange import apply
from catalog.exchange import compare
from catalog.resources.files import Columns
from catalog.resources.files import FileRow
from catalog.resources.files import FileTable

#: more faults than anybody reads on one page; the commands print all of them
_FAULTS_SHOWN: Final = 500

Reader = Callable[[str], Any]


class PlainError(Error):
    """An error that is a sentence; its place in our code interests nobody who imports a file."""

    traceback = ""


class CatalogResource(resources.Resource):
    """The rows of one model. A subclass says what its columns are, and what a row of a file means."""

    model: ClassVar[type[Model]]
    columns: ClassVar[Columns]
    required: ClassVar[Sequence[str]]

    def __init__(self, *, create_missing: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.create_missing = create_missing
        self.fields = {name: Field(column_name=name) for name in self.columns.names}

    @abstractmethod
    def document(self, rows: Sequence[FileRow], faults: list[Fault]) -> Document:
        """Return what the rows say; faults are noted."""

    @abstractmethod
    def cells(self, queryset: QuerySet[Any]) -> Iterator[Sequence[str]]:
        """Yield the texts of the rows, sorted by name, in the order of the columns."""

    @classmethod
    def get_display_name(cls) -> str:
        return str(cls.model._meta.verbose_name_plural)

    def get_user_visible_fields(self) -> list[Field]:
        return list(self.fields.values())

    def export(self, queryset: QuerySet[Any] | None = None, **kwargs: Any) -> tablib.Dataset:
        """Return the rows as texts, and as YAML shows them."""
        rows = self.model._default_manager.all() if queryset is None else queryset
        made = tablib.Dataset(headers=list(self.columns.names))
        made.native = []
        for cells in self.cells(rows):
            made.append(cells)
            made.native.append(self.columns.native(dict(zip(self.columns.names, cells, strict=True))))
        return made

    def import_data(
        self, dataset: FileTable, dry_run: bool = False, user: AbstractBaseUser | None = None, **kwargs: Any
    ) -> Result:
        """Compare a file with the catalog and, unless this is a dry run, write it: all of it or nothing."""
        faults = [*dataset.faults]
        readable = not any(name not in dataset.columns for name in self.required)
        faults += self._header_faults(dataset)
        document = self.document(dataset.file_rows, faults) if readable else Document()
        document = replace(document, faults=faults)
        try:
            if dry_run:
                changes = compare(document, create_missing=self.create_missing)
            else:
                changes = apply(document, create_missing=self.create_missing, user=user)
        except ConfigError:
            # somebody changed the catalog since the preview
            changes = compare(document, create_missing=self.create_missing)
        except DataflowError as error:
            result = Result()
            result.append_base_error(PlainError(error))
            return result
        return self._result(dataset, changes)

    def _header_faults(self, dataset: FileTable) -> Iterator[Fault]:
        if dataset.faults and not dataset.columns:
            return
        for name in dataset.columns:
            if name not in self.columns.names:
                yield Fault(1, "", unknown("column", name[:100], self.columns.names))
        for name in self.required:
            if name not in dataset.columns:
                yield Fault(1, "", f"column {name!r} is required; accepted: {', '.join(self.columns.names)}")

    def _result(self, dataset: FileTable, changes: Changes) -> Result:
        result = Result()
        result.total_rows = len(dataset.file_rows)
        if changes.faults:
            self._refuse(result, dataset, changes.faults)
            return result
        result.diff_headers = ["line", "row", "changes"]
        by_line: dict[int, list[Change]] = {}
        for change in changes.rows:
            by_line.setdefault(change.line, []).append(change)
        for row in dataset.file_rows:
            if row.line not in by_line:
                result.totals[RowResult.IMPORT_TYPE_SKIP] += 1
            for change in by_line.pop(row.line, ()):
                said = "\n".join(
                    f"{field.name}: {field.after}" if change.added else str(field) for field in change.fields
                )
                kind = RowResult.IMPORT_TYPE_NEW if change.added else RowResult.IMPORT_TYPE_UPDATE
                self._append(result, kind, [str(row.line), f"{change.kind} {change.row}", said])
        return result

    def _append(self, result: Result, kind: str, diff: list[str]) -> None:
        row = RowResult()
        row.import_type = kind
        row.diff = diff
        result.append_row_result(row)
        result.increment_row_result_total(row)

    def _refuse(self, result: Result, dataset: FileTable, faults: Sequence[Fault]) -> None:
        """Show every fault at its row; those of the file as such by themselves."""
        result.diff_headers = [name for name in dataset.columns if name in self.columns.names]
        rows = {row.line: row for row in dataset.file_rows}
        by_line: dict[int, dict[str, list[str]]] = {}
        for fault in faults[:_FAULTS_SHOWN]:
            if fault.line in rows:
                by_line.setdefault(fault.line, {}).setdefault(fault.where or "row", []).append(fault.message)
            else:
                result.append_base_error(PlainError(ConfigError(str(fault))))
        if len(faults) > _FAULTS_SHOWN:
            more = f"{len(faults) - _FAULTS_SHOWN:,} more faults are not shown; the import commands print all"
            result.append_base_error(PlainError(ConfigError(more)))
        for line, messages in by_line.items():
            values = tuple(rows[line].cells.get(name, "") for name in result.diff_headers)
            result.invalid_rows.append(InvalidRow(line, ValidationError(dict(messages)), values))


def read_cells(row: FileRow, readers: Mapping[str, Reader], model: type[Model], faults: list[Fault]) -> dict[str, Any]:
    """Return the values of the cells a row has: read, or the default where one is empty; faults are noted."""
    values: dict[str, Any] = {}
    for name, read in readers.items():
        if name not in row.cells:
            continue
        if not row.cells[name]:
            values[name] = model._meta.get_field(name).get_default()  # type: ignore[union-attr]  # a plain field
            continue
        try:
            values[name] = read(row.cells[name])
        except ConfigError as error:
            faults += [Fault(row.line, name, message) for message in error.faults]
    return values


def named(row: FileRow, names: Sequence[str], faults: list[Fault]) -> bool:
    """Say whether a row has what names it; notes what is missing."""
    missing = [name for name in names if not row.cells.get(name)]
    faults += [Fault(row.line, name, "it is empty; every row needs it") for name in missing]
    return not missing
