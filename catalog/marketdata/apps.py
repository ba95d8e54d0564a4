"""The app of the stored rows; it may live in a database of its own (alias `market`)."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class MarketdataConfig(AppConfig):
    name = "catalog.marketdata"
    label = "marketdata"
    verbose_name = "Market data"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the views for ad-hoc SQL after each migration."""
        from catalog.marketdata.views import make_views

        post_migrate.connect(make_views, sender=self)
