"""Commits accepted runs as versions: each is a commit with a tag on a separate branch; its data are in DVC's remote.

A run is accepted when all its stages succeeded and its model is the champion: just promoted, or unchanged. The commit
contains the files of HEAD with the tracked outputs of the run (`FILES`), so after `dvc pull` a fresh clone of it has no
stage to run. This requires that the inputs of the stages are those of HEAD; otherwise there is an error and no version.
Data are pushed first, so every commit refers to data that exist.

The user's checkout is not changed: the commit is made with a separate index, and branch and tags are updated in one
transaction. No hooks run. Only if the branch is checked out, its files are staged, as by `git commit`. Commits are not
pushed to git's remotes.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_model.core.errors import InputError, RetryError
from atlas_model.core.params import PARAMS_FILE, Params
from atlas_model.core.progress import say
from flows.dvc import repo
from flows.git import run_git, try_git
from flows.paths import LOCK_FILE, METRICS, PLOTS
from flows.registry import champion

FILES = (PARAMS_FILE, LOCK_FILE, METRICS, PLOTS, champion.POINTER, champion.HISTORY)
UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")  # in .git
SHOWN = 5  # files listed in an error
MAX_LOOSE = 2000  # objects that git stores as one file each


@dataclass(frozen=True)
class Version:
    """The commit of an accepted run."""

    commit: str
    branch: str
    tag: str


def commit_run(params: Params, message: str) -> Version | None:
    """Push the data of this run, then commit and tag it; None if nothing has changed since the last version.

    Args:
        params: ``pipeline.branch`` gets the commit. A new branch starts at origin's branch of that name, else at HEAD.
        message: of the commit.

    Raises:
        InputError: there is no git repository, user or commit; inputs of stages differ from HEAD; outputs are not up
            to date; the branch is checked out in another worktree.
        AtlasError: the data could not be pushed.
        RetryError: another process updated the branch at the same time.
    """
    branch = f"refs/heads/{params.pipeline.branch}"
    run_git(
        "check-ref-format", "--branch", params.pipeline.branch, need="pipeline.branch: expected the name of a branch"
    )
    head = run_git(
        "rev-parse", "--verify", "HEAD^{commit}", need="pipeline.commit needs a git repository with a commit"
    )
    run_git("var", "GIT_COMMITTER_IDENT", need="pipeline.commit needs a user of git (git config user.name, user.email)")
    checked_out = try_git("symbolic-ref", "--quiet", "HEAD") == branch
    _check_branch(branch, checked_out=checked_out)
    tip = _tip(branch)
    before = tip or _tip(f"refs/remotes/origin/{params.pipeline.branch}")
    tree = _tree(head)
    if before is not None and tree == run_git("rev-parse", f"{before}^{{tree}}"):
        return _complete(params.pipeline.branch, tip, message) if tip else None
    _check_reproducible(head)
    _push()
    if checked_out:
        run_git("add", "--all", "--", *_present())
    parents = [before or head]
    if before is not None and try_git("merge-base", "--is-ancestor", head, before) is None:
        parents.append(head)
    commit = run_git("commit-tree", tree, *(word for parent in parents for word in ("-p", parent)), given=message)
    tag = _next_tag(params.pipeline.branch)
    _write_refs(branch, tip, [tag, *_champion_tags()], commit, message)
    _pack()
    say(f"git: {tag} is commit {commit[:8]} on branch {params.pipeline.branch}")
    return Version(commit, params.pipeline.branch, tag)


def compared_with(params: Params) -> tuple[str, str]:
    """The revision that the metrics of a run are compared with, and its description.

    It is the last accepted run, with the tag ``<pipeline.branch>-<number>``; without accepted runs, the last commit.
    """
    last = max(_runs(params.pipeline.branch), default=0)
    return (f"{params.pipeline.branch}-{last}", "last accepted run") if last else ("HEAD", "last commit")


def _complete(branch: str, tip: str, message: str) -> Version | None:
    """Create the tags of the last version, if git was killed after it had moved the branch; None if it has them."""
    if run_git("log", "-1", "--format=%B", tip) != message:
        return None  # somebody else's commit
    tagged = {f"{branch}-{number}" for number in _runs(branch)} & set(run_git("tag", "--points-at", tip).split("\n"))
    tag = max(tagged, default=_next_tag(branch))
    missing = [*([] if tagged else [tag]), *_champion_tags()]
    if not missing:
        return None
    _write_refs(f"refs/heads/{branch}", tip, missing, tip, message)
    say(f"git: commit {tip[:8]} on branch {branch} lacked its tags: created {', '.join(missing)}")
    return Version(tip, branch, tag)


def _check_branch(branch: str, *, checked_out: bool) -> None:
    """Refuse a branch in an unfinished merge or rebase, or one that another worktree has checked out."""
    if checked_out:
        unfinished = [name for name in UNFINISHED if Path(run_git("rev-parse", "--git-path", name)).exists()]
        if unfinished:
            raise InputError(
                f"pipeline.branch: expected no unfinished merge or rebase on the checked-out branch, got "
                f"{unfinished[0]}. Finish or abort it (see `git status`), then run again"
            )
    elif elsewhere := run_git("for-each-ref", "--format=%(worktreepath)", branch):
        raise InputError(
            f"pipeline.branch: expected a branch that no other worktree has checked out, got {branch}, which "
            f"is checked out in {elsewhere}. Choose another branch, or switch that worktree to another one"
        )


def _tree(head: str) -> str:
    """The tree of ``head`` with the current `FILES`."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git("read-tree", head, env=index)
        run_git("add", "--all", "--", *_present(), env=index)
        return run_git("write-tree", env=index)


