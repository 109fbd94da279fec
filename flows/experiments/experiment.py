"""Points of a grid over params.yaml, each a DVC experiment that is run in a workspace of its own.

A workspace is a clone of the last commit in `.atlas/sweep/`, which shares the project's DVC cache; the experiment comes
back as the git reference that `dvc exp show` reads. What `dvc exp run --temp` does is the same, but of several at once
one may take the other's point, and what one had reached is lost when it is killed. Here it is gone on with. The workers
of `dvc queue` outlive whoever started them.

Knows nothing of Prefect.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from atlas_model.core.errors import AtlasError, InputError, ParamsError
from atlas_model.core.files import locked
from atlas_model.core.params import PARAMS_FILE, Params
from atlas_model.core.processes import ANCESTOR
from atlas_model.core.yaml_files import parse_yaml, validate
from flows.dvc import repo
from flows.git import run_git
from flows.paths import METRICS, REPORTS, WORK

WORKSPACES = WORK / "sweep"
MADE = ".git/made"  # is in a workspace that is whole
FIGURES = {  # stage -> what is shown of what it measured, the figure that decides first; of validation, never of test
    "evaluate": ("val.micro_f1", "val.hierarchical_f1", "val.ece", "val.nll"),
    "train": ("categorizer.val_accuracy", "baseline.val_accuracy"),
    "zoom_train": ("val.f1_zoomed", "val.f1_normal"),
}
VALUE = r"[A-Za-z0-9_.+/-]+"
LINKS = "reflink,hardlink,symlink,copy"  # stages replace files and never write into them, so none need be copied

_collecting = threading.Lock()  # of references, from workspaces, into the repository
_running: set[subprocess.Popen[str]] = set()
_stopped = threading.Event()


@dataclass(frozen=True)
class Point:
    """What is run: values of some parameters, as they are written on the command line, with all else of a commit."""

    values: tuple[tuple[str, str], ...]  # "section.key", value
    stage: str  # the last one that runs
    base: str  # the commit

    @property
    def settings(self) -> list[str]:
        """``section.key=value``, each."""
        return [f"{key}={value}" for key, value in self.values]

    @property
    def title(self) -> str:
        """For people."""
        return " ".join(self.settings)

    @property
    def experiment(self) -> str:
        """The name of its experiment; such as git takes for a reference."""
        return re.sub(r"\.(?=\.|lock\b|$)|/", "-", f"{self.stage}_{'_'.join(self.settings)}")

    @property
    def reference(self) -> str:
        """Git's, of its experiment once it was run."""
        return f"refs/exps/{self.base[:2]}/{self.base[2:]}/{self.experiment}"


def read_grid(arguments: Sequence[str], stage: str, base: str) -> list[Point]:
    """The points that ``section.key=value,value,...`` stand for, in order; the last key changes fastest.

    Raises:
        InputError: a stage without figures to compare; an argument of another form; keys or values that params.yaml
            may not have. All faults at once.
    """
    if stage not in FIGURES:
        raise InputError(f"--stage: expected one of {', '.join(FIGURES)}, got {stage!r}")
    faults: list[str] = []
    axes: list[tuple[str, list[str]]] = []
    for argument in arguments:
        key, _, values = argument.partition("=")
        if not re.fullmatch(rf"\w+\.\w+={VALUE}(,{VALUE})*", argument):
            faults.append(f"{argument!r}: expected section.key=value,value,... with plain numbers or words")
        elif key in (known for known, _ in axes):
            faults.append(f"{key}: given twice; expected all its values behind one =")
        elif key.partition(".")[0] not in repo.stage_names():
            faults.append(f"{key}: expected a parameter of a stage: {', '.join(sorted(repo.stage_names()))}")
        else:
            axes.append((key, list(dict.fromkeys(values.split(",")))))
    points = [
        Point(tuple(zip((key for key, _ in axes), chosen, strict=True)), stage, base)
        for chosen in product(*(values for _, values in axes))
    ]
    if not faults:
        faults = _faults(points)
    if faults:
        raise InputError.from_faults("the grid", faults)
    return points


def last_commit() -> str:
    """What a sweep runs to its end, also if there is a newer one by then.

    Raises:
        InputError: this is no git repository with a commit, or files differ from the last one: nobody can go back to
            what points of it have in common.
    """
    changed = run_git("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise InputError.from_faults(
            "a sweep runs the last commit: commit, or undo, first", [line.strip() for line in changed]
        )
    return run_git("rev-parse", "--verify", "HEAD")


def commit_of(point: Point) -> str | None:
    """The commit of the point's experiment, if it was run."""
    return run_git("for-each-ref", "--format=%(objectname)", point.reference) or None


