"""A shop's profile: one YAML file beside this module that says what a reader of any shop could not guess.

Knows what such a file may say, not what is done with it. Every key is optional but ``hosts`` (or ``detect``, for a
platform that many shops run on); what a profile does not say is read as everywhere else::

    hosts: [www.shop.example]          # and everything below them
    product_url: /p/[0-9]+             # regular expression: only such links are products
    listing:
      items: [div.tile > a]            # CSS; ::attr(href) may be left out; several: the first that finds anything
      next_page: a.older
      page_url: {template: "?page={page}", first: 2}   # where no link leads on: ask until nothing new comes
    product:
      title: h1
      price: [span.now, span.price]
      details: {rows: table.specs tr, name: th, value: td}
      sku: {url: "-([0-9]+)$"}          # from the page's URL
      currency: {value: USD}            # a constant
    rewrite_image_urls: [{find: _300x300, replace: ""}]   # thumbnail -> full size
    browser: {wait_for: div.tile, load_more: button.more, max_clicks: 20}
    limits: {delay_s: 2, concurrency: 1, max_pages: 50}

A selector is CSS, or ``{css:, jmespath:, regex:}``: in HTML the CSS finds elements, the regular expression cuts their
text, and jmespath looks into it where it is JSON (``script#data``); in a JSON response jmespath comes first, and the
CSS looks into the HTML that it found, if there is any.
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
    except Exception as error:  # cssselect has its own tree of errors, lxml another
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
    """A part of a profile: frozen, strict types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Selector(Section):
    """Where one value, or several, stand on a page."""

    css: Css | None = None
    jmespath: JmesPath | None = None
    regex: Regex | None = None  # its first group, or all of it where it has none
    url: Regex | None = None  # the same, of the page's URL
    value: Annotated[str, Field(min_length=1)] | None = None  # on every page: a constant

    @model_validator(mode="after")
    def _has_a_start(self) -> Self:
        starts = [bool(self.css or self.jmespath), bool(self.url), bool(self.value)]
        if sum(starts) != 1 or (self.regex and not starts[0]):
            raise ValueError("expected css, jmespath or both, or url alone, or value alone")
        if self.css and re.fullmatch("[A-Z]{3}", self.css):
            raise ValueError(f"expected a CSS selector; a constant is written {{value: {self.css}}}")
        return self


class DetailsSelector(Section):
    """Where pairs of names and values stand: in rows with two parts, or in lines like "Material: Linen"."""

    rows: Css | None = None
    name: Css | None = None
    value: Css | None = None
    lines: Css | None = None

    @model_validator(mode="after")
    def _rows_or_lines(self) -> Self:
        if bool(self.lines) == bool(self.rows) or not bool(self.rows) == bool(self.name) == bool(self.value):
            raise ValueError("expected rows with name and value, or lines")
        return self


def _as_list(value: Any) -> Any:
    """One selector is a list of one; a text is CSS."""
    values = value if isinstance(value, list) else [value]
    return tuple({"css": one} if isinstance(one, str) else one for one in values)


Selectors = Annotated[tuple[Selector, ...], BeforeValidator(_as_list)]
DetailsSelectors = Annotated[tuple[DetailsSelector, ...], BeforeValidator(_as_list)]


class PageUrl(Section):
    """The URL of a listing's pages, for shops whose pages do not link to each other.

    A template that begins with ``?`` is added to the category's own URL; the pages end where one has no products.
    """

    template: Template
    first: Count = 2  # the number in the URL of the second page
    step: Count = 1


class ListingSelectors(Section):
    """How a page of a category is read."""

    items: Selectors = ()
    next_page: Selectors = ()
    page_url: PageUrl | None = None


class ProductSelectors(Section):
    """How the page of a product is read; named as the columns of products.parquet."""

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
    """What is changed in a URL."""

    find: Regex
    replace: str

    @model_validator(mode="after")
    def _names_groups_of_find(self) -> Self:
        try:
            re.sub(f"{self.find}|", self.replace, "")  # a replacement is looked at when something is found only
        except (re.error, IndexError) as error:
            raise ValueError(f"expected a replacement that names groups of find ({error})") from error
        return self


class Browser(Section):
    """How a browser reads the pages, where a script builds them."""

    wait_for: Css | None = None  # what must be there before the page counts as loaded
    load_more: Css | None = None  # the button that shows more products
    max_clicks: Annotated[int, Field(ge=0)] = 0
    scroll: bool = False


class Limits(Section):
    """How much of the shop is asked for, and how fast; robots.txt may slow it further."""

    delay_s: Annotated[float, Field(ge=0, strict=False)] | None = None
    concurrency: Count | None = None
    max_pages: Count | None = None  # of a category


class Profile(Section):
    """All of a file."""

    hosts: Annotated[tuple[Host, ...], Field(strict=False)] = ()
    detect: Css | None = None  # a platform: what head or body of its pages have and others have not
    note: str | None = None  # for people
    product_url: Regex | None = None
    listing: ListingSelectors = ListingSelectors()
    product: ProductSelectors = ProductSelectors()
    rewrite_product_urls: Annotated[tuple[Rewrite, ...], Field(strict=False)] = ()
    rewrite_image_urls: Annotated[tuple[Rewrite, ...], Field(strict=False)] = ()
    browser: Browser | None = None
    limits: Limits | None = None

    @model_validator(mode="after")
    def _is_a_shop_or_a_platform(self) -> Self:
        if bool(self.hosts) == (self.detect is not None):
            raise ValueError("expected hosts (a shop) or detect (a platform)")
        return self


def load_profiles(folder: Path) -> dict[str, Profile]:
    """The profiles in ``folder``, by the names of their files.

    Raises:
        InputError: a file is no profile; the text lists all its faults.
    """
    return {path.stem: read_yaml(path, Profile) for path in sorted(folder.glob("*.yaml"))}
