"""What the catalog holds of the rows a file names, read with a handful of queries however many they are."""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Final
from typing import TypeVar

from django.db.models import Model
from django.db.models import QuerySet

from catalog.exchange.entries import AssetName
from catalog.exchange.entries import Document
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import OutputDestination
from catalog.models import Route
from catalog.models import TimeSeries

_Row = TypeVar("_Row", bound=Model)

# names in one query; SQLite takes 999 parameters from Django
_CHUNK: Final = 900
# from here on reading the whole table once is faster
_MANY: Final = 9000


class Stored:
    """The rows that a document's entries name, by name. With `lock` nobody else can change them meanwhile."""

    def __init__(self, document: Document, *, lock: bool = False) -> None:
        self.lock = lock
        self.sources = {row.name: row for row in self._locked(DataSource.objects.order_by())}
        self.destinations = {row.name: row for row in self._locked(OutputDestination.objects.order_by())}
        self.assets = self._entry_assets(document)
        self.asset_ids = {name: row.pk for name, row in self.assets.items()}
        self._add_references(document)
        self.series = {row.series_id: row for row in self._named(TimeSeries, "series_id", document)}
        self.links = self._links()
        self.routes = self._routes()
        self._read_instruments(document)

    def _locked(self, rows: QuerySet[_Row]) -> QuerySet[_Row]:
        return rows.select_for_update() if self.lock else rows
