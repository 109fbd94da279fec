"""The real pipeline under DVC, on a part of the demo shop: every stage runs, and what need not run again does not."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from crawlers.shop.process import running_shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ["crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate", "report"]
EVERY = {"data/sample.parquet": 40, "data/zoom/labelled/part-00000.parquet": 6}  # one of so many rows is kept
SMALL: dict[str, dict[str, object]] = {  # one listing page of each category, few epochs
    "crawl": {"max_pages_per_category": 1},
    "zoom_train": {"epochs": 2, "image_size": 32},
    "split": {"min_products": 3},
    "train": {"epochs": 2, "min_steps": 0, "attention_size": 16, "embedding_size": 16, "hidden_size": 16},
    "evaluate": {"train_sample": 50, "overlays": 2, "resamples": 50},
}


class Project:
    """A copy of the project, and `dvc repro` in it."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root = root
        self.env = {**env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])}
        self.env.pop("OMP_NUM_THREADS", None)  # as many threads as users have: it must not show in what is written

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=True).stdout

    def written(self) -> dict[str, bytes]:
        """Every file of the stages' outputs, metrics and plots."""
        folders = [self.root / name for name in ("data", "models", "metrics", "plots", "reports")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if "timings" not in path.parts}

    def repro(self) -> list[str]:
        """The stages that were really run."""
        return re.findall(r"Running stage '(\w+)'", self.dvc("repro"))

    def set(self, changes: dict[str, dict[str, object]]) -> None:
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            params[section].update(values)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def keep_some_data(self) -> None:
        for name, every in EVERY.items():
            table = pq.read_table(self.root / name)
            pq.write_table(table.take(list(range(0, table.num_rows, every))), self.root / name)

    def metrics(self, stage: str) -> dict:
        return json.loads((self.root / "reports" / stage / "metrics.json").read_text())

    def table(self, path: str) -> list[dict]:
        return pq.read_table(self.root / path).to_pylist()


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    warm_python: Path,
) -> Project:
    """All stages have run, as users run them; from here on, they do not import the libraries again."""
    project = Project(copy_project(tmp_path_factory.mktemp("end-to-end") / "project"), git_env)
    shutil.rmtree(project.root / "metrics", ignore_errors=True)
    project.keep_some_data()
    project.set(SMALL)
    assert sorted(project.repro()) == sorted(STAGES)
    project.env["PATH"] = os.pathsep.join([str(warm_python), project.env["PATH"]])
    return project


def test_crawl_finds_all_products_of_the_shop(project: Project) -> None:
    products = project.table("data/raw/products.parquet")
    assert len(products) > 300
    assert [product["product_id"] for product in products] == sorted(product["product_id"] for product in products)
    assert {product["site"] for product in products} == {f"shop-{letter}.demo.test" for letter in "abc"}
    assert all(product["title"] and product["price"] and product["image_urls"] for product in products)
    assert all(len(product["taxonomy"]) == 3 for product in products)
    urls = [url for product in products for url in [product["page_url"], *product["image_urls"]]]
    assert all(re.match(r"http://shop-[abc]\.demo\.test/", url) for url in urls), "no port, no address in the data"


def test_every_image_has_a_status_and_dead_urls_do_not_stop_fetching(project: Project) -> None:
    refs = project.table("data/images/refs.parquet")
    assert len(refs) == sum(len(product["image_urls"]) for product in project.table("data/raw/products.parquet"))
    assert {ref["status"] for ref in refs} <= {"ok", "http_404"}
    assert all((ref["image_id"] is not None) == (ref["status"] == "ok") for ref in refs)


def test_metrics_have_stable_names(project: Project) -> None:
    evaluate = project.metrics("evaluate")
    for split in ("train", "val", "test"):
        figures = evaluate[split]
        assert set(figures) == {
            "micro_f1",
            "macro_f1",
            "hierarchical_precision",
            "hierarchical_recall",
            "hierarchical_f1",
            "level_accuracy",
            "n",
            "ece",
            "ece_uncalibrated",
            "nll",
            "intervals",
            "beam_equals_exact",
            "exact_n",
            "invalid_paths",
            "unconstrained_invalid_share",
            "unconstrained_micro_f1",
            "min_confidence_0.9",
            "products",
        }
        assert figures["invalid_paths"] == 0
        assert figures["n"] > 0
        assert len(figures["level_accuracy"]) == 3
    assert 0 <= evaluate["baseline"]["test"]["micro_f1"] <= 1
    zoom_train = project.metrics("zoom_train")["test"]
    assert {"f1_zoomed", "f1_normal", "n"} <= set(zoom_train)
    assert "f1_zoomed" in project.metrics("zoom")["shop"]
    assert project.metrics("split")["leaks"] == {"product": 0, "near_duplicate": 0}


