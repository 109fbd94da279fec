"""Read a saved product page into an item, as JSON on stdout.

    python examples/read_product_page.py https://shop.example/p/1 tests/crawlers/pages/saved/json-ld/product.html

The host of the URL selects the shop's profile. `crawlers.api.fetch_product` requests a page instead, and obeys
robots.txt.
"""

import json
import sys
from pathlib import Path

from crawlers.api import parse_product


def main(url: str, file: Path) -> None:
    """Write what a crawl would store of the page."""
    product = parse_product(url, file.read_bytes())
    item = {
        "title": product.name,
        "price": str(product.price),
        "currency": product.currency,
        "breadcrumb": list(product.breadcrumbs or []),
        "images": list(product.images or []),
    }
    sys.stdout.write(json.dumps(item, ensure_ascii=False, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
