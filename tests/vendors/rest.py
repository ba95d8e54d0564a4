"""Nightscout's REST interface, version 3 (nightscout/cgm-remote-monitor, lib/api3): a series that is no market.

It stands in for vendor `rest`: all that is asked of it is options.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_EVERY = timedelta(minutes=5)
_TRENDS = ("Flat", "FortyFiveUp", "FortyFiveDown", "SingleUp")


def readings(start: datetime, end: datetime) -> list[Row]:
    """Return the readings in `[start, end)`, one in five minutes."""
    at = market.EPOCH + -((market.EPOCH - start) // _EVERY) * _EVERY
    found = []
    while at < end:
        level = int(market.price("glucose", at))
        found.append({"at": at, "sgv": level, "delta": Decimal(level % 7) / 2, "direction": _TRENDS[level % 4]})
        at += _EVERY
    return found


class NightscoutStandIn(StandIn):
    vendor = "rest"
    asset_class = "other"
    keys: ClassVar[Mapping[str, str]] = {"TOKEN": "reader-0123456789abcdef"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = {"glucose": ("sensor-1",)}
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "glucose": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    }

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return ((r"/api/v3/entries", self.entries),)

    def refuse(self, asked: Asked) -> Reply | None:
        if "token" not in asked.params:
            return Reply({"status": 401, "message": "Missing or bad access token or JWT"}, 401)
        if asked.params["token"] != self.keys["TOKEN"]:
            return Reply({"status": 401, "message": "Bad access token or JWT"}, 401)
        return None

    def options(self, schema: str) -> Row:
        return {
            "base_url": self.url,
            "path": "api/v3/entries",
            "params": {
                "date$gte": "{start}", "date$lt": "{end}", "device$eq": "{symbol}", "limit": "{rows}", "sort": "date",
            },
            "times": "ms",
            "auth": "query",
            "auth_name": "token",
            "records": "result",
            "fields": {
                "ts_event": "date", "device": "device", "kind": "type", "mg_dl": "sgv", "trend": "direction",
                "delta": "delta", "noise": "noise",
            },
            "time_unit": "ms",
            "paging": "offset",
            "paging_name": "skip",
            "page_rows": 100,
            "errors": {"No such device": "symbol"},
        }  # fmt: skip

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        return [
            {"ts_event": one["at"], "mg_dl": one["sgv"], "trend": one["direction"], "delta": one["delta"], "noise": 1}
            for one in readings(start, end)
        ]

    def entries(self, asked: Asked) -> Reply:
        if asked.params["device$eq"] not in self.symbols["glucose"]:
            return Reply({"status": 404, "message": "No such device"}, 404)
        start, end = (
            market.EPOCH + int(asked.params[name]) * timedelta(milliseconds=1) for name in ("date$gte", "date$lt")
        )
        skip, limit = int(asked.params.get("skip", "0")), int(asked.params["limit"])
        return Reply(
            {
                "status": 200,
                "result": [
                    {
                        "identifier": one["at"].isoformat(), "device": asked.params["device$eq"], "type": "sgv",
                        "date": int(one["at"].timestamp() * 1000), "sgv": one["sgv"], "delta": float(one["delta"]),
                        "direction": one["direction"], "noise": 1, "isValid": True,
                    }
                    for one in readings(start, end)[skip : skip + limit]
                ],
            }
        )  # fmt: skip