def test_no_product_is_in_two_splits(project: Project) -> None:
    splits_of: dict[str, set[str]] = {}
    for path in (project.root / "data/splits").glob("*.parquet"):
        for row in pq.read_table(path, columns=["product_id", "split"]).to_pylist():
            splits_of.setdefault(row["product_id"], set()).add(row["split"])
    assert splits_of
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_predictions_have_original_columns_and_valid_paths_only(project: Project) -> None:
    with (project.root / "reports/evaluate/predictions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["actual_category", "file_name", "predicted_category", "split_value"]
    taxonomy = json.loads((project.root / "data/splits/taxonomy.json").read_text())
    valid = {" > ".join(path) for path in taxonomy["paths"]}
    assert {row["predicted_category"] for row in rows} <= valid
    assert len(list((project.root / "reports/evaluate/attention").glob("*.png"))) == 2


def test_report_and_cards_state_metrics_of_the_run(project: Project) -> None:
    page = (project.root / "reports/report.html").read_text()
    micro_f1 = project.metrics("evaluate")["test"]["micro_f1"]
    assert f'<p class="big">{micro_f1 * 100:.1f}\N{NO-BREAK SPACE}%</p>' in page
    assert all(f'<th scope="row" dir="auto">shop-{letter}.demo.test</th>' in page for letter in "abc")
    card = yaml.safe_load((project.root / "reports/cards/model/README.md").read_text().split("---\n")[1])
    headline = json.loads((project.root / "metrics/evaluate.json").read_text())["test"]
    values = {each["name"]: each["value"] for each in card["model-index"][0]["results"][0]["metrics"]}
    assert values["Exact category path (micro F)"] == headline["micro_f1"]
    assert values["Macro F"] == headline["macro_f1"]
    assert values["Expected calibration error"] == headline["ece"]
    discarded = project.table("reports/split/discarded.parquet")
    assert len(discarded) == sum(project.metrics("split")["dropped"].values())


def test_dvc_metrics_and_plots_work(project: Project) -> None:
    shown = project.dvc("metrics", "show")
    assert "evaluate.json" in shown
    assert max(map(len, shown.splitlines())) <= 220, "on one screen"
    assert "train.epochs" in project.dvc("params", "diff")
    assert "evaluate" in project.dvc("dag")
    assert (project.root / "dvc_plots/index.html").name in project.dvc("plots", "show")


def test_repro_runs_only_what_depends_on_a_changed_parameter(project: Project) -> None:
    assert project.repro() == []
    before, params = project.written(), (project.root / "params.yaml").read_text()
    project.set({"train": {"dropout": 0.25}})
    assert project.repro() == ["train", "evaluate", "report"]
    assert project.written() != before
    (project.root / "params.yaml").write_text(params)
    assert project.repro() == [], "out of the run cache"
    assert project.written() == before


def test_run_in_fresh_clone_leaves_git_clean(project: Project, tmp_path: Path) -> None:
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "a run")
    project.git("clone", "--quiet", str(project.root), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.env)
    clone.env["PATH"] = project.env["PATH"]
    assert sorted(clone.repro()) == sorted(STAGES)
    assert clone.git("status", "--porcelain") == "", "timings, say, would be other ones"


def test_new_crawl_of_unchanged_shop_runs_only_the_report_again(project: Project) -> None:
    spider, products = (
        project.root / "crawlers/scrapy_app/catalogue_spider.py",
        project.root / "data/raw/products.parquet",
    )
    code, found = spider.read_text(), products.read_bytes()
    spider.write_text(f"{code}\n# a comment\n")
    project.set({"crawl": {"snapshot": "sample-2"}})
    assert project.repro() == ["crawl", "report"], "it names the crawl"
    assert products.read_bytes() == found
    spider.write_text(code)
    project.set({"crawl": {"snapshot": "sample-1"}})
    assert project.repro() == [], "out of the cache"


def test_lost_shard_is_restored_from_cache_or_shop(project: Project) -> None:
    shard = min((project.root / "data/images/shards").glob("*.parquet"))
    content = shard.read_bytes()
    shard.unlink()
    project.repro()
    assert shard.read_bytes() == content, "restored"
    shard.unlink()
    md5 = hashlib.md5(content).hexdigest()
    (project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert project.repro() == ["fetch"]
    assert shard.read_bytes() == content, "rebuilt"


def test_pipeline_runs_from_a_manifest_and_back(project: Project) -> None:
    """The images of the crawl again, as a list of URLs; two of them lead nowhere, one filename is an attack.

    Every stage runs; with the former parameters, every stage comes from the run cache.
    """
    before, params = project.written(), (project.root / "params.yaml").read_text()
    products = project.table("data/raw/products.parquet")
    images = [
        {
            "filename": f"{product['product_id']}.jpg",
            "title": product["title"],
            "image_url": product["image_urls"][0],
            "sentences": [{"tokens": product["taxonomy"]}],
        }
        for product in products
    ]
    images[0]["filename"] = "../../outside.jpg"
    images[1]["image_url"] = "ftp://shop-a.demo.test/1.jpg"
    images[2]["image_url"] = "http://shop-a.demo.test/no-such-image.jpg"
    (project.root / "mine.json").write_text(json.dumps({"images": images}))
    with running_shop() as connect_map:
        connect = {host: f"{address}:{port}" for host, (address, port) in connect_map.items()}
        crawl: dict[str, object] = {"source": "manifest", "manifest": "mine.json", "connect": connect}
        project.set({"crawl": crawl, "split": {"labels": "met"}, "zoom": {"enabled": False}})
        assert set(project.repro()) == set(STAGES)
    statuses = {ref["image_url"]: ref["status"] for ref in project.table("data/images/refs.parquet")}
    assert statuses[images[1]["image_url"]] == "bad_url"
    assert statuses[images[2]["image_url"]] == "http_404"
    assert project.metrics("crawl")["products"] == len(images)
    assert project.metrics("zoom")["shop"] is None, "nobody knows the truth"
    assert (
        project.metrics("zoom")["images_per_reason"]["zoomed"]
        == 0
        < project.metrics("zoom")["images_per_reason"]["not_filtered"]
    )
    assert project.metrics("evaluate")["test"]["invalid_paths"] == 0
    assert not list(project.root.parent.rglob("outside.jpg"))
    assert project.written() != before
    (project.root / "params.yaml").write_text(params)
    assert project.repro() == [], "out of the run cache, every stage"
    assert project.written() == before, "metrics and plots too"
