"""What the commands that import and export share."""

import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Final

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.exchange.changes import Changes
from catalog.exchange.differences import compare
from catalog.exchange.entries import Document
from catalog.exchange.writing import apply

#: warnings that are told one by one
_WARNINGS: Final = 20


class ImportCommand(BaseCommand):
    """Imports one file: all of it, or nothing."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the file, or - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="print the difference and write nothing")
        parser.add_argument("--user", metavar="NAME", help="who did it, for the change history")

    @abstractmethod
    def read(self, content: bytes) -> Document:
        """Return the file as a document."""

    def handle(self, *args: Any, **options: Any) -> None:
        file, missing = options["file"], options.get("create_missing", False)
        user = _find_user(options["user"]) if options["user"] else None
        document = self.read(_read_file(file))
        try:
            if options["dry_run"]:
                changes = compare(document, create_missing=missing)
                if changes.faults:
                    raise ConfigError(*map(str, changes.faults))
                self._print(changes, rows=True)
                self.stdout.write("dry run: nothing was written")
            else:
                self._print(apply(document, create_missing=missing, user=user), rows=options["verbosity"] > 1)
        except ConfigError as error:
            raise CommandError(_report(file, error.faults)) from None
        except DataflowError as error:
            raise CommandError(str(error)) from error

    def _print(self, changes: Changes, *, rows: bool) -> None:
        if rows:
            for change in changes.rows:
                self.stdout.write(str(change))
        for line in changes.summary() or ["the file names no rows"]:
            self.stdout.write(line)
        for warning in changes.warnings[:_WARNINGS]:
            self.stdout.write(f"warning: {warning}")
        if (more := len(changes.warnings) - _WARNINGS) > 0:
            self.stdout.write(f"warning: {more:,} more of these")


class ExportCommand(BaseCommand):
    """Exports to a file, or to standard output."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file", metavar="FILE", nargs="?", default="-", help="the file; standard output if left out"
        )

    @abstractmethod
    def text(self, options: dict[str, Any]) -> str:
        """Return what to write."""

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            text = self.text(options)
        except ConfigError as error:
            raise CommandError(str(error)) from error
        if options["file"] == "-":
            self.stdout.write(text, ending="")
        else:
            _write_file(Path(options["file"]), text)


def _find_user(name: str) -> AbstractBaseUser:
    users = get_user_model()
    try:
        return users._default_manager.get_by_natural_key(name)
    except users.DoesNotExist:
        raise CommandError(f"user {name!r} is unknown") from None


def _read_file(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error


def _write_file(path: Path, text: str) -> None:
    """Write a file whole: who reads it meanwhile sees the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(text.encode())
        part.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _report(file: str, faults: Sequence[str]) -> str:
    number = "1 fault" if len(faults) == 1 else f"{len(faults):,} faults"
    return "\n  ".join([f"{file}: {number}, nothing was imported", *faults])
