"""Import and export in the admin, for every model of the catalog, by names and never by ids."""

from catalog.resources.tables import AssetResource
from catalog.resources.tables import DataSourceResource
from catalog.resources.tables import InstrumentResource
from catalog.resources.tables import OutputDestinationResource
from catalog.resources.tables import RouteResource
from catalog.resources.tables import TimeSeriesResource

__all__ = [
    "AssetResource",
    "DataSourceResource",
    "InstrumentResource",
    "OutputDestinationResource",
    "RouteResource",
    "TimeSeriesResource",
]
