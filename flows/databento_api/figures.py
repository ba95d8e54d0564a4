"""What a call will bring and cost, said by the vendor before it is bought. Free to ask."""

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from typing import Final

import pyarrow as pa

from catalog.errors import PermanentError
from catalog.schemas import schema as schema_called
from flows.databento_api.symbols import Dataset
from flows.databento_api.symbols import whole_days
from flows.formats.blocks import Rejects
from flows.quotes import Quote
from flows.web import Call

_ASKED: Final = ("dataset", "symbols", "schema", "start", "end", "stype_in")


class TooEarlyError(PermanentError):
    """The window begins before the dataset does."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call will bring: the call as it is sent, its records, its cost, the symbols that do not exist."""

    call: Call
    records: int
    cost: Decimal
    unknown: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """As it goes into a manifest."""
        return {"records": self.records, "cost": str(self.cost), "unknown": list(self.unknown)}


def terms(dataset: Dataset, call: Call) -> Terms | None:
    """Return what a call will bring, sent without what precedes the dataset; None where that is nothing.

    Raises UnknownSymbol where the dataset never had any of the symbols.
    """
    form = dict(call.form or {})
    try:
        return _terms(dataset, call, form)
    except TooEarlyError:
        low, _ = dataset.available(schema_called(form["schema"]))
        if low >= datetime.fromisoformat(form["end"]):
            return None
        form["start"] = low.isoformat()
        return _terms(dataset, replace(call, form=form), form)


def quote(dataset: Dataset, calls: Iterable[Call], price: Decimal) -> Quote:
    """Return billable bytes and US dollars of calls; `price` is what each costs besides."""
    total = Quote(bytes=0)
    for call in calls:
        if found := terms(dataset, call):
            size = int(_figure(dataset, "get_billable_size", found.call.form or {}))
            total += Quote(1, size, found.cost + price)
    return total


def unknown_rows(facts: Mapping[str, Any]) -> pa.Table | None:
    """Return the symbols of a page's terms that do not exist as rejected rows, behind the rows there are."""
    symbols = facts.get("unknown") or []
    rejects = Rejects()
    for number, symbol in enumerate(symbols, start=int(facts.get("records", 0))):
        rejects.add(number, "symbol is known", f"the dataset has no {symbol!r}", symbol)
    return rejects.table() if symbols else None


def _terms(dataset: Dataset, call: Call, form: Mapping[str, str]) -> Terms | None:
    symbols = form["symbols"].split(",")
    start, end = (datetime.fromisoformat(form[name]) for name in ("start", "end"))
    found, missing = dataset.days(symbols, *whole_days(start, end))
    never = dataset.never(missing)
    if not found:
        if len(never) == len(symbols):
            raise dataset.unknown(never)
        return None
    records = int(_figure(dataset, "get_record_count", form))
    if not records and not never:
        return None
    return Terms(call, records, _figure(dataset, "get_cost", form), tuple(never))


def _figure(dataset: Dataset, method: str, form: Mapping[str, str]) -> Decimal:
    call = Call(f"v0/metadata.{method}", form={name: form[name] for name in _ASKED})
    return dataset.client.said(call, lambda said: Decimal(str(said)))
