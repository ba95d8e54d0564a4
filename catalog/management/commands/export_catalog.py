"""`manage.py export_catalog`: the whole catalog as canonical YAML."""

from typing import Any

from catalog.exchange import write_catalog
from catalog.exchange.command import ExportCommand


class Command(ExportCommand):
    help = (
        "Export sources, assets, destinations and series as one YAML file, sorted, as import_catalog reads it: export, "
        "import and export again gives the same bytes. Secrets are not in the catalog, so they are not in the file."
    )

    def text(self, options: dict[str, Any]) -> str:
        return write_catalog()
