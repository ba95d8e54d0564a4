"""Massive's REST interface, formerly Polygon's (massive.com/docs/rest): aggregates, trades, quotes, reference, news."""

import base64
import json
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
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pandas as pd

from catalog.schemas import bar_open
from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {
    "1/second": 1, "1/minute": 60, "5/minute": 300, "15/minute": 900, "30/minute": 1800, "1/hour": 3600,
    "4/hour": 14400,
}  # fmt: skip
_RANGES = {"1s": "1/second", "1m": "1/minute", "5m": "5/minute", "15m": "15/minute", "30m": "30/minute",
           "1h": "1/hour", "4h": "4/hour", "1d": "1/day", "1w": "1/week", "1mo": "1/month"}  # fmt: skip
_KNOWN = ("AAPL", "MSFT")
_COINS = ("X:BTCUSD",)
_OLD = "TWTR"
_DAY = timedelta(days=1)
_NEW_YORK = ZoneInfo("America/New_York")
#: from the participant to the consolidated tape, in nanoseconds
WAY = 239_907


def _day(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def instant(moment: datetime) -> int:
    """Return when the participant says that something of the market happened, in nanoseconds since 1970."""
    seconds = int(moment.timestamp())
    return seconds * 1_000_000_000 + seconds * 7_654_321 % 999_000_000


def stamp(number: int) -> datetime:
    """Return nanoseconds since 1970 as a time that keeps them."""
    return pd.Timestamp(number, unit="ns", tz="UTC")


def exact(moment: datetime) -> int:
    """Return the nanoseconds since 1970 of a time."""
    return (moment - market.EPOCH) // timedelta(microseconds=1) * 1000


def _at(number: int) -> datetime:
    return market.EPOCH + timedelta(seconds=number // 1_000_000_000)


class MassiveStandIn(StandIn):
    vendor = "massive"
    forbidden = "SPX"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "massive-test-key"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        (*(f"ohlcv-{name}" for name in _RANGES), "trades", "quotes", "news", "corporate_actions"), _KNOWN
    )
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1s": (_day(2024, 1, 2), datetime(2024, 1, 2, 0, 4, tzinfo=UTC)),
        "ohlcv-1m": (_day(2024, 1, 2), datetime(2024, 1, 2, 4, tzinfo=UTC)),
        **market.WINDOWS,
        "ohlcv-1w": (_day(2022, 1, 3), _day(2024, 12, 2)),
        "ohlcv-1mo": (_day(2014, 1, 1), _day(2024, 1, 1)),
        "corporate_actions": (_day(2012, 8, 9), _day(2022, 7, 18)),
    }

    def __init__(self) -> None:
        super().__init__()
        #: the most rows a page has, whatever is asked
        self.page_most = 50_000
        #: the next answers speak of more rows than they have
        self.short = 0

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/v2/aggs/ticker/([^/]+)/range/(\d+)/(\w+)/([\d-]+)/([\d-]+)", self.aggregates),
            (r"/v3/(trades|quotes)/([^/]+)", self.ticks),
            (r"/v2/reference/news", self.news),
            (r"/v3/reference/(splits)", self.actions),
            (r"/v3/reference/(dividends)", self.actions),
            (r"/v3/reference/tickers", self.tickers),
            (r"/v1/marketstatus/now", lambda asked: Reply({"market": "closed", "afterHours": False})),
        )

    def refuse(self, asked: Asked) -> Reply | None:
        sent = asked.headers.get("authorization", "").removeprefix("Bearer ") or asked.params.get("apiKey", "")
        if not sent:
            return Reply({"status": "ERROR", "request_id": "0", "error": "API Key was not provided"}, 401)
        if sent != self.keys["API_KEY"]:
            return Reply({"status": "ERROR", "request_id": "0", "error": "Unknown API Key"}, 401)
        if f"/{self.forbidden}" in asked.path:
            words = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
            return Reply({"status": "NOT_AUTHORIZED", "request_id": "0", "message": words}, 403)
        return None

    def missing(self, asked: Asked) -> Reply:
        return Reply(b"404 page not found", 404, kind="text/plain")

    def throttled(self, seconds: float) -> Reply:
        words = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
        return Reply({"status": "ERROR", "request_id": "0", "error": words}, 429, {"Retry-After": f"{seconds:g}"})

    def options(self, schema: str) -> Row:
        few = {"news": 20, "corporate_actions": 10}
        return {"base_url": self.url, "page_rows": few.get(schema, 100), "requests_per_minute": 100_000}

    # -- what is right --------------------------------------------------------------------------------------------

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "trades":
            return [
                {
                    "ts_event": stamp(instant(trade.time)), "ts_recv": stamp(instant(trade.time) + WAY),
                    "venue": "11", "trade_id": str(trade.id), "sequence": trade.id, "price": trade.price,
                    "size": trade.size, "conditions": "12,37",
                }
                for trade in market.trades(symbol, start - _DAY / 24, end + _DAY / 24)
                if exact(start) <= instant(trade.time) + WAY < exact(end)
            ]  # fmt: skip
        if schema == "quotes":
            return [
                {
                    "ts_event": stamp(instant(quote.time)), "ts_recv": stamp(instant(quote.time) + WAY),
                    "sequence": quote.id, "bid_price": quote.bid, "bid_size": quote.bid_size, "ask_price": quote.ask,
                    "ask_size": quote.ask_size, "bid_venue": "19", "ask_venue": "15",
                }
                for quote in market.quotes(symbol, start - _DAY / 24, end + _DAY / 24)
                if exact(start) <= instant(quote.time) + WAY < exact(end)
            ]  # fmt: skip
        if schema == "news":
            return [
                {
                    "ts_event": article["published"], "article_id": article["id"], "title": article["title"],
                    "summary": article["description"], "publisher": "MarketWatch",
                    "symbols": ",".join(article["tickers"]),
                }
                for article in articles(start, end)
                if symbol in article["tickers"] and start <= article["published"] < end
            ]  # fmt: skip
        if schema == "corporate_actions":
            rows = [_row(action) for action in (*splits([symbol]), *dividends([symbol]))]
            rows = [row for row in rows if start <= row["ts_event"] < end]
            return sorted(rows, key=lambda row: (row["ts_event"], row["kind"], row["action_id"]))
        return [
            {
                "ts_event": bar.time, "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close,
                "volume": bar.volume, "trade_count": bar.trades, "vwap": bar.vwap,
            }
            for bar in bars(symbol, _RANGES[schema.removeprefix("ohlcv-")], start, end)
        ]  # fmt: skip

    # -- what is answered -----------------------------------------------------------------------------------------

    def aggregates(self, asked: Asked) -> Reply:
        params = self._params(asked)
        symbol, multiplier, span, first, last = asked.parts
        adjusted = params.get("adjusted", "true") == "true"
        about = {"ticker": symbol, "adjusted": adjusted, "status": "OK", "request_id": "0"}
        rows = list(_aggregates(symbol, f"{multiplier}/{span}", first, last, 2 if adjusted else 1))
        if symbol not in (*_KNOWN, *_COINS) or not rows:
            # no list at all
            return Reply({**about, "queryCount": 0, "resultsCount": 0})
        page, link = self._page(asked, params, rows, 5000)
        count = len(page)
        if self.short:
            self.short -= 1
            page = page[:-1]
        return Reply({**about, "queryCount": count, "resultsCount": count, "count": count, "results": page, **link})

    def ticks(self, asked: Asked) -> Reply:
        params = self._params(asked)
        kind, symbol = asked.parts
        low, high = (_nanoseconds(params.get(f"timestamp.{end}", "0")) for end in ("gte", "lt"))
        rows = list(_ticks(kind, symbol, low, high)) if symbol in (*_KNOWN, *_COINS) else []
        page, link = self._page(asked, params, rows, 1000)
        return Reply({"results": page, "status": "OK", "request_id": "0", **link})

    def news(self, asked: Asked) -> Reply:
        params = self._params(asked)
        low, high = (datetime.fromisoformat(params[f"published_utc.{end}"]) for end in ("gte", "lt"))
        rows = [
            {name: value for name, value in article.items() if name != "published"}
            for article in articles(low, high)
            if params["ticker"] in article["tickers"] and low <= article["published"] < high
        ]
        page, link = self._page(asked, params, rows, 10)
        return Reply({"results": page, "status": "OK", "request_id": "0", "count": len(page), **link})

    def actions(self, asked: Asked) -> Reply:
        params = self._params(asked)
        kind = asked.path.rpartition("/")[2]
        day = "execution_date" if kind == "splits" else "ex_dividend_date"
        made = splits([params["ticker"]]) if kind == "splits" else dividends([params["ticker"]])
        low, high = params.get(f"{day}.gte", ""), params.get(f"{day}.lt", "9")
        rows = sorted((row for row in made if low <= row[day] < high), key=lambda row: row[day])
        page, link = self._page(asked, params, rows, 10)
        return Reply({"results": page, "status": "OK", "request_id": "0", **link})

    def tickers(self, asked: Asked) -> Reply:
        params = self._params(asked)
        active = params.get("active", "true") == "true"
        common = {"locale": "us", "active": active, "last_updated_utc": "2024-06-28T00:00:00Z"}
        stocks = {**common, "market": "stocks", "primary_exchange": "XNAS", "type": "CS", "currency_name": "usd"}
        listed = [
            {**stocks, "ticker": name, "name": f"{name} Inc.", "composite_figi": f"BBG-{name}"}
            for name in (_KNOWN if active else (_OLD,))
        ]
        if active:
            listed += [
                {
                    **common, "ticker": name, "name": "Bitcoin - United States dollar", "market": "crypto",
                    "currency_symbol": "USD", "currency_name": "United States dollar", "base_currency_symbol": "BTC",
                }
                for name in _COINS
            ]  # fmt: skip
        wanted = params.get("search", "").upper()
        rows = [
            row for row in listed
            if params.get("ticker", row["ticker"]) == row["ticker"]
            and (wanted in row["ticker"] or wanted in row["name"].upper())
        ]  # fmt: skip
        page, link = self._page(asked, params, rows, 100)
        return Reply({"results": page, "status": "OK", "request_id": "0", "count": len(page), **link})

    def _params(self, asked: Asked) -> dict[str, str]:
        """Return what was asked at first: of a next page only the cursor is sent."""
        cursor = asked.params.get("cursor")
        return json.loads(base64.urlsafe_b64decode(cursor)) if cursor else dict(asked.params)

    def _page(
        self, asked: Asked, params: Mapping[str, str], rows: Sequence[Any], usual: int
    ) -> tuple[Sequence[Any], Row]:
        first = int(params.get("at", 0))
        last = first + min(int(params.get("limit", usual)), self.page_most)
        if last >= len(rows):
            return rows[first:last], {}
        cursor = base64.urlsafe_b64encode(json.dumps({**params, "at": str(last)}).encode()).decode()
        # the vendor links to itself, wherever it was asked
        link = f"https://api.massive.com{quote(asked.path, safe='/%')}?cursor={quote(cursor)}"
        return rows[first:last], {"next_url": link}


