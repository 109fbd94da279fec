"""Damaged and hostile Parquet files, models, states of training, journals and spools."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from atlas_model.core.checkpoint import CHECKSUM, DESCRIPTION, WEIGHTS
from atlas_model.core.errors import AtlasError, CheckpointError
from atlas_model.data.dataset import load_split
from atlas_model.data.image_sources import open_source
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import IMAGES, LABELLED, PRODUCTS, REFS, SCORES, ShardWriter, iterate_shards, read_table
from atlas_model.model.categorizer import Categorizer, Model
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, load_classifier, save
from atlas_model.split.files import SplitWriter, read_columns
from atlas_model.train.state import TrainingState, load_state, save_state
from atlas_model.zoom.model import ZoomModel, ZoomNet
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.crawl.product_grouping import Identity
from crawlers.fetch.check import check
from crawlers.fetch.client.outcome import FetchOutcome
from crawlers.fetch.index import Plan
from crawlers.fetch.spool import Spool
from crawlers.files.table import read_images, read_rows
from tests.support.hostile_images import valid_images
from tests.support.isolated_runs import Kind
from tests.support.mutations import mutated, mutated_text
from tests.support.training import CPU, SMALL, TAXONOMY

Files = tuple[str, dict[str, bytes]]  # a name, and the files of a folder
TINY = Preprocessing(8, "L", "squash")
PLAN = Plan("one", "validate", 10**6, 10**6)
URLS = [f"http://a.test/{number}.png" for number in range(6)]
ITEM = json.dumps({"name": "Shirt", "price": "12.50"})


def _files(write: Callable[[Path], None]) -> dict[str, bytes]:
    """The files that ``write`` makes in a folder."""
    with TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def _image_row(number: int, data: bytes) -> dict[str, Any]:
    return {"image_id": hashlib.sha256(data).hexdigest(), "bytes": data, **vars(check(data, 10**6))}


def _write_splits(folder: Path) -> None:
    with SplitWriter(folder, "train", 4, TINY) as writer:
        for number, path in enumerate(TAXONOMY.paths):
            png = encode_png(TINY.read(valid_images()["png L"]))
            image = {"bytes": png, "path": f"{number}.png"}
            names = {"image_id": str(number), "product_id": f"p{number}", "title": "T" * number}
            writer.append(
                {**names, "image": image, "taxonomy": list(path), "label": " > ".join(path), "split": "train"}
            )


@cache
def valid_tables() -> dict[str, bytes]:
    """A Parquet file of each schema: name -> bytes."""
    images = [data for name, data in valid_images().items() if name.startswith(("png", "jpeg"))]
    rows: dict[str, list[dict[str, Any]]] = {"images": [_image_row(n, data) for n, data in enumerate(images[:12])]}
    products = [(f"a.test:{n}", "a.test", f"Shirt {n}") for n in range(40)]
    rows["products"] = [
        {"product_id": i, "site": s, "title": t, "breadcrumb": ["A"], "taxonomy": ["A", "B"], "image_urls": URLS}
        | {"details": [("colour", "red")], "field_sources": [("title", "json-ld")]}
        for i, s, t in products
    ]
    rows["refs"] = [{"product_id": i, "image_url": URLS[0], "position": 0, "status": "ok"} for i, _, _ in products]
    rows["scores"] = [{"image_id": str(n), "keep": True, "reason": "normal", "phash": n} for n in range(40)]
    rows["labelled"] = [
        {"image_id": str(n), "bytes": data, "label": "normal", "source_id": "s", "title": ""}
        for n, data in enumerate(images[:6])
    ]

    def write(folder: Path, name: str) -> None:
        with ShardWriter(folder / "shards", SCHEMAS[name], 1000) as writer:
            for row in rows[name]:
                writer.append(row)
        (folder / "shards/part-00000.parquet").rename(folder / name)

    found = {name: _files(lambda folder, name=name: write(folder, name))[name] for name in rows}
    (split,) = _files(_write_splits).values()
    return found | {"split": split}


SCHEMAS = {"images": IMAGES, "products": PRODUCTS, "refs": REFS, "scores": SCORES, "labelled": LABELLED}


def make_parquet(random: Random) -> Files:
    """A damaged Parquet file."""
    tables = valid_tables()
    name = random.choice(list(tables))
    return name, {"whole": tables[name], "damaged": mutated(tables[name], random, list(tables.values()), [_footer])}


def _footer(data: bytes, random: Random) -> bytes:
    """Damage the metadata at the end of a Parquet file."""
    size = int.from_bytes(data[-8:-4], "little")
    start = max(0, len(data) - 8 - size)
    return data[:start] + mutated(data[start:], random)


def check_parquet(made: Files, folder: Path) -> str:
    """Read a Parquet file in every way: an error, or the rows of the whole file."""
    name, files = made
    folder = folder / "parquet"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(files["damaged"])
    outcomes = {}
    for how, read in _ways(name, folder, path).items():
        path.write_bytes(files["damaged"])
        try:
            got = read()
        except AtlasError as error:
            assert len(str(error)) < 110_000
            outcomes[how] = "refused"
            continue
        path.write_bytes(files["whole"])
        outcomes[how] = "ok" if got == read() else "other"
    # What is damaged and still is Parquet of this schema must be noticed, or have no effect.
    if "other" in outcomes.values() and not _is_other_file(files):
        raise AssertionError(f"{name}: other rows in silence: {outcomes}")
    return (
        "ok" if set(outcomes.values()) == {"ok"} else "InputError" if "refused" in outcomes.values() else "another file"
    )


def _is_other_file(files: dict[str, bytes]) -> bool:
    """Whether the damage made the whole of another file, or changed the metadata only, which have no checksum."""
    size = int.from_bytes(files["whole"][-8:-4], "little") + 8
    return files["damaged"][:-size] == files["whole"][:-size] or files["damaged"] in valid_tables().values()


def _ways(name: str, folder: Path, path: Path) -> dict[str, Callable[[], Any]]:
    if name == "split":
        cache = folder / "cache"

        def split() -> Any:
            shutil.rmtree(cache, ignore_errors=True)
            found = load_split(folder, "train", TAXONOMY, cache)
            return found.pixels.tobytes(), found.paths.tolist(), found.image_ids, found.product_ids, found.titles

        return {"load_split": split, "read_columns": lambda: read_columns(folder, ["train"], ["label"]).to_pylist()}
    schema = SCHEMAS[name]

    def source() -> Any:
        return [(one.name, one.title, one.read()) for one in open_source(path, titles=True).start_at(0)]

    def batches() -> Iterator[Any]:
        return (row for batch in iterate_shards(path, schema, "fetch", 8) for row in batch.to_pylist())

    ways: dict[str, Callable[[], Any]] = {
        "read_table": lambda: read_table(path, schema, "fetch").to_pylist(),
        "iterate_shards": lambda: list(batches()),
        "read_rows": lambda: list(read_rows(path, schema.names)),
    }
    if "bytes" in schema.names:
        ways |= {"read_images": lambda: list(read_images(path, "bytes")), "open_source": source}
    return ways


@cache
def valid_models() -> dict[str, dict[str, bytes]]:
    """Folders of models: name -> files."""
    torch.manual_seed(1)
    kinds: dict[str, Model] = {"categorizer": Categorizer(SMALL, TAXONOMY), "classifier": Classifier(SMALL, TAXONOMY)}
    image = Preprocessing(16, "L", "squash")

    def write(folder: Path, name: str) -> None:
        save(kinds[name], folder / "model", image, params={}, metrics={})
        for file in (folder / "model").iterdir():
            file.rename(folder / file.name)

    def write_zoom(folder: Path) -> None:
        ZoomModel(ZoomNet(16), Preprocessing(16, "RGB", "squash"), 0.5, {}).save(folder / "model")
        for file in (folder / "model").iterdir():
            file.rename(folder / file.name)

    def write_state(folder: Path) -> None:
        model, optimizer = _training()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_state(folder / WEIGHTS, model, optimizer, TrainingState([{"epoch": 1, "loss": 0.5}], state, {}))

    found = {name: _files(lambda folder, name=name: write(folder, name)) for name in kinds}
    return found | {"zoom": _files(write_zoom), "state": _files(write_state)}


def _training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(2)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def make_model(random: Random) -> Files:
    """A folder of a model of which one file is damaged; in half of the cases the checksum is that of the damaged."""
    models = valid_models()
    name = random.choice(list(models))
    files = dict(models[name])
    damaged = random.choice(list(files))
    if damaged == DESCRIPTION:
        files[damaged] = mutated_text(files[damaged], random, more=[_value])
    elif random.random() < 0.5:  # the header, which says the names, types, shapes and places of the tensors
        size = int.from_bytes(files[damaged][:8], "little") + 8
        header = mutated_text(files[damaged][8:size], random)
        files[damaged] = len(header).to_bytes(8, "little") + header + files[damaged][size:]
    else:
        files[damaged] = mutated(files[damaged], random)
    if DESCRIPTION in files and random.random() < 0.5:
        try:
            description = json.loads(files[DESCRIPTION])
            rest = {key: value for key, value in description.items() if key != CHECKSUM}
            digest = hashlib.sha256(files[WEIGHTS] + json.dumps(rest, sort_keys=True).encode())
            files[DESCRIPTION] = json.dumps(rest | {CHECKSUM: digest.hexdigest()}).encode()
        except (ValueError, AttributeError, RecursionError):
            pass
    return name, files


def _value(data: bytes, random: Random) -> bytes:
    """Replace a value of the description by a huge one, or one of another type."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places = [value]
    for node in places:
        places += [one for one in (node.values() if isinstance(node, dict) else node) if isinstance(one, dict | list)]
    node = random.choice(places)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if keys:
        odd = (None, True, -1, 0, 1e308, 10**5, 10**9, 10**30, "", "x", [], {}, "timm/resnet50", "resnet101", "native")
        node[random.choice(keys)] = random.choice(odd)
    return json.dumps(value).encode()


