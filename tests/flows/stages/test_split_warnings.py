"""What the stage split leaves out for being no image of a product, and what it warns of."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from atlas_model.core.errors import InputError, TaxonomyError
from atlas_model.core.params import Params, load_params
from atlas_model.data.images import encode_png
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, SCORES, ShardWriter, write_table
from atlas_model.split.report import missing_categories
from flows import paths
from flows.stages import split
from tests.support.paths import ROOT

SHIRT, SHOE = ["Clothing", "Shirt"], ["Footwear", "Shoe"]
Shown = tuple[str, Sequence[str], Sequence[str], str | None]  # product_id, category, images, split hint


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Splits products as they come; what it reports."""
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "params.yaml")

    def run_with(shown: Sequence[Shown], sizes: dict[str, tuple[int, int]] | None = None, **changes: Any) -> dict:
        write(shown, sizes or {})
        options = params.split.model_dump() | {"labels": "met", "image_size": 16} | changes
        split.run(Params.model_validate(params.model_dump() | {"split": options}))
        return json.loads((paths.REPORTS / "split/metrics.json").read_text())

    return run_with


def write(shown: Sequence[Shown], sizes: dict[str, tuple[int, int]]) -> None:
    products = [
        {
            "product_id": name,
            "site": "shop.test",
            "title": name,
            "breadcrumb": [],
            "taxonomy": category,
            "details": [],
            "image_urls": images,
            "split_hint": hint,
        }
        for name, category, images, hint in shown
    ]
    write_table(paths.PRODUCTS, pa.Table.from_pylist(products, schema=PRODUCTS), PRODUCTS)
    refs = [
        {"product_id": name, "image_url": image, "position": position, "image_id": image, "status": "ok"}
        for name, _, images, _ in shown
        for position, image in enumerate(images)
    ]
    write_table(paths.REFS, pa.Table.from_pylist(refs, schema=REFS), REFS)
    names = sorted({str(ref["image_id"]) for ref in refs})
    with ShardWriter(paths.SHARDS, IMAGES, 50) as writer:
        for number, name in enumerate(names):
            width, height = sizes.get(name, (30, 40))
            pixels = np.random.default_rng(number).integers(0, 256, (height, width), dtype=np.uint8)
            info = {"width": width, "height": height, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
            writer.append({"image_id": name, "bytes": encode_png(Image.fromarray(pixels)), **info})
    scores = [
        {
            "image_id": name,
            "p_zoomed": 0.1,
            "keep": True,
            "reason": "normal",
            "phash": int(np.random.default_rng(number).integers(0, 2**64, dtype=np.uint64)),
        }
        for number, name in enumerate(names)
    ]
    write_table(paths.SCORES, pa.Table.from_pylist(scores, schema=SCORES), SCORES)


def some(category: Sequence[str], count: int = 60, *others: str, hint: str | None = None) -> list[Shown]:
    """Products with an image of their own, and others that all of them show."""
    return [(f"{category[-1]}-{n:03d}", category, [f"{category[-1]}-{n:03d}.jpg", *others], hint) for n in range(count)]


def test_drops_images_with_short_side(run: Callable[..., dict[str, Any]]) -> None:
    shown = [*some(SHIRT, 60, "pixel"), *some(SHOE, 60, "line")]
    sizes = {"Shoe-007.jpg": (8, 8), "Shoe-008.jpg": (8, 200)}
    assert run(shown, {"pixel": (1, 1), "line": (200, 7), **sizes})["dropped"] == {"too_small": 120}
    assert run(shown, {"pixel": (8, 8), "line": (200, 8), **sizes})["dropped"] == {"shared_image": 120}


def test_drops_and_reports_image_shared_by_many_products(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run([*some(SHIRT, 60, "chart"), *some(SHOE)])
    assert found["dropped"] == {"shared_image": 60}
    assert found["categories_without"] == {"train": [], "val": [], "test": []}
    assert "warning: split: 60 images were discarded as shared_image" in capsys.readouterr().err


def test_names_categories_missing_in_a_split(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    tied = run([*some(SHIRT, 60, "chart"), *some(SHOE)], max_products_per_image=60)
    (where,) = [name for name in ("train", "val", "test") if "Clothing > Shirt" not in tied["categories_without"][name]]
    err = capsys.readouterr().err
    for name, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        told = f"warning: split: 1 category without {word} images: 'Clothing > Shirt'"
        assert (told in err) == (name != where)


def test_names_categories_that_vanish(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    placeholders = [(f"Hat-{number}", ["Hat"], ["none.jpg"], None) for number in range(30)]
    assert run([*some(SHIRT), *some(SHOE), *placeholders])["categories_without"]["train"] == ["Hat"]
    assert "without training images: 'Hat'" in capsys.readouterr().err
    (tmp_path / "listed.txt").write_text("Clothing > Shirt\nFootwear > Shoe\nBag\n")
    listed = {"labels": "listed", "taxonomy": tmp_path / "listed.txt"}
    assert run([*some(SHIRT), *some(SHOE)], **listed)["categories_without"] == {"train": ["Bag"], "val": [], "test": []}


def test_rare_categories_are_dropped_or_train_only_by_param(run: Callable[..., dict[str, Any]]) -> None:
    shown = [*some(SHIRT), *some(SHOE), *some(["Hat"], 5)]
    nothing = {"train": [], "val": [], "test": []}
    assert run(shown)["categories_without"] == nothing
    assert run(shown, rare="train")["categories_without"] == nothing


def test_many_missing_categories_are_counted_and_listed_in_report() -> None:
    labels = [f"c{number:02d}" for number in range(30)]
    outcomes = [((label,), label, "train") for label in labels[1:]]
    found = missing_categories(labels, outcomes, only_trained=0)
    assert found == {"train": ["c00"], "val": labels[1:], "test": labels[1:]}


def test_unicode_normal_forms_are_one_category(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Röcke") for form in ("NFC", "NFD"))
    shown = some(SHOE)
    for number, name in enumerate(
        [composed, decomposed, f"\u200b{composed}", "Rö\u00adcke\ufeff", f"{composed}\u00a0"] * 10
    ):
        shown.append((f"skirt-{number:02d}", [name], [f"skirt-{number:02d}.jpg"], None))
    found = run(shown)
    assert set(found["share_deviation"]["per_category"]) == {"Footwear > Shoe", "Röcke"}
    assert found["look_alikes"] == []
    (tmp_path / "listed.txt").write_text(f"{decomposed}\u200b\nFootwear > Shoe\n", encoding="utf-8")
    assert run(shown, labels="listed", taxonomy=tmp_path / "listed.txt")["dropped"] == {}


def test_warns_of_confusable_category_names(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    cyrillic = "Co\u0430t"
    shown = [*some(SHIRT), *some(["T-Shirts"]), *some(["T-shirts"]), *some(["Coat"]), *some([cyrillic])]
    assert run(shown)["look_alikes"] == [["Coat", cyrillic], ["T-Shirts", "T-shirts"]]
    assert (
        f"so they are different categories: 'Coat' and {cyrillic!r}; 'T-Shirts' and 'T-shirts'"
        in capsys.readouterr().err
    )


def test_refuses_separators_in_category_names(run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(TaxonomyError, match=r"rename 'Shirts > Blouses'"):
        run([*some(SHIRT), *some(["Clothing", "Shirts > Blouses"])])


def test_refuses_unknown_split_names(run: Callable[..., dict[str, Any]]) -> None:
    shown = [*some(SHIRT, hint="restval"), *some(SHOE, hint="dev"), *some(["Hat"], hint="TEST")]
    assert run(shown, respect_hint=True)["products"] == {"train": 60, "val": 60, "test": 60}
    with pytest.raises(InputError, match=r"got 'holdout' \(10 products\)"):
        run([*shown, *some(["Bag"], 10, hint="holdout")], respect_hint=True)
