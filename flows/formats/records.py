"""Records of a vendor's JSON as raw rows: which field is which column, and how times are written.

Values stay as they were sent (numbers as their text); what they must become is said by the schema, and done by refine.
"""

import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from operator import attrgetter
from operator import itemgetter
from typing import Any
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
_CONTAINERS: Final = {dict, list}


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
    if not set(map(type, records)) <= kinds and not isinstance(records[0], msgspec.Struct):
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


class Records(list[Any]):
    """Records of which many values are asked: the way to an object that holds several is gone once."""

    __slots__ = ("above",)

    def __init__(self, records: Iterable[Any]) -> None:
        super().__init__(records)
        self.above: dict[tuple[str | int, ...], list[Any]] = {}


def values(records: Sequence[Any], place: Place) -> list[Any]:
    """Return the value at a place of each record; None where it is not there."""
    *way, last = _steps(place)
    found: Sequence[Any] = records
    for number, step in enumerate(way, 1):
        gone = tuple(way[:number])
        if isinstance(records, Records):
            if gone not in records.above:
                records.above[gone] = _one_step(found, step)
            found = records.above[gone]
        else:
            found = _one_step(found, step)
    return _one_step(found, last)


def _one_step(found: Sequence[Any], step: str | int) -> list[Any]:
    if found and isinstance(found[0], msgspec.Struct):
        try:
            return list(map(attrgetter(str(step)), found))
        except AttributeError:
            return [getattr(value, str(step), None) for value in found]
    # a text would give a position's character
    if isinstance(step, str) or set(map(type, found)) <= _CONTAINERS:
        try:
            # nearly always every record has it; this way costs a third
            return list(map(itemgetter(step), found))
        except (KeyError, IndexError, TypeError):
            pass
    return [_at(value, step) for value in found]


def dig(value: Any, steps: Sequence[str | int]) -> Any:
    """Follow field names and positions down; None where there is no further way."""
    for step in steps:
        value = _at(value, step)
    return value


def _at(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step if isinstance(step, str) else str(step))
    if isinstance(value, list) and isinstance(step, int):
        return value[step] if -len(value) <= step < len(value) else None
    return None


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
    if array is not None and pa.types.is_list(array.type) and not array.flatten().null_count:
        items = array.type.value_type
        if pa.types.is_string(items) or pa.types.is_int64(items):
            return pc.binary_join(array.cast(pa.list_(pa.string())), ",")
    return pa.array([_text(value) for value in found], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(_text(item) or "" for item in value)
    return json.dumps(value, ensure_ascii=False)


def _shown(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, default=msgspec.to_builtins)[:2000]


def _steps(place: Place) -> tuple[str | int, ...]:
    return place if isinstance(place, tuple) else (place,)
