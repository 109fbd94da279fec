"""`atlas gc` deletes what nothing needs, and nothing else: tags, branches, the champion and the last crawls stay."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas_model.core.errors import AtlasError
from atlas_model.core.params import load_params, set_snapshot
from flows.cli.main import main
from flows.dvc import storage
from flows.dvc.pipeline_lock import flow_lock
from flows.gc.collection import collected
from flows.registry import champion
from flows.registry.champion import Event
from tests.support.git_repo import commit_all
from tests.support.object_storage import LOGIN, REMOTE, serving_bucket
from tests.support.paths import ROOT

CRAWLS = [f"2026-11-{day:02d}T030000Z" for day in range(1, 11)]
TAGGED, BRANCHED, PROMOTED, STASHED = CRAWLS[:4]
KEEP = 2
KILLS = 8
DVC_YAML = """
stages:
  crawl:
    cmd: mkdir -p data/raw && grep 'snapshot:' params.yaml > data/raw/products.parquet && echo crawl >> ran
    params: [crawl]
    outs: [data/raw/products.parquet]
  train:
    cmd: mkdir -p models/categorizer && sed p data/raw/products.parquet > models/categorizer/a && echo train >> ran
      && cat models/categorizer/a models/categorizer/a > models/categorizer/b
    deps: [data/raw/products.parquet]
    outs: [models/categorizer]
