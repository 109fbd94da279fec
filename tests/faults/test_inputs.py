"""Damaged and hostile inputs of every kind: no crash, no hang, bounded memory, a reason for what is discarded.

Each test has a small seeded part for `make test`; ``make soak ARGS="-k inputs"`` has the large numbers.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from atlas_model.core.errors import ImageError
from atlas_model.data.images import decode
from atlas_model.data.schemas import DISCARDED, IMAGES, PRODUCTS, REFS, SPLIT, read_table
from tests.support.hostile_images import mutated_image, strictly_decoded, valid_images
from tests.support.hostile_pages import Page, check_fields
from tests.support.isolated_runs import load_kind, outcome_of, random_of, run_inputs
from tests.support.mutations import mutated, mutated_text
from tests.support.servers import Reply, serving
from tests.support.small_shop import CATEGORIES, SmallProduct, SmallProject, SmallShop

CPU_S, WALL_S = 20, 120  # limits for an input; the second is generous, because a machine may be busy
MB = 400  # that an input may take at its peak: an image of 40 million pixels takes 200
MB_OF_A_PAGE = 5_000  # pyarrow allocates what the header of a page states: up to 2 GiB, packed and unpacked
# kind: (inputs in `make test`, inputs in `make soak`)
KINDS = {
    "hostile_images:IMAGES": (150, 10_000),
    "hostile_pages:PAGES": (12, 1_000),
    "hostile_texts:PARAMS": (25, 2_000),
    "hostile_texts:PROFILES": (15, 1_000),
    "hostile_texts:TAXONOMIES": (60, 5_000),
    "hostile_texts:SITEMAPS": (15, 2_000),
    "hostile_texts:MANIFESTS": (30, 3_000),
    "hostile_texts:TABLES": (30, 3_000),
    "hostile_texts:REVIEWS": (30, 3_000),
    "hostile_binaries:PARQUET": (30, 2_000),
    "hostile_binaries:MODELS": (25, 2_000),
    "hostile_binaries:SPOOLS": (15, 2_000),
    "hostile_binaries:JOURNALS": (15, 2_000),
}
SMALL = [(kind, range(count)) for kind, (count, _) in KINDS.items()]
LARGE = [(kind, range(100_000, 100_000 + count)) for kind, (_, count) in KINDS.items()]


@pytest.mark.slow
@pytest.mark.no_cover
def test_inputs_of_every_kind_have_a_result_or_a_reason(tmp_path: Path) -> None:
    """In this process, because starting one for each kind would take most of the time."""
    faults = []
    for name, numbers in SMALL:
        kind = load_kind(name)
        for number in numbers:
            _, fault = outcome_of(kind, kind.make(random_of(name, number)), tmp_path)
            faults += [f"{name} {number}: {fault}"] if fault else []
    assert not faults, "\n\n".join(faults[:5])


@pytest.mark.soak
@pytest.mark.parametrize(("name", "numbers"), LARGE, ids=list(KINDS))
def test_inputs_in_bulk_have_a_result_or_a_reason(name: str, numbers: range, tmp_path: Path) -> None:
    report = run_inputs(
        name, numbers, tmp_path, cpu_s=CPU_S, wall_s=WALL_S, mb=MB_OF_A_PAGE if name.endswith("PARQUET") else MB
    )
    print(f"\n{name}: {report.text}")
    assert not report.faults, "\n\n".join([report.text, *report.faults[:10]])
    assert report.outcomes.total() == len(numbers)


@pytest.mark.slow
def test_a_crash_a_hang_and_memory_of_a_child_are_faults_of_one_input(tmp_path: Path) -> None:
    report = run_inputs("isolated_runs:FAULTY", range(2, 10), tmp_path, cpu_s=60, wall_s=3, mb=30)
    kinds = ("ended with -11", "hung for 3 s", "KeyError: 'no input error'", "more than 30")
    assert [sum(kind in fault for fault in report.faults) for kind in kinds] == [2, 1, 1, 1], report.faults
    assert report.outcomes == Counter(crash=3, ok=2, InputError=2, KeyError=1)


def test_expected_values_are_those_of_a_valid_image() -> None:
    """The comparison itself must be able to fail."""
    image = strictly_decoded(valid_images()["png RGB"])
    assert image.size == (30, 36)
    assert image.tobytes() != strictly_decoded(valid_images()["jpeg RGB"]).tobytes()


def test_a_field_that_is_not_in_the_page_is_found() -> None:
    page = Page(
        "product", "https://a.test/p/1", "text/html", b"<h1>Red Shirt</h1> SKU: A-12, 12,50 &euro; <img src=/i/1.jpg>"
    )
    item: dict[str, Any] = {
        "name": "Red Shirt",
        "sku": "A-12",
        "price": "12.50",
        "images": ["https://a.test/i/1.jpg"],
        "brand": None,
    }
    item |= {"gtin": None, "mpn": None, "breadcrumbs": [], "additional_properties": {}, "availability": None}
    check_fields(item, page)
    for field, wrong in {
        "name": "Blue Shirt",
        "sku": "B-12",
        "price": "13.50",
        "images": ["https://a.test/2.png"],
    }.items():
        with pytest.raises(AssertionError, match=r"."):
            check_fields(item | {field: wrong}, page)


class HostileShop(SmallShop):
    """A shop in which a third of the product pages and of the images are damaged; ``served`` has what it sent."""

    def __init__(self, shop: SmallShop, seed: int) -> None:
        super().__init__(products=shop.products)
        self.seed, self.served = seed, dict[str, bytes]()

    def reply(self, path: str) -> Reply:
        reply = super().reply(path)
        random = Random(f"{self.seed} {path}")
        if path.startswith(("/p/", "/i/")) and random.random() < 1 / 3:
            body = reply.body.encode() if isinstance(reply.body, str) else reply.body
            reply.body = mutated_text(body, random) if path.startswith("/p/") else mutated_image(random)
            reply.headers.pop("ETag", None)
        self.served[path] = reply.body.encode() if isinstance(reply.body, str) else reply.body
        return reply


def hostile_project(root: Path, env: dict[str, str], programs: Path, shop: HostileShop) -> SmallProject:
    """A project that crawls the shop, and takes all that it can."""
    project = SmallProject(root, shop, env, programs)
    project.set({"crawl": {"max_failed_share": 1.0}, "fetch": {"max_failed_share": 1.0}, "split": {"min_products": 1}})
    return project


def check_whole_chain(project: SmallProject, shop: HostileShop) -> Counter[str]:
    """Check the outputs up to the stage split against what the shop sent; returns the counts by reason."""
    root = project.root
    metrics = {
        name: json.loads((root / f"reports/{name}/metrics.json").read_text()) for name in ("crawl", "fetch", "split")
    }
    products = read_table(root / "data/raw/products.parquet", PRODUCTS, "crawl").to_pylist()
    assert metrics["crawl"]["products"] == len(products)
    dropped = Counter(metrics["crawl"]["dropped"])
    # Each page that was read became a product, or is counted; further links in a damaged page may add pages.
    assert len(products) + dropped.total() >= len(shop.products)
    by_path = {path: body for path, body in shop.served.items() if path.startswith("/p/")}
    text = b"".join(by_path.values()).decode("utf-8", "replace")
    for product in products:
        page = Page("product", product["page_url"], "text/html; charset=utf-8", text.encode())
        item = {
            "name": product["title"],
            "sku": None,
            "gtin": product["gtin"],
            "mpn": product["mpn"],
            "brand": product["brand"],
        }
        item |= {"breadcrumbs": [], "additional_properties": {}, "images": [], "availability": product["availability"]}
        check_fields(item | {"price": product["price"]}, page)
        assert " > ".join(product["taxonomy"]) in CATEGORIES
    refs = read_table(root / "data/images/refs.parquet", REFS, "fetch").to_pylist()
    assert len(refs) == sum(len(product["image_urls"]) for product in products)
    assert sum(metrics["fetch"]["statuses"].values()) == len({ref["image_url"] for ref in refs})
    images = {
        row["image_id"]: row["bytes"] for row in read_table(root / "data/images/shards", IMAGES, "fetch").to_pylist()
    }
    for ref in refs:
        path = urlsplit(ref["image_url"]).path
        if ref["status"] == "ok":
            assert shop.served[path] == images[ref["image_id"]]
            image, expected = decode(images[ref["image_id"]]), strictly_decoded(images[ref["image_id"]])
            assert (image.mode, image.tobytes()) == (expected.mode, expected.tobytes())
        elif path in shop.served:
            with pytest.raises(ImageError):
                decode(shop.served[path]) if ref["status"] != "http_404" else decode(b"")
    kept = read_table(root / "data/splits", SPLIT, "split", ["image_id", "split"]).to_pylist()
    discarded = read_table(root / "reports/split/discarded.parquet", DISCARDED, "split").to_pylist()
    assert len(kept) + len(discarded) == len(refs) == metrics["split"]["refs"]
    reasons = Counter(row["reason"] for row in discarded)
    assert reasons == Counter(metrics["split"]["dropped"])
    return dropped + reasons


DAMAGED = {  # file -> the stage that reads it
    "params.yaml": "split",
    "data/taxonomy.csv": "split",
    "data/sources.csv": "crawl",
    "data/raw/products.parquet": "fetch",
    "data/images/refs.parquet": "split",
    "data/images/shards/part-00000.parquet": "zoom",
    "data/zoom/scores.parquet": "split",
    "data/splits/train-00000-of-00001.parquet": "train",
    "data/splits/taxonomy.json": "train",
    "models/categorizer/model.json": "evaluate",
    "models/categorizer/model.safetensors": "evaluate",
    "data/zoom/labelled/part-00000.parquet": "zoom_train",
}


def with_flipped_bit(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def check_damaged_file(project: SmallProject, file: str, damage: Callable[[bytes], bytes]) -> int:
    """Run the stage that reads ``file`` when it is damaged; returns its exit code: 2 with one line, or 0.

    Or 1, if the damage made another host name of a shop's.
    """
    path = project.root / file
    whole = path.read_bytes()
    path.unlink()  # it may be a link to DVC's cache
    path.write_bytes(damage(whole))
    done = project.run(f"flows.stages.{DAMAGED[file]}")
    path.unlink()
    path.write_bytes(whole)
    assert "Traceback" not in done.stderr, f"{file}: {done.stderr}"
    expected = (0, 1, 2) if file == "data/sources.csv" and ": host_down" in done.stderr else (0, 2)
    assert done.returncode in expected, f"{file}: {done.returncode}: {done.stderr}"
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (1 if done.returncode else 0), done.stderr
    return done.returncode


@pytest.mark.slow
def test_a_hostile_shop_goes_through_the_stages_with_counts(
    tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str], warm_python: Path
) -> None:
    products = {number: SmallProduct(number, number % len(CATEGORIES)) for number in range(48)}
    shop = HostileShop(SmallShop(products=products), seed=1)
    with serving(shop):
        project = hostile_project(copy_project(tmp_path / "project"), git_env, warm_python, shop)
        project.set({"zoom": {"enabled": False}})
        project.repro("split")
        assert check_whole_chain(project, shop).total()
        assert check_damaged_file(project, "data/images/refs.parquet", with_flipped_bit) == 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_hostile_shops_go_through_the_whole_chain_with_counts(
    seed: int, tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str], warm_python: Path
) -> None:
    products = {number: SmallProduct(number, number % len(CATEGORIES)) for number in range(400)}
    shop = HostileShop(SmallShop(products=products), seed)
    with serving(shop):
        project = hostile_project(copy_project(tmp_path / "project"), git_env, warm_python, shop)
        project.repro()
        print(f"\n{len(products)} products: {dict(check_whole_chain(project, shop))}")
        codes: Counter[int] = Counter()
        for number in range(60):
            random = Random(f"{seed} {number}")
            file = list(DAMAGED)[number % len(DAMAGED)]
            codes[check_damaged_file(project, file, lambda data, random=random: mutated(data, random))] += 1
        print(f"damaged files, by exit code: {dict(codes)}")
