"""Prints tables for people; the same rows as JSON lines for programs."""

import json
import sys
from collections.abc import Iterable
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.core.management.base import OutputWrapper


def add_format(parser: CommandParser) -> None:
    """Add `--format table|json`."""
    parser.add_argument("--format", choices=("table", "json"), default="table", help="json: one object a line")


def show(stdout: OutputWrapper, rows: Iterable[dict[str, Any]], columns: Sequence[str], form: str) -> None:
    """Write the rows, times in UTC with their zone."""
    if form == "json":
        for row in rows:
            stdout.write(json.dumps({name: row.get(name) for name in columns}, default=text, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        # Text: a symbol such as [red] is not markup
        table.add_row(*(Text(text(row.get(name))) for name in columns))
    # a pipe or a file is no terminal 80 characters wide
    width = None if sys.stdout.isatty() else 200
    console = Console(file=stdout, width=width, highlight=False)  # type: ignore[arg-type]  # it has write and flush
    console.print(table)


def text(value: Any) -> str:
    """Return a value as people read it; times as ISO 8601 in UTC."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ") if not value.microsecond else value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
