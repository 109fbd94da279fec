"""What an element of HTML is to a reader: its text, its names, whether it is seen. Knows no page and no field."""

import re
from collections.abc import Container, Iterator
from itertools import islice
from typing import Any

from lxml import etree

Element = etree._Element

UNREAD = {"script", "style", "noscript", "template", "svg"}  # elements whose text nobody reads
NAMES = {"class", "id", "itemprop", "aria-label"}  # attributes that say what an element is called
BLOCKS = {"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "ol", "p", "section", "table", "td", "th", "tr", "ul"}
MAX_STEPS = 1000  # in and out of elements, on the way through a text
MAX_DEPTH = 100  # elements around an element that are looked at
MAX_NAMES = 500  # characters of a class, id or label that are looked at
MARGINS = {"nav", "footer", "aside", "dialog"}
PARTS = {"main", "article"}  # that may have a header of their own
OTHER = re.compile(  # names of what stands beside a page's own content
    r"(?:^|[\s_-])(?:related|up-?sells?|cross-?sells?|recommend\w*|similar|recent\w*|also|viewed|mini-?cart|"
    r"mega-?menu|menu|footer|newsletter|reviews?|comments?|payments?|share|social|cookies?|"
    r"(?<!magnific-)(?<!image-)(?<!gallery-)popup(?![\s_-](?:gallery|images?|photos?))|modal-cart)(?:$|[\s_-])",
    re.IGNORECASE,
)
HIDDEN = re.compile(
    r"(?<![\w-])(hidden|hide|d-none|aok-hidden|is-hidden|display-none|u-hidden)(?![\w-])", re.IGNORECASE
)
NOT_SHOWN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
MAX_HIDERS = 8  # elements around one, that may hide it


class HtmlParser(etree.HTMLParser):
    """Leaves out comments and processing instructions: any reader may meet them anywhere, and none has a use for them.

    The text before and behind one is one text.
    """

    def __init__(self, **options: Any) -> None:
        # The stubs know the arguments of `__new__` alone.
        super().__init__(remove_comments=True, remove_pis=True, **options)  # type: ignore[call-arg]


def is_small(element: Element, parts: int) -> bool:
    """Whether ``element`` has less than ``parts`` elements, itself included."""
    return len(list(islice(element.iter("*"), parts))) < parts


def is_hidden(element: Element) -> bool:
    """Whether an element, or one around it, is not shown, as far as its own attributes say."""
    return any(
        node.get("hidden") is not None
        or HIDDEN.search(node.get("class", ""))
        or NOT_SHOWN.search(node.get("style", ""))
        or node.get("aria-hidden") == "true"
        for node in (element, *above(element, MAX_HIDERS))
    )


def above(element: Element, height: int = MAX_DEPTH) -> Iterator[Element]:
    """The elements around ``element``, the nearest first, as far as ``height``."""
    return islice(element.iterancestors(), height)


def names_of(element: Element) -> str:
    """What an element is called: its class, id and label."""
    get = element.get
    name = f"{get('class', '')[:MAX_NAMES]} {get('id', '')[:MAX_NAMES]} {get('itemprop', '')[:MAX_NAMES]} "
    return name + get("aria-label", "")[:MAX_NAMES]


def text_of(element: Element, without: Container[Element] = ()) -> str:
    """The text that a reader of the page sees, as far as that can be known without its style sheets.

    Args:
        element: whose text.
        without: parts of it that are left out.
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
    """Whether ``element`` is, or is called, a part of the page beside its content."""
    if element.tag == "header":  # of the page, which leads elsewhere, not of a part of it
        around = element.getparent()
        if around is None or around.tag == "body":
            return around is not None
        return not any(node.tag in PARTS for node in above(element)) and next(element.iter("a"), None) is not None
    return element.tag in MARGINS or OTHER.search(names_of(element)) is not None
