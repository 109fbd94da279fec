"""The public Python interface: what docs/python-api.md names is there, and its examples run."""

import asyncio
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.split.files import SplitWriter
from atlas_model.taxonomy.tree import Taxonomy
from crawlers.api import fetch_product, parse_listing, parse_product
from tests.support.paths import ROOT

PAGE = ROOT / "docs/python-api.md"
MODULES = ("atlas_model.api", "crawlers.api")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
RUN_ALL = "import runpy, sys\nfor name in sys.argv[1:]: runpy.run_path(name)"
URL = "https://shop.example/p/4711"


@pytest.mark.parametrize("module", MODULES)
def test_docs_list_exactly_the_public_names(module: str) -> None:
    (row,) = re.findall(rf"^\| `{module}` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(importlib.import_module(module).__all__)


@pytest.mark.parametrize("package", ["atlas_model", "crawlers"])
def test_importing_a_package_imports_no_other_package_of_atlas(package: str) -> None:
    program = f"import sys; before = set(sys.modules); import {package}; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == f"['{package}']\n"


def test_packages_are_typed_in_checkout_and_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    for package in ("atlas_model", "crawlers", "flows"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in data[package]


@pytest.mark.slow
def test_docs_examples_run(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 6
    for name in ("models", "data/files", "data/taxonomy.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    write_split(tmp_path / "data/splits")
    files = [tmp_path / f"example-{number}.py" for number in range(len(EXAMPLES))]
    for file, example in zip(files, EXAMPLES, strict=True):
        file.write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_ALL, *map(str, files)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines[:2]] == ["sneakers-1-a.jpg", "sneakers-1-b.jpg"]
    assert all(" > " in line for line in lines[:3])
    assert lines[2].startswith("2 ")
    assert lines[3].endswith(" True")
    assert lines[4] == "('Furniture > Chairs', 'Furniture > Tables') 1"
    assert lines[5] == "3 (3, 1, 16, 16) ('Bags', 'Handbag')"
    assert lines[6].endswith("EUR ['Fashion', 'Coats & Jackets']")
    assert lines[7:] == ["Wool coat 199.00 EUR ['https://shop.example/coat.jpg']"]


def write_split(folder: Path) -> None:
    """Three images, as the stage `split` writes them."""
    folder.mkdir(parents=True)
    Taxonomy([("Bags", "Handbag")]).save(folder / "taxonomy.json")
    with SplitWriter(folder, "val", 3, Preprocessing(16, "L", "squash")) as writer:
        for number in range(3):
            name = f"image-{number}"
            png = encode_png(Image.fromarray(np.full((16, 16), number, np.uint8)))
            row = {"image": {"bytes": png, "path": name}, "image_id": name, "product_id": name, "title": "Bag"}
            writer.append(row | {"taxonomy": ["Bags", "Handbag"], "label": "Bags > Handbag", "split": "val"})


@pytest.mark.parametrize(
    ("url", "body", "said"),
    [
        ("shop.example/p/1", b"<html>", "expected http"),
        ("https://[", b"<html>", "expected http"),
        (URL, b"\x89PNG\r\n\x1a\n\0\0", "expected a page"),
    ],
)
def test_refuses_responses_that_are_not_pages(url: str, body: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_product(url, body)


def test_reads_page_inside_running_event_loop() -> None:
    async def notebook() -> list[str]:
        return parse_listing(URL, b"<ul><li><a href=/p/1><img src=/1.jpg>Coat</a> EUR 5</ul>").items

    assert isinstance(asyncio.run(notebook()), list)


def test_refuses_private_addresses() -> None:
    with pytest.raises(InputError, match="no public address"):
        fetch_product("http://127.0.0.1:1/p/1", contact="https://example.org", robots_tags=[], timeout_s=5)


def test_reader_errors_are_atlas_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("crawlers.api.read_product", broken)
    with pytest.raises(AtlasError, match="a bug in crawlers/pages"):
        parse_product(URL, b"<html>")
