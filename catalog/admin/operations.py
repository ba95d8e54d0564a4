"""Buttons on the page of a row: check source, first rows, show plan, run now. Each is a POST with a permission.

Vendors are asked in this process, within a bounded time; a run is started in another.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Any
from typing import ClassVar
from typing import Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest
from django.http import HttpResponse
from django.http import HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.urls import path
from django.urls import reverse

from catalog.admin.history import CHANGE
from catalog.admin.history import log
from catalog.asset_classes import ASSET_CLASSES
from catalog.errors import ConfigError
from catalog.errors import DataflowError
from catalog.forms.choices import install_advice
from catalog.models import DataSource
from catalog.models import Run
from catalog.models import TimeSeries
from catalog.models.series import EXTRACTOR_TYPES
from flows import registry

if TYPE_CHECKING:
    from flows.job import Job

logger = logging.getLogger(__name__)

_REQUESTS_SHOWN: Final = 50
_INSTRUMENTS_SHOWN: Final = 20
_LISTINGS_SHOWN: Final = 500
#: values shorter than this are no secrets, and would blot out half a page
_SHORTEST_SECRET: Final = 4


class Operation:
    """One button and what it does."""

    name: ClassVar[str]
    label: ClassVar[str]
    icon: ClassVar[str]
    doc: ClassVar[str]
    #: what a user needs beside seeing the row; `{model}` stands for the model's name
    permission: ClassVar[str]

    def __init__(self, admin: Any) -> None:
        self.admin = admin

    @property
    def url_name(self) -> str:
        """Name of the URL, inside the admin's namespace."""
        return f"{self.admin.opts.app_label}_{self.admin.opts.model_name}_{self.name}"

    def path(self) -> URLPattern:
        """Return the URL of the operation."""
        view = self.admin.admin_site.admin_view(self.view)
        made: URLPattern = path(f"<path:object_id>/{self.name}/", view, name=self.url_name)
        return made

    def button(self, object_id: str) -> dict[str, str]:
        """Return what the template shows."""
        url = reverse(f"{self.admin.admin_site.name}:{self.url_name}", args=(object_id,))
        return {"url": url, "label": self.label, "icon": self.icon, "title": self.doc}

    def allowed(self, request: HttpRequest) -> bool:
        """Say whether the user may do this."""
        codename = self.permission.format(model=self.admin.opts.model_name)
        return request.user.has_perm(f"catalog.{codename}")

    def view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Do it for one row, and show what came out."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        row = self.admin.get_object(request, unquote(object_id))
        if not self.allowed(request) or not self.admin.has_view_or_change_permission(request, row):
            raise PermissionDenied
        if row is None:
            missing: HttpResponse = self.admin._get_obj_does_not_exist_redirect(request, self.admin.opts, object_id)
            return missing
        return self.answer(request, row)

    def answer(self, request: HttpRequest, row: Any) -> HttpResponse:
        """Do it and return the page."""
        raise NotImplementedError

    def page(self, request: HttpRequest, row: Any, template: str, context: dict[str, Any]) -> HttpResponse:
        """Return a page of the admin about a row."""
        return TemplateResponse(
            request,
            f"catalog/{template}",
            {
                **self.admin.admin_site.each_context(request),
                "title": f"{self.label}: {row}",
                "opts": self.admin.opts,
                "original": row,
                "operation": self.button(str(row.pk)),
                **context,
            },
        )


class CheckSource(Operation):
    """Ask the vendor whether a source works."""

    name = "check"
    label = "Check source"
    icon = "verified"
    doc = "Asks the vendor whether this source works"
    permission = "check_{model}"

    def answer(self, request: HttpRequest, row: DataSource) -> HttpResponse:
        from flows.preview import SECONDS
        from flows.preview import within

        said: Sequence[str] = ()
        faults: list[str] = []
        with _Faults(faults):
            extractor = make_extractor(row)
            said = within(SECONDS, extractor.check)
        log(request, [(row, CHANGE, f"Checked: {'failed' if faults else 'works'}.")])
        secrets = _secrets(row)
        context = {
            "said": [hide(text, secrets) for text in said],
            "faults": [hide(text, secrets) for text in faults],
            "credentials": _credentials(row),
        }
        return self.page(request, row, "check.html", context)