def figures(commit: str, stage: str) -> dict[str, float | None]:
    """What is shown of an experiment; the first figure decides."""
    try:
        content: str | bytes = repo.read_output(REPORTS / stage / "metrics.json", commit)
    except InputError:  # DVC's cache lost it: git has the headline at least
        content = run_git("show", f"{commit}:./{METRICS}/{stage}.json")
    metrics = json.loads(content)
    return {name: _inside(metrics, name) for name in FIGURES[stage]}


def run(point: Point, on_line: Callable[[str], None], threads: int, environment: Mapping[str, str]) -> None:
    """Run the experiment of ``point``, on from where it was killed if it was.

    Args:
        point: what to run.
        on_line: gets each line that DVC and the stages write.
        threads: of each of its processes.
        environment: more of what they find in theirs.

    Raises:
        InputError: a stage refused its input.
        AtlasError: it failed; or another process runs the same point.
    """
    folder = WORKSPACES / point.experiment
    settled = {**repo.environment(), **environment, ANCESTOR: str(os.getpid())}
    dvc = partial(_dvc, on_line=on_line, environment={"OMP_NUM_THREADS": str(threads), **settled})
    with locked(folder, "sweep"):
        workspace = folder / "project"
        inside = workspace / run_git("rev-parse", "--show-prefix")
        if _head(workspace) == point.base:
            run_git("reset", "--quiet", "--hard", at=workspace)  # what stages have done is in DVC's cache, or in .atlas
        else:
            _make(workspace, inside, point.base)
            dvc(inside, "checkout", "--quiet", "--allow-missing")
            (workspace / MADE).touch()
        settings = [part for setting in point.settings for part in ("--set-param", setting)]
        exit_code, output = dvc(inside, "exp", "run", "--name", point.experiment, *settings, point.stage)
        if exit_code:
            error = repo.failure(point.stage, output)
            said = str(error).rpartition("\n")[0]  # without its last line, whose remedy is not that of an experiment
            raise type(error)(f"{said}\nThe same command goes on where it was; its files are in {inside}")
        with _collecting:
            found = f"+{point.reference}:{point.reference}"
            run_git("fetch", "--quiet", "--no-write-fetch-head", str(workspace.absolute()), found)
        shutil.rmtree(workspace)


def stop_all() -> None:
    """End what `run` has started; nothing more is."""
    _stopped.set()
    for process in list(_running):
        process.terminate()


def _faults(points: Sequence[Point]) -> list[str]:
    """What params.yaml may not say, each once, with the values that lead to it."""
    content = parse_yaml(PARAMS_FILE, ParamsError)
    titles: dict[str, str] = {}
    for point in points:
        changed = {section: dict(keys) for section, keys in content.items()}
        for key, value in point.values:
            section, _, name = key.partition(".")
            changed[section][name] = _value(value)
        try:
            validate(changed, Params, Path(point.title), ParamsError)
        except ParamsError as error:
            titles.setdefault(str(error).removeprefix(point.title), point.title)
    return [f"{title}{fault}" for fault, title in titles.items()]


def _value(text: str) -> Any:
    """As `dvc exp run --set-param` reads it."""
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _inside(metrics: Any, name: str) -> float | None:
    for key in name.split("."):
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return metrics if isinstance(metrics, int | float) else None


def _head(workspace: Path) -> str | None:
    """The commit of a workspace; None where none was made to its end."""
    return run_git("rev-parse", "HEAD", at=workspace) if (workspace / MADE).exists() else None


def _make(workspace: Path, inside: Path, base: str) -> None:
    shutil.rmtree(workspace, ignore_errors=True)
    source = run_git("rev-parse", "--show-toplevel")
    run_git("clone", "--quiet", "--shared", "--no-checkout", source, str(workspace))
    run_git("checkout", "--quiet", "--detach", base, at=workspace)
    settings = f"[cache]\n    dir = {repo.cache_folder()}\n    type = {LINKS}\n"
    (inside / ".dvc/config.local").write_text(settings, encoding="utf-8")


def _dvc(
    folder: Path, *arguments: str, on_line: Callable[[str], None], environment: Mapping[str, str]
) -> tuple[int, str]:
    """The exit code of a `dvc` command in ``folder``, which ends with this process; and what it wrote."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", "flows.dvc.repo", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        _running.add(process)
        if _stopped.is_set():
            process.terminate()
        assert process.stdout is not None
        for line in filter(None, map(str.rstrip, process.stdout)):
            lines.append(line)
            on_line(line)
    _running.discard(process)
    if _stopped.is_set():
        raise AtlasError("stopped")
    return process.returncode, "\n".join(lines)
