"""`manage.py stream`: keep the active realtime series streaming in this process, without Prefect."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType
from types import TracebackType
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import Self

from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser
from django.db import Error as StoreError

from catalog.errors import ConfigError

if TYPE_CHECKING:
    from flows.stream import Streams
    from flows.terminal import LiveTable

_TICK: Final = 0.1
#: seconds between two looks: at the streams, and at the catalog
_LOOK: Final = 1.0
_FOLLOW: Final = 15.0
#: what a stream that was told to end may take
_DRAIN: Final = 20.0


class Command(BaseCommand):
    help = "Stream what the active catalog asks for live, until it is told to end (Ctrl-C, SIGTERM)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--series", action="append", default=[], metavar="ID", help="only this series (repeatable)")
        parser.add_argument(
            "--source", action="append", default=[], metavar="NAME", help="only this source (repeatable)"
        )
        parser.add_argument("--seconds", type=float, help="end after so many seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        from rich.console import Console

        from flows.stream import Streams
        from flows.terminal import LiveTable

        try:
            streams = Streams(tuple(options["series"]), tuple(options["source"]))
            streams.follow()
        except ConfigError as error:
            raise CommandError(str(error)) from error
        if not streams.running:
            if options["series"] or options["source"]:
                raise CommandError("nothing in this selection is active and realtime")
            self.stdout.write("no realtime series is active yet: waiting for the catalog")
        # a file or a pipe has no width
        width = None if self.stdout.isatty() else 200
        # Django's wrapper ends whatever is written with a line end, that which moves the cursor too
        console = Console(file=self.stdout._out, width=width, highlight=False)  # type: ignore[arg-type]  # stubs
        with _Ending() as ending, LiveTable(console) as table:
            failed = self._attend(streams, table, ending, options["seconds"])
            streams.stop()
            until = time.monotonic() + _DRAIN
            while not streams.ended and time.monotonic() < until:
                time.sleep(_TICK)
            if not failed:
                table.show(streams.look(), now=True)
        if failed:
            raise CommandError("\n".join(("nothing can be streamed:", *failed)))

    def _attend(
        self, streams: "Streams", table: "LiveTable", ending: "_Ending", seconds: float | None
    ) -> Sequence[str]:
        """Show the streams and follow the catalog until the end; returns why nothing can be streamed, if so."""
        began = looked = followed = time.monotonic()
        while not ending.told:
            time.sleep(_TICK)
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if now - looked >= _LOOK:
                looked = now
                if failed := streams.failed:
                    return failed
                table.show(streams.look())
            if now - followed >= _FOLLOW:
                followed = now
                try:
                    streams.follow()
                except (StoreError, ConfigError) as error:
                    # what runs goes on
                    self.stderr.write(f"the catalog cannot be read: {error}")
        return ()


class _Ending:
    """Whether the process was told to end, while a block runs; told once more, it ends at once."""

    def __init__(self) -> None:
        # a flag and no event: a handler that interrupts a wait for an event may not set it
        self.told = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._tell) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self.told:
            # what has landed is delivered by the next one
            os._exit(128 + number)
        self.told = True
