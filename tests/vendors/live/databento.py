"""Databento's live gateway: text until the session starts, then DBN (databento.com/docs/api-live, raw).

Made from the documentation, from what the vendor's own client sends, and from sessions that others have recorded; that
client takes it for the real one. What nobody has written down: which words refuse a replay that reaches back too far.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from typing import ClassVar

import databento_dbn as dbn
import zstandard

from tests.vendors import market
from tests.vendors.databento import DatabentoStandIn
from tests.vendors.databento import trades
from tests.vendors.live.connections import Content
from tests.vendors.live.databento_gateway import Gateway
from tests.vendors.live.databento_gateway import Session
from tests.vendors.live.databento_records import record as encoded
from tests.vendors.live.databento_records import row as meant
from tests.vendors.live.words import Happening
from tests.vendors.live.words import nanoseconds
from tests.vendors.server import Row

DAY = 86_400 * 1_000_000_000
_PUBLISHERS = {"XNAS.ITCH": 2, "GLBX.MDP3": 1}
_IDS = {"XNAS.ITCH": {"AAPL": 38, "MSFT": 10_888}, "GLBX.MDP3": {"ESH4": 17_077, "ESM4": 5_602, "NQH4": 750}}
_SECONDS = {"ohlcv-1s": 1, "ohlcv-1m": 60, "ohlcv-1h": 3600, "ohlcv-1d": 86_400}


class DatabentoLiveStandIn(Gateway):
    """One dataset's gateway. Records of other schemas than `publish` knows are sent with `raw`."""

    vendor = "databento"
    keys: ClassVar[Mapping[str, str]] = DatabentoStandIn.keys
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        ("trades", "tbbo", "mbp-1", "mbo", "bbo-1s", "bbo-1m", "statistics", *_SECONDS), ("AAPL", "MSFT")
    )

    def __init__(self, dataset: str = "XNAS.ITCH") -> None:
        super().__init__()
        self.dataset = dataset
        #: the venue's symbol → its number
        self.ids = dict(_IDS[dataset])
        #: continuous symbol → the venue's
        self.fronts: dict[str, str] = {"ES.c.0": "ESH4"}
        #: sent instead of a header and what follows from the subscriptions, where there is any
        self.recorded = b""

    def options(self, schema: str = "") -> Row:
        return {"gateway": self.address, "dataset": self.dataset}

    def rows(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        """Return records of the market that the historical stand-in answers with too."""
        if schema == "trades":
            return [
                {
                    "ts_event": trade.time, "ts_recv": nanoseconds(trade.time) + 5_000_000_000, "price": trade.price,
                    "size": int(trade.size * 100), "side": "A" if trade.buyer_is_maker else "B",
                    "sequence": trade.id % 2**32,
                }
                for trade in trades(symbol, start, end)
            ]  # fmt: skip
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": int(bar.volume),
            }
            for bar in market.bars(symbol, _SECONDS[schema], start, end, weekdays=True)
        ]  # fmt: skip

    def row(self, schema: str, symbol: str, record: Row) -> Row:
        if symbol not in self.ids:
            raise ValueError(f"{self.dataset} lists no {symbol}; it lists {', '.join(self.ids)}")
        return meant(schema, record, _PUBLISHERS[self.dataset])

    # -- what a test does -----------------------------------------------------------------------------------------

    def lists(self, symbol: str, number: int) -> None:
        """List a symbol, or hand a number on to it: sessions that asked for it are told."""
        self.do(lambda: self._lists(symbol, number))

    # -- the text protocol ----------------------------------------------------------------------------------------

    def greet(self, client: Session) -> None:
        self.say(client, "lsg_version=0.8.0")
        if not self.trips("challenge", client):
            client.notes["cram"] = secrets.token_urlsafe(24)
            self.say(client, f"cram={client.notes['cram']}")

    def hear(self, client: Session, message: Any) -> None:
        if "auth" in message:
            if not self.trips("auth", client):
                self._authenticate(client, message)
        elif not client.authenticated:
            self.do_refusal(client, "Authentication failed.")
        elif "schema" in message:
            if not self.trips("subscribe", client):
                self._subscribe(client, message)
        elif "start_session" in message and not client.started and not self.trips("start", client):
            self._start(client)

    def _authenticate(self, client: Session, message: Row) -> None:
        digest, _, bucket = message["auth"].rpartition("-")
        for key in self.keys.values():
            right = hashlib.sha256(f"{client.notes['cram']}|{key}".encode()).hexdigest()
            if (digest, bucket, message["dataset"]) == (right, key[-5:], self.dataset):
                client.authenticated = True
                client.notes["terms"] = message
                self.say(client, f"success=1|session_id={1_700_000_000 + client.number}")
                return
        self.do_refusal(client, "Authentication failed.")

    def _subscribe(self, client: Session, message: Row) -> None:
        # several lines make one subscription
        symbols = client.notes.setdefault("lines", [])
        symbols += message["symbols"].split(",")
        if message["is_last"] != "1":
            return
        client.notes["lines"] = []
        asked = message | {"symbols": symbols}
        if not client.started:
            client.notes.setdefault("waiting", []).append(asked)
        elif message.get("start"):
            words = "`start` cannot be specified after the session has started"
            self.do_error(client, dbn.ErrorCode.INVALID_SUBSCRIPTION, words)
        else:
            self._take_up(client, asked)

    def _start(self, client: Session) -> None:
        if self.trips("header", client):
            return
        client.notes["started"] = True
        if client.terms.get("compression") == "zstd":
            client.notes["packer"] = zstandard.ZstdCompressor().compressobj()
        self._write(client, self.recorded or self.header(client))
        for asked in client.notes.get("waiting", ()):
            self._take_up(client, asked)
        self.beat(client)

    # -- records --------------------------------------------------------------------------------------------------

    def _take_up(self, client: Session, asked: Row) -> None:
        """Acknowledge a subscription, say what its symbols are, and replay what has passed."""
        schema, stype = asked["schema"], asked["stype_in"]
        found = {symbol: self._stands_for(stype, symbol) for symbol in asked["symbols"]}
        client.notes.setdefault("unresolved", []).extend((schema, symbol) for symbol in found if not found[symbol])
        self.subscribe(
            client,
            {
                f"{schema}|{symbol}|{raw}": (schema, raw)
                for symbol, many in found.items() for raw in dict.fromkeys((*many, *([symbol] if many else [])))
            },
        )  # fmt: skip
        if self.recorded:
            return
        words = f"Subscription request {asked.get('id', 0)} for {schema} data succeeded"
        self.do_system(client, dbn.SystemCode.SUBSCRIPTION_ACK, words)
        for symbol, many in found.items():
            if not many:
                words = f"Failed to resolve symbol {symbol}"
                self.do_error(client, dbn.ErrorCode.SYMBOL_RESOLUTION_FAILED, words)
            for raw in many:
                self._write(client, self._mapping(client, stype, symbol, raw))
        if asked.get("snapshot") == "1":
            self._snapshot(client, [raw for many in found.values() for raw in many])
        if asked.get("start"):
            self._replay(client, asked, {raw for many in found.values() for raw in many})

    def _replay(self, client: Session, asked: Row, symbols: set[str]) -> None:
        schema, start = asked["schema"], int(asked["start"])
        if self.trips("replay", client):
            return
        if start and start < time.time_ns() - DAY:
            self.do_error(client, dbn.ErrorCode.REPLAY_DATA_AGED_OUT, f"Replay data for {schema} is no longer retained")
            return
        column = "ts_recv" if "bbo-" in schema else "ts_event"
        with self.changed:
            passed = [
                one for one in self.happened
                if one.schema == schema and one.symbol in symbols and nanoseconds(one.row[column]) >= start
            ]  # fmt: skip
        for one in sorted(passed, key=lambda one: nanoseconds(one.row[column])):
            self._write(client, self._record(client, one))
        self.do_system(client, dbn.SystemCode.REPLAY_COMPLETED, f"Finished {schema} replay")

    def _snapshot(self, client: Session, symbols: Iterable[str]) -> None:
        """Say which orders rest."""
        for symbol in symbols:
            resting: dict[int, Happening] = {}
            with self.changed:
                for one in self.happened:
                    if (one.schema, one.symbol) != ("mbo", symbol):
                        continue
                    if one.row["action"] in ("A", "M"):
                        resting[one.row["order_id"]] = one
                    elif one.row["action"] == "C":
                        resting.pop(one.row["order_id"], None)
            for one in resting.values():
                row = one.row | {"flags": 32 | 8}
                self._write(client, self._record(client, Happening("mbo", symbol, one.record, row)))

    def encode(self, client: Session, channel: str, happening: Happening) -> list[bytes]:
        return [self._record(client, happening)]

    def pack(self, client: Session, messages: Sequence[Any]) -> Iterable[Content]:
        return messages

    def frames(self, client: Session, happenings: list[Happening]) -> Iterable[Content]:
        return super().frames(client, happenings) if client.started and not self._skipping else ()

    def _stands_for(self, stype: str, symbol: str) -> list[str]:
        if symbol == "ALL_SYMBOLS":
            return list(self.ids)
        if stype == "continuous":
            return [self.fronts[symbol]] if symbol in self.fronts else []
        if stype == "parent":
            root, _, kind = symbol.partition(".")
            return [name for name in self.ids if kind == "FUT" and name.startswith(root)]
        if stype == "instrument_id":
            return [name for name, number in self.ids.items() if str(number) == symbol]
        return [symbol] if symbol in self.ids else []

    def _lists(self, symbol: str, number: int) -> None:
        self.ids[symbol] = number
        for client in list(self.clients):
            waiting = [one for one in client.notes.get("unresolved", ()) if one[1] == symbol]
            self.subscribe(client, {f"{schema}|{symbol}|{symbol}": (schema, symbol) for schema, _ in waiting})
            if client.started and any(raw == symbol for _, raw in client.channels.values()):
                self._write(client, self._mapping(client, "raw_symbol", symbol, symbol))

    def header(self, client: Session) -> bytes:
        starts = [int(asked["start"]) for asked in client.notes.get("waiting", ()) if asked.get("start")]
        metadata = dbn.Metadata(
            dataset=self.dataset, start=min(starts, default=time.time_ns()), stype_in=None,
            stype_out=dbn.SType.INSTRUMENT_ID, schema=None, ts_out=client.terms.get("ts_out") == "1",
        )  # fmt: skip
        return bytes(metadata.encode())

    def _mapping(self, client: Session, stype: str, symbol: str, raw: str) -> bytes:
        now = time.time_ns()
        made = dbn.SymbolMappingMsg(
            _PUBLISHERS[self.dataset], self.ids[raw], now, dbn.SType.from_str(stype), symbol,
            dbn.SType.RAW_SYMBOL, raw, now - now % DAY, now - now % DAY + DAY, **self.stamped(client),
        )  # fmt: skip
        return bytes(made)

    def _record(self, client: Session, happening: Happening) -> bytes:
        sent = self.stamped(client).get("ts_out")
        return encoded(happening.schema, happening.row, _PUBLISHERS[self.dataset], self.ids[happening.symbol], sent)
