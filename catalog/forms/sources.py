"""Forms of sources, destinations and assets."""

from catalog.forms import choices
from catalog.forms.base import CatalogForm
from catalog.forms.options import OptionsForm
from catalog.models import DataSource
from catalog.models import OutputDestination


class DataSourceForm(OptionsForm):
    """A source; its option fields are those of the chosen vendor."""

    selects = {"vendor": choices.vendors}
    option_select = "vendor"
    instance: DataSource

    def owner_of_instance(self) -> str:
        return self.instance.vendor

    def chosen_owner(self) -> str:
        return str(self.cleaned_data.get("vendor", ""))


class OutputDestinationForm(OptionsForm):
    """A destination; its option fields are those of the chosen kind."""

    selects = {"kind": choices.kinds}
    option_select = "kind"
    instance: OutputDestination

    def owner_of_instance(self) -> str:
        return self.instance.kind

    def chosen_owner(self) -> str:
        return str(self.cleaned_data.get("kind", ""))


class AssetForm(CatalogForm):
    """An asset."""

    selects = {"asset_class": choices.asset_classes}
