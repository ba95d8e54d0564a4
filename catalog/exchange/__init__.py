"""Import and export of the catalog: series as CSV, everything as YAML. Commands and admin share it.

    document = read_series_csv(content)      # or read_catalog: bytes or text, no database
    changes = compare(document)              # faults, or rows added and changed; nothing is written
    changes = apply(document, user=user)     # all or nothing; ConfigError carries every fault

What is exported, imported and exported again is the same byte for byte.
"""

from catalog.exchange.catalog_reading import read_catalog
from catalog.exchange.catalog_writing import write_catalog
from catalog.exchange.changes import Change
from catalog.exchange.changes import Changes
from catalog.exchange.changes import FieldChange
from catalog.exchange.differences import compare
from catalog.exchange.entries import Document
from catalog.exchange.entries import Fault
from catalog.exchange.series_csv import read_series_csv
from catalog.exchange.series_csv import write_series_csv
from catalog.exchange.writing import apply

__all__ = [
    "Change",
    "Changes",
    "Document",
    "Fault",
    "FieldChange",
    "apply",
    "compare",
    "read_catalog",
    "read_series_csv",
    "write_catalog",
    "write_series_csv",
]
