"""The stage split on files: what it writes opens as images, what it reports is true, what it lacks it names."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas_model.core.errors import InputError
from atlas_model.core.params import Params, load_params
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.reviews import SERVICE, Decision, append_record
from atlas_model.data.schemas import IMAGES, PRODUCTS, REFS, SCORES, ShardWriter, read_table, write_table
from atlas_model.split import files as split_files
from atlas_model.split.files import SplitWriter, read_columns
from atlas_model.split.names import SPLITS
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.stages import split
from tests.support.paths import ROOT
from tests.support.reviews import category, zoom

CATEGORIES = [["Clothing", "Shirt"], ["Footwear", "Shoe"]]


def image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    return encode_png(Image.fromarray(pixels).resize((30, 40)))


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Files of 120 products with an image each, the last without one; the number of products."""
    monkeypatch.chdir(tmp_path)
    count = 120
    names = [f"p{number:03d}" for number in range(count)]
    products = [
        {
            "product_id": name,
            "site": "shop.test",
            "title": f"Title {name}",
            "breadcrumb": [],
            "taxonomy": CATEGORIES[number % 2],
            "details": [],
            "image_urls": [f"http://shop.test/{name}.png"],
        }
        for number, name in enumerate(names)
    ]
    write_table(paths.PRODUCTS, pa.Table.from_pylist(products, schema=PRODUCTS), PRODUCTS)
    info = {"width": 30, "height": 40, "format": "PNG", "mode": "RGB", "orientation": 1, "n_frames": 1}
    with ShardWriter(paths.SHARDS, IMAGES, 50) as writer:
        for number, name in enumerate(names[:-1]):
            writer.append({"image_id": f"i{name}", "bytes": image(number), **info})
    refs = [
        {
            "product_id": name,
            "image_url": f"http://shop.test/{name}.png",
            "position": 0,
            "image_id": None if name == names[-1] else f"i{name}",
            "status": "timeout" if name == names[-1] else "ok",
        }
        for name in names
    ]
    write_table(paths.REFS, pa.Table.from_pylist(refs, schema=REFS), REFS)
    write_scores(names[:-1])
    return count


def write_scores(names: list[str], zoomed: tuple[str, ...] = ("p000",)) -> None:
    scores = [
        {
            "image_id": f"i{name}",
            "p_zoomed": 0.1,
            "keep": name not in zoomed,
            "reason": "zoomed" if name in zoomed else "normal",
            "phash": int(np.random.default_rng(number).integers(0, 2**64, dtype=np.uint64)),
        }
        for number, name in enumerate(names)
    ]
    write_table(paths.SCORES, pa.Table.from_pylist(scores, schema=SCORES), SCORES)


@pytest.fixture
def run(catalogue: int) -> Callable[..., None]:
    params = load_params(ROOT / "params.yaml")

    def run_with(**changes: Any) -> None:
        options = params.split.model_dump() | {"labels": "met", "image_size": 16, "image_mode": "RGB"} | changes
        split.run(Params.model_validate(params.model_dump() | {"split": options}))

    return run_with


def metrics() -> dict[str, Any]:
    return json.loads((paths.REPORTS / "split/metrics.json").read_text())


def test_splits_load_as_images_with_hugging_face_datasets(
    run: Callable[..., None], catalogue: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Image as ImageFeature
    from datasets import List, Value, load_dataset

    files = {name: str(paths.SPLITS / f"{name}-*.parquet") for name in SPLITS}
    data = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert data.num_rows == metrics()["images_per_split"]
    assert isinstance(data["train"].features["image"], ImageFeature)
    assert data["train"].features["taxonomy"] == List(Value("string"))
    row = data["val"][0]
    assert (row["image"].size, row["image"].mode) == ((16, 16), "RGB")
    assert row["label"] == " > ".join(row["taxonomy"])
    assert row["split"] == "val"
    stored = Image.open(io.BytesIO(image(int(row["product_id"][1:]))))
    expected = Preprocessing(16, "RGB", "squash").apply(stored)
    assert np.array_equal(np.asarray(row["image"]), np.asarray(expected))


def test_metrics_count_all_refs_and_plot_counts_all_images(run: Callable[..., None], catalogue: int) -> None:
    run()
    found = metrics()
    assert found["refs"] == catalogue
    assert found["dropped"] == {"timeout": 1, "zoomed": 1}
    assert sum(found["images_per_split"].values()) == catalogue - 2
    assert found["leaks"] == {"product": 0, "near_duplicate": 0}
    assert found["share_deviation"]["max"] == max(found["share_deviation"]["per_category"].values())
    with split.CATEGORIES.open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["category"], row["split"]) for row in rows][:3] == [("Clothing > Shirt", name) for name in SPLITS]
    assert sum(int(row["n"]) for row in rows) == catalogue - 2


