"""HTML templates of the three demo shops, each with a different kind of mark-up.

Mark-up that a reader can use:

shop-a (JSON-LD)
    listing   ``a.product-link`` in ``li.product``; next page: ``<link rel="next">`` in the head
    product   one ``<script type="application/ld+json">`` with an ``@graph`` of ``Product`` (name, sku, brand, image
              list of absolute URLs, offers.price and priceCurrency) and ``BreadcrumbList``; ``link[rel=canonical]``;
              details in ``table.details`` (th, td)
shop-b (microdata)
    listing   ``article.tile > a``; next page: ``nav.pages a`` with the text "Next"
    product   ``itemtype="https://schema.org/Product"`` with ``itemprop`` name, sku, image (relative URLs), brand,
              offers (price in ``content``, priceCurrency); ``BreadcrumbList``; details in ``dl.specs`` (dt, dd)
shop-c (CSS classes only)
    listing   ``div.item a.item-title`` with a truncated title and a thumbnail; next page: ``a.older``
    product   ``h1.product_title``; ``span.price``, as in "Rs. 1,299.00" with a no-break space; ``div.crumbs a``,
              the first of which is "Home"; images: ``div.gallery a[href]`` (the ``img`` in it is a thumbnail);
              details: ``ul.attributes li``, "Material: Linen"; only the URL has the product number

Every page also links to ``/cart``, and the first page of a category to a product below ``/internal/``, both of
which robots.txt forbids.
"""

import json
from decimal import Decimal
from html import escape
from typing import Any

from crawlers.shop.catalogue import PAGE_SIZE, THUMBNAIL, DemoCategory, DemoProduct, DemoShop

ROBOTS = "User-agent: *\nDisallow: /cart\nDisallow: /internal/\n"
CUT_TITLE = 16  # characters of a title in shop-c's listings
NO_BREAK = "\u00a0"


def listing_page(category: DemoCategory, page: int) -> str:
    """HTML of page number ``page`` (from 1) of ``category``."""
    products = category.products[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    if page == 1:
        products = [*products, category.forbidden]
    next_path = category.path(page + 1) if page < category.pages else None
    return LISTINGS[category.shop.host](category, products, next_path)


def product_page(product: DemoProduct) -> str:
    """HTML of ``product``'s page."""
    return PRODUCTS[product.shop.host](product)


def _document(shop: DemoShop, title: str, body: str, head: str = "") -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{head}</head>\n'
        f'<body><header><a href="/">{shop.host}</a> <a href="/cart">Cart (0)</a></header>\n{body}\n</body></html>\n'
    )


def _a_listing(category: DemoCategory, products: list[DemoProduct], next_path: str | None) -> str:
    tiles = "\n".join(
        f'<li class="product"><a class="product-link" href="{product.path}">{escape(product.title)}</a>'
        f'<span class="price">{product.price} €</span></li>'
        for product in products
    )
    head = f'<link rel="next" href="{escape(next_path)}">' if next_path else ""
    return _document(category.shop, category.kind.breadcrumb[-1], f'<ul class="products">\n{tiles}\n</ul>', head)


def _a_product(product: DemoProduct) -> str:
    url = f"http://{product.shop.host}{product.path}"
    trail = [("Home", "/"), *((name, product.category_path) for name in product.kind.breadcrumb)]
    graph: list[dict[str, Any]] = [
        {
            "@type": "BreadcrumbList",
            "itemListElement": [
                {"@type": "ListItem", "position": place, "name": name, "item": f"http://{product.shop.host}{path}"}
                for place, (name, path) in enumerate(trail, start=1)
            ],
        },
        {
            "@type": "Product",
            "name": product.title,
            "sku": str(product.number),
            "url": url,
            "brand": {"@type": "Brand", "name": product.brand},
            "image": product.image_urls,
            "offers": {
                "@type": "Offer",
                "price": str(product.price),
                "priceCurrency": product.shop.currency,
                "availability": "https://schema.org/InStock",
            },
        },
    ]
    data = json.dumps({"@context": "https://schema.org", "@graph": graph}, ensure_ascii=False).replace("<", "\\u003c")
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in product.details.items())
    images = "".join(f'<img src="{path}" alt="">' for path in product.images)
    return _document(
        product.shop,
        product.title,
        f'<h1>{escape(product.title)}</h1>\n<p class="price">{product.price} €</p>\n<div>{images}</div>\n'
        f'<table class="details">{rows}</table>',
        f'<link rel="canonical" href="{url}">\n<script type="application/ld+json">{data}</script>',
    )


