"""`atlas import-original`: what is kept, what is discarded and why, and that the pipeline reads the result."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from atlas_model.core.params import load_params
from atlas_model.data.schemas import PRODUCTS, read_table
from atlas_model.taxonomy.files import load_taxonomy
from flows import paths
from flows.cli.main import main
from flows.stages import crawl
from tests.support.git_repo import commit_all
from tests.support.paths import ROOT

WORDS = {
    "Men": 1,
    "Women": 2,
    "Western Wear": 3,
    "Jeans": 4,
    "Unused": 5,
    "<unk>": 6,
    "<start>": 7,
    "<end>": 8,
    "<pad>": 0,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    commit_all(tmp_path, git_env)
    monkeypatch.chdir(tmp_path)


def entry(number: int, *tokens: str, **changes: Any) -> dict[str, Any]:
    tokens = tokens or ("Men", "Western Wear", "Jeans")
    return {
        "filename": f"{number}.jpg",
        "filepath": "atlas",
        "imgid": number,
        "title": f"Title {number}",
        "sentences": [{"tokens": list(tokens), "raw": ""}],
        "image_url": f"https://shop.test/{number}.jpg",
        "split": ("train", "val", "test")[number % 3],
    } | changes


def run(entries: list[Any], words: object = WORDS, *more: str) -> int:
    Path("atlas_dataset.json").write_text(json.dumps({"images": entries, "dataset": "atlas"}))
    Path("WORDMAP.json").write_text(json.dumps(words))
    return main(["import-original", "atlas_dataset.json", "--word-map", "WORDMAP.json", *more])


def test_keeps_usable_images_and_counts_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        entry(0),
        entry(1, "Women", "Western Wear", "Jeans"),
        entry(2, filename="../../etc/cron.d/evil"),
        entry(3, "Men", "Tuxedo"),
        entry(4, "Men", "<unk>"),
        entry(5, image_url="file:///etc/passwd"),
        entry(6, sentences=[]),
        {"filename": "7.jpg"},
        "nonsense",
    ]
    assert run(entries) == 0
    told = capsys.readouterr().out
    assert "9 images, 3 kept in 2 categories, 6 discarded" in told
    assert "words that the word map lacks: 'Tuxedo' (1 times)" in told
    assert "1 words of the word map occur in no image that was kept: 'Unused'" in told
    assert told.endswith("\nNext: atlas check && dvc repro\n")
    with Path("data/original/discarded.csv").open() as file:
        reasons = {row["image"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "3": "unknown_token",
        "4": "bad_tokens",
        "5": "file_url",
        "6": "bad_tokens",
        "7": "missing_key",
        "8": "not_an_object",
    }
    assert sorted(path.name for path in Path("data/original").iterdir()) == [
        "discarded.csv",
        "manifest.json",
        "taxonomy.csv",
    ], "no file has a name from the dataset"
    params = load_params()
    assert params.split.respect_hint
    assert load_taxonomy(params.split.taxonomy).labels == ("Men > Western Wear > Jeans", "Women > Western Wear > Jeans")
    crawl.run(params)
    products = read_table(paths.PRODUCTS, PRODUCTS, "crawl").to_pylist()
    assert [row["product_id"] for row in products] == [
        "manifest:../../etc/cron.d/evil",
        "manifest:0.jpg",
        "manifest:1.jpg",
    ]
    assert [row["split_hint"] for row in products] == ["test", "train", "val"]


def test_splits_that_are_not_complete_are_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([entry(0), entry(1, split=None), entry(2)]) == 0
    assert not load_params().split.respect_hint
    assert "products are assigned by a hash" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "expected a word map"),
        ({"Men": 1}, "expected the word <start>"),
        (WORDS | {"Men": 2}, "a different number for each word"),
        (WORDS | {"Men": "1"}, "expected a word map"),
    ],
)
def test_refuses_other_word_maps(words: object, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("params.yaml").read_text()
    assert run([entry(0)], words) == 2
    assert text in capsys.readouterr().err
    assert Path("params.yaml").read_text() == before
    assert not Path("data").exists()


def test_refuses_a_file_without_a_usable_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([entry(0, "Hats")]) == 2
    assert "got none: unknown_token 1" in capsys.readouterr().err
    assert not list(Path("data/original").iterdir()), "nothing is written"
    Path("atlas_dataset.json").write_text(json.dumps([{"label": "zoomed"}]))
    assert main(["import-original", "atlas_dataset.json"]) == 2
    assert "atlas import-manifest" in capsys.readouterr().err
