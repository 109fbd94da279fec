"""The tables of image and label quality that the stages split and evaluate write."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter

from atlas_model.core.param_sections.quality import LabelQualityParams
from atlas_model.core.params import SplitParams, load_params
from atlas_model.data.dataset import Split
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import IMAGES, QUALITY, SCORES, ShardWriter, iterate_shards, read_table, write_table
from atlas_model.evaluate.embeddings import embed_split
from atlas_model.evaluate.evaluation import evaluate
from atlas_model.evaluate.search_runner import EMBEDDING_SIZE, pooled_cells
from atlas_model.split.assign import ImageRef, ImageScore, SplitProduct
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.zoom.scoring import score_images
from flows import paths
from flows.stages.evaluate_quality import report_label_quality
from flows.stages.split_quality import TABLE, report_quality
from tests.support.lookup import Lookup, categorizer, numbered
from tests.support.paths import ROOT

CPU = torch.device("cpu")
COUNT = 40
SPOILED: dict[int, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    1: ("dark", lambda image: ImageEnhance.Brightness(image).enhance(0.1)),
    2: ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(3))),
    3: ("blank", lambda image: Image.new("L", image.size, 130)),
    4: ("tiny", lambda image: image.resize((10, 10))),
    5: ("odd_aspect", lambda image: image.resize((70, 20))),
}


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Reports on images of the sample, some spoiled; returns the counts, and the issues and details by image_id."""
    monkeypatch.chdir(tmp_path)
    sample = pq.read_table(ROOT / "data/sample.parquet", columns=["pixels"])["pixels"]
    images = [Image.frombytes("L", (28, 28), sample[row].as_py()) for row in range(COUNT)]
    images[6] = images[7]
    with ShardWriter(paths.SHARDS, IMAGES, COUNT) as writer:
        for number, original in enumerate(images):
            image = SPOILED[number][1](original) if number in SPOILED else original
            info = {"width": image.width, "height": image.height, "format": "PNG", "mode": "L", "orientation": 1}
            writer.append({"image_id": f"i{number:02d}", "bytes": encode_png(image), "n_frames": 1, **info})
        broken = {"width": 28, "height": 28, "format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
        writer.append({"image_id": "i99", "bytes": b"?", **broken})
    scores = score_images(iterate_shards(paths.SHARDS, IMAGES, "fetch", 8), None, 1.0)
    write_table(paths.SCORES, scores, SCORES)
    refs = [ImageRef(f"p{number:02d}", f"i{number:02d}", "ok") for number in (*range(COUNT), 99)]
    products = {ref.product_id: SplitProduct(ref.product_id, ("Shirt",)) for ref in refs}
    products["p07"] = SplitProduct("p07", ("Boot",))
    rows = scores.select(["image_id", "keep", "reason", "phash"]).to_pylist()
    by_id = {row.pop("image_id"): ImageScore(**row) for row in rows}
    outcomes = [*["train"] * 38, "duplicate", "test", "unreadable"]
    params = load_params(ROOT / "params.yaml").split

    def report(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        quality = params.quality.model_dump() | changes
        options = SplitParams.model_validate(params.model_dump() | {"quality": quality})
        counts = report_quality(refs, products, by_id, outcomes, options)
        table = read_table(TABLE, QUALITY, "split").to_pylist()
        return counts, {row["image_id"]: (row["issue"], row["detail"]) for row in table if row["score"] > 0}

    return report


def test_split_lists_spoiled_images_and_discards_none(
    listed: Callable[..., tuple[dict[str, Any], dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    counts, found = listed(light=None, duplicate=0.9)
    assert {f"i{number:02d}": (issue, None) for number, (issue, _) in SPOILED.items()}.items() <= found.items()
    assert (found["i06"], found["i07"]) == (("duplicate", "i07"), ("duplicate", "i06"))
    assert counts["duplicate"] == {"kept": 2, "discarded": 0}
    assert "i99" not in found
    assert "warning" not in capsys.readouterr().err
    counts, found = listed(dark=0.0, light=None, blurred=None, blank=None, tiny=None, odd_aspect=None, duplicate=None)
    assert counts == {"dark": {"kept": 39, "discarded": 1}}
    warned = capsys.readouterr().err
    assert "warning: split: 39 of 39 images (100%) are dark. They are kept. reports/split/quality.parquet" in warned
    unsearched = dict.fromkeys(("dark", "light", "blurred", "blank", "tiny", "odd_aspect", "duplicate"))
    assert listed(**unsearched) == ({}, {})


TAXONOMY = Taxonomy([("Bags",), ("Shoes", "Boots"), ("Shoes", "Clogs"), ("Hats",)])
NUMBER = 240  # images of each split
THRESHOLDS = LabelQualityParams(outlier=0.45, label_error=0.5)


def labelled_split(name: str) -> tuple[Split, set[str]]:
    """Images whose row modulo four is their category, of which some labels are wrong; the image_ids of these."""
    labels = np.arange(NUMBER) % 4
    wrong = np.arange(10, NUMBER, 40)
    labels[wrong] = (labels[wrong] + 1) % 4
    names = [f"{name}{row}" for row in range(NUMBER)]
    split = Split(name, numbered(NUMBER).numpy(), labels, names, names, Preprocessing(2, "L", "squash"))
    return split, {names[row] for row in wrong}


def test_evaluate_lists_wrong_labels_and_outliers_of_all_splits(tmp_path: Path) -> None:
    model = categorizer(TAXONOMY, "children", seed=9)
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 1, 6, generator=generator)
    cells = centres[torch.arange(NUMBER) % 4] + torch.randn(NUMBER, 4, 6, generator=generator)
    cells[100] += 20
    model.encoder = Lookup(cells)  # type: ignore[assignment]  # a stand-in
    splits, wrong = {}, {}
    for name in ("train", "val", "test"):
        splits[name], wrong[name] = labelled_split(name)
    measured = partial(evaluate, beam=2, length_normalization=0.0, exact_nodes=10**6, resamples=2, seed=1)
    evaluations = {
        name: measured(model, split, np.arange(0, NUMBER, 3 if name == "train" else 1), batch_size=50, device=CPU)
        for name, split in splits.items()
    }
    embedded: list[int] = []

    def embed(split: Split, rows: np.ndarray) -> np.ndarray:
        embedded.extend(rows)
        return embed_split(model, split, rows, batch_size=50, device=CPU)

    images = {name: evaluation["image"] for name, evaluation in evaluations.items()}
    report = partial(report_label_quality, tmp_path / "quality.parquet", splits, images, TAXONOMY, embed=embed, seed=1)
    counts = report(THRESHOLDS)
    assert sorted(embedded) == [row for row in range(NUMBER) if row % 3]  # the others were evaluated
    rows = read_table(tmp_path / "quality.parquet", QUALITY, "evaluate").to_pylist()
    errors = {row["image_id"]: row["detail"] for row in rows if row["issue"] == "label_error"}
    all_wrong = set.union(*wrong.values())
    assert len(errors.keys() & all_wrong) >= 0.8 * len(all_wrong)
    assert len(errors.keys() - all_wrong) <= 0.2 * len(errors)
    for image_id in errors.keys() & all_wrong:
        assert errors[image_id] == TAXONOMY.labels[int(re.sub(r"\D", "", image_id)) % 4]
    assert {row["image_id"] for row in rows if row["issue"] == "outlier"} >= {"train100", "val100", "test100"}
    assert sum(counts["label_error"].values()) == len(errors) == counts["estimated_label_errors"]
    assert (counts["labels_checked"], counts["labels_unchecked"]) == (3 * NUMBER, 0)
    assert report(LabelQualityParams(outlier=None, label_error=None)) == {}
    assert pq.read_table(tmp_path / "quality.parquet").num_rows == 0


def test_large_embeddings_are_projected_and_keep_distances() -> None:
    cells = torch.randn(30, 3, 2 * EMBEDDING_SIZE, generator=torch.Generator().manual_seed(1))
    points, whole = pooled_cells(cells), cells.mean(dim=1).numpy()
    assert points.shape == (30, EMBEDDING_SIZE)
    # The projection is the same in each call. A BLAS may sum the products of 10 rows and of 30 in different orders.
    np.testing.assert_allclose(points[:10], pooled_cells(cells[:10]), rtol=0, atol=1e-5)
    ratio = np.linalg.norm(points[1:] - points[0], axis=1) / np.linalg.norm(whole[1:] - whole[0], axis=1)
    assert np.abs(ratio - 1).max() < 0.15
