"""Measures how much of an unknown shop is read correctly: without a profile, and with its YAML profile.

The same shop has two hosts: one without profile, and that of crawlers/pages/oscar.yaml. Each is crawled by the stages
in a separate project folder, as a user would run them, and products.parquet and the images are compared with the
database of the shop. A product is correct if all its fields are; a product without images, which Atlas discards, is
wrong if it is there. The host without profile is requested once per second, which takes 15 minutes. ``OSCAR_LANGUAGE=de
make benchmark NAME=oscar`` crawls the shop in German.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import yaml

from atlas_model.core.files import replacing_folder, write_text
from atlas_model.core.progress import say
from benchmarks.report import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".atlas" / "oscar"  # the shop and its environment are kept: making them takes minutes
HOSTS = {"generic": "unknown-shop.test", "profile": "oscar.test"}
FIELDS = ("title", "price", "currency", "breadcrumb", "images")

Item = dict[str, Any]  # FIELDS of one product


def main() -> None:
    """Measure both hosts."""
    python = _environment()
    shop = _shop(python)
    truth = json.loads((shop / "truth.json").read_text(encoding="utf-8"))
    wanted = {product["path"]: _item(product) for product in truth["products"] if product["images"]}
    figures: dict[str, float] = {"products": len(wanted)}
    with _serving(python, shop) as address:
        for name, host in HOSTS.items():
            say(f"oscar: {name}, {host} at {address}")
            found = _crawled(host, address, truth["categories"])
            figures |= {f"{key}_{name}": value for key, value in compare(wanted, found).items()}
    report("oscar", [(key, value, "") for key, value in figures.items()], figures)


def compare(wanted: dict[str, Item], found: dict[str, Item]) -> dict[str, float]:
    """The share of correct products among all expected and found ones, by field and as a whole."""
    met = [(item, found[path]) for path, item in wanted.items() if path in found]
    right = {field: sum(item[field] == other[field] for item, other in met) for field in FIELDS}
    right["products"] = sum(item == other for item, other in met)
    return {f"{key}_right": count / len(wanted | found) for key, count in right.items()} | {
        "missing": len(wanted.keys() - found.keys()),
        "extra": len(found.keys() - wanted.keys()),
    }


def _item(product: dict[str, Any]) -> Item:
    price = None if product["price"] is None else Decimal(product["price"])
    return {field: product[field] for field in FIELDS} | {"price": price}


def _crawled(host: str, address: str, categories: dict[str, list[str]]) -> dict[str, Item]:
    """The result of the stages crawl and fetch: path of the product page -> its fields."""
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        _write_sources(project / "sources.csv", host, categories)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["crawl"] |= {"source": "shops", "sources": "sources.csv", "connect": {host: address}}
        write_text(project / "params.yaml", yaml.safe_dump(params))
        for stage in ("crawl", "fetch"):
            if subprocess.run([sys.executable, "-m", f"flows.stages.{stage}"], cwd=project, check=False).returncode:
                return {}  # it has printed the reason
        refs: dict[str, list[str]] = {}
        for ref in pq.read_table(project / "data/images/refs.parquet").sort_by("position").to_pylist():
            refs.setdefault(ref["product_id"], []).append(ref["image_id"])
        rows = pq.read_table(project / "data/raw/products.parquet").to_pylist()
    return {
        urlsplit(row["page_url"]).path: {field: row.get(field) for field in FIELDS}
        | {"images": refs.get(row["product_id"])}
        for row in rows
    }


def _write_sources(path: Path, host: str, categories: dict[str, list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Taxonomy", host])
        rows.writerows(["->".join(names), f"http://{host}{url}"] for url, names in categories.items())


def _environment() -> str:
    """The Python of the shop's venv, with the packages of requirements.txt."""
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    folder = WORK / f"venv-{_digest(wanted)}"
    python = folder / "bin" / "python"
    mark = folder / "installed"
    if not mark.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
        mark.touch()
    return str(python)


def _shop(python: str) -> Path:
    """The folder of a shop that the current code has filled."""
    folder = WORK / f"shop-{_digest(*(path.read_text(encoding='utf-8') for path in sorted(HERE.glob('*[!_].py'))))}"
    if not folder.exists():
        say("oscar: filling the shop (a minute)")
        with replacing_folder(folder) as temporary, (temporary / "truth.json").open("w") as truth:
            subprocess.run([python, "seed.py"], cwd=HERE, env=_told(temporary), stdout=truth, check=True)
    return folder


@contextmanager
def _serving(python: str, shop: Path) -> Iterator[str]:
    """Serve the shop during the ``with`` block; yields its address. It ends when stdin closes, also after a kill."""
    with subprocess.Popen(
        [python, "serve.py"], cwd=HERE, env=_told(shop), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield f"127.0.0.1:{int(child.stdout.readline())}"


def _told(folder: Path) -> dict[str, str]:
    return {**os.environ, "OSCAR_FOLDER": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
