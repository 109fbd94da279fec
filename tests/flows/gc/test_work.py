"""What no run can use in `.atlas` is found with a reason; what the next run uses is not."""

import os
import re
import sqlite3
from pathlib import Path

import pytest

from atlas_model.core.checksums import write_checksum
from atlas_model.core.params import Params, load_params
from atlas_model.core.processes import Process
from atlas_model.data.dataset import content_key
from flows.gc.needed import Needed
from flows.gc.work import find_unused
from flows.paths import WORK
from tests.support.paths import ROOT

NOBODY = 2**22 + 1  # no process has this id
LOOKED_AT = (
    *("crawl", "fetch", "pixels", "activations", "train", "last-model", "engines", "shell-runs", "sweep"),
    *("snapshots", "profiles"),
)
NEVER_MORE_THAN_ONE = ("champion", "ended", "import", "init", "logs", "prefect", "promote", "trained", "unsent")
SINGLE_FILES = ("flow.lock", "judged", "checked-params")


def needed(*snapshots: str, sources: frozenset[str] = frozenset(), models: frozenset[str] = frozenset()) -> Needed:
    return Needed(frozenset(), (), frozenset(snapshots), sources, models, 0, (), ())


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    given = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return given


def write(path: str | Path, text: str = "content", at: int | None = None) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if at is not None:
        os.utime(path, (at, at))
    return path


def unused(params: Params, keep: int = 2, found: Needed | None = None) -> dict[str, str]:
    return {str(each.path): each.reason for each in find_unused(found or needed(), params, keep)}


def test_nothing_is_unused_in_an_empty_folder(params: Params) -> None:
    assert unused(params) == {}


def test_old_crawls_are_deleted_but_not_those_that_a_reference_has(params: Params) -> None:
    for number, name in enumerate("abcde"):
        write(f".atlas/snapshots/{name}.parquet", at=number + 1)
        write(f".atlas/profiles/{name}.json", at=number + 1)
    write("reports/drift/a..b.md")
    write("reports/drift/a..c.md")
    write("reports/drift/d..e.md")
    found = unused(params, keep=2, found=needed("b"))
    assert found.keys() == {
        *(f".atlas/{folder}" for folder in ("snapshots/a.parquet", "snapshots/c.parquet")),
        *(f".atlas/{folder}" for folder in ("profiles/a.json", "profiles/c.json")),
        "reports/drift/a..c.md",
    }


def test_checksum_goes_with_its_file_and_not_without_it(params: Params) -> None:
    for number, name in enumerate("abcd"):
        write_checksum(write(f".atlas/snapshots/{name}.parquet", at=number + 1))
    found = list(unused(params, keep=2))
    assert found == [f".atlas/snapshots/{name}.parquet{suffix}" for name in "ab" for suffix in (".sha256", "")], (
        "the checksum first: after a kill between the two, the file is listed again"
    )


def test_journal_and_spool_of_a_source_that_no_kept_crawl_has(params: Params) -> None:
    for name in ("crawl", "fetch"):
        for source in ("shops", "manifest", params.crawl.source):
            write(f".atlas/{name}/{source}/file")
    found = unused(params, found=needed(sources=frozenset(["shops"])))
    assert found.keys() == {".atlas/crawl/manifest", ".atlas/fetch/manifest"}


def test_images_in_a_spool_that_its_index_does_not_have(params: Params) -> None:
    folder = Path(f".atlas/fetch/{params.crawl.source}")
    for name in ("000001.blob", "000002.blob", "000002.json", "000003.blob"):
        write(folder / name)
    with sqlite3.connect(folder / "index.sqlite") as index:
        index.execute("CREATE TABLE images (file INTEGER)")
        index.execute("INSERT INTO images VALUES (1), (3)")
    index.close()
    assert unused(params).keys() == {str(folder / "000002.blob"), str(folder / "000002.json")}


def test_caches_of_other_data_and_models(params: Params) -> None:
    shard = write("data/splits/val-00000.parquet")
    write(f".atlas/pixels/val-{content_key([shard])}.npy")
    write(".atlas/pixels/val-0123.npy")
    write(".atlas/activations/val-0123.npy")
    write(".atlas/train/new/state", at=None)
    os.utime(write(".atlas/train/old/state").parent, (1, 1))
    write(".atlas/last-model/abc.dir/model.json")
    for number in range(6):
        write(f".atlas/engines/{number}.onnx", at=number + 1)
    write("reports/promote/none..0a1b2c3d.json")
    write("reports/promote/0a1b2c3d..ffffffff.json")
    found = unused(params, keep=2, found=needed(models=frozenset(["ffffffff00.dir"])))
    assert found.keys() == {
        *(".atlas/pixels/val-0123.npy", ".atlas/activations/val-0123.npy", ".atlas/train/old"),
        *(".atlas/last-model/abc.dir", ".atlas/engines/0.onnx", ".atlas/engines/1.onnx"),
        "reports/promote/none..0a1b2c3d.json",
    }


def test_what_killed_processes_left(params: Params) -> None:
    mine = Process.current()
    write(f".atlas/shell-runs/{mine.pid}-{mine.birth}/slow")
    write(f".atlas/shell-runs/{NOBODY}-1.00/slow")
    write(".atlas/sweep/complete/lock")
    write(".atlas/tmpabc/file")
    write("data/raw/products.parquet")
    write(f"data/raw/.products.parquet.{NOBODY}.tmp")
    write(f"data/raw/.products.parquet.{os.getpid()}.tmp")
    write("models/baseline/model.json")
    write(f"models/.baseline.{NOBODY}.old.tmp/model.json")
    write(f"models/.categorizer.{NOBODY}.old.tmp/model.json")
    assert unused(params).keys() == {
        *(f".atlas/shell-runs/{NOBODY}-1.00", ".atlas/sweep/complete", ".atlas/tmpabc"),
        *(f"data/raw/.products.parquet.{NOBODY}.tmp", f"models/.baseline.{NOBODY}.old.tmp"),
    }, "the only copy of a folder stays"


def test_every_place_in_the_work_folder_has_a_rule() -> None:
    code = "".join(path.read_text() for path in (ROOT / "flows").rglob("*.py"))
    places = {name.partition("/")[0] for name in re.findall(r'WORK / f?"([\w./-]+)', code)}
    assert places == {*LOOKED_AT, *NEVER_MORE_THAN_ONE, *SINGLE_FILES}
    rule = (ROOT / "flows/gc/work.py").read_text()
    assert all(f"`{name}`" in rule for name in NEVER_MORE_THAN_ONE)
    assert Path(".atlas") == WORK
