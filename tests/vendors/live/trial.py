"""Live stand-ins to be tried by hand: sources and series that hear them, and a market that goes on while they run."""

import threading
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any
from typing import Self

import yaml

from tests.vendors import market
from tests.vendors.live.alpaca import AlpacaLiveStandIn
from tests.vendors.live.binance import BinanceLiveStandIn
from tests.vendors.live.databento import DatabentoLiveStandIn
from tests.vendors.live.massive import MassiveLiveStandIn
from tests.vendors.live.server import LiveStandIn
from tests.vendors.live.twelvedata import TwelveDataLiveStandIn
from tests.vendors.server import Row

EXAMPLE = Path(__file__).parents[3] / "examples/flux.yaml"
#: seconds between two looks at what has happened
_PACE = 0.25


@dataclass(frozen=True)
class Trial:
    """How a vendor's live half is tried: its stand-in, options by the stand-in's, and schemas with their symbols."""

    stand_in: Callable[[], Any]
    options: Callable[[Any], Row]
    schemas: Mapping[str, Sequence[str]]
    asset_class: str = "equity"
    #: our schema → what the stand-in calls it
    words: Mapping[str, str] = field(default_factory=dict)
    #: what has happened is sent so much later
    late: timedelta = timedelta(0)


def _flux(stand_in: Any) -> Row:
    """Return the options of the first example of docs/flux.md, for the stand-in."""
    options: Row = yaml.safe_load(EXAMPLE.read_text())["sources"][0]["options"]
    return {**options, "url": f"{stand_in.url}/stream"}


_STOCKS = ("AAPL", "MSFT")
_COINS = ("BTCUSDT", "ETHUSDT")
#: by vendor
TRIALS: Mapping[str, Trial] = {
    "alpaca": Trial(
        AlpacaLiveStandIn,
        lambda one: {"stream_url": one.url},
        dict.fromkeys(("trades", "quotes", "ohlcv-1m"), _STOCKS),
        # its times have a fraction that the market's have not
        late=timedelta(seconds=1),
    ),
    "binance": Trial(
        BinanceLiveStandIn,
        lambda one: {"stream_url": one.url},
        dict.fromkeys(("trades", "ohlcv-1m"), _COINS),
        "crypto",
    ),
    "databento": Trial(
        DatabentoLiveStandIn,
        lambda one: one.options(),
        dict.fromkeys(("trades", "ohlcv-1m"), _STOCKS),
        # its trades are received five seconds after they happen
        late=timedelta(seconds=5),
    ),
    "flux": Trial(BinanceLiveStandIn, _flux, dict.fromkeys(("trades", "ohlcv-1m"), _COINS), "crypto"),
    "massive": Trial(
        MassiveLiveStandIn,
        lambda one: {"stream_url": one.url, "tick_times": "stream"},
        dict.fromkeys(("trades", "ohlcv-1s", "ohlcv-1m"), _STOCKS),
        late=timedelta(seconds=1),
    ),
    "twelvedata": Trial(
        TwelveDataLiveStandIn,
        lambda one: {"stream_url": f"{one.url}/v1/quotes/price"},
        {"statistics": _STOCKS},
        words={"statistics": "trades"},
    ),
}


@dataclass(frozen=True, slots=True)
class Heard:
    """A live stand-in that runs."""

    vendor: str
    trial: Trial
    stand_in: Any

    @property
    def options(self) -> Row:
        """Options of a source that hears it."""
        return self.trial.options(self.stand_in)

    @property
    def keys(self) -> Mapping[str, str]:
        """Secrets that it accepts, by ending of the variable."""
        keys: Mapping[str, str] = self.stand_in.keys
        return keys


class Market:
    """While it is entered, some stand-ins run and everything that they list is traded: once a second, by the clock."""

    def __init__(self, vendors: Sequence[str]) -> None:
        self.running = [Heard(name, TRIALS[name], TRIALS[name].stand_in()) for name in vendors]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._happen, name="market", daemon=True)

    def __enter__(self) -> Self:
        # the historical stand-ins tell of the same trades
        self._tick, market.TICK = market.TICK, 1
        for one in self.running:
            one.stand_in.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        market.TICK = self._tick
        for one in self.running:
            one.stand_in.__exit__(*error)

    def _happen(self) -> None:
        # everything before is history
        told = dict.fromkeys(range(len(self.running)), datetime.now(UTC))
        while not self._ended.wait(_PACE):
            for number, one in enumerate(self.running):
                now = datetime.now(UTC) - one.trial.late
                if now > told[number]:
                    self._tell(one, told[number], now)
                    told[number] = now

    def _tell(self, one: Heard, start: datetime, end: datetime) -> None:
        live: LiveStandIn = one.stand_in
        for schema, symbols in one.trial.schemas.items():
            said = one.trial.words.get(schema, schema)
            # a bar is told when it is over
            length = {"ohlcv-1s": timedelta(seconds=1), "ohlcv-1m": timedelta(minutes=1)}.get(said, timedelta(0))
            for symbol in symbols:
                if rows := one.stand_in.rows(said, symbol, start - length, end - length):
                    live.publish(said, symbol, rows)