def test_decisions_of_reviewers_change_labels_and_kept_images(
    run: Callable[..., None], catalogue: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    before = {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()}
    paths.REVIEWS.mkdir(parents=True)
    (paths.REVIEWS / "README.md").touch()
    run()
    assert {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()} == before
    assert "reviews" not in metrics()
    records: list[Decision] = [
        category("p001", "Clothing > Shirt"),
        category("p003", None, "bob", answer="none"),
        zoom("ip000", "normal"),
        category("p007", "Clothing > Shirt", "service", order=SERVICE),
    ]
    for record in [*records, category("gone", "Clothing > Shirt"), category("p005", None, answer="unsure")]:
        append_record(paths.REVIEWS, record)
    capsys.readouterr()
    run()
    said = capsys.readouterr().err
    assert (
        "split: decisions on categories of 3 reviewers: 4. labels changed: 1; no category fits, discarded as "
        "not_in_taxonomy: 1; not sure: 1; product not in this snapshot: 1\n"
        "split: decisions on close-ups of 3 reviewers: 1. images kept that the filter discards: 1\n"
        "split: feedback of atlas serve, without effect before a review (atlas review --order feedback): 1\n"
    ) in said
    assert metrics()["reviews"] == {
        "reviewers": 3,
        "categories": {"changed": 1, "excluded": 1, "unsure": 1, "unknown_product": 1},
        "zoom": {"kept": 1},
        "feedback": 1,
    }
    assert metrics()["dropped"] == {"not_in_taxonomy": 1, "timeout": 1}
    rows = read_columns(paths.SPLITS, SPLITS, ["product_id", "label"]).to_pydict()
    labels = dict(zip(rows["product_id"], rows["label"], strict=True))
    assert labels["p001"] == "Clothing > Shirt" and labels["p005"] == labels["p007"] == "Footwear > Shoe"
    assert "p000" in labels and "p003" not in labels
    with (paths.REVIEWS / "anna.jsonl").open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(InputError, match=r"data/reviews: expected records .*anna\.jsonl, line 5"):
        run()


def test_metadata_holds_preprocessing(run: Callable[..., None]) -> None:
    run(resize="pad")
    metadata = pq.read_schema(next(paths.SPLITS.glob("train-*.parquet"))).metadata
    assert json.loads(metadata[b"atlas"])["preprocessing"] == {
        "size": 16,
        "mode": "RGB",
        "resize": "pad",
        "interpolation": "bicubic",
    }


def test_same_input_gives_same_bytes(run: Callable[..., None]) -> None:
    run()
    first = {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()}
    run()
    assert {path.name: path.read_bytes() for path in paths.SPLITS.iterdir()} == first


def test_taxonomy_is_derived_from_products_or_given(run: Callable[..., None], tmp_path: Path) -> None:
    run()
    met = Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text()))
    assert met.paths == tuple(map(tuple, CATEGORIES))
    given = tmp_path / "taxonomy.txt"
    given.write_text("Clothing > Shirt\nBags > Bag\n")
    run(labels="listed", taxonomy=given)
    assert Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text())).paths == (("Clothing", "Shirt"), ("Bags", "Bag"))
    assert metrics()["dropped"]["not_in_taxonomy"] == 59


def test_derived_taxonomy_excludes_rare_categories(run: Callable[..., None]) -> None:
    table = read_table(paths.PRODUCTS, PRODUCTS, "crawl").to_pylist()
    for product in table[:3]:
        product["taxonomy"] = ["Bags", "Bag"]
    table[3]["taxonomy"] = []  # of a faulty row
    write_table(paths.PRODUCTS, pa.Table.from_pylist(table, schema=PRODUCTS), PRODUCTS)
    run(min_products=5)
    assert Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text())).paths == tuple(map(tuple, CATEGORIES))
    run(min_products=5, rare="train")
    assert ("Bags", "Bag") in Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text())).paths


def test_empty_split_is_an_error_and_keeps_previous_output(run: Callable[..., None]) -> None:
    run()
    before = sorted(path.name for path in paths.SPLITS.iterdir())
    with pytest.raises(InputError, match=r"none in train and val and test.*rare_category 118.*timeout 1"):
        run(min_products=100)
    with pytest.raises(InputError, match="none in val"):
        run(val_share=0.0001)
    assert sorted(path.name for path in paths.SPLITS.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "zoomed", "named", "remedy"),
    [
        ({}, 119, r"zoomed \(119\)", r"zoom\.enabled: false"),
        ({"min_products": 100}, 1, r"rare_category \(118\)", r"split\.min_products"),
        ({"min_products": 40}, 80, r"zoomed \(80\)", r"zoom\.enabled: false"),
        ({"min_products": 41}, 40, r"rare_category \(79\)", r"split\.rare: train"),
    ],
)
def test_error_names_remedy_for_most_frequent_drop_reason(
    run: Callable[..., None], catalogue: int, options: dict[str, Any], zoomed: int, named: str, remedy: str
) -> None:
    names = [f"p{number:03d}" for number in range(catalogue - 1)]
    write_scores(names, zoomed=tuple(names[:zoomed]))
    with pytest.raises(InputError, match=f"The largest reason is {named}.*{remedy}") as caught:
        run(**options)
    assert "split.seed" not in str(caught.value)


