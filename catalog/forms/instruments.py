"""The symbol intervals of an instrument, judged together: moving a boundary changes two of them at once."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q
from unfold.forms import PaginationInlineFormSet

from catalog.forms.base import CatalogForm
from catalog.models import Instrument
from catalog.models import InstrumentSymbol

if TYPE_CHECKING:
    from django.forms.models import BaseInlineFormSet

    class FormSet(BaseInlineFormSet[InstrumentSymbol, Instrument, Any]):
        """What unfold's untyped class is."""

        def _should_delete_form(self, form: Any) -> bool: ...
else:
    FormSet = PaginationInlineFormSet


class SymbolForm(CatalogForm):
    """One interval; its overlaps are found by the set of forms."""

    instance: InstrumentSymbol

    def _post_clean(self) -> None:
        # the model compares with what is stored, of which other forms of this page may change a part
        self.instance.clean = lambda: None  # type: ignore[method-assign]
        super()._post_clean()  # type: ignore[misc]  # Django's, and not in its stubs


class SymbolFormSet(FormSet):
    """All intervals of an instrument."""

    def clean(self) -> None:
        super().clean()
        kept = [
            form.instance
            for form in self.forms
            if form.has_changed() | bool(form.instance.pk) and not form.errors and not self._should_delete_form(form)
        ]
        faults = interval_faults(kept, self.instance.source_id, self.instance.pk)
        if faults:
            raise ValidationError(faults)


def interval_faults(symbols: Sequence[InstrumentSymbol], source_id: int | None, instrument_id: int | None) -> list[str]:
    """Return every overlap: of the intervals of one instrument, and with the same symbol elsewhere in its source."""
    faults = []
    for symbol in symbols:
        if symbol.start and symbol.end and symbol.start >= symbol.end:
            faults.append(f"{symbol}: end is not after start")
    ordered = sorted(symbols, key=lambda symbol: (symbol.start is not None, symbol.start or 0))
    for before, after in pairwise(ordered):
        if _overlap((before.start, before.end), (after.start, after.end)):
            faults.append(f"{before} overlaps {after}")
    if source_id is None:
        return faults
    elsewhere: dict[str, list[InstrumentSymbol]] = {}
    rivals = InstrumentSymbol.objects.filter(
        ~Q(instrument=instrument_id), instrument__source=source_id, symbol__in={symbol.symbol for symbol in symbols}
    )
    for rival in rivals.select_related("instrument__source", "instrument__asset"):
        elsewhere.setdefault(rival.symbol, []).append(rival)
    for symbol in symbols:
        for rival in elsewhere.get(symbol.symbol, ()):
            if _overlap((symbol.start, symbol.end), (rival.start, rival.end)):
                faults.append(f"{symbol} overlaps {rival} of {rival.instrument}")
    return faults


_Range = tuple[datetime | None, datetime | None]


def _overlap(one: _Range, other: _Range) -> bool:
    return _before(one[0], other[1]) and _before(other[0], one[1])


def _before(start: Any, end: Any) -> bool:
    return start is None or end is None or start < end