def _nanoseconds(text: str) -> int:
    if text.isdigit():
        return int(text)
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def _moment(text: str, *, end: bool) -> datetime:
    if text.isdigit():
        return market.EPOCH + timedelta(milliseconds=int(text))
    day = datetime.fromisoformat(text).replace(tzinfo=_NEW_YORK)
    return (day + _DAY - timedelta(milliseconds=1) if end else day).astimezone(UTC)


def _aggregates(symbol: str, span: str, first: str, last: str, factor: int) -> Iterable[Row]:
    """Yield the bars that overlap the window: both ends are snapped outward."""
    low, high = _moment(first, end=False), _moment(last, end=True)
    before, after = (timedelta(seconds=_SECONDS[span]),) * 2 if span in _SECONDS else (40 * _DAY, _DAY)
    for bar in bars(symbol, span, low - before, high + after):
        begin, end = extent(bar.time, span, symbol)
        if end > low and begin <= high:
            prices = {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close, "vw": bar.vwap}
            numbers = {name: float(price / factor) for name, price in prices.items()}
            yield {
                "v": float(bar.volume), **numbers, "t": int(begin.timestamp() * 1000), "n": bar.trades
            }  # fmt: skip


def extent(label: datetime, span: str, symbol: str) -> tuple[datetime, datetime]:
    """Return when a bar of ours begins and ends here: days at midnight in New York (pairs: UTC), weeks on Sunday."""
    if span in _SECONDS:
        return label, label + timedelta(seconds=_SECONDS[span])
    after = {"1/day": label + _DAY, "1/week": label + 7 * _DAY, "1/month": bar_open(label + 31 * _DAY, "1mo")}[span]
    shift = _DAY if span == "1/week" else timedelta(0)
    zone = UTC if symbol in _COINS else _NEW_YORK
    begin, end = ((moment - shift).replace(tzinfo=zone).astimezone(UTC) for moment in (label, after))
    return begin, end


