"""What is kept of a crawl, and the report that compares two: files in, a page out, with the shipped model."""

import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageOps

from atlas_model.core.checksums import read_json_with_checksum
from atlas_model.core.errors import InputError
from atlas_model.core.params import Params, load_params, set_snapshot
from atlas_model.data.images import encode_png
from atlas_model.data.schemas import IMAGES, PRODUCTS, ShardWriter, write_table
from flows import paths
from flows.cli.main import main
from flows.dvc import repo
from flows.monitoring import drift
from flows.monitoring.recrawl import start_new_crawl
from flows.paths import CHAMPION
from flows.registry.model_folders import bundled_model
from flows.text import in_markdown
from tests.support.paths import ROOT

HOSTILE = "<img src=x onerror=alert(1)> | [x](javascript:alert(1)) `y` *z* \\ &lt; \x1b[31m\n# End"
N_IMAGES = 120
NIGHT = datetime(2026, 11, 22, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def garments() -> list[Image.Image]:
    """Images of the sample, in an order without meaning."""
    pixels = pq.read_table(ROOT / "data/sample.parquet", columns=["pixels"])["pixels"]
    chosen = np.random.default_rng(0).permutation(len(pixels))[: 2 * N_IMAGES]
    return [Image.frombytes("L", (28, 28), pixels[int(index)].as_py()) for index in chosen]


@pytest.fixture
def crawled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """A function that puts a crawl on disk, as the stages crawl and fetch do; what params.yaml then says."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")

    def crawl(snapshot: str, images: Sequence[Image.Image], products: int = 50, **values: Any) -> Params:
        set_snapshot(snapshot)
        row = {"site": "a.test", "title": "Shirt", "price": Decimal(10), "currency": "EUR", "taxonomy": ["A", "B"]}
        row |= {"breadcrumb": [], "details": [], "image_urls": [], **values}
        rows = [{**dict.fromkeys(PRODUCTS.names), **row, "product_id": f"a:{number:03}"} for number in range(products)]
        write_table(paths.PRODUCTS, pa.Table.from_pylist(rows, schema=PRODUCTS), PRODUCTS)
        common = {"format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
        with ShardWriter(paths.SHARDS, IMAGES, 100) as shards:
            for number, image in enumerate(images):
                size = {"width": image.width, "height": image.height}
                shards.append({"image_id": f"{number:064}", "bytes": encode_png(image), **size, **common})
        stage = {"cmd": "true", "params": {"params.yaml": {"crawl": {"snapshot": snapshot}}}}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"crawl": stage}}))
        return load_params()

    return crawl


def profile_of(snapshot: str) -> Path:
    return drift.PROFILES / f"{snapshot}.json"


def figures_in(report: drift.DriftReport) -> dict[str, dict[str, Any]]:
    content = json.loads(report.path.with_suffix(".json").read_text())
    return {figure["name"]: figure for figure in content["figures"]}


def test_detects_drift_of_other_images_but_not_of_same_distribution(
    crawled: Callable[..., Params], garments: list[Image.Image]
) -> None:
    shutil.copytree(ROOT / "models/fashion_mnist", CHAMPION)
    drift.save_profile(crawled("one", garments[:N_IMAGES]))
    report = drift.report_drift("one", "two", crawled("two", garments[N_IMAGES:]))
    assert report is not None
    assert report.drifted == []
    assert 0 < figures_in(report)["embeddings"]["distance"] < 0.12
    inverted = [ImageOps.invert(image) for image in garments[N_IMAGES:]]
    report = drift.report_drift("one", "three", crawled("three", inverted))
    assert report is not None
    assert report.drifted == ["embeddings"]
    assert figures_in(report)["embeddings"]["distance"] > 0.35
    assert figures_in(report)["embeddings"]["n"] == [N_IMAGES, N_IMAGES]


def test_report_names_what_changed(crawled: Callable[..., Params], garments: list[Image.Image]) -> None:
    few = garments[:4]
    drift.save_profile(crawled("one", few))
    large = [image.resize((56, 56)) for image in few]
    report = drift.report_drift("one", "two", crawled("two", large, products=60, taxonomy=["A", "C"], title="x" * 40))
    assert report is not None
    assert report.path == Path("reports/drift/one..two.md")
    assert report.path.read_text() == report.markdown
    assert report.drifted == ["categories", "title lengths"], "four images say nothing of their sizes"
    lines = report.markdown.splitlines()
    assert "**Above their thresholds: categories, title lengths.** 50 products then, 60 now." in lines
    assert any(line.startswith("| image sizes | 1.000 |") and "could be chance" in line for line in lines)
    assert "| A > B | 50 | 0 | 100.00% | 0.00% | -100.00 points | gone |" in lines
    assert "| A > C | 0 | 60 | 0.00% | 100.00% | +100.00 points | new |" in lines
    content = json.loads(report.path.with_suffix(".json").read_text())
    assert (content["old"], content["new"]) == ("one", "two")
    assert content["categories"] == {"A > B": [50, 0], "A > C": [0, 60]}


def test_report_escapes_untrusted_text(crawled: Callable[..., Params], garments: list[Image.Image]) -> None:
    drift.save_profile(crawled("one", garments[:3], taxonomy=[HOSTILE], currency=HOSTILE))
    report = drift.report_drift("one", "two", crawled("two", garments[:3], taxonomy=["A"], currency=HOSTILE))
    assert report is not None
    assert not set("<`[]\\\x1b") & set(report.markdown)
    rows = [line for line in report.markdown.splitlines() if line.startswith("|")]
    assert all(line.count("|") in (9, 8) for line in rows), "no cell of its own making"
    assert in_markdown("&lt;b&gt; &NewLine; &#10;") == "&#38;lt;b&#38;gt; &#38;NewLine; &&#35;10;"
    assert in_markdown("Müller & Söhne: 1/2-zip_x") == "Müller & Söhne: 1/2-zip_x"
    assert in_markdown("_x_ a__b x._y") == "&#95;x&#95; a&#95;&#95;b x.&#95;y"
    assert in_markdown("> 5 http://a") == "&#62; 5 http&#58;//a"


def test_unchanged_crawl_is_not_profiled_again(
    crawled: Callable[..., Params], garments: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = crawled("one", garments[:5])
    drift.save_profile(params)
    kept = profile_of("one").stat().st_ino
    drift.save_profile(params)
    assert profile_of("one").stat().st_ino == kept
    params = crawled("one", garments[:6])
    drift.save_profile(params)
    assert profile_of("one").stat().st_ino != kept
    assert read_json_with_checksum(profile_of("one"))["profile"]["image_sizes"]["n"] == 6


def test_compares_with_profile_of_last_run(crawled: Callable[..., Params], garments: list[Image.Image]) -> None:
    assert drift.last_profiled_snapshot() is None
    drift.save_profile(load_params())
    assert drift.last_profiled_snapshot() is None, "there are no data"
    for at, snapshot in enumerate(("a", "b")):
        drift.save_profile(crawled(snapshot, garments[:2]))
        assert drift.last_profiled_snapshot() == snapshot
        os.utime(profile_of(snapshot), (at, at))  # long ago
        shutil.copytree("data", f"data of {snapshot}")
    shutil.rmtree("data")
    shutil.copytree("data of a", "data")  # with its times, as links to DVC's cache have them
    set_snapshot("a")
    drift.save_profile(load_params())
    assert drift.last_profiled_snapshot() == "a", "though there was nothing new to keep"


def test_new_champion_invalidates_profiles_of_old_one(
    crawled: Callable[..., Params], garments: list[Image.Image]
) -> None:
    old = crawled("one", garments[:20])
    drift.save_profile(old)
    shutil.copytree(bundled_model(), CHAMPION)
    description = json.loads((CHAMPION / "model.json").read_text())
    (CHAMPION / "model.json").write_text(json.dumps(description | {"format": 1, "metrics": {}}))
    drift.save_profile(old)
    new = crawled("two", garments[:20])
    report = drift.report_drift("one", "two", new)
    assert report is not None
    assert figures_in(report)["embeddings"]["distance"] == pytest.approx(0, abs=1e-6)
    shutil.rmtree(CHAMPION)
    report = drift.report_drift("one", "two", new)
    assert report is not None
    assert "| embeddings | - |" in report.markdown
    assert "different models saw the two crawls" in report.markdown
    assert report.drifted == []


def test_profiles_crawl_before_it_is_replaced(
    crawled: Callable[..., Params],
    garments: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a shell's `dvc repro`, say, or after a new champion."""
    stages: list[str] = []
    monkeypatch.setattr(repo, "is_up_to_date", lambda stage: not stages.append(stage))
    crawled("one", garments[:20])
    assert start_new_crawl(NIGHT)[0] == "one"
    assert stages == ["fetch"]
    report = drift.report_drift("one", "two", crawled("two", garments[:20]))
    assert report is not None
    assert figures_in(report)["embeddings"]["distance"] == pytest.approx(0, abs=1e-6)
    assert figures_in(report)["image sizes"]["distance"] == 0

    crawled("two", garments[:20])
    profile_of("two").unlink()
    start_new_crawl(NIGHT)
    assert drift.last_profiled_snapshot() == "one", "the run of the other has not come to its end"

    def busy(_stage: str) -> bool:
        raise repo.DvcBusyError("another dvc command is at work")

    profile_of("one").unlink()
    for is_up_to_date in (lambda _stage: False, busy):
        crawled("two", garments[:20])
        monkeypatch.setattr(repo, "is_up_to_date", is_up_to_date)
        assert start_new_crawl(NIGHT)[0] == "two"
        assert drift.last_profiled_snapshot() is None
    assert "the comparison of the new crawl with two may be incomplete: another dvc command" in capsys.readouterr().err


def test_number_of_profiles_is_bounded(
    crawled: Callable[..., Params], garments: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "MAX_KEPT", 2)
    paths.SNAPSHOTS.mkdir(parents=True)
    for at, snapshot in enumerate(("c", "a", "b")):
        params = crawled(snapshot, garments[:2])
        shutil.copy(paths.PRODUCTS, paths.SNAPSHOTS / f"{snapshot}.parquet")
        drift.save_profile(params)
        for path in (profile_of(snapshot), paths.SNAPSHOTS / f"{snapshot}.parquet"):
            os.utime(path, (at, at))
    assert sorted(path.stem for path in drift.PROFILES.iterdir()) == ["a", "b"]
    assert sorted(path.stem for path in paths.SNAPSHOTS.iterdir()) == ["a", "b"]


def test_damaged_champion_does_not_fail_report(
    crawled: Callable[..., Params], garments: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    drift.save_profile(crawled("one", garments[:3]))
    shutil.copytree(bundled_model(), CHAMPION)
    (CHAMPION / "model.safetensors").unlink()
    report = drift.report_drift("one", "two", crawled("two", garments[:3]))
    assert report is not None
    assert "no model has seen the images of one crawl" in report.markdown
    assert figures_in(report)["image sizes"]["distance"] == 0
    assert "warning: drift: no embeddings of the images: models/champion" in capsys.readouterr().err


def test_crawl_without_profile_is_compared_by_products(
    crawled: Callable[..., Params], garments: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    crawled("one", garments[:3])
    paths.SNAPSHOTS.mkdir(parents=True)
    shutil.copy(paths.PRODUCTS, paths.SNAPSHOTS / "one.parquet")
    drift.PROFILES.mkdir()
    profile_of("one").write_text('{"format": 1, "state": "x", "profile": {"products": 3')
    params = crawled("two", garments[:3], price=Decimal(20))
    report = drift.report_drift("one", "two", params)
    assert report is not None
    assert report.drifted == ["prices in EUR"]
    assert report.markdown.count("the images of one crawl are not known any more") == 2
    assert drift.report_drift("nought", "two", params) is None
    assert "drift: nothing to compare with: unknown snapshot 'nought'" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected one of: one"):
        drift.report_drift("one", "three", params)


def test_command_prints_report(
    crawled: Callable[..., Params], garments: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    drift.save_profile(crawled("one", garments[:3]))
    crawled("two", garments[:3], taxonomy=["A", "C"])
    assert main(["crawl", "drift", "one", "two"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("# Drift from crawl one to two\n\n**Above their thresholds: categories.**")
    assert "| A > B | 50 | 0 |" in said.out, "a terminal shows no HTML"
    assert said.err.endswith("written: reports/drift/one..two.md\n")
    assert main(["crawl", "drift", "../one", "two"]) == 2
    assert "unknown snapshot '../one'" in capsys.readouterr().err


def test_skips_broken_images(crawled: Callable[..., Params], garments: list[Image.Image]) -> None:
    params = crawled("one", garments[:4])
    rows = pq.read_table(paths.SHARDS / "part-00000.parquet").to_pylist()
    rows[1]["bytes"] = io.BytesIO(rows[1]["bytes"]).read(60)
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES), paths.SHARDS / "part-00000.parquet")
    drift.save_profile(params)
    profile = read_json_with_checksum(profile_of("one"))["profile"]
    assert (profile["image_sizes"]["n"], profile["embeddings"]["shape"]) == (4, [3, 64])


def test_samples_at_most_the_given_number_of_images(
    crawled: Callable[..., Params], garments: list[Image.Image]
) -> None:
    text = (Path("params.yaml")).read_text()
    Path("params.yaml").write_text(text.replace("sample: 1000 ", "sample: 7 "))
    drift.save_profile(crawled("one", garments[:20]))
    assert read_json_with_checksum(profile_of("one"))["profile"]["embeddings"]["shape"] == [7, 64]
