"""Selection of the offer and price that a customer pays, among a product's schema.org offers.

Ignored are list prices, charges such as shipping, prices for another quantity (per 100 g, from 10 pieces), and prices
for members only. See https://schema.org/PriceSpecification and
https://developers.google.com/search/docs/appearance/structured-data/merchant-listing.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from crawlers.pages.structured_data.nodes import Node, is_a, kind, nodes_in, text_in, url_of, values_of
from crawlers.pages.structured_data.stock import IN_STOCK, OUT_OF_STOCK, PRE_ORDER, stock_of
from crawlers.pages.text.values import structured_amount

MAX_OFFERS = 200  # offers of a product that are examined
MAX_DEPTH = 4  # levels of nested offers
NOT_PAID = {"listprice", "strikethroughprice", "msrp", "srp", "regularprice", "suggestedretailprice"}  # price types
OTHER_CHARGES = ("DeliveryChargeSpecification", "PaymentChargeSpecification", "CompoundPriceSpecification")
SINGLE_UNITS = {"", "c62", "ea", "h87", "pce", "nmp", "unit", "piece"}  # units that are the product itself (UN/CEFACT)
USED = {"usedcondition", "refurbishedcondition", "damagedcondition"}
NOT_A_SALE = {"leaseout", "buy", "repair", "maintain", "dispose"}  # business functions
STOCK_RANK = {IN_STOCK: 0, None: 1, PRE_ORDER: 1, OUT_OF_STOCK: 2}


class Offer(NamedTuple):
    """Price, currency and availability of one offer."""

    price: Any  # None: not stated
    currency: Any
    stock: str | None
    rank: tuple[int, ...]  # lower is better


def best_offer(products: list[Node], url: str) -> Offer | None:
    """The best-ranked offer with a price among ``products`` (nodes about one product), else the best without one.

    Args:
        products: nodes, most reliable first.
        url: URL of the page.
    """
    found = [
        offer._replace(rank=(*offer.rank, place))
        for place, product in enumerate(products)
        for offer in islice(_offers(product, url), MAX_OFFERS)
    ]
    priced = [offer for offer in found if offer.price is not None]
    if not found:
        return None
    best = min(priced or found, key=lambda offer: offer.rank)
    return best._replace(
        currency=best.currency or next((offer.currency for offer in found if offer.currency), None),
        stock=best.stock or _stock(found),
    )


def _stock(offers: list[Offer]) -> str | None:
    """In stock if any offer is."""
    known = [offer.stock for offer in offers if offer.stock]
    return min(known, key=lambda stock: STOCK_RANK[stock], default=None)


def _offers(product: Node, url: str, depth: int = 0, parent: Node | None = None) -> Iterator[Offer]:
    """The offers of a product and of its variants, including nested ones."""
    if depth > MAX_DEPTH:
        return
    for node in nodes_in(product, "offers"):
        if kind(node.get("priceType")) not in NOT_PAID:
            yield _offer(node, parent or {}, url)
            yield from _offers(node, url, depth + 1, node)
    for variant in nodes_in(product, "hasVariant"):
        yield from _offers(variant, url, depth + 1)


def _offer(node: Node, parent: Node, url: str) -> Offer:
    specified = [one for one in nodes_in(node, "priceSpecification") if is_plain_price(one)]
    currencies = [text_in(one.get("priceCurrency")) for one in (node, *specified, parent)]
    currency = next((value for value in currencies if value), None)
    stated = [_stated_price(node)] if is_plain_price(node) else []
    prices = [structured_amount(value, currency) for value in (*stated, *map(_stated_price, specified))]
    price = next((amount for amount in prices if amount), None)
    stock = stock_of(node.get("availability")) or stock_of(parent.get("availability"))
    rank = (
        int(kind(node.get("businessFunction")) in NOT_A_SALE),
        int(url_of(node.get("url")) != url),
        STOCK_RANK[stock],
        int(kind(node.get("itemCondition")) in USED),
    )
    return Offer(price, currency, stock, rank)


def _stated_price(node: Node) -> Any:
    return text_in(node.get("price")) or text_in(node.get("lowPrice")) or text_in(node.get("minPrice"))


def is_plain_price(node: Node) -> bool:
    """Whether an offer or specification states the price that any customer pays for one piece."""
    if kind(node.get("priceType")) in NOT_PAID or is_a(node, *OTHER_CHARGES):
        return False
    if any(values_of(node.get(name)) for name in ("validForMemberTier", "priceComponentType", "billingDuration")):
        return False
    return not (_is_of_other_quantity(node) or _is_of_many(node))


def _is_of_other_quantity(node: Node) -> bool:
    for quantity in nodes_in(node, "referenceQuantity"):
        unit = kind(quantity.get("unitCode")) or kind(quantity.get("unitText"))
        if unit not in SINGLE_UNITS or structured_amount(text_in(quantity.get("value")), None) not in (None, 1):
            return True
    return False


def _is_of_many(node: Node) -> bool:
    least = (text_in(quantity.get("minValue")) for quantity in nodes_in(node, "eligibleQuantity"))
    return any((structured_amount(value, None) or 0) > 1 for value in least)
