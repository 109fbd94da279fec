"""Accepted runs in git: what a version holds, that a fresh clone of it has nothing to run, and what is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas_model.core.errors import AtlasError, InputError, RetryError
from atlas_model.core.params import load_params
from flows.dvc import repo
from flows.git import content_at
from flows.registry import champion, versions
from flows.registry.versions import Version, commit_run, compared_with
from tests.support.object_storage import LOGIN, REMOTE, serving_bucket
from tests.support.paths import ROOT

Git = Callable[..., str]


@pytest.fixture
def git(git_env: dict[str, str]) -> Git:
    def run(*arguments: str, cwd: Path | str = ".") -> str:
        done = subprocess.run(["git", *arguments], cwd=cwd, env=git_env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    return run


@pytest.fixture
def mini(
    mini_project: Path,
    git: Git,
    git_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The small project as the current folder: its outputs up to date, its branch ``main``, a user of git."""
    for name, value in git_env.items():
        if name.startswith("GIT_"):
            monkeypatch.setenv(name, value)
    template = tmp_path_factory.getbasetemp() / "mini-with-outputs"  # which are made once
    if not template.exists():
        with (mini_project / "dvc.yaml").open("a") as stages:
            stages.write("artifacts: {champion: {path: models/champion, type: model}}\n")
        ours = (ROOT / ".gitignore").read_text()  # DVC sees no .dvc file in a folder that git does not look at
        (mini_project / ".gitignore").write_text(f"{ours}ran\n/data/\n.dvc/.gitignore\n")
        git("add", "-A", cwd=mini_project)
        git("commit", "-q", "-m", "what git does not look at", cwd=mini_project)
        git("branch", "-M", "main", cwd=mini_project)
        dvc(mini_project, "repro")
        shutil.copytree(mini_project, template)
    shutil.rmtree(mini_project)
    shutil.copytree(template, mini_project)
    monkeypatch.chdir(mini_project)
    return mini_project


