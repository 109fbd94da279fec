"""Rejection of a crawl with too many products that are missing for transient reasons."""

from collections.abc import Callable
from pathlib import Path

import pytest

from atlas_model.core.errors import RetryError
from tests.support.crawling import listing, product, run, source, titles
from tests.support.http_statuses import ERROR_PAGE
from tests.support.servers import Reply, Shop
from tests.support.servers import serving as serving_shop


def shop_that_answers(status: int) -> Shop:
    """A shop that responds with ``status`` for two of its four products."""
    pages: dict[str, Reply | Callable[[int], Reply]] = {"/shirts": listing("/p/1", "/p/2", "/p/3", "/p/4")}
    pages |= {f"/p/{number}": product(f"Shirt {number}", f"{number}") for number in (1, 2)}
    return Shop(pages | {f"/p/{number}": Reply(ERROR_PAGE, status) for number in (3, 4)})


@pytest.mark.slow
@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 520, 521, 523, 530, 599])  # test_policy.py: all of them
def test_crawl_with_transient_product_failures_is_rejected(tmp_path: Path, status: int) -> None:
    with serving_shop(shop_that_answers(status)) as shop:
        with pytest.raises(RetryError, match=rf"2 of 4 product pages failed \(http_{status}\), such as .*/p/3"):
            run(shop, [source("/shirts")], tmp_path, robots_tags=["noindex"])
        assert not (tmp_path / "products.parquet").exists()
        assert (shop.asked["/p/3"], shop.asked["/p/4"]) == (2, 2)
        if status == 520:
            shop.pages |= {f"/p/{number}": product(f"Shirt {number}", f"{number}") for number in (3, 4)}
            run(shop, [source("/shirts")], tmp_path, robots_tags=["noindex"])
            assert titles(tmp_path) == {f"Shirt {number}" for number in range(1, 5)}
            assert shop.asked["/p/1"] == shop.asked["/shirts"] == 1


@pytest.mark.slow
def test_crawl_with_permanent_product_failures_is_accepted(tmp_path: Path) -> None:
    with serving_shop(shop_that_answers(410)) as shop:
        result = run(shop, [source("/shirts")], tmp_path, robots_tags=["noindex"])
    assert (result.products, result.dropped) == (2, {"http_410": 2})


@pytest.mark.slow
def test_crawl_accepts_the_allowed_share_of_transient_failures_with_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving_shop(shop_that_answers(500)) as shop:
        with pytest.raises(RetryError, match=r"raise crawl\.max_failed_share"):
            run(shop, [source("/shirts")], tmp_path, max_failed_share=0.4)
        result = run(shop, [source("/shirts")], tmp_path, max_failed_share=0.5)
    assert (result.products, result.dropped) == (2, {"http_500": 2})
    assert (
        "2 of 4 product pages failed (http_500), such as http://shop.test/p/3; their products" in capfd.readouterr().err
    )
