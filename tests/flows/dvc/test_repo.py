"""dvc.yaml says what the code does; DVC, and our calls to it, do what the documentation says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas_model.core.errors import AtlasError, InputError, RetryError
from atlas_model.core.params import Params
from flows import paths
from flows.dvc import repo
from tests.support.paths import ROOT
from tests.support.waiting import wait_until
from tools import stage_imports

DVC_YAML: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = DVC_YAML["stages"]
AROUND_THE_STAGES = {"pipeline", "drift", "promote", "notify"}  # sections of params.yaml that belong to the flow


def outs_of(stage: str) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in STAGES[stage]["outs"]]


# --- dvc.yaml and the code


@pytest.mark.parametrize("stage", STAGES)
def test_stage_deps_match_imports(stage: str) -> None:
    assert stage_imports.difference(stage) == stage_imports.Difference(missing=[], superfluous=[])


def test_deps_check_reports_missing_and_superfluous(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "evaluate"
    deps = STAGES[stage]["deps"]
    changed = [dep for dep in deps if dep != "atlas_model/metrics"] + ["crawlers/http/address_guard.py"]
    stages = {**STAGES, stage: {**STAGES[stage], "deps": changed}}
    monkeypatch.setattr(stage_imports, "_dvc_yaml", lambda: {"stages": stages})
    found = stage_imports.difference(stage)
    of_evaluate = ("bootstrap", "proportions", "scores")
    assert found.missing == [f"atlas_model/metrics/{module}.py" for module in of_evaluate]
    assert found.superfluous == ["crawlers/http/address_guard.py"]


def test_stage_module_flow_and_params_share_names() -> None:
    modules = {path.stem for path in (ROOT / "flows/stages").glob("*.py") if "main(run)\n" in path.read_text()}
    assert set(STAGES) == modules == set(Params.model_fields) - AROUND_THE_STAGES
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"${{python}} -m flows.stages.{name}"
        assert stage["params"][0] == name
        assert [f"metrics/{name}.json"] == [path for metric in stage["metrics"] for path in metric]


def test_dvc_outs_match_stage_outputs() -> None:
    declared = {out for stage in STAGES for out in outs_of(stage) if not out.startswith("plots/")}
    known = {path for name, path in vars(paths).items() if isinstance(path, Path)}
    elsewhere = {paths.TAXONOMY, paths.METRICS, paths.PLOTS, paths.WORK, paths.SNAPSHOTS, paths.REPORTS, paths.TIMINGS}
    elsewhere |= {paths.REVIEWS, paths.DISCARDED, paths.CHAMPIONS}  # an input; in reports/split; in git
    elsewhere |= {paths.CHAMPION, paths.LOCK_FILE}  # of a promotion; of DVC
    assert declared == {str(path) for path in known - elsewhere} | {f"reports/{stage}" for stage in STAGES}
    assert paths.TAXONOMY.is_relative_to(paths.SPLITS)


def test_files_in_git_are_not_cached_by_dvc() -> None:
    """And the other way round. Only metrics and plots may be in git: DVC's run cache leaves out a stage with others."""
    for stage in STAGES.values():
        for kind in ("metrics", "plots", "outs"):
            for out in stage.get(kind, []):
                path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
                command = ["git", "check-ignore", path, f"{path}/"]
                ignored = subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
                assert options.get("cache", True) is ignored, path
                assert ignored or kind != "outs", path


def test_stage_inputs_are_in_git_or_outputs_of_stages() -> None:
    made = {out for stage in STAGES for out in outs_of(stage)}
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert dep.startswith("${") or dep in made or (ROOT / dep).exists(), dep


# --- our calls to DVC


def with_python() -> dict[str, str]:
    """The environment of a shell in which the venv is active."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "SHELL": "/bin/sh"}


def run_dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=with_python(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


def ran(folder: Path) -> list[str]:
    """The stages that ran since the last call, in order."""
    log = folder / "ran"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@pytest.fixture
def mini(mini_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small project, as the current folder."""
    monkeypatch.chdir(mini_project)
    return mini_project


def test_stages_are_in_dependency_order(mini: Path) -> None:
    names = repo.stage_names()
    assert sorted(names) == ["crawl", "split", "zoom_train"]
    assert names[-1] == "split"


def test_project_stages_are_in_dependency_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = repo.stage_names()
    assert sorted(names) == sorted(STAGES)
    for earlier, later in [("crawl", "fetch"), ("fetch", "zoom"), ("zoom_train", "zoom"), ("zoom", "split")]:
        assert names.index(earlier) < names.index(later)
    assert names[-3:] == ["train", "evaluate", "report"]


