"""Detection of breadcrumbs that contradict the label, and the report per shop."""

from pathlib import Path

import pytest

from crawlers.crawl.contradictions import Contradictions
from crawlers.sources.csv_sources import Source
from tests.support.crawling import listing, product, rows, run, source
from tests.support.servers import HOST, Shop, serving

SHIRTS = Source("a.test", ("Clothing", "Tops", "Shirt"), "http://a.test/c/shirts")
PULLOVERS = Source("a.test", ("Clothing", "Tops", "Pullover"), "http://a.test/c/12")
SHOES = Source("b.test", ("Footwear", "Shoe"), "http://b.test/schuhe.html")


def count(*trails: tuple[str, ...], of: Source = SHIRTS) -> int:
    sources = [SHIRTS, PULLOVERS, SHOES]
    found = Contradictions(sources)
    for number, trail in enumerate(trails):
        found.add(sources.index(of), trail, f"http://{of.site}/p/{number}")
    shops = found.by_site()
    assert shops.keys() <= {of.site}
    return shops[of.site].count if shops else 0


KNITWEAR = ("Fashion", "Knitwear")


@pytest.mark.parametrize(
    ("of", "trails", "contradicted"),
    [
        (SHIRTS, [("Fashion", "Shirts & Blouses"), ("Men", "Linen shirts", "Casual")], 0),
        (SHIRTS, [("Clothing", "Tops")], 0),
        (SHIRTS, [()], 0),
        (SHIRTS, [("Fashion", "Pullovers")], 1),
        (SHIRTS, [("Fashion", "Shirts"), ("Garden", "Hoses"), ("Garden", "Hoses")], 2),
        (PULLOVERS, [KNITWEAR] * 5, 0),
        (PULLOVERS, [KNITWEAR] * 5 + [("Garden", "Hoses")], 1),
        (PULLOVERS, [KNITWEAR] * 5 + [(*KNITWEAR, "Wool")], 0),
        (PULLOVERS, [KNITWEAR, ("Garden", "Hoses")], 0),
        (SHOES, [("Damen", "Damenschuhe")], 0),
        (SHOES, [("Damen", "Pullover")], 1),
    ],
    ids=range(11),
)
def test_detects_contradicting_breadcrumbs(of: Source, trails: list[tuple[str, ...]], contradicted: int) -> None:
    assert count(*trails, of=of) == contradicted


def test_reports_contradicted_products_per_shop(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pages = {"/shirts": listing("/p/1", "/p/2", "/p/3"), "/boots": listing("/p/4")}
    pages |= {f"/p/{number}": product(f"P{number}", breadcrumb=("Fashion", "Shirts")) for number in (1, 2)}
    pages |= {f"/p/{number}": product(f"P{number}", breadcrumb=("Shoes", "Boots")) for number in (3, 4)}
    with serving(Shop(pages)) as shop:
        result = run(shop, [source("/shirts"), source("/boots", "Footwear", "Boot")], tmp_path)
    assert result.shops[HOST]["contradicted_labels"] == 1
    assert len(rows(tmp_path)) == 4, "they are kept"
    said = capfd.readouterr().err
    assert f"{HOST}: the breadcrumbs of 1 of 4 products name another category" in said
    assert f"http://{HOST}/p/3" in said
