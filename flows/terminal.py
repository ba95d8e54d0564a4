"""Progress on a terminal: one bar for each source that is fetched, a table of what is live."""

import logging
import sys
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from typing import Final
from typing import Self

from rich.cells import cell_len
from rich.console import Console
from rich.console import Group
from rich.console import JustifyMethod
from rich.live import Live
from rich.progress import BarColumn
from rich.progress import Progress
from rich.progress import SpinnerColumn
from rich.progress import TaskID
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from flows.snapshot import Snapshot

#: by column what stands above it
_ALL: Final = {
    name: name for name in ("key", "rows", "rows a second", "newest", "seconds ago", "received after", "jumps", "to")
}
#: where there is no room for all of them, with a name that is short
_FEW: Final = {"key": "key", "rows a second": "rows/s", "seconds ago": "s ago", "to": "to"}
#: columns that may be cut, and what is always shown of a destination
_TEXTS: Final = ("key", "to")
_SHORTEST: Final = 14
#: characters between two columns
_BETWEEN: Final = 3
#: characters of a line that has room for all
_WIDE: Final = 150
_NUMBERS: Final = ("rows", "rows a second", "seconds ago", "received after", "jumps")
#: rows that are shown however small the terminal is
_FEWEST: Final = 5


class ProgressBars:
    """Shows pages landed and rows refined for each source while a block runs."""

    def __init__(self, console: Console, *, enabled: bool = True) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[pages]:,} pages  {task.fields[rows]:,} rows"),
            TimeElapsedColumn(),
            console=console,
            disable=not enabled or not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def progress(self, source: str, what: str, count: int) -> None:
        """Add to a source's count of `pages` or `rows`."""
        if source not in self._tasks:
            self._tasks[source] = self._progress.add_task(source, total=None, pages=0, rows=0)
        self._counts[source, what] = self._counts.get((source, what), 0) + count
        task = self._tasks[source]
        if what == "rows":
            self._progress.update(task, rows=self._counts[source, what])
        else:
            self._progress.update(task, pages=self._counts[source, what])


class LiveTable:
    """Shows what streams bring: a table that is drawn anew on a terminal, elsewhere a line for each source at times."""

    def __init__(self, console: Console, line_seconds: float = 10.0) -> None:
        self._console = console
        self._line_seconds = line_seconds
        self._lined = -line_seconds
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._logged_to: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            # it has put something in the place of sys.stderr that writes above the table
            self._logged_to = [(one, before) for one in _handlers() if (before := one.setStream(sys.stderr))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            for handler, stream in self._logged_to:
                handler.setStream(stream)

    def show(self, snapshots: Sequence[Snapshot], *, now: bool = False) -> None:
        """Show them; lines only where it is time for them, or `now`."""
        if self._live is not None:
            self._live.update(self._table(snapshots), refresh=True)
        elif now or time.monotonic() - self._lined >= self._line_seconds:
            self._lined = time.monotonic()
            for one in snapshots:
                self._console.print(Text(f"{one.at:%H:%M:%S} {one.source}: {one.line()}"), soft_wrap=True)

    def _table(self, snapshots: Sequence[Snapshot]) -> Group:
        # heads and their lines are above the rows, and the prompt will be below
        room = max(self._console.size.height - 4 - 2 * len(snapshots), _FEWEST)
        rows = [row for one in snapshots for row in one.table()]
        columns: Mapping[str, str] = _ALL if self._console.width >= _WIDE else _FEW
        cells = [[_cell(row[name]) for name in columns] for row in rows[:room]]
        longest = [max(map(cell_len, column)) for column in zip(columns.values(), *cells, strict=True)]
        table = Table(show_edge=False, pad_edge=False)
        for (name, title), width in zip(columns.items(), _fitting(longest, columns, self._console.width), strict=True):
            justify: JustifyMethod = "right" if name in _NUMBERS else "left"
            # a row is one line, whatever the terminal's width is: what is too long is cut
            table.add_column(title, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
        for row in cells:
            # Text: a symbol such as [red] is not markup
            table.add_row(*map(Text, row))
        heads = [Text(f"{one.source}: {one.line()}") for one in snapshots]
        more = [Text(f"… {len(rows) - room:,} more")] if len(rows) > room else []
        return Group(*heads, table, *more)


def _fitting(longest: Sequence[int], columns: Iterable[str], width: int) -> list[int]:
    """Return the widths of columns that fit into a line: texts are cut, the key last; nothing else is."""
    found = dict(zip(columns, longest, strict=True))
    room = width - _BETWEEN * (len(found) - 1) - sum(one for name, one in found.items() if name not in _TEXTS)
    found["key"] = max(min(found["key"], room - min(found["to"], _SHORTEST)), 1)
    found["to"] = max(min(found["to"], room - found["key"]), 1)
    return list(found.values())


def _handlers() -> list[logging.StreamHandler[Any]]:
    return [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else str(value)