def bars(symbol: str, span: str, start: datetime, end: datetime) -> Iterable[market.Bar]:
    """Yield the market's bars by our label; stocks have none at the weekend."""
    if span in _SECONDS or span == "1/day":
        yield from market.bars(
            symbol, _SECONDS.get(span, 86400), start, end, weekdays=span == "1/day" and symbol not in _COINS
        )
        return
    ours = "1w" if span == "1/week" else "1mo"
    at = bar_open(start, ours)
    while at < end:
        following = bar_open(at + (7 if ours == "1w" else 31) * _DAY, ours)
        if at >= start:
            yield market.bar(symbol, at, following - at)
        at = following


def _ticks(kind: str, symbol: str, low: int, high: int) -> Iterable[Row]:
    window = (_at(low) - _DAY / 24, _at(high) + _DAY / 24)
    pair = symbol in _COINS
    if kind == "trades":
        rows: Iterable[Row] = (
            {
                "conditions": [12, 37], "exchange": 11, "id": str(trade.id), "price": float(trade.price),
                "sequence_number": trade.id, "participant_timestamp": instant(trade.time), "tape": 3,
                "size": float(trade.size),
            }
            for trade in market.trades(symbol, *window)
        )  # fmt: skip
    else:
        rows = (
            {
                "ask_exchange": 15, "ask_price": float(quote.ask), "ask_size": int(quote.ask_size), "bid_exchange": 19,
                "bid_price": float(quote.bid), "bid_size": int(quote.bid_size), "sequence_number": quote.id,
                "participant_timestamp": instant(quote.time), "tape": 3,
            }
            for quote in market.quotes(symbol, *window)
        )  # fmt: skip
    for row in rows:
        time = row["participant_timestamp"] + (0 if pair else WAY)
        if low <= time < high:
            if pair:
                unsaid = ("sequence_number", "tape")
                yield {name: value for name, value in row.items() if name not in unsaid}
            else:
                yield {**row, "sip_timestamp": time}


