"""Creates projects to run the pipeline in: copies of this project, like a fresh clone, with other parameters.

Each is a separate git repository and DVC project, so neither the data of this project nor its git status change. The
stages are those of this project's dvc.yaml.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

import yaml

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.files import replacing_folder, write_text
from benchmarks.photographs.photographs import ROOT

NOT_COPIED = ("benchmarks", "docs", "tests")  # folders that no stage reads
COUNTED = (
    "atlas_model",
    "crawlers",
    "data",
    "flows",
    "models",
    "dvc.yaml",
    "params.yaml",
)  # on which the results depend
IDENTITY = {f"GIT_{role}_{key}": "benchmark" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
WAIT_S = 0.2
SAVED_EVERY_S = 10.0
# ``python -m`` in a process that ends with this one. Stale locks of DVC of killed processes would block it.
LAUNCH = """
import runpy, sys
from atlas_model.core.processes import die_with_parent
from flows.dvc.stale_locks import remove_stale_locks
die_with_parent()
remove_stale_locks()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass
class Usage:
    """Resources that a command used, summed over several attempts."""

    seconds: float = 0.0  # wall time
    peak_rss_gb: float = 0.0  # the largest resident memory of one process of it
    attempts: int = 0
    stages: dict[str, float] = field(default_factory=dict)  # stage that was not cached -> wall time, seconds


def project_files() -> list[str]:
    """The files of this project that are not ignored by git.

    Raises:
        InputError: this is not a git clone.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    environment = {
        **os.environ,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    try:
        listed = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"{ROOT}: expected a git clone of the project, whose files a benchmark copies: {error}"
        ) from error
    names = sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())
    return [name for name in names if Path(name).parts[0] not in NOT_COPIED]


def key_of(*values: object) -> str:
    """Fingerprint of the code, the parameters and ``values``."""
    digest = hashlib.sha256(repr(values).encode())
    for name in project_files():
        if Path(name).parts[0] in COUNTED:
            digest.update(f"\0{name}\0".encode())
            digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:32]


def copy_project(folder: Path) -> None:
    """Make ``folder`` a committed copy of this project without outputs."""
    with replacing_folder(folder) as copy:
        for name in project_files():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a fresh clone"]):
            subprocess.run(["git", *arguments], cwd=copy, env={**os.environ, **IDENTITY}, check=True)


def write_params(folder: Path, *layers: Mapping[str, Any]) -> None:
    """Write params.yaml of the project in ``folder``: that of this project, updated with each layer."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for layer in layers:
        for section, values in layer.items():
            params[section] = params.get(section, {}) | values
    write_text(folder / "params.yaml", yaml.safe_dump(params, sort_keys=False, allow_unicode=True))


def run(
    command: Sequence[str], folder: Path, before: Usage, save: Callable[[Usage], None], *, log: IO[str] | None = None
) -> Usage:
    """Run ``python -m command`` in a project; returns the resources used, including earlier attempts.

    The memory of its stages is included: DVC waits for each stage, and the kernel passes its peak on to the waiting
    process.

    Args:
        command: the module and its arguments.
        folder: the project.
        before: usage of earlier attempts.
        save: called every few seconds with the usage so far, which is kept after a kill.
        log: also receives the stdout of the command.

    Raises:
        AtlasError: it failed.
    """
    usage = Usage(before.seconds, before.peak_rss_gb, before.attempts + 1, dict(before.stages))
    started = saved = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *command],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        clock = _StageClock(usage.stages)
        reader = Thread(target=_pass_on, args=(process.stdout, clock, log), daemon=True)
        reader.start()
        try:
            while True:
                pid, status, resources = os.wait4(process.pid, os.WNOHANG)
                usage.seconds = before.seconds + time.monotonic() - started
                if pid:
                    break
                if time.monotonic() - saved >= SAVED_EVERY_S:
                    saved = time.monotonic()
                    save(usage)
                time.sleep(WAIT_S)
        except BaseException:
            process.terminate()  # not SIGINT, which DVC leaves to its stage; the stage ends with DVC
            process.wait()
            save(usage)
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
        clock.stop()
    usage.peak_rss_gb = round(max(usage.peak_rss_gb, resources.ru_maxrss * 1024 / 1e9), 3)
    save(usage)
    if process.returncode:
        raise AtlasError(
            f"{' '.join(command)} failed in {folder} (exit code {process.returncode}); see its output above. The "
            "same command resumes"
        )
    return usage


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # dvc.yaml takes its python
    return {**os.environ, **IDENTITY, "PATH": path, "SHELL": "/bin/sh"}


class _StageClock:
    """Measures the seconds of each stage from DVC's output; they go to ``stages``."""

    def __init__(self, stages: dict[str, float]) -> None:
        self._stages, self._stage, self._since = stages, "", 0.0

    def read(self, line: str) -> None:
        if found := re.match(r"Running stage '([\w-]+)'", line):
            self.stop()
            self._stage, self._since = found[1], time.monotonic()

    def stop(self) -> None:
        if self._stage:
            took = time.monotonic() - self._since
            self._stages[self._stage] = round(self._stages.get(self._stage, 0.0) + took, 1)
        self._stage = ""


def _pass_on(stdout: IO[str], clock: _StageClock, log: IO[str] | None) -> None:
    for line in stdout:
        clock.read(line)
        for target in (sys.stdout, log):
            if target is not None:
                target.write(line)
                target.flush()


def metrics_of(folder: Path, stage: str) -> dict[str, Any]:
    """The metrics of a stage in the project in ``folder``."""
    return _read(folder / f"reports/{stage}/metrics.json")


def timings_of(folder: Path, stage: str) -> dict[str, Any]:
    """The seconds and rates of a stage."""
    return _read(folder / f"reports/timings/{stage}.json")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
