"""Measures `atlas review`: keys and time a decision, the search, and what decisions are worth by order of review.

Needs the outputs of a complete run of the demo in the current folder, and Chromium for the first part.

What decisions are worth is simulated on the demo's training images. In two scenarios a share of the labels is wrong and
a decision restores the right one; in a third one most products have no label and a decision gives it. After each 200
decisions a small network is trained again, and measured on the untouched test split. Orders are computed from
out-of-fold probabilities, as a reviewer has no others. The network sees small images, not features of the trained
model, which would know the right labels. Wrong labels are uniform over the other categories.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.stats import t as student
from torch import nn

from atlas_model.core.progress import track
from atlas_model.data.dataset import load_split, load_taxonomy_json
from atlas_model.taxonomy.tree import Taxonomy
from benchmarks.report import report
from flows import paths
from flows.review.search import Finder

DECISIONS = 120  # scripted in Chromium
SEEDS, ROUNDS, PER_ROUND, FOLDS = 5, 3, 200, 3
EPOCHS, MIN_STEPS, BATCH, HIDDEN = 12, 500, 128, 128
SIDE = 14  # px, to which the images are reduced
ORDERS = ("errors", "uncertain", "random")


@dataclass(frozen=True)
class Scenario:
    """What is reviewed."""

    images: int | None  # a random sample of the training images; None: all
    wrong_share: float = 0.0  # of their labels
    labelled: int | None = None  # images that have a label at the start; None: all


SCENARIOS = {
    "wrong_labels": Scenario(None, wrong_share=0.1),
    "wrong_labels_small": Scenario(2_000, wrong_share=0.2),
    "no_labels": Scenario(None, labelled=400),
}
QUERIES = ("a", "e", "shoe", "men dress", "q", "zzz", "men women shoe bag")


def main() -> None:
    """Measure all, and write benchmarks/results/review.json."""
    figures: dict[str, object] = {}
    figures |= _search()
    figures |= _scripted()
    rows = [(name, value, "") for name, value in figures.items() if isinstance(value, float)]
    for name, scenario in SCENARIOS.items():
        found = _simulated(name, scenario)
        figures[name] = found
        for order, measured in found["orders"].items():
            rows.append((f"{name}, {order}: gained per 200 decisions", measured["gain_per_200"]["mean"], "micro F"))
            if "errors_found" in measured:
                rows.append((f"{name}, {order}: errors found", measured["errors_found"]["mean"], "of 200"))
    report("review", rows, figures)


def _search() -> dict[str, float]:
    """The slowest of several queries over 100,000 paths, median of five runs each."""
    taxonomy = Taxonomy(_many_paths(100_000))
    finder = Finder(taxonomy)

    def milliseconds(query: str) -> float:
        started = perf_counter()
        finder.find(query)
        return 1000 * (perf_counter() - started)

    return {"search_ms_100000_paths": max(median(milliseconds(query) for _ in range(5)) for query in QUERIES)}


def _many_paths(count: int) -> list[tuple[str, ...]]:
    """``count`` paths with the words of shops."""
    people = [f"{who} {age}" for who, age in product(("Men", "Women", "Girls", "Boys", "Unisex"), range(10))]
    kinds = [f"{style} {what}" for style, what in product(("Casual", "Formal", "Sport", "Party"), _WORDS)]
    found = product(("Shop", "Outlet"), people, kinds, (f"Style {number}" for number in range(25)))
    return [path for path, _ in zip(found, range(count), strict=False)]


_WORDS = [
    "Dress",
    "Shoe",
    "Boot",
    "Sandal",
    "Bag",
    "Coat",
    "Shirt",
    "Trousers",
    "Skirt",
    "Belt",
    "Scarf",
    "Hat",
    "Glove",
]
_WORDS += ["Sock", "Jacket", "Blazer", "Jeans", "Pullover", "Cardigan", "Vest", "Suit", "Tie", "Watch", "Ring", "Clock"]


def _scripted() -> dict[str, float]:
    """Confirms predictions in Chromium with one key each, on the data of the demo."""
    from playwright.sync_api import expect, sync_playwright

    from crawlers.http.chromium import find_browser

    with _server() as (url, folder), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(None), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector(".choice", timeout=120_000)
        started = perf_counter()
        for number in range(DECISIONS):
            page.wait_for_selector("main:not([aria-busy]) .choice")
            page.keyboard.press("Enter")
            expect(page.locator("#progress")).to_contain_text(f"{number + 1} decided", timeout=60_000)
        seconds = perf_counter() - started
        browser.close()
        lines = (folder / "data/reviews/benchmark.jsonl").read_text().splitlines()
    shown = [json.loads(line)["shown"] for line in lines]
    return {
        "keys_per_decision": float(mean(each["keys"] for each in shown)),
        "decisions_per_minute": 60 * DECISIONS / seconds,
        "decisions_lost": float(DECISIONS - len(lines)),
    }


@contextmanager
def _server() -> Iterator[tuple[str, Path]]:
    """`atlas review` in a folder with links to the data of this project: its URL and the folder."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        for name in ("params.yaml", "reports", "models", "metrics", "data/raw", "data/images", "data/zoom"):
            (folder / name).symlink_to(here / name)
        (folder / "data/taxonomy.csv").symlink_to(here / "data/taxonomy.csv")
        command = [sys.executable, "-m", "flows.cli.main", "review", "--reviewer", "benchmark", "--port", "0"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                yield next(word for word in line.split() if word.startswith("http://")), folder
            finally:
                process.send_signal(signal.SIGTERM)


def _simulated(name: str, scenario: Scenario) -> dict[str, Any]:
    """The gain of each order, mean and 95 % interval over the seeds."""
    taxonomy = load_taxonomy_json(paths.TAXONOMY)
    train, test = (load_split(paths.SPLITS, split, taxonomy, paths.WORK / "pixels") for split in ("train", "test"))
    pixels, held_out = (_reduced(split.pixels) for split in (train, test))
    orders = ORDERS if scenario.wrong_share else ORDERS[1:]
    curves: dict[str, list[list[float]]] = {order: [] for order in orders}
    found: dict[str, list[float]] = {order: [] for order in orders}
    best: list[float] = []
    runs = list(product(orders, range(SEEDS)))
    for order, seed in track(runs, f"simulate {name}", len(runs), "runs"):
        generator = np.random.default_rng(seed)
        rows = generator.permutation(len(train))[: scenario.images]
        images, right = pixels[rows], train.paths[rows]
        labels = _corrupted(right, len(taxonomy), scenario.wrong_share, generator)
        known = np.arange(len(rows)) < (scenario.labelled or len(rows))
        reviewed = np.zeros(len(rows), dtype=bool)
        if order == "random":
            best.append(_micro_f1(images, right, held_out, test.paths, seed))
        curve, hits = [_micro_f1(images[known], labels[known], held_out, test.paths, seed)], 0
        for number in range(ROUNDS):
            waiting = np.flatnonzero(~known if scenario.labelled else ~reviewed)
            chosen = waiting[_chosen(order, images, labels, known, waiting, seed=100 * seed + number)]
            hits += int((labels[chosen] != right[chosen]).sum())
            labels[chosen], known[chosen], reviewed[chosen] = right[chosen], True, True
            curve.append(_micro_f1(images[known], labels[known], held_out, test.paths, seed))
        curves[order].append(curve)
        found[order].append(hits / ROUNDS)
    return {
        "images": scenario.images or len(train),
        "wrong_share": scenario.wrong_share,
        "labelled": scenario.labelled or scenario.images or len(train),
        "decisions": ROUNDS * PER_ROUND,
        "micro_f1_before": mean(curve[0] for curve in curves["random"]),
        "micro_f1_all_right": mean(best),
        "orders": {
            order: {
                "gain_per_200": _interval([(curve[-1] - curve[0]) / ROUNDS for curve in curves[order]]),
                "micro_f1": tuple(mean(values) for values in zip(*curves[order], strict=True)),
                **({"errors_found": _interval(found[order])} if scenario.wrong_share else {}),
            }
            for order in orders
        },
    }


def _reduced(pixels: UInt8[np.ndarray, "n c h w"]) -> Float[torch.Tensor, "n d"]:
    return nn.functional.adaptive_avg_pool2d(torch.from_numpy(pixels / np.float32(255)), SIDE).flatten(1)


def _corrupted(
    right: Int[np.ndarray, "n"], categories: int, share: float, generator: np.random.Generator
) -> Int[np.ndarray, "n"]:
    labels = right.copy()
    rows = np.flatnonzero(generator.random(len(labels)) < share)
    labels[rows] = (labels[rows] + generator.integers(1, categories, len(rows))) % categories
    return labels


def _chosen(
    order: str,
    images: Float[torch.Tensor, "n d"],
    labels: Int[np.ndarray, "n"],
    known: np.ndarray,
    waiting: Int[np.ndarray, "w"],
    *,
    seed: int,
) -> Int[np.ndarray, "k"]:
    """Which of the ``waiting`` images to review next."""
    if order == "random":
        return np.random.default_rng(seed).choice(len(waiting), PER_ROUND, replace=False)
    if known.all():
        probabilities = _out_of_fold(images, labels, seed)[waiting]
    else:
        probabilities = _probabilities(_trained(images[known], labels[known], seed), images[waiting])
    doubt = 1 - probabilities.max(axis=1)
    if order == "errors":  # the normalised margin (Northcutt et al. 2021, "Confident Learning", section 3.2)
        doubt = probabilities.max(axis=1) - probabilities[np.arange(len(waiting)), labels[waiting]]
    return np.argsort(-doubt, kind="stable")[:PER_ROUND]


@torch.inference_mode()
def _probabilities(net: nn.Module, images: Float[torch.Tensor, "n d"]) -> Float[np.ndarray, "n paths"]:
    found: np.ndarray = net(images).softmax(dim=1).numpy()
    return found


def _out_of_fold(
    pixels: Float[torch.Tensor, "n d"], labels: Int[np.ndarray, "n"], seed: int
) -> Float[np.ndarray, "n paths"]:
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(labels))
    found = np.empty((len(labels), labels.max() + 1), dtype=np.float32)
    for number in range(FOLDS):
        net = _trained(pixels[fold != number], labels[fold != number], seed)
        found[fold == number] = _probabilities(net, pixels[fold == number])
    return found


