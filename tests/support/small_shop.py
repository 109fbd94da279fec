"""A shop of a few categories whose products and images a test changes, and a copy of the project that crawls it.

For tests that run the whole pipeline many times, in child processes: every stage, real HTTP, real DVC.
"""

import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw

from tests.support.crawling import listing, product
from tests.support.servers import HOST, Reply, Shop, serving

CATEGORIES = ("Clothing > Tops > Shirt", "Clothing > Bottoms > Trousers", "Shoes > Boots", "Bags")
PER_PAGE = 8  # products of a listing page
SIDE = 40  # px, of the images
OUTPUTS = (
    "data/raw",
    "data/images",
    "data/zoom/scores.parquet",
    "data/splits",
    "models",
    "metrics",
    "plots",
    "reports",
)
SMALL: dict[str, dict[str, object]] = {
    "crawl": {"source": "shops", "snapshot": "one", "timeout_s": 5, "sitemaps": "ignore"},
    "fetch": {"timeout_s": 5, "shard_rows": 16},
    "zoom_train": {"epochs": 2},
    "zoom": {"max_share": 1.0, "threshold": 1.0},
    "split": {"min_products": 3, "near_duplicate_distance": 0},
    "train": {"epochs": 2, "min_steps": 0, "attention_size": 16, "embedding_size": 16, "hidden_size": 16},
    "evaluate": {"train_sample": 20, "overlays": 2, "resamples": 20},
}
PROFILE = f"""hosts: [{HOST}]
limits: {{delay_s: 0, concurrency: 4}}
"""


@dataclass
class SmallProduct:
    """A product of the shop; ``look`` seeds its image, so that another look is another image under the same URL."""

    number: int
    category: int
    price: float = 10.0
    look: int = 0
    title: str = ""

    @property
    def path(self) -> str:
        return f"/p/{self.number}"

    @property
    def image_path(self) -> str:
        return f"/i/{self.number}.jpg"


@dataclass
class SmallShop(Shop):
    """The server of the shop: `servers.Shop` whose pages follow ``products``; ``asked`` counts its requests."""

    products: dict[int, SmallProduct] = field(default_factory=dict)
    delay_s: float = 0  # before each response
    log: list[tuple[float, str]] = field(default_factory=list)  # of each request: time.monotonic(), path

    def reply(self, path: str) -> Reply:
        self.asked[path] += 1
        self.log.append((time.monotonic(), path))
        reply = self._page(path)
        reply.after_s = self.delay_s
        return reply

    def _page(self, path: str) -> Reply:
        kind, _, name = path.strip("/").partition("/")
        number = re.match(r"\d+", name)
        if kind == "c" and number:
            return self._listing(int(number[0]), int(name.partition("?page=")[2] or 0))
        shown = self.products.get(int(number[0])) if number else None
        if kind == "p" and shown:
            title = shown.title or f"Product {shown.number}"
            return product(title, f"A{shown.number}", shown.image_path, price=f"{shown.price:.2f}")
        if kind == "i" and shown:
            body = small_image(shown)
            return Reply(body, headers={"Content-Type": "image/jpeg", "ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        return Reply("not found", 404)

    def _listing(self, category: int, page: int) -> Reply:
        paths = [each.path for each in self.products.values() if each.category == category]
        more = f"/c/{category}?page={page + 1}" if len(paths) > (page + 1) * PER_PAGE else None
        return listing(*paths[page * PER_PAGE : (page + 1) * PER_PAGE], next_page=more)


def small_image(shown: SmallProduct) -> bytes:
    """A JPEG of `SIDE` px: a shape of the category, in a colour and place of the product."""
    chance = random.Random(f"{shown.number} {shown.look}")
    noise = np.random.default_rng(chance.randrange(2**32)).integers(150, 255, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    x, y = chance.randrange(4, 12), chance.randrange(4, 12)
    box, color = (x, y, x + 20, y + 20), (chance.randrange(100), chance.randrange(100), chance.randrange(100))
    draw = ImageDraw.Draw(image)
    if shown.category == 0:
        draw.rectangle(box, fill=color)
    elif shown.category == 1:
        draw.ellipse(box, fill=color)
    elif shown.category == 2:
        draw.line(box, fill=color, width=5)
    else:
        draw.arc(box, 0, 300, fill=color, width=5)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=90)
    return written.getvalue()


@contextmanager
def small_shop(products_per_category: int = 12, kind: type[SmallShop] = SmallShop) -> Iterator[SmallShop]:
    """Serve a shop with `CATEGORIES` while the ``with`` block runs."""
    count = products_per_category * len(CATEGORIES)
    products = {number: SmallProduct(number, number % len(CATEGORIES)) for number in range(count)}
    shop = kind(products=products)
    with serving(shop):
        yield shop


class SmallProject:
    """A copy of the project in ``root`` that crawls a `SmallShop`, and commands in it.

    Args:
        root: folder of the copy, made by the fixture ``copy_project``.
        shop: the running shop.
        env: environment of the commands, such as the fixture ``git_env``.
        programs: a folder with the `python` of the stages, such as ``warm_python``; None: the one of the tests, which a
            signal to the process group reaches.
    """

    def __init__(self, root: Path, shop: SmallShop, env: dict[str, str], programs: Path | None = None) -> None:
        self.root, self.shop = root, shop
        self.env = _with_path(env, programs)
        (root / "crawlers/pages/small.yaml").write_text(PROFILE)
        sources = [f"{path.replace(' > ', '->')},http://{HOST}/c/{n}" for n, path in enumerate(CATEGORIES)]
        (root / "data/sources.csv").write_text("\n".join([f"Taxonomy,{HOST}", *sources]) + "\n")
        (root / "data/taxonomy.csv").write_text("\n".join(["taxonomy", *CATEGORIES]) + "\n")
        labelled = root / "data/zoom/labelled/part-00000.parquet"
        table = pq.read_table(labelled)
        pq.write_table(table.take(list(range(0, table.num_rows, 20))), labelled)
        self.set({"crawl": {"connect": {HOST: f"127.0.0.1:{shop.port}"}}})
        self.set(SMALL)

    def set(self, changes: dict[str, dict[str, object]]) -> None:
        """Change keys of params.yaml: section -> key -> value."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            params[section].update(values)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def with_programs(self, programs: Path | None) -> Self:
        """The same project with other ``programs``."""
        other = copy(self)
        other.env = _with_path(self.env, programs)
        return other

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start ``python -m command`` in a session of its own; its output goes to ``log``."""
        with (log or Path(os.devnull)).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.root,
                env=self.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, *command: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run ``python -m command`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def repro(self, *arguments: str) -> list[str]:
        """Run ``dvc repro``, which must succeed. Returns the stages that really ran."""
        done = self.run("dvc", "repro", *arguments)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return re.findall(r"Running stage '(\w+)'", done.stdout)

    def hashes(self) -> dict[str, str]:
        """File of the outputs -> md5, without the timings, which differ between runs."""
        found = [self.root / name for name in OUTPUTS]
        files = [file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        return {
            str(file.relative_to(self.root)): hashlib.md5(file.read_bytes()).hexdigest()
            for file in sorted(files)
            if "timings" not in file.parts
        }


def _with_path(env: dict[str, str], programs: Path | None) -> dict[str, str]:
    return {**env, "PATH": os.pathsep.join([str(programs or Path(sys.executable).parent), env["PATH"]])}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group of a process that `SmallProject.start` started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
