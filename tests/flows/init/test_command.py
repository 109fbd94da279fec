"""`atlas init`: what it writes for which data, what it says of them, and what it refuses."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from atlas_model.core.params import load_params
from flows import paths
from flows.cli.main import main
from flows.init import command
from flows.stages import crawl, fetch
from flows.stages.entry import read_metrics
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT

KINDS = {"Clothing > Shirts": (200, 30, 30), "Clothing > Hats": (30, 200, 30), "Shoes": (30, 30, 200)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]) -> Path:
    """The current folder: a git repository with params.yaml, and nothing else."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    commit_all(folder, git_env)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "_encoder_with_weights", lambda: None)
    return folder


def image(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (48, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 40, (size[1], size[0], 3))
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(path)


def data_set(each: int = 12, **changes: Any) -> tuple[Path, list[dict[str, str]]]:
    """A folder of images and the rows of its table."""
    rows = []
    for category, colour in KINDS.items():
        for number in range(each):
            name = f"{category.split()[-1].lower()}/{number}.jpg"
            image(Path("photos", name), colour, len(rows))
            title = f"A thing of kind {len(rows)}"
            rows.append({"sku": f"p{len(rows)}", "image": name, "category": category, "title": title} | changes)
    return Path("photos"), rows


def write(rows: list[dict[str, str]], name: str = "products.csv") -> Path:
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return Path(name)


def init(*arguments: str) -> int:
    return main(["init", "--images", "photos", *arguments])


def test_writes_params_for_the_data_and_keeps_comments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = data_set()
    write(rows)
    before = Path("params.yaml").read_text()
    assert init("--table", "products.csv") == 0
    params = load_params()
    assert params.crawl.source == "files"
    assert (params.crawl.files.table, params.crawl.files.images) == (Path("products.csv"), Path("photos"))
    columns = params.crawl.files.columns
    assert (columns.image, columns.category, columns.product, columns.title) == ("image", ["category"], "sku", "title")
    assert params.crawl.files.separator == " > "
    assert (params.split.labels, params.split.image_mode, params.split.resize) == ("met", "RGB", "squash")
    assert params.train.encoder == "small"
    after = Path("params.yaml").read_text()
    assert re.findall("#.*", before) == re.findall("#.*", after)
    assert list(yaml.safe_load(before)) == list(yaml.safe_load(after))
    assert Path("params.yaml.bak").read_text() == before

    out = capsys.readouterr().out
    assert "photos: 36 different images, 64 px (median), coloured" in out
    assert "products.csv: 36 rows, 36 products, 3 categories" in out
    assert re.search(r"crawl.files.columns.category: \[category\] +it contains category paths", out)
    assert re.search(r"split.resize: squash +all images have about the same aspect ratio \(width / height 0.75", out)
    assert out.endswith(
        "  - about 5 images are in the test split: an accuracy of .9 is uncertain by 0.27\n\nNext: dvc repro\n"
    )

    assert init("--table", "products.csv") == 0
    assert "params.yaml: unchanged" in capsys.readouterr().out


def test_stages_accept_written_params_and_reuse_images(here: Path) -> None:
    _, rows = data_set()
    write(rows)
    init("--table", "products.csv")
    crawl.run(load_params())
    fetch.run(load_params())
    assert read_metrics("fetch")["statuses"] == {"ok": 36}
    assert json.loads((paths.TIMINGS / "fetch.json").read_text())["unchanged"] == 36


def test_keeps_uncommitted_changes(here: Path, git_env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = data_set()
    write(rows)
    edited = Path("params.yaml").read_text().replace("epochs: 20", "epochs: 21")
    Path("params.yaml").write_text(edited)
    assert init("--table", "products.csv") == 2
    assert "params.yaml: it has uncommitted changes" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == edited
    assert init("--table", "products.csv", "--force") == 0
    assert Path("params.yaml.bak").read_text() == edited
    assert load_params().zoom_train.epochs == 21, "what is not chosen here stays"

    write([row | {"title": ""} for row in rows])  # what it wrote itself is no edit
    written = Path("params.yaml").read_text()
    assert init("--table", "products.csv") == 0
    assert Path("params.yaml").read_text() != written
    assert Path("params.yaml.bak").read_text() == edited, "no backup is lost"
    assert Path("params.yaml.bak2").read_text() == written

    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\n# mine\n")
    assert init("--table", "products.csv") == 2
    commit_all(here, git_env)
    assert init("--table", "products.csv") == 0


def test_writes_backup_without_git(here: Path) -> None:
    _, rows = data_set()
    write(rows)
    shutil.rmtree(".git")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\n# mine\n")
    assert init("--table", "products.csv") == 0
    assert Path("params.yaml.bak").read_text().endswith("# mine\n")


def test_reports_data_problems_with_counts_and_examples(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = data_set()
    photos = Path("photos")
    image(photos / "spare.jpg", (1, 2, 3), 999)
    (photos / "hats/0.jpg").unlink()
    (photos / "hats/1.jpg").write_bytes(b"")
    (photos / "hats/2.jpg").write_text("<html>")
    shutil.copy(photos / "hats/3.jpg", photos / "hats/copy.jpg")
    shutil.copy(photos / "shoes/3.jpg", photos / "shoes/other.jpg")
    image(photos / "tiny.jpg", KINDS["Shoes"], 1, (9, 9))
    more = [
        ("hats/copy.jpg", "Clothing > Hats", ""),
        ("shoes/other.jpg", "Clothing > Hats", "A thing"),
        ("tiny.jpg", "Bags\x1b[31m", "A thing"),
        ("shoes/4.jpg", "shoes", "A thing"),
        ("hats/5.jpg", "", "A thing"),
        ("../secret.jpg", "Shoes", "A thing"),
    ]
    extra = [
        {"sku": f"x{n}", "image": name, "category": category, "title": title}
        for n, (name, category, title) in enumerate(more)
    ]
    write([*rows, *extra])
    assert init("--table", "products.csv") == 0
    out = capsys.readouterr().out
    for told in (
        "1 images are not_found (hats/0.jpg)",
        "1 images are empty (hats/1.jpg)",
        "1 images are not_an_image (hats/2.jpg)",
        "1 images are no_category (hats/5.jpg)",
        "1 images are outside_folder (../secret.jpg)",
        "2 images have two categories (shoes/3.jpg, shoes/4.jpg): none of them is used",
        "1 images are repeated with the same category",
        "1 image files in the folder are in no row of the table",
        "2 categories have fewer than",
        "1 categories have several spellings (Shoes = shoes)",
        "1 products have no title",
        "1 images are smaller than 32 px",
    ):
        assert told in out, f"{told} is not in:\n{out}"
    assert "\x1b" not in out


def test_folders_are_categories_without_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_set()
    assert init() == 0
    files = load_params().crawl.files
    assert files.table == files.images == Path("photos")
    assert "the folder of an image is its category path" in capsys.readouterr().out
    crawl.run(load_params())
    assert read_metrics("crawl")["products"] == 36


def test_reads_images_in_parquet(here: Path) -> None:
    photos, rows = data_set()
    table = [
        {"image": {"bytes": (photos / row["image"]).read_bytes(), "path": row["image"]}, "label": row["category"]}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(table), "products.parquet")
    shutil.rmtree(photos)
    assert main(["init", "--table", "products.parquet"]) == 0
    files = load_params().crawl.files
    assert (files.columns.image, files.images) == ("image", Path("products.parquet"))
    crawl.run(load_params())
    fetch.run(load_params())
    assert read_metrics("fetch")["statuses"] == {"ok": 36}


def test_reports_missing_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--table", "products.csv"]) == 2
    assert "expected --images DIR" in capsys.readouterr().err


def test_reports_data_that_later_stages_would_refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, rows = data_set()
    write(rows)
    for number in range(6):
        (photos / f"hats/{number}.jpg").unlink()
    assert init("--table", "products.csv") == 0
    out = capsys.readouterr().out
    assert "WARNING: 6 of 36 images cannot be used (see below), more than fetch.max_failed_share allows" in out
    assert out.endswith("Next: correct that, then dvc repro\n")


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (None, ["--table", "none.csv"], "none.csv: no such file"),
        (
            None,
            ["--table", "products.csv", "--column", "category=kind"],
            "the table has no such column; its columns are",
        ),
        ({"image": "x"}, ["--table", "products.csv"], "products.csv: expected a column that names files in the folder"),
        ({"category": "Shirts"}, ["--table", "products.csv", "--column", "category=category"], "two categories with 3"),
        (None, ["--params", "none.yaml"], "none.yaml: No such file"),
    ],
)
def test_unusable_data_change_nothing(
    here: Path, change: dict[str, str] | None, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = data_set()
    write([row | (change or {}) for row in rows])
    before = Path("params.yaml").read_bytes()
    assert init(*arguments) == 2
    err = capsys.readouterr().err
    assert told in err
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    assert Path("params.yaml").read_bytes() == before
    assert not Path("params.yaml.bak").exists()


@pytest.mark.parametrize("folder", ["data/images", "data", ".", "models/mine", "none"])
def test_refuses_output_folders_of_the_pipeline(here: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    if folder != "none":
        image(Path(folder, "a/1.jpg"), (1, 2, 3), 1)
    assert main(["init", "--images", folder]) == 2
    told = "expected a folder of images" if folder == "none" else "the pipeline does not write to"
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_init_and_repro_evaluate_a_model_from_table_and_folder(
    tmp_path: Path,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    warm_python: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = copy_project(tmp_path / "project")
    monkeypatch.chdir(project)
    _, rows = data_set(each=25)
    write(rows)
    env = {**git_env, "PATH": os.pathsep.join([str(warm_python), git_env["PATH"]])}
    for arguments in (
        ["flows.cli.main", "init", "--images", "photos", "--table", "products.csv"],
        ["flows.cli.main", "check"],
        ["dvc", "repro"],
    ):
        done = subprocess.run([sys.executable, "-m", *arguments], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    assert read_metrics("evaluate")["test"]["micro_f1"] >= 0.9, "colours alone tell the categories"
    assert read_metrics("split")["refs"] == 75
