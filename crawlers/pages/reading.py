"""One page, read field by field: the first reader with a usable answer wins, and is noted as the field's source.

The order: the shop's profile, that of the platform it runs on, JSON-LD, microdata, OpenGraph, guesses. Each looks at
the page when it is first asked, so that a page whose first reader knows everything costs no more than that.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from crawlers.pages.document import Document
from crawlers.pages.heuristics import Heuristics
from crawlers.pages.pager import next_pages
from crawlers.pages.pictures import is_placeholder
from crawlers.pages.profile import Profile, Rewrite
from crawlers.pages.selecting import ProfileReader, recognises, rewritten
from crawlers.pages.structured import SchemaOrg, json_ld, microdata, open_graph
from crawlers.pages.tiles import links_below
from crawlers.pages.values import http_url, http_urls, text_map

T = TypeVar("T")


class Reader(Protocol):
    """Something that knows fields of a page."""

    def read(self, field: str) -> Any:
        """What it knows about ``field``, as the page has it; None where it knows nothing."""
        ...

    def source(self, field: str) -> str:
        """What is noted as the source of ``field``."""
        ...


class Reading:
    """The readers of one page, in their order.

    Args:
        document: the page.
        profile: of its shop, if it has one.
        platforms: profiles, of which the first that recognises the page reads it as well.
    """

    def __init__(self, document: Document, profile: Profile | None, platforms: Sequence[Profile]) -> None:
        self.document, self._profile, self._platforms = document, profile, platforms
        self.sources: dict[str, str] = {}  # field -> source
        self._known: dict[str, Any] = {}  # field -> value: some fields need others

    @cached_property
    def _shop(self) -> ProfileReader | None:
        return None if self._profile is None else ProfileReader(self._profile, self.document)

    @cached_property
    def _platform(self) -> ProfileReader | None:
        found = (one for one in self._platforms if one.detect and recognises(one.detect, self.document))
        return next((ProfileReader(one, self.document) for one in found), None)

    @cached_property
    def _profiles(self) -> list[ProfileReader]:
        return [reader for reader in (self._shop, self._platform) if reader is not None]

    @cached_property
    def _syntaxes(self) -> list[SchemaOrg]:
        loaders = {"json-ld": json_ld, "microdata": microdata, "opengraph": open_graph}
        return [SchemaOrg(name, self.document, load) for name, load in loaders.items()]

    @cached_property
    def _guesses(self) -> Heuristics:
        return Heuristics(self.document)

    def first(self, field: str, clean: Callable[[Any], T]) -> T:
        """``field`` by the first reader whose answer is still something when it is ``clean``."""
        if field not in self._known:
            value, source = _first(field, clean, [*self._profiles, *self._syntaxes, self._guesses])
            self._known[field] = self._noted(field, value, source)
        known: T = self._known[field]
        return known

    def details(self, field: str) -> dict[str, str]:
        """Pairs of names and values: what the first syntax says, and what the page shows in tables and lists."""
        said, how_said = _first(field, text_map, self._syntaxes)
        shown, how_shown = _first(field, text_map, [*self._profiles, self._guesses])
        return self._noted(
            field, text_map([*said.items(), *shown.items()]), "+".join(filter(None, (how_said, how_shown)))
        )

    def next_page(self, field: str, *, counting: bool) -> str | None:
        """The URL of the next page: as the shop's profile says, else as the page says, else as the platform does.

        Args:
            field: its name.
            counting: whether to go on by counting, where a profile says so: an empty page has no next one.
        """
        for url, source in self._next_pages(field, counting=counting):
            if url and url != self.document.url:
                return self._noted(field, url, source)
        return None

    def _next_pages(self, field: str, *, counting: bool) -> Iterator[tuple[str | None, str]]:
        for reader in self._profiles:
            yield http_url(reader.read(field), self.document), "profile"
        if self._shop is not None and counting:
            yield self._shop.following_page(), "profile"
        yield from next_pages(self.document)
        if self._platform is not None and counting:
            yield self._platform.following_page(), "profile"

    def product_urls(self, values: Iterable[Any] | None) -> list[str]:
        """Links to products, each once and in the form that the profiles give them."""
        urls = [rewritten(url, self._rules("rewrite_product_urls")) for url in http_urls(values or (), self.document)]
        wanted = [reader.profile.product_url for reader in self._profiles if reader.profile.product_url]
        return [
            url
            for url in dict.fromkeys(urls)
            if url != self.document.url and all(re.search(pattern, url) for pattern in wanted)
        ]

    def sub_categories(self, *, without: Collection[str]) -> list[str]:
        """The links below this page's own URL that lead to none of the products ``without``."""
        rules = self._rules("rewrite_product_urls")
        return [url for url in links_below(self.document) if rewritten(url, rules) not in without]

    def picture_urls(self, values: Iterable[Any] | None) -> list[str]:
        """Pictures of a product, each once and as large as the profiles know them; no placeholders."""
        urls = [rewritten(url, self._rules("rewrite_image_urls")) for url in http_urls(values or (), self.document)]
        return [url for url in dict.fromkeys(urls) if not is_placeholder(url)]

    def _rules(self, name: str) -> list[Rewrite]:
        return [rule for reader in self._profiles for rule in getattr(reader.profile, name)]

    def _noted(self, field: str, value: T, source: str | None) -> T:
        if source:
            self.sources[field] = source
        return value


def _first(field: str, clean: Callable[[Any], T], readers: Sequence[Reader]) -> tuple[T, str | None]:
    for reader in readers:
        value = clean(reader.read(field))
        if value:
            return value, reader.source(field)
    return clean(None), None