def _micro_f1(
    pixels: Float[torch.Tensor, "n d"],
    labels: Int[np.ndarray, "n"],
    held_out: Float[torch.Tensor, "m d"],
    right: Int[np.ndarray, "m"],
    seed: int,
) -> float:
    """On ``held_out``; one label per image, so it equals the accuracy."""
    found = _probabilities(_trained(pixels, labels, seed), held_out)
    return float((found.argmax(axis=1) == right).mean())


def _trained(pixels: Float[torch.Tensor, "n d"], labels: Int[np.ndarray, "n"], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    classes = int(labels.max()) + 1
    net = nn.Sequential(nn.Linear(pixels.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, classes))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    loss_of = nn.CrossEntropyLoss()
    targets = torch.from_numpy(labels)
    for _ in range(max(EPOCHS, MIN_STEPS * BATCH // len(targets))):  # small sets get more epochs
        for batch in torch.split(torch.randperm(len(targets)), BATCH):
            optimizer.zero_grad()
            loss = loss_of(net(pixels[batch]), targets[batch])
            loss.backward()
            optimizer.step()
    return net.eval()


def _interval(values: list[float]) -> dict[str, float]:
    """Mean of the seeds with its 95 % interval (Student's t)."""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half}


if __name__ == "__main__":
    main()
