"""Runs a combination of parameter values as a DVC experiment in a separate workspace.

A workspace is a clone of the last commit in `.atlas/sweep/` that shares the project's DVC cache. The experiment is
fetched from it as the git reference that `dvc exp show` reads. This is what `dvc exp run --temp` does, but a killed
`dvc exp run --temp` starts from the beginning, while the same command resumes here. The workers of `dvc queue` keep
running after the command that started them has ended (docs/decisions.md).
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
COMPLETE = ".git/made"  # file that marks a complete workspace
METRICS_SHOWN = {  # stage -> metrics in the table, of validation only; the first one selects the best combination
    "evaluate": ("val.micro_f1", "val.hierarchical_f1", "val.ece", "val.nll"),
    "train": ("categorizer.val_accuracy", "baseline.val_accuracy"),
    "zoom_train": ("val.f1_zoomed", "val.f1_normal"),
}
VALUE = r"[A-Za-z0-9_.+/-]+"
LINKS = "reflink,hardlink,symlink,copy"  # stages replace files and never modify them, so links are safe

_collecting = threading.Lock()  # held while references are fetched from workspaces
_running: set[subprocess.Popen[str]] = set()
_stopped = threading.Event()


@dataclass(frozen=True)
class Combination:
    """A combination of values for some parameters; everything else is that of a commit."""

    values: tuple[tuple[str, str], ...]  # "section.key", value
    stage: str  # the last stage that runs
    base: str  # the commit

    @property
    def settings(self) -> list[str]:
        """``section.key=value`` for each parameter."""
        return [f"{key}={value}" for key, value in self.values]

    @property
    def title(self) -> str:
        """The settings in one line."""
        return " ".join(self.settings)

    @property
    def experiment(self) -> str:
        """The name of the experiment, which is valid in a git reference."""
        return re.sub(r"\.(?=\.|lock\b|$)|/", "-", f"{self.stage}_{'_'.join(self.settings)}")

    @property
    def reference(self) -> str:
        """The git reference of the completed experiment."""
        return f"refs/exps/{self.base[:2]}/{self.base[2:]}/{self.experiment}"


def read_grid(arguments: Sequence[str], stage: str, base: str) -> list[Combination]:
    """The combinations of ``section.key=value,value,...``, in order; the last key changes fastest.

    Raises:
        InputError: the stage has no metrics to compare, an argument has another form, or params.yaml does not allow
            a key or value. The text lists all faults.
    """
    if stage not in METRICS_SHOWN:
        raise InputError(f"--stage: expected one of {', '.join(METRICS_SHOWN)}, got {stage!r}")
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
    combinations = [
        Combination(tuple(zip((key for key, _ in axes), chosen, strict=True)), stage, base)
        for chosen in product(*(values for _, values in axes))
    ]
    if not faults:
        faults = _faults(combinations)
    if faults:
        raise InputError.from_faults("the grid", faults)
    return combinations


def last_commit() -> str:
    """The commit that a sweep runs, even if there is a newer one before it ends.

    Raises:
        InputError: there is no commit, or tracked files differ from it, so the experiments could not be reproduced.
    """
    changed = run_git("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise InputError.from_faults(
            "a sweep runs the last commit: commit or discard these changes first", [line.strip() for line in changed]
        )
    return run_git("rev-parse", "--verify", "HEAD")


def commit_of(combination: Combination) -> str | None:
    """The commit of the completed experiment; None if there is none."""
    return run_git("for-each-ref", "--format=%(objectname)", combination.reference) or None


def figures(commit: str, stage: str) -> dict[str, float | None]:
    """The metrics of an experiment in the table."""
    try:
        content: str | bytes = repo.read_output(REPORTS / stage / "metrics.json", commit)
    except InputError:  # not in DVC's cache: git has the headline metrics
        content = run_git("show", f"{commit}:./{METRICS}/{stage}.json")
    metrics = json.loads(content)
    return {name: _inside(metrics, name) for name in METRICS_SHOWN[stage]}


def run(combination: Combination, on_line: Callable[[str], None], threads: int, environment: Mapping[str, str]) -> None:
    """Run the experiment of ``combination``, or resume it.

    Args:
        combination: the combination.
        on_line: called with each line that DVC and the stages write.
        threads: threads of each process.
        environment: additional environment variables of the processes.

    Raises:
        InputError: a stage refused its input.
        AtlasError: it failed, or another process runs the same combination.
    """
    folder = WORKSPACES / combination.experiment
    settled = {**repo.environment(), **environment, ANCESTOR: str(os.getpid())}
    dvc = partial(_dvc, on_line=on_line, environment={"OMP_NUM_THREADS": str(threads), **settled})
    with locked(folder, "sweep"):
        workspace = folder / "project"
        inside = workspace / run_git("rev-parse", "--show-prefix")
        if _head(workspace) == combination.base:
            run_git("reset", "--quiet", "--hard", at=workspace)  # completed work is in DVC's cache and in .atlas
        else:
            _make(workspace, inside, combination.base)
            dvc(inside, "checkout", "--quiet", "--allow-missing")
            (workspace / COMPLETE).touch()
        settings = [part for setting in combination.settings for part in ("--set-param", setting)]
        exit_code, output = dvc(inside, "exp", "run", "--name", combination.experiment, *settings, combination.stage)
        if exit_code:
            error = repo.failure(combination.stage, output)
            said = str(error).rpartition("\n")[0]  # without its last line, whose remedy does not fit an experiment
            raise type(error)(f"{said}\nThe same command resumes it; its files are in {inside}")
        with _collecting:
            found = f"+{combination.reference}:{combination.reference}"
            run_git("fetch", "--quiet", "--no-write-fetch-head", str(workspace.absolute()), found)
        shutil.rmtree(workspace)


def stop_all() -> None:
    """End all experiments, and start no more."""
    _stopped.set()
    for process in list(_running):
        process.terminate()


def _faults(combinations: Sequence[Combination]) -> list[str]:
    """The faults of params.yaml under all combinations, each once, with the first combination that causes it."""
    content = parse_yaml(PARAMS_FILE, ParamsError)
    titles: dict[str, str] = {}
    for combination in combinations:
        changed = {section: dict(keys) for section, keys in content.items()}
        for key, value in combination.values:
            section, _, name = key.partition(".")
            changed[section][name] = _value(value)
        try:
            validate(changed, Params, Path(combination.title), ParamsError)
        except ParamsError as error:
            titles.setdefault(str(error).removeprefix(combination.title), combination.title)
    return [f"{title}{fault}" for fault, title in titles.items()]


def _value(text: str) -> Any:
    """The value as `dvc exp run --set-param` parses it."""
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
    """The commit of a workspace; None if it is incomplete."""
    return run_git("rev-parse", "HEAD", at=workspace) if (workspace / COMPLETE).exists() else None


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
    """The exit code and the output of a `dvc` command in ``folder``, which ends with this process."""
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
