"""Set-up: which Python `make` takes, and what it says while it installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import set_up
from tools.lock import ROOT, supported

OLDEST, NEWEST = supported()[0], supported()[-1]
AFTER = f"3.{int(NEWEST[2:]) + 1}"

FAKE = """#!/bin/sh
echo "$0 $*" >> "{folder}/calls"
case "$*" in
    *ensurepip*) exit {venv} ;;
    *sys.version_info*) echo {version} ;;
esac
"""


class Machine:
    """A project, and a PATH with nothing but a few interpreters, which know no more than their version."""

    def __init__(self, folder: Path) -> None:
        self.project, self.path = folder / "project", folder / "bin"
        self.project.mkdir()
        self.path.mkdir()
        for name in ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("requirements*.lock"))):
            shutil.copy(ROOT / name, self.project)
        shutil.copytree(ROOT / "tools", self.project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for tool in ("sed", "sh", "make"):
            found = shutil.which(tool)
            assert found
            (self.path / tool).symlink_to(found)

    def python(self, name: str, version: str, venv: bool = True, folder: Path | None = None) -> Path:
        path = (folder or self.path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE.format(folder=self.path, version=version, venv=0 if venv else 1))
        path.chmod(0o755)
        return path

    def shim(self, name: str) -> None:
        """What pyenv leaves for a version that is not chosen."""
        (self.path / name).write_text(f"#!/bin/sh\necho 'pyenv: {name}: command not found' >&2\nexit 127\n")
        (self.path / name).chmod(0o755)

    def run(self, *command: str, python: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path)} | ({"PYTHON": python} if python else {})
        return subprocess.run(
            command, cwd=self.project, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def chosen(self, python: str = "") -> str:
        done = self.run("sh", "tools/python.sh", python=python)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, python: str = "") -> str:
        done = self.run("sh", "tools/python.sh", python=python)
        assert done.returncode == 2
        assert not done.stdout
        assert done.stderr.count("\n") == 1, "one line"
        assert done.stderr.startswith(f"Atlas needs Python {OLDEST} to {NEWEST}: ")
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_takes_newest_supported_python(machine: Machine) -> None:
    for version in (OLDEST, NEWEST, "3.10", AFTER):
        machine.python(f"python{version}", version)
    machine.python("python3", AFTER)
    assert machine.chosen() == str(machine.path / f"python{NEWEST}")


def test_skips_broken_pyenv_shims(machine: Machine) -> None:
    machine.shim(f"python{NEWEST}")
    oldest = machine.python(f"python{OLDEST}", OLDEST)
    assert machine.chosen() == str(oldest)


def test_finds_python_by_unversioned_name(machine: Machine) -> None:
    plain = machine.python("python3", NEWEST)
    assert machine.chosen() == str(plain)


def test_missing_supported_python_is_reported_with_those_found(machine: Machine) -> None:
    assert "install one" in machine.refused()
    machine.python("python3", "3.10")
    machine.python("python", AFTER)
    assert f"python3 is Python 3.10, python is Python {AFTER}; install one" in machine.refused()


def test_python_without_venv_module_is_reported_with_remedy(machine: Machine) -> None:
    machine.python(f"python{NEWEST}", NEWEST, venv=False)
    assert f"apt install python{NEWEST}-venv" in machine.refused()
    oldest = machine.python("python3", OLDEST)
    assert machine.chosen() == str(oldest)


def test_python_variable_overrides_and_is_checked(machine: Machine) -> None:
    machine.python(f"python{NEWEST}", NEWEST)
    other = machine.python("other", OLDEST)
    assert machine.chosen(python="other") == str(other)
    assert machine.chosen(python=str(other)) == str(other)
    machine.python("old", "3.10")
    assert "PYTHON=old is Python 3.10" in machine.refused(python="old")
    assert "PYTHON=nowhere is no Python" in machine.refused(python="nowhere")
    machine.python("bare", NEWEST, venv=False)
    assert f"PYTHON=bare lacks the module venv (Debian, Ubuntu: apt install python{NEWEST}-venv)" in machine.refused(
        python="bare"
    )


def test_existing_venv_keeps_its_python(machine: Machine) -> None:
    machine.python(f"python{NEWEST}", NEWEST)
    machine.python("python", OLDEST, folder=machine.project / ".venv/bin")
    assert machine.chosen() == ".venv/bin/python"
    machine.python("python", "3.10", folder=machine.project / ".venv/bin")
    assert machine.chosen() == str(machine.path / f"python{NEWEST}")


@pytest.mark.parametrize("target", ["run", "fast", ".venv/.installed"])
def test_make_sets_up_with_the_newest_python(machine: Machine, target: str) -> None:
    newest = machine.python(f"python{NEWEST}", NEWEST)
    machine.python(f"python{OLDEST}", OLDEST)
    machine.run("make", target)
    assert f"{newest} tools/set_up.py run" in (machine.path / "calls").read_text()


def test_make_fails_with_one_line_without_python(machine: Machine) -> None:
    machine.python("python3", "3.10")
    done = machine.run("make", "run")
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(said) == 1
    assert "python3 is Python 3.10" in said[0]


def test_make_sets_up_again_for_another_python(machine: Machine) -> None:
    (machine.project / ".venv").mkdir()
    (machine.project / ".venv/.installed").touch()
    machine.python("other", OLDEST)
    machine.run("make", ".venv/.installed")
    assert not (machine.path / "calls").exists(), "up to date"
    machine.run("make", ".venv/.installed", "PYTHON=other")
    assert "other tools/set_up.py run" in (machine.path / "calls").read_text()


def test_reads_progress_from_pip_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "LOG_S", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    progress = set_up.Progress(packages=40)
    progress.read("Collecting torch==2.13.0 (from -r requirements.lock (line 3))\n")
    progress.read("  Downloading torch-2.13.0-cp313-cp313-manylinux_2_28_x86_64.whl (526.6 MB)\n")
    progress.read("Progress 52660000 of 526600000\n")
    assert capsys.readouterr().err.splitlines()[-1] == (
        "  package 1 of about 40: torch, 53 of 527 MB (527 MB to download so far)"
    )
    progress.read("Installing collected packages: torch, numpy, atlas\n")
    assert "written to disk: 0 of 3 packages" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose lock names a package that no index has; the index is an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text("")
    for name in (set_up.BUILD_LOCK, set_up.CUDA_LOCK):
        (tmp_path / name).write_text("")
    no_such = f"no-wheel-anywhere==1.0 \\\n    --hash=sha256:{64 * '0'}\n"
    (tmp_path / "requirements.lock").write_text(f"--only-binary :all:\n{no_such}")
    return tmp_path


@pytest.mark.slow
def test_pin_without_wheel_is_reported_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set_up.main("run") == 2
    first = capsys.readouterr().err.splitlines()
    version = sys.version.split()[0]
    assert first[0].startswith(
        f"Installing what a run needs into .venv with Python {version} ({sys.executable}): 1 pack"
    )
    assert "GB to download" in first[1]
    assert first[-1].startswith(f"Atlas: no-wheel-anywhere==1.0 has no wheel for Python {version} on ")
    assert not (project / ".venv/.installed").exists()

    made = (project / ".venv/pyvenv.cfg").stat().st_mtime_ns
    (project / "requirements.lock").write_text("")
    (project / "setup.py").write_text("")
    set_up.main("run")
    assert (project / ".venv/pyvenv.cfg").stat().st_mtime_ns == made, "the venv was made again"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "WARNING: Retrying (Retry(total=4...\nERROR: No matching distribution found for torch==2.13.0",
            "cannot be rea",
        ),
        ("ERROR: No matching distribution found for torch==2.13.0", "torch==2.13.0 has no wheel for Python 3"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Collecting a\nerror: something else", "pip failed:\nerror: something else"),
    ],
)
def test_classifies_pip_failures(output: str, said: str) -> None:
    error = set_up.fault(output)
    assert said in str(error)
    assert "\n" not in str(error) or "pip failed" in str(error)


def test_compiles_packages_without_their_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = Path(".venv/lib/python3/site-packages/package")
    (package / "tests").mkdir(parents=True)
    Path(".venv/bin").mkdir()
    Path(".venv/bin/python").symlink_to(sys.executable)
    (package / "code.py").write_text("x = 1")
    (package / "python2.py").write_text("print x")
    (package / "tests/test_code.py").write_text("x = 1")
    set_up.compile_packages()
    compiled = [path.name.split(".")[0] for path in Path(".venv").rglob("*.pyc")]
    assert compiled == ["code"]
