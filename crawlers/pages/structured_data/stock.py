"""Mapping of availability values in schema.org, OpenGraph and short texts to one of three constants."""

import re
from typing import Any

from crawlers.pages.structured_data.nodes import kind

IN_STOCK, OUT_OF_STOCK, PRE_ORDER = "InStock", "OutOfStock", "PreOrder"  # names of schema.org

MEANING = {  # letters of a value in lower case: https://schema.org/ItemAvailability, OpenGraph, merchant feeds
    "instock": IN_STOCK, "limitedavailability": IN_STOCK, "onlineonly": IN_STOCK, "instoreonly": IN_STOCK,
    "madetoorder": IN_STOCK, "available": IN_STOCK, "availablefororder": IN_STOCK, "lowstock": IN_STOCK,
    "yes": IN_STOCK, "instockonline": IN_STOCK, "limitedstock": IN_STOCK, "stock": IN_STOCK,
    "outofstock": OUT_OF_STOCK, "oos": OUT_OF_STOCK, "soldout": OUT_OF_STOCK, "discontinued": OUT_OF_STOCK,
    "unavailable": OUT_OF_STOCK, "notavailable": OUT_OF_STOCK, "currentlyunavailable": OUT_OF_STOCK,
    "notinstock": OUT_OF_STOCK, "reserved": OUT_OF_STOCK, "temporarilyoutofstock": OUT_OF_STOCK,
    "preorder": PRE_ORDER, "presale": PRE_ORDER, "backorder": PRE_ORDER, "comingsoon": PRE_ORDER,
}  # fmt: skip
NOT_LETTERS = re.compile(r"[^a-z]+")


def stock_of(value: Any) -> str | None:
    """The availability that a schema.org or OpenGraph value or a short English text means; None if unknown."""
    return MEANING.get(NOT_LETTERS.sub("", kind(value)[:60]))