def test_empty_split_by_chance_is_not_blamed_on_dropped_images(run: Callable[..., None]) -> None:
    with pytest.raises(InputError, match=r"or another split\.seed"):
        run(val_share=0.0001)


def test_dropping_most_images_is_a_warning(
    run: Callable[..., None], catalogue: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    assert "warning" not in capsys.readouterr().err
    names = [f"p{number:03d}" for number in range(catalogue - 1)]
    write_scores(names, zoomed=tuple(names[:80]))
    run()
    assert (
        "warning: split: 81 of 120 images were discarded. The largest reason is zoomed (80)" in capsys.readouterr().err
    )


def test_names_inputs_that_do_not_match(run: Callable[..., None], catalogue: int) -> None:
    write_scores(["p000"])
    with pytest.raises(InputError, match=r"118 images .* are missing. Run: dvc repro zoom"):
        run()
    write_scores([f"p{number:03d}" for number in range(catalogue - 1)])
    (paths.SHARDS / "part-00001.parquet").unlink()
    with pytest.raises(InputError, match="50 images are missing, ip050 first"):
        run()


def test_large_splits_are_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_files, "ROWS_PER_FILE", 5)
    monkeypatch.setattr(split_files, "ROWS_PER_GROUP", 2)
    row = {"product_id": "p", "title": "", "taxonomy": ["A"], "label": "A", "split": "train"}
    with SplitWriter(tmp_path, "train", 12, Preprocessing(16, "L", "squash")) as writer:
        for number in range(12):
            writer.append({**row, "image_id": f"{number:02d}", "image": {"bytes": b"", "path": None}})
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(tmp_path / name).num_rows for name in names] == [5, 5, 2]
    written = read_columns(tmp_path, ["train"], ["image_id"])["image_id"].to_pylist()
    assert written == [f"{number:02d}" for number in range(12)]


def test_changes_of_the_taxonomy_apply_to_labels(run: Callable[..., None]) -> None:
    run()
    before = read_columns(paths.SPLITS, SPLITS, ["image_id", "split"])
    keys = Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text())).paths
    changes = Path("changes.csv")
    changes.write_text("from,to\nClothing,Apparel\nApparel > Shirt,Apparel > Tops\n")
    run(taxonomy_changes=str(changes))
    renamed = Taxonomy.from_json(json.loads(paths.TAXONOMY.read_text()))
    assert renamed.paths == (("Apparel", "Tops"), ("Footwear", "Shoe"))
    assert renamed.keys == keys
    after = read_columns(paths.SPLITS, SPLITS, ["image_id", "split", "label"])
    assert set(after["label"].to_pylist()) == set(renamed.labels)
    assert after.select(["image_id", "split"]) == before, "no image changes its split"
    changes.write_text("from,to\nClothing > Shirt,Clothing > Tops\nFootwear > Shoe,Boots\nFootwear > Shoe,Sandals\n")
    with pytest.raises(InputError, match=r"at least one|none in"):
        run(taxonomy_changes=str(changes), labels="listed", taxonomy=str(listed("Footwear > Shoe")))
    run(taxonomy_changes=str(changes))
    assert metrics()["dropped"]["category_split"] == 59, "60 products, one of them without an image"
    with (paths.REPORTS / "split/undecided.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert rows[0] == {
        "product_id": "p001",
        "title": "Title p001",
        "category": "Footwear > Shoe",
        "successors": "Boots | Sandals",
    }


def listed(*lines: str) -> Path:
    path = Path("listed.txt")
    path.write_text("\n".join(lines))
    return path


def test_ids_of_a_listed_taxonomy_are_kept(run: Callable[..., None]) -> None:
    run(labels="listed", taxonomy=str(listed("1 - Clothing > Shirt", "2 - Footwear > Shoe")))
    assert json.loads(paths.TAXONOMY.read_text())["ids"] == {"Clothing > Shirt": "1", "Footwear > Shoe": "2"}


def test_products_without_categories_cannot_train(run: Callable[..., None]) -> None:
    table = read_table(paths.PRODUCTS, PRODUCTS, "crawl").to_pylist()
    unlabelled = [row | {"taxonomy": []} for row in table]
    write_table(paths.PRODUCTS, pa.Table.from_pylist(unlabelled, schema=PRODUCTS), PRODUCTS)
    with pytest.raises(InputError, match="atlas predict --input data/images/shards"):
        run()
