"""Bytes of a file as text, or the reason why they are none."""

import codecs
from typing import Final

from catalog.exchange.entries import Fault

#: a catalog of a million series is smaller; what is larger would fill the memory before it is read
MAX_BYTES: Final = 256 << 20

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode(content: bytes | str, limit: int = MAX_BYTES) -> str | Fault:
    """Return the text of a file, without the byte order mark that spreadsheets write, or what is wrong with it."""
    if len(content) > limit:
        return Fault(1, "", f"the file has {len(content):,} bytes; accepted: at most {limit:,}")
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    if content.startswith(_UTF16):
        return Fault(1, "", "the file is UTF-16; accepted: UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        # the first is enough: in another encoding every line would be named
        line = content.count(b"\n", 0, error.start) + 1
        return Fault(line, "", f"the byte 0x{content[error.start]:02X} is not UTF-8; accepted: a file in UTF-8")
