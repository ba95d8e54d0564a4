"""The app of the stored rows; it may live in a database of its own (alias `market`)."""

from django.apps import AppConfig


class MarketdataConfig(AppConfig):
    name = "catalog.marketdata"
    label = "marketdata"
    verbose_name = "Market data"
    default_auto_field = "django.db.models.BigAutoField"