def articles(start: datetime, end: datetime) -> Iterable[Row]:
    """Yield one article every three hours."""
    step = timedelta(hours=3)
    for number in range((start - market.EPOCH) // step, (end - market.EPOCH) // step + 1):
        at = market.EPOCH + number * step
        yield {
            "id": f"article{number}", "published": at, "published_utc": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "publisher": {"name": "MarketWatch", "homepage_url": "https://marketwatch.example/"},
            "title": f"Title {number}", "author": "Someone", "article_url": f"https://news.example/{number}",
            "tickers": [list(_KNOWN), ["AAPL"], ["MSFT"], ["QCOM", "MSFT"]][number % 4],
            "description": f"What happened at {at:%H:%M}.",
        }  # fmt: skip


def splits(names: Sequence[str]) -> list[Row]:
    """Return the splits of symbols, one of them backward."""
    days = {"2014-06-09": (1, 7), "2020-08-31": (1, 4), "2021-08-02": (30, 1), "2022-07-18": (1, 20)}
    return [
        {"id": f"S{name}{day}", "execution_date": day, "split_from": old, "split_to": new, "ticker": name}
        for name in names
        if name in _KNOWN
        for day, (old, new) in days.items()
    ]


def dividends(names: Sequence[str]) -> list[Row]:
    """Return the dividends of symbols, one every quarter, some of them special or a gain."""
    made = []
    for name in names:
        for number in range(60 if name in _KNOWN else 0):
            day = date(2012, 8, 9) + 91 * number * _DAY
            made.append(
                {
                    "id": f"D{name}{number}", "dividend_type": ("CD", "CD", "SC", "LT")[number % 4],
                    "cash_amount": (1000 + number * 7) / 10_000, "currency": "USD", "frequency": 4, "ticker": name,
                    "declaration_date": (day - 10 * _DAY).isoformat(), "ex_dividend_date": day.isoformat(),
                    "pay_date": (day + 7 * _DAY).isoformat(), "record_date": (day + _DAY).isoformat(),
                }
            )  # fmt: skip
    return made


def _row(action: Row) -> Row:
    if "execution_date" in action:
        return {
            "ts_event": _utc(action["execution_date"]), "kind": "split", "action_id": action["id"],
            "ratio_from": Decimal(action["split_from"]), "ratio_to": Decimal(action["split_to"]), "amount": None,
        }  # fmt: skip
    kind = "capital_gain" if action["dividend_type"] == "LT" else "dividend"
    return {
        "ts_event": _utc(action["ex_dividend_date"]), "kind": kind, "action_id": action["id"], "ratio_from": None,
        "amount": Decimal(str(action["cash_amount"])), "currency": "USD", "frequency": "4",
        "declared": _utc(action["declaration_date"]), "record_date": _utc(action["record_date"]),
        "payable": _utc(action["pay_date"]),
    }  # fmt: skip


def _utc(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
