"""Progress on a terminal: one bar for each source."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress
from rich.progress import SpinnerColumn
from rich.progress import TaskID
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn


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
