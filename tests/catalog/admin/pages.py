"""What tests of the admin do with pages: read a form as a browser would, and post it back."""

from html.parser import HTMLParser
from typing import Any

from django.test import Client
from django.urls import reverse


def url(model: str, page: str = "changelist", *arguments: Any) -> str:
    return reverse(f"admin:catalog_{model}_{page}", args=arguments)


def text(response: Any) -> str:
    return response.content.decode()


class _Fields(HTMLParser):
    """Collects the values that a browser would send with the form of an admin page."""

    def __init__(self, form_id: str) -> None:
        super().__init__()
        self.form_id = form_id
        self.inside = False
        self.values: dict[str, list[str]] = {}
        self.select = ""
        self.area = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.inside = found.get("id") == self.form_id
        if not self.inside:
            return
        name = found.get("name") or ""
        if tag == "input" and name:
            kind = found.get("type")
            if kind in ("checkbox", "radio") and "checked" not in found:
                return
            if kind not in ("submit", "button", "file"):
                self.values.setdefault(name, []).append(found.get("value") or ("on" if kind == "checkbox" else ""))
        elif tag == "select":
            self.select = name
        elif tag == "option" and "selected" in found and self.select:
            self.values.setdefault(self.select, []).append(found.get("value") or "")
        elif tag == "textarea" and name:
            self.area = name
            self.values.setdefault(name, []).append("")

    def handle_data(self, data: str) -> None:
        if self.area:
            self.values[self.area][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self.area:
            # a browser drops the line end that opens the element
            self.values[self.area][-1] = self.values[self.area][-1].removeprefix("\n").removeprefix("\r\n")
            self.area = ""
        elif tag == "select":
            self.select = ""
        elif tag == "form":
            self.inside = False


def fields(client: Client, address: str, form_id: str) -> dict[str, list[str]]:
    """Return what a browser would send for the form of a page, untouched."""
    response = client.get(address)
    assert response.status_code == 200, response
    parser = _Fields(form_id)
    parser.feed(text(response))
    return {name: values for name, values in parser.values.items() if name != "csrfmiddlewaretoken"}


def save(client: Client, address: str, form_id: str, /, **changes: Any) -> Any:
    """Open a form, change some fields (None: leave out) and post it."""
    values: dict[str, Any] = fields(client, address, form_id)
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return client.post(address, values)


def errors(response: Any) -> dict[str, list[str]]:
    """Return the faults that a form came back with."""
    form = response.context["adminform"].form
    return {name: [str(message) for message in messages] for name, messages in form.errors.items()}
