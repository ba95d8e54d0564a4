"""A market of coins, in the catalog and on loopback: what happens is streamed at once, and told by REST for ever."""

import threading
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any

from django.db.models import F

from catalog.models import Asset
from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Route
from catalog.models import TimeSeries
from tests.flows.catalogs import destination
from tests.vendors import market
from tests.vendors.binance import BinanceStandIn
from tests.vendors.live.binance import BinanceLiveStandIn


class Coins:
    """Both halves of one vendor; while it is entered, each coin is traded once a second."""

    def __init__(self) -> None:
        self.live = BinanceLiveStandIn()
        self.past = BinanceStandIn()
        self.began = datetime.now(UTC)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._happen, name="market")

    def __enter__(self) -> "Coins":
        self._tick, market.TICK = market.TICK, 1
        self.live.__enter__()
        self.past.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        self.past.__exit__(*error)
        self.live.__exit__(*error)
        market.TICK = self._tick

    def _happen(self) -> None:
        at = self.began
        while not self._ended.wait(0.1):
            now = datetime.now(UTC)
            for symbol in ("BTCUSDT", "ETHUSDT"):
                if rows := self.live.rows("trades", symbol, at, now):
                    self.live.publish("trades", symbol, rows)
            at = now

    def source(self, name: str = "coins", **options: Any) -> DataSource:
        """Make a source that speaks to it."""
        own = {
            "base_url": self.past.url, "stream_url": self.live.url, "first_pause": 0.1, "longest_pause": 0.5,
        }  # fmt: skip
        return DataSource.objects.create(name=name, vendor="binance", options=own | options)

    def series(
        self, source: DataSource, series_id: str, *symbols: str, minutes: float = 10, **fields: Any
    ) -> TimeSeries:
        """Make a realtime series of trades that begins some minutes before the market does."""
        start = (self.began - timedelta(minutes=minutes)).replace(microsecond=0)
        made = TimeSeries.objects.create(
            series_id=series_id, source=source, schema="trades", extractor_type="realtime", start=start, **fields
        )
        for symbol in symbols:
            made.assets.add(Asset.objects.get_or_create(asset_class="crypto", symbol=symbol)[0])
        Route.objects.create(series=made, destination=destination(), home=True)
        return made


def stored(name: str) -> list[dict[str, Any]]:
    """Return the stored trades of an instrument `source:asset_class:symbol`, in the order of their key."""
    from flows.query import read

    columns = ["ts_event", "trade_id", "price", "size", "side"]
    found: list[dict[str, Any]] = read(f"{name}:trades", exact=True).select(columns).to_pylist()
    return found


def happened(symbol: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return what happened in `[start, end]`, in the order of the key."""
    return [
        {
            "ts_event": trade.time, "trade_id": str(trade.id), "price": trade.price, "size": trade.size,
            "side": "A" if trade.buyer_is_maker else "B",
        }
        for trade in market.trades(symbol, start, end + timedelta(microseconds=1))
    ]  # fmt: skip


def filled(made: TimeSeries, symbol: str = "BTCUSDT") -> bool:
    """Say whether what was before a live series began is stored, and something that was heard."""
    assert made.start
    if not Coverage.objects.filter(
        fetch__source=made.source_id, fetch__live=True, instrument__asset__symbol=symbol, start__lt=F("end")
    ).exists():
        return False
    rows = stored(f"{made.source.name}:crypto:{symbol}")
    first = happened(symbol, made.start, made.start + timedelta(seconds=5))
    return bool(rows) and rows[0] == first[0]


def is_whole(made: TimeSeries, until: datetime, symbol: str = "BTCUSDT") -> bool:
    """Say whether everything is stored from a series' start to some time at least."""
    assert made.start
    if not filled(made, symbol):
        return False
    rows = stored(f"{made.source.name}:crypto:{symbol}")
    last = rows[-1]["ts_event"].to_pydatetime() if rows else made.start
    return last >= until and rows == happened(symbol, made.start, last)


def whole(made: TimeSeries, symbol: str = "BTCUSDT") -> int:
    """Assert that everything is stored from a series' start to its last row, once; returns how many rows."""
    assert made.start
    rows = stored(f"{made.source.name}:crypto:{symbol}")
    assert rows
    assert rows == happened(symbol, made.start, rows[-1]["ts_event"].to_pydatetime())
    return len(rows)