def check_model(made: Files, folder: Path) -> str:
    """Load a model: an error, or (with an untouched checksum) the same weights."""
    name, files = made
    folder = folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    if name == "state":
        model, optimizer = _training()
        return "ok" if load_state(folder / WEIGHTS, model, optimizer) else "anew"
    loaders: dict[str, Callable[[], torch.nn.Module]] = {
        "categorizer": lambda: load_categorizer(folder, CPU)[0],
        "classifier": lambda: load_classifier(folder, CPU)[0],
        "zoom": lambda: ZoomModel.load(folder, CPU).net,
    }
    try:
        model = loaders[name]()
    except CheckpointError as error:
        assert len(str(error)) < 110_000, f"a message of {len(str(error))} characters"
        return "CheckpointError"
    whole = valid_models()[name]
    if json.loads(files[DESCRIPTION]).get(CHECKSUM) == json.loads(whole[DESCRIPTION])[CHECKSUM]:
        assert files[WEIGHTS] == whole[WEIGHTS], "other weights in silence"
        assert json.loads(files[DESCRIPTION]) == json.loads(whole[DESCRIPTION]), "another description in silence"
    return "ok"


@cache
def valid_stores() -> dict[str, dict[str, bytes]]:
    """A journal and a spool: name -> files."""

    def write_journal(folder: Path) -> None:
        with Journal(folder / "journal.sqlite") as journal:
            journal.begin("one", ["reader"])
            journal.link(URLS, 0, "a.test")
            for number, url in enumerate(URLS):
                journal.put(PRODUCT, url, JournalPage(ITEM, None, "reader", sha256=bytes([number]) * 32))

    def write_spool(folder: Path) -> None:
        with Spool(folder) as spool:
            spool.begin(URLS, PLAN)
            images = [data for name, data in valid_images().items() if name.startswith("png")]
            for request, data in zip(list(spool.wanted()), images, strict=False):
                image_id = hashlib.sha256(data).hexdigest()
                spool.store(image_id, data, check(data, 10**6))
                spool.keep(request, FetchOutcome("ok", True, image_id=image_id))
            spool.flush()
            spool.write_status()

    return {"journal": _files(write_journal), "spool": _files(write_spool)}


