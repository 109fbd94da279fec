"""Writes the files of a run that the stage report reads: products, images, splits, predictions and metrics.

The images are of noise, as large in bytes as photographs can become; predictions and metrics fit together.
"""

import csv
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from atlas_model.confidence.calibration import reliability
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import (
    DISCARDED,
    IMAGES,
    PREDICTIONS,
    PRODUCTS,
    REFS,
    SCORES,
    ShardWriter,
    write_table,
)
from atlas_model.metrics.scores import category_scores, path_scores
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy
from flows import paths
from tests.support.paths import ROOT

SIDE = 24  # px of a noise image
EACH = {"train": 4, "val": 1, "test": 6}  # images of a category
LOST = ("http_404", "zoomed", "near_duplicate_of_test", "duplicate")
WRONG = 3  # every third test image is predicted as the next category
METRICS: dict[str, Any] = {"micro_f1": None, "macro_f1": None, "hierarchical_f1": None, "ece": None, "n": 0}


def categories(count: int, depth: int = 3) -> list[CategoryPath]:
    """``count`` paths of ``depth`` names."""
    branches = [f"Branch {number}" for number in range(math.isqrt(count) + 1)]
    return [
        (*(branches[number % len(branches)] for _ in range(depth - 1)), f"Category {number}") for number in range(count)
    ]


def write_run(
    folder: Path,
    taxonomy: Sequence[CategoryPath],
    *,
    sites: Sequence[str] = ("shop-a.test", "shop-b.test"),
    title: str = "Title",
    titles: Sequence[str] = (),
    untested: Sequence[CategoryPath] = (),
    wrong: bool = True,
    reads_titles: bool = False,
    side: int = SIDE,
) -> None:
    """Write a run to ``folder``.

    Args:
        folder: a new folder.
        taxonomy: the category paths.
        sites: of the products, in turn; one without a dot is a source without pages.
        title: beginning of all titles; empty: no titles.
        titles: whole titles, in turn, instead.
        untested: categories without test images.
        wrong: every `WRONG`rd prediction is wrong.
        reads_titles: the model reads titles, and the evaluation has its kinds of input.
        side: px of the images.
    """
    _write_model(folder, taxonomy, "ngrams" if reads_titles else "none")
    shutil.copy2(ROOT / "params.yaml", folder / "params.yaml")
    (folder / paths.CHAMPIONS).write_text(json.dumps({"champions": []}))
    tree = Taxonomy(taxonomy)
    generator = np.random.default_rng(1)
    rows, lost = [], []
    for number, path in enumerate(taxonomy):
        names = [
            split for split, count in EACH.items() if path not in untested or split != "test" for _ in range(count)
        ]
        for place, split in enumerate([*names, *LOST]):
            row = {
                "product_id": f"{number:04d}-{place:02d}",
                "site": sites[(number + place) % len(sites)],
                "image_id": f"{number:04d}{place:02d}".rjust(64, "0"),
                "title": titles[(number + place) % len(titles)] if titles else f"{title} {number}" if title else "",
                "path": path,
                "split": split,
            }
            (lost if split in LOST else rows).append(row)
    _write_tables(folder, rows, lost, generator, side)
    _write_splits(folder, rows, tree, generator)
    _write_evaluation(folder, rows, tree, wrong=wrong, reads_titles=reads_titles)
    _write_stage_metrics(folder, rows, lost, sites)


def _write_model(folder: Path, taxonomy: Sequence[CategoryPath], title: str) -> None:
    (folder / paths.CATEGORIZER).mkdir(parents=True)
    description = {
        "architecture": {"encoder": "small", "title": title},
        "taxonomy": {"paths": taxonomy},
        "temperature": 1.2,
        "preprocessing": {"size": 16, "mode": "RGB", "resize": "squash", "interpolation": "bicubic"},
        "params": {"weights": None, "seed": 1},
    }
    (folder / paths.CATEGORIZER / "model.json").write_text(json.dumps(description))
    (folder / paths.CATEGORIZER / "model.safetensors").write_bytes(b"weights")


def _write_tables(folder: Path, rows: list[dict], lost: list[dict], generator: np.random.Generator, side: int) -> None:
    every = sorted([*rows, *lost], key=lambda row: row["product_id"])
    products = [
        {
            "product_id": row["product_id"],
            "site": row["site"],
            "title": row["title"],
            "breadcrumb": [],
            "taxonomy": row["path"],
            "details": {},
            "image_urls": [f"http://{row['site']}/{row['image_id']}"],
        }
        for row in every
    ]
    write_table(folder / paths.PRODUCTS, pa.Table.from_pylist(products, PRODUCTS), PRODUCTS)
    refs, discarded, scores = [], [], []
    with ShardWriter(folder / paths.SHARDS, IMAGES, 1000) as shards:
        for row in sorted(every, key=lambda row: row["image_id"]):
            image_id = None if row["split"] == "http_404" else row["image_id"]
            status = "ok" if image_id else "http_404"
            refs.append({**row, "image_url": row["image_id"], "position": 0, "image_id": image_id, "status": status})
            if row["split"] in LOST:
                discarded.append({"product_id": row["product_id"], "image_id": image_id, "reason": row["split"]})
            if image_id is None:
                continue
            reason = "zoomed" if row["split"] == "zoomed" else "normal"
            scores.append({"image_id": image_id, "p_zoomed": 0.5, "keep": reason == "normal", "reason": reason})
            content = io.BytesIO()
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(content, "JPEG", quality=95)
            shards.append(
                {
                    "image_id": image_id,
                    "bytes": content.getvalue(),
                    **dict.fromkeys(("width", "height"), side),
                    "format": "JPEG",
                    "mode": "RGB",
                    "orientation": 1,
                    "n_frames": 1,
                }
            )
    for path, table, schema in (
        (paths.REFS, refs, REFS),
        (paths.DISCARDED, discarded, DISCARDED),
        (paths.SCORES, scores, SCORES),
    ):
        write_table(folder / path, pa.Table.from_pylist(table, schema), schema)