"""


def dvc(*arguments: str) -> None:
    from dvc.cli import main as run

    assert run([*arguments, "--quiet"]) == 0, arguments


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lock_hash(path: str) -> str:
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    return str(next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == path))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, git_env: dict[str, str]) -> Iterator[Path]:
    """A project with ten crawls: of the first four, one each has a tag, a branch, a champion and a stash."""
    folder = tmp_path_factory.mktemp("original") / "project"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    commit_all(folder, git_env)
    (folder / ".git/info/exclude").write_text("ran\n")
    here = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in git_env.items():
            patch.setenv(name, value)
        os.chdir(folder)
        for name in CRAWLS:
            set_snapshot(name)
            dvc("repro")
            if name == TAGGED:
                git("add", "-A")
                git("commit", "-qm", "accepted")
                git("tag", "-am", "a version", "accepted-1")
                git("reset", "-q", "--hard", "HEAD~")
            elif name == BRANCHED:
                git("checkout", "-qb", "trial")
                git("add", "-A")
                git("commit", "-qm", "a trial")
                git("checkout", "-q", "-")
            elif name == PROMOTED:
                model = lock_hash("models/categorizer")
                event = Event(
                    version=1, model=model, at=champion.now(), reason="first", figures={}, replaced=None,
                    rollback=False, split={},
                )  # fmt: skip
                champion.set_champion([], event)
            elif name == STASHED:
                git("add", "dvc.lock")
                git("stash", "-q")
        os.chdir(here)
        yield folder


@pytest.fixture
def project(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_env: dict[str, str]) -> Path:
    shutil.copytree(original, tmp_path / "project", copy_function=shutil.copy2, symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    for name, value in git_env.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "project"


def files() -> dict[Path, int]:
    return {path: path.stat().st_size for path in sorted(Path(".dvc/cache").rglob("*")) if path.is_file()}


def check_all_that_is_needed() -> None:
    """Tags, branches, stash, champion, and the last crawls; all without running a stage."""
    Path("ran").unlink(missing_ok=True)
    git("checkout", "-q", "--force", "HEAD")
    before = Path("params.yaml").read_text(), Path("dvc.lock").read_text() if Path("dvc.lock").exists() else ""
    for reference, name in (("accepted-1", TAGGED), ("trial", BRANCHED), ("stash@{0}", STASHED)):
        git("checkout", "-q", "--force", reference)
        for path in ("data/raw", "models/categorizer"):
            shutil.rmtree(path, ignore_errors=True)
        dvc("checkout", "--force")
        assert name in Path("data/raw/products.parquet").read_text()
        assert Path("models/categorizer/b").read_text().count(name) == 4
    git("checkout", "-q", "--force", "-")
    shutil.rmtree("models/champion", ignore_errors=True)
    champion.repair(champion.read_history())
    assert PROMOTED in Path("models/champion/a").read_text()
    for name in CRAWLS[-KEEP:]:
        set_snapshot(name)
        dvc("repro")
        assert name in Path("models/categorizer/a").read_text()
    assert not Path("ran").exists(), "all of it is restored"
    Path("params.yaml").write_text(before[0])
    Path("dvc.lock").write_text(before[1])


def is_anywhere(name: str) -> bool:
    return any(name.encode() in path.read_bytes() for path in Path(".dvc/cache/files").rglob("*") if path.is_file())


def test_what_is_needed_stays_and_the_rest_is_deleted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    assert main(["gc", "--keep", str(KEEP)]) == 0
    listed = capsys.readouterr()
    assert "nothing was deleted" in listed.err
    assert files() == before
    assert main(["gc", "--keep", str(KEEP), "--yes"]) == 0
    done = capsys.readouterr()
    assert done.out == listed.out, "the same list first"
    assert re.search(r"DVC's cache: no git reference.*\n.*models/categorizer", done.out)
    for name in CRAWLS[4:-KEEP]:
        assert not is_anywhere(name)
    assert sum(files().values()) < sum(before.values())
    assert main(["gc", "--keep", str(KEEP)]) == 0
    assert "nothing to delete" in capsys.readouterr().err
    check_all_that_is_needed()


def test_all_that_dvc_calls_used_is_kept(project: Path) -> None:
    from dvc.repo import Repo

    with collected(load_params(), keep=KEEP, cloud=False) as collection:
        kept = collection.needed.contents
    with Repo() as repo:
        used = repo.used_objs(all_branches=True, all_tags=True, all_experiments=True, revs=["stash@{0}"])
        hashes = {str(content.value) for found in used.values() for content in found}
    assert len(hashes) > 8
    assert hashes <= kept


@pytest.mark.slow
def test_kill_at_any_moment_loses_nothing_that_is_needed(project: Path, original: Path) -> None:
    draw, killed = random.Random(1), 0
    for _ in range(KILLS):
        shutil.rmtree(".dvc/cache")
        shutil.copytree(original / ".dvc/cache", ".dvc/cache", copy_function=shutil.copy2)
        killed += _gc_killed_at(draw.randrange(1, 40))
        assert main(["gc", "--keep", str(KEEP), "--yes"]) == 0
        assert not is_anywhere(CRAWLS[5]), "the same command deletes the rest"
    assert killed >= KILLS // 2
    check_all_that_is_needed()


def _gc_killed_at(removal: int) -> bool:
    """Run `atlas gc --yes` in a fork, which is killed at its ``removal``-th deletion; whether it was."""
    fork = os.fork()
    if fork == 0:
        count = 0

        def watch(event: str, _arguments: object) -> None:
            nonlocal count
            if event in ("os.remove", "os.rmdir", "os.rename"):
                count += 1
                if count == removal:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            main(["gc", "--keep", str(KEEP), "--yes"])
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == -signal.SIGKILL


def test_refuses_while_a_run_is_in_progress(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    with flow_lock(lambda line: None):
        assert main(["gc", "--yes"]) == 1
    said = capsys.readouterr().err
    assert f"pid {os.getpid()}" in said
    assert "running in this folder" in said
    lock = Path(".atlas/sweep/one/project/.atlas/flow.lock")
    lock.parent.mkdir(parents=True)
    shutil.copy2(".atlas/flow.lock", lock)
    from atlas_model.core.processes import Process

    lock.write_text(f"{os.getpid()} {Process.current().birth}")
    assert main(["gc", "--yes"]) == 1
    assert ".atlas/sweep/one/project" in capsys.readouterr().err
    assert files() == before


def test_refuses_while_dvc_or_a_promotion_is_running(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with champion.exclusive_change():
        assert main(["gc", "--yes"]) == 1
    assert "promotion or rollback" in capsys.readouterr().err


def test_refuses_a_commit_that_cannot_be_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("checkout", "-q", "--force", "trial")
    Path("dvc.lock").write_text("stages: [")
    git("commit", "-qam", "damaged")
    before = files()
    git("checkout", "-q", "--force", "-")
    assert main(["gc", "--yes"]) == 2
    assert "dvc.lock of refs/heads/trial: expected YAML" in capsys.readouterr().err
    assert files() == before


def test_refuses_a_cache_of_several_projects(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    assert main(["gc", "--yes"]) == 2
    assert "which other projects may use" in capsys.readouterr().err


def test_lists_of_folders_that_are_missing_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tagged = yaml.safe_load(git("show", "accepted-1:dvc.lock"))["stages"]["train"]["outs"][0]["md5"]
    Path(".dvc/cache/files/md5", tagged[:2], tagged[2:]).unlink()
    assert main(["gc"]) == 0
    assert "refs/tags/accepted-1" in capsys.readouterr().err


def flip_list(content: str) -> Path:
    """Change one digit of a hash in the cached list of a folder, which stays valid JSON."""
    path = Path(".dvc/cache/files/md5", content[:2], content[2:])
    text = path.read_text()
    digit = text.index('"md5": "') + len('"md5": "')
    path.chmod(0o644)
    path.write_text(text[:digit] + ("0" if text[digit] != "0" else "1") + text[digit + 1 :])
    return path


def test_refuses_damaged_lists_of_folders_that_are_needed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a tag, and of a folder in use: each names a file that does not exist instead of one that does."""
    tagged = yaml.safe_load(git("show", "accepted-1:dvc.lock"))["stages"]["train"]["outs"][0]["md5"]
    for content in (tagged, lock_hash("models/categorizer")):
        kept = files()
        flip_list(content)
        assert main(["gc", "--keep", str(KEEP), "--yes"]) == 2
        assert content in capsys.readouterr().err
        assert files() == kept, "nothing was deleted"