def test_stage_runs_only_when_something_changed(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/false")  # the shell of a service's user
    assert not repo.is_up_to_date("crawl")
    lines: list[str] = []
    repo.run_stage("crawl", lines.append)
    assert "crawl is at work" in lines
    assert repo.is_up_to_date("crawl")
    params = (mini / "params.yaml").read_text()
    (mini / "params.yaml").write_text(params.replace("snapshot: sample-1", "snapshot: sample-2"))
    assert not repo.is_up_to_date("crawl")
    (mini / "params.yaml").write_text(params)
    assert repo.is_up_to_date("crawl")
    (mini / "data/raw/a").unlink()
    assert not repo.is_up_to_date("crawl")


@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        ("InputError", InputError, "stage crawl refused its input: a fault\n  - and its place\nCorrect that"),
        ("RetryError", AtlasError, "stage crawl failed: a fault\n  - and its place\nSee its output above"),
    ],
)
def test_failed_stage_is_named_with_its_error_and_remedy(
    mini: Path, order: str, error: type[AtlasError], words: str
) -> None:
    (mini / "fail-crawl").write_text(order)
    with pytest.raises(AtlasError) as caught:
        repo.run_stage("crawl", lambda line: None)
    assert type(caught.value) is error
    assert str(caught.value).startswith(words)
    assert "dvc repro crawl" in str(caught.value)


def test_silent_stage_failure_shows_dvc_error(mini: Path) -> None:
    (mini / "stage.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(AtlasError, match=r"stage crawl failed: failed to reproduce 'crawl'.*exited with -9"):
        repo.run_stage("crawl", lambda line: None)


def test_lock_of_another_dvc_is_transient_error(mini: Path) -> None:
    (mini / "hang-crawl").touch()
    command = [sys.executable, "-m", "flows.dvc.repo", "repro"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=with_python()) as other:
        try:
            wait_until((mini / "ran").exists)
            with pytest.raises(RetryError, match="another dvc"):
                repo.is_up_to_date("crawl")
        finally:
            other.kill()


def test_stage_dies_with_its_dvc_process(mini: Path) -> None:
    (mini / "hang-crawl").touch()
    command = [sys.executable, "-m", "flows.dvc.repo", "repro", "--single-item", "crawl"]
    # The stage inherits the pipe: it ends when the last process that holds it has.
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=with_python()) as process:
        wait_until((mini / "ran").exists)
        process.kill()
        started = time.monotonic()
        assert process.stdout is not None
        process.stdout.read()
        assert time.monotonic() - started < 20, "the stage sleeps for 60 s"
    assert process.returncode == -signal.SIGKILL


def test_invalid_dvc_projects_are_input_errors(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mini / "dvc.yaml").write_text("stages: [")
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        repo.stage_names()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="DVC"):
        repo.stage_names()


# --- DVC itself


@pytest.mark.slow
def test_lost_outputs_are_restored_or_rebuilt(mini_project: Path) -> None:
    run_dvc(mini_project, "repro")
    assert sorted(ran(mini_project)) == ["crawl", "split", "zoom_train"]
    assert "up to date" in run_dvc(mini_project, "repro")
    assert ran(mini_project) == []

    lost = mini_project / "data/raw/a"
    lost.unlink()
    run_dvc(mini_project, "repro")
    assert ran(mini_project) == [], "restored from the cache"
    assert lost.read_text() == "crawla"

    cached = [path for path in (mini_project / ".dvc/cache/files").rglob("*") if path.is_file()]
    (copy,) = [path for path in cached if path.read_text() == "crawla"]
    lost.unlink()
    copy.unlink()
    run_dvc(mini_project, "repro")
    assert ran(mini_project) == ["crawl"], "made again; what depends on it is as it was"
    assert lost.read_text() == "crawla"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to somebody else")
def test_clone_owned_by_another_user_works(mini_project: Path) -> None:
    for path in [mini_project, *mini_project.rglob("*")]:
        os.chown(path, 4321, 4321)
    run_dvc(mini_project, "repro")
    assert len(ran(mini_project)) == 3
    assert "up to date" in run_dvc(mini_project, "status")


@pytest.mark.slow
def test_stages_find_python_without_activated_venv(mini_project: Path) -> None:
    """The `cmd` of our dvc.yaml, where no `python` is in PATH, in a folder with a name that no shell would like."""
    folder = mini_project.rename(mini_project.with_name("""some: spaces, $HOME, 100%, it's "odd" & (more)#"""))
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    content = yaml.safe_load((folder / "dvc.yaml").read_text())
    content["vars"] = DVC_YAML["vars"]
    for stage in content["stages"].values():
        stage["cmd"] = stage["cmd"].replace("exec python", "${python}", 1)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(content))
    without = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env={**os.environ, **without},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(ran(folder)) == 3
