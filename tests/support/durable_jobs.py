"""The writers of the pipeline as small jobs, each in a folder of its own, for tests of power failures.

A job resumes whatever it finds in its folder. After any interruption, the same job again must give the same files in
``out``. Run as a program, it runs all jobs below a folder.
"""

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from atlas_model.core.checkpoint import save_model
from atlas_model.core.files import locked, write_json
from atlas_model.data.dataset import Split
from atlas_model.data.image_sources import open_source
from atlas_model.data.images import Preprocessing, probe
from atlas_model.data.reviews import CategoryDecision, append_record, read_reviews
from atlas_model.data.schemas import PRODUCTS, write_rows
from atlas_model.encoders.encoder import build_encoder
from atlas_model.inference import batch
from atlas_model.train import feature_cache
from atlas_model.train.feature_cache import load_activations
from atlas_model.train.state import TrainingState, load_state, save_state
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.fetch import blobs
from crawlers.fetch.client.outcome import FetchOutcome
from crawlers.fetch.collect import write_images
from crawlers.fetch.index import Plan
from crawlers.fetch.spool import Spool
from tests.support.batch_prediction import Model, run

PAGES, IMAGES, EPOCHS, DECISIONS = 12, 10, 3, 6
PLAN = Plan(snapshot="one", reuse="always", max_bytes=1_000_000, max_pixels=1_000_000)


def image(number: int, side: int = 24) -> bytes:
    """A PNG of some thousand bytes."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(noise).save(written, "PNG")
    return written.getvalue()


def crawl(folder: Path) -> None:
    """The journal of a crawl, and products.parquet from it."""
    with locked(folder / "work", "crawl"), Journal(folder / "work/journal.sqlite") as journal:
        journal.begin("one", ["r"])
        urls = [f"http://a.test/p/{number}" for number in range(PAGES)]
        journal.link(urls, 0, "a.test")
        for url in journal.next_products("a.test", PAGES):
            journal.put(PRODUCT, url, JournalPage(f"page {url} " + "x" * 900, reader="r"))
        rows = (_product(url, journal.page(PRODUCT, url)) for url in urls)
        write_rows(folder / "out/products.parquet", rows, PRODUCTS)
        journal.finish()


def _product(url: str, page: JournalPage | None) -> dict[str, object]:
    assert page is not None and page.item is not None
    empty: dict[str, object] = {"breadcrumb": [], "taxonomy": ["A"], "details": [], "image_urls": []}
    return {"product_id": url, "site": "a.test", "title": page.item, **empty}


def fetch(folder: Path) -> None:
    """A spool of downloads in several files, and shards from it."""
    urls = [f"http://a.test/i/{number}" for number in range(IMAGES)]
    with Spool(folder / "spool") as spool:
        spool.begin(urls, PLAN)
        for count, request in enumerate(spool.pending("a.test")):
            data = image(int(request.url.rpartition("/")[2]))
            described = probe(data)
            image_id = hashlib.sha256(data).hexdigest()
            spool.store(image_id, data, described)
            spool.keep(request, FetchOutcome("ok", permanent=True, image_id=image_id))
            if count % 3 == 2:
                spool.flush()
        spool.flush()
        spool.write_status()
        write_images(folder / "out/shards", spool, 4)
        spool.drop_unwanted()


def train(folder: Path) -> None:
    """A training that resumes after its last epoch, and the model."""
    torch.manual_seed(1)
    model = torch.nn.Linear(20, 20)
    optimizer = torch.optim.AdamW(model.parameters())
    file = folder / "work/model.safetensors"
    state = load_state(file, model, optimizer) or TrainingState(records=[], best=model.state_dict(), average={})
    while len(state.records) < EPOCHS:
        torch.manual_seed(len(state.records))
        model(torch.randn(5, 20)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        state.records.append({"epoch": len(state.records) + 1})
        state.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        save_state(file, model, optimizer, state)
    save_model(folder / "out/model", state.best, {"kind": "test"})
    write_json(folder / "out/metrics/train.json", {"epochs": len(state.records)})


def activations(folder: Path) -> None:
    """The cache of activations: its rows, which depend on nothing else."""
    torch.manual_seed(1)
    encoder = build_encoder("small", in_channels=1, grid="native").eval()
    encoder.freeze_before("none")
    pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, 1, 16, 16), dtype=np.uint8)
    names = [str(row) for row in range(IMAGES)]
    split = Split("train", pixels, np.zeros(IMAGES, dtype=np.int64), names, names, Preprocessing(16, "L", "squash"))
    found = load_activations(encoder, split, folder / "cache", device=torch.device("cpu"))
    read = found.read(np.arange(IMAGES), torch.device("cpu"))
    write_json(folder / "out/sums.json", [float(row.sum()) for row in read])


def review(folder: Path) -> None:
    """Records of a reviewer; those that are there already are not sent again."""
    known = {record.id for record in read_reviews(folder / "out/reviews").records}
    for number in range(DECISIONS):
        if (name := f"{number:032x}") not in known:
            at = f"2026-11-30T12:00:0{number}.000000Z"
            answer: dict[str, Any] = {"answer": "category", "category": ("A", "B" * 400)}
            decision = CategoryDecision(id=name, at=at, reviewer="anna", product_id=f"p{number}", **answer)
            append_record(folder / "out/reviews", decision)


def predict(folder: Path) -> None:
    """A batch prediction in parts."""
    run(open_source(folder / "in"), folder / "out/predictions.parquet", Model().answer)


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job for job in (crawl, fetch, train, activations, review, predict)
}
SMALL = ((blobs, "FILE_BYTES", 4_000), (feature_cache, "ENCODED", 3), (batch, "PART_IMAGES", 4))  # several files each


def prepare(folder: Path) -> None:
    """Write the inputs of the jobs."""
    for name in JOBS:
        (folder / name).mkdir(parents=True)
    (folder / "predict/in").mkdir()
    for number in range(IMAGES):
        (folder / f"predict/in/{number:03d}.png").write_bytes(image(number, 4))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module, setting, value in SMALL:
        setattr(module, setting, value)
    for name, job in JOBS.items():
        job(Path(sys.argv[1]) / name)
