"""Scheduled runs, one after another in one process, on a shop that changes: nothing may grow without bound.

Each run crawls again, as the schedule does: a real Prefect server, real HTTP, the stages crawl and fetch. `atlas gc`
follows every few runs. The rule that is checked is in `Bounds`. The figures of each run go to ``soak.jsonl`` in the
temporary folder of the test, or in the folder that the environment variable SOAK_LOG names.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.prefect_server import PrefectServer
from tests.support.small_shop import SmallProduct, SmallProject, SmallShop, small_image, small_shop

KEEP = 3  # crawls
GC_EVERY = 4  # runs
WARM_UP = 3  # runs in which the process imports and fills its caches
CHANGES = ("none", "add", "remove", "reprice", "swap", "swap and reprice")

# Runs the flow once per line on stdin, as the schedule does, and prints its result, its memory and open descriptors.
PROGRAM = """
import json, sys
import psutil
from flows.prefect_app.flow import atlas

answers, sys.stdout = sys.stdout, sys.stderr
this = psutil.Process()
for _ in sys.stdin:
    state = atlas(recrawl=True, return_state=True)
    found = {"state": state.name, "message": state.message, "rss": this.memory_info().rss, "fds": this.num_fds(),
             "threads": this.num_threads(), "children": len(this.children())}
    answers.write(json.dumps(found) + "\\n")
    answers.flush()
