"""A vendor's own instruments into the catalog: listed, looked at, added together."""

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from django.core.exceptions import ValidationError
from django.db import transaction

from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import ConfigError
from catalog.errors import SchemaMismatch
from catalog.errors import unknown
from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import Instrument
from catalog.models import InstrumentSymbol
from catalog.models import TimeSeries
from flows.extractors.base import BaseExtractor
from flows.extractors.base import Listing

#: listings looked at in one go; a vendor with more is asked for a narrower text
MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class Added:
    """What adding listings changed."""

    assets: int = 0
    instruments: int = 0
    in_series: int = 0


def listings(extractor: BaseExtractor, text: str = "", asset_class: str = "", most: int = MOST) -> list[Listing]:
    """Return what the vendor lists: those whose symbol or name holds the text, of one asset class or any.

    Raises what the vendor's border raises, ConfigError for an unknown asset class, SchemaMismatch for an answer that is
    not as documented.
    """
    if asset_class and asset_class not in ASSET_CLASSES:
        raise ConfigError(unknown("asset class", asset_class, ASSET_CLASSES))
    wanted = text.casefold()
    try:
        found = (
            listing
            for listing in extractor.discover(text)
            if (wanted in listing.symbol.casefold() or wanted in listing.name.casefold())
            and asset_class in ("", listing.asset_class)
        )
        return list(islice(found, most))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SchemaMismatch(
            f"source {extractor.source.name!r}: the list of instruments is not as documented: {error!r}"
        ) from error


@transaction.atomic
def add(source: DataSource, found: Iterable[Listing], series: TimeSeries | None = None) -> Added:
    """Make the assets and instruments that lack, and add them to a series; what exists stays as it is.

    Raises ConfigError with every listing that cannot be an asset; then nothing was added.
    """
    chosen = list(found)
    faults = list(_faults(chosen))
    if series is not None and series.source_id != source.pk:
        faults.append(f"series {series.series_id!r} is of source {series.source.name!r}, not {source.name!r}")
    if faults:
        raise ConfigError(*faults)
    assets, made = _assets(chosen)
    known = set(Instrument.objects.filter(source=source, asset__in=assets.values()).values_list("asset_id", flat=True))
    lacking = [asset for asset in assets.values() if asset.pk not in known]
    Instrument.objects.bulk_create((Instrument(source=source, asset=asset) for asset in lacking), batch_size=500)
    instruments = {
        asset: pk
        for pk, asset in Instrument.objects.filter(source=source, asset__in=lacking).values_list("pk", "asset_id")
    }
    # a symbol that ends or begins some day is an interval; one that is the asset's own for ever needs no row
    InstrumentSymbol.objects.bulk_create(
        (
            InstrumentSymbol(
                instrument_id=instruments[assets[_key(listing)].pk],
                symbol=listing.symbol,
                start=listing.start,
                end=listing.end,
            )
            for listing in chosen
            if assets[_key(listing)].pk in instruments and (listing.start or listing.end)
        ),
        batch_size=500,
    )
    if series is None:
        return Added(made, len(lacking))
    before = series.assets.count()
    series.assets.add(*assets.values())
    return Added(made, len(lacking), series.assets.count() - before)


def _assets(chosen: Sequence[Listing]) -> tuple[dict[tuple[str, str], Asset], int]:
    symbols = [listing.symbol for listing in chosen]

    def load() -> dict[tuple[str, str], Asset]:
        wanted = {_key(listing) for listing in chosen}
        rows = (
            asset
            for first in range(0, len(symbols), 500)
            for asset in Asset.objects.filter(symbol__in=symbols[first : first + 500])
        )
        return {
            (asset.asset_class, asset.symbol): asset for asset in rows if (asset.asset_class, asset.symbol) in wanted
        }

    have = load()
    lacking = {_key(listing): listing for listing in chosen if _key(listing) not in have}
    Asset.objects.bulk_create(
        (
            Asset(
                symbol=listing.symbol,
                asset_class=listing.asset_class,
                name=listing.name[:200],
                mic=listing.mic[:4],
                currency=listing.currency[:10],
                figi=listing.figi[:12],
                isin=listing.isin[:12],
            )
            for listing in lacking.values()
        ),
        batch_size=500,
    )
    return load(), len(lacking)


def _faults(chosen: Sequence[Listing]) -> Iterable[str]:
    for listing in chosen:
        asset = Asset(symbol=listing.symbol, asset_class=listing.asset_class)
        try:
            asset.clean_fields(exclude=["name", "mic", "currency", "calendar", "figi", "isin"])
            asset.clean()
        except ValidationError as error:
            yield f"{listing.asset_class}:{listing.symbol}: {'; '.join(error.messages)}"


def _key(listing: Listing) -> tuple[str, str]:
    return listing.asset_class, listing.symbol
