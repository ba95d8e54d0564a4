"""`manage.py query`: read what is stored, from wherever it is."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import DataflowError
from catalog.management.arguments import add_window
from catalog.management.arguments import read_window

_SHOWN = 40


class Command(BaseCommand):
    help = "Print or save the stored rows of some instruments."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="+", metavar="KEY|SYMBOL", help="e.g. files:equity:AAPL:ohlcv-1d, or AAPL")
        parser.add_argument("--schema", help="which schema, where a symbol has several")
        add_window(parser)
        parser.add_argument(
            "--indicators", default="", metavar="CHAINS", help="separated by ';', e.g. 'sma(window=20); rsi()'"
        )
        parser.add_argument("--venue", help="only this venue's rows")
        parser.add_argument("--exact", action="store_true", help="decimals instead of floats (always in csv and json)")
        parser.add_argument("--format", choices=("table", "csv", "json", "parquet"), default="table")
        parser.add_argument("--output", metavar="FILE", help="write here instead of standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        from flows.query import read
        from transforms.chains import read_chains

        form = options["format"]
        if form == "parquet" and not options["output"]:
            raise CommandError("--format parquet needs --output FILE")
        try:
            start, end = read_window(options)
            table = read(
                options["names"],
                options["schema"],
                start,
                end,
                indicators=[chain.text for chain in read_chains(options["indicators"])],
                exact=options["exact"] or form != "table",
                venue=options["venue"],
            )
        except DataflowError as error:
            raise CommandError(str(error)) from error
        if form == "parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, options["output"], compression="zstd")
            return
        content = {"csv": _csv, "json": _json, "table": _table}[form](table)
        if options["output"]:
            Path(options["output"]).write_text(content, encoding="utf-8", newline="")
        else:
            self.stdout.write(content, ending="")


def _plain(table: Any) -> Any:
    """Return the table with instruments, times and decimals as text, the same in CSV and JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        elif pa.types.is_timestamp(column.type):
            column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_decimal(column.type):
            column = pc.utf8_rtrim(pc.utf8_rtrim(column.cast(pa.string()), "0"), ".")
        columns[name] = column
    return pa.table(columns)


def _csv(table: Any) -> str:
    import io

    import pyarrow.csv

    sink = io.BytesIO()
    pyarrow.csv.write_csv(_plain(table), sink, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue().decode()


def _json(table: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _plain(table).to_pylist())


def _table(table: Any) -> str:
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # a column without a value says nothing
    names = [name for name in table.column_names if name != "fetch_id" and table[name].null_count < table.num_rows]
    grid = Table(show_edge=False, pad_edge=False)
    for name in names:
        grid.add_column(name, justify="left" if name == "instrument" else "right")
    rows = table.num_rows
    head = table.slice(0, _SHOWN // 2) if rows > _SHOWN else table
    tail = table.slice(rows - _SHOWN // 2) if rows > _SHOWN else table.slice(0, 0)
    for part in (head, tail):
        for row in part.select(names).to_pylist():
            grid.add_row(*(Text(_cell(row[name])) for name in names))
        if part is head and tail.num_rows:
            grid.add_row(*("…" for _ in names))
    sink = io.StringIO()
    width = None if sys.stdout.isatty() else 220
    Console(file=sink, width=width, highlight=False).print(grid)
    return sink.getvalue() + f"{rows:,} rows\n"


def _cell(value: Any) -> str:
    from datetime import datetime
    from decimal import Decimal

    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, datetime):
        # pandas' nanosecond times print them where there are any
        return value.strftime("%Y-%m-%dT%H:%M:%SZ") if not value.microsecond else str(value)
    return str(value)
