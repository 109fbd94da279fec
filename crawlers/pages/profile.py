"""Schema of a shop's profile, the YAML file that corrects the generic readers for one shop or platform.

A shop names its ``hosts``; a platform that many shops run on has ``detect`` instead. All other keys are optional, and
the generic readers fill the fields without selectors. `crawlers.pages.selecting` applies a profile. Example::

    hosts: [www.shop.example]          # including subdomains
    product_url: /p/[0-9]+             # regular expression that a product's URL matches
    listing:
      items: [div.tile > a]            # CSS, ::attr(href) implied; of several selectors the first with a match
      next_page: a.older
      page_url: {template: "?page={page}", first: 2}   # without next links: count up until a page has no products
    product:
      title: h1
      price: [span.now, span.price]
      details: {rows: table.specs tr, name: th, value: td}
      sku: {url: "-([0-9]+)$"}          # from the page's URL
      currency: {value: USD}            # a constant
    rewrite_image_urls: [{find: _300x300, replace: ""}]   # thumbnail -> full size
    browser: {wait_for: div.tile, load_more: button.more, max_clicks: 20}
    limits: {delay_s: 2, concurrency: 1, max_pages: 50}

A selector is CSS or ``{css:, jmespath:, regex:}``. In HTML, ``css`` selects elements, ``regex`` extracts part of their
text, and ``jmespath`` searches that text if it is JSON (``script#data``). In a JSON response, ``jmespath`` is applied
first, and ``css`` to the HTML text that it finds.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Self

import jmespath
from lxml import etree
from parsel.csstranslator import HTMLTranslator
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from atlas_model.core.yaml_files import read_yaml


def _compiled_css(text: str) -> str:
    try:
        etree.XPath(HTMLTranslator().css_to_xpath(text))
    except Exception as error:  # cssselect and lxml share no base class of errors
        raise ValueError(f"expected a CSS selector ({error})") from error
    return text


def _compiled_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from error
    return text


def _compiled_jmespath(text: str) -> str:
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"expected a jmespath expression ({' '.join(str(error).split())})") from error
    return text


def _is_template(text: str) -> str:
    if text.count("{page}") != 1 or "{" in text.replace("{page}", ""):
        raise ValueError('expected a URL with one {page} in it, as in "?page={page}"')
    return text


Css = Annotated[str, Field(min_length=1), AfterValidator(_compiled_css)]
Regex = Annotated[str, Field(min_length=1), AfterValidator(_compiled_regex)]
JmesPath = Annotated[str, Field(min_length=1), AfterValidator(_compiled_jmespath)]
Template = Annotated[str, AfterValidator(_is_template)]
Host = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """Base of a profile's parts: frozen, strictly typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Selector(Section):
    """Selects one or several values on a page."""

    css: Css | None = None
    jmespath: JmesPath | None = None
    regex: Regex | None = None  # the first group, or the whole match if there is no group
    url: Regex | None = None  # likewise, applied to the page's URL
    value: Annotated[str, Field(min_length=1)] | None = None  # a constant for every page

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        starts = [bool(self.css or self.jmespath), bool(self.url), bool(self.value)]
        if sum(starts) != 1 or (self.regex and not starts[0]):
            raise ValueError("expected css, jmespath or both, or url alone, or value alone")
        if self.css and re.fullmatch("[A-Z]{3}", self.css):
            raise ValueError(f"expected a CSS selector; a constant is written {{value: {self.css}}}")
        return self


class DetailsSelector(Section):
    """Selects pairs of name and value: rows with two cells, or lines such as "Material: Linen"."""

    rows: Css | None = None
    name: Css | None = None
    value: Css | None = None
    lines: Css | None = None

    @model_validator(mode="after")
    def _check_rows_or_lines(self) -> Self:
        if bool(self.lines) == bool(self.rows) or not bool(self.rows) == bool(self.name) == bool(self.value):
            raise ValueError("expected rows with name and value, or lines")
        return self


def _as_list(value: Any) -> Any:
    """Wrap a single selector in a tuple; a string is CSS."""
    values = value if isinstance(value, list) else [value]
    return tuple({"css": one} if isinstance(one, str) else one for one in values)


Selectors = Annotated[tuple[Selector, ...], BeforeValidator(_as_list)]
DetailsSelectors = Annotated[tuple[DetailsSelector, ...], BeforeValidator(_as_list)]


class PageUrl(Section):
    """URL template of a listing's pages, for shops whose listings have no link to the next page.

    A template that begins with ``?`` is added to the category's own URL. Counting ends at a page without products.
    """

    template: Template
    first: Count = 2  # the number in the URL of the second page
    step: Count = 1


class ListingSelectors(Section):
    """Selectors for category pages."""

    items: Selectors = ()
    next_page: Selectors = ()
    page_url: PageUrl | None = None


class ProductSelectors(Section):
    """Selectors for product pages, named as the columns of products.parquet."""

    title: Selectors = ()
    price: Selectors = ()
    currency: Selectors = ()
    breadcrumb: Selectors = ()
    images: Selectors = ()
    details: DetailsSelectors = ()
    sku: Selectors = ()
    availability: Selectors = ()
    brand: Selectors = ()
    gtin: Selectors = ()
    mpn: Selectors = ()


class Rewrite(Section):
    """Regular expression and replacement for URLs."""

    find: Regex
    replace: str

    @model_validator(mode="after")
    def _check_group_references(self) -> Self:
        try:
            re.sub(f"{self.find}|", self.replace, "")  # re checks a replacement only when there is a match
        except (re.error, IndexError) as error:
            raise ValueError(f"expected a replacement that names groups of find ({error})") from error
        return self


class Browser(Section):
    """Browser settings for shops whose pages are rendered by scripts."""

    wait_for: Css | None = None  # the page counts as loaded when this selector matches
    load_more: Css | None = None  # button that loads more products
    max_clicks: Annotated[int, Field(ge=0)] = 0
    scroll: bool = False


class Limits(Section):
    """Limits on the request rate and on the number of pages; robots.txt may lower the rate further."""

    delay_s: Annotated[float, Field(ge=0, strict=False)] | None = None
    concurrency: Count | None = None
    max_pages: Count | None = None  # per category


class ShopProfile(Section):
    """Profile of a shop or of a platform."""

    hosts: Annotated[tuple[Host, ...], Field(strict=False)] = ()
    detect: Css | None = None  # for a platform: matches in the head or body of its pages only
    note: str | None = None  # not used by code
    product_url: Regex | None = None
    listing: ListingSelectors = ListingSelectors()
    product: ProductSelectors = ProductSelectors()
    rewrite_product_urls: Annotated[tuple[Rewrite, ...], Field(strict=False)] = ()
    rewrite_image_urls: Annotated[tuple[Rewrite, ...], Field(strict=False)] = ()
    browser: Browser | None = None
    limits: Limits | None = None

    @model_validator(mode="after")
    def _check_hosts_or_detect(self) -> Self:
        if bool(self.hosts) == (self.detect is not None):
            raise ValueError("expected hosts (a shop) or detect (a platform)")
        return self


def load_profiles(folder: Path) -> dict[str, ShopProfile]:
    """Load the profiles in ``folder``, keyed by file name without suffix.

    Raises:
        InputError: a file is not a valid profile; the text lists all its errors.
    """
    return {path.stem: read_yaml(path, ShopProfile) for path in sorted(folder.glob("*.yaml"))}
