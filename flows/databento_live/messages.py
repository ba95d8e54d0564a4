"""What the gateway's own records say: acknowledgements, heartbeats, mappings of symbols, errors. Pure.

Codes: https://databento.com/docs/api-live/basics/system-messages and …/errors. The words are those that live sessions
were seen to say, and by which the vendor's decoder knows messages of DBN version 1, which had no codes.
"""

import re
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np

from catalog.errors import AuthFailed
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.errors import TransientError
from flows.formats.dbn_stream import Header
from flows.formats.dbn_stream import library

#: types of records that are about the session
ERROR: Final = 21
MAPPING: Final = 22
SYSTEM: Final = 23
#: codes of system messages
HEARTBEAT: Final = 0
ACKNOWLEDGED: Final = 1
SLOW_READER: Final = 2
REPLAYED: Final = 3
END_OF_INTERVAL: Final = 4
#: codes of errors
AUTH_FAILED: Final = 1
DEACTIVATED: Final = 2
TOO_MANY_CONNECTIONS: Final = 3
UNKNOWN_SYMBOL: Final = 4
INVALID: Final = 5
INTERNAL: Final = 6
SKIPPED: Final = 7
AGED_OUT: Final = 8

_CLASSES: Final = {ERROR: ("ErrorMsg", "err"), MAPPING: ("SymbolMappingMsg", ""), SYSTEM: ("SystemMsg", "msg")}
_NUMBER: Final = re.compile(r"request (\d+)")


@dataclass(frozen=True, slots=True)
class Message:
    """A record about the session, of one of the three types; `asked` and `given` are the symbols of a mapping."""

    type: int
    code: int = 0
    words: str = ""
    instrument: int = 0
    asked: str = ""
    given: str = ""

    @property
    def request(self) -> int | None:
        """The number of the subscription that the words name."""
        found = _NUMBER.search(self.words)
        return int(found.group(1)) if found else None


def read(records: bytes, header: Header) -> list[Message]:
    """Return what complete records of the three types say, of any version of DBN."""
    package = library()
    decoder = package.DBNDecoder(has_metadata=False, ts_out=header.ts_out, input_version=header.version)
    decoder.write(records)
    return [_message(package, bytes(record)) for record in decoder.decode()]


def fault(message: Message, where: str) -> DataflowError | None:
    """Return what an error message ends the session with; None where the session goes on."""
    said = f"{where}: {message.words}"
    if message.code in (AUTH_FAILED, DEACTIVATED):
        return AuthFailed(said)
    if message.code == INVALID:
        return ConfigError(said)
    if message.code in (TOO_MANY_CONNECTIONS, INTERNAL, AGED_OUT):
        return TransientError(said)
    return None


def _message(package: Any, record: bytes) -> Message:
    # the decoder has brought it to the newest version; its own attributes cannot read what is no UTF-8
    kind = record[1]
    name, words = _CLASSES[kind]
    (one,) = np.frombuffer(record, _layout(package, name), count=1)
    if kind == MAPPING:
        return Message(
            kind,
            instrument=int(one["instrument_id"]),
            asked=_text(one["stype_in_symbol"]),
            given=_text(one["stype_out_symbol"]),
        )
    return Message(kind, int(one["code"]), _text(one[words]))


def _layout(package: Any, name: str) -> Any:
    return np.dtype(list(getattr(package, name)._dtypes))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