class ShowFirstRows(Operation):
    """Fetch ten rows and show them raw beside refined."""

    name = "first-rows"
    label = "First rows"
    icon = "table_rows"
    doc = "Fetches ten rows and shows them raw beside refined; nothing is stored"
    permission = "preview_{model}"

    def answer(self, request: HttpRequest, row: DataSource | TimeSeries) -> HttpResponse:
        from flows.preview import ROWS
        from flows.preview import first_rows

        source = source_of(row)
        series = row if isinstance(row, TimeSeries) else _first_series(row)
        found, faults = None, list[str]()
        if series is None:
            faults.append(f"source {source.name!r} has no historical series to fetch rows for")
        elif series.extractor_type != "historical":
            faults.append(
                f"series {series.series_id!r} is {series.extractor_type}; first rows are of historical series"
            )
        else:
            with _Faults(faults):
                jobs = rehearse(series)
                if jobs:
                    found = first_rows(jobs[0], make_extractor(source, "historical"))
                else:
                    faults.append(f"series {series.series_id!r} asks for nothing: it has no assets, or an empty window")
        log(request, [(row, CHANGE, "Fetched first rows, nothing stored.")])
        secrets = _secrets(source)
        context = {
            "series": series,
            "found": found,
            "rows_wanted": ROWS,
            "table": _table(found, secrets) if found else [],
            "notes": [hide(note, secrets) for note in found.notes] if found else [],
            "faults": [hide(text, secrets) for text in faults],
        }
        return self.page(request, row, "first_rows.html", context)


class ShowPlan(Operation):
    """Show what a run would do now."""

    name = "plan"
    label = "Show plan"
    icon = "checklist"
    doc = "Shows what a run would ask now; asks nobody and changes nothing"
    permission = "view_{model}"

    def answer(self, request: HttpRequest, row: DataSource | TimeSeries) -> HttpResponse:
        faults: list[str] = []
        jobs: list[dict[str, Any]] = []
        with _Faults(faults):
            for job in rehearse(row):
                shown = _planned_live(job) if job.extractor_type == "realtime" else _planned(job, source_of(row))
                names = [str(item.name) for item in job.instruments[:_INSTRUMENTS_SHOWN]]
                more = max(0, len(job.instruments) - _INSTRUMENTS_SHOWN)
                jobs.append({"job": job, "instruments": names, "more_instruments": more, **shown})
        inactive = [
            f"{what} {name!r} is not active: a run would skip it. This is what it would ask if it were."
            for what, name, active in _activity(row)
            if not active
        ]
        return self.page(request, row, "plan.html", {"jobs": jobs, "faults": faults, "inactive": inactive})


class Discover(Operation):
    """List the vendor's own instruments, and add those that are chosen."""

    name = "discover"
    label = "Discover"
    icon = "travel_explore"
    doc = "Lists the instruments that the vendor has; those you choose become assets"
    permission = "preview_{model}"

    def answer(self, request: HttpRequest, row: DataSource) -> HttpResponse:
        from flows import discovery
        from flows.preview import SECONDS
        from flows.preview import within

        text = request.POST.get("text", "").strip()[:100]
        asset_class = request.POST.get("asset_class", "")
        may_add = request.user.has_perm("catalog.add_asset") and request.user.has_perm("catalog.change_timeseries")
        found: list[Any] = []
        faults: list[str] = []
        if "text" in request.POST:
            with _Faults(faults):
                extractor = make_extractor(row)
                found = within(SECONDS, lambda: discovery.listings(extractor, text, asset_class))
        # what is added is what the vendor lists, not what the browser sends back
        chosen = set(request.POST.getlist("chosen"))
        if chosen and not may_add:
            raise PermissionDenied
        if chosen and not faults:
            number = request.POST.get("series", "")
            series = TimeSeries.objects.filter(source=row, pk=number).first() if number.isdecimal() else None
            with _Faults(faults):
                wanted = [item for item in found if f"{item.asset_class}:{item.symbol}" in chosen]
                added = discovery.add(row, wanted, series)
                words = f"{added.assets} assets and {added.instruments} instruments added"
                words += f", {added.in_series} to series {series}" if series else ""
                messages.success(request, f"{words}.")
                log(request, [(row, CHANGE, f"Discovered: {words}.")])
        secrets = _secrets(row)
        context = {
            "text": text,
            "asset_class": asset_class,
            "asset_classes": sorted(ASSET_CLASSES),
            "found": found[:_LISTINGS_SHOWN],
            "more": max(0, len(found) - _LISTINGS_SHOWN),
            "asked": "text" in request.POST,
            "chosen": chosen,
            "series": TimeSeries.objects.filter(source=row).order_by("series_id")[:500],
            "may_add": may_add,
            "faults": [hide(fault, secrets) for fault in faults],
        }
        return self.page(request, row, "discover.html", context)


