"""Records of a vendor's JSON as raw rows: which field is which column, and how times are written.

Values stay as they were sent (numbers as their text); what they must become is said by the schema, and done by refine.
"""

import json
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from operator import itemgetter
from typing import Any
from typing import Final

import numpy as np
import pyarrow as pa

from catalog.schemas import ROW
from catalog.schemas import Schema
from flows.extractors.base import SYMBOL
from flows.extractors.base import Batch
from flows.formats.blocks import Rejects
from flows.formats.times import Clock
from flows.formats.times import read_times

#: where a value is: a field's name, a position, or several steps down
Place = str | int | tuple[str | int, ...]
_SHAPE: Final = "record has the documented shape"


@dataclass(frozen=True, slots=True)
class Shape:
    """How records become rows: our column → where its value is, how times are written, what is the same in all."""

    columns: Mapping[str, Place]
    clock: Clock
    constants: Mapping[str, str] = field(default_factory=dict)


def batch(
    schema: Schema, records: Sequence[Any], shape: Shape, symbols: str | Sequence[str | None], first: int = 0
) -> Batch:
    """Return records as raw rows of a schema, numbered from `first`.

    `symbols` is that of all records or that of each. A record that is no JSON object (or array, where places are
    positions) becomes a rejected row, and so does one whose time cannot be read.
    """
    rejects = Rejects()
    kinds = {list if isinstance(_steps(place)[0], int) else dict for place in shape.columns.values()}
    wanted: tuple[type, ...] = tuple(kinds)
    rows = np.arange(first, first + len(records))
    if not set(map(type, records)) <= kinds:
        fits = np.array([isinstance(record, wanted) for record in records], bool)
        for position in np.flatnonzero(~fits).tolist():
            rejects.add(first + position, _SHAPE, _shown(records[position]), _shown(records[position]))
        symbols = symbols if isinstance(symbols, str) else [symbols[at] for at in np.flatnonzero(fits).tolist()]
        records = [record for record in records if isinstance(record, wanted)]
        rows = rows[fits]
    columns: dict[str, pa.Array] = {}
    faults: dict[str, np.ndarray] = {}
    plain = replace(shape.clock, timeframe="", label="open")
    for name, place in shape.columns.items():
        array = column(values(records, place))
        if pa.types.is_timestamp(schema.column(name).type):
            times = read_times(array, shape.clock if name == schema.time else plain)
            array = times.values
            for rule, mask in times.faults.items():
                faults[rule] = faults[rule] | mask if rule in faults else mask
        columns[name] = array
    for name, value in shape.constants.items():
        columns[name] = pa.repeat(value, len(records))
    columns[SYMBOL] = (
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(records), np.int32)), pa.array([symbols]))
        if isinstance(symbols, str)
        else pa.array(symbols, pa.string()).dictionary_encode()
    )
    columns[ROW] = pa.array(rows, pa.int64())
    table = pa.table(columns)
    if faults:
        bad = np.logical_or.reduce(list(faults.values()))
        for position in np.flatnonzero(bad).tolist():
            broken = "; ".join(rule for rule, mask in faults.items() if mask[position])
            rejects.add(int(rows[position]), broken, _shown(records[position]), _shown(records[position]))
        table = table.filter(pa.array(~bad))
    return Batch(schema.name, table, rejects.table())


def values(records: Sequence[Any], place: Place) -> list[Any]:
    """Return the value at a place of each record; None where it is not there."""
    steps = _steps(place)
    if len(steps) == 1:
        (step,) = steps
        try:
            # nearly always every record has it; this way costs a third
            return list(map(itemgetter(step), records))
        except (KeyError, IndexError):
            pass
        if isinstance(step, str):
            return [record.get(step) for record in records]
        return [record[step] if -len(record) <= step < len(record) else None for record in records]
    return [dig(record, steps) for record in records]


def dig(value: Any, steps: Sequence[str | int]) -> Any:
    """Follow field names and positions down; None where there is no further way."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step if isinstance(step, str) else str(step))
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step] if -len(value) <= step < len(value) else None
        else:
            return None
    return value


def column(found: Sequence[Any]) -> pa.Array:
    """Return JSON values as one array: whole numbers, or text; a list is its elements joined by commas."""
    try:
        array = pa.array(found)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        array = None
    if array is not None and (
        pa.types.is_int64(array.type)
        or pa.types.is_string(array.type)
        or pa.types.is_null(array.type)
        or pa.types.is_timestamp(array.type)
    ):
        return array
    return pa.array([_text(value) for value in found], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(_text(item) or "" for item in value)
    return json.dumps(value, ensure_ascii=False)


def _shown(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)[:2000]


def _steps(place: Place) -> tuple[str | int, ...]:
    return place if isinstance(place, tuple) else (place,)
