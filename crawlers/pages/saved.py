"""A page kept with what should be read on it: how a shop's reading is tested without the shop.

Two files: ``<name>.html`` holds the body as it was served (JSON as well), ``<name>.json`` the rest. Knows no test.
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
    """A page, and the item on it as plain values."""

    kind: Kind
    url: str
    content_type: str  # the header
    body: bytes
    item: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The page whose expected item is at ``path``.

        Raises:
            InputError: there is no such page.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return cls(body=path.with_suffix(".html").read_bytes(), **said)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: expected a page that `atlas crawl record` saved: {error}") from error

    def save(self, path: Path) -> None:
        """Write both files; the expected item to ``path``."""
        with replacing(path.with_suffix(".html")) as temporary:
            temporary.write_bytes(self.body)
        write_json(path, {name: value for name, value in asdict(self).items() if name != "body"})

    @property
    def response(self) -> HttpResponse:
        """The page as it came."""
        return HttpResponse(self.url, body=self.body, headers={"Content-Type": self.content_type})


def read_page(kind: Kind, shop: Shop, response: HttpResponse) -> dict[str, Any]:
    """The item on a page, as plain values."""
    if kind == "listing":
        return asdict(asyncio.run(read_listing(shop, response)))
    return asyncio.run(read_product(shop, response)).to_json()
