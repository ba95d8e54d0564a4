"""Realtime series in the admin: what they may be, what their buttons show, who is streamed, what was not heard."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from catalog.models import Coverage
from catalog.models import DataSource
from catalog.models import Fetch
from catalog.models import Gap
from catalog.models import Instrument
from catalog.models import Route
from catalog.models import Run
from catalog.models import TimeSeries
from flows.claims import Claim
from tests.catalog.admin.pages import errors
from tests.catalog.admin.pages import save
from tests.catalog.admin.pages import text
from tests.catalog.admin.pages import url
from tests.catalog.admin.test_operations import Prefect
from tests.catalog.admin.test_operations import prefect
from tests.catalog.admin.test_operations import told

__all__ = ["prefect"]

FLUX = {
    "url": "wss://feed.example.com/v1",
    "subscribe": {"op": "subscribe", "args": "{list}"},
    "events": {
        "trades": {
            "channel": "trades@{symbol}",
            "when": {"e": "trade"},
            "symbol": "s",
            "fields": {"ts_event": "t", "price": "p", "size": "q"},
        }
    },
}


@pytest.fixture
def live(shop: SimpleNamespace) -> SimpleNamespace:
    """A source of coins with one realtime series, beside the shop."""
    source = DataSource.objects.create(name="coins", vendor="binance")
    series = TimeSeries.objects.create(series_id="ticks", source=source, schema="trades", extractor_type="realtime")
    series.assets.set(shop.assets[:1])
    instrument = Instrument.objects.create(source=source, asset=shop.assets[0])
    return SimpleNamespace(source=source, series=series, instrument=instrument)


def heard(live: SimpleNamespace, seconds: float) -> Fetch:
    """A connection that was heard until some seconds ago."""
    now = timezone.now()
    run = Run.objects.create(source=live.source, kind="realtime")
    made = Fetch.objects.create(
        run=run, source=live.source, schema="trades", start=now, end=now - timedelta(seconds=seconds), live=True
    )
    Coverage.objects.create(fetch=made, instrument=live.instrument, start=now - timedelta(hours=1), end=made.end)
    return made


@pytest.mark.parametrize(
    ("field", "changes", "fault"),
    [
        ("schedule", {"schedule": "0 22 * * 1-5"}, "a realtime series streams all the time; leave it empty"),
        (
            "schema",
            {"schema": "tbbo"},
            "source 'coins' (binance) streams no 'tbbo'; it streams: mbp-10, ohlcv-15m",
        ),
        ("extractor_type", {"source": "eod"}, "vendor 'files' has no realtime data; vendors that do: "),
    ],
)
def test_a_realtime_series_is_of_a_vendor_that_streams_its_schema_and_has_no_schedule(
    field: str, changes: dict[str, str], fault: str, live: SimpleNamespace, shop: SimpleNamespace, boss: Client
) -> None:
    sent = {name: shop.source.pk if value == "eod" else value for name, value in changes.items()}
    response = save(boss, url("timeseries", "change", live.series.pk), "timeseries_form", **sent)
    assert fault in " ".join(errors(response)[field])
    assert save(boss, url("timeseries", "change", live.series.pk), "timeseries_form").status_code == 302


def test_a_historical_series_is_of_a_vendor_with_a_past(live: SimpleNamespace) -> None:
    # quotes are streamed, and nobody has those of yesterday
    live.series.schema = "quotes"
    live.series.clean()
    live.series.extractor_type = "historical"
    with pytest.raises(ValidationError, match="has no history of 'quotes'; it has that of: "):
        live.series.clean()


def test_a_series_asks_for_what_the_options_of_its_source_describe(live: SimpleNamespace, tmp_path: Path) -> None:
    live.source.vendor, live.source.options = "flux", FLUX
    live.source.save()
    live.series.clean()
    live.series.schema = "quotes"
    with pytest.raises(ValidationError, match=r"source 'coins' \(flux\) streams no 'quotes'; it streams: trades"):
        live.series.clean()
    file = tmp_path / "catalog.yaml"
    file.write_text(
        "version: 1\nseries:\n"
        "- {series_id: more, source: coins, schema: quotes, extractor_type: realtime, assets: ['equity:AAPL']}\n"
    )
    with pytest.raises(CommandError, match=r"streams no 'quotes'; it streams: trades"):
        call_command("import_catalog", str(file), stdout=StringIO())


def test_a_series_whose_rows_go_nowhere_is_told_of(
    live: SimpleNamespace, shop: SimpleNamespace, boss: Client, tmp_path: Path
) -> None:
    words = "has no route: what is collected of it goes nowhere"
    response = save(boss, url("timeseries", "change", live.series.pk), "timeseries_form")
    assert [str(one) for one in get_messages(response.wsgi_request) if words in str(one)] == [
        f"Series 'ticks' {words}."
    ]
    response = save(boss, url("timeseries", "change", shop.series.pk), "timeseries_form")
    assert not [one for one in get_messages(response.wsgi_request) if words in str(one)]

    file, out, err = tmp_path / "catalog.yaml", StringIO(), StringIO()
    file.write_text(
        "version: 1\nseries:\n- {series_id: more, source: eod, schema: ohlcv-1d, assets: ['equity:MSFT']}\n"
    )
    call_command("import_catalog", str(file), stdout=out)
    assert f"series 'more' {words}" in out.getvalue()
    call_command("series", "--format", "json", stdout=(listed := StringIO()))
    nowhere = [
        row["series"] for row in map(json.loads, listed.getvalue().splitlines()) if row["destination"] == "no route"
    ]
    assert nowhere == ["more", "ticks"]
    call_command("plan", "--format", "json", stdout=(planned := StringIO()), stderr=err)
    jobs = {row["source"]: row for row in map(json.loads, planned.getvalue().splitlines())}
    assert err.getvalue().splitlines() == [f"series 'more' {words}", f"series 'ticks' {words}"]
    # what is live is planned too
    assert (jobs["coins"]["live"], jobs["coins"]["destinations"]) == ("AAPL", "no route")
    assert jobs["coins"]["unheard"] == "is fetched from history"
    assert jobs["eod"]["live"] is None


def test_known_gaps_of_a_series_are_counted_and_named(live: SimpleNamespace, shop: SimpleNamespace) -> None:
    Route.objects.create(series=live.series, destination=shop.database, home=True)
    for minute in (1, 5):
        Gap.objects.create(
            instrument=live.instrument, schema="trades", start=f"2026-01-01T00:0{minute}Z",
            end=f"2026-01-01T00:0{minute + 1}Z",
        )  # fmt: skip

    def listed(*arguments: str) -> dict[str, Any]:
        call_command("series", "--format", "json", *arguments, stdout=(out := StringIO()))
        return {row["series"]: row for row in map(json.loads, out.getvalue().splitlines())}

    assert listed()["ticks"]["known_gaps"] == 2
    assert listed("ticks")["ticks"]["known_gaps"] == 2
    assert listed("--gaps")["ticks"]["known_gaps"] == (
        "2026-01-01T00:01:00Z – 2026-01-01T00:02:00Z, 2026-01-01T00:05:00Z – 2026-01-01T00:06:00Z"
    )


def test_no_schedule_is_set_where_one_of_the_series_is_realtime(live: SimpleNamespace, boss: Client) -> None:
    rows = TimeSeries.objects.values_list("pk", flat=True)
    posted = {"action": "set_schedule", "_selected_action": [*rows], "apply": "1", "timezone": "UTC"}
    page = text(boss.post(url("timeseries"), posted | {"schedule": "0 22 * * *"}))
    assert "1 of the series are realtime" in page
    assert not TimeSeries.objects.exclude(schedule="").exists()


def test_plan_shows_what_is_subscribed_and_what_becomes_of_the_rest(live: SimpleNamespace, boss: Client) -> None:
    page = text(boss.post(url("timeseries", "plan", live.series.pk)))
    assert "coins · trades · live" in page
    assert "<code>AAPL</code>" in page
    assert "is fetched from the vendor&#x27;s history" in page or "is fetched from the vendor's history" in page
    live.series.schema = "quotes"
    live.series.save()
    assert "is a known gap: the vendor has no history of it" in text(
        boss.post(url("datasource", "plan", live.source.pk))
    )


def test_plan_of_a_source_shows_both_its_past_and_what_is_live(live: SimpleNamespace, boss: Client) -> None:
    bars = TimeSeries.objects.create(
        series_id="bars", source=live.source, schema="ohlcv-1d", start="2024-01-01T00:00Z", end="2024-01-03T00:00Z"
    )
    bars.assets.set(live.series.assets.all())
    response = boss.post(url("datasource", "plan", live.source.pk))
    assert response.context["faults"] == []
    assert [(item["job"].schema, item.get("live", False)) for item in response.context["jobs"]] == [
        ("ohlcv-1d", False),
        ("trades", True),
    ]


def test_buttons_of_a_vendor_that_has_nothing_but_a_present(live: SimpleNamespace, boss: Client) -> None:
    live.source.vendor, live.source.options = "flux", FLUX
    live.source.clean()
    live.source.save()
    page = text(boss.post(url("timeseries", "plan", live.series.pk)))
    assert "is a known gap" in page
    assert "no historical series" in text(boss.post(url("datasource", "first-rows", live.source.pk)))
    assert "bg-green-100" in text(boss.post(url("datasource", "check", live.source.pk)))
    assert boss.get(url("datasource", "change", live.source.pk)).status_code == 200
    TimeSeries.objects.filter(pk=live.series.pk).update(extractor_type="historical")
    for name in ("plan", "first-rows"):
        assert "vendor &#x27;flux&#x27; has no historical data" in text(
            boss.post(url("timeseries", name, live.series.pk))
        )


def test_run_now_submits_the_deployment_that_streams(
    prefect: type[Prefect], live: SimpleNamespace, boss: Client
) -> None:
    DataSource.objects.filter(name="coins").update(name="eod2")
    response = boss.post(url("timeseries", "run", live.series.pk), follow=True)
    assert "run manage.py sync_deployments" in told(response)
    Prefect.deployments = {"/api/deployments/name/realtime/eod2": "d-2"}
    response = boss.post(url("timeseries", "run", live.series.pk), follow=True)
    assert prefect.asked == [("/api/deployments/d-2/create_flow_run", {"parameters": {"source": "eod2"}})]
    assert "Where a stream runs already the new run is cancelled." in told(response)


def test_run_now_says_how_to_stream_without_prefect(
    live: SimpleNamespace, boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    response = boss.post(url("timeseries", "run", live.series.pk), follow=True)
    assert "Not started: realtime series run until they are told to end: by manage.py stream" in told(response)


TOLD = {
    "state": "reconnecting", "since": "2026-01-01T00:00:00+00:00", "error": "TransientError: no network",
    "messages": 1234, "per_second": 12.5, "rows": 1200, "reconnects": 3, "lag": 0.25, "behind": 7, "refusals": 1,
    "refused": [{"schema": "trades", "symbol": "NOPE", "series": "ticks", "reason": "unknown symbol"}],
    "series": {"ticks": {"rows": 1200, "per_second": 11.5, "newest": "2026-01-01T00:00:01+00:00"}},
}  # fmt: skip


def told_by(run: Run, **changes: Any) -> None:
    """What a run writes of itself."""
    run.live = {"at": timezone.now().isoformat(), **TOLD, **changes}
    run.save()


@pytest.fixture
def claimed(live: SimpleNamespace) -> Iterator[None]:
    """A process that streams the source."""
    claim = Claim(f"live-{live.source.pk}")
    assert claim.take()
    yield
    claim.release()


def test_the_first_page_says_until_when_a_source_was_heard(live: SimpleNamespace, boss: Client, nobody: Client) -> None:
    (row,) = boss.get("/admin/").context["live"]["rows"]
    assert "not running" in row[1]
    assert row[2:8] == ["–", "–", "–", "–", "never heard", "1"]
    heard(live, 30)
    Gap.objects.create(
        instrument=live.instrument, schema="trades", start="2026-01-01T00:00Z", end="2026-01-01T00:01Z", reason="r"
    )
    (row,) = boss.get("/admin/").context["live"]["rows"]
    assert re.search(r"\((3\d|4\d) s ago\)", row[6])
    assert ">1</a>" in row[8]
    assert "live" not in nobody.get("/admin/").context
    # what was heard and what was missed of a source stay to be seen when it is switched off
    TimeSeries.objects.update(active=False)
    (row,) = boss.get("/admin/").context["live"]["rows"]
    assert "switched off" in row[1]
    assert ">1</a>" in row[8]
    live.series.delete()
    assert boss.get("/admin/").context["live"] is None


@pytest.mark.usefixtures("claimed")
def test_a_process_that_runs_is_not_a_connection(live: SimpleNamespace, boss: Client) -> None:
    run = heard(live, 30).run
    assert run

    def row() -> list[str]:
        (found,) = boss.get("/admin/").context["live"]["rows"]
        return list(map(str, found))

    assert "starting" in row()[1]
    told_by(run)
    shown = row()
    assert ">reconnecting<" in shown[1]
    assert "text-red" in shown[1]
    assert "TransientError: no network" in shown[1]
    assert shown[2:5] == ["12.5", "0.250\N{NO-BREAK SPACE}s", "3"]
    assert "trades of NOPE: unknown symbol" in shown[5]
    told_by(run, state="connected")
    shown = row()
    assert "text-green" in shown[1]
    # it is over
    assert "no network" not in shown[1]
    told_by(run, at=(timezone.now() - timedelta(minutes=2)).isoformat())
    assert ">not reporting<" in row()[1]
    assert "what follows is of then" in row()[1]


@pytest.mark.usefixtures("claimed")
def test_pages_of_a_run_a_source_and_a_series_say_how_it_goes(
    live: SimpleNamespace, boss: Client, django_assert_max_num_queries: Any
) -> None:
    run = heard(live, 30).run
    assert run
    other = TimeSeries.objects.create(series_id="other", source=live.source, schema="trades", extractor_type="realtime")
    told_by(run, series=TOLD["series"] | {"other": {"rows": 1, "per_second": 0.0, "newest": None}})
    for page in (url("run", "change", run.pk), url("datasource", "change", live.source.pk)):
        shown = text(boss.get(page))
        for words in ("reconnecting", "TransientError: no network", "unknown symbol", "<td class", ">1200<", ">other<"):
            assert words in shown, words
    shown = text(boss.get(url("timeseries", "change", live.series.pk)))
    assert "unknown symbol" in shown
    assert ">1200<" in shown
    shown = text(boss.get(url("timeseries", "change", other.pk)))
    assert "reconnecting" in shown
    assert "unknown symbol" not in shown
    assert ">1200<" not in shown
    # of a historical run there is nothing of the kind
    past = Run.objects.create(source=live.source)
    assert "live_run" not in text(boss.get(url("run", "change", past.pk)))
    for number in range(12):
        source = DataSource.objects.create(name=f"more{number}", vendor="binance")
        TimeSeries.objects.create(series_id=f"m{number}", source=source, schema="trades", extractor_type="realtime")
        told_by(Run.objects.create(source=source, kind="realtime"))
    with django_assert_max_num_queries(20):
        boss.get("/admin/")


def test_known_gaps_are_read_and_filtered(live: SimpleNamespace, boss: Client) -> None:
    Gap.objects.create(
        instrument=live.instrument, schema="trades", start="2026-01-01T00:00Z", end="2026-01-01T01:30Z",
        reason="the vendor has no history of this",
    )  # fmt: skip
    page = text(boss.get(url("gap")))
    assert "1:30:00" in page
    assert "the vendor has no history of this" in page
    for query, count in (("?q=AAPL", 1), ("?q=nope", 0), ("?schema=quotes", 0)):
        assert boss.get(f"{url('gap')}{query}").context["cl"].result_count == count
    assert boss.post(url("gap", "add")).status_code == 403


def test_a_connection_is_told_from_a_request(live: SimpleNamespace, boss: Client) -> None:
    made = heard(live, 1)
    assert boss.get(f"{url('fetch')}?live__exact=1").context["cl"].result_count == 1
    assert boss.get(f"{url('fetch')}?live__exact=0").context["cl"].result_count == 0
    assert "coins:equity:AAPL" in text(boss.get(url("fetch", "change", made.pk)))
