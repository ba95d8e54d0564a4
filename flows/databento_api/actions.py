"""Corporate actions: JSON lines → events, flat, and which of them the vendor took back. Pure."""

from typing import Any
from typing import Final

import zstandard

from catalog.errors import Damaged
from flows.formats.blocks import Rejects
from flows.web import read_json

_KINDS: Final = {"FSPLT": "split", "RSPLT": "split", "DIV": "dividend"}
#: what the vendor says of an event, or of what it pays, that is not to be: cancelled, or deleted
_TAKEN_BACK: Final = ("C", "D", "P", "Q")


def unpacked(content: bytes) -> bytes:
    """Return what zstd frames hold, one after the other; Damaged where they are none or the last one is cut."""
    plain = b""
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            plain += frame.decompress(content)
        except zstandard.ZstdError as error:
            raise Damaged(f"the answer is no sound zstd: {error}") from None
        if not frame.eof:
            raise Damaged("the answer is cut short: its zstd frame is unfinished")
        content = frame.unused_data
    return plain


def read(content: bytes) -> tuple[list[dict[str, Any]], Rejects]:
    """Return the events of JSON lines, all of them, with their `kind` and `words`; rejects are those taken back.

    What depends on the kind of event is one level down, and comes up. Raises Damaged where a line is no event.
    """
    events: list[dict[str, Any]] = []
    gone = Rejects()
    for number, line in enumerate(line for line in content.splitlines() if line.strip()):
        try:
            event = read_json(line)
        except ValueError as error:
            raise Damaged(f"line {number + 1} of the corporate actions is no JSON: {error}") from None
        if not isinstance(event, dict):
            raise Damaged(f"line {number + 1} of the corporate actions is no JSON object")
        if (action := event.get("event_action")) in _TAKEN_BACK:
            shown = line.decode("utf-8", "replace")
            gone.add(number, "event stands", f"the vendor took it back ({action})", shown)
        inner = [event.get(name) for name in ("date_info", "rate_info", "event_info")]
        flat = {name: value for part in inner if isinstance(part, dict) for name, value in part.items()}
        kind = event.get("event")
        words = " ".join(str(word) for word in (kind, event.get("event_subtype")) if word)
        events.append({**flat, **event, "kind": _KINDS.get(str(kind), kind), "words": words})
    return events, gone
