"""``python seed.py``: fills the shop, and writes from its database what a perfect crawl would find.

The expected values are read through Oscar's models, not from its pages or from the catalogue.
"""

import hashlib
import json
import os
import sys
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from catalogue import COLOURS, Article, articles, images, leaves
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.management import call_command
from django.db import transaction
from oscar.apps.catalogue.categories import create_from_sequence
from oscar.apps.catalogue.models import (
    Category,
    Product,
    ProductAttribute,
    ProductCategory,
    ProductClass,
    ProductImage,
    ProductRecommendation,
)
from oscar.apps.catalogue.reviews.models import ProductReview
from oscar.apps.partner.models import Partner, StockRecord
from oscar.apps.partner.strategy import Selector


@transaction.atomic
def seed() -> None:
    """Write the catalogue to the database, and its images."""
    goods = ProductClass.objects.create(name="Goods", track_stock=True)
    for code in ("colour", "material"):
        ProductAttribute.objects.create(product_class=goods, name=code.title(), code=code, type="text")
    partner = Partner.objects.create(name="Warehouse")
    categories = {path: create_from_sequence(path)[-1] for path in leaves()}
    made: list[Product] = []
    for article in articles():
        product = _create(article, goods, partner)
        for path in filter(None, {article.category, article.also_in}):
            ProductCategory.objects.create(product=product, category=categories[path])
        for position, (name, content) in enumerate(images(article)):
            ProductImage.objects.create(
                product=product, original=ContentFile(content, name=name), display_order=position
            )
        if article.number % 6 == 5:
            for other in made[-3:]:
                ProductRecommendation.objects.create(primary=product, recommendation=other)
            ProductReview.objects.create(
                product=product,
                score=4,
                title="Worth it",
                body="Got it for £1.23 in a sale.",
                name="A. Buyer",
                email="a@b.test",
            )
        made.append(product)


def _create(article: Article, goods: ProductClass, partner: Partner) -> Product:
    variants = len(article.prices) > 1
    product = Product(
        product_class=goods,
        title=article.title,
        description=article.description,
        upc=f"A-{article.number:05}",
        structure=Product.PARENT if variants else Product.STANDALONE,
    )
    product.attr.colour, product.attr.material = COLOURS[article.number % len(COLOURS)], "cotton & wool"
    product.save()
    for index, price in enumerate(article.prices):
        sold = product
        if variants:
            sold = Product(structure=Product.CHILD, parent=product, title=f"{article.title}, size {index}")
            sold.upc = f"{product.upc}-{index}"
            sold.save()
        if price is not None:
            StockRecord.objects.create(
                product=sold,
                partner=partner,
                partner_sku=sold.upc,
                price=price,
                price_currency=settings.OSCAR_DEFAULT_CURRENCY,
                num_in_stock=article.stock,
            )
    return product


def truth() -> dict[str, Any]:
    """The expected fields of every visible product, and the categories with products."""
    return {
        "products": [_told(product) for product in Product.objects.browsable()],
        "categories": {
            category.get_absolute_url(): [one.name for one in category.get_ancestors_and_self()]
            for category in Category.objects.filter(numchild=0)
        },
    }


def _told(product: Product) -> dict[str, Any]:
    strategy = Selector().strategy()
    price = (strategy.fetch_for_parent if product.is_parent else strategy.fetch_for_product)(product).price
    return {
        "path": product.get_absolute_url(),
        "title": product.get_title(),
        "price": str(price.incl_tax) if price.exists else None,
        "currency": price.currency if price.exists else None,
        "breadcrumb": [one.name for one in product.get_categories().first().get_ancestors_and_self()],
        "images": [hashlib.sha256(image.original.read()).hexdigest() for image in product.get_all_images()],
    }


if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    seed()
    call_command("update_index", verbosity=0)
    json.dump(truth(), sys.stdout, indent=1, ensure_ascii=False)
