"""Finnhub's REST interface (finnhub.io/docs/api): candles, company news, splits, dividends, symbols, search."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar
from zoneinfo import ZoneInfo

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {"1": 60, "5": 300, "15": 900, "30": 1800, "60": 3600, "D": 86400}
_RESOLUTIONS = {"ohlcv-1m": "1", "ohlcv-1h": "60", "ohlcv-1d": "D"}
_KNOWN = ("AAPL", "MSFT")
_FORBIDDEN = "VOD.L"
#: what is kept of a longer answer, without a word: the last candles, the newest articles
_CANDLES = 100
_ARTICLES = 30
_HOUR = timedelta(hours=1)


class FinnhubStandIn(StandIn):
    vendor = "finnhub"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "finnhub-token-1"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        ("ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "news", "corporate_actions"), _KNOWN
    )
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1m": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, 4, tzinfo=UTC)),
        "ohlcv-1h": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 2, 9, tzinfo=UTC)),
        "ohlcv-1d": (datetime(2023, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)),
        "news": (datetime(2024, 1, 2, 7, tzinfo=UTC), datetime(2024, 1, 9, 15, tzinfo=UTC)),
        "corporate_actions": (datetime(2020, 2, 7, tzinfo=UTC), datetime(2024, 2, 9, tzinfo=UTC)),
    }
    forbidden = _FORBIDDEN

    def __init__(self) -> None:
        super().__init__()
        #: where the midnight lies that a candle of a day is stamped with
        self.zone = ZoneInfo("UTC")

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/(?:stock|forex|crypto)/candle", self.candle),
            (r"/company-news", self.news),
            (r"/stock/split", self.split),
            (r"/stock/dividend", self.dividend),
            (r"/(?:stock|forex|crypto)/symbol", self.symbol),
            (r"/search", self.search),
        )

    def refuse(self, asked: Asked) -> Reply | None:
        given = asked.headers.get("x-finnhub-token", "")
        if not given:
            return Reply({"error": "Please use an API key."}, 401)
        if given != self.keys["API_KEY"]:
            return Reply({"error": "Invalid API key"}, 401)
        if asked.params.get("symbol") == _FORBIDDEN:
            return Reply({"error": "You don't have access to this resource."}, 403)
        return None

    def throttled(self, seconds: float) -> Reply:
        body = {"error": "API limit reached. Please try again later. Remaining Limit: 0"}
        reset = str(int(datetime.now(UTC).timestamp() + seconds))
        return Reply(body, 429, {"X-Ratelimit-Limit": "60", "X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": reset})

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "news":
            return [
                {
                    "ts_event": at, "article_id": str(article["id"]), "title": article["headline"],
                    "summary": article["summary"] or None, "publisher": "Reuters", "url": article["url"],
                    "symbols": symbol,
                }
                for at, article in articles(symbol, start, end)
            ]  # fmt: skip
        if schema == "corporate_actions":
            splits = [
                {
                    "ts_event": _midnight(row["date"]), "kind": "split", "ratio_from": Decimal(row["fromFactor"]),
                    "ratio_to": Decimal(row["toFactor"]), "amount": None,
                }
                for row in splits_of(symbol)
            ]  # fmt: skip
            dividends = [
                {
                    "ts_event": _midnight(row["date"]), "kind": "dividend", "amount": Decimal(str(row["amount"])),
                    "currency": "USD", "frequency": "quarterly", "record_date": _midnight(row["recordDate"]),
                    "declared": _midnight(row["declarationDate"]) if row["declarationDate"] else None,
                    "payable": _midnight(row["payDate"]),
                }
                for row in dividends_of(symbol)
            ]  # fmt: skip
            rows = [row for row in splits + dividends if start <= row["ts_event"] < end]
            return sorted(rows, key=lambda row: (row["ts_event"], row["kind"]))
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume,
            }
            for bar in self.bars(symbol, _RESOLUTIONS[schema], start, end)
        ]  # fmt: skip

    def bars(self, symbol: str, resolution: str, start: datetime, end: datetime) -> list[market.Bar]:
        return list(market.bars(symbol, _SECONDS[resolution], start, end, weekdays=True))

    def candle(self, asked: Asked) -> Reply:
        if asked.params["symbol"].rpartition(":")[2].replace("_", "") not in (*_KNOWN, "BTCUSDT", "EURUSD"):
            return Reply({"s": "no_data"})
        # both ends are meant
        start = market.EPOCH + timedelta(seconds=int(asked.params["from"]))
        end = market.EPOCH + timedelta(seconds=int(asked.params["to"]) + 1)
        daily, margin = asked.params["resolution"] == "D", timedelta(days=1)
        found = [
            (bar, at)
            for bar in self.bars(asked.params["symbol"], asked.params["resolution"], start - margin, end + margin)
            if start <= (at := bar.time.replace(tzinfo=self.zone) if daily else bar.time) < end
        ][-_CANDLES:]
        if not found:
            return Reply({"s": "no_data"})
        columns = {
            "c": [float(bar.close) for bar, _ in found], "h": [float(bar.high) for bar, _ in found],
            "l": [float(bar.low) for bar, _ in found], "o": [float(bar.open) for bar, _ in found],
            "s": "ok", "t": [int(at.timestamp()) for _, at in found], "v": [float(bar.volume) for bar, _ in found],
        }  # fmt: skip
        return Reply(columns, headers={"X-Ratelimit-Limit": "60", "X-Ratelimit-Remaining": "59"})

    def news(self, asked: Asked) -> Reply:
        start, end = _midnight(asked.params["from"]), _midnight(asked.params["to"]) + timedelta(days=1)
        found = [article for _, article in articles(asked.params["symbol"], start, end)]
        return Reply(found[::-1][:_ARTICLES] if asked.params["symbol"] in _KNOWN else [])

    def split(self, asked: Asked) -> Reply:
        return Reply(_between(splits_of(asked.params["symbol"]), asked))

    def dividend(self, asked: Asked) -> Reply:
        return Reply(_between(dividends_of(asked.params["symbol"]), asked)[::-1])

    def symbol(self, asked: Asked) -> Reply:
        return Reply(
            [
                {
                    "currency": "USD", "description": f"{symbol} INC", "displaySymbol": symbol, "figi": "BBG000B9Y5X2",
                    "mic": "XNAS", "symbol": symbol, "type": "Common Stock",
                }
                for symbol in _KNOWN
            ]
        )  # fmt: skip

    def search(self, asked: Asked) -> Reply:
        found = [
            {"description": f"{symbol} INC", "displaySymbol": symbol, "symbol": symbol, "type": "Common Stock"}
            for symbol in _KNOWN
            if asked.params["q"].upper() in symbol
        ]
        return Reply({"count": len(found), "result": found})


def articles(symbol: str, start: datetime, end: datetime) -> list[tuple[datetime, Row]]:
    """Return the articles published in `[start, end)`: one an hour."""
    first = -((market.EPOCH - start) // _HOUR)
    numbers = range(first, -((market.EPOCH - end) // _HOUR))
    return [
        (
            market.EPOCH + number * _HOUR,
            {
                "category": "company", "datetime": number * 3600, "headline": f"{symbol} at hour {number}",
                "id": number, "image": "", "related": symbol, "source": "Reuters",
                "summary": "" if number % 2 else "More of it.",
                "url": f"https://finnhub.io/api/news?id={number}",
            },
        )
        for number in numbers
    ]  # fmt: skip


def splits_of(symbol: str) -> list[Row]:
    return [{"symbol": symbol, "date": "2020-08-31", "fromFactor": 1, "toFactor": 4}]


def dividends_of(symbol: str) -> list[Row]:
    found = []
    day = date(2020, 2, 7)
    while day < date(2025, 1, 1):
        found.append(
            {
                "symbol": symbol, "date": day.isoformat(), "amount": float(market.price(symbol, _midnight(str(day)))),
                "adjustedAmount": 0.1925, "payDate": str(day + timedelta(days=6)), "currency": "USD", "freq": "2",
                "recordDate": str(day + timedelta(days=3)), "declarationDate": str(day) if day.month > 3 else "",
            }
        )  # fmt: skip
        day += timedelta(days=91)
    return found


def _between(rows: list[Row], asked: Asked) -> list[Row]:
    known = asked.params["symbol"] in _KNOWN
    return [row for row in rows if known and asked.params["from"] <= row["date"] <= asked.params["to"]]


def _midnight(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
