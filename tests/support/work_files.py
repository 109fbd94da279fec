"""One file of each kind that has checksums of its own, as in ``.atlas`` of a project."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from atlas_model.core.checkpoint import save_model
from atlas_model.core.checksums import replacing_with_checksum, write_checksum, write_json_with_checksum
from atlas_model.data.dataset import load_split
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train import renaming
from atlas_model.train.state import TrainingState, save_state
from tests.support.durable_jobs import JOBS, prepare

TAXONOMY = Taxonomy([("A", "B"), ("C",)])


def make_work(work: Path, reviews: Path, scratch: Path) -> dict[str, list[Path]]:
    """Fill the folder ``work`` (``.atlas``) and the folder ``reviews``; kind -> its files."""
    prepare(scratch)
    for name in ("crawl", "fetch", "activations", "review"):
        JOBS[name](scratch / name)
    shutil.copytree(scratch / "crawl/work", work / "crawl/shops")
    shutil.copytree(scratch / "fetch/spool", work / "fetch/shops")
    shutil.copytree(scratch / "activations/cache", work / "activations")
    shutil.copytree(scratch / "review/out/reviews", reviews, dirs_exist_ok=True)
    write_json_with_checksum(work / "crawl/shops/health.json", {"a.test": {"products": 12, "title": 0.98}})
    write_json_with_checksum(work / "profiles/one.json", {"format": 1, "profile": [1.5, 2.5, 3.5]})
    model = torch.nn.Linear(8, 8)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = TrainingState(records=[{"epoch": 1}], best=best, average={})
    save_state(work / "train/key/categorizer.safetensors", model, torch.optim.AdamW(model.parameters()), state)
    save_model(work / "last-model/hash", model.state_dict(), {"kind": "test"})
    _trained(work / "trained", scratch / "trained")
    (work / "snapshots").mkdir()
    with replacing_with_checksum(work / "snapshots/one.parquet") as temporary:
        shutil.copyfile(scratch / "crawl/out/products.parquet", temporary)
    write_pixels_split(scratch / "splits")
    load_split(scratch / "splits", "val", TAXONOMY, work / "pixels")
    (work / "engines").mkdir()
    (work / "engines/key.onnx").write_bytes(np.random.default_rng(1).bytes(900))
    write_checksum(work / "engines/key.onnx")
    return {
        "journal": [work / "crawl/shops/journal.sqlite"],
        "index": [work / "fetch/shops/index.sqlite"],
        "blobs": sorted((work / "fetch/shops").glob("*.blob")),
        "health and profiles": [work / "crawl/shops/health.json", work / "profiles/one.json"],
        "checkpoint": [work / "train/key/categorizer.safetensors"],
        "model": [work / "last-model/hash/model.safetensors", work / "last-model/hash/model.json"],
        "last training": [path for path in (work / "trained").rglob("*") if path.is_file()],
        "activations": [path for path in (work / "activations").iterdir() if path.suffix != ".json"],
        "pixels": list((work / "pixels").iterdir()),
        "snapshots": list((work / "snapshots").iterdir()),
        "engines": list((work / "engines").iterdir()),
        "reviews": [reviews / "anna.jsonl"],
    }


def _trained(memory: Path, outputs: Path) -> None:
    (outputs / "plots/deep").mkdir(parents=True)
    (outputs / "plots/deep/loss.tsv").write_text("step\tloss\n0\t0.75\n")
    (outputs / "metrics.json").write_text('{"val_accuracy": 0.5}\n')
    renaming.keep(memory, "key", TAXONOMY, [outputs / "plots", outputs / "metrics.json"])


def write_pixels_split(splits: Path) -> None:
    """Write a split ``val`` of three small images."""
    splits.mkdir()
    with SplitWriter(splits, "val", 3, Preprocessing(8, "L", "squash")) as writer:
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            row = {"image_id": str(number), "product_id": "p", "title": "", "taxonomy": ["A", "B"], "label": "A > B"}
            image = {"bytes": encode_png(Image.fromarray(noise)), "path": f"{number}.png"}
            writer.append({**row, "image": image, "split": "val"})
