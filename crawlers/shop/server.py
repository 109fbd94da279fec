"""HTTP server of the demo shops: the Host header selects the shop, the path selects the page or image."""

import hashlib
from collections.abc import Callable
from functools import partial
from html import escape

from aiohttp import ETag, web

from crawlers.shop.catalogue import THUMBNAIL, DemoCatalogue, DemoProduct, ShopImage
from crawlers.shop.drawing import draw, encode_jpeg
from crawlers.shop.templates import ROBOTS, listing_page, product_page

THUMBNAIL_SIDE = 56  # px

Page = Callable[[], str]


def make_app(catalogue: DemoCatalogue) -> web.Application:
    """Build the web application that serves ``catalogue``."""
    shops = _DemoSite(catalogue)
    app = web.Application()
    app.router.add_get("/{path:.*}", shops.answer)
    return app


class _DemoSite:
    """Pages and images by shop and path."""

    def __init__(self, catalogue: DemoCatalogue) -> None:
        self._pixels = catalogue.pixels
        self._pages: dict[str, dict[str, Page]] = {}
        self._images: dict[str, dict[str, ShopImage]] = {}
        for category in catalogue.categories:
            shop = _name(category.shop.host)
            pages = self._pages.setdefault(shop, {"/": partial(self._home, catalogue, shop)})
            for page in range(1, category.pages + 1):
                pages[category.path(page)] = partial(listing_page, category, page)
            for product in (*category.products, category.forbidden):
                pages[product.path] = partial(product_page, product)
                self._add_images(shop, product)

    def _add_images(self, shop: str, product: DemoProduct) -> None:
        there = {path: image for path, image in product.images.items() if image is not None}
        self._images.setdefault(shop, {}).update(there)

    async def answer(self, request: web.Request) -> web.Response:
        """Respond with the requested page or image, or with 404."""
        shop = _name(request.host)
        if shop not in self._pages:
            names = ", ".join(self._pages)
            return web.Response(
                status=404, text=f"No such shop. In a browser: http://shop-a.localhost:PORT ({names})\n"
            )
        if request.path == "/robots.txt":
            return web.Response(text=ROBOTS)
        page = self._pages[shop].get(request.path_qs)
        if page is not None:
            return web.Response(text=page(), content_type="text/html")
        image = self._images[shop].get(request.path)
        if image is not None:
            return self._image(request, image)
        return web.Response(status=404, text="Not found\n")

    def _image(self, request: web.Request, image: ShopImage) -> web.Response:
        drawn = draw(self._pixels[image.source], image.view)
        if request.path_qs.endswith(THUMBNAIL):
            drawn = drawn.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        content = encode_jpeg(drawn, image.quality)
        tag = hashlib.sha256(content).hexdigest()[:16]
        known = any(etag.value == tag for etag in request.if_none_match or ())
        response = web.Response(status=304) if known else web.Response(body=content, content_type="image/jpeg")
        response.etag = ETag(tag)
        return response

    @staticmethod
    def _home(catalogue: DemoCatalogue, shop: str) -> str:
        links = "".join(
            f'<li><a href="{category.path(1)}">{escape(category.kind.breadcrumb[-1])}</a></li>'
            for category in catalogue.categories
            if _name(category.shop.host) == shop
        )
        return f"<!DOCTYPE html>\n<title>{shop}</title>\n<ul>{links}</ul>\n"


def _name(host: str) -> str:
    """``shop-a`` for ``shop-a.demo.test:80`` and for ``shop-a.localhost``, which browsers resolve without DNS."""
    return host.partition(".")[0]
