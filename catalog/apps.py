"""The catalog: what is collected, from whom, and where it goes."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "catalog"
    verbose_name = "Catalog"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from catalog import checks  # noqa: F401  # importing registers them
