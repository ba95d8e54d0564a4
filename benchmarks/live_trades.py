"""Binance's messages of trades, repeated with growing numbers and times for as long as a measurement takes."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Final

from tests.vendors.live.recorded import session

_CORPUS: Final = Path(os.environ.get("DATAFLOW_CORPUS", Path(__file__).parents[2] / "shared/corpus"))
_SESSIONS: Final = ("BINANCE", "BINANCE_US")
_SYMBOLS: Final = ("NKNUSDT", "LRCBTC", "OMGBUSD")
#: a message as the vendor documents it, where no recorded ones are at hand
_DOCUMENTED: Final = (
    '{{"stream":"{0}@aggTrade","data":{{"e":"aggTrade","E":1,"s":"{1}","a":1,"p":"0.35280000","q":"58.00000000","f":1,'
    '"l":1,"T":1,"m":false,"M":true}}}}'
)
#: what changes from one message to the next: the number of the trade, those of its fills (here the same), two times
_CHANGING: Final = re.compile(r'"(E|a|f|l|T)":\d+')


class Trades:
    """Messages to repeat, in turn; the trades of each symbol are numbered from 1 on."""

    def __init__(self) -> None:
        self.recorded = _CORPUS.is_dir()
        texts = _recorded() if self.recorded else [_DOCUMENTED.format(one.lower(), one) for one in _SYMBOLS]
        self._texts = [_CHANGING.sub(r'"\1":%d', text).encode() for text in texts]
        self._owners = [str(json.loads(text)["data"]["s"]) for text in texts]
        self.symbols = sorted(set(self._owners))
        shares = Counter(self._owners)
        #: of each message: how many of a turn are of its symbol, and which of them it is
        self._places = [
            (shares[symbol], self._owners[: at + 1].count(symbol)) for at, symbol in enumerate(self._owners)
        ]

    @property
    def what(self) -> str:
        """What the messages are, for people."""
        return f"{len(self._texts)} {'recorded' if self.recorded else 'documented'} messages repeated"

    def frames(self, first: int, end: int, time: int) -> bytes:
        """Return the messages `[first, end)` as frames of a WebSocket; `time` is in milliseconds since 1970."""
        made = []
        for number in range(first, end):
            turn, at = divmod(number, len(self._texts))
            share, place = self._places[at]
            trade = turn * share + place
            text = self._texts[at] % (time, trade, trade, trade, time)
            size = len(text)
            head = b"\x81%c" % size if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
            made.append(head + text)
        return b"".join(made)

    def counts(self, total: int) -> dict[str, int]:
        """Return how many trades of each symbol the first `total` messages are."""
        turns, rest = divmod(total, len(self._owners))
        found = Counter(self._owners[:rest])
        for symbol in self._owners:
            found[symbol] += turns
        return dict(found)


def _recorded() -> list[str]:
    said = [text for name in _SESSIONS for _, text in session(_CORPUS, name).messages]
    return [text for text in said if '"e":"aggTrade"' in text]
