"""`manage.py stream`: every source in a thread, a line now and then, and an end that loses nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from pytest_django import Settings
from rich.console import Console

from catalog.management.commands import stream
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Run
from catalog.models import TimeSeries
from flows import stream as streaming
from flows.alive import Summary
from flows.claims import Claim
from flows.claims import held
from flows.snapshot import KeySeen
from flows.snapshot import Refusal
from flows.snapshot import RouteSeen
from flows.snapshot import Snapshot
from flows.snapshot import summary
from flows.stream import Stream
from flows.stream import Streams
from flows.terminal import LiveTable
from tests.flows.catalogs import series
from tests.flows.coins import Coins
from tests.flows.coins import is_whole
from tests.flows.coins import whole
from tests.flows.live.kit import eventually

pytestmark = pytest.mark.django_db(transaction=True)

REPOSITORY = Path(__file__).parents[3]


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("stream", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_stream_stores_what_is_heard_and_what_was_before(database: str) -> None:
    with Coins() as market:
        source = market.source()
        made = market.series(source, "c", "BTCUSDT", "ETHUSDT", minutes=1)
        printed = run("--seconds", "8")
        assert whole(made) > 60
        assert whole(made, "ETHUSDT") > 60
    assert "coins: connected; " in printed
    assert "trades → db: " in printed
    record = Run.objects.get()
    assert (record.kind, record.status, record.source) == ("realtime", "completed", source)
    assert not held(f"live-{source.pk}")


def test_a_source_that_cannot_run_does_not_stop_the_others() -> None:
    series("old", ["AAPL"])
    TimeSeries.objects.update(extractor_type="realtime")
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        market.series(market.source("locked", trades="nonsense"), "d", "BTCUSDT")
        printed = run("--seconds", "7")
        assert whole(made)
    assert "prices: ended; ConfigError: vendor 'files' has no realtime data" in printed
    assert "locked: ended; ConfigError: source 'locked': option 'trades' 'nonsense' is wrong" in printed


def test_where_nothing_can_run_it_says_why_and_fails() -> None:
    series("old", ["AAPL"])
    TimeSeries.objects.update(extractor_type="realtime")
    with pytest.raises(CommandError, match="nothing can be streamed:\nprices: ConfigError: vendor 'files'"):
        run()


def test_a_selection_must_name_what_there_is() -> None:
    series("old", ["AAPL"])
    with pytest.raises(CommandError, match="source 'nope' is unknown; have: prices"):
        run("--source", "nope")
    with pytest.raises(CommandError, match="nothing in this selection is active and realtime"):
        run("--source", "prices")
    assert "waiting for the catalog" in run("--seconds", "0.1")


def test_a_second_process_waits_for_the_first(database: str) -> None:
    with Coins() as market:
        source = market.source()
        made = market.series(source, "c", "BTCUSDT", minutes=0.1)
        first = Claim(f"live-{source.pk}")
        assert first.take()
        assert held(first.name)
        assert not Claim(first.name).take()
        assert "coins: waiting: another process streams this source" in run("--seconds", "1.5")
        assert not Run.objects.exists()
        first.release()
        assert not held(first.name)
        run("--seconds", "7")
        assert whole(made)


def test_streams_follow_the_catalog() -> None:
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        streams = Streams()
        streams.follow()
        other = market.series(market.source("more"), "d", "ETHUSDT", minutes=0.1)
        streams.follow()
        try:
            begun = timezone.now()
            eventually(lambda: is_whole(other, begun, "ETHUSDT"), 40)
            DataSource.objects.filter(name="coins").update(active=False)
            streams.follow()
            assert eventually(streams.running["coins"].ended.is_set) is True
            streams.follow()
            assert list(streams.running) == ["more"]
        finally:
            streams.stop()
            eventually(lambda: streams.ended)
        assert whole(other, "ETHUSDT")
        assert Fetch.objects.filter(source=made.source, complete=False).count() == 0


def test_what_failed_for_good_is_begun_again_when_the_catalog_says_something_else() -> None:
    with Coins() as market:
        source = market.source(trades="nonsense")
        made = market.series(source, "c", "BTCUSDT", minutes=0.1)
        streams = Streams()
        streams.follow()
        eventually(lambda: streams.failed)
        failed = streams.running["coins"]
        streams.follow()
        assert streams.running["coins"] is failed
        source.options = {**source.options, "trades": "aggregated"}
        source.save()
        streams.follow()
        try:
            begun = timezone.now()
            eventually(lambda: is_whole(made, begun), 40)
        finally:
            streams.stop()
            eventually(lambda: streams.ended)
        assert whole(made)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_delivers_what_it_has_and_exits_with_0(
    number: int, settings: Settings, database_url: str, tmp_path: Path
) -> None:
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.2)
        with child(settings, database_url, tmp_path / "out.log") as process:
            begun = timezone.now()
            eventually(lambda: is_whole(made, begun), 60)
            told = time.monotonic()
            process.send_signal(number)
            assert process.wait(30) == 0, (tmp_path / "out.log").read_text()
            assert time.monotonic() - told < 10
        assert whole(made)
    assert Run.objects.get().status == "completed"
    assert not Fetch.objects.filter(complete=False).exists()


def test_told_to_end_twice_it_ends_at_once() -> None:
    connections.close_all()
    pid = os.fork()
    if not pid:
        with stream._Ending() as ending:
            os.kill(os.getpid(), signal.SIGINT)
            # a process that comes here with another code has not been told, or has not ended
            while not ending.told:
                pass
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGINT


def test_on_a_terminal_it_is_a_table(db: None) -> None:
    out = StringIO()
    keys = tuple(
        KeySeen(f"coins:crypto:C{number}:trades", "c", 1_000 + number, 12.34, None, 0.5, 0.25, 0)
        for number in range(40)
    )
    routes = (RouteSeen("trades", "db", 5, 7, ""), RouteSeen("quotes", "other", 0, 0, ""))
    shown = Snapshot("coins", "connected", errors=("[red] is wrong",), keys=keys, routes=routes)
    with LiveTable(Console(file=out, force_terminal=True, width=160, height=20)) as table:
        table.show([shown])
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "coins: connected; 0 messages, 40,780 rows, 493.6 a second; newest 0.5 s ago; " in printed
    assert "[red] is wrong" in printed
    # it is drawn once more at the end
    row, _ = (line for line in printed.splitlines() if "coins:crypto:C0:trades" in line)
    assert row.replace("│", " ").split() == [
        "coins:crypto:C0:trades",
        "1,000",
        "12.3",
        "0.5",
        "0.25",
        "0",
        "db",
        "(7",
        "frames",
        "behind)",
    ]
    assert "… 26 more" in printed


def test_status_says_who_is_streamed_and_until_when_it_was_heard(db: None) -> None:
    with Coins() as market:
        source = market.source()
        market.series(source, "c", "BTCUSDT")
        series("old", ["AAPL"])
        claim = Claim(f"live-{source.pk}")
        rows = [status()]
        claim.take()
        now = timezone.now().replace(microsecond=0)
        Fetch.objects.create(source=source, schema="trades", live=True, start=now, end=now)
        rows.append(status())
        claim.release()
    assert [row["coins"]["live"] for row in rows] == ["not running", "starting"]
    assert [row["coins"]["heard_until"] for row in rows] == [None, f"{now:%Y-%m-%dT%H:%M:%SZ}"]
    assert rows[0]["prices"]["live"] is None


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table_is_drawn_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(stream, "_LOOK", 0.2)
    with Coins() as market:
        market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        out = Terminal()
        call_command("stream", "--seconds", "3", stdout=out)
    printed = out.getvalue()
    assert printed.count("\x1b[1A\x1b[2K") > 5
    # a line end here leaves the first line of the table behind
    assert "\x1b[2K\n" not in printed


def test_on_a_narrow_terminal_a_row_is_a_line(db: None) -> None:
    out = StringIO()
    keys = [
        KeySeen(f"try-binance-live:crypto:{symbol}:ohlcv-1m", "c", 123_456, 1_234.5, timezone.now(), 0.5, 0.25, 0)
        for symbol in ("BTCUSDT", "X" * 60)
    ]
    routes = (RouteSeen("ohlcv-1m", "try-warehouse", 5, 7, ""),)
    with LiveTable(Console(file=out, force_terminal=True, width=80, height=20)) as table:
        table.show([Snapshot("coins", "connected", keys=tuple(keys), routes=routes)])
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines()
    assert len([line for line in lines if "│" in line]) == 2 * len(keys)
    assert all(len(line) <= 80 for line in lines)
    assert "try-binance-live:crypto:BTCUSDT:ohlcv-1m" in "".join(lines)
    assert "1,234.5" in "".join(lines)


def test_status_says_how_a_stream_goes(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_TELL", 0.5)
    with Coins() as market:
        source = market.source(first_pause=30, longest_pause=30)
        market.series(source, "c", "BTCUSDT", minutes=0.1)
        market.series(source, "d", "not-a-symbol", minutes=0.1)
        assert status()["coins"]["live"] == "not running"
        one = Stream("coins")
        one.start()
        try:
            # an answer is a message too: a row has come when there is a lag
            row = eventually(
                lambda: (found := status()["coins"])["messages_a_second"] and found["lag_seconds"] is not None and found
            )
            assert row["live"] == "connected"
            assert (row["reconnects"], row["refused"], row["known_gaps"]) == (0, 1, 0)
            assert "refused: trades of not-a-symbol: " in row["live_error"]
            (record,) = Run.objects.all()
            assert set(record.live["series"]) == {"c", "d"}
            assert record.live["series"]["c"]["rows"] > 0
            assert record.live["refused"][0]["series"] == "d"

            market.live.refuse(times=1000)
            market.live.rst()
            row = eventually(lambda: (found := status()["coins"])["live"] == "reconnecting" and found)
            assert "Error" in row["live_error"]
            # a process that hangs writes nothing more, and still holds the claim
            old = {**Run.objects.get().live, "at": (timezone.now() - timedelta(minutes=2)).isoformat()}
            monkeypatch.setattr(Stream, "seen_by", lambda *_: 1 / 0)
            time.sleep(1.5)
            Run.objects.update(live=old)
            row = status()["coins"]
            assert row["live"] == "not reporting"
            assert row["messages_a_second"] is None
        finally:
            one.stop()
            assert one.ended.wait(20)
    assert status()["coins"]["live"] == "not running"


def test_a_store_that_takes_no_summary_does_not_disturb_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_TELL", 0.5)
    with Coins() as market:
        made = market.series(market.source(), "c", "BTCUSDT", minutes=0.1)
        one = Stream("coins")
        one.start()
        eventually(lambda: one.live)
        with connections["default"].schema_editor() as editor:
            editor.execute("ALTER TABLE catalog_run RENAME COLUMN live TO gone")
        try:
            begun = timezone.now()
            eventually(lambda: is_whole(made, begun + timedelta(seconds=2)), 40)
        finally:
            with connections["default"].schema_editor() as editor:
                editor.execute("ALTER TABLE catalog_run RENAME COLUMN gone TO live")
        try:
            eventually(lambda: (told := Run.objects.get().live) and told["state"] == "connected")
        finally:
            one.stop()
            assert one.ended.wait(20)
        assert whole(made)
    assert Run.objects.get().live["state"] == "ended"


def test_what_is_kept_of_a_run_is_bounded() -> None:
    now = timezone.now()
    keys = [KeySeen(f"coins:crypto:C{n}:trades", f"s{n % 600}", 1, 1.0, now, 0.5, 0.25, 0) for n in range(1_200)]
    refused = [Refusal("trades", f"C{n}", "s", "no" * 2_000) for n in range(1_000)]
    shown = Snapshot("coins", "connected", keys=tuple(keys), refused=tuple(refused))
    told = summary(shown, "connected", now)
    assert len(told.series) == 500
    assert told.series["s1"]["rows"] == 2
    assert (len(told.refused), told.refusals) == (100, 1_000)
    assert len(json.dumps(told.written())) < 200_000
    again = Summary.read(json.loads(json.dumps(told.written())))
    assert again
    assert (again.series, again.refused, again.lag) == (told.series, told.refused, 0.25)


def status() -> dict[str, dict[str, Any]]:
    out = StringIO()
    call_command("status", "--format", "json", stdout=out)
    return {row["source"]: row for row in map(json.loads, out.getvalue().splitlines())}


def child(settings: Settings, database_url: str, output: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "dataflow_site.settings",
        "DATABASE_URL": database_url,
        "LANDING_URL": settings.LANDING_URL,
    }
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "manage.py"), "stream"], env=environment, stdout=file, stderr=file
        )