def _present() -> list[str]:
    """Those of `FILES` that exist, or exist in HEAD."""
    return [str(path) for path in FILES if path.exists() or run_git("ls-tree", "--name-only", "HEAD", str(path))]


def _check_reproducible(head: str) -> None:
    """Refuse a run whose outputs are not up to date, or whose inputs differ from ``head``."""
    if stale := repo.out_of_date():
        raise InputError(
            f"pipeline.commit: expected up-to-date outputs, got outdated ones: {', '.join(stale)}. Run: dvc repro"
        )
    inputs = repo.inputs()
    named = [str(path) for path in inputs]
    in_git = _names("ls-tree", "-r", "--name-only", "-z", head)
    changed = _names("diff", "--name-only", "--relative", "-z", head, "--", *named)
    not_in_git = {str(file) for files in inputs.values() for file in files} - in_git
    other = sorted((changed | not_in_git) - {str(path) for path in FILES})
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        raise InputError(
            "pipeline.commit: expected the inputs of the stages to be as in git's HEAD, so that a clone has them too; "
            f"got other content in {', '.join(other[:SHOWN])}{more}. Commit it, then run again"
        )


def _push() -> None:
    remote = repo.default_remote()
    if remote is None:
        say(
            "warning: dvc: nothing is pushed, because no default remote is configured: the data of the version are "
            "only in the cache of this machine"
        )
    else:
        say(f"dvc: pushing to {remote}")
        repo.push(say)


def _write_refs(branch: str, tip: str | None, tags: Sequence[str], commit: str, message: str) -> None:
    """Move ``branch`` from ``tip`` to ``commit`` and create the ``tags`` in one transaction."""
    who = run_git("var", "GIT_COMMITTER_IDENT")
    lines = ["start", f"update {branch} {commit} {tip}" if tip else f"create {branch} {commit}"]
    for tag in tags:
        text = f"object {commit}\ntype commit\ntag {tag}\ntagger {who}\n\n{message}\n"
        lines.append(f"create refs/tags/{tag} {run_git('mktag', given=text)}")
    try:
        run_git("update-ref", "--stdin", given="\n".join([*lines, "prepare", "commit", ""]))
    except InputError as error:
        if _tip(branch) == tip and not set(tags) & set(run_git("tag", "--list").split("\n")):
            raise  # no concurrent update: the name of the branch or tag is not valid
        raise RetryError(
            f"the run was not committed: another process changed the branch or tag. Run again. {error}"
        ) from error


def _pack() -> None:
    """Pack loose objects of git: the commands above never do. Not `git gc`, which locks references while it works."""
    if int((try_git("count-objects") or "0").split()[0]) > MAX_LOOSE:
        try_git("repack", "-d", "--quiet")


def _tip(reference: str) -> str | None:
    return try_git("rev-parse", "--verify", "--quiet", reference)


def _next_tag(branch: str) -> str:
    """``<branch>-1``, ``<branch>-2``, ..."""
    return f"{branch}-{max(_runs(branch), default=0) + 1}"


def _runs(branch: str) -> list[int]:
    """The numbers of the accepted runs on ``branch``; empty without a git repository."""
    tags = [re.fullmatch(rf"{re.escape(branch)}-(\d+)", tag) for tag in (try_git("tag", "--list") or "").split("\n")]
    return [int(match[1]) for match in tags if match]


def _champion_tags() -> list[str]:
    """The tag by which `dvc artifacts get` finds the champion, if it does not exist yet."""
    history = champion.read_history()
    tag = f"champion@v{history[-1].version}.0.0" if history else ""
    return [tag] if tag and not run_git("tag", "--list", tag) else []


def _names(*arguments: str) -> set[str]:
    return set(run_git(*arguments).split("\0")) - {""}
