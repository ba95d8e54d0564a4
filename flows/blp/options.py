"""Options of a source of vendor `bloomberg`."""

from typing import Final
from typing import Literal

from pydantic import Field
from pydantic import field_validator
from pydantic import model_validator

from flows.options import Options

BarColumn = Literal["open", "high", "low", "close", "volume", "trade_count", "vwap"]
TradeColumn = Literal["ts_event", "price", "size", "venue", "conditions"]
Authentication = Literal["none", "application", "user", "user+application", "directory", "manual"]
#: columns without which a bar, or a trade, is none
_BAR_NEEDS: Final[tuple[BarColumn, ...]] = ("open", "high", "low", "close")
TRADE_NEEDS: Final[tuple[TradeColumn, ...]] = ("ts_event", "price", "size")
_BAR_FIELDS: Final[dict[BarColumn, str]] = {
    "open": "PX_OPEN",
    "high": "PX_HIGH",
    "low": "PX_LOW",
    "close": "PX_LAST",
    "volume": "PX_VOLUME",
}
_TRADE_FIELDS: Final[dict[TradeColumn, str]] = {
    "ts_event": "TRADE_UPDATE_STAMP_RT",
    "price": "EVT_TRADE_PRICE_RT",
    "size": "EVT_TRADE_SIZE_RT",
    "venue": "EXCH_CODE_LAST",
    "conditions": "EVT_TRADE_CONDITION_CODE_RT",
}


class BloombergOptions(Options):
    """Options of a source of vendor `bloomberg`."""

    servers: tuple[str, ...] = Field(("localhost:8194",), min_length=1, description="host:port, tried in order.")
    authentication: Authentication = Field(
        "none", description="none: Desktop; the others: Server and B-PIPE. The application's name is a secret."
    )
    directory_property: str = Field("", description="Authentication directory: the Active Directory property.")
    user_id: str = Field("", description="Authentication manual: the user's id.")
    ip_address: str = Field("", description="Authentication manual: the user's address.")
    timeout: float = Field(60, gt=0, le=3600, description="Seconds of silence before a request is given up.")
    start_attempts: int = Field(3, ge=1, le=100, description="Attempts to connect before a session is given up.")
    bar_fields: dict[BarColumn, str] = Field(
        _BAR_FIELDS, description="Daily and coarser bars: our column → Bloomberg's field, e.g. close → PX_SETTLE."
    )
    fields: tuple[str, ...] = Field(
        (), max_length=400, description="Schema fundamentals: the fields, e.g. SALES_REV_TURN."
    )
    overrides: dict[str, str] = Field({}, description="Override field → value, for figures and daily bars.")
    currency: str = Field("", max_length=3, description="Daily and coarser bars in this currency; empty: as quoted.")
    bar_events: Literal["TRADE", "BID", "ASK", "BEST_BID", "BEST_ASK"] = Field(
        "TRADE", description="What intraday bars are made of."
    )
    adjust_splits: bool = Field(False, description="Prices and volumes adjusted for splits and spin-offs.")
    adjust_normal: bool = Field(False, description="Prices adjusted for regular cash dividends.")
    adjust_abnormal: bool = Field(False, description="Prices adjusted for special cash dividends.")
    securities_per_request: int = Field(100, ge=1, le=100, description="Securities in one request for daily bars.")
    bar_days: int = Field(60, ge=1, le=365, description="Days in one request for intraday bars.")
    tick_days: int = Field(1, ge=1, le=31, description="Days in one request for trades.")
    intraday_days: int = Field(
        210, ge=1, le=3660, description="How far back intraday data are asked; Bloomberg keeps about 140 business days."
    )
    trade_fields: dict[TradeColumn, str] = Field(
        _TRADE_FIELDS,
        description="Live trades: our column → Bloomberg's real-time field; that of ts_event carries its zone.",
    )
    live_queue: int = Field(
        100_000, ge=1000, le=10_000_000, description="Live: events that may wait for us; Bloomberg's SDK drops more."
    )

    @field_validator("servers")
    @classmethod
    def _named(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ValueError(f"{server!r}; accepted: host:port, e.g. localhost:8194")
        return servers

    @field_validator("bar_fields")
    @classmethod
    def _prices(cls, fields: dict[BarColumn, str]) -> dict[BarColumn, str]:
        if missing := [name for name in _BAR_NEEDS if not fields.get(name)]:
            raise ValueError(f"no field for {', '.join(missing)}")
        return fields

    @field_validator("trade_fields")
    @classmethod
    def _traded(cls, fields: dict[TradeColumn, str]) -> dict[TradeColumn, str]:
        if missing := [name for name in TRADE_NEEDS if not fields.get(name)]:
            raise ValueError(f"no field for {', '.join(missing)}")
        return fields

    @model_validator(mode="after")
    def _authenticated(self) -> "BloombergOptions":
        if self.authentication == "directory" and not self.directory_property:
            raise ValueError("authentication directory needs directory_property")
        if self.authentication == "manual" and not (self.user_id and self.ip_address):
            raise ValueError("authentication manual needs user_id and ip_address")
        return self
