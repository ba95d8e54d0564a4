"""JSON lines: one object a line; numbers keep their decimal text."""

import json
from collections.abc import Iterator
from typing import IO
from typing import Any
from typing import Final

import pyarrow as pa

from flows.formats.blocks import RawBlock
from flows.formats.blocks import Rejects

_BLOCK_ROWS: Final = 50_000
_MAX_LINE: Final = 1 << 20


def read(stream: IO[bytes], first_row: int = 0) -> Iterator[RawBlock]:
    """Yield the objects of a stream; a line that is none is rejected with its reason."""
    # numbers as text: a double would lose digits, and refine reads text exactly
    decode = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str).decode
    objects: list[dict[str, Any]] = []
    rows: list[int] = []
    rejects = Rejects()
    row = first_row
    for line in _lines(stream):
        if not line.strip():
            continue
        try:
            value = decode(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            rejects.add(row, "line is JSON", str(error), line.decode("utf-8", "backslashreplace"))
        else:
            if isinstance(value, dict):
                objects.append(value)
                rows.append(row)
            else:
                rejects.add(row, "line is a JSON object", type(value).__name__, line.decode("utf-8"))
        row += 1
        if len(objects) + len(rejects.rows) >= _BLOCK_ROWS:
            yield _block(objects, rows, rejects)
            objects, rows, rejects = [], [], Rejects()
    if objects or rejects.rows:
        yield _block(objects, rows, rejects)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read(1 << 20):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _MAX_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


def _block(objects: list[dict[str, Any]], rows: list[int], rejects: Rejects) -> RawBlock:
    names = list(dict.fromkeys(name for item in objects for name in item))
    columns = [pa.array([_text(item.get(name)) for item in objects], pa.string()) for name in names]
    table = pa.table(columns, names=names) if names else pa.table({})
    return RawBlock(table, pa.array(rows, pa.int64()), rejects.table())


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