@pytest.fixture
def remote(project: Path, tmp_path: Path) -> Path:
    """The default remote, with the data of all commits and of the workspace."""
    (tmp_path / "remote").mkdir()
    dvc("remote", "add", "--local", "-d", "store", str(tmp_path / "remote"))
    dvc("push", "--all-commits")
    return tmp_path / "remote"


def test_remote_keeps_what_is_needed(project: Path, remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("checkout", "-q", "--force", "trial")
    git("checkout", "-q", "--force", "-")
    git("tag", "-d", "accepted-1")
    git("stash", "drop", "-q")
    assert main(["gc", "--keep", "1", "--yes", "--cloud"]) == 0
    assert "DVC's remote: no git reference" in capsys.readouterr().out
    shutil.rmtree(".dvc/cache")
    git("checkout", "-q", "--force", "trial")
    dvc("pull", "--force")
    assert BRANCHED in Path("models/categorizer/a").read_text()
    assert not any(TAGGED.encode() in path.read_bytes() for path in remote.rglob("*") if path.is_file())


def test_list_of_a_folder_that_is_damaged_here_is_read_from_the_remote(project: Path, remote: Path) -> None:
    tagged = yaml.safe_load(git("show", "accepted-1:dvc.lock"))["stages"]["train"]["outs"][0]["md5"]
    path = flip_list(tagged)
    assert main(["gc", "--keep", str(KEEP), "--yes", "--cloud"]) == 0
    path.unlink()
    for place in (Path(".dvc/cache"), remote):
        listed = (remote / "files/md5" / tagged[:2] / tagged[2:]).read_text()
        for file in yaml.safe_load(listed):
            assert (place / "files/md5" / file["md5"][:2] / file["md5"][2:]).is_file()


@pytest.mark.slow
def test_what_was_deleted_from_the_remote_is_pushed_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC keeps an index of what a bucket has: after a deletion that was killed, a push is complete all the same."""
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    with serving_bucket() as (endpoint, bucket):
        dvc("remote", "add", "--local", "-d", "store", REMOTE)
        dvc("remote", "modify", "--local", "store", "endpointurl", endpoint)
        commit = git("rev-parse", "accepted-1^{commit}").strip()
        git("checkout", "-q", "--force", commit)
        dvc("push")
        before = {item.key for item in bucket.objects.all()}
        assert len(before) >= 4
        git("checkout", "-q", "--force", "-")
        git("tag", "-d", "accepted-1")
        shutil.copytree(".dvc/cache", tmp_path / "copy")

        def delete_and_die(database: Any, needed: frozenset[str]) -> int:
            delete(database, needed)
            raise AtlasError("killed")

        delete = storage._delete
        monkeypatch.setattr(storage, "_delete", delete_and_die)
        assert main(["gc", "--keep", "1", "--yes", "--cloud"]) == 1
        assert len({item.key for item in bucket.objects.all()}) < len(before)
        shutil.rmtree(".dvc/cache")
        shutil.copytree(tmp_path / "copy", ".dvc/cache")
        git("checkout", "-q", "--force", commit)
        dvc("push")
        assert {item.key for item in bucket.objects.all()} >= before


def test_remote_is_refused_without_the_lists_of_its_folders(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gc", "--cloud"]) == 2
    assert "expected a default remote, got none" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    dvc("remote", "add", "--local", "-d", "store", str(tmp_path / "empty"))
    tagged = yaml.safe_load(git("show", "accepted-1:dvc.lock"))["stages"]["train"]["outs"][0]["md5"]
    Path(".dvc/cache/files/md5", tagged[:2], tagged[2:]).unlink()
    assert main(["gc", "--cloud", "--yes"]) == 2
    assert "refs/tags/accepted-1" in capsys.readouterr().err
