"""Each load compares a checksum: damage is reported and mended; files of earlier versions are read or made anew."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from atlas_model.core import files
from atlas_model.core.checksums import (
    checksum_file,
    read_json_with_checksum,
    replacing_with_checksum,
    state_of,
    write_json_with_checksum,
)
from atlas_model.core.errors import AtlasError, InputError, RetryError
from atlas_model.data.dataset import load_split
from atlas_model.data.images import probe
from atlas_model.data.reviews import CategoryDecision, append_record, read_reviews
from atlas_model.taxonomy.tree import Taxonomy
from atlas_model.train import feature_cache, renaming
from atlas_model.train.state import TrainingState, load_state, save_state
from crawlers.crawl import run as crawl_run
from crawlers.crawl.job import CrawlJob, CrawlReport
from crawlers.crawl.journal import PRODUCT, Journal, JournalPage
from crawlers.crawl.run import _health_in
from crawlers.fetch.client.outcome import FetchOutcome
from crawlers.fetch.spool import INDEX, Spool
from tests.support.crawling import listing, product, run, source, titles
from tests.support.durable_jobs import PLAN, activations, image
from tests.support.servers import Shop, serving
from tests.support.work_files import TAXONOMY, write_pixels_split

URL = "http://a.test/p/1"


def change(path: Path, old: bytes, new: bytes) -> None:
    """Replace ``old``, which occurs once or more, by bytes of the same length."""
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_damaged_page_of_a_crawl_is_requested_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.begin("one", ["r"])
        journal.put(PRODUCT, URL, JournalPage("price 10", reader="r"))
        journal.put(PRODUCT, f"{URL}2", JournalPage("price 20", reader="r"))
    change(path, b"price 10", b"price 90")
    with Journal(path) as journal:
        journal.begin("one", ["r"])
        assert journal.was_damaged and journal.page(PRODUCT, URL) is None
        assert journal.page(PRODUCT, f"{URL}2") is not None
    assert "1 rows are damaged on disk; their pages are requested again" in said(capsys)


def test_a_crawl_whose_journal_is_damaged_before_it_is_read_writes_no_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl_pages = crawl_run._run

    def damaged_afterwards(job: CrawlJob, lock: int) -> CrawlReport:
        report = crawl_pages(job, lock)
        with closing(sqlite3.connect(job.journal)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        change(job.journal, b"Title one", b"Title ONE")
        return report

    pages = {"/c": listing("/p/1", "/p/2"), "/p/1": product("Title one", "1"), "/p/2": product("Title two", "2")}
    with serving(Shop(pages)) as shop:
        with monkeypatch.context() as patch:
            patch.setattr(crawl_run, "_run", damaged_afterwards)
            with pytest.raises(RetryError, match="pages are damaged on disk"):
                run(shop, [source("/c")], tmp_path)
        assert not (tmp_path / "products.parquet").exists()
        run(shop, [source("/c")], tmp_path)
        assert (titles(tmp_path), shop.asked["/p/1"], shop.asked["/p/2"]) == ({"Title one", "Title two"}, 2, 1)


def test_after_damage_to_its_state_a_journal_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    for snapshot in ("one", "two"):
        with Journal(path) as journal:
            journal.begin(snapshot, ["r"])
            journal.put(PRODUCT, URL, JournalPage("said", reader="r"))
    with closing(sqlite3.connect(path)) as database:
        database.create_function(
            "row_checksum", -1, lambda *values: 0, deterministic=True
        )  # the row gets another checksum
        database.execute("UPDATE state SET snapshot = 'two!'")
        database.commit()
    with Journal(path) as journal:
        journal.begin("two", ["r"])
        journal.link([URL], 0, "a.test")
        assert journal.next_products("a.test", 9) == [URL], "it is of an earlier crawl"


def test_a_journal_without_checksums_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("""
CREATE TABLE state (number INTEGER NOT NULL, snapshot TEXT NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE pages (
    kind TEXT NOT NULL, url TEXT NOT NULL, crawl INTEGER NOT NULL, said TEXT, dropped TEXT, reader TEXT NOT NULL,
    final_url TEXT, etag TEXT, last_modified TEXT, sha256 BLOB, PRIMARY KEY (kind, url)
);
INSERT INTO state VALUES (7, 'one', 0);
INSERT INTO pages VALUES ('product', 'http://a.test/p/1', 7, 'said', NULL, 'r', NULL, '"tag"', NULL, x'00ff');
PRAGMA user_version = 1;""")
    for _ in range(2):  # also when it is opened once more
        with Journal(path) as journal:
            journal.begin("one", ["r"])
            page = JournalPage("said", reader="r", etag='"tag"', sha256=b"\x00\xff", crawl=7)
            assert (journal.page(PRODUCT, URL), journal.was_damaged) == (page, False)


def test_a_damaged_row_of_a_spool_is_requested_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["http://a.test/1", "http://a.test/2"]
    with Spool(tmp_path) as spool:
        spool.begin(urls, PLAN)
        data = image(1)
        for request in list(spool.pending("a.test")):
            spool.store("a" * 64, data, probe(data))
            spool.keep(request, FetchOutcome("ok", permanent=True, image_id="a" * 64, etag=f'"{request.url[-1]}x"'))
        spool.flush()
    change(tmp_path / INDEX, b'"1x"', b'"1y"')
    with Spool(tmp_path) as spool:
        assert spool.begin(urls, PLAN) == (2, 1)
    assert "1 rows of the index are damaged; their URLs are requested again" in said(capsys)


def state(folder: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer, Path]:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    best = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    save_state(folder / "a.safetensors", model, optimizer, TrainingState([{"epoch": 1}], best, {}))
    return model, optimizer, folder / "a.safetensors"


@pytest.mark.parametrize("where", [b"\x80?\x00\x00\x80?", b'"epoch\\": 1', b"sha256"])
def test_training_does_not_resume_from_a_damaged_state(
    where: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer, path = state(tmp_path)
    assert load_state(path, model, optimizer) is not None
    change(path, where, where[:-1] + bytes([where[-1] ^ 1]))
    assert load_state(path, model, optimizer) is None
    assert "Training starts anew" in said(capsys)


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_before(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata={"records": metadata["records"]})

    monkeypatch.setattr("atlas_model.train.state.save_file", as_before)
    model, optimizer, path = state(tmp_path)
    found = load_state(path, model, optimizer)
    assert found is not None and found.records == [{"epoch": 1}]


@pytest.mark.parametrize("old", [False, True])
def test_damaged_pixels_are_decoded_again(old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pixels_split(tmp_path / "splits")
    expected = np.array(load_split(tmp_path / "splits", "val", TAXONOMY, tmp_path / "cache").pixels)
    (cache,) = (tmp_path / "cache").glob("*.npy")
    if old:
        checksum_file(cache).unlink()
    else:
        cache.write_bytes(cache.read_bytes()[:-1] + b"\x01")
    said(capsys)
    assert np.array_equal(load_split(tmp_path / "splits", "val", TAXONOMY, tmp_path / "cache").pixels, expected)
    assert ("of an earlier version" if old else "damaged") in said(capsys)
    assert state_of(cache) == "sound"


@pytest.mark.parametrize("old", [False, True])
def test_damaged_activations_are_computed_again(
    old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "ENCODED", 3)
    activations(tmp_path)
    expected = (tmp_path / "out/sums.json").read_bytes()
    (cache,) = (tmp_path / "cache").glob("*.npy")
    content = cache.read_bytes()
    if old:
        next((tmp_path / "cache").glob("*.crc32")).unlink()
    cache.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    said(capsys)
    activations(tmp_path)
    assert ((tmp_path / "out/sums.json").read_bytes(), cache.read_bytes()) == (expected, content)
    text = said(capsys)
    assert "is damaged, or of an earlier version" in text
    assert ("10/10 images" in text) and feature_cache.is_sound(cache)


def test_a_damaged_copy_of_the_last_training_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "metrics.json"
    output.write_text('{"val_accuracy": 0.5}')
    renaming.keep(tmp_path / "kept", "key", TAXONOMY, [output])
    renamed = Taxonomy([("A", "New"), ("C",)], keys=TAXONOMY.paths)
    shutil.copytree(tmp_path / "kept", tmp_path / "sound")
    assert renaming.restore(tmp_path / "sound", "key", renamed, [output])
    change(tmp_path / "kept/0", b"0.5", b"0.9")
    assert not renaming.restore(tmp_path / "kept", "key", renamed, [output])
    assert "The models are trained again" in said(capsys)


def test_damaged_health_of_a_crawl_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.json"
    write_json_with_checksum(path, {"a.test": {"products": 12}})
    assert _health_in(path) == {"a.test": {"products": 12}}
    change(path, b"12", b"92")
    assert _health_in(path) == {}
    assert "damaged" in said(capsys)
    path.write_text('{"a.test": {"products": 12}}')  # of an earlier version
    assert _health_in(path) == {"a.test": {"products": 12}}


@pytest.mark.parametrize("key", [b"sha256", b"content", b"\n"])
def test_no_byte_of_checked_json_can_change(key: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_with_checksum(path, {"a": 1})
    assert read_json_with_checksum(path) == {"a": 1}
    change(path, key, b" " if key == b"\n" else key[:-1] + b"X")
    with pytest.raises(ValueError, match="checksum"):
        read_json_with_checksum(path)


def test_a_file_never_has_its_name_without_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.bin", []
    replace = Path.replace

    def watched(source: Path, target: Path) -> Path:
        seen.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    with replacing_with_checksum(path) as temporary:
        temporary.write_bytes(b"abc")
    assert seen == ["a.bin.sha256", "a.bin"]
    assert state_of(path) == "sound"
    path.write_bytes(b"abd")
    assert state_of(path) == "damaged"


def decision(number: int) -> CategoryDecision:
    at = f"2026-11-30T12:00:0{number}.000000Z"
    return CategoryDecision(
        id=f"{number:032x}", at=at, reviewer="anna", product_id=f"p{number}", answer="category", category=("A", "B")
    )


def test_a_changed_record_of_a_review_is_an_error(tmp_path: Path) -> None:
    append_record(tmp_path, decision(1))
    append_record(tmp_path, decision(2))
    change(tmp_path / "anna.jsonl", b"12:00:01", b"12:00:09")  # it would be the last decision
    with pytest.raises(InputError, match="line 1: damaged: its content is not that of its checksum"):
        read_reviews(tmp_path)


def test_a_damaged_end_of_a_review_is_not_taken_for_a_torn_line(tmp_path: Path) -> None:
    append_record(tmp_path, decision(1))
    path = tmp_path / "anna.jsonl"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(InputError, match="line 1: "):
        read_reviews(tmp_path)
    with pytest.raises(AtlasError, match="Restore the line from git"):
        append_record(tmp_path, decision(2))
    assert path.read_bytes().startswith(b'{"version"'), "the decision is still there"


@pytest.mark.parametrize("left", [b"\0" * 300, b"\0" * 200 + b'"B"]}\n', b'{"version": 1, "id": "0' + b"\0" * 99])
def test_what_a_power_failure_leaves_of_a_record_is_ignored(left: bytes, tmp_path: Path) -> None:
    append_record(tmp_path, decision(1))
    path = tmp_path / "anna.jsonl"
    path.write_bytes(path.read_bytes() + left)
    reviews = read_reviews(tmp_path)
    assert (reviews.records, reviews.torn) == ([decision(1)], [path])
    append_record(tmp_path, decision(2))
    assert (read_reviews(tmp_path).records, read_reviews(tmp_path).torn) == ([decision(1), decision(2)], [])


def test_new_folders_are_synced_in_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    files.make_folder(tmp_path / "a/b/c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a/b"}
    synced.clear()
    with files.replacing_folder(tmp_path / "out") as folder:
        (folder / "x/y").mkdir(parents=True)
        (folder / "x/y/z.txt").write_text("z")
    below = {path.relative_to(path.parents[len(path.relative_to(tmp_path).parts) - 2]) for path in synced[:-1]}
    assert {str(path) for path in below} >= {"x", "x/y"}
