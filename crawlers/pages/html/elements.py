"""Functions on a single HTML element: its text, its names, and whether it is visible."""

import re
from collections.abc import Container, Iterator
from itertools import islice
from typing import Any

from lxml import etree

Element = etree._Element

UNREAD = {"script", "style", "noscript", "template", "svg"}  # elements without visible text
NAMES = {"class", "id", "itemprop", "aria-label"}  # attributes that name an element
BLOCKS = {"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "ol", "p", "section", "table", "td", "th", "tr", "ul"}
MAX_STEPS = 1000  # start and end events when collecting an element's text
MAX_DEPTH = 100  # ancestors that are examined
MAX_NAMES = 500  # characters of a class, id or label that are examined
MARGINS = {"nav", "footer", "aside", "dialog"}
PARTS = {"main", "article"}  # elements that may have their own header
NOT_CONTENT = re.compile(  # names of elements outside the main content
    r"(?:^|[\s_-])(?:related|up-?sells?|cross-?sells?|recommend\w*|similar|recent\w*|also|viewed|mini-?cart|"
    r"mega-?menu|menu|footer|newsletter|reviews?|comments?|payments?|share|social|cookies?|"
    r"(?<!magnific-)(?<!image-)(?<!gallery-)popup(?![\s_-](?:gallery|images?|photos?))|modal-cart)(?:$|[\s_-])",
    re.IGNORECASE,
)
HIDDEN = re.compile(
    r"(?<![\w-])(hidden|hide|d-none|aok-hidden|is-hidden|display-none|u-hidden)(?![\w-])", re.IGNORECASE
)
NOT_SHOWN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
MAX_HIDERS = 8  # ancestors that are checked for being hidden


class HtmlParser(etree.HTMLParser):
    """HTML parser that drops comments and processing instructions and joins the text around them."""

    def __init__(self, **options: Any) -> None:
        # The stubs know the arguments of `__new__` alone.
        super().__init__(remove_comments=True, remove_pis=True, **options)  # type: ignore[call-arg]


def is_small(element: Element, parts: int) -> bool:
    """Whether ``element``, itself included, has fewer than ``parts`` elements."""
    return len(list(islice(element.iter("*"), parts))) < parts


def is_hidden(element: Element) -> bool:
    """Whether an element or one of its ancestors is hidden by an attribute; style sheets are not read."""
    return any(
        node.get("hidden") is not None
        or HIDDEN.search(node.get("class", ""))
        or NOT_SHOWN.search(node.get("style", ""))
        or node.get("aria-hidden") == "true"
        for node in (element, *ancestors(element, MAX_HIDERS))
    )


def ancestors(element: Element, height: int = MAX_DEPTH) -> Iterator[Element]:
    """The ancestors of ``element``, nearest first, at most ``height`` of them."""
    return islice(element.iterancestors(), height)


def names_of(element: Element) -> str:
    """An element's class, id, itemprop and label, joined."""
    get = element.get
    name = f"{get('class', '')[:MAX_NAMES]} {get('id', '')[:MAX_NAMES]} {get('itemprop', '')[:MAX_NAMES]} "
    return name + get("aria-label", "")[:MAX_NAMES]


def text_of(element: Element, without: Container[Element] = ()) -> str:
    """The visible text of ``element`` with normalised spaces; style sheets are not read.

    Args:
        element: the element.
        without: descendants whose text is left out.
    """
    if not len(element):
        return "" if element.tag in UNREAD or element in without else " ".join((element.text or "").split())
    parts: list[str] = []
    walk = etree.iterwalk(element, events=("start", "end", "comment", "pi"))
    for event, node in islice(walk, MAX_STEPS):
        block = node.tag in BLOCKS
        if event == "start":
            if node.tag in UNREAD or node in without:
                walk.skip_subtree()
            else:
                parts += [" " if block else "", node.text or ""]
        elif node is not element:
            parts += [" " if block else "", node.tail or ""]
    return " ".join("".join(parts).split())


def is_margin(element: Element) -> bool:
    """Whether ``element`` is outside the page's content, by its tag or its names."""
    if element.tag == "header":  # a page's header has links and is outside main and article
        around = element.getparent()
        if around is None or around.tag == "body":
            return around is not None
        return not any(node.tag in PARTS for node in ancestors(element)) and next(element.iter("a"), None) is not None
    return element.tag in MARGINS or NOT_CONTENT.search(names_of(element)) is not None
