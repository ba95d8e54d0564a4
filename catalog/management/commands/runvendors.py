"""`manage.py runvendors`: stand-ins of the vendors on this machine, so that each can be tried without an account."""

import signal
import time
from contextlib import ExitStack
from typing import Any

import yaml
from django.core.management.base import BaseCommand
from django.core.management.base import CommandError
from django.core.management.base import CommandParser

from catalog.errors import unknown


class Command(BaseCommand):
    help = (
        "Start a stand-in of every vendor (or of some) on loopback, with made-up prices, and of every live feed, and"
        " print a catalog that asks and hears them: import it with import_catalog, set the variables it names, run"
        " ingest or stream."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("vendors", nargs="*", help="names of vendors; none: all")
        parser.add_argument("--catalog", metavar="FILE", help="write the catalog here instead of printing it")
        parser.add_argument("--once", action="store_true", help="end at once, after the catalog was printed")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            from tests.vendors.catalogue import catalog_of
            from tests.vendors.catalogue import environment_of
            from tests.vendors.catalogue import live
            from tests.vendors.catalogue import stand_ins
        except ImportError as error:
            raise CommandError(f"the stand-ins come with the source code (folder tests/vendors): {error}") from error
        have = stand_ins()
        trials = live().TRIALS
        every = sorted(have.keys() | trials.keys())
        if faults := [unknown("vendor", name, every) for name in options["vendors"] if name not in every]:
            raise CommandError("\n".join(faults))
        with ExitStack() as stack:
            chosen = options["vendors"] or every
            running = [stack.enter_context(have[name]()) for name in chosen if name in have]
            heard = stack.enter_context(live().Market([name for name in chosen if name in trials])).running
            text = yaml.safe_dump(catalog_of(running, heard), sort_keys=False, allow_unicode=True)
            if options["catalog"]:
                with open(options["catalog"], "w", encoding="utf-8") as file:  # noqa: PTH123  # a path of the user's
                    file.write(text)
            else:
                self.stdout.write(text)
            for name, value in environment_of([*running, *heard]).items():
                self.stderr.write(f"export {name}={value}")
            for one in running:
                self.stderr.write(f"{one.vendor}: {one.url}")
            for one in heard:
                self.stderr.write(f"{one.vendor}, live: {one.stand_in.url}")
            if options["once"]:
                return
            self.stderr.write("Ctrl-C ends them.")
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                self.stderr.write("ended")
            finally:
                signal.signal(signal.SIGTERM, before)
