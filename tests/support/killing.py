"""Kills commands at seeded moments, and checks what they leave: no process, no half-written file.

A command is killed as a whole process group (a power cut, `kill -9` of a session), or only the process that was started
(a scheduler's kill), or one of its children (out of memory).
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors import safe_open

from tests.support.small_shop import OUTPUTS, kill_group

GONE_S = 5.0  # within which all processes of a killed command must have ended
ENDS_S = 120.0  # within which a command ends by itself if one of its children was killed
MARK = "KILLED_BY_TEST"  # environment variable: finds the processes of a command, also those in other sessions
KINDS = ("group", "leader", "child")
WEIGHTS = (6, 3, 1)
GROWING = Path("plots/train")  # DVCLive shows a training while it runs: it rewrites these files in place


@dataclass
class Tally:
    """Counts of a test, for its summary."""

    kills: Counter[str] = field(default_factory=Counter)  # by kind
    ended: int = 0  # commands that ended before their moment came
    mended: int = 0  # runs that needed `atlas check` first
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.kills.total()


def alive(mark: str) -> list[psutil.Process]:
    """The processes that were started with ``mark`` in their environment, and their children."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def described(processes: list[psutil.Process]) -> str:
    """Their command lines."""
    lines = []
    for process in processes:
        with suppress(psutil.Error):
            lines.append(f"pid {process.pid}, parent {process.ppid()}: {' '.join(process.cmdline())[:200]}")
    return "\n".join(lines)


class Killer:
    """Runs commands of one project, and kills them.

    Args:
        root: folder of the project.
        start: starts a command with an additional environment; its output goes to the given file.
        chance: of the kinds of kills.
        kinds: of kills.
    """

    def __init__(
        self,
        root: Path,
        start: Callable[[dict[str, str], Path], subprocess.Popen[bytes]],
        chance: random.Random,
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self.root, self._start, self._chance, self._kinds = root, start, chance, kinds
        self.tally = Tally()
        self.moments: list[float] = []  # of the kills, as time.monotonic()
        self.log = root.parent / f"{root.name}.log"
        self.said = ""  # by the last command

    def run(self, moment_s: float | None) -> int | None:
        """Run the command and kill it after ``moment_s`` (None: not); its exit code, None if it was killed."""
        mark = uuid4().hex
        self.log.write_bytes(b"")
        process = self._start({MARK: mark}, self.log)
        code: int | None
        try:
            code = process.wait(moment_s)
        except subprocess.TimeoutExpired:
            code = self._kill(process, mark)
        finally:
            self.said = self.log.read_text(errors="replace")
            if process.poll() is None:
                kill_group(process)
        self._check_gone(mark)
        assert list(half_written(self.root)) == []
        return code

    def _kill(self, process: subprocess.Popen[bytes], mark: str) -> int | None:
        kind = self._chance.choices(self._kinds, WEIGHTS[: len(self._kinds)])[0]
        children = [each for each in alive(mark) if each.pid != process.pid] if kind == "child" else []
        self.moments.append(time.monotonic())
        if kind == "child" and children:
            with suppress(psutil.Error):
                self._chance.choice(sorted(children, key=lambda each: each.pid)).kill()
            self.tally.kills[kind] += 1
            return process.wait(ENDS_S)
        if kind == "leader":
            process.kill()
        else:
            kind = "group"
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.tally.kills[kind] += 1
        return None

    def _check_gone(self, mark: str) -> None:
        deadline = time.monotonic() + GONE_S
        while left := alive(mark):
            if time.monotonic() > deadline:
                text = described(left)
                for each in left:
                    with suppress(psutil.Error):
                        each.kill()
                raise AssertionError(f"still alive {GONE_S:.0f} s after the end of the command:\n{text}\n{self.said}")
            time.sleep(0.05)


def half_written(root: Path, outputs: tuple[str, ...] = OUTPUTS) -> Iterator[str]:
    """The files under the final names of the outputs that cannot be read to their end."""
    for file in (file for name in outputs for file in files_of(root / name)):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if hidden or (root / GROWING) in file.parents:
            continue
        try:
            _read(file)
        except FileNotFoundError:
            continue
        except Exception as error:
            yield f"{file.relative_to(root)}: {type(error).__name__}: {error}"


def files_of(path: Path) -> list[Path]:
    """``path``, or the files in it."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _read(file: Path) -> None:
    if file.suffix == ".parquet":
        pq.read_table(file)
    elif file.suffix == ".json":
        json.loads(file.read_text(encoding="utf-8"))
    elif file.suffix in (".dvc", ".yaml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8")), "empty"
    elif file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                tensors.get_tensor(name)
    elif file.suffix in (".png", ".jpg"):
        with Image.open(file) as image:
            image.load()
    elif file.suffix == ".html":
        assert file.read_text(encoding="utf-8").rstrip().endswith("</html>"), "cut off"
    elif file.suffix in (".csv", ".tsv", ".md", ".txt"):
        assert file.read_text(encoding="utf-8").endswith("\n") or not file.stat().st_size, "cut off"


def repeated(log: list[tuple[float, str]], moments: list[float], lost_s: float) -> dict[str, int]:
    """Paths that were asked for again, although no kill came within ``lost_s`` after the earlier request.

    Returns:
        path -> number of such requests.
    """
    found: Counter[str] = Counter()
    last: dict[str, float] = {}
    for at, path in log:
        before = last.get(path)
        if before is not None and not any(before <= moment <= before + lost_s for moment in moments):
            found[path] += 1
        last[path] = at
    return dict(found)


def summary(name: str, **figures: Any) -> str:
    """A line for the terminal."""
    return f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items())
