"""A small project with a running `make up`: its processes, its API and its database."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from tests.support.git_repo import commit_all
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer
from tests.support.waiting import wait_until

TIMEOUT_S = 900  # of each wait: the machine may be busy
LONG_AGO = "2020-01-01 00:00:00.000000"
ENDINGS = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

TABLES = ("task_run", "flow_run_state", "log", "artifact")

DVC_YAML = """
stages:
  crawl:
    cmd: exec python stage.py crawl data/raw
    params: [crawl]
    outs: [data/raw]
  zoom_train:
    cmd: exec python stage.py zoom_train models/zoom
    params: [zoom_train]
    deps: [data/raw]
    outs: [models/zoom]
    metrics: [{metrics/zoom_train.json: {cache: false}}]
    plots: [{plots/zoom_train/history.csv: {cache: false}}]
"""
STAGE = """
import json, sys, time
from pathlib import Path
from atlas_model.core import progress
from atlas_model.core.files import write_text
from flows.stages.entry import main, write_metrics

stage, output = sys.argv[1:]
EPOCHS = 1000
progress.LINE_INTERVAL_S = 0.2

def run(params):
    with Path("ran").open("a") as ran:
        ran.write(stage + "\\n")
    while Path("hang-" + stage).exists():
        time.sleep(0.1)
    if stage == "zoom_train":
        train()
    Path(output).mkdir(parents=True)
    (Path(output) / "a").write_text(stage)

def train():
    checkpoint = Path(".atlas/epoch")
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with Path("ran").open("a") as ran:
        ran.write(f"from epoch {first}\\n")
    with progress.Progress("training", EPOCHS, "epochs") as training:
        training.advance(first)
        for epoch in range(first, EPOCHS):
            time.sleep(0.3 * Path("slow").exists())
            write_text(checkpoint, str(epoch + 1))
            training.advance(loss=1 / (epoch + 1))
    write_metrics(stage, {"accuracy": 0.75})
    history = Path("plots/zoom_train/history.csv")
    history.parent.mkdir(parents=True, exist_ok=True)
    history.write_text("epoch,train_loss\\n" + "".join(f"{epoch},{1 / epoch}\\n" for epoch in range(1, 9)))

main(run)
"""


def wait_for(what: str, found: Callable[[], Any]) -> Any:
    """The first true value that ``found`` returns; ``what`` describes it in the failure message."""
    return wait_until(found, lambda: f"timed out waiting for {what}", timeout_s=TIMEOUT_S)


def make_project(folder: Path, git_env: dict[str, str]) -> Path:
    """Create a git and DVC project in ``folder`` whose schedule fires each minute."""
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    replace(folder / "params.yaml", 'cron: "0 3 * * *"', 'cron: "* * * * *"')
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    commit_all(folder, git_env)
    return folder


def replace(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which must be present, by ``new`` in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run_up(folder: Path, *arguments: str) -> str:
    """Run `make up` with ``arguments`` to its end; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.prefect_app.up", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


class Up:
    """A project with a running `make up`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = run_up(folder, "--port", "0", "--detach")
        note = json.loads((folder / ".prefect/up.json").read_text())
        self.pid = note["pid"]
        self.url = note["url"]
        self.server = PrefectServer(f"{self.url}/api", folder / ".prefect/server.log")
        deployment = self.server.ask("/deployments/name/atlas/atlas")
        self.deployment, self.flow = deployment["id"], deployment["flow_id"]

    def order(self) -> str:
        """Start a run by hand; return its id."""
        return str(self.server.ask(f"/deployments/{self.deployment}/create_flow_run", {})["id"])

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """The runs of the deployment in one of ``states``."""
        which = {"state": {"type": {"any_": states}}, "deployment_id": {"any_": [self.deployment]}}
        return list(self.server.ask("/flow_runs/filter", {"flow_runs": which}))

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of ``run``; return it."""
        return dict(wait_for("the end of a run", lambda: (now := self.run(run))["state_type"] in ENDINGS and now))

    def run(self, run: str) -> dict[str, Any]:
        return dict(self.server.ask(f"/flow_runs/{run}"))

    def progress(self, run: str) -> float | None:
        """The progress of the latest job of ``run``, in percent."""
        found = [each for each in self.server.of_flow_run("artifacts", run) if each["type"] == "progress"]
        return float(found[-1]["data"]) if found else None

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Its live child processes: the ``server`` and those of ``runs``."""
        found: dict[str, list[psutil.Process]] = {"server": [], "runs": []}
        for process in psutil.Process(self.pid).children(recursive=True):
            command = " ".join(process.cmdline())
            if "resource_tracker" not in command:
                found["server" if "flows.prefect_app.server" in command else "runs"].append(process)
        return found

    def database(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.folder / ".prefect/prefect.db", timeout=TIMEOUT_S, isolation_level=None))

    def change(self, statement: str, *values: str) -> int:
        """Change past runs, which the API does not allow; return the number of rows."""
        with self.database() as database:
            return database.execute(statement, values).rowcount

    def age(self, run: str) -> None:
        """Set the end of ``run`` to years ago."""
        self.change("UPDATE flow_run SET end_time = ? WHERE id = ?", LONG_AGO, run)

    def count(self, what: str) -> int:
        with self.database() as database:
            return int(database.execute(f"SELECT count(*) {what}").fetchone()[0])

    def rows(self, run: str) -> int:
        """The number of rows that the database has of ``run``."""
        parts = sum(self.count(f"FROM {table} WHERE flow_run_id = '{run}'") for table in TABLES)
        return parts + self.count(f"FROM flow_run WHERE id = '{run}'")

    def pages(self) -> int:
        """The size of the database, in pages."""
        with self.database() as database:
            return int(database.execute("PRAGMA page_count").fetchone()[0])


def until_gone(processes: list[psutil.Process]) -> float:
    """Wait until all ``processes`` have ended; return the seconds."""
    started = time.monotonic()
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT_S)
    for process in alive:
        process.kill()
    assert not alive
    return time.monotonic() - started