class RunNow(Operation):
    """Start a run and come back at once."""

    name = "run"
    label = "Run now"
    icon = "play_arrow"
    doc = "Starts a run in the background"
    permission = "run_{model}"

    def answer(self, request: HttpRequest, row: DataSource | TimeSeries) -> HttpResponse:
        inactive = [f"{what} {name!r} is not active" for what, name, active in _activity(row) if not active]
        names = (row.series_id,) if isinstance(row, TimeSeries) else ()
        sources = (row.name,) if isinstance(row, DataSource) else ()
        faults = inactive or start(request, names, sources)
        for fault in faults:
            messages.error(request, f"Not started: {fault}")
        if not faults:
            log(request, [(row, CHANGE, "Started a run.")])
        return redirect(f"{self.admin.admin_site.name}:catalog_{self.admin.opts.model_name}_change", row.pk)


def start(request: HttpRequest, series: Sequence[str] = (), sources: Sequence[str] = ()) -> list[str]:
    """Start a run of active series in the background and tell the user; returns why it was not started."""
    from catalog.admin.running import launch
    from catalog.admin.running import launch_live
    from flows.plan import Selection
    from flows.plan import groups

    selection = Selection(tuple(series), tuple(sources))
    past = [source for _, source in groups(selection)]
    live = [source for _, source in groups(replace(selection, extractor_type="realtime"))]
    faults: list[str] = [] if past or live else ["nothing here is active"]
    if past:
        with _Faults(faults):
            messages.success(request, launch(selection, past))
    if live:
        not_live: list[str] = []
        with _Faults(not_live):
            messages.success(request, launch_live(live))
        if past:
            # what is historical has its own answer
            for fault in not_live:
                messages.warning(request, f"Not streamed: {fault}")
        else:
            faults += not_live
    return faults


def rehearse(row: DataSource | TimeSeries) -> "list[Job]":
    """Return the jobs of a series or source as if it were active; whatever planning writes is rolled back."""
    from flows.plan import Selection
    from flows.plan import plan

    source = source_of(row)
    with transaction.atomic():
        DataSource.objects.filter(pk=source.pk).update(active=True)
        if isinstance(row, TimeSeries):
            TimeSeries.objects.filter(pk=row.pk).update(active=True)
            selections = [Selection(series=(row.series_id,), extractor_type=row.extractor_type)]
        else:
            selections = [Selection(sources=(row.name,), extractor_type=one) for one in EXTRACTOR_TYPES]
        jobs = [job for selection in selections for job in plan(selection)]
        transaction.set_rollback(True)
    return jobs


def _planned(job: "Job", source: DataSource) -> dict[str, Any]:
    """Return what a run would ask for a job."""
    from flows.ledger import CatalogLedger
    from flows.preview import asked

    # of a run that is never saved: this ledger only answers
    ledger = CatalogLedger(Run())
    extractor = make_extractor(source, "historical")
    requests = asked(job, extractor, ledger.missing, _REQUESTS_SHOWN + 1)
    return {
        "requests": requests[:_REQUESTS_SHOWN],
        "more_requests": len(requests) > _REQUESTS_SHOWN,
        "waiting": ledger.waiting(job),
        "quote": _quote([part for one in requests for part in one.missing], extractor),
        "quote_is_part": len(requests) > _REQUESTS_SHOWN,
    }


def _planned_live(job: "Job") -> dict[str, Any]:
    """Return what a stream would subscribe for a job, and what becomes of what it does not hear."""
    from flows.outlook import outlook_live

    found = outlook_live(job)
    channels = found["subscribed"]
    return {
        "live": True,
        "channels": channels[:_REQUESTS_SHOWN],
        "more_channels": max(0, len(channels) - _REQUESTS_SHOWN),
        "filled": found["filled"],
        "waiting": found["waiting"],
    }


