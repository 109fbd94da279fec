"""The short texts of a part of a page, in which readers search for labels and prices."""

from collections.abc import Iterator
from itertools import islice

from lxml import etree

from crawlers.pages.html.elements import UNREAD, Element

NOT_READ = UNREAD | {"option", "title"}  # elements whose text is not used
MAX_TEXTS = 4000  # texts of a part
MAX_SHORT = 300  # characters of a text
_TEXTS = etree.XPath("descendant::text()", smart_strings=False)


def texts_in(part: Element) -> list[tuple[Element, str]]:
    """The short texts in ``part``, in order, each with the element that contains it."""
    return list(islice(_each_in(part), MAX_TEXTS))


def distinct_texts_in(part: Element) -> set[str]:
    """The distinct short texts in ``part``, including invisible ones.

    Much faster than `texts_in`, because no element is examined. Most pages lack most labels, so this decides whether
    `texts_in` is needed.
    """
    return {" ".join(text.split()) for text in _TEXTS(part) if len(text) < MAX_SHORT}


def _each_in(part: Element) -> Iterator[tuple[Element, str]]:
    after: list[tuple[Element | None, Element, str]] = []  # tails of elements with children -> the next element
    for element in part.iter("*"):
        while after and after[-1][0] is element:
            yield after.pop()[1:]
        text = element.text
        if text and len(text) < MAX_SHORT and (plain := " ".join(text.split())) and element.tag not in NOT_READ:
            yield element, plain
        if (
            (text := element.tail)
            and element is not part
            and len(text) < MAX_SHORT
            and (plain := " ".join(text.split()))
            and (holder := element.getparent()) is not None
        ):
            if len(element):
                after.append((_behind(element, part), holder, plain))
            else:
                yield holder, plain
    while after:
        yield after.pop()[1:]


def _behind(element: Element, part: Element) -> Element | None:
    """The element of ``part`` that follows ``element`` and its descendants."""
    node: Element | None = element
    while node is not None and node is not part:
        if (following := node.getnext()) is not None:
            return following
        node = node.getparent()
    return None