def _write_splits(folder: Path, rows: list[dict], tree: Taxonomy, generator: np.random.Generator) -> None:
    (folder / paths.SPLITS).mkdir(parents=True)
    tree.save(folder / paths.TAXONOMY)
    png = encode_png(Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    for split, count in Counter(row["split"] for row in rows).items():
        with SplitWriter(folder / paths.SPLITS, split, count, Preprocessing(16, "RGB", "squash")) as writer:
            for row in rows:
                if row["split"] == split:
                    image = {"bytes": png, "path": f"{row['image_id']}.png"}
                    columns = {name: row[name] for name in ("image_id", "product_id", "title", "split")}
                    label = SEPARATOR.join(row["path"])
                    writer.append({**columns, "image": image, "taxonomy": list(row["path"]), "label": label})


def _write_evaluation(folder: Path, rows: list[dict], tree: Taxonomy, *, wrong: bool, reads_titles: bool) -> None:
    test = [row for row in rows if row["split"] == "test"]
    actual = np.array([tree.index(row["path"]) for row in test])
    predicted = actual.copy()
    if wrong:
        predicted[::WRONG] = (predicted[::WRONG] + 1) % len(tree)
    confidence = np.linspace(0.3, 1.0, len(test))
    table: dict[str, Any] = {
        "file_name": [row["image_id"] for row in test],
        "product_id": [row["product_id"] for row in test],
        "actual_category": [tree.labels[index] for index in actual],
        "predicted_category": [tree.labels[index] for index in predicted],
        "log_probability": np.log(confidence).astype(np.float32),
        "split_value": ["test"] * len(test),
    }
    table |= {name: [None] * len(test) for name in PREDICTIONS.names if name not in table}  # the taxonomy has no ids
    write_table(folder / paths.EVALUATION / "predictions.parquet", pa.table(table), PREDICTIONS)
    figures: dict[str, Any] = {**path_scores(actual, predicted, tree), "ece": 0.0123}
    figures["intervals"] = {key: [figures[key] - 0.02, figures[key] + 0.03] for key in METRICS if key != "n"}
    figures["products"] = {"micro_f1": 0.75, "n": 7, "intervals": {"micro_f1": [0.7, 0.8]}}
    figures["min_confidence_0.9"] = {"answered": 0.9, "complete": 0.5, "accuracy": None}
    difference = {"micro_f1": {"value": -0.01, "interval": [-0.03, 0.01]}}
    metrics: dict[str, Any] = {
        "train": figures,
        "val": figures,
        "test": figures,
        "baseline": {"test": figures, "difference": difference},
        "guarantees": {"images": {"0.9": {"test": {"accepted": 0.4, "accepted_right": None}}}},
    }
    if reads_titles:
        more = {**figures, "difference": {"micro_f1": {"value": 0.1, "interval": [0.05, 0.15]}}}
        metrics["modes"] = {"image": figures, "title": more, "image_and_title": more}
    write_json_to(folder / paths.EVALUATION / "metrics.json", metrics)
    with (folder / paths.EVALUATION / "categories.csv").open("w", newline="") as handle:
        columns = csv.DictWriter(handle, ["category", "precision", "recall", "f1", "n"])
        columns.writeheader()
        columns.writerows(category_scores(actual, predicted, tree))
    curves = folder / paths.PLOTS / "evaluate"
    curves.mkdir(parents=True)
    for name in ("categorizer", "baseline"):
        with (curves / f"reliability_{name}.csv").open("w", newline="") as handle:
            columns = csv.DictWriter(handle, ["confidence", "accuracy", "n"])
            columns.writeheader()
            columns.writerows(reliability(confidence, actual == predicted))


def _write_stage_metrics(folder: Path, rows: list[dict], lost: list[dict], sites: Sequence[str]) -> None:
    every = [*rows, *lost]
    of_site = Counter(row["site"] for row in every)
    crawl: dict[str, Any] = {"products": len(every), "by_site": of_site, "dropped": {}}
    if any("." in site for site in sites):
        shops = {site: {"product_pages": of_site[site] + 1, "dropped": {"robots": 1}} for site in sites}
        pages = len(every) + len(sites)
        crawl |= {"listing_pages": 9, "product_pages": pages, "dropped": {"robots": len(sites)}, "shops": shops}
    reasons = Counter(row["split"] for row in lost)
    statuses = {"ok": len(every) - reasons["http_404"], "http_404": reasons["http_404"]}
    counts = Counter(row["split"] for row in rows)
    split = {"images_per_split": counts, "products": counts, "dropped": reasons, "refs": len(every)}
    for stage, metrics in (
        ("crawl", crawl),
        ("fetch", {"statuses": statuses}),
        ("split", split),
        ("train", {"categorizer": {"epochs": 3, "best_epoch": 2}}),
    ):
        write_json_to(folder / paths.REPORTS / stage / "metrics.json", metrics)


def write_json_to(path: Path, value: Any) -> None:
    """Write ``value``; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