def _quote(missing: Sequence[Any], extractor: Any) -> str:
    """Return what requests will cost, in words; why it is not known where the vendor does not say."""
    from flows.costs import money
    from flows.preview import SECONDS
    from flows.preview import within
    from flows.quotes import Quote

    try:
        found = within(SECONDS, lambda: sum((extractor.quote(request) for request in missing), Quote(bytes=0)))
    except DataflowError as error:
        return f"unknown: {error}"
    least = "" if found.exact else "at least "
    size = f", {filesizeformat(found.bytes)}" if found.bytes else ""
    price = f", {least}{money(found.money)}" if found.money else ""
    return f"{least}{found.requests:,} call{'s'[: found.requests != 1]}{size}{price}"


def make_extractor(source: DataSource, extractor_type: str = "") -> Any:
    """Return the vendor's extractor for a source, with its options read: that of a type, or whichever there is."""
    from flows import workshops
    from flows.job import SourceFacts

    facts = SourceFacts(source.pk, source.name, source.vendor, source.options, source.secrets_prefix)
    return registry.extractor(source.vendor, extractor_type)(facts, workshops.context())


def source_of(row: DataSource | TimeSeries) -> DataSource:
    """Return the source of a row."""
    return row.source if isinstance(row, TimeSeries) else row


def hide(text: str, secrets: Sequence[str]) -> str:
    """Return text without the values of secrets, whoever put them there."""
    for secret in secrets:
        text = text.replace(secret, "•••")
    return text


def _secrets(source: DataSource) -> list[str]:
    prefix = f"{source.secrets_prefix}_"
    found = [value for name, value in os.environ.items() if name.startswith(prefix)]
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def _credentials(source: DataSource) -> list[tuple[str, bool]]:
    """Return the environment variables a source reads its secrets from, and whether each is set."""
    if source.vendor not in registry.extractors():
        return []
    endings = registry.extractor(source.vendor).secret_endings(source.options)
    names = [f"{source.secrets_prefix}_{ending}" for ending in endings]
    return [(name, bool(os.environ.get(name))) for name in names]


def _first_series(source: DataSource) -> TimeSeries | None:
    series = source.series.filter(extractor_type="historical", assets__isnull=False)
    return series.order_by("-active", "series_id").select_related("source").first()


def _activity(row: DataSource | TimeSeries) -> list[tuple[str, str, bool]]:
    source = source_of(row)
    found = [("source", source.name, source.active)]
    return [("series", row.series_id, row.active), *found] if isinstance(row, TimeSeries) else found


def _table(found: Any, secrets: Sequence[str]) -> list[dict[str, Any]]:
    raw, refined = found.raw_columns, found.refined_columns
    return [
        {
            "state": row.state,
            "variant": {"accepted": "success", "rejected": "danger"}.get(row.state, "warning"),
            "raw": [hide(row.raw.get(name, ""), secrets) for name in raw],
            "refined": [hide(row.refined.get(name, ""), secrets) for name in refined],
            "reason": hide(row.reason, secrets),
        }
        for row in found.rows
    ]


class _Faults:
    """Turns what a vendor or the catalog refuses into sentences; what nobody expected is logged in full."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        if isinstance(error, ConfigError):
            self.faults += error.faults
        elif isinstance(error, ModuleNotFoundError):
            self.faults.append(_advice(error))
        elif isinstance(error, DataflowError):
            self.faults.append(f"{type(error).__name__}: {error}")
        else:
            logger.error("an operation of the admin failed", exc_info=error)
            # the text of an unexpected error may hold a URL with a key in it
            self.faults.append(f"{type(error).__name__}: unexpected; the log of the server has it in full")
        return True


def _advice(error: ModuleNotFoundError) -> str:
    for plug_in in [*registry.extractors().values(), *registry.sinks().values()]:
        if plug_in.requires and str(error.name).split(".")[0] == plug_in.requires.split(".")[0]:
            return f"{plug_in.label} {install_advice(plug_in)}"
    return f"module {error.name!r} is not installed"
