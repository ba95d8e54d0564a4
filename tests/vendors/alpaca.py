"""Alpaca's market data (docs.alpaca.markets/reference): stocks v2, crypto v1beta3, news, corporate actions v1."""

import base64
import re
import uuid
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from typing import Any
from typing import ClassVar
from zoneinfo import ZoneInfo

import pandas as pd

from catalog.schemas import bar_open
from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {"1Min": 60, "5Min": 300, "15Min": 900, "30Min": 1800, "1Hour": 3600, "4Hour": 14400, "1Day": 86400}
_NAMES = {"1m": "1Min", "5m": "5Min", "15m": "15Min", "30m": "30Min", "1h": "1Hour", "4h": "4Hour", "1d": "1Day",
          "1w": "1Week", "1mo": "1Month"}  # fmt: skip
_STOCKS = ("AAPL", "MSFT")
_COINS = ("BTC/USD", "ETH/USD")
_FORMS = {_STOCKS: r"[A-Z0-9.]+", _COINS: r"[A-Z0-9]+/[A-Z0-9]+"}
_DAY = timedelta(days=1)
_FACTOR = {"raw": 1, "split": 2, "dividend": 3, "all": 4}


def _day(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def nanoseconds(text: str) -> int:
    """Return the nanoseconds since 1970 of RFC 3339 with up to nine digits, or of a date."""
    head, _, rest = text.removesuffix("Z").partition("+")[0].partition(".")
    whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
    return int(whole.timestamp()) * 1_000_000_000 + int(rest.ljust(9, "0") or 0)


def rfc3339(number: int) -> str:
    """Return nanoseconds since 1970 as Alpaca writes them: digits after the point without zeros at the end."""
    whole = market.EPOCH + timedelta(seconds=number // 1_000_000_000)
    fraction = f"{number % 1_000_000_000:09}".rstrip("0")
    return f"{whole:%Y-%m-%dT%H:%M:%S}{'.' if fraction else ''}{fraction}Z"


def instant(moment: datetime) -> int:
    """Return when a trade or quote of the market happens here: with nanoseconds, some of them none."""
    seconds = int(moment.timestamp())
    return seconds * 1_000_000_000 + (seconds * 1_234_567 % 1_000_000_000 if seconds % 5 else 0)


def stamp(number: int) -> datetime:
    """Return nanoseconds since 1970 as a time that keeps them."""
    return pd.Timestamp(number, unit="ns", tz="UTC")


class AlpacaStandIn(StandIn):
    vendor = "alpaca"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY_ID": "AKTESTKEY", "API_SECRET_KEY": "alpaca-test-secret"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        (*(f"ohlcv-{name}" for name in _NAMES), "trades", "quotes", "news", "corporate_actions"), _STOCKS
    )
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1m": (_day(2024, 1, 2), datetime(2024, 1, 2, 3, tzinfo=UTC)),
        **market.WINDOWS,
        "ohlcv-1w": (_day(2022, 1, 3), _day(2024, 1, 1)),
        "ohlcv-1mo": (_day(2016, 1, 1), _day(2024, 1, 1)),
        "corporate_actions": (_day(2018, 1, 1), _day(2024, 1, 1)),
    }

    def __init__(self) -> None:
        super().__init__()
        #: the most rows a page has, whatever is asked
        self.page_most = 10_000
        #: every page comes after one without rows that has a token
        self.hollow = False
        #: sip is refused from here on, as by a free plan
        self.recent: datetime | None = None

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/v2/stocks/(bars)", self.stocks),
            (r"/v2/stocks/(trades|quotes)", self.stocks),
            (r"/v1beta3/crypto/us/(bars|trades|quotes)", self.coins),
            (r"/v2/stocks/trades/latest", lambda asked: self.latest(asked, _STOCKS)),
            (r"/v1beta3/crypto/us/latest/trades", lambda asked: self.latest(asked, _COINS)),
            (r"/v1beta1/news", self.news),
            (r"/v1/corporate-actions", self.corporate_actions),
            (r"/v2/stocks/meta/exchanges", lambda asked: Reply({"V": "IEX", "Q": "NASDAQ OMX"})),
        )

    def refuse(self, asked: Asked) -> Reply | None:
        sent = (asked.headers.get("apca-api-key-id"), asked.headers.get("apca-api-secret-key"))
        return None if sent == tuple(self.keys.values()) else Reply({"message": "forbidden."}, 403)

    def missing(self, asked: Asked) -> Reply:
        return Reply({"message": "endpoint not found."}, 404)

    def throttled(self, seconds: float) -> Reply:
        headers = {"Retry-After": f"{seconds:g}", "X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0"}
        return Reply({"message": "too many requests."}, 429, headers)

    def options(self, schema: str) -> Row:
        few = {"news": 20, "corporate_actions": 10}
        return {"base_url": self.url, "page_rows": few.get(schema, 100), "requests_per_minute": 100_000}

    # -- what is right --------------------------------------------------------------------------------------------

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "trades":
            return [
                {
                    "ts_event": stamp(instant(trade.time)), "venue": "D", "trade_id": str(trade.id),
                    "price": trade.price, "size": trade.size, "conditions": "@,T,I",
                }
                for trade in market.trades(symbol, start - _DAY / 24, end + _DAY / 24)
                if exact(start) <= instant(trade.time) < exact(end)
            ]  # fmt: skip
        if schema == "quotes":
            return [
                {
                    "ts_event": stamp(instant(quote.time)), "bid_price": quote.bid, "bid_size": quote.bid_size,
                    "ask_price": quote.ask, "ask_size": quote.ask_size, "bid_venue": "Q", "ask_venue": "K",
                }
                for quote in market.quotes(symbol, start - _DAY / 24, end + _DAY / 24)
                if exact(start) <= instant(quote.time) < exact(end)
            ]  # fmt: skip
        if schema == "news":
            found = [article for article in articles(start - 20 * _DAY, end) if symbol in article["symbols"]]
            return [
                {
                    "ts_event": article["created_at"], "article_id": str(article["id"]), "title": article["headline"],
                    "symbols": ",".join(article["symbols"]), "publisher": "benzinga",
                }
                for article in found
                if start <= article["updated_at"] < end
            ]  # fmt: skip
        if schema == "corporate_actions":
            rows = [_row(name, action) for name, action in actions([symbol]) if start <= _processed(action, end) < end]
            return sorted(rows, key=lambda row: (row["ts_event"], row["kind"], row["action_id"]))
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades, "vwap": bar.vwap,
            }
            for bar in bars(symbol, _NAMES[schema.removeprefix("ohlcv-")], start, end)
        ]  # fmt: skip

    # -- what is answered -----------------------------------------------------------------------------------------

    def stocks(self, asked: Asked) -> Reply:
        feed = asked.params.get("feed", "sip")
        if feed not in ("sip", "iex", "otc", "boats"):
            return Reply({"message": f"invalid feed: {feed}"}, 400)
        if feed == "sip" and self.recent and nanoseconds(asked.params["end"]) >= instant(self.recent):
            return Reply({"message": "subscription does not permit querying recent SIP data"}, 403)
        return self._keyed(asked, _STOCKS, "America/New_York")

    def coins(self, asked: Asked) -> Reply:
        if {"feed", "adjustment", "asof"} & set(asked.params):
            return Reply({"message": "unexpected parameter"}, 400)
        return self._keyed(asked, _COINS, "America/Chicago")

    def latest(self, asked: Asked, known: Sequence[str]) -> Reply:
        if asked.params.get("feed") == "sip" and self.recent:
            return Reply({"message": "subscription does not permit querying recent SIP data"}, 403)
        trade = {"t": "2024-06-28T19:59:59.999405378Z", "x": "V", "p": 210.5, "s": 100, "c": ["@"], "i": 1, "z": "C"}
        return Reply({"trades": {name: trade for name in asked.params["symbols"].split(",") if name in known}})

    def news(self, asked: Asked) -> Reply:
        start, end = (nanoseconds(asked.params[name]) for name in ("start", "end"))
        names = set(asked.params["symbols"].split(","))
        low, high = (market.EPOCH + timedelta(microseconds=number // 1000) for number in (start, end))
        found = [
            {**article, "created_at": zulu(article["created_at"]), "updated_at": zulu(article["updated_at"])}
            for article in sorted(articles(low - 20 * _DAY, high + _DAY), key=lambda article: article["updated_at"])
            if names & set(article["symbols"]) and start <= exact(article["updated_at"]) <= end
        ]
        page, token = self._page(asked, found, min(int(asked.params.get("limit", 10)), 50))
        return Reply({"news": page, "next_page_token": token})

    def corporate_actions(self, asked: Asked) -> Reply:
        start, end = (date.fromisoformat(asked.params[name]) for name in ("start", "end"))
        found = [
            (name, action)
            for name, action in sorted(
                actions(asked.params["symbols"].split(",")), key=lambda pair: pair[1]["process_date"]
            )
            if start <= date.fromisoformat(action["process_date"]) <= end
        ]
        page, token = self._page(asked, found, min(int(asked.params.get("limit", 100)), 1000))
        grouped: dict[str, list[Row]] = {}
        for name, action in page:
            grouped.setdefault(name, []).append(action)
        return Reply({"corporate_actions": grouped, "next_page_token": token})

    def _keyed(self, asked: Asked, known: tuple[str, ...], zone: str) -> Reply:
        kind = asked.parts[0]
        names = sorted(asked.params["symbols"].split(","))
        for name in names:
            if not re.fullmatch(_FORMS[known], name):
                return Reply({"message": f"invalid symbol: {name}"}, 400)
        start, end = nanoseconds(asked.params["start"]), nanoseconds(asked.params["end"])
        found = []
        for name in names:
            if name in known:
                rows = self._rows(kind, name, asked.params, start, end, zone)
                found += [(name, row) for row in rows if start <= nanoseconds(row["t"]) <= end]
        page, token = self._page(asked, found, int(asked.params.get("limit", 1000)))
        keyed: dict[str, list[Row]] = {}
        for name, row in page:
            keyed.setdefault(name, []).append(row)
        headers = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "199"}
        return Reply({kind: keyed, "next_page_token": token}, headers=headers)

    def _rows(
        self, kind: str, symbol: str, params: Mapping[str, str], start: int, end: int, zone: str
    ) -> Iterable[Row]:
        low = market.EPOCH + timedelta(seconds=start // 1_000_000_000)
        high = market.EPOCH + timedelta(seconds=end // 1_000_000_000 + 1)
        if kind == "bars":
            timeframe = params["timeframe"]
            factor = _FACTOR[params.get("adjustment", "raw")]
            for bar in bars(symbol, timeframe, low - 32 * _DAY if "W" in timeframe or "Mo" in timeframe else low, high):
                at = bar.time
                if timeframe in ("1Day", "1Week", "1Month"):
                    at = at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
                prices = {
                    "o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close, "vw": bar.vwap,
                }  # fmt: skip
                numbers = {name: float(price * factor) for name, price in prices.items()}
                yield {"t": zulu(at), **numbers, "v": float(bar.volume), "n": bar.trades}
        elif kind == "trades":
            for trade in market.trades(symbol, low, high):
                about = {"tks": "S" if trade.buyer_is_maker else "B"} if "/" in symbol else {"x": "D", "z": "C"}
                about = {**about, "c": ["@", "T", "I"]} if "x" in about else about
                yield {
                    "t": rfc3339(instant(trade.time)), "p": float(trade.price), "s": float(trade.size),
                    "i": trade.id, **about,
                }  # fmt: skip
        else:
            for quote in market.quotes(symbol, low, high):
                yield {
                    "t": rfc3339(instant(quote.time)), "ax": "K", "ap": float(quote.ask), "as": int(quote.ask_size),
                    "bx": "Q", "bp": float(quote.bid), "bs": int(quote.bid_size), "c": ["R"], "z": "C",
                }  # fmt: skip

    def _page(self, asked: Asked, found: Sequence[Any], limit: int) -> tuple[Sequence[Any], str | None]:
        token = base64.b64decode(asked.params.get("page_token", "") or "MHxyb3dz").decode()
        first, what = int(token.partition("|")[0]), token.partition("|")[2]
        if self.hollow and what == "rows" and found:
            return [], base64.b64encode(f"{first}|now".encode()).decode()
        last = first + min(limit, self.page_most)
        following = base64.b64encode(f"{last}|rows".encode()).decode() if last < len(found) else None
        return found[first:last], following


def zulu(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def exact(moment: datetime) -> int:
    """Return the nanoseconds since 1970 of a time."""
    return (moment - market.EPOCH) // timedelta(microseconds=1) * 1000


def bars(symbol: str, timeframe: str, start: datetime, end: datetime) -> Iterable[market.Bar]:
    """Yield the market's bars by our label; stocks have none at the weekend, weeks and months are those that begin."""
    if timeframe in _SECONDS:
        yield from market.bars(
            symbol, _SECONDS[timeframe], start, end, weekdays="/" not in symbol and timeframe == "1Day"
        )
        return
    ours = "1w" if timeframe == "1Week" else "1mo"
    at = bar_open(start, ours)
    while at < end:
        following = bar_open(at + (7 if ours == "1w" else 31) * _DAY, ours)
        if at >= start:
            yield market.bar(symbol, at, following - at)
        at = following


def articles(start: datetime, end: datetime) -> Iterable[Row]:
    """Yield one article every three hours; every 40th is updated ten days later, the others in ten minutes."""
    step = timedelta(hours=3)
    for number in range((start - market.EPOCH) // step, (end - market.EPOCH) // step + 1):
        created = market.EPOCH + number * step
        updated = created + (timedelta(days=10) if number % 40 == 0 else timedelta(minutes=10))
        yield {
            "id": number, "created_at": created, "updated_at": updated, "headline": f"Headline {number}",
            "summary": "" if number % 2 else f"What happened at {created:%H:%M}.", "source": "benzinga",
            "author": "Newsdesk", "url": f"https://news.example/{number}", "content": "", "images": [],
            "symbols": [list(_STOCKS), ["AAPL"], ["MSFT"], ["QCOM", "MSFT"]][number % 4],
        }  # fmt: skip


def actions(names: Sequence[str]) -> Iterable[tuple[str, Row]]:
    """Yield (list, action): dividends every quarter, splits, and a merger of both symbols."""
    common = {"cusip": "000000000"}
    for name in names:
        if name not in _STOCKS:
            continue
        for number in range(60):
            ex = date(2010, 2, 9) + timedelta(days=91 * number)
            yield "cash_dividends", {
                **common, "id": _id(f"{name}-dividend-{number}"), "symbol": name, "rate": 0.0001 * (1000 + number * 7),
                "special": number % 9 == 0, "foreign": False, "ex_date": ex.isoformat(),
                "record_date": (ex + _DAY).isoformat(), "payable_date": (ex + 6 * _DAY).isoformat(),
                "process_date": (ex + 6 * _DAY).isoformat(),
            }  # fmt: skip
        yield "forward_splits", {
            **common, "id": _id(f"{name}-split"), "symbol": name, "new_rate": 4, "old_rate": 1, "ex_date": "2020-08-31",
            "process_date": "2020-08-31", "record_date": "2020-08-24", "payable_date": "2020-08-28",
        }  # fmt: skip
        yield "reverse_splits", {
            "old_cusip": "0", "new_cusip": "1", "id": _id(f"{name}-reverse"), "symbol": name, "new_rate": 1,
            "old_rate": 30, "ex_date": "2021-08-02", "process_date": "2021-08-02",
        }  # fmt: skip
    if set(names) & set(_STOCKS):
        yield "stock_and_cash_mergers", {
            "id": _id("merger"), "acquiree_symbol": "AAPL", "acquiree_cusip": "0", "acquiree_rate": 1,
            "acquirer_symbol": "MSFT", "acquirer_cusip": "1", "acquirer_rate": 0.7733, "cash_rate": 7.8,
            "effective_date": "2023-07-18", "process_date": "2023-07-18", "payable_date": "2023-07-18",
        }  # fmt: skip


def _id(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def _processed(action: Row, end: datetime) -> datetime:
    return datetime.fromisoformat(action["process_date"]).replace(tzinfo=end.tzinfo)


def _row(name: str, action: Row) -> Row:
    kind = {"cash_dividends": "dividend", "stock_and_cash_mergers": "merger"}.get(name, "split")
    old, new = (action.get(f"{which}_rate", action.get(f"acqui{end}_rate")) for which, end in
                (("old", "ree"), ("new", "rer")))  # fmt: skip
    amount = action.get("rate", action.get("cash_rate"))
    day = action.get("ex_date", action["process_date"])
    return {
        "ts_event": datetime.fromisoformat(day).replace(tzinfo=UTC), "kind": kind, "action_id": action["id"],
        "ratio_from": None if old is None else Decimal(str(old)),
        "ratio_to": None if new is None else Decimal(str(new)),
        "amount": None if amount is None else Decimal(str(amount)),
    }  # fmt: skip