def _b_listing(category: DemoCategory, products: list[DemoProduct], next_path: str | None) -> str:
    tiles = "\n".join(
        f'<article class="tile"><a href="{product.path}">{escape(product.title)}</a></article>' for product in products
    )
    next_link = f'<a href="{escape(next_path)}">Next</a>' if next_path else ""
    first = f'<a href="{category.path(1)}">First</a>'
    body = f'<main>\n{tiles}\n</main>\n<nav class="pages">{first} {next_link}</nav>'
    return _document(category.shop, category.kind.breadcrumb[-1], body)


def _b_product(product: DemoProduct) -> str:
    crumbs = "".join(
        '<li itemprop="itemListElement" itemscope itemtype="https://schema.org/ListItem">'
        f'<a itemprop="item" href="{product.category_path}"><span itemprop="name">{escape(name)}</span></a>'
        f'<meta itemprop="position" content="{place}"></li>'
        for place, name in enumerate(product.kind.breadcrumb, start=1)
    )
    images = "".join(f'<img itemprop="image" src="{path}" alt="">' for path in product.images)
    specs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in product.details.items())
    return _document(
        product.shop,
        product.title,
        f'<ol itemscope itemtype="https://schema.org/BreadcrumbList">{crumbs}</ol>\n'
        '<div itemscope itemtype="https://schema.org/Product">\n'
        f'<h1 itemprop="name">{escape(product.title)}</h1> <span itemprop="sku">{product.number}</span>\n'
        f'<span itemprop="brand">{escape(product.brand)}</span>\n{images}\n'
        '<div itemprop="offers" itemscope itemtype="https://schema.org/Offer">'
        f'<meta itemprop="priceCurrency" content="{product.shop.currency}">'
        '<link itemprop="availability" href="https://schema.org/InStock">'
        f'<span itemprop="price" content="{product.price}">{product.shop.currency} {product.price}</span></div>\n'
        f'</div>\n<dl class="specs">{specs}</dl>',
    )


def _c_listing(category: DemoCategory, products: list[DemoProduct], next_path: str | None) -> str:
    tiles = "\n".join(
        f'<div class="item"><img src="{next(iter(product.images))}{THUMBNAIL}" alt="">'
        f'<a class="item-title" href="{product.path}">{escape(_cut(product.title))}</a>'
        f'<span class="price">{_rupees(product.price)}</span></div>'
        for product in products
    )
    older = f'\n<a class="older" href="{escape(next_path)}">&rarr;</a>' if next_path else ""
    return _document(category.shop, category.kind.breadcrumb[-1], f'<div class="grid">\n{tiles}\n</div>{older}')


def _c_product(product: DemoProduct) -> str:
    crumbs = " / ".join(
        f'<a href="{path}">{escape(name)}</a>'
        for name, path in [("Home", "/"), *((name, product.category_path) for name in product.kind.breadcrumb)]
    )
    images = "".join(f'<a href="{path}"><img src="{path}{THUMBNAIL}" alt=""></a>' for path in product.images)
    details = {"Brand": product.brand, **product.details}
    lines = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in details.items())
    return _document(
        product.shop,
        product.title,
        f'<div class="crumbs">{crumbs}</div>\n<h1 class="product_title">{escape(product.title)}</h1>\n'
        f'<span class="price">{_rupees(product.price)}</span>\n<div class="gallery">{images}</div>\n'
        f'<ul class="attributes">{lines}</ul>',
    )


def _cut(title: str) -> str:
    return title if len(title) <= CUT_TITLE else f"{title[:CUT_TITLE]}…"


def _rupees(price: Decimal) -> str:
    return f"Rs.{NO_BREAK}{price:,}"


LISTINGS = {"shop-a.demo.test": _a_listing, "shop-b.demo.test": _b_listing, "shop-c.demo.test": _c_listing}
PRODUCTS = {"shop-a.demo.test": _a_product, "shop-b.demo.test": _b_product, "shop-c.demo.test": _c_product}