"""


@dataclass(frozen=True)
class Bounds:
    """The rule. Sizes in bytes.

    After `atlas gc --keep N`, DVC's cache holds the outputs of the last N crawls, and at most ``cache_spare`` besides:
    the lists of folders that stages read, and the outputs of runs of the workspace. `.atlas` holds one journal and one
    spool, of which at least half is used, and N snapshots. A process that runs flows holds the memory of its first
    runs and ``rss_per_run`` more per run, for the logs and states that Prefect's client keeps, and as many descriptors.
    """

    cache_spare: int = 200_000
    work: int = 3_000_000
    rss_per_run: int = 400_000
    rss_spare: int = 60_000_000
    fds_spare: int = 8
    database_per_run: int = 400_000
    database_spare: int = 10_000_000


class Scheduler:
    """The long-living process."""

    def __init__(self, project: SmallProject, server: PrefectServer, log: Path) -> None:
        environment = {**project.env, "PREFECT_API_URL": server.url, "OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                cwd=project.root,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._log = log

    def run(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text(errors="replace")[-5000:]
        return dict(json.loads(answer))

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def project(
    tmp_path: Path, copy_project: Callable[[Path], Path], git_env: dict[str, str], warm_python: Path
) -> Iterator[SmallProject]:
    with small_shop(4) as shop:
        shop.conditional = True
        small = SmallProject(copy_project(tmp_path / "project"), shop, git_env, warm_python)
        dvc_yaml = yaml.safe_load((small.root / "dvc.yaml").read_text())
        dvc_yaml["stages"] = {name: dvc_yaml["stages"][name] for name in ("crawl", "fetch")}
        del dvc_yaml["plots"], dvc_yaml["artifacts"]
        (small.root / "dvc.yaml").write_text(yaml.safe_dump(dvc_yaml, sort_keys=False))
        small.set({"crawl": {"max_coverage_drop": 1.0}})
        yield small


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(0)]),
    ],
)
def test_scheduled_runs_stay_within_the_bounds(
    project: SmallProject, prefect_server: PrefectServer, tmp_path: Path, runs: int
) -> None:
    shop, chance, bounds = project.shop, random.Random(1), Bounds()
    figures = Path(os.environ.get("SOAK_LOG", tmp_path)) / "soak.jsonl"
    figures.write_text("")
    scheduler = Scheduler(project, prefect_server, tmp_path / "scheduler.log")
    shown: dict[int, int] = {}  # product -> look of its image, as of the last fetch
    seen: list[dict[str, Any]] = []
    try:
        for number in range(runs):
            kind = "first" if number == 0 else chance.choice(CHANGES) if runs > len(CHANGES) else CHANGES[-number]
            change(shop, kind, chance)
            shop.sent.clear()
            shop.asked.clear()
            found = scheduler.run()
            assert found["state"] == "Completed", found
            expected_stages = "ran crawl" if kind in ("none", "swap") else "ran crawl, fetch"
            assert found["message"] == expected_stages, kind
            if kind not in ("none", "swap"):
                check_bodies(shop, shown)
                shown = {each: product.look for each, product in shop.products.items()}
            else:
                assert not any(path.startswith("/i/") for path in shop.asked), "no image is asked for"
            check_data(project, shop, shown)
            if number % GC_EVERY == GC_EVERY - 1 or number == runs - 1:
                collect_garbage(project, bounds)
            found |= {"run": number, "change": kind, **sizes(project, prefect_server)}
            seen.append(found)
            with figures.open("a") as log:
                log.write(json.dumps(found) + "\n")
            check_growth(seen, bounds)
    finally:
        scheduler.close()


def change(shop: SmallShop, kind: str, chance: random.Random) -> None:
    """Change the shop as ``kind`` says."""
    chosen = shop.products[chance.choice(sorted(shop.products))]
    if kind == "add" or (kind == "remove" and len(shop.products) < 12):
        number = max(shop.products) + 1
        shop.products[number] = SmallProduct(number, number % 4)
    elif kind == "remove":
        del shop.products[chosen.number]
    if "reprice" in kind:
        chosen.price += 1
    if "swap" in kind:
        chosen.look += 1


def check_bodies(shop: SmallShop, shown: dict[int, int]) -> None:
    """Only images that are new or were replaced are sent; all the others are asked for conditionally, once."""
    changed = {product.image_path for number, product in shop.products.items() if shown.get(number) != product.look}
    sent = {path for path, count in shop.sent.items() if path.startswith("/i/") and count}
    assert sent == changed
    asked = {path: count for path, count in shop.asked.items() if path.startswith("/i/")}
    assert asked == {product.image_path: 1 for product in shop.products.values()}


def check_data(project: SmallProject, shop: SmallShop, shown: dict[int, int]) -> None:
    """The products are those of the shop, with the images of the last fetch."""
    products = pq.read_table(project.root / "data/raw/products.parquet").to_pylist()
    assert sorted(float(row["price"]) for row in products) == sorted(each.price for each in shop.products.values())
    shards = sorted((project.root / "data/images/shards").glob("*.parquet"))
    images = {name for shard in shards for name in pq.read_table(shard)["image_id"].to_pylist()}
    expected = {
        hashlib.sha256(small_image(SmallProduct(number, product.category, look=shown[number]))).hexdigest()
        for number, product in shop.products.items()
        if number in shown
    }
    assert images == expected


def collect_garbage(project: SmallProject, bounds: Bounds) -> None:
    """Run `atlas gc` twice, and compare what it leaves with the outputs of the last crawls."""
    atlas = ["atlas", "gc", "--keep", str(KEEP)]
    for command in ([*atlas, "--yes"], atlas):
        done = subprocess.run(
            command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr
    assert "nothing to delete" in done.stderr, done.stdout
    kept = outputs_of_last_crawls(project.root)
    cache = size_of(project.root / ".dvc/cache")
    assert cache <= kept + bounds.cache_spare, (cache, kept)
    assert size_of(project.root / ".atlas") <= bounds.work
    snapshots = sorted(path.name for path in (project.root / ".atlas/snapshots").glob("*.parquet"))
    assert len(snapshots) <= KEEP, (snapshots, done.stderr)
    checksums = sorted(path.stem for path in (project.root / ".atlas/snapshots").glob("*.sha256"))
    assert checksums == snapshots, "each has its own"
    status = subprocess.run(["dvc", "status"], cwd=project.root, env=project.env, capture_output=True, check=True)
    assert b"up to date" in status.stdout
    checkout = ["dvc", "checkout", "--force"]
    subprocess.run(checkout, cwd=project.root, env=project.env, capture_output=True, check=True)


def outputs_of_last_crawls(root: Path) -> int:
    """Bytes of the outputs in the run cache of the last `KEEP` crawls, each crawl as if it shared nothing."""
    largest: dict[tuple[str, ...], int] = {}
    for file in (root / ".dvc/cache/runs").glob("*/*/*"):
        outs = yaml.safe_load(file.read_text())["outs"]
        stage = tuple(out["path"] for out in outs)
        largest[stage] = max(largest.get(stage, 0), sum(out["size"] for out in outs))
    return KEEP * sum(largest.values())


def sizes(project: SmallProject, server: PrefectServer) -> dict[str, int]:
    """Bytes on disk, and numbers of files."""
    cache = project.root / ".dvc/cache"
    return {
        "cache": size_of(cache),
        "cache_files": sum(path.is_file() for path in cache.rglob("*")),
        "work": size_of(project.root / ".atlas"),
        "reports": size_of(project.root / "reports"),
        "git": size_of(project.root / ".git"),
        "site_cache": size_of(Path(os.environ["DVC_SITE_CACHE_DIR"])),
        "database": sum(path.stat().st_size for path in server.log.parent.glob("prefect.db*")),
    }


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def check_growth(seen: list[dict[str, Any]], bounds: Bounds) -> None:
    """Memory, descriptors, threads and the database, compared with those after the first runs."""
    if len(seen) <= WARM_UP:
        return
    first, last, runs = seen[WARM_UP - 1], seen[-1], len(seen) - WARM_UP
    assert last["rss"] <= first["rss"] + bounds.rss_spare + runs * bounds.rss_per_run, (first, last)
    assert last["fds"] <= first["fds"] + bounds.fds_spare, (first, last)
    assert last["threads"] <= first["threads"] + bounds.fds_spare, (first, last)
    assert last["children"] == 0, "no process is left"
    assert last["database"] <= first["database"] + bounds.database_spare + runs * bounds.database_per_run
    assert last["git"] == first["git"]
