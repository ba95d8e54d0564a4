"""Live runs of one source against a server on loopback: the catalog's rows, the run in a thread, what came of it."""

import os
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any

import pyarrow as pa

from catalog.schemas import Schema
from catalog.schemas.base import Counts
from flows.job import RouteFacts
from flows.sinks.base import Sink
from flows.sinks.base import Target

if TYPE_CHECKING:
    from flows.live.runner import Live

#: seconds after which a measurement has failed
PATIENCE = 300.0


class Counter(Sink):
    """A destination that takes every row and keeps none: what is measured ends where rows are ready to be written."""

    name = "counter"
    label = "Counter"

    def __init__(self, total: int) -> None:
        super().__init__({}, Target("counter"))
        self.total = total
        self.rows = 0
        self.ended = 0
        self.full = threading.Event()

    def write(self, schema: Schema, table: pa.Table, *, replace: bool = True) -> Counts:
        self.rows += table.num_rows
        if self.rows >= self.total:
            self.ended = time.monotonic_ns()
            self.full.set()
        return Counts(new=table.num_rows)


def live_series(
    name: str,
    vendor: str,
    options: Mapping[str, Any],
    asset_class: str,
    symbols: Sequence[str],
    kinds: Mapping[str, Mapping[str, Any]],
    schemas: Sequence[str] = ("trades",),
) -> None:
    """Make a source, a live series of the symbols for each schema, and routes to a destination of each kind."""
    from catalog.models import Asset
    from catalog.models import DataSource
    from catalog.models import OutputDestination
    from catalog.models import Route
    from catalog.models import TimeSeries

    source = DataSource.objects.create(name=name, vendor=vendor, env_prefix="BENCH", options=dict(options))
    assets = [Asset.objects.get_or_create(symbol=symbol, asset_class=asset_class)[0] for symbol in symbols]
    destinations = [
        OutputDestination.objects.create(name=f"{name}-{kind}", kind=kind, env_prefix="BENCH", options=dict(chosen))
        for kind, chosen in kinds.items()
    ]
    for schema in schemas:
        series = TimeSeries.objects.create(
            series_id=f"{name}-{schema}", source=source, schema=schema, extractor_type="realtime"
        )
        series.assets.set(assets)
        for destination in destinations:
            Route.objects.create(series=series, destination=destination, home=destination.kind == "database")


def point(name: str, **options: Any) -> None:
    """Change options of a source: its server has another address now."""
    from catalog.models import DataSource

    source = DataSource.objects.get(name=name)
    source.options = {**source.options, **options}
    source.save()


@contextmanager
def running(name: str, sink: Callable[[RouteFacts, Mapping[str, int]], Sink] | None = None) -> Iterator["Live"]:
    """Run a source's live series in a thread until the block ends; `sink` takes the place of every destination.

    Its vendor's history is left alone. What the run ends with is raised.
    """
    from catalog.models import DataSource
    from catalog.models import Run
    from flows.hearing import CatalogLiveLedger
    from flows.live.runner import Live
    from flows.plan import Selection
    from flows.plan import plan
    from flows.setup import database_connections
    from flows.work import Workshop
    from flows.workshops import landing
    from flows.workshops import live_extractor_of
    from flows.workshops import open_sink

    selection = Selection((), (name,), extractor_type="realtime")
    ledger = CatalogLiveLedger(Run.objects.create(kind="realtime", source=DataSource.objects.get(name=name)))
    extractor = live_extractor_of(plan(selection)[0].source)
    workshop = Workshop(None, landing(), ledger, sink or open_sink, live=extractor)
    live = Live(extractor, workshop, ledger, lambda: plan(selection), database_connections)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with database_connections():
                live.run()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=work, name="live run")
    thread.start()
    try:
        yield live
    finally:
        live.stop()
        thread.join(60)
        if errors:
            raise errors[0]
    if thread.is_alive():
        raise AssertionError("the run does not end")


def delivered(live: "Live", destination: str) -> int:
    """Return how many rows are durable at a destination of a run."""
    return sum(lane.lag.rows for (_, name), lane in list(live.lanes.items()) if name == destination)


def wait(condition: Callable[[], object], seconds: float = PATIENCE, every: float = 0.01) -> int:
    """Return by the monotonic clock (ns) when a condition holds; fails where it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not in {seconds:g} s")
        time.sleep(every)
    return time.monotonic_ns()


def secrets(**values: str) -> None:
    """Put the secrets of sources and destinations into the environment, where they are looked for."""
    os.environ |= {f"BENCH_{ending}": value for ending, value in values.items()}
