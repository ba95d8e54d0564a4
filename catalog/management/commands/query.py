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
#: characters of a line in a file or a pipe, which have no width
_WIDEST = 1_000


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
                exact=True,
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

    from catalog.schemas.decimals import to_text

    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        elif pa.types.is_timestamp(column.type):
            column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_decimal(column.type):
            column = to_text(column)
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
        # folded, never cut, where the terminal is narrow
        grid.add_column(name, justify="left" if name == "instrument" else "right", overflow="fold")
    rows = table.num_rows
    head = table.slice(0, _SHOWN // 2) if rows > _SHOWN else table
    tail = table.slice(rows - _SHOWN // 2) if rows > _SHOWN else table.slice(0, 0)
    parts = [part.select(names).to_pylist() for part in (head, tail)]
    places = {name: max((_places(row[name]) for part in parts for row in part), default=0) for name in names}
    for part in parts:
        for row in part:
            grid.add_row(*(Text(_cell(row[name], places[name])) for name in names))
        if part is parts[0] and tail.num_rows:
            grid.add_row(*("…" for _ in names))
    sink = io.StringIO()
    width = None if sys.stdout.isatty() else _WIDEST
    Console(file=sink, width=width, highlight=False).print(grid)
    return sink.getvalue() + f"{rows:,} rows\n"


def _places(value: Any) -> int:
    """Return how many digits a decimal has after the point, without the zeros at its end."""
    from decimal import Decimal

    return len(f"{value:f}".partition(".")[2].rstrip("0")) if isinstance(value, Decimal) else 0


def _cell(value: Any, places: int) -> str:
    """Return a value as people read it; decimals of a column have as many places, so that their points are aligned."""
    from datetime import datetime
    from decimal import Decimal

    if value is None:
        return ""
    if isinstance(value, float):
        # an indicator: computed, not stored to the digit
        return f"{value:,.9g}" if abs(value) < 1e9 else f"{value:,.0f}"
    if isinstance(value, Decimal):
        whole, _, rest = f"{value:f}".partition(".")
        sign, whole = whole[: whole.startswith("-")], whole.lstrip("-")
        digits = rest.rstrip("0").ljust(places, "0")
        return f"{sign}{int(whole):,}" + (f".{digits}" if digits else "")
    if isinstance(value, datetime):
        # pandas' nanosecond times print them where there are any
        return value.strftime("%Y-%m-%dT%H:%M:%SZ") if not value.microsecond else str(value)
    return str(value)
