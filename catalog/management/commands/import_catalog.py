"""`manage.py import_catalog`: sources, assets, destinations and series from one YAML file, all or nothing."""

from catalog.exchange import Document
from catalog.exchange import read_catalog
from catalog.exchange.command import ImportCommand


class Command(ImportCommand):
    help = (
        "Import sources, assets with their symbols, destinations and series with their routes from one YAML file: all "
        "of it, or nothing and a report of every fault with its line. A row that the file does not name is kept; a row "
        "that it names becomes what it says, with defaults for what it leaves out."
    )

    def read(self, content: bytes) -> Document:
        return read_catalog(content)
