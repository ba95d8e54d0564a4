"""The catalog's rows. Names of vendors, kinds and schemas are text checked against the registry."""

from catalog.models.assets import Asset
from catalog.models.assets import Instrument
from catalog.models.assets import InstrumentSymbol
from catalog.models.destinations import OutputDestination
from catalog.models.destinations import Route
from catalog.models.ledger import Coverage
from catalog.models.ledger import Delivery
from catalog.models.ledger import Fetch
from catalog.models.ledger import Gap
from catalog.models.ledger import Quarantined
from catalog.models.ledger import Run
from catalog.models.series import Indicator
from catalog.models.series import IndicatorCursor
from catalog.models.series import TimeSeries
from catalog.models.sources import DataSource

__all__ = [
    "Asset",
    "Coverage",
    "DataSource",
    "Delivery",
    "Fetch",
    "Gap",
    "Indicator",
    "IndicatorCursor",
    "Instrument",
    "InstrumentSymbol",
    "OutputDestination",
    "Quarantined",
    "Route",
    "Run",
    "TimeSeries",
]
