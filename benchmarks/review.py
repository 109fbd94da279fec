"""Measures `atlas review`: keys and time a decision, the search, and what decisions are worth by order of review.

Needs the outputs of a complete run of the demo in the current folder, and Chromium for the first part.

The worth is simulated: a share of the training labels of the demo is replaced by wrong ones, and each decision restores
the right label. After each 200 decisions a small network is trained again on pixels, and measured on the untouched test
split. The orders are computed from out-of-fold probabilities, as a reviewer has no others. The network sees pixels
only: features of the trained model would know the right labels.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import t as student
from torch import nn

from atlas_model.core.progress import track
from atlas_model.data.dataset import load_split, load_taxonomy_json
from atlas_model.taxonomy.tree import Taxonomy
from benchmarks.report import report
from flows import paths
from flows.review.search import Finder

DECISIONS = 120  # scripted in Chromium
WRONG_SHARE = 0.1
SEEDS, ROUNDS, PER_ROUND, FOLDS = 5, 3, 200, 3
EPOCHS, BATCH, HIDDEN = 12, 128, 256
ORDERS = ("errors", "uncertain", "random")
QUERIES = ("a", "e", "shoe", "men dress", "q", "zzz", "men women shoe bag")


def main() -> None:
    """Measure all, and write benchmarks/results/review.json."""
    figures: dict[str, object] = {}
    figures |= _search()
    figures |= _scripted()
    figures |= _simulated()
    rows = [(name, value, "") for name, value in figures.items() if isinstance(value, float)]
    for order in ORDERS:
        for what, unit in (("gain_per_200", "micro F"), ("errors_found", "of 200 decisions")):
            rows.append((f"{order}: {what}", figures[order][what]["mean"], unit))  # type: ignore[index]
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
        "keys_per_decision": mean(each["keys"] for each in shown),
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


def _simulated() -> dict[str, object]:
    """The gain of each order, mean and 95 % interval over the seeds."""
    taxonomy = load_taxonomy_json(paths.TAXONOMY)
    train, test = (load_split(paths.SPLITS, name, taxonomy, paths.WORK / "pixels") for name in ("train", "test"))
    pixels, held_out = (
        torch.from_numpy(np.asarray(split.pixels, dtype=np.float32).reshape(len(split), -1) / 255)
        for split in (train, test)
    )
    curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    found: dict[str, list[float]] = {order: [] for order in ORDERS}
    for order, seed in track(list(product(ORDERS, range(SEEDS))), "simulate", SEEDS * len(ORDERS), "runs"):
        generator = np.random.default_rng(seed)
        labels = _corrupted(train.paths, len(taxonomy), generator)
        open_rows = np.ones(len(labels), dtype=bool)
        curve, hits = [_micro_f1(pixels, labels, held_out, test.paths, seed)], 0
        for number in range(ROUNDS):
            chosen = _chosen(order, pixels, labels, open_rows, seed=100 * seed + number)
            hits += int((labels[chosen] != train.paths[chosen]).sum())
            labels[chosen] = train.paths[chosen]
            open_rows[chosen] = False
            curve.append(_micro_f1(pixels, labels, held_out, test.paths, seed))
        curves[order].append(curve)
        found[order].append(hits / ROUNDS)
    clean = [_micro_f1(pixels, train.paths, held_out, test.paths, seed) for seed in range(SEEDS)]
    return {
        "wrong_share": WRONG_SHARE,
        "images": len(train),
        "decisions": ROUNDS * PER_ROUND,
        "micro_f1_corrupted": mean(curve[0] for curve in curves["random"]),
        "micro_f1_clean": mean(clean),
        **{
            order: {
                "gain_per_200": _interval([(curve[-1] - curve[0]) / ROUNDS for curve in curves[order]]),
                "errors_found": _interval(found[order]),
                "micro_f1": [mean(values) for values in zip(*curves[order], strict=True)],
            }
            for order in ORDERS
        },
    }


def _corrupted(paths_of: Int[np.ndarray, "n"], count: int, generator: np.random.Generator) -> Int[np.ndarray, "n"]:
    labels = paths_of.copy()
    rows = np.flatnonzero(generator.random(len(labels)) < WRONG_SHARE)
    labels[rows] = (labels[rows] + generator.integers(1, count, len(rows))) % count
    return labels


def _chosen(
    order: str,
    pixels: Float[torch.Tensor, "n d"],
    labels: Int[np.ndarray, "n"],
    open_rows: np.ndarray,
    seed: int,
) -> Int[np.ndarray, "k"]:
    """The next rows to review."""
    rows = np.flatnonzero(open_rows)
    if order == "random":
        return np.random.default_rng(seed).choice(rows, PER_ROUND, replace=False)
    out_of_fold = _out_of_fold(pixels, labels, seed)[rows]
    given = out_of_fold[np.arange(len(rows)), labels[rows]]
    # "errors": the lowest normalised margin (Northcutt et al. 2021, "Confident Learning", section 3.2).
    doubt = out_of_fold.max(axis=1) - given if order == "errors" else 1 - out_of_fold.max(axis=1)
    return rows[np.argsort(-doubt, kind="stable")[:PER_ROUND]]


def _out_of_fold(
    pixels: Float[torch.Tensor, "n d"], labels: Int[np.ndarray, "n"], seed: int
) -> Float[np.ndarray, "n paths"]:
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(labels))
    found = np.empty((len(labels), labels.max() + 1), dtype=np.float32)
    for number in range(FOLDS):
        net = _trained(pixels[fold != number], labels[fold != number], seed)
        with torch.inference_mode():
            found[fold == number] = net(pixels[fold == number]).softmax(dim=1).numpy()
    return found


def _micro_f1(
    pixels: Float[torch.Tensor, "n d"],
    labels: Int[np.ndarray, "n"],
    held_out: Float[torch.Tensor, "m d"],
    right: Int[np.ndarray, "m"],
    seed: int,
) -> float:
    """On ``held_out``; one label per image, so it equals the accuracy."""
    net = _trained(pixels, labels, seed)
    with torch.inference_mode():
        return float((net(held_out).argmax(dim=1).numpy() == right).mean())


def _trained(pixels: Float[torch.Tensor, "n d"], labels: Int[np.ndarray, "n"], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    classes = int(labels.max()) + 1
    net = nn.Sequential(nn.Linear(pixels.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, classes))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    loss_of = nn.CrossEntropyLoss()
    targets = torch.from_numpy(labels)
    for _ in range(EPOCHS):
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
