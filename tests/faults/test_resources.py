"""The machine fails: full or read-only disk, no memory, too many open files, clock set back.

Each test runs a command, from the same beginning, at seeded points at which the machine fails. It must end with exit
code 1 and one line; the same command afterwards must complete with the bytes of an undisturbed run.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.small_shop import SmallProject, small_shop

pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux"),
]

STAGES = ("crawl", "fetch", "zoom_train", "zoom", "split", "train", "evaluate", "report")
PREDICT = "predict"
COMMANDS = (*STAGES, PREDICT)
FOUND = "found.parquet"
ARGUMENTS = {PREDICT: ("predict", "--model", "pretrained", "--input", "data/images/shards", "--output", FOUND)}
LEFT_OUT = ("__pycache__", ".atlas", ".git", "tests", "docs", "benchmarks", "fashion_mnist")
DAY_S = 86_400
POINTS = 10
TRIES = 8  # of a point, each with half of what is left
LARGEST = {"file_size": 300_000, "open_files": 40, "memory_mb": 100, "disk": 400_000}  # bytes, -, MB, bytes
# A disk takes pages whole. With fewer files, Python cannot import the module that would print a line.
LEAST = {"file_size": 4096, "open_files": 10}
ABORTED = 128 + 6, -6, 128 + 11, -11, 127  # a library in C++, or the dynamic linker, that gets no memory ends it


@dataclass
class Bench:
    """A project before each command, and the bytes that the command gives undisturbed."""

    root: Path
    base: Path  # of all commands, undisturbed
    project: SmallProject
    expected: dict[str, dict[str, str]] = field(default_factory=dict)

    def outputs(self, command: str) -> list[str]:
        if command == PREDICT:
            return [FOUND]
        stage = yaml.safe_load((self.base / "dvc.yaml").read_text())["stages"][command]
        found = [each for key in ("outs", "metrics", "plots") for each in stage.get(key, [])]
        return [each if isinstance(each, str) else next(iter(each)) for each in found]

    def hashes(self, root: Path, command: str) -> dict[str, str]:
        paths = [root / name for name in self.outputs(command)]
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        return {str(file.relative_to(root)): md5(file.read_bytes()).hexdigest() for file in sorted(files)}

    def run(self, root: Path, command: str, **limits: Any) -> subprocess.CompletedProcess[str]:
        module = "flows.cli.main" if command in ARGUMENTS else f"flows.stages.{command}"
        return subprocess.run(
            ["python", "-m", "tests.support.limited", json.dumps(limits), module, *ARGUMENTS.get(command, ())],
            cwd=root,
            env=self.project.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    @contextmanager
    def before(self, command: str, root: Path | None = None) -> Iterator[Path]:
        """A copy of the project as it is before ``command``."""
        root = root or self.root / "point"
        shutil.copytree(self.base, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for path in [root / name for name in self.outputs(command)]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        try:
            yield root
        finally:
            for path in list(root.iterdir()):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def check_rerun(self, root: Path, command: str) -> None:
        again = self.run(root, command)
        assert again.returncode == 0, again.stderr
        assert self.hashes(root, command) == self.expected[command]
        assert not [path for path in root.rglob("*.tmp") if ".atlas" not in path.parts], "half-written files are gone"


def build(folder: Path, project: SmallProject, commands: tuple[str, ...]) -> Bench:
    bench = Bench(folder, project.root, project)
    for command in commands:
        done = bench.run(project.root, command)
        assert done.returncode == 0, done.stderr
        bench.expected[command] = bench.hashes(project.root, command)
        assert bench.expected[command]
    return bench


@pytest.fixture(scope="module")
def make_bench(
    tmp_path_factory: pytest.TempPathFactory,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    warm_python: Path,
) -> Iterator[Callable[[tuple[str, ...]], Bench]]:
    made: dict[tuple[str, ...], Bench] = {}
    with small_shop() as shop:

        def make(commands: tuple[str, ...]) -> Bench:
            if commands not in made:
                folder = tmp_path_factory.mktemp("resources")
                project = SmallProject(copy_project(folder / "project"), shop, git_env, warm_python)
                made[commands] = build(folder, project, commands)
            return made[commands]

        yield make


FEW = ("crawl", "fetch", PREDICT)  # before which no model is trained


def check_said(done: subprocess.CompletedProcess[str]) -> None:
    """One line says what happened and what to do; it is the last."""
    assert done.returncode == 1, f"{done.returncode}: {done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    said = [line for line in done.stderr.splitlines() if re.match(r"(\w+\.)*\w*error: ", line, re.IGNORECASE)]
    assert len(said) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == said[0], done.stderr
    assert re.search(r"(?i)free|raise|make .* writable|change|close other", said[0]), said[0]


def chosen(kind: str, commands: tuple[str, ...], points: int) -> list[tuple[str, float]]:
    """Seeded points: a command, and what it may use."""
    chance = random.Random(f"resources {kind}")
    return [(commands[point % len(commands)], chance.random() * LARGEST[kind]) for point in range(points)]


def both(kind: str) -> list[Any]:
    """The points of `make test`, and those of `make soak`: ten for each command."""
    few = [
        pytest.param(FEW, command, amount / 16, marks=pytest.mark.slow, id=f"{command}-{amount / 16:.0f}")
        for command, amount in chosen(kind, ("fetch", PREDICT), 2)
    ]
    return few + [
        pytest.param(COMMANDS, command, amount, marks=pytest.mark.soak, id=f"soak-{number}-{command}-{amount:.0f}")
        for number, (command, amount) in enumerate(chosen(kind, COMMANDS, POINTS * len(COMMANDS)))
    ]


def fail_and_rerun(bench: Bench, command: str, kind: str, amount: float) -> None:
    """Halve ``amount`` until the command fails; then the same command must complete."""
    least = LEAST.get(kind, 0)
    with bench.before(command) as root:
        for _ in range(TRIES):
            done = bench.run(root, command, **{kind: amount if kind == "memory_mb" else max(int(amount), least)})
            if done.returncode:
                break
            assert bench.hashes(root, command) == bench.expected[command]
            amount /= 2
            shutil.rmtree(root / ".atlas", ignore_errors=True)
            (root / FOUND).unlink(missing_ok=True)
        else:
            return  # it needs no more than the least
        if kind == "memory_mb" and done.returncode in ABORTED:
            assert "Traceback" not in done.stderr
        else:
            check_said(done)
        bench.check_rerun(root, command)


@pytest.mark.parametrize(("commands", "command", "amount"), both("file_size"))
def test_full_disk_is_one_line(make_bench: Any, commands: Any, command: str, amount: float) -> None:
    fail_and_rerun(make_bench(commands), command, "file_size", amount)


@pytest.mark.parametrize(("commands", "command", "amount"), both("open_files"))
def test_too_many_open_files_are_one_line(make_bench: Any, commands: Any, command: str, amount: float) -> None:
    fail_and_rerun(make_bench(commands), command, "open_files", amount)


@pytest.mark.parametrize(("commands", "command", "amount"), both("memory_mb"))
def test_missing_memory_is_one_line(make_bench: Any, commands: Any, command: str, amount: float) -> None:
    fail_and_rerun(make_bench(commands), command, "memory_mb", amount)


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no right to mount: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.mark.parametrize(("commands", "command", "amount"), both("disk"))
def test_disk_without_space_is_one_line(make_bench: Any, commands: Any, command: str, amount: float) -> None:
    bench = make_bench(commands)
    with (
        mounted("-t", "tmpfs", "-o", "size=200m", "tmpfs", at=bench.root / "tmpfs") as disk,
        bench.before(command, disk) as root,
    ):
        for _ in range(TRIES):
            found = os.statvfs(root)
            (root / "ballast").write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - int(amount))))
            done = bench.run(root, command)
            (root / "ballast").unlink()
            if done.returncode:
                break
            amount /= 2
            shutil.rmtree(root / ".atlas", ignore_errors=True)
            (root / FOUND).unlink(missing_ok=True)
        check_said(done)
        bench.check_rerun(root, command)


def folders(bench: Bench, command: str) -> list[str]:
    """Folders that the command writes to."""
    found = {str(Path(name).parent) for name in bench.outputs(command)}
    return sorted(found if command in ARGUMENTS else found | {".atlas"})


@pytest.mark.parametrize(
    ("commands", "command", "way"),
    [
        pytest.param(FEW, "fetch", "permissions", marks=pytest.mark.slow),
        pytest.param(FEW, PREDICT, "file system", marks=pytest.mark.slow),
        *(
            pytest.param(COMMANDS, command, way, marks=pytest.mark.soak, id=f"soak-{command}-{way.replace(' ', '-')}")
            for command in COMMANDS
            for way in ("permissions", "file system")
        ),
    ],
)
def test_read_only_folder_is_one_line(make_bench: Any, commands: Any, command: str, way: str) -> None:
    bench = make_bench(commands)
    names = folders(bench, command)
    for name in names if commands == COMMANDS else names[:1]:
        with bench.before(command) as root:
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            if way == "permissions":
                folder.chmod(0o555)
                done = bench.run(root, command, no_override=True)
                folder.chmod(0o755)
            else:
                with mounted("--bind", str(folder), at=folder):
                    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
                    done = bench.run(root, command)
            check_said(done)
            bench.check_rerun(root, command)


def clock_points(points: int) -> list[int]:
    return [random.Random(f"clock {point}").choice((0, 1, 5, 20, 100)) for point in range(points)]


@pytest.mark.parametrize(
    ("commands", "command", "calls"),
    [
        *(pytest.param(FEW, command, 5, marks=pytest.mark.slow) for command in ("crawl", "fetch")),
        *(
            pytest.param(COMMANDS, command, calls, marks=pytest.mark.soak, id=f"soak-{number}-{command}-{calls}")
            for command in COMMANDS
            for number, calls in enumerate(clock_points(POINTS))
        ),
    ],
)
def test_clock_that_is_set_back_changes_nothing(make_bench: Any, commands: Any, command: str, calls: int) -> None:
    bench = make_bench(commands)
    with bench.before(command) as root:
        done = bench.run(root, command, clock_s=2 * DAY_S, clock_calls=calls)
        assert done.returncode == 0, done.stderr
        assert bench.hashes(root, command) == bench.expected[command]
        for file in (root / "reports/timings").glob("*.json"):
            assert "-" not in re.findall(r": (-?)\d", file.read_text()), "no duration is negative"
        asked = sum(bench.project.shop.asked.values())
        bench.check_rerun(root, command)
        of_pages = sum(bench.project.shop.asked.values()) - asked
        assert command != "fetch" or not of_pages, "images of before the change of the clock are known"