def dvc(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "SHELL": "/bin/sh"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


def set_remote(folder: Path, git: Git, **options: str) -> None:
    """Make a default remote of ``options``, and commit that."""
    lines = [f"    {name} = {value}" for name, value in options.items()]
    with (folder / ".dvc/config").open("a") as config:
        config.write("\n".join(["    remote = store", "['remote \"store\"']", *lines, ""]))  # begun: section core
    git("commit", "-q", "-m", "a remote", ".dvc/config", cwd=folder)


def accepted(path: Path) -> bytes | None:
    return content_at(compared_with(load_params())[0], path)


def change() -> None:
    """As a run may: a file of the version is another, and the outputs are up to date."""
    with Path("params.yaml").open("a") as params:
        params.write("# a word\n")


def commit(message: str = "a run") -> Version | None:
    return commit_run(load_params(), message)


@pytest.mark.slow
def test_tags_that_a_killed_git_did_not_create_are_created(mini: Path, git: Git) -> None:
    change()
    done = commit()
    assert done is not None
    git("tag", "--delete", done.tag)
    assert commit("another run") is None, "the commit is not of this run"
    assert commit() == done
    assert git("rev-parse", f"{done.tag}^{{commit}}") == done.commit
    assert commit() is None


@pytest.fixture(params=["folder", "s3"])
def remote(
    request: pytest.FixtureRequest, mini: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A remote of the small project: nothing but its configuration and the environment say which."""
    if request.param == "folder":
        set_remote(mini, git, url=str(tmp_path / "remote"))
        yield
        return
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    with serving_bucket() as (endpoint, _):
        set_remote(mini, git, url=REMOTE, endpointurl=endpoint)
        yield


def set_champion(version: int, folder: Path) -> None:
    """Make what is in ``folder`` the champion; nothing here asks whether it is a model."""
    event: dict[str, Any] = {
        "at": champion.now(),
        "reason": "told to",
        "figures": {},
        "replaced": version - 1 or None,
        "split": {},
    }
    model = repo.add_to_cache(folder)
    champion.set_champion(
        champion.read_history(), champion.Event(version=version, model=model, rollback=False, **event)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("remote")
def test_fresh_clone_of_a_version_is_up_to_date(
    mini: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mini / "notes.txt").write_text("the user's own, not for the version")
    set_champion(1, mini / "data/raw")
    head, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    version = commit("the first run\n\nwith a body")
    assert version == Version(git("rev-parse", "accepted"), "accepted", "accepted-1")
    assert git("log", "-1", "--format=%B", version.commit) == "the first run\n\nwith a body"
    files = ["dvc.lock", "models/champion.dvc", "models/champions.json"]
    assert git("diff", "--name-only", head, version.commit).split() == files
    assert git("for-each-ref", "--format=%(objecttype) %(refname:short)", "refs/tags").split("\n") == [
        "tag accepted-1",
        "tag champion@v1.0.0",
    ]
    assert (git("rev-parse", "HEAD"), git("status", "--porcelain")) == (head, status), "the checkout is as it was"
    set_champion(2, mini / "data/splits")
    version = commit()
    assert version is not None

    clone = tmp_path / "clone"
    git("clone", "-q", "--branch", version.tag, str(mini), str(clone))
    dvc(clone, "pull")
    assert (clone / "data/splits/a").read_text() == (mini / "data/splits/a").read_text()
    assert (clone / "models/champion/a").read_text() == (mini / "data/splits/a").read_text()
    assert "Running stage" not in dvc(clone, "repro")
    assert not (clone / "ran").exists()
    assert git("status", "--porcelain", cwd=clone) == ""

    dvc(tmp_path, "artifacts", "get", str(mini), "champion", "--rev", "v1.0.0", "--out", "got")
    assert (tmp_path / "got/a").read_text() == (mini / "data/raw/a").read_text()
    monkeypatch.chdir(clone)
    shutil.rmtree(".dvc/cache")
    assert champion.roll_back(None).version == 1
    assert (clone / "models/champion/a").read_text() == (mini / "data/raw/a").read_text()


def test_each_changed_run_becomes_a_version(mini: Path, git: Git) -> None:
    assert compared_with(load_params()) == ("HEAD", "last commit")
    assert accepted(Path("dvc.lock")) is None
    first = commit()
    assert first is not None
    assert commit() is None
    assert compared_with(load_params()) == ("accepted-1", "last accepted run")
    before = accepted(Path("params.yaml"))
    change()
    assert accepted(Path("params.yaml")) == before != Path("params.yaml").read_bytes()
    second = commit()
    assert second is not None
    assert second.tag == "accepted-2"
    assert git("rev-list", "--parents", "-1", second.commit).split()[1:] == [first.commit]
    assert accepted(Path("params.yaml")) == Path("params.yaml").read_bytes()

    (mini / "README").write_text("new code, say")
    git("add", "README")
    git("commit", "-q", "-m", "work goes on")
    git("tag", "accepted-7")
    third = commit()
    assert third is not None
    assert third.tag == "accepted-8", "names that are taken are left alone"
    parents = [second.commit, git("rev-parse", "main")]
    assert git("rev-list", "--parents", "-1", third.commit).split()[1:] == parents
    assert git("show", f"{third.commit}:README") == "new code, say"


def test_many_versions_do_not_leave_a_file_per_object(mini: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MAX_LOOSE", 1)
    assert commit() is not None
    assert git("count-objects").startswith("0 objects")
    assert git("fsck", "--no-dangling") == ""
    assert git("ls-tree", "--name-only", "accepted-1", "dvc.lock") == "dvc.lock"


def test_commits_to_the_checked_out_branch(mini: Path, git: Git) -> None:
    git("checkout", "-q", "-b", "accepted")
    change()
    (mini / "stage.py").write_text("something that is not of the run")
    version = commit()
    assert version is not None
    assert git("rev-parse", "HEAD") == version.commit
    assert git("diff", "--name-only", "HEAD~", "HEAD").split() == ["dvc.lock", "params.yaml"]
    assert git("diff", "--name-only", "--cached") == ""
    assert git("diff", "--name-only") == "stage.py", "left as it is"
    git_folder = Path(git("rev-parse", "--git-dir"))
    (git_folder / "MERGE_HEAD").write_text(git("rev-parse", "HEAD") + "\n")
    change()
    with pytest.raises(InputError, match="got MERGE_HEAD"):
        commit()


def test_works_with_detached_head_and_worktree(mini: Path, tmp_path: Path, git: Git) -> None:
    git("checkout", "-q", "--detach")
    version = commit()
    assert version is not None
    git("worktree", "add", "-q", str(tmp_path / "tree"), "accepted")
    change()
    with pytest.raises(InputError, match=f"which is checked out in {tmp_path}/tree"):
        commit()


def test_clone_continues_from_its_origin(mini: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    first = commit()
    assert first is not None
    clone = tmp_path / "clone"
    git("clone", "-q", str(mini), str(clone))
    shutil.copytree(mini / ".dvc/cache", clone / ".dvc/cache")
    shutil.copytree(mini / "data", clone / "data")
    shutil.copy(mini / "dvc.lock", clone)
    monkeypatch.chdir(clone)
    assert accepted(Path("dvc.lock")) == (mini / "dvc.lock").read_bytes()
    assert commit() is None
    change()
    second = commit()
    assert second is not None
    assert git("rev-list", "--parents", "-1", second.commit).split()[1:] == [first.commit]


@pytest.fixture
def with_inputs(mini: Path, git: Git) -> Path:
    """Its stage crawl reads a folder and a file, which are in git, and runs again."""
    (mini / "code").mkdir()
    for name in ("code/one.py", "code/two.py", "input.csv"):
        (mini / name).write_text(name)
    text = (mini / "dvc.yaml").read_text()
    (mini / "dvc.yaml").write_text(text.replace("params: [crawl]", "params: [crawl]\n    deps: [code, input.csv]"))
    git("add", "-A")
    git("commit", "-q", "-m", "inputs")
    dvc(mini, "repro")
    return mini


@pytest.mark.slow
def test_refuses_stage_inputs_outside_git(with_inputs: Path, git: Git) -> None:
    (with_inputs / "input.csv").write_text("changed")
    with pytest.raises(InputError, match="expected up-to-date outputs, got outdated ones: crawl"):
        commit()
    (with_inputs / "code/three.py").write_text("untracked")
    (with_inputs / "code/.gitignore").write_text("four.py\n")
    (with_inputs / "code/four.py").write_text("ignored by git, not by DVC")
    (with_inputs / "code/two.py").unlink()
    (with_inputs / "code/no.pyc").write_text("ignored by DVC")
    dvc(with_inputs, "repro")
    with pytest.raises(InputError) as caught:
        commit()
    assert (
        "got other content in code/.gitignore, code/four.py, code/three.py, code/two.py, input.csv. Commit it"
        in str(caught.value)
    )
    assert git("branch", "--list", "accepted") == ""
    git("add", "-A", "-f", "code", "input.csv")
    git("commit", "-q", "-m", "now they are")
    assert commit() is not None


@pytest.mark.slow
def test_failed_push_leaves_no_version(mini: Path, tmp_path: Path, git: Git) -> None:
    (tmp_path / "file").write_text("no folder can be made in it")
    set_remote(mini, git, url=str(tmp_path / "file/remote"))
    with pytest.raises(AtlasError, match=r"dvc push failed: .*(?s:.)*nothing is pushed twice"):
        commit()
    assert git("branch", "--list", "accepted") == ""
    git("reset", "-q", "--hard", "HEAD~")
    set_remote(mini, git, url=str(tmp_path / "remote"))
    splits = next(
        path for path in (mini / ".dvc/cache").rglob("*") if path.is_file() and b"splitbcrawlb" in path.read_bytes()
    )
    splits.unlink()
    with pytest.raises(AtlasError, match="neither there nor in the cache"):
        repo.push(lambda line: None)


def test_reports_why_git_cannot_commit(mini: Path, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.delenv(f"GIT_{role}_NAME")
            patch.delenv(f"GIT_{role}_EMAIL")
        patch.setenv("GIT_CONFIG_COUNT", "1")
        patch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
        patch.setenv("GIT_CONFIG_VALUE_0", "true")
        with pytest.raises(InputError, match=r"needs a user of git \(git config user\.name, user\.email\)"):
            commit()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"needs a git repository with a commit: .*not a git repository"):
            commit_run(load_params(mini / "params.yaml"), "a run")
        git("init", "-q")
        with pytest.raises(InputError, match="needs a git repository with a commit: "):
            commit_run(load_params(mini / "params.yaml"), "a run")


@pytest.mark.parametrize("name", ["accepted.lock", "HEAD", "main/accepted"])
def test_reports_invalid_branch_name(mini: Path, git: Git, name: str) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("branch: accepted", f"branch: {name}"))
    with pytest.raises(InputError, match=r"pipeline\.branch: expected the name of|'refs/heads/main' exists"):
        commit()
    assert git("tag", "--list") == ""


def test_runs_no_git_hooks(mini: Path, git: Git) -> None:
    git("checkout", "-q", "-b", "accepted")
    for name in ("reference-transaction", "post-index-change", "pre-commit"):
        hook = mini / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\ntouch ran-a-hook\nexit 1\n")
        hook.chmod(0o755)
    assert commit() is not None
    assert not (mini / "ran-a-hook").exists()


def test_does_not_overwrite_concurrent_commit(mini: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    commit()
    change()

    def push() -> None:
        git("update-ref", "refs/heads/accepted", git("rev-parse", "main"))

    monkeypatch.setattr(versions, "_push", push)
    with pytest.raises(RetryError, match="Run again"):
        commit()
    assert git("rev-parse", "accepted") == git("rev-parse", "main")
    assert git("tag", "--list") == "accepted-1", "no tag without its branch"
