"""The rows of a vendor's past and present side by side: for the same records they must be the same."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flows.frames import Channel
from tests.vendors.harness import Bench
from tests.vendors.live.listener import Listener
from tests.vendors.live.listener import live_half
from tests.vendors.live.server import LiveStandIn
from tests.vendors.server import Row
from tests.vendors.server import StandIn

Window = tuple[datetime, datetime]
#: which fetch brought a row, and when this machine received it, are not the vendor's words
OURS = ("instrument", "fetch_id", "ts_recv")


def plain(rows: Sequence[Row], without: Sequence[str] = OURS) -> list[Row]:
    """Return rows with what the vendor says of them."""
    return [{name: value for name, value in row.items() if name not in without} for row in rows]


def past(stand_in: StandIn, folder: Path, options: Row, schema: str, symbol: str, window: Window) -> list[Row]:
    """Return the rows that the vendor's history has, through the pipeline."""
    bench = Bench(stand_in, folder, options)
    assert bench.run(bench.job(schema, [symbol], *window)).errors == []
    return bench.stored(schema, symbol)


def present(
    live: LiveStandIn,
    options: Row,
    schema: str,
    symbol: str,
    records: Sequence[Row],
    *,
    vendor: str = "",
    published_as: str = "",
) -> list[Row]:
    """Return the rows of records as the stand-in streams them, read by its vendor's class or another's."""
    channel = Channel(schema, symbol)
    with Listener(live_half(vendor or live.vendor, options, live.keys), [channel]) as listener:
        listener.wait_acknowledged([channel])
        assert live.publish(published_as or schema, symbol, records) == 1
        live.fin()
        listener.wait_ended()
    return listener.rows(schema, symbol)
