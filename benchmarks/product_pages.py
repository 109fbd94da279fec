"""Measures how well fields of real product pages are read: price, SKU, availability, and other labelled fields.

The pages and their labels are those of scrapinghub/product-extraction-benchmark (MIT licence, Zyte 2021). They are not
in the repository: copy them to ../shared/pages_benchmark. As defined there, a wrong value counts as a false positive
and as a false negative. Brand, GTIN and MPN were labelled by one person; use their results only to compare versions of
Atlas.
"""

import asyncio
import json
import lzma
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from web_poet import HttpResponse

from benchmarks.report import report
from crawlers.pages.items import Product
from crawlers.pages.registry import read_product, shop_of

PAGES = Path(__file__).resolve().parents[2] / "shared/pages_benchmark"
HEADERS = {"Content-Type": "text/html; charset=utf-8"}
FIELDS = ("price", "sku", "availability")  # those whose figures are published
OTHERS = ("brand", "gtin", "mpn")
PUBLISHED = {  # F1 on all 140 pages, https://github.com/scrapinghub/product-extraction-benchmark
    "Zyte Automatic Extraction": (0.918, 0.841, 0.957),
    "Diffbot": (0.824, 0.765, 0.943),
    "extruct": (0.685, 0.537, 0.626),
}

Answers = Mapping[str, Mapping[str, Any]]  # page -> field -> value


def number(value: Any) -> Decimal | None:
    """A price as a number."""
    try:
        return Decimal(str(value).replace(",", ""))
    except InvalidOperation:
        return None


def score(answers: Answers, truth: Mapping[str, Any], field: str) -> dict[str, float]:
    """F1, precision and recall of ``field``, with their counts."""
    same: Callable[[Any], Any] = number if field == "price" else lambda value: str(value).strip().lower()
    counts = dict.fromkeys(("right", "wrong", "missing", "spurious"), 0)
    for page, fields in truth.items():
        wanted = [same(value) for value in fields.get(field) or []]
        got = answers.get(page, {}).get(field)
        if got in (None, ""):
            counts["missing"] += bool(wanted)
        elif same(got) in wanted:
            counts["right"] += 1
        else:
            counts["wrong" if wanted else "spurious"] += 1
    right, found = counts["right"], counts["right"] + counts["wrong"]
    precision = right / max(1, found + counts["spurious"])
    recall = right / max(1, found + counts["missing"])
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"f1": f1, "precision": precision, "recall": recall, **counts}


def read(url: str, body: bytes) -> dict[str, Any] | None:
    """The fields read on a page; None if the reader raised, which is a bug."""
    try:
        product: Product = asyncio.run(
            read_product(shop_of(urlsplit(url).hostname or ""), HttpResponse(url, body=body, headers=HEADERS))
        )
    except Exception as error:
        print(f"{url}: {error!r}", file=sys.stderr)
        return None
    return product.to_json()


def pages(truth: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Page -> its URL and its bytes."""
    return {
        page: (fields["url"], lzma.decompress((PAGES / "html" / f"{page}.html.xz").read_bytes()))
        for page, fields in truth.items()
    }


def main() -> None:
    """Measure, and print the table of docs/crawling.md."""
    if not (PAGES / "truth.json").is_file():
        sys.exit(f"{PAGES}: the benchmark's pages are not there; see {Path(__file__).name}")
    truth = json.loads((PAGES / "truth.json").read_text(encoding="utf-8"))
    found = pages(truth)
    started = time.process_time()
    answers = {page: read(url, body) for page, (url, body) in found.items()}
    cpu_ms = 1000 * (time.process_time() - started) / len(found)
    crashes = sum(answer is None for answer in answers.values())
    ours = {
        field: score({page: answer or {} for page, answer in answers.items()}, truth, field)
        for field in FIELDS + OTHERS
    }
    table("Atlas", [ours[field]["f1"] for field in FIELDS], f"{len(truth)} of the 140 pages")
    theirs = extruct_figures(found, truth, answers)
    if theirs:
        table(
            "extruct", [theirs[field]["f1"] for field in FIELDS], f"the same {len(truth)} pages, first product of each"
        )
    for name, figures in PUBLISHED.items():
        table(name, figures, "as published, all 140 pages")
    rows = [(f"{field}: {name}", value, "") for field, of in ours.items() for name, value in of.items()]
    rows += [("pages that made the reader raise", float(crashes), ""), ("CPU", cpu_ms, "ms/page")]
    rows += [(f"{field}: extruct: {name}", value, "") for field, of in theirs.items() for name, value in of.items()]
    report("product_pages", rows, {"pages": len(truth), "crashes": crashes, **ours, "extruct": theirs})


def extruct_figures(
    found: Mapping[str, tuple[str, bytes]], truth: Mapping[str, Any], ours: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, float]]:
    """The scores of extruct by field; prints what only extruct reads correctly. None if it is not installed."""
    try:
        from benchmarks.extruct_answers import extruct_answers
    except ImportError:
        print("extruct is not installed: it is part of the extra dev")
        return {}
    answers = {page: extruct_answers(url, body) for page, (url, body) in found.items()}
    figures = {}
    for field in FIELDS + OTHERS:
        figures[field] = score({page: answer or {} for page, answer in answers.items()}, truth, field)
        for page, fields in truth.items():
            one = {page: fields}
            mine, other = ((of or {}).get(field) for of in (ours[page], answers[page]))
            right = [score({page: {field: value}}, one, field)["right"] for value in (mine, other)]
            if right == [0, 1]:
                print(f"  {field}: extruct alone is right: {other!r}, ours {mine!r}: {fields['url']}")
    figures["crashes"] = {"pages": float(sum(answer is None for answer in answers.values()))}
    return figures


def table(name: str, figures: Sequence[float], note: str) -> None:
    """Print a row of the table."""
    print("| " + " | ".join([name, *(f"{figure:.3f}".lstrip("0") for figure in figures), note]) + " |")


if __name__ == "__main__":
    main()
