"""The side bar: the areas of the admin, each page for those who may see it."""

from collections.abc import Callable
from typing import Any
from typing import Final

from django.http import HttpRequest
from django.urls import reverse_lazy

#: title of the area → (app, model, title, icon)
_AREAS: Final = {
    "Catalog": (
        ("catalog", "datasource", "Sources", "cell_tower"),
        ("catalog", "asset", "Assets", "token"),
        ("catalog", "instrument", "Instruments", "sell"),
        ("catalog", "timeseries", "Series", "show_chart"),
        ("catalog", "outputdestination", "Destinations", "database"),
        ("catalog", "route", "Routes", "alt_route"),
        ("catalog", "indicator", "Indicators", "functions"),
    ),
    "Ledger": (
        ("catalog", "run", "Runs", "play_circle"),
        ("catalog", "fetch", "Fetches", "download"),
        ("catalog", "delivery", "Deliveries", "inventory_2"),
        ("catalog", "quarantined", "Quarantine", "block"),
        ("catalog", "gap", "Known gaps", "signal_disconnected"),
    ),
    "People": (
        ("admin", "logentry", "Changes", "history"),
        ("auth", "user", "Users", "person"),
        ("auth", "group", "Groups", "group"),
    ),
}


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the areas that the user sees something of."""
    user: Any = request.user
    areas: list[dict[str, Any]] = []
    for title, pages in _AREAS.items():
        items: list[dict[str, Any]] = [
            {
                "title": page,
                "icon": icon,
                "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
                "permission": _may(app, model),
            }
            for app, model, page, icon in pages
            if user.has_module_perms(app)
        ]
        if any(item["permission"](request) for item in items):
            areas.append({"title": title, "separator": bool(areas), "items": items})
    overview = {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")}
    return [{"items": [overview]}, *areas]


def _may(app: str, model: str) -> Callable[[HttpRequest], bool]:
    def allowed(request: HttpRequest) -> bool:
        user: Any = request.user
        return bool(user.has_perm(f"{app}.view_{model}") or user.has_perm(f"{app}.change_{model}"))

    return allowed