def make_store(name: str) -> Callable[[Random], Files]:
    """Makes journals or spools of which one file is damaged."""

    def make(random: Random) -> Files:
        stores = valid_stores()
        files = dict(stores[name])
        damaged = random.choice([file for file in files if not file.endswith("-shm")])
        others = [content for store in stores.values() for content in store.values()]
        files[damaged] = mutated(files[damaged], random, others)
        return name, files

    return make


def check_store(made: Files, folder: Path) -> str:
    """Resume with a damaged journal or spool: the content that was written, or less of it, or an error."""
    name, files = made
    folder = folder / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    try:
        return _resume_journal(folder) if name == "journal" else _resume_spool(folder)
    except AtlasError as error:
        return type(error).__name__


def _resume_journal(folder: Path) -> str:
    with Journal(folder / "journal.sqlite") as journal:
        journal.begin("one", ["reader"])
        journal.delete_outdated(lambda url: "reader")
        journal.link(URLS, 0, "a.test")
        waiting = journal.next_products("a.test", 10)
        found = {url: journal.page(PRODUCT, url) for url in URLS if url not in waiting}
        for url in waiting:
            journal.put(PRODUCT, url, JournalPage(ITEM, None, "reader"))
        products = list(journal.products(lambda said, rank: Identity(None, said, said, said, said)))
        journal.finish()
    assert [page.item for page in found.values() if page] == [ITEM] * len(found), "another item in silence"
    assert {page.url for page in products} == set(URLS)
    return "ok" if not waiting else "requested again"


def _resume_spool(folder: Path) -> str:
    valid = {hashlib.sha256(data).hexdigest(): data for data in valid_images().values()}
    with Spool(folder) as spool:
        _, missing = spool.begin(URLS, PLAN)
        for image in spool.images():
            assert valid[image["image_id"]] == image["bytes"], "other bytes in silence"
            info = check(image["bytes"], 10**6)
            assert {name: image[name] for name in vars(info)} == vars(info), "another description in silence"
        spool.drop_unwanted()
    return "ok" if not missing else "requested again"


PARQUET = Kind(make_parquet, check_parquet)
MODELS = Kind(make_model, check_model)
SPOOLS = Kind(make_store("spool"), check_store)
JOURNALS = Kind(make_store("journal"), check_store)
