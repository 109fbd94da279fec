"""A table and a folder of images as the source, under DVC."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from atlas_model.data.schemas import IMAGES, REFS, read_table
from flows import paths
from tests.support.fetching import jpeg
from tests.support.file_source import put


def repro_fetch(git_env: dict[str, str], python: Path) -> list[str]:
    """The stages that ran, with the `python` of that folder."""
    env = {**git_env, "PATH": os.pathsep.join([str(python), git_env["PATH"]])}
    command = [sys.executable, "-m", "dvc", "repro", "fetch"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return re.findall(r"Running stage '(\w+)'", done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_edited_table_or_folder_reruns_the_stages_that_read_it(
    project: Path, git_env: dict[str, str], warm_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("source: demo ", "source: files "))
    repro = partial(repro_fetch, git_env, warm_python)
    assert repro() == ["crawl", "fetch"]
    refs = read_table(paths.REFS, REFS, "fetch")
    assert refs.num_rows == 30
    assert set(refs["status"].to_pylist()) == {"ok"}
    assert repro() == []

    table, image = Path("data/files/products.csv"), Path("data/files/images/bags-1-a.jpg")
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    assert repro() == ["crawl", "fetch"]
    assert read_table(paths.REFS, REFS, "fetch").num_rows == 29
    image.write_bytes(jpeg("another"))
    assert repro() == ["fetch"]
    assert jpeg("another") in read_table(paths.SHARDS, IMAGES, "fetch")["bytes"].to_pylist()
    Path("data/files/images/spare.jpg").write_bytes(jpeg("spare"))
    assert repro() == ["fetch"], "DVC knows the folder as a whole"
    table.unlink()
    with pytest.raises(AssertionError, match=r"ERROR: .*data/files/products\.csv"):
        repro()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_folders_as_categories_under_dvc(
    project: Path, git_env: dict[str, str], warm_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is a dependency twice: as the table and as the images."""
    monkeypatch.chdir(project)
    put("Men/1.jpg", "Women/1.jpg")
    text = Path("params.yaml").read_text().replace("source: demo ", "source: files ")
    Path("params.yaml").write_text(re.sub(r"data/files/(products.csv|images) ", "photos ", text))
    repro = partial(repro_fetch, git_env, warm_python)
    assert repro() == ["crawl", "fetch"]
    assert repro() == []
    put("Men/2.jpg")
    assert repro() == ["crawl", "fetch"]
    assert read_table(paths.REFS, REFS, "fetch")["status"].to_pylist() == ["ok"] * 3
    assert repro() == []
