"""Databento's historical HTTP interface: DBN streams, metadata, symbology, batch jobs, corporate actions.

Made from the documentation (databento.com/docs/api-reference-historical) and from what the vendor's own client sends;
that client takes it for the real one. Ids are handed on from symbol to symbol every day, as they may be.
"""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any
from typing import ClassVar

import databento_dbn
import numpy as np
import zstandard

from tests.vendors import market
from tests.vendors.server import Asked
from tests.vendors.server import Reply
from tests.vendors.server import Row
from tests.vendors.server import StandIn

_SECONDS = {"ohlcv-1s": 1, "ohlcv-1m": 60, "ohlcv-1h": 3600, "ohlcv-1d": 86_400, "ohlcv-eod": 86_400}
_RTYPES = {"ohlcv-1s": 32, "ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35, "ohlcv-eod": 36, "trades": 0}
_RAW = {"XNAS.ITCH": ("AAPL", "MSFT"), "GLBX.MDP3": ("ESH4", "ESM4", "NQH4")}
_BEGINS = {"XNAS.ITCH": datetime(2018, 5, 1, tzinfo=UTC), "GLBX.MDP3": datetime(2010, 6, 6, tzinfo=UTC)}
_PUBLISHERS = {"XNAS.ITCH": 2, "GLBX.MDP3": 1}
#: ES.c.0 is ESM4 from this day on
ROLL = date(2024, 1, 4)
#: ES.v.0 is it from this day on
LATER = date(2024, 1, 5)
#: NQ.c.0 means something in these days only
LISTED = (date(2024, 1, 15), date(2024, 2, 3))
#: the capture is far away
_LATE = timedelta(seconds=5)
_DAY = timedelta(days=1)
_DOCS = "https://databento.com/docs/api-reference-historical"


def instrument_id(dataset: str, symbol: str, day: date) -> int:
    """Return a symbol's number on a day."""
    names = _RAW[dataset]
    return 101 + (names.index(symbol) + day.toordinal()) % len(names)


def stands_for(dataset: str, stype: str, symbol: str, day: date) -> list[tuple[str, str]]:
    """Return (the name its records go by, the venue's symbol) for what a symbol means on a day."""
    names = _RAW[dataset]
    if day.weekday() > 4:
        return []
    if stype == "raw_symbol":
        return [(symbol, symbol)] if symbol in names else []
    if stype == "continuous" and (dataset, symbol) == ("GLBX.MDP3", "ES.c.0"):
        return [(symbol, "ESH4" if day < ROLL else "ESM4")]
    if stype == "continuous" and (dataset, symbol) == ("GLBX.MDP3", "ES.v.0"):
        return [(symbol, "ESH4" if day < LATER else "ESM4")]
    if stype == "continuous":
        listed = LISTED[0] <= day < LISTED[1]
        return [(symbol, "NQH4")] if listed and (dataset, symbol) == ("GLBX.MDP3", "NQ.c.0") else []
    if stype == "parent":
        root, _, kind = symbol.partition(".")
        return [(name, name) for name in names if kind == "FUT" and name.startswith(root)]
    return [(symbol, name) for name in names if str(instrument_id(dataset, name, day)) == symbol]


@dataclass
class BatchJob:
    """A job that was submitted, and therefore paid."""

    id: str
    form: Mapping[str, str]
    received: datetime
    looks: int = 0
    files: dict[str, bytes] = field(default_factory=dict)


class DatabentoStandIn(StandIn):
    vendor = "databento"
    keys: ClassVar[Mapping[str, str]] = {"API_KEY": "db-0123456789abcdefghijklmnopqrs"}
    symbols: ClassVar[Mapping[str, Sequence[str]]] = dict.fromkeys(
        ("ohlcv-1m", "ohlcv-1s", "ohlcv-1h", "ohlcv-1d", "trades", "corporate_actions"), ("AAPL", "MSFT")
    )
    windows: ClassVar[Mapping[str, tuple[datetime, datetime]]] = {
        "ohlcv-1m": (datetime(2024, 1, 2, 22, tzinfo=UTC), datetime(2024, 1, 3, 2, tzinfo=UTC)),
        "ohlcv-1s": (datetime(2024, 1, 2, 23, 50, tzinfo=UTC), datetime(2024, 1, 3, 0, 10, tzinfo=UTC)),
        "ohlcv-1h": (datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)),
        "ohlcv-1d": (datetime(2023, 11, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)),
        # both ends lie on a trade's ts_recv
        "trades": (
            market.EPOCH + timedelta(seconds=243_462_600 * 7) + _LATE,
            market.EPOCH + timedelta(seconds=243_463_000 * 7) + _LATE,
        ),
        "corporate_actions": (datetime(2022, 2, 7, tzinfo=UTC), datetime(2024, 2, 7, tzinfo=UTC)),
    }

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[BatchJob] = []
        #: looks after which a batch job is done
        self.looks = 2
        self.expired = False
        #: whether downloads go on from a byte; else they begin again
        self.ranges = True
        #: downloads that arrive with a wrong byte
        self.spoiled = 0
        #: records that streams leave out, though they are whole
        self.lost = 0
        #: streams that end in the middle of their frame, as if that was all
        self.halved = 0
        #: the host that links name
        self.host = "https://hist.databento.com"
        self.warning = ""
        self.ends = datetime.now(UTC).replace(minute=20, second=30, microsecond=0) - _DAY

    def routes(self) -> Sequence[tuple[str, Callable[[Asked], Reply]]]:
        return (
            (r"/v0/timeseries\.get_range", self.get_range),
            (r"/v0/metadata\.list_datasets", lambda asked: Reply(sorted(_RAW))),
            (r"/v0/metadata\.get_dataset_range", self.get_dataset_range),
            (r"/v0/metadata\.get_record_count", lambda asked: self.figure(asked, lambda size, count: count)),
            (r"/v0/metadata\.get_billable_size", lambda asked: self.figure(asked, lambda size, count: size * count)),
            (r"/v0/metadata\.get_cost", lambda asked: self.figure(asked, lambda size, count: size * count / 2**20)),
            (r"/v0/symbology\.resolve", self.resolve),
            (r"/v0/batch\.submit_job", self.submit_job),
            (r"/v0/batch\.list_jobs", self.list_jobs),
            (r"/v0/batch\.get_job_details", self.get_job_details),
            (r"/v0/batch\.list_files", self.list_files),
            (r"/v0/batch\.download", self.download_all),
            (r"/v0/batch/download/TESTER/([^/]+)/([^/]+)", self.download),
            (r"/v0/corporate_actions\.get_range", self.corporate_actions),
        )

    def options(self, schema: str) -> Row:
        days = {"ohlcv-1d": 30, "ohlcv-1h": 3, "corporate_actions": 365}.get(schema, 1)
        return {"base_url": self.url, "dataset": "XNAS.ITCH", "days_per_page": days, "poll_seconds": 0.01}

    def refuse(self, asked: Asked) -> Reply | None:
        expected = base64.b64encode(f"{self.keys['API_KEY']}:".encode()).decode()
        if asked.headers.get("authorization") == f"Basic {expected}":
            return None
        return error(401, "auth_authentication_failed", "Authentication failed.")

    def missing(self, asked: Asked) -> Reply:
        return Reply({"detail": "Not Found"}, 404)

    def throttled(self, seconds: float) -> Reply:
        return Reply({"detail": "Rate limit exceeded."}, 429, {"Retry-After": f"{seconds:g}"})

    # -- truth ----------------------------------------------------------------------------------------------------

    def truth(self, schema: str, symbol: str, start: datetime, end: datetime) -> list[Row]:
        if schema == "corporate_actions":
            return [
                {
                    "ts_event": moment, "kind": "dividend", "amount": amount, "currency": "USD",
                    "frequency": "QTR",
                    "action_id": f"U-{symbol}-{moment:%Y%m%d}", "payable": moment + 14 * _DAY,
                }
                for moment, amount in dividends(symbol, start, end)
            ]  # fmt: skip
        if schema == "trades":
            return [
                {
                    "ts_event": trade.time, "ts_recv": trade.time + _LATE, "price": trade.price,
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

    # -- series ---------------------------------------------------------------------------------------------------

    def get_range(self, asked: Asked) -> Reply:
        if (fault := self.fault_of(asked.form)) is not None:
            return fault
        content = self.dbn(asked.form, keep_back=self.lost)
        if self.halved:
            self.halved -= 1
            content = content[: len(content) // 2]
        partly = any(not any(stood) for stood in _intervals(asked.form).values())
        headers = {"X-Warning": self.warning} if self.warning else {}
        return Reply(content, 206 if partly else 200, headers, "application/octet-stream")

    def figure(self, asked: Asked, of: Callable[[int, int], float]) -> Reply:
        if (fault := self.fault_of(asked.form)) is not None:
            return fault
        found = records(asked.form)
        return Reply(of(found.dtype.itemsize, len(found)))

    def fault_of(self, form: Mapping[str, str]) -> Reply | None:
        dataset = form.get("dataset", "")
        if (fault := _dataset_fault(dataset)) is not None:
            return fault
        start, end = _window(form)
        if start >= end:
            words = f"Invalid time range query, `start` {start} cannot be on or after `end` {end}."
            return error(422, "data_time_range_start_on_or_after_end", words)
        if start < _BEGINS[dataset]:
            words = f"`start` in query ('{start}') was before the available start of dataset {dataset}"
            return error(422, "data_start_before_available_start", f"{words} ('{_BEGINS[dataset]}').")
        if end > self.ends:
            words = f"The dataset {dataset} has data available up to '{self.ends}'. The `end` in the query ('{end}')"
            return error(422, "data_end_after_available_end", f"{words} is after the available range.")
        if form.get("schema") not in _RTYPES:
            return Reply({"detail": f"Invalid schema '{form.get('schema')}'"}, 422)
        if not any(any(stood) for stood in _intervals(form).values()):
            return error(422, "symbology_invalid_request", "None of the symbols could be resolved")
        return None

    def dbn(self, form: Mapping[str, str], keep_back: int = 0) -> bytes:
        """Return the answer as DBN, version 3, in one zstd frame."""
        start, end = _window(form)
        mappings: dict[str, list[Any]] = {}
        missing = []
        for symbol, days in _intervals(form).items():
            if not any(days):
                missing.append(symbol)
            for day, stood in zip(_days(start, end), days, strict=True):
                for name, raw in stood:
                    number = str(instrument_id(form["dataset"], raw, day))
                    mappings.setdefault(name, []).append(
                        SimpleNamespace(start_date=day, end_date=day + _DAY, symbol=number)
                    )
        metadata = databento_dbn.Metadata(
            dataset=form["dataset"],
            start=_ns(start),
            end=_ns(end),
            stype_in=databento_dbn.SType.from_str(form["stype_in"]),
            stype_out=databento_dbn.SType.INSTRUMENT_ID,
            schema=databento_dbn.Schema.from_str(form["schema"]),
            symbols=form["symbols"].split(","),
            partial=[],
            not_found=missing,
            mappings=[SimpleNamespace(raw_symbol=name, intervals=found) for name, found in mappings.items()],
        )
        found = records(form)
        content = metadata.encode() + found[: len(found) - keep_back].tobytes()
        return zstandard.ZstdCompressor().compress(content)

    def get_dataset_range(self, asked: Asked) -> Reply:
        dataset = asked.params.get("dataset", "")
        if (fault := _dataset_fault(dataset)) is not None:
            return fault
        bounds = {"start": _written(_BEGINS[dataset]), "end": _written(self.ends)}
        return Reply({**bounds, "schema": dict.fromkeys(_RTYPES, bounds)})

    def resolve(self, asked: Asked) -> Reply:
        form = asked.form
        dataset, stype = form["dataset"], form["stype_in"]
        if (fault := _dataset_fault(dataset)) is not None:
            return fault
        if (stype, form["stype_out"]) not in {
            ("raw_symbol", "instrument_id"), ("continuous", "instrument_id"), ("parent", "instrument_id"),
            ("instrument_id", "raw_symbol"),
        }:  # fmt: skip
            return error(422, "symbology_invalid_request", "Unsupported symbology combination")
        first, last = (date.fromisoformat(form[name]) for name in ("start_date", "end_date"))
        if first < _BEGINS[dataset].date():
            return error(422, "data_start_before_available_start", "`start_date` was before the available start")
        asked_symbols = list(_RAW[dataset]) if form["symbols"] == "ALL_SYMBOLS" else form["symbols"].split(",")
        days = [first + number * _DAY for number in range((last - first).days)]
        result: dict[str, list[dict[str, str]]] = {}
        missing = []
        for symbol in asked_symbols:
            found = [(day, name, raw) for day in days for name, raw in stands_for(dataset, stype, symbol, day)]
            if not found:
                missing.append(symbol)
            for day, name, raw in found:
                out = raw if stype == "instrument_id" else str(instrument_id(dataset, raw, day))
                part = {"d0": day.isoformat(), "d1": (day + _DAY).isoformat(), "s": out}
                result.setdefault(name, []).append(part)
        message, status = ("Not found", 2) if not result else ("Partially resolved", 1) if missing else ("OK", 0)
        about = {name: form[name] for name in ("stype_in", "stype_out", "start_date", "end_date")}
        said = {"result": result, "symbols": asked_symbols, "partial": [], "not_found": missing}
        return Reply({**said, **about, "message": message, "status": status})

    # -- batch jobs -----------------------------------------------------------------------------------------------

    def submit_job(self, asked: Asked) -> Reply:
        if (fault := self.fault_of(asked.form)) is not None:
            return fault
        form = dict(asked.form)
        code = form["dataset"].partition(".")[0]
        job = BatchJob(f"{code}-20240101-{len(self.jobs):010}", form, datetime.now(UTC))
        start, end = _window(form)
        name = form["dataset"].lower().replace(".", "-")
        parts = [(day, day + _DAY) for day in _days(start, end)] if form["split_duration"] == "day" else [None]
        for part in parts:
            window = dict(form)
            stamp = f"{start:%Y%m%d}-{end:%Y%m%d}"
            if part is not None:
                low, high = (datetime.combine(day, datetime.min.time(), UTC) for day in part)
                window |= {"start": max(start, low).isoformat(), "end": min(end, high).isoformat()}
                stamp = f"{part[0]:%Y%m%d}"
            if len(records(window)):
                job.files[f"{name}-{stamp}.{form['schema']}.dbn.zst"] = self.dbn(window)
        job.files["metadata.json"] = json.dumps({"job_id": job.id}).encode()
        job.files["condition.json"] = b"[]"
        self.jobs.append(job)
        return Reply(self._about(job))

    def list_jobs(self, asked: Asked) -> Reply:
        states = asked.params.get("states", "queued,processing,done").split(",")
        since = datetime.fromisoformat(asked.params["since"]) if asked.params.get("since") else market.EPOCH
        chosen = [self._about(job) for job in self.jobs if job.received >= since]
        short = [{name: job[name] for name in ("id", "state", "ts_received")} for job in chosen]
        return Reply([job for job in short if job["state"] in states])

    def get_job_details(self, asked: Asked) -> Reply:
        for job in self.jobs:
            if job.id == asked.params["job_id"]:
                job.looks += 1
                return Reply(self._about(job))
        return error(404, "batch_job_not_found", "The batch job was not found.")

    def list_files(self, asked: Asked) -> Reply:
        job = self._job(asked.params["job_id"])
        return Reply(
            [
                {
                    "filename": name, "size": len(content), "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
                    "urls": {
                        "https": f"{self.host}/v0/batch/download/TESTER/{job.id}/{name}",
                        "ftp": f"ftp://ftp.databento.com/TESTER/{job.id}/{name}",
                    },
                }
                for name, content in job.files.items()
            ]
        )  # fmt: skip

    def download(self, asked: Asked) -> Reply:
        content = self._job(asked.parts[0]).files[asked.parts[1]]
        if self.spoiled:
            self.spoiled -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = asked.headers.get("range", "")
        if not wanted or not self.ranges:
            return Reply(content, kind="application/octet-stream")
        first = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        return Reply(content[first:], 206, headers, "application/octet-stream")

    def download_all(self, asked: Asked) -> Reply:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in self._job(asked.params["job_id"]).files.items():
                archive.writestr(name, content)
        return Reply(packed.getvalue(), kind="application/zip")

    def _job(self, number: str) -> BatchJob:
        return next(job for job in self.jobs if job.id == number)

    def _about(self, job: BatchJob) -> Row:
        state = "expired" if self.expired else "done" if job.looks >= self.looks else "processing"
        return {
            "id": job.id, "user_id": "TESTER", "cost_usd": None, "state": state,
            "record_count": len(records(job.form)), "limit": None, "packaging": None,
            "ts_received": _written(job.received),
            **{
                name: job.form[name]
                for name in (
                    "dataset", "symbols", "stype_in", "stype_out", "schema", "encoding", "compression",
                    "split_duration", "delivery",
                )
            },
            "start": _written(_window(job.form)[0]), "end": _written(_window(job.form)[1]),
        }  # fmt: skip

    # -- reference ------------------------------------------------------------------------------------------------

    def corporate_actions(self, asked: Asked) -> Reply:
        start, end = _window(asked.form)
        rows = [
            {
                "ts_record": "2024-07-22T01:43:15Z", "event_unique_id": f"U-{symbol}-{moment:%Y%m%d}", "event": "DIV",
                "event_action": "I", "event_subtype": None, "event_date_label": "ex_date",
                "event_date": f"{moment:%Y-%m-%d}", "ex_date": f"{moment:%Y-%m-%d}", "symbol": symbol,
                "record_date": None, "payment_date": f"{moment + 14 * _DAY:%Y-%m-%d}", "rate_currency": "USD",
                "ratio_old": None, "ratio_new": None, "date_info": {}, "event_info": {"frequency": "QTR"},
                "rate_info": {"gross_dividend": float(amount)},
            }
            for symbol in asked.form["symbols"].split(",") if symbol in _RAW["XNAS.ITCH"]
            for moment, amount in dividends(symbol, start, end)
        ]  # fmt: skip
        if not rows and not set(asked.form["symbols"].split(",")) & set(_RAW["XNAS.ITCH"]):
            return error(422, "symbology_invalid_request", "None of the symbols could be resolved")
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return Reply(zstandard.ZstdCompressor().compress(content), kind="application/octet-stream")


def error(status: int, case: str, message: str) -> Reply:
    """Return an error in the vendor's shape."""
    return Reply({"detail": {"case": case, "message": message, "status_code": status, "docs": _DOCS}}, status)


def _dataset_fault(dataset: str) -> Reply | None:
    if dataset == "OPRA.PILLAR":
        return error(403, "license_not_found_unauthorized", f"A live data license is required to access {dataset}.")
    if dataset not in _RAW:
        return error(422, "data_dataset_not_found", f"The dataset {dataset!r} was not found.")
    return None


def trades(symbol: str, start: datetime, end: datetime) -> Iterator[market.Trade]:
    """Yield the trades that the vendor received in `[start, end)`."""
    for trade in market.trades(symbol, start - _LATE, end - _LATE):
        if (trade.time + _LATE).weekday() < 5:
            yield trade


def dividends(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, Decimal]]:
    """Yield ex-date and amount of the dividends in `[start, end)`: on the 7th of every third month."""
    for year in range(start.year, end.year + 1):
        for month in (2, 5, 8, 11):
            moment = datetime(year, month, 7, tzinfo=UTC)
            if start <= moment < end:
                yield moment, (market.price(symbol, moment) / 128).quantize(Decimal("0.0001"))


def records(form: Mapping[str, str]) -> np.ndarray:
    """Return the records of an answer, ordered by when the vendor received them."""
    return _cached(*(form[name] for name in ("dataset", "schema", "symbols", "stype_in", "start", "end")))


@cache
def _cached(dataset: str, schema: str, symbols: str, stype_in: str, begins: str, ends: str) -> np.ndarray:
    form = {"dataset": dataset, "symbols": symbols, "stype_in": stype_in, "start": begins, "end": ends}
    start, end = _window(form)
    rows: list[tuple[Any, ...]] = []
    meant = [zip(_days(start, end), days, strict=True) for days in _intervals(form).values()]
    # once, however many symbols stand for it
    for day, raw in dict.fromkeys((day, raw) for days in meant for day, stood in days for _, raw in stood):
        low = max(start, datetime.combine(day, datetime.min.time(), UTC))
        high = min(end, datetime.combine(day + _DAY, datetime.min.time(), UTC))
        rows += _rows(schema, raw, low, high, (_PUBLISHERS[dataset], instrument_id(dataset, raw, day)))
    message = databento_dbn.TradeMsg if schema == "trades" else databento_dbn.OHLCVMsg
    dtype = np.dtype(message._dtypes)
    # ts_recv of trades, ts_event of bars
    rows.sort(key=lambda row: row[11 if schema == "trades" else 4])
    return np.array([(dtype.itemsize // 4, _RTYPES[schema], *row[2:]) for row in rows], dtype)


def _rows(schema: str, symbol: str, start: datetime, end: datetime, head: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
    if schema == "trades":
        for trade in trades(symbol, start, end):
            side = b"A" if trade.buyer_is_maker else b"B"
            yield (
                0, 0, *head, _ns(trade.time), _fixed(trade.price), int(trade.size * 100), b"T", side, 128, 0,
                _ns(trade.time + _LATE), 1000, trade.id % 2**32,
            )  # fmt: skip
        return
    for bar in market.bars(symbol, _SECONDS[schema], start, end, weekdays=True):
        prices = (_fixed(price) for price in (bar.open, bar.high, bar.low, bar.close))
        yield (0, 0, *head, _ns(bar.time), *prices, int(bar.volume))


def _intervals(form: Mapping[str, str]) -> dict[str, list[list[tuple[str, str]]]]:
    """Return what each symbol stands for, day by day."""
    days = list(_days(*_window(form)))
    return {
        symbol: [stands_for(form["dataset"], form["stype_in"], symbol, day) for day in days]
        for symbol in form["symbols"].split(",")
    }


def _window(form: Mapping[str, str]) -> tuple[datetime, datetime]:
    start, end = (datetime.fromisoformat(form[name]) for name in ("start", "end"))
    return start.replace(tzinfo=start.tzinfo or UTC), end.replace(tzinfo=end.tzinfo or UTC)


def _days(start: datetime, end: datetime) -> Iterator[date]:
    day = start.date()
    while datetime.combine(day, datetime.min.time(), UTC) < end:
        yield day
        day += _DAY


def _ns(moment: datetime) -> int:
    return (moment - market.EPOCH) // timedelta(microseconds=1) * 1000


def _fixed(price: Decimal) -> int:
    return int(price * 1_000_000_000)


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}000Z"
