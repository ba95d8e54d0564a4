"""Runs the scripted vendor's live series against a real catalog, ledger, landing and store."""

import threading
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from time import monotonic
from time import sleep
from typing import Any

from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Delivery
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import Run
from catalog.models import TimeSeries
from catalog.schemas import schema as schema_called
from flows.hearing import CatalogLiveLedger
from flows.job import Job
from flows.job import SourceFacts
from flows.landing import Landing
from flows.live.runner import Live
from flows.live.runner import Settings
from flows.plan import Selection
from flows.plan import plan
from flows.setup import database_connections
from flows.sinks.base import Sink
from flows.work import Workshop
from flows.workshops import open_sink
from tests.flows.live.scripted import ScriptedHistory
from tests.flows.live.scripted import ScriptedLive
from tests.flows.live.scripted import Vendor


@dataclass
class Stage:
    """A source with live series, routed to the store; `run` runs it in a thread."""

    root: Path
    vendor: Vendor = field(default_factory=Vendor)
    history: bool = True
    settings: Settings = field(default_factory=lambda: Settings(refresh=0.2))
    adjust: Callable[[ScriptedLive], None] = lambda extractor: None
    sinks: Callable[..., Sink] = open_sink

    def __post_init__(self) -> None:
        # the registry knows no scripted vendor: the catalog's row is that of one it knows
        self.source = DataSource.objects.create(name="feed", vendor="binance")
        self.store = OutputDestination.objects.create(name="store", kind="database")

    def series(self, name: str, schema: str, *symbols: str, **fields: Any) -> TimeSeries:
        made = TimeSeries.objects.create(
            series_id=name, source=self.source, schema=schema, extractor_type="realtime", **fields
        )
        for symbol in symbols:
            made.assets.add(Asset.objects.get_or_create(asset_class="crypto", symbol=symbol)[0])
        Route.objects.create(series=made, destination=self.store, home=True)
        return made

    def plan(self) -> list[Job]:
        return plan(Selection((), ("feed",), extractor_type="realtime"))

    def live(self, run: Run) -> Live:
        source: SourceFacts = self.plan()[0].source
        extractor = ScriptedLive(replace(source, options={}), self.vendor)
        self.adjust(extractor)
        ledger = CatalogLiveLedger(run)
        past = ScriptedHistory(replace(source, options={}), self.vendor) if self.history else None
        kit = Workshop(past, Landing(self.root), ledger, self.sinks, live=extractor)
        return Live(extractor, kit, ledger, self.plan, database_connections, settings=self.settings)

    @contextmanager
    def running(self) -> Iterator[Live]:
        live = self.live(Run.objects.create(kind="realtime", source=self.source))
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
            thread.join(30)
            assert not thread.is_alive()
        if errors:
            raise errors[0]

    def rows(self, schema: str) -> list[dict[str, Any]]:
        """Return what is stored, in the order of the key."""
        from catalog.marketdata.store import Store
        from catalog.models import Instrument
        from flows.job import EARLIEST
        from flows.job import LATEST

        names = {one.pk: f"feed:{one.asset.asset_class}:{one.asset.symbol}" for one in Instrument.objects.all()}
        found: list[dict[str, Any]] = Store().read(
            schema_called(schema), names, EARLIEST, LATEST, exact=True
        ).to_pylist()  # fmt: skip
        return found


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return the first true answer; fails when there is none in time."""
    until = monotonic() + seconds
    while not (answer := condition()):
        assert monotonic() < until, f"not in time: {condition}"
        sleep(0.02)
    return answer


def accounted() -> None:
    """Assert that every delivery's account adds up."""
    for one in Delivery.objects.all():
        settled = (
            one.new + one.updated + one.unchanged + one.duplicate + one.superseded + one.filtered + one.quarantined
        )
        assert one.parsed == settled + one.pending, one
