"""Saved pages with their expected items, used as test cases that need no network.

A page is two files: ``<name>.html`` holds the response body (also where it is JSON), ``<name>.json`` the URL, the
content type and the expected item.
"""

import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from web_poet import HttpResponse

from atlas_model.core.errors import InputError
from atlas_model.core.files import replacing, write_json
from crawlers.pages.registry import read_listing, read_product
from crawlers.pages.shops import Shop

Kind = Literal["listing", "product"]


@dataclass(frozen=True)
class SavedPage:
    """A response and its expected item as JSON values."""

    kind: Kind
    url: str
    content_type: str  # response header
    body: bytes
    item: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the page whose expected item is at ``path``.

        Raises:
            InputError: one of the files is missing or malformed.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            return cls(body=path.with_suffix(".html").read_bytes(), **saved)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: expected a page that `atlas crawl record` saved: {error}") from error

    def save(self, path: Path) -> None:
        """Write both files, the expected item to ``path``."""
        with replacing(path.with_suffix(".html")) as temporary:
            temporary.write_bytes(self.body)
        write_json(path, {name: value for name, value in asdict(self).items() if name != "body"})

    @property
    def response(self) -> HttpResponse:
        """The saved response."""
        return HttpResponse(self.url, body=self.body, headers={"Content-Type": self.content_type})


def read_page(kind: Kind, shop: Shop, response: HttpResponse) -> dict[str, Any]:
    """Read a page's item as JSON values."""
    if kind == "listing":
        return asdict(asyncio.run(read_listing(shop, response)))
    return asyncio.run(read_product(shop, response)).to_json()
