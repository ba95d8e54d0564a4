"""Which database holds what: stored rows in settings.MARKET_ALIAS, everything else in "default"."""

from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

MARKET_APP = "marketdata"


class MarketRouter:
    """Sends the app `marketdata` to its database, and creates its tables only there."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return settings.MARKET_ALIAS if model._meta.app_label == MARKET_APP else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        if settings.MARKET_ALIAS == DEFAULT_DB_ALIAS or db not in (DEFAULT_DB_ALIAS, settings.MARKET_ALIAS):
            return None
        return (app_label == MARKET_APP) == (db == settings.MARKET_ALIAS)
