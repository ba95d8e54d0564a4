"""What a live run claims to have heard of Databento's gateway, and what it asks again, in a real catalog and ledger."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import OutputDestination
from catalog.models import Run
from flows.extractors.base import Context
from flows.extractors.databento import DatabentoLive
from flows.hearing import CatalogLiveLedger
from flows.landing import Landing
from flows.live.coverage import instant
from flows.live.runner import Live
from flows.setup import database_connections
from flows.symbols import nanoseconds
from flows.work import Workshop
from tests.flows.live.kit import Stage
from tests.flows.live.kit import eventually
from tests.flows.live.scripted import ScriptedHistory
from tests.vendors.live.databento import DatabentoLiveStandIn

pytestmark = pytest.mark.django_db(transaction=True)

SECOND = 1_000_000_000


@dataclass
class Desk(Stage):
    """A source whose live half speaks with the stand-in, and whose history has nothing."""

    gate: DatabentoLiveStandIn = field(kw_only=True)
    late: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        options = {**self.gate.options(), "first_pause": 0.01, "heartbeat_seconds": 5}
        self.source = DataSource.objects.create(name="feed", vendor="databento", options=options)
        self.store = OutputDestination.objects.create(name="store", kind="database")

    def live(self, run: Run) -> Live:
        source = self.plan()[0].source
        keys = {f"{source.env_prefix}_{ending}": key for ending, key in self.gate.keys.items()}
        extractor = DatabentoLive(source, Context((), keys))
        extractor.transit = self.late
        ledger = CatalogLiveLedger(run)
        past = ScriptedHistory(replace(source, options={}), self.vendor)
        kit = Workshop(past, Landing(self.root), ledger, self.sinks, live=extractor)
        return Live(extractor, kit, ledger, self.plan, database_connections, settings=self.settings)

    def sequences(self) -> list[int]:
        return [row["sequence"] for row in self.rows("trades")]

    def covered(self, first: int, last: int | None = None) -> bool:
        """Whether a time is claimed to be heard, or all from it until another one, in one go."""
        start, end = instant(first), instant(last or first)
        return any(one.start <= start and end < one.end for one in Coverage.objects.all())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with DatabentoLiveStandIn() as gate:
        yield Desk(tmp_path, gate=gate)


def trade(moment: int, sequence: int, **values: Any) -> dict[str, Any]:
    return {"ts_event": moment, "price": Decimal("18.25"), "size": 3, "side": "A", "sequence": sequence, **values}


def first_covered(desk: Desk) -> int:
    """Let a trade happen that is covered; returns when it was captured."""
    desk.gate.wait_subscribed([("trades", "AAPL")])
    time.sleep(1.5)
    now = time.time_ns()
    desk.gate.publish("trades", "AAPL", trade(now, 1, ts_recv=now))

    def is_covered() -> bool:
        desk.gate.heartbeat()
        return desk.covered(now)

    eventually(is_covered)
    return now


def warn(desk: Desk, seconds: float) -> None:
    """Let the gateway say for a while that it is behind."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        desk.gate.slow_consumer()
        time.sleep(0.2)


def test_what_a_gateway_that_is_behind_has_not_sent_is_not_covered(desk: Desk) -> None:
    desk.series("live", "trades", "AAPL")
    with desk.running():
        first_covered(desk)
        with desk.gate.lagging():
            desk.gate.slow_consumer()
            late = time.time_ns()
            desk.gate.publish("trades", "AAPL", trade(late, 2, ts_recv=late))
            # longer than what is late, and than it takes to write down what was heard
            warn(desk, 4.5)
            assert not desk.covered(late)
        desk.gate.rst()
        # asked again, and sent
        eventually(lambda: desk.sequences() == [1, 2])


def test_a_gateway_that_has_caught_up_has_left_no_hole(desk: Desk) -> None:
    desk.series("live", "trades", "AAPL")
    with desk.running():
        first = first_covered(desk)
        desk.gate.slow_consumer()
        old = time.time_ns() - 30 * SECOND
        desk.gate.publish("trades", "AAPL", trade(old, 2, ts_recv=old))
        warn(desk, 2.5)
        late = time.time_ns()
        desk.gate.publish("trades", "AAPL", trade(late, 3, ts_recv=late))
        time.sleep(1.1)
        desk.gate.heartbeat()
        eventually(lambda: desk.covered(first, late))
        assert desk.gate.connections == 1


def test_what_happened_before_coverage_ended_and_was_captured_after_it_is_stored(desk: Desk) -> None:
    desk.series("live", "trades", "AAPL")
    with desk.running():
        first_covered(desk)
        with desk.gate.away():
            desk.gate.rst()
            eventually(lambda: Fetch.objects.filter(complete=True, live=True).exists())
            end = max(nanoseconds(one.end) for one in Coverage.objects.all())
            # a trade that no replay from the end on brings, and that is of the first fetch by no window of history
            desk.gate.publish("trades", "AAPL", trade(end - SECOND // 1000, 2, ts_recv=end + SECOND // 1000))
        eventually(lambda: desk.sequences() == [1, 2])
