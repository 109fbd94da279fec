"""One page, read field by field; where each was read is noted as the field's source.

The readers: the shop's profile, that of the platform it runs on, JSON-LD, microdata, OpenGraph, guesses. Each looks at
the page when it is first asked. For most fields the first one with a usable answer wins; price, SKU, availability and
images have an order of their own, by what real pages turned out to say (benchmarks/product_pages.py).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, Protocol, TypeVar

from crawlers.pages.fields.currencies import resolved
from crawlers.pages.fields.gallery import Found, merged
from crawlers.pages.fields.images import is_placeholder
from crawlers.pages.fields.url_numbers import number_in_url
from crawlers.pages.heuristics import Heuristics
from crawlers.pages.html.document import Document
from crawlers.pages.listings.pager import next_pages
from crawlers.pages.listings.tiles import links_below
from crawlers.pages.page_kind import LISTING, PRODUCT, Evidence, evidence_of
from crawlers.pages.profile import Profile, Rewrite
from crawlers.pages.selecting import ProfileReader, recognises, rewritten
from crawlers.pages.structured_data.json_ld import json_ld
from crawlers.pages.structured_data.microdata import microdata, open_graph
from crawlers.pages.structured_data.nodes import Node
from crawlers.pages.structured_data.stock import IN_STOCK, OUT_OF_STOCK, stock_of
from crawlers.pages.structured_data.structured import SchemaOrg
from crawlers.pages.text.numbers import clean_gtin, clean_sku
from crawlers.pages.text.values import clean_text, currency_code, http_url, http_urls, parse_amount, text_map

T = TypeVar("T")
MACHINES = ("json-ld", "microdata", "opengraph")  # sources of what is said to machines
BESIDE = ("profile", "microdata")  # sources that name the products of boxes beside a listing as well
PRODUCT_PAGE = "product page"  # the source of a listing that is the page of its only product


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
    def _json_ld(self) -> tuple[list[Node], int]:
        return json_ld(self.document)

    @property
    def unreadable(self) -> int:
        """Scripts of the page that should be JSON-LD and are none."""
        return self._json_ld[1]

    @cached_property
    def _syntaxes(self) -> list[SchemaOrg]:
        loaders = (lambda _: self._json_ld[0], microdata, open_graph)
        return [SchemaOrg(name, self.document, load) for name, load in zip(MACHINES, loaders, strict=True)]

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

    def sku(self, field: str) -> str | None:
        """The shop's number: as a profile says, as the page prints it, as it says to machines, as its URL has it.

        What is printed comes before what is said to machines, where many a shop puts the number of a size or of the
        maker. A number that is said to machines and is a GTIN counts where there is no other.
        """
        last: tuple[str, str] | None = None
        for value, source in self._numbers(field):
            number = clean_sku(value)
            if number and not (source in MACHINES and clean_gtin(number)):
                return self._noted(field, number, self._said_by(number, field) or source)
            last = last or (number and (number, source)) or None
        return None if last is None else self._noted(field, *last)

    def _numbers(self, field: str) -> Iterator[tuple[Any, str]]:
        for profile in self._profiles:
            yield profile.read(field), profile.source(field)
        guessed = self._guesses.source(field)
        labels = self._guesses.labels
        yield from ((value, guessed) for value in (*labels.numbers_in_url, *labels.numbers))
        yield self._guesses.read(field), guessed
        yield from ((reader.read(field), reader.source(field)) for reader in self._syntaxes)
        urls = [self.document.url, self.document.canonical_url]
        yield number_in_url(self.document, urls), "url"
        yield from ((value, guessed) for value in self._guesses.labels.values("gtin"))

    def _said_by(self, number: str, field: str) -> str | None:
        """The syntax that says the same number."""
        same = (one.source(field) for one in self._syntaxes if _letters(one.read(field)) == _letters(number))
        return next(same, None)

    def price(self, field: str) -> Decimal | None:
        """The price that is asked today: what the page says to machines may be the one that it shows struck out."""
        amount = self.first(field, parse_amount)
        if amount and self.sources.get(field) in MACHINES and (now := self._guesses.prices.is_over(amount)):
            self._known[field] = self._noted(field, now.amount, self._guesses.source(field))
        known: Decimal | None = self._known[field]
        return known

    def currency(self, field: str) -> str | None:
        """The currency's code; of a sign that several countries use, the one of this page's country."""
        code = self.first(field, currency_code)
        if code is not None:
            return code
        readers: list[Reader] = [*self._profiles, *self._syntaxes, self._guesses]
        for reader in readers:
            text = clean_text(reader.read(field))
            if text and (found := resolved(text, self.document)):
                return self._noted(field, found[0], f"{reader.source(field)}+{found[1]}")
        return None

    def availability(self, field: str) -> str | None:
        """Whether it can be bought: by the first reader that knows, else because a price is asked.

        A page that says to machines that it is sold out, and shows people a button to buy it and nothing of being sold
        out, speaks to machines of one size or colour only.
        """
        stock = self.first(field, stock_of)
        if stock == OUT_OF_STOCK and self.sources.get(field) in MACHINES and self._guesses.labels.is_offered:
            return self._noted(field, IN_STOCK, self._guesses.source(field))
        if stock is None and self.price("price"):
            return self._noted(field, IN_STOCK, "price")
        return stock

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
        yield from next_pages(self.document, without=self._known.get("items") or ())
        if self._platform is not None and counting:
            yield self._platform.following_page(), "profile"

    def items(self, field: str) -> list[str]:
        """The products of a listing: as the shop's profile says, else as any reader does.

        A category may redirect to its only product: the page of a product leads to that one, and not to those that
        it recommends.
        """
        if self._shop is not None and (found := self.product_urls(self._shop.read(field))):
            return self._noted(field, found, self._shop.source(field))
        if self.is_surely_product:
            return self._noted(field, [self.document.url], PRODUCT_PAGE)
        found = self.first(field, self.product_urls)
        if found and self.sources[field] in BESIDE:
            promoted = self._guesses.tiles.promoted
            found = [url for url in found if url not in promoted]
        return found

    @property
    def leads_to_itself(self) -> bool:
        """Whether the page, read as a listing, turned out to be the page of a product."""
        return self.sources.get("items") == PRODUCT_PAGE

    @cached_property
    def is_surely_product(self) -> bool:
        """Whether the page is a product's without a doubt."""
        if self.document.root is None:
            return False
        if (known := self._is_called_product) is not None:
            return known
        said = self._syntaxes[0]
        if said.lists_products and not said.product_names:  # spares the rest of the evidence
            return False
        return self._evidence.is_surely_product

    @property
    def kind(self) -> str | None:
        """What the page most likely is, ``product`` or ``listing``; None where it is neither."""
        if (known := self._is_called_product) is not None:
            return PRODUCT if known else LISTING
        return self._evidence.kind

    @cached_property
    def _is_called_product(self) -> bool | None:
        """What the profiles know by the page's URL."""
        known = [reader.profile for reader in self._profiles if reader.profile.product_url]
        url = rewritten(self.document.url, self._rules("rewrite_product_urls"))
        return all(re.search(str(one.product_url), url) for one in known) if known else None

    @cached_property
    def _evidence(self) -> Evidence:
        named = [self.product_urls(reader.read("items")) for reader in self._profiles]
        paged = next(next_pages(self.document), None) is not None
        return evidence_of(self.document, self._syntaxes[:-1], self._guesses, max(named, key=len, default=[]), paged)

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

    def images(self, field: str) -> list[str]:
        """Images of the product: as a profile says, else from what is said and shown together."""
        known, source = _first(field, self.image_urls, self._profiles)
        if known:
            return self._noted(field, known, source)
        said = [Found(one.source(field), self.image_urls(one.read(field))) for one in self._syntaxes]
        guessed = self._guesses.source(field)
        urls, sources = merged(said, Found(guessed, self.image_urls(self._guesses.gallery)))
        if not urls:
            urls, sources = self.image_urls(self._guesses.read(field)), [guessed]
        return self._noted(field, urls, "+".join(sources))

    def image_urls(self, values: Iterable[Any] | None) -> list[str]:
        """Images of a product, each once and as large as the profiles know them; no placeholders."""
        urls = [rewritten(url, self._rules("rewrite_image_urls")) for url in http_urls(values or (), self.document)]
        return [url for url in dict.fromkeys(urls) if not is_placeholder(url) and "{" not in url and "%7B" not in url]

    def _rules(self, name: str) -> list[Rewrite]:
        return [rule for reader in self._profiles for rule in getattr(reader.profile, name)]

    def _noted(self, field: str, value: T, source: str | None) -> T:
        if source:
            self.sources[field] = source
        return value


def _letters(number: Any) -> str:
    return "".join(filter(str.isalnum, str(number))).lower()


def _first(field: str, clean: Callable[[Any], T], readers: Sequence[Reader]) -> tuple[T, str | None]:
    for reader in readers:
        value = clean(reader.read(field))
        if value:
            return value, reader.source(field)
    return clean(None), None
