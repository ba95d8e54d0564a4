"""What may be chosen, read from the registry when a form is made: a new vendor, kind or schema is there at once."""

import zoneinfo
from functools import cache
from importlib.util import find_spec
from typing import Any

from catalog.asset_classes import ASSET_CLASSES
from catalog.models.series import EXTRACTOR_TYPES
from catalog.schemas import SCHEMAS
from flows import registry

Choices = list[tuple[str, str]]


def vendors() -> Choices:
    """Return every vendor; one whose SDK is missing says which extra installs it."""
    return [(name, _label(vendor)) for name, vendor in sorted(registry.extractors().items())]


def kinds() -> Choices:
    """Return every destination kind; one whose library is missing says which extra installs it."""
    return [(name, _label(kind)) for name, kind in sorted(registry.sinks().items())]


def schemas() -> Choices:
    """Return every schema with what its records are."""
    return [(name, name) for name in SCHEMAS]


def extractor_types() -> Choices:
    """Return historical and realtime."""
    return [(name, name) for name in EXTRACTOR_TYPES]


def asset_classes() -> Choices:
    """Return every asset class."""
    return [(name, name) for name in ASSET_CLASSES]


@cache
def timezones() -> Choices:
    """Return every IANA time zone, UTC first."""
    names = zoneinfo.available_timezones()
    return [(name, name) for name in ["UTC", *sorted(names - {"UTC"})]]


def installed(plug_in: Any) -> bool:
    """Say whether the library that a vendor or kind needs is there."""
    if not plug_in.requires:
        return True
    try:
        return find_spec(plug_in.requires) is not None
    except ModuleNotFoundError:
        # the parent of a dotted name is missing
        return False


def install_advice(plug_in: Any) -> str:
    """Return how to install what a vendor or kind needs; empty where it is there."""
    if installed(plug_in):
        return ""
    if plug_in.extra:
        return f"needs {plug_in.requires}: pip install 'dataflow[{plug_in.extra}]'"
    return f"needs {plug_in.requires}, which is not installed"


def _label(plug_in: Any) -> str:
    advice = install_advice(plug_in)
    return f"{plug_in.label} ({advice})" if advice else str(plug_in.label)
