"""A small project for experiments: crawl -> train -> evaluate, with metrics, plots and queues."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.git_repo import commit_all

DVC_YAML = """
stages:
  crawl:
    cmd: exec python -m stage crawl data/raw
    params: [crawl]
    outs: [data/raw]
  train:
    cmd: exec python -m stage train models/categorizer
    params: [train]
    deps: [data/raw, stage.py]
    outs: [models/categorizer]
    plots: [{plots/train.csv: {cache: false, x: epoch, y: loss}}]
  evaluate:
    cmd: exec python -m stage evaluate reports/evaluate
    params: [evaluate]
    deps: [models/categorizer]
    outs: [reports/evaluate]
    metrics: [{metrics/evaluate.json: {cache: false}}]
"""

# The folder OUTSIDE, outside of the workspaces, holds `ran`, and `fail` and `hang` with the points that do so.
STAGE = """
import json, os, sys, time
from pathlib import Path
import crawlers  # the workspace's, not the installed one
from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import track
from flows.stages.entry import main, write_metrics

stage, output = sys.argv[1], Path(sys.argv[2])
outside = Path(os.environ["OUTSIDE"])

def has(name, point):
    return (outside / name).exists() and point in (outside / name).read_text()

def run(params):
    point = f"{params.train.encoder_lr} {params.train.dropout}"
    resumed = Path(".atlas/state").exists()
    if stage == "train":
        list(track(range(2), "epochs"))
        Path(".atlas").mkdir(exist_ok=True)
        Path(".atlas/state").touch()
        Path("plots").mkdir(exist_ok=True)
        Path("plots/train.csv").write_text(f"epoch,loss\\n1,{params.train.encoder_lr}\\n")
    with (outside / "ran").open("a") as ran:
        ran.write(f"{stage} {point}\\n")
    if stage == "train" and has("fail", point):
        raise AtlasError("no luck")
    if stage == "train" and has("hang", point):
        time.sleep(600)
    output.mkdir(parents=True)
    (output / "what").write_text(f"{point} {resumed}")
    if stage == "evaluate":
        far = abs(params.train.encoder_lr - 0.003) * 100 + abs(params.train.dropout - 0.3)
        model = Path("models/categorizer/what").read_text()
        headline = {"val": {"micro_f1": 1 - far}, "code": crawlers.CODE, "model": model}
        write_metrics("evaluate", headline, {"val": {"micro_f1": 1 - far, "nll": far}})

main(run)
"""


def make_project(folder: Path, git_env: dict[str, str]) -> Path:
    """Turn the mini project in ``folder`` into one with all stages run and committed; stages run once per worker."""
    outside(folder).mkdir()
    template = folder.parent.with_name("project-to-sweep")  # next to the folders of the tests
    if template.exists():
        shutil.rmtree(folder)
        shutil.copytree(template, folder)
        return folder
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text("/data/raw\n/models\n/reports\n.atlas\n__pycache__\n")
    (folder / "crawlers").mkdir()
    (folder / "crawlers/__init__.py").write_text("CODE = 'of the workspace'\n")
    dvc(folder, "repro", "-q")
    commit_all(folder, git_env)
    shutil.copytree(folder, template)
    return folder


def outside(folder: Path) -> Path:
    """The folder in which the stages read control files and record their runs."""
    return folder.parent / "outside"


def ran(folder: Path) -> list[str]:
    """The stages that ran since the last call, each with its point."""
    log = outside(folder) / "ran"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(lines)


def environment(folder: Path) -> dict[str, str]:
    """The environment of commands in the project: `python` is this interpreter."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OUTSIDE": str(outside(folder))}


def dvc(folder: Path, *arguments: str) -> str:
    """Run a `dvc` command and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


def metrics_of(folder: Path, reference: str) -> dict:
    """The metrics of an experiment, as stored in git."""
    command = ["git", "show", f"{reference}:metrics/evaluate.json"]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
